/*
 * vmx/checks -- what the VM-entry checks, entry and exit share: the macro that
 * lets a failed check name itself, and views of vmcs12 that the table of
 * fields does not give.
 */
#ifndef ANYKVM_VMX_CHECKS_H
#define ANYKVM_VMX_CHECKS_H

#include "vmx/internal.h"

/* A condition that VM entry demands. When it does not hold, its own text is traced and the check fails. */
#define REQUIRE(cond) \
	do { \
		if (unlikely(!(cond))) { \
			trace(vmx, "entry check failed: %s", #cond); \
			return false; \
		} \
	} while (0)

/* Secondary and tertiary controls as the processor takes them: all clear unless the primary controls activate them. */
static inline uint32_t vmcs12_secondary(const struct vmcs12 *vmcs)
{
	return vmcs->cpu_based_vm_exec_control & PRIMARY_SECONDARY ? vmcs->secondary_vm_exec_control : 0;
}

/* L2 has a shadow VMCS for its own VMREADs. */
static inline bool vmx_uses_shadow(const struct vmcs12 *vmcs)
{
	return (vmcs12_secondary(vmcs) & SECONDARY_SHADOW_VMCS) && vmcs->vmcs_link_pointer != VMX_NO_POINTER;
}

static inline uint64_t vmcs12_tertiary(const struct vmcs12 *vmcs)
{
	return vmcs->cpu_based_vm_exec_control & PRIMARY_TERTIARY ? vmcs->tertiary_vm_exec_control : 0;
}

/*
 * A segment register of the guest-state area, which keeps each property of the eight in a row, in the order of enum seg.
 * Inline, because VM entries and exits pass by here 24 times.
 */
struct vmcs12_segment { uint64_t base; uint32_t limit, ar; uint16_t selector; };
#define ROW_OK(property, type) \
	_Static_assert(offsetof(struct vmcs12, guest_tr_##property) == \
	               offsetof(struct vmcs12, guest_es_##property) + SEG_TR * sizeof(type), #property "s are in a row")
ROW_OK(selector, uint16_t);
ROW_OK(limit, uint32_t);
ROW_OK(ar_bytes, uint32_t);
ROW_OK(base, uint64_t);
#undef ROW_OK
#define VMCS12_ROW(vmcs, property, type, seg) ((type *)((vmcs)->bytes + offsetof(struct vmcs12, guest_es_##property)) + (seg))

static inline struct vmcs12_segment vmcs12_segment_get(const struct vmcs12 *vmcs, enum seg seg)
{
	return (struct vmcs12_segment) {
		.base = *VMCS12_ROW(vmcs, base, const uint64_t, seg),
		.limit = *VMCS12_ROW(vmcs, limit, const uint32_t, seg),
		.ar = *VMCS12_ROW(vmcs, ar_bytes, const uint32_t, seg),
		.selector = *VMCS12_ROW(vmcs, selector, const uint16_t, seg),
	};
}

static inline void vmcs12_segment_set(struct vmcs12 *vmcs, enum seg seg, struct vmcs12_segment s)
{
	*VMCS12_ROW(vmcs, base, uint64_t, seg) = s.base;
	*VMCS12_ROW(vmcs, limit, uint32_t, seg) = s.limit;
	*VMCS12_ROW(vmcs, ar_bytes, uint32_t, seg) = s.ar;
	*VMCS12_ROW(vmcs, selector, uint16_t, seg) = s.selector;
}

/* Access rights, as VMX lays them out. */
enum { AR_TYPE = 0xf, AR_S = 1 << 4, AR_DPL_SHIFT = 5, AR_P = 1 << 7, AR_RESERVED_LOW = 0xf00, AR_L = 1 << 13, AR_DB = 1 << 14,
       AR_G = 1 << 15, AR_UNUSABLE = 1 << 16 };
#define AR_RESERVED_HIGH 0xfffe0000u

/* Does the guest that vmcs12 describes use PAE paging, hence PDPTEs? */
static inline bool vmcs12_pae_paging(const struct vmcs12 *vmcs)
{
	return (vmcs->guest_cr0 & CR0_PG) && (vmcs->guest_cr4 & CR4_PAE) && !(vmcs->vm_entry_controls & VMENTRY_IA32E);
}

static inline unsigned intr_type(uint32_t info) { return info >> INTR_INFO_TYPE_SHIFT & 7; }
/* Interruption type that only VM entry knows: an MTF VM exit is pending after entry. */
enum { INTR_TYPE_OTHER = 7 };

/* Canonical for a processor with 48 linear-address bits, whatever paging mode is on. */
static inline bool linear_canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* MSR values as both state areas must hold them. */
bool pat_valid(uint64_t pat);
bool efer_valid(uint64_t efer);
bool perf_global_ctrl_valid(const struct cpu *cpu, uint64_t value);
bool pdpte_valid(const struct cpu *cpu, uint64_t pdpte);
/* PAE paging's PDPTEs, read from L1's memory at cr3, once. false: one is not valid. */
bool pdptes_read(const struct vmx_vcpu *v, uint64_t cr3, uint64_t pdpte[4]);

/*
 * The host-state rule that looks at the processor: L1 returns to the mode it
 * enters from. Apart from vmx_check_host(), because a restored L2 has no L1 to
 * look at.
 */
bool vmx_check_address_space_size(const struct vmx_vcpu *v, const struct vmcs12 *vmcs);

/* ---- the rest of entry and exit ---- */

/* Bits of CR0 that VM entry and VM exit load; the others (ET, CD, NW, reserved ones) stay. */
#define VMX_CR0_LOADED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_PG)
/* Pending debug exceptions, bit 12: a breakpoint that DR7 enables was met. */
#define VMX_PENDING_ENABLED BIT(12)

/* vmcs12's controls into vmcs02 (merge.c). */
void vmx_merge(struct vmx_vcpu *v);
/* The pages that they name, looked up; again whenever slots have changed. false: no memory for the virtual-APIC page. */
bool vmx_map_pages(struct vmx_vcpu *v);

/* MSR lists (msr_lists.c). 0, or the number (from 1) of the entry that failed. */
uint32_t vmx_msr_list_load(struct vmx_vcpu *v, uint64_t addr, uint32_t count);
uint32_t vmx_msr_list_store(struct vmx_vcpu *v, uint64_t addr, uint32_t count);

/* ---- CET state (cet.c) ---- */

bool vmx_check_guest_cet(const struct vmx_vcpu *v, const struct vmcs12 *vmcs);
bool vmx_check_host_cet(const struct vmx_vcpu *v, const struct vmcs12 *vmcs);
/* If their controls say so. */
void vmx_load_guest_cet(struct vmx_vcpu *v);
void vmx_load_host_cet(struct vmx_vcpu *v);
void vmx_save_guest_cet(struct vmx_vcpu *v);

/* VM-entry failure after the processor began to load guest state: exit.c. */
enum vmx_entry_outcome vmx_entry_failure(struct vmx_vcpu *v, enum exit_reason reason, uint64_t qualification);

/* VMX-preemption timer (events.c): counts from vmcs12's value; what is left of it. */
void vmx_timer_start(struct vmx_vcpu *v);
void vmx_timer_resume(struct vmx_vcpu *v);
void vmx_timer_stop(struct vmx_vcpu *v);
uint32_t vmx_timer_value(const struct vmx_vcpu *v);

/* ---- APIC virtualization (apicv.c) ---- */

/* The virtual TPR is below the threshold. */
bool vmx_tpr_below_threshold(const struct vmx_vcpu *v);
/* VM entry, and a restored L2: the guest interrupt status takes effect. The pages are looked up. */
void vmx_virtual_interrupts_begin(struct vmx_vcpu *v);
/* The guest interrupt status into vmcs12. */
void vmx_virtual_interrupts_save(struct vmx_vcpu *v);
/* At a boundary where interrupts come next: queues the virtual interrupt that is due into cpu->event. false: none. */
bool vmx_virtual_interrupt_take(struct vmx_vcpu *v, bool nmi_pending);
/* L1's interrupt was acknowledged: is it the notification of posted interrupts? Then it is done with. */
bool vmx_posted_interrupt(struct vmx_vcpu *v, uint8_t vector);

#endif
