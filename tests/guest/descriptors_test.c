/* Descriptors: segment loads, LLDT, LTR, LAR, LSL, VERR, VERW, ARPL, limits, and the tables' own registers. */
#include "rig.h"

/* The descriptor at FREE, and what MOV to DS or SS makes of it. Selector FREE | rpl. */
struct load { const char *name; uint8_t access; uint8_t rpl; int data, stack, user_data, user_stack; };

enum { OK = DONE };
static const struct load loads[] = {
	{ "data dpl 0", 0x92, 0, OK, OK, GP, GP },
	{ "data dpl 0 rpl 3", 0x92, 3, GP, GP, GP, GP },
	{ "data dpl 3", 0xf2, 0, OK, GP, OK, GP },
	{ "data dpl 3 rpl 3", 0xf2, 3, OK, GP, OK, OK },
	{ "data dpl 1 rpl 1", 0xb2, 1, OK, GP, GP, GP },
	{ "read-only data", 0x90, 0, OK, GP, GP, GP },
	{ "read-only data dpl 3", 0xf0, 3, OK, GP, OK, GP },
	{ "expand-down data", 0x96, 0, OK, OK, GP, GP },
	{ "code, not readable", 0x98, 0, GP, GP, GP, GP },
	{ "code, readable", 0x9a, 0, OK, GP, GP, GP },
	{ "code, readable, rpl 3", 0x9a, 3, GP, GP, GP, GP },
	{ "conforming, readable", 0x9e, 0, OK, GP, OK, GP },
	{ "conforming, readable, rpl 3", 0x9e, 3, OK, GP, OK, GP },
	{ "conforming, not readable", 0x9c, 0, GP, GP, GP, GP },
	{ "data not present", 0x12, 0, NP, SS, GP, GP },
	{ "data dpl 3 not present", 0x72, 3, NP, GP, NP, SS },
	{ "LDT descriptor", 0x82, 0, GP, GP, GP, GP },
	{ "TSS descriptor", 0x89, 0, GP, GP, GP, GP },
	{ "call gate", 0x8c, 0, GP, GP, GP, GP },
	{ "all zero", 0x00, 0, GP, GP, GP, GP },
};

static void load_one(const struct load *l, enum rig_mode mode, struct code code, uint16_t base, int want)
{
	struct rig rig;
	uint16_t selector = base | l->rpl;
	char name[80];

	snprintf(name, sizeof(name), "load of %s%s", l->name, base & 4 ? " (LDT)" : "");
	rig_start(&rig, mode);
	rig.gdt[FREE / 8] = descriptor(0, 0xfffff, l->access, 12);
	rig_poke(&rig, RIG_LDT + (FREE & 0x38), 8, rig.gdt[FREE / 8]);
	if (base & 4)
		rig.s.ldt = (struct kvm_segment){ .base = RIG_LDT, .limit = 0x3f, .selector = LDT, .type = 2, .present = 1 };
	rig.r.rax = selector;
	rig_run(&rig, code);
	expect_outcome(&rig, name, want, want == DONE ? ANY : selector & 0xfffc);
	if (want == DONE && !(base & 4))
		expect(name, rig_peek(&rig, RIG_GDT + FREE + 5, 1), l->access | 1);      /* accessed */
	if (want != DONE && !(base & 4))
		expect(name, rig_peek(&rig, RIG_GDT + FREE + 5, 1), l->access);
	rig_end(&rig);
}

static void segment_loads(void)
{
	static const enum rig_mode kernel[] = { PROT, LONG, COMPAT }, user[] = { PROT3, LONG3, COMPAT3 };

	for (unsigned i = 0; i < sizeof(loads) / sizeof(*loads); i++)
		for (unsigned m = 0; m < 3; m++) {
			const struct load *l = &loads[i];
			load_one(l, kernel[m], CODE(32, "nop; " AT "mov ds, ax; hlt"), FREE, l->data);
			load_one(l, kernel[m], CODE(32, "nop; " AT "mov ss, ax; hlt"), FREE, l->stack);
			load_one(l, user[m], CODE(32, "nop; " AT "mov ds, ax; hlt"), FREE, l->user_data);
			load_one(l, user[m], CODE(32, "nop; " AT "mov ss, ax; hlt"), FREE, l->user_stack);
			load_one(l, kernel[m], CODE(32, "nop; " AT "mov fs, ax; hlt"), (FREE & 0x38) | 4, l->data);
		}
}

