/* Shadow stacks across far CALL, JMP and RET, events and IRET, system calls and task switches. */
#include "cet.h"

static const uint64_t S = RIG_PAGES + 0x800;                     /* in SHADOW */
static const uint64_t U = RIG_PAGES + 4096 * USER_SHADOW + 0x800;
/* Ring 0's stack, with a token that leaves room for a frame, and its frame. */
static const uint64_t T = RIG_PAGES + 4096 * SHADOW_2 + 0x818;
static const uint64_t T3 = RIG_PAGES + 4096 * SHADOW_3 + 0x818;
enum { BUSY = 1 };

static void token(struct rig *rig, uint64_t at, uint64_t value)
{
	cet_poke(rig, at, value);
	if (at == T)
		cet_msr_set(rig, M_PL0_SSP, at);
}

static void expect_frame(struct rig *rig, const char *name, uint64_t at, uint64_t ssp, uint64_t lip, uint64_t cs)
{
	expect_value(name, "SSP in the frame", cet_peek(rig, at), ssp);
	expect_value(name, "LIP in the frame", cet_peek(rig, at + 8), lip);
	expect_value(name, "CS in the frame", cet_peek(rig, at + 16), cs);
}

/* ---- far branches in one ring ---- */


static void same_ring(void)
{
	const struct { const char *name; enum rig_mode mode; uint64_t ssp; int vector; int64_t error; int64_t moved; struct code code; } t[] = {
		{ "far CALL", LONG, S, DONE, ANY, -24, CODE(64, "call fword ptr [rip+2f]; 1: hlt; .org 661b+0x20; hlt; 2: .long 0x8020; .word 0x18") },
		{ "far CALL from a stack aligned to 4", LONG, S + 4, DONE, ANY, -28, CODE(64, "call fword ptr [rip+2f]; 1: hlt; .org 661b+0x20; hlt; 2: .long 0x8020; .word 0x18") },
		{ "far CALL, RET", LONG, S + 4, DONE, ANY, 0, CODE(64, "call fword ptr [rip+2f]; hlt; 2: .long 0x8020; .word 0x18; .org 661b+0x20; .byte 0xcb") },
		{ "far CALL to compatibility mode", LONG, S, DONE, ANY, -24, CODE(64, "call fword ptr [rip+2f]; hlt; 2: .long 0x8020; .word 8; .org 661b+0x20; hlt") },
		{ "far JMP to compatibility mode, SSP above 4 GB", LONG3, U + (1ull << 32), GP, 0, 0, CODE(64, "nop; " AT "jmp fword ptr [rip+2f]; nop; hlt; 2: .long 0x8020; .word 0x23; .org 661b+0x20; hlt") },
		{ "far RET, another address", LONG3, U, CP, CP_FAR_RET, 0, CODE(64, "call fword ptr [rip+2f]; hlt; 2: .long 0x8020; .word 0x33; .org 661b+0x20; inc dword ptr [rsp]; " AT ".byte 0xcb") },
		{ "far RET, another CS", LONG3, U, CP, CP_FAR_RET, 0, CODE(64, "call fword ptr [rip+2f]; hlt; 2: .long 0x8020; .word 0x33; .org 661b+0x20; mov dword ptr [rsp+4], 0x23; " AT ".byte 0xcb") },
		{ "far RET, SSP not aligned to 8", LONG3, U + 4, CP, CP_FAR_RET, 0, CODE(64, "push 0x33; push 0x8000; " AT "retfq") },
		{ "far CALL, RET, 32 bits", PROT, CET_FLAT + 4, DONE, ANY, 0, CODE(32, "call 8:0x8020; hlt; .org 661b+0x20; .byte 0xcb") },
		{ "far CALL, 32 bits", PROT, CET_FLAT + 4, DONE, ANY, -28, CODE(32, "call 8:0x8020; hlt; .org 661b+0x20; hlt") },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		bool user = t[i].mode == LONG3;

		cet_start(&rig, t[i].mode, user ? SHSTK : 0, user ? 0 : SHSTK, t[i].ssp);
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		if (t[i].vector == DONE && !user)
			expect(t[i].name, cet_ssp(&rig), t[i].ssp + t[i].moved);
		if (t[i].vector == DONE && t[i].moved)
			expect_frame(&rig, t[i].name, t[i].ssp + t[i].moved, t[i].ssp, t[i].mode == PROT ? 0x8007 : 0x8006, t[i].mode == PROT ? 8 : 0x18);
		rig_end(&rig);
	}
}

