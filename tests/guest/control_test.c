/* Control registers, EFER, MSRs, XCR0, CPUID; mode changes; SYSCALL, SYSENTER and their returns. */
#include "rig.h"

enum { CR4_VME = 1, CR4_TSD = 4, CR4_PCE = 0x100, CR4_FSGSBASE = 0x10000, CR4_PCIDE = 0x20000, CR4_OSXSAVE = 0x40000 };

/* MOV of a value to a control register; with what was in CR4 or CR3 before. */
static void moves_to_cr(void)
{
	struct { const char *name; enum rig_mode mode; unsigned cr; uint64_t value; int want; uint64_t cr3, cr4; } t[] = {
		{ "CR0 PG without PE", REAL, 0, 0x80000010, GP, 0, 0 }, { "CR0 NW without CD", PROT, 0, 0x20000011, GP, 0, 0 },
		{ "CR0 CD and NW", PROT, 0, 0x60000011, DONE, 0, 0 }, { "CR0 reserved low bits", PROT, 0, 0x1000ffd1, DONE, 0,
			0 },
		{ "CR0 upper half", LONG, 0, 0x180000011, GP, 0, 0 }, { "CR0 PG off in 64-bit mode", LONG, 0, 0x11, GP, 0, 0 },
		{ "CR0 PE off with PG", LONG, 0, 0x80000010, GP, 0, 0 },
			{ "CR0 PG off with PCIDE", COMPAT, 0, 0x11, GP, 0, CR4_PCIDE },
		{ "CR0 PG off from compatibility mode", COMPAT, 0, 0x11, DONE, 0, 0 },
		{ "CR4 reserved", LONG, 4, 0x80000620, GP, 0, 0 }, { "CR4 bit 23", PROT, 4, 0x800000, GP, 0, 0 },
		{ "CR4 PAE off in long mode", LONG, 4, 0x600, GP, 0, 0 }, { "CR4 LA57 in long mode", LONG, 4, 0x1620, GP, 0, 0 },
		{ "CR4 PCIDE outside long mode", PROT, 4, 0x20000, GP, 0, 0 }, { "CR4 PCIDE", LONG, 4, 0x20620, DONE, 0, 0 },
		{ "CR4 PCIDE with a PCID", LONG, 4, 0x20620, GP, GUEST_PAGES | 0x18, 0 },
			{ "CR4 upper half", LONG, 4, 0x100000620, GP, 0, 0 },
		{ "CR4 VME", PROT, 4, 1, DONE, 0, 0 }, { "CR4 SMEP, SMAP", PROT, 4, 0x300000, DONE, 0, 0 },
		{ "CR3 bit 63 without PCIDE", LONG, 3, 1ull << 63 | GUEST_PAGES, GP, 0, 0 },
		{ "CR3 bit 63 with PCIDE", LONG, 3, 1ull << 63 | GUEST_PAGES, DONE, 0, CR4_PCIDE },
		{ "CR3 beyond MAXPHYADDR", LONG, 3, 1ull << 51 | GUEST_PAGES, GP, 0, 0 },
		{ "CR3 low bits", LONG, 3, GUEST_PAGES | 0xfff, DONE, 0, 0 },
			{ "CR3, 32-bit, any bits", PROT, 3, 0xffffffff, DONE, 0, 0 },
		{ "CR8 16", LONG, 8, 16, GP, 0, 0 }, { "CR8 15", LONG, 8, 15, DONE, 0, 0 },
			{ "CR2 not canonical", LONG, 2, 1ull << 60, DONE, 0, 0 },
		{ "CR1", LONG, 1, 0, UD, 0, 0 }, { "CR5", PROT, 5, 0, UD, 0, 0 }, { "CR9", LONG, 9, 0, UD, 0, 0 },
		{ "CR0 at CPL 3", LONG3, 0, 0x80000011, GP, 0, 0 }, { "CR1 at CPL 3", LONG3, 1, 0, UD, 0, 0 },
			{ "CR0 in vm86", VM86, 0, 0, GP, 0, 0 },
	};
	static const uint8_t modrm[] = { 0xc0, 0xc8, 0xd0, 0xd8, 0xe0, 0xe8, 0xf0, 0xf8 };

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;
		uint64_t before;

		rig_start(&rig, t[i].mode);
		rig.s.cr4 |= t[i].cr4;
		rig.s.cr3 = t[i].cr3 ? t[i].cr3 : rig.s.cr3;
		rig.r.rax = t[i].value;
		before = t[i].cr == 0 ? rig.s.cr0 : t[i].cr == 4 ? rig.s.cr4 : rig.s.cr3;
		struct code code = t[i].cr < 8 ? CODE(32, "nop; " AT ".byte 0x0f, 0x22, 0; nop; hlt") : CODE(64,
			"nop; " AT ".byte 0x44, 0x0f, 0x22, 0; hlt");
		uint8_t bytes[8];
		memcpy(bytes, code.start, code.end - code.start);
		bytes[t[i].cr < 8 ? 3 : 4] = modrm[t[i].cr & 7];
		code = (struct code){ bytes, bytes + 1, bytes + (code.end - code.start) };
		rig_run(&rig, code);
		expect_outcome(&rig, t[i].name, t[i].want, t[i].want == GP && t[i].mode != REAL ? 0 : ANY);
		if (t[i].want != DONE && t[i].cr != 8)
			expect(t[i].name, t[i].cr == 0 ? rig.s2.cr0 : t[i].cr == 4 ? rig.s2.cr4 : rig.s2.cr3, before);
		rig_end(&rig);
	}
	CASE_WITH(PROT, "PG on, LME without PAE", GP, 0, 32, "mov ecx, 0xc0000080; mov eax, 0x100; xor edx, edx; wrmsr; "
		"mov eax, cr0; bts eax, 31;"
	          AT "mov cr0, eax; hlt", (void)0);
	CASE_WITH(PROT, "PG on, LME, CS.L set", GP, 0, 32, ".byte 0xea; .long 0x8007; .word 0x80; mov ecx, 0xc0000080; "
		"mov eax, 0x100; xor edx, edx; wrmsr; mov eax, cr0; bts eax, 31;"
	          AT "mov cr0, eax; hlt", rig->s.cr4 |= 0x20; rig->gdt[FREE / 8] = descriptor(0, 0xfffff, 0x9b, 14));
	CASE_WITH(PROT, "PAE, PDPTE with a reserved bit", GP, 0, 32, "mov eax, 0x3000; mov cr3, eax; mov eax, cr0; "
		"bts eax, 31; " AT "mov cr0, eax; hlt",
	          rig->s.cr4 |= 0x20; rig_poke(rig, 0x3008, 8, 0x103));
	CASE_WITH(PROT, "PAE, PDPTE not present with reserved bits", EXIT + KVM_EXIT_SHUTDOWN, ANY, 32,
		"mov eax, 0x3000; mov cr3, eax; mov eax, cr0; bts eax, 31; mov cr0, eax; hlt",
	          rig->s.cr4 |= 0x20; rig_poke(rig, 0x3008, 8, 0x102));
}

