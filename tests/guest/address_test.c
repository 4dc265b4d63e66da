/* Addresses that fault: not canonical, misaligned under #AC, and faults inside the delivery of other faults. */
#include "rig.h"

enum { CR0_AM = 0x40000, AC_FLAG = 0x40000 };

/* RBX = 2^47 (not canonical), RCX = 2^47 - 4 (an access of 8 crosses into it). */
static void canonical(void)
{
	struct { const char *name; struct code code; int want; } t[] = {
#define I(text, want) { text, CODE(64, "nop; " AT text "; hlt"), want }
		I("mov rax, [rbx]", GP), I("mov [rbx], eax", GP), I("mov al, [rbx]", GP), I("mov rax, [rcx]", GP),
			I("mov [rcx], rax", GP), I("lock add [rbx], eax", GP),
		I("mov rax, [rbx + rbx]", GP), I("mov rax, fs:[rbx]", GP), I("lea rax, [rbx]", DONE),
			I("prefetchnta [rbx]", DONE), I("clflush [rbx]", GP),
		I("nop dword ptr [rbx]", DONE), I("push [rbx]", GP), I("pop [rbx]", GP), I("call [rbx]", GP),
			I("jmp [rbx]", GP), I("movups xmm0, [rcx]", GP),
		I("movaps [rbx], xmm0", GP), I("fld qword ptr [rbx]", GP), I("fxsave [rbx]", GP), I("cmpxchg16b [rbx]", GP),
			I("xchg [rbx], eax", GP), I("bt [rbx], eax", GP),
		I("verr [rbx]", GP), I("lgdt [rbx]", GP), I("sgdt [rbx]", GP), I("ldmxcsr [rbx]", GP), I("xlatb", GP),
			I("enter 0, 0", DONE), I("maskmovdqu xmm0, xmm1", DONE),
		I("mov rdi, rbx; " AT "stosb", GP), I("mov rsi, rbx; " AT "lodsb", GP), I("mov rdi, rbx; " AT "scasb", GP),
			I("mov rsi, rbx; mov edi, 0x4000; " AT "movsb", GP),
		I("mov rdi, rbx; mov esi, 0x4000; " AT "cmpsb", GP), I("mov rsi, rbx; " AT "outsb", GP),
			I("mov rdi, rbx; " AT "insb", GP),
		I("mov rsi, rbx; xor ecx, ecx; rep lodsb", DONE), I("movabs al, [0x8000000000000]", GP),
		/* by RSP and RBP: #SS */
		I("lea rsp, [rbx + 64]; " AT "push rax", SS), I("mov rsp, rbx; " AT "pop rax", SS),
			I("lea rsp, [rbx + 64]; " AT "call 1f; 1: ", SS), I("mov rsp, rbx; " AT "ret", SS),
		I("lea rsp, [rbx + 64]; " AT "pushfq", SS), I("mov rsp, rbx; " AT "popfq", SS),
			I("mov rsp, rbx; " AT "iretq", SS), I("mov rbp, rbx; " AT "mov eax, [rbp]", SS),
		I("mov rbp, rbx; " AT "leave", SS), I("mov rsp, rbx; " AT "mov eax, [rsp + 8]", SS),
			I("mov rbp, rbx; " AT "movups xmm0, [rbp + rax]", SS),
		I("mov rbp, rbx; " AT "mov eax, ds:[rax + rbp]", GP), I("mov r13, rbx; " AT "mov eax, [r13]", GP),
			I("mov rbp, rbx; " AT "mov eax, fs:[rbp]", GP),
		I("lea rsp, [rbx + 64]; " AT "enter 16, 0", SS), I("lea rsp, [rbx + 64]; " AT "push fs", SS),
			I("mov rsp, rbx; " AT ".byte 0x48, 0xcb", SS), I("mov rbp, rbx; " AT "fxsave [rbp]", SS),
		I("lea rsp, [rbx + 64]; " AT "push [0x4000]", SS), I("lea rsp, [rbx + 64]; " AT "push 5", SS),
			I("lea rsp, [rbx + 64]; " AT "call [0x4000]", SS),
#undef I
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, LONG);
		rig_gate(&rig, SS, CODE64, 0x8e, 1);
		rig_gate(&rig, GP, CODE64, 0x8e, 1);
		rig.r.rbx = 1ull << 47;
		rig.r.rcx = (1ull << 47) - 4;
		rig.r.rdi = RIG_DATA;
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, t[i].want, t[i].want == DONE ? ANY : 0);
		if (t[i].want != DONE)
			expect(t[i].name, rig.rsp == RIG_STACK || rig.rsp == 1ull << 47 || rig.rsp == (1ull << 47) + 64, 1);
		rig_end(&rig);
	}
	VALUE(LONG, "32-bit addresses wrap", 64, "mov dword ptr [0x4000], 7; mov rbx, -1; mov eax, [ebx + 0x4001]; hlt", 7);
}

