/* Task switches: 16- and 32-bit TSSs by CALL, JMP, IRET and task gates; links, busy bits, CR3, and what each check raises. */
#include "rig.h"

enum { T2 = RIG_TSS2, NT = 0x4000, HANDLER = RIG_HANDLERS + 16 * 0x60 };

static void tss32(struct rig *rig, uint32_t at, uint32_t eip, uint32_t eflags)
{
	rig_poke(rig, at + 0x1c, 4, rig->s.cr3);
	rig_poke(rig, at + 0x20, 4, eip);
	rig_poke(rig, at + 0x24, 4, eflags);
	for (unsigned i = 0; i < 8; i++)
		rig_poke(rig, at + 0x28 + 4 * i, 4, 0x11111111 * (i + 1));
	rig_poke(rig, at + 0x38, 4, 0x6000);
	for (unsigned i = 0; i < 6; i++)
		rig_poke(rig, at + 0x48 + 4 * i, 2, i == 1 ? CODE32 : DATA32);
	rig_poke(rig, at + 0x60, 2, 0);
}

static void tss16(struct rig *rig, uint32_t at, uint16_t ip, uint16_t flags)
{
	rig_poke(rig, at + 0x0e, 2, ip);
	rig_poke(rig, at + 0x10, 2, flags);
	for (unsigned i = 0; i < 8; i++)
		rig_poke(rig, at + 0x12 + 2 * i, 2, 0x1111 * (i + 1));
	rig_poke(rig, at + 0x1a, 2, 0x6000);
	for (unsigned i = 0; i < 4; i++)
		rig_poke(rig, at + 0x22 + 2 * i, 2, i == 1 ? CODE32 : i == 2 ? DATA16 : DATA32);
	rig_poke(rig, at + 0x2a, 2, 0);
	rig->gdt[TSS2 / 8] = descriptor(T2, 0x2b, 0x81, 0);
}

static unsigned type_of(struct rig *rig, unsigned selector) { return rig_peek(rig, RIG_GDT + selector + 5, 1) & 15; }

enum how { CALL, JMP, GATE, EXCEPTION, HOWS };
static void switches(void)
{
	for (unsigned how = 0; how < HOWS; how++)
		for (unsigned small = 0; small < 2; small++) {
			struct rig rig;
			char name[60];
			bool nested = how != JMP;

			rig_start(&rig, PROT);
			snprintf(name, sizeof(name), "%s to a %u-bit TSS",
				how == CALL ? "CALL" : how == JMP ? "JMP" : how == GATE ? "task gate" : "#GP", small ? 16 : 32);
			tss32(&rig, T2, HANDLER, 0x202);
			if (small)
				tss16(&rig, T2, HANDLER, 0x202);
			rig.gdt[FREE / 8] = call_gate(TSS2, 0, 0x85, 0);
			rig_gate(&rig, GP, TSS2, 0x85, 0);
			rig.r.rbx = 0xabcdef01;
			rig.r.rflags = 0x246;
			struct code code = how == CALL ? CODE(32, "nop; .byte 0x9a; .long 0x1234; .word 0x50; "
				"hlt") : how == JMP ? CODE(32, "nop; .byte 0xea; .long 0; .word 0x50; hlt") :
			                   how == GATE ? CODE(32, "nop; .byte 0x9a; .long 0; .word 0x80; hlt") : CODE(32,
				"mov eax, 0x1f0; mov ds, eax; hlt");
			rig_run(&rig, code);
			expect(name, rig.r2.rip, HANDLER + 1);
			expect(name, rig_peek(&rig, RIG_TSS + 0x20, 4), how == EXCEPTION ? RIG_CODE + 5 : RIG_CODE + 8);
			expect(name, rig_peek(&rig, RIG_TSS + 0x24, 4) & ~0x10000ull, 0x246);
			expect(name, rig_peek(&rig, RIG_TSS + 0x34, 4), 0xabcdef01);
			expect(name, rig_peek(&rig, RIG_TSS + 0x4c, 2), CODE32);
			expect(name, rig.r2.rflags, 0x202 | (nested ? NT : 0));
			expect(name, rig.r2.rax, small ? 0xffff1111 : 0x11111111);
			expect(name, rig.r2.rdi, small ? 0xffff8888 : 0x88888888);
			expect(name, rig.r2.rsp, (small ? 0xffff6000 : 0x6000) - (how == EXCEPTION ? small ? 2 : 4 : 0));
			expect(name, rig.s2.cr0 & 8, 8);
			expect(name, rig.s2.tr.selector, TSS2);
			expect(name, rig.s2.tr.type, small ? 3 : 11);
			expect(name, type_of(&rig, TSS2), small ? 3 : 11);
			expect(name, type_of(&rig, TSS), nested ? 11 : 9);
			expect(name, rig_peek(&rig, T2, 2), nested ? TSS : 0);
			expect(name, rig.s2.fs.selector, small ? 0 : DATA32);
			if (how == EXCEPTION)
				expect(name, rig_peek(&rig, rig.r2.rsp & 0xffff, small ? 2 : 4), 0x1f0);
			rig_end(&rig);
		}
}

