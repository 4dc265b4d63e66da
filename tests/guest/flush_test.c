/*
 * Which instruction makes a change of the paging structures visible: INVLPG, INVPCID and writes of CR3 and CR4, for data and
 * for code that was jumped to before, in the current and in other address spaces. A stale translation shows as the old value.
 */
#include "base/params.h"
#include "rig.h"

enum { P = 1, W = 2, U = 4, PS = 0x80, G = 0x100 };
enum { ROOT = 0x200000, DIR1 = 0x201000, DIR2 = 0x202000, TABLE = 0x203000, OLD = 0x20000, NEW = 0x21000, LARGE = 0x80000 };
enum { CR0_PG_WP = 0x80010000, CR4_SMAP = 0x200000, CR4_PAE = 0x20, CR4_PGE = 0x80, CR4_PCIDE = 0x20000, AC_FLAG = 0x40000 };

/* A function that returns value, and a word of that value 64 bytes on. */
static void values(struct rig *rig, uint64_t at, uint32_t value)
{
	rig_poke(rig, at, 1, 0xb8);
	rig_poke(rig, at + 1, 4, value);
	rig_poke(rig, at + 5, 1, 0xc3);
	rig_poke(rig, at + 64, 4, value);
}

/* The first 2 MiB by small pages, the next two 2 MiB pages at 2 and 4 MiB by large ones; a 1 GiB page of the same at 1 GiB. */
static void tables(struct rig *rig)
{
	for (unsigned i = 0; i < 512; i++)
		rig_poke(rig, TABLE + i * 8, 8, i << 12 | P | W);
	rig_poke(rig, ROOT, 8, DIR1 | P | W);
	rig_poke(rig, DIR1, 8, DIR2 | P | W);
	rig_poke(rig, DIR1 + 8, 8, PS | P | W);
	rig_poke(rig, DIR2, 8, TABLE | P | W);
	rig_poke(rig, DIR2 + 8, 8, 0x200000 | PS | P | W);
	rig_poke(rig, DIR2 + 16, 8, 0x200000 | PS | P | W);
	values(rig, OLD, 1);
	values(rig, NEW, 2);
	values(rig, LARGE, 2);
	values(rig, 0x200000 + LARGE, 1);
	rig->s.cr0 |= CR0_PG_WP;
	rig->s.cr3 = ROOT;
	rig->s.cr4 |= CR4_PAE | CR4_PGE;
}

#define CASE_OF(name, text, want, ...) VALUE(LONG, name, 64, text, want, tables(rig); __VA_ARGS__)
/* Every use of the page: as data and, twice so that the jump is remembered, as code; all of them must agree. */
#define USE(at) "mov ebx, " at "; mov r8d, [rbx + 64]; call rbx; mov r9d, eax; call rbx; shl r9d, 4; shl r8d, 8; or eax, r9d; or eax, r8d;"
#define PTE "[0x203100]"
#define MAP_NEW "mov dword ptr " PTE ", 0x21003;"
#define MAP_NEW_GLOBAL "mov dword ptr " PTE ", 0x21103;"
#define GLOBAL rig_poke(rig, TABLE + 0x20 * 8, 2, OLD | P | W | G)
#define LARGE_NEW "mov dword ptr [0x202010], 0x83;"
#define TO_5 "mov rdx, cr3; bts rdx, 63; or rdx, 5; mov cr3, rdx;"
#define TO_0 "mov rdx, cr3; bts rdx, 63; and rdx, -4096; mov cr3, rdx;"
#define PCIDE rig->s.cr4 |= CR4_PCIDE
#define GIG "0x40080000"

