/*
 * Loops that look into tables with an index that is known to be small: tables
 * that lie in one page and tables that reach into the next, which may be
 * missing or not be written, and are only then looked at when the index says so.
 */
#include "rig.h"

/* Pages of 4 KiB at 1 GiB, whose frames lie the other way round. */
enum { LIN = RIG_PAGES, PAGES = 16, FRAMES = 0x200000, TABLE = RIG_PAGE_TABLE, HOLE = 9 };
enum { P = 1, W = 2, INDICES = LIN, COUNT = 3000 };

static uint64_t pte(unsigned page, unsigned flags) { return (FRAMES + (PAGES - 1 - page) * 4096) | flags; }
static uint8_t *at(struct rig *rig, unsigned offset) { return rig->g.memory + (pte(offset / 4096, 0) | (offset & 4095)); }

static uint32_t dword(struct rig *rig, unsigned offset)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 4; i++)
		v |= (uint32_t)*at(rig, offset + i) << 8 * i;
	return v;
}

/* RSI: COUNT indices; R9: the table, at an offset into the pages. */
static void start(struct rig *rig, unsigned table)
{
	uint64_t *entries;

	rig_start(rig, LONG);
	entries = rig_small_pages(rig);
	for (unsigned i = 0; i < PAGES; i++)
		entries[i] = pte(i, P | W);
	for (unsigned i = 0; i < PAGES * 4096; i++)
		*at(rig, i) = (i * 2654435761u) >> 24;
	rig_gate(rig, PF, CODE64, 0x8e, 1);
	rig->r.rsi = INDICES;
	rig->r.r9 = LIN + table;
	rig->r.rcx = COUNT;
	rig->s.cr0 |= 1 << 16;                           /* WP */
}

#define LOOP(text) CODE(64, "xor edx, edx; nop; 1: " text "; dec ecx; jnz 1b; hlt")

/* Sums of dwords at table + (index & mask) * 4, the table moving by a step each round. */
static void sums(void)
{
	const struct { const char *name; struct code code; unsigned mask, step; } t[] = {
#define I(text, mask, step) { text, LOOP(text), mask, step }
		I("movzx eax, byte ptr [rsi]; mov eax, [r9 + rax * 4]; add rdx, rax; inc rsi", 0xff, 0),
		I("movzx r15d, byte ptr [rsi]; mov r15d, [r9 + r15 * 4]; add rdx, r15; inc rsi", 0xff, 0),
		I("mov eax, [rsi]; and eax, 0x7f; mov eax, [r9 + rax * 4]; add rdx, rax; inc rsi", 0x7f, 0),
		I("mov rax, [rsi]; and rax, 31; mov eax, [r9 + rax * 4]; add rdx, rax; inc rsi", 31, 0),
		I("movzx eax, byte ptr [rsi]; mov eax, [r9 + rax * 4]; add rdx, rax; inc rsi; add r9, 1", 0xff, 1),
		I("movzx eax, byte ptr [rsi]; mov eax, [r9 + rax * 4]; add rdx, rax; inc rsi; lea r9, [r9 + 12]", 0xff, 12),
		/* not small at all, though parts of it were */
		I("movzx eax, byte ptr [rsi]; mov ebx, eax; mov bh, 0; mov eax, [r9 + rbx * 4]; add rdx, rax; inc rsi", 0xff, 0),
#undef I
	};
	static const unsigned tables[] = { 0x3000, 0x3400, 0x3bfc, 0x3c00, 0x3c01, 0x3ff0 };

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t) * 6; i++) {
		struct rig rig;
		unsigned k = i / 6, table = tables[i % 6];
		uint64_t want = 0;

		start(&rig, table);
		for (unsigned n = 0; n < COUNT; n++)
			want += dword(&rig, table + n * t[k].step + (*at(&rig, n) & t[k].mask) * 4);
		rig_run(&rig, t[k].code);
		expect_outcome(&rig, t[k].name, DONE, ANY);
		expect_value(t[k].name, "sum", rig.r2.rdx, want);
		rig_end(&rig);
	}
}

/* An index that is small at first and grows outside of what masks say. */
static void grown(void)
{
	struct rig rig;

	start(&rig, 0x3000);
	rig.r.rcx = 5000;
	rig_run(&rig, CODE(64, "xor edx, edx; xor ebx, ebx; and ebx, 15; 1: mov eax, [r9 + rbx * 4]; add rdx, rax; and eax, 1; add ebx, eax; dec ecx; jnz 1b; hlt"));
	uint64_t want = 0;
	unsigned index = 0;
	for (unsigned n = 0; n < 5000; n++) {
		uint32_t v = dword(&rig, 0x3000 + index * 4);

		want += v;
		index += v & 1;
	}
	expect_outcome(&rig, "an index that grows", DONE, ANY);
	expect("an index that grows", rig.r2.rdx, want);
	rig_end(&rig);
	start(&rig, 0x3000);                             /* AL is small, RAX is not */
	rig_run(&rig, LOOP("mov eax, 0x400; mov al, [rsi]; and al, 15; mov ebx, [r9 + rax * 4]; add rdx, rbx; inc rsi"));
	want = 0;
	for (unsigned n = 0; n < COUNT; n++)
		want += dword(&rig, 0x3000 + (0x400 + (*at(&rig, n) & 15)) * 4);
	expect("a part of an index", rig.r2.rdx, want);
	rig_end(&rig);
}

