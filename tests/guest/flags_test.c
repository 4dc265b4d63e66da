/* IF, IOPL, VIF and ports: CLI, STI, PUSHF, POPF under IOPL, VME and PVI; INT n redirected; the I/O permission bitmap. */
#include "rig.h"

enum { IF = 0x200, VIF = 0x80000, VIP = 0x100000, AC_ = 0x40000, VME = 1, PVI = 2 };

static void interrupt_flag(void)
{
	struct { enum rig_mode mode; unsigned iopl, cr4; const char *name; struct code code; uint64_t flags; int want;
		uint64_t after; } t[] = {
		{ PROT3, 0, 0, "CLI", CODE(32, "nop; " AT "cli; hlt"), IF, GP, 0 },
			{ PROT3, 3, 0, "CLI", CODE(32, "cli; hlt"), IF, DONE, 0 },
		{ PROT3, 0, 0, "STI", CODE(32, "nop; " AT "sti; hlt"), 0, GP, 0 },
			{ PROT3, 3, 0, "STI", CODE(32, "sti; hlt"), 0, DONE, IF },
		{ PROT3, 2, 0, "CLI", CODE(32, "nop; " AT "cli; hlt"), IF, GP, 0 },
			{ PROT, 0, 0, "CLI at CPL 0", CODE(32, "cli; hlt"), IF, DONE, 0 },
		{ PROT3, 0, PVI, "CLI, PVI", CODE(32, "cli; hlt"), IF | VIF, DONE, IF },
			{ PROT3, 0, PVI, "STI, PVI", CODE(32, "sti; hlt"), IF, DONE, IF | VIF },
		{ PROT3, 0, PVI, "STI, PVI, VIP", CODE(32, "nop; " AT "sti; hlt"), IF | VIP, GP, 0 },
			{ PROT3, 0, VME, "CLI, VME only", CODE(32, "nop; " AT "cli; hlt"), IF, GP, 0 },
		{ LONG3, 0, PVI, "STI, PVI, long mode", CODE(64, "sti; hlt"), IF, DONE, IF | VIF },
			{ PROT3, 3, PVI, "CLI, PVI, IOPL 3", CODE(32, "cli; hlt"), IF | VIF, DONE, VIF },
		{ VM86, 0, 0, "CLI", CODE(16, "nop; " AT "cli; hlt"), IF, GP, 0 },
			{ VM86, 3, 0, "CLI", CODE(16, "cli; hlt"), IF, DONE, 0 },
		{ VM86, 0, VME, "CLI, VME", CODE(16, "cli; hlt"), IF | VIF, DONE, IF },
			{ VM86, 0, VME, "STI, VME", CODE(16, "sti; hlt"), IF, DONE, IF | VIF },
		{ VM86, 0, VME, "STI, VME, VIP", CODE(16, "nop; " AT "sti; hlt"), IF | VIP, GP, 0 },
			{ VM86, 0, PVI, "CLI, PVI only", CODE(16, "nop; " AT "cli; hlt"), IF, GP, 0 },
		{ VM86, 3, VME, "STI, VME, VIP, IOPL 3", CODE(16, "sti; hlt"), VIP, DONE, IF | VIP },
		/* PUSHF and POPF */
		{ VM86, 0, 0, "PUSHF", CODE(16, "nop; " AT "pushf; hlt"), 0, GP, 0 },
			{ VM86, 0, 0, "POPF", CODE(16, "nop; " AT "popf; hlt"), 0, GP, 0 },
		{ VM86, 0, VME, "PUSHFD, VME", CODE(16, "nop; " AT "pushfd; hlt"), 0, GP, 0 },
			{ VM86, 3, 0, "PUSHFD, POPFD", CODE(16, "pushfd; popfd; hlt"), IF, DONE, IF },
		{ VM86, 0, VME, "POPF clears VIF", CODE(16, "push 0; popf; hlt"), IF | VIF, DONE, IF },
			{ VM86, 0, VME, "POPF sets VIF", CODE(16, "push 0x200; popf; hlt"), IF, DONE, IF | VIF },
		{ VM86, 0, VME, "POPF of IF with VIP", CODE(16, "push 0x200; " AT "popf; hlt"), IF | VIP, GP, 0 },
			{ VM86, 0, VME, "POPF of TF", CODE(16, "push 0x100; " AT "popf; hlt"), IF, GP, 0 },
		{ VM86, 3, 0, "POPF, IOPL 3", CODE(16, "push 0; popf; hlt"), IF, DONE, 0 },
		{ PROT3, 0, 0, "POPFD at CPL 3 leaves IF and IOPL", CODE(32, "push 0x3000; popfd; hlt"), IF, DONE, IF },
		{ PROT3, 3, 0, "POPFD at CPL 3, IOPL 3: IF only", CODE(32, "push 0; popfd; hlt"), IF, DONE, 0 },
		{ PROT, 0, 0, "POPFD ignores VM, RF, VIF, VIP", CODE(32, "push 0x1b0002; popfd; hlt"), 0, DONE, 0 },
		{ PROT, 0, 0, "POPFW leaves AC", CODE(32, "pushw 0; popfw; hlt"), AC_ | IF, DONE, AC_ },
			{ PROT, 0, 0, "POPFD sets AC", CODE(32, "push 0x40000; popfd; hlt"), 0, DONE, AC_ },
		{ LONG3, 0, 0, "STAC at CPL 3", CODE(64, "nop; " AT "stac; hlt"), 0, UD, 0 },
			{ LONG, 0, 0, "STAC", CODE(64, "stac; hlt"), 0, DONE, AC_ },
		{ REAL, 0, 0, "STI in real mode", CODE(16, "sti; hlt"), 0, DONE, IF },
		/* IRET in virtual-8086 mode */
		{ VM86, 0, VME, "IRET, VME", CODE(16, "push 0x200; push 0x800; push 10; iret; nop; nop; nop; hlt"), IF, DONE,
			IF | VIF },
		{ VM86, 0, VME, "IRET of TF, VME", CODE(16, "push 0x100; push 0x800; push 10; " AT "iret; hlt"), IF, GP, 0 },
		{ VM86, 0, VME, "IRETD, VME", CODE(16, "nop; " AT "iretd; hlt"), IF, GP, 0 },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		char name[60];
		const uint64_t looked_at = IF | VIF | VIP | AC_ | 0x30000 << 8;

		rig_start(&rig, t[i].mode);
		snprintf(name, sizeof(name), "%s, IOPL %u", t[i].name, t[i].iopl);
		rig.s.cr4 |= t[i].cr4;
		rig.r.rflags |= t[i].flags | t[i].iopl << 12;
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, name, t[i].want, t[i].want == GP ? 0 : ANY);
		if (t[i].want == DONE)
			expect(name,
				(t[i].mode == PROT || t[i].mode == LONG || t[i].mode == REAL ? rig.r2.rflags : rig.rflags) & looked_at, t[i].after);
		else
			expect(name, rig.r2.rsp < RIG_STACK0, 1);
		rig_end(&rig);
	}
	VALUE(VM86, "PUSHF shows VIF as IF and IOPL 3", 16, "mov eax, 0; pushf; pop ax; hlt", 0x3202, rig->s.cr4 |= VME;
		rig->r.rflags |= VIF);
	VALUE(VM86, "PUSHF shows VIF clear", 16, "mov eax, 0; pushf; pop ax; hlt", 0x3002, rig->s.cr4 |= VME;
		rig->r.rflags |= IF);
	VALUE(PROT, "PUSHFD hides RF and VM", 32, "pushfd; pop eax; hlt", 0x2, rig->r.rflags |= 0x10000);
}

