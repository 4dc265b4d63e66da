/*
 * Instructions on control registers and XCR0, with the guest/host masks, read
 * shadows and exits that the control block asks for.
 *
 * Order, as the processor has it: #UD, then #GP for privilege, then the VM
 * exit, then what is wrong with the value.
 */
#include "cpu/access.h"
#include "cpu/rules.h"
#include "cpu/vapic.h"
#include "x86/features.h"

enum cr_access { CR_MOV_TO, CR_MOV_FROM, CR_CLTS, CR_LMSW };

static void require_cpl0(struct cpu *cpu)
{
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
}

static _Noreturn void exit_cr(struct cpu *cpu, unsigned cr, enum cr_access how, unsigned gpr)
{
	cpu_vmexit(cpu, EXIT_CR_ACCESS, cr | how << 4 | gpr << 8);
}

/* What the guest reads of a register whose masked bits the hypervisor owns. */
static uint64_t shadowed(uint64_t value, uint64_t mask, uint64_t shadow)
{
	return (value & ~mask) | (shadow & mask);
}

static uint64_t guest_cr0(const struct cpu *cpu)
{
	return cpu_in_guest(cpu) ? shadowed(cpu->cr0, cpu->ctl->cr0_mask, cpu->ctl->cr0_shadow) : cpu->cr0;
}

static uint64_t guest_cr4(const struct cpu *cpu)
{
	return cpu_in_guest(cpu) ? shadowed(cpu->cr4, cpu->ctl->cr4_mask, cpu->ctl->cr4_shadow) : cpu->cr4;
}

/* ---- CR8 and the TPR shadow ---- */

static uint64_t cr8_get(struct cpu *cpu)
{
	return vapic_tpr_shadow(cpu) ? vapic_load(cpu, VAPIC_TPR) >> 4 & 15 : cpu->ops->cr8_read(cpu);
}

static void cr8_set(struct cpu *cpu, uint64_t value)
{
	if (value >> 4)
		cpu_raise_gp(cpu);
	if (vapic_tpr_shadow(cpu))
		vapic_cr8_write(cpu, value);
	else
		cpu->ops->cr8_write(cpu, value);
}

/* ---- MOV to and from CR ---- */

static bool cr3_target(const struct control_block *ctl, uint64_t value)
{
	for (unsigned i = 0; i < ctl->cr3_target_count; i++)
		if (ctl->cr3_target[i] == value)
			return true;
	return false;
}

/* Does the write of value to cr exit? */
static bool cr_write_exits(const struct control_block *ctl, unsigned cr, uint64_t value)
{
	if (!ctl->non_root)
		return false;
	switch (cr) {
	case 0:
		return (value ^ ctl->cr0_shadow) & ctl->cr0_mask;
	case 3:
		return (ctl->primary & PRIMARY_CR3_LOAD) && !cr3_target(ctl, value);
	case 4:
		return (value ^ ctl->cr4_shadow) & ctl->cr4_mask;
	case 8:
		return ctl->primary & PRIMARY_CR8_LOAD;
	default:
		return false;
	}
}

static void mov_to_cr(struct cpu *cpu, unsigned cr, unsigned gpr)
{
	const struct control_block *ctl = cpu->ctl;
	uint64_t value = cpu_code64(cpu) ? cpu->gpr[gpr] : cpu->gpr[gpr] & 0xffffffff;
	uint64_t mask0 = ctl->non_root ? ctl->cr0_mask : 0, mask4 = ctl->non_root ? ctl->cr4_mask : 0;
	bool ok = true;

	if (cr_write_exits(ctl, cr, value))
		exit_cr(cpu, cr, CR_MOV_TO, gpr);
	if (cr == 0)
		ok = cr0_write(cpu, (value & ~mask0) | (cpu->cr0 & mask0));
	else if (cr == 2)
		cpu->cr2 = value;
	else if (cr == 3)
		ok = cr3_write(cpu, value);
	else if (cr == 4)
		ok = cr4_write(cpu, (value & ~mask4) | (cpu->cr4 & mask4));
	else
		cr8_set(cpu, value);
	if (!ok)
		cpu_raise_gp(cpu);
}

