/*
 * VM-entry checks of the host-state area, and of the controls that must agree
 * with the mode VM entry is executed in. Any failure is VMfailValid(8), before
 * the processor has changed anything.
 */
#include "vmx/checks.h"

static bool check_host_control_registers(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	const struct vmx_caps *c = &v->caps;

	REQUIRE((vmcs->host_cr0 & c->cr0_fixed0) == c->cr0_fixed0);
	REQUIRE(!(vmcs->host_cr0 & ~c->cr0_fixed1));
	REQUIRE((vmcs->host_cr4 & c->cr4_fixed0) == c->cr4_fixed0);
	REQUIRE(!(vmcs->host_cr4 & ~c->cr4_fixed1));
	REQUIRE(vmx_pa_ok(v, vmcs->host_cr3, 1));
	return true;
}

static bool check_host_msrs(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	bool host_64 = vmcs->vm_exit_controls & VMEXIT_HOST_64;

	REQUIRE(linear_canonical(vmcs->host_ia32_sysenter_esp));
	REQUIRE(linear_canonical(vmcs->host_ia32_sysenter_eip));
	if (vmcs->vm_exit_controls & VMEXIT_LOAD_PERF_GLOBAL)
		REQUIRE(perf_global_ctrl_valid(v->cpu, vmcs->host_ia32_perf_global_ctrl));
	if (vmcs->vm_exit_controls & VMEXIT_LOAD_PAT)
		REQUIRE(pat_valid(vmcs->host_ia32_pat));
	if (vmcs->vm_exit_controls & VMEXIT_LOAD_EFER) {
		REQUIRE(efer_valid(vmcs->host_ia32_efer));
		REQUIRE(!!(vmcs->host_ia32_efer & EFER_LMA) == host_64);
		REQUIRE(!!(vmcs->host_ia32_efer & EFER_LME) == host_64);
	}
	return true;
}

static bool check_host_segments(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	const uint16_t rpl_ti = 7;

	REQUIRE(!(vmcs->host_cs_selector & rpl_ti));
	REQUIRE(!(vmcs->host_ss_selector & rpl_ti));
	REQUIRE(!(vmcs->host_ds_selector & rpl_ti));
	REQUIRE(!(vmcs->host_es_selector & rpl_ti));
	REQUIRE(!(vmcs->host_fs_selector & rpl_ti));
	REQUIRE(!(vmcs->host_gs_selector & rpl_ti));
	REQUIRE(!(vmcs->host_tr_selector & rpl_ti));
	REQUIRE(vmcs->host_cs_selector != 0);
	REQUIRE(vmcs->host_tr_selector != 0);
	if (!(vmcs->vm_exit_controls & VMEXIT_HOST_64))
		REQUIRE(vmcs->host_ss_selector != 0);
	REQUIRE(linear_canonical(vmcs->host_fs_base));
	REQUIRE(linear_canonical(vmcs->host_gs_base));
	REQUIRE(linear_canonical(vmcs->host_tr_base));
	REQUIRE(linear_canonical(vmcs->host_gdtr_base));
	REQUIRE(linear_canonical(vmcs->host_idtr_base));
	return true;
}

static bool check_host_mode(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (vmcs->vm_exit_controls & VMEXIT_HOST_64) {
		REQUIRE(vmcs->host_cr4 & CR4_PAE);
		REQUIRE(linear_canonical(vmcs->host_rip));
	} else {
		REQUIRE(!(vmcs->vm_entry_controls & VMENTRY_IA32E));
		REQUIRE(!(vmcs->host_cr4 & CR4_PCIDE));
		REQUIRE(!(vmcs->host_rip >> 32));
	}
	return true;
}

bool vmx_check_address_space_size(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	bool host_64 = vmcs->vm_exit_controls & VMEXIT_HOST_64;

	REQUIRE(host_64 == cpu_long_mode(v->cpu));
	return true;
}

bool vmx_check_host(struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	return check_host_control_registers(v, vmcs) && vmx_check_host_cet(v, vmcs) && check_host_msrs(v, vmcs) && check_host_segments(v, vmcs) &&
	       check_host_mode(v, vmcs);
}
