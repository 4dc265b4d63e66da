/*
 * VM exit from L2 to L1: exit information and L2's state into vmcs12, MSR
 * list, then L1's state from the host-state area. VM-entry failures take the
 * second half of this way. What goes wrong after L2's state is saved is a VMX
 * abort: the processor shuts down.
 */
#include "cpu/rules.h"
#include "vmx/checks.h"

enum vmx_abort { ABORT_GUEST_MSRS = 1, ABORT_HOST_PDPTES = 2, ABORT_HOST_MSRS = 4, ABORT_HOST_MODE = 6 };

/* ---- exit information ---- */

static void save_exit_information(struct vmcs12 *vmcs, const struct vmexit *e)
{
	vmcs->vm_exit_reason = e->reason;
	vmcs->exit_qualification = e->qualification;
	vmcs->vm_exit_intr_info = e->intr_info;
	vmcs->vm_exit_intr_error_code = e->intr_error;
	vmcs->idt_vectoring_info_field = e->idt_info;
	vmcs->idt_vectoring_error_code = e->idt_error;
	vmcs->vm_exit_instruction_len = e->insn_len;
	vmcs->vmx_instruction_info = e->insn_info;
	vmcs->guest_linear_address = e->gla;
	vmcs->guest_physical_address = e->gpa;
}

/* An event that was to be injected but is not delivered yet must not get lost: L1 finds it as being vectored. */
static void report_undelivered(const struct cpu *cpu, struct vmexit *e)
{
	const struct event *ev = &cpu->event;

	if (!ev->valid || (e->idt_info & INTR_INFO_VALID))
		return;
	e->idt_info = ev->vector | ev->type << INTR_INFO_TYPE_SHIFT | (ev->has_error ? INTR_INFO_HAS_ERROR : 0) | INTR_INFO_VALID;
	e->idt_error = ev->has_error ? ev->error : 0;
	if (ev->type >= EVENT_SW_INTERRUPT)
		e->insn_len = ev->insn_len;
}

/* ---- guest state ---- */

/* Exits that an instruction causes by being intercepted, unconditionally or by a control. */
static bool instruction_intercepted(uint32_t reason)
{
	const uint64_t reasons =
		BIT(EXIT_CPUID) | BIT(EXIT_GETSEC) | BIT(EXIT_HLT) | BIT(EXIT_INVD) | BIT(EXIT_INVLPG) | BIT(EXIT_RDPMC) |
		BIT(EXIT_RDTSC) | BIT(EXIT_RSM) | BIT(EXIT_VMCALL) | BIT(EXIT_VMCLEAR) | BIT(EXIT_VMLAUNCH) | BIT(EXIT_VMPTRLD) |
		BIT(EXIT_VMPTRST) | BIT(EXIT_VMREAD) | BIT(EXIT_VMRESUME) | BIT(EXIT_VMWRITE) | BIT(EXIT_VMXOFF) | BIT(EXIT_VMXON) |
		BIT(EXIT_CR_ACCESS) | BIT(EXIT_DR_ACCESS) | BIT(EXIT_IO) | BIT(EXIT_RDMSR) | BIT(EXIT_WRMSR) | BIT(EXIT_MWAIT) |
		BIT(EXIT_MONITOR) | BIT(EXIT_PAUSE) | BIT(EXIT_GDTR_IDTR) | BIT(EXIT_LDTR_TR) | BIT(EXIT_INVEPT) |
		BIT(EXIT_RDTSCP) | BIT(EXIT_INVVPID) | BIT(EXIT_WBINVD) | BIT(EXIT_XSETBV) | BIT(EXIT_RDRAND) |
		BIT(EXIT_INVPCID) | BIT(EXIT_VMFUNC) | BIT(EXIT_ENCLS) | BIT(EXIT_RDSEED) | BIT(EXIT_XSAVES);

	return reason == EXIT_XRSTORS || (reason < 64 && (reasons & BIT(reason)));
}

static bool address_fault(uint32_t reason)
{
	return reason == EXIT_EPT_VIOLATION || reason == EXIT_EPT_MISCONFIG || reason == EXIT_APIC_ACCESS || reason == EXIT_PML_FULL || reason == EXIT_SPP;
}

/*
 * RFLAGS.RF as the event's stack image would have had it: set for faults, and
 * for second-level translation faults of an instruction; an intercepted
 * instruction has consumed it.
 */
static uint64_t saved_rflags(const struct cpu *cpu, const struct vmexit *e)
{
	bool vectoring = e->idt_info & INTR_INFO_VALID;
	unsigned vector = e->idt_info & INTR_INFO_VECTOR;

	if (vectoring) {
		bool fault = intr_type(e->idt_info) == EVENT_HW_EXCEPTION && vector != VEC_DB && vector != VEC_MC;
		return fault ? cpu->rflags | RFLAGS_RF : cpu->rflags;
	}
	if (address_fault(e->reason))
		return cpu->rflags | RFLAGS_RF;
	if (instruction_intercepted(e->reason))
		return cpu->rflags & ~(uint64_t)RFLAGS_RF;
	return cpu->rflags;
}

