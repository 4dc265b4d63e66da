/* Paging as a guest meets it: error codes and CR2 in each paging mode, and which flush makes a change visible. */
#include "rig.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PSE = 0x80, G = 0x100 };
#define NX (1ull << 63)
enum { ROOT = 0x200000, DIR1 = 0x201000, DIR2 = 0x202000, TABLE = 0x203000, TARGET = 0x20000, AT_PAGE = 0x20 };
enum { CR0_WP = 0x10000, CR4_SMEP = 0x100000, CR4_SMAP = 0x200000, EFER_NX = 0x800, AC_FLAG = 0x40000 };
enum format { TWO_LEVEL, PAE, FOUR_LEVEL };

/* The first 2 or 4 MiB by small pages, all user and writable; page AT_PAGE (0x20000) is the case's. */
static void tables(struct rig *rig, enum format f)
{
	unsigned size = f == TWO_LEVEL ? 4 : 8, n = f == TWO_LEVEL ? 1024 : 512;

	for (unsigned i = 0; i < n; i++)
		rig_poke(rig, TABLE + i * size, size, (uint64_t)i << 12 | P | W | U);
	if (f == TWO_LEVEL) {
		rig_poke(rig, ROOT, 4, TABLE | P | W | U);
	} else {
		rig_poke(rig, f == PAE ? ROOT : DIR1, 8, f == PAE ? DIR2 | P : DIR2 | P | W | U);
		rig_poke(rig, DIR2, 8, TABLE | P | W | U);
		rig_poke(rig, DIR2 + 8, 8, 0x200000 | PSE | P | W | U);
		if (f == FOUR_LEVEL)
			rig_poke(rig, ROOT, 8, DIR1 | P | W | U);
	}
	rig->s.cr0 |= 0x80000000;
	rig->s.cr3 = ROOT;
	rig->s.cr4 |= f == TWO_LEVEL ? 0x10 : 0x20;
}

/* access: r w x, in capitals: an implicit supervisor access is not tried here. want: error code, or -1 if it works. */
struct perm { const char *name; uint64_t pte; char access; uint64_t set; int super, user; };
enum { WP = 1, SMEP = 2, SMAP = 4, AC_ = 8, NXE = 16 };
static const struct perm perms[] = {
	{ "absent", 0, 'r', 0, 0, 4 }, { "absent", W | U, 'w', 0, 2, 6 }, { "absent", 0, 'x', NXE, 0x10, 0x14 },
	{ "absent", 0, 'x', 0, 0, 4 }, { "absent", 0, 'x', SMEP, 0x10, 0x14 },
	{ "supervisor", P | W, 'r', 0, -1, 5 }, { "supervisor", P | W, 'w', 0, -1, 7 },
		{ "supervisor", P | W, 'x', NXE, -1, 0x15 },
	{ "supervisor read-only", P, 'w', 0, -1, 7 }, { "supervisor read-only", P, 'w', WP, 3, 7 },
	{ "user read-only", P | U, 'w', 0, -1, 7 }, { "user read-only", P | U, 'w', WP, 3, 7 },
		{ "user read-only", P | U, 'r', WP, -1, -1 },
	{ "user", P | W | U, 'x', SMEP, 0x11, -1 }, { "user", P | W | U, 'r', SMAP, 1, -1 },
		{ "user", P | W | U, 'w', SMAP, 3, -1 },
	{ "user", P | W | U, 'r', SMAP | AC_, -1, -1 }, { "user", P | W | U, 'w', SMAP | AC_, -1, -1 },
		{ "user", P | W | U, 'x', SMAP, -1, -1 },
	{ "user read-only", P | U, 'w', SMAP | AC_ | WP, 3, 7 }, { "user", P | W | U, 'x', SMEP | AC_, 0x11, -1 },
	{ "NX", P | W | U | NX, 'x', NXE, 0x11, 0x15 }, { "NX", P | W | U | NX, 'r', NXE, -1, -1 },
		{ "NX, SMEP", P | W | U | NX, 'x', NXE | SMEP, 0x11, 0x15 },
	{ "NX without NXE", P | W | U | NX, 'r', 0, 9, 0xd }, { "NX without NXE", P | W | U | NX, 'x', 0, 9, 0xd },
		{ "NX without NXE", NX | P, 'w', 0, 0xb, 0xf },
	{ "reserved", P | W | U | 1ull << 51, 'r', 0, 9, 0xd }, { "reserved", P | W | U | 1ull << 51, 'w', 0, 0xb, 0xf },
	{ "reserved", P | 1ull << 51, 'x', NXE, 0x19, 0x1d }, { "absent with reserved bits", 1ull << 51 | U, 'r', 0, 0, 4 },
};