static void current(void)
{
	CASE_OF("nothing changed", USE("0x20000") "invlpg [0x20000];" USE("0x20000") "hlt", 0x111);
	CASE_OF("INVLPG", USE("0x20000") MAP_NEW "invlpg [0x20000];" USE("0x20000") "hlt", 0x222);
	CASE_OF("INVLPG with an address inside the page", USE("0x20000") MAP_NEW "invlpg [0x20fff];" USE("0x20000") "hlt", 0x222);
	CASE_OF("INVLPG of a global page", USE("0x20000") MAP_NEW_GLOBAL "invlpg [0x20000];" USE("0x20000") "hlt", 0x222, GLOBAL);
	CASE_OF("INVLPG by another address of a 2M page", USE("0x480000") LARGE_NEW "invlpg [0x5ff000];" USE("0x480000") "hlt", 0x222);
	CASE_OF("INVLPG of a global 2M page", USE("0x480000") "mov dword ptr [0x202010], 0x183; invlpg [0x400000];" USE("0x480000") "hlt", 0x222,
		rig_poke(rig, DIR2 + 16, 8, 0x200000 | PS | P | W | G));
	CASE_OF("a 2M page split into small ones", USE("0x480000") "mov dword ptr [0x202010], 0x203003; invlpg [0x412345];" USE("0x480000") "hlt",
		0x222, rig_poke(rig, TABLE + 0x80 * 8, 8, NEW | P | W));
	CASE_OF("a 1G page split into small ones", USE(GIG) "mov dword ptr [0x201008], 0x202003; mov rdi, 0x7f123456; invlpg [rdi];" USE(GIG) "hlt",
		0x111, rig_poke(rig, TABLE + 0x80 * 8, 8, OLD | P | W));
	CASE_OF("small pages joined to a 2M page", USE("0x80000") "mov dword ptr [0x202000], 0x83; mov edi, 0x80000; invlpg [rdi];" USE("0x80000") "hlt",
		0x222, rig_poke(rig, TABLE + 0x80 * 8, 8, OLD | P | W));
	CASE_OF("CR3 write", USE("0x20000") MAP_NEW "mov rax, cr3; mov cr3, rax;" USE("0x20000") "hlt", 0x222);
	CASE_OF("CR4.PGE cleared and set", USE("0x20000") MAP_NEW_GLOBAL "mov rax, cr4; btc rax, 7; mov cr4, rax; bts rax, 7; mov cr4, rax;" USE("0x20000")
		"hlt", 0x222, GLOBAL);
	CASE_OF("INVPCID, address", USE("0x20000") MAP_NEW "mov dword ptr [0x4008], 0x20000; xor ecx, ecx; invpcid rcx, [0x4000];" USE("0x20000") "hlt", 0x222);
	CASE_OF("INVPCID, PCID", USE("0x20000") MAP_NEW "mov ecx, 1; invpcid rcx, [0x4000];" USE("0x20000") "hlt", 0x222);
	CASE_OF("INVPCID, all with globals", USE("0x20000") MAP_NEW_GLOBAL "mov ecx, 2; invpcid rcx, [0x4000];" USE("0x20000") "hlt", 0x222, GLOBAL);
	CASE_OF("INVPCID, all but globals", USE("0x20000") MAP_NEW "mov ecx, 3; invpcid rcx, [0x4000];" USE("0x20000") "hlt", 0x222);
}

/* MOV EAX, imm32 and RET: the constant lies on the second page but for its lowest byte. */
static void straddling(struct rig *rig)
{
	rig_poke(rig, 0x20ffe, 2, 0x01b8);
	rig_poke(rig, 0x21000, 4, 0xc3000000);
	rig_poke(rig, 0x22000, 4, 0xc3000001);
}

static void two_pages(void)
{
	CASE_OF("an instruction on two pages, INVLPG of the second", "mov ebx, 0x20ffe; call rbx; call rbx; mov dword ptr [0x203108], 0x22003;"
		"invlpg [0x21000]; call rbx; hlt", 0x101, straddling(rig));
	CASE_OF("the same on global pages", "mov ebx, 0x20ffe; call rbx; call rbx; mov dword ptr [0x203108], 0x22103; invlpg [0x21000]; call rbx; hlt", 0x101,
		straddling(rig); GLOBAL; rig_poke(rig, TABLE + 0x21 * 8, 2, 0x1000 | P | W | G));
}

