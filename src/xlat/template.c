/*
 * Decoded instructions, kept to make others from: those that differ only in
 * displacement and immediate, and in where they stand. Most of what a guest
 * executes is of few forms, and decoding a form in full costs many times what
 * copying it does.
 *
 * Only 64-bit code, and opcodes whose decoding and classification do not look
 * at the constants (for shifts: that have the same). What else they depend on
 * is in the key: prefixes, opcode, ModRM, SIB, and the block's mode.
 */
#include "xlat/internal.h"

/* By opcode: is the instruction fit, does it have ModRM? Maps 0 (one byte) and 1 (0F). */
enum { FIT = 1, MODRM = 2 };

static unsigned fit_one_byte(uint8_t op)
{
	switch (op) {
	case 0x00 ... 0x3f: return (op & 7) < 4 ? FIT | MODRM : (op & 7) < 6 ? FIT : 0;
	case 0x63: case 0x69: case 0x6b: case 0x80: case 0x81: case 0x83: case 0x84: case 0x85: case 0x88 ... 0x8b: case 0x8d:
	case 0xc0: case 0xc1: case 0xc6: case 0xc7: case 0xd1: case 0xd3: case 0xf6: case 0xf7: case 0xfe: case 0xff:
		return FIT | MODRM;
	case 0x50 ... 0x5f: case 0x68: case 0x6a: case 0x70 ... 0x7f: case 0x90: case 0x98: case 0x99: case 0xa8: case 0xa9:
	case 0xb0 ... 0xbf: case 0xc3: case 0xc9: case 0xe8: case 0xe9: case 0xeb:
		return FIT;
	default:
		return 0;
	}
}

static unsigned fit_two_byte(uint8_t op)
{
	switch (op) {
	case 0x10 ... 0x17: case 0x1f: case 0x28 ... 0x2f: case 0x40 ... 0x4f: case 0x54 ... 0x57: case 0x60 ... 0x6f: case 0x74 ... 0x76: case 0x7e: case 0x7f:
	case 0x90 ... 0x9f: case 0xa3: case 0xab: case 0xaf: case 0xb3: case 0xb6: case 0xb7: case 0xba: case 0xbb: case 0xbe: case 0xbf: case 0xd4: case 0xd6:
	case 0xda: case 0xdb: case 0xde: case 0xdf: case 0xeb: case 0xef: case 0xfa: case 0xfb: case 0xfe:
		return FIT | MODRM;
	case 0x80 ... 0x8f: case 0xc8 ... 0xcf:
		return FIT;
	default:
		return 0;
	}
}

/* The bytes without constants as a number that is not 0, or 0 if the instruction is not fit. */
static uint64_t key_of(const uint8_t *bytes)
{
	unsigned n = 0, fit;
	while (n < 3 && (bytes[n] == 0x66 || bytes[n] == 0x64 || bytes[n] == 0x65))
		n++;
	if ((bytes[n] & 0xf0) == 0x40)
		n++;
	if (bytes[n] == 0x0f)
		fit = fit_two_byte(bytes[++n]);
	else
		fit = fit_one_byte(bytes[n]);
	n++;
	if (!fit)
		return 0;
	if (fit & MODRM) {
		uint8_t modrm = bytes[n++];
		if ((modrm & 7) == 4 && modrm < 0xc0)
			n++;
	}
	if (n > 7)
		return 0;
	uint64_t key;
	memcpy(&key, bytes, sizeof key);
	return (key & (BIT(8 * n) - 1)) | (uint64_t)n << 56;
}

static struct template *place_of(struct engine *en, uint64_t key, uint32_t mode)
{
	uint64_t h = (key ^ (uint64_t)mode << 33) * 0x9e3779b97f4a7c15ull;
	return &en->templates[h >> 40 & (TEMPLATES - 1)];
}

static int64_t constant(const uint8_t *from, unsigned size, bool is_signed)
{
	uint64_t v = 0;
	if (!size)
		return 0;
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)from[i] << 8 * i;
	unsigned rest = 64 - 8 * size;
	return is_signed ? (int64_t)(v << rest) >> rest : (int64_t)v;
}

static bool is_direct_branch(const struct xinsn *x) { return x->kind == KIND_JCC || x->kind == KIND_JMP || x->kind == KIND_CALL; }

bool template_use(struct translation_unit *u, struct xinsn *x, const uint8_t bytes[15])
{
	uint64_t rip = x->rip;
	if (!code64(u))
		return false;
	uint64_t key = key_of(bytes);
	const struct template *t = place_of(u->engine, key, u->mode);
	if (!key || t->key != key || t->mode != u->mode)
		return false;
	uint64_t imm = constant(bytes + t->imm_at, t->x.in.imm_size, t->imm_signed);
	if (t->same_imm && imm != t->x.in.imm)
		return false;
	*x = t->x;
	x->rip = rip;
	x->next = rip + x->in.len;
	memcpy(x->in.bytes, bytes, x->in.len);
	x->in.imm = imm;
	if (x->in.rip_relative)
		x->in.disp = x->next + constant(bytes + t->disp_at, t->disp_size, true);
	else if (t->disp_size)
		x->in.disp = constant(bytes + t->disp_at, t->disp_size, true);
	if (is_direct_branch(x))
		x->target = x->next + imm;
	return true;
}

void template_keep(struct translation_unit *u, const struct xinsn *x, const ZydisDecodedInstruction *z)
{
	uint64_t key = code64(u) ? key_of(x->in.bytes) : 0;
	if (!key || x->in.mnemonic == ZYDIS_MNEMONIC_INVALID || x->in.len < key >> 56)
		return;
	*place_of(u->engine, key, u->mode) = (struct template){
		.key = key, .mode = u->mode, .x = *x, .disp_at = z->raw.disp.offset, .disp_size = z->raw.disp.size / 8, .imm_at = z->raw.imm[0].offset,
		.imm_signed = z->raw.imm[0].is_signed, .same_imm = x->in.map == 0 && (x->in.opcode == 0xc0 || x->in.opcode == 0xc1) };
}
