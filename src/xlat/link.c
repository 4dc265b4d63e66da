/*
 * Links between blocks, and the jump caches. Linking is a single store of a
 * rel32; unlinking points the jump back at its stub.
 */
#include <sys/mman.h>
#include "xlat/internal.h"

void exit_link(struct engine *en, struct block_exit *x, struct block *target)
{
	x->target = target;
	x->next_incoming = target->incoming;
	target->incoming = x;
	patch_rel32(x->place, target->entry);
	cpu_count(en->cpu, STAT_links);
}

static void exit_forget(struct block_exit *x)
{
	struct block_exit **link = &x->target->incoming;
	while (*link != x)
		link = &(*link)->next_incoming;
	*link = x->next_incoming;
	x->target = NULL;
}

/* Cuts every way into the block: links, and jump-cache slots by turning its indirect entry into a miss. */
void block_unlink(struct engine *en, struct block *b)
{
	for (struct block_exit *x = b->incoming; x; x = x->next_incoming) {
		patch_rel32(x->place, x->stub);
		x->target = NULL;
	}
	b->incoming = NULL;
	for (struct block_exit *x = b->exits; x; x = x->next_owned)
		if (x->target)
			exit_forget(x);
	struct emit e = { .p = b->indirect_entry };
	put_jmp_to(&e, en->stub_lookup);
}

/* Sweeps only the slots that were used, if they are few: flushes are frequent and mostly find little. */
static void jump_cache_clear(struct engine *en, struct jump_cache *jc)
{
	void *miss = to_rx(en, en->stub_lookup);
	if (jc->nused <= JUMP_CACHE_LISTED && jc->target[0])
		for (unsigned i = 0; i < jc->nused; i++)
			jc->target[jc->used[i]] = miss;
	else
		for (unsigned i = 0; i < JUMP_CACHE_ENTRIES; i++)
			jc->target[i] = miss;
	jc->nused = 0;
}

/* Jumps to b's address, which was just fetched from, go there from now on. */
void jump_cache_set(struct engine *en, const struct block *b)
{
	if (!tlb_jump_note(en->cpu, b->rip) || (b->straddles && !tlb_jump_note(en->cpu, straddle_page(en->cpu, b))))
		return;
	struct jump_cache *jc = &en->jump_caches[en->jump_cache];
	unsigned slot = jump_cache_index(b->rip);
	if (jc->target[slot] == to_rx(en, en->stub_lookup)) {
		if (jc->nused < JUMP_CACHE_LISTED)
			jc->used[jc->nused] = slot;
		if (jc->nused <= JUMP_CACHE_LISTED)
			jc->nused++;
	}
	jc->target[slot] = to_rx(en, b->indirect_entry);
}

void jump_caches_clear(struct engine *en)
{
	for (unsigned i = 0; i < JUMP_CACHE_COUNT; i++)
		if ((int)i != en->jump_cache)
			en->jump_keys[i].context = 0;
	if (en->jump_cache >= 0)
		jump_cache_clear(en, &en->jump_caches[en->jump_cache]);
}

void jump_caches_forget(struct engine *en, const uint8_t *rw, size_t size)
{
	uint8_t *miss = to_rx(en, en->stub_lookup), *from = to_rx(en, (uint8_t *)rw);
	for (unsigned i = 0; i < JUMP_CACHE_COUNT; i++)
		for (unsigned slot = 0; en->jump_caches[i].target[0] && slot < JUMP_CACHE_ENTRIES; slot++)
			if ((size_t)((uint8_t *)en->jump_caches[i].target[slot] - from) < size)
				en->jump_caches[i].target[slot] = miss;
}

static bool key_is(const struct jump_cache_key *k, uint64_t context_id, uint32_t mode) { return k->context == context_id && k->mode == mode; }

/* Other vCPUs have taken a part of the memory: all tables are given up, and fewer are used. */
static void jump_caches_shrink(struct engine *en)
{
	madvise(en->jump_caches, JUMP_CACHE_COUNT * sizeof *en->jump_caches, MADV_DONTNEED);
	memset(en->jump_keys, 0, sizeof en->jump_keys);
	en->jump_cache = -1;
	en->jump_sets = atomic_load(&en->jump_sets_allowed);
}

/* The table for the key: one of JUMP_CACHE_WAYS places, the least recently selected one if it is none of them. */
static int jump_cache_find(struct engine *en, uint64_t context_id, uint32_t mode)
{
	if (en->jump_sets != atomic_load(&en->jump_sets_allowed))
		jump_caches_shrink(en);
	unsigned set = (context_id * 0x9e3779b97f4a7c15ull >> 40 ^ (mode * 0x85ebca6bu) >> 7) % en->jump_sets;
	unsigned first = set * JUMP_CACHE_WAYS, oldest = first;
	for (unsigned i = first; i < first + JUMP_CACHE_WAYS; i++) {
		if (key_is(&en->jump_keys[i], context_id, mode))
			return i;
		if (en->jump_keys[i].selected < en->jump_keys[oldest].selected)
			oldest = i;
	}
	en->jump_keys[oldest] = (struct jump_cache_key){ .context = context_id, .mode = mode };
	jump_cache_clear(en, &en->jump_caches[oldest]);
	return oldest;
}

void engine_jump_cache_select(struct cpu *cpu, uint64_t context_id)
{
	struct engine *en = cpu->engine;
	if (!en)
		return;
	int *recent = &en->jump_cache_recent[!!(cpu->mode & MODE_CPL3)];
	if (!key_is(&en->jump_keys[*recent], context_id, cpu->mode) || en->jump_sets != atomic_load_explicit(&en->jump_sets_allowed, memory_order_relaxed))
		*recent = jump_cache_find(en, context_id, cpu->mode);
	en->jump_cache = *recent;
	en->jump_keys[en->jump_cache].selected = ++en->selections;
	cpu->jump_cache = en->jump_caches[en->jump_cache].target;
}

/* An instruction on two pages begins at most 15 bytes before the second. */
void engine_jump_cache_drop(struct cpu *cpu, uint64_t context_id, uint64_t page)
{
	struct engine *en = cpu->engine;
	void *miss = to_rx(en, en->stub_lookup);
	for (unsigned i = 0; i < JUMP_CACHE_COUNT; i++)
		for (uint64_t at = page - 16; en->jump_keys[i].context == context_id && at != page + 4096; at += 1u << JUMP_CACHE_SHIFT)
			en->jump_caches[i].target[jump_cache_index(at)] = miss;
}
