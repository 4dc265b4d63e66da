/*
 * Control flow: from page to page while mappings change, in the kernel and in
 * user mode; calls and returns that do not match.
 */
#include "guest.h"

enum { P = 1, W = 2, U = 4, G = 0x100, ROUNDS = 500 };
#define NX (1ull << 63)
/* Three pages at 1 GiB. Frame i (0 or 1) of page B lies at FRAME_B + i * 4096. */
enum { LIN_A = 0x40000000, LIN_B = LIN_A + 0x1000, LIN_C = LIN_A + 0x2000, FRAME_A = 0x200000, FRAME_B = 0x210000, FRAME_C = 0x220000,
       TABLE = 0x112000, STACK = 0x3f0000 };
enum { ROOT2 = 0x120000, TABLE2 = 0x123000 };
enum { CR4_PGE = 0x80, CR4_PCIDE = 0x20000 };

/* Ways from A's start to B, where frame i leaves i in EAX and returns. */
struct way { const char *name; uint8_t a_start[16], a_end[16], b[16]; int b_number; };
/* a_end: the last 16 bytes of A. b_number: offset of the number in B. */
#define NOP16 { 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 }
#define GO_END 0xe9, 0xeb, 0x0f, 0, 0                    /* jmp A + 0xff0 */
#define STRADDLE { 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xb8, 0, 0 }
#define MOV_RET { 0xb8, 0, 0, 0, 0, 0xc3 }               /* mov $i, %eax; ret */
static const struct way ways[] = {
	{ "call", { 0xe8, 0xfb, 0x0f, 0, 0, 0xc3 }, NOP16, MOV_RET, 1 },
	{ "jmp", { 0xe9, 0xfb, 0x0f, 0, 0 }, NOP16, MOV_RET, 1 },
	{ "jcc", { 0x39, 0xc0, 0x0f, 0x84, 0xf8, 0x0f, 0, 0, 0xf4 }, NOP16, MOV_RET, 1 },
	{ "call through a register", { 0x48, 0x8d, 0x87, 0, 0x10, 0, 0, 0xff, 0xd0, 0xc3 }, NOP16, MOV_RET, 1 },
	{ "falling through", { GO_END }, NOP16, MOV_RET, 1 },
	{ "an instruction on both pages, fallen into", { GO_END }, STRADDLE, { 0, 0, 0xc1, 0xe8, 0x10, 0xc3 }, 0 },
	{ "an instruction on both pages, jumped to", { 0xe9, 0xf8, 0x0f, 0, 0 }, STRADDLE, { 0, 0, 0xc1, 0xe8, 0x10, 0xc3 }, 0 },
	{ "an instruction on both pages, by jcc", { 0x39, 0xc0, 0x0f, 0x84, 0xf5, 0x0f, 0, 0, 0xf4 }, STRADDLE,
	  { 0, 0, 0xc1, 0xe8, 0x10, 0xc3 }, 0 },
};

/*
 * R8: PTE of B's frame 0; R9: where the PTE is; R10: page to be invalidated; RDX: 0 INVLPG, 1 CR3, 2 both roots in turn
 * (R12, R13), 3 the number of the frame is stored instead (at R11 + frame). EBX counts the rounds that were right.
 */
GUEST_ASM(driver, 64,
	"mov $0x40000000, %edi\n xor %ebx, %ebx\n"
	"1: mov %ebx, %esi\n shr $1, %esi\n and $1, %esi\n mov %esi, %eax\n shl $12, %eax\n"
	"   cmp $3, %edx\n je 5f\n cmp $2, %edx\n je 4f\n"
	"   add %r8, %rax\n mov %rax, (%r9)\n test %edx, %edx\n jz 3f\n"
	"   mov %cr3, %rax\n mov %rax, %cr3\n jmp 6f\n"
	"3: invlpg (%r10)\n jmp 6f\n"
	"4: mov %r12, %rax\n test %esi, %esi\n cmovnz %r13, %rax\n mov %rax, %cr3\n jmp 6f\n"
	"5: mov %sil, (%r11)\n"
	"6: call *%rdi\n cmp %esi, %eax\n jne 9f\n call *%rdi\n cmp %esi, %eax\n jne 9f\n"
	"   inc %ebx\n cmp $500, %ebx\n jb 1b\n 9: hlt\n");

