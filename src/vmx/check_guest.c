/*
 * VM-entry checks of the guest-state area. A failure is a VM exit to L1 with
 * reason 33, whose qualification tells PDPTEs and the link pointer from the
 * rest. One function per group of rules.
 */
#include "vmx/checks.h"

static bool unrestricted(const struct vmcs12 *vmcs)
{
	return vmcs12_secondary(vmcs) & SECONDARY_UNRESTRICTED;
}

static bool virtual_8086(const struct vmcs12 *vmcs)
{
	return vmcs->guest_rflags & RFLAGS_VM;
}

static bool injects(const struct vmcs12 *vmcs, enum event_type type)
{
	uint32_t info = vmcs->vm_entry_intr_info_field;

	return (info & INTR_INFO_VALID) && intr_type(info) == (unsigned)type;
}

/* ---- control and debug registers, MSRs ---- */

static bool check_guest_cr0_cr4(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	const struct vmx_caps *c = &v->caps;
	uint64_t cr0_must = c->cr0_fixed0 & ~(unrestricted(vmcs) ? CR0_PE | CR0_PG : 0);

	/* NW and CD are not looked at: VM entry leaves them as they are. */
	REQUIRE((vmcs->guest_cr0 & cr0_must & ~(CR0_NW | CR0_CD)) == (cr0_must & ~(CR0_NW | CR0_CD)));
	REQUIRE(!(vmcs->guest_cr0 & ~c->cr0_fixed1 & ~(CR0_NW | CR0_CD)));
	if (vmcs->guest_cr0 & CR0_PG)
		REQUIRE(vmcs->guest_cr0 & CR0_PE);
	REQUIRE((vmcs->guest_cr4 & c->cr4_fixed0) == c->cr4_fixed0);
	REQUIRE(!(vmcs->guest_cr4 & ~c->cr4_fixed1));
	REQUIRE(vmx_pa_ok(v, vmcs->guest_cr3, 1));
	if (vmcs->vm_entry_controls & VMENTRY_IA32E) {
		REQUIRE(vmcs->guest_cr0 & CR0_PG);
		REQUIRE(vmcs->guest_cr4 & CR4_PAE);
	} else {
		REQUIRE(!(vmcs->guest_cr4 & CR4_PCIDE));
	}
	return true;
}

static bool check_guest_debug(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	/* LBR, BTF, TR to FREEZE_WHILE_SMM, RTM; bits 5:2 and above 15 are reserved. */
	const uint64_t debugctl_valid = 0xffc3;

	if (!(vmcs->vm_entry_controls & VMENTRY_LOAD_DEBUG))
		return true;
	REQUIRE(!(vmcs->guest_ia32_debugctl & ~debugctl_valid));
	REQUIRE(!(vmcs->guest_dr7 >> 32));
	return true;
}

static bool check_guest_msrs(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t entry = vmcs->vm_entry_controls;
	uint64_t efer = vmcs->guest_ia32_efer;

	REQUIRE(linear_canonical(vmcs->guest_sysenter_esp));
	REQUIRE(linear_canonical(vmcs->guest_sysenter_eip));
	if (entry & VMENTRY_LOAD_PERF_GLOBAL)
		REQUIRE(perf_global_ctrl_valid(v->cpu, vmcs->guest_ia32_perf_global_ctrl));
	if (entry & VMENTRY_LOAD_PAT)
		REQUIRE(pat_valid(vmcs->guest_ia32_pat));
	if (entry & VMENTRY_LOAD_EFER) {
		REQUIRE(efer_valid(efer));
		REQUIRE(!!(efer & EFER_LMA) == !!(entry & VMENTRY_IA32E));
		if (vmcs->guest_cr0 & CR0_PG)
			REQUIRE(!!(efer & EFER_LME) == !!(efer & EFER_LMA));
	}
	if (entry & VMENTRY_LOAD_BNDCFGS) {
		REQUIRE(!(vmcs->guest_bndcfgs & 0xffc));
		REQUIRE(linear_canonical(vmcs->guest_bndcfgs & PAGE_MASK_4K));
	}
	return true;
}

/* ---- segment registers ---- */

static bool usable(struct vmcs12_segment s) { return !(s.ar & AR_UNUSABLE); }
static unsigned type_of(struct vmcs12_segment s) { return s.ar & AR_TYPE; }
static unsigned dpl_of(struct vmcs12_segment s) { return s.ar >> AR_DPL_SHIFT & 3; }

