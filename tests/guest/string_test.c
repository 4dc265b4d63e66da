/*
 * Long REP MOVS and STOS over pages that do and do not follow one another in
 * memory, with holes, read-only pages and code among them.
 */
#include "rig.h"

/* 64 pages of 4 KiB at 1 GiB. */
enum { LIN = RIG_PAGES, PAGES = 64, BYTES = PAGES * 4096, FRAMES = 0x200000, TABLE = RIG_PAGE_TABLE, P = 1, W = 2 };

static bool scrambled;

static uint64_t pte(unsigned page, unsigned flags) { return (FRAMES + (scrambled ? page * 11 % PAGES : page) * 4096) | flags; }
static uint8_t *at(struct rig *rig, unsigned offset) { return rig->g.memory + (pte(offset / 4096, 0) | (offset & 4095)); }

static uint8_t pattern(unsigned i) { return (i * 2654435761u) >> 24; }

/* The code first touches all pages, so that the TLB has them. */
#define TOUCH "mov r8, 0x40000000; mov r9d, 64; 1: mov al, [r8]; mov [r8], al; add r8, 4096; dec r9d; jnz 1b; mov rax, r10; "
#define TOUCH_READING "mov r8, 0x40000000; mov r9d, 64; 1: mov al, [r8]; add r8, 4096; dec r9d; jnz 1b; mov rax, r10; "

static void start(struct rig *rig, unsigned from, unsigned to, uint64_t count)
{
	uint64_t *table;

	rig_start(rig, LONG);
	table = rig_small_pages(rig);
	for (unsigned i = 0; i < PAGES; i++)
		table[i] = pte(i, P | W);
	for (unsigned i = 0; i < BYTES; i++)
		*at(rig, i) = pattern(i);
	rig_gate(rig, PF, CODE64, 0x8e, 1);
	rig->s.cr0 |= 1 << 16;
	rig->r.rsi = LIN + from;
	rig->r.rdi = LIN + to;
	rig->r.rcx = count;
	rig->r.r10 = 0x1122334455667788;
}

/* After count elements were moved (fill: stored) from from to to, is all memory as it should be? */
static void verify(struct rig *rig, const char *name, unsigned from, unsigned to, uint64_t count, unsigned size, bool fill)
{
	static uint8_t want[BYTES];
	unsigned wrong = 0;

	for (unsigned i = 0; i < BYTES; i++)
		want[i] = pattern(i);
	for (uint64_t i = 0; i < count; i++)
		for (unsigned b = 0; b < size; b++)
			want[to + i * size + b] = fill ? 0x1122334455667788 >> 8 * b : want[from + i * size + b];
	for (unsigned i = 0; i < BYTES; i++)
		wrong += *at(rig, i) != want[i];
	expect_value(name, "wrong bytes", wrong, 0);
	expect_value(name, "rdi", rig->r2.rdi, LIN + to + count * size);
	expect_value(name, "rsi", rig->r2.rsi, LIN + from + (fill ? 0 : count * size));
}

static void plain(void)
{
	static const struct { unsigned from, to; uint64_t bytes; } t[] = {
		{ 0, BYTES / 2, BYTES / 2 - 8 }, { 3, BYTES / 2 + 8, 70000 }, { 4096, 8192, 100000 } /* overlapping */, { 40000, 39992, 100000 },
		{ 8, 1, 4096 }, { 4095, 130000, 5000 }, { 0, 100, 20000 },
	};
	struct rig rig;

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (int how = 0; how < 4; how++) {
			unsigned size = how & 1 ? 8 : 1;

			start(&rig, t[i].from, t[i].to, t[i].bytes / size);
			rig_run(&rig, how == 0 ? CODE(64, TOUCH "rep movsb; hlt") : how == 1 ? CODE(64, TOUCH "rep movsq; hlt") :
			              how == 2 ? CODE(64, TOUCH "rep stosb; hlt") : CODE(64, TOUCH "rep stosq; hlt"));
			expect_outcome(&rig, "long string", DONE, ANY);
			expect("long string", rig.r2.rcx, 0);
			verify(&rig, "long string", t[i].from, t[i].to, t[i].bytes / size, size, how >= 2);
			rig_end(&rig);
		}
}

/* Page HOLE may not be touched so: the registers are those of the first byte there. */
static void holes(void)
{
	enum { HOLE = 37 };
	struct rig rig;

	for (int how = 0; how < 4; how++) {
		bool write = how & 1, fill = how == 3;
		unsigned from = write ? 100 : 32 * 4096 + 100, to = write ? 32 * 4096 + 100 : 100, done = (HOLE - 32) * 4096 - 100;

		start(&rig, from, to, 25 * 4096);
		if (how != 3)
			rig.r.rcx = 26000;
		rig_poke(&rig, TABLE + HOLE * 8, 8, pte(HOLE, write ? P : 0));
		rig_run(&rig, how == 0 ? CODE(64, "nop; " AT "rep movsb; hlt") : how == 1 ? CODE(64, TOUCH_READING AT "rep movsb; hlt") :
		              how == 2 ? CODE(64, "mov al, [rsi]; mov [rdi], al; " AT "rep movsb; hlt") : CODE(64, TOUCH_READING AT "rep stosb; hlt"));
		expect_outcome(&rig, "hole", PF, write ? 3 : 0);
		expect("hole", rig.rip, rig.mark);
		expect("hole", rig.s2.cr2, LIN + HOLE * 4096);
		expect("hole", rig.r2.rcx, (how == 3 ? 25 * 4096 : 26000) - done);
		verify(&rig, "hole", from, to, how == 2 ? done : done, 1, fill);
		rig_end(&rig);
	}
}

/* The copy replaces code that has run, in the middle of its pages. */
static void code(void)
{
	struct rig rig;

	start(&rig, 0, BYTES / 2, 20 * 4096);
	memcpy(at(&rig, BYTES / 2 + 7 * 4096 + 5), "\xb8\1\0\0\0\xc3", 6);
	memcpy(at(&rig, 7 * 4096 + 5), "\xb8\2\0\0\0\xc3", 6);
	rig_run(&rig, CODE(64, TOUCH "mov r8, 0x40027005; call r8; mov ebx, eax; rep movsb; call r8; hlt"));
	expect_outcome(&rig, "code", DONE, ANY);
	expect("code", rig.r2.rbx, 1);
	expect("code", (uint32_t)rig.r2.rax, 2);
	rig_end(&rig);
}

int main(void)
{
	for (int i = 0; i < 2; i++) {
		scrambled = i;
		plain();
		holes();
		code();
	}
	return rig_summary();
}
