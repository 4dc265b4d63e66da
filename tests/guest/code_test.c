/*
 * Code that changes: by the guest itself, in the block, the page or the next
 * page; by another processor; by the client behind the guest's back.
 */
#include <errno.h>
#include <pthread.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { CODE1 = 0x9000, SHARED = 0x20000 };

/* ---- self-modifying ---- */

/*
 * EBX counts; each round stores it into the immediate of an instruction ahead
 * in the same block, behind in the same block, elsewhere in the page, and
 * across a page's edge, and compares what they load.
 */
#define SELF(bits, name, patch) GUEST_ASM(self_##name, bits, \
	"mov $0x10000, %edi\n mov $1, %ebx\n mov $3000, %ecx\n" \
	"1: " patch \
	"ahead_" #name ": mov $0, %eax\n cmp %ebx, %eax\n jne 9f\n" \
	"behind_" #name ": mov $1, %eax\n cmp %ebx, %eax\n jne 9f\n" \
	"call far_" #name "\n cmp %ebx, %eax\n jne 9f\n" \
	"call edge_" #name "\n cmp %ebx, %eax\n jne 9f\n" \
	"inc %ebx\n mov %ebx, behind_" #name " - self_" #name "_start + 1 + 0x8000\n dec %ecx\n jnz 1b\n xor %esi, %esi\n hlt\n" \
	"9: mov $1, %esi\n hlt\n" \
	".org self_" #name "_start + 0x800\n far_" #name ": mov $0, %eax\n ret\n" \
	".org self_" #name "_start + 0xffd\n edge_" #name ": mov $0, %eax\n ret\n")
/* Absolute addresses: the code runs at GUEST_CODE. */
#define PATCH(name) \
	"mov %ebx, ahead_" #name " - self_" #name "_start + 1 + 0x8000\n" \
	"mov %ebx, far_" #name " - self_" #name "_start + 1 + 0x8000\n" \
	"mov %ebx, edge_" #name " - self_" #name "_start + 1 + 0x8000\n"
SELF(64, long, PATCH(long));
SELF(32, protected, PATCH(protected));

static void run_self(enum guest_mode mode, const uint8_t *code, const uint8_t *end)
{
	struct guest g;

	guest_create(&g, false);
	guest_load_bytes(&g, GUEST_CODE, code, end - code);
	guest_mode(&g, 0, mode);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rsi, 0);
	check_equal(guest_regs(&g, 0).rbx, 3001);
	guest_destroy(&g);
}

static void test_self_long(void) { run_self(GUEST_LONG, self_long_start, self_long_end); }
static void test_self_protected(void) { run_self(GUEST_PROTECTED, self_protected_start, self_protected_end); }

/* PUSHF and MOV from a segment register, which are rules, store into the immediate of the next instruction. */
GUEST_ASM(self_rules, 64,
	"mov $1, %ebx\n mov %rsp, %rbp\n"
	"1: lea 2f(%rip), %rsp\n bt $0, %ebx\n pushf\n movabs $0, %rax\n 2: mov %rbp, %rsp\n xor %ebx, %eax\n test $1, %al\n jnz 9f\n"
	"mov %ebx, %edx\n and $3, %edx\n mov %edx, %fs\n mov %fs, 3f - 4(%rip)\n mov $0, %eax\n 3: cmp %edx, %eax\n jne 9f\n"
	"inc %ebx\n cmp $2000, %ebx\n jb 1b\n 9: hlt\n");

static void test_self_rules(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, self_rules);
	guest_mode(&g, 0, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 2000);
	guest_destroy(&g);
}

/* ARPL, at CPL 0 of unpaged protected code: the selector's RPL is raised in the low bits of the next instruction's immediate. */
GUEST_ASM(self_arpl, 32,
	"mov $1, %ebx\n"
	"1: mov %ebx, %edx\n and $3, %edx\n movw $0, 2f - self_arpl_start - 4 + 0x8000\n arpl %dx, 2f - self_arpl_start - 4 + 0x8000\n mov $0, %eax\n"
	"2: cmp %edx, %eax\n jne 9f\n inc %ebx\n cmp $2000, %ebx\n jb 1b\n 9: hlt\n");

static void test_self_arpl(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, self_arpl);
	guest_mode(&g, 0, GUEST_PROTECTED);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 2000);
	guest_destroy(&g);
}

