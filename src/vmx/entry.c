/*
 * VM entry: the checks in the manual's order, vmcs02 from vmcs12, L2's state
 * into the processor, MSR list, event injection. Up to the host-state checks
 * a failure leaves everything as it was (VMfailValid); after them it is a VM
 * exit that loads L1's host state.
 *
 * L1's own state is not saved: what a VM exit does not load from the
 * host-state area stays what L2 made of it, as on a processor.
 */
#include "cpu/rules.h"
#include "vmx/checks.h"

/* ---- guest state into the processor ---- */

/* PAE paging's PDPTEs: vmcs12's fields with EPT, else read from memory, once. false: one is not valid. */
static bool fetch_pdptes(const struct vmx_vcpu *v, uint64_t pdpte[4])
{
	const struct vmcs12 *vmcs = &v->vmcs12;

	if (!vmcs12_pae_paging(vmcs))
		return true;
	if (vmcs12_secondary(vmcs) & SECONDARY_EPT) {
		const uint64_t fields[4] = { vmcs->guest_pdptr0, vmcs->guest_pdptr1, vmcs->guest_pdptr2, vmcs->guest_pdptr3 };
		memcpy(pdpte, fields, sizeof(fields));
		return true;
	}
	return pdptes_read(v, vmcs->guest_cr3, pdpte);
}

static void load_control_registers(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;

	cpu->cr0 = (cpu->cr0 & ~VMX_CR0_LOADED) | (vmcs->guest_cr0 & VMX_CR0_LOADED);
	cpu->cr3 = vmcs->guest_cr3;
	cpu->cr4 = vmcs->guest_cr4;
	if (vmcs->vm_entry_controls & VMENTRY_LOAD_DEBUG) {
		cpu->dr7 = (vmcs->guest_dr7 & 0xffff23ff) | DR7_FIXED;
		cpu->msr.debugctl = vmcs->guest_ia32_debugctl;
	}
}

/* Without its own control EFER still follows the mode that VM entry goes to; LME only while paging is on. */
static uint64_t guest_efer(const struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	uint64_t follows = EFER_LMA | (vmcs->guest_cr0 & CR0_PG ? EFER_LME : 0);

	if (vmcs->vm_entry_controls & VMENTRY_LOAD_EFER)
		return vmcs->guest_ia32_efer;
	return (v->cpu->efer & ~follows) | (vmcs->vm_entry_controls & VMENTRY_IA32E ? follows : 0);
}

static void load_msrs(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;

	cpu->efer = guest_efer(v);
	cpu->msr.sysenter_cs = vmcs->guest_sysenter_cs;
	cpu->msr.sysenter_esp = vmcs->guest_sysenter_esp;
	cpu->msr.sysenter_eip = vmcs->guest_sysenter_eip;
	if (vmcs->vm_entry_controls & VMENTRY_LOAD_PAT)
		cpu->msr.pat = vmcs->guest_ia32_pat;
	if (vmcs->vm_entry_controls & VMENTRY_LOAD_PERF_GLOBAL)
		cpu->msr.perf_global_ctrl = vmcs->guest_ia32_perf_global_ctrl;
}

static void load_segments(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;

	for (enum seg seg = SEG_ES; seg < SEG_COUNT; seg++) {
		struct vmcs12_segment from = vmcs12_segment_get(vmcs, seg);
		struct segment *to = &cpu->seg[seg];

		*to = (struct segment){ .base = from.base, .limit = from.limit, .selector = from.selector };
		segment_set_ar_bytes(to, from.ar);
	}
	cpu->cpl = cpu->seg[SEG_SS].dpl;                 /* also of an unusable SS */
	cpu->gdtr = (struct descriptor_table){ .base = vmcs->guest_gdtr_base, .limit = vmcs->guest_gdtr_limit };
	cpu->idtr = (struct descriptor_table){ .base = vmcs->guest_idtr_base, .limit = vmcs->guest_idtr_limit };
}

/*
 * #DB traps that were pending when L2 was left. None survive an injected event
 * (a pending MTF VM exit is none), nor a state that takes no debug exceptions. Breakpoint bits count only with
 * bit 12, "an enabled breakpoint was met".
 */
static uint64_t guest_pending_debug(const struct vmcs12 *vmcs)
{
	uint64_t pending = vmcs->guest_pending_dbg_exceptions;
	uint32_t info = vmcs->vm_entry_intr_info_field;

	if (((info & INTR_INFO_VALID) && intr_type(info) != INTR_TYPE_OTHER) || vmcs->guest_activity_state >= ACTIVITY_SHUTDOWN)
		return 0;
	return pending & VMX_PENDING_ENABLED ? pending : pending & DR6_BS;
}

static void load_non_register_state(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;
	uint32_t blocking = vmcs->guest_interruptibility_info;
	bool virtual_nmis = vmcs->pin_based_vm_exec_control & PIN_VIRTUAL_NMIS;

	/* With virtual NMIs the bit is about those, and the real ones are not blocked while L2 runs. */
	cpu->shadow = blocking & (SHADOW_STI | SHADOW_MOV_SS | (virtual_nmis ? SHADOW_NMI : 0));
	cpu->nmi_blocked = !virtual_nmis && (blocking & SHADOW_NMI);
	cpu->activity = vmcs->guest_activity_state;
	cpu->pending_debug = guest_pending_debug(vmcs);
}

