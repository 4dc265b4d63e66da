/*
 * Loops of one block: a block that branches back to its own start is copied
 * until a few rounds stand one after the other, and the last of them jumps to
 * the first without leaving the block. What the block learned of memory is
 * then kept over rounds, in lanes.
 *
 * A lane is the last page that one place of the loop found in the TLB:
 * cpu->lane[n] = { its linear address, its host address or, for a window,
 * host - guest address }. The place compares with that instead of looking into
 * the TLB. Lanes hold while cpu->tlb_key is what it was when they were cleared:
 * the loop compares it where it is entered, and nothing within can change it,
 * for a block with a rule in it is no loop.
 */
#include "xlat/internal.h"

enum { MAX_ROUNDS = 4, MAX_LOOP_INSNS = 32 };

static bool loops_wanted(const struct translation_unit *u)
{
	return !u->careful && code64(u) && !(u->mode & (XMODE_NO_WINDOWS | XMODE_ONE)) &&
	       params.windows && params.block_insns >= MAX_BLOCK_INSNS && !u->block->source2;
}

/* Instructions up to the first branch to the block's start, that one included; 0: there is none, or a rule before it. */
static unsigned body_of(const struct translation_unit *u)
{
	bool touches_memory = false;
	for (unsigned i = 0; i < u->count; i++) {
		const struct xinsn *x = &u->insn[i];
		if (x->kind == KIND_RULE || x->kind == KIND_STI || x->kind == KIND_CLI || x->kind == KIND_RDTSC)
			return 0;
		touches_memory |= x->in.mem || x->kind == KIND_PUSH || x->kind == KIND_POP;
		if ((x->kind == KIND_JCC || x->kind == KIND_JMP) && x->target == u->block->rip)
			return touches_memory ? i + 1 : 0;
	}
	return 0;
}

/* A branch back in a round that is not the last: falls through to the next one. */
static void go_on(struct xinsn *x)
{
	if (x->kind == KIND_JMP) {
		x->kind = KIND_NOP;
		return;
	}
	x->cc ^= 1;
	x->target = x->next;
}

void unit_loop(struct translation_unit *u)
{
	u->loop = (struct loop){ .body = 0 };
	unsigned body = loops_wanted(u) ? body_of(u) : 0, rounds = 1;
	if (!body)
		return;
	while (rounds < MAX_ROUNDS && body * (rounds + 1) <= MAX_LOOP_INSNS)
		rounds++;
	struct xinsn *back = &u->insn[body - 1];
	u->block->insns = body;
	u->block->length = back->rip + back->in.len - u->block->rip;
	u->count = body * rounds;
	for (unsigned i = body; i < u->count; i++)
		u->insn[i] = u->insn[i - body];
	for (unsigned i = body - 1; i + 1 < u->count; i += body)
		go_on(&u->insn[i]);
	back = &u->insn[u->count - 1];
	u->loop = (struct loop){ .body = body, .rounds = rounds, .always = back->kind == KIND_JMP };
	back->kind = KIND_LOOP;
}

/* A lane for the loop, or 0 if there are none left. */
unsigned loop_lane(struct translation_unit *u)
{
	struct engine *en = u->engine;
	if (!u->loop.body || u->loop.nlanes == MAX_LOOP_LANES || en->next_lane + 2 > en->lanes_end)
		return 0;
	if (!u->loop.nlanes)
		u->loop.key = en->next_lane++;
	if (!u->loop.nlanes++)
		u->loop.first = en->next_lane;
	return en->next_lane++;
}

/* At the block's entry: forgets what the lanes hold if mappings have changed. Then the loop's head. */
void put_loop_entry(struct translation_unit *u)
{
	struct emit *e = &u->e;
	if (u->loop.nlanes) {
		struct cold *c = &u->cold[u->ncold++];
		bool save = u->insn[0].flags_live != 0;
		if (save)
			put_flags_saved(u);
		put_load(e, H_R13, AT(e, tlb_key));
		put_op_mem(e, 1, 0x3b, H_R13, AT_LANE(e, u->loop.key, tag));     /* cmp */
		*c = (struct cold){ .kind = COLD_LANES, .place = put_jcc(e, 5), .back = e->p };
		if (save)
			put_flags_restored(u);
	}
	u->loop.head = e->p;
}

void put_cold_lanes(struct translation_unit *u, const struct cold *c)
{
	struct emit *e = &u->e;
	put_store(e, H_R13, AT_LANE(e, u->loop.key, tag));
	put_mov_imm(e, H_R13, TLB_NO_TAG);
	for (unsigned i = 0; i < u->loop.nlanes; i++) {          /* a hit, by that address, must fault as on the processor */
		put_store(e, H_R13, AT_LANE(e, u->loop.first + i, tag));
		put_store(e, H_R13, AT_LANE(e, u->loop.first + i, value));
	}
	put_jmp_to(e, c->back);
}

void put_loop_back(struct translation_unit *u, const struct xinsn *x)
{
	if (u->loop.always)
		put_jmp_to(&u->e, u->loop.head);
	else
		patch_rel32(put_jcc(&u->e, x->cc), u->loop.head);
}
