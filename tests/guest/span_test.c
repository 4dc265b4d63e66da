/*
 * Accesses over the end of a page, where the two pages lie together in memory and where they do not; and several accesses at
 * constant addresses, which are checked together if they lie in one page.
 */
#include "rig.h"

/* Pages at 1 GiB: 0 and 1 lie together, 2 in front of 1's frame, 3 is the frame after 2's once more, by another address. */
enum { P = 1, W = 2, FRAME = 0x200000, CR0_WP = 0x10000 };

static void pages(struct rig *rig)
{
	uint64_t *table = rig_small_pages(rig);

	table[0] = FRAME | P | W;
	table[1] = (FRAME + 0x1000) | P | W;
	table[2] = FRAME | P | W;
	table[3] = (FRAME + 0x5000) | P | W;
	for (unsigned i = 0; i < 0x8000; i += 8)
		rig_poke(rig, FRAME + i, 8, 0x0807060504030201 + (i >> 12) * 0x1010101010101010);
	rig_gate(rig, PF, CODE64, 0x8e, 1);
	rig->s.cr0 |= CR0_WP;
	rig->s.cr4 |= 0x600;
	rig->r.rdi = RIG_PAGES;
	rig->r.rsi = RIG_PAGES + 0x2000;
}

/* Reads two pages first, so that the TLB has them. */
#define WARM "mov al, [rdi]; mov al, [rdi + 0x1000]; mov al, [rsi]; mov al, [rsi + 0x1000]; or byte ptr [rdi], 0; or byte ptr [rdi + 0x1000], 0; or byte ptr [rsi + 0x1000], 0; or byte ptr [0x4000], 0; or byte ptr [0x5000], 0; jmp 88f; 88:"
#define IS(name, text, want, ...) VALUE(LONG, name, 64, WARM text "hlt", want, pages(rig); __VA_ARGS__)
#define FAULT(name, code, address, text) do { \
	struct rig r_, *rig = &r_; rig_start(rig, LONG); pages(rig); rig_run(rig, CODE(64, WARM text "hlt")); \
	expect_outcome(rig, name, PF, code); expect(name, rig->rip, rig->mark); expect(name, rig->s2.cr2, address); \
	expect(name, rig_peek(rig, FRAME + 0xff8, 8), 0x0807060504030201); rig_end(rig); } while (0)

static void two_pages(void)
{
	IS("a load, together", "mov rax, [rdi + 0xffc];", 0x1413121108070605);
	IS("a load, apart", "mov rax, [rsi + 0xffc];", 0x5453525108070605);
	IS("a vector, together", "movups xmm1, [rdi + 0xff6]; psrldq xmm1, 6; movq rax, xmm1;", 0x1413121108070605);
	IS("a vector, apart", "movups xmm1, [rsi + 0xff6]; psrldq xmm1, 6; movq rax, xmm1;", 0x5453525108070605);
	IS("a store, together", "mov rcx, 0x1234567890abcdef; mov [rdi + 0xffc], rcx; mov eax, [rdi + 0xffc]; add eax, [rdi + 0x1000];", 0xa2e02467);
	IS("a store, apart", "mov rcx, 0x1234567890abcdef; mov [rsi + 0xffc], rcx; mov eax, [rsi + 0xffc]; add eax, [rsi + 0x1000];", 0xa2e02467);
	IS("the frame between is left alone", "mov rcx, -1; mov [rsi + 0xffc], rcx; mov rax, [rdi + 0x1000];", 0x1817161514131211);
	IS("a sum, together", "mov ecx, 1; add [rdi + 0xffd], rcx; mov rax, [rdi + 0xffd];", 0x1514131211080707);
	IS("a locked sum, together", "mov ecx, 1; lock add [rdi + 0xffd], rcx; mov rax, [rdi + 0xffd];", 0x1514131211080707);
	IS("an exchange, apart", "mov rcx, -1; xchg [rsi + 0xffd], rcx; mov rax, rcx; and rax, [rsi + 0xffd];", 0x5554535251080706);
	IS("an x87 store, together", "fninit; fld1; fstp qword ptr [rdi + 0xffa]; mov rax, [rdi + 0xffa];", 0x3ff0000000000000);
	IS("pushes, together", "mov r9, rsp; lea rsp, [rdi + 0x1004]; push -2; jmp 1f; 1: pop rax; mov rsp, r9;", -2ull);
	IS("pushes, apart", "mov r9, rsp; lea rsp, [rsi + 0x1004]; push -2; jmp 1f; 1: pop rax; mov rsp, r9;", -2ull);
	IS("first together, then apart", "mov rax, [rdi + 0xffc]; mov dword ptr [0x112008], 0x205003; invlpg [rdi + 0x1000]; mov al, [rdi + 0x1000]; mov rax, [rdi + 0xffc];",
		0x5453525108070605);
	IS("code on the second page", "mov byte ptr [rdi + 0x1000], 0xc3; lea rbx, [rdi + 0x1000]; call rbx; mov rcx, 0xc333b0000000; mov [rdi + 0xffd], rcx; call rbx;"
		"movzx eax, al;", 0x33);
	FAULT("a load, the second page absent", 0, RIG_PAGES + 0x1000, "mov dword ptr [0x112008], 0; invlpg [rdi + 0x1000];" AT "mov rax, [rdi + 0xffc];");
	FAULT("a load, the first page absent", 0, RIG_PAGES + 0xffc, "mov dword ptr [0x112000], 0; invlpg [rdi];" AT "mov rax, [rdi + 0xffc];");
	FAULT("a store, the second page absent", 2, RIG_PAGES + 0x1000, "mov dword ptr [0x112008], 0; invlpg [rdi + 0x1000];" AT "mov [rdi + 0xffc], rax;");
	FAULT("a store, the second page read-only", 3, RIG_PAGES + 0x1000, "mov dword ptr [0x112008], 0x201001; invlpg [rdi + 0x1000];" AT "mov [rdi + 0xffc], rax;");
	FAULT("a sum, the first page read-only", 3, RIG_PAGES + 0xffc, "mov dword ptr [0x112000], 0x200001; invlpg [rdi];" AT "add [rdi + 0xffc], rax;");
}

