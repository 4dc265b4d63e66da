/* Gates: INT n through interrupt, trap and task gates, call gates, far JMP, CALL and RET, IRET in its forms. */
#include "rig.h"

/* ---- INT 0x40 through a gate of the given access, selector and stack ---- */

static void idt_gates(void)
{
	struct { const char *name; enum rig_mode mode; uint16_t selector; uint8_t access, code; int vector; uint32_t error;
		} t[] = {
		{ "interrupt gate", PROT, CODE32, 0x8e, 0, 0x40, 0 }, { "trap gate", PROT, CODE32, 0x8f, 0, 0x40, 0 },
		{ "not present", PROT, CODE32, 0x0e, 0, NP, 0x202 }, { "DPL too low", PROT3, CODE32, 0x8e, 0, GP, 0x202 },
		{ "DPL too low before P", PROT3, CODE32, 0x0e, 0, GP, 0x202 }, { "DPL 3", PROT3, CODE32, 0xee, 0, 0x40, 0 },
		{ "call gate in the IDT", PROT, CODE32, 0x8c, 0, GP, 0x202 }, { "TSS type", PROT, CODE32, 0x89, 0, GP, 0x202 },
		{ "data type", PROT, CODE32, 0x92, 0, GP, 0x202 }, { "null selector", PROT, 3, 0x8e, 0, GP, 0 },
		{ "data selector", PROT, DATA32, 0x8e, 0, GP, DATA32 },
			{ "selector beyond the GDT", PROT, 0x200, 0x8e, 0, GP, 0x200 },
		{ "outer code", PROT, USER32, 0x8e, 0, GP, USER32 }, { "absent code", PROT, FREE, 0x8e, 0x1b, NP, FREE },
		{ "outer code with RPL", PROT, USER32 | 3, 0x8e, 0, GP, USER32 },
		{ "64-bit code, L ignored", PROT, CODE64, 0x8e, 0, 0x40, 0 },
		{ "interrupt gate", LONG, CODE64, 0x8e, 0, 0x40, 0 }, { "trap gate", LONG, CODE64, 0x8f, 0, 0x40, 0 },
		{ "not present", LONG, CODE64, 0x0e, 0, NP, 0x202 }, { "DPL too low", LONG3, CODE64, 0x8e, 0, GP, 0x202 },
		{ "16-bit gate", LONG, CODE64, 0x86, 0, GP, 0x202 }, { "task gate", LONG, TSS2, 0x85, 0, GP, 0x202 },
		{ "null selector", LONG, 0, 0x8e, 0, GP, 0 }, { "32-bit code", LONG, CODE32, 0x8e, 0, GP, CODE32 },
		{ "code with L and D", LONG, FREE, 0x8e, 0xff, GP, FREE }, { "outer code", LONG, USER64, 0x8e, 0, GP, USER64 },
		{ "DPL 3", LONG3, CODE64, 0xee, 0, 0x40, 0 }, { "from compatibility mode", COMPAT3, CODE64, 0xee, 0, 0x40, 0 },
		{ "conforming code", LONG3, FREE, 0xee, 0x9f, 0x40, 0 }, { "conforming code", PROT3, FREE, 0xee, 0x9f, 0x40, 0 },
		{ "vm86 to conforming code", VM86, FREE, 0xee, 0x9f, GP, FREE }, { "vm86", VM86, CODE32, 0xee, 0, 0x40, 0 },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		bool wide = t[i].mode >= LONG;

		rig_start(&rig, t[i].mode);
		rig_gate(&rig, 0x40, t[i].selector, t[i].access, 0);
		if (t[i].code)
			rig.gdt[FREE / 8] = descriptor(0, 0xfffff, t[i].code == 0xff ? 0x9b : t[i].code,
				t[i].code == 0xff ? 14 : wide ? 10 : 12);
		rig.r.rflags |= 0x3000;
		rig_run(&rig, t[i].vector == 0x40 ? CODE(32, "int 0x40; " AT "hlt") : CODE(32, "nop; " AT "int 0x40; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		if (t[i].vector == 0x40 && t[i].code == 0x9f) {
			expect("conforming code keeps CPL", rig.s2.cs.selector & 3, 3);
			expect("conforming code keeps the stack", rig.r2.rsp, RIG_STACK - (wide ? 40 : 12));
		}
		rig_end(&rig);
	}
}

static void idt_flags(void)
{
	static const struct { uint8_t access; uint64_t cleared; } gates[] = { { 0xee, 0x200 }, { 0xef, 0 } };
	static const enum rig_mode modes[] = { PROT, PROT3, LONG, LONG3, VM86 };

	for (unsigned i = 0; i < 10; i++) {
		enum rig_mode m = modes[i / 2];
		struct rig rig;

		rig_start(&rig, m);
		rig_gate(&rig, 0x40, m >= LONG ? CODE64 : CODE32, gates[i & 1].access, 0);
		rig.r.rflags |= 0x247ed5 & ~0x100;               /* everything but TF and RF */
		rig_run(&rig, CODE(32, "int 0x40; " AT "hlt"));
		expect_outcome(&rig, "flags of a gate", 0x40, 0);
		expect("flags pushed", rig.rflags, (0x247ed7 & ~0x100) | (m == VM86 ? 0x20000 : 0));
		expect("flags in the handler", rig.r2.rflags, 0x247ed7 & ~0x4100 & ~gates[i & 1].cleared);
		rig_end(&rig);
	}
}

/* Inner stacks from the TSS. */
static void inner_stacks(void)
{
	struct { const char *name; uint16_t ss; uint8_t access; uint32_t tss_limit; int vector; uint32_t error; } t[] = {
		{ "null SS0", 0, 0, 0x3ff, TS, 0 }, { "SS0 beyond the GDT", 0x200, 0, 0x3ff, TS, 0x200 },
		{ "SS0 with RPL 3", DATA32 | 3, 0, 0x3ff, TS, DATA32 }, { "SS0 of DPL 3", USERDATA, 0, 0x3ff, TS, USERDATA },
		{ "SS0 is code", CODE32, 0, 0x3ff, TS, CODE32 }, { "SS0 read-only", FREE, 0x91, 0x3ff, TS, FREE },
		{ "SS0 absent", FREE, 0x13, 0x3ff, SS, FREE }, { "TSS too short", DATA32, 0, 9, -100, 0 },
		{ "SS0 too small", FREE, 0x93, 0x3ff, SS, FREE },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, PROT3);
		rig_gate(&rig, 0x40, CODE32, 0xee, 0);
		/* The fault's own handler is conforming, so that it runs on the user's stack. */
		rig.gdt[FREE / 8 + 2] = descriptor(0, 0xfffff, 0x9f, 12);
		for (unsigned v = 8; v < 15; v++) {
			rig_gate(&rig, v, FREE + 16, 0x8e, 0);
			rig_poke(&rig, RIG_HANDLERS + 16 * v, 2, 0x80e6);
		}
		rig.r.rflags |= 0x3000;
		rig.gdt[FREE / 8] = descriptor(0, t[i].vector == SS && t[i].access == 0x93 ? 0x10 : 0xfffff, t[i].access,
			t[i].access == 0x93 ? 4 : 12);
		rig_poke(&rig, RIG_TSS + 8, 2, t[i].ss);
		rig.s.tr.limit = t[i].tss_limit;
		rig_run(&rig, CODE(32, "nop; " AT "int 0x40; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector == -100 ? TS : t[i].vector, t[i].vector == -100 ? TSS : t[i].error);
		expect("user stack used", rig.r2.rsp, RIG_STACK - 16);
		rig_end(&rig);
	}
	CASE_WITH(LONG3, "RSP0 not canonical", DF, 0, 64, "nop; " AT "int 0x40; hlt", rig_gate(rig, 0x40, CODE64, 0xee, 0);
	          rig_gate(rig, DF, CODE64, 0x8e, 1); rig_poke(rig, RIG_TSS + 4, 8, 0x900000000000));
	CASE_WITH(LONG3, "RSP0 not canonical: #SS(0)", SS, 0, 64, "nop; " AT "int 0x40; hlt",
		rig_gate(rig, 0x40, CODE64, 0xee, 0);
	          rig_gate(rig, SS, CODE64, 0x8e, 1); rig_poke(rig, RIG_TSS + 4, 8, 0x900000000000));
	CASE_WITH(LONG, "IST beyond the TSS", TS, TSS, 64, "nop; " AT "int 0x40; hlt", rig_gate(rig, 0x40, CODE64, 0xee, 7);
	          rig->s.tr.limit = 0x50);
	CASE_WITH(LONG, "offset not canonical", GP, 0, 64, "nop; " AT "int 0x40; hlt",
		rig_poke(rig, RIG_IDT + 16 * 0x40 + 8, 4, 0x8000));
	CASE_WITH(PROT, "offset beyond CS", GP, 0, 32, "nop; " AT "int 0x40; hlt",
		rig->gdt[FREE / 8] = descriptor(0, 0x7fff, 0x9b, 4);
	          rig_gate(rig, 0x40, FREE, 0x8e, 0));
	CASE_WITH(PROT, "vector beyond the IDT", GP, 0x202, 32, "nop; " AT "int 0x40; hlt", rig->s.idt.limit = 0x206);
	CASE_WITH(LONG, "vector beyond the IDT", GP, 0x402, 64, "nop; " AT "int 0x80; hlt", rig->s.idt.limit = 0x80e);
	CASE_WITH(REAL, "vector beyond the IVT", GP, ANY, 16, "nop; " AT "int 0x40; hlt", rig->s.idt.limit = 0x102);
	CASE_WITH(LONG3, "misaligned RSP0 is aligned", 0x40, 0, 64, "int 0x40; " AT "hlt", rig_gate(rig, 0x40, CODE64, 0xee, 0);
	          rig_poke(rig, RIG_TSS + 4, 8, RIG_STACK0 + 9));
}

static void software_kinds(void)
{
	CASE_WITH(PROT3, "INT3 checks DPL", GP, 0x1a, 32, "nop; " AT "int3; hlt", (void)0);
	CASE_WITH(PROT3, "INT3", BP, 0, 32, "int3; " AT "hlt", rig_gate(rig, BP, CODE32, 0xee, 0));
	CASE_WITH(PROT3, "INT1 does not check DPL", DB, 0, 32, ".byte 0xf1; " AT "hlt", (void)0);
	CASE_WITH(PROT3, "INTO checks DPL", GP, 0x22, 32, "mov al, 0x7f; inc al; " AT "into; hlt", (void)0);
	CASE_WITH(PROT, "INTO without OF", DONE, 0, 32, "xor eax, eax; into; hlt", (void)0);
	CASE(LONG, "INTO in 64-bit mode", UD, 0, 64, "nop; " AT ".byte 0xce; hlt");
	CASE(PROT, "BOUND outside", BR, 0, 32, "mov dword ptr [0x4000], 1; mov dword ptr [0x4004], 5; "
		"mov eax, 6; " AT "bound eax, [0x4000]; hlt");
	CASE(PROT, "UD2", UD, 0, 32, "nop; " AT "ud2; hlt");
	CASE(REAL, "INT n in real mode", 0x40, ANY, 16, "int 0x40; " AT "hlt");
	CASE_WITH(LONG, "16-bit gate frame", 0x40, 0, 64, "int 0x40; " AT "hlt", (void)0);
	CASE_WITH(PROT, "16-bit interrupt gate", 0x40, 0, 32, "int 0x40; " AT "hlt", rig_gate(rig, 0x40, CODE32, 0x86, 0);
		rig->gate16 = true);
	CASE_WITH(PROT3, "16-bit trap gate to ring 0", 0x40, 0, 32, "int 0x40; " AT "hlt",
		rig_gate(rig, 0x40, CODE32, 0xe7, 0); rig->gate16 = true);
	CASE_WITH(VM86, "INT n, IOPL 0", GP, 0, 16, "nop; " AT "int 0x40; hlt", rig_gate(rig, 0x40, CODE32, 0xee, 0));
	CASE_WITH(VM86, "INT3, IOPL 0", BP, 0, 16, "int3; " AT "hlt", rig_gate(rig, BP, CODE32, 0xee, 0));
}

/* ---- call gates and far transfers ---- */

#define FAR(m, name, vector, error, bits, text, ...) \
	CASE_WITH(m, name, vector, error, bits, text, rig->gdt[FREE / 8 + 4] = descriptor(0, 0xfffff, 0x9f, \
		m >= LONG ? 10 : 12); \
	          rig_poke(rig, RIG_MORE, 1, 0xf4); rig_poke(rig, RIG_DATA + 8, 8, 0x830000); \
		rig_poke(rig, RIG_DATA, 8, 0x8000000000); __VA_ARGS__)
#define GATE(selector, access) rig->gdt[FREE / 8] = call_gate(selector, RIG_MORE, access, 0), rig->gdt[FREE / 8 + 1] = 0

static void far_calls(void)
{
	/* CALL FREE:0 and JMP FREE:0, by memory (selector at 4004, offset at 4000) */
#define CALL_ "mov dword ptr [0x4000], 0; mov word ptr [0x4004], 0x80; " AT "call fword ptr [0x4000]; hlt"
#define JMP_ "mov dword ptr [0x4000], 0; mov word ptr [0x4004], 0x80; " AT "jmp fword ptr [0x4000]; hlt"
	FAR(PROT, "call gate, same ring", DONE, ANY, 32, CALL_, GATE(CODE32, 0x8c));
	FAR(PROT, "call gate absent", NP, FREE, 32, CALL_, GATE(CODE32, 0x0c));
	FAR(PROT3, "call gate of DPL 0", GP, FREE, 32, CALL_, GATE(CODE32, 0x8c));
	FAR(PROT3, "call gate of DPL 0 absent", GP, FREE, 32, CALL_, GATE(CODE32, 0x0c));
	FAR(PROT3, "call gate inwards", DONE, ANY, 32, CALL_, GATE(CODE32, 0xec));
	FAR(PROT3, "JMP by a gate inwards", GP, CODE32, 32, JMP_, GATE(CODE32, 0xec));
	FAR(PROT3, "JMP by a gate to conforming code", DONE, ANY, 32, JMP_, GATE(FREE + 32, 0xec));
	FAR(PROT, "call gate outwards", GP, USER32, 32, CALL_, GATE(USER32, 0x8c));
	FAR(PROT, "call gate, null", GP, 0, 32, CALL_, GATE(0, 0x8c));
	FAR(PROT, "call gate to data", GP, DATA32, 32, CALL_, GATE(DATA32, 0x8c));
	FAR(PROT, "16-bit call gate ignores offset 31:16", 0x40, ANY, 32,
		"mov word ptr [0x4004], 0x80; call fword ptr [0x4000]; hlt",
	    rig->gdt[FREE / 8] = call_gate(CODE32, 0x70000 + RIG_HANDLERS + 16 * 0x40, 0x84, 0));
	FAR(PROT, "interrupt gate", GP, FREE, 32, CALL_, GATE(CODE32, 0x8e));
	FAR(PROT, "CALL data", GP, DATA32, 32, "nop; " AT ".byte 0x9a; .long 0; .word 0x10; hlt");
	FAR(PROT, "CALL null", GP, 0, 32, "nop; " AT ".byte 0x9a; .long 0; .word 3; hlt");
	FAR(PROT, "JMP outer code", GP, USER32, 32, "nop; " AT ".byte 0xea; .long 0x10000; .word 0x20; hlt");
	FAR(PROT3, "JMP inner code", GP, CODE32, 32, "nop; " AT ".byte 0xea; .long 0x10000; .word 8; hlt");
	FAR(PROT3, "JMP conforming inner code", DONE, ANY, 32, "nop; " AT ".byte 0xea; .long 0x10000; .word 0xa0; hlt");
	FAR(PROT, "JMP code with RPL 3", GP, CODE32, 32, "nop; " AT ".byte 0xea; .long 0x10000; .word 0xb; hlt");
	FAR(PROT, "JMP absent code", NP, FREE, 32, "nop; " AT ".byte 0xea; .long 0x10000; .word 0x80; hlt",
		rig->gdt[FREE / 8] = descriptor(0, 0xfffff, 0x1b, 12));
	FAR(PROT, "JMP beyond the limit", GP, 0, 32, "nop; " AT ".byte 0xea; .long 0x10000; .word 0x80; hlt",
		rig->gdt[FREE / 8] = descriptor(0, 0xffff, 0x9b, 4));
	FAR(PROT, "JMP busy TSS", GP, TSS, 32, "nop; " AT ".byte 0xea; .long 0; .word 0x40; hlt");
	FAR(PROT, "JMP LDT", GP, LDT, 32, "nop; " AT ".byte 0xea; .long 0; .word 0x60; hlt");
	FAR(LONG, "JMP ptr in 64-bit mode", UD, 0, 64, "nop; " AT ".byte 0xea; .long 0x10000; .word 8; hlt");
	FAR(LONG, "call gate, 64-bit", DONE, ANY, 64, CALL_, GATE(CODE64, 0x8c));
	FAR(LONG, "call gate to 32-bit code", GP, CODE32, 64, CALL_, GATE(CODE32, 0x8c));
	FAR(LONG, "call gate, upper half with a type", GP, FREE, 64, CALL_, GATE(CODE64, 0x8c);
		rig->gdt[FREE / 8 + 1] = 0x10000000000);
	FAR(LONG, "call gate, offset not canonical", GP, 0, 64, CALL_, GATE(CODE64, 0x8c); rig->gdt[FREE / 8 + 1] = 0x8000);
	FAR(LONG, "16-bit call gate in long mode", GP, FREE, 64, CALL_, GATE(CODE64, 0x84));
	FAR(LONG, "task gate in long mode", GP, FREE, 64, CALL_, GATE(TSS2, 0x85));
	FAR(LONG, "JMP TSS in long mode", GP, FREE, 64, JMP_, rig->gdt[FREE / 8] = descriptor(RIG_TSS2, 0x67, 0x89, 0));
	FAR(LONG3, "call gate inwards, 64-bit", DONE, ANY, 64, CALL_, GATE(CODE64, 0xec));
	FAR(COMPAT3, "call gate from compatibility mode", DONE, ANY, 32, CALL_, GATE(CODE64, 0xec));
	FAR(LONG, "JMP code with L and D", GP, FREE, 64, JMP_, rig->gdt[FREE / 8] = descriptor(0, 0xfffff, 0x9b, 14));
}

/* Parameters, stack and selectors of a CALL inwards; RETF outwards with a release, nulling what ring 3 may not use. */
static void inner_call(void)
{
	struct rig rig;

	rig_start(&rig, PROT3);
	rig.gdt[FREE / 8] = call_gate(CODE32, RIG_MORE, 0xec, 2);
	rig_poke(&rig, RIG_MORE, 8, 0xf4c3);
	struct code inner = CODE(32, "mov eax, [esp + 8]; mov ebx, [esp + 12]; mov ecx, esp; mov edx, ss; mov esi, 0x10; "
		"mov es, esi; retf 8");
	memcpy(rig.g.memory + RIG_MORE, inner.start, inner.end - inner.start);
	rig_run(&rig, CODE(32, "push 0x1111; push 0x2222; .byte 0x9a; .long 0; .word 0x83; mov edi, es; mov ebp, ds; hlt"));
	expect_outcome(&rig, "call gate with parameters", DONE, ANY);
	expect("first parameter", rig.r2.rax, 0x2222);
	expect("second parameter", rig.r2.rbx, 0x1111);
	expect("inner stack", rig.r2.rcx, RIG_STACK0 - 24);
	expect("inner SS", rig.r2.rdx, DATA32);
	expect("ES nulled", rig.r2.rdi, 0);
	expect("DS kept", rig.r2.rbp, USERDATA | 3);
	expect("outer stack released", rig.rsp, RIG_STACK);
	rig_end(&rig);
}

static void far_returns(void)
{
	CASE(PROT, "RETF to ring 3", DONE, ANY, 32, "push 0x2b; push 0x6800; push 0x23; call 1f; 1: add dword ptr [esp], 6; "
		".byte 0xcb; nop; nop; hlt");
	CASE(PROT3, "RETF inwards", GP, CODE32, 32, "push 8; push 0x8000; " AT "retf; hlt");
	CASE(PROT, "RETF null", GP, 0, 32, "push 0; push 0x8000; " AT "retf; hlt");
	CASE(PROT, "RETF data", GP, DATA32, 32, "push 0x10; push 0x8000; " AT "retf; hlt");
	CASE(PROT, "RETF outwards, null SS", GP, 0, 32, "push 0; push 0x6800; push 0x23; push 0x8000; " AT "retf; hlt");
	CASE(PROT, "RETF outwards, inner SS", GP, DATA32, 32, "push 0x10; push 0x6800; push 0x23; push 0x8000; " AT "retf; hlt");
	CASE_WITH(PROT, "RETF outwards, absent SS", SS, FREE, 32, "push 0x83; push 0x6800; push 0x23; push 0x8000; " AT "retf; "
		"hlt",
	          rig->gdt[FREE / 8] = descriptor(0, 0xfffff, 0x73, 12));
	CASE(LONG, "RETFQ outwards to 64-bit, null SS with RPL 3", GP, 0, 64,
		"push 3; push 0x6800; push 0x33; push 0x8000; " AT ".byte 0x48, 0xcb; hlt");
	CASE(LONG, "RETFQ, RIP not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; push 0x18; "
		"push rax; " AT ".byte 0x48, 0xcb; hlt");
	CASE(LONG, "IRETQ, RIP not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; push 0x10; push 0x6800; push 2; push 0x18; "
		"push rax; " AT "iretq; hlt");
	CASE(LONG, "RET near, not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; push rax; " AT "ret; hlt");
	CASE(LONG, "JMP near, not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; " AT "jmp rax; hlt");
	CASE(LONG, "CALL near, not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; " AT "call rax; hlt");
}

#define IRET(m, name, vector, error, bits, push, op) CASE(m, "IRET: " name, vector, error, bits, push "; " AT op "; hlt")
static void irets(void)
{
	IRET(PROT, "null CS", GP, 0, 32, "push 2; push 0; push 0x8000", "iret");
	IRET(PROT3, "inwards", GP, CODE32, 32, "push 2; push 8; push 0x8000", "iret");
	IRET(PROT, "outwards, inner SS", GP, DATA32, 32, "push 0x10; push 0x6800; push 2; push 0x23; push 0x8000", "iret");
	IRET(PROT, "code DPL is not RPL", GP, CODE32, 32, "push 2; push 0xb; push 0x8000", "iret");
	IRET(PROT, "beyond the limit (16-bit)", GP, FREE, 32, "push 2; push 0x80; push 0x8000", "iret");
	IRET(LONG, "SS null, CPL 3", GP, 0, 64, "push 0; push 0x6800; push 2; push 0x33; push 0x8000", "iretq");
	IRET(LONG, "SS null, to compatibility", GP, 0, 64, "push 0; push 0x6800; push 2; push 8; push 0x8000", "iretq");
	IRET(LONG, "NT set", GP, 0, 64, "pushfq; or dword ptr [rsp], 0x4000; popfq; push 0x10; push 0x6800; push 2; push 0x18; "
		"push 0x8000", "iretq");
	IRET(LONG3, "inwards", GP, CODE64, 64, "push 0x10; push 0x6800; push 2; push 0x18; push 0x8000", "iretq");
	CASE(LONG, "IRETQ to null SS at CPL 0", DONE, ANY, 64, "mov rbx, rsp; push 0; push rbx; push 2; push 0x18; "
		"lea rax, [rip + 1f]; push rax; iretq; 1: hlt");
	CASE(LONG, "IRETQ to compatibility", DONE, ANY, 64, "push 0x10; push 0x6800; push 2; push 8; lea rax, [rip + 1f]; "
		"push rax; iretq; 1: inc eax; hlt");
	CASE(COMPAT, "IRET in compatibility mode", DONE, ANY, 32, "push 2; push 8; call 1f; 1: add dword ptr [esp], 5; iret; "
		"nop; hlt");
	VALUE(LONG, "IRETW pops SS:SP too", 64, ".byte 0x66, 0x6a, 0x10; mov ax, 0x6800; push ax; .byte 0x66, 0x6a, 2; "
		".byte 0x66, 0x6a, 0x18;"
	      "lea rax, [rip + 1f]; push ax; .byte 0x66, 0xcf; 1: mov rax, rsp; hlt", 0x6800);
	VALUE(PROT, "IRET at CPL 0 loads IF, IOPL, NT, AC, ID", 32, "push 0x257fd5 - 0x10100; push 8; call 1f; "
		"1: add dword ptr [esp], 5; iret; nop;"
	      "pushf; pop eax; hlt", 0x247ed7);
	VALUE(PROT3, "IRET at CPL 3 leaves IF and IOPL", 32, "push 0x246ed5 | 0x1000; push 0x23; call 1f; "
		"1: add dword ptr [esp], 5; iret; nop;"
	      "pushf; pop eax; hlt", 0x244cd7);
	VALUE(PROT3, "IRETW at CPL 3 leaves AC and ID", 32, "pushw 0x7ed5; pushw 0x23; call 1f; 1: pop eax; add eax, 9; "
		"push ax; .byte 0x66; iret; nop;"
	      "pushf; pop eax; hlt", 0x4cd7);
	CASE(PROT, "IRET to vm86 beyond 64K", GP, 0, 32, "push 0; push 0; push 0; push 0; push 0; push 0; push 0x20002; "
		"push 0; push 0x10000; " AT "iret; hlt");
	CASE(VM86, "IRET in vm86, IOPL 0", GP, 0, 16, "nop; " AT "iret; hlt");
	CASE_WITH(VM86, "IRET in vm86, IOPL 3", DONE, ANY, 16, "push 0x7200; push 0x800; push 11; iret; nop; nop; nop; hlt",
		rig->r.rflags |= 0x3000);
	VALUE(REAL, "IRET in real mode", 16, "push 0x7ed5; push 0x800; push 10; iret; nop; nop; nop; pushf; pop ax; hlt", 0x7ed7);
	VALUE(REAL, "IRETD in real mode keeps VIP, VIF", 16, ".byte 0x66, 0x68; .long 0x3e7ed5; .byte 0x66, 0x68; .long 0x800; "
		".byte 0x66, 0x68; .long 30; .byte 0x66; iret;"
	      "nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; pushfd; pop eax; hlt", 0x247ed7);
}

int main(void)
{
	idt_gates();
	idt_flags();
	inner_stacks();
	software_kinds();
	far_calls();
	inner_call();
	far_returns();
	irets();
	return rig_summary();
}
