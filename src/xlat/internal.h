/*
 * The engine's own structures, for the files of xlat/ only.
 *
 * Each vCPU has its own code cache, blocks and jump caches: no locks, and a
 * block is entered, linked and dropped by one thread only.
 *
 * A block is keyed by the host address of its first byte (which stands for
 * the guest-physical one), its guest RIP and its mode word. Blocks end at a
 * page's end; an instruction that straddles two pages is a block of its own.
 * Direct links join blocks of one page only, so that executing the one proves
 * that the other is mapped; all else goes through the jump cache, which is
 * tied to a TLB context.
 */
#ifndef ANYKVM_XLAT_INTERNAL_H
#define ANYKVM_XLAT_INTERNAL_H

#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/fpu.h"
#include "cpu/rules.h"
#include "xlat/emit.h"
#include "xlat/xlat.h"

/* The engine's additions to the mode word of a block's key. */
enum { XMODE_ONE = 1u << 24,             /* one instruction */
       XMODE_CAREFUL = 1u << 25,         /* memory operands through cpu/access */
       XMODE_NO_WINDOWS = 1u << 26 };    /* each memory operand checked by itself */

enum { JUMP_CACHE_ENTRIES = 16384, JUMP_CACHE_SHIFT = 2 /* functions are aligned, returns are not */, JUMP_CACHE_COUNT = 64, JUMP_CACHE_WAYS = 8, JUMP_CACHE_LISTED = 4096, QUICK_ENTRIES = 16384, BLOCK_HASH = 1 << 17, PAGE_HASH = 1 << 12, MAX_BLOCK_INSNS = 64,
       CHUNKS = 16 /* of the code cache, at most */, BLOCK_ROOM = 64 << 10 /* most that one block may take, of code and of metadata */ };

/* Use of cpu->spill[]. 0..3 are scratch of translated instructions. */
enum { SPILL_HOST_RSP = 4, SPILL_TARGET = 5, SPILL_SCRATCH = 6, SPILL_JUMP_MASK = 7, SPILL_FLAGS = 8 /* RAX of put_flags_saved() */ };

/* cpu->exit_id: why generated code came back to engine_run(). */
enum { EXITED_NEXT = 0xfffffff0u,        /* go on at next_rip (a rule ended the block) */
       EXITED_LOOKUP,                    /* go on at rip */
       EXITED_POLL,                      /* poll word set; at rip */
       EXITED_STALE,                     /* a stale block without windows: go on at rip, in such a one */
       EXITED_SIGNAL };                  /* below these: index of a block exit to be linked */

struct block_exit {
	uint8_t *place;                  /* rel32 of the jump */
	uint8_t *stub;                   /* where it points while unlinked */
	struct block *owner, *target;    /* target: NULL while unlinked */
	struct block_exit *next_owned, *next_incoming;
	uint64_t rip;                    /* guest address it leads to */
	uint32_t extra;                  /* XMODE_NO_WINDOWS: to a block of that kind */
};

/* Atomic against the other vCPUs? XCHG with memory always is. */
static inline bool insn_locks(const struct insn *in) { return in->lock || (in->mnemonic == ZYDIS_MNEMONIC_XCHG && in->mem); }

/* A memory access of translated code, for slow_access(). */
struct access_site {
	uint64_t rip, next;
	struct block *block;
	uint8_t size, access, length;    /* bytes, ACCESS_* (0: a window that no access begins), bytes of the instruction */
	bool locked, aligned, x87_wait;  /* insn_locks(); the others as in struct xinsn */
	void *back;                      /* goes on with the host address in r14, r13 = 0 */
	void *beside;                    /* the same where the TLB does not have the page, for it holds code; NULL: cannot be */
	bool window, window_write;       /* checks a span for a window (window.c): slow_result is host - guest address */
	uint16_t before, span;           /* the access itself begins so far into the span, of so many bytes */
	void *copy;                      /* the same instruction on a bounce buffer, then site_commit(); NULL: none. Windows: the way out */
};

/* Where copied instructions' host code lies, by offset from the block's entry. Sorted. */
struct insn_map { uint16_t host_offset; uint8_t guest_offset_lo, guest_offset_hi; uint8_t borrowed[2]; uint8_t fpu; };
enum { FPU_CLASS_NONE, FPU_CLASS_X87, FPU_CLASS_SIMD };

