/*
 * Indirect branch tracking. Each of the two trackers (ring 3's, and that of
 * the others) is a bit of its control MSR: an ENDBRANCH is due. The engine asks
 * track_target() before it runs the target of a tracked branch.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/rules.h"
#include "x86/features.h"

bool cet_control_valid(const struct cpu *cpu, uint64_t value)
{
	const uint64_t shstk = CET_SHSTK | CET_WRSS, reserved = 0x3c0;

	if ((value & reserved) || !cpu_canonical(cpu, value) || (value & (CET_SUPPRESS | CET_WAIT)) == (CET_SUPPRESS | CET_WAIT))
		return false;
	return (cpu_has(cpu, FEATURE_SHSTK) || !(value & shstk)) && (cpu_has(cpu, FEATURE_IBT) || !(value & ~shstk));
}

uint32_t cet_mode(const struct cpu *cpu)
{
	uint64_t control = cpu->cpl == 3 ? cpu->cet.u_cet : cpu->cet.s_cet;
	uint32_t mode = cet_enabled(cpu, cpu->cpl, CET_SHSTK) ? MODE_SHSTK : 0;

	if (cet_enabled(cpu, cpu->cpl, CET_ENDBR))
		mode |= MODE_IBT | (control & CET_WAIT ? MODE_TRACK : 0);
	return mode;
}

/* 3E on a near indirect branch: in 64-bit code without 64 or 65, else as the last override of a segment. */
static bool no_track_prefix(const struct cpu *cpu, const struct insn *insn)
{
	bool found = false, other = false;

	for (unsigned i = 0; i < insn->len && insn->bytes[i] != insn->opcode; i++) {
		switch (insn->bytes[i]) {
		case 0x3e:
			found = true;
			break;
		case 0x64: case 0x65:
			other = true;
			found = found && cpu_code64(cpu);
			break;
		case 0x26: case 0x2e: case 0x36:
			found = found && cpu_code64(cpu);
			break;
		}
	}
	return found && !(other && cpu_code64(cpu));
}

void track_indirect(struct cpu *cpu, const struct insn *insn)
{
	uint64_t *control = cet_control(cpu, cpu->cpl);

	if (!(cpu->mode & MODE_IBT) || (*control & CET_SUPPRESS) || ((*control & CET_NO_TRACK) && no_track_prefix(cpu, insn)))
		return;
	*control |= CET_WAIT;
	cpu_mode_update(cpu);
}

/* The bit of the instruction's page in the bitmap of code that was not made for tracking. */
static bool legacy_page(struct cpu *cpu, uint64_t control)
{
	uint64_t at = control & PAGE_MASK_4K, lip;

	if (cpu_code64(cpu)) {
		lip = cpu->rip & (cpu->cr4 & CR4_LA57 ? BIT(57) - 1 : BIT(48) - 1);
		at += lip >> 15;
	} else {
		lip = (uint32_t)(cpu->seg[SEG_CS].base + cpu->rip);
		at += lip >> 15;
	}
	if (!cpu_long_mode(cpu))
		at = (uint32_t)at;
	else if (!cpu_canonical(cpu, at))
		cpu_raise_gp(cpu);
	return lin_load(cpu, at, 1, 0) >> (lip >> 12 & 7) & 1;
}

void track_target(struct cpu *cpu, const struct insn *insn)
{
	uint64_t *control = cet_control(cpu, cpu->cpl);
	uint16_t mnemonic = insn ? insn->mnemonic : ZYDIS_MNEMONIC_INVALID;

	if (mnemonic == ZYDIS_MNEMONIC_INT3 || mnemonic == ZYDIS_MNEMONIC_INT1)
		return;
	if (mnemonic == (cpu_code64(cpu) ? ZYDIS_MNEMONIC_ENDBR64 : ZYDIS_MNEMONIC_ENDBR32)) {
		*control &= ~(uint64_t)CET_WAIT;
	} else {
		if (!(*control & CET_LEGACY) || !legacy_page(cpu, *control))
			cet_raise(cpu, CP_ENDBRANCH);
		*control = (*control & ~(uint64_t)CET_WAIT) | (*control & CET_SUPPRESS_DIS ? 0 : CET_SUPPRESS);
	}
	cpu_mode_update(cpu);
}

/* Without a branch before it, ENDBRANCH only ends the suppression that a legacy page has caused. */
void rule_endbranch(struct cpu *cpu, const struct insn *insn)
{
	bool of_mode = (insn->mnemonic == ZYDIS_MNEMONIC_ENDBR64) == cpu_code64(cpu);

	if ((cpu->mode & MODE_IBT) && of_mode)
		*cet_control(cpu, cpu->cpl) &= ~(uint64_t)(CET_SUPPRESS | CET_WAIT);
}
