/* APIC virtualization, accesses: which the processor answers, which exit and how, by page, by MSR and by CR8. */
#include "cpu/flags.h"
#include "hypervisor.h"

enum { VAPIC = 0x50000, APIC = 0x51000, STACK_IN_APIC = APIC + 0x84, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, ISR = 0x100, IRR = 0x200,
       ICR = 0x300, ICR2 = 0x310, SELF_IPI = 0x3f0, VIRTUAL_INTR = SECONDARY_VIRTUAL_INTR, REGISTERS = SECONDARY_APIC_REGISTER };

static uint32_t *reg(struct hv *h, unsigned offset) { return (uint32_t *)(h->g.memory + VAPIC + offset); }

/* L2 with a TPR shadow and these secondary controls; ipi: and IPI virtualization without any target. */
static void create(struct hv *h, uint32_t secondary, bool ipi, const uint8_t *start, const uint8_t *end)
{
	struct hv_controls c = { .pin = secondary & VIRTUAL_INTR ? PIN_EXT_INTR : 0, .secondary = secondary,
	                         .primary = PRIMARY_TPR_SHADOW | PRIMARY_SECONDARY | PRIMARY_MSR_BITMAPS | (ipi ? PRIMARY_TERTIARY : 0) };

	hv_create(h, secondary & SECONDARY_EPT ? HV_WITH_EPT : 0, c, start, end - start);
	memset(h->g.memory + HV_MSR_BITMAP, 0, 4096);
	hv_set(h, F_virtual_apic_page_addr, VAPIC);
	hv_set(h, F_tpr_threshold, 0);
	if (secondary & SECONDARY_APIC_ACCESSES)
		hv_set(h, F_apic_access_addr, APIC);
	if (secondary & VIRTUAL_INTR) {
		hv_set(h, F_guest_intr_status, 0);
		for (unsigned i = 0; i < 4; i++)
			hv_set(h, F_eoi_exit_bitmap0 + 2 * i, 0);
	}
	if (ipi) {
		hv_set(h, F_tertiary_vm_exec_control, TERTIARY_IPI);
		hv_set(h, F_pid_pointer_table, 0x53000);
		hv_set(h, F_last_pid_pointer_index, 0);
	}
}
#define create(h, secondary, ipi, name) create(h, secondary, ipi, name##_start, name##_end)

/* ---- the APIC-access page ---- */

/* At 16 * n: an access to RDI of 1, 2, 4, 8 bytes, reads first. */
GUEST_ASM(accesses, 64,
	"mov (%rdi), %al\n vmcall\n .org accesses_start + 16\n mov (%rdi), %ax\n vmcall\n .org accesses_start + 32\n"
	"mov (%rdi), %eax\n vmcall\n .org accesses_start + 48\n mov (%rdi), %rax\n vmcall\n .org accesses_start + 64\n"
	"mov %al, (%rdi)\n vmcall\n .org accesses_start + 80\n mov %ax, (%rdi)\n vmcall\n .org accesses_start + 96\n"
	"mov %eax, (%rdi)\n vmcall\n .org accesses_start + 112\n mov %rax, (%rdi)\n vmcall");

/* Registers by their offsets, as the manual lists them. */
static const uint16_t read_list[] = { 0x20, 0x30, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0x160, 0x170,
	0x180, 0x190, 0x1a0, 0x1b0, 0x1c0, 0x1d0, 0x1e0, 0x1f0, 0x200, 0x210, 0x220, 0x230, 0x240, 0x250, 0x260, 0x270, 0x280, 0x300, 0x310,
	0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0 };
static const uint16_t write_list[] = { 0x20, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360,
	0x370, 0x380, 0x3e0 };

static bool listed(const uint16_t *list, unsigned n, unsigned offset)
{
	for (unsigned i = 0; i < n; i++)
		if (list[i] == offset)
			return true;
	return false;
}

