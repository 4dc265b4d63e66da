/*
 * VMX instructions, the caching of vmcs12, and KVM_GET/SET_NESTED_STATE, with
 * the processor below and VM entry beside them replaced by stubs. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include "cpu/access.h"
#include "cpu/rules.h"
#include "../tap.h"
#include "vmx/internal.h"
#include "x86/features.h"


/* ---- the processor, as far as VMX instructions see it ---- */

static uint64_t operand, operand2[2];    /* in memory, and the 16-byte descriptor */
static bool operand_faults;
static unsigned flushed_vpid, flushed_ept;
static enum vmx_entry_outcome outcome = VMX_ENTERED;
static bool guest_ok = true;

_Noreturn static void raise_event(struct cpu *cpu, unsigned vector)
{
	cpu->event = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = vector };
	cpu->leave_why = CPU_EXIT_NONE;
	__builtin_longjmp(cpu->unwind, 1);
}
_Noreturn void cpu_raise(struct cpu *cpu, unsigned vector) { raise_event(cpu, vector); }
_Noreturn void cpu_raise_error(struct cpu *cpu, unsigned vector, uint32_t error) { raise_event(cpu, vector); }

static void access_operand(struct cpu *cpu)
{
	if (operand_faults)
		raise_event(cpu, VEC_PF);
}
uint64_t insn_offset(const struct cpu *cpu, const struct insn *insn) { return 0; }
uint64_t insn_load(struct cpu *cpu, const struct insn *insn, unsigned size) { access_operand(cpu); return operand; }
void insn_store(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value) { access_operand(cpu); operand = value; }
uint64_t rm_load(struct cpu *cpu, const struct insn *insn, unsigned size) { return insn_load(cpu, insn, size); }
void rm_store(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value) { insn_store(cpu, insn, size, value); }
uint64_t reg_get(const struct cpu *cpu, unsigned reg, unsigned size, bool rex) { return cpu->gpr[reg]; }
void seg_read(struct cpu *cpu, enum seg seg, uint64_t offset, void *to, unsigned size) { memcpy(to, operand2, size); }
void cpu_debug_trap(struct cpu *cpu) { raise_event(cpu, VEC_DB); }
void cpu_mode_update(struct cpu *cpu) { }
uint64_t cr4_allowed(const struct cpu *cpu) { return CR4_PAE; }
void tlb_flush_all(struct cpu *cpu) { flushed_vpid = 0x10000; }
void tlb_flush_all_ept(struct cpu *cpu) { flushed_ept++; }
void tlb_flush_eptp(struct cpu *cpu, uint64_t eptp) { flushed_ept++; }
void tlb_flush_vpid(struct cpu *cpu, uint16_t vpid, bool globals_too) { flushed_vpid = vpid; }
void tlb_flush_vpid_addr(struct cpu *cpu, uint16_t vpid, uint64_t addr) { flushed_vpid = vpid; }

/* ---- VM entry ---- */

bool vmx_eptp_ok(const struct vmx_vcpu *v, uint64_t eptp) { return eptp == 0x1e; }
bool vmx_check_controls(struct vmx_vcpu *v, const struct vmcs12 *vmcs) { return true; }
bool vmx_check_host(struct vmx_vcpu *v, const struct vmcs12 *vmcs) { return true; }
bool vmx_check_guest(struct vmx_vcpu *v, const struct vmcs12 *vmcs, uint64_t *qualification) { return guest_ok; }
void vmx_sync_vmcs12(struct vmx_vcpu *v) { v->vmcs12.guest_rip = v->cpu->rip; }
void vmx_smm_restore(struct vmx_vcpu *v, bool in_l2) { }
void vmx_resume_l2(struct vmx_vcpu *v) { vmx_run_l2(v); }
enum vmx_entry_outcome vmx_enter(struct vmx_vcpu *v, bool launch)
{
	if (outcome == VMX_ENTERED) {
		v->vmcs12.launch_state = VMCS12_LAUNCHED;
		v->cpu->rip = v->vmcs12.guest_rip;
		vmx_run_l2(v);
	}
	return outcome;
}

/* ---- fixture ---- */

