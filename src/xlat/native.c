/*
 * Copied instructions: the guest's own encoding with registers renamed and the
 * memory operand replaced. Guest registers without a host home (host_reg())
 * are loaded into scratch registers around the instruction; where r13 and
 * r14 do not suffice, a register that the instruction does not use is borrowed.
 */
#include "xlat/internal.h"

struct renaming {
	int8_t host[FIELD_COUNT];        /* host register of each general-register field, or -1 to keep the encoded one */
	int8_t temp[FIELD_COUNT];        /* guest register to load and store around, or -1 */
	int8_t borrowed[2];
	unsigned nborrowed;
};

/* Legacy opcode bytes whose meaning is not that of 64-bit mode, or that carry a moffs. */
static void legacy_opcode(const struct xinsn *x, uint8_t *opcode, int *modrm_reg)
{
	const struct insn *in = &x->in;
	*opcode = in->opcode;
	if (in->map)
		return;
	if (in->opcode >= 0x40 && in->opcode <= 0x4f) {          /* INC, DEC of 16- and 32-bit modes */
		*opcode = 0xff;
		*modrm_reg = in->opcode >= 0x48;
	} else if (in->opcode >= 0xa0 && in->opcode <= 0xa3) {   /* moffs */
		static const uint8_t plain[4] = { 0x8a, 0x8b, 0x88, 0x89 };
		*opcode = plain[in->opcode & 3];
		*modrm_reg = H_RAX;
	} else if (in->opcode == 0x82) {
		*opcode = 0x80;
	}
}

static void put_prefixes(struct emit *e, const struct xinsn *x)
{
	const struct insn *in = &x->in;
	if (x->simd ? in->opsize_prefix : x->force66 || (in->opsize_prefix && in->opsize == 2))
		put8(e, 0x66);
	if (in->rep)
		put8(e, in->rep);
	if (in->lock)
		put8(e, 0xf0);
}

static void put_immediates(struct translation_unit *u, const struct xinsn *x)
{
	struct emit *e = &u->e;
	if (x->in.map == 0 && x->in.opcode >= 0xa0 && x->in.opcode <= 0xa3)
		return;
	note_patch(u, x, e->p);
	for (unsigned i = x->imm_offset; i < x->in.len; i++)
		put8(e, x->in.bytes[i]);
}

static void put_legacy(struct translation_unit *u, const struct xinsn *x, const struct renaming *r, const struct mem_operand *m)
{
	struct emit *e = &u->e;
	const struct insn *in = &x->in;
	uint8_t opcode;
	int reg = r->host[FIELD_REG] >= 0 ? r->host[FIELD_REG] : in->reg;
	int rm = r->host[FIELD_RM] >= 0 ? r->host[FIELD_RM] : in->rm;
	bool modrm = in->has_modrm;
	int inc_dec = in->reg;
	legacy_opcode(x, &opcode, &inc_dec);
	if (in->map == 0 && in->opcode >= 0x40 && in->opcode <= 0x4f) {
		modrm = true;
		reg = inc_dec;
		rm = r->host[FIELD_OPCODE];
	} else if (in->map == 0 && in->opcode >= 0xa0 && in->opcode <= 0xa3) {
		modrm = true;
		reg = H_RAX;
	}
	int w = in->rex >> 3 & 1;
	int rex = w << 3 | (modrm && reg > 7) << 2;
	if (m)
		rex |= (m->index > 7) << 1 | (m->base > 7);
	else if (modrm)
		rex |= rm > 7;
	else if (r->host[FIELD_OPCODE] >= 0)
		rex |= r->host[FIELD_OPCODE] > 7;
	put_prefixes(e, x);
	/* A byte register 4..7 means SPL..DIL with any REX, AH..BH without. */
	if (rex || (in->rex && !x->high_byte))
		put8(e, 0x40 | rex);
	if (in->map)
		put8(e, 0x0f);
	if (in->map == 2)
		put8(e, 0x38);
	else if (in->map == 3)
		put8(e, 0x3a);
	if (!modrm && r->host[FIELD_OPCODE] >= 0)
		opcode = (opcode & ~7) | (r->host[FIELD_OPCODE] & 7);
	put8(e, opcode);
	if (m)
		put_modrm(e, reg, *m);
	else if (modrm)
		put8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
	put_immediates(u, x);
}

/* Blends by a register that the immediate's upper half names. */
static bool names_register_in_immediate(const struct insn *in) { return in->map == 3 && in->opcode >= 0x4a && in->opcode <= 0x4c; }

