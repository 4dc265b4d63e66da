/*
 * vmx/smm -- VMX operation across system management mode. There is no monitor
 * for SMM (no dual-monitor treatment), so an SMI takes the processor out of
 * VMX operation, out of L2 as well, without a VM exit, and RSM takes it back.
 * What is neither in the state-save area nor in the VMCS (MTF that is due, the
 * preemption timer's deadline) waits in struct vmx_vcpu.
 *
 * vmcs12 is brought up to date, so that the client finds in it all that a
 * restored L2 needs, as it does with KVM.
 */
#include "vmx/checks.h"

void vmx_smm_prepare(struct vmx_vcpu *v)
{
	if (v->pages_pending)
		vmx_resume_pages(v);
}

static void set_operation(struct vmx_vcpu *v, bool on)
{
	v->in_operation = on;
	vmx_run_l1(v);
}

void vmx_smm_enter(struct vmx_vcpu *v)
{
	v->smm.vmxon = v->in_operation;
	v->smm.in_l2 = v->in_l2;
	v->smm.restored = false;
	if (v->in_l2)
		vmx_sync_vmcs12(v);
	if (v->in_l2 && v->shadow_valid)
		vmx_shadow_flush(v);
	set_operation(v, false);
}

void vmx_smm_restore(struct vmx_vcpu *v, bool in_l2)
{
	v->smm.vmxon = v->smm.restored = true;
	v->smm.in_l2 = in_l2;
	set_operation(v, false);
}

static bool vmcs12_ok(struct vmx_vcpu *v)
{
	uint64_t qualification;

	v->vmcs12.vm_entry_intr_info_field &= ~INTR_INFO_VALID;
	return vmx_check_controls(v, &v->vmcs12) && vmx_check_host(v, &v->vmcs12) && vmx_check_guest(v, &v->vmcs12, &qualification);
}

bool vmx_smm_leave(struct vmx_vcpu *v)
{
	bool in_l2 = v->smm.in_l2, restored = v->smm.restored;

	set_operation(v, v->smm.vmxon);
	v->smm.vmxon = v->smm.in_l2 = v->smm.restored = false;
	if (!in_l2)
		return true;
	if (restored && !vmcs12_ok(v))
		return false;
	v->shadow_valid = false;
	if (vmx_uses_shadow(&v->vmcs12) && !vmx_shadow_load(v))
		return false;
	vmx_resume_l2(v);
	return true;
}