static uint64_t *entry_at(struct guest *g, uint64_t gpa) { return (uint64_t *)(g->memory + gpa); }

static void tables_write(struct guest *g, uint64_t flags_a, uint64_t flags_b)
{
	entry_at(g, GUEST_PAGES + 0x1000)[1] = 0x111000 | P | W | U;
	entry_at(g, 0x111000)[0] = TABLE | P | W | U;
	entry_at(g, ROOT2)[0] = (ROOT2 + 0x1000) | P | W | U;
	entry_at(g, ROOT2 + 0x1000)[0] = (GUEST_PAGES + 0x2000) | P | W | U;
	entry_at(g, ROOT2 + 0x1000)[1] = (ROOT2 + 0x2000) | P | W | U;
	entry_at(g, ROOT2 + 0x2000)[0] = TABLE2 | P | W | U;
	for (int root = 0; root < 2; root++) {
		uint64_t *t = entry_at(g, root ? TABLE2 : TABLE);

		t[0] = FRAME_A | P | W | flags_a;
		t[1] = (FRAME_B + root * 0x1000) | P | W | flags_b;
		t[2] = FRAME_C | P | W | flags_b;
	}
}

static void way_write(struct guest *g, const struct way *w)
{
	memset(g->memory + FRAME_A, 0xf4, 4096);
	memcpy(g->memory + FRAME_A, w->a_start, 16);
	memcpy(g->memory + FRAME_A + 0xff0, w->a_end, 16);
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t *b = g->memory + FRAME_B + i * 0x1000;

		memset(b, 0xf4, 4096);
		memcpy(b, w->b, 16);
		b[w->b_number] = i;
	}
}

struct flow { uint64_t flags_a, flags_b, cr4, invalidate, how, root, root2; };

static void flow_start(struct guest *g, const struct flow *f)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	guest_create(g, false);
	guest_mode(g, 0, GUEST_LONG);
	tables_write(g, f->flags_a, f->flags_b);
	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.cr4 |= f->cr4;
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
	r = guest_regs(g, 0);
	r.rsp = STACK;
	r.rdx = f->how;
	r.r8 = FRAME_B | P | W | f->flags_b;
	r.r9 = TABLE + 8;
	r.r10 = f->invalidate;
	r.r12 = f->root;
	r.r13 = f->root2;
	guest_set_regs(g, 0, &r);
}

/* Every way, under one kind of change. */
static void flow_run(struct flow f)
{
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct guest g;

		flow_start(&g, &f);
		guest_load(&g, driver);
		way_write(&g, &ways[i]);
		if (f.how == 3) {
			struct kvm_regs r = guest_regs(&g, 0);

			r.r11 = FRAME_B + ways[i].b_number;
			guest_set_regs(&g, 0, &r);
		}
		check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
		check_equal(guest_regs(&g, 0).rbx, ROUNDS);
		if (guest_regs(&g, 0).rbx != ROUNDS)
			printf("# %s\n", ways[i].name);
		guest_destroy(&g);
	}
}

static void test_invlpg(void)
{
	flow_run((struct flow){ .invalidate = LIN_B });
	flow_run((struct flow){ .invalidate = LIN_B, .flags_a = G, .flags_b = G, .cr4 = CR4_PGE });
	flow_run((struct flow){ .invalidate = LIN_B, .flags_a = G, .cr4 = CR4_PGE });
	flow_run((struct flow){ .invalidate = LIN_B, .flags_b = G, .cr4 = CR4_PGE });
}

static void test_cr3_reload(void)
{
	flow_run((struct flow){ .how = 1 });
	flow_run((struct flow){ .how = 1, .flags_a = G, .cr4 = CR4_PGE });
}

