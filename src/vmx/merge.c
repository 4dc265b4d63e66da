/*
 * vmcs12's controls become vmcs02, the control block that the processor runs
 * L2 under. Controls that are not in use become neutral values, so that the
 * processor need not look at the control that enables them. What lies at
 * guest-physical addresses (bitmaps, the virtual-APIC page) is looked up
 * here, once per VM entry and again when memory slots have changed.
 *
 * L0 adds no intercept of its own: a VM exit under vmcs02 is always L1's.
 */
#include "vmx/checks.h"

static void merge_time(struct control_block *ctl, const struct vmcs12 *vmcs)
{
	bool offsetting = ctl->primary & PRIMARY_TSC_OFFSETTING;

	ctl->tsc_offset = offsetting ? vmcs->tsc_offset : 0;
	ctl->tsc_multiplier = offsetting && (ctl->secondary & SECONDARY_TSC_SCALING) ? vmcs->tsc_multiplier : BIT(48);
}

static void merge_addresses(struct control_block *ctl, const struct vmcs12 *vmcs)
{
	bool apic_accesses = ctl->secondary & SECONDARY_APIC_ACCESSES;

	ctl->eptp = ctl->secondary & SECONDARY_EPT ? vmcs->ept_pointer : 0;
	ctl->vpid = ctl->secondary & SECONDARY_VPID ? vmcs->virtual_processor_id : 0;
	ctl->apic_access_gpa = apic_accesses ? vmcs->apic_access_addr : UINT64_MAX;
	ctl->vapic_gpa = ctl->primary & PRIMARY_TPR_SHADOW ? vmcs->virtual_apic_page_addr : UINT64_MAX;
	ctl->vapic = NULL;
}

static void merge_ept(struct control_block *ctl, const struct vmcs12 *vmcs, const struct vmx_caps *caps)
{
	ctl->ept_caps = caps->ept_vpid;
	ctl->pml_gpa = vmcs->pml_address;
	ctl->pml_index = vmcs->guest_pml_index;
	ctl->sppt_gpa = vmcs->sppt_pointer;
	ctl->ve_info_gpa = vmcs->ve_info_address;
	ctl->eptp_index = vmcs->eptp_index;
	ctl->vm_functions = vmcs->vm_function_control;
	ctl->eptp_list_gpa = vmcs->eptp_list_address;
}

static void merge_cr3_targets(struct control_block *ctl, const struct vmcs12 *vmcs)
{
	const uint64_t values[] = { vmcs->cr3_target_value0, vmcs->cr3_target_value1, vmcs->cr3_target_value2,
	                            vmcs->cr3_target_value3 };

	_Static_assert(sizeof(values) == sizeof(ctl->cr3_target), "four values");
	memcpy(ctl->cr3_target, values, sizeof(values));
	ctl->cr3_target_count = vmcs->cr3_target_count;
}

static void merge_pauses(struct control_block *ctl, const struct vmcs12 *vmcs)
{
	ctl->ple_gap = vmcs->ple_gap;
	ctl->ple_window = vmcs->ple_window;
	ctl->ple_first = ctl->ple_last = 0;
	ctl->notify_window = vmcs->notify_window;
}

/* What APIC virtualization keeps in the processor; the pages are looked up later. */
static void merge_apic(struct control_block *ctl, const struct vmcs12 *vmcs)
{
	const uint64_t eoi_exit[4] = { vmcs->eoi_exit_bitmap0, vmcs->eoi_exit_bitmap1, vmcs->eoi_exit_bitmap2, vmcs->eoi_exit_bitmap3 };

	memcpy(ctl->eoi_exit, eoi_exit, sizeof(eoi_exit));
	ctl->tpr_threshold = vmcs->tpr_threshold;
	ctl->posted_gpa = ctl->pin & PIN_POSTED_INTR ? vmcs->posted_intr_desc_addr : UINT64_MAX;
	ctl->posted = NULL;
	ctl->pid_table = vmcs->pid_pointer_table;
	ctl->pid_last = vmcs->last_pid_pointer_index;
	ctl->rvi = vmcs->guest_intr_status & 0xff;
	ctl->svi = vmcs->guest_intr_status >> 8;
	ctl->virtual_interrupt = ctl->apic_write.valid = false;
}

static void merge_fixed_bits(struct control_block *ctl, const struct vmx_caps *caps)
{
	ctl->in_vmx_root_or_non_root = true;
	ctl->cr0_fixed_ignore = ctl->secondary & SECONDARY_UNRESTRICTED ? CR0_PE | CR0_PG : 0;
	ctl->cr0_fixed0 = caps->cr0_fixed0;
	ctl->cr0_fixed1 = caps->cr0_fixed1;
	ctl->cr4_fixed0 = caps->cr4_fixed0;
	ctl->cr4_fixed1 = caps->cr4_fixed1;
}

