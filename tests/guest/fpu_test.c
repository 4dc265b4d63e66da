/* x87, SSE and AVX exceptions: #NM and #UD by control bits, #MF at the next waiting instruction, #XM and what stands for it. */
#include "rig.h"

enum { MP = 2, EM = 4, TS_ = 8, NE = 0x20, OSFXSR = 0x200, OSXMMEXCPT = 0x400, OSXSAVE = 0x40000 };

/* Each instruction under EM, TS, and without OSFXSR (SSE) or OSXSAVE (AVX). */
static void availability(void)
{
	struct { const char *name; struct code code; int em, ts, no_os; } t[] = {
#define I(text, em, ts, no_os) { text, CODE(64, "nop; " AT text "; hlt"), em, ts, no_os }
		I("fninit", NM, NM, DONE), I("fld1", NM, NM, DONE), I("fnstsw ax", NM, NM, DONE), I("fwait", DONE, DONE, DONE),
			I("fnstcw [rbx]", NM, NM, DONE),
		I("fisttp dword ptr [rbx]", NM, NM, DONE), I("fcmovb st(0), st(1)", NM, NM, DONE),
			I("fxsave [rbx]", NM, NM, DONE), I("fnsave [rbx]", NM, NM, DONE),
		I("emms", UD, NM, DONE), I("movd mm0, eax", UD, NM, DONE), I("paddb mm0, mm1", UD, NM, DONE),
			I("pshufb mm0, mm1", UD, NM, DONE),
		I("addps xmm0, xmm1", UD, NM, UD), I("movaps xmm0, [rbx]", UD, NM, UD), I("addsd xmm0, [rbx]", UD, NM, UD),
			I("ldmxcsr [rdi]", UD, NM, UD),
		I("stmxcsr [rbx]", UD, NM, UD), I("pxor xmm0, xmm1", UD, NM, UD), I("cvtsi2sd xmm0, eax", UD, NM, UD),
			I("pshufb xmm0, xmm1", UD, NM, UD),
		I("aesenc xmm0, xmm1", UD, NM, UD), I("pcmpestri xmm0, xmm1, 0", UD, NM, UD),
			I("movq2dq xmm0, mm0", UD, NM, UD), I("cvtpi2ps xmm0, mm0", UD, NM, UD),
		I("maskmovdqu xmm0, xmm1", UD, NM, UD), I("movntps [rbx], xmm0", UD, NM, UD),
		I("sfence", DONE, DONE, DONE), I("mfence", DONE, DONE, DONE), I("prefetchnta [rbx]", DONE, DONE, DONE),
			I("movnti [rbx], eax", DONE, DONE, DONE),
		I("clflush [rbx]", DONE, DONE, DONE), I("pause", DONE, DONE, DONE), I("crc32 eax, ecx", DONE, DONE, DONE),
			I("popcnt eax, ecx", DONE, DONE, DONE),
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++)
		for (unsigned how = 0; how < 4; how++) {
			struct rig rig;
			int want = how == 0 ? DONE : how == 1 ? t[i].em : how == 2 ? t[i].ts : t[i].no_os;

			rig_start(&rig, LONG);
			rig.s.cr0 = (rig.s.cr0 & ~MP) | (how == 1 ? EM : how == 2 ? TS_ : 0);
			rig.s.cr4 &= how == 3 ? ~OSFXSR : ~0;
			rig.r.rbx = 0x4000;
			rig.r.rdi = 0x5000;
			rig_poke(&rig, 0x5000, 4, 0x1f80);
			rig_run(&rig, t[i].code);
			expect_outcome(&rig, t[i].name, want, ANY);
			rig_end(&rig);
		}
#define AVX(name, want, text, ...) CASE_WITH(LONG, "AVX: " name, want, ANY, 64, \
	"xor ecx, ecx; xor edx, edx; mov eax, 7; xsetbv; " AT text "; hlt", rig->s.cr4 |= OSXSAVE; __VA_ARGS__)
	AVX("all on", DONE, "vaddps ymm0, ymm1, ymm2");
	AVX("TS", NM, "vaddps ymm0, ymm1, ymm2", rig->s.cr0 |= TS_);
	AVX("EM does not matter", DONE, "vaddps ymm0, ymm1, ymm2", rig->s.cr0 |= EM);
	CASE(LONG, "AVX without OSXSAVE", UD, ANY, 64, "nop; " AT "vaddps ymm0, ymm1, ymm2; hlt");
	CASE_WITH(LONG, "AVX without XCR0.AVX", UD, ANY, 64, "xor ecx, ecx; xor edx, edx; mov eax, 3; "
		"xsetbv; " AT "vaddps xmm0, xmm1, xmm2; hlt", rig->s.cr4 |= OSXSAVE);
	CASE_WITH(LONG, "BMI needs no OSXSAVE", DONE, ANY, 64, "andn eax, ecx, edx; rorx eax, ecx, 3; hlt", (void)0);
	CASE_WITH(REAL, "VEX in real mode", UD, ANY, 16, "nop; " AT ".byte 0xc5, 0xf8, 0x58, 0xc1; hlt", rig->s.cr4 |= OSXSAVE);
	CASE_WITH(LONG, "LOCK and VEX", UD, ANY, 64, "nop; " AT ".byte 0xf0, 0xc5, 0xf8, 0x58, 0xc1; hlt", rig->s.cr4 |= OSXSAVE);
	CASE_WITH(LONG, "66 and VEX", UD, ANY, 64, "nop; " AT ".byte 0x66, 0xc5, 0xf8, 0x58, 0xc1; hlt", rig->s.cr4 |= OSXSAVE);
	CASE_WITH(LONG, "WAIT with TS and MP", NM, ANY, 64, "nop; " AT "fwait; hlt", rig->s.cr0 |= TS_ | MP);
	CASE_WITH(LONG, "WAIT with TS only", DONE, ANY, 64, "fwait; hlt", rig->s.cr0 = (rig->s.cr0 | TS_) & ~MP);
	CASE_WITH(LONG, "WAIT with MP only", DONE, ANY, 64, "fwait; hlt", rig->s.cr0 |= MP);
	CASE_WITH(LONG, "CLTS, then x87", DONE, ANY, 64, "clts; fld1; hlt", rig->s.cr0 |= TS_);
	CASE_WITH(LONG, "TS set in between", NM, ANY, 64, "fld1; mov rax, cr0; or eax, 8; mov cr0, rax; " AT "fld1; hlt",
		(void)0);
}

