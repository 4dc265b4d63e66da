/*
 * Two processors: locked instructions, wherever their operand lies; IPIs in
 * both APIC modes; sleep and wake-up; TLB shootdown; a start in the middle of
 * other work. Every guest ends with HLT on an irqchip of the client, or with a
 * write to a port.
 */
#include <errno.h>
#include <pthread.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { CODE1 = 0x9000, SHARED = 0x20000, PAGE_EDGE = 0x21000, ROUNDS = 20000 };

struct runner { struct guest *g; int vcpu, why; pthread_t thread; };

static void *runner_main(void *arg)
{
	struct runner *r = arg;
	int n;

	do
		n = anykvm_ioctl(r->g->vcpu[r->vcpu], KVM_RUN, NULL);
	while (n < 0 && (errno == EAGAIN || (errno == EINTR && !r->g->run[r->vcpu]->immediate_exit)));
	r->why = n < 0 ? -errno : (int)r->g->run[r->vcpu]->exit_reason;
	return NULL;
}

static void runner_start(struct runner *r, struct guest *g, int vcpu)
{
	*r = (struct runner){ .g = g, .vcpu = vcpu };
	pthread_create(&r->thread, NULL, runner_main, r);
}

static int runner_join(struct runner *r)
{
	pthread_join(r->thread, NULL);
	return r->why;
}

/* Long mode on both, at GUEST_CODE and CODE1. */
static void start(struct guest *g, bool irqchip)
{
	struct kvm_mp_state running = { KVM_MP_STATE_RUNNABLE };

	guest_create(g, irqchip);
	guest_add_vcpu(g);
	for (int i = 0; i < 2; i++)
		guest_mode(g, i, GUEST_LONG);
	if (irqchip)
		guest_ioctl(g->vcpu[1], KVM_SET_MP_STATE, &running);
	/* the fourth gigabyte holds the APICs */
	((uint64_t *)(g->memory + GUEST_PAGES))[512 + 3] = (GUEST_PAGES + 0x3000) | 7;
	for (uint64_t i = 0; i < 512; i++)
		((uint64_t *)(g->memory + GUEST_PAGES))[1536 + i] = (i << 21 | 3ull << 30) | 0x87;
}

static void place(struct guest *g, int vcpu, const uint8_t *code, const uint8_t *end, uint64_t rcx, uint64_t rsi)
{
	struct kvm_regs r = { .rip = vcpu ? CODE1 : GUEST_CODE, .rsp = GUEST_STACK - vcpu * 0x400, .rflags = 2, .rcx = rcx, .rsi = rsi };

	guest_load_bytes(g, r.rip, code, end - code);
	guest_set_regs(g, vcpu, &r);
}
#define place(g, vcpu, name, rcx, rsi) place(g, vcpu, name##_start, name##_end, rcx, rsi)

/* Runs both to the end. */
static void run_both(struct guest *g, int why)
{
	struct runner other;

	runner_start(&other, g, 1);
	check_equal(guest_run(g, 0), why);
	check_equal(runner_join(&other), why);
}

static uint64_t word64(struct guest *g, uint64_t gpa)
{
	uint64_t v;

	memcpy(&v, g->memory + gpa, 8);
	return v;
}

static uint32_t word32(struct guest *g, uint64_t gpa) { return word64(g, gpa); }

/* ---- locked instructions ---- */

/* Each round adds 7 to the word at RSI. */
GUEST_ASM(lock_mix, 64,
	"1: lock incl (%rsi)\n"
	"   mov $2, %eax\n lock xadd %eax, (%rsi)\n"
	"2: mov (%rsi), %eax\n lea 3(%rax), %edx\n lock cmpxchg %edx, (%rsi)\n jne 2b\n"
	"   lock addl $1, (%rsi)\n"
	"   dec %rcx\n jnz 1b\n hlt");

GUEST_ASM(spinlock, 64,
	"1: mov $1, %eax\n 2: pause\n xchg %eax, (%rsi)\n test %eax, %eax\n jnz 2b\n"
	"   incq 0x100(%rsi)\n"                  /* not locked by itself */
	"   movl $0, (%rsi)\n"
	"   dec %rcx\n jnz 1b\n hlt");

GUEST_ASM(bit_lock, 64,
	"1: lock btsl $5, (%rsi)\n pause\n jc 1b\n"
	"   incq 0x100(%rsi)\n"
	"   lock btrl $5, (%rsi)\n"
	"   dec %rcx\n jnz 1b\n hlt");

