/* The instructions of the intercept fuzzer: opcodes, and any prefixes and operands for them. See code.h. */
#include "code.h"

static const struct insn insns[] = {
	{ 2, { 0x0f, 0xa2 }, .strange = true }, { 2, { 0x0f, 0x31 }, .strange = true }, { 3, { 0x0f, 0x01, 0xf9 }, .strange = true },
	{ 2, { 0x0f, 0x33 }, .strange = true }, { 2, { 0x0f, 0x32 }, .strange = true }, { 2, { 0x0f, 0x30 } }, { 1, { 0xf4 } },
	{ 2, { 0x0f, 0x08 } }, { 2, { 0x0f, 0x09 } }, { 2, { 0x0f, 0x06 } }, { 2, { 0xf3, 0x90 } }, { 2, { 0x0f, 0x37 } }, { 2, { 0x0f, 0xaa } },
	{ 1, { 0xcc } }, { 1, { 0xf1 } }, { 2, { 0xcd, 0x80 } }, { 2, { 0x0f, 0x0b } }, { 1, { 0xce } }, { 1, { 0xfa } }, { 1, { 0x9c } },
	{ 2, { 0x0f, 0x34 } }, { 2, { 0x0f, 0x05 } },
	{ 2, { 0x0f, 0x01 }, MEMORY, 0 }, { 2, { 0x0f, 0x01 }, MEMORY, 1 }, { 2, { 0x0f, 0x01 }, MEMORY, 2 }, { 2, { 0x0f, 0x01 }, MEMORY, 3 },
	{ 2, { 0x0f, 0x01 }, EITHER, 4 }, { 2, { 0x0f, 0x01 }, EITHER, 6 }, { 2, { 0x0f, 0x01 }, MEMORY, 7 },
	{ 2, { 0x0f, 0x00 }, EITHER, 0 }, { 2, { 0x0f, 0x00 }, EITHER, 1 }, { 2, { 0x0f, 0x00 }, EITHER, 2 }, { 2, { 0x0f, 0x00 }, EITHER, 3 },
	{ 2, { 0x0f, 0x20 }, CONTROL_REGISTER }, { 2, { 0x0f, 0x22 }, CONTROL_REGISTER }, { 2, { 0x0f, 0x22 }, CONTROL_REGISTER },
	{ 2, { 0x0f, 0x21 }, DEBUG_REGISTER }, { 2, { 0x0f, 0x23 }, DEBUG_REGISTER },
	{ 1, { 0xe4 }, PORT }, { 1, { 0xe5 }, PORT }, { 1, { 0xe6 }, PORT }, { 1, { 0xe7 }, PORT },
	{ 1, { 0xec } }, { 1, { 0xed } }, { 1, { 0xee } }, { 1, { 0xef } }, { 1, { 0x6c } }, { 1, { 0x6d } }, { 1, { 0x6e } }, { 1, { 0x6f } },
	{ 2, { 0xf3, 0x6c } }, { 2, { 0xf3, 0x6d } }, { 2, { 0xf3, 0x6e } }, { 2, { 0xf3, 0x6f } },
	{ 3, { 0x0f, 0x01, 0xc1 } }, { 3, { 0x0f, 0x01, 0xc2 } }, { 3, { 0x0f, 0x01, 0xc3 } }, { 3, { 0x0f, 0x01, 0xc4 } },
	{ 2, { 0x0f, 0x78 }, EITHER, ANY }, { 2, { 0x0f, 0x79 }, EITHER, ANY }, { 2, { 0x0f, 0xc7 }, MEMORY, 6 }, { 2, { 0x0f, 0xc7 }, MEMORY, 7 },
	{ 3, { 0x66, 0x0f, 0xc7 }, MEMORY, 6 }, { 3, { 0xf3, 0x0f, 0xc7 }, MEMORY, 6 },
	{ 2, { 0x0f, 0xc7 }, REGISTER, 6, ECX1 | 30, true },
	{ 3, { 0x0f, 0x01, 0xd1 } },
};

static void put(struct code *c, unsigned byte) { c->bytes[c->length++] = byte; }

static void put_prefixes(struct code *c, bool memory)
{
	static const uint8_t segments[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };

	if (one_in(8))
		put(c, 0x66);
	if (memory && one_in(6))
		put(c, 0x67);
	if (memory && one_in(4))
		put(c, segments[chance() % ARRAY_SIZE(segments)]);
}

/* Opcodes with a mandatory prefix keep it in front of REX. */
static void put_opcode(struct code *c, unsigned rex)
{
	unsigned i = 0;

	if (c->insn->length > 1 && (c->insn->bytes[0] == 0x66 || c->insn->bytes[0] == 0xf3))
		put(c, c->insn->bytes[i++]);
	if (rex)
		put(c, rex);
	while (i < c->insn->length)
		put(c, c->insn->bytes[i++]);
}

/* ModRM, SIB and displacement of any form. */
static void put_memory(struct code *c, unsigned reg)
{
	unsigned mod = chance() % 3, rm = chance() % 8;

	c->modrm = c->length;
	put(c, mod << 6 | reg << 3 | rm);
	if (c->mode16) {
		for (unsigned n = mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0; n; n--)
			put(c, one_in(2) ? 0 : chance());
		return;
	}
	unsigned base = rm;
	if (rm == 4) {
		unsigned sib = chance();
		put(c, sib);
		base = sib & 7;
	}
	for (unsigned n = mod == 1 ? 1 : mod == 2 || base == 5 ? 4 : 0; n; n--)
		put(c, n == 4 || n == 1 ? chance() & 0x7f : 0);
}

