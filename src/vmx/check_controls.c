/*
 * VM-entry checks of the control fields. Any failure is VMfailValid(7), before
 * the processor has changed anything. One function per group of rules; a rule
 * about a feature that is not in use is fine.
 */
#include "cpu/walk.h"
#include "vmx/checks.h"

/* ---- VM-execution controls ---- */

static bool check_reserved_bits(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	REQUIRE(vmx_controls_ok(v->caps.pin, vmcs->pin_based_vm_exec_control));
	REQUIRE(vmx_controls_ok(v->caps.primary, vmcs->cpu_based_vm_exec_control));
	if (vmcs->cpu_based_vm_exec_control & PRIMARY_SECONDARY)
		REQUIRE(vmx_controls_ok(v->caps.secondary, vmcs->secondary_vm_exec_control));
	REQUIRE(!(vmcs12_tertiary(vmcs) & ~v->caps.tertiary));
	return true;
}

static bool check_cr3_targets(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	REQUIRE(vmcs->cr3_target_count <= (v->caps.misc >> 16 & 0x1ff));
	return true;
}

static bool check_bitmaps(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (vmcs->cpu_based_vm_exec_control & PRIMARY_IO_BITMAPS) {
		REQUIRE(vmx_pa_ok(v, vmcs->io_bitmap_a, PAGE_SIZE_4K));
		REQUIRE(vmx_pa_ok(v, vmcs->io_bitmap_b, PAGE_SIZE_4K));
	}
	if (vmcs->cpu_based_vm_exec_control & PRIMARY_MSR_BITMAPS)
		REQUIRE(vmx_pa_ok(v, vmcs->msr_bitmap, PAGE_SIZE_4K));
	if (vmcs12_secondary(vmcs) & SECONDARY_SHADOW_VMCS) {
		REQUIRE(vmx_pa_ok(v, vmcs->vmread_bitmap, PAGE_SIZE_4K));
		REQUIRE(vmx_pa_ok(v, vmcs->vmwrite_bitmap, PAGE_SIZE_4K));
	}
	return true;
}

/* Bits 7:4 of the virtual TPR. An address without memory reads as all ones. */
static unsigned virtual_tpr_class(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint8_t vtpr = 0xff;

	if (!mem_read(v->cpu->mem, vmcs->virtual_apic_page_addr + 0x80, &vtpr, 1))
		vtpr = 0xff;
	return vtpr >> 4;
}

static bool check_tpr_shadow(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t secondary = vmcs12_secondary(vmcs);

	if (!(vmcs->cpu_based_vm_exec_control & PRIMARY_TPR_SHADOW)) {
		REQUIRE(!(secondary & (SECONDARY_X2APIC | SECONDARY_APIC_REGISTER | SECONDARY_VIRTUAL_INTR)));
		REQUIRE(!(vmcs12_tertiary(vmcs) & TERTIARY_IPI));
		return true;
	}
	REQUIRE(vmx_pa_ok(v, vmcs->virtual_apic_page_addr, PAGE_SIZE_4K));
	if (secondary & SECONDARY_VIRTUAL_INTR)
		return true;
	REQUIRE(!(vmcs->tpr_threshold & ~0xfu));
	if (!(secondary & SECONDARY_APIC_ACCESSES))
		REQUIRE(vmcs->tpr_threshold <= virtual_tpr_class(v, vmcs));
	return true;
}

static bool check_apic_virtualization(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t secondary = vmcs12_secondary(vmcs);

	if (secondary & SECONDARY_APIC_ACCESSES)
		REQUIRE(vmx_pa_ok(v, vmcs->apic_access_addr, PAGE_SIZE_4K));
	if (secondary & SECONDARY_X2APIC)
		REQUIRE(!(secondary & SECONDARY_APIC_ACCESSES));
	if (secondary & SECONDARY_VIRTUAL_INTR)
		REQUIRE(vmcs->pin_based_vm_exec_control & PIN_EXT_INTR);
	return true;
}