static void odd_loads(void)
{
	CASE(PROT, "MOV CS", UD, ANY, 32, "nop; " AT ".byte 0x8e, 0xc8; hlt");
	CASE(PROT, "MOV to segment 6", UD, ANY, 32, "nop; " AT ".byte 0x8e, 0xf0; hlt");
	CASE(PROT, "null in DS", DONE, ANY, 32, "xor eax, eax; mov ds, ax; mov al, 3; mov es, ax; hlt");
	CASE(PROT, "use of null DS", GP, 0, 32, "xor eax, eax; mov ds, ax; " AT "mov al, [0x4000]; hlt");
	CASE(PROT, "write by null ES", GP, 0, 32, "xor eax, eax; mov es, ax; mov edi, 0x4000; " AT "stosb; hlt");
	CASE(LONG, "use of null DS in 64-bit mode", DONE, ANY, 64, "xor eax, eax; mov ds, ax; mov al, [0x4000]; hlt");
	CASE(PROT, "null in SS", GP, 0, 32, "xor eax, eax; " AT "mov ss, ax; hlt");
	CASE(LONG, "null in SS, 64-bit, CPL 0", DONE, ANY, 64, "xor eax, eax; mov ss, ax; push rax; hlt");
	CASE(LONG, "null in SS with RPL 3, CPL 0", GP, 0, 64, "mov eax, 3; " AT "mov ss, ax; hlt");
	CASE(LONG3, "null in SS, CPL 3", GP, 0, 64, "mov eax, 3; " AT "mov ss, ax; hlt");
	CASE(COMPAT, "null in SS, compatibility", GP, 0, 32, "xor eax, eax; " AT "mov ss, ax; hlt");
	CASE(PROT, "selector beyond the GDT", GP, 0x200, 32, "mov eax, 0x200; " AT "mov ds, ax; hlt");
	CASE_WITH(PROT, "descriptor partly beyond the GDT", GP, 0x28, 32, "mov eax, 0x28; " AT "mov ds, ax; hlt",
		rig->s.gdt.limit = 0x2e);
	CASE(PROT, "LDT selector without LDT", GP, 0xc, 32, "mov eax, 0xc; " AT "mov ds, ax; hlt");
	CASE(LONG, "POP FS of a bad selector leaves RSP", GP, 0x200, 64, "push 0x200; mov rbx, rsp; " AT "pop fs; hlt");
	CASE(PROT, "LSS of a data segment with RPL 3", GP, 0x10, 32,
	     "mov word ptr [0x4004], 0x13; " AT "lss esp, [0x4000]; hlt");
	CASE(PROT, "LDS with a register", UD, ANY, 32, "nop; " AT ".byte 0xc5, 0xc0; hlt");
	CASE(LONG, "LES in 64-bit mode is VEX", UD, ANY, 64, "nop; " AT ".byte 0xc4, 0x06, 0x00, 0x00; hlt");
	VALUE(REAL, "unreal limits stay", 16, "mov ax, 0; mov ds, ax; mov ebx, 0x20000; mov dword ptr [ebx], 0x55aa; "
		"mov eax, [ebx]; hlt",
	      0x55aa, rig->s.ds.limit = 0xffffffff; rig->s.ds.g = 1);
}

