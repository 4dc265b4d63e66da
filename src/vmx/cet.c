/*
 * CET state across VM entry and exit: IA32_S_CET, SSP, and the address of the
 * interrupt SSP table. Entry and exit load them if their controls say so; exits
 * always save them, where the processor has the controls.
 */
#include "cpu/cet.h"
#include "vmx/checks.h"

/* What both areas demand. */
static bool check_common(const struct vmx_vcpu *v, uint64_t s_cet, uint64_t ssp, uint64_t table)
{
	REQUIRE(cet_control_valid(v->cpu, s_cet));
	REQUIRE(linear_canonical(s_cet));
	REQUIRE(!(ssp & 3));
	REQUIRE(linear_canonical(table));
	return true;
}

bool vmx_check_guest_cet(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint64_t ssp_top = vmcs->guest_ssp >> 48;

	if (vmcs->guest_cr4 & CR4_CET)
		REQUIRE(vmcs->guest_cr0 & CR0_WP);
	if (!(vmcs->vm_entry_controls & VMENTRY_LOAD_CET))
		return true;
	REQUIRE(ssp_top == 0 || ssp_top == 0xffff);              /* bit 47 may differ */
	return check_common(v, vmcs->guest_s_cet, vmcs->guest_ssp, vmcs->guest_intr_ssp_table);
}

bool vmx_check_host_cet(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (vmcs->host_cr4 & CR4_CET)
		REQUIRE(vmcs->host_cr0 & CR0_WP);
	if (!(vmcs->vm_exit_controls & VMEXIT_LOAD_CET))
		return true;
	if (vmcs->vm_exit_controls & VMEXIT_HOST_64) {
		REQUIRE(linear_canonical(vmcs->host_ssp));
	} else {
		REQUIRE(!(vmcs->host_s_cet >> 32));
		REQUIRE(!(vmcs->host_ssp >> 32));
	}
	return check_common(v, vmcs->host_s_cet, vmcs->host_ssp, vmcs->host_intr_ssp_table);
}

static void load(struct cpu *cpu, uint64_t s_cet, uint64_t ssp, uint64_t table)
{
	cpu->cet.s_cet = s_cet;
	cpu->cet.ssp = ssp;
	cpu->cet.ssp_table = table;
}

void vmx_load_guest_cet(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;

	if (vmcs->vm_entry_controls & VMENTRY_LOAD_CET)
		load(v->cpu, vmcs->guest_s_cet, vmcs->guest_ssp, vmcs->guest_intr_ssp_table);
}

void vmx_load_host_cet(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;

	if (vmcs->vm_exit_controls & VMEXIT_LOAD_CET)
		load(v->cpu, vmcs->host_s_cet, vmcs->host_ssp, vmcs->host_intr_ssp_table);
}

void vmx_save_guest_cet(struct vmx_vcpu *v)
{
	const struct cpu *cpu = v->cpu;

	if (!(v->caps.entry.may & VMENTRY_LOAD_CET))
		return;
	v->vmcs12.guest_s_cet = cpu->cet.s_cet;
	v->vmcs12.guest_ssp = cpu->cet.ssp;
	v->vmcs12.guest_intr_ssp_table = cpu->cet.ssp_table;
}
