/*
 * System management mode: the state in which the handler starts, the
 * state-save area in both layouts, RSM, and what it refuses.
 */
#include <errno.h>
#include "base/base.h"
#include "kvm/api.h"
#include "smram.h"

enum { CR4_VMXE = 0x2000 };

/* Ports: 10h before the SMI, 11h after RSM; b0h in the handler. */
GUEST_ASM(code, 64, "out %al, $0x10\n nop\n out %al, $0x11\n hlt");
GUEST_ASM(handler, 16, "out %al, $0xb0\n rsm");

struct smm { struct guest g; uint8_t *smram; struct kvm_regs r; struct kvm_sregs s; };

static void cpuid_without_long_mode(struct guest *g)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };

	guest_ioctl(g->system, KVM_GET_SUPPORTED_CPUID, &c);
	for (unsigned i = 0; i < c.head.nent; i++)
		if (c.e[i].function == 0x80000001)
			c.e[i].edx &= ~(1u << 29);
	guest_ioctl(g->vcpu[0], KVM_SET_CPUID2, &c);
}

/* Registers with values of their own; at port 10h, an SMI waiting. */
static void smm_start(struct smm *t, bool wide)
{
	struct kvm_debugregs d = { .dr6 = 0xffff0ff1, .dr7 = 0x700 };

	guest_create(&t->g, false);
	t->smram = smram_create_with(&t->g, handler);
	if (!wide)
		cpuid_without_long_mode(&t->g);
	guest_load(&t->g, code);
	guest_mode(&t->g, 0, wide ? GUEST_LONG : GUEST_PROTECTED);
	t->s = guest_sregs(&t->g);
	t->s.fs.base = 0x12340;
	t->s.es = (struct kvm_segment){ .unusable = 1, .type = 3, .s = 1, .limit = 0xfff };
	t->s.ldt = (struct kvm_segment){ .base = 0x5550, .limit = 0x77, .selector = 0x28, .type = 2, .present = 1 };
	t->s.idt.limit = 0x7ff;
	t->s.cr4 |= wide ? CR4_VMXE : 0;
	guest_ioctl(t->g.vcpu[0], KVM_SET_SREGS, &t->s);
	guest_ioctl(t->g.vcpu[0], KVM_SET_DEBUGREGS, &d);
	t->r = guest_regs(&t->g, 0);
	for (unsigned i = 0; i < 16; i++)        /* rax ... r15, RSP among them */
		((uint64_t *)&t->r)[i] = (wide ? 0x1234567800000000 : 0) | (i + 1) * 0x111100;
	t->r.rflags = 0xc93;                     /* DF, OF, SF, CF, AF */
	guest_set_regs(&t->g, 0, &t->r);
	run_to_port(&t->g, 0x10);
	guest_ioctl(t->g.vcpu[0], KVM_SMI, NULL);
	t->s = guest_sregs(&t->g);
}

static void smm_end(struct smm *t)
{
	guest_destroy(&t->g);
	smram_destroy(t->smram);
}

/* ---- entry ---- */

static void test_entry(void)
{
	struct smm t;
	struct kvm_sregs s;
	struct kvm_regs r;
	struct kvm_debugregs d;

	smm_start(&t, true);
	check(!guest_in_smm(&t.g));
	check_equal(guest_events(&t.g).smi.pending, 1);
	run_to_port(&t.g, 0xb0);
	check(guest_in_smm(&t.g));
	s = guest_sregs(&t.g);
	r = guest_regs(&t.g, 0);
	guest_ioctl(t.g.vcpu[0], KVM_GET_DEBUGREGS, &d);
	const struct { const char *name; uint64_t got, want; } state[] = {
		{ "RIP", r.rip, 0x8000 }, { "RFLAGS", r.rflags, 2 }, { "RAX is kept", r.rax, t.r.rax }, { "RSP is kept", r.rsp, t.r.rsp },
		{ "CR0: PE, EM, TS, PG clear", s.cr0, t.s.cr0 & ~0x8000000dull }, { "CR4", s.cr4, 0 }, { "EFER", s.efer, 0 },
		{ "CR3 is kept", s.cr3, t.s.cr3 }, { "DR7", d.dr7, 0x400 },
		{ "CS", s.cs.selector, SMBASE >> 4 }, { "CS base", s.cs.base, SMBASE }, { "CS limit", s.cs.limit, 0xffffffff },
		{ "DS", s.ds.selector, 0 }, { "DS base", s.ds.base, 0 }, { "DS limit", s.ds.limit, 0xffffffff },
		{ "ES usable", s.es.unusable, 0 }, { "FS base", s.fs.base, 0 }, { "GS limit", s.gs.limit, 0xffffffff },
		{ "SS limit", s.ss.limit, 0xffffffff }, { "16-bit code", s.cs.db | s.cs.l, 0 },
		{ "LDTR is kept", s.ldt.base, t.s.ldt.base }, { "GDTR is kept", s.gdt.base, t.s.gdt.base },
		{ "IDT limit", s.idt.limit, 0 }, { "IDT base", s.idt.base, 0 },
		{ "NMIs are blocked", guest_events(&t.g).nmi.masked, 1 }, { "nothing waits", guest_events(&t.g).smi.pending, 0 },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(state); i++)
		if (state[i].got != state[i].want) {
			printf("# %s: %#llx, not %#llx\n", state[i].name, (unsigned long long)state[i].got, (unsigned long long)state[i].want);
			failures++;
		}
	smm_end(&t);
}

