/*
 * Cycles of single events, in a bare guest on the linked KVM API: what an
 * instruction that hardware would intercept, or that changes the processor's
 * mode or mappings, costs here.
 *
 * A guest runs a loop of one operation between two OUTs. The client takes the
 * CPU time of the vCPU's thread at both and converts it to TSC cycles, so other
 * load on the machine hardly matters; only IPIs, which two threads take part
 * in, are measured by the clock. The empty loop is taken off.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { GDT = 0x600, TSS = 0x800, HANDLERS = 0x9000, AP_CODE = 0xb000, OTHER_ROOT = 0x180000,
       PORT_BEGIN = 0x10, PORT_END = 0x11, PORT_CLIENT = 0xe4, VECTOR_PF = 14, VECTOR_INT = 0x41, VECTOR_IPI = 0x50,
       USER_CS = 59, USER_SS = 51 };
#define MMIO_GPA "0x10000000"

/* rdi: how often. The loop counter is r12. */
#define LOOP(body) \
	"mov %rdi, %r12\n mov $0, %eax\n out %al, $0x10\n" \
	".p2align 4, 0x90\n 9:\n" body "\n dec %r12\n jnz 9b\n out %al, $0x11\n hlt\n"
#define MSR_SET(msr, high, low) "mov $" #msr ", %ecx\n mov $" #high ", %edx\n mov $" #low ", %eax\n wrmsr\n"
#define X2APIC "mov $0x1b, %ecx\n rdmsr\n or $0xc00, %eax\n wrmsr\n" MSR_SET(0x80f, 0, 0x1ff)
/* To ring 3 at the following instruction, with IOPL 3 so that the OUTs work. */
#define TO_USER \
	"lea 7f(%rip), %rax\n mov $0xc0000082, %ecx\n xor %edx, %edx\n wrmsr\n" \
	MSR_SET(0xc0000081, 0x2b0018, 0) MSR_SET(0xc0000084, 0, 0) \
	"lea 8f(%rip), %rcx\n mov $0x3002, %r11d\n sysretq\n 7: sysretq\n 8:\n"

/* name, goal in cycles (0: none), before the loop, the operation */
#define OPERATIONS(X) \
	X(empty, 0, "", "") \
	X(cpuid, 150, "", "xor %eax, %eax\n cpuid") \
	X(mov_cr8, 150, "xor %ebx, %ebx\n", "mov %rbx, %cr8") \
	X(in_client_port, 1500, "", "in $0xe4, %al") \
	X(read_client_mmio, 0, "mov $" MMIO_GPA ", %rbx\n", "mov (%rbx), %eax") \
	X(cr4_pge, 1000, "mov %cr4, %rbx\n", "xor $0x80, %rbx\n mov %rbx, %cr4") \
	X(cr3_switch, 1000, "mov %cr3, %rbx\n mov $0x180000, %r13d\n", "xchg %rbx, %r13\n mov %r13, %cr3") \
	X(cr3_switch_and_use, 0, "mov %cr3, %rbx\n mov $0x180000, %r13d\n", \
	  "xchg %rbx, %r13\n mov %r13, %cr3\n mov 0xc000, %eax\n mov 0x6000, %eax\n mov %eax, 0xd000") \
	X(syscall_sysret, 150, TO_USER, "syscall") \
	X(fault_in_kernel, 600, "mov $0x40000000, %rbx\n", "mov (%rbx), %rax") \
	X(fault_in_user, 600, TO_USER "mov $0x40000000, %rbx\n", "mov (%rbx), %rax") \
	X(int_iret, 0, "", "int $0x41") \
	X(invlpg, 100, "", "invlpg 0x200000") \
	X(invlpg_own_page, 0, "", "invlpg 0xc000") \
	X(invlpg_and_use, 0, "", "invlpg 0x200000\n mov 0x200000, %eax") \
	X(wrmsr_fs_base, 60, "mov $0xc0000100, %ecx\n xor %edx, %edx\n", "mov %r12d, %eax\n wrmsr") \
	X(rdmsr_fs_base, 0, "mov $0xc0000100, %ecx\n", "rdmsr") \
	X(wrmsr_tsc_deadline, 0, X2APIC MSR_SET(0x832, 0, 0x40050) "mov $0x6e0, %ecx\n mov $0x7fffffff, %edx\n", "wrmsr") \
	X(wrmsr_eoi, 0, X2APIC "mov $0x80b, %ecx\n xor %edx, %edx\n xor %eax, %eax\n", "wrmsr") \
	X(self_ipi, 0, X2APIC "sti\n", MSR_SET(0x83f, 0, 0x50)) \
	X(swapgs_pair, 0, "", "swapgs\n swapgs") \
	X(cli_sti, 0, "", "cli\n sti") \
	X(pushf_popf, 0, "", "pushf\n popf") \
	X(clts, 0, "", "clts") \
	X(rdtsc, 0, "", "rdtsc") \
	X(xgetbv, 0, "xor %ecx, %ecx\n mov %cr4, %rax\n or $0x40000, %eax\n mov %rax, %cr4\n", "xgetbv") \
	X(lock_add, 0, "mov $0xc000, %ebx\n", "lock addl $1, (%rbx)") \
	X(ret, 0, "", "call 2f\n jmp 3f\n 2: ret\n 3:")