/* An immediate that stands in the host code as it does in the guest's, by offsets from the block's beginnings. */
struct patch { uint16_t guest, host; uint8_t size; };
enum { HEAD_BYTES = 5 /* of a jump */ };

/*
 * A block is valid, or stale: its guest bytes changed, or may have. A stale one
 * stays where it can be found, its entry leads to the dispatcher, and it is
 * valid again when the bytes suit it (revive.c).
 */
struct block {
	/* What finding, killing and reviving look at: one line of the cache. */
	const uint8_t *source;           /* host address of the first guest byte */
	uint64_t rip;
	struct block *hash_next, *page_next;
	uint8_t *entry;                  /* in the writable mapping */
	uint8_t *leave;                  /* where the entry leads while stale; NULL: nothing jumps to it, or the block straddles */
	uint32_t mode;
	uint16_t length;                 /* guest bytes */
	bool valid, straddles, listed;   /* listed: can be found */
	uint8_t npatches;
	uint8_t head[HEAD_BYTES];        /* what entry begins with while valid */

	uint8_t *bytes __attribute__((aligned(64)));     /* copy of the guest bytes; whole words, the rest zero */
	uint8_t *mask;                   /* which bits of bytes[] must not change; NULL: all */
	struct patch *patches;
	struct block_exit *exits, *incoming;
	const uint8_t *source2;          /* of the second page if it straddles, else NULL */
	struct block *straddle_next;     /* in the second page's list */
	uint16_t insns, nmap;
	uint8_t *indirect_entry;         /* in the writable mapping */
	uint32_t code_size, perf_line;   /* perf_line: perfmap.c's: where its line is */
	uint64_t reach;                  /* highest offset into CS that it fetches from, or jumps to without a look at the limit */
	struct insn_map *map;
};
_Static_assert(offsetof(struct block, bytes) == 64, "the hot part is one line");

enum { PAGE_PARTS = 64, PART_SHIFT = 6 };
struct code_page {
	uint64_t host_page;
	struct code_page *next;
	struct block *starting[PAGE_PARTS];      /* blocks by the part of the page that they begin in */
	struct block *straddling;        /* blocks that begin in another page */
	uint32_t epoch;                  /* when last compared */
	uint32_t longest, nblocks;       /* bytes of the longest block; how many there are, of both kinds */
};

struct jump_cache_key { uint64_t context, selected; uint32_t mode; };
struct jump_cache {
	uint32_t nused;                  /* > JUMP_CACHE_LISTED: more slots are used than are listed */
	uint16_t used[JUMP_CACHE_LISTED];
	void *target[JUMP_CACHE_ENTRIES];
};

/* A store over two pages, between slow_cross() and site_commit(). */
struct crossing { bool open; uint8_t *first, *rest, *bounce; unsigned first_len, rest_len; };

struct engine {
	struct cpu *cpu;
	struct crossing cross;
	uint8_t *rw, *rx;                /* the code cache, twice */
	size_t size;
	uint8_t *code_start;             /* first byte after the stubs (writable mapping) */
	uint8_t *meta;                   /* arena of blocks, exits, maps, instructions: as large, and in chunks as the code */
	struct block **by_code;          /* each chunk's blocks in order of their code */
	struct block_exit **exits;       /* by exit id */
	size_t chunk_size;
	unsigned chunk_count, chunk_blocks, chunk_exits;         /* of the cache; most in one chunk */
	_Atomic unsigned chunks_allowed; /* as many as may be in use; other threads lower it */
	struct chunk { bool used; unsigned nblocks, nexits; } chunks[CHUNKS];
	/* The chunk that is being filled: next free byte (writable mapping) and end. */
	unsigned chunk;
	uint8_t *code, *code_end, *meta_next, *meta_end;
	unsigned next_lane, lanes_end;   /* of cpu->lane[]; lane 0 is none */
	struct block *hash[BLOCK_HASH];
	struct code_page *pages[PAGE_HASH];
	struct code_page *page_pool, *page_free;
	unsigned page_pool_used;
	struct jump_cache_key jump_keys[JUMP_CACHE_COUNT];
	struct jump_cache *jump_caches;  /* one for each key */
	int jump_cache;                  /* the current one, or -1 */
	unsigned jump_sets;              /* of JUMP_CACHE_WAYS, in use */
	_Atomic unsigned jump_sets_allowed;
	int jump_cache_recent[2];        /* of supervisor mode and of user mode */
	struct block *quick[QUICK_ENTRIES];      /* short cut past the hash, by RIP */
	uint64_t selections;
	bool flush_wanted;               /* drop everything at the next dispatch */
	bool want_careful;               /* run the instruction at rip as a careful translation */
	struct template *templates;      /* TEMPLATES of them */
	struct insn slow_insn;           /* stands for an instruction of which only the length is known */
	struct { uint8_t vector; bool fault, retry; } signal;    /* for stub_signal */
	uint64_t dispatches;
	uint64_t turns;                  /* grows whenever blocks are forgotten by the chunk */
	/* stubs, writable mapping */
	uint8_t *stub_exit, *stub_call, *stub_slow, *stub_store, *stub_store_window, *stub_rule_end, *stub_rule_next, *stub_lookup, *stub_leave, *stub_unknown, *stub_signal;
	uint8_t *stub_stack[STACK_LANES];        /* for each lane of the stack */
	void (*enter)(struct cpu *cpu, void *code);
};

