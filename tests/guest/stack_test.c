/*
 * The stack, whose page translated code remembers from one access to the next: every way in which it can lead elsewhere, lose a
 * right, hold code or be left, and the value or fault that must come of it.
 */
#include "rig.h"

/* Pages of 4 KiB at 1 GiB: 0 leads to frame OLD at first, 1 to FAR, 2 to OTHER; each frame holds its number at every 8 bytes. */
enum { P = 1, W = 2, U = 4, OLD = 0x200000, NEW = 0x201000, FAR = 0x208000, OTHER = 0x203000 };
enum { CR0_WP = 0x10000, CR4_PGE = 0x80, CR4_PCIDE = 0x20000, CR4_SMAP = 0x200000 };

static void frame(struct rig *rig, uint64_t at, uint64_t number)
{
	for (unsigned i = 0; i < 4096; i += 8)
		rig_poke(rig, at + i, 8, number);
}

static void stack(struct rig *rig)
{
	uint64_t *table = rig_small_pages(rig);

	table[0] = OLD | P | W;
	table[1] = FAR | P | W;
	table[2] = OTHER | P | W;
	frame(rig, OLD, 1);
	frame(rig, NEW, 2);
	frame(rig, FAR, 3);
	frame(rig, OTHER, 4);
	rig->s.cr0 |= CR0_WP;
	rig->r.rax = 0;
	for (unsigned v = DE; v <= AC; v++)
		rig_gate(rig, v, CODE64, 0x8e, 1);
}

#define IS(name, text, want, ...) VALUE(LONG, name, 64, text, want, stack(rig); __VA_ARGS__)
#define STACK "mov esp, 0x40000100;"
#define NEXT "shl rax, 4; or rax, rdx;"
/* RAX gets one more digit: the number of the frame. */
#define POPS STACK "pop rdx;" NEXT "pop rdx;" NEXT
#define LOADS STACK "mov rdx, [rsp + 8];" NEXT "movzx edx, byte ptr [rsp + 16];" NEXT
#define RETS STACK "mov ebx, 0x40000100; lea rdx, [rip + 5f]; mov rcx, [rbx]; mov [rbx], rdx; ret; hlt; 5: mov [rbx], rcx; mov rdx, rcx;" NEXT
#define LEAVES "mov ebp, 0x40000180; leave; mov rdx, rbp;" NEXT
#define ALL POPS LOADS LEAVES
#define MAP_NEW "mov dword ptr [0x112000], 0x201003;"
#define INVLPG "mov edi, 0x40000000; invlpg [rdi];"
#define CR3 "mov rdx, cr3; mov cr3, rdx;"
#define PGE "mov rdx, cr4; xor rdx, 0x80; mov cr4, rdx; xor rdx, 0x80; mov cr4, rdx;"
#define TO_5 "mov rdx, cr3; bts rdx, 63; or rdx, 5; mov cr3, rdx;"
#define TO_0 "mov rdx, cr3; bts rdx, 63; and rdx, -4096; mov cr3, rdx;"

