/*
 * Loops over memory whose pages lie in no order: streams, faults in the midst
 * of a round, mappings that change from one run to the next, flags that live
 * from round to round, code that changes itself.
 */
#include "rig.h"

/* Pages of 4 KiB at 1 GiB; page i leads to frame i * 7 mod PAGES. */
enum { LIN = RIG_PAGES, PAGES = 32, BYTES = PAGES * 4096, FRAMES = 0x200000, TABLE = RIG_PAGE_TABLE };
enum { P = 1, W = 2 };

static uint64_t pte(unsigned page, unsigned flags) { return (FRAMES + page * 7 % PAGES * 4096) | flags; }
static uint8_t *at(struct rig *rig, unsigned offset) { return rig->g.memory + (pte(offset / 4096, 0) | (offset & 4095)); }

static uint64_t value(struct rig *rig, unsigned offset, unsigned size)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)*at(rig, offset + i) << 8 * i;
	return v;
}

static uint64_t sum(struct rig *rig, unsigned from, unsigned step, unsigned count, unsigned size)
{
	uint64_t s = 0;

	for (unsigned i = 0; i < count; i++)
		s += value(rig, from + i * step, size);
	return s;
}

static void start(struct rig *rig)
{
	uint64_t *table;

	rig_start(rig, LONG);
	table = rig_small_pages(rig);
	for (unsigned i = 0; i < PAGES; i++)
		table[i] = pte(i, P | W);
	for (unsigned i = 0; i < BYTES; i++)
		*at(rig, i) = (i * 2654435761u) >> 24;
	rig_gate(rig, PF, CODE64, 0x8e, 1);
	rig_gate(rig, GP, CODE64, 0x8e, 1);
	rig_gate(rig, SS, CODE64, 0x8e, 1);
	rig->r.rsi = LIN;
	rig->r.rdi = LIN + BYTES / 2;
	rig->s.cr0 |= 1 << 16;                           /* WP */
	rig->s.cr4 |= 0x600;                             /* OSFXSR, OSXMMEXCPT */
}

/* Loops that add up RCX values to RAX, from RSI on, with a step. */
static void sums(void)
{
	const struct { const char *name; struct code code; unsigned step, size; } t[] = {
#define I(text, step, size) { text, CODE(64, "xor eax, eax; xor edx, edx; nop; 1: " text "; dec ecx; jnz 1b; hlt"), step, size }
		I("add rax, [rsi]; add rsi, 8", 8, 8), I("mov edx, [rsi]; add rsi, 4; add rax, rdx", 4, 4),
		I("movzx edx, byte ptr [rsi]; inc rsi; add rax, rdx", 1, 1), I("add rax, [rsi]; add rsi, 13", 13, 8),
		I("add rax, [rsi]; add rsi, 200", 200, 8), I("add rax, [rsi]; add rsi, 1000", 1000, 8),
		I("add rax, [rsi]; lea rsi, [rsi + 24]", 24, 8), I("add rax, [rsi + rdx * 8]; inc edx", 8, 8),
		I("add rax, [rsi + rdx]; add rdx, 24", 24, 8), I("mov r10, rsi; add rax, [r10]; lea rsi, [r10 + 40]", 40, 8),
		I("mov rsp, rsi; pop rdx; add rax, rdx; mov rsi, rsp", 8, 8), I("mov r13, [rsi]; add rsi, 16; add rax, r13", 16, 8),
		I("mov edx, [rsi + 4]; shl rdx, 32; mov r15d, [rsi]; or rdx, r15; add rsi, 12; add rax, rdx", 12, 8),
#undef I
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		unsigned count = (BYTES - 16) / t[i].step;

		start(&rig);
		rig.r.rcx = count;
		uint64_t want = sum(&rig, 0, t[i].step, count, t[i].size);
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, DONE, ANY);
		expect_value(t[i].name, "sum", rig.r2.rax, want);
		rig_end(&rig);
	}
}