/* Offsets around a limit of 0xfff (bytes), at FREE in ES. */
static void limits(void)
{
	struct { const char *name; uint8_t access; uint8_t flags; uint32_t offset; bool write; int want; } t[] = {
		{ "below the limit", 0x92, 4, 0xffc, true, DONE },
		{ "over the limit by a byte", 0x92, 4, 0xffd, true, GP },
		{ "far over the limit", 0x92, 4, 0x1000, false, GP },
		{ "write to read-only", 0x90, 4, 0, true, GP },
		{ "read of read-only", 0x90, 4, 0, false, DONE },
		{ "write to code", 0x9a, 4, 0, true, GP },
		{ "read of code", 0x9a, 4, 0, false, DONE },
		{ "expand-down below", 0x96, 4, 0xffc, true, GP },
		{ "expand-down on the edge", 0x96, 4, 0xfff, true, GP },
		{ "expand-down above", 0x96, 4, 0x1000, true, DONE },
		{ "expand-down 16-bit at its end", 0x96, 0, 0xfffc, true, DONE },
		{ "expand-down 16-bit over its end", 0x96, 0, 0xfffd, true, GP },
		{ "page-granular, last byte", 0x92, 12, 0xfffffc, false, DONE },
		{ "page-granular, over", 0x92, 12, 0xfffffd + 3, false, GP },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, PROT);
		rig.gdt[FREE / 8] = descriptor(0x10000, 0xfff, t[i].access, t[i].flags);
		rig.r.rbx = t[i].offset;
		rig.r.rax = FREE;
		if (t[i].flags & 8)                              /* MMIO: any answer will do */
			rig.gdt[FREE / 8] = descriptor(0, 0xfff, t[i].access, t[i].flags),
				rig.r.rbx -= t[i].want == DONE ? 0xfff000 - 0x3ff000 : 0;
		rig_run(&rig, t[i].write ? CODE(32, "mov es, ax; " AT "mov es:[ebx], ecx; hlt") : CODE(32,
			"mov es, ax; " AT "mov ecx, es:[ebx]; hlt"));
		expect_outcome(&rig, t[i].name, t[i].want, t[i].want == DONE ? ANY : 0);
		rig_end(&rig);
		if (t[i].flags & 8)
			continue;
		/* The same through SS where it may be a stack. */
		rig_start(&rig, PROT);
		rig.gdt[FREE / 8] = descriptor(0x10000, 0xfff, t[i].access, t[i].flags);
		if ((t[i].access & 0xa) == 2) {
			rig.s.ss = (struct kvm_segment){ .base = 0x10000, .limit = 0xfff, .selector = FREE,
				.type = (t[i].access & 15) | 1, .s = 1,
			                                 .present = 1, .db = t[i].flags >> 2 };
			rig.r.rbx = t[i].offset;
			rig_gate(&rig, SS, TSS2, 0x85, 0);               /* the handler needs a stack: its own task */
			rig_poke(&rig, RIG_TSS2 + 0x20, 4, RIG_HANDLERS + 16 * SS);
			rig_poke(&rig, RIG_TSS2 + 0x38, 4, RIG_STACK);
			rig_poke(&rig, RIG_TSS2 + 0x4c, 2, CODE32);
			rig_poke(&rig, RIG_TSS2 + 0x50, 2, DATA32);
			rig_run(&rig, CODE(32, "nop; mov ss:[ebx], ecx; hlt"));
			expect(t[i].name, rig.vector, t[i].want == GP ? SS : DONE);
			if (t[i].want == GP)
				expect("rip saved in the task", rig_peek(&rig, RIG_TSS + 0x20, 4), RIG_CODE + 1);
		}
		rig_end(&rig);
	}
	CASE(REAL, "real mode, word at FFFF", GP, ANY, 16, "mov bx, 0xffff; " AT "mov ax, [bx]; hlt");
	CASE(VM86, "vm86, word at FFFF", GP, 0, 16, "mov bx, 0xffff; " AT "mov ax, [bx]; hlt");
	CASE(VM86, "vm86, stack word at FFFF", SS, 0, 16, "mov bp, 0xffff; " AT "mov ax, [bp]; hlt");
	CASE(VM86, "vm86, 32-bit offset over 64K", GP, 0, 16, "mov ebx, 0x10000; " AT "mov al, [ebx]; hlt");
}