static bool virtualized(uint32_t secondary, bool ipi, unsigned offset, unsigned size, bool write)
{
	if (size > 4 || (offset & 15) + size > 4)
		return false;
	if (offset == TPR || ((secondary & VIRTUAL_INTR) && (offset == EOI || offset == ICR)) || (ipi && offset == ICR))
		return true;
	if (!(secondary & REGISTERS))
		return false;
	return write ? listed(write_list, sizeof(write_list) / 2, offset & ~15u) : listed(read_list, sizeof(read_list) / 2, offset & ~15u);
}

/* What a write of a single byte or more of value 0 to a register leads to. */
static uint32_t after_write(uint32_t secondary, unsigned offset)
{
	unsigned r = offset & ~15u;

	return r == TPR || r == ICR2 || (r == EOI && (secondary & VIRTUAL_INTR)) ? EXIT_VMCALL : EXIT_APIC_WRITE;
}

static uint64_t size_mask(unsigned size) { return size == 4 ? ~0u : (1u << size * 8) - 1; }

static void expect_access(struct hv *h, uint32_t secondary, bool ipi, unsigned offset, unsigned kind)
{
	unsigned size = 1 << (kind & 3);
	bool write = kind & 4, inside = virtualized(secondary, ipi, offset, size, write);
	uint64_t rip = HV_L2 + 16 * kind;
	uint32_t reason, wanted = inside ? write ? after_write(secondary, offset) : EXIT_VMCALL : EXIT_APIC_ACCESS;

	h->gpr[0] = 0;
	h->gpr[7] = APIC + offset;
	hv_set(h, F_guest_rip, rip);
	*reg(h, offset & ~15u) = write ? 0 : 0x5a6b7c00 + offset;
	reason = hv_run(h);
	if (reason != wanted)
		printf("# controls %#x, offset %#x, size %u, %s\n", secondary, offset, size, write ? "write" : "read");
	check_equal(reason, wanted);
	if (!inside) {
		check_equal(hv_get(h, F_exit_qualification), offset | (uint64_t)write << 12);
		check_equal(hv_get(h, F_guest_rip), rip);
	} else if (!write) {
		check_equal(h->gpr[0], (0x5a6b7c00 + offset) >> (offset & 3) * 8 & size_mask(size));
	} else if (wanted == EXIT_APIC_WRITE) {
		check_equal(hv_get(h, F_exit_qualification), offset);
		check_equal(hv_get(h, F_guest_rip), rip + (size == 2 ? 3 : 2));
	}
}

static void test_page_matrix(void)
{
	static const struct { uint32_t secondary; bool ipi; } configs[] = {
		{ 0, false }, { REGISTERS, false }, { VIRTUAL_INTR, false }, { REGISTERS | VIRTUAL_INTR, false }, { 0, true },
		{ REGISTERS | VIRTUAL_INTR, true },
	};

	for (unsigned i = 0; i < sizeof(configs) / sizeof(*configs); i++) {
		uint32_t secondary = SECONDARY_APIC_ACCESSES | configs[i].secondary;
		struct hv h;

		create(&h, secondary, configs[i].ipi, accesses);
		for (unsigned at = 0; at < 0x410; at += 16)
			for (unsigned byte = 0; byte < 5; byte++)
				for (unsigned kind = 0; kind < 8; kind++)
					expect_access(&h, secondary, configs[i].ipi, at + byte, kind);
		hv_destroy(&h);
	}
}

/* Bits that do not exist are cleared, and CR8 and the page show one register. */
GUEST_ASM(tpr_forms, 64,
	"movl $0xffffff57, (%rdi)\n mov %cr8, %rax\n vmcall\n mov $9, %eax\n mov %rax, %cr8\n mov (%rdi), %ebx\n vmcall\n"
	"movl $0x12345678, 0x290(%rdi)\n vmcall\n");

