/* The contexts behind tlb.h, shared by tlb.c and tlb_flush.c. */
#ifndef ANYKVM_TLB_SET_H
#define ANYKVM_TLB_SET_H

#include "cpu/paging.h"

/* What a context's entries depend on. */
struct tlb_key { uint64_t eptp; uint32_t bits; uint16_t vpid, pcid; };

enum tlb_key_bits { TLB_PG = 1, TLB_WP = 2, TLB_PSE = 4, TLB_PAE = 8, TLB_SMEP = 16, TLB_SMAP = 32, TLB_PGE = 64, TLB_NXE = 128,
                    TLB_LMA = 256, TLB_USER = 512, TLB_OVERRIDE = 1024 /* EFLAGS.AC lifts SMAP */,
                    TLB_WATCH = 2048 /* data breakpoints: every access takes the slow path */,
                    TLB_MBEC = 4096 /* mode-based execute control for EPT */ };

/* Bits of a context's meta[]: one byte per entry. */
enum { META_GLOBAL = 1, META_LARGE = 2 /* fragment of a 2 or 4 MiB page */, META_HUGE = 4 /* of a 1 GiB page */,
       META_LISTED = 8 /* in the list of local ones */, META_LISTED_GLOBAL = 16 };

enum { TLB_LISTED = 384, TLB_FILTER = 2048, TLB_DROPS = 64, TLB_HINTS = 256, TLB_CONTEXTS_MAX = 256,
       JUMP_PAGES = 512, JUMP_PAGE_WAYS = 8, JUMP_DOMAINS = 16 };

/*
 * Jump targets are cached by linear address (engine_jump_cache_select()). A domain stands for one set of them and
 * knows on which pages they may be. Each context has its own; supervisor contexts with global pages share one
 * for targets on these, whatever the PCID.
 */
struct tlb_jumps {
	struct tlb_key key;              /* of a shared one */
	uint64_t id;                     /* a new one whenever all targets are forgotten; never used again */
	uint64_t seen, last_use;
	bool many;                       /* on pages that did not fit below, too */
	uint16_t count;
	uint8_t round;                   /* 0..63: pages of other rounds are forgotten ones */
	uint64_t page[JUMP_PAGES];       /* address of a page of 4 KiB or more | round << 6 | log2 of its size; 0: none. JUMP_PAGE_WAYS places each */
};

enum { TLB_LOCAL, TLB_GLOBAL, TLB_CLASSES };

struct tlb_context {
	struct tlb_entry *entries;
	uint8_t *meta;
	struct mem_code **code;          /* of entries with TLB_CODE_TAG */
	uint64_t count;                  /* entries in use, a power of two: grows with the working set */
	uint64_t conflicts;              /* entries pushed out since the last flush or growth */
	struct tlb_key key;
	uint64_t seen;                   /* drops (below) that have been applied here */
	uint64_t lane_key;               /* what cpu->tlb_key is under this context: a new one whenever anything is taken out, not pushed out */
	struct lane stack[STACK_LANES];  /* while c is not current: cpu->lane[LANE_STACK_READ] and the one after it */
	uint64_t last_use;
	uint32_t code_epoch;             /* mem_epoch() when tlb_forget_code() was last done */
	/* Entries filled since the last flush, not global and global; more than TLB_LISTED are not listed, and a flush sweeps all. */
	unsigned listed[TLB_CLASSES];
	uint16_t list[TLB_CLASSES][TLB_LISTED];
	uint64_t large[TLB_FILTER / 64], huge;   /* filters: regions with fragments of large and of huge pages, one hashed bit each */
	uint64_t walks;                  /* tag of paging structures in tlb_set.walk[0]; a new one with every flush */
	struct tlb_jumps own, *jumps;    /* jumps: own or a shared one */
};

/*
 * One address forgotten (INVLPG and its kin). The current context does it at once, the others when they are next selected.
 * Of contexts with another PCID: nothing, global entries, everything.
 */
enum tlb_drop_scope { DROP_PCID, DROP_PCID_AND_GLOBALS, DROP_VPID };
struct tlb_drop { uint64_t addr; uint16_t vpid, pcid; uint8_t scope; };

/* A paging structure that walks have come to (walk_cache.c). */
struct walk_cached {
	uint64_t tag, root, region;      /* for which it holds */
	uint64_t table, all, any;        /* its address; AND and OR of the entries that lead there */
	uint8_t *host;
};
enum { WALK_CACHED = 128 };

/* The paging mode in force, and what it was made of. */
struct paging_memo { struct paging paging; uint64_t mode, caps, reserved; };

