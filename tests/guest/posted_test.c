/* APIC virtualization, interrupts: evaluation, delivery and end of virtual interrupts, posted interrupts, IPI virtualization. */
#include <pthread.h>
#include <sys/mman.h>
#include "cpu/flags.h"
#include "hypervisor.h"

enum { VAPIC = 0x50000, APIC = 0x51000, DESCRIPTOR = 0x52000, OTHER_DESCRIPTOR = 0x52040, TABLE = 0x53000, HANDLERS = 0x54000,
       NOTIFICATION = 0xf2, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, ISR = 0x100, IRR = 0x200, ICR = 0x300, ICR2 = 0x310, IF = 0x202,
       BEYOND_MEMORY = GUEST_MEMORY + 0x1000 };

static uint32_t *reg(struct hv *h, unsigned offset) { return (uint32_t *)(h->g.memory + VAPIC + offset); }
static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }
static void vector_set(struct hv *h, unsigned map, unsigned v) { *reg(h, map + v / 32 * 16) |= 1u << v % 32; }
static bool vector_is_set(struct hv *h, unsigned map, unsigned v) { return *reg(h, map + v / 32 * 16) >> v % 32 & 1; }
static void post(struct hv *h, unsigned v) { quad(h, DESCRIPTOR)[v / 64] |= 1ull << v % 64; }

/* Every vector's handler is VMCALL; IRETQ at its own address. */
static uint64_t handler(unsigned vector) { return HANDLERS + 16 * vector; }