static void test_two_roots(void)
{
	flow_run((struct flow){ .how = 2, .root = GUEST_PAGES, .root2 = ROOT2 });
	flow_run((struct flow){ .how = 2, .root = GUEST_PAGES, .root2 = ROOT2, .flags_a = G, .cr4 = CR4_PGE });
}

/* Nothing is flushed: both address spaces keep what they have. */
static void test_two_pcids(void)
{
	const uint64_t keep = 1ull << 63;

	flow_run((struct flow){ .how = 2, .root = GUEST_PAGES | 1 | keep, .root2 = ROOT2 | 2 | keep, .cr4 = CR4_PCIDE });
	flow_run((struct flow){ .how = 2, .root = GUEST_PAGES | 1 | keep, .root2 = ROOT2 | 2 | keep, .flags_a = G,
	                        .cr4 = CR4_PCIDE | CR4_PGE });
}

static void test_bytes(void)
{
	flow_run((struct flow){ .how = 3 });
	flow_run((struct flow){ .how = 3, .flags_a = G, .flags_b = G, .cr4 = CR4_PGE });
}

/* ---- the page that is returned to changes ---- */

/* A calls C, which gives A another frame; A goes on there with the number of that frame. */
GUEST_ASM(returns, 64,
	"mov $0x40000000, %edi\n xor %ebx, %ebx\n"
	"1: mov %ebx, %esi\n and $1, %esi\n mov %esi, %eax\n shl $12, %eax\n add %r8, %rax\n mov %rax, %r12\n"
	"   xor $0x1000, %rax\n mov %rax, (%r9)\n invlpg (%r10)\n"
	"   call *%rdi\n cmp %esi, %eax\n jne 9f\n inc %ebx\n cmp $500, %ebx\n jb 1b\n 9: hlt\n");

static void run_returns(uint64_t flags, uint64_t cr4, bool reload)
{
	static const uint8_t a[] = { 0xe8, 0xfb, 0x1f, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3 };         /* call C; mov $i, %eax; ret */
	static const uint8_t c[] = { 0x4d, 0x89, 0x21, 0x41, 0x0f, 0x01, 0x3a, 0xc3 };         /* mov %r12, (%r9); invlpg (%r10); ret */
	static const uint8_t c_reload[] = { 0x4d, 0x89, 0x21, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0xc3 };
	struct guest g;
	struct kvm_regs r;

	flow_start(&g, &(struct flow){ .invalidate = LIN_A, .flags_a = flags, .flags_b = flags, .cr4 = cr4 });
	guest_load(&g, returns);
	for (int i = 0; i < 2; i++) {
		memcpy(g.memory + FRAME_A + i * 0x1000, a, sizeof(a));
		g.memory[FRAME_A + i * 0x1000 + 6] = i;
	}
	guest_load_bytes(&g, FRAME_C, reload ? c_reload : c, reload ? sizeof(c_reload) : sizeof(c));
	r = guest_regs(&g, 0);
	r.r8 = FRAME_A | P | W | flags;
	r.r9 = TABLE;
	guest_set_regs(&g, 0, &r);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, ROUNDS);
	guest_destroy(&g);
}

static void test_return_remapped(void)
{
	run_returns(0, 0, false);
	run_returns(0, 0, true);
	run_returns(G, CR4_PGE, false);
}

/* ---- the target may not be executed any more ---- */

GUEST_ASM(forbids, 64,
	"mov $0x40000000, %edi\n mov $100, %ebx\n"
	"1: call *%rdi\n dec %ebx\n jnz 1b\n"
	"   mov %r8, (%r9)\n invlpg (%r10)\n test %r12, %r12\n jz 2f\n mov (%r10), %al\n 2: call *%rdi\n hlt\n"
	".org forbids_start + 0x400\n pop %rax\n pop %rcx\n mov %cr2, %rdx\n hlt\n");

static void gate_write(struct guest *g, unsigned vector, uint64_t to)
{
	uint64_t *gate = entry_at(g, GUEST_IDT + vector * 16);

	gate[0] = (to & 0xffff) | 24 << 16 | 0x8eull << 40 | (to >> 16 & 0xffff) << 48;
	gate[1] = to >> 32;
}

