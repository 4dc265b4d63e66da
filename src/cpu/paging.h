/* cpu/paging -- one walk through one set of paging structures: what walk.c (the guest's) and ept.c share. */
#ifndef ANYKVM_PAGING_H
#define ANYKVM_PAGING_H

#include "cpu/walk.h"

#define ADDR_MASK 0xffffffffff000ull
#define EPTP_AD 0x40ull              /* accessed and dirty flags */

enum { LEVELS = 5 };

struct level {
	uint8_t shift, bits;             /* of the linear address: where its index lies */
	bool large;                      /* PS makes it a leaf */
	uint64_t reserved_table, reserved_large;
};

struct paging {
	struct level level[LEVELS];
	uint8_t levels, entry_size;
	uint64_t present;                /* present if any of these is set */
	uint64_t reserved;               /* in every entry */
	uint64_t accessed, dirty;        /* 0: the mode has no such flags */
	bool ept;
};

/* What one walk has met, level by level. */
struct trail {
	uint64_t gpa[LEVELS], entry[LEVELS];
	void *host[LEVELS];
	unsigned depth;                  /* entries met */
	uint64_t all, any;               /* AND and OR of the entries */
	uint64_t address;                /* where the walk ends */
	uint8_t shift;
	unsigned first;                  /* levels above this one were not walked: walk_cache.c knew them */
	/* The last structure met; AND and OR of the entries that led to it. host: of its first byte, NULL: no slot or read-only. */
	struct { uint64_t table, all, any; uint8_t *host; } last;
};

enum step { STEP_OK, STEP_NOT_PRESENT, STEP_RESERVED, STEP_SECOND /* w->second tells */, STEP_AGAIN };

enum step walk_levels(struct cpu *cpu, struct walk *w, const struct paging *p, uint64_t table, uint64_t addr, struct trail *t);
/* Sets the flags along a trail whose checks have passed. */
enum step trail_mark(struct cpu *cpu, struct walk *w, const struct paging *p, struct trail *t, bool write);

/* ---- walk_cache.c ---- */
/* Where a walk for addr may begin: sets *table, t->first, t->last, t->all and t->any. */
void walk_cache_begin(struct cpu *cpu, const struct walk *w, const struct paging *p, uint64_t addr, uint64_t *table, struct trail *t);
/* The walk t from root, for addr, has ended well, and its entries are marked accessed. */
void walk_cache_note(struct cpu *cpu, const struct walk *w, const struct paging *p, uint64_t root, uint64_t addr, const struct trail *t);

/* ---- ept.c ---- */

/* Rules of EPT entries beyond reserved bits. */
bool ept_entry_bad(const struct cpu *cpu, uint64_t entry, bool leaf);
/* ---- spp.c ---- */

/* Has the write that EPT denies at the end of the trail a say in the sub-page table? */
bool spp_eligible(const struct cpu *cpu, const struct walk *w, const struct trail *t, uint64_t gpa);
/* What the table says: WALK_OK, WALK_EPT_VIOLATION, or WALK_SPP for a table that does not tell. */
enum walk_outcome spp_walk(struct cpu *cpu, struct walk *w, uint64_t gpa);

/* ---- ept.c ---- */

/* The end of every walk: from w->gpa to w->pa, rights narrowed by EPT's. */
enum walk_outcome ept_walk_target(struct cpu *cpu, struct walk *w);
/* Turns what EPT made of an access into #VE or a VM exit. */
_Noreturn void ept_fail(struct cpu *cpu, const struct walk *w, enum walk_outcome outcome);

#endif