static void handlers_write(struct hv *h)
{
	static const uint8_t code[] = { 0x0f, 0x01, 0xc1, 0x48, 0xcf };

	for (unsigned v = 16; v < 256; v++) {
		uint64_t gate[2] = { (handler(v) & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | handler(v) >> 16 << 48, 0 };

		memcpy(h->g.memory + GUEST_IDT + 16 * v, gate, sizeof(gate));
		memcpy(h->g.memory + handler(v), code, sizeof(code));
	}
}

/* The APIC of L1 takes interrupts. */
static void lapic_enable(struct hv *h)
{
	struct kvm_lapic_state lapic;

	guest_ioctl(h->g.vcpu[0], KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(h->g.vcpu[0], KVM_SET_LAPIC, &lapic);
}

static bool lapic_bit(struct hv *h, unsigned map, unsigned v)
{
	struct kvm_lapic_state lapic;

	guest_ioctl(h->g.vcpu[0], KVM_GET_LAPIC, &lapic);
	return *(uint32_t *)(lapic.regs + map + v / 32 * 16) >> v % 32 & 1;
}

static void msi(struct hv *h, unsigned vector)
{
	guest_ioctl(h->g.vm, KVM_SIGNAL_MSI, &(struct kvm_msi){ .address_lo = 0xfee00000, .data = vector });
}

static void status_set(struct hv *h, unsigned rvi, unsigned svi)
{
	hv_set(h, F_guest_intr_status, svi << 8 | rvi);
}

/* All of it but IPI virtualization; extra: further controls. */
static void create(struct hv *h, struct hv_controls extra, const uint8_t *start, const uint8_t *end)
{
	struct hv_controls c = { .pin = PIN_EXT_INTR | PIN_POSTED_INTR | extra.pin, .exit = VMEXIT_ACK_INTR,
	                         .primary = PRIMARY_TPR_SHADOW | PRIMARY_SECONDARY | extra.primary };

	c.secondary = SECONDARY_APIC_ACCESSES | SECONDARY_APIC_REGISTER | SECONDARY_VIRTUAL_INTR;
	hv_create(h, 0, c, start, end - start);
	handlers_write(h);
	lapic_enable(h);
	hv_set(h, F_virtual_apic_page_addr, VAPIC);
	hv_set(h, F_apic_access_addr, APIC);
	hv_set(h, F_posted_intr_nv, NOTIFICATION);
	hv_set(h, F_posted_intr_desc_addr, DESCRIPTOR);
	for (unsigned i = 0; i < 4; i++)
		hv_set(h, F_eoi_exit_bitmap0 + 2 * i, 0);
	status_set(h, 0, 0);
	hv_set(h, F_guest_rflags, IF);
}
#define create(h, name, ...) create(h, (struct hv_controls){ __VA_ARGS__ }, name##_start, name##_end)

static void expect_status(struct hv *h, unsigned rvi, unsigned svi)
{
	check_equal(hv_get(h, F_guest_intr_status), svi << 8 | rvi);
}

/* L2 is at the first instruction of the vector's handler. */
static void expect_delivered(struct hv *h, uint32_t reason, unsigned vector)
{
	check_equal(reason, EXIT_VMCALL);
	check_equal(hv_get(h, F_guest_rip), handler(vector));
	check(vector_is_set(h, ISR, vector));
	check(!vector_is_set(h, IRR, vector));
	check_equal(*reg(h, PPR), vector & 0xf0);
}

/* ---- delivery ---- */

GUEST_ASM(spin, 64, "1: pause\n jmp 1b");
GUEST_ASM(windows, 64, "nop\n sti\n nop\n nop\n hlt\n vmcall");
GUEST_ASM(halts, 64, "hlt\n vmcall");

/* VM entry evaluates RVI against the priority that TPR and SVI make. */
static void test_entry(void)
{
	static const struct { unsigned rvi, svi, tpr, ppr; bool delivered; } cases[] = {
		{ 0x41, 0, 0, 0, true }, { 0x41, 0, 0x3f, 0, true }, { 0x41, 0, 0x40, 0x40, false }, { 0x4f, 0, 0x41, 0x41, false },
		{ 0x51, 0x41, 0, 0, true }, { 0x4f, 0x41, 0, 0x40, false }, { 0x51, 0x41, 0x52, 0x52, false }, { 0x51, 0x61, 0x5f, 0x60, false },
		{ 0x0f, 0, 0, 0, false }, { 0x61, 0x51, 0x51, 0, true },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, halts);
		vector_set(&h, IRR, cases[i].rvi);
		vector_set(&h, IRR, 0x33);
		*reg(&h, TPR) = cases[i].tpr;
		*reg(&h, PPR) = ~0u;
		status_set(&h, cases[i].rvi, cases[i].svi);
		uint32_t reason = hv_run(&h);
		if (cases[i].delivered) {
			expect_delivered(&h, reason, cases[i].rvi);
			expect_status(&h, 0x33, cases[i].rvi);
		} else {
			check_equal(reason, EXIT_HLT);
			check_equal(*reg(&h, PPR), cases[i].ppr);
			check(vector_is_set(&h, IRR, cases[i].rvi));
			expect_status(&h, cases[i].rvi, cases[i].svi);
		}
		hv_destroy(&h);
	}
}

/* RFLAGS.IF and blocking by STI hold it back; NMI window and others do not come into it. */
static void test_windows(void)
{
	struct hv h;

	create(&h, windows);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0);
	hv_set(&h, F_guest_rflags, 2);
	expect_delivered(&h, hv_run(&h), 0x41);
	check_equal(*quad(&h, hv_get(&h, F_guest_rsp)), HV_L2 + 3);      /* after the instruction that follows STI */
	hv_destroy(&h);
	create(&h, windows);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0);
	hv_set(&h, F_guest_interruptibility_info, 2);            /* MOV SS */
	expect_delivered(&h, hv_run(&h), 0x41);
	check_equal(*quad(&h, hv_get(&h, F_guest_rsp)), HV_L2 + 1);
	hv_destroy(&h);
}

