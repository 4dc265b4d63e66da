/* Machine checks: what the client may set up, what it may report, and what guests see of it; local ones (LMCE) among them. */
#include <errno.h>
#include <stdlib.h>
#include "guest.h"
#include "kvm/api.h"

enum { FEATURE_CONTROL = 0x3a, MCG_CAP = 0x179, MCG_STATUS = 0x17a, MCG_CTL = 0x17b, MC0_CTL = 0x400, MC0_STATUS = 0x401, MC0_ADDR = 0x402,
       MC0_MISC = 0x403, MCG_EXT_CTL = 0x4d0, BANKS = 10 };
#define CTL_P (1ull << 8)
#define SER_P (1ull << 24)
#define LMCE_P (1ull << 27)
#define VAL (1ull << 63)
#define OVER (1ull << 62)
#define UC (1ull << 61)
#define MCIP 4ull
#define LMCES 8ull
#define FEATURE_LMCE (1ull << 20)

/* How many were read, and the value. */
static int msr_get(struct guest *g, uint32_t index, uint64_t *value)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = index };
	int n = guest_ioctl(g->vcpu[0], KVM_GET_MSRS, &m);

	*value = m.e.data;
	return n;
}

static uint64_t msr(struct guest *g, uint32_t index)
{
	uint64_t value;

	check_equal(msr_get(g, index, &value), 1);
	return value;
}

static int msr_set(struct guest *g, uint32_t index, uint64_t value)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = index, .data = value } };

	return guest_ioctl(g->vcpu[0], KVM_SET_MSRS, &m);
}

/* 0 or -errno. */
static int setup(struct guest *g, uint64_t cap)
{
	return anykvm_ioctl(g->vcpu[0], KVM_X86_SETUP_MCE, &cap) < 0 ? -errno : 0;
}

static int report(struct guest *g, struct kvm_x86_mce m)
{
	return anykvm_ioctl(g->vcpu[0], KVM_X86_SET_MCE, &m) < 0 ? -errno : 0;
}

/* #GP of a two-byte instruction counts in EBX; #MC tells port 0x18, with MCG_STATUS. */
GUEST_ASM(guest_code, 64,
	  "1: xor %ebx, %ebx\n xor %edx, %edx\n"
	  "mov $0x3a, %ecx\n mov $0x100001, %eax\n wrmsr\n mov %ebx, %edi\n"    /* FEATURE_CONTROL: locked, LMCE */
	  "xor %ebx, %ebx\n mov $0x4d0, %ecx\n rdmsr\n mov %ebx, %esi\n mov %eax, %r8d\n"
	  "xor %ebx, %ebx\n mov $1, %eax\n xor %edx, %edx\n wrmsr\n mov %ebx, %ebp\n"
	  "xor %ebx, %ebx\n mov $2, %eax\n wrmsr\n"
	  "out %al, $0x14\n nop\n out %al, $0x15\n jmp 1b\n"
	  ".org guest_code_start + 0x100\n inc %ebx\n add $8, %rsp\n addq $2, (%rsp)\n iretq\n"
	  ".org guest_code_start + 0x180\n mov $0x17a, %ecx\n rdmsr\n out %al, $0x18\n iretq");

static void gate(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | (uint64_t)(offset & 0xffff0000) << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

static void start(struct guest *g, uint64_t cap)
{
	guest_create(g, true);
	guest_load(g, guest_code);
	guest_mode(g, 0, GUEST_LONG);
	gate(g, 13, GUEST_CODE + 0x100);
	gate(g, 18, GUEST_CODE + 0x180);
	check_equal(setup(g, cap), 0);
}

static void cr4_mce(struct guest *g, bool on)
{
	struct kvm_sregs s;

	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.cr4 = (s.cr4 & ~0x40ull) | (on ? 0x40 : 0);
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
}

/* ---- what is offered, and refused ---- */

static void test_setup(void)
{
	uint64_t supported = 0;
	struct guest g;

	start(&g, BANKS);
	guest_ioctl(g.system, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported);
	check_equal(supported, CTL_P | SER_P | LMCE_P);
	check_equal(anykvm_ioctl(g.system, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MCE), 32);
	check_equal(setup(&g, 0), -EINVAL);
	check_equal(setup(&g, supported), -EINVAL);
	check_equal(setup(&g, 33 | supported), -EINVAL);
	for (unsigned bit = 8; bit < 64; bit++) {
		bool known = (supported | 0xff0000) >> bit & 1;

		check_that(setup(&g, BANKS | 1ull << bit) == (known ? 0 : -EINVAL), "bit %u", bit);
	}
	check_equal(setup(&g, BANKS | supported), 0);
	check_equal(msr(&g, MCG_CAP), BANKS | supported);
	check_equal(msr(&g, MCG_CTL), ~0ull);
	for (unsigned i = 0; i < BANKS; i++)
		check_equal(msr(&g, MC0_CTL + 4 * i), ~0ull);
	guest_destroy(&g);
}

static void test_listed(void)
{
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + 256 * sizeof(l->indices[0]));
	struct guest g;
	unsigned found = 0;

	start(&g, BANKS);
	l->nmsrs = 256;
	guest_ioctl(g.system, KVM_GET_MSR_INDEX_LIST, l);
	for (unsigned i = 0; i < l->nmsrs; i++)
		found += l->indices[i] == MCG_EXT_CTL;
	check_equal(found, 1);
	free(l);
	guest_destroy(&g);
}

