/* Guests of a few instructions in each mode: what leaves KVM_RUN, how it is answered, what state remains. */
#include <errno.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

GUEST_ASM(real_io, 16,
	"mov $0x3f8, %dx\n mov $'A', %al\n out %al, %dx\n"
	"in $0x71, %al\n mov %al, %bl\n"
	"in $0x72, %ax\n mov %ax, %cx\n"
	"in $0x74, %eax\n"
	"cli\n hlt\n inc %bx\n hlt");

static void test_real_io(void)
{
	struct guest g;
	struct kvm_run *run;

	guest_create(&g, false);
	run = g.run[0];
	guest_load(&g, real_io);
	guest_mode(&g, 0, GUEST_REAL);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(run->io.direction, KVM_EXIT_IO_OUT);
	check_equal(run->io.port, 0x3f8);
	check_equal(run->io.size, 1);
	check_equal(*((uint8_t *)run + run->io.data_offset), 'A');
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(run->io.direction, KVM_EXIT_IO_IN);
	check_equal(run->io.port, 0x71);
	*((uint8_t *)run + run->io.data_offset) = 0x5a;
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(run->io.size, 2);
	memcpy((uint8_t *)run + run->io.data_offset, "\x34\x12", 2);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(run->io.size, 4);
	memcpy((uint8_t *)run + run->io.data_offset, "\x78\x56\x34\x12", 4);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 0x5a);
	check_equal(guest_regs(&g, 0).rcx, 0x1234);
	check_equal(guest_regs(&g, 0).rax, 0x12345678);
	check_equal(run->if_flag, 0);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 0x5b);
	guest_destroy(&g);
}

GUEST_ASM(string_io, 32,
	"cld\n mov $0x10000, %edi\n mov $8, %ecx\n mov $0x1f0, %edx\n rep insw\n"
	"mov $0x10000, %esi\n mov $4, %ecx\n mov $0x1f1, %edx\n rep outsb\n hlt");

static void test_string_io(void)
{
	struct guest g;
	struct kvm_run *run;
	uint8_t out[4];
	unsigned given = 0, taken = 0;
	int why;

	guest_create(&g, false);
	run = g.run[0];
	guest_load(&g, string_io);
	guest_mode(&g, 0, GUEST_PROTECTED);
	while ((why = guest_run(&g, 0)) == KVM_EXIT_IO) {
		uint8_t *data = (uint8_t *)run + run->io.data_offset;
		for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
			if (run->io.direction == KVM_EXIT_IO_IN) {
				data[0] = given++;
				data[1] = 0x80;
			} else if (taken < 4) {
				out[taken++] = data[0];
			}
		}
	}
	check_equal(why, KVM_EXIT_HLT);
	check_equal(given, 8);
	check_equal(taken, 4);
	check(!memcmp(out, "\0\x80\1\x80", 4));
	check(!memcmp(g.memory + 0x10000, "\0\x80\1\x80\2\x80\3\x80\4\x80\5\x80\6\x80\7\x80", 16));
	check_equal(guest_regs(&g, 0).rdi, 0x10010);
	check_equal(guest_regs(&g, 0).rcx, 0);
	guest_destroy(&g);
}

/* From a port into a device: the client hears of both, an item at a time. */
GUEST_ASM(string_device, 64, "mov $0x10000000, %edi\n mov $3, %ecx\n mov $0x1f0, %edx\n cld\n rep insb\n hlt");

static void test_string_device(void)
{
	struct guest g;
	struct kvm_run *run;

	guest_create(&g, false);
	run = g.run[0];
	guest_load(&g, string_device);
	guest_mode(&g, 0, GUEST_LONG);
	for (unsigned i = 0; i < 3; i++) {
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(run->io.count, 1);
		*((uint8_t *)run + run->io.data_offset) = 0x40 + i;
		check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
		check(run->mmio.is_write && run->mmio.phys_addr == 0x10000000 + i && run->mmio.data[0] == 0x40 + i);
	}
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rdi, 0x10000003);
	guest_destroy(&g);
}

GUEST_ASM(mmio, 64,
	"mov $0x10000000, %rbx\n movl $0x11223344, (%rbx)\n mov 8(%rbx), %rax\n"
	"addw $1, 16(%rbx)\n movdqu 32(%rbx), %xmm0\n movq %xmm0, %rcx\n hlt");

