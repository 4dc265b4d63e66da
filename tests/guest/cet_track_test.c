/* Indirect branch tracking; control registers, MSRs and XSAVES of CET. */
#include "base/base.h"
#include "cet.h"

static const uint64_t S = RIG_PAGES + 0x800;
static const uint64_t U = RIG_PAGES + 4096 * USER_SHADOW + 0x800;
enum { P = 1, W = 2, USER = 4 };

/* ---- what leads where ---- */

#define TO(label) "lea rax, [rip+" #label "]; "
#define ENDBR64_ ".byte 0xf3, 0x0f, 0x1e, 0xfa; "
#define ENDBR32_ ".byte 0xf3, 0x0f, 0x1e, 0xfb; "

/* In ring 3, with S_CET clear. control: U_CET; control2: its lower bits afterwards. */
static void branches(void)
{
	const struct { const char *name; enum rig_mode mode; uint64_t control; int vector; int64_t error; uint64_t control2; struct code code; } t[] = {
		{ "JMP to ENDBR64", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, TO(1f) "jmp rax; 1: " ENDBR64_ "hlt") },
		{ "JMP elsewhere", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) "jmp rax; 1: " AT "nop; hlt") },
		{ "JMP to ENDBR32", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) "jmp rax; 1: " AT ENDBR32_ "hlt") },
		{ "JMP to an undefined instruction", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) "jmp rax; 1: " AT "ud2; hlt") },
		{ "JMP to bytes that are none", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) "jmp rax; 1: " AT ".byte 6; hlt") },
		{ "JMP to INT3", LONG3, ENDBR, BP, ANY, ENDBR | WAIT, CODE(64, TO(1f) "jmp rax; 1: int3; " AT "hlt") },
		{ "JMP to INT1", LONG3, ENDBR, DB, ANY, ENDBR | WAIT, CODE(64, TO(1f) "jmp rax; 1: .byte 0xf1; " AT "hlt") },
		{ "JMP to an ENDBR64 with prefixes", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, TO(1f) "jmp rax; 1: .byte 0x66, 0xf3, 0x48, 0x0f, 0x1e, 0xfa; hlt") },
		{ "JMP through memory", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) "push rax; jmp [rsp]; 1: " AT "nop; hlt") },
		{ "CALL to ENDBR64", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, TO(1f) "call rax; hlt; 1: " ENDBR64_ "ret") },
		{ "CALL elsewhere", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) "call rax; hlt; 1: " AT "ret") },
		{ "direct JMP, CALL and RET", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, "jmp 1f; 2: ret; 1: call 2b; hlt") },
		{ "ENDBR64 alone", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, ENDBR64_ ENDBR32_ "hlt") },
		{ "not enabled", LONG3, SHSTK, DONE, ANY, SHSTK, CODE(64, TO(1f) "jmp rax; 1: hlt") },
		{ "3E", LONG3, ENDBR | NO_TRACK, DONE, ANY, ENDBR | NO_TRACK, CODE(64, TO(1f) ".byte 0x3e; jmp rax; 1: hlt") },
		{ "3E before CALL", LONG3, ENDBR | NO_TRACK, DONE, ANY, ENDBR | NO_TRACK, CODE(64, TO(1f) ".byte 0x3e; call rax; 1: hlt") },
		{ "3E, not enabled", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, TO(1f) ".byte 0x3e; jmp rax; 1: " AT "hlt") },
		{ "3E and 64", LONG3, ENDBR | NO_TRACK, CP, CP_ENDBRANCH, ENDBR | NO_TRACK | WAIT, CODE(64, TO(1f) ".byte 0x64, 0x3e; jmp rax; 1: " AT "hlt") },
		{ "3E and 2E", LONG3, ENDBR | NO_TRACK, DONE, ANY, ENDBR | NO_TRACK, CODE(64, TO(1f) ".byte 0x3e, 0x2e; jmp rax; 1: hlt") },
		{ "3E and 2E, 32 bits", COMPAT3, ENDBR | NO_TRACK, CP, CP_ENDBRANCH, ENDBR | NO_TRACK | WAIT, CODE(32, "mov eax, 0x8020; .byte 0x3e, 0x2e; jmp eax; .org 661b+0x20; " AT "hlt") },
		{ "2E and 3E, 32 bits", COMPAT3, ENDBR | NO_TRACK, DONE, ANY, ENDBR | NO_TRACK, CODE(32, "mov eax, 0x8020; .byte 0x2e, 0x3e; jmp eax; .org 661b+0x20; hlt") },
		{ "JMP to ENDBR32, 32 bits", COMPAT3, ENDBR, DONE, ANY, ENDBR, CODE(32, "mov eax, 0x8020; jmp eax; .org 661b+0x20; " ENDBR32_ "hlt") },
		{ "JMP to ENDBR64, 32 bits", COMPAT3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(32, "mov eax, 0x8020; jmp eax; .org 661b+0x20; " AT ENDBR64_ "hlt") },
		{ "JMP elsewhere, 32 bits", PROT3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(32, "mov eax, 0x8020; jmp eax; .org 661b+0x20; " AT "hlt") },
		{ "far JMP", LONG3, ENDBR, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, "jmp fword ptr [rip+2f]; 2: .long 0x8020; .word 0x33; .org 661b+0x20; " AT "hlt") },
		{ "far JMP, 3E", LONG3, ENDBR | NO_TRACK, CP, CP_ENDBRANCH, ENDBR | NO_TRACK | WAIT, CODE(64, ".byte 0x3e; jmp fword ptr [rip+2f]; 2: .long 0x8020; .word 0x33; .org 661b+0x20; " AT "hlt") },
		{ "far CALL", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, "call fword ptr [rip+2f]; 2: .long 0x8020; .word 0x33; .org 661b+0x20; " ENDBR64_ "hlt") },
		{ "far RET", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, "push 0x33; push 0x8020; retfq; .org 661b+0x20; hlt") },
		{ "suppressed", LONG3, ENDBR | SUPPRESS, DONE, ANY, ENDBR | SUPPRESS, CODE(64, TO(1f) "jmp rax; 1: hlt") },
		{ "no longer suppressed after ENDBR64", LONG3, ENDBR | SUPPRESS, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, ENDBR64_ TO(1f) "jmp rax; 1: " AT "hlt") },
		{ "still suppressed after ENDBR32", LONG3, ENDBR | SUPPRESS, DONE, ANY, ENDBR | SUPPRESS, CODE(64, ENDBR32_ TO(1f) "jmp rax; 1: hlt") },
		{ "no longer suppressed after a far JMP", LONG3, ENDBR | SUPPRESS, DONE, ANY, ENDBR, CODE(64, "jmp fword ptr [rip+2f]; 2: .long 0x8020; .word 0x33; .org 661b+0x20; " ENDBR64_ "hlt") },
		{ "waiting at the start", LONG3, ENDBR | WAIT, CP, CP_ENDBRANCH, ENDBR | WAIT, CODE(64, AT "nop; hlt") },
		{ "target across pages", LONG3, ENDBR, DONE, ANY, ENDBR, CODE(64, "lea rax, [rip+1f]; jmp rax; .org 661b+0xffe; 1: " ENDBR64_ "hlt") },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, t[i].mode, t[i].control & ~(uint64_t)SHSTK, 0, U);
		rig_gate(&rig, BP, t[i].mode >= LONG ? CODE64 : CODE32, 0xee, 0);
		cet_msr_set(&rig, M_U_CET, t[i].control);
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		expect(t[i].name, cet_msr(&rig, M_U_CET), t[i].control2);
		rig_end(&rig);
	}
}