/*
 * Paging structures themselves are remembered, too: those of 0x1c0000 (another table's) are exchanged, or gain a right. 0x8000 and the
 * page table at 0x203000 stay as they are.
 */
#define OTHER_TABLE 0x204000
#define REMOTE "0x80000000"
static void remote(struct rig *rig)
{
	rig_poke(rig, DIR1 + 16, 8, 0x205000 | P | W);
	rig_poke(rig, 0x205000, 8, 0x206000 | P | W);
	rig_poke(rig, 0x206000, 8, OLD | P | W);
	rig_poke(rig, 0x206008, 8, OLD | P | W);
	rig_poke(rig, OTHER_TABLE, 8, NEW | P | W);
	rig_poke(rig, OTHER_TABLE + 8, 8, NEW | P | W);
}

static void structures(void)
{
	CASE_OF("page table exchanged, INVLPG", USE(REMOTE) "mov dword ptr [0x205000], 0x204003; mov edi, 0x80000000; invlpg [rdi];" USE(REMOTE) "hlt", 0x222,
		remote(rig));
	CASE_OF("page table exchanged, INVLPG of any address, another page", USE(REMOTE) "mov dword ptr [0x205000], 0x204003; invlpg [0x1000];" USE("0x80001000")
		"hlt", 0x222, remote(rig));
	CASE_OF("page table exchanged, CR3 write", USE(REMOTE) "mov dword ptr [0x205000], 0x204003; mov rax, cr3; mov cr3, rax;" USE(REMOTE) "hlt", 0x222,
		remote(rig));
	CASE_OF("page directory exchanged, INVLPG", USE(REMOTE) "mov dword ptr [0x207000], 0x204003; mov dword ptr [0x201010], 0x207003; mov edi, 0x80000000;"
		"invlpg [rdi];" USE(REMOTE) "hlt", 0x222, remote(rig));
	CASE_OF("page table exchanged, INVLPG with WP clear", USE(REMOTE) "mov rsi, cr0; btr rsi, 16; mov cr0, rsi; mov dword ptr [0x205000], 0x204003;"
		"invlpg [0x1000]; bts rsi, 16; mov cr0, rsi;" USE("0x80001000") "hlt", 0x222, remote(rig));
	CASE_OF("page table exchanged, INVPCID of another PCID", USE(REMOTE) TO_5 "mov dword ptr [0x205000], 0x204003; mov ecx, 1; invpcid rcx, [0x4000];" TO_0
		USE(REMOTE) "hlt", 0x222, remote(rig); PCIDE);
	CASE_OF("a page directory entry becomes writable, no flush", "mov rbx, 0x80000000; mov al, [rbx]; mov al, [rbx + 0x1000]; mov dword ptr [0x205000], 0x206003; mov byte ptr [rbx + 65], 1;"
		USE(REMOTE) "hlt", 0x10211, remote(rig); rig_poke(rig, 0x205000, 8, 0x206000 | P); rig_poke(rig, OLD + 64, 4, 2));
	CASE_OF("page table exchanged, no flush, a page absent from the first", "mov rbx, 0x80000000; mov al, [rbx]; mov dword ptr [0x205000], 0x204003;"
		"mov eax, [rbx + 0x2040]; hlt", 2, remote(rig); rig_poke(rig, OTHER_TABLE + 16, 8, NEW | P | W));
	CASE_OF("page table exchanged, no flush, a reserved bit in the first", "mov rbx, 0x80000000; mov al, [rbx]; mov dword ptr [0x205000], 0x204003;"
		"mov eax, [rbx + 0x2040]; hlt", 2, remote(rig); rig_poke(rig, OTHER_TABLE + 16, 8, NEW | P | W); rig_poke(rig, 0x206010, 8, P | 1ull << 51));
	CASE_OF("accessed flags of the whole way", "mov rbx, 0x80000000; mov al, [rbx]; mov eax, [0x201010]; and eax, [0x205000]; and eax, [0x206000];"
		"and eax, 0x20; hlt", 0x20, remote(rig));
	CASE_OF("an absent page becomes present, no flush", "mov rbx, 0x80000000; mov al, [rbx]; mov dword ptr [0x206010], 0x21003; mov eax, [rbx + 0x2040]; hlt", 2,
		remote(rig));
	CASE_OF("flags of a page found through a remembered table", "mov rbx, 0x80000000; mov al, [rbx]; mov [rbx + 0x1080], al; mov eax, [0x206008]; and eax, 0x60; hlt",
		0x60, remote(rig));
}

