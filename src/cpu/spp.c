/*
 * cpu/spp -- sub-page write permissions: where EPT maps a 4 KiB page that may
 * not be written, a table of its own may allow stores to some of the page's 32
 * parts of 128 bytes.
 */
#include "cpu/paging.h"

#define SPP_LEAF BIT(61)             /* of an EPT leaf: ask the table */
#define SPP_VALID 1ull
#define SPP_RESERVED 0xffeull
#define SPP_ODD_BITS 0xaaaaaaaaaaaaaaaaull       /* of a vector: reserved */
#define SPP_MISS BIT(11)             /* of the qualification; else a misconfiguration */
enum { SUB_PAGE = 128 };

bool spp_eligible(const struct cpu *cpu, const struct walk *w, const struct trail *t, uint64_t gpa)
{
	uint64_t leaf = t->entry[t->depth - 1];

	if (!(cpu->ctl->secondary & SECONDARY_SPP) || t->shift != 12 || !(leaf & SPP_LEAF) || !(t->all & ACCESS_READ))
		return false;
	for (unsigned i = 0; i + 1 < t->depth; i++)
		if (!(t->entry[i] & ACCESS_WRITE))
			return false;
	return gpa % SUB_PAGE + w->size <= SUB_PAGE;
}

static enum walk_outcome event(struct walk *w, uint64_t gpa, uint64_t qualification)
{
	w->fault_gpa = gpa;
	w->qualification = qualification;
	return WALK_SPP;
}

enum walk_outcome spp_walk(struct cpu *cpu, struct walk *w, uint64_t gpa)
{
	uint64_t table = cpu->ctl->sppt_gpa, entry;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		if (!mem_read(cpu->mem, table + (gpa >> shift & 511) * sizeof(entry), &entry, sizeof(entry)))
			entry = ~0ull;
		if (!(entry & SPP_VALID))
			return event(w, gpa, SPP_MISS);
		if (entry & (SPP_RESERVED | cpu->reserved_pa | ~(BIT(52) - 1)))
			return event(w, gpa, 0);
		table = entry & ADDR_MASK;
	}
	if (!mem_read(cpu->mem, table + (gpa >> 12 & 511) * sizeof(entry), &entry, sizeof(entry)))
		entry = ~0ull;
	if (entry & SPP_ODD_BITS)
		return event(w, gpa, 0);
	return entry >> 2 * (gpa >> 7 & 31) & 1 ? WALK_OK : WALK_EPT_VIOLATION;
}