/* What LAR, LSL, VERR and VERW say of descriptors; bits: 1 LAR, 2 LSL, 4 VERR, 8 VERW; legacy, long mode. */
static void queries(void)
{
	struct { uint8_t access, rpl, legacy, wide, user; } t[] = {
		{ 0x92, 0, 15, 15, 0 }, { 0x90, 0, 7, 7, 0 }, { 0x92, 3, 0, 0, 0 }, { 0xf2, 3, 15, 15, 15 }, { 0xf0, 3, 7, 7, 7 },
		{ 0x9a, 0, 7, 7, 0 }, { 0x98, 0, 3, 3, 0 }, { 0x9e, 3, 7, 7, 7 }, { 0x9c, 3, 3, 3, 3 }, { 0xfa, 3, 7, 7, 7 },
		{ 0x12, 0, 15, 15, 0 }, { 0x80, 0, 0, 0, 0 }, { 0x81, 0, 3, 0, 0 }, { 0x82, 0, 3, 3, 0 }, { 0x83, 0, 3, 0, 0 },
		{ 0x84, 0, 1, 0, 0 }, { 0x85, 0, 1, 0, 0 }, { 0x86, 0, 0, 0, 0 }, { 0x87, 0, 0, 0, 0 }, { 0x88, 0, 0, 0, 0 },
		{ 0x89, 0, 3, 3, 0 }, { 0x8b, 0, 3, 3, 0 }, { 0x8c, 0, 1, 1, 0 }, { 0x8e, 0, 0, 0, 0 }, { 0x8f, 0, 0, 0, 0 },
		{ 0xe9, 3, 3, 3, 3 }, { 0xec, 3, 1, 1, 1 },
	};
	static const enum rig_mode modes[] = { PROT, LONG, PROT3, LONG3 };

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (unsigned m = 0; m < 4; m++) {
			struct rig rig;
			char name[40];
			unsigned user = modes[m] == LONG3 ? t[i].user & t[i].wide : t[i].user;

			snprintf(name, sizeof(name), "queries of access %#x rpl %u mode %d", t[i].access, t[i].rpl, modes[m]);
			rig_start(&rig, modes[m]);
			rig.gdt[FREE / 8] = descriptor(0x12345678, 0x3abcd, t[i].access, 5);
			rig.r.rax = FREE | t[i].rpl;
			rig.r.rbx = rig.r.rcx = 0x11111111;
			rig_run(&rig, CODE(32, "xor edx, edx; lar ebx, eax; setz dl; lsl ecx, eax; setz dh; shl dh; or dl, dh; "
				"verr ax; setz dh; shl dh, 2;"
			                       "or dl, dh; verw ax; setz dh; shl dh, 3; or dl, dh; hlt"));
			unsigned want = m == 0 ? t[i].legacy : m == 1 ? t[i].wide : user;
			expect_outcome(&rig, name, DONE, ANY);
			expect_value(name, "what succeeded", rig.r2.rdx & 0xff, want);
			expect_value(name, "LAR", rig.r2.rbx & 0xfff0ff00,
				want & 1 ? 0x500000 | t[i].access << 8 : 0x11101100 | 0x1100);
			expect_value(name, "LSL", rig.r2.rcx, want & 2 ? 0x3abcd : 0x11111111);
			rig_end(&rig);
		}
	CASE(REAL, "LAR in real mode", UD, ANY, 16, "nop; " AT "lar ax, bx; hlt");
	CASE(VM86, "VERR in virtual-8086 mode", UD, ANY, 16, "nop; " AT "verr bx; hlt");
	CASE(REAL, "ARPL in real mode", UD, ANY, 16, "nop; " AT "arpl bx, ax; hlt");
	VALUE(PROT3, "ARPL raises", 32, "mov ebx, 0x10; mov ecx, 3; arpl bx, cx; setz al; shl ebx, 8; or eax, ebx; hlt", 0x1301);
	VALUE(PROT3, "ARPL leaves", 32, "mov ebx, 0x13; mov ecx, 2; arpl bx, cx; setz al; shl ebx, 8; or eax, ebx; hlt", 0x1300);
	VALUE(PROT, "LSL of null", 32, "mov ecx, 5; xor ebx, ebx; lsl ecx, ebx; setz al; hlt", 0);
	VALUE(PROT, "LSL, page-granular", 32, "mov ebx, 8; lsl eax, ebx; hlt", 0xffffffff);
	VALUE(PROT, "LAR, 16-bit", 32, "mov eax, 0x12345678; mov bx, 8; lar ax, bx; hlt", 0x12349b00);
}