/* Page HOLE lacks a right. Only the index of round number `round` leads there, to its byte `offset`. */
static void hole(const char *name, struct code code, unsigned table, unsigned flags, unsigned round, unsigned index, int error)
{
	struct rig rig;

	start(&rig, table);
	rig_poke(&rig, TABLE + HOLE * 8, 8, pte(HOLE, flags));
	for (unsigned n = 0; n < COUNT; n++)
		*at(&rig, n) = n == round ? index : 0;
	rig_run(&rig, code);
	expect_outcome(&rig, name, round < COUNT ? PF : DONE, error);
	if (round < COUNT) {
		expect(name, rig.s2.cr2, LIN + table + index * 4);
		expect(name, rig.rip, rig.mark);
		expect(name, rig.r2.rax, index);
		expect(name, (uint32_t)rig.r2.rcx, COUNT - round);
	}
	rig_end(&rig);
}

static void holes(void)
{
	enum { BEFORE = HOLE * 4096 - 512, INSIDE = HOLE * 4096 + 64 };
	struct code reads = LOOP("movzx eax, byte ptr [rsi]; " AT "mov ebx, [r9 + rax * 4]; inc rsi");
	struct code counts = LOOP("movzx eax, byte ptr [rsi]; " AT "inc dword ptr [r9 + rax * 4]; inc rsi");

	hole("a table that reaches into a hole, not looked at", reads, BEFORE, 0, COUNT, 0, ANY);
	hole("a table that reaches into a hole", reads, BEFORE, 0, 777, 200, 0);
	hole("a table that reaches into a hole at once", reads, BEFORE, 0, 0, 128, 0);
	hole("a table in a hole", reads, INSIDE, 0, 0, 17, 0);
	hole("a table that reaches into what is not written, not looked at", counts, BEFORE, P, COUNT, 0, ANY);
	hole("a table that reaches into what is not written", counts, BEFORE, P, 500, 255, 3);
	hole("a table that is not written", counts, INSIDE, P, 0, 99, 3);
	hole("a table that is read where it is not written", reads, INSIDE, P, COUNT, 0, ANY);
}

/* A table that walks into the hole: the round that looks there faults, not the one whose table reaches there. */
static void walks_into_hole(void)
{
	struct rig rig;

	start(&rig, HOLE * 4096 - 2048);
	rig_poke(&rig, TABLE + HOLE * 8, 8, 0);
	for (unsigned n = 0; n < COUNT; n++)
		*at(&rig, n) = 3;
	rig_run(&rig, LOOP("movzx eax, byte ptr [rsi]; " AT "mov ebx, [r9 + rax * 4]; inc rsi; add r9, 4"));
	expect_outcome(&rig, "a table that walks into a hole", PF, 0);
	expect("a table that walks into a hole", rig.s2.cr2, LIN + HOLE * 4096);
	expect("a table that walks into a hole", (uint32_t)rig.r2.rcx, COUNT - (2048 / 4 - 3));
	expect("a table that walks into a hole", rig.rip, rig.mark);
	rig_end(&rig);
}

/* The table's page leads elsewhere from one run of the loop to the next. */
static void remapped(void)
{
	struct rig rig;
	uint64_t want = 0;

	start(&rig, 0x3000);
	rig.r.r8 = TABLE + 3 * 8;
	rig.r.r10 = pte(5, P | W);
	rig.r.rbx = 20;
	for (unsigned n = 0; n < COUNT; n++)
		want += 10 * ((uint64_t)dword(&rig, 0x3000 + *at(&rig, n) * 4) + dword(&rig, 0x5000 + *at(&rig, n) * 4));
	rig_run(&rig, CODE(64, "xor edx, edx; 2: mov esi, 0x40000000; mov ecx, 3000; 1: movzx eax, byte ptr [rsi]; mov eax, [r9 + rax * 4];"
	                       "add rdx, rax; inc rsi; dec ecx; jnz 1b; xchg r10, [r8]; invlpg [r9]; dec ebx; jnz 2b; hlt"));
	expect_outcome(&rig, "a table remapped", DONE, ANY);
	expect("a table remapped", rig.r2.rdx, want);
	rig_end(&rig);
}

int main(void)
{
	sums();
	grown();
	holes();
	walks_into_hole();
	remapped();
	return rig_summary();
}