/* ---- the state-save area ---- */

struct place { unsigned at, size; uint64_t want; };

static void check_places(const struct smm *t, const struct place *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t got = smram_get(t->smram, p[i].at, p[i].size);

		if (got != p[i].want) {
			printf("# state-save area at %#x: %#llx, not %#llx\n", p[i].at, (unsigned long long)got, (unsigned long long)p[i].want);
			failures++;
		}
	}
}

static void test_area64(void)
{
	struct smm t;

	smm_start(&t, true);
	run_to_port(&t.g, 0xb0);
	const struct place places[] = {
		{ 0xfe00, 2, 0 }, { 0xfe02, 2, 0x13 }, { 0xfe04, 4, 0xfff }, { 0xfe10, 2, 24 }, { 0xfe12, 2, 0xa09b }, { 0xfe14, 4, 0xffffffff },
		{ 0xfe18, 8, 0 }, { 0xfe20, 2, 16 }, { 0xfe22, 2, 0xc093 }, { 0xfe30, 2, 16 }, { 0xfe48, 8, 0x12340 }, { 0xfe50, 2, 16 },
		{ 0xfe64, 2, t.s.gdt.limit }, { 0xfe68, 8, t.s.gdt.base }, { 0xfe70, 2, 0x28 }, { 0xfe72, 2, 0x82 }, { 0xfe74, 4, 0x77 }, { 0xfe78, 8, 0x5550 },
		{ 0xfe84, 2, 0x7ff }, { 0xfe88, 8, t.s.idt.base }, { 0xfe90, 2, t.s.tr.selector }, { 0xfe92, 2, 0x8b }, { 0xfe94, 4, t.s.tr.limit },
		{ 0xfec8, 1, 0 }, { 0xfec9, 1, 0 }, { 0xfed0, 8, t.s.efer }, { 0xfefc, 4, 0x20064 }, { 0xff00, 4, SMBASE },
		{ 0xff48, 8, t.s.cr4 }, { 0xff50, 8, t.s.cr3 }, { 0xff58, 8, t.s.cr0 }, { 0xff60, 8, 0x700 }, { 0xff68, 8, 0xffff0ff1 },
		{ 0xff70, 8, t.r.rflags }, { 0xff78, 8, GUEST_CODE + 2 },
		{ 0xff80, 8, t.r.r15 }, { 0xff88, 8, t.r.r14 }, { 0xffb8, 8, t.r.r8 }, { 0xffc0, 8, t.r.rdi }, { 0xffc8, 8, t.r.rsi }, { 0xffd0, 8, t.r.rbp },
		{ 0xffd8, 8, t.r.rsp }, { 0xffe0, 8, t.r.rbx }, { 0xffe8, 8, t.r.rdx }, { 0xfff0, 8, t.r.rcx }, { 0xfff8, 8, t.r.rax },
	};
	check(t.s.cr4 & CR4_VMXE);
	check_places(&t, places, ARRAY_SIZE(places));
	smm_end(&t);
}