static void test_written_values(void)
{
	struct hv h;

	create(&h, SECONDARY_APIC_ACCESSES | REGISTERS | VIRTUAL_INTR, false, tpr_forms);
	h.gpr[7] = APIC + TPR;
	check_equal(hv_run(&h), EXIT_VMCALL);
	check_equal(h.gpr[0], 5);
	check_equal(*reg(&h, TPR), 0x57);
	check_equal(*reg(&h, PPR), 0x57);
	check_equal(hv_skip(&h), EXIT_VMCALL);
	check_equal(h.gpr[3], 0x90);
	check_equal(*reg(&h, PPR), 0x90);
	check_equal(hv_skip(&h), EXIT_VMCALL);
	check_equal(*reg(&h, ICR2), 0x12000000);
	hv_destroy(&h);
}

/* ---- instructions that do more than one access ---- */

GUEST_ASM(xadd, 64, "lock xadd %eax, (%rdi)\n vmcall");

/* Both halves are virtualized, or the instruction has not begun. */
static void test_read_and_write(void)
{
	struct hv h;

	create(&h, SECONDARY_APIC_ACCESSES | REGISTERS, false, xadd);
	*reg(&h, ISR) = 0x10;
	h.gpr[0] = 3;
	h.gpr[7] = APIC + ISR;                                   /* can be read, not written */
	check_equal(hv_run(&h), EXIT_APIC_ACCESS);
	check_equal(hv_get(&h, F_exit_qualification), ISR | 1 << 12);
	check_equal(h.gpr[0], 3);
	check_equal(hv_get(&h, F_guest_rip), HV_L2);
	check_equal(*reg(&h, ISR), 0x10);
	*reg(&h, 0x320) = 0x10;
	h.gpr[7] = APIC + 0x320;
	check_equal(hv_run(&h), EXIT_APIC_WRITE);
	check_equal(h.gpr[0], 0x10);
	check_equal(*reg(&h, 0x320), 0x13);
	hv_destroy(&h);
}

GUEST_ASM(stores, 64, "mov $2, %ecx\n rep stosl\n vmcall");

/* A repeated instruction stops after the element whose write exits. */
static void test_repeated(void)
{
	struct hv h;

	create(&h, SECONDARY_APIC_ACCESSES | REGISTERS, false, stores);
	h.gpr[0] = 0x77;
	h.gpr[7] = APIC + 0xf0;
	check_equal(hv_run(&h), EXIT_APIC_WRITE);
	check_equal(hv_get(&h, F_exit_qualification), 0xf0);
	check_equal(hv_get(&h, F_guest_rip), HV_L2 + 5);
	check_equal(h.gpr[1], 1);
	check_equal(h.gpr[7], APIC + 0xf4);
	check_equal(hv_run(&h), EXIT_APIC_ACCESS);
	check_equal(hv_get(&h, F_exit_qualification), 0xf4 | 1 << 12);
	check_equal(h.gpr[1], 1);
	hv_destroy(&h);
}

GUEST_ASM(step, 64, "pushf\n orl $0x100, (%rsp)\n popf\n mov %eax, (%rdi)\n vmcall");

/* The exit comes before the single-step trap, which stays pending. */
static void test_single_step(void)
{
	for (unsigned write_exits = 0; write_exits < 2; write_exits++) {
		struct hv h;

		create(&h, SECONDARY_APIC_ACCESSES | REGISTERS, false, step);
		hv_set(&h, F_exception_bitmap, 2);
		h.gpr[7] = APIC + (write_exits ? 0xf0 : TPR);
		check_equal(hv_run(&h), write_exits ? EXIT_APIC_WRITE : EXIT_EXCEPTION_NMI);
		check_equal(hv_get(&h, F_guest_rip), HV_L2 + 11);
		if (write_exits) {
			check_equal(hv_get(&h, F_guest_pending_dbg_exceptions), DR6_BS);
			check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
		}
		check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000301);
		hv_destroy(&h);
	}
}

GUEST_ASM(store_and_more, 64, "mov %eax, (%rdi)\n nop\n vmcall");