static void load_pdptes(struct vmx_vcpu *v, const uint64_t pdpte[4])
{
	if (vmcs12_pae_paging(&v->vmcs12))
		memcpy(v->cpu->pdptr, pdpte, sizeof(v->cpu->pdptr));
}

static void load_guest_state(struct vmx_vcpu *v, const uint64_t pdpte[4])
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;

	load_control_registers(v);
	load_msrs(v);
	vmx_load_guest_cet(v);
	load_segments(v);
	load_non_register_state(v);
	load_pdptes(v, pdpte);
	cpu->event = (struct event){ .valid = false };
	cpu->delivering = (struct event){ .valid = false };
	cpu->vmexit = (struct vmexit){ .reason = 0 };
	cpu->gpr[REG_RSP] = vmcs->guest_rsp;
	cpu->rip = cpu->next_rip = vmcs->guest_rip;
	cpu->rflags = vmcs->guest_rflags;
}

/* ---- event injection ---- */

/* The field stays L1's, but is invalid from here on: it must not be injected again, nor checked, when L2 is restored. */
static void inject(struct vmx_vcpu *v)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	uint32_t info = vmcs->vm_entry_intr_info_field;   /* checked */
	bool software = intr_type(info) >= EVENT_SW_INTERRUPT && intr_type(info) <= EVENT_SW_EXCEPTION;

	if (!(info & INTR_INFO_VALID))
		return;
	vmcs->vm_entry_intr_info_field = info & ~INTR_INFO_VALID;
	if (intr_type(info) == INTR_TYPE_OTHER) {
		v->mtf_pending = true;
		return;
	}
	v->cpu->activity = ACTIVITY_ACTIVE;
	v->cpu->event = (struct event){
		.valid = true, .injected = true, .type = intr_type(info), .vector = info & INTR_INFO_VECTOR,
		.insn_len = software ? vmcs->vm_entry_instruction_len : 0,
		.has_error = info & INTR_INFO_HAS_ERROR, .error = vmcs->vm_entry_exception_error_code,
	};
}

/* ---- the way in ---- */

/* From here on L2's registers are in the processor: its control block, its address translations. */
static void enter_l2(struct vmx_vcpu *v)
{
	vmx_run_l2(v);
	/* VPID 0 is shared by L1 and by every guest without a VPID. */
	if (!v->vmcs02.vpid)
		tlb_flush_vpid(v->cpu, 0, true);
}

static enum vmx_entry_outcome enter_checked(struct vmx_vcpu *v, bool launch)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	uint64_t qualification, pdpte[4];
	uint32_t failed;

	if (!vmx_check_guest(v, vmcs, &qualification))
		return vmx_entry_failure(v, EXIT_INVALID_GUEST_STATE, qualification);
	if (!fetch_pdptes(v, pdpte))
		return vmx_entry_failure(v, EXIT_INVALID_GUEST_STATE, 2);
	v->shadow_valid = false;
	if (vmx_uses_shadow(vmcs) && !vmx_shadow_load(v))
		return vmx_entry_failure(v, EXIT_INVALID_GUEST_STATE, 4);
	vmx_merge(v);
	vmx_map_pages(v);
	load_guest_state(v, pdpte);
	v->mtf_pending = v->run_pending = v->pages_pending = false;
	enter_l2(v);
	failed = vmx_msr_list_load(v, vmcs->vm_entry_msr_load_addr, vmcs->vm_entry_msr_load_count);
	if (failed)
		return vmx_entry_failure(v, EXIT_MSR_LOADING, failed);
	if (launch)
		vmcs->launch_state = VMCS12_LAUNCHED;
	inject(v);
	vmx_virtual_interrupts_begin(v);
	vmx_timer_start(v);
	return VMX_ENTERED;
}

enum vmx_entry_outcome vmx_enter(struct vmx_vcpu *v, bool launch)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	enum vmx_entry_outcome outcome;

	if (!vmx_check_controls(v, vmcs))
		return VMX_ENTRY_BAD_CONTROLS;
	if (!vmx_check_address_space_size(v, vmcs) || !vmx_check_host(v, vmcs))
		return VMX_ENTRY_BAD_HOST;
	v->l1_nmi_blocked = v->cpu->nmi_blocked;
	outcome = enter_checked(v, launch);
	trace(vmx, "vCPU %u: %s of %#llx: %s, RIP %#llx injects %#x", v->cpu->index, launch ? "launch" : "resume",
	      (unsigned long long)v->current_ptr, outcome == VMX_ENTERED ? "entered" : "failed",
	      (unsigned long long)v->cpu->rip, vmcs->vm_entry_intr_info_field);
	return outcome;
}

/* ---- a restored L2 ---- */

void vmx_resume_l2(struct vmx_vcpu *v)
{
	uint64_t pdpte[4];

	vmx_merge(v);
	load_non_register_state(v);
	if (v->vmcs02.secondary & SECONDARY_EPT && fetch_pdptes(v, pdpte))
		load_pdptes(v, pdpte);
	v->vmcs02.timer_deadline = UINT64_MAX;
	enter_l2(v);
	v->pages_pending = true;
}

bool vmx_resume_pages(struct vmx_vcpu *v)
{
	bool mapped = vmx_map_pages(v);

	v->pages_pending = false;
	vmx_virtual_interrupts_begin(v);
	if (v->timer_active)
		vmx_timer_resume(v);
	else
		vmx_timer_start(v);
	/* Not before: the client sets the vCPU's events after the nested state. */
	if (v->run_pending)
		inject(v);
	v->run_pending = false;
	return mapped;
}
