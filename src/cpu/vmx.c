/*
 * VMX instructions: what the processor checks before VMX itself has a say.
 * In non-root operation they exit; elsewhere KVM_RUN's loop hands them to
 * vmx/, which finds the instruction in cpu->cur_insn. VMREAD and VMWRITE, of
 * which an exit has dozens, go there without leaving the engine.
 */
#include "cpu/access.h"
#include "cpu/rules.h"
#include "cpu/walk.h"
#include "x86/features.h"
#include "x86/vmx.h"

enum { EPTP_LIST_ENTRIES = 512 };

static const struct { uint16_t mnemonic; uint8_t reason; } reasons[] = {
	{ ZYDIS_MNEMONIC_VMXON, EXIT_VMXON }, { ZYDIS_MNEMONIC_VMXOFF, EXIT_VMXOFF }, { ZYDIS_MNEMONIC_VMCLEAR, EXIT_VMCLEAR },
	{ ZYDIS_MNEMONIC_VMPTRLD, EXIT_VMPTRLD }, { ZYDIS_MNEMONIC_VMPTRST, EXIT_VMPTRST }, { ZYDIS_MNEMONIC_VMREAD, EXIT_VMREAD },
	{ ZYDIS_MNEMONIC_VMWRITE, EXIT_VMWRITE }, { ZYDIS_MNEMONIC_VMLAUNCH, EXIT_VMLAUNCH }, { ZYDIS_MNEMONIC_VMRESUME, EXIT_VMRESUME },
	{ ZYDIS_MNEMONIC_INVEPT, EXIT_INVEPT }, { ZYDIS_MNEMONIC_INVVPID, EXIT_INVVPID },
};

static uint32_t exit_reason_of(const struct insn *insn)
{
	for (unsigned i = 0; i < ARRAY_SIZE(reasons); i++)
		if (reasons[i].mnemonic == insn->mnemonic)
			return reasons[i].reason;
	return EXIT_VMCALL;
}

static bool has_operands(const struct insn *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMXOFF:
	case ZYDIS_MNEMONIC_VMLAUNCH:
	case ZYDIS_MNEMONIC_VMRESUME:
		return false;
	default:
		return true;
	}
}

/* Protected mode and, under long mode, 64-bit code. */
static bool mode_allows(const struct cpu *cpu)
{
	return cpu_protected(cpu) && (!cpu_long_mode(cpu) || cpu_code64(cpu));
}

/*
 * A shadow VMCS lets the guest access the fields whose bitmap bit is clear,
 * without an exit: vmx/ does it. Encodings beyond 15 bits always exit.
 */
static bool shadow_vmcs_allows(const struct cpu *cpu, const struct insn *insn)
{
	const struct control_block *ctl = cpu->ctl;
	bool read = insn->mnemonic == ZYDIS_MNEMONIC_VMREAD;
	uint64_t field = reg_get(cpu, insn->reg, cpu_code64(cpu) ? 8 : 4, false);

	if (!read && insn->mnemonic != ZYDIS_MNEMONIC_VMWRITE)
		return false;
	if (!(ctl->primary & PRIMARY_SECONDARY) || !(ctl->secondary & SECONDARY_SHADOW_VMCS) || field >> 15)
		return false;
	return !((read ? ctl->vmread_bitmap : ctl->vmwrite_bitmap)[field >> 3] >> (field & 7) & 1);
}

void rule_vmx(struct cpu *cpu, const struct insn *insn)
{
	bool vmxon = insn->mnemonic == ZYDIS_MNEMONIC_VMXON;
	bool in_operation = cpu->ctl->in_vmx_root_or_non_root;

	if (!cpu_has(cpu, FEATURE_VMX) || !mode_allows(cpu) || (vmxon ? !(cpu->cr4 & CR4_VMXE) : !in_operation))
		cpu_raise_ud(cpu);
	if (cpu_in_guest(cpu) && !shadow_vmcs_allows(cpu, insn)) {
		if (has_operands(insn))
			cpu->vmexit.insn_info = intercept_insn_info(cpu, insn);
		cpu_vmexit(cpu, exit_reason_of(insn), insn->mem ? (uint64_t)insn->disp : 0);
	}
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	if (insn->mnemonic == ZYDIS_MNEMONIC_VMREAD || insn->mnemonic == ZYDIS_MNEMONIC_VMWRITE)
		cpu->ops->vmcs_access(cpu);
	else
		cpu_leave(cpu, CPU_EXIT_VMX_INSN);
}

/*
 * VMCALL and VMMCALL are KVM's hypercalls for a guest that is told of its
 * hypervisor, in VMX operation too: L1's kernel uses them while its own KVM
 * is loaded. To others VMCALL is VMX's and VMMCALL nothing.
 */
void rule_vmcall(struct cpu *cpu, const struct insn *insn)
{
	bool vmcall = insn->mnemonic == ZYDIS_MNEMONIC_VMCALL;
	bool in_operation = cpu->ctl->in_vmx_root_or_non_root;

	if (vmcall && cpu_in_guest(cpu))
		cpu_vmexit(cpu, EXIT_VMCALL, 0);
	if (!cpu_in_guest(cpu) && cpu->hypercall_faults && vmcall == cpu_has(cpu, FEATURE_VENDOR_AMD))
		cpu_raise_ud(cpu);
	if (!cpu_in_guest(cpu) && (cpu_has(cpu, FEATURE_HYPERVISOR) || (vmcall && !in_operation)))
		cpu_leave(cpu, CPU_EXIT_HYPERCALL);
	if (!vmcall || !mode_allows(cpu))
		cpu_raise_ud(cpu);
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	cpu_leave(cpu, CPU_EXIT_VMX_INSN);
}

/* Leaf 0: entry ECX of the list becomes the EPT pointer. false: it is none that VM entry would take. */
static bool eptp_switch(struct cpu *cpu)
{
	struct control_block *ctl = cpu->ctl;
	uint32_t index = cpu->gpr[REG_RCX];
	uint64_t eptp;

	if (index >= EPTP_LIST_ENTRIES || !mem_read(cpu->mem, ctl->eptp_list_gpa + index * sizeof(eptp), &eptp, sizeof(eptp)))
		return false;
	if (eptp_fault(ctl->ept_caps, cpu->maxphyaddr, eptp))
		return false;
	ctl->eptp = eptp;
	if (ctl->secondary & SECONDARY_EPT_VE)
		ctl->eptp_index = index;
	cpu_mode_update(cpu);
	return true;
}

/* At any privilege level. */
void rule_vmfunc(struct cpu *cpu, const struct insn *insn)
{
	const struct control_block *ctl = cpu->ctl;
	uint32_t leaf = cpu->gpr[REG_RAX];

	if (!ctl->non_root || !(ctl->primary & PRIMARY_SECONDARY) || !(ctl->secondary & SECONDARY_VMFUNC) || leaf > 63)
		cpu_raise_ud(cpu);
	if (!(ctl->vm_functions >> leaf & 1) || !eptp_switch(cpu))
		cpu_vmexit(cpu, EXIT_VMFUNC, 0);
}
