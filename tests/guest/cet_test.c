/* Shadow stacks: near and far branches, events, their own instructions, and the rights of their pages. */
#include "cet.h"

static const uint64_t S = RIG_PAGES + 0x800;                     /* in SHADOW */
static const uint64_t U = RIG_PAGES + 4096 * USER_SHADOW + 0x800;
enum { P = 1, W = 2, RSVD = 8, USER = 4 };

/* ---- near CALL and RET ---- */

static void near_branches(void)
{
	const struct { const char *name; enum rig_mode mode; uint64_t ssp; int vector; int64_t error; int moved; struct code code; } t[] = {
		{ "CALL, RET", LONG, S, DONE, ANY, 0, CODE(64, "call 1f; hlt; 1: ret") },
		{ "CALL leaves the address", LONG, S, DONE, ANY, -8, CODE(64, "call 1f; nop; 1: hlt") },
		{ "CALL to the next instruction", LONG, S, DONE, ANY, 0, CODE(64, "call 1f; 1: hlt") },
		{ "indirect CALL to the next instruction", LONG, S, DONE, ANY, -8, CODE(64, "lea rax, [rip+1f]; call rax; 1: hlt") },
		{ "CALL through memory", LONG, S, DONE, ANY, 0, CODE(64, "lea rax, [rip+1f]; push rax; call [rsp]; hlt; 1: ret") },
		{ "RET n", LONG, S, DONE, ANY, 0, CODE(64, "push rax; call 1f; hlt; 1: ret 8") },
		{ "another address", LONG, S, CP, CP_NEAR_RET, -8, CODE(64, "call 1f; hlt; 1: inc qword ptr [rsp]; " AT "ret") },
		{ "the upper half counts", LONG, S, CP, CP_NEAR_RET, -8, CODE(64, "call 1f; hlt; 1: mov byte ptr [rsp+5], 1; " AT "ret") },
		{ "32 bits", PROT, CET_FLAT, DONE, ANY, 0, CODE(32, "call 1f; hlt; 1: ret") },
		{ "32 bits leave 4 bytes", PROT, CET_FLAT, DONE, ANY, -4, CODE(32, "call 1f; nop; 1: hlt") },
		{ "32 bits, another address", PROT, CET_FLAT, CP, CP_NEAR_RET, -4, CODE(32, "call 1f; hlt; 1: inc dword ptr [esp]; " AT "ret") },
		{ "16-bit operands", PROT, CET_FLAT, DONE, ANY, 0, CODE(32, "mov ax, offset 0x8010; .byte 0x66, 0xff, 0xd0; hlt; .org 661b + 0x10; .byte 0x66, 0xc3") },
		{ "compatibility mode", COMPAT, S, DONE, ANY, -4, CODE(32, "call 1f; 2: nop; 1: hlt") },
		{ "user code", LONG3, U, DONE, ANY, 0, CODE(64, "call 1f; hlt; 1: ret") },
		{ "user code, another address", LONG3, U, CP, CP_NEAR_RET, -8, CODE(64, "call 1f; hlt; 1: inc qword ptr [rsp]; " AT "ret") },
		{ "user code in compatibility mode", COMPAT3, U, DONE, ANY, 0, CODE(32, "call 1f; hlt; 1: ret") },
		{ "user code, 32 bits", PROT3, CET_FLAT, DONE, ANY, 0, CODE(32, "call 1f; hlt; 1: ret") },
		{ "across pages", LONG, RIG_PAGES + 4096 * SHADOW_3 + 4, DONE, ANY, 0, CODE(64, "call 1f; hlt; 1: ret") },
		{ "below the canonical addresses", LONG3, 0xffff800000000000, GP, 0, 0, CODE(64, "nop; " AT "call 1f; nop; 1: ret") },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, t[i].mode, SHSTK, t[i].mode == LONG3 || t[i].mode == COMPAT3 || t[i].mode == PROT3 ? 0 : SHSTK, t[i].ssp);
		rig_gate(&rig, CP, t[i].mode >= LONG ? CODE64 : CODE32, 0x8e, 0);
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		if (t[i].vector == DONE && t[i].mode != LONG3 && t[i].mode != COMPAT3 && t[i].mode != PROT3)
			expect(t[i].name, cet_ssp(&rig), t[i].ssp + t[i].moved);
		if (t[i].moved == -8 && t[i].vector == DONE)
			expect(t[i].name, cet_peek(&rig, t[i].ssp - 8), rig_peek(&rig, rig.r2.rsp, 8));
		rig_end(&rig);
	}
}

