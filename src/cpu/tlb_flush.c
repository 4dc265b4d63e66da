/*
 * cpu/tlb -- forgetting translations. Dropping more than was asked for is
 * always allowed; these drop whole contexts where that is cheaper.
 *
 * Jump targets are cached by linear address: they are forgotten by giving the
 * context a new identity.
 */
#include "cpu/tlb_set.h"
#include "xlat/xlat.h"

/* globals_too: jump targets on global pages, which the supervisor contexts share, as well. */
static void jumps_forget(struct cpu *cpu, struct tlb_context *c, bool globals_too)
{
	struct tlb_set *s = cpu->tlbs;

	c->exec_any = c->exec_local = false;
	c->exec_large = 0;
	memset(c->exec, 0, sizeof(c->exec));
	c->id = ++s->last_id;
	if (globals_too && tlb_shares_jumps(c))
		s->global_jumps++;
	if (c == s->current && cpu->engine)
		engine_jump_cache_select(cpu, tlb_jumps_id(s, c));
}

static void sweep_listed(struct tlb_context *c, bool keep_globals)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < c->touched_count; i++) {
		unsigned index = c->touched[i];

		if (keep_globals && (c->meta[index] & META_GLOBAL) && tlb_entry_page(&c->entries[index]) != TLB_NO_TAG)
			c->touched[kept++] = index;
		else
			tlb_entry_clear(&c->entries[index]);
	}
	c->touched_count = kept;
}

static void sweep_all(struct tlb_context *c, bool keep_globals)
{
	unsigned kept = 0;

	for (uint64_t i = 0; i < c->count; i++) {
		if (!keep_globals || !(c->meta[i] & META_GLOBAL)) {
			tlb_entry_clear(&c->entries[i]);
		} else if (tlb_entry_page(&c->entries[i]) != TLB_NO_TAG) {
			if (kept < TLB_TOUCHED)
				c->touched[kept] = i;
			kept += kept <= TLB_TOUCHED;
		}
	}
	c->touched_count = kept;
}

void tlb_context_flush(struct cpu *cpu, struct tlb_context *c, bool keep_globals)
{
	keep_globals = keep_globals && (c->key.bits & TLB_PGE);
	if (c->touched_count <= TLB_TOUCHED)
		sweep_listed(c, keep_globals);
	else
		sweep_all(c, keep_globals);
	c->conflicts = 0;
	if (!keep_globals)
		c->large = c->huge = 0;
	if (keep_globals ? c->exec_local : c->exec_any)
		jumps_forget(cpu, c, !keep_globals);
}

/* ---- one address ---- */

static bool entry_in_region(const struct tlb_context *c, unsigned index, uint64_t addr, unsigned shift, unsigned meta)
{
	uint64_t page = tlb_entry_page(&c->entries[index]);

	return page != TLB_NO_TAG && page >> shift == addr >> shift && (c->meta[index] & meta);
}

/* Drops the fragments of the large page that addr may lie in. */
static void region_drop(struct cpu *cpu, struct tlb_context *c, uint64_t addr, unsigned shift, unsigned meta, bool only_globals)
{
	uint64_t pages = BIT(shift - 12), first = addr >> shift << (shift - 12);

	for (uint64_t i = 0; i < pages && i < c->count; i++) {
		unsigned index = (first + i) & (c->count - 1);

		if (entry_in_region(c, index, addr, shift, meta) && (!only_globals || (c->meta[index] & META_GLOBAL)))
			tlb_entry_clear(&c->entries[index]);
	}
	/* A fragment that was fetched from may have been pushed out since, so the entries cannot tell. */
	if (c->exec_large & BIT(tlb_hash(addr >> shift) & 63))
		jumps_forget(cpu, c, true);
}

static void context_drop_addr(struct cpu *cpu, struct tlb_context *c, uint64_t addr, bool only_globals)
{
	unsigned index = tlb_index(c, addr), hash = tlb_hash(addr >> 12), shift = tlb_large_shift(&c->key);

	if (tlb_entry_page(&c->entries[index]) == TLB_PAGE(addr) && (!only_globals || (c->meta[index] & META_GLOBAL)))
		tlb_entry_clear(&c->entries[index]);
	if (c->large & BIT(tlb_hash(addr >> shift) & 63))
		region_drop(cpu, c, addr, shift, META_LARGE, only_globals);
	if (c->huge & BIT(tlb_hash(addr >> 30) & 63))
		region_drop(cpu, c, addr, 30, META_HUGE, only_globals);
	if (c->exec[hash / 64] & BIT(hash % 64))
		jumps_forget(cpu, c, true);
}

/* ---- by tag ---- */

#define FOR_EACH_CONTEXT(cpu, c) \
	for (struct tlb_context *c = (cpu)->tlbs->context; c < (cpu)->tlbs->context + (cpu)->tlbs->count; c++) \
		if (c->used)

void tlb_flush_all(struct cpu *cpu)
{
	FOR_EACH_CONTEXT(cpu, c)
		tlb_context_flush(cpu, c, false);
}

void tlb_flush_vpid(struct cpu *cpu, uint16_t vpid, bool globals_too)
{
	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.vpid == vpid)
			tlb_context_flush(cpu, c, !globals_too);
}

void tlb_flush_vpid_addr(struct cpu *cpu, uint16_t vpid, uint64_t addr)
{
	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.vpid == vpid)
			context_drop_addr(cpu, c, addr, false);
}

void tlb_flush_pcid(struct cpu *cpu, uint16_t pcid, bool globals_too)
{
	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.vpid == cpu->ctl->vpid && c->key.pcid == pcid)
			tlb_context_flush(cpu, c, !globals_too);
}

void tlb_flush_pcid_addr(struct cpu *cpu, uint16_t pcid, uint64_t addr)
{
	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.vpid == cpu->ctl->vpid && c->key.pcid == pcid)
			context_drop_addr(cpu, c, addr, false);
}

void tlb_flush_addr(struct cpu *cpu, uint64_t addr)
{
	uint16_t pcid = cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0;

	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.vpid == cpu->ctl->vpid)
			context_drop_addr(cpu, c, addr, c->key.pcid != pcid);
}

void tlb_flush_eptp(struct cpu *cpu, uint64_t eptp)
{
	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.eptp && !((c->key.eptp ^ eptp) & 0xffffffffff000ull))
			tlb_context_flush(cpu, c, false);
}

void tlb_flush_all_ept(struct cpu *cpu)
{
	FOR_EACH_CONTEXT(cpu, c)
		if (c->key.eptp)
			tlb_context_flush(cpu, c, false);
}

/* ---- write permission ---- */

static void context_drop_writes(struct tlb_context *c, uint64_t host, bool all)
{
	bool listed = c->touched_count <= TLB_TOUCHED;
	uint64_t n = listed ? c->touched_count : c->count;

	for (uint64_t i = 0; i < n; i++) {
		struct tlb_entry *e = &c->entries[listed ? c->touched[i] : i];

		if (all || e->host == host)
			e->write_tag = TLB_NO_TAG;
	}
}

void tlb_drop_write(struct cpu *cpu, const uint8_t *host_page)
{
	FOR_EACH_CONTEXT(cpu, c)
		context_drop_writes(c, TLB_PAGE((uint64_t)host_page), false);
}

void tlb_drop_all_writes(struct cpu *cpu)
{
	FOR_EACH_CONTEXT(cpu, c)
		context_drop_writes(c, 0, true);
}