/* A fault through a remembered table: the error code tells of all levels. */
static void structure_faults(void)
{
	CASE_WITH(LONG, "page not present", PF, 2, 64, "mov rbx, 0x80000000; mov al, [rbx];" AT "mov [rbx + 0x5000], al; hlt", tables(rig); remote(rig));
	CASE_WITH(LONG, "page read-only", PF, 3, 64, "mov rbx, 0x80000000; mov al, [rbx];" AT "mov [rbx + 0x1000], al; hlt", tables(rig); remote(rig);
		rig_poke(rig, 0x206008, 8, OLD | P));
	CASE_WITH(LONG, "directory read-only", PF, 3, 64, "mov rbx, 0x80000000; mov al, [rbx];" AT "mov [rbx + 0x1000], al; hlt", tables(rig); remote(rig);
		rig_poke(rig, 0x205000, 8, 0x206000 | P));
	CASE_WITH(LONG, "reserved bit", PF, 9, 64, "mov rbx, 0x80000000; mov al, [rbx];" AT "mov al, [rbx + 0x1000]; hlt", tables(rig); remote(rig);
		rig_poke(rig, 0x206008, 8, OLD | P | 1ull << 51));
	CASE_WITH(LONG3, "supervisor's directory", PF, 5, 64, "mov rbx, 0x80000000;" AT "mov al, [rbx]; hlt", tables(rig); remote(rig);
		rig_poke(rig, ROOT, 8, DIR1 | P | W | U); rig_poke(rig, DIR1, 8, DIR2 | P | W | U); rig_poke(rig, DIR2, 8, TABLE | P | W | U);
		for (unsigned i = 0; i < 512; i++) rig_poke(rig, TABLE + i * 8, 8, i << 12 | P | W | U);
		rig_poke(rig, 0x206000, 8, OLD | P | W | U));
}