static void test_area32(void)
{
	struct smm t;

	smm_start(&t, false);
	run_to_port(&t.g, 0xb0);
	const struct place places[] = {
		{ 0xfef8, 4, SMBASE }, { 0xfefc, 4, 0x20000 }, { 0xff02, 2, 0 }, { 0xff14, 4, t.s.cr4 },
		{ 0xff2c, 4, 0xc09300 }, { 0xff30, 4, 0xffffffff }, { 0xff34, 4, 0 }, { 0xff38, 4, 0xc09300 }, { 0xff40, 4, 0x12340 },
		{ 0xff54, 4, 0x7ff }, { 0xff58, 4, t.s.idt.base }, { 0xff5c, 4, 0x8b00 }, { 0xff60, 4, t.s.tr.limit }, { 0xff64, 4, t.s.tr.base },
		{ 0xff70, 4, t.s.gdt.limit }, { 0xff74, 4, t.s.gdt.base }, { 0xff78, 4, 0x8200 }, { 0xff7c, 4, 0x77 }, { 0xff80, 4, 0x5550 },
		{ 0xff84, 4, 0x1300 }, { 0xff88, 4, 0xfff }, { 0xff90, 4, 0xc09b00 }, { 0xff9c, 4, 0xc09300 },
		{ 0xffa8, 4, 0 }, { 0xffac, 4, 8 }, { 0xffb0, 4, 16 }, { 0xffb4, 4, 16 }, { 0xffb8, 4, 16 }, { 0xffbc, 4, 16 }, { 0xffc0, 4, 0x28 },
		{ 0xffc4, 4, t.s.tr.selector }, { 0xffc8, 4, 0x700 }, { 0xffcc, 4, 0xffff0ff1 },
		{ 0xffd0, 4, t.r.rax }, { 0xffd4, 4, t.r.rcx }, { 0xffd8, 4, t.r.rdx }, { 0xffdc, 4, t.r.rbx }, { 0xffe0, 4, t.r.rsp }, { 0xffe4, 4, t.r.rbp },
		{ 0xffe8, 4, t.r.rsi }, { 0xffec, 4, t.r.rdi }, { 0xfff0, 4, GUEST_CODE + 2 }, { 0xfff4, 4, t.r.rflags }, { 0xfff8, 4, t.s.cr3 }, { 0xfffc, 4, t.s.cr0 },
	};
	check_places(&t, places, ARRAY_SIZE(places));
	smm_end(&t);
}

/* ---- RSM ---- */

/* An untouched area brings everything back. */
static void test_return(void)
{
	for (int wide = 0; wide < 2; wide++) {
		struct smm t;
		struct kvm_sregs s;
		struct kvm_regs r;
		struct kvm_debugregs d;

		smm_start(&t, wide);
		run_to_port(&t.g, 0xb0);
		run_to_port(&t.g, 0x11);
		check(!guest_in_smm(&t.g));
		s = guest_sregs(&t.g);
		r = guest_regs(&t.g, 0);
		guest_ioctl(t.g.vcpu[0], KVM_GET_DEBUGREGS, &d);
		t.r.rip = GUEST_CODE + 3;        /* OUT, NOP */
		for (unsigned i = 0; i < sizeof(r) / 8; i++)
			check_equal(((uint64_t *)&r)[i], ((uint64_t *)&t.r)[i]);
		check(!memcmp(&s, &t.s, sizeof(s)));
		check_equal(d.dr6, 0xffff0ff1);
		check_equal(d.dr7, 0x700);
		check_equal(guest_events(&t.g).nmi.masked, 0);
		smm_end(&t);
	}
}

/* What the handler writes there is what the processor gets. */
static void test_changes(void)
{
	struct smm t;
	struct kvm_sregs s;
	struct kvm_regs r;

	smm_start(&t, true);
	run_to_port(&t.g, 0xb0);
	smram_set(t.smram, 0xff78, 8, GUEST_CODE + 2);
	smram_set(t.smram, 0xfff8, 8, 0x123456789abcdef0);
	smram_set(t.smram, 0xff70, 8, 0x40);                     /* bit 1 is always set */
	smram_set(t.smram, 0xfe48, 8, 0x7000);
	smram_set(t.smram, 0xff48, 8, t.s.cr4 & ~(uint64_t)CR4_VMXE);
	smram_set(t.smram, 0xfe64, 2, 0x2f);
	smram_set(t.smram, 0xfe22, 2, 0xc0f3);                   /* SS's DPL is the privilege level */
	smram_set(t.smram, 0xfe12, 2, 0xa0fb);
	smram_set(t.smram, 0xff70, 8, 0x3040);                   /* IOPL 3, for OUT */
	smram_set(t.smram, 0xff00, 4, 0x28000);
	check_equal(guest_run(&t.g, 0), KVM_EXIT_IO);
	r = guest_regs(&t.g, 0);
	s = guest_sregs(&t.g);
	check_equal(r.rax, 0x123456789abcdef0);
	check_equal(r.rflags, 0x3042);
	check_equal(s.fs.base, 0x7000);
	check_equal(s.cr4, t.s.cr4 & ~(uint64_t)CR4_VMXE);
	check_equal(s.gdt.limit, 0x2f);
	check_equal(s.ss.dpl, 3);
	check_equal(guest_run(&t.g, 0), KVM_EXIT_SHUTDOWN);      /* HLT at privilege level 3 */
	smm_end(&t);
}