/* Has a general register whose size VEX.W gives, in 64-bit code only? */
static bool w_sizes_gpr(const struct xinsn *x)
{
	for (int f = 0; f < FIELD_COUNT; f++)
		if (x->field[f].gpr >= 0)
			return true;
	switch (x->in.mnemonic) {
	case ZYDIS_MNEMONIC_VPCMPESTRI: case ZYDIS_MNEMONIC_VPCMPESTRM: case ZYDIS_MNEMONIC_VCVTSI2SS: case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VMOVD:
		return true;
	default:
		return false;
	}
}

/*
 * VEX, always in its three-byte form. Outside 64-bit code the top bits of
 * register numbers do not count, so they may stand there.
 */
static void put_vex(struct translation_unit *u, const struct xinsn *x, const struct renaming *r, const struct mem_operand *m)
{
	struct emit *e = &u->e;
	const struct insn *in = &x->in;
	const uint8_t *v = in->bytes;
	while (*v != 0xc4 && *v != 0xc5)
		v++;
	uint8_t last = v[0] == 0xc5 ? v[1] : v[2];
	int w = v[0] == 0xc5 || (!code64(u) && w_sizes_gpr(x)) ? 0 : last >> 7;
	int vvvv = r->host[FIELD_VVVV] >= 0 ? r->host[FIELD_VVVV] : ~last >> 3 & (code64(u) ? 15 : 7);
	int reg = r->host[FIELD_REG] >= 0 ? r->host[FIELD_REG] : in->reg;
	int rm = r->host[FIELD_RM] >= 0 ? r->host[FIELD_RM] : in->rm;
	int b = m ? m->base > 7 : rm > 7, xbit = m ? m->index > 7 : 0;
	put8(e, 0xc4);
	put8(e, (reg > 7 ? 0 : 0x80) | (xbit ? 0 : 0x40) | (b ? 0 : 0x20) | in->map);
	put8(e, w << 7 | (~vvvv & 15) << 3 | (last & 7));
	put8(e, in->opcode);
	if (m)
		put_modrm(e, reg, *m);
	else if (in->has_modrm)
		put8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
	put_immediates(u, x);
	if (!code64(u) && names_register_in_immediate(in))
		e->p[-1] &= 0x7f;
}

/* A host register that the instruction does not use; saved in spill[1 + n]. */
static int borrow(struct translation_unit *u, const struct xinsn *x, struct renaming *r, bool low)
{
	static const int8_t candidates[] = { H_RSI, H_RDI, H_RBX, H_RBP, H_R8, H_R9, H_R12 };
	for (unsigned i = 0; i < (low ? 4u : ARRAY_SIZE(candidates)); i++) {
		int h = candidates[i];
		if (x->used >> h & 1 || (r->nborrowed && r->borrowed[0] == h))
			continue;
		put_store(&u->e, h, AT_SPILL(&u->e, 1 + r->nborrowed));
		r->borrowed[r->nborrowed++] = h;
		return h;
	}
	return -1;
}

static void put_return_borrowed(struct translation_unit *u, const struct renaming *r)
{
	for (unsigned i = 0; i < r->nborrowed; i++)
		put_load(&u->e, r->borrowed[i], AT_SPILL(&u->e, 1 + i));
}

static int temp_for(struct translation_unit *u, const struct xinsn *x, struct renaming *r, uint32_t *scratch)
{
	for (int h = H_R13; h <= H_R14; h++) {
		if (*scratch >> h & 1) {
			*scratch &= ~(1u << h);
			return h;
		}
	}
	return borrow(u, x, r, false);
}

/* Does what the register held matter? BSF and BSR of zero may leave it alone. */
static bool gpr_read(const struct xinsn *x, int guest)
{
	if (x->in.map == 1 && (x->in.opcode == 0xbc || x->in.opcode == 0xbd))
		return true;
	for (int f = 0; f < FIELD_COUNT; f++)
		if (x->field[f].gpr == guest && x->field[f].read)
			return true;
	return false;
}

