/*
 * cpu/vector -- vector instructions that make several accesses: masked moves
 * and gathers. Elements whose mask bit is clear are not touched and cannot
 * fault. Register operands are live in the host's registers; they are copied
 * out whole, and results written back one register at a time.
 */
#include "cpu/mmio.h"
#include "cpu/rules.h"

struct ymm { uint8_t b[32]; };

/* ---- the live registers ---- */

#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SIXTEEN(X) EIGHT(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

static void ymm_read_all(struct ymm v[16])
{
#define X(n) asm volatile("vmovdqu %%ymm" #n ", %0" : "=m"(v[n]));
	SIXTEEN(X)
#undef X
}

static void xmm_read_all(struct ymm v[16])
{
#define X(n) asm volatile("movdqu %%xmm" #n ", %0" : "=m"(v[n]));
	SIXTEEN(X)
#undef X
}

static void mm_read_all(struct ymm v[8])
{
#define X(n) asm volatile("movq %%mm" #n ", %0" : "=m"(v[n]));
	EIGHT(X)
#undef X
}

static void ymm_write(unsigned reg, const struct ymm *v)
{
	switch (reg) {
#define X(n) case n: asm volatile("vmovdqu %0, %%ymm" #n : : "m"(*v)); break;
	SIXTEEN(X)
#undef X
	}
}

/* ---- what a VEX prefix says beyond struct insn ---- */

struct vex { unsigned vvvv, sib; bool w, wide /* 256 bits */; };

static bool is_legacy_prefix(uint8_t byte)
{
	static const uint8_t prefixes[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3 };

	for (unsigned i = 0; i < sizeof(prefixes); i++)
		if (byte == prefixes[i])
			return true;
	return false;
}

static struct vex vex_of(const struct cpu *cpu, const struct insn *insn)
{
	const uint8_t *p = insn->bytes;
	uint8_t last;
	struct vex v;

	while (is_legacy_prefix(*p))
		p++;
	last = *p == 0xc4 ? p[2] : p[1];
	v.vvvv = ~last >> 3 & (cpu_code64(cpu) ? 15 : 7);
	v.wide = last & 4;
	v.w = *p == 0xc4 && (last & 0x80);
	v.sib = *p == 0xc4 ? p[5] : p[4];        /* after prefix, opcode, modrm */
	return v;
}

static bool mask_bit(const struct ymm *mask, unsigned element, unsigned size)
{
	return mask->b[(element + 1) * size - 1] & 0x80;
}

/* ---- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ ---- */

static uint64_t offset_plus(const struct insn *insn, uint64_t offset, uint64_t more)
{
	offset += more;
	return insn->addrsize == 8 ? offset : insn->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
}

static uint64_t element_linear(struct cpu *cpu, const struct insn *insn, uint64_t at, unsigned size, unsigned access)
{
	return seg_linear(cpu, insn->seg, at, size, access);
}

static void mask_load(struct cpu *cpu, const struct insn *insn, const struct ymm *mask, unsigned count, unsigned size)
{
	uint64_t offset = insn_offset(cpu, insn);
	struct ymm result;

	memset(&result, 0, sizeof(result));
	for (unsigned i = 0; i < count; i++)
		if (mask_bit(mask, i, size))
			seg_read(cpu, insn->seg, offset_plus(insn, offset, i * size), result.b + i * size, size);
	ymm_write(insn->reg, &result);
}

static void mask_store(struct cpu *cpu, const struct insn *insn, const struct ymm *mask, const struct ymm *from, unsigned count,
                       unsigned size)
{
	uint64_t offset = insn_offset(cpu, insn), addr[8] = { 0 };

	for (unsigned i = 0; i < count; i++)
		if (mask_bit(mask, i, size)) {
			addr[i] = element_linear(cpu, insn, offset_plus(insn, offset, i * size), size, ACCESS_WRITE);
			lin_probe_write(cpu, addr[i], size, 0);
		}
	for (unsigned i = 0; i < count; i++)
		if (mask_bit(mask, i, size))
			lin_write(cpu, addr[i], from->b + i * size, size, 0);
}