static void alignment(void)
{
	struct { const char *name; struct code code; bool ac; } t[] = {
#define I(text, ac) { text, CODE(64, "nop; " AT text "; hlt"), ac }
		I("mov eax, [0x4001]", true), I("mov eax, [0x4002]", true), I("mov eax, [0x4004]", false),
			I("mov ax, [0x4001]", true), I("mov ax, [0x4002]", false),
		I("mov al, [0x4001]", false), I("mov rax, [0x4004]", true), I("mov [0x4004], rax", true),
			I("mov [0x4008], rax", false), I("add [0x4002], eax", true),
		I("push [0x4004]", true), I("mov rsp, 0x4104; " AT "push rax", true),
			I("mov rsp, 0x4104; " AT "pop rax", true), I("mov rsp, 0x4104; " AT "call 1f; 1:", true),
		I("mov rsp, 0x4104; " AT "ret", true), I("fld qword ptr [0x4004]", true), I("fld dword ptr [0x4004]", false),
			I("movq xmm0, [0x4004]", true),
		I("mov esi, 0x4001; " AT "lodsd", true), I("mov edi, 0x4001; " AT "stosw", true),
			I("mov edi, 0x4001; " AT "stosb", false), I("bt [0x4002], eax", true),
		I("mov rsp, 0x4104; " AT "pushfq", true), I("xchg [0x4002], eax", true), I("fldcw [0x4001]", true),
			I("cvtsi2sd xmm0, dword ptr [0x4002]", true),
		I("mov rbp, 0x4104; " AT "leave", true), I("lea eax, [0x4001]", false), I("prefetchnta [0x4001]", false),
			I("jmp [0x4004]", true),
		I("cmpxchg8b [0x4004]", true), I("movbe eax, [0x4002]", true), I("mov eax, 0x21; bts [0x4000], eax", false),
#undef I
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (unsigned how = 0; how < 4; how++) {
			struct rig rig;
			bool ac = how == 0 && t[i].ac;

			if (!t[i].ac && how)
				continue;
			rig_start(&rig, how == 3 ? LONG : LONG3);
			rig.s.cr0 |= how == 1 ? 0 : CR0_AM;
			rig.r.rflags |= how == 2 ? 0 : AC_FLAG;
			rig_poke(&rig, 0x4001, 2, 0x37f);
			rig_poke(&rig, 0x4004, 8, RIG_CODE + (t[i].code.end - t[i].code.start) - 1);
			rig_poke(&rig, 0x4104, 8, RIG_CODE + (t[i].code.end - t[i].code.start) - 1);
			rig_run(&rig, t[i].code);
			if (ac || how == 0)
				expect_outcome(&rig, t[i].name, ac ? AC : DONE, ac ? 0 : ANY);
			else
				expect(t[i].name, rig.vector != AC, 1);
			rig_end(&rig);
		}
	CASE_WITH(PROT3, "#AC, 32-bit", AC, 0, 32, "nop; " AT "mov eax, [0x4001]; hlt", rig->s.cr0 |= CR0_AM;
		rig->r.rflags |= AC_FLAG);
	CASE_WITH(VM86, "#AC, vm86", AC, 0, 16, "nop; " AT "mov ax, [0x4001]; hlt", rig->s.cr0 |= CR0_AM;
		rig->r.rflags |= AC_FLAG);
	CASE_WITH(LONG3, "AC set by POPF", AC, 0, 64, "push 0x40002; popfq; " AT "mov eax, [0x4001]; hlt", rig->s.cr0 |= CR0_AM);
	CASE_WITH(LONG3, "AC cleared by POPF", DONE, 0, 64, "push 2; popfq; mov eax, [0x4001]; hlt", rig->s.cr0 |= CR0_AM;
		rig->r.rflags |= AC_FLAG);
}

/* ---- faults during delivery ---- */

static void absent(struct rig *rig, unsigned vector) { rig_gate(rig, vector, CODE64, 0x0e, 0); }
static void bad_stack(struct rig *rig, unsigned vector)  /* IST2: its pages are missing */
{
	rig_gate(rig, vector, CODE64, 0x8e, 2);
	rig_poke(rig, RIG_TSS + 44, 8, 0x50000000);
}
static void bad_code(struct rig *rig, unsigned vector) { rig_gate(rig, vector, DATA32, 0x8e, 0); }

static void nested(void)
{
#define N(name, vector, error, text, ...) CASE_WITH(LONG, name, vector, error, 64, "nop; " AT text "; hlt", \
	rig->r.rbx = 0x40000000; __VA_ARGS__)
	N("#UD, gate absent: #NP with EXT", NP, 0x33, "ud2", absent(rig, UD));
	N("#UD, bad code: #GP with EXT", GP, DATA32 | 1, "ud2", bad_code(rig, UD));
	N("#UD, stack missing: #PF", PF, 2, "ud2", bad_stack(rig, UD));
	N("#DE, gate absent: #DF", DF, 0, "xor ecx, ecx; " AT "div ecx", absent(rig, DE));
	N("#DE, stack missing: #PF", PF, 2, "xor ecx, ecx; " AT "div ecx", bad_stack(rig, DE));
	N("#GP, gate absent: #DF", DF, 0, "mov cr8, rbx", absent(rig, GP));
	N("#GP, stack missing: #PF", PF, 2, "mov cr8, rbx", bad_stack(rig, GP));
	N("#NP, gate absent: #DF", DF, 0, "mov eax, 0x80; " AT "mov ds, eax", absent(rig, NP);
		rig->gdt[FREE / 8] = descriptor(0, 0xfffff, 0x12, 12));
	N("#PF, gate absent: #DF", DF, 0, "mov eax, [rbx]", absent(rig, PF));
	N("#PF, stack missing: #DF", DF, 0, "mov eax, [rbx]", bad_stack(rig, PF));
	N("#PF, bad code: #DF", DF, 0, "mov eax, [rbx]", bad_code(rig, PF));
	N("#DF, gate absent: shutdown", EXIT + KVM_EXIT_SHUTDOWN, ANY, "mov eax, [rbx]", absent(rig, PF); absent(rig, DF);
		rig->mark = 0);
	N("#DF, stack missing: shutdown", EXIT + KVM_EXIT_SHUTDOWN, ANY, "mov eax, [rbx]", absent(rig, PF); bad_stack(rig, DF));
	N("#UD absent, #NP absent: #DF", DF, 0, "ud2", absent(rig, UD); absent(rig, NP));
	N("#UD absent, #NP by missing stack: #PF", PF, 2, "ud2", absent(rig, UD); bad_stack(rig, NP));
	N("#DB, gate absent: #NP", NP, 0xb, ".byte 0xf1", absent(rig, DB));
	N("INT3, gate absent: no EXT", NP, 0x1a, "int3", absent(rig, BP));
	N("INT n, gate absent: no EXT", NP, 0x202, "int 0x40", absent(rig, 0x40));
	N("INT n to #DE's vector: no #DF", NP, 0x2, "int 0", absent(rig, DE));
	N("INT n, stack missing: #PF", PF, 2, "int 0x40", bad_stack(rig, 0x40));
	N("#PF whose #GP... IDT too short", DF, 0, "mov eax, [rbx]", rig->s.idt.limit = 0xcf);
	struct rig rig;
	rig_start(&rig, LONG);                           /* CR2 of the first fault stays for a #DF of the second's */
	bad_stack(&rig, PF);
	rig.r.rbx = 0x40000000;
	rig_run(&rig, CODE(64, "mov eax, [rbx]; hlt"));
	expect("CR2 is the second fault's", rig.s2.cr2, 0x50000000 - 48);
	expect("RIP of the #DF", rig.rip, RIG_CODE);
	rig_end(&rig);
	CASE_WITH(REAL, "real mode, IVT ends before #GP: #DF", DF, ANY, 16,
		"nop; " AT "mov bx, 0xffff; " AT "mov ax, [bx]; hlt", rig->s.idt.limit = 0x33);
	CASE_WITH(REAL, "real mode, IVT ends before #DF: shutdown", EXIT + KVM_EXIT_SHUTDOWN, ANY, 16,
		"mov bx, 0xffff; mov ax, [bx]; hlt", rig->s.idt.limit = 0x1f);
	CASE_WITH(REAL, "real mode, stack wraps inside an item: shutdown", EXIT + KVM_EXIT_SHUTDOWN, ANY, 16,
		"mov sp, 1; int 0x40; hlt", (void)0);
	CASE_WITH(PROT, "protected mode, #DF by a task gate", 0x61, ANY, 32, "xor eax, eax; mov ecx, eax; div ecx; hlt",
		rig_gate(rig, DE, CODE32, 0x0e, 0);
	          rig_gate(rig, DF, TSS2, 0x85, 0); rig_poke(rig, RIG_TSS2 + 0x20, 4, RIG_HANDLERS + 16 * 0x61);
		rig_poke(rig, RIG_TSS2 + 0x38, 4, RIG_STACK0);
	          rig_poke(rig, RIG_TSS2 + 0x4c, 2, CODE32); rig_poke(rig, RIG_TSS2 + 0x50, 2, DATA32));
	CASE_WITH(PROT, "ESP out of its segment: #SS, then #DF, then shutdown", EXIT + KVM_EXIT_SHUTDOWN, ANY, 32,
		"push eax; hlt", rig->s.ss.limit = 0xfff; rig->s.ss.g = 0);
}