/* read: the page is read before it is jumped to. */
static void run_forbidden(const struct way *w, uint64_t pte, bool read, uint64_t error)
{
	struct guest g;
	struct kvm_regs r;
	struct kvm_sregs s;

	flow_start(&g, &(struct flow){ .invalidate = LIN_B });
	guest_load(&g, forbids);
	way_write(&g, w);
	gate_write(&g, 14, GUEST_CODE + 0x400);
	guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &s);
	s.efer |= 0x800;
	guest_ioctl(g.vcpu[0], KVM_SET_SREGS, &s);
	r = guest_regs(&g, 0);
	r.r8 = pte;
	r.r12 = read;
	guest_set_regs(&g, 0, &r);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rax, error);
	check_equal(r.rcx, w->b_number ? LIN_B : LIN_B - 3);
	check_equal(r.rdx, LIN_B);
	guest_destroy(&g);
}

static void test_forbidden(void)
{
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		run_forbidden(&ways[i], FRAME_B | P | W | NX, false, 0x11);
		run_forbidden(&ways[i], FRAME_B | P | W | NX, true, 0x11);
		run_forbidden(&ways[i], FRAME_B | W, false, 0x10);
	}
}

/* ---- user mode ---- */

/* After each call the client gives B another frame, or the processor another root. */
GUEST_ASM(user, 64, "mov $0x40000000, %edi\n 1: call *%rdi\n out %al, $0x10\n jmp 1b\n");

static void user_mode(struct guest *g)
{
	struct kvm_sregs s;
	struct kvm_regs r = guest_regs(g, 0);

	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.cs.dpl = s.ss.dpl = 3;
	s.cs.selector |= 3;
	s.ss.selector |= 3;
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
	r.rflags |= 0x3000;
	guest_set_regs(g, 0, &r);
}

static void run_user(const struct way *w, bool roots)
{
	struct guest g;
	struct kvm_sregs s;

	flow_start(&g, &(struct flow){ .flags_a = U, .flags_b = U });
	guest_load(&g, user);
	way_write(&g, w);
	user_mode(&g);
	for (int i = 0; i < 40; i++) {
		int frame = i >> 1 & 1;

		guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &s);
		s.cr3 = roots && frame ? ROOT2 : GUEST_PAGES;
		if (!roots)
			entry_at(&g, TABLE)[1] = (FRAME_B + frame * 0x1000) | P | W | U;
		guest_ioctl(g.vcpu[0], KVM_SET_SREGS, &s);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal((uint32_t)guest_regs(&g, 0).rax, frame);
	}
	guest_destroy(&g);
}

static void test_user(void)
{
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		run_user(&ways[i], false);
		run_user(&ways[i], true);
	}
}

/* ---- calls and returns that do not match ---- */

