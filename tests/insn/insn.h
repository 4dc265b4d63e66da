/*
 * Instruction tests: every instruction form is run with random operands on
 * this processor and through the engine, and the results are compared.
 *
 * forms.c      which forms there are
 * build.c      bytes of one random instance of a form
 * inputs.c     registers and memory for it, so that operands lie where the test wants them
 * special.c    inputs that single instructions need (divisors, counts, images ...)
 * sequence.c   blocks of several random instructions
 * smc.c        loops that store into their own code
 * native.c     the oracle: runs a test on this processor, inside a signal frame
 * guest.c      runs a test through the KVM API
 * compare.c    compares and reports
 *
 * A test's memory lies at the same linear addresses for the oracle and for the
 * guest, so addresses need no translation between them.
 */
#ifndef INSN_H
#define INSN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <Zydis/Zydis.h>

#define COUNT_OF(a) (sizeof(a) / sizeof(*(a)))

enum { PAGE = 4096, XSAVE_BYTES = 832, XSAVE_HEADER = 512, XSAVE_YMM = 576 };

/*
 * Code under test: 64-bit, or 32- or 16-bit in compatibility mode. 16-bit code
 * has segments in the LDT; their bases are multiples of 64 KiB, so that a
 * register may hold an offset or the linear address alike.
 */
extern int machine_bits;
static inline uint64_t machine_mask(void) { return machine_bits == 64 ? ~0ull : 0xffffffff; }
enum { SEL_CODE16 = 0x07, SEL_DATA16 = 0x0f, SEL_CODE32 = 0x23, SEL_FLAT = 0x2b, SEL_CODE64 = 0x33 };   /* as the system has them */
static inline unsigned code_selector(void) { return machine_bits == 64 ? SEL_CODE64 : machine_bits == 32 ? SEL_CODE32 : SEL_CODE16; }
static inline unsigned data_selector(void) { return machine_bits == 16 ? SEL_DATA16 : SEL_FLAT; }

/* ---- memory ---- */
#define DATA_BASE 0x10000000ull
#define CODE_BASE 0x20000000ull
#define CODE_BYTES (64ull << 20)
#define SMC_BYTES (8ull << 20)                   /* at its end: writable */
#define SMC_BASE (CODE_BASE + CODE_BYTES - SMC_BYTES)
/* Pages of the data area, by what they are. */
enum page_kind { PAGE_NONE, PAGE_RW, PAGE_RO, PAGE_MMIO };
enum { DATA_PAGES = 12 };
extern const uint8_t page_kinds[DATA_PAGES];
enum { FIRST_PAGE = 0, LAST_RW_BEFORE_HOLE = 3, HOLE = 4, RW_BEFORE_RO = 5, RO = 6, RW_BEFORE_MMIO = 8, MMIO = 9, RW_AFTER_MMIO = 10 };
#define PAGE_ADDR(n) (DATA_BASE + (uint64_t)(n) * PAGE)

/* What the data area holds when a test starts: a base that never changes, with a few bytes poked in. */
extern uint8_t image[DATA_PAGES * PAGE];
void image_init(uint64_t seed);
void image_reset(void);                          /* takes the pokes back */
bool poke(uint64_t addr, const void *bytes, unsigned len);      /* false: some of it is no memory of ours */

/* ---- code ---- */
enum { MAX_INSNS = 20, SLOT_BYTES = 256, CODE_OFFSET = 64, CODE_ROOM = 160 };

/* ---- machine state ---- */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, GPR_COUNT = 16 };
enum { FLAG_CF = 1, FLAG_PF = 4, FLAG_AF = 0x10, FLAG_ZF = 0x40, FLAG_SF = 0x80, FLAG_TF = 0x100, FLAG_IF = 0x200, FLAG_DF = 0x400,
       FLAG_OF = 0x800, FLAG_NT = 0x4000, FLAG_RF = 0x10000, FLAG_AC = 0x40000, FLAG_ID = 0x200000, FLAGS_ARITH = 0x8d5 };

struct state {
	uint64_t gpr[GPR_COUNT], rip, rflags;
	uint8_t xsave[XSAVE_BYTES] __attribute__((aligned(64)));
};

struct outcome {
	struct state state;
	unsigned vector;
	uint64_t error, cr2;                     /* cr2: of page faults, else 0 */
	uint8_t data[DATA_PAGES][PAGE];
	uint8_t code[CODE_ROOM];                 /* of tests that change theirs */
};

/* ---- random numbers ---- */
struct rng { uint64_t s; };
static inline uint64_t rnd(struct rng *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}
static inline unsigned below(struct rng *r, unsigned n) { return (unsigned)((rnd(r) >> 32) * n >> 32); }
static inline bool percent(struct rng *r, unsigned p) { return below(r, 100) < p; }

