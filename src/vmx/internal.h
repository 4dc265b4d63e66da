/*
 * vmx/internal -- what the files of vmx/ share.
 *
 * One struct vmx_vcpu per vCPU. The VMCS that L1 made current with VMPTRLD is
 * cached here whole (vmcs12); guest memory is brought up to date on VMCLEAR,
 * on VMPTRLD of another one and on VMXOFF. While L2 runs, its registers live
 * in struct cpu and vmcs02 is the processor's control block.
 */
#ifndef ANYKVM_VMX_INTERNAL_H
#define ANYKVM_VMX_INTERNAL_H

#include "vmx/vmcs12.h"
#include "vmx/vmx.h"
#include "x86/vmx.h"

#define VMX_NO_POINTER UINT64_MAX        /* no VMXON region, no current VMCS, no link pointer */

/* ---- capabilities (capabilities.c) ---- */

/* One group of VM-execution, entry or exit controls: which bits must be one and which may be. */
struct vmx_controls { uint32_t must, may; };
/* Is value a legal setting of the group? */
static inline bool vmx_controls_ok(struct vmx_controls c, uint32_t value)
{
	return (value & c.must) == c.must && !(value & ~c.may);
}

/* What one VM offers to L1: what is implemented, narrowed by the client. The groups are the TRUE ones. */
struct vmx_caps {
	uint64_t basic, misc, ept_vpid, vmcs_enum, vmfunc;
	uint64_t tertiary;               /* the controls that may be one */
	struct vmx_controls pin, primary, secondary, exit, entry;
	uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
	uint64_t features;               /* bit per enum vmcs_feature: the fields that exist */
	bool first_generation;           /* the client's narrowing was below any processor: see capabilities.c */
};

#define VMX_BASIC_TRUE_CONTROLS BIT(55)
#define VMX_MISC_VMWRITE_ANY BIT(29)
/* The number of entries a VM-entry or VM-exit MSR list may have. */
static inline unsigned vmx_caps_msr_list_max(const struct vmx_caps *c) { return ((c->misc >> 25 & 7) + 1) * 512; }
static inline unsigned vmx_caps_timer_rate(const struct vmx_caps *c) { return c->misc & 31; }

void vmx_caps_init(struct vmx_caps *c);                  /* all that is implemented and that params.* allow */
/* Value of a capability MSR, 0x480..0x492. false: no such MSR. */
bool vmx_caps_read(const struct vmx_caps *c, uint32_t index, uint64_t *value);
/* The client narrows c, never beyond what vmx_caps_init() gives. false: the value asks for something else. */
bool vmx_caps_write(struct vmx_caps *c, uint32_t index, uint64_t value);
/* What L1 is shown of the client's choice: the first-generation rule applied, features computed. */
struct vmx_caps vmx_caps_offered(const struct vmx_caps *client);

/* ---- one vCPU ---- */

struct vmx_vcpu {
	struct cpu *cpu;
	const struct vmx_ops *ops;
	struct vmx_caps caps;            /* what L1 sees and the entry checks go by */
	struct vmx_caps client_caps;     /* the client's choice, returned to its own reads */
	bool offered;                    /* guest CPUID has VMX */
	bool lmce_offered;               /* IA32_MCG_CAP has LMCE */

	bool in_operation;               /* after VMXON */
	uint64_t vmxon_ptr;              /* VMX_NO_POINTER outside VMX operation */
	uint64_t current_ptr;            /* current-VMCS pointer, or VMX_NO_POINTER */
	struct vmcs12 vmcs12;            /* cached contents of the current VMCS; valid if current_ptr is */
	/* Cached VMCS that the link pointer references; valid while in_l2 with VMCS shadowing and a link pointer. */
	struct vmcs12 shadow;
	bool shadow_valid;

	bool in_l2;                      /* VMX non-root operation: cpu->ctl is &vmcs02 */
	struct control_block vmcs01, vmcs02;

	/* VM entry is done but its event injection is not: no exit to L1 before L2's first instruction boundary. */
	bool run_pending;
	bool mtf_pending;                /* an MTF VM exit is due at the next boundary */
	/* VMX-preemption timer, as an L1 TSC value. */
	bool timer_active;
	uint64_t timer_deadline;
	bool pages_pending;              /* vmx_resume_l2(): pages that vmcs12 names are still to be looked up at KVM_RUN */
	uint64_t mapped_generation;      /* mem_generation() when vmcs02's pages were looked up */
	uint8_t no_page[PAGE_SIZE_4K];   /* stands in for a virtual-APIC page where L1 has no memory */

	/* In SMM: what RSM goes back to. restored: v->vmcs12 is the client's, not looked at yet. */
	struct { bool vmxon, in_l2, restored; } smm;

	bool l1_nmi_blocked;             /* before VM entry; a failed entry goes back to it */
};

/* ---- vmcs12 and memory (instructions.c) ---- */