/* VMREAD of what VMWRITE has just put into the VMCS, to the immediate of the next instruction. */
GUEST_ASM(self_vmread, 64,
	"mov %cr4, %rax\n or $0x2000, %rax\n mov %rax, %cr4\n mov $0x3a, %ecx\n mov $5, %eax\n xor %edx, %edx\n wrmsr\n"
	"mov $0x480, %ecx\n rdmsr\n mov %eax, 0x20000\n mov %eax, 0x21000\n movq $0x20000, 0x23000\n vmxon 0x23000\n jbe 9f\n"
	"movq $0x21000, 0x23000\n vmclear 0x23000\n vmptrld 0x23000\n jbe 9f\n mov $0x681e, %ecx\n mov $1, %ebx\n"
	"1: vmwrite %rbx, %rcx\n nop\n vmread %rcx, 2f - 8(%rip)\n movabs $0, %rax\n 2: cmp %rbx, %rax\n jne 9f\n"
	"inc %ebx\n cmp $2000, %ebx\n jb 1b\n 9: out %al, $0x10\n");

static void test_self_vmread(void)
{
	struct guest g;

	guest_create(&g, true);
	guest_load(&g, self_vmread);
	guest_mode(&g, 0, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbx, 2000);
	guest_destroy(&g);
}

/* Real mode: a string instruction rewrites the instruction after itself; an access of the stack does, too. */
GUEST_ASM(self_real, 16,
	"xor %ax, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n mov $1, %bx\n mov $2000, %dx\n cld\n"
	"1: mov $(real_ahead - self_real_start + 1 + 0x8000), %di\n mov $0x9000, %si\n mov %bx, (%si)\n mov $2, %cx\n rep movsb\n"
	"real_ahead: mov $0, %ax\n cmp %bx, %ax\n jne 9f\n"
	"mov $(real_pushed - self_real_start + 3 + 0x8000), %sp\n push %bx\n"
	"real_pushed: mov $0, %ax\n cmp %bx, %ax\n jne 9f\n"
	"inc %bx\n dec %dx\n jnz 1b\n xor %si, %si\n hlt\n 9: mov $1, %si\n hlt\n");

static void test_self_real(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, self_real);
	guest_mode(&g, 0, GUEST_REAL);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rsi & 0xffff, 0);
	check_equal(guest_regs(&g, 0).rbx & 0xffff, 2001);
	guest_destroy(&g);
}

/* Two linear pages for one frame: stores through one change the code that runs through the other. */
GUEST_ASM(alias, 64,
	"mov $0x40000000, %rdi\n mov $1, %ebx\n"
	"1: mov %ebx, 0x200001\n call *%rdi\n cmp %ebx, %eax\n jne 9f\n"
	"   mov %ebx, %ecx\n neg %ecx\n mov %ecx, 1(%rdi)\n mov $0x200000, %edx\n call *%rdx\n cmp %ecx, %eax\n jne 9f\n"
	"   inc %ebx\n cmp $2000, %ebx\n jb 1b\n 9: hlt\n");

static void map_at_1g(struct guest *g, uint64_t frame)
{
	uint64_t *tables = (uint64_t *)(g->memory + 0x110000);

	((uint64_t *)(g->memory + GUEST_PAGES))[512 + 1] = 0x111000 | 7;
	tables[512] = 0x112000 | 7;
	tables[1024] = frame | 3;
}

static const uint8_t mov_ret[] = { 0xb8, 0, 0, 0, 0, 0xc3 };     /* mov $0, %eax; ret */

static void mov_ret_write(struct guest *g, uint64_t gpa, uint32_t value)
{
	memcpy(g->memory + gpa, mov_ret, sizeof(mov_ret));
	memcpy(g->memory + gpa + 1, &value, 4);
}

static void test_alias(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, alias);
	guest_mode(&g, 0, GUEST_LONG);
	map_at_1g(&g, 0x200000);
	mov_ret_write(&g, 0x200000, 0);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 2000);
	guest_destroy(&g);
}

/* ---- another processor ---- */

struct runner { struct guest *g; int vcpu, why; pthread_t thread; };

static void *runner_main(void *arg)
{
	struct runner *r = arg;

	r->why = guest_run(r->g, r->vcpu);
	return NULL;
}

static void start_two(struct guest *g)
{
	guest_create(g, false);
	guest_add_vcpu(g);
	for (int i = 0; i < 2; i++)
		guest_mode(g, i, GUEST_LONG);
	guest_set_regs(g, 1, &(struct kvm_regs){ .rip = CODE1, .rsp = GUEST_STACK - 0x400, .rflags = 2, .rsi = SHARED });
	guest_set_regs(g, 0, &(struct kvm_regs){ .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2, .rsi = SHARED });
}

static void run_two(struct guest *g)
{
	struct runner other = { .g = g, .vcpu = 1 };

	pthread_create(&other.thread, NULL, runner_main, &other);
	check_equal(guest_run(g, 0), KVM_EXIT_HLT);
	pthread_join(other.thread, NULL);
	check_equal(other.why, KVM_EXIT_HLT);
}

