/*
 * Events: raising exceptions, leaving a rule, and taking an event to its
 * handler or to a VM exit.
 *
 * An exception meets the exception bitmap once: when it is raised, or, if it
 * came from above (cpu->event set without `injected`), when it is delivered.
 * What passes is marked injected and its payload (CR2, DR6) is loaded; what
 * exits leaves CR2 and DR6 alone.
 *
 * While cpu->delivering is valid the processor is inside a delivery. A fault
 * then is nested: it merges into #DF or shutdown, or replaces the first event,
 * and a VM exit reports the first one as IDT-vectoring information.
 */
#include <stdarg.h>
#include <stdio.h>
#include "cpu/event.h"
#include "cpu/fpu.h"

/* An instruction that did not complete will be fetched again: RF must still be there for it. */
static void restore_rf(struct cpu *cpu)
{
	if (cpu->rf_at_start)
		cpu->rflags |= RFLAGS_RF;
	cpu->rf_at_start = false;
}

static _Noreturn void unwind(struct cpu *cpu, enum cpu_exit why)
{
	cpu->leave_why = why;
	cpu->ctl->apic_write.valid = false;      /* of an instruction that did not complete */
	__builtin_longjmp(cpu->unwind, 1);
}

_Noreturn void cpu_leave(struct cpu *cpu, enum cpu_exit why)
{
	/* A delivery that needs the client (a stack in MMIO, say) starts again from its beginning. */
	if (cpu->delivering.valid) {
		cpu->event = cpu->delivering;
		cpu->event.injected = true;
		cpu->delivering.valid = false;
	}
	restore_rf(cpu);
	unwind(cpu, why);
}

_Noreturn void cpu_internal_error(struct cpu *cpu, const char *fmt, ...)
{
	va_list ap;

	fpu_park(cpu);
	va_start(ap, fmt);
	vsnprintf(cpu->internal.text, sizeof(cpu->internal.text), fmt, ap);
	va_end(ap);
	cpu_leave(cpu, CPU_EXIT_INTERNAL_ERROR);
}

uint32_t event_info(const struct event *ev)
{
	return ev->vector | ev->type << INTR_INFO_TYPE_SHIFT | (ev->has_error ? INTR_INFO_HAS_ERROR : 0) | INTR_INFO_VALID;
}

_Noreturn void cpu_vmexit(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
	struct vmexit *v = &cpu->vmexit;
	const struct event *d = &cpu->delivering;

	v->reason = reason;
	v->qualification = qualification;
	if (d->valid) {
		v->idt_info = event_info(d);
		v->idt_error = d->has_error ? d->error : 0;
		if (event_is_software(d))
			v->insn_len = d->insn_len;
	} else if (cpu->cur_insn && !v->insn_len) {
		v->insn_len = cpu->cur_insn->len;
	}
	cpu->delivering.valid = false;
	cpu->iret_unblocked_nmi = false;
	restore_rf(cpu);
	trace(vmx, "vCPU %u: exit %u qualification %#llx at %#llx", cpu->index, reason, (unsigned long long)qualification,
	      (unsigned long long)cpu->rip);
	unwind(cpu, CPU_EXIT_VMEXIT);
}

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class fault_class(const struct event *ev)
{
	if (ev->type != EVENT_HW_EXCEPTION)
		return BENIGN;
	switch (ev->vector) {
	case VEC_DE: case VEC_TS: case VEC_NP: case VEC_SS: case VEC_GP: case VEC_CP:
		return CONTRIBUTORY;
	case VEC_PF: case VEC_VE:
		return PAGE_FAULT;
	case VEC_DF:
		return DOUBLE_FAULT;
	default:
		return BENIGN;
	}
}

static _Noreturn void triple_fault(struct cpu *cpu)
{
	cpu->delivering.valid = false;
	trace(cpu, "vCPU %u: triple fault at %#llx", cpu->index, (unsigned long long)cpu->rip);
	if (cpu_in_guest(cpu))
		cpu_vmexit(cpu, EXIT_TRIPLE_FAULT, 0);
	cpu_leave(cpu, CPU_EXIT_SHUTDOWN);
}

/* Selector error codes say that the fault was not the program's own (EXT). */
static void set_ext(const struct cpu *cpu, struct event *ev)
{
	bool program = cpu->delivering.type == EVENT_SW_INTERRUPT || cpu->delivering.type == EVENT_SW_EXCEPTION;

	if (ev->type == EVENT_HW_EXCEPTION && ev->vector >= VEC_TS && ev->vector <= VEC_GP && !program)
		ev->error |= 1;
}

/*
 * What becomes of a fault ev during the delivery of cpu->delivering. It meets
 * the exception bitmap before it merges: a hypervisor with shadow page tables
 * mends its own page faults wherever they come.
 */
static void merge_nested(struct cpu *cpu, struct event *ev)
{
	enum fault_class first = fault_class(&cpu->delivering), second = fault_class(ev);
	bool to_shutdown = first == DOUBLE_FAULT && second != BENIGN;
	bool to_double = (first == CONTRIBUTORY && second == CONTRIBUTORY) ||
	                 (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT));

	set_ext(cpu, ev);
	if (!to_shutdown && !to_double)
		return;
	intercept_exception(cpu, ev);
	if (to_shutdown)
		triple_fault(cpu);
	if (ev->vector == VEC_PF)
		cpu->cr2 = ev->payload;
	*ev = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = VEC_DF, .has_error = cpu->cr0 & CR0_PE };
	cpu->delivering.valid = false;
}