static void lmsw(void)
{
	VALUE(PROT, "LMSW cannot clear PE", 32, "xor eax, eax; lmsw ax; mov eax, cr0; and eax, 0xf; hlt", 1);
	VALUE(PROT, "LMSW sets TS", 32, "mov eax, 0xe; lmsw ax; smsw eax; and eax, 0xf; hlt", 0xf);
	VALUE(PROT, "CLTS", 32, "mov eax, 0x8; lmsw ax; clts; smsw ax; and eax, 0xf; hlt", 1);
	CASE(PROT3, "LMSW at CPL 3", GP, 0, 32, "nop; " AT "lmsw ax; hlt");
	CASE(PROT3, "CLTS at CPL 3", GP, 0, 32, "nop; " AT "clts; hlt");
	VALUE(PROT3, "SMSW at CPL 3", 32, "smsw ax; and eax, 0xf; hlt", 3);
}

#define MSR(m, name, index, value, want) \
	CASE_WITH(m, name, want, ANY, 32, "nop; " AT "wrmsr; hlt", rig->r.rcx = index; rig->r.rax = (uint32_t)(value); \
		rig->r.rdx = (uint64_t)(value) >> 32)
static void msrs(void)
{
	MSR(LONG, "LSTAR not canonical", 0xc0000082, 1ull << 47, GP);
	MSR(LONG, "LSTAR high half", 0xc0000082, 0xffff800000000000, DONE);
	MSR(LONG, "CSTAR not canonical", 0xc0000083, 1ull << 47, GP);
	MSR(LONG, "FS base not canonical", 0xc0000100, 1ull << 63, GP);
	MSR(LONG, "GS base not canonical", 0xc0000101, 1ull << 63, GP);
	MSR(LONG, "kernel GS base not canonical", 0xc0000102, 1ull << 63, GP);
	MSR(LONG, "SYSENTER_EIP not canonical", 0x176, 1ull << 47, GP);
	MSR(LONG, "SYSENTER_ESP not canonical", 0x175, 1ull << 47, GP);
	MSR(LONG, "EFER reserved", 0xc0000080, 0x10500, GP);
	MSR(LONG, "EFER LME off with PG", 0xc0000080, 0x400, GP);
	MSR(LONG, "EFER NXE, SCE", 0xc0000080, 0xd01, DONE);
	MSR(LONG, "TSC_AUX upper half", 0xc0000103, 1ull << 32, GP);
	MSR(LONG, "PAT type 2", 0x277, 0x0007040600070402, GP);
	MSR(LONG, "PAT", 0x277, 0x0007010600070106, DONE);
	MSR(LONG, "no such MSR", 0x12345678, 0, GP);
	MSR(LONG3, "WRMSR at CPL 3", 0xc0000082, 0, GP);
	MSR(VM86, "WRMSR in vm86", 0xc0000082, 0, GP);
	CASE_WITH(LONG, "RDMSR of no such MSR", GP, 0, 32, "nop; " AT "rdmsr; hlt", rig->r.rcx = 0x12345678);
	CASE_WITH(LONG3, "RDMSR at CPL 3", GP, 0, 32, "nop; " AT "rdmsr; hlt", rig->r.rcx = 0x10);
	VALUE(LONG, "EFER.LMA is read-only", 64, "mov ecx, 0xc0000080; mov eax, 0x100; xor edx, edx; wrmsr; rdmsr; hlt", 0x500);
	VALUE(LONG, "RDMSR clears the upper halves", 64, "mov rax, -1; mov rdx, rax; mov ecx, 0x174; rdmsr; add rax, rdx; hlt",
		0);
}