/* The other runs a loop of one block, which is patched in its middle, until it shows the new number; data beside it changes as well. */
GUEST_ASM(patcher, 64,
	"mov $1, %ebx\n"
	"1: mov %ebx, 0x9003\n"
	"2: incl 0x9200\n incl 0x9048\n pause\n cmp %ebx, (%rsi)\n jne 2b\n"
	"inc %ebx\n cmp $3000, %ebx\n jbe 1b\n movb $0xf4, 0x9008\n hlt\n");

static void test_patch_loop(void)
{
	struct guest g;

	start_two(&g);
	guest_load(&g, patcher);
	/* 9000 nop; 9001 nop; 9002 mov; 9007 nop; 9008 nop (later hlt); 9009 mov; 900b jmp */
	guest_load_bytes(&g, CODE1, (uint8_t []){ 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0x90, 0x90, 0x89, 0x06, 0xeb, 0xf4 }, 13);
	run_two(&g);
	check_equal(guest_regs(&g, 0).rbx, 3001);
	guest_destroy(&g);
}

/*
 * The other runs functions whose first opcode flips between LOOPE and LOOPNE all the while, over INC EDX. When they
 * stand still, as LOOPNE, and it knows, it must run what is there, even if it has last met them while they changed.
 */
#define CALL_FLIPPED "xor %edx, %edx\n mov $0x30000, %edi\n 2: mov $5, %ecx\n test %edi, %edi\n call *%rdi\n add $64, %edi\n cmp $0x30800, %edi\n jb 2b\n"
GUEST_ASM(flipper, 64,
	"mov $1, %ebx\n"
	"1: mov $100, %ecx\n"
	"2: mov $0x30000, %edi\n 3: movb $0xe1, (%rdi)\n add $64, %edi\n cmp $0x30800, %edi\n jb 3b\n"
	"mov $0x30000, %edi\n 3: movb $0xe0, (%rdi)\n add $64, %edi\n cmp $0x30800, %edi\n jb 3b\n dec %ecx\n jnz 2b\n"
	"mov %ebx, (%rsi)\n"
	"4: pause\n cmp %ebx, 4(%rsi)\n jne 4b\n"
	"cmpl $0, 8(%rsi)\n jne 9f\n inc %ebx\n cmp $3000, %ebx\n jbe 1b\n"
	"9: movl $1, 12(%rsi)\n hlt\n");
GUEST_ASM(flipped, 64,
	"1: mov (%rsi), %ebp\n" CALL_FLIPPED
	"cmpl $0, 12(%rsi)\n jne 9f\n cmp %ebp, 4(%rsi)\n je 1b\n"
	"cpuid\n" CALL_FLIPPED "mov %edx, 8(%rsi)\n mov %ebp, 4(%rsi)\n jmp 1b\n"
	"9: hlt\n");

static void test_flip(void)
{
	struct guest g;

	start_two(&g);
	guest_load(&g, flipper);
	guest_load_bytes(&g, CODE1, flipped_start, flipped_end - flipped_start);
	for (unsigned i = 0; i < 32; i++)
		guest_load_bytes(&g, 0x30000 + i * 64, (uint8_t []){ 0xe0, 2, 0xff, 0xc2, 0xc3 }, 5);
	run_two(&g);
	check_equal(g.memory[SHARED + 8], 0);
	check_equal(guest_regs(&g, 0).rbx, 3001);
	guest_destroy(&g);
}

/*
 * Fresh pages become code again and again, on both processors: each writes a
 * function into pages that the other has run, hands it over, and runs what it
 * gets. Every result must be the number that was written.
 */
GUEST_ASM(trader, 64,
	"xor %ebp, %ebp\n xor %ebx, %ebx\n"
	"1: mov %ebx, %eax\n and $63, %eax\n shl $12, %eax\n lea 0x300000(%rax), %rdi\n"
	"   movb $0xb8, (%rdi)\n mov %ebx, 1(%rdi)\n movb $0xc3, 5(%rdi)\n"
	"   mov %ebx, (%rsi)\n mov %rdi, 16(%rsi)\n movl $1, 8(%rsi)\n"
	"2: pause\n cmpl $0, 8(%rsi)\n jne 2b\n"
	"   mov 24(%rsi), %eax\n cmp %ebx, %eax\n jne 9f\n"
	"   mov %ebx, %eax\n and $63, %eax\n xor $21, %eax\n shl $12, %eax\n lea 0x340000(%rax), %rdi\n"
	"   call *%rdi\n cmp %ebx, %eax\n jne 9f\n"
	"   inc %ebx\n cmp $20000, %ebx\n jb 1b\n 9: movl $2, 8(%rsi)\n hlt\n");