static inline unsigned jump_cache_index(uint64_t rip) { return rip >> JUMP_CACHE_SHIFT & (JUMP_CACHE_ENTRIES - 1); }

/* An instruction on its way through the translator. */
enum insn_kind { KIND_NATIVE, KIND_RULE, KIND_NOP, KIND_LEA, KIND_JCC, KIND_JMP, KIND_CALL, KIND_RET, KIND_JMP_IND, KIND_CALL_IND,
                 KIND_PUSH, KIND_POP, KIND_LEAVE, KIND_BIT_STRING, KIND_CLI, KIND_STI, KIND_RDTSC,
                 KIND_LOOP /* goes back to the block's own start: loop.c */ };
enum { RULE_ENDS = 1 };                  /* the rule may change RIP, mode, mapping or code: ends the block */

/* What a memory access has to do with a window (window.c). */
enum window_role { WINDOW_NONE, WINDOW_LEAD, WINDOW_MEMBER };
enum { WINDOW_REGISTERS = 2, WINDOW_IN_LANE = 2 /* the lane holds it */ };
enum window_part { WINDOW_OPERAND, WINDOW_STACK, WINDOW_PARTS };
struct window {
	uint8_t role, reg;               /* enum window_role; window register 0 or 1, or WINDOW_IN_LANE */
	bool write;                      /* lead: some member writes */
	bool table;                      /* lead: its operand's index is left out, for the span covers all that it may be */
	uint16_t lane;                   /* lead, and access without a window: what is compared instead of the TLB, or 0; WINDOW_IN_LANE: all members */
	uint16_t before, span;           /* lead: the span begins so many bytes before its own operand, and has so many */
};

enum gpr_field { FIELD_REG, FIELD_RM, FIELD_OPCODE, FIELD_VVVV, FIELD_COUNT };
struct xinsn {
	struct insn in;
	uint64_t rip, next;
	uint8_t kind, rule_flags, cc, fpu_class;
	rule_fn *rule;
	uint64_t target;                 /* of direct branches */
	uint32_t flags_read, flags_written, flags_live;   /* live: before the instruction */
	bool flags_kept;                 /* may leave some as they were, though it has to do with them */
	bool imm_used;                   /* depend_on_imm() */
	bool checks_save;                /* live ones are in the host's register, for checks to save */
	/* replay.c: 1 + number of the instruction to be repeated for its flags: in cold code and at the end of this one; before this one. */
	uint8_t replay, replay_first;
	bool keep_flags;                 /* REPLAY_KEPT from this instruction on */
	int16_t stack_moved;             /* RSP's distance since that instruction */
	struct { int8_t gpr; bool read, write; } field[FIELD_COUNT];   /* gpr -1: not a general register */
	uint32_t used, written;          /* masks of guest registers, hidden operands included */
	struct window window[WINDOW_PARTS];
	bool high_byte;                  /* has an AH..DH operand */
	bool simd;                       /* 66/F2/F3 are part of the opcode */
	bool force66;                    /* 16-bit code: emit 66 */
	bool x87_op;                     /* updates FIP, FDP, FOP */
	bool x87_wait;                   /* takes a pending #MF before anything else */
	bool aligned;                    /* memory operand must be aligned to its size */
	uint8_t imm_offset;              /* of immediates in in.bytes; == in.len if none */
};