struct tlb_set {
	unsigned count, used;            /* contexts; used: the first so many have a key */
	struct tlb_key key[TLB_CONTEXTS_MAX];    /* of the contexts, once more: what flushes search */
	uint64_t entries, most;          /* of a new context, and of one that has grown; powers of two */
	uint64_t total;                  /* entries of all contexts in use */
	_Atomic uint64_t total_allowed;  /* beyond which no context grows */
	uint64_t clock, last_id, last_lane_key;
	struct tlb_context *current;
	struct tlb_context *super;       /* whose entries are for implicit supervisor accesses as things are, or NULL: to be found */
	uint64_t drops;                  /* how many there have been */
	struct tlb_drop drop[TLB_DROPS];         /* the last ones */
	struct tlb_context *hint[TLB_HINTS];     /* by a hash of the key */
	struct tlb_jumps shared[JUMP_DOMAINS];
	uint64_t ept_walks;              /* tag of the structures of EPT in walk[1]; a new one with every flush */
	struct walk_cached walk[2][WALK_CACHED];
	struct paging_memo linear, ept;
	void *memory;
	size_t memory_size;
	struct tlb_context context[];
};

/* Supervisor contexts with global pages. */
static inline bool tlb_shares_jumps(const struct tlb_key *k) { return (k->bits & (TLB_USER | TLB_PGE)) == TLB_PGE; }

#define TLB_PAGE(addr) ((addr) & PAGE_MASK_4K)
static inline unsigned tlb_hash(uint64_t n) { return n * 0x9e3779b97f4a7c15ull >> 53; }      /* 0..TLB_FILTER-1 */
static inline bool tlb_key_equal(const struct tlb_key *a, const struct tlb_key *b)
{
	return a->eptp == b->eptp && a->bits == b->bits && a->vpid == b->vpid && a->pcid == b->pcid;
}
/* 4 MiB regions where the format has 4 MiB pages. */
static inline unsigned tlb_large_shift(const struct tlb_key *k) { return k->bits & TLB_PAE ? 21 : 22; }
static inline unsigned tlb_index(const struct tlb_context *c, uint64_t addr) { return addr >> 12 & (c->count - 1); }
/* The page an entry is for, or TLB_NO_TAG. Whatever may be written may be read, so two tags tell. */
static inline uint64_t tlb_entry_page(const struct tlb_entry *e)
{
	return e->read_tag != TLB_NO_TAG ? e->read_tag : e->exec_tag;
}
/* No write tag for an entry of that page: odd in even entries and the other way, so that no address of this entry matches. */
static inline uint64_t tlb_no_write(uint64_t page) { return (TLB_NO_TAG & ~0x1000ull) | (~page & 0x1000); }
/* Likewise the TLB_CODE_TAG of an entry of that page. */
static inline uint64_t tlb_code_write(uint64_t page) { return (TLB_CODE_TAG & ~0x1000ull) | (~page & 0x1000); }
static inline void tlb_entry_clear(struct tlb_entry *e)
{
	*e = (struct tlb_entry){ TLB_NO_TAG, TLB_NO_TAG, TLB_NO_TAG, TLB_NO_TAG };      /* accesses to that very address fault */
}

static inline void tlb_lanes_clear(struct lane *stack)
{
	for (unsigned i = 0; i < STACK_LANES; i++)
		stack[i] = (struct lane){ TLB_NO_TAG, TLB_NO_TAG };
}

/* Something was, or may have been, taken out of c. */
static inline void tlb_context_changed(struct cpu *cpu, struct tlb_context *c)
{
	c->lane_key = ++cpu->tlbs->last_lane_key;
	tlb_lanes_clear(c->stack);
	if (c == cpu->tlbs->current) {
		cpu->tlb_key = c->lane_key;
		tlb_lanes_clear(&cpu->lane[LANE_STACK_READ]);
	}
}

/* Empties a context, of its global entries too unless kept. */
void tlb_context_flush(struct cpu *cpu, struct tlb_context *c, bool keep_globals);
/* Applies the drops that c has not seen. To be called when c becomes current. */
void tlb_context_catch_up(struct cpu *cpu, struct tlb_context *c);

/* ---- tlb_jumps.c ---- */
/* The domain of a context with key k. own: the context's. */
struct tlb_jumps *tlb_jumps_find(struct cpu *cpu, const struct tlb_key *k, struct tlb_jumps *own);
/* A jump is cached to the page of 1 << shift bytes that holds addr. */
void tlb_jumps_note(struct tlb_jumps *j, uint64_t addr, unsigned shift);
void tlb_jumps_forget(struct cpu *cpu, struct tlb_jumps *j);
/* Forgets the jumps into pages that hold addr. */
void tlb_jumps_drop(struct cpu *cpu, struct tlb_jumps *j, uint64_t addr, unsigned large_shift);
/* The targets on global pages that contexts of vpid share. */
void tlb_jumps_forget_shared(struct cpu *cpu, bool (*match)(const struct tlb_key *k, uint64_t arg), uint64_t arg);

#endif