/* One change each; outcome: port 11h is reached, or the processor shuts down. */
static void test_invalid(void)
{
	static const struct { const char *name; unsigned at, size; uint64_t set, clear; bool valid; } cases[] = {
		{ "nothing changed", 0xff58, 8, 0, 0, true },
		{ "CR0 bit 32", 0xff58, 8, 1ull << 32, 0, false },
		{ "CR0 bit 63", 0xff58, 8, 1ull << 63, 0, false },
		{ "CR0 bit 6 is ignored", 0xff58, 8, 1 << 6, 0, true },
		{ "paging without protection", 0xff58, 8, 0, 1, false },
		{ "NW without CD", 0xff58, 8, 1 << 29, 0, false },
		{ "NW with CD", 0xff58, 8, 3 << 29, 0, true },
		{ "CR4 bit 63", 0xff48, 8, 1ull << 63, 0, false },
		{ "CR4.SMXE, which there is not", 0xff48, 8, 0x4000, 0, false },
		{ "CR4.PGE", 0xff48, 8, 0x80, 0, true },
		{ "CR4.PCIDE in long mode", 0xff48, 8, 0x20000, 0, true },
		{ "long mode without PAE", 0xff48, 8, 0, 0x20, false },
		{ "CR3 bit 52", 0xff50, 8, 1ull << 52, 0, false },
		{ "EFER bit 1", 0xfed0, 8, 2, 0, false },
		{ "EFER bit 32", 0xfed0, 8, 1ull << 32, 0, false },
		{ "EFER.NXE", 0xfed0, 8, 0x800, 0, true },
		{ "EFER.LMA follows LME and PG", 0xfed0, 8, 0, 0x400, true },
		{ "DR6 bit 32", 0xff68, 8, 1ull << 32, 0, false },
		{ "DR7 bit 32", 0xff60, 8, 1ull << 32, 0, false },
		{ "DR7 bit 9", 0xff60, 8, 1 << 9, 0, true },
		{ "RFLAGS bit 63 is ignored", 0xff70, 8, 1ull << 63, 0, true },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct smm t;
		int exit;

		smm_start(&t, true);
		run_to_port(&t.g, 0xb0);
		smram_set(t.smram, cases[i].at, cases[i].size, (smram_get(t.smram, cases[i].at, cases[i].size) | cases[i].set) & ~cases[i].clear);
		exit = guest_run(&t.g, 0);
		if (exit != (cases[i].valid ? KVM_EXIT_IO : KVM_EXIT_SHUTDOWN)) {
			printf("# %s: exit %d\n", cases[i].name, exit);
			failures++;
		}
		check(!guest_in_smm(&t.g));
		smm_end(&t);
	}
}

/* The next SMI starts at the new SMBASE; the MSR is the client's alone. */
static void test_relocation(void)
{
	enum { NEW = SMBASE - 0x8000 + 0x4000 };         /* 2c000h: its 8000h and fe00h lie in SMRAM, too */
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x9e };
	struct smm t;

	smm_start(&t, true);
	guest_ioctl(t.g.vcpu[0], KVM_GET_MSRS, &m);
	check_equal(m.e.data, SMBASE);
	run_to_port(&t.g, 0xb0);
	smram_set(t.smram, 0xff00, 4, NEW);
	smram_set(t.smram, 0xff78, 8, GUEST_CODE + 2);
	memcpy(t.smram + NEW + 0x8000 - SMBASE, "\xe6\xb1\x0f\xaa", 4);  /* out %al, $0xb1; rsm */
	run_to_port(&t.g, 0x11);
	guest_ioctl(t.g.vcpu[0], KVM_GET_MSRS, &m);
	check_equal(m.e.data, NEW);
	guest_ioctl(t.g.vcpu[0], KVM_SMI, NULL);
	run_to_port(&t.g, 0xb1);
	check_equal(guest_sregs(&t.g).cs.base, NEW);
	check_equal(guest_sregs(&t.g).cs.selector, NEW >> 4);
	check_equal(smram_get(t.smram, NEW + 0xff00 - SMBASE, 4), NEW);
	check_equal(guest_run(&t.g, 0), KVM_EXIT_HLT);
	m.e.index = 0x34;                        /* SMI_COUNT */
	guest_ioctl(t.g.vcpu[0], KVM_GET_MSRS, &m);
	check_equal(m.e.data, 2);
	smm_end(&t);
}