/* With interrupt-window exiting nothing is recognized; the window exits, and the interrupt is there at the next entry. */
static void test_window_exiting(void)
{
	struct hv h;

	create(&h, windows, .primary = PRIMARY_INTR_WINDOW);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0);
	check_equal(hv_run(&h), EXIT_INTERRUPT_WINDOW);
	expect_status(&h, 0x41, 0);
	hv_set(&h, F_cpu_based_vm_exec_control, hv_get(&h, F_cpu_based_vm_exec_control) & ~PRIMARY_INTR_WINDOW);
	expect_delivered(&h, hv_run(&h), 0x41);
	hv_destroy(&h);
}

/* An injected event goes first, then the virtual interrupt, then L1's interrupt. */
static void test_order(void)
{
	struct hv h;

	create(&h, spin);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0);
	hv_set(&h, F_vm_entry_intr_info_field, 0x80000030);
	msi(&h, 0x55);
	check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000055);
	check_equal(hv_get(&h, F_guest_rip), handler(0x30));     /* IF is clear in there: recognized, not delivered */
	expect_status(&h, 0x41, 0);
	hv_set(&h, F_guest_rip, HV_L2);
	hv_set(&h, F_guest_rflags, IF);
	msi(&h, 0x65);
	check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000065);
	check_equal(hv_get(&h, F_guest_rip), handler(0x41));
	check_equal(*quad(&h, hv_get(&h, F_guest_rsp)), HV_L2);
	expect_status(&h, 0, 0x41);
	hv_destroy(&h);
}

static void test_halted(void)
{
	struct hv h;

	create(&h, halts);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0);
	hv_set(&h, F_guest_activity_state, 1);
	expect_delivered(&h, hv_run(&h), 0x41);
	check_equal(hv_get(&h, F_guest_activity_state), 0);
	hv_destroy(&h);
}

/* The handler cannot be entered: the interrupt is in service, and is reported as being vectored. */
static void test_failed_delivery(void)
{
	struct hv h;

	create(&h, halts);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0);
	hv_set(&h, F_guest_idtr_limit, 0x3f);
	hv_set(&h, F_exception_bitmap, 1 << 13);
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_idt_vectoring_info_field), 0x80000041);
	expect_status(&h, 0, 0x41);
	check(vector_is_set(&h, ISR, 0x41));
	hv_destroy(&h);
}

/* ---- end of interrupt ---- */

GUEST_ASM(ends, 64, "movl $0x55, (%rdi)\n vmcall");

static void test_eoi(void)
{
	static const struct { uint64_t exit_bit; unsigned rvi, tpr, ppr; uint32_t reason; bool delivered; } cases[] = {
		{ 0, 0, 0, 0x30, EXIT_VMCALL, false }, { 1, 0, 0, 0x30, EXIT_VIRTUALIZED_EOI, false }, { 0, 0x42, 0, 0x30, EXIT_VMCALL, true },
		{ 1, 0x42, 0, 0x30, EXIT_VIRTUALIZED_EOI, false }, { 0, 0x42, 0x49, 0x49, EXIT_VMCALL, false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, ends);
		vector_set(&h, ISR, 0x51);
		vector_set(&h, ISR, 0x31);
		if (cases[i].rvi)
			vector_set(&h, IRR, cases[i].rvi);
		*reg(&h, TPR) = cases[i].tpr;
		status_set(&h, cases[i].rvi, 0x51);
		hv_set(&h, F_eoi_exit_bitmap1, cases[i].exit_bit << (0x51 - 64));
		h.gpr[7] = APIC + EOI;
		check_equal(hv_run(&h), cases[i].reason);
		check(!vector_is_set(&h, ISR, 0x51));
		check_equal(*reg(&h, EOI), 0);
		if (cases[i].delivered) {
			check_equal(hv_get(&h, F_guest_rip), handler(0x42));
			expect_status(&h, 0, 0x42);
		} else {
			check_equal(hv_get(&h, F_guest_rip), HV_L2 + 6);
			check_equal(*reg(&h, PPR), cases[i].ppr);
			expect_status(&h, cases[i].rvi, 0x31);
		}
		if (cases[i].reason == EXIT_VIRTUALIZED_EOI)
			check_equal(hv_get(&h, F_exit_qualification), 0x51);
		hv_destroy(&h);
	}
}