static void odds(void)
{
	CASE(LONG, "XSETBV without OSXSAVE", UD, 0, 64, "xor ecx, ecx; xor edx, edx; mov eax, 7; " AT "xsetbv; hlt");
	CASE(LONG, "XGETBV without OSXSAVE", UD, 0, 64, "xor ecx, ecx; " AT "xgetbv; hlt");
#define XSETBV(name, value, want) CASE_WITH(LONG, "XSETBV: " name, want, ANY, 64, \
	"xor ecx, ecx; xor edx, edx; mov eax, " #value "; " AT "xsetbv; hlt", rig->s.cr4 |= CR4_OSXSAVE)
	XSETBV("x87 only", 1, DONE); XSETBV("x87, SSE, AVX", 7, DONE); XSETBV("no x87", 6, GP); XSETBV("AVX without SSE", 5, GP);
	XSETBV("not offered", 0x40000003, GP); XSETBV("AVX-512", 0xe7, GP);
	CASE_WITH(LONG, "XSETBV of XCR1", GP, 0, 64, "mov ecx, 1; xor edx, edx; mov eax, 1; " AT "xsetbv; hlt",
		rig->s.cr4 |= CR4_OSXSAVE);
	CASE_WITH(LONG3, "XSETBV at CPL 3", GP, 0, 64, "xor ecx, ecx; xor edx, edx; mov eax, 1; " AT "xsetbv; hlt",
		rig->s.cr4 |= CR4_OSXSAVE);
	CASE_WITH(LONG, "XGETBV of 2", GP, 0, 64, "mov ecx, 2; " AT "xgetbv; hlt", rig->s.cr4 |= CR4_OSXSAVE);
	CASE(LONG, "XSAVE without OSXSAVE", UD, 0, 64, "nop; " AT "xsave [0x4000]; hlt");
#define XSAVES(name, want, text, ...) CASE_WITH(LONG, name, want, ANY, 64, \
	"xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv; xor ebx, ebx; " text "; hlt", rig->s.cr4 |= CR4_OSXSAVE; __VA_ARGS__)
	XSAVES("XSAVE misaligned", GP, AT "xsave [0x4020]");
	XSAVES("XSAVE with TS", NM, AT "xsave [0x4000]", rig->s.cr0 |= 8);
	XSAVES("XRSTOR, reserved XSTATE_BV", GP, "xsave [0x4000]; mov byte ptr [0x4207], 0x40; " AT "xrstor [0x4000]");
	XSAVES("XRSTOR, reserved header byte", GP, "xsave [0x4000]; mov byte ptr [0x4210], 1; " AT "xrstor [0x4000]");
	XSAVES("XRSTOR, XCOMP_BV in the standard form", GP, "xsave [0x4000]; mov byte ptr [0x4208], 1; " AT "xrstor [0x4000]");
	XSAVES("XRSTOR, reserved MXCSR", GP, "xsave [0x4000]; mov byte ptr [0x401a], 1; " AT "xrstor [0x4000]");
	XSAVES("XRSTOR of its own image", DONE, "xsave [0x4000]; xrstor [0x4000]");
	XSAVES("XSAVE and XSAVEC of nothing", DONE, "xor eax, eax; xsave [0x4000]; xsavec [0x4400]");
	CASE(LONG, "FXRSTOR, reserved MXCSR", GP, 0, 64, "fxsave [0x4000]; mov byte ptr [0x401a], 1; " AT "fxrstor [0x4000]; "
		"hlt");
	CASE(LONG, "FXSAVE misaligned", GP, 0, 64, "nop; " AT "fxsave [0x4008]; hlt");
	CASE(LONG, "LDMXCSR, reserved", GP, 0, 64, "mov dword ptr [0x4000], 0x11f80; " AT "ldmxcsr [0x4000]; hlt");
	CASE_WITH(LONG3, "RDTSC with TSD at CPL 3", GP, 0, 64, "nop; " AT "rdtsc; hlt", rig->s.cr4 |= CR4_TSD);
	CASE_WITH(LONG, "RDTSC with TSD at CPL 0", DONE, 0, 64, "rdtsc; rdtscp; hlt", rig->s.cr4 |= CR4_TSD);
	/* XOR: no flags are live at the RDTSC. */
	CASE_WITH(LONG3, "RDTSC with TSD at CPL 3, flags dead", GP, 0, 64, "mov eax, 5; " AT "rdtsc; xor ecx, ecx; hlt", rig->s.cr4 |= CR4_TSD);
	CASE_WITH(LONG3, "RDTSC without TSD at CPL 3, flags dead", DONE, 0, 64, "rdtsc; xor ecx, ecx; hlt", (void)0);
	VALUE(LONG, "RDTSC clears the upper halves", 64, "mov rax, -1; mov rdx, -1; rdtsc; shr rax, 32; shr rdx, 32; or rax, rdx; hlt", 0, (void)0);
	VALUE(LONG, "RDTSC keeps flags", 64, "mov ebx, 0x7f; add bl, 1; rdtsc; pushfq; pop rax; and eax, 0x8d5; hlt", 0x890, (void)0);
	CASE_WITH(LONG3, "RDTSC with TSD at CPL 3, flags live", GP, 0, 64, "mov eax, 5; " AT "rdtsc; adc ecx, ecx; hlt", rig->s.cr4 |= CR4_TSD);
	VALUE(LONG, "RDTSC goes forward", 64, "rdtsc; shl rdx, 32; lea rbx, [rax + rdx]; rdtsc; shl rdx, 32; add rax, rdx; cmp rax, rbx; setae al;"
		"movzx eax, al; hlt", 1, (void)0);
	VALUE(LONG, "RDTSC after a write of the TSC", 64, "mov ecx, 0x10; xor eax, eax; mov edx, 0x50000; wrmsr; rdtsc; xor eax, eax; mov eax, edx; shr eax, 16;"
		"hlt", 5, (void)0);
	VALUE(PROT, "RDTSC after a write of the TSC, 32 bits", 32, "mov ecx, 0x10; xor eax, eax; mov edx, 0x50000; wrmsr; rdtsc; xor eax, eax; mov eax, edx;"
		"shr eax, 16; hlt", 5, (void)0);
	CASE_WITH(LONG3, "RDTSCP with TSD at CPL 3", GP, 0, 64, "nop; " AT "rdtscp; hlt", rig->s.cr4 |= CR4_TSD);
	CASE(LONG3, "RDPMC at CPL 3", GP, 0, 64, "xor ecx, ecx; " AT "rdpmc; hlt");
	CASE(LONG, "RDFSBASE without FSGSBASE", UD, 0, 64, "nop; " AT "rdfsbase rax; hlt");
	CASE_WITH(LONG3, "WRGSBASE not canonical", GP, 0, 64, "mov rax, 1; shl rax, 47; " AT "wrgsbase rax; hlt",
		rig->s.cr4 |= CR4_FSGSBASE);
	VALUE(LONG3, "WRFSBASE, 32-bit", 64, "mov rax, -1; wrfsbase eax; rdfsbase rax; hlt", 0xffffffff,
		rig->s.cr4 |= CR4_FSGSBASE);
	CASE_WITH(COMPAT, "RDFSBASE in compatibility mode", UD, 0, 32, "nop; " AT ".byte 0xf3, 0x0f, 0xae, 0xc0; hlt",
		rig->s.cr4 |= CR4_FSGSBASE);
	CASE(LONG3, "SWAPGS at CPL 3", GP, 0, 64, "nop; " AT "swapgs; hlt");
	CASE(LONG3, "INVLPG at CPL 3", GP, 0, 64, "nop; " AT "invlpg [0x4000]; hlt");
	CASE(LONG, "INVLPG not canonical", DONE, 0, 64, "mov rax, 1; shl rax, 47; invlpg [rax]; hlt");
	CASE(LONG, "INVLPG of a register", UD, 0, 64, "nop; " AT ".byte 0x0f, 0x01, 0xff; hlt");
	CASE(LONG, "INVPCID type 4", GP, 0, 64, "mov eax, 4; " AT "invpcid rax, [0x4000]; hlt");
	CASE(LONG, "INVPCID of a PCID without PCIDE", GP, 0, 64, "mov byte ptr [0x4000], 1; "
		"mov eax, 1; " AT "invpcid rax, [0x4000]; hlt");
	CASE(LONG, "INVPCID, address not canonical", GP, 0, 64, "mov byte ptr [0x400e], 0x80; "
		"mov eax, 0; " AT "invpcid rax, [0x4000]; hlt");
	CASE(LONG, "INVPCID, reserved bits", GP, 0, 64, "mov byte ptr [0x4002], 1; mov eax, 2; " AT "invpcid rax, [0x4000]; hlt");
	CASE(LONG3, "INVPCID at CPL 3", GP, 0, 64, "mov eax, 2; " AT "invpcid rax, [0x4000]; hlt");
	CASE(LONG3, "WBINVD at CPL 3", GP, 0, 64, "nop; " AT "wbinvd; hlt");
	CASE(LONG, "RSM outside SMM", UD, 0, 64, "nop; " AT "rsm; hlt");
	CASE(LONG, "LOCK on MOV", UD, 0, 64, "nop; " AT ".byte 0xf0, 0x89, 0x03; hlt");
	CASE(LONG, "LOCK ADD to a register", UD, 0, 64, "nop; " AT ".byte 0xf0, 0x01, 0xc0; hlt");
	CASE(LONG, "16 bytes", GP, 0, 64, "nop; " AT ".rept 15; .byte 0x66; .endr; nop; hlt");
	CASE(LONG, "15 bytes", DONE, 0, 64, ".rept 14; .byte 0x66; .endr; nop; hlt");
	CASE(LONG, "PUSHA in 64-bit mode", UD, 0, 64, "nop; " AT ".byte 0x60; hlt");
	CASE(LONG, "LAHF, CMPXCHG16B misaligned", GP, 0, 64, "lahf; " AT "cmpxchg16b [0x4008]; hlt");
	CASE(LONG, "MOVAPS misaligned", GP, 0, 64, "nop; " AT "movaps xmm0, [0x4008]; hlt");
	CASE(LONG, "DIV by zero", DE, 0, 64, "xor ecx, ecx; " AT "div ecx; hlt");
	CASE(LONG, "IDIV overflow", DE, 0, 64, "xor eax, eax; mov edx, 0x80000000; mov ecx, -1; " AT "idiv ecx; hlt");
	CASE(PROT, "AAM 0", DE, 0, 32, "nop; " AT ".byte 0xd4, 0; hlt");
	CASE(VM86, "HLT in vm86 is #GP", DONE, 0, 16, "hlt");
	VALUE(LONG, "CPUID shows OSXSAVE", 64, "mov eax, 1; cpuid; bt ecx, 27; sbb eax, eax; hlt", 0xffffffff,
		rig->s.cr4 |= CR4_OSXSAVE);
	VALUE(LONG, "CPUID beyond the last leaf clears the upper halves", 64,
		"mov rax, -1; mov rbx, rax; mov eax, 1; cpuid; shr rbx, 32; mov rax, rbx; hlt", 0);
}