static void save_control_registers(struct vmx_vcpu *v)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	const struct cpu *cpu = v->cpu;
	bool pae = (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_long_mode(cpu);

	vmcs->guest_cr0 = cpu->cr0;
	vmcs->guest_cr3 = cpu->cr3;
	vmcs->guest_cr4 = cpu->cr4;
	if (vmcs->vm_exit_controls & VMEXIT_SAVE_DEBUG) {
		vmcs->guest_dr7 = cpu->dr7;
		vmcs->guest_ia32_debugctl = cpu->msr.debugctl;
	}
	if (pae && (v->vmcs02.secondary & SECONDARY_EPT)) {
		vmcs->guest_pdptr0 = cpu->pdptr[0];
		vmcs->guest_pdptr1 = cpu->pdptr[1];
		vmcs->guest_pdptr2 = cpu->pdptr[2];
		vmcs->guest_pdptr3 = cpu->pdptr[3];
	}
}

static void save_msrs(struct vmx_vcpu *v)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	const struct cpu *cpu = v->cpu;

	vmcs->guest_sysenter_cs = cpu->msr.sysenter_cs;
	vmcs->guest_sysenter_esp = cpu->msr.sysenter_esp;
	vmcs->guest_sysenter_eip = cpu->msr.sysenter_eip;
	if (vmcs->vm_exit_controls & VMEXIT_SAVE_PAT)
		vmcs->guest_ia32_pat = cpu->msr.pat;
	if (vmcs->vm_exit_controls & VMEXIT_SAVE_EFER)
		vmcs->guest_ia32_efer = cpu->efer;
	if (v->caps.misc & BIT(5)) {                     /* "stores EFER.LMA": an unrestricted guest may have changed it */
		vmcs->vm_entry_controls &= ~(uint32_t)VMENTRY_IA32E;
		vmcs->vm_entry_controls |= cpu_long_mode(cpu) ? VMENTRY_IA32E : 0;
	}
}

static void save_segments(struct vmx_vcpu *v)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	const struct cpu *cpu = v->cpu;

	for (enum seg seg = SEG_ES; seg < SEG_COUNT; seg++) {
		const struct segment *s = &cpu->seg[seg];
		uint32_t ar = segment_ar_bytes(s);

		if (seg == SEG_SS)                       /* the CPL, whether SS is usable or not */
			ar = (ar & ~(3u << AR_DPL_SHIFT)) | (uint32_t)cpu->cpl << AR_DPL_SHIFT;
		vmcs12_segment_set(vmcs, seg, (struct vmcs12_segment){ .base = s->base, .limit = s->limit, .ar = ar,
		                                                       .selector = s->selector });
	}
	vmcs->guest_gdtr_base = cpu->gdtr.base;
	vmcs->guest_gdtr_limit = cpu->gdtr.limit;
	vmcs->guest_idtr_base = cpu->idtr.base;
	vmcs->guest_idtr_limit = cpu->idtr.limit;
}

/* Delivery of an event ends blocking by STI and MOV SS, even when it ends in a VM exit. */
static uint32_t saved_interruptibility(const struct vmx_vcpu *v, bool vectoring)
{
	const struct cpu *cpu = v->cpu;
	uint32_t state = vectoring ? 0 : cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS);
	bool nmi = v->vmcs02.pin & PIN_VIRTUAL_NMIS ? cpu->shadow & SHADOW_NMI : cpu->nmi_blocked;

	return state | (nmi ? SHADOW_NMI : 0);
}

/* In the form that VM entry demands: bit 12 with any breakpoint, BS with a delayed single step. */
static uint64_t saved_pending_debug(const struct cpu *cpu, uint32_t interruptibility)
{
	uint64_t pending = cpu->pending_debug & (0xf | VMX_PENDING_ENABLED | DR6_BS);
	bool delayed = (interruptibility & (SHADOW_STI | SHADOW_MOV_SS)) || cpu->activity == ACTIVITY_HLT;

	if (pending & 0xf)
		pending |= VMX_PENDING_ENABLED;
	if (delayed) {
		bool step = (cpu->rflags & RFLAGS_TF) && !(cpu->msr.debugctl & 2);
		pending = step ? pending | DR6_BS : pending & ~DR6_BS;
	}
	return pending;
}