static void system_loads(void)
{
	struct { const char *name; uint8_t access; uint16_t selector; int lldt, ltr, lldt_long, ltr_long; } t[] = {
		{ "LDT", 0x82, FREE, DONE, GP, DONE, GP }, { "TSS32", 0x89, FREE, GP, DONE, GP, DONE },
		{ "busy TSS32", 0x8b, FREE, GP, GP, GP, GP }, { "TSS16", 0x81, FREE, GP, DONE, GP, GP },
		{ "absent LDT", 0x02, FREE, NP, GP, NP, GP }, { "absent TSS", 0x09, FREE, GP, NP, GP, NP },
		{ "data", 0x92, FREE, GP, GP, GP, GP }, { "LDT in LDT", 0x82, FREE | 4, GP, GP, GP, GP },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (unsigned m = 0; m < 4; m++) {
			struct rig rig;
			int want = m == 0 ? t[i].lldt : m == 1 ? t[i].ltr : m == 2 ? t[i].lldt_long : t[i].ltr_long;

			rig_start(&rig, m < 2 ? PROT : LONG);
			rig.gdt[FREE / 8] = descriptor(0x3000, 0xff, t[i].access, 0);
			rig.r.rax = t[i].selector;
			rig_run(&rig, m & 1 ? CODE(32, "nop; " AT "ltr ax; hlt") : CODE(32, "nop; " AT "lldt ax; hlt"));
			expect_outcome(&rig, t[i].name, want, want == DONE ? ANY : t[i].selector & 0xfffc);
			if (want == DONE)
				expect(t[i].name, rig_peek(&rig, RIG_GDT + FREE + 5, 1), m & 1 ? t[i].access | 2 : t[i].access);
			rig_end(&rig);
		}
	CASE(PROT, "LTR null", GP, 0, 32, "xor eax, eax; " AT "ltr ax; hlt");
	CASE(PROT, "LLDT null", DONE, ANY, 32, "xor eax, eax; lldt ax; hlt");
	CASE(PROT3, "LLDT at CPL 3", GP, 0, 32, "xor eax, eax; " AT "lldt ax; hlt");
	CASE(VM86, "LTR in virtual-8086 mode", UD, ANY, 16, "xor ax, ax; " AT "ltr ax; hlt");
	CASE(REAL, "SLDT in real mode", UD, ANY, 16, "nop; " AT "sldt ax; hlt");
	CASE_WITH(LONG, "LLDT, upper half with a type", GP, FREE, 64, "mov eax, 0x80; " AT "lldt ax; hlt",
	          rig->gdt[FREE / 8] = descriptor(0x3000, 0xff, 0x82, 0); rig->gdt[FREE / 8 + 1] = 0x10000000000);
	CASE_WITH(LONG, "LTR, base not canonical", GP, FREE, 64, "mov eax, 0x80; " AT "ltr ax; hlt",
	          rig->gdt[FREE / 8] = descriptor(0x3000, 0xff, 0x89, 0); rig->gdt[FREE / 8 + 1] = 0x8000);
	CASE_WITH(LONG, "LTR, upper half beyond the GDT", GP, 0x1f8, 64, "mov eax, 0x1f8; " AT "ltr ax; hlt",
	          rig->gdt[63] = descriptor(0x3000, 0xff, 0x89, 0));
}

static void table_registers(void)
{
	VALUE(PROT, "SGDT, SIDT", 32, "sgdt [0x4000]; sidt [0x4010]; mov eax, [0x4002]; shl eax, 16; mov ax, [0x4010]; hlt",
		RIG_GDT << 16 | 0xfff);
	VALUE(LONG3, "SGDT stores 10 bytes", 64, "mov rax, -1; mov [0x4008], rax; sgdt [0x4000]; mov rax, [0x4002]; hlt",
		RIG_GDT);
	CASE(PROT3, "LGDT at CPL 3", GP, 0, 32, "nop; " AT "lgdt [0x4000]; hlt");
	CASE(LONG, "LGDT of a base not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; "
		"mov [0x4002], rax; " AT "lgdt [0x4000]; hlt");
	CASE(PROT, "LGDT with a register", UD, ANY, 32, "nop; " AT ".byte 0x0f, 0x01, 0xd5; hlt");
	VALUE(PROT, "LGDT, 16-bit operand: 24-bit base", 32, "mov dword ptr [0x4002], 0x99000500; mov word ptr [0x4000], 0x1ff;"
	      ".byte 0x66; lgdt [0x4000]; sgdt [0x4010]; mov eax, [0x4012]; hlt", 0x500);
#define UMIP(m, bits, text, want) \
	CASE_WITH(m, "UMIP: " text, want, ANY, bits, "mov ebx, 0x4000; " AT text "; hlt", rig->s.cr4 |= 0x800)
	UMIP(LONG, 64, "sgdt [rbx]", DONE); UMIP(LONG3, 64, "sgdt [rbx]", GP); UMIP(LONG3, 64, "sidt [rbx]", GP);
	UMIP(LONG3, 64, "sldt eax", GP); UMIP(LONG3, 64, "str eax", GP); UMIP(LONG3, 64, "smsw eax", GP);
	UMIP(VM86, 16, "smsw ax", GP); UMIP(VM86, 16, "sgdt [bx]", GP); UMIP(PROT3, 32, "str [ebx]", GP);
		UMIP(PROT, 32, "smsw eax", DONE);
	CASE_WITH(VM86, "UMIP: SLDT in virtual-8086 mode", UD, ANY, 16, "nop; " AT "sldt ax; hlt", rig->s.cr4 |= 0x800);
}

int main(void)
{
	segment_loads();
	odd_loads();
	limits();
	queries();
	system_loads();
	table_registers();
	return rig_summary();
}
