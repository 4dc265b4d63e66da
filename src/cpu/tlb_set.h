/* The contexts behind tlb.h, shared by tlb.c and tlb_flush.c. */
#ifndef ANYKVM_TLB_SET_H
#define ANYKVM_TLB_SET_H

#include "cpu/cpu.h"

/* What a context's entries depend on. */
struct tlb_key { uint64_t eptp; uint32_t bits; uint16_t vpid, pcid; };

enum tlb_key_bits { TLB_PG = 1, TLB_WP = 2, TLB_PSE = 4, TLB_PAE = 8, TLB_SMEP = 16, TLB_SMAP = 32, TLB_PGE = 64, TLB_NXE = 128,
                    TLB_LMA = 256, TLB_USER = 512, TLB_OVERRIDE = 1024 /* EFLAGS.AC lifts SMAP */,
                    TLB_WATCH = 2048 /* data breakpoints: every access takes the slow path */,
                    TLB_MBEC = 4096 /* mode-based execute control for EPT */ };

/* Bits of a context's meta[]: one byte per entry. */
enum { META_GLOBAL = 1, META_LARGE = 2 /* fragment of a 2 or 4 MiB page */, META_HUGE = 4 /* of a 1 GiB page */ };

enum { TLB_TOUCHED = 384, EXEC_FILTER = 8 };

struct tlb_context {
	struct tlb_entry *entries;
	uint8_t *meta;
	uint64_t count;                  /* entries in use, a power of two: grows with the working set */
	uint64_t conflicts;              /* entries pushed out since the last flush or growth */
	struct tlb_key key;
	bool used;
	uint64_t id;                     /* never used again for other mappings */
	uint64_t last_use;
	/* Entries filled since the last flush; beyond TLB_TOUCHED they are not listed and a flush sweeps all. */
	unsigned touched_count;
	uint16_t touched[TLB_TOUCHED];
	/* Filters, one hashed bit each: regions with fragments of large and of huge pages; pages with
	 * an execute entry; regions with one in a large or huge page. */
	uint64_t large, huge, exec[EXEC_FILTER], exec_large;
	bool exec_any, exec_local;       /* an execute entry was made; one that is not global */
};

struct tlb_set {
	unsigned count;
	uint64_t entries, most;          /* of a new context, and of one that has grown; powers of two */
	uint64_t clock, last_id;
	uint64_t global_jumps;           /* grows whenever jump targets on global pages are forgotten */
	struct tlb_context *current;
	void *memory;
	size_t memory_size;
	struct tlb_context context[];
};

/* Supervisor contexts with global pages share their jump targets on these, whatever the PCID. */
static inline bool tlb_shares_jumps(const struct tlb_context *c) { return (c->key.bits & (TLB_USER | TLB_PGE)) == TLB_PGE; }
/* Identity for engine_jump_cache_select(). */
static inline uint64_t tlb_jumps_id(const struct tlb_set *s, const struct tlb_context *c)
{
	if (!tlb_shares_jumps(c))
		return c->id;
	return ((c->key.eptp ^ (uint64_t)c->key.vpid << 44 ^ (uint64_t)c->key.bits << 20) * 0x9e3779b97f4a7c15ull + s->global_jumps) | BIT(63);
}

#define TLB_PAGE(addr) ((addr) & PAGE_MASK_4K)
static inline unsigned tlb_hash(uint64_t n) { return n * 0x9e3779b97f4a7c15ull >> 55; }      /* 0..511 */
/* 4 MiB regions where the format has 4 MiB pages. */
static inline unsigned tlb_large_shift(const struct tlb_key *k) { return k->bits & TLB_PAE ? 21 : 22; }
static inline unsigned tlb_index(const struct tlb_context *c, uint64_t addr) { return addr >> 12 & (c->count - 1); }
/* The page an entry is for, or TLB_NO_TAG. Whatever may be written may be read, so two tags tell. */
static inline uint64_t tlb_entry_page(const struct tlb_entry *e)
{
	return e->read_tag != TLB_NO_TAG ? e->read_tag : e->exec_tag;
}
static inline void tlb_entry_clear(struct tlb_entry *e)
{
	*e = (struct tlb_entry){ TLB_NO_TAG, TLB_NO_TAG, 0, TLB_NO_TAG };
}

/* Empties a context, of its global entries too unless kept. */
void tlb_context_flush(struct cpu *cpu, struct tlb_context *c, bool keep_globals);

#endif
