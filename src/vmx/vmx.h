/*
 * vmx/ -- nested VMX. L1 uses VMX as Intel's manual defines it; this room
 * keeps vmcs12 (L1's VMCS for L2, a 4 KiB page with KVM's layout) and runs L2
 * under vmcs02 (a control block merged from vmcs12 and vmcs01). It knows
 * cpu/'s state and control block, guest-physical memory, and the few upcalls
 * below; never the translator.
 */
#ifndef ANYKVM_VMX_H
#define ANYKVM_VMX_H

#include <linux/kvm.h>
#include "cpu/cpu.h"

struct vmx_vcpu;

/* What nested VMX asks of the floor above. Filled in by kvm/. */
struct vmx_ops {
	int (*interrupt_pending)(struct cpu *cpu);      /* vector of L1's pending interrupt, or -1 */
	int (*interrupt_ack)(struct cpu *cpu);          /* acknowledges it; returns the vector */
	uint64_t (*l1_tsc)(struct cpu *cpu);
	/* Arms a wake-up (poll word) at an L1 TSC value, for the preemption timer; UINT64_MAX disarms. */
	void (*timer)(struct cpu *cpu, uint64_t tsc);
	uint64_t (*apic_base)(struct cpu *cpu);
};

struct vmx_vcpu *vmx_new(struct cpu *cpu, const struct vmx_ops *ops);
void vmx_free(struct vmx_vcpu *v);
void vmx_reset(struct vmx_vcpu *v);

/* Executes the VMX instruction cpu->cur_insn of L1 (CPU_EXIT_VMX_INSN): advances RIP, sets flags, enters L2, or sets
 * cpu->event for a fault. cpu->leave_why is CPU_EXIT_NONE afterwards, or says why KVM_RUN must end (operand in MMIO, the
 * client's memory gone); the instruction is then run again later. */
void vmx_instruction(struct vmx_vcpu *v);

/* The same for VMREAD and VMWRITE inside a rule: RIP is left to the engine, faults unwind as those of any rule. */
void vmx_access_field(struct vmx_vcpu *v);

/* Who handles this VM exit of L2? */
enum vmx_verdict { VMX_TO_L1, VMX_TO_L0 };
enum vmx_verdict vmx_reflect(struct vmx_vcpu *v, const struct vmexit *e);
/* VM exit from L2 to L1: e into vmcs12, guest state saved, L1's host state loaded. cpu then runs L1. */
void vmx_exit_to_l1(struct vmx_vcpu *v, const struct vmexit *e);

/*
 * At an instruction boundary, before guest code runs: pending events of L2 in
 * the manual's order (MTF, preemption timer, NMI, interrupts, windows).
 * True if an exit to L1 was made. Otherwise kvm/ goes on with its own injection.
 * init: an INIT has arrived; false afterwards if it was the exit.
 */
bool vmx_check_events(struct vmx_vcpu *v, bool nmi_pending, bool *nmi_taken, bool *init);
/* An exit of L2 is due that goes before SMIs, too. */
bool vmx_outranks_smi(const struct vmx_vcpu *v);
/* An MTF VM exit that waits for what outranks it: vmx_check_events() makes it. */
void vmx_monitor_trap_later(struct vmx_vcpu *v);

/* At a return to the client: exits to L1 that no saved state has room for (bus locks) are made at once. */
void vmx_settle(struct vmx_vcpu *v);

/* Slots have changed, and guest code runs next: what L1's VMCS names is looked up again. */
void vmx_follow_memory(struct vmx_vcpu *v);

bool vmx_in_l2(const struct vmx_vcpu *v);
bool vmx_in_operation(const struct vmx_vcpu *v);      /* after VMXON: INIT is blocked in root, A20M, CR bits fixed */

/* Capability MSRs 0x480..0x492 and IA32_FEATURE_CONTROL (0x3a). 0 fine, 1 #GP, 2 not offered. */
int vmx_msr_read(struct vmx_vcpu *v, uint32_t index, uint64_t *value, bool host_initiated);
int vmx_msr_write(struct vmx_vcpu *v, uint32_t index, uint64_t value, bool host_initiated);
/* The same for the system descriptor: what this build supports. */
int vmx_feature_msr(uint32_t index, uint64_t *value);
/* Indices for KVM_GET_MSR_FEATURE_INDEX_LIST. */
extern const uint32_t vmx_feature_msr_list[];
extern const unsigned vmx_feature_msr_count;
/* Bits of CR4 that VMX operation allows; those of first-generation VT-x are more than CPUID says. */
uint64_t vmx_cr4_allowed(const struct vmx_vcpu *v);
/* IA32_FEATURE_CONTROL's bit for local machine checks: whether it can be set, and whether it is. */
void vmx_offer_lmce(struct vmx_vcpu *v, bool offered);
bool vmx_lmce_enabled(const struct vmx_vcpu *v);
/* Guest CPUID has changed: whether VMX is offered, CR4 fixed bits. */
void vmx_cpuid_update(struct vmx_vcpu *v);

/* KVM_GET/SET_NESTED_STATE. user_size: bytes of the client's buffer. Returns 0 or -errno (E2BIG: state->size tells). */
int vmx_get_nested_state(struct vmx_vcpu *v, struct kvm_nested_state *state, uint32_t user_size);
/* Both VMCSs are there, 0 where the client's are shorter; only readable bytes are the client's: EFAULT where more are needed. */
int vmx_set_nested_state(struct vmx_vcpu *v, const struct kvm_nested_state *state, uint32_t readable);
/*
 * System management mode, without a monitor for it. An SMI ends VMX operation, L2 included, until RSM: enter() when the
 * registers are saved and still L2's, leave() before they are loaded. prepare(): an L2 that the client has restored is
 * completed; it may have an event to be delivered then. leave() false: the client has restored one that VM entry would
 * not take.
 */
void vmx_smm_prepare(struct vmx_vcpu *v);
void vmx_smm_enter(struct vmx_vcpu *v);
bool vmx_smm_leave(struct vmx_vcpu *v);
/* The wake-up of ops->timer has come. The clock may have run faster than the TSC: if it came early, another one is asked for. */
void vmx_timer_woken(struct vmx_vcpu *v);
/* L1's TSC was written: L2's preemption timer expires at another time. */
void vmx_tsc_changed(struct vmx_vcpu *v);
/* L1's TSC is another one by this many ticks because the guest wanted it; the preemption timer does not notice. */
void vmx_tsc_moved(struct vmx_vcpu *v, int64_t by);
/* Forces the vCPU out of VMX operation (FEATURE_CONTROL written 0 by the client, SET_NESTED_STATE, reset). */
void vmx_leave(struct vmx_vcpu *v);

#endif