/* ---- what evaluates, and what does not ---- */

GUEST_ASM(lowers, 64, "mov %rax, %cr8\n nop\n vmcall");

static void test_lowered_tpr(void)
{
	for (unsigned tpr = 3; tpr < 6; tpr++) {
		struct hv h;

		create(&h, lowers);
		*reg(&h, TPR) = 0x70;
		vector_set(&h, IRR, 0x41);
		status_set(&h, 0x41, 0);
		h.gpr[0] = tpr;
		check_equal(hv_run(&h), EXIT_VMCALL);
		check_equal(hv_get(&h, F_guest_rip), tpr < 4 ? handler(0x41) : HV_L2 + 5);
		if (tpr < 4)
			check_equal(*quad(&h, hv_get(&h, F_guest_rsp)), HV_L2 + 4);
		hv_destroy(&h);
	}
}

GUEST_ASM(writes_page, 64, "movl $2, 0x50220\n nop\n nop\n vmcall");

/* Requests that somebody writes to the page by himself wait for the next evaluation, which goes by RVI alone. */
static void test_foreign_writes(void)
{
	struct hv h;

	create(&h, writes_page);
	check_equal(hv_run(&h), EXIT_VMCALL);
	check_equal(hv_get(&h, F_guest_rip), HV_L2 + 13);
	check(vector_is_set(&h, IRR, 0x41));
	expect_status(&h, 0, 0);
	hv_destroy(&h);
}

GUEST_ASM(sends, 64, "mov %eax, (%rdi)\n nop\n vmcall");

static void test_self_ipi(void)
{
	static const struct { uint32_t icr; bool virtualized; } cases[] = {
		{ 0x40041, true }, { 0x44041, true }, { 0x40841, true }, { 0x4000f, false }, { 0x40010, true }, { 0x48041, false },
		{ 0x40141, false }, { 0x40441, false }, { 0x41041, false }, { 0x42041, false }, { 0x50041, false }, { 0x60041, false },
		{ 0x140041, false }, { 0x80041, false }, { 0xc0041, false }, { 0x00041, false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, sends);
		h.gpr[0] = cases[i].icr;
		h.gpr[7] = APIC + ICR;
		check_equal(hv_run(&h), cases[i].virtualized ? EXIT_VMCALL : EXIT_APIC_WRITE);
		check_equal(hv_get(&h, F_guest_rip), cases[i].virtualized ? handler(cases[i].icr & 0xff) : HV_L2 + 2);
		check_equal(*reg(&h, ICR), cases[i].icr);
		if (!cases[i].virtualized)
			check_equal(hv_get(&h, F_exit_qualification), ICR);
		hv_destroy(&h);
	}
}

/* ---- posted interrupts ---- */

/* The notification is done with in L1's APIC, and the descriptor keeps what is software's. */
static void test_posted(void)
{
	static const unsigned vectors[] = { 0x10, 0x3f, 0x40, 0x5f, 0x60, 0xff };

	for (unsigned i = 0; i < sizeof(vectors) / sizeof(*vectors); i++) {
		struct hv h;

		create(&h, spin);
		post(&h, 0x20);
		post(&h, vectors[i]);
		quad(&h, DESCRIPTOR)[4] = 0x1234567800f20003;
		quad(&h, DESCRIPTOR)[7] = 0x5555;
		msi(&h, NOTIFICATION);
		unsigned first = vectors[i] > 0x20 ? vectors[i] : 0x20;
		expect_delivered(&h, hv_run(&h), first);
		expect_status(&h, first == 0x20 ? vectors[i] : 0x20, first);
		for (unsigned w = 0; w < 4; w++)
			check_equal(quad(&h, DESCRIPTOR)[w], 0);
		check_equal(quad(&h, DESCRIPTOR)[4], 0x1234567800f20002);
		check_equal(quad(&h, DESCRIPTOR)[7], 0x5555);
		check(!lapic_bit(&h, IRR, NOTIFICATION) && !lapic_bit(&h, ISR, NOTIFICATION));
		hv_destroy(&h);
	}
}