/* More streams than there are registers for them, one of them written; all at distances of their own. */
static void streams(void)
{
	struct rig rig;
	enum { COUNT = 3000 };

	start(&rig);
	rig.r.rcx = COUNT;
	rig.r.rdx = LIN + 16384 + 24;
	rig.r.r10 = LIN + 32768 + 4000;
	rig_run(&rig, CODE(64, "1: mov rax, [rsi]; add rax, [rsi + 8]; mov rbx, [rdx]; sub rbx, [rdx + 4]; xor rax, [r10]; add rax, rbx;"
	                       "mov [rdi], rax; add [rdi + 4], cl; add rsi, 4; add rdx, 5; add r10, 4; add rdi, 8; sub ecx, 1; jnz 1b; hlt"));
	expect_outcome(&rig, "five streams", DONE, ANY);
	unsigned wrong = 0;
	uint64_t carried = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		uint64_t a = value(&rig, i * 4, 8) + value(&rig, i * 4 + 8, 8);
		uint64_t b = value(&rig, 16408 + i * 5, 8) - value(&rig, 16412 + i * 5, 8);
		uint64_t v = (a ^ value(&rig, 36768 + i * 4, 8)) + b;
		uint8_t low = (uint8_t)(v >> 32) + (uint8_t)(COUNT - i);

		v = (v & ~(0xffull << 32)) | (uint64_t)low << 32;
		wrong += value(&rig, BYTES / 2 + i * 8, 8) != v;
		carried += v;
	}
	expect("five streams", wrong, 0);
	expect("five streams", carried != 0, 1);
	rig_end(&rig);
}

/* The page in which round number HOLE would work lacks a right: registers are those of that round. */
static void faults(void)
{
	struct { const char *name; struct code code; unsigned step, flags, error; } t[] = {
#define I(text, step, flags, error) { text, CODE(64, "fninit; 1: " text "; dec ecx; jnz 1b; hlt"), step, flags, error }
		I(AT "mov rax, [rsi]; add rsi, 8", 8, 0, 0), I(AT "mov [rsi], rax; add rsi, 8", 8, P, 3),
		I("mov rax, [rdi]; " AT "add [rsi], rax; add rsi, 64", 64, P, 3), I("mov rax, [rdi]; " AT "mov rax, [rsi]; mov rbx, [rsi + 8]; add rsi, 64", 64, 0, 0),
		I(AT "movups xmm0, [rsi]; movups xmm1, [rsi + 16]; movups [rdi], xmm0; add rsi, 32", 32, 0, 0),
		I(AT "mov rax, [rsi]; mov [rdi], rax; mov rbx, [rdx]; mov [rdx], rbx; add rsi, 8", 8, 0, 0),
		I(AT "fld qword ptr [rsi]; fstp qword ptr [rdi]; add rsi, 8", 8, 0, 0),
#undef I
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		enum { PAGE = 5, COUNT = 9999 };

		start(&rig);
		rig_poke(&rig, TABLE + PAGE * 8, 8, pte(PAGE, t[i].flags));
		rig.r.rcx = COUNT;
		rig.r.rdx = LIN + 0x8000;
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, PF, t[i].error);
		expect(t[i].name, rig.s2.cr2, LIN + PAGE * 4096);
		expect(t[i].name, rig.rip, rig.mark);
		expect(t[i].name, rig.r2.rsi, LIN + PAGE * 4096);
		expect(t[i].name, (uint32_t)rig.r2.rcx, COUNT - PAGE * 4096 / t[i].step);
		rig_end(&rig);
	}
}

/* Operands that only some rounds reach: misaligned, not canonical, among them the address that empty entries hold. */
static void bad_addresses(void)
{
	static const struct { uint64_t from; int vector; } t[] = {
		{ 0x800000000000 - 64, PF }, { 0x7777777777777000 - 16, GP }, { 0x7777777777777010, GP }, { 0x7777777777776ff8, GP },
		{ 0x7777777777777ff0, GP }, { 0x8000000000000000, GP },
	};
	struct rig rig;

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (int how = 0; how < 4; how++) {
			start(&rig);
			rig.r.rsi = rig.r.rbp = t[i].from;
			rig.r.rcx = 9;
			rig_run(&rig, how == 0 ? CODE(64, "nop; 1: " AT "mov rax, [rsi]; add rsi, 8; dec ecx; jnz 1b; hlt") :
			              how == 1 ? CODE(64, "nop; 1: " AT "mov [rsi], rax; mov [rsi + 8], rax; add rsi, 16; dec ecx; jnz 1b; hlt") :
			              how == 2 ? CODE(64, "nop; " AT "mov [rsi], rax; hlt") : CODE(64, "nop; " AT "mov rax, [rbp]; hlt"));
			expect_outcome(&rig, "bad address", t[i].vector == PF ? PF : how == 3 ? SS : t[i].vector, ANY);
			expect("bad address", rig.r2.rsi, t[i].from);
			expect("bad address", rig.rip, rig.mark);
			rig_end(&rig);
		}
	start(&rig);
	rig.r.rcx = 50;
	rig.r.rsi = LIN + 3;
	rig_run(&rig, CODE(64, "1: lea rsi, [rsi + 13]; cmp ecx, 20; jae 2f; " AT "movaps xmm0, [rsi]; nop; 2: dec ecx; jmp 1b; hlt"));
	expect_outcome(&rig, "misaligned", GP, 0);
	expect("misaligned", (uint32_t)rig.r2.rcx, 19);
	rig_end(&rig);
	start(&rig);
	rig.r.rcx = 50;
	rig_run(&rig, CODE(64, "nop; 1: " AT "movaps xmm0, [rsi]; addps xmm0, [rsi + 16]; lea rsi, [rsi + 8]; dec ecx; jnz 1b; hlt"));
	expect_outcome(&rig, "misaligned in the second round", GP, 0);
	expect("misaligned in the second round", (uint32_t)rig.r2.rcx, 49);
	expect("misaligned in the second round", rig.rip, rig.mark);
	rig_end(&rig);
}