/* A decoded instruction that others of its form are made from (template.c). */
enum { TEMPLATES = 4096 };
struct template {
	uint64_t key;                    /* 0: empty */
	uint32_t mode;
	uint8_t disp_at, disp_size, imm_at;
	bool imm_signed, same_imm;       /* same_imm: only for the same immediate */
	struct xinsn x;
};

/* A loop of one block; body: 0 if the block is none. */
enum { MAX_LOOP_LANES = 16 };
struct loop {
	unsigned body, rounds;           /* instructions of a round */
	bool always;                     /* the last branch back is no JCC */
	unsigned nlanes, first, key;     /* lanes first to first + nlanes - 1; key: the lane whose tag is the TLB's key for them */
	uint8_t *head;
};

/* The immediate of a native instruction, for a translation that depends on its value: it is not patched (revive.c). */
static inline uint64_t depend_on_imm(struct xinsn *x)
{
	x->imm_used = true;
	return x->in.imm;
}

struct translation_unit {
	struct emit e;
	struct engine *engine;
	struct cpu *cpu;
	struct block *block;
	uint32_t mode;                   /* with XMODE_* */
	bool careful;                    /* memory operands by call (also: not flat) */
	struct xinsn insn[MAX_BLOCK_INSNS];
	unsigned count;
	bool ended;                      /* last instruction left the block */
	struct loop loop;
	uint8_t replay_last;             /* as replay_first, where the block's end is reached */
	int16_t stack_moved_last;
	/* cold code to be emitted after the block */
	struct cold {
		uint8_t kind;
		bool flags_saved, write;
		uint8_t replay;                  /* as in struct xinsn */
		int16_t stack_moved;
		int8_t window;                   /* COLD_WINDOW: the register */
		uint8_t *place;                  /* the jump that leads here */
		uint64_t rip;
		uint16_t lane;                   /* that missed; 0: none */
		uint8_t *hit;                    /* where the lane, filled, is used */
		unsigned size;                   /* of the access or span */
		/* COLD_ACCESS: */
		struct access_site *site;
		uint8_t *back;                   /* where the hot code goes on with the host address */
		const struct xinsn *copy;        /* the instruction, if it can be run again here on a bounce buffer; ends at after */
		uint8_t *after;
	} cold[4 * MAX_BLOCK_INSNS];
	unsigned ncold;
	struct insn_map map[4 * MAX_BLOCK_INSNS];        /* the block's, while it grows */
	struct patch patch[2 * MAX_BLOCK_INSNS];         /* likewise */
	unsigned npatches;
};
enum { COLD_ACCESS,                      /* TLB missed */
       COLD_WINDOW,                      /* the same at the lead of a window */
       COLD_POLL,                        /* leave: poll word set */
       COLD_LANES,                       /* the TLB has changed: lanes hold nothing */
       COLD_GOTO };                      /* go to rip */

static inline bool code64(const struct translation_unit *u) { return (u->mode & MODE_CODE_MASK) == MODE_CODE64; }