enum { RAM_SIZE = 0x10000, VMXON_AT = 0x1000, VMCS_A = 0x2000, VMCS_B = 0x3000, INSN_LEN = 4 };
static uint8_t ram[RAM_SIZE] __attribute__((aligned(4096)));
static struct cpu cpu;
static struct insn insn = { .len = INSN_LEN, .reg = REG_RAX, .mem = true };
static struct vmx_vcpu *v;

static void timer(struct cpu *c, uint64_t tsc) { }
static const struct vmx_ops ops = { .timer = timer };

static void stop(void)
{
	vmx_free(v);
	mem_free(cpu.mem);
}

static void start(void)
{
	if (v)
		stop();
	memset(ram, 0, sizeof(ram));
	memset(&cpu, 0, sizeof(cpu));
	cpu.mem = mem_new();
	check(mem_slot_set(cpu.mem, 0, 0, 0, RAM_SIZE, ram) == 0);
	cpu.cr0 = CR0_PE | CR0_NE | CR0_PG;
	cpu.cr4 = CR4_VMXE | CR4_PAE;
	cpu.efer = EFER_LMA;
	cpu.mode = MODE_CODE64 | MODE_PROTECTED | MODE_LMA;
	cpu.maxphyaddr = 36;
	cpu.features[FEATURE_VMX >> 6] |= BIT(FEATURE_VMX & 63);
	cpu.cur_insn = &insn;
	v = vmx_new(&cpu, &ops);
	cpu.msr.feature_control = 5;
	for (unsigned at = VMXON_AT; at <= VMCS_B; at += 4096)
		*(uint32_t *)&ram[at] = VMX_REVISION;
	outcome = VMX_ENTERED;
	guest_ok = true;
	operand_faults = false;
}

/* Executes one instruction. Returns its VM-instruction error, 0 for VMsucceed, -1 for VMfailInvalid, -2 - vector for a fault. */
static int run(ZydisMnemonic mnemonic, uint64_t memory)
{
	insn.mnemonic = mnemonic;
	operand = memory;
	cpu.event.valid = false;
	cpu.rip = 0x100;
	cpu.next_rip = 0x100 + INSN_LEN;
	cpu.rflags = RFLAGS_FIXED | RFLAGS_OF | RFLAGS_SF | RFLAGS_RF;
	vmx_instruction(v);
	if (cpu.event.valid) {
		check(cpu.rip == 0x100);
		return -2 - cpu.event.vector;
	}
	if (v->in_l2)
		return 0;
	check(cpu.rip == 0x104 && !(cpu.rflags & (RFLAGS_OF | RFLAGS_SF | RFLAGS_RF)));
	if (cpu.rflags & RFLAGS_CF)
		return -1;
	return cpu.rflags & RFLAGS_ZF ? (int)v->vmcs12.vm_instruction_error : 0;
}
#define RUN(name, memory) run(ZYDIS_MNEMONIC_##name, memory)
static int vmread(uint64_t field) { cpu.gpr[REG_RAX] = field; return RUN(VMREAD, 0); }
static int vmwrite(uint64_t field, uint64_t value) { cpu.gpr[REG_RAX] = field; return RUN(VMWRITE, value); }

/* ---- tests ---- */

static void test_vmxon(void)
{
	start();
	check(RUN(VMCLEAR, VMCS_A) == -2 - VEC_UD);
	cpu.cr4 &= ~CR4_VMXE;
	check(RUN(VMXON, VMXON_AT) == -2 - VEC_UD);
	cpu.cr4 |= CR4_VMXE;
	cpu.cpl = 3;
	check(RUN(VMXON, VMXON_AT) == -2 - VEC_GP);
	cpu.cpl = 0;
	cpu.msr.feature_control = 1;
	check(RUN(VMXON, VMXON_AT) == -2 - VEC_GP);
	cpu.msr.feature_control = 5;
	cpu.cr0 &= ~CR0_NE;
	check(RUN(VMXON, VMXON_AT) == -2 - VEC_GP);
	cpu.cr0 |= CR0_NE;
	check(RUN(VMXON, VMXON_AT + 8) == -1 && RUN(VMXON, 1ull << 36) == -1 && RUN(VMXON, 0x5000) == -1);
	operand_faults = true;
	check(RUN(VMXON, VMXON_AT) == -2 - VEC_PF && !v->in_operation);
	operand_faults = false;
	check(RUN(VMXON, VMXON_AT) == 0 && vmx_in_operation(v) && cpu.ctl->in_vmx_root_or_non_root);
	check(RUN(VMXON, VMXON_AT) == -1);
	check(RUN(VMPTRST, 0) == 0 && operand == ~0ull);
	check(RUN(VMCALL, 0) == -1);
	check(RUN(VMXOFF, 0) == 0 && !vmx_in_operation(v) && !cpu.ctl->in_vmx_root_or_non_root);
}