void rule_vmaskmov(struct cpu *cpu, const struct insn *insn)
{
	struct vex vex = vex_of(cpu, insn);
	bool integer = insn->opcode >= 0x80, store = integer ? insn->opcode & 2 : insn->opcode >= 0x2e;
	unsigned size = (integer ? vex.w : insn->opcode & 1) ? 8 : 4, count = (vex.wide ? 32 : 16) / size;
	struct ymm v[16];

	ymm_read_all(v);
	if (store)
		mask_store(cpu, insn, &v[vex.vvvv], &v[insn->reg], count, size);
	else
		mask_load(cpu, insn, &v[vex.vvvv], count, size);
}

/* ---- gathers ---- */

static int64_t gather_index(const struct ymm *index, unsigned i, bool qword)
{
	int64_t value;

	if (!qword)
		return ((const int32_t *)index->b)[i];
	memcpy(&value, index->b + 8 * i, 8);
	return value;
}

/*
 * Each element that has arrived is written back and its mask cleared before
 * the next is fetched: a fault finds what is done, and only the rest is
 * fetched when the instruction is run again.
 */
void rule_gather(struct cpu *cpu, const struct insn *insn)
{
	struct vex vex = vex_of(cpu, insn);
	bool qword_index = insn->opcode & 1;
	unsigned size = vex.w ? 8 : 4, count = (vex.wide ? 32 : 16) / (vex.w || qword_index ? 8 : 4), scale = vex.sib >> 6;
	unsigned index = (vex.sib >> 3 & 7) | (insn->rex & 2 ? 8 : 0);
	struct insn plain = *insn;
	struct ymm v[16], *to = &v[insn->reg], *mask = &v[vex.vvvv];

	if (insn->reg == index || insn->reg == vex.vvvv || index == vex.vvvv)
		cpu_raise_ud(cpu);
	ymm_read_all(v);
	plain.index = REG_NONE;                  /* of a vector register, not of a general one */
	uint64_t base = insn_offset(cpu, &plain);
	for (unsigned i = 0; i < count; i++) {
		uint64_t offset = offset_plus(insn, base, (uint64_t)gather_index(&v[index], i, qword_index) << scale);

		if (!mask_bit(mask, i, size))
			continue;
		seg_read(cpu, insn->seg, offset, to->b + i * size, size);
		io_element_done(cpu);
		memset(mask->b + i * size, 0, size);
		ymm_write(insn->reg, to);
		ymm_write(vex.vvvv, mask);
	}
	memset(mask, 0, sizeof(*mask));
	memset(to->b + count * size, 0, sizeof(*to) - count * size);
	ymm_write(insn->reg, to);
	ymm_write(vex.vvvv, mask);
}

/* ---- MASKMOVDQU, MASKMOVQ: bytes of a register to DS:rDI ---- */

static void masked_bytes(struct cpu *cpu, const struct insn *insn, const uint8_t *from, const uint8_t *mask, unsigned size)
{
	uint64_t base = reg_get(cpu, REG_RDI, insn->addrsize, true), addr[16];

	for (unsigned i = 0; i < size; i++)
		if (mask[i] & 0x80) {
			addr[i] = element_linear(cpu, insn, offset_plus(insn, base, i), 1, ACCESS_WRITE);
			lin_probe_write(cpu, addr[i], 1, 0);
		}
	for (unsigned i = 0; i < size; i++)
		if (mask[i] & 0x80)
			lin_store(cpu, addr[i], 1, from[i], 0);
}

/* An MMX instruction takes a pending x87 exception; ours, reading the registers, would take it from the host. */
static void check_pending(struct cpu *cpu)
{
	uint16_t fsw;

	asm volatile("fnstsw %0" : "=m"(fsw));
	if (fsw & 0x80)
		cpu_raise(cpu, VEC_MF);
}

static void check_available(struct cpu *cpu, bool mmx)
{
	if ((cpu->cr0 & CR0_EM) || (!mmx && !(cpu->cr4 & CR4_OSFXSR)))
		cpu_raise_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	if (mmx)
		check_pending(cpu);
}

void rule_maskmov(struct cpu *cpu, const struct insn *insn)
{
	bool mmx = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	struct ymm v[16];

	if (insn->encoding == ENC_LEGACY)
		check_available(cpu, mmx);
	if (mmx)
		mm_read_all(v);
	else
		xmm_read_all(v);
	if (mmx)
		masked_bytes(cpu, insn, v[insn->reg & 7].b, v[insn->rm & 7].b, 8);
	else
		masked_bytes(cpu, insn, v[insn->reg].b, v[insn->rm].b, 16);
}