GUEST_ASM(partner, 64,
	"1: pause\n mov 8(%rsi), %eax\n test %eax, %eax\n jz 1b\n cmp $2, %eax\n je 9f\n"
	"   mov 16(%rsi), %rdi\n call *%rdi\n mov %eax, 24(%rsi)\n"
	"   mov (%rsi), %ebx\n mov %ebx, %ecx\n and $63, %ecx\n xor $21, %ecx\n shl $12, %ecx\n lea 0x340000(%rcx), %rdi\n"
	"   movb $0xb8, (%rdi)\n mov %ebx, 1(%rdi)\n movb $0xc3, 5(%rdi)\n"
	"   movl $0, 8(%rsi)\n jmp 1b\n 9: hlt\n");

static void test_trade(void)
{
	struct guest g;

	start_two(&g);
	guest_load(&g, trader);
	guest_load_bytes(&g, CODE1, partner_start, partner_end - partner_start);
	run_two(&g);
	check_equal(guest_regs(&g, 0).rbx, 20000);
	guest_destroy(&g);
}

/* ---- the client ---- */

/* Asks the client for new code by an OUT, calls it. RDX chooses how the change is made known. */
GUEST_ASM(asks, 64,
	"mov $0x40000000, %edi\n mov $0x112000, %r8d\n"
	"1: call *%rdi\n out %al, $0x10\n test %edx, %edx\n jz 2f\n invlpg (%rdi)\n call *%rdi\n out %al, $0x11\n jmp 1b\n"
	"2: mov %cr3, %rcx\n mov %rcx, %cr3\n call *%rdi\n out %al, $0x11\n jmp 1b\n");
GUEST_ASM(asks_unpaged, 32, "1: call far_code\n out %al, $0x10\n call far_code\n out %al, $0x11\n jmp 1b\n"
	".org asks_unpaged_start + 0x400\n far_code: mov $0, %eax\n ret\n");

static void run_client(enum guest_mode mode, const uint8_t *code, const uint8_t *end, uint64_t at, uint64_t rdx)
{
	struct guest g;
	struct kvm_regs r;

	guest_create(&g, false);
	guest_load_bytes(&g, GUEST_CODE, code, end - code);
	guest_mode(&g, 0, mode);
	map_at_1g(&g, 0x200000);
	r = guest_regs(&g, 0);
	r.rdx = rdx;
	guest_set_regs(&g, 0, &r);
	mov_ret_write(&g, at, 0);
	for (uint32_t i = 1; i < 200; i++) {
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(g.run[0]->io.port, 0x10);
		mov_ret_write(&g, at, i);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(g.run[0]->io.port, 0x11);
		check_equal((uint32_t)guest_regs(&g, 0).rax, i);
	}
	guest_destroy(&g);
}

static void test_client(void)
{
	run_client(GUEST_LONG, asks_start, asks_end, 0x200000, 0);
	run_client(GUEST_LONG, asks_start, asks_end, 0x200000, 1);
	run_client(GUEST_PROTECTED, asks_unpaged_start, asks_unpaged_end, GUEST_CODE + 0x400, 0);
}

/* New code where the client sends the vCPU, and a breakpoint of its debugger in code that has run: no hint by the guest. */
GUEST_ASM(jumps, 64, "1: nop\n nop\n out %al, $0x10\n jmp 1b\n");

static void test_client_registers(void)
{
	struct guest g;
	struct kvm_regs r;
	struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP };

	guest_create(&g, false);
	guest_load(&g, jumps);
	guest_mode(&g, 0, GUEST_LONG);
	for (uint32_t i = 1; i < 50; i++) {
		mov_ret_write(&g, 0xb000, i);
		g.memory[0xb005] = 0xf4;
		r = guest_regs(&g, 0);
		r.rip = 0xb000;
		guest_set_regs(&g, 0, &r);
		check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
		check_equal(guest_regs(&g, 0).rax, i);
	}
	r.rip = GUEST_CODE;
	guest_set_regs(&g, 0, &r);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	g.memory[GUEST_CODE + 1] = 0xcc;
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &debug);
	check_equal(guest_run(&g, 0), KVM_EXIT_DEBUG);
	check_equal(g.run[0]->debug.arch.pc, GUEST_CODE + 1);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "self-modifying code, long mode", test_self_long },
	{ "self-modifying code, unpaged protected mode", test_self_protected },
	{ "self-modifying code, rules that store", test_self_rules },
	{ "self-modifying code, ARPL", test_self_arpl },
	{ "self-modifying code, VMREAD", test_self_vmread },
	{ "self-modifying code, real mode", test_self_real },
	{ "code under two linear addresses", test_alias },
	{ "another processor patches a running loop", test_patch_loop },
	{ "another processor flips opcodes", test_flip },
	{ "pages become code and data again", test_trade },
	{ "code written by the client", test_client },
	{ "code written by the client, registers set", test_client_registers },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