static bool check_selectors(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	const uint16_t ti = 4, rpl = 3;

	REQUIRE(!(vmcs->guest_tr_selector & ti));
	if (!(vmcs->guest_ldtr_ar_bytes & AR_UNUSABLE))
		REQUIRE(!(vmcs->guest_ldtr_selector & ti));
	if (!virtual_8086(vmcs) && !unrestricted(vmcs))
		REQUIRE((vmcs->guest_ss_selector & rpl) == (vmcs->guest_cs_selector & rpl));
	return true;
}

static bool check_bases(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	REQUIRE(linear_canonical(vmcs->guest_tr_base));
	REQUIRE(linear_canonical(vmcs->guest_fs_base));
	REQUIRE(linear_canonical(vmcs->guest_gs_base));
	if (!(vmcs->guest_ldtr_ar_bytes & AR_UNUSABLE))
		REQUIRE(linear_canonical(vmcs->guest_ldtr_base));
	REQUIRE(!(vmcs->guest_cs_base >> 32));
	if (!(vmcs->guest_ss_ar_bytes & AR_UNUSABLE))
		REQUIRE(!(vmcs->guest_ss_base >> 32));
	if (!(vmcs->guest_ds_ar_bytes & AR_UNUSABLE))
		REQUIRE(!(vmcs->guest_ds_base >> 32));
	if (!(vmcs->guest_es_ar_bytes & AR_UNUSABLE))
		REQUIRE(!(vmcs->guest_es_base >> 32));
	return true;
}

/* In virtual-8086 mode the six registers look as a load in that mode makes them. */
static bool check_v86_segment(struct vmcs12_segment s)
{
	REQUIRE(s.base == (uint64_t)s.selector << 4);
	REQUIRE(s.limit == 0xffff);
	REQUIRE(s.ar == 0xf3);
	return true;
}

/* The limit's low and high bits and the granularity bit agree. */
static bool check_granularity(struct vmcs12_segment s)
{
	if ((s.limit & 0xfff) != 0xfff)
		REQUIRE(!(s.ar & AR_G));
	if (s.limit & 0xfff00000)
		REQUIRE(s.ar & AR_G);
	return true;
}

static bool check_cs_type(const struct vmcs12 *vmcs, struct vmcs12_segment cs)
{
	unsigned ss_dpl = vmcs->guest_ss_ar_bytes >> AR_DPL_SHIFT & 3;

	switch (type_of(cs)) {
	case 3:                                      /* data: real mode of an unrestricted guest */
		REQUIRE(unrestricted(vmcs));
		REQUIRE(dpl_of(cs) == 0);
		return true;
	case 9:
	case 11:
		REQUIRE(dpl_of(cs) == ss_dpl);
		return true;
	default:                                     /* conforming */
		REQUIRE(type_of(cs) == 13 || type_of(cs) == 15);
		REQUIRE(dpl_of(cs) <= ss_dpl);
		return true;
	}
}

static bool check_cs(const struct vmcs12 *vmcs)
{
	struct vmcs12_segment cs = vmcs12_segment_get(vmcs, SEG_CS);

	if (!check_cs_type(vmcs, cs))
		return false;
	REQUIRE(cs.ar & AR_S);
	REQUIRE(cs.ar & AR_P);
	REQUIRE(!(cs.ar & (AR_RESERVED_LOW | AR_RESERVED_HIGH)));
	if ((vmcs->vm_entry_controls & VMENTRY_IA32E) && (cs.ar & AR_L))
		REQUIRE(!(cs.ar & AR_DB));
	return check_granularity(cs);
}

/* Rules of every usable segment register but CS. */
static bool check_usable_common(struct vmcs12_segment s, bool system)
{
	REQUIRE(!(s.ar & AR_S) == system);
	REQUIRE(s.ar & AR_P);
	REQUIRE(!(s.ar & (AR_RESERVED_LOW | AR_RESERVED_HIGH)));
	return check_granularity(s);
}

static bool check_ss(const struct vmcs12 *vmcs)
{
	struct vmcs12_segment ss = vmcs12_segment_get(vmcs, SEG_SS);

	if (!unrestricted(vmcs))
		REQUIRE(dpl_of(ss) == (ss.selector & 3u));
	if ((vmcs->guest_cs_ar_bytes & AR_TYPE) == 3 || !(vmcs->guest_cr0 & CR0_PE))
		REQUIRE(dpl_of(ss) == 0);
	if (!usable(ss))
		return true;
	REQUIRE(type_of(ss) == 3 || type_of(ss) == 7);
	return check_usable_common(ss, false);
}