/* Checks before the switch: the fault is the old task's. */
static void early_faults(void)
{
	struct { const char *name; uint8_t access; uint32_t limit; unsigned cpl; int direct, gate; uint32_t direct_error;
		} t[] = {
		{ "busy TSS", 0x8b, 0x67, 0, GP, GP, TSS2 }, { "absent TSS", 0x09, 0x67, 0, NP, NP, TSS2 },
			{ "short TSS", 0x89, 0x66, 0, TS, TS, TSS2 },
		{ "short 16-bit TSS", 0x81, 0x2a, 0, TS, TS, TSS2 }, { "TSS of DPL 0 from CPL 3", 0x89, 0x67, 3, GP, DONE, TSS2 },
		{ "LDT", 0x82, 0x67, 0, GP, GP, TSS2 }, { "data", 0x93, 0x67, 0, GP, GP, TSS2 },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (unsigned gate = 0; gate < 2; gate++) {
			struct rig rig;
			int want = gate ? t[i].gate : t[i].direct;

			rig_start(&rig, t[i].cpl ? PROT3 : PROT);
			tss32(&rig, T2, HANDLER, 2);
			rig.gdt[TSS2 / 8] = descriptor(T2, t[i].limit, t[i].access, 0);
			rig.gdt[FREE / 8] = call_gate(TSS2, 0, 0xe5, 0);
			rig_run(&rig, gate ? CODE(32, "nop; " AT ".byte 0x9a; .long 0; .word 0x80; hlt") : CODE(32,
				"nop; " AT ".byte 0x9a; .long 0; .word 0x50; hlt"));
			if (want == DONE)
				expect(t[i].name, rig.vector, 0x60);
			else
				expect_outcome(&rig, t[i].name, want, t[i].direct_error);
			if (want != DONE) {
				expect(t[i].name, rig.s2.tr.selector, TSS);
				expect(t[i].name, rig_peek(&rig, RIG_TSS + 0x20, 4), 0);
			}
			rig_end(&rig);
		}
#define GATED(name, gate, vector, error) CASE_WITH(PROT, name, vector, error, 32, \
	"nop; " AT ".byte 0x9a; .long 0; .word 0x80; hlt", \
	tss32(rig, T2, HANDLER, 2); rig->gdt[FREE / 8] = gate)
	GATED("task gate to null", call_gate(0, 0, 0x85, 0), GP, 0);
	GATED("task gate to the LDT's table", call_gate(TSS2 | 4, 0, 0x85, 0), GP, TSS2 | 4);
	GATED("task gate absent", call_gate(TSS2, 0, 0x05, 0), NP, FREE);
	CASE_WITH(PROT3, "task gate of DPL 0 from CPL 3", GP, FREE, 32, "nop; " AT ".byte 0x9a; .long 0; .word 0x80; hlt",
		rig->gdt[FREE / 8] = call_gate(TSS2, 0, 0x85, 0));
	CASE_WITH(PROT, "IRET with NT, link null", TS, 0, 32, "nop; " AT "iret; hlt", rig->r.rflags |= NT);
	CASE_WITH(PROT, "IRET with NT, link not busy", TS, TSS2, 32, "nop; " AT "iret; hlt", rig->r.rflags |= NT;
		rig_poke(rig, RIG_TSS, 2, TSS2));
	CASE_WITH(PROT, "IRET with NT, link to data", TS, DATA32, 32, "nop; " AT "iret; hlt", rig->r.rflags |= NT;
		rig_poke(rig, RIG_TSS, 2, DATA32));
	CASE_WITH(PROT, "IRET with NT, link absent", NP, TSS2, 32, "nop; " AT "iret; hlt", rig->r.rflags |= NT;
		rig_poke(rig, RIG_TSS, 2, TSS2);
	          rig->gdt[TSS2 / 8] = descriptor(T2, 0x67, 0x0b, 0));
}