/* Address spaces and processor states that are not current while the translation is dropped, and come back later. */
#define OTHERS(n) "mov ecx, " #n "; mov edi, 0x100000; 9: invlpg [rdi]; add edi, 4096; dec ecx; jnz 9b;"
static void other(void)
{
	CASE_OF("global page, INVLPG in another PCID", USE("0x20000") TO_5 MAP_NEW_GLOBAL "invlpg [0x20000];" TO_0 USE("0x20000") "hlt", 0x222, GLOBAL; PCIDE);
	CASE_OF("global page used in both, INVLPG in the other PCID", USE("0x20000") TO_5 USE("0x20000") MAP_NEW_GLOBAL "invlpg [0x20000];" USE("0x20000")
		TO_0 USE("0x20000") "hlt", 0x222, GLOBAL; PCIDE);
	CASE_OF("global 2M page, INVLPG in another PCID", USE("0x480000") TO_5 "mov dword ptr [0x202010], 0x183; invlpg [0x5ff000];" TO_0 USE("0x480000") "hlt",
		0x222, rig_poke(rig, DIR2 + 16, 8, 0x200000 | PS | P | W | G); PCIDE);
	CASE_OF("the same, then more INVLPGs than are remembered", USE("0x20000") TO_5 MAP_NEW_GLOBAL "invlpg [0x20000];" OTHERS(200) TO_0 USE("0x20000")
		"hlt", 0x222, GLOBAL; PCIDE);
	CASE_OF("the same, with fewer", USE("0x20000") TO_5 OTHERS(20) MAP_NEW_GLOBAL "invlpg [0x20000];" OTHERS(20) TO_0 USE("0x20000") "hlt", 0x222,
		GLOBAL; PCIDE);
	CASE_OF("CR4.PGE toggled in another PCID", USE("0x20000") TO_5 MAP_NEW_GLOBAL "mov rax, cr4; btc rax, 7; mov cr4, rax; bts rax, 7; mov cr4, rax;" TO_0
		USE("0x20000") "hlt", 0x222, GLOBAL; PCIDE);
	CASE_OF("INVPCID, address of another PCID", USE("0x20000") TO_5 MAP_NEW "mov dword ptr [0x4008], 0x20000; xor ecx, ecx; invpcid rcx, [0x4000];" TO_0
		USE("0x20000") "hlt", 0x222, PCIDE);
	CASE_OF("INVPCID, another PCID", USE("0x20000") TO_5 MAP_NEW "mov ecx, 1; invpcid rcx, [0x4000];" TO_0 USE("0x20000") "hlt", 0x222, PCIDE);
	CASE_OF("CR3 write without bit 63", USE("0x20000") TO_5 MAP_NEW "mov rdx, 0x200000; mov cr3, rdx;" USE("0x20000") "hlt", 0x222, PCIDE);
	/* INVLPG with another CR0.WP, and with EFLAGS.AC the other way round under SMAP: the same address space all the same. */
	CASE_OF("INVLPG while WP is clear", USE("0x20000") "mov rsi, cr0; btr rsi, 16; mov cr0, rsi;" MAP_NEW "invlpg [0x20000]; bts rsi, 16; mov cr0, rsi;"
		USE("0x20000") "hlt", 0x222);
	CASE_OF("global page, INVLPG while WP is clear", USE("0x20000") "mov rsi, cr0; btr rsi, 16; mov cr0, rsi;" MAP_NEW_GLOBAL
		"invlpg [0x20000]; bts rsi, 16; mov cr0, rsi;" USE("0x20000") "hlt", 0x222, GLOBAL);
	CASE_OF("INVLPG between STAC and CLAC", USE("0x20000") "stac;" MAP_NEW "invlpg [0x20000]; clac;" USE("0x20000") "hlt", 0x222, rig->s.cr4 |= CR4_SMAP);
	CASE_OF("INVLPG between STAC and CLAC, used there", "stac;" USE("0x20000") "clac;" USE("0x20000") MAP_NEW "invlpg [0x20000]; stac;" USE("0x20000")
		"clac; hlt", 0x222, rig->s.cr4 |= CR4_SMAP);
}

/* Implicit supervisor accesses have entries of their own where EFLAGS.AC lifts SMAP from the others, and at CPL 3. */
static void implicit(void)
{
	const uint64_t before = descriptor(0, 0xfff, 0xf3, 0), after = descriptor(0, 0x1fff, 0xf3, 0);

	CASE_OF("descriptor table exchanged, INVLPG, AC under SMAP", "stac; mov ecx, 0x80; lsl edx, ecx; mov dword ptr [0x203000], 0x22003; invlpg [0x777];"
		"lsl eax, ecx; hlt", 0x1fff, rig->s.cr4 |= CR4_SMAP; rig->gdt[FREE / 8] = before; rig_poke(rig, 0x22580, 8, after));
	CASE_OF("descriptor table exchanged, no INVLPG yet", "stac; mov ecx, 0x80; lsl edx, ecx; mov dword ptr [0x203000], 0x22003; lsl eax, ecx; hlt", 0xfff,
		rig->s.cr4 |= CR4_SMAP; rig->gdt[FREE / 8] = before; rig_poke(rig, 0x22580, 8, after));
	CASE_OF("descriptor table exchanged, INVLPG with AC clear", "stac; mov ecx, 0x80; lsl edx, ecx; clac; mov dword ptr [0x203000], 0x22003; invlpg [0x777];"
		"stac; lsl eax, ecx; hlt", 0x1fff, rig->s.cr4 |= CR4_SMAP; rig->gdt[FREE / 8] = before; rig_poke(rig, 0x22580, 8, after));
}