/* A halted L2 stays so unless something can be delivered; RVI never falls. */
static void test_posted_halted(void)
{
	struct hv h;

	create(&h, halts, .primary = 0);
	hv_set(&h, F_guest_activity_state, 1);
	*reg(&h, TPR) = 0x70;
	status_set(&h, 0x61, 0);
	vector_set(&h, IRR, 0x61);
	post(&h, 0x41);
	msi(&h, NOTIFICATION);
	msi(&h, 0x55);                                           /* of L1, so that there is an end */
	check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000055);
	check_equal(hv_get(&h, F_guest_activity_state), 1);
	expect_status(&h, 0x61, 0);
	check(vector_is_set(&h, IRR, 0x41));
	hv_destroy(&h);
}

/* Others exit as ever; so does the vector itself when nothing is posted by it. */
static void test_not_posted(void)
{
	struct hv h;

	create(&h, spin);
	post(&h, 0x41);
	msi(&h, NOTIFICATION - 1);
	check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000000 | (NOTIFICATION - 1));
	check_equal(quad(&h, DESCRIPTOR)[1], 2);
	hv_destroy(&h);
	create(&h, spin);
	hv_set(&h, F_pin_based_vm_exec_control, PIN_EXT_INTR | PIN_DEFAULT1);
	post(&h, 0x41);
	msi(&h, NOTIFICATION);
	check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000000 | NOTIFICATION);
	check_equal(quad(&h, DESCRIPTOR)[1], 2);
	hv_destroy(&h);
}

/* ---- others write meanwhile ---- */

/* Sends itself an interrupt again and again, and lowers and raises its priority, until the word at 55000h is set. */
GUEST_ASM(busy, 64,
	"1: movl $0x40041, 0x300(%rdi)\n mov $7, %eax\n mov %rax, %cr8\n xor %eax, %eax\n mov %rax, %cr8\n cmpl $0, 0x55000\n je 1b\n hlt");
/* The handler of every vector. */
GUEST_ASM(ends_interrupt, 64, "movl $0, 0xb0(%rdi)\n iretq");

enum { DONE = 0x55000, FOREIGN_WRITES = 20000 };

static void *write_at_random(void *arg)
{
	struct hv *h = arg;
	uint32_t x = 1;

	for (unsigned i = 0; i < FOREIGN_WRITES; i++) {
		x = x * 1664525 + 1013904223;
		switch (x >> 30) {
		case 0: *(volatile uint32_t *)reg(h, IRR + 16 * (1 + (x >> 8) % 7)) = x; break;
		case 1: *(volatile uint32_t *)reg(h, ISR + 16 * ((x >> 8) % 8)) = x; break;
		case 2: *(volatile uint32_t *)reg(h, x & 256 ? TPR : PPR) = x >> 9; break;
		default: __atomic_fetch_or(&quad(h, DESCRIPTOR)[1 + (x >> 8) % 3], x | (uint64_t)x << 32, __ATOMIC_SEQ_CST);
		}
		if (i % 64 == 0)
			msi(h, NOTIFICATION);
	}
	*(volatile uint32_t *)(h->g.memory + DONE) = 1;
	return NULL;
}

/* Whatever stands in the page and the descriptor, L2 goes on and comes to its end. */
static void test_written_by_others(void)
{
	pthread_t thread;
	struct hv h;

	create(&h, busy);
	for (unsigned v = 16; v < 256; v++)
		memcpy(h.g.memory + handler(v), ends_interrupt_start, ends_interrupt_end - ends_interrupt_start);
	h.gpr[7] = APIC;
	pthread_create(&thread, NULL, write_at_random, &h);
	check_equal(hv_run(&h), EXIT_HLT);
	pthread_join(thread, NULL);
	hv_destroy(&h);
}