/* EBX: rounds that were right. Works alike in 32-bit and 64-bit code: SP, AX ... are the full registers. */
#define MATCHES(name, bits, SP, AX, CX, BP, DI, SLOT) GUEST_ASM(name, bits, \
	"xor %ebx, %ebx\n 1:\n" \
	/* deeper than any predictor: 1000 levels */ \
	"mov $1000, %ecx\n xor %eax, %eax\n call deep_" #name "\n cmp $500500, %eax\n jne 9f\n" \
	/* out of 50 levels without returning, twice */ \
	"mov %" SP ", %" BP "\n mov $50, %ecx\n call leap_" #name "\n hlt\n" \
	"landed_" #name ": cmp %" SP ", %" BP "\n jne 9f\n cmp $77, %eax\n jne 9f\n" \
	/* the return address is changed in every other round */ \
	"mov %ebx, %edx\n and $1, %edx\n xor %eax, %eax\n call skip_" #name "\n .byte 0xff, 0xc0, 0xff, 0xc0\n" /* twice inc %eax */ \
	"add %eax, %edx\n cmp $2, %edx\n jne 9f\n" \
	/* pushed and returned to */ \
	"mov $0, %eax\n call there_" #name "\n there_" #name ": pop %" DI "\n" \
	"lea after_" #name " - there_" #name "(%" DI "), %" DI "\n push %" DI "\n ret\n hlt\n after_" #name ":\n" \
	/* a retpoline */ \
	"lea poline_" #name " - after_" #name "(%" DI "), %" AX "\n call thunk_" #name "\n cmp $5, %eax\n jne 9f\n" \
	/* arguments removed */ \
	"push %" BP "\n push %" BP "\n call two_" #name "\n cmp %" SP ", %" BP "\n jne 9f\n" \
	/* two stacks, 3 switches each */ \
	"mov $0x3e0000, %edi\n lea -" SLOT "(%" DI "), %" DI "\n" \
	"call here_" #name "\n here_" #name ": pop %" CX "\n lea other_" #name " - here_" #name "(%" CX "), %" CX "\n mov %" CX ", (%" DI ")\n" \
	"xor %eax, %eax\n call switch_" #name "\n inc %eax\n call switch_" #name "\n add $10, %eax\n call switch_" #name "\n" \
	"cmp $311, %eax\n jne 9f\n cmp %" SP ", %" BP "\n jne 9f\n" \
	"inc %ebx\n cmp $300, %ebx\n jb 1b\n 9: hlt\n" \
	"deep_" #name ": add %ecx, %eax\n dec %ecx\n jz 2f\n call deep_" #name "\n 2: ret\n" \
	"leap_" #name ": dec %ecx\n jz 3f\n call leap_" #name "\n hlt\n 3: mov %" BP ", %" SP "\n mov $77, %eax\n jmp landed_" #name "\n" \
	"skip_" #name ": add %edx, %edx\n addl %edx, (%" SP ")\n shr $1, %edx\n ret\n" \
	"thunk_" #name ": call 4f\n 5: pause\n jmp 5b\n 4: mov %" AX ", (%" SP ")\n ret\n" \
	"poline_" #name ": mov $5, %eax\n ret\n" \
	"two_" #name ": ret $2*" SLOT "\n" \
	"switch_" #name ": xchg %" SP ", %" DI "\n ret\n" \
	"other_" #name ": add $100, %eax\n call switch_" #name "\n add $100, %eax\n call switch_" #name "\n add $100, %eax\n call switch_" #name "\n hlt\n")
MATCHES(matches64, 64, "rsp", "rax", "rcx", "rbp", "rdi", "8");
MATCHES(matches32, 32, "esp", "eax", "ecx", "ebp", "edi", "4");

static void run_matches(enum guest_mode mode, const uint8_t *code, const uint8_t *end, uint64_t stack)
{
	struct guest g;
	struct kvm_regs r;

	guest_create(&g, false);
	guest_load_bytes(&g, GUEST_CODE, code, end - code);
	guest_mode(&g, 0, mode);
	r = guest_regs(&g, 0);
	r.rsp = stack;
	guest_set_regs(&g, 0, &r);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 300);
	guest_destroy(&g);
}

static void test_unmatched(void)
{
	run_matches(GUEST_LONG, matches64_start, matches64_end, STACK);
	run_matches(GUEST_LONG, matches64_start, matches64_end, STACK + 3);
	run_matches(GUEST_PROTECTED, matches32_start, matches32_end, STACK);
	run_matches(GUEST_PROTECTED, matches32_start, matches32_end, STACK + 2);
}

/* ---- checks of the stack that are made before flags are set ---- */

/* RBP: a page that is absent, or the last 8 bytes of one that is there. EDX: 0 take the loads, 1 jump past them. */
GUEST_ASM(ahead, 64,
	"mov $0x12345678, %ebx\n xor %edi, %edi\n"
	"cmp $1, %edx\n je 1f\n mov (%rbp), %rbx\n mov 8(%rbp), %rcx\n ahead_jc: jc 1f\n hlt\n 1: mov $1, %edi\n hlt\n"
	".org ahead_start + 0x400\n pop %rax\n pop %rcx\n mov 8(%rsp), %rsi\n mov %cr2, %rdx\n hlt\n");