/* Ring 0: the handler must begin with ENDBR64, too; both trackers keep their states across INT and IRET. */
static void supervisor(void)
{
	struct rig rig;

	cet_start(&rig, LONG, 0, ENDBR, S);
	cet_mark_handlers(&rig);
	rig_run(&rig, CODE(64, TO(1f) "jmp rax; 1: " AT "nop; hlt"));
	expect_outcome(&rig, "JMP elsewhere in ring 0", CP, CP_ENDBRANCH);
	expect("the handler's ENDBR64 was met", cet_msr(&rig, M_S_CET), ENDBR);
	rig_end(&rig);
	cet_start(&rig, LONG3, ENDBR | WAIT, ENDBR, U);
	rig_gate(&rig, BP, CODE64, 0xee, 0);
	cet_mark_handlers(&rig);                         /* endbr64; inc qword ptr [rsp]; iretq */
	memcpy(rig.g.memory + RIG_HANDLERS + 16 * BP, "\xf3\x0f\x1e\xfa\x48\xff\x04\x24\x48\xcf", 10);
	rig_run(&rig, CODE(64, "int3; nop; " AT "nop; hlt"));
	expect_outcome(&rig, "the tracker waits across INT3 and IRET", CP, CP_ENDBRANCH);
	rig_end(&rig);
	cet_start(&rig, LONG, 0, ENDBR | SUPPRESS, S);
	cet_mark_handlers(&rig);
	rig_run(&rig, CODE(64, "int 0x40; hlt"));
	expect("events end the suppression", cet_msr(&rig, M_S_CET), ENDBR);
	rig_end(&rig);
}