/* What the processor itself changes in the VMCS: the log's index, and the EPT pointer by VMFUNC. */
static void save_ept(struct vmx_vcpu *v)
{
	const struct control_block *ctl = &v->vmcs02;

	if (ctl->secondary & SECONDARY_PML)
		v->vmcs12.guest_pml_index = ctl->pml_index;
	if (ctl->secondary & SECONDARY_EPT)
		v->vmcs12.ept_pointer = ctl->eptp;
	if (ctl->secondary & SECONDARY_EPT_VE)
		v->vmcs12.eptp_index = ctl->eptp_index;
}

static void save_guest_state(struct vmx_vcpu *v, bool vectoring)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	const struct cpu *cpu = v->cpu;

	save_control_registers(v);
	save_msrs(v);
	vmx_save_guest_cet(v);
	save_segments(v);
	save_ept(v);
	vmcs->guest_rip = cpu->rip;
	vmcs->guest_rsp = cpu->gpr[REG_RSP];
	vmcs->guest_rflags = cpu->rflags;
	vmcs->guest_activity_state = cpu->activity;
	vmcs->guest_interruptibility_info = saved_interruptibility(v, vectoring);
	vmcs->guest_pending_dbg_exceptions = saved_pending_debug(cpu, vmcs->guest_interruptibility_info);
	if (vmcs->vm_exit_controls & VMEXIT_SAVE_PREEMPTION_TIMER && v->timer_active)
		vmcs->vmx_preemption_timer_value = vmx_timer_value(v);
	vmx_virtual_interrupts_save(v);
}

void vmx_sync_vmcs12(struct vmx_vcpu *v)
{
	save_guest_state(v, false);
}

/* ---- host state ---- */

static bool vmx_abort(struct vmx_vcpu *v, enum vmx_abort why)
{
	struct cpu *cpu = v->cpu;

	trace(vmx, "vCPU %u: VMX abort %u", cpu->index, why);
	log_warn("VMX abort %u: the guest hypervisor's processor is shut down", why);
	v->vmcs12.abort = why;
	mem_write(cpu->mem, v->current_ptr + offsetof(struct vmcs12, abort), &v->vmcs12.abort, sizeof(v->vmcs12.abort));
	vmx_run_l1(v);
	cpu->activity = ACTIVITY_SHUTDOWN;
	cpu->leave_why = CPU_EXIT_SHUTDOWN;
	return false;
}

static void load_host_control(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;
	uint64_t mode = vmcs->vm_exit_controls & VMEXIT_HOST_64 ? EFER_LMA | EFER_LME : 0;

	cpu->cr0 = (cpu->cr0 & ~VMX_CR0_LOADED) | (vmcs->host_cr0 & VMX_CR0_LOADED);
	cpu->cr3 = vmcs->host_cr3;
	cpu->cr4 = vmcs->host_cr4;
	cpu->dr7 = DR7_FIXED;
	cpu->efer = vmcs->vm_exit_controls & VMEXIT_LOAD_EFER ? vmcs->host_ia32_efer : (cpu->efer & ~(EFER_LMA | EFER_LME)) | mode;
	cpu->msr.debugctl = 0;
	cpu->msr.sysenter_cs = vmcs->host_ia32_sysenter_cs;
	cpu->msr.sysenter_esp = vmcs->host_ia32_sysenter_esp;
	cpu->msr.sysenter_eip = vmcs->host_ia32_sysenter_eip;
	if (vmcs->vm_exit_controls & VMEXIT_LOAD_PAT)
		cpu->msr.pat = vmcs->host_ia32_pat;
	if (vmcs->vm_exit_controls & VMEXIT_LOAD_PERF_GLOBAL)
		cpu->msr.perf_global_ctrl = vmcs->host_ia32_perf_global_ctrl;
}

/* Flat segments of ring 0; one that is not CS or TR is unusable when its selector is null, yet has its base. */
static void load_host_segment(struct segment *seg, uint16_t selector, uint64_t base)
{
	static const struct segment flat = { .limit = 0xffffffff, .type = 3, .s = 1, .present = 1, .db = 1, .g = 1 };

	*seg = flat;
	seg->base = base;
	seg->selector = selector;
	seg->unusable = !selector;
}

static void load_host_code(struct segment *seg, uint16_t selector, bool host_64)
{
	static const struct segment code[2] = {
		{ .limit = 0xffffffff, .type = 11, .s = 1, .present = 1, .db = 1, .g = 1 },
		{ .limit = 0xffffffff, .type = 11, .s = 1, .present = 1, .l = 1, .g = 1 },
	};

	*seg = code[host_64];
	seg->selector = selector;
}