enum { AHEAD_LOAD = 12 };                /* offset of the first load */

static struct kvm_regs run_ahead(uint64_t rbp, uint64_t rdx)
{
	struct guest g;
	struct kvm_regs r;

	flow_start(&g, &(struct flow){ 0 });
	guest_load(&g, ahead);
	gate_write(&g, 14, GUEST_CODE + 0x400);
	entry_at(&g, FRAME_A + 0xff8)[0] = 0x1111;
	entry_at(&g, FRAME_B)[0] = 0x2222;
	r = guest_regs(&g, 0);
	r.rbp = rbp;
	r.rdx = rdx;
	guest_set_regs(&g, 0, &r);
	for (int i = 0; i < 2; i++) {            /* the second time with what the first has left in the TLB */
		r.rip = GUEST_CODE;
		guest_set_regs(&g, 0, &r);
		check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	}
	r = guest_regs(&g, 0);
	guest_destroy(&g);
	return r;
}

static void test_ahead(void)
{
	const uint64_t absent = LIN_A + 0x3000, zf = 0x40, cf = 1;
	struct kvm_regs r = run_ahead(absent, 1);

	check_equal(r.rdi, 1);
	check_equal(r.rbx, 0x12345678);
	r = run_ahead(absent, 0);                /* the fault comes at the load, with the flags of the comparison */
	check_equal(r.rdx, absent);
	check_equal(r.rax, 0);
	check_equal(r.rcx, GUEST_CODE + AHEAD_LOAD);
	check_equal(r.rsi & (zf | cf), cf);
	check_equal(r.rbx, 0x12345678);
	r = run_ahead(LIN_A + 0xff8, 0);
	check_equal(r.rbx, 0x1111);
	check_equal(r.rcx, 0x2222);
	check_equal(r.rdi, 1);
	r = run_ahead(LIN_A + 0xff8, 2);
	check_equal(r.rbx, 0x1111);
	check_equal(r.rcx, 0x2222);
	check_equal(r.rdi, 0);
}

/* Epilogues keep what a function leaves in its flags. */
GUEST_ASM(epilogues, 64,
	"xor %ebx, %ebx\n"
	"1: lea -1(%rbx), %eax\n call 2f\n jc 5f\n jz 4f\n js 5f\n cmp $2, %ebx\n jb 9f\n jmp 6f\n"
	"4: cmp $1, %ebx\n jne 9f\n jmp 6f\n"
	"5: test %ebx, %ebx\n jnz 9f\n"
	"6: inc %ebx\n cmp $500, %ebx\n jb 1b\n 9: hlt\n"
	"2: push %rbp\n push %r12\n mov %eax, %r12d\n mov $7, %eax\n xor %ebp, %ebp\n cmp $0x7fffffff, %r12d\n ja 3f\n test %r12d, %r12d\n"
	"   pop %r12\n pop %rbp\n ret\n 3: stc\n pop %r12\n pop %rbp\n ret\n");

static void test_epilogues(void)
{
	struct guest g;

	flow_start(&g, &(struct flow){ 0 });
	guest_load(&g, epilogues);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, ROUNDS);
	guest_destroy(&g);
}

int main(void)
{
	static const struct test tests[] = {
		{ "from page to page while INVLPG changes the second", test_invlpg },
		{ "from page to page while a load of CR3 changes the second", test_cr3_reload },
		{ "from page to page in two address spaces", test_two_roots },
		{ "from page to page in two PCIDs", test_two_pcids },
		{ "from page to page while its bytes change", test_bytes },
		{ "return to a page that has changed", test_return_remapped },
		{ "target made unexecutable or absent", test_forbidden },
		{ "from page to page in user mode", test_user },
		{ "calls and returns that do not match", test_unmatched },
		{ "loads from the stack after a comparison", test_ahead },
		{ "flags after an epilogue", test_epilogues },
	};

	return run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