static bool check_data_segment(const struct vmcs12 *vmcs, enum seg seg)
{
	struct vmcs12_segment s = vmcs12_segment_get(vmcs, seg);

	if (!usable(s))
		return true;
	REQUIRE(type_of(s) & 1);                     /* accessed */
	if (type_of(s) & 8)
		REQUIRE(type_of(s) & 2);             /* code is readable */
	if (!unrestricted(vmcs) && type_of(s) <= 11)
		REQUIRE(dpl_of(s) >= (s.selector & 3u));
	return check_usable_common(s, false);
}

static bool check_tr(const struct vmcs12 *vmcs)
{
	struct vmcs12_segment tr = vmcs12_segment_get(vmcs, SEG_TR);

	if (vmcs->vm_entry_controls & VMENTRY_IA32E)
		REQUIRE(type_of(tr) == 11);
	else
		REQUIRE(type_of(tr) == 3 || type_of(tr) == 11);
	REQUIRE(usable(tr));
	return check_usable_common(tr, true);
}

static bool check_ldtr(const struct vmcs12 *vmcs)
{
	struct vmcs12_segment ldtr = vmcs12_segment_get(vmcs, SEG_LDTR);

	if (!usable(ldtr))
		return true;
	REQUIRE(type_of(ldtr) == 2);
	return check_usable_common(ldtr, true);
}

static bool check_segments(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	static const enum seg data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };

	if (!check_selectors(v, vmcs) || !check_bases(v, vmcs) || !check_tr(vmcs) || !check_ldtr(vmcs))
		return false;
	if (virtual_8086(vmcs)) {
		for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
			if (!check_v86_segment(vmcs12_segment_get(vmcs, seg)))
				return false;
		return true;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		if (!check_data_segment(vmcs, data[i]))
			return false;
	return check_cs(vmcs) && check_ss(vmcs);
}

static bool check_descriptor_tables(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	REQUIRE(linear_canonical(vmcs->guest_gdtr_base));
	REQUIRE(linear_canonical(vmcs->guest_idtr_base));
	REQUIRE(!(vmcs->guest_gdtr_limit >> 16));
	REQUIRE(!(vmcs->guest_idtr_limit >> 16));
	return true;
}

/* ---- RIP and RFLAGS ---- */

static bool check_rip_rflags(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint64_t rflags = vmcs->guest_rflags, rip_top = vmcs->guest_rip >> 48;
	bool ia32e = vmcs->vm_entry_controls & VMENTRY_IA32E;

	if (ia32e && (vmcs->guest_cs_ar_bytes & AR_L))
		REQUIRE(rip_top == 0 || rip_top == 0xffff);      /* bit 47 may differ */
	else
		REQUIRE(!(vmcs->guest_rip >> 32));
	REQUIRE(!(rflags & ~(uint64_t)(RFLAGS_VALID | RFLAGS_FIXED)));
	REQUIRE(rflags & RFLAGS_FIXED);
	if (ia32e || !(vmcs->guest_cr0 & CR0_PE))
		REQUIRE(!(rflags & RFLAGS_VM));
	if (injects(vmcs, EVENT_EXT_INTERRUPT))
		REQUIRE(rflags & RFLAGS_IF);
	return true;
}

/* ---- non-register state ---- */

/* May an event be injected into a processor in this state? */
static bool injection_fits_activity(const struct vmcs12 *vmcs)
{
	uint32_t info = vmcs->vm_entry_intr_info_field, vector = info & INTR_INFO_VECTOR;
	bool machine_check = intr_type(info) == EVENT_HW_EXCEPTION && vector == VEC_MC;

	switch (vmcs->guest_activity_state) {
	case ACTIVITY_ACTIVE:
		return true;
	case ACTIVITY_HLT:
		return intr_type(info) == EVENT_EXT_INTERRUPT || intr_type(info) == EVENT_NMI ||
		       intr_type(info) == INTR_TYPE_OTHER || machine_check ||
		       (intr_type(info) == EVENT_HW_EXCEPTION && vector == VEC_DB);
	case ACTIVITY_SHUTDOWN:
		return intr_type(info) == EVENT_NMI || machine_check;
	default:
		return false;
	}
}

