/*
 * MOV to and from debug registers.
 */
#include "cpu/access.h"
#include "cpu/rules.h"
#include "x86/vmx.h"

static void write_debug_register(struct cpu *cpu, unsigned n, uint64_t value)
{
	if (n < 4) {
		cpu->dr[n] = value;
		return;
	}
	if (value >> 32)
		cpu_raise_gp(cpu);
	if (n == 6)
		cpu->dr6 = (value & 0xe00f) | DR6_FIXED;
	else
		cpu->dr7 = (value & 0xffff23ff) | DR7_FIXED;    /* no RTM: bit 11 stays clear */
	cpu_mode_update(cpu);
}

/*
 * DR4 and DR5 are DR6 and DR7 by another name, unless CR4.DE. The intercept
 * comes before that and before the privilege check, unlike others.
 */
void rule_mov_dr(struct cpu *cpu, const struct insn *insn)
{
	unsigned n = insn->reg == 4 || insn->reg == 5 ? insn->reg + 2 : insn->reg;
	bool write = insn->opcode == 0x23, wide = cpu_code64(cpu);

	if (n > 7)
		cpu_raise_ud(cpu);
	if (cpu_in_guest(cpu) && (cpu->ctl->primary & PRIMARY_MOV_DR))
		cpu_vmexit(cpu, EXIT_DR_ACCESS, insn->reg | (write ? 0 : 1u << 4) | (uint64_t)insn->rm << 8);
	if (n != insn->reg && (cpu->cr4 & CR4_DE))
		cpu_raise_ud(cpu);
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	debug_general_detect(cpu);
	if (write)
		write_debug_register(cpu, n, wide ? cpu->gpr[insn->rm] : cpu->gpr[insn->rm] & 0xffffffff);
	else
		reg_set(cpu, insn->rm, wide ? 8 : 4, false, n < 4 ? cpu->dr[n] : n == 6 ? cpu->dr6 : cpu->dr7);
}