static void locked_at(uint64_t addr, unsigned rounds)
{
	struct guest g;

	start(&g, false);
	for (int i = 0; i < 2; i++)
		place(&g, i, lock_mix, rounds, addr);
	run_both(&g, KVM_EXIT_HLT);
	check_equal(word32(&g, addr), 14 * rounds);
	for (int i = 0; i < 2; i++)
		place(&g, i, spinlock, rounds, addr);
	memset(g.memory + addr, 0, 4);
	run_both(&g, KVM_EXIT_HLT);
	check_equal(word64(&g, addr + 0x100), 2 * rounds);
	for (int i = 0; i < 2; i++)
		place(&g, i, bit_lock, rounds, addr);
	memset(g.memory + addr, 0, 4);
	run_both(&g, KVM_EXIT_HLT);
	check_equal(word64(&g, addr + 0x100), 4 * rounds);
	guest_destroy(&g);
}

static void test_locked(void)
{
	locked_at(SHARED, ROUNDS * 5);
	locked_at(SHARED + 62, ROUNDS);          /* two cache lines */
	locked_at(CODE1 + 0x3e0, 500);           /* in the page that one of them runs */
}

static void test_locked_pages(void)
{
	for (unsigned before = 1; before < 4; before++)
		locked_at(PAGE_EDGE - before, 300);
}

/* One counts in a word that lies in two pages, the other in the half of it that lies in the second page. */
GUEST_ASM(count_across, 64,
	"0: pause\n cmpl $0, 4(%rsi)\n je 0b\n 1: lock addq $1, (%rsi)\n dec %rcx\n jnz 1b\n movl $1, 0x200(%rsi)\n hlt");
GUEST_ASM(add_once, 64, "lock addq $1, (%rsi)\n hlt");
GUEST_ASM(count_locked, 64, "1: lock incl (%rsi)\n inc %rcx\n cmpl $0, 0x1fc(%rsi)\n je 1b\n mov %ecx, %eax\n hlt");
GUEST_ASM(count_plain, 64, "1: incl (%rsi)\n inc %rcx\n cmpl $0, 0x1fc(%rsi)\n je 1b\n mov %ecx, %eax\n hlt");

static void test_split_against_others(void)
{
	struct guest g;

	for (int plain = 0; plain < 2; plain++) {
		start(&g, false);
		place(&g, 0, count_across, 3000, PAGE_EDGE - 4);
		if (plain)
			place(&g, 1, count_plain, 0, PAGE_EDGE);
		else
			place(&g, 1, count_locked, 0, PAGE_EDGE);
		run_both(&g, KVM_EXIT_HLT);
		check_equal(word32(&g, PAGE_EDGE - 4), 3000);
		check_equal(word32(&g, PAGE_EDGE), (uint32_t)guest_regs(&g, 1).rcx);
		check(guest_regs(&g, 1).rcx > 0);
		guest_destroy(&g);
	}
}

/* The second page is a device's: the instruction is made again with each answer, and nobody is shut out for good. */
static void test_split_device(void)
{
	struct guest g;
	struct runner other;

	start(&g, false);
	place(&g, 0, add_once, 0, 0x400000 - 4);
	place(&g, 1, count_plain, 0, PAGE_EDGE);
	runner_start(&other, &g, 1);
	check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
	check_equal(g.run[0]->mmio.is_write, 0);
	check_equal(g.run[0]->mmio.phys_addr, 0x400000);
	memset(g.run[0]->mmio.data, 0, 8);
	memset(g.memory + 0x400000 - 4, 0xff, 4);        /* seen by the read that comes with the answer */
	check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
	check_equal(g.run[0]->mmio.is_write, 1);
	check_equal(g.run[0]->mmio.data[0], 1);
	check(!memcmp(g.memory + 0x400000 - 4, "\0\0\0\0", 4));
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	g.memory[PAGE_EDGE + 0x1fc] = 1;
	check_equal(runner_join(&other), KVM_EXIT_HLT);
	guest_destroy(&g);
}

/* ---- IPIs, HLT ---- */

