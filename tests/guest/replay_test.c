/*
 * Arithmetic flags that live over memory accesses: made by each kind of
 * instruction, read after accesses that hit and miss, calls, returns and
 * faults. The guest compares with the flags right after the instruction.
 */
#include "rig.h"

enum { ARITH = 0x8d5, LIN = RIG_PAGES, TABLE = RIG_PAGE_TABLE };

#define MAKERS(M) \
	M("cmp rax, rbx") M("cmp eax, 77") M("cmp al, bl") M("cmp ah, bl") M("cmp ax, bx") M("cmp al, 5") M("cmp rax, -1") M("test rax, rbx") \
	M("test eax, 0x80") M("test al, 1") M("test rax, rax") M("and eax, ebx") M("and rax, 15") M("and eax, 0x12345678") M("or rax, rbx") \
	M("xor eax, eax") M("xor rax, rbx") M("add rax, rbx") M("add eax, 1000") M("add rax, -1") M("add rax, rax") M("add ax, bx") M("sub rax, rbx") \
	M("sub eax, ebx") M("sub rax, 0x7fffffff") M("sub rax, -0x80000000") M("sub eax, -0x80000000") M("add rax, -0x80000000") M("sub ebx, 8") \
	M("add rsp, 24") M("sub rsp, 40") M("and rsp, -16") M("cmp rsp, rax") M("test rsp, rax") M("sub rsp, 0x90; neg eax") M("inc rax") M("dec ebx") \
	M("shl rax, 3") M("cmp r10, rax") M("cmp rax, r14") M("add r11, 5") M("test r13, r13") M("xor r15d, r15d") M("clc; adc rax, rbx") M("stc; inc eax") \
	M("neg rax") M("bt eax, 3")

#define TAILS(T) \
	T("") T("mov rcx, [rsi]; mov [rdi], rcx") T("mov rcx, [rsi + rdx]; mov [rdi + rdx], cl; mov ecx, [rsi + 64]; movups xmm1, [rsi + 3]") \
	T("push rcx; push rdx; pop rdx; pop rcx") T("call 5f; jmp 6f; 5: push rdx; mov rcx, [rsi]; pop rdx; ret; 6:") \
	T("call 5f; jmp 6f; 5: ret 0; 6:") T("mov rcx, [rsi]; call [rdi + 8]") T("mov rcx, [rsi]; lea r9, [rip + 7f]; jmp r9; 7:") \
	T("mov rcx, [rsi + 4088]; mov rcx, [rsi + 4090]; mov rcx, [rsi + 4096]") T("mov rcx, [rsi + 4000]; mov [rsi + 4100], rcx; mov rcx, [rsi + 3300]") \
	T("mov rcx, [rsi]; mov eax, [rdi]; nop") T("mov rcx, [rsi]; mov ebx, [rdi]; mov ebx, 4") T("mov rcx, [rsi]; jmp 9f; nop; 9: mov rcx, [rdi]") \
	T("mov rcx, [rsi]; push rcx; lea rsp, [rsp + 8]") T("push rbp; mov rbp, rsp; mov rcx, [rbp]; leave") T("cld; mov rcx, [rsi]")

#define BEFORE "nop; sub rsp, 0x100; mov rbp, rsp; mov r8, rax; mov r12, rbx; mov rdx, 8;"
#define AGAIN "pushfq; pop r9; mov rsp, rbp; mov rax, r8; mov rbx, r12; push r9;  mov r9, [rsp]; lea rsp, [rsp + 8]; movq xmm7, r9;"
#define AFTER "pushfq; pop r12; movq r9, xmm7; hlt"

static void start(struct rig *rig, unsigned pages)
{
	uint64_t *table;

	rig_start(rig, LONG);
	table = rig_small_pages(rig);
	for (unsigned i = 0; i < pages; i++)
		table[i] = 0x200003 + i * 0x2000;
	rig_poke(rig, RIG_DATA + 0x100, 1, 0xc3);                /* ret */
	rig_poke(rig, RIG_DATA + 8, 8, RIG_DATA + 0x100);
	rig_gate(rig, PF, CODE64, 0x8e, 1);
	rig->s.cr4 |= 0x600;
	rig->r.rsi = LIN;
	rig->r.rdi = RIG_DATA;
	rig->r.r10 = 0x1234;
	rig->r.r14 = 0x8000000000000000;
}

static const uint64_t values[][2] = { { 5, 9 }, { 0x80000000, 0x7fffffffffffffff }, { 0xfffffffffffffffb, 5 }, { 0, 0 } };