static void mov_from_cr(struct cpu *cpu, unsigned cr, unsigned gpr)
{
	const struct control_block *ctl = cpu->ctl;
	uint64_t value;

	if (ctl->non_root && ((cr == 3 && (ctl->primary & PRIMARY_CR3_STORE)) || (cr == 8 && (ctl->primary & PRIMARY_CR8_STORE))))
		exit_cr(cpu, cr, CR_MOV_FROM, gpr);
	value = cr == 0 ? guest_cr0(cpu) : cr == 2 ? cpu->cr2 : cr == 3 ? cpu->cr3 : cr == 4 ? guest_cr4(cpu) : cr8_get(cpu);
	reg_set(cpu, gpr, cpu_code64(cpu) ? 8 : 4, false, value);
}

void rule_mov_cr(struct cpu *cpu, const struct insn *insn)
{
	if (insn->reg > 8 || !(0x11d >> insn->reg & 1))
		cpu_raise_ud(cpu);
	require_cpl0(cpu);
	if (insn->opcode == 0x22)
		mov_to_cr(cpu, insn->reg, insn->rm);
	else
		mov_from_cr(cpu, insn->reg, insn->rm);
}

/* ---- CLTS, LMSW, SMSW ---- */

void rule_clts(struct cpu *cpu, const struct insn *insn)
{
	const struct control_block *ctl = cpu->ctl;

	require_cpl0(cpu);
	if (ctl->non_root && (ctl->cr0_mask & CR0_TS)) {
		if (ctl->cr0_shadow & CR0_TS)
			exit_cr(cpu, 0, CR_CLTS, 0);
		return;
	}
	cpu->cr0 &= ~CR0_TS;
	cpu_mode_update(cpu);
}

/* LMSW loads PE, MP, EM and TS; PE can only be set. */
static bool lmsw_exits(const struct control_block *ctl, uint64_t source)
{
	const uint64_t plain = CR0_MP | CR0_EM | CR0_TS;

	if (!ctl->non_root)
		return false;
	if ((source ^ ctl->cr0_shadow) & ctl->cr0_mask & plain)
		return true;
	return (ctl->cr0_mask & CR0_PE) && (source & CR0_PE) && !(ctl->cr0_shadow & CR0_PE);
}

void rule_lmsw(struct cpu *cpu, const struct insn *insn)
{
	const struct control_block *ctl = cpu->ctl;
	uint64_t source, value, load = CR0_MP | CR0_EM | CR0_TS;

	require_cpl0(cpu);
	source = rm_load(cpu, insn, 2) & 0xffff;
	if (lmsw_exits(ctl, source)) {
		if (insn->mem)
			cpu->vmexit.gla = seg_linear(cpu, insn->seg, insn_offset(cpu, insn), 2, ACCESS_READ);
		cpu_vmexit(cpu, EXIT_CR_ACCESS, CR_LMSW << 4 | (insn->mem ? 1u << 6 : 0) | source << 16);
	}
	if (source & CR0_PE)
		load |= CR0_PE;
	if (ctl->non_root)
		load &= ~ctl->cr0_mask;
	value = (cpu->cr0 & ~load) | (source & load);
	if (!cr0_write(cpu, value))
		cpu_raise_gp(cpu);
}

void rule_smsw(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = guest_cr0(cpu);

	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl > 0)
		cpu_raise_gp(cpu);
	if (insn->mem)
		insn_store(cpu, insn, 2, value);
	else
		reg_set(cpu, insn->rm, insn->opsize, insn->rex, value);
}

/* ---- XCR0 ---- */

void rule_xsetbv(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = (uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise_ud(cpu);
	require_cpl0(cpu);
	intercept_always(cpu, EXIT_XSETBV);
	if ((uint32_t)cpu->gpr[REG_RCX] != 0 || !xcr0_write(cpu, value))
		cpu_raise_gp(cpu);
}

void rule_xgetbv(struct cpu *cpu, const struct insn *insn)
{
	uint32_t index = cpu->gpr[REG_RCX];
	uint64_t value = cpu->xcr0;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise_ud(cpu);
	if (index > 1 || (index == 1 && !cpu_has(cpu, FEATURE_XGETBV1)))
		cpu_raise_gp(cpu);
	/* XINUSE: nothing is tracked as unused but what XCR0 leaves out. */
	cpu->gpr[REG_RAX] = (uint32_t)value;
	cpu->gpr[REG_RDX] = value >> 32;
}