static void idt_gate(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | (uint64_t)(offset & 0xffff0000) << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

#define X2APIC_ON "mov $0x1b, %ecx\n rdmsr\n or $0xc00, %eax\n wrmsr\n mov $0x80f, %ecx\n mov $0x1ff, %eax\n xor %edx, %edx\n wrmsr\n"
#define X2APIC_SEND(to, icr) "mov $0x830, %ecx\n mov $" #to ", %edx\n mov $" #icr ", %eax\n wrmsr\n"
#define X2APIC_EOI "mov $0x80b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n"
#define XAPIC_ON "mov $0xfee00000, %edi\n movl $0x1ff, 0xf0(%rdi)\n"
#define XAPIC_SEND(to, icr) "movl $" #to " << 24, 0x310(%rdi)\n movl $" #icr ", 0x300(%rdi)\n"
#define XAPIC_EOI "movl $0, 0xb0(%rdi)\n"

/* Each sleeps until the other's IPI and answers it, the first one begins. Counts in EBX. */
#define PING(ON, SEND, EOI, name) \
GUEST_ASM(ping_##name, 64, ON "cli\n xor %ebx, %ebx\n xor %ebp, %ebp\n" \
	"3: pause\n cmpl $0, (%rsi)\n je 3b\n" \
	"1: " SEND(1, 0x4040) \
	"2: sti\n hlt\n cli\n cmp %ebp, %ebx\n je 2b\n mov %ebx, %ebp\n cmp $2000, %ebx\n jb 1b\n out %al, $0x10\n" \
	".org ping_" #name "_start + 0x200\n push %rax\n push %rcx\n push %rdx\n" EOI "inc %ebx\n pop %rdx\n pop %rcx\n pop %rax\n iretq"); \
GUEST_ASM(pong_##name, 64, ON "cli\n xor %ebx, %ebx\n xor %ebp, %ebp\n movl $1, (%rsi)\n" \
	"2: sti\n hlt\n cli\n cmp %ebp, %ebx\n je 2b\n mov %ebx, %ebp\n" SEND(0, 0x4041) "cmp $2000, %ebx\n jb 2b\n out %al, $0x10\n" \
	".org pong_" #name "_start + 0x200\n push %rax\n push %rcx\n push %rdx\n" EOI "inc %ebx\n pop %rdx\n pop %rcx\n pop %rax\n iretq")

PING(X2APIC_ON, X2APIC_SEND, X2APIC_EOI, x2apic);
PING(XAPIC_ON, XAPIC_SEND, XAPIC_EOI, xapic);

static void run_ping(struct guest *g)
{
	idt_gate(g, 0x41, GUEST_CODE + 0x200);
	idt_gate(g, 0x40, CODE1 + 0x200);
	run_both(g, KVM_EXIT_IO);
	for (int i = 0; i < 2; i++)
		check_equal(guest_regs(g, i).rbx, 2000);
	guest_destroy(g);
}

static void test_ping_x2apic(void)
{
	struct guest g;

	start(&g, true);
	place(&g, 0, ping_x2apic, 0, SHARED);
	place(&g, 1, pong_x2apic, 0, SHARED);
	run_ping(&g);
}

static void test_ping_xapic(void)
{
	struct guest g;

	start(&g, true);
	place(&g, 0, ping_xapic, 0, SHARED);
	place(&g, 1, pong_xapic, 0, SHARED);
	run_ping(&g);
}

/* As a paravirtual spinlock's: HLT with interrupts off, and the hypercall that ends it. */
GUEST_ASM(kick, 64,
	"xor %edi, %edi\n 1: inc %edi\n mov %edi, (%rsi)\n"
	"2: mov $5, %eax\n xor %ebx, %ebx\n mov $1, %ecx\n vmcall\n test %rax, %rax\n jnz 3f\n pause\n cmp %edi, 4(%rsi)\n jne 2b\n"
	"   cmp $1000, %edi\n jb 1b\n 3: mov %rax, %rbp\n out %al, $0x10\n");
GUEST_ASM(kicked, 64,
	"xor %edi, %edi\n 1: cli\n hlt\n cmp %edi, (%rsi)\n je 1b\n mov (%rsi), %edi\n mov %edi, 4(%rsi)\n cmp $1000, %edi\n jb 1b\n out %al, $0x10\n");

static void test_kick(void)
{
	struct guest g;

	start(&g, true);
	place(&g, 0, kick, 0, SHARED);
	place(&g, 1, kicked, 0, SHARED);
	run_both(&g, KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbp, 0);
	guest_destroy(&g);
}

/* NMI to a halted processor with interrupts off, to all but self. */
GUEST_ASM(nmi_sender, 64,
	X2APIC_ON "xor %edi, %edi\n 1: inc %edi\n" X2APIC_SEND(0, 0xc4400) "2: pause\n cmp %edi, (%rsi)\n jne 2b\n cmp $1000, %edi\n jb 1b\n out %al, $0x10\n");
GUEST_ASM(nmi_sleeper, 64,
	X2APIC_ON "cli\n 1: hlt\n jmp 1b\n"
	".org nmi_sleeper_start + 0x200\n incl (%rsi)\n cmpl $1000, (%rsi)\n jae 2f\n iretq\n 2: out %al, $0x10\n");

static void test_nmi(void)
{
	struct guest g;

	start(&g, true);
	place(&g, 0, nmi_sender, 0, SHARED);
	place(&g, 1, nmi_sleeper, 0, SHARED);
	idt_gate(&g, 2, CODE1 + 0x200);
	run_both(&g, KVM_EXIT_IO);
	guest_destroy(&g);
}

/* ---- TLB shootdown ---- */

/*
 * The page at 1 GiB changes its frame; the other processor, which uses it all
 * the time, is told by an IPI, and must find the new frame after its INVLPG,
 * as data and as code.
 */
GUEST_ASM(shooter, 64,
	X2APIC_ON "mov $1, %ebx\n 3: pause\n cmpl $0, 16(%rsi)\n je 3b\n"
	"1: mov %ebx, %eax\n and $1, %eax\n shl $12, %eax\n add $0x200003, %eax\n mov %rax, 0x112000\n"
	X2APIC_SEND(1, 0x4052)
	"2: pause\n cmp %ebx, (%rsi)\n jne 2b\n"
	"   mov %ebx, %eax\n and $1, %eax\n cmp %eax, 4(%rsi)\n jne 9f\n cmp %eax, 8(%rsi)\n jne 9f\n"
	"   inc %ebx\n cmp $3000, %ebx\n jbe 1b\n 9: movl $1, 12(%rsi)\n out %al, $0x10\n");
GUEST_ASM(target, 64,
	X2APIC_ON "mov $0x40000000, %edi\n xor %ebx, %ebx\n movl $1, 16(%rsi)\n sti\n"
	"1: call *%rdi\n mov 0x20(%rdi), %edx\n mov %edx, 0x40(%rdi)\n cmpl $0, 12(%rsi)\n je 1b\n out %al, $0x10\n"
	".org target_start + 0x200\n push %rax\n push %rcx\n push %rdx\n"
	"invlpg (%rdi)\n call *%rdi\n mov %eax, 4(%rsi)\n mov 0x20(%rdi), %eax\n mov %eax, 8(%rsi)\n" X2APIC_EOI
	"inc %ebx\n mov %ebx, (%rsi)\n pop %rdx\n pop %rcx\n pop %rax\n iretq");

static void map_at_1g(struct guest *g, uint64_t first)
{
	uint64_t *tables = (uint64_t *)(g->memory + 0x110000);

	((uint64_t *)(g->memory + GUEST_PAGES))[512 + 1] = 0x111000 | 7;
	tables[512] = 0x112000 | 7;
	tables[1024] = first | 3;
}

static void test_shootdown(void)
{
	struct guest g;

	start(&g, true);
	map_at_1g(&g, 0x200000);
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t *frame = g.memory + 0x200000 + i * 0x1000;

		memcpy(frame, (uint8_t []){ 0xb8, i, 0, 0, 0, 0xc3 }, 6);        /* mov $i, %eax; ret */
		memcpy(frame + 0x20, &i, 4);
	}
	place(&g, 0, shooter, 0, SHARED);
	place(&g, 1, target, 0, SHARED);
	idt_gate(&g, 0x52, CODE1 + 0x200);
	run_both(&g, KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbx, 3001);
	guest_destroy(&g);
}

/* ---- INIT in the middle of work ---- */

GUEST_ASM(restarter, 64,
	X2APIC_ON "mov $1, %ebx\n"
	"1: " X2APIC_SEND(1, 0x4500) X2APIC_SEND(1, 0x460a)
	"2: pause\n cmp %ebx, (%rsi)\n jne 2b\n inc %ebx\n cmp $200, %ebx\n jbe 1b\n movl $1, 4(%rsi)\n"
	X2APIC_SEND(1, 0x4500) X2APIC_SEND(1, 0x460a) "out %al, $0x10\n");
/* Real mode at 0a000h: counts, and spins or sleeps until it is started again. */
GUEST_ASM(restarted, 16,
	"mov $0x2000, %ax\n mov %ax, %ds\n cmpl $0, 4\n jne 9f\n incl 0\n testl $1, 0\n jz 2f\n 1: pause\n jmp 1b\n 2: cli\n hlt\n jmp 2b\n"
	"9: out %al, $0x10\n");

static void test_restart(void)
{
	struct guest g;

	start(&g, true);
	guest_load_bytes(&g, 0xa000, restarted_start, restarted_end - restarted_start);
	place(&g, 0, restarter, 0, SHARED);
	place(&g, 1, spinlock, 1ull << 40, 0x30000);
	run_both(&g, KVM_EXIT_IO);
	check_equal(word32(&g, SHARED), 200);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "locked instructions in one page", test_locked },
	{ "locked instructions across pages", test_locked_pages },
	{ "locks across pages against accesses to one of them", test_split_against_others },
	{ "lock across a page and a device", test_split_device },
	{ "IPIs and HLT, x2APIC", test_ping_x2apic },
	{ "IPIs and HLT, xAPIC", test_ping_xapic },
	{ "hypercall wakes from HLT", test_kick },
	{ "NMI to all but self", test_nmi },
	{ "TLB shootdown", test_shootdown },
	{ "INIT and SIPI to a running processor", test_restart },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
