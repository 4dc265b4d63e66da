/*
 * Events at an instruction boundary of L2, in the order of their priority:
 *
 *   an event that VM entry or the client injected; TPR below threshold; SMI
 *   (kvm/'s); INIT; monitor trap flag; bus lock; #DB traps; preemption timer;
 *   NMI window; NMI; interrupt window, virtual interrupt; external interrupt.
 *
 * Each either exits to L1, or is left to kvm/ to be delivered into L2 itself.
 */
#include "vmx/checks.h"

/* ---- VMX-preemption timer ---- */

/* With the deadline that a client has restored. */
void vmx_timer_resume(struct vmx_vcpu *v)
{
	v->vmcs02.timer_deadline = v->timer_deadline;
	v->ops->timer(v->cpu, v->timer_deadline);
}

void vmx_tsc_changed(struct vmx_vcpu *v)
{
	if (v->in_l2 && v->timer_active && !v->pages_pending)
		vmx_timer_resume(v);
}

void vmx_tsc_moved(struct vmx_vcpu *v, int64_t by)
{
	if (!v->timer_active)
		return;
	v->timer_deadline += by;
	vmx_tsc_changed(v);
}

/* It ticks when the bit of L1's TSC that its rate names changes, so whole ticks are counted. */
void vmx_timer_start(struct vmx_vcpu *v)
{
	unsigned rate = vmx_caps_timer_rate(&v->caps);

	v->timer_active = v->vmcs02.pin & PIN_PREEMPTION_TIMER;
	v->vmcs02.timer_deadline = UINT64_MAX;
	if (!v->timer_active)
		return;
	v->timer_deadline = ((v->ops->l1_tsc(v->cpu) >> rate) + v->vmcs12.vmx_preemption_timer_value) << rate;
	vmx_timer_resume(v);
}

void vmx_timer_stop(struct vmx_vcpu *v)
{
	if (v->timer_active)
		v->ops->timer(v->cpu, UINT64_MAX);
	v->timer_active = false;
}

uint32_t vmx_timer_value(const struct vmx_vcpu *v)
{
	unsigned rate = vmx_caps_timer_rate(&v->caps);
	uint64_t now = v->ops->l1_tsc(v->cpu);

	if (!v->timer_active || v->timer_deadline <= now)
		return 0;
	return (v->timer_deadline >> rate) - (now >> rate);
}

static bool timer_expired(const struct vmx_vcpu *v)
{
	return v->timer_active && v->ops->l1_tsc(v->cpu) >= v->timer_deadline;
}

void vmx_timer_woken(struct vmx_vcpu *v)
{
	if (v->in_l2 && v->timer_active && !v->pages_pending && !timer_expired(v))
		vmx_timer_resume(v);
}

/* ---- what may exit ---- */

static bool active_or_halted(const struct cpu *cpu)
{
	return cpu->activity == ACTIVITY_ACTIVE || cpu->activity == ACTIVITY_HLT;
}

static bool nmi_window_open(const struct vmx_vcpu *v)
{
	const struct cpu *cpu = v->cpu;

	return (v->vmcs02.primary & PRIMARY_NMI_WINDOW) && !(cpu->shadow & (SHADOW_NMI | SHADOW_MOV_SS)) &&
	       cpu->activity != ACTIVITY_WAIT_SIPI;
}

static bool interrupt_window_open(const struct vmx_vcpu *v)
{
	const struct cpu *cpu = v->cpu;

	return (v->vmcs02.primary & PRIMARY_INTR_WINDOW) && (cpu->rflags & RFLAGS_IF) &&
	       !(cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS)) && active_or_halted(cpu);
}

/* With NMI exiting; nmi_blocked is clear under virtual NMIs. */
static bool nmi_exits(const struct vmx_vcpu *v)
{
	const struct cpu *cpu = v->cpu;

	return (v->vmcs02.pin & PIN_NMI) && !cpu->nmi_blocked && !(cpu->shadow & SHADOW_MOV_SS) &&
	       cpu->activity != ACTIVITY_WAIT_SIPI;
}

/* Neither RFLAGS.IF nor blocking by STI or MOV SS matters when external interrupts exit. */
static bool interrupt_exits(const struct vmx_vcpu *v)
{
	return (v->vmcs02.pin & PIN_EXT_INTR) && active_or_halted(v->cpu) && v->ops->interrupt_pending(v->cpu) >= 0;
}

/* ---- exits ---- */

static bool exit_plain(struct vmx_vcpu *v, enum exit_reason reason, uint64_t qualification)
{
	trace(vmx, "vCPU %u: exit %u at %#llx", v->cpu->index, reason, (unsigned long long)v->cpu->rip);
	vmx_exit_to_l1(v, &(struct vmexit){ .reason = reason, .qualification = qualification });
	return true;
}

static bool exit_nmi(struct vmx_vcpu *v)
{
	vmx_exit_to_l1(v, &(struct vmexit){ .reason = EXIT_EXCEPTION_NMI,
	                                    .intr_info = INTR_INFO_VALID | EVENT_NMI << INTR_INFO_TYPE_SHIFT | VEC_NMI });
	return true;
}

enum interrupt_outcome { INTERRUPT_GONE, INTERRUPT_POSTED, INTERRUPT_EXITED };