/* ---- forms ---- */
struct decoded {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

struct form {
	uint64_t key;
	uint8_t bytes[15], len;                  /* one example */
	uint8_t prefix[3], nprefix;              /* of legacy forms: 66, F2, F3, F0 */
	bool vex, memory;
	uint8_t map, opcode, modrm, w, l, pp, vvvv;
	bool has_modrm, opcode_register;
	uint16_t mnemonic;
	bool executed;                           /* some instance did not end in #UD */
};
extern struct form *forms;
extern unsigned form_count;
void forms_enumerate(const char *filter);
bool decode(const uint8_t *bytes, unsigned len, struct decoded *d);
uint64_t form_key(const struct decoded *d);
/* The memory operand that modrm or moffs encodes, or NULL. */
const ZydisDecodedOperand *memory_operand(const struct decoded *d);
bool is_vsib(const struct decoded *d);

/* ---- one test ---- */
struct test {
	uint64_t index;
	struct rng rng;
	const struct form *form;                 /* NULL: a sequence */
	uint64_t slot;                           /* linear address of its SLOT_BYTES, filled with INT3 */
	unsigned start;                          /* of the code within the slot; may reach into the next one, on another page */
	uint8_t code[CODE_ROOM];
	unsigned code_len, count;
	struct decoded insn[MAX_INSNS];
	uint16_t offset[MAX_INSNS];
	struct state in;
	uint32_t undefined;                      /* flags that mean nothing afterwards */
	bool smc;                                /* stores into its own code */
	bool conditional;                        /* sequences being made: the next instruction may be skipped */
	uint32_t bases;                          /* sequences: those of them that may move a little */
	uint32_t pinned;                         /* sequences: registers that hold addresses throughout */
};
static inline uint64_t test_rip(const struct test *t) { return t->slot + t->start; }

static inline uint64_t code_base(const struct test *t) { return machine_bits == 16 ? t->slot & ~0xffffull : 0; }
static inline uint64_t test_ip(const struct test *t) { return test_rip(t) - code_base(t); }

/* build.c. Registers that memory operands may use; ~0: any. */
struct shape { uint32_t bases, indexes; };
const struct shape *any_shape(void);
bool build(struct rng *rng, const struct form *f, const struct shape *shape, uint8_t bytes[15], struct decoded *d);

/* inputs.c */
void random_state(struct rng *rng, struct state *s);
uint64_t random_value(struct rng *rng);
void random_bytes(struct rng *rng, void *to, unsigned len);
/* next_rip: linear. The result is, too. */
uint64_t effective_address(const struct state *s, const struct decoded *d, const ZydisDecodedOperand *m, uint64_t next_rip);
uint64_t pick_address(struct rng *rng, unsigned size);
/* Makes t->insn[0]'s memory operand lie at addr, by setting registers and its displacement. */
bool aim(struct test *t, uint64_t addr);
bool test_single(struct test *t, const struct form *f);
int base_register(const struct decoded *d);      /* of the memory operand, -1 if it has none */
int gpr_of(ZydisRegister r);             /* 0..15, AH..BH as RAX..RBX; -1 */
unsigned operand_bytes(const struct decoded *d);

/* special.c. false: try another instance. */
bool special_inputs(struct test *t);
bool is_excluded(const struct decoded *d);
bool is_simple(const struct decoded *d);        /* may stand in a sequence */

/* sequence.c */
bool test_sequence(struct test *t);
void sequence_reseed(struct test *t);

/* smc.c */
bool test_smc(struct test *t);

/* ---- running ---- */
extern uint64_t native_fs_base, native_gs_base;
void native_init(int code_fd);
extern uint8_t *code_alias;                      /* CODE_BASE, writable */
int code_memory(void);                           /* memfd behind it */
void native_run(const struct test *t, struct outcome *out);
bool native_signal(int signo, void *info, void *context);
/* A signal that is nobody's: reports the current test and ends the process. */
void signal_init(bool (*other)(int, void *, void *));

const char *guest_init(int code_fd);             /* NULL or what failed */
const char *guest_run(const struct test *t, struct outcome *out);
bool guest_signal(int signo, void *info, void *context);

/* compare.c */
extern bool compare_fault_flags, compare_x87_pointers;
void forgive(const struct test *t, struct outcome *native, const struct outcome *guest);
bool outcomes_equal(const struct test *t, const struct outcome *a, const struct outcome *b);
void report(const struct test *t, const struct outcome *native, const struct outcome *guest, const char *why);

#endif