/* decode.c: guest bytes to xinsn[]; may raise #PF for the first instruction. false: fetch from MMIO */
void unit_decode(struct translation_unit *u, const uint8_t *host, uint64_t rip);
int mode_bits_of(uint32_t mode);          /* 16, 32, 64 */
/* template.c: x, at x->rip, of these bytes from a template, if there is one. What is decoded becomes one. */
bool template_use(struct translation_unit *u, struct xinsn *x, const uint8_t bytes[15]);
void template_keep(struct translation_unit *u, const struct xinsn *x, const ZydisDecodedInstruction *z);
/* classify.c */
void xinsn_classify(struct translation_unit *u, struct xinsn *x, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
void unit_check_sti(struct translation_unit *u);
/* rules.c: NULL: no rule */
struct rule_binding { uint16_t mnemonic; uint8_t flags; rule_fn *fn; };
const struct rule_binding *rule_find(unsigned mnemonic);
rule_fn rule_cs_store, rule_simd_unavailable, rule_x87_unavailable, rule_too_long, rule_direction;
/* replay.c */
enum { REPLAY_KEPT = 255 };              /* for the number: the flags are in memory */
void put_flags_kept(struct translation_unit *u);
void unit_replay(struct translation_unit *u);
/* Makes the flags of instruction number replay - 1 again (0: nothing), RSP having moved since. Uses r14. */
void put_replay(struct translation_unit *u, unsigned replay, int moved);
/* loop.c */
void unit_loop(struct translation_unit *u);
unsigned loop_lane(struct translation_unit *u);
void put_loop_entry(struct translation_unit *u);
void put_cold_lanes(struct translation_unit *u, const struct cold *c);
void put_loop_back(struct translation_unit *u, const struct xinsn *x);
/* liveness.c */
void unit_liveness(struct translation_unit *u);
/* window.c */
void unit_windows(struct translation_unit *u);
/* block.c */
void mark_code(struct cpu *cpu, const uint8_t *from, unsigned len);
struct block *block_translate(struct engine *en, const uint8_t *host, uint64_t rip, uint32_t mode);
/* memory.c: the guest-linear address (careful: the offset) is in r13; leaves the operand's host address at the returned place.
 * Uses r13 and r14 only. seg matters to careful translations. lane: 0: none. */
struct mem_operand put_access(struct translation_unit *u, const struct xinsn *x, int seg, unsigned size, unsigned access, unsigned lane);
/* The access at [base + disp] of guest register base, which has a window role. */
struct mem_operand put_window_access(struct translation_unit *u, const struct xinsn *x, enum window_part part, int base, int64_t disp,
                                     unsigned size, unsigned access);
size_t tag_offset(bool write);           /* of the tag, in a TLB entry */
/* The comparison of cpu/tlb.h for [r13, +size): r14 = entry, r13 = offset in its page; "above" if it fails. */
void put_lookup(struct emit *e, size_t tag, unsigned size);
void put_address(struct translation_unit *u, const struct xinsn *x, int to);    /* of the memory operand, without segment base */
void put_effective_address(struct translation_unit *u, const struct xinsn *x);          /* into r13 */
struct mem_operand put_operand(struct translation_unit *u, const struct xinsn *x);      /* both, for x's memory operand */
bool operand_commits(const struct translation_unit *u, const struct xinsn *x);
void put_commit(struct translation_unit *u, const struct xinsn *x);
/* r14 = fn's argument in r13; calls fn(cpu, arg) with the whole state stored at x. */
void put_call_c(struct translation_unit *u, const struct xinsn *x, void (*fn)(struct cpu *, uint64_t), uint64_t arg);
/* The arithmetic flags are in AX, and RAX in memory, between the two. */
void put_flags_saved(struct translation_unit *u);
void put_flags_restored(struct translation_unit *u);
void put_rip(struct translation_unit *u, uint64_t rip);  /* cpu->rip = rip */
void unit_cold(struct translation_unit *u);
void put_segment_base(struct translation_unit *u, int seg);       /* r13 += base of seg; uses r14 */
int host_reg(int guest);                 /* home register, or -1 for those in memory */
/* native.c */
void put_renamed(struct translation_unit *u, const struct xinsn *x, struct mem_operand *m);
void put_native(struct translation_unit *u, struct xinsn *x);
void put_register_form(struct translation_unit *u, const struct xinsn *x);      /* all of whose registers have homes */
void put_lea_insn(struct translation_unit *u, struct xinsn *x);
void put_bit_string(struct translation_unit *u, struct xinsn *x);
int put_guest_reg(struct translation_unit *u, int guest, int scratch);    /* host register holding it; loads into scratch */
/* What follows belongs to x, should it fault: for accesses that put_native() does not make. At most three per instruction. */
void note_access(struct translation_unit *u, const struct xinsn *x);
/* branch.c */
void put_control(struct translation_unit *u, struct xinsn *x);
void put_goto(struct translation_unit *u, uint64_t rip);
void put_goto_from(struct translation_unit *u, uint8_t *place, uint64_t rip);
void put_goto_without_windows(struct translation_unit *u, uint64_t rip);
void put_rule(struct translation_unit *u, struct xinsn *x);
/* system.c */
void put_rdtsc(struct translation_unit *u, struct xinsn *x);
/* stubs.c */
void stubs_make(struct engine *en);
/* beside.c: after stub_slow */
void stub_store_make(struct engine *en, struct emit *e), stub_store_window_make(struct engine *en, struct emit *e);
/* cache.c */
bool engine_map(struct engine *en);      /* false: no memory */
void engine_unmap(struct engine *en);
void engine_reset(struct engine *en);
/* Makes room for one more block, by forgetting the oldest chunk if need be. */
void engine_room(struct engine *en);
unsigned exit_new(struct engine *en, struct block_exit *x);       /* its id */
/* The block that has this address of the executable mapping in its code, or NULL. */
struct block *block_at(const struct engine *en, const uint8_t *rx);
struct block *block_find(struct engine *en, const uint8_t *source, uint64_t rip, uint32_t mode);
void block_insert(struct engine *en, struct block *b);
void block_kill(struct engine *en, struct block *b);      /* makes it stale; one that straddles pages is discarded */
void block_discard(struct engine *en, struct block *b);
struct block *blocks_beside(struct engine *en, const struct block *b);    /* list, by page_next, of those that begin in the same part of the page */
/* revive.c */
void note_patch(struct translation_unit *u, const struct xinsn *x, const uint8_t *host);
void block_keep_patches(struct translation_unit *u);
bool block_revive(struct engine *en, struct block *b);   /* stale: valid again with the bytes of now? */
void *meta_alloc(struct engine *en, size_t size);
void *meta_alloc_aligned(struct engine *en, size_t size);        /* at a multiple of 64 */
bool block_current(const struct block *b);       /* bytes unchanged? */
/* landing.c: in MODE_TRACK, whether the instruction at RIP, at this host address, is one that a tracked branch may lead to; #CP */
void engine_landing(struct cpu *cpu, const uint8_t *host);
/* lookup.c: called by generated code; the host address to go on at */
void *lookup_branch(struct cpu *cpu);
void *lookup_next(struct cpu *cpu);      /* NULL: leave */
bool unpaged_current(const struct cpu *cpu);              /* nothing to be compared with memory because there is no paging */
bool block_linkable(const struct cpu *cpu, const struct block *b);       /* may other blocks jump to it without the dispatcher? */
/* Host address of code at linear address lin if the TLB has it, else NULL. */
static inline const uint8_t *exec_host(const struct cpu *cpu, uint64_t lin)
{
	const struct tlb_entry *e = tlb_entry_at(cpu->tlb, cpu->tlb_mask, lin);
	return e->exec_tag == (lin & ~4095ull) ? (const uint8_t *)e->host + (lin & 4095) : NULL;
}
uint64_t straddle_page(const struct cpu *cpu, const struct block *b);    /* linear address of a straddling block's second page */
/* link.c */
void jump_caches_clear(struct engine *en);
void jump_caches_forget(struct engine *en, const uint8_t *rw, size_t size);   /* slots that lead into this code */
void jump_cache_set(struct engine *en, const struct block *b);
void exit_link(struct engine *en, struct block_exit *x, struct block *target);
void block_unlink(struct engine *en, struct block *b);
/* perfmap.c */
void perfmap_open(void);
void perfmap_block(const struct engine *en, struct block *b);
void perfmap_forget(const struct engine *en, const struct block *b);
void perfmap_stub(const struct engine *en, const char *name, const uint8_t *rw, const uint8_t *end);
/* recover.c */
extern __thread struct cpu *engine_current;      /* whose translated code this thread runs, for signal handlers */
void engine_signal_landed(struct cpu *cpu);      /* raises what the signal stands for */
/* careful.c: what cold code calls */
_Noreturn void be_careful(struct cpu *cpu);       /* run the instruction at rip as a careful translation */
void slow_access(struct cpu *cpu, struct access_site *site);
void site_commit(struct cpu *cpu, uint64_t site);
void careful_begin(struct cpu *cpu, uint64_t info);

static inline uint8_t *to_rx(const struct engine *en, uint8_t *rw) { return rw + (en->rx - en->rw); }
static inline struct block **quick_place(struct engine *en, uint64_t rip) { return &en->quick[(rip ^ rip >> 14) & (QUICK_ENTRIES - 1)]; }
static inline bool block_is(const struct block *b, const uint8_t *source, uint64_t rip, uint32_t mode)
{
	return b->source == source && b->rip == rip && b->mode == mode;
}
#define PAGE_HASH_OF(host_page) (((uint64_t)(host_page) >> 12) & (PAGE_HASH - 1))

#endif