/* Gives every general-register field its host register, loading homeless ones. */
static void rename_fields(struct translation_unit *u, const struct xinsn *x, struct renaming *r, uint32_t scratch)
{
	for (int f = 0; f < FIELD_COUNT; f++)
		r->host[f] = r->temp[f] = -1;
	for (int f = 0; f < FIELD_COUNT; f++) {
		int g = x->field[f].gpr;
		if (g < 0)
			continue;
		r->host[f] = host_reg(g);
		if (x->high_byte && g == REG_RSP) {              /* its home needs REX */
			r->host[f] = borrow(u, x, r, true);
			r->temp[f] = g;
			put_mov(&u->e, r->host[f], H_R15);
			continue;
		}
		for (int k = 0; k < f && r->host[f] < 0; k++)
			if (x->field[k].gpr == g)
				r->host[f] = r->host[k];         /* the same guest register twice: one temp */
		if (r->host[f] >= 0)
			continue;
		r->host[f] = temp_for(u, x, r, &scratch);
		r->temp[f] = g;
		if (gpr_read(x, g))
			put_load(&u->e, r->host[f], AT_GPR(&u->e, g));
	}
}

static bool field_written(const struct xinsn *x, int guest)
{
	for (int f = 0; f < FIELD_COUNT; f++)
		if (x->field[f].gpr == guest && x->field[f].write)
			return true;
	return false;
}

static void put_temps_back(struct translation_unit *u, const struct xinsn *x, const struct renaming *r)
{
	for (int f = 0; f < FIELD_COUNT; f++)
		if (r->temp[f] == REG_RSP)
			put_mov(&u->e, H_R15, r->host[f]);
		else if (r->temp[f] >= 0 && field_written(x, r->temp[f]))
			put_store(&u->e, r->host[f], AT_GPR(&u->e, r->temp[f]));
}

static bool needs_temps(const struct xinsn *x)
{
	for (int f = 0; f < FIELD_COUNT; f++)
		if (x->field[f].gpr >= 0 && host_reg(x->field[f].gpr) < 0)
			return true;
	return false;
}

/* After the instruction, since one that faults leaves them alone. */
static void put_fpu_pointers(struct translation_unit *u, const struct xinsn *x)
{
	struct emit *e = &u->e;
	if (x->in.mem && x->in.mem_size) {
		put_effective_address(u, x);
		if (!(u->mode & MODE_PROTECTED))         /* environments of real mode hold linear addresses */
			put_segment_base(u, x->in.seg);
		put_store(e, H_R13, AT(e, fpu_dp));
	}
	put_store_imm64(e, AT(e, fpu_ip), x->rip);
	uint16_t fop = (x->in.opcode & 7) << 8 | x->in.modrm;
	put8(e, 0x66);                                           /* mov word [fpu_op], fop */
	put_op_mem(e, 0, 0xc7, 0, AT(e, fpu_op));
	put8(e, fop);
	put8(e, fop >> 8);
}

static void note_map(struct translation_unit *u, const struct xinsn *x, const struct renaming *r)
{
	struct block *b = u->block;
	struct insn_map *m = &b->map[b->nmap++];
	unsigned guest = x->rip - b->rip;
	m->host_offset = u->e.p - b->entry;
	m->guest_offset_lo = guest;
	m->guest_offset_hi = guest >> 8;
	m->fpu = x->fpu_class;
	for (unsigned i = 0; i < 2; i++)
		m->borrowed[i] = i < r->nborrowed ? r->borrowed[i] : 0xff;
}

void note_access(struct translation_unit *u, const struct xinsn *x)
{
	note_map(u, x, &(struct renaming){ .nborrowed = 0 });
}

/* Emits the renamed instruction; m: NULL for register forms. The operand's registers are r13/r14 at most. */
void put_renamed(struct translation_unit *u, const struct xinsn *x, struct mem_operand *m)
{
	struct emit *e = &u->e;
	struct renaming r = { .nborrowed = 0 };
	uint32_t scratch = 1u << H_R13 | 1u << H_R14;
	int low = -1;
	if (m) {
		if (m->index >= 0 && (needs_temps(x) || x->high_byte)) {
			put_lea(e, H_R14, *m);
			*m = mem_base(H_R14, 0);
		}
		scratch = m->index >= 0 ? 0 : 1u << H_R13;
		if (x->high_byte) {                              /* no REX allowed: a low address register */
			low = borrow(u, x, &r, true);
			put_mov(e, low, H_R14);
			*m = mem_base(low, 0);
		}
	}
	struct renaming fields = r;
	rename_fields(u, x, &fields, scratch);
	note_map(u, x, &fields);
	if (x->in.encoding == ENC_VEX)
		put_vex(u, x, &fields, m);
	else
		put_legacy(u, x, &fields, m);
	put_temps_back(u, x, &fields);
	put_return_borrowed(u, &fields);
}