/* At e000h: the count of IPIs taken, whether the second vCPU is to sleep, whether it is ready. */
#define IPI_LOOP "6: pause\n cmpl $0, 16(%rsi)\n je 6b\n" LOOP("mov (%rsi), %ebx\n" MSR_SET(0x830, 1, 0x4050) "2: pause\n cmpl %ebx, (%rsi)\n je 2b")

#define DEFINE(name, goal, before, operation) GUEST_ASM(op_##name, 64, before LOOP(operation));
OPERATIONS(DEFINE)
GUEST_ASM(op_ipi, 64, X2APIC "mov $0xe000, %esi\n movl $0, 8(%rsi)\n" IPI_LOOP);
GUEST_ASM(op_ipi_asleep, 64, X2APIC "mov $0xe000, %esi\n movl $1, 8(%rsi)\n" IPI_LOOP);
/* The faulting instruction is 3 bytes long; a read would do as well as any that cannot succeed. */
GUEST_ASM(on_fault, 64, "add $8, %rsp\n addq $3, (%rsp)\n iretq");
GUEST_ASM(on_int, 64, "iretq");
GUEST_ASM(on_ipi, 64,
	"push %rax\n push %rcx\n push %rdx\n xor %eax, %eax\n xor %edx, %edx\n mov $0x80b, %ecx\n wrmsr\n lock incl 0xe000\n"
	"pop %rdx\n pop %rcx\n pop %rax\n iretq");
GUEST_ASM(ap, 64, X2APIC "sti\n movl $1, 0xe010\n 1: cmpl $0, 0xe008\n je 2f\n hlt\n jmp 1b\n 2: pause\n jmp 1b");

struct operation {
	const char *name;
	unsigned goal;
	const uint8_t *start, *end;
	bool two;                        /* a second vCPU answers: by the clock, not by CPU time */
};

#define LIST(name, goal, before, operation) { #name, goal, op_##name##_start, op_##name##_end, false },
static const struct operation operations[] = {
	OPERATIONS(LIST)
	{ "ipi", 10000, op_ipi_start, op_ipi_end, true },
	{ "ipi_asleep", 0, op_ipi_asleep_start, op_ipi_asleep_end, true },
};

enum { COUNT = sizeof(operations) / sizeof(*operations), MOST_BATCHES = 15 };
static int batches = 7;
static double batch_seconds = 0.02, cycles_per_ns;

static void gate(struct guest *g, unsigned vector, const uint8_t *start, const uint8_t *end, unsigned user)
{
	uint32_t at = HANDLERS + vector * 0x40;
	uint64_t v[2] = { (at & 0xffff) | 24ull << 16 | (0x8e00ull | user << 13) << 32 | (uint64_t)(at & 0xffff0000) << 32, 0 };

	guest_load_bytes(g, at, start, end - start);
	memcpy(g->memory + GUEST_IDT + 16 * vector, v, sizeof(v));
}