static void permissions(enum format f, unsigned level)
{
	for (unsigned i = 0; i < sizeof(perms) / sizeof(*perms); i++)
		for (unsigned user = 0; user < 2; user++) {
			const struct perm *p = &perms[i];
			int want = user ? p->user : p->super;
			struct rig rig;
			char name[80];

			if (f == TWO_LEVEL && ((p->pte >> 32) || (p->set & NXE) || (p->access == 'x' && !(p->set & SMEP))))
				continue;
			rig_start(&rig, f == FOUR_LEVEL ? user ? LONG3 : LONG : user ? PROT3 : PROT);
			snprintf(name, sizeof(name), "%s, %c, set %#x, level %u of format %d, %s", p->name, p->access,
				(int)p->set, level, f,
			         user ? "user" : "supervisor");
			tables(&rig, f);
			/* All else is supervisor pages, but for the user's code (8) and stack (6). */
			for (unsigned page = 0; page < 0x200; page++)
				rig_poke(&rig, TABLE + page * (f == TWO_LEVEL ? 4 : 8), 1,
					user && (page == 6 || page == 8) ? P | W | U : P | W);
			if (f == TWO_LEVEL)
				rig_poke(&rig, TABLE + AT_PAGE * 4, 4, TARGET | p->pte);
			else if (level == 1)
				rig_poke(&rig, TABLE + AT_PAGE * 8, 8, TARGET | p->pte);
			else if (level == 2)                     /* a large page, and the target in it */
				rig_poke(&rig, DIR2 + 8, 8, 0x200000 | PSE | p->pte);
			rig.s.cr0 |= p->set & WP ? CR0_WP : 0;
			rig.s.cr4 |= (p->set & SMEP ? CR4_SMEP : 0) | (p->set & SMAP ? CR4_SMAP : 0);
			rig.s.efer |= p->set & NXE ? EFER_NX : 0;
			rig.r.rflags |= p->set & AC_ ? AC_FLAG : 0;
			uint64_t at = level == 2 ? 0x280ff0 : TARGET + 0xff0;
			rig.g.memory[at] = 0xc3;
			rig.r.rbx = at;
			rig_run(&rig, p->access == 'r' ? CODE(32, "nop; " AT "mov eax, [ebx]; hlt") : p->access == 'w' ?
			        CODE(32, "nop; " AT "mov [ebx], eax; hlt") : CODE(32, "call ebx; hlt"));
			expect_outcome(&rig, name, want < 0 ? DONE : PF, want < 0 ? ANY : want);
			if (want >= 0) {
				expect(name, rig.s2.cr2, at);
				if (p->access == 'x')
					expect(name, rig.rip, at);
			}
			rig_end(&rig);
		}
}