static void same_flags(const char *name, struct code code)
{
	for (unsigned v = 0; v < sizeof(values) / sizeof(*values); v++) {
		struct rig rig;

		start(&rig, 2);
		rig.r.rax = values[v][0];
		rig.r.rbx = values[v][1];
		rig_run(&rig, code);
		expect_outcome(&rig, name, DONE, ANY);
		expect_value(name, "flags", rig.r2.r12 & ARITH, rig.r2.r9 & ARITH);
		rig_end(&rig);
	}
}

static void tails(void)
{
#define ONE(maker, tail) same_flags(maker ", " tail, CODE(64, BEFORE maker ";" AGAIN maker ";" tail ";" AFTER));
#define T(tail) ONE(MAKER, tail)
#define MAKER "cmp rax, rbx"
	TAILS(T)
#undef MAKER
#define MAKER "add rax, -1"
	TAILS(T)
#undef MAKER
#define MAKER "sub eax, ebx"
	TAILS(T)
#undef MAKER
#define MAKER "sub rsp, 40"
	TAILS(T)
#undef MAKER
#define MAKER "and rsp, -16"
	TAILS(T)
#undef MAKER
#define MAKER "test al, bl"
	TAILS(T)
#undef MAKER
#define MAKER "inc eax"
	TAILS(T)
#undef MAKER
#define M(maker) ONE(maker, "mov rcx, [rsi]; push rcx; mov [rdi], rcx; pop rcx; call 5f; jmp 6f; 5: mov rcx, [rsi + 4092]; ret; 6:")
	MAKERS(M)
#undef M
}

/* A fault in the midst: the flags in its frame are those that will be read. */
static void frames(void)
{
#define M(maker) { \
	struct rig rig; \
	start(&rig, 0); \
	rig.r.rax = 0x80000000; rig.r.rbx = 0xfffffffffffffffb; \
	rig_run(&rig, CODE(64, BEFORE maker ";" AGAIN "mov rcx, [rdi];" maker "; mov rcx, [rdi];" AT "mov rcx, [rsi]; mov [rsi + 8], rcx;" AFTER)); \
	expect_outcome(&rig, maker, PF, 0); \
	expect(maker, rig.rip, rig.mark); \
	rig_poke(&rig, TABLE, 8, 0x200003); \
	uint64_t in_frame = rig.rflags & ARITH; \
	rig_end(&rig); \
	start(&rig, 2); \
	rig.r.rax = 0x80000000; rig.r.rbx = 0xfffffffffffffffb; \
	rig_run(&rig, CODE(64, BEFORE maker ";" AGAIN AFTER)); \
	expect_value(maker, "flags in the frame", in_frame, rig.r2.r9 & ARITH); \
	rig_end(&rig); }
	MAKERS(M)
}

#define KEPT(K) \
	K("shl rdx, cl", ARITH) K("sar dl, cl", ARITH) K("ror edx, cl", ARITH) K("rcl dx, cl", ARITH) K("shl edx, 0", ARITH) K("ror rdx, 64", ARITH) \
	K("shld rdx, rbx, cl", ARITH) K("shrd edx, ebx, 32", ARITH) K("rcl dl, 9", ARITH & ~0x800) K("rcr dx, 17", ARITH & ~0x800) \
	K("shr dword ptr [rdi + 32], cl", ARITH) K("rol qword ptr [rdi + 32], 0", ARITH) K("shld [rdi + 32], rbx, cl", ARITH) \
	K("rol edx, 3", ARITH & ~0x801) K("rol byte ptr [rdi + 32], 8", ARITH & ~0x801) K("inc dword ptr [rdi + 32]", 1)

/* Instructions after which some flags (or all of them, the count being 0) are those of the comparison before. */
static void kept(void)
{
#define K(op, mask) \
	for (unsigned v = 0; v < sizeof(values) / sizeof(*values); v++) { \
		struct rig rig; \
		start(&rig, 2); \
		rig.r.rax = values[v][0]; \
		rig.r.rbx = values[v][1]; \
		rig_run(&rig, CODE(64, "mov edx, 0x55; xor ecx, ecx; cmp rax, rbx; pushfq; pop r9; movq xmm7, r9; cmp rax, rbx;" \
		                       "mov r8, [rsi];" op "; mov r8, [rsi + 4000];" op "; mov [rsi + 4096], r8;" AFTER)); \
		expect_outcome(&rig, op, DONE, ANY); \
		expect_value(op, "flags", rig.r2.r12 & (mask), rig.r2.r9 & (mask)); \
		rig_end(&rig); \
	}
	KEPT(K)
}

int main(void)
{
	tails();
	kept();
	frames();
	return rig_summary();
}