/* An APIC-write exit outranks INIT, and so the monitor trap, which comes after the next instruction then. */
static void test_monitor_trap(void)
{
	for (unsigned write_exits = 0; write_exits < 2; write_exits++) {
		struct hv h;

		hv_create_with(&h, 0, store_and_more, (struct hv_controls){ .primary = PRIMARY_TPR_SHADOW | PRIMARY_SECONDARY | PRIMARY_MTF,
		                                                            .secondary = SECONDARY_APIC_ACCESSES | REGISTERS });
		hv_set(&h, F_virtual_apic_page_addr, VAPIC);
		hv_set(&h, F_tpr_threshold, 0);
		hv_set(&h, F_apic_access_addr, APIC);
		h.gpr[7] = APIC + (write_exits ? 0xf0 : TPR);
		check_equal(hv_run(&h), write_exits ? EXIT_APIC_WRITE : EXIT_MTF);
		check_equal(hv_get(&h, F_guest_rip), HV_L2 + 2);
		check_equal(hv_run(&h), EXIT_MTF);
		check_equal(hv_get(&h, F_guest_rip), HV_L2 + 3);
		hv_destroy(&h);
	}
}

/* ---- kinds of APIC-access exits ---- */

GUEST_ASM(jump_there, 64, "jmp *%rdi");
GUEST_ASM(software_interrupt, 64, "int $0x30");

static void test_access_types(void)
{
	struct hv h;

	create(&h, SECONDARY_APIC_ACCESSES | REGISTERS, false, jump_there);
	h.gpr[7] = APIC + 0x123;
	check_equal(hv_run(&h), EXIT_APIC_ACCESS);
	check_equal(hv_get(&h, F_exit_qualification), 0x123 | 2 << 12);
	hv_destroy(&h);
	create(&h, SECONDARY_APIC_ACCESSES | REGISTERS, false, software_interrupt);
	hv_set(&h, F_guest_rsp, STACK_IN_APIC);
	check_equal(hv_run(&h), EXIT_APIC_ACCESS);
	check_equal(hv_get(&h, F_exit_qualification) >> 12, 3);
	check_equal(hv_get(&h, F_idt_vectoring_info_field), 0x80000430);
	check_equal(hv_get(&h, F_vm_exit_instruction_len), 2);
	hv_destroy(&h);
}

GUEST_ASM(load_low, 64, "mov 0x200000, %rax\n vmcall");

/* By guest-physical address: a paging structure of L2 lies on the page. Without EPT nothing is special about it. */
static void test_guest_physical(void)
{
	static const struct { uint32_t secondary; uint32_t event; uint32_t type; } cases[] = {
		{ SECONDARY_EPT, 0, 15 }, { SECONDARY_EPT, 0x80000030, 10 }, { 0, 0, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, SECONDARY_APIC_ACCESSES | REGISTERS | cases[i].secondary, false, load_low);
		hv_own_pages(&h);
		hv_set(&h, F_apic_access_addr, HV_PAGE_TABLE);
		if (cases[i].event) {
			hv_set(&h, F_guest_idtr_base, HV_SMALL_PAGES);
			hv_set(&h, F_guest_rflags, 0x202);
			hv_set(&h, F_vm_entry_intr_info_field, cases[i].event);
		}
		check_equal(hv_run(&h), cases[i].type ? EXIT_APIC_ACCESS : EXIT_VMCALL);
		if (cases[i].type)
			check_equal(hv_get(&h, F_exit_qualification) >> 12, cases[i].type);
		check_equal(hv_get(&h, F_idt_vectoring_info_field), cases[i].event);
		hv_destroy(&h);
	}
}

/* ---- CR8 and the threshold ---- */

GUEST_ASM(lower_cr8, 64, "mov %rax, %cr8\n vmcall");
GUEST_ASM(lower_page, 64, "mov %eax, (%rdi)\n vmcall");
GUEST_ASM(lower_msr, 64, "mov $0x808, %ecx\n xor %edx, %edx\n wrmsr\n vmcall");