/* ---- no memory there ---- */

static void test_no_memory(void)
{
	struct hv h;

	create(&h, spin);                                        /* a descriptor that is nowhere: nothing is posted */
	hv_set(&h, F_posted_intr_desc_addr, BEYOND_MEMORY);
	msi(&h, NOTIFICATION);
	msi(&h, 0x55);
	check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000055);
	expect_status(&h, 0, 0);
	hv_destroy(&h);
	create(&h, ends);                                        /* nor does a page that is nowhere harm */
	hv_set(&h, F_virtual_apic_page_addr, 0xfee00000);
	h.gpr[7] = APIC + EOI;
	check_equal(hv_run(&h), EXIT_VMCALL);
	hv_destroy(&h);
}

static void slot_set(struct hv *h, unsigned slot, uint32_t flags, uint64_t gpa, uint64_t size)
{
	guest_ioctl(h->g.vm, KVM_SET_USER_MEMORY_REGION, &(struct kvm_userspace_memory_region){
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
		.userspace_addr = (uintptr_t)h->g.memory + gpa });
}

GUEST_ASM(asks_then_writes, 64, "out %al, $0x10\n mov %rax, %cr8\n out %al, $0x10\n vmcall");

/* Runs L2 until it asks the client at port 10h. */
static void run_to_port(struct hv *h)
{
	check_equal(hv_run(h), HV_FAILED);
	check_equal(h->g.run[0]->io.port, 0x10);
}

/* An NMI and a notification come together: the NMI is first, the notification is left to L1. */
static void test_nmi_first(void)
{
	struct hv h;

	create(&h, asks_then_writes, .pin = PIN_NMI);
	run_to_port(&h);
	post(&h, 0x41);
	msi(&h, NOTIFICATION);
	guest_ioctl(h.g.vcpu[0], KVM_NMI, NULL);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(hv_get(&h, F_vm_exit_reason), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000202);
	check_equal(quad(&h, DESCRIPTOR)[1], 2);
	check(lapic_bit(&h, IRR, NOTIFICATION));
	hv_destroy(&h);
}

/* The page's slot goes while L2 is inside, and comes back. */
static void test_slot_moves(void)
{
	enum { BELOW = 0, PAGE = 1, ABOVE = 2 };
	struct hv h;

	create(&h, asks_then_writes);
	slot_set(&h, BELOW, 0, 0, 0);
	slot_set(&h, BELOW, 0, 0, VAPIC);
	slot_set(&h, PAGE, 0, VAPIC, 4096);
	slot_set(&h, ABOVE, 0, APIC, GUEST_MEMORY - APIC);
	h.gpr[0] = 5;
	run_to_port(&h);
	slot_set(&h, PAGE, 0, VAPIC, 0);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0x10);
	check_equal(*reg(&h, TPR), 0);                           /* was written to nowhere */
	slot_set(&h, PAGE, 0, VAPIC, 4096);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	check_equal(hv_get(&h, F_vm_exit_reason), EXIT_VMCALL);
	hv_destroy(&h);
}

/* The client takes the memory of page and descriptor away, slot and all left as they are. */
static void test_memory_goes(void)
{
	void *page;
	struct hv h;

	create(&h, asks_then_writes);
	h.gpr[0] = 5;
	page = h.g.memory + VAPIC;
	run_to_port(&h);
	munmap(page, DESCRIPTOR + 0x1000 - VAPIC);
	msi(&h, NOTIFICATION);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0x10);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	check_equal(hv_get(&h, F_vm_exit_reason), EXIT_VMCALL);
	check(!lapic_bit(&h, IRR, NOTIFICATION) && !lapic_bit(&h, ISR, NOTIFICATION));
	check(mmap(page, DESCRIPTOR + 0x1000 - VAPIC, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
	hv_destroy(&h);
}

/* ---- the client's view ---- */

static bool is_dirty(struct hv *h, uint64_t gpa)
{
	uint64_t bitmap[GUEST_MEMORY / 4096 / 64];
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };

	guest_ioctl(h->g.vm, KVM_GET_DIRTY_LOG, &log);
	return bitmap[gpa / 4096 / 64] >> gpa / 4096 % 64 & 1;
}

