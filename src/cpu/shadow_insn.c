/*
 * Instructions on shadow stacks: INCSSP, RDSSP, WRSS, WRUSS; SAVEPREVSSP and
 * RSTORSSP, which switch between stacks of one ring; SETSSBSY and CLRSSBSY,
 * which take and free ring 0's.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/rules.h"

/* Bits of the tokens that RSTORSSP leaves and SAVEPREVSSP makes. */
enum { TOKEN_MODE64 = 1, TOKEN_PREVIOUS = 2 };

static struct shadow current(const struct cpu *cpu)
{
	return shadow_of(cpu->cet.ssp, cpu->cpl, cpu_code64(cpu));
}

static void require_shadow_stack(struct cpu *cpu)
{
	if (!(cpu->mode & MODE_SHSTK))
		cpu_raise_ud(cpu);
}

static void set_flags(struct cpu *cpu, bool carry)
{
	cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_ARITH) | (carry ? RFLAGS_CF : 0);
}

/* Linear address of the operand, which must be aligned to its size. */
static uint64_t operand_address(struct cpu *cpu, const struct insn *insn, unsigned size)
{
	uint64_t addr = seg_linear(cpu, insn->seg, insn_offset(cpu, insn), size, ACCESS_WRITE);

	if (addr & (size - 1))
		cpu_raise_gp(cpu);
	return addr;
}

static unsigned item_size(const struct insn *insn)
{
	return insn->rex & 8 ? 8 : 4;
}

/* ---- SSP ---- */

void rule_incssp(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = item_size(insn), count = cpu->gpr[insn->rm] & 0xff;
	struct shadow s = current(cpu);
	uint64_t item;

	require_shadow_stack(cpu);
	shadow_load(cpu, &s, s.ssp, &item, size);
	if (count > 1)
		shadow_load(cpu, &s, s.ssp + (count - 1) * size, &item, size);
	s.ssp += count * size;
	cpu->cet.ssp = s.wide ? s.ssp : (uint32_t)s.ssp;
}

void rule_rdssp(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->mode & MODE_SHSTK)
		reg_set(cpu, insn->rm, item_size(insn), true, cpu->cet.ssp);
}

/* ---- stores ---- */

static void write_item(struct cpu *cpu, const struct insn *insn, unsigned cpl)
{
	unsigned size = item_size(insn);
	uint64_t addr = operand_address(cpu, insn, size), value = reg_get(cpu, insn->reg, size, true);
	struct shadow s = shadow_of(0, cpl, cpu_code64(cpu));

	shadow_store(cpu, &s, addr, &value, size);
}

void rule_wrss(struct cpu *cpu, const struct insn *insn)
{
	require_shadow_stack(cpu);
	if (!(*cet_control(cpu, cpu->cpl) & CET_WRSS))
		cpu_raise_ud(cpu);
	write_item(cpu, insn, cpu->cpl);
}

void rule_wruss(struct cpu *cpu, const struct insn *insn)
{
	if (!(cpu->cr4 & CR4_CET))
		cpu_raise_ud(cpu);
	if (cpu->cpl)
		cpu_raise_gp(cpu);
	write_item(cpu, insn, 3);
}

/* ---- switching ---- */

void rule_rstorssp(struct cpu *cpu, const struct insn *insn)
{
	struct shadow s = current(cpu);
	uint64_t mode64 = s.wide ? TOKEN_MODE64 : 0, addr, token, seen;
	bool bad;

	require_shadow_stack(cpu);
	addr = operand_address(cpu, insn, 8);
	shadow_load(cpu, &s, addr, &token, 8);
	do {
		seen = token;
		bad = (token & 3) != mode64 || (!s.wide && token >> 32) || (((token & ~1ull) - 8) & ~7ull) != addr;
	} while (!shadow_exchange(cpu, &s, addr, &token, bad ? seen : s.ssp | mode64 | TOKEN_PREVIOUS));
	if (bad)
		cet_raise(cpu, CP_RSTORSSP);
	cpu->cet.ssp = addr;
	set_flags(cpu, seen & 4);        /* a hole of 4 bytes above the token */
}

void rule_saveprevssp(struct cpu *cpu, const struct insn *insn)
{
	struct shadow s = current(cpu);
	uint64_t token, old, ssp = s.ssp + 8;
	uint32_t hole = 0;

	require_shadow_stack(cpu);
	if (s.ssp & 7)
		cpu_raise_gp(cpu);
	shadow_load(cpu, &s, s.ssp, &token, 8);
	if (cpu->rflags & RFLAGS_CF) {
		if (s.wide)
			cpu_raise_gp(cpu);
		shadow_load(cpu, &s, ssp, &hole, 4);
		ssp += 4;
	}
	if (hole || !(token & TOKEN_PREVIOUS) || (!s.wide && token >> 32))
		cpu_raise_gp(cpu);
	old = token & ~3ull;
	token = old | (s.wide ? TOKEN_MODE64 : 0);
	hole = 0;
	shadow_store(cpu, &s, old - 4, &hole, 4);
	shadow_store(cpu, &s, (old & ~7ull) - 8, &token, 8);
	cpu->cet.ssp = s.wide ? ssp : (uint32_t)ssp;
}

/* ---- ring 0's token ---- */

static void require_supervisor_stack(struct cpu *cpu)
{
	if (!cet_enabled(cpu, 0, CET_SHSTK))
		cpu_raise_ud(cpu);
	if (cpu->cpl)
		cpu_raise_gp(cpu);
}

void rule_setssbsy(struct cpu *cpu, const struct insn *insn)
{
	uint64_t base = cpu->cet.pl_ssp[0], token = base;
	struct shadow s = current(cpu);

	require_supervisor_stack(cpu);
	if (base & 7)
		cpu_raise_gp(cpu);
	if (!shadow_exchange(cpu, &s, base, &token, base | TOKEN_BUSY))
		cet_raise(cpu, CP_SETSSBSY);
	cpu->cet.ssp = base;
}

void rule_clrssbsy(struct cpu *cpu, const struct insn *insn)
{
	struct shadow s = current(cpu);
	uint64_t addr, token;
	bool freed;

	require_supervisor_stack(cpu);
	addr = operand_address(cpu, insn, 8);
	token = addr | TOKEN_BUSY;
	freed = shadow_exchange(cpu, &s, addr, &token, addr);
	set_flags(cpu, !freed);
	cpu->cet.ssp = 0;
}