static void put_operands(struct code *c)
{
	static const uint8_t controls[] = { 0, 0, 2, 3, 3, 4, 4, 8, 1, 7 };
	unsigned operand = c->insn->operand, digit = c->insn->digit == ANY ? chance() % 8 : c->insn->digit, rm = chance() % 8;

	if (operand == EITHER)
		operand = one_in(2) ? MEMORY : REGISTER;
	switch (operand) {
	case MEMORY:
		put_memory(c, digit);
		break;
	case REGISTER:
		put(c, 0xc0 | digit << 3 | (c->insn->strange && rm == 4 ? 0 : rm));     /* RSP is among what is compared */
		break;
	case CONTROL_REGISTER:
		put(c, 0xc0 | (controls[chance() % ARRAY_SIZE(controls)] & 7) << 3 | rm);
		break;
	case DEBUG_REGISTER:
		put(c, 0xc0 | (chance() % 8) << 3 | rm);
		break;
	case PORT:
		put(c, 0xe0 + chance() % 8);
		break;
	}
}

bool is_string(const struct insn *insn)
{
	uint8_t last = insn->bytes[insn->length - 1];

	return last >= 0x6c && last <= 0x6f;
}

static bool same_feature(unsigned feature)
{
	unsigned at = feature & ECX1 ? ECX1_CAP : EBX7_CAP;

	return !feature || !((caps[at] ^ peer_caps[at]) >> (feature & 31) & 1);
}

void make_code(struct code *c, enum shape shape)
{
	*c = (struct code){ .shape = shape, .insn = &insns[chance() % ARRAY_SIZE(insns)] };
	/* Bochs 2.7 counts INT n that virtual-8086 mode refuses as an event in delivery. */
	while (!same_feature(c->insn->feature) || (c->insn->bytes[0] == 0xcd && shape == SHAPE_VM86))
		c->insn = &insns[chance() % ARRAY_SIZE(insns)];
	put_prefixes(c, c->insn->operand == MEMORY || c->insn->operand == EITHER || is_string(c->insn));
	bool prefix67 = false;
	for (unsigned i = 0; i < c->length; i++)
		prefix67 |= c->bytes[i] == 0x67;
	c->rex = shape == SHAPE_LONG && one_in(3) ? 0x40 + chance() % 16 : 0;
	put_opcode(c, c->insn->operand == DEBUG_REGISTER ? c->rex & ~4 : c->rex);     /* Bochs 2.7 takes DR8 for DR0 */
	c->mode16 = (shape == SHAPE_VM86 || shape == SHAPE_REAL) != prefix67 && shape != SHAPE_LONG;
	put_operands(c);
}

/* SGDT, SIDT, LGDT, LIDT: an operand of two parts. */
static bool is_table(const struct insn *i)
{
	return i->operand == MEMORY && i->bytes[0] == 0x0f && i->bytes[1] == 0x01 && i->digit < 4;
}

static unsigned offset16(unsigned modrm, const uint64_t gpr[16])
{
	enum { NONE, BX = 3, BP = 5, SI = 6, DI = 7 };
	static const uint8_t bases[] = { BX, BX, BP, BP, NONE, NONE, BP, BX }, indexes[] = { SI, DI, SI, DI, SI, DI, NONE, NONE };
	unsigned rm = modrm & 7;

	if (rm == 6 && modrm < 0x40)
		return 0;
	return (bases[rm] ? gpr[bases[rm]] : 0) + (indexes[rm] ? gpr[indexes[rm]] : 0);
}

/* Without displacement; next: where the instruction ends. */
static unsigned offset32(const struct code *c, const uint64_t gpr[16], unsigned next)
{
	unsigned modrm = c->bytes[c->modrm], sib = c->bytes[c->modrm + 1], base = modrm & 7, offset = 0;
	bool has_sib = base == 4, absolute = modrm < 0x40;

	if (has_sib) {
		unsigned index = (sib >> 3 & 7) | (c->rex & 2) << 2;
		base = sib & 7;
		offset = index == 4 ? 0 : gpr[index] << (sib >> 6);
	}
	if (base == 5 && absolute)
		return offset + (!has_sib && c->shape == SHAPE_LONG ? next : 0);
	return offset + gpr[base | (c->rex & 1) << 3];
}

/* A displacement is the last part of an instruction. */
static unsigned displacement(const struct code *c)
{
	const uint8_t *end = c->bytes + c->length;
	unsigned n = end - (c->bytes + c->modrm + 1);

	if (!c->mode16 && (c->bytes[c->modrm] & 7) == 4)
		n--;
	if (n == 1)
		return (int8_t)end[-1];
	return n ? *(const uint16_t *)(end - n) : 0;
}

/* Only the offset in the page counts, so neither do segment bases and address sizes. */
bool crosses_page_in_parts(const struct code *c, const uint64_t gpr[16], unsigned place)
{
	if (!is_table(c->insn))
		return false;
	unsigned offset = c->mode16 ? offset16(c->bytes[c->modrm], gpr) : offset32(c, gpr, place + c->length);
	return ((offset + displacement(c)) & 0xfff) > 0x1000 - 10;
}
