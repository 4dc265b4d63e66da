/*
 * cpu/tlb -- forgetting translations. Dropping more than was asked for is
 * always allowed; these drop whole contexts where that is cheaper.
 */
#include "cpu/tlb_set.h"
#include "xlat/xlat.h"

static bool all_listed(const struct tlb_context *c)
{
	return c->listed[TLB_LOCAL] <= TLB_LISTED && c->listed[TLB_GLOBAL] <= TLB_LISTED;
}

/* The entries that may be in use, one after another: of a context that lists them all, the listed ones. NULL: no more. */
static struct tlb_entry *entry_in_use(struct tlb_context *c, uint64_t i)
{
	if (!all_listed(c))
		return i < c->count ? &c->entries[i] : NULL;
	if (i < c->listed[TLB_LOCAL])
		return &c->entries[c->list[TLB_LOCAL][i]];
	i -= c->listed[TLB_LOCAL];
	return i < c->listed[TLB_GLOBAL] ? &c->entries[c->list[TLB_GLOBAL][i]] : NULL;
}

/* Clears what is listed in one class; entries that changed class meanwhile are in the other list. */
static void sweep_listed(struct tlb_context *c, unsigned class)
{
	for (unsigned i = 0; i < c->listed[class]; i++) {
		unsigned index = c->list[class][i];

		c->meta[index] &= ~(META_LISTED << class);
		if (!(c->meta[index] & META_GLOBAL) == (class == TLB_LOCAL))
			tlb_entry_clear(&c->entries[index]);
	}
	c->listed[class] = 0;
}

static void sweep_all(struct tlb_context *c, bool keep_globals)
{
	for (uint64_t i = 0; i < c->count; i++) {
		if (!keep_globals || !(c->meta[i] & META_GLOBAL))
			tlb_entry_clear(&c->entries[i]);
		c->meta[i] &= keep_globals ? ~META_LISTED : 0;
	}
	c->listed[TLB_LOCAL] = 0;
	if (!keep_globals)
		c->listed[TLB_GLOBAL] = 0;
}

void tlb_context_flush(struct cpu *cpu, struct tlb_context *c, bool keep_globals)
{
	keep_globals = keep_globals && (c->key.bits & TLB_PGE) && c->listed[TLB_GLOBAL];
	if (c->listed[TLB_LOCAL] > TLB_LISTED || (!keep_globals && !all_listed(c))) {
		sweep_all(c, keep_globals);
	} else {
		sweep_listed(c, TLB_LOCAL);
		if (!keep_globals)
			sweep_listed(c, TLB_GLOBAL);
	}
	c->conflicts = 0;
	tlb_context_changed(cpu, c);
	c->walks = ++cpu->tlbs->last_id;
	if (!keep_globals) {
		memset(c->large, 0, sizeof(c->large));
		c->huge = 0;
	}
	if (c->own.count || c->own.many)
		tlb_jumps_forget(cpu, &c->own);
}

/* ---- one address ---- */

static void region_drop_entry(struct tlb_context *c, unsigned index, uint64_t addr, unsigned shift, unsigned meta)
{
	uint64_t page = tlb_entry_page(&c->entries[index]);

	if (page != TLB_NO_TAG && page >> shift == addr >> shift && (c->meta[index] & meta) == meta)
		tlb_entry_clear(&c->entries[index]);
}

/* Drops the fragments of the large page that addr may lie in: those with all bits of meta. */
static void region_drop(struct tlb_context *c, uint64_t addr, unsigned shift, unsigned meta)
{
	uint64_t pages = BIT(shift - 12) < c->count ? BIT(shift - 12) : c->count, first = addr >> shift << (shift - 12);

	if (all_listed(c) && c->listed[TLB_LOCAL] + c->listed[TLB_GLOBAL] < pages) {
		for (unsigned class = 0; class < TLB_CLASSES; class++)
			for (unsigned i = 0; i < c->listed[class]; i++)
				region_drop_entry(c, c->list[class][i], addr, shift, meta);
		return;
	}
	for (uint64_t i = 0; i < pages; i++)
		region_drop_entry(c, (first + i) & (c->count - 1), addr, shift, meta);
}