/* A VMCS with the shadow indicator can be current where shadowing is offered, but not be entered. */
static void test_shadow_indicator(void)
{
	params.enable_shadow_vmcs = true;
	start();
	check(RUN(VMXON, VMXON_AT) == 0);
	*(uint32_t *)&ram[VMCS_B] |= VMCS12_SHADOW_BIT;
	check(RUN(VMPTRLD, VMCS_B) == 0 && RUN(VMPTRST, 0) == 0 && operand == VMCS_B);
	check(RUN(VMLAUNCH, 0) == -1);
	params.enable_shadow_vmcs = false;
}

static void test_pointers(void)
{
	start();
	check(RUN(VMXON, VMXON_AT) == 0);
	check(RUN(VMPTRLD, VMCS_A + 1) == -1 && vmread(0x4400) == -1);
	check(RUN(VMCLEAR, VMCS_A) == 0 && RUN(VMPTRLD, VMCS_A) == 0);
	check(RUN(VMPTRLD, VMCS_A + 1) == VMXERR_VMPTRLD_ADDRESS && RUN(VMPTRLD, 1ull << 36) == VMXERR_VMPTRLD_ADDRESS);
	check(RUN(VMPTRLD, VMXON_AT) == VMXERR_VMPTRLD_VMXON_POINTER);
	check(RUN(VMPTRLD, 0x5000) == VMXERR_VMPTRLD_REVISION && RUN(VMPTRLD, 0x80000) == VMXERR_VMPTRLD_REVISION);
	*(uint32_t *)&ram[VMCS_B] |= VMCS12_SHADOW_BIT;
	check(RUN(VMPTRLD, VMCS_B) == VMXERR_VMPTRLD_REVISION);
	*(uint32_t *)&ram[VMCS_B] = VMX_REVISION;
	check(RUN(VMCLEAR, VMCS_A | 4) == VMXERR_VMCLEAR_ADDRESS && RUN(VMCLEAR, VMXON_AT) == VMXERR_VMCLEAR_VMXON_POINTER);
	check(RUN(VMXON, VMXON_AT) == VMXERR_VMXON_IN_ROOT && RUN(VMCALL, 0) == VMXERR_VMCALL_IN_ROOT);
	check(RUN(VMPTRST, 0) == 0 && operand == VMCS_A);

	/* The cache reaches memory when another VMCS becomes current, and when it is cleared. */
	check(vmwrite(0x681e, 0x1234) == 0 && ((struct vmcs12 *)&ram[VMCS_A])->guest_rip == 0);
	check(RUN(VMPTRLD, VMCS_B) == 0 && ((struct vmcs12 *)&ram[VMCS_A])->guest_rip == 0x1234);
	check(vmread(0x681e) == 0 && operand == 0);
	((struct vmcs12 *)&ram[VMCS_A])->launch_state = VMCS12_LAUNCHED;
	check(RUN(VMCLEAR, VMCS_A) == 0 && ((struct vmcs12 *)&ram[VMCS_A])->launch_state == VMCS12_CLEAR);
	check(vmwrite(0x6820, 0x202) == 0 && RUN(VMCLEAR, VMCS_B) == 0);
	check(((struct vmcs12 *)&ram[VMCS_B])->guest_rflags == 0x202 && vmread(0x6820) == -1);
}