/* What the processor writes is in the dirty log, while L2 is still inside. */
static void test_dirty_log(void)
{
	struct hv h;

	create(&h, asks_then_writes);
	h.gpr[0] = 5;
	run_to_port(&h);
	slot_set(&h, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, GUEST_MEMORY);
	check(!is_dirty(&h, VAPIC));
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0x10);
	check(is_dirty(&h, VAPIC));
	check(!is_dirty(&h, DESCRIPTOR));
	*reg(&h, TPR) = 0x70;
	post(&h, 0x41);
	msi(&h, NOTIFICATION);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	check(is_dirty(&h, DESCRIPTOR));
	hv_destroy(&h);
}

/* Saved and restored with a virtual interrupt in service, one pending, and a posted one whose notification has arrived. */
static void test_saved_state(void)
{
	union { struct kvm_nested_state s; uint8_t bytes[128 + 2 * 4096]; } state = { .s.size = sizeof(state) };
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct hv h;

	create(&h, asks_then_writes);
	vector_set(&h, ISR, 0x51);
	vector_set(&h, IRR, 0x41);
	status_set(&h, 0x41, 0x51);
	h.gpr[0] = 1;
	run_to_port(&h);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);            /* completes OUT and CR8; now at the second OUT */
	post(&h, 0x62);
	msi(&h, NOTIFICATION);
	guest_ioctl(h.g.vcpu[0], KVM_GET_NESTED_STATE, &state);
	guest_ioctl(h.g.vcpu[0], KVM_GET_LAPIC, &lapic);
	guest_ioctl(h.g.vcpu[0], KVM_GET_VCPU_EVENTS, &events);
	check_equal(*(uint16_t *)(state.bytes + 128 + 980), 0x5141);
	slot_set(&h, 0, 0, 0, 0);
	slot_set(&h, 0, 0, 0, GUEST_MEMORY);
	guest_ioctl(h.g.vcpu[0], KVM_SET_NESTED_STATE, &state);
	guest_ioctl(h.g.vcpu[0], KVM_SET_LAPIC, &lapic);
	guest_ioctl(h.g.vcpu[0], KVM_SET_VCPU_EVENTS, &events);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	expect_delivered(&h, hv_get(&h, F_vm_exit_reason), 0x62);
	expect_status(&h, 0x41, 0x62);
	hv_destroy(&h);
}

/* ---- IPI virtualization ---- */

static void create_sender(struct hv *h)
{
	create(h, sends, .primary = PRIMARY_TERTIARY);
	hv_set(h, F_tertiary_vm_exec_control, TERTIARY_IPI);
	hv_set(h, F_pid_pointer_table, TABLE);
	hv_set(h, F_last_pid_pointer_index, 2);
	quad(h, TABLE)[0] = DESCRIPTOR | 1;
	quad(h, TABLE)[2] = OTHER_DESCRIPTOR | 1;
	h->gpr[7] = APIC + ICR;
}

/* To itself by its APIC id: posted, notified, processed and delivered without an exit. */
static void test_ipi_notified(void)
{
	struct hv h;

	create_sender(&h);
	quad(&h, DESCRIPTOR)[4] = NOTIFICATION << 16;            /* to APIC 0 */
	h.gpr[0] = 0x41;
	expect_delivered(&h, hv_run(&h), 0x41);
	check_equal(quad(&h, DESCRIPTOR)[4], NOTIFICATION << 16);
	check_equal(quad(&h, DESCRIPTOR)[1], 0);
	hv_destroy(&h);
}