/* INT 0x40 in virtual-8086 mode: the redirection bitmap lies 32 bytes below the I/O bitmap. */
static void redirection(void)
{
	struct { const char *name; unsigned iopl; bool vme, bit; int want; } t[] = {
		{ "no VME, IOPL 0", 0, false, false, GP }, { "no VME, IOPL 3", 3, false, false, 0x40 },
			{ "bit set, IOPL 0", 0, true, true, GP },
		{ "bit set, IOPL 3", 3, true, true, 0x40 }, { "bit clear, IOPL 0", 0, true, false, DONE },
			{ "bit clear, IOPL 3", 3, true, false, DONE },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, VM86);
		rig_gate(&rig, 0x40, CODE32, 0xee, 0);
		rig_poke(&rig, RIG_TSS + 102, 2, 0x100);
		rig_poke(&rig, RIG_TSS + 0x100 - 32 + 8, 1, t[i].bit);
		rig_poke(&rig, 4 * 0x40, 4, 0x08000020);
		rig.s.cr4 |= t[i].vme ? VME : 0;
		rig.r.rflags |= t[i].iopl << 12 | IF | VIF;
		rig_run(&rig, CODE(16, "int 0x40; .rept 0x1e; nop; .endr; mov bx, sp; pop ax; pop cx; pop dx; hlt"));
		expect_outcome(&rig, t[i].name, t[i].want, t[i].want == GP ? 0 : ANY);
		if (t[i].want == DONE) {
			expect(t[i].name, rig.r2.rax & 0xffff, 2);
			expect(t[i].name, rig.r2.rcx & 0xffff, 0x800);
			expect(t[i].name, rig.r2.rdx & 0xffff, 0x3202);
			expect(t[i].name, rig.rflags & (IF | VIF), t[i].iopl == 3 ? VIF : IF);
		}
		rig_end(&rig);
	}
}

