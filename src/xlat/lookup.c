/*
 * From block to block without the dispatcher, where the jump cache does not
 * know the way: C code that generated code calls in between. It finds what the
 * dispatcher would find, or gives up; it revives stale blocks, but makes none,
 * walks no page table, and raises nothing.
 */
#include "xlat/internal.h"

bool block_linkable(const struct cpu *cpu, const struct block *b)
{
	return params.link && b->mode & MODE_FLAT && !(b->mode & XMODE_ONE) && !params.revalidate;
}

uint64_t straddle_page(const struct cpu *cpu, const struct block *b)
{
	uint64_t end = b->rip + b->length;
	return (cpu_code64(cpu) ? end : (uint32_t)(end + cpu->seg[SEG_CS].base)) & ~4095ull;
}

bool unpaged_current(const struct cpu *cpu) { return cpu->cr0 & CR0_PG || tlb_code_forgotten(cpu); }

/* The block at RIP if it can be entered as things are, else NULL. */
static struct block *known_block(struct cpu *cpu)
{
	struct engine *en = cpu->engine;
	uint64_t rip = cpu->rip;
	if (!(cpu->mode & MODE_FLAT) || !cpu_canonical(cpu, rip) || !unpaged_current(cpu))
		return NULL;
	const uint8_t *host = exec_host(cpu, rip);
	if (!host)
		return NULL;
	struct block **quick = quick_place(en, rip), *b = *quick;
	if (!b || !b->valid || !block_is(b, host, rip, cpu->mode))
		b = block_find(en, host, rip, cpu->mode);
	if (!b || !block_linkable(cpu, b) || (b->straddles && exec_host(cpu, straddle_page(cpu, b)) != b->source2))
		return NULL;
	if (!b->valid && !block_revive(en, b))
		return NULL;
	*quick = b;
	return b;
}

/* After an indirect branch, or a direct one to another page, to RIP. */
void *lookup_branch(struct cpu *cpu)
{
	struct engine *en = cpu->engine;
	struct block *b = params.flush_every ? NULL : known_block(cpu);
	if (!b)
		return to_rx(en, en->stub_unknown);
	cpu_count(cpu, STAT_lookups);
	jump_cache_set(en, b);
	return to_rx(en, b->entry);
}

/* After a rule that ended its block: on at next_rip, if nothing is left to do before the next instruction. */
void *lookup_next(struct cpu *cpu)
{
	struct engine *en = cpu->engine;
	if (atomic_load_explicit(&cpu->poll, memory_order_relaxed) || cpu->event.valid || cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS) ||
	    !cpu->fpu_live || en->want_careful || en->flush_wanted || params.flush_every)
		return NULL;
	cpu->rip = cpu->next_rip;
	struct block *b = known_block(cpu);
	if (!b)
		return NULL;
	cpu_count(cpu, STAT_lookups);
	cpu->rflags &= ~(uint64_t)RFLAGS_RF;
	cpu->vmexit = (struct vmexit){ 0 };
	return to_rx(en, b->entry);
}