/* Without acknowledgement the interrupt stays pending, and L1 takes it when it sets RFLAGS.IF. */
static enum interrupt_outcome external_interrupt(struct vmx_vcpu *v)
{
	struct vmexit e = { .reason = EXIT_EXTERNAL_INTERRUPT };

	if (v->vmcs12.vm_exit_controls & VMEXIT_ACK_INTR) {
		int vector = v->ops->interrupt_ack(v->cpu);

		if (vector < 0)
			return INTERRUPT_GONE;
		if (vmx_posted_interrupt(v, vector))
			return INTERRUPT_POSTED;
		e.intr_info = INTR_INFO_VALID | EVENT_EXT_INTERRUPT << INTR_INFO_TYPE_SHIFT | (uint32_t)vector;
	}
	trace(vmx, "vCPU %u: interrupt exit, info %#x", v->cpu->index, e.intr_info);
	vmx_exit_to_l1(v, &e);
	return INTERRUPT_EXITED;
}

/* Something waits behind the event that is delivered first: look again before L2's next instruction. */
static void look_again(struct vmx_vcpu *v, bool nmi_pending, bool init_pending)
{
	if (v->mtf_pending || init_pending || timer_expired(v) || nmi_window_open(v) || (nmi_pending && nmi_exits(v)) ||
	    interrupt_window_open(v) || v->vmcs02.virtual_interrupt || interrupt_exits(v) || vmx_tpr_below_threshold(v))
		atomic_fetch_or(&v->cpu->poll, POLL_EVENT);
}

void vmx_follow_memory(struct vmx_vcpu *v)
{
	if (v->in_l2 && !v->pages_pending && v->mapped_generation != mem_generation(v->cpu->mem))
		vmx_map_pages(v);
}

/* Exits that outrank NMIs and interrupts. */
static bool check_high_priority(struct vmx_vcpu *v)
{
	if (v->mtf_pending)
		return exit_plain(v, EXIT_MTF, 0);
	if (v->cpu->bus_locked)
		return exit_plain(v, EXIT_BUS_LOCK, 0);
	if (cpu_trap_due(v->cpu)) {
		cpu_trap_queue(v->cpu);
		return false;
	}
	if (timer_expired(v))
		return exit_plain(v, EXIT_PREEMPTION_TIMER, 0);
	if (nmi_window_open(v))
		return exit_plain(v, EXIT_NMI_WINDOW, 0);
	return false;
}

void vmx_settle(struct vmx_vcpu *v)
{
	if (v->in_l2 && v->cpu->bus_locked && !v->cpu->event.valid)
		check_high_priority(v);
}

/* A virtual interrupt is delivered before L1's interrupts, those that notifications post included. true: exited. */
static bool check_interrupts(struct vmx_vcpu *v, bool nmi_pending)
{
	enum interrupt_outcome outcome = INTERRUPT_POSTED;

	while (outcome == INTERRUPT_POSTED) {
		if (vmx_virtual_interrupt_take(v, nmi_pending)) {
			look_again(v, nmi_pending, false);
			return false;
		}
		if (!interrupt_exits(v))
			return false;
		outcome = external_interrupt(v);
	}
	return outcome == INTERRUPT_EXITED;
}

bool vmx_outranks_smi(const struct vmx_vcpu *v)
{
	return v->in_l2 && active_or_halted(v->cpu) && vmx_tpr_below_threshold(v);
}

void vmx_monitor_trap_later(struct vmx_vcpu *v)
{
	v->mtf_pending = true;
	atomic_fetch_or(&v->cpu->poll, POLL_EVENT);
}

bool vmx_check_events(struct vmx_vcpu *v, bool nmi_pending, bool *nmi_taken, bool *init)
{
	struct cpu *cpu = v->cpu;
	bool init_pending = *init;

	*nmi_taken = false;
	if (!v->in_l2)
		return false;
	if (v->pages_pending)
		vmx_resume_pages(v);
	vmx_follow_memory(v);
	/* An instruction that waits for its answered access is finished first: leaving it would lose the answer. */
	if (cpu->event.valid || cpu->io.nreads || cpu->io.answered || cpu->msr_exit.answered) {
		look_again(v, nmi_pending, init_pending);
		return false;
	}
	if (cpu->activity == ACTIVITY_WAIT_SIPI)         /* only a SIPI ends it, kvm/ sees to that */
		return false;
	if (vmx_outranks_smi(v))
		return exit_plain(v, EXIT_TPR_BELOW_THRESHOLD, 0);
	*init = false;
	if (init_pending)
		return exit_plain(v, EXIT_INIT, 0);
	if (check_high_priority(v))
		return true;
	if (cpu->event.valid) {
		look_again(v, nmi_pending, init_pending);
		return false;
	}
	if (nmi_pending && nmi_exits(v)) {
		*nmi_taken = true;
		return exit_nmi(v);
	}
	if (interrupt_window_open(v))
		return exit_plain(v, EXIT_INTERRUPT_WINDOW, 0);
	if (check_interrupts(v, nmi_pending))
		return true;
	/* Windows that L1 waits for and that are still shut: the processor tells when they open. */
	cpu->want |= (v->vmcs02.primary & PRIMARY_INTR_WINDOW || v->vmcs02.virtual_interrupt ? WANT_INTR : 0) |
	             (v->vmcs02.primary & PRIMARY_NMI_WINDOW ? WANT_NMI : 0);
	return false;
}
