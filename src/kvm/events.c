/*
 * Events that reach a vCPU from outside, taken at an instruction boundary: INIT
 * and SIPI, SMI, what nested VMX makes of pending events, then NMI and interrupts.
 * At most one is queued into cpu->event; the engine delivers it first thing.
 * What is blocked leaves a WANT_* bit, and the processor sets the poll word when
 * the window opens.
 */
#include "kvm/vcpu.h"
#include "x86/vmx.h"

/* ---- NMIs ---- */

/* One that is being delivered and one that waits for its IRET: more melt into these. */
static void nmi_queue(struct vcpu *v)
{
	unsigned n = atomic_load(&v->nmis_queued);

	while (n < 2 && !atomic_compare_exchange_weak(&v->nmis_queued, &n, n + 1))
		;
}

static void nmi_dequeue(struct vcpu *v)
{
	unsigned n = atomic_load(&v->nmis_queued);

	while (n && !atomic_compare_exchange_weak(&v->nmis_queued, &n, n - 1))
		;
}

/* While NMIs are blocked only one can wait. */
static void nmi_merge(struct vcpu *v)
{
	unsigned two = 2;
	bool blocked = v->cpu->nmi_blocked || v->cpu->shadow & SHADOW_NMI;

	if (blocked || (v->cpu->event.valid && v->cpu->event.type == EVENT_NMI))
		atomic_compare_exchange_strong(&v->nmis_queued, &two, 1);
}

void vcpu_post_nmi(struct vcpu *v)
{
	nmi_queue(v);
	vcpu_kick(v);
}

/* ---- INIT and SIPI ---- */

static void init_accept(struct vcpu *v)
{
	bool bsp = vcpu_apic_base(v) & 0x100;

	cpu_reset(v->cpu, true);
	lapic_reset(v->vm->irqchip, v->id, true);
	v->outstanding = ASKED_NOTHING;
	v->replay = false;
	v->user_interrupt = -1;
	v->machine_check_waits = false;
	atomic_store(&v->nmis_queued, 0);
	v->mp_state = bsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
	trace(irq, "vCPU %u: INIT", v->id);
}

static void sipi_accept(struct vcpu *v)
{
	struct segment *cs = &v->cpu->seg[SEG_CS];

	cs->selector = v->sipi_vector << 8;
	cs->base = (uint64_t)v->sipi_vector << 12;
	v->cpu->rip = v->cpu->next_rip = 0;
	cpu_mode_update(v->cpu);
	v->mp_state = KVM_MP_STATE_RUNNABLE;
	trace(irq, "vCPU %u: SIPI %#x", v->id, v->sipi_vector);
}

/* L2 in the wait-for-SIPI state: the SIPI is L1's VM exit. */
static bool sipi_exits(struct vcpu *v)
{
	struct vmexit e = { .reason = EXIT_SIPI, .qualification = v->sipi_vector };

	if (!vmx_in_l2(v->vmx) || v->cpu->activity != ACTIVITY_WAIT_SIPI)
		return false;
	vmx_exit_to_l1(v->vmx, &e);
	return true;
}

/* INIT is blocked in SMM and in VMX root operation, and exits in non-root (events_inject()); an SMI goes first. */
static bool init_allowed(struct vcpu *v)
{
	return !v->cpu->in_smm && !vmx_in_operation(v->vmx) && !smi_waits(v);
}

/* A SIPI not waited for is lost. */
void events_accept(struct vcpu *v)
{
	uint8_t vector = 0;
	unsigned events;

	if (!lapic_in_kernel(v))
		return;
	events = lapic_events_take(v->vm->irqchip, v->id, &vector);
	if (events & LAPIC_NMI)
		nmi_queue(v);
	if (events & LAPIC_NMI_AGAIN)
		nmi_queue(v);
	if (events & LAPIC_INIT)
		v->init_pending = true;
	if (events & LAPIC_SIPI) {
		v->sipi_pending = true;
		v->sipi_vector = vector;
	}
	if (events & LAPIC_SMI && params.smm)
		atomic_store(&v->smi_queued, true);
	if (v->init_pending && init_allowed(v)) {
		v->init_pending = false;
		init_accept(v);
	}
	if (v->sipi_pending && !v->init_pending) {
		v->sipi_pending = false;
		if (!sipi_exits(v) && v->mp_state == KVM_MP_STATE_INIT_RECEIVED)
			sipi_accept(v);
	}
}

/* ---- interrupts ---- */

/* In split mode the client's PIC speaks through LINT0. */
static bool accepts_pic(struct vcpu *v)
{
	enum { LVT0 = 0x350, MASKED = 0x10000, DELIVERY = 0x700, EXTINT = 0x700 };
	struct kvm_lapic_state s;
	uint32_t lvt0;

	if (!lapic_in_kernel(v) || !(vcpu_apic_base(v) & 0x800))
		return true;
	if (lapic_get(v->vm->irqchip, v->id, &s) < 0)
		return false;
	memcpy(&lvt0, s.regs + LVT0, sizeof(lvt0));
	return !(lvt0 & MASKED) && (lvt0 & DELIVERY) == EXTINT;
}