/* Constants: 0x4000 is RIG_DATA. */
static void constants(void)
{
	IS("both ends of a page", "mov qword ptr [0x4000], 5; mov qword ptr [0x4ff8], 6; mov rax, [0x4ff8]; shl eax, 4; or rax, [0x4000];", 0x65);
	IS("the later one first", "mov qword ptr [0x4ff8], 6; mov qword ptr [0x4000], 5; mov rax, [0x4ff8]; shl eax, 4; or rax, [0x4000];", 0x65);
	IS("one over the end of the page", "mov qword ptr [0x4ffc], -1; mov qword ptr [0x4ff0], 1; mov eax, [0x4ffc]; mov ecx, [0x5000]; sub eax, ecx; add eax, [0x4ff0];", 1);
	IS("two pages in turn", "mov dword ptr [0x40002010], 1; mov dword ptr [0x40003010], 2; mov dword ptr [0x40002020], 4; mov dword ptr [0x40003020], 8;"
		"mov eax, [rsi + 0x10]; or eax, [rsi + 0x1010]; or eax, [rsi + 0x20]; or eax, [rsi + 0x1020];", 15);
	IS("RIP-relative", "mov eax, [rip + 1f]; add eax, [rip + 2f]; mov dword ptr [0x4000], 1; add eax, [0x4000]; jmp 3f; 1: .long 5; 2: .long 9; 3:", 15);
	IS("AH, R10 and R13", "mov eax, 0x1234; mov [0x4004], ah; mov r10d, 5; mov [0x4f00], r10; mov r13, [0x4f00]; add [0x4000], r13; movzx eax, byte ptr [0x4004];"
		"mov ah, [0x4f00]; movzx eax, ax;", 0x512);
	IS("a large constant", "mov qword ptr [0x4000], 3; mov rax, [0x4000]; movabs [0x40000010], rax; movabs rax, [0x40000010]; add rax, [0x40000ff0];", 0x0807060504030204);
	FAULT("the second page absent", 2, RIG_PAGES + 0x1008, "mov dword ptr [0x112008], 0; invlpg [rdi + 0x1000]; mov rax, [0x40000800];" AT "mov [0x40001008], rax;");
	FAULT("read-only, the second of two", 3, RIG_PAGES + 0xf00, "mov dword ptr [0x112000], 0x200001; invlpg [rdi]; mov rax, [0x40000008];" AT "mov [0x40000f00], rax;");
	FAULT("INVLPG in between", 0, RIG_PAGES + 0xf00, "mov rax, [0x40000008]; mov rcx, [0x40000f00]; mov dword ptr [0x112000], 0; invlpg [rdi];" AT "mov rcx, [0x40000f00];"
		"mov rax, [0x40000008];");
}

int main(void)
{
	two_pages();
	constants();
	return rig_summary();
}