static bool check_posted_interrupts(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (!(vmcs->pin_based_vm_exec_control & PIN_POSTED_INTR))
		return true;
	REQUIRE(vmcs12_secondary(vmcs) & SECONDARY_VIRTUAL_INTR);
	REQUIRE(vmcs->vm_exit_controls & VMEXIT_ACK_INTR);
	REQUIRE(!(vmcs->posted_intr_nv & 0xff00));
	REQUIRE(vmx_pa_ok(v, vmcs->posted_intr_desc_addr, 64));
	return true;
}

/* The table has 8-byte entries, and its last byte is within the physical-address width, too. */
static bool check_ipi_virtualization(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (!(vmcs12_tertiary(vmcs) & TERTIARY_IPI))
		return true;
	REQUIRE(vmx_pa_ok(v, vmcs->pid_pointer_table, 8));
	REQUIRE(vmx_pa_ok(v, vmcs->pid_pointer_table + vmcs->last_pid_pointer_index * 8ull + 7, 1));
	return true;
}

static bool check_nmi_controls(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t pin = vmcs->pin_based_vm_exec_control;

	if (pin & PIN_VIRTUAL_NMIS)
		REQUIRE(pin & PIN_NMI);
	if (vmcs->cpu_based_vm_exec_control & PRIMARY_NMI_WINDOW)
		REQUIRE(pin & PIN_VIRTUAL_NMIS);
	return true;
}

static bool check_vpid(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (vmcs12_secondary(vmcs) & SECONDARY_VPID)
		REQUIRE(vmcs->virtual_processor_id != 0);
	return true;
}

bool vmx_eptp_ok(const struct vmx_vcpu *v, uint64_t eptp)
{
	const char *fault = eptp_fault(v->caps.ept_vpid, v->cpu->maxphyaddr, eptp);

	if (fault)
		trace(vmx, "EPT pointer %#llx: %s", (unsigned long long)eptp, fault);
	return !fault;
}

static bool check_ept(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t secondary = vmcs12_secondary(vmcs);

	if (!(secondary & SECONDARY_EPT)) {
		REQUIRE(!(secondary & SECONDARY_UNRESTRICTED));
		REQUIRE(!(secondary & SECONDARY_PML));
		REQUIRE(!(secondary & SECONDARY_MBEC));
		REQUIRE(!(secondary & SECONDARY_SPP));
		return true;
	}
	if (secondary & SECONDARY_SPP)
		REQUIRE(vmx_pa_ok(v, vmcs->sppt_pointer, PAGE_SIZE_4K));
	if (secondary & SECONDARY_PML)
		REQUIRE(vmx_pa_ok(v, vmcs->pml_address, PAGE_SIZE_4K));
	return vmx_eptp_ok(v, vmcs->ept_pointer);
}

static bool check_virtualization_exception(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (vmcs12_secondary(vmcs) & SECONDARY_EPT_VE)
		REQUIRE(vmx_pa_ok(v, vmcs->ve_info_address, PAGE_SIZE_4K));
	return true;
}

static bool check_vm_functions(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (!(vmcs12_secondary(vmcs) & SECONDARY_VMFUNC))
		return true;
	REQUIRE(!(vmcs->vm_function_control & ~v->caps.vmfunc));
	if (vmcs->vm_function_control & VMFUNC_EPTP_SWITCHING) {
		REQUIRE(vmcs12_secondary(vmcs) & SECONDARY_EPT);
		REQUIRE(vmx_pa_ok(v, vmcs->eptp_list_address, PAGE_SIZE_4K));
	}
	return true;
}

static bool check_tsc_scaling(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	if (vmcs12_secondary(vmcs) & SECONDARY_TSC_SCALING)
		REQUIRE(vmcs->tsc_multiplier != 0);
	return true;
}

/* ---- VM-exit and VM-entry controls ---- */

/* An MSR list: 16-byte entries, the first and the last byte within the physical-address width. */
static bool check_msr_list(const struct vmx_vcpu *v, uint64_t addr, uint32_t count)
{
	if (!count)
		return true;
	REQUIRE(vmx_pa_ok(v, addr, 16));
	REQUIRE(vmx_pa_ok(v, addr + count * 16ull - 1, 1));
	return true;
}