/* A physical address that a VMCS, a bitmap or a list may have: nothing above MAXPHYADDR, aligned to align (a power of two). */
static inline bool vmx_pa_ok(const struct vmx_vcpu *v, uint64_t pa, uint64_t align)
{
	return !(pa & (align - 1)) && !(pa >> v->cpu->maxphyaddr);
}
/* Writes the cached current VMCS back to guest memory and makes none current. */
void vmx_current_release(struct vmx_vcpu *v);
/* VM entry with VMCS shadowing: caches the VMCS at the link pointer. false: no memory there. */
bool vmx_shadow_load(struct vmx_vcpu *v);
/* VM exit: writes the cached shadow VMCS back. */
void vmx_shadow_flush(struct vmx_vcpu *v);
/* VMfailValid(error), or VMfailInvalid without a current VMCS; VMsucceed. RFLAGS only. */
void vmx_fail(struct vmx_vcpu *v, enum vm_instruction_error error);
void vmx_fail_invalid(struct vmx_vcpu *v);
void vmx_succeed(struct vmx_vcpu *v);

/* Types of INVEPT and INVVPID that L1 was offered (vpid.c). */
bool vmx_invept_type_ok(const struct vmx_vcpu *v, uint64_t type);
bool vmx_invvpid_type_ok(const struct vmx_vcpu *v, uint64_t type);
/* INVEPT and INVVPID, operands fetched (vpid.c). false: VMfail(VMXERR_INVALID_OPERAND) is due. */
bool vmx_invept(struct vmx_vcpu *v, uint64_t type, const uint64_t descriptor[2]);
bool vmx_invvpid(struct vmx_vcpu *v, uint64_t type, const uint64_t descriptor[2]);
/* Would VM entry take this EPT pointer? (check_controls.c) */
bool vmx_eptp_ok(const struct vmx_vcpu *v, uint64_t eptp);

/* ---- switching the control block (nested.c) ---- */

/* Enters VMX operation with the VMXON region at ptr, no current VMCS. */
void vmx_enter_operation(struct vmx_vcpu *v, uint64_t ptr);

/* cpu->ctl = &vmcs02 (or &vmcs01), in_l2, mode word and TLB context. Registers are the caller's business. */
void vmx_run_l2(struct vmx_vcpu *v);
void vmx_run_l1(struct vmx_vcpu *v);

/* ---- smm.c ---- */

/* KVM_SET_NESTED_STATE in SMM: VMX operation, and L2 if in_l2, goes on with RSM. */
void vmx_smm_restore(struct vmx_vcpu *v, bool in_l2);

/* ---- VM entry checks (check_controls.c, check_host.c, check_guest.c) ---- */

/* false: VMfailValid(VMXERR_CONTROLS). */
bool vmx_check_controls(struct vmx_vcpu *v, const struct vmcs12 *vmcs);
/* false: VMfailValid(VMXERR_HOST_STATE). */
bool vmx_check_host(struct vmx_vcpu *v, const struct vmcs12 *vmcs);
/* false: VM-entry failure exit EXIT_INVALID_GUEST_STATE with this qualification (0, 2 PDPTE, 3 NMI, 4 link pointer). */
bool vmx_check_guest(struct vmx_vcpu *v, const struct vmcs12 *vmcs, uint64_t *qualification);

/* ---- VM entry (entry.c) ---- */

enum vmx_entry_outcome {
	VMX_ENTERED,                     /* L2 runs: cpu has its state; or activity is not active */
	VMX_ENTRY_BAD_CONTROLS,          /* nothing changed: VMfailValid(7) */
	VMX_ENTRY_BAD_HOST,              /* nothing changed: VMfailValid(8) */
	VMX_ENTRY_EXITED,                /* entry-failure VM exit made: L1's host state is loaded */
	VMX_ENTRY_ABORTED,               /* VMX abort: the processor is shut down */
};
/*
 * The part of VMLAUNCH and VMRESUME after the checks of the current VMCS, its
 * launch state and blocking by MOV SS (instructions.c did those). RIP is still
 * at the instruction. On VMX_ENTERED after a launch, the launch state is
 * set here.
 */
enum vmx_entry_outcome vmx_enter(struct vmx_vcpu *v, bool launch);

/*
 * KVM_SET_NESTED_STATE with GUEST_MODE: v->vmcs12 (and v->shadow) are loaded
 * and checked; the registers of L2 are the client's business, but what VMX
 * keeps beside them (activity, interruptibility, pending debug traps, PDPTEs)
 * is taken from vmcs12. Builds vmcs02 and switches to it without MSR lists and
 * without reading guest memory. timer_active and timer_deadline are set if the
 * client gave a deadline.
 */
void vmx_resume_l2(struct vmx_vcpu *v);
/*
 * Called by vmx_check_events() while pages_pending, in the first KVM_RUN, when
 * the client has set everything else: looks up the pages that vmcs12 names,
 * arms the preemption timer, injects the event of a VM entry that is
 * run_pending. false: memory is missing.
 */
bool vmx_resume_pages(struct vmx_vcpu *v);

/* ---- exit.c ---- */

/* KVM_GET_NESTED_STATE in L2: the guest-state fields of v->vmcs12 as a VM exit now would save them. Nothing else changes. */
void vmx_sync_vmcs12(struct vmx_vcpu *v);

#endif
