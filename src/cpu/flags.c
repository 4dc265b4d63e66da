/*
 * Instructions on the interrupt flag and on RFLAGS as a whole: CLI, STI,
 * PUSHF, POPF, CLAC, STAC, with IOPL and the virtual interrupt flag of
 * virtual-8086 mode (VME) and of protected mode (PVI).
 */
#include "cpu/access.h"
#include "cpu/rules.h"
#include "x86/features.h"

static unsigned iopl(const struct cpu *cpu)
{
	return cpu->rflags >> 12 & 3;
}

/* May the program work on IF itself, on VIF instead, or on neither? */
enum if_access { IF_REAL, IF_VIRTUAL, IF_DENIED };

static enum if_access if_access(const struct cpu *cpu)
{
	bool vm86 = cpu->mode & MODE_VM86;

	if (!(cpu->cr0 & CR0_PE) || (vm86 ? iopl(cpu) == 3 : iopl(cpu) >= cpu->cpl))
		return IF_REAL;
	if (vm86 ? cpu->cr4 & CR4_VME : cpu->cpl == 3 && (cpu->cr4 & CR4_PVI))
		return IF_VIRTUAL;
	return IF_DENIED;
}

void rule_cli(struct cpu *cpu, const struct insn *insn)
{
	switch (if_access(cpu)) {
	case IF_REAL:
		cpu->rflags &= ~(uint64_t)RFLAGS_IF;
		return;
	case IF_VIRTUAL:
		cpu->rflags &= ~(uint64_t)RFLAGS_VIF;
		return;
	default:
		cpu_raise_gp(cpu);
	}
}

void rule_sti(struct cpu *cpu, const struct insn *insn)
{
	enum if_access access = if_access(cpu);

	if (access == IF_DENIED || (access == IF_VIRTUAL && (cpu->rflags & RFLAGS_VIP)))
		cpu_raise_gp(cpu);
	if (access == IF_VIRTUAL) {
		cpu->rflags |= RFLAGS_VIF;
		return;
	}
	/* Only an STI that opens the window holds it off for one more instruction. */
	if (!(cpu->rflags & RFLAGS_IF))
		cpu->shadow |= SHADOW_STI;
	cpu_set_rflags(cpu, cpu->rflags | RFLAGS_IF);
}

static void set_ac(struct cpu *cpu, bool on)
{
	if (!cpu_has(cpu, FEATURE_SMAP) || cpu->cpl != 0 || (cpu->mode & MODE_VM86))
		cpu_raise_ud(cpu);
	cpu_set_rflags(cpu, on ? cpu->rflags | RFLAGS_AC : cpu->rflags & ~(uint64_t)RFLAGS_AC);
}

void rule_clac(struct cpu *cpu, const struct insn *insn)
{
	set_ac(cpu, false);
}

void rule_stac(struct cpu *cpu, const struct insn *insn)
{
	set_ac(cpu, true);
}

/* In virtual-8086 mode below IOPL 3 only the 16-bit forms work, and only with VME. */
static bool uses_vif(struct cpu *cpu, unsigned size)
{
	if (!(cpu->mode & MODE_VM86) || iopl(cpu) == 3)
		return false;
	if (!(cpu->cr4 & CR4_VME) || size != 2)
		cpu_raise_gp(cpu);
	return true;
}

void rule_pushf(struct cpu *cpu, const struct insn *insn)
{
	uint64_t image = cpu->rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF);

	if (uses_vif(cpu, insn->opsize)) {
		image = (image & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL;
		image |= cpu->rflags & RFLAGS_VIF ? RFLAGS_IF : 0;
	}
	stack_push(cpu, insn->opsize, image);
}

/* Bits that POPF may load; VIP and VIF are loaded as 0 at CPL 0 only by the wide forms, so they stay. */
static uint64_t popf_mask(const struct cpu *cpu, unsigned size, bool vif)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (size > 2)
		mask |= RFLAGS_AC | RFLAGS_ID;
	if (cpu->cpl == 0)
		mask |= RFLAGS_IOPL;
	if (!vif && iopl(cpu) >= cpu->cpl)
		mask |= RFLAGS_IF;
	return vif ? mask | RFLAGS_VIF : mask;
}

void rule_popf(struct cpu *cpu, const struct insn *insn)
{
	bool vif = uses_vif(cpu, insn->opsize);
	uint64_t sp = cpu->gpr[REG_RSP];
	uint64_t value = stack_pop(cpu, insn->opsize), mask = popf_mask(cpu, insn->opsize, vif);

	if (vif) {
		if ((value & RFLAGS_TF) || ((value & RFLAGS_IF) && (cpu->rflags & RFLAGS_VIP))) {
			cpu->gpr[REG_RSP] = sp;
			cpu_raise_gp(cpu);
		}
		value = (value & ~(uint64_t)RFLAGS_VIF) | (value & RFLAGS_IF ? RFLAGS_VIF : 0);
	}
	cpu_set_rflags(cpu, (cpu->rflags & ~(mask | RFLAGS_RF)) | (value & mask));
}