/* Whatever way the TPR falls below the threshold, the exit comes after the instruction. */
static void test_threshold(void)
{
	static const struct { uint32_t secondary; const uint8_t *start, *end; uint64_t after; bool scaled; } ways[] = {
		{ 0, lower_cr8_start, lower_cr8_end, HV_L2 + 4, false },
		{ SECONDARY_APIC_ACCESSES, lower_page_start, lower_page_end, HV_L2 + 2, true },
		{ SECONDARY_X2APIC, lower_msr_start, lower_msr_end, HV_L2 + 9, true },
	};

	for (unsigned i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		for (uint64_t tpr = 3; tpr < 6; tpr++) {
			struct hv h;

			(create)(&h, ways[i].secondary, false, ways[i].start, ways[i].end);
			hv_set(&h, F_tpr_threshold, 4);
			*reg(&h, TPR) = 0x60;
			h.gpr[0] = tpr << (ways[i].scaled ? 4 : 0);
			h.gpr[7] = APIC + TPR;
			check_equal(hv_run(&h), tpr < 4 ? EXIT_TPR_BELOW_THRESHOLD : EXIT_VMCALL);
			check_equal(hv_get(&h, F_guest_rip), ways[i].after);
			check_equal(*reg(&h, TPR), tpr << 4);
			hv_destroy(&h);
		}
}

/* With APIC accesses virtualized VM entry takes a low TPR, and exits at once. */
static void test_threshold_at_entry(void)
{
	struct hv h;

	create(&h, SECONDARY_APIC_ACCESSES, false, lower_page);
	hv_set(&h, F_tpr_threshold, 4);
	*reg(&h, TPR) = 0x30;
	check_equal(hv_run(&h), EXIT_TPR_BELOW_THRESHOLD);
	check_equal(hv_get(&h, F_guest_rip), HV_L2);
	hv_destroy(&h);
	create(&h, 0, false, lower_page);
	hv_set(&h, F_tpr_threshold, 4);
	*reg(&h, TPR) = 0x30;
	check_equal(hv_run(&h), HV_FAILED);
	hv_destroy(&h);
}

/* ---- x2APIC mode ---- */

GUEST_ASM(msrs, 64, "rdmsr\n vmcall\n .org msrs_start + 16\n wrmsr\n vmcall");

static uint32_t msr_access(struct hv *h, uint32_t index, bool write, uint64_t value)
{
	h->gpr[0] = (uint32_t)value;
	h->gpr[1] = index;
	h->gpr[2] = value >> 32;
	hv_set(h, F_guest_rip, HV_L2 + 16 * write);
	return hv_run(h);
}

/* Not virtualized is the real APIC's MSR, which faults in xAPIC mode. */
static void test_msr_reads(void)
{
	for (unsigned i = 0; i < 3; i++) {
		uint32_t secondary = i == 0 ? 0 : i == 1 ? SECONDARY_X2APIC : SECONDARY_X2APIC | REGISTERS;
		struct hv h;

		create(&h, secondary, false, msrs);
		hv_set(&h, F_exception_bitmap, 1 << 13);
		for (uint32_t index = 0x7ff; index <= 0x900; index++) {
			bool inside = i && (index == 0x808 || (i == 2 && index >= 0x800 && index <= 0x8ff));
			uint64_t *slot = (uint64_t *)reg(&h, (index & 0xff) * 16);

			*slot = 0x1122334400000000 + index;
			check_equal(msr_access(&h, index, false, 0), inside ? EXIT_VMCALL : EXIT_EXCEPTION_NMI);
			if (inside)
				check_equal(h.gpr[2] << 32 | h.gpr[0], *slot);
		}
		hv_destroy(&h);
	}
}

static void test_msr_writes(void)
{
	static const struct { uint32_t index; uint64_t value; uint32_t secondary, reason; uint64_t qualification; } cases[] = {
		{ 0x808, 0x35, 0, EXIT_VMCALL, 0 }, { 0x808, 0x100, 0, EXIT_EXCEPTION_NMI, 0 }, { 0x808, 1ull << 32, 0, EXIT_EXCEPTION_NMI, 0 },
		{ 0x80b, 0, VIRTUAL_INTR, EXIT_VMCALL, 0 }, { 0x80b, 1, VIRTUAL_INTR, EXIT_EXCEPTION_NMI, 0 },
		{ 0x80b, 1ull << 63, VIRTUAL_INTR, EXIT_EXCEPTION_NMI, 0 }, { 0x80b, 0, REGISTERS, EXIT_EXCEPTION_NMI, 0 },
		{ 0x83f, 0x41, VIRTUAL_INTR, EXIT_VMCALL, 0 }, { 0x83f, 0x0f, VIRTUAL_INTR, EXIT_APIC_WRITE, SELF_IPI },
		{ 0x83f, 0x141, VIRTUAL_INTR, EXIT_EXCEPTION_NMI, 0 }, { 0x83f, 0x41, REGISTERS, EXIT_EXCEPTION_NMI, 0 },
		{ 0x830, 0x41, VIRTUAL_INTR | REGISTERS, EXIT_EXCEPTION_NMI, 0 }, { 0x80f, 0x1ff, REGISTERS, EXIT_EXCEPTION_NMI, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, SECONDARY_X2APIC | cases[i].secondary, false, msrs);
		hv_set(&h, F_exception_bitmap, 1 << 13);
		check_equal(msr_access(&h, cases[i].index, true, cases[i].value), cases[i].reason);
		if (cases[i].reason == EXIT_APIC_WRITE)
			check_equal(hv_get(&h, F_exit_qualification), cases[i].qualification);
		check_equal(hv_get(&h, F_guest_rip), HV_L2 + 16 + (cases[i].reason == EXIT_EXCEPTION_NMI ? 0 : 2));
		if (cases[i].index == 0x83f && cases[i].reason == EXIT_VMCALL)
			check_equal(*reg(&h, IRR + 0x20), 2);
		hv_destroy(&h);
	}
}

/* The bitmap outranks virtualization. */
static void test_msr_intercepts(void)
{
	struct hv h;

	create(&h, SECONDARY_X2APIC | REGISTERS, false, msrs);
	h.g.memory[HV_MSR_BITMAP + 0x808 / 8] = 1;
	h.g.memory[HV_MSR_BITMAP + 2048 + 0x808 / 8] = 1;
	*reg(&h, TPR) = 0x20;
	check_equal(msr_access(&h, 0x808, false, 0), EXIT_RDMSR);
	check_equal(msr_access(&h, 0x808, true, 0x70), EXIT_WRMSR);
	check_equal(*reg(&h, TPR), 0x20);
	hv_destroy(&h);
}

/* ---- what is offered ---- */

static void test_narrowed(void)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1 };
	struct guest g;

	guest_create(&g, true);
	m.e.index = 0x492;
	check_equal(guest_ioctl(g.vcpu[0], KVM_GET_MSRS, &m), 1);
	check_equal(m.e.data, TERTIARY_IPI);
	m.e.data = TERTIARY_IPI << 1;
	check_equal(guest_ioctl(g.vcpu[0], KVM_SET_MSRS, &m), 0);
	m.e.data = 0;
	check_equal(guest_ioctl(g.vcpu[0], KVM_SET_MSRS, &m), 1);
	guest_ioctl(g.vcpu[0], KVM_GET_MSRS, &m);
	check_equal(m.e.data, 0);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "accesses to the page, by controls, offset and size", test_page_matrix },
	{ "values of written registers", test_written_values },
	{ "read and write in one instruction", test_read_and_write },
	{ "repeated instructions", test_repeated },
	{ "single steps over writes", test_single_step },
	{ "monitor trap behind writes", test_monitor_trap },
	{ "fetches and event delivery", test_access_types },
	{ "accesses by guest-physical address", test_guest_physical },
	{ "TPR threshold by CR8, page and MSR", test_threshold },
	{ "TPR threshold at VM entry", test_threshold_at_entry },
	{ "x2APIC MSRs: reads", test_msr_reads },
	{ "x2APIC MSRs: writes", test_msr_writes },
	{ "x2APIC MSRs: intercepts", test_msr_intercepts },
	{ "tertiary controls, narrowed", test_narrowed },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