static void load_payload(struct cpu *cpu, struct event *ev)
{
	if (!ev->has_payload || (ev->type != EVENT_HW_EXCEPTION && ev->type != EVENT_PRIV_SW_EXCEPTION))
		return;
	if (ev->vector == VEC_PF)
		cpu->cr2 = ev->payload;
	if (ev->vector == VEC_DB) {
		cpu->dr6 = (cpu->dr6 & ~0xfull) | DR6_FIXED | (ev->payload & (0xf | DR6_BD | DR6_BS | DR6_BT));
		cpu->dr7 &= ~DR7_GD;
		cpu->msr.debugctl &= ~3ull;      /* LBR, BTF */
	}
	ev->has_payload = false;
}

_Noreturn void cpu_raise_event(struct cpu *cpu, struct event ev)
{
	ev.valid = true;
	if (!(cpu->cr0 & CR0_PE))
		ev.has_error = false;
	cpu->events_chained = cpu->delivering.valid;
	if (cpu->delivering.valid)
		merge_nested(cpu, &ev);
	/* An instruction that faults has not met its data breakpoints: it will when it runs again. */
	if (ev.type == EVENT_HW_EXCEPTION && ev.vector != VEC_DB)
		cpu->pending_debug = 0;
	trace(cpu, "vCPU %u: event %u type %u error %#x at %#llx payload %#llx", cpu->index, ev.vector, ev.type, ev.error,
	      (unsigned long long)cpu->rip, (unsigned long long)ev.payload);
	debug_event_for_client(cpu, &ev);
	intercept_exception(cpu, &ev);
	load_payload(cpu, &ev);
	ev.injected = true;
	cpu->delivering.valid = false;
	cpu->event = ev;
	unwind(cpu, CPU_EXIT_NONE);
}

_Noreturn void cpu_raise(struct cpu *cpu, unsigned vector)
{
	cpu_raise_event(cpu, (struct event){ .type = EVENT_HW_EXCEPTION, .vector = vector });
}

_Noreturn void cpu_raise_error(struct cpu *cpu, unsigned vector, uint32_t error)
{
	cpu_raise_event(cpu, (struct event){ .type = EVENT_HW_EXCEPTION, .vector = vector, .has_error = true, .error = error });
}

_Noreturn void cpu_raise_page_fault(struct cpu *cpu, uint64_t addr, uint32_t error)
{
	cpu_raise_event(cpu, (struct event){ .type = EVENT_HW_EXCEPTION, .vector = VEC_PF, .has_error = true, .error = error,
	                                     .has_payload = true, .payload = addr });
}

/* From here until IRET no further NMI is taken; under virtual NMIs it is the guest's own blocking that counts. */
static void block_nmis(struct cpu *cpu)
{
	if (cpu_in_guest(cpu) && (cpu->ctl->pin & PIN_VIRTUAL_NMIS))
		cpu->shadow |= SHADOW_NMI;
	else
		cpu->nmi_blocked = true;
}

/*
 * Faults in the delivery of an event that do not merge with it are delivered
 * instead, and may fault again: a guest can keep the processor from ever
 * reaching an instruction, with no window for interrupts. Past the notify
 * window that is a VM exit.
 */
static void check_notify_window(struct cpu *cpu, const struct event *ev)
{
	const struct control_block *ctl = cpu->ctl;
	uint64_t now = __builtin_ia32_rdtsc();
	bool chained = cpu->events_chained;

	cpu->events_chained = false;
	if (!chained)
		cpu->chain_start = now;
	else if (ctl->non_root && (ctl->secondary & SECONDARY_NOTIFY) && now - cpu->chain_start > ctl->notify_window) {
		cpu->delivering = *ev;
		cpu_vmexit(cpu, EXIT_NOTIFY, 0);
	}
}

void cpu_event_deliver(struct cpu *cpu)
{
	struct event ev = cpu->event;

	if (!ev.valid)
		return;
	cpu->event.valid = false;
	cpu->delivering.valid = false;
	cpu->cur_insn = NULL;
	cpu->iret_unblocked_nmi = false;
	memset(&cpu->vmexit, 0, sizeof(cpu->vmexit));
	if (!ev.injected) {
		debug_event_for_client(cpu, &ev);
		intercept_exception(cpu, &ev);
	}
	check_notify_window(cpu, &ev);
	load_payload(cpu, &ev);
	cpu->activity = ACTIVITY_ACTIVE;
	if (ev.type == EVENT_NMI)
		block_nmis(cpu);
	cpu->delivering = ev;
	interrupt_deliver(cpu, &ev);
	cpu->delivering.valid = false;
	cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
	cpu->tf_at_start = cpu->rf_at_start = false;
	/* The event took the place of an instruction: trapped before its handler's first one. */
	if (cpu_monitor_trap(cpu))
		cpu_vmexit(cpu, EXIT_MTF, 0);
}
