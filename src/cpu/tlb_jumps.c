/*
 * cpu/tlb -- which pages cached jumps lead to, so that forgetting one page's
 * translation forgets the jumps into it and no others.
 */
#include "cpu/tlb_set.h"
#include "xlat/xlat.h"

static uint64_t name_of(const struct tlb_jumps *j, uint64_t addr, unsigned shift)
{
	return addr >> shift << shift | (uint64_t)j->round << 6 | shift;
}

static uint64_t *places_of(struct tlb_jumps *j, uint64_t addr, unsigned shift)
{
	return &j->page[((addr >> shift) * 0x9e3779b97f4a7c15ull >> 32) % (JUMP_PAGES / JUMP_PAGE_WAYS) * JUMP_PAGE_WAYS];
}

static bool place_free(const struct tlb_jumps *j, uint64_t name) { return !name || (name >> 6 & 63) != j->round; }

void tlb_jumps_note(struct tlb_jumps *j, uint64_t addr, unsigned shift)
{
	uint64_t name = name_of(j, addr, shift), *place = places_of(j, addr, shift), *free = NULL;

	for (unsigned i = 0; i < JUMP_PAGE_WAYS; i++) {
		if (place[i] == name)
			return;
		if (place_free(j, place[i]))
			free = &place[i];
	}
	if (free) {
		*free = name;
		j->count++;
	} else {
		j->many = true;
	}
}

/* Takes the page out. false: it was not in. */
static bool page_take(struct tlb_jumps *j, uint64_t addr, unsigned shift)
{
	uint64_t name = name_of(j, addr, shift), *place = places_of(j, addr, shift);

	for (unsigned i = 0; i < JUMP_PAGE_WAYS; i++)
		if (place[i] == name) {
			place[i] = 0;
			j->count--;
			return true;
		}
	return false;
}

void tlb_jumps_forget(struct cpu *cpu, struct tlb_jumps *j)
{
	const struct tlb_context *current = cpu->tlbs->current;

	j->round = (j->round + 1) & 63;
	if (!j->round)
		memset(j->page, 0, sizeof(j->page));
	j->count = 0;
	j->many = false;
	j->id = ++cpu->tlbs->last_id;
	if (current && current->jumps == j && cpu->engine)
		engine_jump_cache_select(cpu, j->id);
}

void tlb_jumps_drop(struct cpu *cpu, struct tlb_jumps *j, uint64_t addr, unsigned large_shift)
{
	if (!j->count && !j->many)
		return;
	if (j->many || page_take(j, addr, large_shift) || page_take(j, addr, 30))
		tlb_jumps_forget(cpu, j);
	else if (page_take(j, addr, 12) && cpu->engine)
		engine_jump_cache_drop(cpu, j->id, TLB_PAGE(addr));
}

struct tlb_jumps *tlb_jumps_find(struct cpu *cpu, const struct tlb_key *k, struct tlb_jumps *own)
{
	struct tlb_set *s = cpu->tlbs;
	struct tlb_key key = *k;
	struct tlb_jumps *oldest = s->shared;

	if (!tlb_shares_jumps(k))
		return own;
	key.pcid = 0;
	for (struct tlb_jumps *j = s->shared; j < s->shared + JUMP_DOMAINS; j++) {
		if (j->id && tlb_key_equal(&j->key, &key))
			return j;
		if (j->last_use < oldest->last_use)
			oldest = j;
	}
	tlb_jumps_forget(cpu, oldest);
	oldest->key = key;
	oldest->seen = s->drops;
	return oldest;
}

void tlb_jumps_forget_shared(struct cpu *cpu, bool (*match)(const struct tlb_key *k, uint64_t arg), uint64_t arg)
{
	for (struct tlb_jumps *j = cpu->tlbs->shared; j < cpu->tlbs->shared + JUMP_DOMAINS; j++)
		if (j->id && (j->count || j->many) && match(&j->key, arg))
			tlb_jumps_forget(cpu, j);
}