static bool check_activity(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t activity = vmcs->guest_activity_state;
	const uint32_t blocking = SHADOW_STI | SHADOW_MOV_SS;

	REQUIRE(activity <= ACTIVITY_WAIT_SIPI);
	if (activity != ACTIVITY_ACTIVE) {
		REQUIRE(v->caps.misc & BIT(5 + activity));       /* MISC says which states are supported */
		REQUIRE(!(vmcs->guest_interruptibility_info & blocking));
	}
	if (activity == ACTIVITY_HLT)
		REQUIRE(!(vmcs->guest_ss_ar_bytes >> AR_DPL_SHIFT & 3));
	if (vmcs->vm_entry_intr_info_field & INTR_INFO_VALID)
		REQUIRE(injection_fits_activity(vmcs));
	return true;
}

static bool check_interruptibility(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint32_t state = vmcs->guest_interruptibility_info;

	REQUIRE(!(state & ~0xfu));
	REQUIRE(!((state & SHADOW_STI) && (state & SHADOW_MOV_SS)));
	if (!(vmcs->guest_rflags & RFLAGS_IF))
		REQUIRE(!(state & SHADOW_STI));
	if (injects(vmcs, EVENT_EXT_INTERRUPT))
		REQUIRE(!(state & (SHADOW_STI | SHADOW_MOV_SS)));
	REQUIRE(!(state & SHADOW_SMI));                          /* VM entry is never in SMM */
	if (injects(vmcs, EVENT_NMI)) {
		REQUIRE(!(state & SHADOW_MOV_SS));
		if (vmcs->pin_based_vm_exec_control & PIN_VIRTUAL_NMIS)
			REQUIRE(!(state & SHADOW_NMI));
	}
	return true;
}

static bool check_pending_debug(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	const uint64_t reserved = ~0x500full;                    /* all but B0-B3, bit 12 and BS; bit 16 would need RTM */
	bool delayed = (vmcs->guest_interruptibility_info & (SHADOW_STI | SHADOW_MOV_SS)) ||
	               vmcs->guest_activity_state == ACTIVITY_HLT;
	bool btf = vmcs->guest_ia32_debugctl & 2;                /* steps on branches: the field counts, loaded or not */

	REQUIRE(!(vmcs->guest_pending_dbg_exceptions & reserved));
	if (delayed) {
		bool step = (vmcs->guest_rflags & RFLAGS_TF) && !btf;
		REQUIRE(!!(vmcs->guest_pending_dbg_exceptions & DR6_BS) == step);
	}
	return true;
}

static bool check_guest_state(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	static bool (*const checks[])(const struct vmx_vcpu *, const struct vmcs12 *) = {
		check_guest_cr0_cr4, vmx_check_guest_cet, check_guest_debug, check_guest_msrs, check_segments, check_descriptor_tables,
		check_rip_rflags, check_activity, check_interruptibility, check_pending_debug,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(checks); i++)
		if (!checks[i](v, vmcs))
			return false;
	return true;
}

/* ---- with their own qualification ---- */

static bool check_link_pointer(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	uint64_t link = vmcs->vmcs_link_pointer;
	uint32_t header;
	bool shadowing = vmcs12_secondary(vmcs) & SECONDARY_SHADOW_VMCS;

	if (link == VMX_NO_POINTER)
		return true;
	REQUIRE(vmx_pa_ok(v, link, PAGE_SIZE_4K));
	REQUIRE(link != v->current_ptr);
	REQUIRE(mem_read(v->cpu->mem, link, &header, sizeof(header)));
	REQUIRE((header & ~VMCS12_SHADOW_BIT) == (v->caps.basic & 0x7fffffff));
	REQUIRE(!!(header & VMCS12_SHADOW_BIT) == shadowing);
	return true;
}

/* With EPT the PDPTEs come from vmcs12; otherwise VM entry reads and checks those that CR3 points to. */
static bool check_pdptes(const struct vmx_vcpu *v, const struct vmcs12 *vmcs)
{
	const uint64_t pdptes[] = { vmcs->guest_pdptr0, vmcs->guest_pdptr1, vmcs->guest_pdptr2, vmcs->guest_pdptr3 };

	if (!vmcs12_pae_paging(vmcs) || !(vmcs12_secondary(vmcs) & SECONDARY_EPT))
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(pdptes); i++)
		REQUIRE(pdpte_valid(v->cpu, pdptes[i]));
	return true;
}

bool vmx_check_guest(struct vmx_vcpu *v, const struct vmcs12 *vmcs, uint64_t *qualification)
{
	*qualification = 0;
	if (!check_guest_state(v, vmcs))
		return false;
	*qualification = 4;
	if (!check_link_pointer(v, vmcs))
		return false;
	*qualification = 2;
	return check_pdptes(v, vmcs);
}