/* ADD to CMP, TEST and MOV between two registers: the same with the operands' roles exchanged. */
static bool turned(uint8_t opcode, uint8_t *other)
{
	*other = opcode == 0x84 || opcode == 0x85 ? opcode : opcode ^ 2;
	return (opcode < 0x40 && (opcode & 7) < 4) || opcode == 0x84 || opcode == 0x85 || (opcode >= 0x88 && opcode <= 0x8b);
}

/* Does the instruction do the same with its r/m operand in memory, flags and all? */
static bool rm_may_be_memory(const struct insn *in)
{
	uint8_t op = in->opcode, other;
	if (in->encoding != ENC_LEGACY || in->lock || in->rep)
		return false;
	if (in->map == 1)
		return (op & 0xf0) == 0x40 || (op & 0xf0) == 0x90 || op == 0xaf || (op & 0xf6) == 0xb6;      /* CMOV, SET, IMUL, MOVZX, MOVSX */
	if (in->map)
		return false;
	switch (op) {
	case 0x63: case 0x69: case 0x6b: case 0x80: case 0x81: case 0x83: case 0xc0: case 0xc1: case 0xc6: case 0xc7:
	case 0xd0: case 0xd1: case 0xd2: case 0xd3: case 0xf6: case 0xf7: case 0xfe: case 0xff:
		return true;
	default:
		return turned(op, &other);
	}
}

/* Bytes that the instruction reads or writes of its r/m operand. */
static unsigned rm_size(const struct insn *in)
{
	if (in->map == 1 && ((in->opcode & 0xf6) == 0xb6 || (in->opcode & 0xf0) == 0x90))
		return in->opcode & 1 && (in->opcode & 0xf0) != 0x90 ? 2 : 1;            /* MOVZX, MOVSX; SET */
	return in->map == 0 && in->opcode == 0x63 ? 4 : in->opsize;
}

/*
 * Register forms with an operand that has no home: its place in struct cpu
 * is the memory operand of the same instruction. false: not of that kind.
 * Nor are bytes and words: a load of a part waits until the store of the
 * whole has reached the cache, where others find what was stored at once.
 */
static bool put_in_place(struct translation_unit *u, const struct xinsn *x)
{
	struct emit *e = &u->e;
	struct xinsn y = *x;
	int reg = x->field[FIELD_REG].gpr, rm = x->field[FIELD_RM].gpr;
	if (x->high_byte || x->simd || x->in.mem || rm < 0 || !rm_may_be_memory(&x->in) || rm_size(&x->in) < 4)
		return false;
	if (host_reg(rm) >= 0) {
		if (reg < 0 || host_reg(reg) >= 0 || x->in.map || !turned(x->in.opcode, &y.in.opcode))
			return false;
		y.field[FIELD_REG] = x->field[FIELD_RM];
		y.field[FIELD_RM] = x->field[FIELD_REG];
		reg = rm;
		rm = y.field[FIELD_RM].gpr;
	}
	if (y.field[FIELD_RM].write && x->in.opsize != 8)        /* a read of all of it would wait for two stores */
		return false;
	struct renaming r = { .host = { -1, -1, -1, -1 } };
	struct mem_operand slot = AT_GPR(e, rm);
	if (reg >= 0) {
		r.host[FIELD_REG] = host_reg(reg) >= 0 ? host_reg(reg) : H_R13;
		if (host_reg(reg) < 0 && y.field[FIELD_REG].read)
			put_load(e, H_R13, AT_GPR(e, reg));
	}
	note_map(u, x, &r);
	put_legacy(u, &y, &r, &slot);
	if (reg >= 0 && host_reg(reg) < 0 && y.field[FIELD_REG].write)
		put_store(e, H_R13, AT_GPR(e, reg));
	return true;
}

void put_register_form(struct translation_unit *u, const struct xinsn *x)
{
	struct renaming r;
	for (int f = 0; f < FIELD_COUNT; f++)
		r.host[f] = x->field[f].gpr >= 0 ? host_reg(x->field[f].gpr) : -1;
	put_legacy(u, x, &r, NULL);
}

/* VZEROUPPER and VZEROALL leave registers 8 to 15 alone outside 64-bit code. */
static bool put_vzero(struct translation_unit *u, const struct xinsn *x)
{
	struct emit *e = &u->e;
	if (x->in.mnemonic != ZYDIS_MNEMONIC_VZEROUPPER && x->in.mnemonic != ZYDIS_MNEMONIC_VZEROALL)
		return false;
	if (code64(u))
		return false;
	bool all = x->in.mnemonic == ZYDIS_MNEMONIC_VZEROALL;
	for (int r = 0; r < 8; r++) {                            /* vmovaps xmm, xmm or vxorps xmm, xmm, xmm */
		put8(e, 0xc5);
		put8(e, all ? 0x80 | (~r & 15) << 3 : 0xf8);
		put8(e, all ? 0x57 : 0x28);
		put8(e, 0xc0 | r << 3 | r);
	}
	return true;
}