static void test_fields(void)
{
	start();
	check(RUN(VMXON, VMXON_AT) == 0 && RUN(VMPTRLD, VMCS_A) == 0);
	check(vmread(0x4fff) == VMXERR_UNSUPPORTED_COMPONENT && vmwrite(0x4fff, 0) == VMXERR_UNSUPPORTED_COMPONENT);
	check(vmread(0x10000681e) == VMXERR_UNSUPPORTED_COMPONENT);
	check(vmread(0x2812) == VMXERR_UNSUPPORTED_COMPONENT);         /* MPX is not offered */
	check(vmwrite(0x4816, 0xffffffff) == 0 && vmread(0x4816) == 0 && operand == 0x1f0ff);
	check(vmwrite(0x4402, 7) == 0 && vmread(0x4402) == 0 && operand == 7);
	v->caps.misc &= ~VMX_MISC_VMWRITE_ANY;
	check(vmwrite(0x4402, 7) == VMXERR_READ_ONLY_COMPONENT);
	check(vmwrite(0x2010, 0x1122334455667788) == 0 && vmread(0x2011) == 0 && operand == 0x11223344);
	check(vmwrite(0x2011, 1) == 0 && vmread(0x2010) == 0 && operand == 0x155667788);
	operand_faults = true;
	check(vmread(0x681e) == -2 - VEC_PF && vmwrite(0x681e, 5) == -2 - VEC_PF);
	check(vmread(0x4fff) == VMXERR_UNSUPPORTED_COMPONENT);
	operand_faults = false;
	cpu.mode |= MODE_STEP;
	insn.mnemonic = ZYDIS_MNEMONIC_VMPTRST;
	cpu.rip = 0x100;
	cpu.event.valid = false;
	vmx_instruction(v);
	check(cpu.event.valid && cpu.event.vector == VEC_DB && cpu.rip == 0x104);
}

static void test_entry(void)
{
	start();
	check(RUN(VMXON, VMXON_AT) == 0 && RUN(VMLAUNCH, 0) == -1);
	check(RUN(VMCLEAR, VMCS_A) == 0 && RUN(VMPTRLD, VMCS_A) == 0 && vmwrite(0x681e, 0x7777) == 0);
	check(RUN(VMRESUME, 0) == VMXERR_VMRESUME_NON_LAUNCHED);
	cpu.shadow = SHADOW_MOV_SS;
	check(RUN(VMLAUNCH, 0) == VMXERR_ENTRY_MOV_SS && !cpu.shadow);
	outcome = VMX_ENTRY_BAD_CONTROLS;
	check(RUN(VMLAUNCH, 0) == VMXERR_CONTROLS);
	outcome = VMX_ENTRY_BAD_HOST;
	check(RUN(VMLAUNCH, 0) == VMXERR_HOST_STATE);
	outcome = VMX_ENTERED;
	check(RUN(VMLAUNCH, 0) == 0 && vmx_in_l2(v) && cpu.rip == 0x7777 && cpu.ctl == &v->vmcs02);
	vmx_run_l1(v);
	check(RUN(VMLAUNCH, 0) == VMXERR_VMLAUNCH_NON_CLEAR);
	check(RUN(VMRESUME, 0) == 0 && vmx_in_l2(v));
	vmx_reset(v);
	check(!vmx_in_l2(v) && !vmx_in_operation(v) && cpu.ctl == &v->vmcs01);
}

static int invalidate(ZydisMnemonic mnemonic, uint64_t type, uint64_t low, uint64_t high)
{
	cpu.gpr[REG_RAX] = type;
	operand2[0] = low;
	operand2[1] = high;
	return run(mnemonic, 0);
}

static void test_invalidation(void)
{
	start();
	check(RUN(VMXON, VMXON_AT) == 0 && RUN(VMPTRLD, VMCS_A) == 0);
	check(invalidate(ZYDIS_MNEMONIC_INVEPT, 0, 0x1e, 0) == VMXERR_INVALID_OPERAND);
	check(invalidate(ZYDIS_MNEMONIC_INVEPT, 1, 0x1f, 0) == VMXERR_INVALID_OPERAND && !flushed_ept);
	check(invalidate(ZYDIS_MNEMONIC_INVEPT, 1, 0x1e, 0) == 0 && flushed_ept == 1);
	check(invalidate(ZYDIS_MNEMONIC_INVEPT, 2, 0, 0) == 0 && flushed_ept == 2);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 4, 1, 0) == VMXERR_INVALID_OPERAND);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 1, 0, 0) == VMXERR_INVALID_OPERAND);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 1, 0x10001, 0) == VMXERR_INVALID_OPERAND);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 0, 1, 1ull << 60) == VMXERR_INVALID_OPERAND && !flushed_vpid);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 0, 5, 0x1000) == 0 && flushed_vpid == 5);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 3, 6, 0) == 0 && flushed_vpid == 6);
	check(invalidate(ZYDIS_MNEMONIC_INVVPID, 2, 0, 0) == 0 && flushed_vpid == 0x10000);
	v->caps.secondary.may &= ~SECONDARY_EPT;
	check(invalidate(ZYDIS_MNEMONIC_INVEPT, 2, 0, 0) == -2 - VEC_UD);
}

