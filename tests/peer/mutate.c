/* See state.h. What may be done to a valid VMCS: one line per field and rule. */
#include "state.h"

/* A field, and which of its bits a mutation may invert. values: it may be set to some of these instead. */
#define ADDRESS 0xfff0000000000fffull    /* alignment, and beyond any physical-address width */
#define CANONICAL 0xffff800000000000ull
#define ALL (~0ull)
/*
 * Left out, because Bochs 2.7 has it wrong: blocking by MOV SS (it holds the preemption timer back), virtual-NMI blocking (it stays
 * after a VM exit), reserved bits of DEBUGCTL and of the upper half of the pending debug exceptions (not checked), a pending
 * enabled breakpoint (not delivered), bit 13 of the rights of LDTR and TR (lost), bits 11 and 12 of DR7 (kept), a RIP that
 * is not canonical (not checked), the RPL of data segment registers that hold code (not checked).
 */
static const uint64_t pats[] = { 0, 0x0606060606060606, 0x0007010500070406, 0x0207040600070406, 0x0307040600070406 },
	counts[] = { 1, 2, 3 }, efers[] = { 0, 0x100, 0x400, 0x500, 0xd01, 0x901, 0x401, 0x2000, 0x200 }, activities[] = { 1, 2, 4, 5 },
	lengths[] = { 0, 1, 15, 16 }, links[] = { LINKED, ZERO_PAGES, ~0ull << 12 }, limits[] = { 0, 0xfff, 0xffff, 0x100000, 0xfffff, 0xffffffff },
	rips[] = { 0xffff, 0x10000, 0xffffffff, 0x100000000, 0x7fffffffffff, 0x800000000000, 0xffff800000000000 },
	pendings[] = { 0x4000, 1, 0x400f, 0x10000, 0x20 }, shadows[] = { 1, 3, 4, 11, 0x10 },
	errors[] = { 0xffff, 0x8000, 0x10000 }, thresholds[] = { 1, 15, 16 }, flags[] = { 0x202, 0x102, 0x302, 0x20202, 0x20002, 0, 0x3002 };