/* No memory for the area: of an SMI the machine dies, at RSM the processor shuts down. */
static void test_no_memory(void)
{
	struct kvm_userspace_memory_region gone = { .slot = SMM_SLOTS, .guest_phys_addr = SMBASE };
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = 0x9e, .data = 0x28000 } };
	struct smm t;

	smm_start(&t, true);
	run_to_port(&t.g, 0xb0);
	check_equal(guest_ioctl(t.g.vcpu[0], KVM_SET_MSRS, &m), 1);
	check_equal(guest_run(&t.g, 0), KVM_EXIT_SHUTDOWN);
	smm_end(&t);

	smm_start(&t, true);
	guest_ioctl(t.g.vm, KVM_SET_USER_MEMORY_REGION, &gone);
	check_equal(guest_run(&t.g, 0), -EIO);
	check(anykvm_ioctl(t.g.vcpu[0], KVM_GET_REGS, &t.r) < 0 && errno == EIO);
	check(anykvm_ioctl(t.g.vm, KVM_SET_USER_MEMORY_REGION, &gone) < 0 && errno == EIO);
	smm_end(&t);
}

/* ---- the shadow-stack pointer ---- */

static uint64_t ssp_transfer(struct smm *t, unsigned long request, uint64_t ssp)
{
	struct kvm_one_reg reg = { .id = 0x2030000300000000ull, .addr = (uintptr_t)&ssp };

	guest_ioctl(t->g.vcpu[0], request, &reg);
	return ssp;
}

/* It is in the area, CET is off in the handler; RSM takes what the handler left, if that can be an SSP. */
static void test_shadow_stack(void)
{
	enum { SSP_AT = 0xff18, CR0_AT = 0xff58 };
	static const struct { uint64_t ssp, cr0_clear; bool valid; } cases[] = {
		{ 0x4008, 0, true }, { 0x4001, 0, false }, { 1ull << 48, 0, false }, { 0x4008, 1 << 16 /* WP */, false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct smm t;

		params.cet = true;
		smm_start(&t, true);
		t.s.cr0 |= 1 << 16;
		t.s.cr4 |= 1 << 23;
		guest_ioctl(t.g.vcpu[0], KVM_SET_SREGS, &t.s);
		ssp_transfer(&t, KVM_SET_ONE_REG, 0x3ffc);
		run_to_port(&t.g, 0xb0);
		check_equal(guest_sregs(&t.g).cr4, 0);
		check_equal(smram_get(t.smram, SSP_AT, 8), 0x3ffc);
		smram_set(t.smram, SSP_AT, 8, cases[i].ssp);
		smram_set(t.smram, CR0_AT, 8, smram_get(t.smram, CR0_AT, 8) & ~cases[i].cr0_clear);
		check_equal(guest_run(&t.g, 0), cases[i].valid ? KVM_EXIT_IO : KVM_EXIT_SHUTDOWN);
		if (cases[i].valid) {
			check_equal(ssp_transfer(&t, KVM_GET_ONE_REG, 0), cases[i].ssp);
			check_equal(guest_sregs(&t.g).cr4 >> 23 & 1, 1);
		}
		smm_end(&t);
	}
}

static const struct test tests[] = {
	{ "the state in which the handler starts", test_entry },
	{ "the state-save area with long mode", test_area64 },
	{ "the state-save area without", test_area32 },
	{ "RSM brings everything back", test_return },
	{ "RSM loads what the handler wrote", test_changes },
	{ "RSM to an invalid state shuts down", test_invalid },
	{ "SMBASE is relocated", test_relocation },
	{ "no memory at SMBASE", test_no_memory },
	{ "the shadow-stack pointer", test_shadow_stack },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