void put_native(struct translation_unit *u, struct xinsn *x)
{
	if (put_vzero(u, x))
		return;
	if (x->in.mem && x->in.mem_size) {
		unsigned cold = u->ncold;
		struct mem_operand m = put_operand(u, x);
		put_renamed(u, x, &m);
		if (operand_commits(u, x))
			put_commit(u, x);
		if (u->ncold > cold && x->in.mem_write && u->cold[cold].kind == COLD_ACCESS) {
			u->cold[cold].copy = x;
			u->cold[cold].after = u->e.p;
		}
	} else if (!put_in_place(u, x)) {
		put_renamed(u, x, NULL);
	}
	if (x->x87_op)
		put_fpu_pointers(u, x);
}

/* LEA: the address is computed as for an access, straight into the register if sizes allow. */
void put_lea_insn(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	const struct insn *in = &x->in;
	int g = x->field[FIELD_REG].gpr, to = host_reg(g);
	bool direct = to >= 0 && in->opsize >= 4;
	put_address(u, x, direct ? to : H_R13);
	if (in->opsize == 4 && in->addrsize == 8)
		put_mov32(e, direct ? to : H_R13, direct ? to : H_R13);          /* zero-extend */
	if (direct)
		return;
	if (in->opsize == 2) {
		put8(e, 0x66);
		if (to >= 0)
			put_op_reg(e, 0, 0x89, H_R13, to);
		else
			put_op_mem(e, 0, 0x89, H_R13, AT_GPR(e, g));
		return;
	}
	put_store(e, H_R13, AT_GPR(e, g));
}

/*
 * BT, BTS, BTR, BTC with a register bit offset: the offset selects a word far
 * from the operand, so address and offset are computed apart.
 */
void put_bit_string(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	const struct insn *in = &x->in;
	int g = x->field[FIELD_REG].gpr, size = in->opsize;
	put_effective_address(u, x);
	if (!u->careful && (in->seg == SEG_FS || in->seg == SEG_GS))
		put_segment_base(u, in->seg);
	put_store(e, H_RAX, AT_SPILL(e, 0));
	int from = g == REG_RAX ? H_RAX : put_guest_reg(u, g, H_R14);
	if (size == 8)
		put_mov(e, H_R14, from);
	else if (size == 4)
		put_op_reg(e, 1, 0x63, H_R14, from);             /* movsxd */
	else
		put_op_reg(e, 1, 0x0fbf, H_R14, from);           /* movsx r64, r16 */
	put_flags_to_ax(e);
	put_op_reg(e, 1, 0xc1, 7, H_R14);                        /* sar r14, 3 */
	put8(e, 3);
	put_alu_imm(e, 1, 4, H_R14, -size);
	put_op_reg(e, in->addrsize == 8, 0x01, H_R14, H_R13);    /* add r13, r14 */
	if (in->addrsize == 2)
		put_op_reg(e, 0, 0x0fb7, H_R13, H_R13);
	put_flags_from_ax(e);
	put_load(e, H_RAX, AT_SPILL(e, 0));
	struct mem_operand m = put_access(u, x, in->seg, size, ACCESS_READ | (in->mem_write ? ACCESS_WRITE : 0), 0);
	if (m.index >= 0) {
		put_lea(e, H_R14, m);
		m = mem_base(H_R14, 0);
	}
	/* The masked bit offset in r13. rorx/pext would cost as much: 8*size is a power of two, so MOVZX and BZHI-like masking by AND. */
	put_store(e, H_RAX, AT_SPILL(e, 0));
	from = g == REG_RAX ? H_RAX : put_guest_reg(u, g, H_R13);
	put_mov(e, H_R13, from);
	put_flags_to_ax(e);
	put_alu_imm(e, 0, 4, H_R13, 8 * size - 1);
	put_flags_from_ax(e);
	put_load(e, H_RAX, AT_SPILL(e, 0));
	struct renaming r;
	memset(&r, -1, sizeof r);
	r.nborrowed = 0;
	r.host[FIELD_REG] = H_R13;
	note_map(u, x, &r);
	put_legacy(u, x, &r, &m);
	if (operand_commits(u, x))
		put_commit(u, x);
}