/* Code at the end of what may be fetched. */
static void code_limits(void)
{
	CASE_WITH(PROT, "fetch beyond the limit", GP, 0, 32, "nop; nop; " AT "nop; hlt", rig->s.cs.limit = RIG_CODE + 1;
		rig->s.cs.g = 0);
	CASE_WITH(PROT, "an instruction across the limit", GP, 0, 32, "nop; " AT "mov eax, 0x12345678; hlt",
		rig->s.cs.limit = RIG_CODE + 3; rig->s.cs.g = 0);
	CASE_WITH(PROT, "JMP beyond the limit", GP, 0, 32, "nop; " AT "jmp 1f; .rept 20; nop; .endr; 1: hlt",
		rig->s.cs.limit = RIG_CODE + 10; rig->s.cs.g = 0);
	CASE_WITH(PROT, "Jcc beyond the limit", GP, 0, 32, "xor eax, eax; " AT "jz 1f; .rept 20; nop; .endr; 1: hlt",
		rig->s.cs.limit = RIG_CODE + 10; rig->s.cs.g = 0);
	CASE_WITH(PROT, "CALL beyond the limit", GP, 0, 32, "nop; " AT "call 1f; .rept 20; nop; .endr; 1: hlt",
		rig->s.cs.limit = RIG_CODE + 10; rig->s.cs.g = 0);
	CASE_WITH(PROT, "JMP register beyond the limit", GP, 0, 32, "mov eax, 0x9000; " AT "jmp eax; hlt",
		rig->s.cs.limit = RIG_CODE + 10; rig->s.cs.g = 0);
	CASE_WITH(PROT, "RET beyond the limit", GP, 0, 32, "push 0x9000; " AT "ret; hlt", rig->s.cs.limit = RIG_CODE + 10;
		rig->s.cs.g = 0);
	CASE_WITH(PROT, "LOOP beyond the limit", GP, 0, 32, "mov ecx, 5; " AT "loop 1f; .rept 20; nop; .endr; 1: hlt",
		rig->s.cs.limit = RIG_CODE + 10; rig->s.cs.g = 0);
	VALUE(PROT, "16-bit operand: the target wraps", 32, "nop; .byte 0x66, 0xeb, 1; hlt; mov eax, 5; hlt", 5);
	CASE_WITH(REAL, "real mode, past FFFF", GP, ANY, 16, "jmp bx", rig->r.rbx = 0x7fff; rig_poke(rig, 0xffff, 1, 0x90));
	VALUE(REAL, "real mode, JMP wraps inside 64K", 16, "mov ax, 3; jmp bx; nop; nop; nop; mov ax, 4; hlt", 4,
		rig->s.cs.base = 0; rig->s.cs.selector = 0; rig->r.rip = RIG_CODE;
	      rig->r.rbx = 0xfff0; rig_poke(rig, 0xfff0, 3, 0x8015e9));
}