/* 24: kernel code, 32: its stack; 40, 48, 56: user code32, data, code64 in the order SYSRET wants. */
static void tables(struct guest *g, int i)
{
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff,
	                                0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff };
	uint64_t rsp0 = GUEST_STACK - 0x800;
	struct kvm_sregs s;

	memcpy(g->memory + GDT, gdt, sizeof(gdt));
	memcpy(g->memory + TSS + 4, &rsp0, sizeof(rsp0));
	memcpy(g->memory + OTHER_ROOT, g->memory + GUEST_PAGES, 0x1000);
	guest_ioctl(g->vcpu[i], KVM_GET_SREGS, &s);
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = sizeof(gdt) - 1 };
	s.tr = (struct kvm_segment){ .base = TSS, .limit = 0x67, .selector = 64, .type = 11, .present = 1 };
	s.efer |= 1;
	guest_ioctl(g->vcpu[i], KVM_SET_SREGS, &s);
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* From the guest's first OUT to its second, ns; client's ports and MMIO read as zero. */
static uint64_t batch(struct guest *g, const struct operation *op, uint64_t n)
{
	clockid_t clock = op->two ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
	struct kvm_run *run = g->run[0];
	uint64_t begin = 0;

	guest_mode(g, 0, GUEST_LONG);
	tables(g, 0);
	guest_set_regs(g, 0, &(struct kvm_regs){ .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2, .rdi = n });
	for (;;) {
		int why = guest_run(g, 0);

		if (why == KVM_EXIT_IO && run->io.port == PORT_BEGIN) {
			begin = now(clock);
		} else if (why == KVM_EXIT_IO && run->io.port == PORT_END) {
			return now(clock) - begin;
		} else if (why == KVM_EXIT_IO && run->io.port == PORT_CLIENT) {
			*((uint8_t *)run + run->io.data_offset) = 0;
		} else if (why != KVM_EXIT_MMIO) {
			printf("%s: exit %d at %#llx\n", op->name, why, guest_regs(g, 0).rip);
			exit(1);
		}
	}
}

static void *second(void *arg)
{
	struct guest *g = arg;

	for (;;)
		guest_run(g, 1);
	return NULL;
}

static void start_second(struct guest *g)
{
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };
	pthread_t t;

	guest_add_vcpu(g);
	guest_mode(g, 1, GUEST_LONG);
	tables(g, 1);
	guest_load_bytes(g, AP_CODE, ap_start, ap_end - ap_start);
	guest_set_regs(g, 1, &(struct kvm_regs){ .rip = AP_CODE, .rsp = GUEST_STACK - 0xc00, .rflags = 2 });
	guest_ioctl(g->vcpu[1], KVM_SET_MP_STATE, &runnable);
	pthread_create(&t, NULL, second, g);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* The work is doubled until a batch is long enough; then batches of that size, least to most. */
static void measure(const struct operation *op, double cycles[MOST_BATCHES])
{
	struct guest g;
	uint64_t n = 64;

	guest_create(&g, true);
	guest_load_bytes(&g, GUEST_CODE, op->start, op->end - op->start);
	gate(&g, VECTOR_PF, on_fault_start, on_fault_end, 0);
	gate(&g, VECTOR_INT, on_int_start, on_int_end, 3);
	gate(&g, VECTOR_IPI, on_ipi_start, on_ipi_end, 0);
	cycles_per_ns = guest_ioctl(g.vcpu[0], KVM_GET_TSC_KHZ, NULL) / 1e6;
	if (op->two)
		start_second(&g);
	while (batch(&g, op, n) < batch_seconds * 1e9)
		n *= 2;
	for (int i = 0; i < batches; i++)
		cycles[i] = batch(&g, op, n) * cycles_per_ns / n;
	qsort(cycles, batches, sizeof(*cycles), by_value);
	if (!op->two)
		guest_destroy(&g);       /* else its other thread still runs; the end of the process ends it */
}

int main(int argc, char **argv)
{
	const char *quick = getenv("QUICK");
	double cycles[MOST_BATCHES], empty = 0;

	if (quick && *quick == '1') {
		batches = 5;
		batch_seconds = 0.005;
	}
	printf("%-22s %9s %9s %9s %9s   (TSC cycles)\n", "operation", "median", "least", "most", "goal");
	for (int i = 0; i < COUNT; i++) {
		const struct operation *op = &operations[i];

		if (argc > 1 && strcmp(argv[1], op->name) && i)
			continue;
		measure(op, cycles);
		printf("%-22s %9.0f %9.0f %9.0f ", op->name, cycles[batches / 2] - empty, cycles[0] - empty, cycles[batches - 1] - empty);
		op->goal ? printf("%9u%s\n", op->goal, cycles[batches / 2] - empty < op->goal ? "" : "   not reached") : printf("%9s\n", "");
		fflush(stdout);
		if (!i)
			empty = cycles[batches / 2];
	}
	fflush(stdout);
	_exit(0);
}