void vmx_merge(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct control_block *ctl = &v->vmcs02;

	ctl->non_root = true;
	ctl->pin = vmcs->pin_based_vm_exec_control;
	ctl->primary = vmcs->cpu_based_vm_exec_control;
	ctl->secondary = vmcs12_secondary(vmcs);
	ctl->tertiary = vmcs12_tertiary(vmcs);
	ctl->exit_controls = vmcs->vm_exit_controls;
	ctl->entry_controls = vmcs->vm_entry_controls;
	ctl->exception_bitmap = vmcs->exception_bitmap;
	ctl->pf_mask = vmcs->page_fault_error_code_mask;
	ctl->pf_match = vmcs->page_fault_error_code_match;
	ctl->cr0_mask = vmcs->cr0_guest_host_mask;
	ctl->cr4_mask = vmcs->cr4_guest_host_mask;
	ctl->cr0_shadow = vmcs->cr0_read_shadow;
	ctl->cr4_shadow = vmcs->cr4_read_shadow;
	ctl->xss_exit_bitmap = vmcs->xss_exit_bitmap;
	ctl->encls_bitmap = vmcs->encls_exiting_bitmap;
	merge_pauses(ctl, vmcs);
	merge_time(ctl, vmcs);
	merge_addresses(ctl, vmcs);
	merge_ept(ctl, vmcs, &v->caps);
	merge_cr3_targets(ctl, vmcs);
	merge_apic(ctl, vmcs);
	merge_fixed_bits(ctl, &v->caps);
}

/* What vmcs12 names is used where it lies. NULL: no memory there that L1 could write, *slot likewise. */
static uint8_t *writable_host(struct vmx_vcpu *v, uint64_t gpa, const struct mem_slot **slot)
{
	*slot = gpa == UINT64_MAX ? NULL : mem_slot_find(v->cpu->mem, gpa);
	if (*slot && ((*slot)->flags & MEM_SLOT_READONLY))
		*slot = NULL;
	return *slot ? mem_slot_host(*slot, gpa) : NULL;
}

/* Without memory a bitmap is all ones: everything exits. */
static const uint8_t *bitmap_host(struct vmx_vcpu *v, uint64_t gpa)
{
	static const uint8_t ones[PAGE_SIZE_4K] = { [0 ... PAGE_SIZE_4K - 1] = 0xff };
	const struct mem_slot *slot = mem_slot_find(v->cpu->mem, gpa);

	if (slot)
		return mem_slot_host(slot, gpa);
	trace(vmx, "no memory for the bitmap at %#llx", (unsigned long long)gpa);
	return ones;
}

static void map_bitmaps(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct control_block *ctl = &v->vmcs02;

	if (ctl->primary & PRIMARY_MSR_BITMAPS)
		ctl->msr_bitmap = bitmap_host(v, vmcs->msr_bitmap);
	if (ctl->primary & PRIMARY_IO_BITMAPS) {
		ctl->io_bitmap[0] = bitmap_host(v, vmcs->io_bitmap_a);
		ctl->io_bitmap[1] = bitmap_host(v, vmcs->io_bitmap_b);
	}
	if (ctl->secondary & SECONDARY_SHADOW_VMCS) {
		ctl->vmread_bitmap = bitmap_host(v, vmcs->vmread_bitmap);
		ctl->vmwrite_bitmap = bitmap_host(v, vmcs->vmwrite_bitmap);
	}
}

/* Without memory for the virtual-APIC page L2 gets one of its own that nobody sees; nothing is posted without a descriptor. */
bool vmx_map_pages(struct vmx_vcpu *v)
{
	struct control_block *ctl = &v->vmcs02;
	struct mem *mem = v->cpu->mem;
	bool uses_vapic = ctl->vapic_gpa != UINT64_MAX;

	mem_read_lock(mem);
	map_bitmaps(v);
	ctl->vapic = writable_host(v, ctl->vapic_gpa, &ctl->vapic_slot);
	if (!ctl->vapic && uses_vapic)
		ctl->vapic = v->no_page;
	ctl->posted = writable_host(v, ctl->posted_gpa, &ctl->posted_slot);
	v->mapped_generation = mem_generation(mem);
	mem_read_unlock(mem);
	return ctl->vapic_slot || !uses_vapic;
}