/* A fault leaves both stack pointers alone. */
static void rights(void)
{
	static const struct { const char *name; enum rig_mode mode; enum cet_page page; int64_t call, ret; } t[] = {
		{ "a writable page", LONG, DATA, P | W | PF_SS, P | PF_SS },
		{ "a clean page", LONG, CLEAN, P | W | PF_SS, P | PF_SS },
		{ "no page", LONG, ABSENT, W | PF_SS, PF_SS },
		{ "a user's shadow stack in ring 0", LONG, USER_SHADOW, P | W | PF_SS, P | PF_SS },
		{ "a writable page, user code", LONG3, USER_DATA, P | W | USER | PF_SS, P | USER | PF_SS },
		{ "ring 0's shadow stack, user code", LONG3, SHADOW, P | W | USER | PF_SS, P | USER | PF_SS },
		{ "no page, user code", LONG3, ABSENT, W | USER | PF_SS, USER | PF_SS },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t) * 2; i++) {
		struct rig rig;
		unsigned k = i / 2;
		uint64_t ssp = cet_at(t[k].page, 0x800);
		bool user = t[k].mode == LONG3;

		/* ring 0's handler gets a stack from the interrupt SSP table */
		cet_start(&rig, t[k].mode, SHSTK, user ? 0 : SHSTK, ssp);
		rig_gate(&rig, PF, CODE64, 0x8e, 1);
		cet_msr_set(&rig, M_SSP_TABLE, cet_at(DATA, 0));
		cet_poke(&rig, cet_at(DATA, 8), cet_at(SHADOW_2, 0x818));
		cet_poke(&rig, cet_at(SHADOW_2, 0x818), cet_at(SHADOW_2, 0x818));
		rig_run(&rig, i & 1 ? CODE(64, "push rax; " AT "ret") : CODE(64, "nop; " AT "call 1f; hlt; 1: hlt"));
		expect_outcome(&rig, t[k].name, PF, i & 1 ? t[k].ret : t[k].call);
		expect(t[k].name, rig.s2.cr2, i & 1 ? ssp : ssp - 8);
		expect(t[k].name, rig.rsp, RIG_STACK - (i & 1 ? 8 : 0));
		if (!user)
			expect(t[k].name, cet_peek(&rig, cet_at(SHADOW_2, 0x800)), ssp);
		rig_end(&rig);
	}
}

/* Other instructions may read them, not write. */
static void ordinary_accesses(void)
{
	CET_CASE(LONG, 0, SHSTK, S, "a load", DONE, ANY, 64, "mov rax, [rbx]; hlt", rig->r.rbx = S);
	CET_CASE(LONG, 0, SHSTK, S, "a store", PF, P | W, 64, "nop; " AT "mov [rbx], rax; hlt", rig->r.rbx = S);
	CET_CASE(LONG, 0, 0, S, "a store without a shadow stack", PF, P | W, 64, "nop; " AT "mov [rbx], rax; hlt", rig->r.rbx = S);
}

/* ---- instructions ---- */

enum { NO_HOLE, T64 = 1, PREVIOUS = 2 };