/* Division by zero with its exception unmasked, then text. */
#define ZERO_DIVIDE "fninit; mov word ptr [0x4000], 0x37b; fldcw [0x4000]; fld1; fldz; fdivp st(1), st(0); "
static void x87(void)
{
	static const enum rig_mode modes[] = { PROT, LONG, LONG3, PROT3, VM86, COMPAT };

	CASE(LONG, "#MF at FWAIT", MF, ANY, 64, ZERO_DIVIDE AT "fwait; hlt");
	CASE(LONG, "#MF at the next x87 instruction", MF, ANY, 64, ZERO_DIVIDE "nop; " AT "fld1; hlt");
	CASE(LONG, "#MF at MMX", MF, ANY, 64, ZERO_DIVIDE AT "movd mm0, eax; hlt");
	CASE(LONG, "no #MF at FNSTSW, FNINIT, FNCLEX, FNSTCW, FNSAVE", DONE, ANY, 64,
		ZERO_DIVIDE "fnstsw ax; fnstcw [0x4010]; fnsave [0x4020]; fninit; fwait; hlt");
	CASE(LONG, "no #MF after FNCLEX", DONE, ANY, 64, ZERO_DIVIDE "fnclex; fwait; hlt");
	CASE(LONG, "no #MF at SSE", DONE, ANY, 64, ZERO_DIVIDE "addps xmm0, xmm1; hlt");
	CASE(LONG, "no #MF at FXSAVE", DONE, ANY, 64, ZERO_DIVIDE "fxsave [0x4200]; hlt");
	CASE(LONG, "#MF after FXRSTOR of a pending state", MF, ANY, 64,
		ZERO_DIVIDE "fxsave [0x4200]; fninit; fxrstor [0x4200]; nop; " AT "fwait; hlt");
	CASE(LONG, "#MF when FLDCW unmasks", MF, ANY, 64, "fninit; fld1; fldz; fdivp st(1), st(0); "
		"mov word ptr [0x4000], 0x37b; fldcw [0x4000]; " AT "fwait; hlt");
	for (unsigned i = 0; i < 6; i++) {
		if (modes[i] == VM86)
			CASE(VM86, "#MF in its mode", MF, ANY, 16, ZERO_DIVIDE AT "fwait; hlt");
		else
			CASE(modes[i], "#MF in its mode", MF, ANY, 32, "fninit; mov ebx, 0x4000; mov word ptr [ebx], 0x37b; "
				"fldcw [ebx]; fld1; fldz; fdivp st(1), st(0);" AT "fwait; hlt");
	}
	struct rig rig;                                          /* stack fault, unmasked; status and pointers stay visible */
	rig_start(&rig, LONG);
	rig_run(&rig, CODE(64, "fninit; mov word ptr [0x4000], 0x37e; fldcw [0x4000]; " "fstp qword ptr [0x4100]; fnstsw ax; "
		"fnstenv [0x4020]; mov ebx, [0x402c]; fldenv [0x4020]; " AT "fwait; hlt"));
	expect_outcome(&rig, "stack underflow", MF, ANY);
	expect("status", rig.r2.rax & 0x82c1, 0x8041 | 0x80);
	expect("FIP", rig.r2.rbx, RIG_CODE + 2 + 10 + 7);
	rig_end(&rig);
}