static void reads(void)
{
	IS("nothing changed", ALL ALL "hlt", 0x1111111111);
	IS("INVLPG", ALL MAP_NEW INVLPG ALL "hlt", 0x1111122222);
	IS("INVLPG, lone accesses", LEAVES MAP_NEW INVLPG LEAVES "hlt", 0x12);
	IS("CR3 write", ALL MAP_NEW CR3 ALL "hlt", 0x1111122222);
	IS("CR4.PGE", ALL MAP_NEW PGE ALL "hlt", 0x1111122222);
	IS("INVPCID", ALL MAP_NEW "mov ecx, 2; invpcid rcx, [0x4000];" ALL "hlt", 0x1111122222);
	IS("RET", RETS MAP_NEW INVLPG "mov edi, 0x201100; mov qword ptr [rdi], 6;" RETS "hlt", 0x16);
	IS("another PCID", ALL TO_5 MAP_NEW ALL "hlt", 0x1111122222, rig->s.cr4 |= CR4_PCIDE);
	IS("another PCID's change, and back", ALL TO_5 ALL MAP_NEW INVLPG ALL "mov ecx, 2; invpcid rcx, [0x4000];" TO_0 "xor eax, eax;" ALL "hlt", 0x22222,
		rig->s.cr4 |= CR4_PCIDE);
	IS("INVPCID of all under another PCID", ALL TO_5 MAP_NEW "mov ecx, 2; invpcid rcx, [0x4000];" TO_0 "xor eax, eax;" ALL "hlt", 0x22222,
		rig->s.cr4 |= CR4_PCIDE);
	IS("INVPCID of another PCID", ALL TO_5 MAP_NEW "mov ecx, 1; invpcid rcx, [0x4000];" TO_0 "xor eax, eax;" ALL "hlt", 0x22222, rig->s.cr4 |= CR4_PCIDE);
	IS("a global page, changed under another PCID", "mov dword ptr [0x112000], 0x200103;" ALL TO_5 ALL "xor eax, eax; mov dword ptr [0x112000], 0x201103;"
		INVLPG TO_0 ALL "hlt", 0x22222, rig->s.cr4 |= CR4_PCIDE | CR4_PGE);
	IS("STAC and CLAC", "stac;" ALL "clac;" ALL "xor eax, eax; stac;" MAP_NEW "clac;" INVLPG ALL "stac;" ALL "clac; hlt", 0x2222222222,
		rig->s.cr4 |= CR4_SMAP);
	IS("changed between STAC and CLAC", ALL "stac; xor eax, eax;" MAP_NEW INVLPG "clac;" ALL "hlt", 0x22222, rig->s.cr4 |= CR4_SMAP);
	IS("WP", ALL "mov rdx, cr0; btr rdx, 16; mov cr0, rdx;" MAP_NEW INVLPG "bts rdx, 16; mov cr0, rdx; xor eax, eax;" ALL "hlt", 0x22222);
	IS("two stacks in turn", "mov ecx, 50; mov esp, 0x40000100; mov ebx, 0x40002100; 1: pop rdx; add rax, rdx; xchg rsp, rbx; pop rdx; add rax, rdx;"
		"xchg rsp, rbx; dec ecx; jnz 1b; hlt", 50 * 5);
	IS("two stacks in one block", "mov esp, 0x40000100; mov ebx, 0x40002100; pop rdx;" NEXT "mov rdx, [rsp + 8];" NEXT "mov rsp, rbx; pop rdx;" NEXT
		"pop rdx;" NEXT "mov esp, 0x40001100; pop rdx;" NEXT "mov rdx, [rsp];" NEXT "mov rdx, [rbx];" NEXT "hlt", 0x1144334);
}

static void writes(void)
{
	IS("PUSH goes to the new page", STACK "push 5; push 5;" MAP_NEW INVLPG STACK "push 7; mov edi, 0x200000; mov eax, [rdi + 0xf8]; shl eax, 4;"
		"or eax, [rdi + 0x10f8]; hlt", 0x57);
	IS("CALL, too", STACK "push 5;" MAP_NEW INVLPG STACK "call 1f; 1: mov edi, 0x200000; mov eax, [rdi + 0xf8]; shl eax, 4;"
		"lea rdx, [rip + 1b]; cmp rdx, [rdi + 0x10f8]; setz dl; or al, dl; hlt", 0x51);
	IS("a store and a sum", STACK "mov qword ptr [rsp], 5;" MAP_NEW INVLPG "add qword ptr [rsp + 8], 4; mov edi, 0x200000; mov eax, [rdi + 0x108];"
		"shl eax, 4; or eax, [rdi + 0x1108]; hlt", 0x16);
	IS("a push over two pages that do not lie together", "mov esp, 0x40001004; mov rdx, 0x1234567890abcdef; push rdx; push rdx; pop rax; pop rbx;"
		"cmp rax, rbx; jne 1f; mov edi, 0x200000; mov eax, [rdi + 0xffc]; shl rax, 32; mov edx, [rdi + 0x8000]; or rax, rdx; 1: hlt", 0x90abcdef12345678);
	IS("every word of two pages", "mov esp, 0x40002000; mov ecx, 1024; 1: push rcx; dec ecx; jnz 1b; mov ecx, 1024; 2: pop rdx; add rax, rdx; cmp edx, ecx;"
		"dec ecx; jnz 2b; hlt", 1024 * 1025 / 2);
	IS("by index", STACK "mov ecx, 15; 1: mov [rsp + rcx * 8 + 8], rcx; nop; add rax, [rsp + rcx * 8 + 8]; dec ecx; jnz 1b; hlt", 120);
	IS("by index, into another page", STACK "push 5; pop rdx; mov ecx, 0x1000; mov qword ptr [rsp + rcx], 9; mov rax, [rsp + rcx * 2];" NEXT
		"mov edi, 0x208100; add rax, [rdi]; hlt", 0x45 + 9);
}

/* A fault makes the processor forget the page: no INVLPG is needed after it. */
#define HANDLER(what) "lea rdx, [rip + 8f]; mov [0x10e0], dx; shr rdx, 16; mov [0x10e6], dx; jmp 9f;" \
	"8: " what "; add rsp, 8; iretq; 9:"