static struct { struct kvm_nested_state head; struct kvm_vmx_nested_state_data data; } state;

static void good_state(void)
{
	memset(&state, 0, sizeof(state));
	state.head = (struct kvm_nested_state){ .format = KVM_STATE_NESTED_FORMAT_VMX, .size = 128 + 4096,
	                                        .hdr.vmx = { .vmxon_pa = VMXON_AT, .vmcs12_pa = VMCS_A } };
	*(uint32_t *)state.head.data.vmx[0].vmcs12 = VMX_REVISION;
}

/* Each line breaks the good state in one way. */
#define REJECTED(change) \
	do { good_state(); struct kvm_nested_state *s = &state.head; change; check(vmx_set_nested_state(v, s, sizeof(state)) == -EINVAL); } while (0)

static void test_set_state(void)
{
	start();
	good_state();
	check(vmx_set_nested_state(v, &state.head, sizeof(state)) == 0 && v->current_ptr == VMCS_A && vmx_in_operation(v) && !vmx_in_l2(v));
	REJECTED(s->format = KVM_STATE_NESTED_FORMAT_SVM);
	REJECTED(s->flags = 0x10);
	REJECTED(s->flags = KVM_STATE_NESTED_RUN_PENDING);
	REJECTED(s->flags = KVM_STATE_NESTED_EVMCS);
	REJECTED(s->hdr.vmx.vmxon_pa = ~0ull);
	REJECTED(s->hdr.vmx.vmxon_pa |= 1);
	REJECTED(s->hdr.vmx.vmxon_pa = 1ull << 36);
	REJECTED(s->hdr.vmx.vmcs12_pa = VMXON_AT);
	REJECTED(s->hdr.vmx.vmcs12_pa |= 8);
	REJECTED(s->hdr.vmx.vmcs12_pa = ~0ull);
	REJECTED(s->hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM_VMXON);
	REJECTED(s->hdr.vmx.flags = 2);
	REJECTED(s->size = 128);
	REJECTED(s->size = 127);
	REJECTED(s->data.vmx[0].vmcs12[0]++);
	REJECTED(s->flags = KVM_STATE_NESTED_GUEST_MODE; guest_ok = false);
	check(!vmx_in_l2(v) && vmx_in_operation(v));
	guest_ok = true;

	good_state();
	state.head.size = 128;
	state.head.hdr.vmx.vmcs12_pa = ~0ull;
	check(vmx_set_nested_state(v, &state.head, sizeof(state)) == 0 && vmx_in_operation(v) && v->current_ptr == ~0ull);
	/* A reset client: no pointers, but the full size. */
	state.head.size = 8320;
	state.head.hdr.vmx.vmxon_pa = ~0ull;
	check(vmx_set_nested_state(v, &state.head, sizeof(state)) == 0 && !vmx_in_operation(v));
	v->offered = false;
	REJECTED((void)s);
}

static void test_get_state(void)
{
	start();
	check(vmx_get_nested_state(v, &state.head, 128) == 0 && state.head.size == 128 && state.head.hdr.vmx.vmxon_pa == ~0ull);
	check(RUN(VMXON, VMXON_AT) == 0);
	check(vmx_get_nested_state(v, &state.head, 128) == 0 && state.head.hdr.vmx.vmxon_pa == VMXON_AT);
	check(RUN(VMPTRLD, VMCS_A) == 0 && vmwrite(0x6800, 0x80000031) == 0);
	check(vmx_get_nested_state(v, &state.head, 128) == -E2BIG && state.head.size == 128 + 4096);
	check(vmx_get_nested_state(v, &state.head, 8320) == 0 && state.head.hdr.vmx.vmcs12_pa == VMCS_A);
	check(((struct vmcs12 *)state.head.data.vmx[0].vmcs12)->guest_cr0 == 0x80000031 && !state.head.flags);
	check(RUN(VMLAUNCH, 0) == 0);
	v->run_pending = v->timer_active = true;
	v->timer_deadline = 99 * 32;
	cpu.rip = 0x4242;
	check(vmx_get_nested_state(v, &state.head, 8320) == 0);
	check(state.head.flags == (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING));
	check(state.head.hdr.vmx.preemption_timer_deadline == 99);
	check(((struct vmcs12 *)state.head.data.vmx[0].vmcs12)->guest_rip == 0x4242);
	/* Another vCPU, or this one later, goes on from there. */
	vmx_reset(v);
	check(vmx_set_nested_state(v, &state.head, sizeof(state)) == 0 && vmx_in_l2(v) && v->run_pending && v->timer_deadline == 99 * 32);
	check(v->vmcs12.guest_rip == 0x4242 && v->vmxon_ptr == VMXON_AT);
}