static bool check_exit_controls(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	REQUIRE(vmx_controls_ok(v->caps.exit, vmcs->vm_exit_controls));
	if (vmcs->vm_exit_controls & VMEXIT_SAVE_PREEMPTION_TIMER)
		REQUIRE(vmcs->pin_based_vm_exec_control & PIN_PREEMPTION_TIMER);
	return check_msr_list(v, vmcs->vm_exit_msr_store_addr, vmcs->vm_exit_msr_store_count) &&
	       check_msr_list(v, vmcs->vm_exit_msr_load_addr, vmcs->vm_exit_msr_load_count);
}

static bool check_entry_controls(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	REQUIRE(vmx_controls_ok(v->caps.entry, vmcs->vm_entry_controls));
	/* Outside SMM, which is not offered, neither may be set. */
	REQUIRE(!(vmcs->vm_entry_controls & (VMENTRY_SMM | VMENTRY_DEACT_DUAL_MONITOR)));
	return check_msr_list(v, vmcs->vm_entry_msr_load_addr, vmcs->vm_entry_msr_load_count);
}

/* ---- event injection ---- */

/* Exceptions that push an error code: #DF #TS #NP #SS #GP #PF #AC. */
static bool vector_has_error(unsigned vector)
{
	return vector <= 31 && (0x27d00u >> vector & 1);
}

static bool check_injected_vector(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t info = vmcs->vm_entry_intr_info_field, vector = info & INTR_INFO_VECTOR;

	switch (intr_type(info)) {
	case EVENT_NMI:
		REQUIRE(vector == VEC_NMI);
		return true;
	case EVENT_HW_EXCEPTION:
		REQUIRE(vector <= 31);
		return true;
	case INTR_TYPE_OTHER:
		REQUIRE(v->caps.primary.may & PRIMARY_MTF);
		REQUIRE(vector == 0);
		return true;
	default:
		REQUIRE(intr_type(info) != 1);
		return true;
	}
}

/* An error code goes with the hardware exceptions that have one, in protected mode. */
static bool check_injected_error(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t info = vmcs->vm_entry_intr_info_field;
	bool deliver = info & INTR_INFO_HAS_ERROR;
	bool hardware = intr_type(info) == EVENT_HW_EXCEPTION;
	bool protected = !(vmcs12_secondary(vmcs) & SECONDARY_UNRESTRICTED) || (vmcs->guest_cr0 & CR0_PE);
	bool any_vector = v->caps.basic & BIT(56);   /* the processor leaves the choice to software; #CP has one then */

	if (!hardware || !protected)
		REQUIRE(!deliver);
	else if (!any_vector)
		REQUIRE(deliver == vector_has_error(info & INTR_INFO_VECTOR));
	if (deliver)
		REQUIRE(!(vmcs->vm_entry_exception_error_code >> 16));
	return true;
}

static bool check_event_injection(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t info = vmcs->vm_entry_intr_info_field;
	uint32_t length = vmcs->vm_entry_instruction_len;
	bool zero_length = v->caps.misc & BIT(30);

	if (!(info & INTR_INFO_VALID))
		return true;
	REQUIRE(!(info & 0x7ffff000u));
	if (!check_injected_vector(v, vmcs) || !check_injected_error(v, vmcs))
		return false;
	if (intr_type(info) >= EVENT_SW_INTERRUPT && intr_type(info) <= EVENT_SW_EXCEPTION)
		REQUIRE(length <= 15 && (length || zero_length));
	return true;
}

bool vmx_check_controls(struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	static bool (*const checks[])(const struct vmx_vcpu *, const struct vmcs12 *) = {
		check_reserved_bits, check_cr3_targets, check_bitmaps, check_tpr_shadow, check_apic_virtualization,
		check_posted_interrupts, check_ipi_virtualization, check_nmi_controls, check_vpid, check_ept,
		check_virtualization_exception, check_vm_functions, check_tsc_scaling, check_exit_controls, check_entry_controls,
		check_event_injection,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(checks); i++)
		if (!checks[i](v, vmcs))
			return false;
	return true;
}