/* ---- the legacy code page bitmap ---- */

static void legacy_pages(void)
{
	static const struct { const char *name; uint64_t control; int bit; int vector; int64_t error; uint64_t control2; } t[] = {
		{ "a legacy page", ENDBR | LEGACY, 1, DONE, ANY, ENDBR | LEGACY | SUPPRESS },
		{ "a legacy page, suppression disabled", ENDBR | LEGACY | SUPPRESS_DIS, 1, DONE, ANY, ENDBR | LEGACY | SUPPRESS_DIS },
		{ "no legacy page", ENDBR | LEGACY, 0, CP, CP_ENDBRANCH, ENDBR | LEGACY | WAIT },
		{ "a bitmap that does not count", ENDBR, 1, CP, CP_ENDBRANCH, ENDBR | WAIT },
	};
	struct rig rig;

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		uint64_t bitmap = cet_at(USER_DATA, 0);

		cet_start(&rig, LONG3, t[i].control | bitmap, 0, U);
		cet_poke(&rig, bitmap, (uint64_t)t[i].bit << (RIG_CODE >> 12));
		rig_run(&rig, CODE(64, TO(1f) "jmp rax; 1: " AT "mov ebx, 5; nop; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].error);
		expect(t[i].name, cet_msr(&rig, M_U_CET), t[i].control2 | bitmap);
		rig_end(&rig);
	}
	cet_start(&rig, LONG3, ENDBR | LEGACY | cet_at(ABSENT, 0), 0, U);
	rig_run(&rig, CODE(64, TO(1f) "jmp rax; 1: " AT "nop; hlt"));
	expect_outcome(&rig, "a bitmap that is not there", PF, USER);
	expect("its byte", rig.s2.cr2, cet_at(ABSENT, RIG_CODE >> 15));
	rig_end(&rig);
	cet_start(&rig, LONG3, ENDBR | LEGACY | cet_at(DATA, 0), 0, U);
	rig_run(&rig, CODE(64, TO(1f) "jmp rax; 1: " AT "nop; hlt"));
	expect_outcome(&rig, "a bitmap of ring 0", PF, P | USER);
	rig_end(&rig);
	/* a single step ends after the instruction, not at the look into the bitmap */
	cet_start(&rig, LONG3, ENDBR | LEGACY | WAIT | cet_at(USER_DATA, 0), 0, U);
	cet_poke(&rig, cet_at(USER_DATA, 0), 1ull << (RIG_CODE >> 12));
	rig.r.rflags |= 0x100;
	rig_run(&rig, CODE(64, "mov ebx, 5; " AT "nop; hlt"));
	expect_outcome(&rig, "a single step", DB, ANY);
	expect("a single step", rig.r2.rbx, 5);
	rig_end(&rig);
}

/* ---- CR4, CR0, MSRs ---- */

#define WR(name, index, value, want) \
	CET_CASE(LONG, 0, 0, S, name, want, ANY, 64, "nop; " AT "wrmsr; hlt", rig->r.rcx = index; \
	          rig->r.rax = (uint32_t)(value); rig->r.rdx = (uint64_t)(value) >> 32)

static void registers(void)
{
	CET_CASE(LONG, 0, 0, S, "CR4.CET without CR0.WP", GP, 0, 64, "nop; " AT "mov cr4, rax; hlt", rig->r.rax = rig->s.cr4; rig->s.cr4 &= ~(1ull << 23); rig->s.cr0 &= ~(1ull << 16));
	CET_CASE(LONG, 0, 0, S, "CR0.WP off under CR4.CET", GP, 0, 64, "mov rax, cr0; btr eax, 16; " AT "mov cr0, rax; hlt");
	CET_CASE(LONG, 0, 0, S, "CR4.CET off and on", DONE, ANY, 64, "mov rax, cr4; mov rbx, rax; btr eax, 23; mov cr4, rax; mov cr4, rbx; hlt");
	WR("U_CET", M_U_CET, 0x3f, DONE);
	WR("S_CET with a bitmap", M_S_CET, 0xffff800000000004, DONE);
	WR("S_CET, bitmap not canonical", M_S_CET, 0x8000000000004, GP);
	WR("U_CET, bit 6", M_U_CET, 0x40, GP);
	WR("U_CET, bit 9", M_U_CET, 0x200, GP);
	WR("S_CET, waiting", M_S_CET, WAIT, DONE);
	WR("S_CET, suppressed", M_S_CET, SUPPRESS, DONE);
	WR("S_CET, waiting and suppressed", M_S_CET, WAIT | SUPPRESS, GP);
	WR("PL0_SSP", M_PL0_SSP, 0x1004, DONE);
	WR("PL0_SSP, not aligned to 4", M_PL0_SSP, 0x1002, GP);
	WR("PL3_SSP, not aligned to 4", M_PL3_SSP, 1, GP);
	WR("PL3_SSP, not canonical", M_PL3_SSP, 1ull << 48, GP);
	WR("the interrupt SSP table", M_SSP_TABLE, 0xffff800000000000, DONE);
	WR("the interrupt SSP table, not canonical", M_SSP_TABLE, 1ull << 48, GP);
	WR("no such MSR", 0x6a1, 0, GP);
	WR("XSS", M_XSS, 0x1800, DONE);
	WR("XSS, a bit that is none", M_XSS, 0x2000, GP);
	CET_VALUE(LONG, 0, SHSTK, S, "RDMSR", 64, "mov ecx, 0x6a2; rdmsr; hlt", SHSTK);
}

/* ---- XSAVES, XRSTORS ---- */

/* All of a mask in the compacted form at RIG_MORE, cleared, and restored. */
static void state_components(void)
{
	struct rig rig;
	uint64_t at = RIG_MORE + 576;

	cet_start(&rig, LONG, 0, 0, S);
	cet_msr_set(&rig, M_U_CET, ENDBR);
	for (unsigned i = 0; i < 4; i++)
		cet_msr_set(&rig, M_PL0_SSP + i, 0x1000 * (i + 1));
	rig.s.cr4 |= 1 << 18;
	rig_run(&rig, CODE(64, "mov ecx, 0xda0; mov eax, 0x1800; xor edx, edx; wrmsr; mov ebx, 0x10000; mov eax, 0x1803; xsaves [rbx];"
	                       "mov ecx, 0x6a4; 1: xor eax, eax; wrmsr; inc ecx; cmp ecx, 0x6a8; jne 1b; mov ecx, 0x6a0; wrmsr; mov eax, 0x1803; xrstors [rbx];"
	                       "mov eax, 0xd; mov ecx, 1; cpuid; hlt"));
	expect_outcome(&rig, "XSAVES, XRSTORS", DONE, ANY);
	expect("XCOMP_BV", rig_peek(&rig, RIG_MORE + 520, 8), 0x8000000000001801);       /* XCR0 is x87 alone */
	expect("XSTATE_BV", rig_peek(&rig, RIG_MORE + 512, 8) & 0x1800, 0x1800);
	expect("U_CET in memory", rig_peek(&rig, at, 8), ENDBR);
	expect("PL3_SSP in memory", rig_peek(&rig, at + 8, 8), 0x4000);
	for (unsigned i = 0; i < 3; i++)
		expect("PLn_SSP in memory", rig_peek(&rig, at + 16 + 8 * i, 8), 0x1000 * (i + 1));
	expect("U_CET", cet_msr(&rig, M_U_CET), ENDBR);
	for (unsigned i = 0; i < 4; i++)
		expect("PLn_SSP", cet_msr(&rig, M_PL0_SSP + i), 0x1000 * (i + 1));
	expect("CPUID's size", (uint32_t)rig.r2.rbx, 576 + 16 + 24);
	expect("CPUID's components", (uint32_t)rig.r2.rcx, 0x1800);
	rig_end(&rig);
}

static void bad_components(void)
{
	static const struct { const char *name; unsigned at; uint64_t value; int vector; } t[] = {
		{ "zeros", 0, 0, DONE }, { "U_CET, a reserved bit", 0, 0x40, GP }, { "PL3_SSP, not aligned", 8, 2, GP },
		{ "PL0_SSP, not canonical", 16, 1ull << 50, GP }, { "PL2_SSP, not aligned", 32, 1, GP },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		cet_start(&rig, LONG, 0, 0, S);
		rig.s.cr4 |= 1 << 18;
		rig_poke(&rig, RIG_MORE + 512, 8, 0x1800);
		rig_poke(&rig, RIG_MORE + 520, 8, 0x8000000000001800);
		rig_poke(&rig, RIG_MORE + 576 + t[i].at, 8, t[i].value);
		rig_run(&rig, CODE(64, "mov ecx, 0xda0; mov eax, 0x1800; xor edx, edx; wrmsr; mov ebx, 0x10000; " AT "xrstors [rbx]; hlt"));
		expect_outcome(&rig, t[i].name, t[i].vector, t[i].vector == GP ? 0 : ANY);
		rig_end(&rig);
	}
}

/* ---- the client's part ---- */

static void not_offered(void)
{
	struct rig rig;
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };

	params.cet = false;
	CASE_WITH(LONG, "CR4.CET without CPUID", GP, 0, 64, "mov rax, cr4; bts eax, 23; " AT "mov cr4, rax; hlt", rig->s.cr0 |= 1 << 16);
	CASE(LONG, "U_CET without CPUID", GP, 0, 64, "mov ecx, 0x6a0; " AT "rdmsr; hlt");
	CASE(LONG, "PL0_SSP without CPUID", GP, 0, 64, "mov ecx, 0x6a4; " AT "rdmsr; hlt");
	CASE(LONG, "XSS without CPUID", GP, 0, 64, "mov ecx, 0xda0; mov eax, 0x800; xor edx, edx; " AT "wrmsr; hlt");
	CASE(LONG, "INCSSP without CPUID", UD, ANY, 64, "nop; " AT "incsspq rax; hlt");
	CASE(LONG, "WRUSS without CPUID", UD, ANY, 64, "nop; " AT "wrussq [rbx], rax; hlt");
	VALUE(LONG, "RDSSP and ENDBR without CPUID", 64, "mov eax, 5; rdsspq rax; " ENDBR64_ ENDBR32_ "hlt", 5);
	rig_start(&rig, LONG);
	guest_ioctl(rig.g.system, KVM_GET_SUPPORTED_CPUID, &c);
	for (unsigned i = 0; i < c.head.nent; i++)
		if (c.e[i].function == 7)
			expect("CPUID", (c.e[i].ecx >> 7 & 1) | (c.e[i].edx >> 20 & 1), 0);
	rig_end(&rig);
	params.cet = true;
}

int main(void)
{
	branches();
	supervisor();
	legacy_pages();
	registers();
	state_components();
	bad_components();
	not_offered();
	return rig_summary();
}