/* RBX, or EBX, is the operand's address. One row: outcome, SSP after it (0: as before), and what is then at RBX. */
static void instructions(void)
{
	const uint64_t D = cet_at(DATA, 0x100), K = cet_at(SHADOW_2, 0x800);
	const struct { const char *name; enum rig_mode mode; uint64_t u, s, ssp, rbx, at_rbx; int vector; int64_t error; uint64_t ssp2, at_rbx2;
	               struct code code; } t[] = {
		{ "INCSSPQ", LONG, 0, SHSTK, S, S, 0, DONE, ANY, S + 24, 0, CODE(64, "mov eax, 0x103; incsspq rax; hlt") },
		{ "INCSSPD", LONG, 0, SHSTK, S, S, 0, DONE, ANY, S + 12, 0, CODE(64, "mov eax, 3; incsspd eax; hlt") },
		{ "INCSSPQ 0", LONG, 0, SHSTK, S, S, 0, DONE, ANY, S, 0, CODE(64, "xor eax, eax; incsspq rax; hlt") },
		{ "INCSSPQ beyond the stack", LONG3, SHSTK, 0, U, U, 0, PF, P | USER | PF_SS, 0, 0, CODE(64, "mov eax, 255; .rept 1; incsspq rax; .endr; mov eax, 3; " AT "incsspq rax; hlt") },
		{ "INCSSPQ without a shadow stack", LONG, SHSTK, 0, S, S, 0, UD, ANY, 0, 0, CODE(64, "nop; " AT "incsspq rax; hlt") },
		{ "WRSSQ", LONG, 0, SHSTK | WRSS, S, K, 0, DONE, ANY, S, 0x1122334455667788, CODE(64, "mov rax, 0x1122334455667788; wrssq [rbx], rax; hlt") },
		{ "WRSSD", LONG, 0, SHSTK | WRSS, S, K, -1, DONE, ANY, S, 0xffffffff55667788, CODE(64, "mov rax, 0x1122334455667788; wrssd [rbx], eax; hlt") },
		{ "WRSSQ in user code", LONG3, SHSTK | WRSS, 0, U, U - 64, 0, DONE, ANY, 0, 5, CODE(64, "mov eax, 5; wrssq [rbx], rax; hlt") },
		{ "WRSSQ is not enabled", LONG, SHSTK | WRSS, SHSTK, S, K, 0, UD, ANY, 0, 0, CODE(64, "nop; " AT "wrssq [rbx], rax; hlt") },
		{ "WRSSQ without a shadow stack", LONG, 0, WRSS, S, K, 0, UD, ANY, 0, 0, CODE(64, "nop; " AT "wrssq [rbx], rax; hlt") },
		{ "WRSSQ, not aligned", LONG, 0, SHSTK | WRSS, S, K + 4, 0, GP, 0, 0, 0, CODE(64, "nop; " AT "wrssq [rbx], rax; hlt") },
		{ "WRSSD, not aligned", LONG, 0, SHSTK | WRSS, S, K + 2, 0, GP, 0, 0, 0, CODE(64, "nop; " AT "wrssd [rbx], eax; hlt") },
		{ "WRSSQ to another page", LONG3, SHSTK | WRSS, 0, U, cet_at(USER_DATA, 0), 0, PF, P | W | USER | PF_SS, 0, 0, CODE(64, "nop; " AT "wrssq [rbx], rax; hlt") },
		{ "WRUSSQ", LONG, 0, 0, S, U, 0, DONE, ANY, S, 7, CODE(64, "mov eax, 7; wrussq [rbx], rax; hlt") },
		{ "WRUSSD", LONG, 0, 0, S, U, 0, DONE, ANY, S, 7, CODE(64, "mov eax, 7; wrussd [rbx], eax; hlt") },
		{ "WRUSSQ to ring 0's", LONG, 0, 0, S, K, 0, PF, P | W | USER | PF_SS, 0, 0, CODE(64, "nop; " AT "wrussq [rbx], rax; hlt") },
		{ "WRUSSQ in user code", LONG3, SHSTK | WRSS, 0, U, U, 0, GP, 0, 0, 0, CODE(64, "nop; " AT "wrussq [rbx], rax; nop; hlt") },
		{ "RSTORSSP", LONG, 0, SHSTK, S, K, K + 8 + T64, DONE, ANY, K, S | PREVIOUS | T64, CODE(64, "stc; rstorssp [rbx]; jc 1f; hlt; 1: ud2") },
		{ "RSTORSSP with a hole", LONG, 0, SHSTK, S, K, K + 12 + T64, DONE, ANY, K, S | PREVIOUS | T64, CODE(64, "clc; rstorssp [rbx]; jnc 1f; hlt; 1: ud2") },
		{ "RSTORSSP of a 32-bit token", LONG3, SHSTK, 0, U, U - 64, U - 56, CP, CP_RSTORSSP, 0, U - 56, CODE(64, "nop; " AT "rstorssp [rbx]; hlt") },
		{ "RSTORSSP of a previous-SSP token", LONG3, SHSTK, 0, U, U - 64, (U - 56) | 3, CP, CP_RSTORSSP, 0, (U - 56) | 3, CODE(64, "nop; " AT "rstorssp [rbx]; hlt") },
		{ "RSTORSSP of another address", LONG3, SHSTK, 0, U, U - 64, U + 1, CP, CP_RSTORSSP, 0, U + 1, CODE(64, "nop; " AT "rstorssp [rbx]; hlt") },
		{ "RSTORSSP, not aligned", LONG3, SHSTK, 0, U, U - 60, 0, GP, 0, 0, 0, CODE(64, "nop; " AT "rstorssp [rbx]; nop; hlt") },
		{ "RSTORSSP without a shadow stack", LONG3, 0, 0, U, U - 64, 0, UD, ANY, 0, 0, CODE(64, "nop; " AT "rstorssp [rbx]; hlt") },
		{ "RSTORSSP, 32 bits", COMPAT, 0, SHSTK, S, K, K + 8, DONE, ANY, K, S | PREVIOUS, CODE(32, "rstorssp [ebx]; hlt") },
		{ "RSTORSSP of a 64-bit token, 32 bits", COMPAT3, SHSTK, 0, U, U - 64, (U - 56) | 1, CP, CP_RSTORSSP, 0, (U - 56) | 1, CODE(32, "nop; " AT "rstorssp [ebx]; hlt") },
		{ "RSTORSSP, SAVEPREVSSP", LONG, 0, SHSTK, S, K, K + 8 + T64, DONE, ANY, K + 8, S | 3, CODE(64, "rstorssp [rbx]; saveprevssp; hlt") },
		{ "and back", LONG, 0, SHSTK, S, K, K + 8 + T64, DONE, ANY, S, K + 8 + T64, CODE(64, "rstorssp [rbx]; saveprevssp; lea rcx, [0x40000800-8]; rstorssp [rcx]; saveprevssp; hlt") },
		{ "SAVEPREVSSP after a hole", LONG3, SHSTK, 0, U, U, (U + 64) | 3, GP, 0, 0, 0, CODE(64, "stc; " AT "saveprevssp; nop; hlt") },
		{ "SAVEPREVSSP with a hole, 32 bits", COMPAT, 0, SHSTK, K, K, S | PREVIOUS, DONE, ANY, K + 12, S | PREVIOUS, CODE(32, "stc; saveprevssp; hlt") },
		{ "SAVEPREVSSP of another token", LONG3, SHSTK, 0, U, U, (U + 64) | 1, GP, 0, 0, 0, CODE(64, "clc; " AT "saveprevssp; nop; hlt") },
		{ "SAVEPREVSSP, SSP not aligned", LONG3, SHSTK, 0, U + 4, U, 0, GP, 0, 0, 0, CODE(64, "clc; " AT "saveprevssp; nop; hlt") },
		{ "SAVEPREVSSP without a shadow stack", LONG3, 0, 0, U, U, 0, UD, ANY, 0, 0, CODE(64, "clc; " AT "saveprevssp; hlt") },
		{ "SETSSBSY", LONG, 0, SHSTK, 0, K, K, DONE, ANY, K, K | 1, CODE(64, "mov ecx, 0x6a4; mov rax, rbx; xor edx, edx; wrmsr; setssbsy; hlt") },
		{ "SETSSBSY in user code", LONG3, SHSTK, SHSTK, U, K, K, GP, 0, 0, 0, CODE(64, "nop; " AT "setssbsy; nop; hlt") },
		{ "SETSSBSY without a shadow stack", LONG, SHSTK, 0, S, K, K, UD, ANY, 0, 0, CODE(64, "nop; " AT "setssbsy; hlt") },
		{ "CLRSSBSY", LONG, 0, SHSTK, S, K, K | 1, DONE, ANY, -1, K, CODE(64, "stc; clrssbsy [rbx]; jc 1f; hlt; 1: ud2") },
		{ "CLRSSBSY of a free one", LONG, 0, SHSTK, S, K, K, DONE, ANY, -1, K, CODE(64, "clc; clrssbsy [rbx]; jnc 1f; hlt; 1: ud2") },
		{ "CLRSSBSY of another address", LONG, 0, SHSTK, S, K, S | 1, DONE, ANY, -1, S | 1, CODE(64, "clrssbsy [rbx]; jnc 1f; hlt; 1: ud2") },
		{ "CLRSSBSY, not aligned", LONG, 0, SHSTK, S, K + 4, 0, GP, 0, 0, 0, CODE(64, "nop; " AT "clrssbsy [rbx]; hlt") },
		{ "CLRSSBSY elsewhere", LONG, 0, SHSTK, S, D, D | 1, PF, P | W | PF_SS, 0, D | 1, CODE(64, "nop; " AT "clrssbsy [rbx]; hlt") },
		{ "CLRSSBSY in user code", LONG3, SHSTK, SHSTK, U, K, K, GP, 0, 0, 0, CODE(64, "nop; " AT "clrssbsy [rbx]; nop; hlt") },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, t[i].mode, t[i].u, t[i].s, t[i].ssp);
		if (t[i].mode == LONG3 || t[i].mode == COMPAT3) {        /* the handler's */
			cet_msr_set(&rig, M_PL0_SSP, cet_at(SHADOW_3, 0x818));
			cet_poke(&rig, cet_at(SHADOW_3, 0x818), cet_at(SHADOW_3, 0x818));
		}
		cet_poke(&rig, t[i].rbx & ~7ull, t[i].at_rbx);
		rig.r.rbx = t[i].rbx;
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		if (t[i].ssp2)
			expect(t[i].name, cet_ssp(&rig), t[i].ssp2 == -1ull ? 0 : t[i].ssp2);
		if (t[i].at_rbx2)
			expect(t[i].name, cet_peek(&rig, t[i].rbx), t[i].at_rbx2);
		rig_end(&rig);
	}
}

static void read_ssp(void)
{
	CET_VALUE(LONG, 0, SHSTK, S, "RDSSPQ", 64, "mov rax, -1; rdsspq rax; hlt", S);
	CET_VALUE(LONG, 0, SHSTK, S, "RDSSPD", 64, "mov rax, -1; rdsspd eax; hlt", S);
	CET_VALUE(LONG, SHSTK, 0, S, "RDSSPQ without a shadow stack", 64, "mov rax, -1; rdsspq rax; hlt", -1ull);
	CET_VALUE(LONG, 0, SHSTK, S, "RDSSPQ to R12", 64, "rdsspq r12; mov rax, r12; hlt", S);
}

int main(void)
{
	near_branches();
	rights();
	ordinary_accesses();
	instructions();
	read_ssp();
	return rig_summary();
}