static void test_msrs(void)
{
	uint64_t value;
	start();
	check(vmx_msr_write(v, 0x3a, 0, true) == 0 && vmx_msr_write(v, 0x3a, 2, false) == 1);
	check(vmx_msr_write(v, 0x3a, 5, false) == 0 && vmx_msr_write(v, 0x3a, 5, false) == 1);
	check(vmx_msr_read(v, 0x3a, &value, false) == 0 && value == 5);
	check(vmx_msr_write(v, 0x3a, 0x100005, true) == 0 && !vmx_lmce_enabled(v));
	vmx_offer_lmce(v, true);
	check(vmx_lmce_enabled(v));
	vmx_offer_lmce(v, false);
	check(vmx_msr_write(v, 0x3a, 0, true) == 0 && vmx_msr_write(v, 0x3a, 0x100005, false) == 1);
	check(vmx_msr_write(v, 0x3a, 7, true) == 0 && vmx_msr_write(v, 0x3a, 0xd, true) == 1);
	check(vmx_msr_write(v, 0x480, 0, false) == 1 && vmx_msr_read(v, 0x493, &value, false) == 2);
	check(vmx_msr_read(v, 0x489, &value, false) == 0 && value == (CR4_PAE | CR4_VMXE | CR4_PCE));
	check(vmx_msr_read(v, 0x491, &value, false) == 0 && vmx_msr_read(v, 0x491, &value, true) == 0 && value == 1);
	check(vmx_msr_read(v, 0x48d, &value, false) == 0);
	check(RUN(VMXON, VMXON_AT) == 0 && vmx_msr_write(v, 0x48c, 0, true) == 1);
	/* The client's reset takes the vCPU out of VMX operation, whatever is locked. */
	check(vmx_msr_write(v, 0x3a, 0, true) == 0 && !vmx_in_operation(v));
	check(vmx_msr_write(v, 0x48c, 0, true) == 0 && !v->caps.ept_vpid);
	cpu.features[FEATURE_VMX >> 6] = 0;
	vmx_cpuid_update(v);
	check(vmx_msr_read(v, 0x480, &value, false) == 1 && vmx_msr_write(v, 0x3a, 5, false) == 1);
	/* The client may set what CPUID gives no meaning (yet), but no bit that is reserved. */
	for (unsigned bit = 0; bit < 64; bit++)
		check(vmx_msr_write(v, 0x3a, 1ull << bit, true) == !(0x160007 >> (bit < 32 ? bit : 31) & 1));
	check(RUN(VMXON, VMXON_AT) == -2 - VEC_UD);
}

static const struct test tests[] = {
	{ "VMXON and VMXOFF", test_vmxon },
	{ "VMCLEAR, VMPTRLD, VMPTRST and the cache", test_pointers },
	{ "the shadow-VMCS indicator", test_shadow_indicator },
	{ "VMREAD and VMWRITE", test_fields },
	{ "VMLAUNCH and VMRESUME", test_entry },
	{ "INVEPT and INVVPID", test_invalidation },
	{ "KVM_SET_NESTED_STATE", test_set_state },
	{ "KVM_GET_NESTED_STATE", test_get_state },
	{ "FEATURE_CONTROL and capability MSRs", test_msrs },
};

int main(void)
{
	params_init();
	params.enable_shadow_vmcs = false;       /* but for the test that turns it on */
	return run_tests(tests, ARRAY_SIZE(tests));
}