/*
 * Code at 1: that is run in a segment with limit FFFFh first, then (from 2: on, 120h behind) in one whose limit is 80FFh: it
 * faults there, whatever it was translated for.
 */
#define TWO_LIMITS(name, flags, to_first, code, to_second) \
	CASE_WITH(PROT, name ", then under a lower limit", GP, 0, 32, to_first " .long 0x8000 + 1f - 661b; .word 0x80; " code \
		"; hlt; .org 661b + 0x120; 2: " to_second " .long 0x8000 + 1b - 661b; .word 0x88", \
		rig->gdt[FREE / 8] = descriptor(0, 0xffff, 0x9b, flags); rig->gdt[FREE / 8 + 1] = descriptor(0, RIG_CODE + 0xff, 0x9b, flags))
#define FAR ".byte 0xea;"
#define FAR_16 ".byte 0x66, 0xea;"

static void lower_limit(void)
{
	TWO_LIMITS("JMP", 4, FAR, "1: " AT "jmp 2f", FAR);
	TWO_LIMITS("JMP behind others", 4, FAR, "1: nop; inc edx; " AT "jmp 2f", FAR);
	TWO_LIMITS("Jcc", 4, "xor eax, eax;" FAR, "1: " AT "jz 2f", FAR);
	TWO_LIMITS("Jcc among others", 4, "xor eax, eax;" FAR, "1: inc edx; jz 2f; xor eax, eax; " AT "jz 2f; dec edx", FAR);
	TWO_LIMITS("JECXZ", 4, "xor ecx, ecx;" FAR, "1: jmp 3f; .org 661b + 0xf0; 3: " AT "jecxz 2f", FAR);
	TWO_LIMITS("JMP, 16-bit code", 0, FAR, ".code16; 1: " AT "jmp 2f", FAR_16);
	TWO_LIMITS("Jcc, 16-bit code", 0, "xor eax, eax;" FAR, ".code16; 1: nop; " AT "jz 2f", FAR_16);
	TWO_LIMITS("on into the limit", 4, FAR, "1: jmp 3f; .org 661b + 0xfe; 3: nop; nop; " AT "nop; jmp 2f", FAR);
	/* What is not beyond the lower limit goes on. */
	VALUE(PROT, "JMP within a lower limit", 32, FAR ".long 0x8000 + 1f - 661b; .word 0x80; 1: nop; inc eax; jmp 2f; hlt; 2: cmp eax, 2; je 3f; "
		FAR ".long 0x8000 + 1b - 661b; .word 0x88; 3: hlt; .org 661b + 0x120", 2,
		rig->gdt[FREE / 8] = descriptor(0, 0xffff, 0x9b, 4); rig->gdt[FREE / 8 + 1] = descriptor(0, RIG_CODE + 0xff, 0x9b, 4));
}