/* Reserved bits and misfits higher up in the structures. where: entry changed; OR: bits added; AND-NOT: bits removed. */
static void structures(void)
{
	struct { const char *name; enum format f; uint64_t where, add, remove; char access; bool user; int want; } t[] = {
		{ "PML4E PS", FOUR_LEVEL, ROOT, PSE, 0, 'r', false, 9 },
			{ "PDPTE absent", FOUR_LEVEL, DIR1, 0, P, 'r', false, 0 },
		{ "1G page, reserved bits", FOUR_LEVEL, DIR1, PSE | 0x2000, 0, 'r', false, 9 },
		{ "2M page, reserved bits", FOUR_LEVEL, DIR2 + 8, 0x2000, 0, 'w', true, 0xf },
		{ "2M page, PAT bit", FOUR_LEVEL, DIR2 + 8, 0x1000, 0, 'w', true, -1 },
		{ "PML4E supervisor", FOUR_LEVEL, ROOT, 0, U, 'r', true, 5 },
			{ "PDPTE read-only", FOUR_LEVEL, DIR1, 0, W, 'w', true, 7 },
		{ "PML4E NX, read", FOUR_LEVEL, ROOT, NX, 0, 'r', false, -1 },
			{ "PML4E NX, fetch", FOUR_LEVEL, ROOT, NX, 0, 'x', false, 0x11 },
		{ "PDE NX", FOUR_LEVEL, DIR2 + 8, NX, 0, 'x', true, 0x15 },
			{ "PML4E bit 51", FOUR_LEVEL, ROOT, 1ull << 51, 0, 'r', false, 9 },
		{ "PML4E bits 52 to 62 are free", FOUR_LEVEL, ROOT, 0x7ffull << 52, 0, 'r', false, -1 },
		{ "PAE PDE bit 62", PAE, DIR2 + 8, 1ull << 62, 0, 'r', false, 9 },
			{ "PAE 2M page, reserved bits", PAE, DIR2 + 8, 0x2000, 0, 'r', true, 0xd },
		{ "4M page", TWO_LEVEL, ROOT, 0, 0, 'r', true, -1 }, { "4M page, bit 21", TWO_LEVEL, ROOT + 4, 0x200000, 0,
			'r', true, 0xd },
		{ "4M page, read-only", TWO_LEVEL, ROOT + 4, 0, W, 'w', true, 7 },
			{ "4M page, PAT bit", TWO_LEVEL, ROOT + 4, 0x1000, 0, 'w', true, -1 },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		unsigned size = t[i].f == TWO_LEVEL ? 4 : 8;
		bool late = t[i].where == ROOT || t[i].where == DIR1;    /* breaks everything: by a store of the guest itself */

		rig_start(&rig, t[i].f == FOUR_LEVEL ? t[i].user ? LONG3 : LONG : t[i].user ? PROT3 : PROT);
		tables(&rig, t[i].f);
		rig.s.efer |= EFER_NX;
		if (t[i].f == TWO_LEVEL) {
			rig.s.cr4 |= 0x10;
			rig_poke(&rig, ROOT + 4, 4, 0 | PSE | P | W | U);
		}
		uint64_t at = t[i].f == TWO_LEVEL ? 0x420ff0 : 0x280ff0;
		if (late) {
			/* A second half of the address space with the odd entry: 2^39 or 2^30 up. */
			uint64_t slot = t[i].where == ROOT ? ROOT + 8 : DIR1 + 8;
			rig_poke(&rig, slot, 8, t[i].where == ROOT ? DIR1 | P | W | U : DIR2 | P | W | U);
			at = t[i].where == ROOT ? (1ull << 39) + 0x280ff0 : (1ull << 30) + 0x280ff0;
			t[i].where = slot;
			if (t[i].f == TWO_LEVEL)
				at = 0x20ff0, t[i].where = ROOT;
		}
		uint64_t entry = rig_peek(&rig, t[i].where, size);
		rig_poke(&rig, t[i].where, size, (entry | t[i].add) & ~t[i].remove);
		rig_poke(&rig, at & 0x3fffff, 1, 0xc3);
		rig.r.rbx = at;
		rig_run(&rig, t[i].access == 'r' ? CODE(32, "nop; " AT "mov eax, [ebx]; hlt") : t[i].access == 'w' ?
		        CODE(32, "nop; " AT "mov [ebx], eax; hlt") : CODE(32, "call ebx; hlt"));
		expect_outcome(&rig, t[i].name, t[i].want < 0 ? DONE : PF, t[i].want < 0 ? ANY : t[i].want);
		rig_end(&rig);
	}
}

/* ---- accessed and dirty flags, page-crossing, flushes ---- */

#define PAGED(m, f, name, bits, text, want, ...) \
	VALUE(m, name, bits, text, want, tables(rig, f); __VA_ARGS__)
