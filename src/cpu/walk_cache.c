/*
 * cpu/walk_cache -- the paging-structure caches: where the last two levels of
 * recent walks were found, and what the levels above had to say. As on a
 * processor, what is remembered was present and has been marked accessed, and
 * lives until an instruction that flushes it; a walk from here that fails is
 * made once more from the root.
 *
 * Entries of the guest's own paging belong to a TLB context, whose number for
 * them (struct tlb_context, walks) changes with every flush; those of EPT to
 * all of them.
 */
#include "cpu/paging.h"
#include "cpu/tlb_set.h"

static struct walk_cached *place_of(struct tlb_set *s, const struct paging *p, uint64_t region)
{
	return &s->walk[p->ept][(region ^ region >> 8) % WALK_CACHED];
}

static uint64_t tag_of(const struct tlb_set *s, const struct paging *p)
{
	return p->ept ? s->ept_walks : s->current->walks;
}

/* What else of the control block decides how EPT entries are read. */
static uint64_t root_of(const struct cpu *cpu, const struct paging *p, uint64_t table)
{
	return p->ept ? cpu->ctl->eptp | (cpu->ctl->secondary & SECONDARY_MBEC ? BIT(63) : 0) : table;
}

/* The part of the address that leads to the table of level i, and i. */
static uint64_t region_of(const struct paging *p, unsigned i, uint64_t addr)
{
	return addr >> p->level[i - 1].shift << 3 | i;
}

static bool usable(const struct cpu *cpu, const struct walk *w)
{
	return !w->probe && !w->whole && cpu->tlbs->current;
}

void walk_cache_begin(struct cpu *cpu, const struct walk *w, const struct paging *p, uint64_t addr, uint64_t *table, struct trail *t)
{
	struct tlb_set *s = cpu->tlbs;
	unsigned lowest = p->levels > 2 ? p->levels - 2 : 1;

	t->first = 0;
	t->all = ~0ull;
	t->any = 0;
	t->last.host = NULL;
	if (!usable(cpu, w))
		return;
	for (unsigned i = p->levels - 1; i >= lowest; i--) {
		uint64_t region = region_of(p, i, addr);
		const struct walk_cached *c = place_of(s, p, region);

		if (c->region != region || c->tag != tag_of(s, p) || c->root != root_of(cpu, p, *table))
			continue;
		*table = c->table;
		t->first = i;
		t->all = c->all;
		t->any = c->any;
		t->last.host = c->host;
		return;
	}
}

void walk_cache_note(struct cpu *cpu, const struct walk *w, const struct paging *p, uint64_t root, uint64_t addr, const struct trail *t)
{
	struct tlb_set *s = cpu->tlbs;
	unsigned i = t->depth - 1;
	uint64_t region;

	if (!usable(cpu, w) || i <= t->first || i + 2 < p->levels || !t->last.host)
		return;
	region = region_of(p, i, addr);
	*place_of(s, p, region) = (struct walk_cached){
		.tag = tag_of(s, p), .root = root_of(cpu, p, root), .region = region, .table = t->last.table, .host = t->last.host,
		.all = t->last.all | p->accessed, .any = t->last.any };
}