static void copy_on_write(void)
{
	IS("copied at a store by another register", HANDLER("mov dword ptr [0x112000], 0x201003") "mov edi, 0x40000200;" ALL "mov byte ptr [rdi], 6;"
		ALL "hlt", 0x1111122222, rig_poke(rig, RIG_PAGE_TABLE, 8, OLD | P));
	IS("copied at a PUSH", HANDLER("mov dword ptr [0x112000], 0x201003") ALL STACK "push 6;" ALL "hlt", 0x1111122222,
		rig_poke(rig, RIG_PAGE_TABLE, 8, OLD | P));
	IS("made writable at a PUSH", HANDLER("or dword ptr [0x112000], 2") ALL STACK "push 6; push 7; pop rdx; pop rdx;" NEXT ALL "hlt",
		0x11111611111, rig_poke(rig, RIG_PAGE_TABLE, 8, OLD | P));
	IS("made present at a POP", HANDLER("or dword ptr [0x112000], 1") ALL "hlt", 0x11111, rig_poke(rig, RIG_PAGE_TABLE, 8, OLD | W));
}

/* The first GiB is the supervisor's, the stack the user's. */
static void smap(struct rig *rig)
{
	static const uint64_t levels[] = { GUEST_PAGES, GUEST_PAGES + 0x1008, RIG_PAGE_TABLE - 0x1000, RIG_PAGE_TABLE };

	for (unsigned i = 0; i < 4; i++)
		rig_poke(rig, levels[i], 8, rig_peek(rig, levels[i], 8) | U);
	rig_poke(rig, GUEST_PAGES + 0x1000, 8, rig_peek(rig, GUEST_PAGES + 0x1000, 8) & ~4ull);
	rig->s.cr4 |= CR4_SMAP;
}

#define FAULT(m, name, vector, error, text, ...) CASE_WITH(m, name, vector, error, 64, text "hlt", stack(rig); __VA_ARGS__)
static void faults(void)
{
	FAULT(LONG, "write permission gone", PF, 3, STACK "push 5; pop rdx; btr dword ptr [0x112000], 1;" INVLPG AT "push 5;");
	FAULT(LONG, "the same, to be read", DONE, ANY, STACK "push 5; pop rdx; btr dword ptr [0x112000], 1;" INVLPG "pop rdx;");
	FAULT(LONG, "page gone", PF, 0, ALL "mov dword ptr [0x112000], 0;" INVLPG STACK AT "pop rdx;");
	FAULT(LONG, "page gone, CALL", PF, 2, ALL STACK "push 5; mov dword ptr [0x112000], 0;" INVLPG AT "call 1f; 1:");
	FAULT(LONG, "reserved bit", PF, 9, ALL "bts qword ptr [0x112000], 51;" INVLPG STACK AT "ret;");
	FAULT(LONG3, "supervisor's stack at CPL 3", PF, 7, STACK AT "push 5;");
	FAULT(LONG, "user's stack under SMAP", PF, 3, STACK "stac; push 5; clac;" AT "push 5;", smap(rig));
}

/* Addresses that are not canonical, among them those that empty entries hold. */
static void bad_addresses(void)
{
	static const uint64_t t[] = { 0x7777777777777000, 0x7777777777777010, 0x7777777777776000, 0x7777777777776008, 0x7777777777777ff8,
	                              0x8000000000000000, 0x800000000000, 0xffff7ffffffffff0 };

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (int how = 0; how < 6; how++) {
			struct rig rig;

			rig_start(&rig, LONG);
			stack(&rig);
			rig.r.rbp = rig.r.rcx = t[i];
			rig_run(&rig, how == 0 ? CODE(64, "mov rsp, rbp;" AT "pop rdx; hlt") :
			              how == 1 ? CODE(64, "lea rsp, [rbp + 8];" AT "push rdx; hlt") :
			              how == 2 ? CODE(64, "mov esp, 0x40000100; push rdx; pop rdx; lea rsp, [rbp + 8];" AT "call 1f; 1: hlt") :
			              how == 3 ? CODE(64, "mov esp, 0x40000100; pop rdx; pop rdx; mov rsp, rbp;" AT "pop rdx; mov rdx, [rsp + 8]; hlt") :
			              how == 4 ? CODE(64, "mov esp, 0x40000100; pop rdx; push rdx;" AT "leave; hlt") :
			                         CODE(64, "xor esp, esp;" AT "mov rdx, [rsp + rcx]; hlt"));
			expect_outcome(&rig, "bad address", SS, 0);
			expect("bad address", rig.rip, rig.mark);
			rig_end(&rig);
		}
}