/* A bad segment of the new task: its #TS (or #NP, #SS) comes in the new task, with the selector. */
static void late_faults(void)
{
	struct { const char *name; unsigned offset; uint16_t selector; uint8_t access; int vector; uint32_t error; } t[] = {
		{ "CS null", 0x4c, 0, 0, TS, 0 }, { "CS is data", 0x4c, DATA32, 0, TS, DATA32 },
			{ "CS absent", 0x4c, FREE, 0x1b, NP, FREE },
		{ "CS of DPL 3, RPL 0", 0x4c, USER32, 0, TS, USER32 }, { "LDT in the LDT", 0x60, LDT | 4, 0, TS, LDT | 4 },
			{ "LDT is data", 0x60, DATA32, 0, TS, DATA32 },
		{ "LDT absent", 0x60, FREE, 0x02, TS, FREE }, { "DS of code, not readable", 0x54, FREE, 0x99, TS, FREE },
			{ "ES absent", 0x48, FREE, 0x13, NP, FREE },
		{ "GS beyond the GDT", 0x5c, 0x200, 0, TS, 0x200 }, { "FS null", 0x58, 0, 0, DONE, 0 },
			{ "DS with RPL 3", 0x54, DATA32 | 3, 0, TS, DATA32 },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, PROT);
		tss32(&rig, T2, HANDLER, 2);
		rig.gdt[FREE / 8] = descriptor(0, 0xfffff, t[i].access, 12);
		rig_poke(&rig, T2 + t[i].offset, 2, t[i].selector);
		if (t[i].offset == 0x60) {
			/* No segment is loaded yet: only a task can handle this one. */
			tss32(&rig, 0x3000, RIG_HANDLERS + 16 * TS, 2);
			rig.gdt[FREE / 8 + 1] = descriptor(0x3000, 0x67, 0x89, 0);
			rig_gate(&rig, TS, FREE + 8, 0x85, 0);
		}
		rig_run(&rig, CODE(32, "nop; .byte 0xea; .long 0; .word 0x50; hlt"));
		expect(t[i].name, rig.vector, t[i].vector == DONE ? 0x60 : t[i].vector);
		expect(t[i].name, rig.s2.tr.selector, t[i].offset == 0x60 ? FREE + 8 : TSS2);
		if (t[i].vector != DONE) {
			expect(t[i].name, rig.error, t[i].error);
			expect(t[i].name, t[i].offset == 0x60 ? rig_peek(&rig, T2 + 0x20, 4) : rig.rip, HANDLER);
			expect(t[i].name, rig_peek(&rig, RIG_TSS + 0x20, 4), RIG_CODE + 8);
		}
		rig_end(&rig);
	}
}