/* Not notified: a notification is outstanding already, or suppressed. */
static void test_ipi_quiet(void)
{
	for (unsigned word = 0; word < 4; word++) {
		struct hv h;

		create_sender(&h);
		quad(&h, OTHER_DESCRIPTOR)[4] = 0x55 << 16 | word;
		*reg(&h, ICR2) = 2 << 24;
		h.gpr[0] = 0x81;
		check_equal(hv_run(&h), word ? EXIT_VMCALL : EXIT_EXTERNAL_INTERRUPT);
		check_equal(quad(&h, OTHER_DESCRIPTOR)[2], 2);
		check_equal(quad(&h, OTHER_DESCRIPTOR)[4], 0x55 << 16 | (word ? word : 1));
		hv_destroy(&h);
	}
}

static void test_ipi_exits(void)
{
	static const struct { uint32_t icr, to; uint64_t entry; } cases[] = {
		{ 0x4f, 3, DESCRIPTOR | 1 }, { 0x0f, 0, DESCRIPTOR | 1 }, { 0x41, 0, DESCRIPTOR }, { 0x41, 0, DESCRIPTOR | 3 },
		{ 0x41, 0, DESCRIPTOR | 0x21 }, { 0x41, 0, 1ull << 60 | 1 }, { 0x841, 0, DESCRIPTOR | 1 }, { 0x8041, 0, DESCRIPTOR | 1 },
		{ 0x441, 0, DESCRIPTOR | 1 }, { 0x80041, 0, DESCRIPTOR | 1 }, { 0x1041, 0, DESCRIPTOR | 1 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_sender(&h);
		quad(&h, TABLE)[cases[i].to] = cases[i].entry;
		*reg(&h, ICR2) = cases[i].to << 24;
		h.gpr[0] = cases[i].icr;
		check_equal(hv_run(&h), EXIT_APIC_WRITE);
		check_equal(hv_get(&h, F_exit_qualification), ICR);
		for (unsigned w = 0; w < 5; w++)
			check_equal(quad(&h, DESCRIPTOR)[w], 0);
		hv_destroy(&h);
	}
}

/* A descriptor or a table without memory. */
static void test_ipi_no_memory(void)
{
	for (unsigned table = 0; table < 2; table++) {
		struct hv h;

		create_sender(&h);
		quad(&h, TABLE)[0] = BEYOND_MEMORY | 1;
		if (table)
			hv_set(&h, F_pid_pointer_table, BEYOND_MEMORY);
		h.gpr[0] = 0x41;
		check_equal(hv_run(&h), table ? EXIT_APIC_WRITE : EXIT_VMCALL);
		hv_destroy(&h);
	}
}

static const struct test tests[] = {
	{ "priorities at VM entry", test_entry },
	{ "RFLAGS.IF, blocking by STI and MOV SS", test_windows },
	{ "interrupt-window exiting", test_window_exiting },
	{ "order of events", test_order },
	{ "halted guest", test_halted },
	{ "delivery that fails", test_failed_delivery },
	{ "end of interrupt", test_eoi },
	{ "lowered TPR", test_lowered_tpr },
	{ "requests written by others", test_foreign_writes },
	{ "self-IPI", test_self_ipi },
	{ "posted interrupts", test_posted },
	{ "posted interrupts, halted", test_posted_halted },
	{ "interrupts that are no notification", test_not_posted },
	{ "page and descriptor written by others", test_written_by_others },
	{ "pages without memory", test_no_memory },
	{ "NMI before notification", test_nmi_first },
	{ "slot changes with L2 inside", test_slot_moves },
	{ "memory that goes away", test_memory_goes },
	{ "dirty log", test_dirty_log },
	{ "saved state with pending interrupts", test_saved_state },
	{ "IPI virtualization: notified", test_ipi_notified },
	{ "IPI virtualization: outstanding or suppressed", test_ipi_quiet },
	{ "IPI virtualization: what exits", test_ipi_exits },
	{ "IPI virtualization: no memory", test_ipi_no_memory },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
