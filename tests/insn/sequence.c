/*
 * Blocks of random instructions: flags stay live from one to another, registers
 * are renamed side by side, exceptions leave in the middle. A few registers
 * hold addresses and no instruction may write them.
 */
#include "insn.h"

static bool writes_pinned(const struct decoded *d, uint32_t pinned)
{
	for (unsigned i = 0; i < d->z.operand_count; i++) {
		const ZydisDecodedOperand *op = &d->op[i];
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		int g = gpr_of(op->reg.value);
		if (g < 0 || !(pinned >> g & 1))
			continue;
		if (g == RSP && op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;                /* PUSH and POP stay near */
		return true;
	}
	return false;
}

static uint64_t sequence_address(struct rng *rng, unsigned size)
{
	unsigned kind = below(rng, 100);
	uint64_t inside = PAGE_ADDR(1) + below(rng, PAGE);
	return kind < 85 ? inside & ~63ull : kind < 90 ? inside : kind < 96 ? PAGE_ADDR(2) - 1 - below(rng, size) : pick_address(rng, size);
}

/* Gives a 32-bit displacement a value that hits a chosen address; shorter ones are near by themselves. */
static bool set_operand(struct test *t, uint8_t *bytes, struct decoded *d)
{
	const ZydisDecodedOperand *m = memory_operand(d);
	if (!m || m->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
		return true;
	if (base_register(d) < 0)
		return false;
	if (d->z.raw.disp.size == 8) {
		bytes[d->z.raw.disp.offset] = rnd(&t->rng) & (percent(&t->rng, 80) ? 0xf0 : 0xff);
		return decode(bytes, 15, d);
	}
	if (d->z.raw.disp.size != 32)
		return true;
	uint64_t now = effective_address(&t->in, d, m, 0) - d->z.raw.disp.value;
	int64_t disp = sequence_address(&t->rng, operand_bytes(d)) - now;
	if (disp != (int32_t)disp)
		disp = 64;
	memcpy(bytes + d->z.raw.disp.offset, &disp, 4);
	return decode(bytes, 15, d);
}

/* Shifts and rotates by zero write no flags. */
static bool may_write_nothing(const struct decoded *d)
{
	return d->z.meta.category == ZYDIS_CATEGORY_SHIFT || d->z.meta.category == ZYDIS_CATEGORY_ROTATE;
}

static bool reads_undefined(const struct test *t, const struct decoded *d)
{
	return d->z.cpu_flags && d->z.cpu_flags->tested & t->undefined;
}

static void note_undefined(struct test *t, const struct decoded *d)
{
	const ZydisAccessedFlags *f = d->z.cpu_flags;
	bool skippable = t->conditional;
	t->conditional = d->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
	if (!f)
		return;
	if (!may_write_nothing(d) && !skippable)
		t->undefined &= ~(f->modified | f->set_0 | f->set_1);
	t->undefined |= f->undefined & FLAGS_ARITH;
}

static bool append(struct test *t, const struct shape *shape)
{
	uint8_t bytes[15];
	struct decoded *d = &t->insn[t->count];
	const struct form *f = &forms[below(&t->rng, form_count)];
	if (!decode(f->bytes, 15, d) || !is_simple(d) || !build(&t->rng, f, shape, bytes, d))
		return false;
	if (!is_simple(d) || writes_pinned(d, t->pinned) || reads_undefined(t, d) || !set_operand(t, bytes, d) || t->code_len + d->z.length > CODE_ROOM)
		return false;
	note_undefined(t, d);
	memcpy(t->code + t->code_len, bytes, d->z.length);
	t->offset[t->count++] = t->code_len;
	t->code_len += d->z.length;
	return true;
}

static unsigned put_rex(uint8_t *p, unsigned w, unsigned reg, unsigned rm)
{
	unsigned rex = w << 3 | (reg > 7) << 2 | (rm > 7);
	if (machine_bits == 32 || !rex)
		return 0;
	*p = 0x40 | rex;
	return 1;
}

/* An instruction that moves an address register a little, or copies one to another, as compilers do between accesses. */
static unsigned move_bytes(struct rng *rng, uint8_t *p, unsigned from, unsigned to)
{
	uint8_t *start = p;
	unsigned kind = below(rng, 7);
	int8_t by = (int8_t)rnd(rng) & ~7;
	if (kind < 2) {                                  /* add, sub */
		p += put_rex(p, 1, 0, to);
		*p++ = 0x83;
		*p++ = (kind ? 0xe8 : 0xc0) | (to & 7);
		*p++ = by;
	} else if (kind == 2) {                          /* inc, dec */
		p += put_rex(p, 1, 0, to);
		*p++ = 0xff;
		*p++ = (percent(rng, 50) ? 0xc0 : 0xc8) | (to & 7);
	} else if (kind == 3) {                          /* lea to, [from + by] */
		p += put_rex(p, 1, to, from);
		*p++ = 0x8d;
		*p++ = 0x40 | (to & 7) << 3 | (from & 7);
		if ((from & 7) == 4)
			*p++ = 0x24;
		*p++ = by;
	} else if (kind == 4) {                          /* mov to, from */
		p += put_rex(p, 1, from, to);
		*p++ = 0x89;
		*p++ = 0xc0 | (from & 7) << 3 | (to & 7);
	} else if (kind == 5) {                          /* push from; the stack pointer moves as well */
		p += put_rex(p, 0, 0, from);
		*p++ = 0x50 | (from & 7);
	} else {                                         /* xchg */
		p += put_rex(p, 1, from, to);
		*p++ = 0x87;
		*p++ = 0xc0 | (from & 7) << 3 | (to & 7);
	}
	return p - start;
}

static int pick_of(struct rng *rng, uint32_t set)
{
	int g;
	do
		g = below(rng, 16);
	while (!(set >> g & 1));
	return g;
}

static void append_move(struct test *t)
{
	struct decoded *d = &t->insn[t->count];
	uint8_t bytes[15] = { 0 };
	unsigned len = move_bytes(&t->rng, bytes, pick_of(&t->rng, t->bases), pick_of(&t->rng, t->bases));
	if (!decode(bytes, 15, d) || d->z.length != len || t->code_len + len > CODE_ROOM)
		return;
	note_undefined(t, d);
	memcpy(t->code + t->code_len, bytes, len);
	t->offset[t->count++] = t->code_len;
	t->code_len += len;
}

/* Conditional branches skip the next instruction, if there is one. */
static void link_branches(struct test *t)
{
	for (unsigned i = 0; i < t->count; i++) {
		struct decoded *d = &t->insn[i];
		if (d->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
			continue;
		int32_t rel = i + 1 < t->count ? t->insn[i + 1].z.length : 0;
		memcpy(t->code + t->offset[i] + d->z.raw.imm[0].offset, &rel, d->z.raw.imm[0].size / 8);
		decode(t->code + t->offset[i], d->z.length, d);
	}
}

/* Few exceptions, so that most sequences reach their end. */
static void calm(struct rng *rng, struct state *s)
{
	if (percent(rng, 96))
		s->xsave[24] |= 0x80, s->xsave[25] |= 0x1f;
	if (percent(rng, 96))
		s->xsave[0] |= 0x3f, s->xsave[2] &= 0x7f, s->xsave[3] &= 0x7f;
	s->rflags &= ~(uint64_t)FLAG_AC;         /* processors differ in what they check */
	if (percent(rng, 80))
		s->rflags &= ~(uint64_t)FLAG_TF;
}

void sequence_reseed(struct test *t)
{
	struct state old = t->in;
	random_state(&t->rng, &t->in);
	calm(&t->rng, &t->in);
	t->in.rip = old.rip;
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (t->pinned >> g & 1)
			t->in.gpr[g] = old.gpr[g];
}

bool test_sequence(struct test *t)
{
	struct shape shape = { .bases = 1u << RSP };
	unsigned want = 8 + below(&t->rng, 9);
	image_reset();
	random_state(&t->rng, &t->in);
	for (unsigned i = 0; i < 2; i++) {
		unsigned g = below(&t->rng, machine_bits == 64 ? 16 : 8);
		shape.bases |= 1u << g;
		t->in.gpr[g] = PAGE_ADDR(1) + (percent(&t->rng, 70) ? 0x400 + below(&t->rng, 32) * 64 : PAGE - 256 + below(&t->rng, 512));
	}
	t->in.gpr[RSP] = PAGE_ADDR(2) + 0x800;
	do {
		unsigned g = below(&t->rng, machine_bits == 64 ? 16 : 8);
		shape.indexes = 1u << g & ~shape.bases;
		if (shape.indexes)
			t->in.gpr[g] = below(&t->rng, 16) * 16;
	} while (!shape.indexes);
	t->bases = shape.bases;
	t->pinned = shape.bases | shape.indexes;
	unsigned moves = percent(&t->rng, 50) ? 20 : 0;
	t->in.rip = test_ip(t);
	t->form = NULL;
	t->count = t->code_len = t->undefined = 0;
	t->conditional = false;
	for (unsigned tries = 0; t->count < want && tries < 400; tries++)
		percent(&t->rng, moves) ? append_move(t) : (void)append(t, &shape);
	link_branches(t);
	sequence_reseed(t);
	return t->count > 1;
}