/* ---- system calls ---- */

static void set_msrs(struct rig *rig, uint64_t efer, uint64_t sysenter_cs)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e[7]; } m = { .head.nmsrs = 7, .e = {
		{ 0xc0000081, 0, 0x0020001800000000ull }, { 0xc0000082, 0, RIG_HANDLERS + 16 * 0x50 }, { 0xc0000084, 0, 0x4700 },
		{ 0x174, 0, sysenter_cs }, { 0x175, 0, 0x6400 }, { 0x176, 0, RIG_HANDLERS + 16 * 0x51 },
			{ 0xc0000080, 0, efer } } };

	guest_ioctl(rig->g.vcpu[0], KVM_SET_MSRS, &m);
	rig->s.efer = efer;
}

static void system_calls(void)
{
	const uint64_t on = 0x501, off = 0x500;
	struct { const char *name; enum rig_mode mode; uint64_t efer; uint16_t cs; struct code code; int want; } t[] = {
		{ "SYSCALL without SCE", LONG3, off, 8, CODE(64, "nop; " AT "syscall; hlt"), UD },
		{ "SYSCALL in compatibility mode", COMPAT3, on, 8, CODE(32, "nop; " AT "syscall; hlt"), UD },
		{ "SYSCALL in protected mode", PROT3, 1, 8, CODE(32, "nop; " AT "syscall; hlt"), UD },
		{ "SYSRET without SCE", LONG, off, 8, CODE(64, "nop; " AT "sysretq; hlt"), UD },
		{ "SYSRET at CPL 3", LONG3, on, 8, CODE(64, "nop; " AT "sysretq; hlt"), GP },
		{ "SYSRET in compatibility mode", COMPAT, on, 8, CODE(32, "nop; " AT ".byte 0x0f, 7; hlt"), UD },
		{ "SYSRETQ, RCX not canonical", LONG, on, 8, CODE(64, "mov rcx, 1; shl rcx, 47; " AT "sysretq; hlt"), GP },
		{ "SYSRETL ignores RCX's upper half", LONG, on, 8, CODE(64,
			"mov rcx, 1; shl rcx, 47; or ecx, 0xa500; mov r11d, 2; .byte 0x0f, 7; hlt"), 0x50 },
		{ "SYSENTER, CS null", PROT3, 0, 3, CODE(32, "nop; " AT "sysenter; hlt"), GP },
		{ "SYSENTER in real mode", REAL, 0, 8, CODE(16, "nop; " AT "sysenter; hlt"), GP },
		{ "SYSENTER, CS null, long mode", LONG3, on, 0, CODE(64, "nop; " AT "sysenter; hlt"), GP },
		{ "SYSEXIT at CPL 3", PROT3, 0, 8, CODE(32, "nop; " AT "sysexit; hlt"), GP },
		{ "SYSEXIT, CS null", PROT, 0, 0, CODE(32, "nop; " AT "sysexit; hlt"), GP },
		{ "SYSEXITQ, RDX not canonical", LONG, on, 8, CODE(64, "mov rdx, 1; shl rdx, 47; "
			"xor ecx, ecx; " AT ".byte 0x48, 0x0f, 0x35; hlt"), GP },
		{ "SYSEXITQ, RCX not canonical", LONG, on, 8, CODE(64, "mov rcx, 1; shl rcx, 47; "
			"xor edx, edx; " AT ".byte 0x48, 0x0f, 0x35; hlt"), GP },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, t[i].mode);
		set_msrs(&rig, t[i].efer, t[i].cs);
		rig_run(&rig, t[i].code);
		if (t[i].want != 0x50)
			expect_outcome(&rig, t[i].name, t[i].want, t[i].mode == REAL || t[i].want == UD ? ANY : 0);
		else
			expect(t[i].name, rig.vector, 0x50);
		rig_end(&rig);
	}
}