static void load_host_segments(struct vmx_vcpu *v)
{
	static const struct segment tss = { .limit = 0x67, .type = 11, .present = 1 }, none = { .unusable = 1 };
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;
	struct segment *seg = cpu->seg;

	load_host_code(&seg[SEG_CS], vmcs->host_cs_selector, vmcs->vm_exit_controls & VMEXIT_HOST_64);
	load_host_segment(&seg[SEG_SS], vmcs->host_ss_selector, 0);
	load_host_segment(&seg[SEG_DS], vmcs->host_ds_selector, 0);
	load_host_segment(&seg[SEG_ES], vmcs->host_es_selector, 0);
	load_host_segment(&seg[SEG_FS], vmcs->host_fs_selector, vmcs->host_fs_base);
	load_host_segment(&seg[SEG_GS], vmcs->host_gs_selector, vmcs->host_gs_base);
	seg[SEG_TR] = tss;
	seg[SEG_TR].base = vmcs->host_tr_base;
	seg[SEG_TR].selector = vmcs->host_tr_selector;
	seg[SEG_LDTR] = none;
	cpu->gdtr = (struct descriptor_table){ .base = vmcs->host_gdtr_base, .limit = 0xffff };
	cpu->idtr = (struct descriptor_table){ .base = vmcs->host_idtr_base, .limit = 0xffff };
	cpu->cpl = 0;
}

static void load_host_non_register_state(struct vmx_vcpu *v)
{
	struct cpu *cpu = v->cpu;

	cpu->shadow = 0;
	cpu->activity = ACTIVITY_ACTIVE;
	cpu->pending_debug = 0;
	cpu->event = (struct event){ .valid = false };
	cpu->delivering = (struct event){ .valid = false };
	v->mtf_pending = v->run_pending = v->pages_pending = false;
}

/* false: VMX abort. */
static bool load_host_state(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = &v->vmcs12;
	struct cpu *cpu = v->cpu;
	bool was_64 = v->in_l2 && cpu_long_mode(cpu), host_64 = vmcs->vm_exit_controls & VMEXIT_HOST_64;
	bool vpid = vmcs12_secondary(vmcs) & SECONDARY_VPID;

	if (was_64 && !host_64)
		return vmx_abort(v, ABORT_HOST_MODE);
	load_host_control(v);
	vmx_load_host_cet(v);
	load_host_segments(v);
	load_host_non_register_state(v);
	cpu->gpr[REG_RSP] = vmcs->host_rsp;
	cpu->rip = cpu->next_rip = vmcs->host_rip;
	cpu->rflags = RFLAGS_FIXED;
	vmx_run_l1(v);
	if (!vpid)
		tlb_flush_vpid(cpu, 0, true);
	if ((cpu->cr4 & CR4_PAE) && !host_64 && !pdptes_read(v, cpu->cr3, cpu->pdptr))
		return vmx_abort(v, ABORT_HOST_PDPTES);
	if (vmx_msr_list_load(v, vmcs->vm_exit_msr_load_addr, vmcs->vm_exit_msr_load_count))
		return vmx_abort(v, ABORT_HOST_MSRS);
	atomic_fetch_or(&cpu->poll, POLL_EVENT);
	return true;
}

enum vmx_entry_outcome vmx_entry_failure(struct vmx_vcpu *v, enum exit_reason reason, uint64_t qualification)
{
	v->vmcs12.vm_exit_reason = reason | EXIT_ENTRY_FAILURE;
	v->vmcs12.exit_qualification = qualification;
	v->shadow_valid = false;
	v->cpu->nmi_blocked = v->l1_nmi_blocked;
	return load_host_state(v) ? VMX_ENTRY_EXITED : VMX_ENTRY_ABORTED;
}

void vmx_exit_to_l1(struct vmx_vcpu *v, const struct vmexit *e)
{
	struct vmcs12 *vmcs = &v->vmcs12;
	struct vmexit exit = *e;
	bool nmi_exit = exit.reason == EXIT_EXCEPTION_NMI && intr_type(exit.intr_info) == EVENT_NMI;

	cpu_count(v->cpu, stat_of_vmexit((uint16_t)exit.reason));
	if (v->cpu->bus_locked && exit.reason != EXIT_BUS_LOCK)
		exit.reason |= EXIT_BUS_LOCKED;
	v->cpu->bus_locked = false;
	report_undelivered(v->cpu, &exit);
	save_exit_information(vmcs, &exit);
	save_guest_state(v, exit.idt_info & INTR_INFO_VALID);
	vmcs->guest_rflags = saved_rflags(v->cpu, &exit);
	vmx_timer_stop(v);
	if (v->shadow_valid)
		vmx_shadow_flush(v);
	v->shadow_valid = false;
	if (nmi_exit)
		v->cpu->nmi_blocked = true;
	if (vmx_msr_list_store(v, vmcs->vm_exit_msr_store_addr, vmcs->vm_exit_msr_store_count)) {
		vmx_abort(v, ABORT_GUEST_MSRS);
		return;
	}
	load_host_state(v);
}