/* 16-bit protected code: widths of operands, addresses and stack are three things. */
static void mixed_widths(void)
{
	VALUE(PROT16, "CALL and RET near, ESP of 32 bits", 16, "mov ebx, esp; call 1f; jmp 2f; 1: mov eax, ebx; sub eax, esp; "
		"ret; 2: cmp ebx, esp; je 3f;"
		"mov eax, 99; 3: hlt", 2);
	VALUE(PROT16, "66h CALL", 16, "mov ebx, esp; .byte 0x66, 0xe8; .long 1f - . - 4; jmp 2f; 1: mov eax, ebx; "
		"sub eax, esp; .byte 0x66; ret; 2: hlt", 4);
	VALUE(PROT16, "PUSH of a selector, 16-bit", 16, "mov ebx, esp; push ds; mov eax, ebx; sub eax, esp; hlt", 2);
	VALUE(PROT16, "far CALL 16:16 and RETF", 16, "mov eax, 0; .byte 0x9a; .word 0x8000 + 1f - 661b, 0x38; jmp 2f; "
		"1: mov eax, [esp + 2]; retf; 2: movzx eax, ax; hlt", CODE16);
	VALUE(PROT16, "far JMP 16:32 to 32-bit code", 16, ".byte 0x66, 0xea; .long 0x8000 + 1f - 661b; .word 8; .code32; "
		"1: mov eax, 0x12345678; hlt; .code16", 0x12345678);
	VALUE(PROT16, "stack of 16 bits: SP wraps alone", 16, "mov ax, 0x70; mov ss, ax; mov esp, 0x10000; push 0x1234; "
		"movzx eax, word ptr [0xfffe]; xor eax, esp; hlt",
		(0x1fffe ^ 0x1234));
	VALUE(PROT16, "LEAVE, 16-bit stack", 16, "mov ax, 0x70; mov ss, ax; mov esp, 0x55554000; mov ebp, 0x11114000; "
		"mov word ptr [0x4000], 0x77;"
		"leave; mov eax, esp; xor eax, ebp; hlt", 0x55554002 ^ 0x11110077);
	VALUE(PROT16, "67h addresses of 32 bits", 16, "mov ebx, 0x10000; mov dword ptr [ebx], 0x55; mov eax, [ebx]; hlt", 0x55);
	VALUE(PROT16, "16-bit addresses wrap", 16, "mov bx, 0xffff; mov byte ptr [bx + 0x4001], 7; "
		"movzx eax, byte ptr [0x4000]; hlt", 7);
	CASE_WITH(PROT16, "interrupt gate from 16-bit code", 0x40, 0, 16, "int 0x40; " AT "hlt", (void)0);
	CASE(PROT16, "JMP past 64K wraps, then #GP", GP, 0, 16, "mov ebx, 0x18000; " AT "jmp ebx; hlt");
	VALUE(COMPAT, "PUSHA and POPA", 32, "mov eax, 1; mov edi, 7; pusha; xor eax, eax; xor edi, edi; popa; shl edi, 4; "
		"or eax, edi; hlt", 0x71);
}

int main(void)
{
	canonical();
	alignment();
	nested();
	code_limits();
	lower_limit();
	mixed_widths();
	return rig_summary();
}