/* ---- events ---- */

/* INT 0x40; the gate is open to user code, and its handler may be more than a HLT. */
static void with_handler(struct rig *rig, unsigned ist, const char *bytes, size_t len)
{
	rig_gate(rig, 0x40, rig->mode >= LONG ? CODE64 : CODE32, 0xee, ist);
	memcpy(rig->g.memory + RIG_HANDLERS + 16 * 0x40, bytes, len);
}

static void events(void)
{
	const struct { const char *name; enum rig_mode mode; uint64_t u, s, ssp, token; unsigned ist; int vector; int64_t error; uint64_t ssp2, token2; bool frame; } t[] = {
		{ "INT in ring 0", LONG, 0, SHSTK, S, T, 0, 0x40, ANY, S - 24, T, true },
		{ "INT in ring 0, stack aligned to 4", LONG, 0, SHSTK, S + 4, T, 0, 0x40, ANY, S - 24, T, true },
		{ "INT in ring 0, IST", LONG, 0, SHSTK, S, T, 1, 0x40, ANY, T - 24, T | BUSY, true },
		{ "INT from ring 3", LONG3, SHSTK, SHSTK, U, T, 0, 0x40, ANY, T, T | BUSY, false },
		{ "INT from ring 3, IST", LONG3, SHSTK, SHSTK, U, T, 1, 0x40, ANY, T, T | BUSY, false },
		{ "INT from ring 3, where it has none", LONG3, 0, SHSTK, U, T, 0, 0x40, ANY, T, T | BUSY, false },
		{ "INT from ring 3, to none", LONG3, SHSTK, 0, U, T, 0, 0x40, ANY, U, T, false },
		{ "INT from compatibility mode", COMPAT3, SHSTK, SHSTK, U, T, 0, 0x40, ANY, T, T | BUSY, false },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		bool user = t[i].mode != LONG;

		cet_start(&rig, t[i].mode, t[i].u, t[i].s, t[i].ssp);
		with_handler(&rig, t[i].ist, "\xf4", 1);
		token(&rig, T, t[i].token);
		cet_msr_set(&rig, M_SSP_TABLE, cet_at(DATA, 0));
		cet_poke(&rig, cet_at(DATA, 8), T);
		rig_run(&rig, CODE(64, "int 0x40; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		expect(t[i].name, cet_ssp(&rig), t[i].ssp2);
		expect(t[i].name, cet_peek(&rig, T), t[i].token2);
		if (user && t[i].u)
			expect(t[i].name, cet_msr(&rig, M_PL3_SSP), U);
		if (t[i].frame)
			expect_frame(&rig, t[i].name, t[i].ssp2, t[i].ssp, 0x8002, CODE64);
		rig_end(&rig);
	}
}

/* A stack that cannot be switched to is #GP; its handler has a stack of the table. EXT is not set: INT is the program's. */
static void bad_tokens(void)
{
	const struct { const char *name; uint64_t base, token; int vector; int64_t error; } t[] = {
		{ "busy", T, T | BUSY, GP, 0 }, { "of another address", T, T + 8, GP, 0 }, { "reserved bit", T, T | 2, GP, 0 },
		{ "not aligned", T + 4, T + 4, GP, 0 }, { "not in a shadow stack", cet_at(DATA, 0x818), cet_at(DATA, 0x818), PF, 1 | 2 | PF_SS },
		{ "absent", cet_at(ABSENT, 0x818), 0, PF, 2 | PF_SS }, { "user's", U + 0x18, U + 0x18, PF, 1 | 2 | PF_SS },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, LONG3, SHSTK, SHSTK, U);
		rig_gate(&rig, 0x40, CODE64, 0xee, 0);
		rig_gate(&rig, GP, CODE64, 0x8e, 1);
		rig_gate(&rig, PF, CODE64, 0x8e, 1);
		cet_msr_set(&rig, M_PL0_SSP, t[i].base);
		cet_msr_set(&rig, M_SSP_TABLE, cet_at(DATA, 0));
		cet_poke(&rig, cet_at(DATA, 8), T3);
		cet_poke(&rig, T3, T3);
		cet_poke(&rig, t[i].base & ~7ull, t[i].token);
		rig_run(&rig, CODE(64, "nop; " AT "int 0x40; nop; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		expect(t[i].name, cet_peek(&rig, t[i].base & ~7ull), t[i].token);
		expect(t[i].name, cet_msr(&rig, M_PL3_SSP), U);
		rig_end(&rig);
	}
}

/* A frame beside the token must fit into 32 bytes with it; without a frame anything does. */
static void frames_that_fit(void)
{
	for (unsigned i = 0; i < 4; i++) {
		struct rig rig;
		uint64_t base = cet_at(SHADOW_2, 0x800 + i * 8);

		cet_start(&rig, LONG, 0, SHSTK, S);
		rig_gate(&rig, 0x40, CODE64, 0xee, 1);
		cet_msr_set(&rig, M_SSP_TABLE, cet_at(DATA, 0));
		cet_poke(&rig, cet_at(DATA, 8), base);
		cet_poke(&rig, base, base);
		rig_run(&rig, CODE(64, "nop; " AT "int 0x40; hlt"));
		if (i == 3)
			expect("fits", rig.vector, 0x40);
		else
			expect_outcome(&rig, "does not fit", GP, 0);
		rig_end(&rig);
	}
}

/* ---- IRET ---- */

static void returns(void)
{
	const struct { const char *name; enum rig_mode mode; unsigned ist; int vector; int64_t error; uint64_t ssp2, token2; const char *handler; size_t len; } t[] = {
#define H(bytes) bytes, sizeof(bytes) - 1
		{ "IRET in ring 0", LONG, 0, DONE, ANY, S, T, H("\x48\xcf") },
		{ "IRET in ring 0 from IST", LONG, 1, DONE, ANY, S, T, H("\x48\xcf") },
		{ "IRET to ring 3", LONG3, 0, DONE, ANY, 0, T | BUSY, H("\x48\xcf") },       /* busy again: the HLT's #GP */
		{ "IRET to ring 3 from IST", LONG3, 1, DONE, ANY, 0, T | BUSY, H("\x48\xcf") },
		{ "IRET to another address", LONG, 1, CP, CP_FAR_RET, 0, T | BUSY, H("\x48\xff\x04\x24\x48\xcf") },          /* inc qword ptr [rsp] */
		{ "IRET to ring 3, SSP not aligned to 8", LONG3, 0, CP, CP_FAR_RET, 0, T | BUSY, H("\xb8\x01\x00\x00\x00\xf3\x0f\xae\xe8\x48\xcf") }, /* incsspd eax */
#undef H
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, t[i].mode, SHSTK, SHSTK, t[i].mode == LONG ? S : U);
		with_handler(&rig, t[i].ist, t[i].handler, t[i].len);
		rig_gate(&rig, CP, CODE64, 0x8e, 2);
		rig_poke(&rig, RIG_TSS + 44, 8, RIG_IST1 - 0x400);
		token(&rig, T, T);
		cet_msr_set(&rig, M_SSP_TABLE, cet_at(DATA, 0));
		cet_poke(&rig, cet_at(DATA, 8), T);
		cet_poke(&rig, cet_at(DATA, 16), T3);
		cet_poke(&rig, T3, T3);
		rig_run(&rig, CODE(64, "int 0x40; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		if (t[i].ssp2)
			expect(t[i].name, cet_ssp(&rig), t[i].ssp2);
		expect(t[i].name, cet_peek(&rig, T), t[i].token2);
		if (t[i].mode == LONG3 && t[i].vector == DONE)
			expect(t[i].name, cet_msr(&rig, M_PL3_SSP), U);
		rig_end(&rig);
	}
}

/* ---- call gates ---- */

/* CALL through a gate from ring 3 and back, and on to a frame from ring 0's INT. */
static void call_gates(void)
{
	struct rig rig;

	cet_start(&rig, LONG3, SHSTK, SHSTK, U);
	token(&rig, T, T);
	rig.gdt[FREE / 8] = call_gate(CODE64, RIG_MORE, 0xec, 0);
	rig.gdt[FREE / 8 + 1] = 0;
	memcpy(rig.g.memory + RIG_MORE, "\xf3\x48\x0f\x1e\xc8\x48\xcb", 7);      /* rdsspq rax; retfq */
	rig_run(&rig, CODE(64, "sub rsp, 16; mov dword ptr [rsp], 0; mov word ptr [rsp+4], 0x83; call fword ptr [rsp]; rdsspq rbx; hlt"));
	expect_outcome(&rig, "CALL through a gate", DONE, ANY);
	expect("SSP behind the gate", rig.r2.rax, T);
	expect("SSP after the return", rig.r2.rbx, U);
	rig_end(&rig);
}

/* ---- SYSCALL, SYSENTER ---- */

static void system_calls(void)
{
	static const struct { const char *name; uint64_t u, s; bool enter; uint64_t in, pl3; } t[] = {
		{ "SYSCALL", SHSTK, SHSTK, false, 0, 1 }, { "SYSCALL, ring 0 has none", SHSTK, 0, false, 1, 1 },
		{ "SYSCALL, ring 3 has none", 0, SHSTK, false, 0, 0 }, { "SYSENTER", SHSTK, SHSTK, true, 0, 1 },
		{ "SYSENTER, ring 0 has none", SHSTK, 0, true, 1, 1 }, { "SYSENTER, ring 3 has none", 0, SHSTK, true, 0, 0 },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, LONG3, t[i].u, t[i].s, U);
		rig.s.efer |= 1;
		cet_msr_set(&rig, 0xc0000081, (uint64_t)CODE64 << 32 | (uint64_t)USER32 << 48);
		cet_msr_set(&rig, 0xc0000082, RIG_MORE);
		cet_msr_set(&rig, 0x174, CODE64);
		cet_msr_set(&rig, 0x175, RIG_STACK0);
		cet_msr_set(&rig, 0x176, RIG_MORE);
		rig.g.memory[RIG_MORE] = 0xf4;
		rig_run(&rig, t[i].enter ? CODE(64, "sysenter; hlt") : CODE(64, "syscall; hlt"));
		expect_outcome(&rig, t[i].name, DONE, ANY);
		expect(t[i].name, cet_ssp(&rig), t[i].in ? U : 0);
		expect(t[i].name, cet_msr(&rig, M_PL3_SSP), t[i].pl3 ? U : 0);
		rig_end(&rig);
		/* and back: SYSRET and SYSEXIT */
		cet_start(&rig, LONG, t[i].u, 0, S);
		rig.s.efer |= 1;
		cet_msr_set(&rig, 0xc0000081, (uint64_t)CODE64 << 32 | (uint64_t)USER32 << 48);
		cet_msr_set(&rig, 0x174, 0x10);
		cet_msr_set(&rig, M_PL3_SSP, U);
		rig.gdt[6] = rig.gdt[USER64 / 8];
		rig.r.rcx = t[i].enter ? RIG_STACK : 0x8008;
		rig.r.rdx = 0x8008;
		rig_run(&rig, t[i].enter ? CODE(64, "sysexitq; .org 661b+8; hlt") : CODE(64, "sysretq; .org 661b+8; hlt"));
		expect("back in ring 3", rig.cs & 3, 3);
		expect(t[i].name, cet_ssp(&rig), t[i].u ? U : S);
		rig_end(&rig);
	}
}

/* ---- tasks ---- */

enum { NEW_SSP = CET_FLAT + 0x118 };

/* TSS2: a task of ring 0 at RIG_MORE, whose stack pointers are given. */
static void task_make(struct rig *rig, uint64_t limit, uint32_t ssp, uint64_t token)
{
	static const struct { uint8_t at; uint16_t value; } words[] = { { 72, DATA32 }, { 76, CODE32 }, { 80, DATA32 }, { 84, DATA32 } };

	rig->gdt[TSS2 / 8] = descriptor(RIG_TSS2, limit, 0x89, 0);
	rig_poke(rig, RIG_TSS2 + 32, 4, RIG_MORE);
	rig_poke(rig, RIG_TSS2 + 36, 4, 2);
	rig_poke(rig, RIG_TSS2 + 56, 4, RIG_STACK - 0x800);
	for (unsigned i = 0; i < 4; i++)
		rig_poke(rig, RIG_TSS2 + words[i].at, 2, words[i].value);
	rig_poke(rig, RIG_TSS2 + 104, 4, ssp);
	cet_poke(rig, ssp & ~7u, token);
	rig->gdt[TSS / 8] = descriptor(RIG_TSS, 0x3ff, 0x8b, 0);
}

static void tasks(void)
{
	static const struct { const char *name; uint64_t s; unsigned limit; uint32_t ssp; uint64_t token; int vector; int64_t error; uint64_t ssp2; } t[] = {
		{ "a task", SHSTK, 0x6b, NEW_SSP, NEW_SSP, DONE, ANY, NEW_SSP - 24 },
		{ "a TSS without SSP", SHSTK, 0x67, NEW_SSP, NEW_SSP, TS, TSS2, CET_FLAT - 24 },
		{ "a TSS without SSP, tracking only", ENDBR, 0x67, NEW_SSP, NEW_SSP, TS, TSS2, CET_FLAT },
		{ "a busy stack", SHSTK, 0x6b, NEW_SSP, NEW_SSP | BUSY, TS, TSS2, 0 },
		{ "a stack that is not aligned to 8", SHSTK, 0x6b, NEW_SSP + 4, NEW_SSP, TS, TSS2, 0 },
		{ "no shadow stack", 0, 0x6b, NEW_SSP, NEW_SSP, DONE, ANY, CET_FLAT },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, PROT, 0, t[i].s, CET_FLAT);
		cet_mark_handlers(&rig);
		task_make(&rig, t[i].limit, t[i].ssp, t[i].token);
		rig.g.memory[RIG_MORE] = 0xf4;
		rig_run(&rig, CODE(32, "call 0x50:0; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		if (t[i].ssp2)
			expect(t[i].name, cet_ssp(&rig), t[i].ssp2);
		if (t[i].vector == DONE && t[i].s)
			expect_frame(&rig, t[i].name, t[i].ssp2, CET_FLAT, 0x8007, CODE32);
		rig_end(&rig);
	}
}

/* Back by IRET: the frame is checked, the token freed. A #CP is the new task's, which has no SSP: here a task gate takes it. */
static void task_returns(void)
{
	for (unsigned bad = 0; bad < 2; bad++) {
		struct rig rig;

		cet_start(&rig, PROT, 0, SHSTK, CET_FLAT);
		task_make(&rig, 0x6b, NEW_SSP, NEW_SSP);
		rig_poke(&rig, RIG_TSS + 76, 2, CODE32);
		if (bad)                         /* inc dword ptr [RIG_TSS + 32]; iret */
			memcpy(rig.g.memory + RIG_MORE, "\xff\x05\x20\x20\x00\x00\xcf\xf4", 8);
		else
			rig.g.memory[RIG_MORE] = 0xcf;
		rig_gate(&rig, CP, TSS2, 0x85, 0);
		rig_run(&rig, CODE(32, "call 0x50:0; hlt; hlt"));
		expect_outcome(&rig, "IRET from a task", DONE, ANY);
		expect("SSP of the task", cet_ssp(&rig), bad ? NEW_SSP - 24 : CET_FLAT);
		expect("where it goes on", rig.r2.rip, bad ? RIG_MORE + 8 : 0x8008);
		if (bad)
			expect("error code", rig_peek(&rig, rig.r2.rsp, 4), CP_FAR_RET);
		expect("token of the task that is left", cet_peek(&rig, NEW_SSP), bad ? NEW_SSP | BUSY : NEW_SSP);
		rig_end(&rig);
	}
}

int main(void)
{
	same_ring();
	events();
	bad_tokens();
	frames_that_fit();
	returns();
	call_gates();
	system_calls();
	tasks();
	task_returns();
	return rig_summary();
}
