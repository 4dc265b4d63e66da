/*
 * Code that changes itself: a loop of register instructions with immediates,
 * and stores into those instructions' bytes, earlier and later ones. Each
 * must see the bytes that were stored last, also within its own block.
 */
#include "insn.h"

enum { TARGETS = 8 };

static void put(struct test *t, const void *bytes, unsigned n)
{
	struct decoded *d = &t->insn[t->count];
	memcpy(t->code + t->code_len, bytes, n);
	decode(t->code + t->code_len, n, d);
	t->offset[t->count++] = t->code_len;
	t->code_len += n;
}

static unsigned data_register(struct rng *rng)
{
	static const uint8_t low[] = { RAX, RDX, RBX, RBP, RSI, RDI };
	return low[below(rng, COUNT_OF(low))];
}

/* op r32, imm32 of the first group, or MOV. Returns where its immediate is. */
static unsigned put_target(struct test *t)
{
	uint8_t b[6] = { 0x81, 0xc0 | below(&t->rng, 8) << 3 | data_register(&t->rng) };
	uint32_t imm = rnd(&t->rng);
	memcpy(b + 2, &imm, 4);
	put(t, b, sizeof b);
	return t->code_len - 4;
}

static unsigned other_operation(struct rng *rng)
{
	static const uint8_t operations[] = { 0, 1, 4, 5, 6, 7 };
	return operations[below(rng, COUNT_OF(operations))];
}

/* Stores into the instruction whose immediate is at `at`: a byte, the immediate, or the byte that says which operation. */
static void put_store(struct test *t, unsigned at)
{
	uint8_t b[11] = { 0xc6, 0x04, 0x25 };
	uint32_t imm = rnd(&t->rng);
	unsigned kind = below(&t->rng, 4), len = 8, shift = kind < 2 ? below(&t->rng, 4) : 0;
	if (kind == 1)
		b[0] = 0x80;                             /* ADD */
	if (kind == 2)
		b[0] = 0xc7, len = 11;
	if (kind == 3) {
		at -= 1;
		/* No ADC or SBB: the store before was translated when the instruction did not read CF. */
		imm = 0xc0 | other_operation(&t->rng) << 3 | data_register(&t->rng);
	}
	uint32_t addr = test_rip(t) + at + shift;
	memcpy(b + 3, &addr, 4);
	memcpy(b + 7, &imm, 4);
	put(t, b, len);
}

static void put_loop(struct test *t)
{
	uint8_t b[6] = { 0x0f, 0x85 };
	put(t, "\xff\xc9", 2);
	int32_t rel = -(int32_t)(t->code_len + 6);
	memcpy(b + 2, &rel, 4);
	put(t, b, 6);
}

/* Places of targets are known beforehand: each takes 6 bytes, each store one of two lengths chosen as it is put. */
bool test_smc(struct test *t)
{
	unsigned at[TARGETS], n = 3 + below(&t->rng, 4), known = 0;
	image_reset();
	random_state(&t->rng, &t->in);
	t->in.rflags &= ~(uint64_t)(FLAG_TF | FLAG_AC);
	t->in.gpr[RCX] = 2 + below(&t->rng, 3);
	t->in.rip = test_ip(t);
	t->form = NULL;
	t->smc = true;
	t->count = t->code_len = 0;
	t->undefined = FLAG_AF;
	for (unsigned i = 0; i < n; i++) {
		if (percent(&t->rng, 60) && known)       /* an earlier one: seen when the loop comes round */
			put_store(t, at[below(&t->rng, known)]);
		if (percent(&t->rng, 40)) {              /* the next one: 8 or 11 bytes on */
			unsigned before = t->code_len, count = t->count;
			struct rng saved = t->rng;
			put_store(t, before + 8 + 2);
			unsigned len = t->code_len - before;
			t->code_len = before;
			t->count = count;
			t->rng = saved;
			put_store(t, before + len + 2);
		}
		at[known++] = put_target(t);
	}
	put_loop(t);
	return t->count <= MAX_INSNS && t->code_len <= CODE_ROOM;
}