#define VALUES(a) a, ARRAY_SIZE(a)
static const struct field_rule { uint32_t field; uint64_t flips; const uint64_t *values; unsigned count; uint32_t also; uint64_t also_bit; } rules[] = {
/* VMWRITE to access rights drops their reserved bits in KVM, and on some processors. */
#define SEGMENT(name, ar) \
	{ F_guest_##name##_selector, 0xffff }, { F_guest_##name##_base, ALL }, { F_guest_##name##_limit, 0xffffffff, VALUES(limits) }, \
	{ F_guest_##name##_ar_bytes, ar }, { F_guest_##name##_ar_bytes, (ar) & 0xff }
	SEGMENT(es, 0x1f0f7), SEGMENT(cs, 0x1f0ff), SEGMENT(ss, 0x1f0ff), SEGMENT(ds, 0x1f0f7), SEGMENT(fs, 0x1f0f7), SEGMENT(gs, 0x1f0f7),
	SEGMENT(ldtr, 0x1d0ff), SEGMENT(tr, 0x1d0ff),
	{ F_guest_gdtr_base, ALL }, { F_guest_gdtr_limit, 0xffffffff }, { F_guest_idtr_base, ALL }, { F_guest_idtr_limit, 0xffffffff },
	{ F_guest_cr0, ALL }, { F_guest_cr0, 0xe005003f }, { F_guest_cr4, 0 }, { F_guest_cr3, 0xfff0000000000018 },
	{ F_guest_dr7, ~0x1800ull }, { F_guest_rip, ~CANONICAL, VALUES(rips) }, { F_guest_rflags, ALL, VALUES(flags) }, { F_guest_rflags, 0x3fffff },
	{ F_guest_ia32_debugctl, 3 }, { F_guest_ia32_pat, ALL, VALUES(pats) }, { F_guest_ia32_efer, ALL, VALUES(efers) },
	{ F_guest_sysenter_esp, ALL }, { F_guest_sysenter_eip, ALL }, { F_guest_pdptr0, 0xfff0000000000fff }, { F_guest_pdptr1, 0xfff0000000000fff },
	{ F_guest_pending_dbg_exceptions, 0xffffefff, VALUES(pendings) }, { F_guest_interruptibility_info, 0xfffffff5, VALUES(shadows) },
	{ F_guest_activity_state, 0, VALUES(activities) }, { F_vmcs_link_pointer, 0, VALUES(links) },
	{ F_host_cr0, 0xffffffffe001003f }, { F_host_cr4, 0 }, { F_host_cr3, 0xfff0000000000000 },
	{ F_host_es_selector, 0xffff }, { F_host_cs_selector, 0xffff }, { F_host_ss_selector, 0xffff }, { F_host_ds_selector, 0xffff },
	{ F_host_fs_selector, 0xffff }, { F_host_gs_selector, 0xffff }, { F_host_tr_selector, 0xffff },
	{ F_host_fs_base, ALL }, { F_host_gs_base, ALL }, { F_host_tr_base, ALL }, { F_host_gdtr_base, ALL }, { F_host_idtr_base, ALL },
	{ F_host_ia32_sysenter_esp, ALL }, { F_host_ia32_sysenter_eip, ALL }, { F_host_rip, CANONICAL },
	{ F_host_ia32_pat, ALL, VALUES(pats) }, { F_host_ia32_efer, ALL, VALUES(efers) },
	{ F_pin_based_vm_exec_control, 0 }, { F_cpu_based_vm_exec_control, 0 }, { F_secondary_vm_exec_control, 0 },
	{ F_vm_exit_controls, 0 }, { F_vm_entry_controls, 0 }, { F_vm_entry_controls, 0 },
	{ F_io_bitmap_a, ADDRESS, .also = F_cpu_based_vm_exec_control, .also_bit = PRIMARY_IO_BITMAPS },
	{ F_io_bitmap_b, ADDRESS, .also = F_cpu_based_vm_exec_control, .also_bit = PRIMARY_IO_BITMAPS },
	{ F_msr_bitmap, ADDRESS, .also = F_cpu_based_vm_exec_control, .also_bit = PRIMARY_MSR_BITMAPS },
	{ F_virtual_apic_page_addr, ADDRESS, .also = F_cpu_based_vm_exec_control, .also_bit = PRIMARY_TPR_SHADOW },
	{ F_tpr_threshold, 0xffffffff, VALUES(thresholds), F_cpu_based_vm_exec_control, PRIMARY_TPR_SHADOW },
	{ F_apic_access_addr, ADDRESS, .also = F_secondary_vm_exec_control, .also_bit = SECONDARY_APIC_ACCESSES },
	{ F_virtual_processor_id, 1, .also = F_secondary_vm_exec_control, .also_bit = SECONDARY_VPID },
	{ F_ept_pointer, ADDRESS },
	{ F_vm_entry_msr_load_count, 0, VALUES(counts) }, { F_vm_exit_msr_store_count, 0, VALUES(counts) },
	{ F_vm_entry_msr_load_addr, ADDRESS & ~0xff0ull, .also = F_vm_entry_msr_load_count, .also_bit = 1 },
	{ F_vm_exit_msr_load_addr, ADDRESS & ~0xff0ull, .also = F_vm_exit_msr_load_count, .also_bit = 1 },
	{ F_vm_exit_msr_store_addr, ADDRESS & ~0xff0ull, .also = F_vm_exit_msr_store_count, .also_bit = 1 },
	{ F_vm_entry_exception_error_code, 0xffffffff, VALUES(errors) }, { F_vm_entry_instruction_len, 0x1f, VALUES(lengths) },
	{ F_vm_entry_intr_info_field, 0 }, { F_vm_entry_intr_info_field, 0 }, { F_vm_entry_intr_info_field, 0 },
};

/* Where the bits that may change depend on what the two sides offer. */
static uint64_t flips_of(const struct field_rule *r)
{
	uint64_t same_cr4 = ~(caps[CR4_FIXED1_MSR] ^ peer_caps[CR4_FIXED1_MSR]);

	switch (r->field) {
	case F_guest_cr4: return same_cr4;
	case F_host_cr4: return same_cr4 & ~(1ull << 12);
	case F_pin_based_vm_exec_control: return common_controls(PIN_MSR) & ~PIN_PREEMPTION_TIMER;       /* what stops L2 */
	case F_cpu_based_vm_exec_control: return common_controls(PRIMARY_MSR);
	case F_secondary_vm_exec_control: return common_controls(SECONDARY_MSR);
	case F_vm_exit_controls: return common_controls(EXIT_MSR) & ~VMEXIT_ACK_INTR;
	case F_vm_entry_controls: return common_controls(ENTRY_MSR);
	}
	return r->flips;
}

/* One of the bits of a mask. */
static uint64_t pick_bit(uint64_t mask, uint64_t random)
{
	unsigned bits = 0;

	for (uint64_t m = mask; m; m &= m - 1)
		bits++;
	for (unsigned n = random % bits; n; n--)
		mask &= mask - 1;
	return mask & -mask;
}

/* Not type 7 (a pending MTF VM exit), which Bochs 2.7 does not know. */
static uint64_t injection(uint64_t r)
{
	static const uint8_t types[] = { 0, 1, 2, 3, 4, 5, 6, 3 };
	static const uint8_t vectors[] = { 0, 1, 10, 3, 4, 6, 8, 13, 14, 17, 18, 19, 22, 31, 32, 255 };
	uint64_t info = INTR_INFO_VALID | vectors[r & 15] | (uint64_t)types[r >> 4 & 7] << INTR_INFO_TYPE_SHIFT | (r >> 7 & 1) * INTR_INFO_HAS_ERROR;

	if ((r >> 8 & 15) == 0)
		info ^= 1u << (11 + (r >> 12) % 21);
	return info;
}

/* An entry of the list that VM entry loads: values that are good for some MSRs and bad for others. */
static void msr_entry(uint64_t r)
{
	static const uint32_t msrs[] = { 0x174, 0x175, 0x10, 0x277, 0xc0000082, 0xc0000102, 0xc0000100, 0xc0000101, 0x79, 0x9e, 0x802, 0x8ff,
	                                 0xc0000080, 0x480, 0x12345678, 0xc0000081 };
	static const uint64_t values[] = { 0, 1, 0x0007040600070406, 1ull << 47, 1ull << 63, 0x501, 0xffffffff };
	uint64_t *entry = (uint64_t *)MSR_ENTRY_LIST + 2 * (r >> 32 & 1);

	entry[0] = msrs[r & 15] | ((r >> 4 & 15) == 0 ? 1ull << (32 + (r >> 8 & 31)) : 0);
	entry[1] = values[(r >> 16) % ARRAY_SIZE(values)];
}

static void link_header(uint64_t random)
{
	*(uint32_t *)LINKED = (uint32_t)caps[BASIC_MSR] ^ (random & 1 ? 1u << (random >> 1 & 31) : 0);
}

void state_mutate(uint64_t (*random)(void), struct mutation *m, uint64_t *rip_flips)
{
	const struct field_rule *r = &rules[random() % ARRAY_SIZE(rules)];
	uint64_t old = 0, value, flips = flips_of(r);

	vmread(r->field, &old);
	value = r->field == F_vm_entry_intr_info_field ? injection(random()) :
	        r->count && (!flips || (random() & 1)) ? r->values[random() % r->count] : old ^ pick_bit(flips, random());
	if (r->field == F_guest_activity_state && !(caps[MISC_MSR] & peer_caps[MISC_MSR] & 1ull << (5 + value)))
		value = 4;                       /* reserved for both */
	*m = (struct mutation){ r->field, value == old, value };
	if (r->field == F_host_rip)
		*rip_flips ^= value ^ old;
	else if (!vmwrite(r->field, value))
		m->how = 2;
	if (r->field == F_vm_entry_msr_load_count)
		msr_entry(random());
	if (r->field == F_vmcs_link_pointer)
		link_header(random());
	if (r->also && vmread(r->also, &old))
		vmwrite(r->also, old | r->also_bit);
}