/* The same loop again after its page leads elsewhere. R8: where the PTE is. */
static void remapped(const char *name, struct code code)
{
	struct rig rig;

	start(&rig);
	rig.r.r8 = TABLE;
	rig.r.r9 = pte(1, P | W);
	rig.r.rbx = 20;
	uint64_t one = sum(&rig, 0, 8, 512, 8), other = sum(&rig, 4096, 8, 512, 8);
	rig_run(&rig, code);
	expect_outcome(&rig, name, DONE, ANY);
	expect_value(name, "sum", rig.r2.rax, 10 * (one + other));
	rig_end(&rig);
}

#define REMAP(how) remapped(how, CODE(64, "xor eax, eax; 1: mov rsi, 0x40000000; mov ecx, 512; 2: add rax, [rsi]; add rsi, 8; dec ecx; jnz 2b;" \
	"xchg r9, [r8]; " how "; dec ebx; jnz 1b; hlt"))

static void remap(void)
{
	REMAP("invlpg [rsi - 8]");
	REMAP("mov rdx, cr3; mov cr3, rdx");
	REMAP("mov rdx, cr4; xor rdx, 0x80; mov cr4, rdx; xor rdx, 0x80; mov cr4, rdx");
}

/* A page whose write permission goes: the loop must notice at its next run. */
static void protect(void)
{
	struct rig rig;

	start(&rig);
	rig.r.r8 = TABLE + 8;
	rig.r.rbx = 3;
	rig_run(&rig, CODE(64, "1: mov rsi, 0x40000ff0; mov ecx, 10; 2: " AT "mov [rsi], rax; add rsi, 8; dec ecx; jnz 2b;"
	                       "dec ebx; cmp ebx, 1; jne 1b; btr qword ptr [r8], 1; invlpg [rsi]; jmp 1b; hlt"));
	expect_outcome(&rig, "write permission gone", PF, 3);
	expect("write permission gone", (uint32_t)rig.r2.rcx, 8);
	expect("write permission gone", rig.s2.cr2, LIN + 0x1000);
	rig_end(&rig);
}

static void flags(void)
{
	struct rig rig;
	unsigned __int128 carry = 0;
	enum { WORDS = 2000 };

	start(&rig);
	rig.r.rcx = WORDS;
	rig_run(&rig, CODE(64, "clc; 1: mov rax, [rsi]; adc [rdi], rax; lea rsi, [rsi + 8]; lea rdi, [rdi + 8]; dec rcx; jnz 1b; setc bl; hlt"));
	expect_outcome(&rig, "carries", DONE, ANY);
	struct rig fresh;
	start(&fresh);
	unsigned wrong = 0;
	for (unsigned i = 0; i < WORDS; i++) {
		carry += (unsigned __int128)value(&fresh, i * 8, 8) + value(&fresh, BYTES / 2 + i * 8, 8);
		wrong += value(&rig, BYTES / 2 + i * 8, 8) != (uint64_t)carry;
		carry >>= 64;
	}
	expect("carries", wrong, 0);
	expect("carries", rig.r2.rbx & 0xff, (uint64_t)carry);
	rig_end(&rig);
	rig_end(&fresh);
}

/* A loop whose store changes the constant that its next instruction adds. */
static void changing(void)
{
	VALUE(LONG, "a loop that changes itself", 64, "lea rdi, [rip + 1f + 2]; xor eax, eax; mov ecx, 50; 1: add eax, 1; inc byte ptr [rdi]; dec ecx;"
	      "jnz 1b; hlt", 50 * 51 / 2);
	VALUE(LONG, "a loop that ends itself", 64, "lea rdi, [rip + 2f]; mov ecx, 50; 1: inc eax; cmp ecx, 20; ja 3f; mov byte ptr [rdi], 0xf4;"
	      "3: dec ecx; 2: jmp 1b; hlt", 31, rig->r.rax = 0);
}

int main(void)
{
	sums();
	streams();
	faults();
	bad_addresses();
	remap();
	protect();
	flags();
	changing();
	return rig_summary();
}