static void entries(void)
{
	struct rig rig;

	rig_start(&rig, LONG3);
	set_msrs(&rig, 0x501, 8);
	rig.r.rflags = 0x247ed7 & ~0x100;
	rig_run(&rig, CODE(64, "nop; syscall; nop; hlt"));
	expect("SYSCALL", rig.r2.rip, RIG_HANDLERS + 16 * 0x50 + 1);
	expect("SYSCALL", rig.r2.rcx, RIG_CODE + 3);
	expect("SYSCALL", rig.r2.r11, 0x247ed7 & ~0x100);
	expect("SYSCALL", rig.r2.rflags, 0x247ed7 & ~0x4700);
	expect("SYSCALL", rig.s2.cs.selector, CODE64);
	expect("SYSCALL", rig.s2.ss.selector, USER32);
	expect("SYSCALL", rig.s2.ss.type, 3);
	expect("SYSCALL", rig.s2.cs.l, 1);
	expect("SYSCALL", rig.r2.rsp, RIG_STACK);
	rig_end(&rig);

	rig_start(&rig, PROT3);
	set_msrs(&rig, 0, 9);
	rig.r.rflags = 0x247ed7 & ~0x100;
	rig_run(&rig, CODE(32, "nop; sysenter; nop; hlt"));
	expect("SYSENTER", rig.r2.rip, RIG_HANDLERS + 16 * 0x51 + 1);
	expect("SYSENTER", rig.r2.rsp, 0x6400);
	expect("SYSENTER", rig.r2.rflags, 0x247cd7 & ~0x100);
	expect("SYSENTER", rig.s2.cs.selector, 8);
	expect("SYSENTER", rig.s2.ss.selector, 16);
	rig_end(&rig);

	rig_start(&rig, PROT);
	set_msrs(&rig, 0, 0x10);
	rig_run(&rig, CODE(32, "mov ecx, 0x6800; mov edx, 0x8010; sysexit; .rept 16; nop; .endr; hlt"));
	expect("SYSEXIT", rig.vector, DONE);
	expect("SYSEXIT", rig.cs, 0x23);
	expect("SYSEXIT", rig.ss, 0x2b);
	expect("SYSEXIT", rig.rsp, 0x6800);
	rig_end(&rig);

	rig_start(&rig, LONG);
	set_msrs(&rig, 0x501, 8);
	rig.gdt[0x28 / 8] = 0;                           /* no descriptor is read */
	rig_run(&rig, CODE(64, "mov ecx, 0x8018; mov r11, 0x3f7fd7 - 0x100; sysretq; .rept 24; nop; .endr; hlt"));
	expect("SYSRET", rig.vector, DONE);
	expect("SYSRET", rig.cs, 0x33);
	expect("SYSRET", rig.ss, 0x2b);
	expect("SYSRET loads all of RFLAGS but RF and VM", rig.rflags & ~0x10000, 0x3c7fd7 - 0x100);
	rig_end(&rig);
}

int main(void)
{
	moves_to_cr();
	lmsw();
	msrs();
	odds();
	system_calls();
	entries();
	return rig_summary();
}