#define UNMASKED "mov dword ptr [0x4000], 0x1d80; ldmxcsr [0x4000]; xorps xmm0, xmm0; mov eax, 1; cvtsi2ss xmm1, eax; "
static void simd(void)
{
	CASE(LONG, "#XM", XM, ANY, 64, UNMASKED AT "divss xmm1, xmm0; hlt");
	CASE(LONG, "#XM by a memory operand", XM, ANY, 64, UNMASKED "mov dword ptr [0x4010], 0; "
		"nop; " AT "divss xmm1, [0x4010]; hlt");
	CASE_WITH(LONG, "#UD without OSXMMEXCPT", UD, ANY, 64, UNMASKED AT "divss xmm1, xmm0; hlt", rig->s.cr4 &= ~OSXMMEXCPT);
	CASE(PROT, "#XM without OSFXSR set: #UD", UD, ANY, 32, "nop; " AT "divss xmm1, xmm0; hlt");
	CASE_WITH(PROT3, "#XM, 32-bit", XM, ANY, 32, UNMASKED AT "divps xmm1, xmm0; hlt", rig->s.cr4 |= OSFXSR | OSXMMEXCPT);
	CASE(LONG, "masked", DONE, ANY, 64, "xorps xmm0, xmm0; divss xmm1, xmm0; hlt");
	CASE_WITH(LONG, "#XM, AVX", XM, ANY, 64, "xor ecx, ecx; xor edx, edx; mov eax, 7; "
		"xsetbv; " UNMASKED AT "vdivps ymm1, ymm1, ymm0; hlt", rig->s.cr4 |= OSXSAVE);
	CASE_WITH(LONG, "#UD, AVX, without OSXMMEXCPT", UD, ANY, 64, "xor ecx, ecx; xor edx, edx; mov eax, 7; "
		"xsetbv; " UNMASKED AT "vdivps ymm1, ymm1, ymm0; hlt",
	          rig->s.cr4 = (rig->s.cr4 | OSXSAVE) & ~OSXMMEXCPT);
	struct rig rig;                                          /* the destination is kept, the flag is set, and it can go on */
	rig_start(&rig, LONG);
	struct code fix = CODE(64, "stmxcsr [0x4000]; mov eax, [0x4000]; or dword ptr [0x4000], 0x1f80; ldmxcsr [0x4000]; "
		"movd ecx, xmm1; iretq");
	memcpy(rig.g.memory + RIG_HANDLERS + 16 * XM, fix.start, fix.end - fix.start);
	rig_run(&rig, CODE(64, UNMASKED "mov r13, 13; mov r8, 8; divss xmm1, xmm0; movd ebx, xmm1; hlt"));
	expect_outcome(&rig, "#XM handled", DONE, ANY);
	expect("MXCSR in the handler", rig.r2.rax, 0x1d84);
	expect("XMM1 in the handler", rig.r2.rcx, 0x3f800000);
	expect("result after", rig.r2.rbx, 0x7f800000);
	expect("others", rig.r2.r13 + rig.r2.r8, 21);
	rig_end(&rig);
}

int main(void)
{
	availability();
	x87();
	simd();
	return rig_summary();
}