/* Code on the stack, pushed over again: mov eax, N; ret. */
#define PUSH_CODE(n) "mov rdx, 0xc3000000" n "b8; push rdx; mov rbx, rsp; sub rsp, 64; call rbx; add rsp, 64; add r9, rax; pop rdx;"
static void code(void)
{
	IS("code on the stack", STACK "xor r9d, r9d; mov ecx, 20; 1:" PUSH_CODE("01") PUSH_CODE("02") PUSH_CODE("03") "dec ecx; jnz 1b; mov rax, r9; hlt", 120);
	IS("code where the stack was", STACK "push 5; push 5; mov rdx, 0xc300000001b8; mov rbx, 0x40000080; mov [rbx], rdx; call rbx; mov r9, rax;"
		"mov esp, 0x40000088; mov rdx, 0xc300000002b8; push rdx; mov esp, 0x40000200; call rbx; shl r9, 4; or rax, r9; hlt", 0x12);
}

/* What is pushed after the log was read is in the next one. */
static bool dirty(struct rig *rig, uint64_t page)
{
	static uint64_t bits[GUEST_MEMORY / 4096 / 64];
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };

	guest_ioctl(rig->g.vm, KVM_GET_DIRTY_LOG, &log);
	return bits[page >> 18] >> (page >> 12) % 64 & 1;
}

static void dirty_log(void)
{
	struct rig rig;
	struct kvm_userspace_memory_region slot = { .slot = 0, .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = GUEST_MEMORY };

	rig_start(&rig, LONG);
	stack(&rig);
	slot.userspace_addr = (uintptr_t)rig.g.memory;
	guest_ioctl(rig.g.vm, KVM_SET_USER_MEMORY_REGION, &slot);
	rig_run(&rig, CODE(64, STACK "1: push 5; pop rdx; push 6; pop rdx; hlt; jmp 1b"));
	for (int i = 0; i < 3; i++) {
		expect_value("dirty log", "dirty", dirty(&rig, OLD), 1);
		expect_value("dirty log", "dirty", dirty(&rig, OLD), 0);
		rig_resume(&rig);
	}
	rig_end(&rig);
}

/* Accessed and dirty flags, taken back by the guest. */
static void page_flags(void)
{
#define CLEARED STACK "push 5; pop rdx; push 5; mov dword ptr [0x112000], 0x200003;" INVLPG
#define FLAGS_NOW "mov eax, [0x112000]; and eax, 0x60; hlt"
	IS("a push makes the page dirty", CLEARED "push 6;" FLAGS_NOW, 0x60);
	IS("a pop does not", CLEARED "pop rdx;" FLAGS_NOW, 0x20);
	IS("a push after a pop does", CLEARED "pop rdx; jmp 1f; 1: push rdx;" FLAGS_NOW, 0x60);
	IS("pop and push of one block do", CLEARED "pop rdx; push rdx;" FLAGS_NOW, 0x60);
	IS("nothing does", CLEARED FLAGS_NOW, 0);
}

static int answer_mmio(struct rig *rig, struct kvm_run *run) { return run->exit_reason == KVM_EXIT_MMIO ? 0 : EXIT + (int)run->exit_reason; }

/* The client takes the memory away that holds the stack: pushes are its to answer. */
static void slot_taken(void)
{
	struct rig rig;
	struct kvm_userspace_memory_region slot = { .slot = 0 };

	rig_start(&rig, LONG);
	stack(&rig);
	rig_poke(&rig, RIG_PAGE_TABLE, 8, (GUEST_MEMORY - 0x1000) | P | W);
	rig.exit = answer_mmio;
	rig_run(&rig, CODE(64, STACK "push 5; pop rdx; hlt; push 6; hlt"));
	expect_value("slot taken", "exits", rig.exits, 0);
	slot.userspace_addr = (uintptr_t)rig.g.memory;
	guest_ioctl(rig.g.vm, KVM_SET_USER_MEMORY_REGION, &slot);
	slot.memory_size = GUEST_MEMORY - 0x1000;
	guest_ioctl(rig.g.vm, KVM_SET_USER_MEMORY_REGION, &slot);
	rig_resume(&rig);
	expect_value("slot taken", "exits", rig.exits, 1);
	expect_value("slot taken", "memory", rig_peek(&rig, GUEST_MEMORY - 0x1000 + 0xf8, 8), 5);
	rig_end(&rig);
}

int main(void)
{
	page_flags();
	slot_taken();
	reads();
	writes();
	copy_on_write();
	faults();
	bad_addresses();
	code();
	dirty_log();
	return rig_summary();
}