#define PTE "[0x203100]"
static void flags_and_flushes(void)
{
	PAGED(LONG, FOUR_LEVEL, "read sets A", 64, "mov al, [0x20000]; movzx eax, byte ptr " PTE "; hlt", A | P | W | U);
	PAGED(LONG, FOUR_LEVEL, "write sets A and D", 64, "mov [0x20000], al; movzx eax, byte ptr " PTE "; hlt",
		A | D | P | W | U);
	PAGED(LONG, FOUR_LEVEL, "write after read sets D", 64, "mov al, [0x20000]; mov [0x20000], al; "
		"movzx eax, byte ptr " PTE "; hlt", A | D | P | W | U);
	PAGED(LONG, FOUR_LEVEL, "LOCK CMPXCHG that fails sets D", 64, "mov eax, 5; lock cmpxchg [0x20000], ecx; "
		"movzx eax, byte ptr " PTE "; hlt", A | D | P | W | U);
	PAGED(LONG, FOUR_LEVEL, "tables get A only", 64, "mov [0x20000], al; mov al, [0x202000]; movzx eax, al; hlt",
		A | P | W | U);
	PAGED(PROT, TWO_LEVEL, "2-level, A and D", 32, "mov [0x20000], al; movzx eax, byte ptr [0x203080]; hlt",
		A | D | P | W | U);
	PAGED(PROT, PAE, "PAE, A and D", 32, "mov [0x20000], al; movzx eax, byte ptr " PTE "; hlt", A | D | P | W | U);
	PAGED(LONG, FOUR_LEVEL, "INVLPG", 64, "mov dword ptr [0x21000], 7; mov al, [0x20000]; mov dword ptr " PTE ", 0x21007; "
		"invlpg [0x20000]; mov eax, [0x20000]; hlt", 7);
	PAGED(LONG, FOUR_LEVEL, "CR3 write", 64, "mov dword ptr [0x21000], 7; mov al, [0x20000]; "
		"mov dword ptr " PTE ", 0x21007; mov rax, cr3; mov cr3, rax; mov eax, [0x20000]; hlt", 7);
	PAGED(LONG, FOUR_LEVEL, "INVLPG of a global page", 64, "mov dword ptr [0x21000], 7; mov dword ptr " PTE ", 0x20107; "
		"mov al, [0x20000]; mov dword ptr " PTE ", 0x21107;"
	      "invlpg [0x20000]; mov eax, [0x20000]; hlt", 7, rig->s.cr4 |= 0x80);
	PAGED(LONG, FOUR_LEVEL, "CR4.PGE toggled", 64, "mov dword ptr [0x21000], 7; mov dword ptr " PTE ", 0x20107; "
		"mov al, [0x20000]; mov dword ptr " PTE ", 0x21107;"
	      "mov rax, cr4; btc rax, 7; mov cr4, rax; mov eax, [0x20000]; hlt", 7, rig->s.cr4 |= 0x80);
	PAGED(LONG, FOUR_LEVEL, "INVPCID all", 64, "mov dword ptr [0x21000], 7; mov dword ptr " PTE ", 0x20107; "
		"mov al, [0x20000]; mov dword ptr " PTE ", 0x21107;"
	      "mov ecx, 2; invpcid rcx, [0x4000]; mov eax, [0x20000]; hlt", 7, rig->s.cr4 |= 0x80);
	PAGED(LONG, FOUR_LEVEL, "INVPCID one address", 64, "mov dword ptr [0x21000], 7; mov al, [0x20000]; "
		"mov dword ptr " PTE ", 0x21007; mov dword ptr [0x4008], 0x20000;"
	      "xor ecx, ecx; invpcid rcx, [0x4000]; mov eax, [0x20000]; hlt", 7);
	/* Two PCIDs, the second kept by bit 63; then flushed by a write without it. */
	PAGED(LONG, FOUR_LEVEL, "PCIDs", 64, "mov dword ptr [0x21000], 7; mov rbx, cr3; mov al, [0x20000]; lea rcx, [rbx + 5]; "
		"mov cr3, rcx; mov al, [0x20000];"
	      "mov dword ptr " PTE ", 0x21007; mov cr3, rcx; mov ecx, [0x20000]; mov cr3, rbx; mov eax, [0x20000]; shl ecx, 4; "
		"or eax, ecx; hlt", 0x77, rig->s.cr4 |= 0x20000);
	PAGED(LONG, FOUR_LEVEL, "permissions gained need no flush", 64,
		"mov al, [0x20000]; mov byte ptr " PTE ", 0x27; mov byte ptr [0x20000], 9; movzx eax, byte ptr [0x20000]; hlt", 9,
	      rig_poke(rig, TABLE + AT_PAGE * 8, 1, P | A); rig->s.cr0 |= CR0_WP);
	PAGED(LONG, FOUR_LEVEL, "WP toggled", 64, "mov byte ptr [0x20000], 9; mov rax, cr0; btr rax, 16; mov cr0, rax; "
		"mov byte ptr [0x21000], 8; movzx eax, byte ptr [0x21000]; hlt", 8,
	      rig_poke(rig, TABLE + 0x21 * 8, 1, P); rig->s.cr0 |= CR0_WP);
	PAGED(LONG, FOUR_LEVEL, "code remapped", 64, "mov byte ptr [0x20000], 0xc3; mov dword ptr [0x21000], 0xc307b0; "
		"xor eax, eax; mov ebx, 0x20000; call rbx; mov dword ptr " PTE ", 0x21007;"
	      "invlpg [rbx]; call rbx; hlt", 7);
#define CROSS(name, text, error, at, ...) do { struct rig r_, *rig = &r_; rig_start(rig, LONG); tables(rig, FOUR_LEVEL); \
	rig_poke(rig, TABLE + 0x21 * 8, 1, 0); __VA_ARGS__; rig_run(rig, CODE(64, "mov ebx, 0x20ffc; " AT text "; hlt")); \
	expect_outcome(rig, name, PF, error); expect_value(name, "cr2", rig->s2.cr2, at); rig_end(rig); } while (0)
	CROSS("read across into an absent page", "mov rax, [rbx]", 0, 0x21000);
	CROSS("write across into an absent page", "mov [rbx], rax", 2, 0x21000);
	CROSS("RMW across into an absent page", "lock add qword ptr [rbx], 1", 2, 0x21000);
	CROSS("read across, first absent", "mov rax, [rbx]", 0, 0x20ffc, rig_poke(rig, TABLE + 0x20 * 8, 1, 0));
	CROSS("ADD mem, reg to read-only is a write", "add [rbx], eax", 3, 0x20ffc, rig_poke(rig, TABLE + 0x20 * 8, 1, P);
		rig->s.cr0 |= CR0_WP);
	CROSS("CMP mem, reg is a read", "cmp [rbx], rax", 0, 0x21000);
	CROSS("BTS beyond the operand", "bts [rbx], ecx", 2, 0x2103c, rig->r.rcx = 0x200);
	CROSS("FXSAVE across", "fxsave [rbx - 0xc]", 2, 0x21000);
	CROSS("MOVUPS store across", "movups [rbx], xmm0", 2, 0x21000);
	CROSS("POP to memory across", "pop qword ptr [rbx]", 2, 0x21000);
	CROSS("LGDT across", "lgdt [rbx]", 0, 0x21000);
	struct rig rig;
		/* code that runs into an absent page: inside an instruction, and between two */
	for (unsigned i = 0; i < 2; i++) {
		rig_start(&rig, LONG);
		tables(&rig, FOUR_LEVEL);
		rig_poke(&rig, TABLE + 0x21 * 8, 1, 0);
		rig_poke(&rig, 0x20fff, 1, i ? 0xb8 : 0x90);
		rig_run(&rig, CODE(64, "mov ebx, 0x20fff; jmp rbx; hlt"));
		expect_outcome(&rig, "fetch across", PF, 0);
		expect("fetch across", rig.s2.cr2, 0x21000);
		expect("fetch across", rig.rip, i ? 0x20fff : 0x21000);
		rig_end(&rig);
	}
}

