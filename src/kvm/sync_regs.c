/* KVM_CAP_SYNC_REGS: registers that travel in kvm_run itself. */
#include "kvm/vcpu.h"

int sync_regs_load(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct kvm_sync_regs *s = &run->s.regs;

	if ((run->kvm_valid_regs | run->kvm_dirty_regs) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		kvm_vcpu_set_regs(v, &s->regs);
	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS && kvm_vcpu_set_sregs(v, &s->sregs) < 0)
		return -EINVAL;
	if (run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS && kvm_vcpu_set_events(v, &s->events) < 0)
		return -EINVAL;
	run->kvm_dirty_regs = 0;
	return 0;
}

void sync_regs_store(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct kvm_sync_regs *s = &run->s.regs;

	if (run->kvm_valid_regs & KVM_SYNC_X86_REGS)
		kvm_vcpu_get_regs(v, &s->regs);
	if (run->kvm_valid_regs & KVM_SYNC_X86_SREGS)
		kvm_vcpu_get_sregs(v, &s->sregs);
	if (run->kvm_valid_regs & KVM_SYNC_X86_EVENTS)
		kvm_vcpu_get_events(v, &s->events);
}