/* The same tables in another address space, but for page 0, where the descriptors are. */
static void other_space(struct rig *rig)
{
	for (unsigned i = 0; i < 512; i++)
		rig_poke(rig, 0x20a000 + i * 8, 8, (i ? i << 12 : 0x22000) | P | W);
	rig_poke(rig, 0x207000, 8, 0x208000 | P | W);
	rig_poke(rig, 0x208000, 8, 0x209000 | P | W);
	rig_poke(rig, 0x209000, 8, 0x20a000 | P | W);
	rig_poke(rig, 0x209008, 8, 0x200000 | PS | P | W);
	rig_poke(rig, 0x22580, 8, descriptor(0, 0x1fff, 0xf3, 0));
	rig->gdt[FREE / 8] = descriptor(0, 0xfff, 0xf3, 0);
}

/* Whose entries implicit accesses use follows the address space. */
static void implicit_elsewhere(void)
{
#define LIMITS "mov ecx, 0x80; lsl edi, ecx; mov rdx, 0x8000000000207005; mov cr3, rdx; lsl eax, ecx; mov rdx, 0x8000000000200000; mov cr3, rdx;" \
	"lsl ebx, ecx; shl rax, 16; or rax, rbx; shl rax, 16; or rax, rdi;"
	CASE_OF("descriptors of two address spaces", LIMITS "hlt", 0x1fff0fff0fff, other_space(rig); PCIDE);
	CASE_OF("descriptors of two address spaces, AC under SMAP", "stac;" LIMITS "hlt", 0x1fff0fff0fff, other_space(rig); PCIDE; rig->s.cr4 |= CR4_SMAP);
	CASE_OF("descriptors of two address spaces, AC set and cleared under SMAP", "stac;" LIMITS "clac;" LIMITS "hlt", 0x1fff0fff0fff, other_space(rig); PCIDE;
		rig->s.cr4 |= CR4_SMAP);
}

/* What must still be there: a processor may drop more than it is asked to, so these show only what this one promises itself. */
static void kept(void)
{
	if (params.careful)
		return;                          /* each access walks */
	CASE_OF("a global page outlives CR3 writes", USE("0x20000") MAP_NEW_GLOBAL "mov rax, cr3; mov cr3, rax;" USE("0x20000") "hlt", 0x111, GLOBAL);
	CASE_OF("INVLPG of a neighbour", USE("0x20000") MAP_NEW "invlpg [0x1f000]; invlpg [0x21000];" USE("0x20000") "hlt", 0x111);
}

/* INVLPG of an address that is not canonical does nothing; at CPL 3 it faults. */
static void refused(void)
{
	CASE_OF("INVLPG, not canonical", "mov rdi, 0x8000000000000000; invlpg [rdi]; mov eax, 5; hlt", 5);
	CASE(LONG3, "INVLPG at CPL 3", GP, 0, 64, AT "invlpg [0x20000]; hlt");
	CASE(LONG, "INVPCID, type 4", GP, 0, 64, "mov ecx, 4;" AT "invpcid rcx, [0x4000]; hlt");
	CASE(LONG, "INVPCID, address not canonical", GP, 0, 64, "mov rax, 0x8000000000000000; mov [0x4008], rax; xor ecx, ecx;" AT "invpcid rcx, [0x4000]; hlt");
}

int main(void)
{
	current();
	two_pages();
	structures();
	structure_faults();
	other();
	implicit();
	implicit_elsewhere();
	kept();
	refused();
	return rig_summary();
}
