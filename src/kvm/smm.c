/*
 * System management mode of a vCPU: when an SMI is taken, and what VMX does
 * meanwhile. The mode itself is the processor's (cpu/smm.h).
 */
#include "cpu/smm.h"
#include "kvm/vcpu.h"

/* A vCPU that has not been started keeps it for later. */
bool smi_waits(struct vcpu *v)
{
	return atomic_load(&v->smi_queued) && v->mp_state == KVM_MP_STATE_RUNNABLE && v->cpu->activity != ACTIVITY_WAIT_SIPI;
}

/* Not before an event that is being delivered, nor between STI or MOV SS and the instruction after it. */
static bool smi_allowed(const struct cpu *cpu)
{
	return !cpu->event.valid && !(cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS));
}

static bool smi_take(struct vcpu *v)
{
	struct smm_image image;

	atomic_store(&v->smi_queued, false);
	smm_save(v->cpu, &image);
	vmx_smm_enter(v->vmx);
	if (smm_enter(v->cpu, &image))
		return true;
	log_error("vCPU %u: SMI without memory at SMBASE %#llx", v->id, (unsigned long long)v->cpu->msr.smbase);
	v->vm->dead = true;
	return false;
}

bool smi_inject(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;

	if (likely(!atomic_load(&v->smi_queued)) || cpu->in_smm || !smi_waits(v) || cpu->guest_debug & KVM_GUESTDBG_BLOCKIRQ)
		return true;
	vmx_smm_prepare(v->vmx);
	if (smi_allowed(cpu) && !vmx_outranks_smi(v->vmx))
		return smi_take(v);
	cpu->want |= WANT_SMI;
	return true;
}

int smm_exit(struct vcpu *v)
{
	struct smm_image image;

	if (!smm_leave(v->cpu, &image) || !vmx_smm_leave(v->vmx) || !smm_resume(v->cpu, &image))
		v->triple_fault = true;
	return RUN_ON;
}

void smm_set_by_client(struct vcpu *v, bool on, bool in_nmi)
{
	if (v->cpu->in_smm != on) {
		vmx_leave(v->vmx);
		smm_set(v->cpu, on);
	}
	v->cpu->smi_in_nmi = on && in_nmi;
}