/* Implicit supervisor accesses: tables on user pages under SMAP, AC or not; on supervisor pages for CPL 3. */
static void implicit(void)
{
	struct rig rig;

	rig_start(&rig, LONG);
	tables(&rig, FOUR_LEVEL);
	for (unsigned page = 0; page < 0x200; page++)
		rig_poke(&rig, TABLE + page * 8, 1, page == 2 ? P | W | U : P | W);
	rig.s.ldt = (struct kvm_segment){ .base = RIG_LDT, .limit = 0x3f, .selector = LDT, .type = 2, .present = 1 };
	rig.s.cr4 |= CR4_SMAP;
	rig.r.rflags |= AC_FLAG;
	rig_run(&rig, CODE(64, "mov al, [0x2c08]; mov eax, 0xc; " AT "mov ds, eax; hlt"));
	expect_outcome(&rig, "SMAP, descriptor on a user page with AC", PF, 1);
	expect("cr2", rig.s2.cr2, RIG_LDT + 8);
	rig_end(&rig);
	rig_start(&rig, LONG3);
	tables(&rig, FOUR_LEVEL);
	rig_poke(&rig, TABLE, 1, P | W);                 /* GDT */
	rig_run(&rig, CODE(64, "mov eax, 0x2b; mov ds, eax; mov eax, 0x1234; hlt"));
	expect_outcome(&rig, "descriptor on a supervisor page, CPL 3", DONE, ANY);
	rig_end(&rig);
	rig_start(&rig, LONG3);
	tables(&rig, FOUR_LEVEL);
	rig.gdt[USERDATA / 8] &= ~(1ull << 40);          /* accessed bit to be set in a read-only page */
	rig_poke(&rig, TABLE, 1, P);
	rig.s.cr0 |= CR0_WP;
	rig_run(&rig, CODE(64, "mov eax, 0x2b; " AT "mov ds, eax; hlt"));
	expect_outcome(&rig, "accessed bit of a descriptor in a read-only page", PF, 3);
	rig_end(&rig);
}

int main(void)
{
	permissions(TWO_LEVEL, 1);
	permissions(PAE, 1);
	permissions(PAE, 2);
	permissions(FOUR_LEVEL, 1);
	permissions(FOUR_LEVEL, 2);
	structures();
	flags_and_flushes();
	implicit();
	return rig_summary();
}