static void context_drop_addr(struct tlb_context *c, uint64_t addr, bool only_globals)
{
	unsigned index = tlb_index(c, addr), shift = tlb_large_shift(&c->key), hash = tlb_hash(addr >> shift);
	unsigned meta = only_globals ? META_GLOBAL : 0;

	if (only_globals && !c->listed[TLB_GLOBAL])
		return;
	if (tlb_entry_page(&c->entries[index]) == TLB_PAGE(addr) && (c->meta[index] & meta) == meta)
		tlb_entry_clear(&c->entries[index]);
	if (c->large[hash / 64] & BIT(hash % 64))
		region_drop(c, addr, shift, META_LARGE | meta);
	if (c->huge & BIT(tlb_hash(addr >> 30) & 63))
		region_drop(c, addr, 30, META_HUGE | meta);
}

/* A drop, as it concerns what has key k: false: not at all. */
static bool drop_concerns(const struct tlb_drop *d, const struct tlb_key *k, bool *only_globals)
{
	*only_globals = d->scope != DROP_VPID && k->pcid != d->pcid;
	return k->vpid == d->vpid && !(*only_globals && d->scope == DROP_PCID);
}

static void drop_apply(struct cpu *cpu, struct tlb_context *c, const struct tlb_drop *d)
{
	bool only_globals;

	if (!drop_concerns(d, &c->key, &only_globals))
		return;
	context_drop_addr(c, d->addr, only_globals);
	tlb_context_changed(cpu, c);
	if (!only_globals)
		c->walks = ++cpu->tlbs->last_id;
	tlb_jumps_drop(cpu, &c->own, d->addr, tlb_large_shift(&c->key));
}

/* Jumps that contexts share lead to global pages only. */
static void drop_apply_shared(struct cpu *cpu, struct tlb_jumps *j, const struct tlb_drop *d)
{
	if (j->key.vpid == d->vpid && d->scope != DROP_PCID)
		tlb_jumps_drop(cpu, j, d->addr, tlb_large_shift(&j->key));
}

void tlb_context_catch_up(struct cpu *cpu, struct tlb_context *c)
{
	struct tlb_set *s = cpu->tlbs;
	struct tlb_jumps *j = c->jumps;

	if (s->drops - c->seen > TLB_DROPS)
		tlb_context_flush(cpu, c, false);
	else
		for (; c->seen != s->drops; c->seen++)
			drop_apply(cpu, c, &s->drop[c->seen % TLB_DROPS]);
	c->seen = s->drops;
	if (j == &c->own)
		return;
	if (s->drops - j->seen > TLB_DROPS)
		tlb_jumps_forget(cpu, j);
	else
		for (; j->seen != s->drops; j->seen++)
			drop_apply_shared(cpu, j, &s->drop[j->seen % TLB_DROPS]);
	j->seen = s->drops;
}

static void drop_post(struct cpu *cpu, uint64_t addr, uint16_t vpid, uint16_t pcid, enum tlb_drop_scope scope)
{
	struct tlb_set *s = cpu->tlbs;

	s->drop[s->drops++ % TLB_DROPS] = (struct tlb_drop){ addr, vpid, pcid, scope };
	tlb_context_catch_up(cpu, s->current);
}

void tlb_flush_vpid_addr(struct cpu *cpu, uint16_t vpid, uint64_t addr)
{
	drop_post(cpu, addr, vpid, 0, DROP_VPID);
}

void tlb_flush_pcid_addr(struct cpu *cpu, uint16_t pcid, uint64_t addr)
{
	drop_post(cpu, addr, cpu->ctl->vpid, pcid, DROP_PCID);
}

void tlb_flush_addr(struct cpu *cpu, uint64_t addr)
{
	drop_post(cpu, addr, cpu->ctl->vpid, cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0, DROP_PCID_AND_GLOBALS);
}

/* ---- by tag ---- */

