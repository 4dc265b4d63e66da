/* Smaller ioctls of a vCPU: LAPIC state, debugging by the client, capabilities, what is accepted without effect. */
#include "kvm/lifecycle.h"
#include "kvm/vcpu.h"

long kvm_vcpu_get_lapic(struct vcpu *v, struct kvm_lapic_state *s)
{
	return lapic_in_kernel(v) ? lapic_get(v->vm->irqchip, v->id, s) : -EINVAL;
}

long kvm_vcpu_set_lapic(struct vcpu *v, const struct kvm_lapic_state *s)
{
	int r = lapic_in_kernel(v) ? lapic_set(v->vm->irqchip, v->id, s) : -EINVAL;

	vcpu_kick(v);
	return r;
}

/* Accepted and not reported: clients use it to patch old Windows' accesses to the TPR, an optimisation. */
long kvm_vcpu_tpr_access_reporting(struct vcpu *v, struct kvm_tpr_access_ctl *t)
{
	if (t->flags)
		return -EINVAL;
	v->tpr_reporting = t->enabled;
	return 0;
}

long kvm_vcpu_set_vapic_addr(struct vcpu *v, const struct kvm_vapic_addr *a)
{
	if (!lapic_in_kernel(v))
		return -EINVAL;
	v->vapic_addr = a->vapic_addr;
	return 0;
}

/* The client injects an exception through here, too. */
static long debug_inject(struct vcpu *v, uint32_t control)
{
	struct event *e = &v->cpu->event;

	if (e->valid && e->type != EVENT_EXT_INTERRUPT && e->type != EVENT_NMI)
		return -EBUSY;
	if (control & KVM_GUESTDBG_INJECT_DB)
		*e = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = VEC_DB };
	else
		*e = (struct event){ .valid = true, .type = EVENT_SW_EXCEPTION, .vector = VEC_BP, .insn_len = 1 };
	return 0;
}

long kvm_vcpu_set_guest_debug(struct vcpu *v, const struct kvm_guest_debug *d)
{
	struct cpu *cpu = v->cpu;

	if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		long r = debug_inject(v, d->control);

		if (r < 0)
			return r;
	}
	cpu->guest_debug = d->control & KVM_GUESTDBG_ENABLE ? d->control : 0;
	memset(cpu->guest_debug_dr, 0, sizeof(cpu->guest_debug_dr));
	cpu->guest_debug_dr7 = 0;
	if (cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP) {
		memcpy(cpu->guest_debug_dr, d->arch.debugreg, sizeof(cpu->guest_debug_dr));
		cpu->guest_debug_dr7 = d->arch.debugreg[7];
	}
	tlb_flush_all(cpu);              /* watchpoints: pages they lie in have no entries */
	cpu_mode_update(cpu);
	return 0;
}

/* Without it paravirtual features work whether CPUID offers them or not. */
long kvm_vcpu_enable_cap(struct vcpu *v, const struct kvm_enable_cap *cap)
{
	if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	v->pv_enforced = cap->args[0];
	return 0;
}

long kvm_vcpu_get_stats_fd(struct vcpu *v)
{
	return vcpu_stats_fd(v);
}