static int answer_io(struct rig *rig,
	struct kvm_run *run) { return run->exit_reason == KVM_EXIT_IO ? 0 : EXIT + run->exit_reason; }

static void io_bitmap(void)
{
	struct { const char *name; uint16_t base, limit, port; unsigned size, first_clear, n_clear; bool ok; } t[] = {
		{ "clear", 0x100, 0x3ff, 0x80, 1, 0x80, 1, true }, { "set", 0x100, 0x3ff, 0x81, 1, 0x80, 1, false },
			{ "word, one set", 0x100, 0x3ff, 0x80, 2, 0x80, 1, false },
		{ "word", 0x100, 0x3ff, 0x80, 2, 0x80, 2, true }, { "dword over two bytes", 0x100, 0x3ff, 0x86, 4, 0x86, 4,
			true },
		{ "dword over two bytes, last set", 0x100, 0x3ff, 0x86, 4, 0x86, 3, false },
			{ "byte after the last must be there", 0x100, 0x110, 0x80, 1, 0x80, 8, false },
		{ "last byte", 0x100, 0x111, 0x80, 1, 0x80, 8, true }, { "base beyond the limit", 0x400, 0x3ff, 0, 1, 0, 0,
			false },
		{ "TSS too short for a base", 0x68, 0x66, 0, 1, 0, 8, false },
			{ "port FFFF", 0x100, 0x2101, 0xffff, 1, 0xffff, 1, true },
		{ "word at FFFF", 0x100, 0x2101, 0xffff, 2, 0xffff, 1, false },
	};
	static const enum rig_mode modes[] = { PROT3, LONG3, VM86, COMPAT3 };

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (unsigned m = 0; m < 4; m++) {
			struct rig rig;
			uint32_t tss = 0x11000;

			rig_start(&rig, modes[m]);
			rig.exit = answer_io;
			memcpy(rig.g.memory + tss, rig.g.memory + RIG_TSS, 0x68);
			memset(rig.g.memory + tss + 0x68, 0xff, 0x2100);
			rig_poke(&rig, tss + 102, 2, t[i].base);
			for (unsigned b = t[i].first_clear; b < t[i].first_clear + t[i].n_clear; b++)
				rig.g.memory[tss + t[i].base + b / 8] &= ~(1 << (b & 7));
			rig.s.tr.base = tss;
			rig.s.tr.limit = t[i].limit;
			rig.r.rdx = t[i].port;
			rig.r.rflags |= modes[m] == VM86 ? 0x3000 : 0;   /* of no help there */
			bool wide = modes[m] != VM86;
			rig_run(&rig, t[i].size == 1 ? CODE(32, "nop; " AT "out dx, al; hlt") : (t[i].size == 2) == wide ?
			        CODE(32, "nop; " AT ".byte 0x66, 0xef; hlt") : CODE(32, "nop; " AT ".byte 0xef; hlt"));
			expect_outcome(&rig, t[i].name, t[i].ok ? DONE : GP, t[i].ok ? ANY : 0);
			expect(t[i].name, rig.exits, t[i].ok);
			rig_end(&rig);
		}
	CASE_WITH(PROT3, "OUTSB, bitmap before the operand", GP, 0, 32,
		"mov esi, 0xfffffff0; xor eax, eax; mov ds, eax; " AT "outsb; hlt", (void)0);
	CASE_WITH(PROT3, "REP OUTSB of nothing needs the right, too", GP, 0, 32, "xor ecx, ecx; " AT "rep outsb; hlt", (void)0);
	CASE_WITH(PROT3, "REP OUTSB of nothing asks nobody", DONE, 0, 32, "xor ecx, ecx; rep outsb; hlt", rig->r.rflags |= 0x3000);
	CASE_WITH(PROT3, "IN, IOPL 3", DONE, 0, 32, "in al, 0x80; hlt", rig->r.rflags |= 0x3000; rig->exit = answer_io);
	CASE_WITH(PROT3, "16-bit TSS has no bitmap", GP, 0, 32, "nop; " AT "in al, 0x80; hlt", rig->s.tr.type = 3;
	          rig_poke(rig, RIG_TSS + 2, 2, RIG_STACK0); rig_poke(rig, RIG_TSS + 4, 2, DATA32));
}

int main(void)
{
	interrupt_flag();
	redirection();
	io_bitmap();
	return rig_summary();
}
