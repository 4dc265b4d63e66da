/*
 * A bench for system instructions: a few instructions in a given mode, tables
 * that the case may change first, and what came of it: the exception's vector
 * and frame, or "done" when the code reached its HLT.
 *
 * Each vector's gate leads to a HLT of its own, so the frame lies untouched on
 * the handler's stack. At CPL 3 the HLT that ends the code is a #GP(0), which
 * counts as done too.
 */
#ifndef ANYKVM_TESTS_RIG_H
#define ANYKVM_TESTS_RIG_H

#include "guest.h"

enum rig_mode { REAL, PROT, PROT3, PROT16, VM86, LONG, LONG3, COMPAT, COMPAT3 };
enum { DONE = -1, ANY = -2, EXIT = 1000 };       /* outcomes beside vectors; EXIT + KVM_EXIT_* */
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

/* Where things are. Real and virtual-8086 code runs at 0800:0000, all else at 0x8000 flat. */
enum { RIG_GDT = 0x500, RIG_GDT_ENTRIES = 64, RIG_IDT = 0x1000, RIG_TSS = 0x2000, RIG_TSS2 = 0x2800, RIG_LDT = 0x2c00,
       RIG_DATA = 0x4000, RIG_IST1 = 0x5800, RIG_STACK0 = 0x6000, RIG_STACK = 0x7000, RIG_CODE = 0x8000, RIG_HANDLERS = 0xa000,
       RIG_MORE = 0x10000, RIG_PAGES = 0x40000000, RIG_PAGE_TABLE = 0x112000 };
enum { CODE32 = 0x08, DATA32 = 0x10, CODE64 = 0x18, USER32 = 0x20, USERDATA = 0x28, USER64 = 0x30, CODE16 = 0x38, TSS = 0x40,
       TSS2 = 0x50, LDT = 0x60, DATA16 = 0x70, FREE = 0x80 };    /* FREE: this and later ones are the case's */

struct code { const uint8_t *start, *mark, *end; };

/* Intel syntax; local labels below 600. The instruction after AT is the one whose address a fault must show. */
#define AT "663: "
#define CODE(bits, text) ({ struct code c_; \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n.code" #bits "\n661: 663:\n" text "\n662:\n.att_syntax prefix\n.code64\n" \
	        ".popsection\n lea 661b(%%rip), %0\n lea 663b(%%rip), %1\n lea 662b(%%rip), %2" \
	        : "=&r"(c_.start), "=&r"(c_.mark), "=&r"(c_.end)); c_; })

struct rig {
	struct guest g;
	enum rig_mode mode;
	struct kvm_sregs s;              /* before; may be changed between rig_start() and rig_run() */
	struct kvm_regs r;
	uint64_t *gdt;
	bool gate16;                     /* frames are of words */
	int (*exit)(struct rig *rig, struct kvm_run *run);       /* answers an exit: 0 go on, else the outcome */
	unsigned exits;
	/* What came of it. */
	int vector;
	uint32_t error;
	uint64_t rip, mark, cs, rflags, rsp, ss;         /* the frame; rsp and ss only where the frame has them */
	struct kvm_regs r2;
	struct kvm_sregs s2;
};

void rig_start(struct rig *rig, enum rig_mode mode);
int rig_run(struct rig *rig, struct code code);
/* After rig_run(): goes on from where it stopped. */
int rig_resume(struct rig *rig);
void rig_end(struct rig *rig);
/* Code or data descriptor: type with S, DPL and P (0x9b, 0x93, ...), flags G D L AVL in the upper nibble. */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
uint64_t call_gate(uint16_t selector, uint32_t offset, unsigned access, unsigned count);
/* The IDT's gate of a vector; its handler is the vector's HLT. access: 0x8e, 0xef ... */
void rig_gate(struct rig *rig, unsigned vector, uint16_t selector, unsigned access, unsigned ist);
uint64_t rig_peek(struct rig *rig, uint64_t at, unsigned size);
void rig_poke(struct rig *rig, uint64_t at, unsigned size, uint64_t value);

/* Small pages at 1 GiB (RIG_PAGES): the 512 entries of their table, for the case to fill. 64-bit modes. */
uint64_t *rig_small_pages(struct rig *rig);

/* Verdicts. */
void expect_outcome(struct rig *rig, const char *name, int vector, int64_t error);       /* error ANY: not looked at */
void expect_value(const char *name, const char *what, uint64_t got, uint64_t want);
#define expect(name, got, want) expect_value(name, #got, got, want)
/* One case in one line. */
#define CASE(m, name, vector, error, bits, text) \
	CASE_WITH(m, name, vector, error, bits, text, (void)0)
#define CASE_WITH(m, name, vector, error, bits, text, ...) do { \
	struct rig r_, *rig = &r_; rig_start(rig, m); __VA_ARGS__; rig_run(rig, CODE(bits, text)); \
	expect_outcome(rig, name, vector, error); rig_end(rig); } while (0)
/* As CASE, then a look at RAX. */
#define VALUE(m, name, bits, text, want, ...) do { \
	struct rig r_, *rig = &r_; rig_start(rig, m); __VA_ARGS__; rig_run(rig, CODE(bits, text)); \
	expect_outcome(rig, name, DONE, ANY); expect_value(name, "rax", rig->r2.rax, want); rig_end(rig); } while (0)

int rig_summary(void);

#endif
