/*
 * Instructions without a 64-bit encoding: BOUND, and decimal arithmetic. The
 * manual leaves some flags undefined; these are as Intel's processors have them.
 */
#include "cpu/access.h"
#include "cpu/rules.h"

void rule_bound(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t offset = insn_offset(cpu, insn);
	int shift = 64 - 8 * size;
	int64_t index, low, high;

	if (!insn->mem)
		cpu_raise_ud(cpu);
	index = (int64_t)(reg_get(cpu, insn->reg, size, false) << shift) >> shift;
	low = (int64_t)(seg_load(cpu, insn->seg, offset, size) << shift) >> shift;
	offset = insn->addrsize == 2 ? (offset + size) & 0xffff : (offset + size) & 0xffffffff;
	high = (int64_t)(seg_load(cpu, insn->seg, offset, size) << shift) >> shift;
	if (index < low || index > high)
		cpu_raise(cpu, VEC_BR);
}

/* ---- decimal arithmetic ---- */

struct bcd { uint8_t al, ah; bool cf, af; };

/* SF, ZF and PF of AL; CF and AF as given; OF clear. */
static void bcd_flags(struct cpu *cpu, struct bcd r)
{
	uint64_t f = (r.al & 0x80 ? RFLAGS_SF : 0) | (r.al ? 0 : RFLAGS_ZF) | (__builtin_parity(r.al) ? 0 : RFLAGS_PF);

	f |= (r.cf ? RFLAGS_CF : 0) | (r.af ? RFLAGS_AF : 0);
	cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_ARITH) | f;
}

static struct bcd decimal_adjust(struct bcd r, bool subtract)
{
	uint8_t old = r.al;
	bool old_cf = r.cf;

	r.cf = false;
	if ((old & 15) > 9 || r.af) {
		r.cf = old_cf || (subtract ? old < 6 : old > 0xf9);
		r.al = subtract ? r.al - 6 : r.al + 6;
		r.af = true;
	}
	if (old > 0x99 || old_cf) {
		r.al = subtract ? r.al - 0x60 : r.al + 0x60;
		r.cf = true;
	}
	return r;
}

static struct bcd ascii_adjust(struct bcd r, bool subtract)
{
	bool adjust = (r.al & 15) > 9 || r.af;
	uint16_t ax = r.ah << 8 | r.al;

	if (adjust)
		ax = subtract ? ax - 0x106 : ax + 0x106;
	r.al = ax & 15;
	r.ah = ax >> 8;
	r.cf = r.af = adjust;
	return r;
}

static struct bcd ascii_multiply(struct cpu *cpu, struct bcd r, uint8_t base)
{
	if (!base)
		cpu_raise(cpu, VEC_DE);
	r.ah = r.al / base;
	r.al = r.al % base;
	r.cf = r.af = false;
	return r;
}

static struct bcd ascii_divide(struct bcd r, uint8_t base)
{
	r.al += r.ah * base;
	r.ah = 0;
	r.cf = r.af = false;
	return r;
}

void rule_bcd(struct cpu *cpu, const struct insn *insn)
{
	struct bcd r = { .al = cpu->gpr[REG_RAX], .ah = cpu->gpr[REG_RAX] >> 8, .cf = cpu->rflags & RFLAGS_CF,
	                 .af = cpu->rflags & RFLAGS_AF };

	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_DAA: r = decimal_adjust(r, false); break;
	case ZYDIS_MNEMONIC_DAS: r = decimal_adjust(r, true); break;
	case ZYDIS_MNEMONIC_AAA: r = ascii_adjust(r, false); break;
	case ZYDIS_MNEMONIC_AAS: r = ascii_adjust(r, true); break;
	case ZYDIS_MNEMONIC_AAM: r = ascii_multiply(cpu, r, insn->imm); break;
	default: r = ascii_divide(r, insn->imm); break;
	}
	cpu->gpr[REG_RAX] = (cpu->gpr[REG_RAX] & ~0xffffull) | r.ah << 8 | r.al;
	bcd_flags(cpu, r);
}
