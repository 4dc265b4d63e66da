/* L1 with a few instructions that enters L2 with a few instructions: entry, exits, interrupts, EPT, time of an exit. */
#include <errno.h>
#include <time.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { VMXON_REGION = 0x20000, VMCS = 0x21000, TABLE = 0x22000, L2_CODE = 0x9000, L1_EXIT = 0x8100, EPT = 0x30000, LOG = 0x24000 };

/*
 * VMXON, VMCLEAR, VMPTRLD, VMWRITE of all {field, value} pairs of the table (field ~0 ends it), VMLAUNCH.
 * At each exit (+100h): append the exit reason to the log, skip the instruction, resume; until L2 says HLT.
 * Port E0h: VMX instruction failed (error in rax); E1h: done.
 */
GUEST_ASM(l1, 64,
	"mov %cr4, %rax\n or $0x2000, %rax\n mov %rax, %cr4\n"
	"mov $0x3a, %ecx\n rdmsr\n test $1, %eax\n jnz 1f\n or $5, %eax\n wrmsr\n 1:\n"
	"mov $0x480, %ecx\n rdmsr\n mov %eax, 0x20000\n mov %eax, 0x21000\n"
	"movq $0x20000, 0x23000\n vmxon 0x23000\n jbe 9f\n"
	"movq $0x21000, 0x23000\n vmclear 0x23000\n jbe 9f\n vmptrld 0x23000\n jbe 9f\n"
	"mov $0x22000, %esi\n"
	"2: mov (%rsi), %rax\n cmp $-1, %rax\n je 3f\n vmwrite 8(%rsi), %rax\n jbe 9f\n add $16, %rsi\n jmp 2b\n"
	"3: vmlaunch\n"
	"9: mov $0x4400, %ecx\n vmread %rcx, %rax\n out %al, $0xe0\n hlt\n"
	".org l1_start + 0x100\n"
	"push %rax\n push %rcx\n push %rdx\n"
	"mov $0x4402, %ecx\n vmread %rcx, %rax\n"
	"mov 0x24000, %edx\n mov %eax, 0x24008(,%rdx,4)\n inc %edx\n and $1023, %edx\n mov %edx, 0x24000\n incl 0x24004\n"
	"cmp $12, %eax\n je 4f\n cmp $1, %eax\n je 5f\n"
	"mov $0x440c, %ecx\n vmread %rcx, %rdx\n mov $0x681e, %ecx\n vmread %rcx, %rax\n add %rdx, %rax\n vmwrite %rax, %rcx\n"
	"6: pop %rdx\n pop %rcx\n pop %rax\n vmresume\n jmp 9b\n"
	"5: sti\n nop\n cli\n jmp 6b\n"
	"4: out %al, $0xe1\n hlt\n"
	".org l1_start + 0x200\n movl $1, 0x25000\n iretq");

GUEST_ASM(l2, 64, "xor %eax, %eax\n cpuid\n vmcall\n mov $7, %edi\n hlt");
GUEST_ASM(l2_loop, 64, "mov $20000, %edi\n 1: xor %eax, %eax\n cpuid\n dec %edi\n jnz 1b\n hlt");
GUEST_ASM(l2_interrupt, 64, "1: pause\n cmpl $0, 0x25000\n je 1b\n hlt");

static uint64_t *entry;

static void field(uint32_t encoding, uint64_t value)
{
	*entry++ = encoding;
	*entry++ = value;
}

static void segment_field(unsigned i, uint16_t selector, uint32_t ar)
{
	field(0x800 + 2 * i, selector);
	field(0x4800 + 2 * i, i == 7 ? 0x67 : 0xffffffff);
	field(0x4814 + 2 * i, ar);
	field(0x6806 + 2 * i, 0);
}

static void guest_fields(uint64_t cr3)
{
	for (unsigned i = 0; i < 6; i++)         /* ES, CS, SS, DS, FS, GS */
		segment_field(i, i == 1 ? 24 : 16, i == 1 ? 0xa09b : 0xc093);
	segment_field(6, 0, 0x10000);
	segment_field(7, 32, 0x8b);
	field(0x4810, 31);
	field(0x4812, 0xfff);
	field(0x6816, GUEST_GDT);
	field(0x6818, GUEST_IDT);
	field(0x6800, 0x80000031);
	field(0x6802, cr3);
	field(0x6804, 0x2620);
	field(0x681a, 0x400);
	field(0x681c, 0x6000);
	field(0x681e, L2_CODE);
	field(0x6820, 2);
	field(0x2800, ~0ull);
	field(0x2806, 0x500);
	field(0x4824, 0);
	field(0x4826, 0);
}

static void host_fields(uint64_t cr3)
{
	static const uint32_t selectors[] = { 0xc00, 0xc04, 0xc06, 0xc08, 0xc0a };

	field(0xc02, 24);
	field(0xc0c, 32);
	for (unsigned i = 0; i < 5; i++)
		field(selectors[i], 16);
	field(0x6c00, 0x80000031);
	field(0x6c02, cr3);
	field(0x6c04, 0x2620);
	field(0x6c0c, GUEST_GDT);
	field(0x6c0e, GUEST_IDT);
	field(0x6c14, 0x7000);
	field(0x6c16, L1_EXIT);
	field(0x2c02, 0x500);
}