/* The client always, the guest where it or its firmware has switched LMCE on, which takes MCG_CAP's bit. */
static void test_ext_ctl(void)
{
	for (int on = 0; on < 2; on++) {
		struct kvm_regs r;
		struct guest g;

		start(&g, BANKS | (on ? LMCE_P : 0));
		check_equal(msr_set(&g, MCG_EXT_CTL, 2), 0);
		check_equal(msr_set(&g, MCG_EXT_CTL, 1), 1);
		check_equal(msr(&g, MCG_EXT_CTL), 1);
		check_equal(msr_set(&g, FEATURE_CONTROL, FEATURE_LMCE | 1), 1);
		check_equal(msr_set(&g, FEATURE_CONTROL, 0), 1);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		r = guest_regs(&g, 0);
		check_equal(r.rdi, !on);
		check_equal(r.rsi, !on);
		check_equal(r.rbp, !on);
		check_equal(r.rbx, 1);                   /* a reserved bit */
		check(!on || r.r8 == 1);
		check_equal(msr(&g, MCG_EXT_CTL), 1);
		check_equal(msr(&g, FEATURE_CONTROL), on ? FEATURE_LMCE | 1 : 0);
		guest_destroy(&g);
	}
}

/* ---- reports ---- */

static void check_bank(struct guest *g, uint64_t status, uint64_t addr)
{
	check_equal(msr(g, MC0_STATUS), status);
	check_equal(msr(g, MC0_ADDR), addr);
}

static void test_corrected(void)
{
	struct guest g;

	start(&g, BANKS | CTL_P | SER_P | LMCE_P);
	check_equal(report(&g, (struct kvm_x86_mce){ .status = VAL, .bank = BANKS }), -EINVAL);
	check_equal(report(&g, (struct kvm_x86_mce){ .status = 5 }), -EINVAL);
	check_equal(report(&g, (struct kvm_x86_mce){ .status = VAL | 5, .addr = 0x1000, .misc = 7 }), 0);
	check_bank(&g, VAL | 5, 0x1000);
	check_equal(msr(&g, MC0_MISC), 7);
	check_equal(report(&g, (struct kvm_x86_mce){ .status = VAL | 6, .addr = 0x2000 }), 0);
	check_bank(&g, VAL | OVER | 6, 0x2000);
	check_equal(msr_set(&g, MC0_STATUS, VAL | UC | 9), 1);
	check_equal(report(&g, (struct kvm_x86_mce){ .status = VAL | 6, .addr = 0x3000 }), 0);
	check_bank(&g, VAL | UC | OVER | 9, 0x2000);             /* what is worse stays */
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0x14);
	guest_destroy(&g);
}

static const struct kvm_x86_mce local = { .status = VAL | UC | 0x134, .addr = 0x5000, .mcg_status = MCIP | LMCES | 1 };

/* #MC, with the status that the client gave, and once more while the first is being handled: shutdown. */
static void uncorrected(int at_once)
{
	struct guest g;

	start(&g, BANKS | CTL_P | SER_P | LMCE_P);
	cr4_mce(&g, true);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(report(&g, local), 0);                       /* while the access to port 0x14 is not complete */
	for (int i = 0; i < at_once; i++) {
		g.run[0]->immediate_exit = 1;
		check_equal(anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL), -1);
		g.run[0]->immediate_exit = 0;
	}
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0x18);
	check_equal(guest_regs(&g, 0).rax, MCIP | LMCES | 1);
	check_bank(&g, VAL | UC | 0x134, 0x5000);
	check_equal(msr_set(&g, MCG_STATUS, 0), 1);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0x15);
	check_equal(report(&g, local), 0);
	check_bank(&g, VAL | UC | OVER | 0x134, 0x5000);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(report(&g, local), 0);
	check_equal(guest_run(&g, 0), KVM_EXIT_SHUTDOWN);
	guest_destroy(&g);
}

static void test_uncorrected(void)
{
	uncorrected(0);
	uncorrected(1);
}

static void test_uncorrected_off(void)
{
	struct guest g;

	start(&g, BANKS | CTL_P | SER_P | LMCE_P);
	check_equal(msr_set(&g, MCG_CTL, 0), 1);
	check_equal(report(&g, local), 0);
	check_bank(&g, 0, 0);
	check_equal(msr_set(&g, MCG_CTL, ~0ull), 1);
	check_equal(msr_set(&g, MC0_CTL, 0), 1);
	check_equal(report(&g, local), 0);
	check_bank(&g, 0, 0);
	check_equal(msr_set(&g, MC0_CTL, ~0ull), 1);
	check_equal(report(&g, local), 0);                       /* CR4.MCE is clear */
	check_bank(&g, 0, 0);
	check_equal(guest_run(&g, 0), KVM_EXIT_SHUTDOWN);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "MCG_CAP", test_setup },
	{ "MCG_EXT_CTL is saved", test_listed },
	{ "MCG_EXT_CTL", test_ext_ctl },
	{ "corrected errors", test_corrected },
	{ "uncorrected errors", test_uncorrected },
	{ "uncorrected errors, switched off", test_uncorrected_off },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