static void test_mmio(void)
{
	struct guest g;
	struct kvm_run *run;
	uint64_t v = 0x8877665544332211;
	uint16_t w = 41;

	guest_create(&g, false);
	run = g.run[0];
	guest_load(&g, mmio);
	guest_mode(&g, 0, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
	check(run->mmio.is_write);
	check_equal(run->mmio.phys_addr, 0x10000000);
	check_equal(run->mmio.len, 4);
	check(!memcmp(run->mmio.data, "\x44\x33\x22\x11", 4));
	check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
	check(!run->mmio.is_write);
	check_equal(run->mmio.phys_addr, 0x10000008);
	check_equal(run->mmio.len, 8);
	memcpy(run->mmio.data, &v, 8);
	check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
	check_equal(guest_regs(&g, 0).rax, v);
	check_equal(run->mmio.len, 2);
	check(!run->mmio.is_write);
	memcpy(run->mmio.data, &w, 2);
	check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
	check(run->mmio.is_write);
	check_equal(run->mmio.data[0], 42);
	for (int i = 0; i < 2; i++) {
		check_equal(guest_run(&g, 0), KVM_EXIT_MMIO);
		check_equal(run->mmio.phys_addr, 0x10000020 + 8 * i);
		check_equal(run->mmio.len, 8);
		memset(run->mmio.data, 0x10 + i, 8);
	}
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rcx, 0x1010101010101010);
	guest_destroy(&g);
}

/* immediate_exit finishes the instruction that has its answer; RIP moved by the client drops it. */
static void test_completion(void)
{
	struct guest g;
	struct kvm_run *run;
	struct kvm_regs regs;

	guest_create(&g, false);
	run = g.run[0];
	guest_load(&g, real_io);
	guest_mode(&g, 0, GUEST_REAL);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	*((uint8_t *)run + run->io.data_offset) = 0x77;
	run->immediate_exit = 1;
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL), -1);
	check_equal(errno, EINTR);
	check_equal(run->exit_reason, KVM_EXIT_IO);              /* stays */
	run->immediate_exit = 0;
	regs = guest_regs(&g, 0);
	check_equal(regs.rax & 0xff, 0x77);
	check_equal(regs.rip, GUEST_CODE + 8);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(run->io.port, 0x72);
	regs = guest_regs(&g, 0);
	regs.rip = GUEST_CODE;
	regs.rax = 0;
	guest_set_regs(&g, 0, &regs);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(run->io.port, 0x3f8);
	guest_destroy(&g);
}

GUEST_ASM(fault, 64,
	"mov $0x2000, %rsp\n mov $0x40000000, %rax\n mov (%rax), %rbx\n hlt\n"
	".org fault_start + 0x100\n mov %cr2, %rcx\n pop %rdx\n pop %rsi\n hlt");

static void idt_gate(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | (uint64_t)(offset & 0xffff0000) << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

static void test_page_fault(void)
{
	struct guest g;
	struct kvm_regs regs;

	guest_create(&g, false);
	guest_load(&g, fault);
	guest_mode(&g, 0, GUEST_LONG);
	idt_gate(&g, 14, GUEST_CODE + 0x100);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	regs = guest_regs(&g, 0);
	check_equal(regs.rcx, 0x40000000);
	check_equal(regs.rdx, 0);
	check_equal(regs.rsi, GUEST_CODE + 14);
	guest_destroy(&g);
}

GUEST_ASM(triple, 64, "ud2");

static void test_triple_fault(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, triple);
	guest_mode(&g, 0, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_SHUTDOWN);
	check_equal(guest_regs(&g, 0).rip, GUEST_CODE);
	guest_destroy(&g);
}

/* A store into the next instructions of the same block, and into a block that has run before. */
GUEST_ASM(self_modifying, 64,
	"lea target(%rip), %rbx\n xor %eax, %eax\n mov $3, %ecx\n"
	"again: movb $1, 3(%rbx)\n call target\n movb $10, 3(%rbx)\n call target\n loop again\n"
	"movb $100, patch+2(%rip)\n patch: add $1, %eax\n hlt\n"
	"target: add $0, %rax\n ret");

static void test_self_modifying(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, self_modifying);
	guest_mode(&g, 0, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rax, 3 * 11 + 100);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "real mode, port I/O", test_real_io },
	{ "string I/O", test_string_io },
	{ "string I/O into a device", test_string_device },
	{ "MMIO", test_mmio },
	{ "completion of I/O", test_completion },
	{ "page fault", test_page_fault },
	{ "triple fault", test_triple_fault },
	{ "self-modifying code", test_self_modifying },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