static uint32_t control(struct guest *g, uint32_t msr, uint32_t wanted)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = msr };

	guest_ioctl(g->vcpu[0], KVM_GET_MSRS, &m);
	if (wanted & ~(uint32_t)(m.e.data >> 32))
		printf("# MSR %#x does not offer %#x\n", msr, wanted & ~(uint32_t)(m.e.data >> 32));
	return (wanted | (uint32_t)m.e.data) & (m.e.data >> 32);
}

static void ept_write(struct guest *g)
{
	uint64_t *t = (uint64_t *)(g->memory + EPT);

	t[0] = (EPT + 0x1000) | 7;
	t[512] = (EPT + 0x2000) | 7;
	for (uint64_t i = 0; i < 512; i++)
		t[1024 + i] = i << 21 | 0x80 | 6 << 3 | 7;
}

static void controls(struct guest *g, bool ept, bool interrupts)
{
	field(0x4000, control(g, 0x48d, interrupts));
	field(0x4002, control(g, 0x48e, 1 << 7 | (ept ? 1u << 31 : 0)));
	if (ept) {
		field(0x401e, control(g, 0x48b, 1 << 1));
		field(0x201a, EPT | 3 << 3 | 6);
		ept_write(g);
	}
	field(0x400c, control(g, 0x48f, 1 << 9 | 1 << 20 | 1 << 21));
	field(0x4012, control(g, 0x490, 1 << 9 | 1 << 15));
	field(0x4004, 0);
	field(0x400a, 0);
	field(0x400e, 0);
	field(0x4010, 0);
	field(0x4014, 0);
	field(0x4016, 0);
}

static void nested_create(struct guest *g, bool ept, bool interrupts, const uint8_t *l2, size_t len)
{
	static const uint64_t tss[] = { 0x00008b0500000067, 0 };
	struct kvm_sregs s;

	guest_create(g, true);
	guest_load(g, l1);
	guest_load_bytes(g, L2_CODE, l2, len);
	guest_mode(g, 0, GUEST_LONG);
	memcpy(g->memory + GUEST_GDT + 32, tss, sizeof(tss));
	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.gdt.limit = 47;
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
	entry = (uint64_t *)(g->memory + TABLE);
	controls(g, ept, interrupts);
	guest_fields(GUEST_PAGES);
	host_fields(GUEST_PAGES);
	*entry = ~0ull;
}

static uint32_t logged(struct guest *g, unsigned i)
{
	return ((uint32_t *)(g->memory + LOG))[2 + i];
}

static void test_exits(void)
{
	for (int ept = 0; ept < 2; ept++) {
		struct guest g;

		nested_create(&g, ept, false, l2_start, l2_end - l2_start);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(g.run[0]->io.port, 0xe1);
		check_equal(logged(&g, 0), 10);
		check_equal(logged(&g, 1), 18);
		check_equal(logged(&g, 2), 12);
		check_equal(guest_regs(&g, 0).rdi, 7);
		if (g.run[0]->io.port == 0xe0)
			printf("# VM-instruction error %llu\n", guest_regs(&g, 0).rax);
		guest_destroy(&g);
	}
}

static void test_speed(void)
{
	struct guest g;
	struct timespec a, b;

	nested_create(&g, true, false, l2_loop_start, l2_loop_end - l2_loop_start);
	clock_gettime(CLOCK_MONOTONIC, &a);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	clock_gettime(CLOCK_MONOTONIC, &b);
	check_equal(g.run[0]->io.port, 0xe1);
	check_equal(((uint32_t *)(g.memory + LOG))[1], 20001);
	printf("# one exit L2 to L1 and back: %ld ns\n", ((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec) / 20000);
	guest_destroy(&g);
}

/* An interrupt for L1 while L2 runs: an exit, and L1 takes it when it sets IF. */
static void test_interrupt(void)
{
	struct guest g;
	uint64_t gate[2] = { 0x8200 | 24ull << 16 | 0x8e00ull << 32, 0 };
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x44 };
	struct kvm_lapic_state lapic;

	nested_create(&g, true, true, l2_interrupt_start, l2_interrupt_end - l2_interrupt_start);
	memcpy(g.memory + GUEST_IDT + 16 * 0x44, gate, sizeof(gate));
	guest_ioctl(g.vcpu[0], KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(g.vcpu[0], KVM_SET_LAPIC, &lapic);
	guest_ioctl(g.vm, KVM_SIGNAL_MSI, &msi);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0xe1);
	check_equal(logged(&g, 0), 1);
	check_equal(logged(&g, 1), 12);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "VM entry and exits, without and with EPT", test_exits },
	{ "an interrupt of L1 while L2 runs", test_interrupt },
	{ "many exits", test_speed },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