int vcpu_interrupt_pending(struct vcpu *v)
{
	if (v->user_interrupt >= 0 && accepts_pic(v))
		return v->user_interrupt;
	return lapic_in_kernel(v) ? irqchip_pending(v->vm->irqchip, v->id) : -1;
}

int vcpu_interrupt_ack(struct vcpu *v)
{
	int vector = v->user_interrupt;

	if (vector >= 0 && accepts_pic(v)) {
		v->user_interrupt = -1;
		return vector;
	}
	return lapic_in_kernel(v) ? irqchip_ack(v->vm->irqchip, v->id) : -1;
}

static bool l1_takes_interrupts(const struct vcpu *v)
{
	return vmx_in_l2(v->vmx) && v->cpu->ctl->pin & PIN_EXT_INTR;
}

/* In L2 an interrupt that is L1's exits whatever L2's RFLAGS say. */
bool vcpu_interrupt_enabled(struct vcpu *v)
{
	return v->cpu->rflags & RFLAGS_IF || l1_takes_interrupts(v);
}

bool vcpu_interrupt_window(struct vcpu *v)
{
	if (v->user_interrupt >= 0 || v->mp_state != KVM_MP_STATE_RUNNABLE || !accepts_pic(v))
		return false;
	return l1_takes_interrupts(v) ? !v->cpu->event.valid : cpu_interrupt_allowed(v->cpu);
}

static void inject_interrupt(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;
	int vector = vcpu_interrupt_pending(v);

	if (vector < 0) {
		if (!pic_in_kernel(v) && v->run->request_interrupt_window)
			cpu->want |= WANT_INTR;
		return;
	}
	if (!cpu_interrupt_allowed(cpu) || l1_takes_interrupts(v)) {
		cpu->want |= WANT_INTR;
		return;
	}
	vector = vcpu_interrupt_ack(v);
	if (vector < 0)
		return;
	cpu->event = (struct event){ .valid = true, .type = EVENT_EXT_INTERRUPT, .vector = vector };
	trace(irq, "vCPU %u: interrupt %#x at %#llx", v->id, vector, (unsigned long long)cpu->rip);
}

static void inject_nmi(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;

	nmi_merge(v);
	if (!atomic_load(&v->nmis_queued))
		return;
	if (!cpu_nmi_allowed(cpu) || (vmx_in_l2(v->vmx) && (cpu->ctl->pin & PIN_NMI))) {
		cpu->want |= WANT_NMI;
		return;
	}
	nmi_dequeue(v);
	if (atomic_load(&v->nmis_queued))
		cpu->want |= WANT_NMI;
	cpu->event = (struct event){ .valid = true, .type = EVENT_NMI, .vector = VEC_NMI };
	trace(irq, "vCPU %u: NMI", v->id);
}

/* ---- all ---- */

static void l2_events(struct vcpu *v)
{
	bool nmi_taken = false;

	vmx_check_events(v->vmx, atomic_load(&v->nmis_queued), &nmi_taken, &v->init_pending);
	if (nmi_taken)
		nmi_dequeue(v);
}

/* Traps that SMIs go before (cpu_debug_trap()); L2's are among what vmx_check_events() looks at. */
void events_take_trap(struct vcpu *v)
{
	if (!vmx_in_l2(v->vmx) && !v->cpu->event.valid && cpu_trap_due(v->cpu))
		cpu_trap_queue(v->cpu);
}

static void wake_from_halt(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;

	if (cpu->activity != ACTIVITY_HLT)
		return;
	if (cpu->event.valid || v->kicked_by_hypercall)
		cpu->activity = ACTIVITY_ACTIVE;
	v->kicked_by_hypercall = false;
}

/*
 * One event at a time: with more pending, the engine must come back at the
 * first instruction boundary of the handler.
 */
bool events_inject(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;

	cpu->want = 0;
	if (v->mp_state != KVM_MP_STATE_RUNNABLE)
		return true;
	/*
	 * An instruction whose access the client has answered is finished first (the engine ignores the poll word until
	 * then): a handler in between would lose the answer, and the access would be made twice.
	 */
	if (cpu->io.nreads || cpu->io.answered || cpu->msr_exit.answered) {
		atomic_fetch_or(&cpu->poll, POLL_EVENT);
		return true;
	}
	if (v->machine_check_waits && !cpu->event.valid) {
		cpu->event = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = VEC_MC };
		v->machine_check_waits = false;
	}
	if (!smi_inject(v))
		return false;
	if (vmx_in_l2(v->vmx))
		l2_events(v);
	events_take_trap(v);
	if (!(cpu->guest_debug & KVM_GUESTDBG_BLOCKIRQ)) {
		inject_nmi(v);
		inject_interrupt(v);
	}
	if (cpu->event.valid && (cpu->want || v->machine_check_waits))
		atomic_fetch_or(&cpu->poll, POLL_EVENT);
	wake_from_halt(v);
	return true;
}