/* Keys lie together, so that a search is short; context_of() has what belongs to one. */
#define FOR_EACH_KEY(s, k) \
	for (const struct tlb_key *k = (s)->key; k < (s)->key + (s)->used; k++)

static struct tlb_context *context_of(struct tlb_set *s, const struct tlb_key *k) { return &s->context[k - s->key]; }

static bool match_any(const struct tlb_key *k, uint64_t arg) { return true; }
static bool match_vpid(const struct tlb_key *k, uint64_t vpid) { return k->vpid == vpid; }
static bool match_ept(const struct tlb_key *k, uint64_t arg) { return k->eptp; }
static bool match_eptp(const struct tlb_key *k, uint64_t eptp) { return k->eptp && !((k->eptp ^ eptp) & 0xffffffffff000ull); }

static void flush_matching(struct cpu *cpu, bool (*match)(const struct tlb_key *k, uint64_t arg), uint64_t arg)
{
	FOR_EACH_KEY(cpu->tlbs, k)
		if (match(k, arg))
			tlb_context_flush(cpu, context_of(cpu->tlbs, k), false);
	tlb_jumps_forget_shared(cpu, match, arg);
	cpu->tlbs->ept_walks = ++cpu->tlbs->last_id;
}

void tlb_flush_all(struct cpu *cpu)
{
	flush_matching(cpu, match_any, 0);
}

void tlb_flush_vpid(struct cpu *cpu, uint16_t vpid, bool globals_too)
{
	if (globals_too) {
		flush_matching(cpu, match_vpid, vpid);
		return;
	}
	FOR_EACH_KEY(cpu->tlbs, k)
		if (k->vpid == vpid)
			tlb_context_flush(cpu, context_of(cpu->tlbs, k), true);
}

void tlb_flush_pcid(struct cpu *cpu, uint16_t pcid, bool globals_too)
{
	FOR_EACH_KEY(cpu->tlbs, k)
		if (k->pcid == pcid && k->vpid == cpu->ctl->vpid)
			tlb_context_flush(cpu, context_of(cpu->tlbs, k), !globals_too);
}

void tlb_flush_eptp(struct cpu *cpu, uint64_t eptp)
{
	flush_matching(cpu, match_eptp, eptp);
}

void tlb_flush_all_ept(struct cpu *cpu)
{
	flush_matching(cpu, match_ept, 0);
}

/* ---- write permission ---- */

static void drop_write(struct tlb_entry *e, uint64_t host, bool all)
{
	if (all || e->host == host)
		e->write_tag = tlb_no_write(tlb_entry_page(e));
}

static void context_drop_writes(struct cpu *cpu, struct tlb_context *c, uint64_t host, bool all)
{
	struct tlb_entry *e;

	tlb_context_changed(cpu, c);
	for (uint64_t i = 0; (e = entry_in_use(c, i)); i++)
		drop_write(e, host, all);
}

void tlb_drop_write(struct cpu *cpu, const uint8_t *host_page)
{
	FOR_EACH_KEY(cpu->tlbs, k)
		context_drop_writes(cpu, context_of(cpu->tlbs, k), TLB_PAGE((uint64_t)host_page), false);
}

void tlb_drop_all_writes(struct cpu *cpu)
{
	FOR_EACH_KEY(cpu->tlbs, k)
		context_drop_writes(cpu, context_of(cpu->tlbs, k), 0, true);
}

bool tlb_code_forgotten(const struct cpu *cpu) { return cpu->tlbs->current->code_epoch == mem_epoch(cpu->mem); }

void tlb_forget_code(struct cpu *cpu)
{
	struct tlb_context *c = cpu->tlbs->current;
	struct tlb_entry *e;

	c->code_epoch = mem_epoch(cpu->mem);
	for (uint64_t i = 0; (e = entry_in_use(c, i)); i++) {
		if (e->read_tag == TLB_NO_TAG)
			tlb_entry_clear(e);
		e->exec_tag = TLB_NO_TAG;
	}
	tlb_jumps_forget(cpu, c->jumps);
}