static void returns(void)
{
	struct rig rig;

	/* CALL there, IRET back. */
	rig_start(&rig, PROT);
	tss32(&rig, T2, RIG_MORE, 0x2);
	rig_poke(&rig, RIG_MORE, 2, 0xcf41);                     /* inc ecx; iret */
	rig_run(&rig, CODE(32, "mov ecx, 5; .byte 0x9a; .long 0; .word 0x50; pushf; pop eax; hlt"));
	expect_outcome(&rig, "CALL and IRET", DONE, ANY);
	expect("flags after", rig.r2.rax & NT, 0);
	expect("ECX", rig.r2.rcx, 5);
	expect("ECX of the other", rig_peek(&rig, T2 + 0x2c, 4), 0x22222223);
	expect("NT of the other", rig_peek(&rig, T2 + 0x24, 4) & NT, 0);
	expect("EIP of the other", rig_peek(&rig, T2 + 0x20, 4), RIG_MORE + 2);
	expect("busy", type_of(&rig, TSS) << 4 | type_of(&rig, TSS2), 0xb9);
	rig_end(&rig);

	/* The debug trap flag of the new TSS. */
	rig_start(&rig, PROT);
	tss32(&rig, T2, HANDLER, 0x2);
	rig_poke(&rig, T2 + 0x64, 2, 1);
	rig_run(&rig, CODE(32, ".byte 0xea; .long 0; .word 0x50; hlt"));
	expect("T flag: #DB", rig.vector, DB);
	expect("T flag: before the first instruction", rig.rip, HANDLER);
	struct kvm_debugregs d;
	guest_ioctl(rig.g.vcpu[0], KVM_GET_DEBUGREGS, &d);
	expect("T flag: DR6.BT", d.dr6 & 0xe00f, 0x8000);
	rig_end(&rig);

	/* To virtual-8086 mode. */
	rig_start(&rig, PROT);
	tss32(&rig, T2, 0, 0x20002);
	rig_poke(&rig, T2 + 0x4c, 2, 0x1000);
	rig_poke(&rig, T2 + 4, 4, RIG_STACK0);
	rig_poke(&rig, T2 + 8, 2, DATA32);
	rig_poke(&rig, RIG_MORE, 3, 0xf4d88c);                   /* mov ax, ds; hlt */
	rig_run(&rig, CODE(32, ".byte 0xea; .long 0; .word 0x50; hlt"));
	expect("task in vm86 mode", rig.vector, GP);
	expect("task in vm86 mode", rig.cs << 16 | rig.rip, 0x10000002);
	expect("task in vm86 mode", rig.r2.rax & 0xffff, DATA32);
	rig_end(&rig);

	/* A 16-bit task calls back a 32-bit one by IRET, and to ring 3. */
	rig_start(&rig, PROT);
	tss32(&rig, T2, RIG_MORE, 0x202);
	rig_poke(&rig, T2 + 4, 4, RIG_STACK0);
	rig_poke(&rig, T2 + 8, 2, DATA32);
	for (unsigned i = 0; i < 6; i++)
		rig_poke(&rig, T2 + 0x48 + 4 * i, 2, i == 1 ? USER32 | 3 : USERDATA | 3);
	rig_poke(&rig, RIG_MORE, 1, 0xf4);
	rig_run(&rig, CODE(32, ".byte 0xea; .long 0; .word 0x50; hlt"));
	expect("task in ring 3", rig.vector, DONE);
	expect("task in ring 3", rig.cs, USER32 | 3);
	expect("task in ring 3", rig.rip, RIG_MORE);
	rig_end(&rig);
}

/* CR3 of the new task, and the trap and local breakpoints. */
static void paging(void)
{
	struct rig rig;

	rig_start(&rig, PROT);
	for (unsigned i = 0; i < 2; i++)                         /* 4 MiB pages; the second tables map 4M to 0 */
		rig_poke(&rig, 0x200000 + 0x1000 * i, 4, 0x87);
	rig_poke(&rig, 0x201004, 4, 0x87);
	rig.s.cr0 |= 0x80000000;
	rig.s.cr4 |= 0x10;
	rig.s.cr3 = 0x200000;
	tss32(&rig, T2, RIG_MORE, 2);
	rig_poke(&rig, T2 + 0x1c, 4, 0x201000);
	rig_poke(&rig, RIG_DATA, 4, 0x1234);
	struct code code = CODE(32, "mov eax, [0x404000]; hlt");
	memcpy(rig.g.memory + RIG_MORE, code.start, code.end - code.start);
	rig_run(&rig, CODE(32, ".byte 0xea; .long 0; .word 0x50; hlt"));
	expect("CR3", rig.s2.cr3, 0x201000);
	expect("CR3", rig.r2.rax, 0x1234);
	rig_end(&rig);
}

int main(void)
{
	switches();
	early_faults();
	late_faults();
	returns();
	paging();
	return rig_summary();
}
