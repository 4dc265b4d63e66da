/* L1 sees each kind of VM exit as a processor reports it, with the first VT-x generation's controls and with EPT. */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cpu/flags.h"
#include "hypervisor.h"

enum { PF_INFO = 0x80000b0e, GP_INFO = 0x80000b0d, DF_INFO = 0x80000b08, NMI_INFO = 0x80000202 };
enum { READ_ONLY = 5, PRESENT_USER_WRITE = 7 };

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

/* ---- plain instructions ---- */

GUEST_ASM(instructions, 64, "cpuid\n rdmsr\n wrmsr\n vmcall\n mov %rax, %cr3\n mov %cr3, %rbx\n invlpg (%rdi)\n hlt");

static void test_instructions(void)
{
	static const struct { uint32_t reason, length; uint64_t qualification; } expected[] = {
		{ EXIT_CPUID, 2, 0 }, { EXIT_RDMSR, 2, 0 }, { EXIT_WRMSR, 2, 0 }, { EXIT_VMCALL, 3, 0 },
		{ EXIT_CR_ACCESS, 3, 3 }, { EXIT_CR_ACCESS, 3, 0x313 }, { EXIT_INVLPG, 3, 0x1234567 }, { EXIT_HLT, 1, 0 },
	};
	struct hv_controls c = { .primary = PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE | PRIMARY_INVLPG };

	for (unsigned options = 0; options <= HV_FIRST_GENERATION; options++) {
		struct hv h;

		if (options & HV_WITH_UNRESTRICTED)
			continue;
		hv_create_with(&h, options, instructions, c);
		h.gpr[7] = 0x1234567;
		for (unsigned i = 0; i < sizeof(expected) / sizeof(*expected); i++) {
			check_equal(i ? hv_skip(&h) : hv_run(&h), expected[i].reason);
			check_equal(hv_get(&h, F_vm_exit_instruction_len), expected[i].length);
			check_equal(hv_get(&h, F_exit_qualification), expected[i].qualification);
			check_equal(hv_get(&h, F_idt_vectoring_info_field) >> 31, 0);
		}
		hv_destroy(&h);
	}
}

GUEST_ASM(control_registers, 64,
	"mov %cr0, %rax\n btr $3, %rax\n mov %rax, %cr0\n bts $3, %rax\n mov %rax, %cr0\n clts\n lmsw %ax\n"
	"mov %cr4, %rbx\n or $0x80, %rbx\n mov %rbx, %cr4\n hlt");

/* Bits that L1 owns read from the shadow, and exit when they are to differ from it. */
static void test_control_registers(void)
{
	struct hv h;

	hv_create_with(&h, 0, control_registers, (struct hv_controls){ 0 });
	hv_set(&h, F_cr0_guest_host_mask, CR0_TS);
	hv_set(&h, F_cr0_read_shadow, CR0_TS);
	hv_set(&h, F_cr4_guest_host_mask, CR4_VMXE | CR4_PGE);
	hv_set(&h, F_cr4_read_shadow, 0);
	check_equal(hv_run(&h), EXIT_CR_ACCESS);                 /* TS to 0 */
	check_equal(hv_get(&h, F_exit_qualification), 0x000);
	check_equal(h.gpr[0], 0x80010031);
	check_equal(hv_skip(&h), EXIT_CR_ACCESS);                /* TS to 1 is the shadow's value: no exit; then CLTS */
	check_equal(hv_get(&h, F_exit_qualification), 0x20);
	hv_set(&h, F_cr0_read_shadow, 0);
	check_equal(hv_skip(&h), EXIT_CR_ACCESS);                /* LMSW with TS set */
	check_equal(hv_get(&h, F_exit_qualification), 0x30 | 0x39ull << 16);
	check_equal(hv_skip(&h), EXIT_CR_ACCESS);
	check_equal(hv_get(&h, F_exit_qualification), 0x304);
	check_equal(h.gpr[3], 0x620 | CR4_PGE);                  /* VMXE is hidden */
	check_equal(hv_skip(&h), EXIT_HLT);
	hv_destroy(&h);
}

GUEST_ASM(set_vme, 64, "mov %cr4, %rax\n or $1, %rax\n mov %rax, %cr4\n hlt");

/* What first-generation VT-x has beyond CPUID may also be loaded. */
static void test_vme(void)
{
	struct hv h;

	hv_create_with(&h, HV_FIRST_GENERATION, set_vme, (struct hv_controls){ 0 });
	hv_set(&h, F_exception_bitmap, ~0u);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(hv_get(&h, F_guest_cr4), 0x2621);
	hv_destroy(&h);
}

/* ---- I/O ---- */

GUEST_ASM(ports, 64, "out %al, $0x80\n mov $0x1f0, %edx\n in (%dx), %eax\n mov $0x6000, %edi\n mov $4, %ecx\n rep insw\n hlt");

static void expect_port(struct hv *h, uint32_t reason, uint64_t qualification)
{
	check_equal(reason, EXIT_IO);
	check_equal(hv_get(h, F_exit_qualification), qualification);
}

static void test_ports(void)
{
	for (int bitmaps = 0; bitmaps < 2; bitmaps++) {
		struct hv h;

		hv_create_with(&h, 0, ports, (struct hv_controls){ .primary = bitmaps ? PRIMARY_IO_BITMAPS : PRIMARY_UNCOND_IO });
		memset(h.g.memory + HV_IO_BITMAPS, 0, 8192);
		h.g.memory[HV_IO_BITMAPS + 0x80 / 8] = 1;
		h.g.memory[HV_IO_BITMAPS + 0x1f0 / 8] = 2;               /* port 1F1h, the second byte of the access */
		expect_port(&h, hv_run(&h), 0x80 << 16 | 0x40);
		expect_port(&h, hv_skip(&h), 0x1f0 << 16 | 8 | 3);
		expect_port(&h, hv_skip(&h), 0x1f0 << 16 | 0x38 | 1);
		check_equal(hv_get(&h, F_guest_linear_address), 0x6000);
		check_equal(hv_get(&h, F_vmx_instruction_info) >> 7 & 7, 2);
		check_equal(h.gpr[1], 4);
		check_equal(hv_skip(&h), EXIT_HLT);
		hv_destroy(&h);
	}
}

/* ---- page faults ---- */

GUEST_ASM(touch, 64, "mov 0x200000, %rax\n mov %rax, 0x201000\n mov $0x203000, %ecx\n call *%rcx\n hlt");

static void test_page_faults(void)
{
	struct hv h;
	uint64_t *pte;

	hv_create_with(&h, 0, touch, (struct hv_controls){ 0 });
	hv_own_pages(&h);
	pte = quad(&h, HV_PAGE_TABLE);
	pte[0] = 0;
	pte[1] &= ~2ull;
	pte[3] = 0;
	*quad(&h, HV_SMALL_PAGES + 0x3000) = 0xc3;               /* RET */
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), PF_INFO);
	check_equal(hv_get(&h, F_vm_exit_intr_error_code), 0);
	check_equal(hv_get(&h, F_exit_qualification), 0x200000);
	pte[0] = HV_SMALL_PAGES | PRESENT_USER_WRITE;            /* L1 need not flush: VM entry did */
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_error_code), 3);
	check_equal(hv_get(&h, F_exit_qualification), 0x201000);
	pte[1] |= 2;
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_error_code), 0);   /* no NX: a fetch looks like a read */
	check_equal(hv_get(&h, F_exit_qualification), 0x203000);
	pte[3] = (HV_SMALL_PAGES + 0x3000) | PRESENT_USER_WRITE;
	check_equal(hv_run(&h), EXIT_HLT);
	hv_destroy(&h);
}

/* The mask and match values decide together with the bitmap's bit; without IDT, what does not exit is a triple fault. */
static void test_page_fault_filter(void)
{
	static const struct { bool bit; uint32_t mask, match; bool exits; } cases[] = {
		{ true, 0, 0, true }, { false, 0, 0, false }, { true, 1, 1, false }, { false, 1, 1, true },
		{ true, 2, 2, true }, { true, 2, 0, false }, { false, 2, 0, true }, { true, 3, 2, true },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_create_with(&h, 0, touch, (struct hv_controls){ 0 });
		hv_own_pages(&h);
		quad(&h, HV_PAGE_TABLE)[1] = 0;                      /* error code 2 */
		hv_set(&h, F_exception_bitmap, cases[i].bit << 14);
		hv_set(&h, F_page_fault_error_code_mask, cases[i].mask);
		hv_set(&h, F_page_fault_error_code_match, cases[i].match);
		hv_set(&h, F_guest_idtr_limit, 0);
		check_equal(hv_run(&h), cases[i].exits ? EXIT_EXCEPTION_NMI : EXIT_TRIPLE_FAULT);
		hv_destroy(&h);
	}
}

/* L2 whose IDT lies in a page that is not mapped. */
static void without_idt(struct hv *h, uint32_t inject, uint32_t bitmap)
{
	hv_create_with(h, 0, touch, (struct hv_controls){ 0 });
	hv_own_pages(h);
	quad(h, HV_PAGE_TABLE)[8] = 0;
	hv_set(h, F_guest_idtr_base, HV_SMALL_PAGES + 0x8000);
	hv_set(h, F_exception_bitmap, bitmap);
	hv_set(h, F_vm_entry_intr_info_field, inject);
	hv_set(h, F_vm_entry_exception_error_code, 0);
}

/* A page fault inside a delivery is L1's before it becomes a double fault or a shutdown. */
static void test_nested_faults(void)
{
	static const uint32_t first[] = { PF_INFO, GP_INFO, DF_INFO, 0x80000030, 0x80000306 };

	for (unsigned i = 0; i < sizeof(first) / sizeof(*first); i++) {
		struct hv h;
		uint32_t vector = first[i] & 0xff;

		without_idt(&h, first[i], 1 << 14);
		if (vector == 0x30)
			hv_set(&h, F_guest_rflags, 0x202);
		check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
		check_equal(hv_get(&h, F_vm_exit_intr_info), PF_INFO);
		check_equal(hv_get(&h, F_exit_qualification), HV_SMALL_PAGES + 0x8000 + vector * 16);
		check_equal(hv_get(&h, F_idt_vectoring_info_field), first[i]);
		check_equal(hv_get(&h, F_guest_rip), HV_L2);
		hv_destroy(&h);
	}
}

static void test_double_fault(void)
{
	struct hv h;

	without_idt(&h, PF_INFO, 1 << 8);
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), DF_INFO);
	check_equal(hv_get(&h, F_vm_exit_intr_error_code), 0);
	check_equal(hv_get(&h, F_idt_vectoring_info_field) >> 31, 0);
	hv_destroy(&h);
	without_idt(&h, DF_INFO, 0);
	check_equal(hv_run(&h), EXIT_TRIPLE_FAULT);
	check_equal(hv_get(&h, F_idt_vectoring_info_field) >> 31, 0);
	hv_destroy(&h);
}

/* ---- EPT ---- */

static void expect_violation(struct hv *h, uint32_t reason, uint64_t address, uint64_t qualification)
{
	check_equal(reason, EXIT_EPT_VIOLATION);
	check_equal(hv_get(h, F_guest_physical_address), address);
	check_equal(hv_get(h, F_guest_linear_address), address);
	check_equal(hv_get(h, F_exit_qualification) & 0x1bf, qualification);
}

GUEST_ASM(touch_ept, 64, "mov 0x200000, %rax\n mov %rax, 0x201000\n mov $0x203000, %ecx\n call *%rcx\n mov 0x204008, %rax\n hlt");

static void test_ept(void)
{
	struct hv h;
	uint64_t *e;

	hv_create_with(&h, HV_WITH_EPT, touch_ept, (struct hv_controls){ 0 });
	e = quad(&h, HV_EPT_TABLE);
	*quad(&h, HV_SMALL_PAGES + 0x3000) = 0xc3;
	e[0] &= ~7ull;
	e[1] &= ~2ull;
	e[3] &= ~4ull;
	e[4] = (e[4] & ~7ull) | 2;                               /* writable, not readable */
	expect_violation(&h, hv_run(&h), 0x200000, 0x181);
	e[0] |= 7;
	expect_violation(&h, hv_run(&h), 0x201000, 0x182 | 5 << 3);
	e[1] |= 2;                                               /* more rights: nothing to flush */
	expect_violation(&h, hv_run(&h), 0x203000, 0x184 | 3 << 3);
	e[3] |= 4;
	check_equal(hv_run(&h), EXIT_EPT_MISCONFIG);
	check_equal(hv_get(&h, F_guest_physical_address), 0x204008);
	hv_destroy(&h);
}

/* ---- events ---- */

GUEST_ASM(spin, 64, "1: pause\n jmp 1b");
GUEST_ASM(windows, 64, "nop\n sti\n nop\n nop\n hlt");

static void signal_msi(struct hv *h, unsigned vector)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = vector };
	struct kvm_lapic_state lapic;

	guest_ioctl(h->g.vcpu[0], KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(h->g.vcpu[0], KVM_SET_LAPIC, &lapic);
	guest_ioctl(h->g.vm, KVM_SIGNAL_MSI, &msi);
}

/* Acknowledged, the interrupt is L1's business as information; otherwise it takes it like any other. */
static void test_external_interrupt(void)
{
	for (int ack = 0; ack < 2; ack++) {
		struct hv h;

		hv_create_with(&h, 0, spin, (struct hv_controls){ .pin = PIN_EXT_INTR, .exit = ack ? VMEXIT_ACK_INTR : 0 });
		signal_msi(&h, 0x44);
		check_equal(hv_run(&h), EXIT_EXTERNAL_INTERRUPT);
		check_equal(hv_get(&h, F_vm_exit_intr_info), ack ? 0x80000044 : 0);
		check_equal(hv_get(&h, F_guest_rip), HV_L2);
		hv_take_interrupts(&h);
		check_equal(hv_interrupts(&h), !ack);
		hv_destroy(&h);
	}
}

static void test_preemption_timer(void)
{
	struct hv h;

	hv_create_with(&h, 0, spin, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER, .exit = VMEXIT_SAVE_PREEMPTION_TIMER });
	hv_set(&h, F_vmx_preemption_timer_value, 0);
	check_equal(hv_run(&h), EXIT_PREEMPTION_TIMER);
	check_equal(hv_get(&h, F_guest_rip), HV_L2);             /* before the first instruction */
	hv_set(&h, F_vmx_preemption_timer_value, 100000);
	check_equal(hv_run(&h), EXIT_PREEMPTION_TIMER);
	check_equal(hv_get(&h, F_vmx_preemption_timer_value), 0);
	hv_destroy(&h);
}

static void test_interrupt_window(void)
{
	struct hv h;

	hv_create_with(&h, 0, windows, (struct hv_controls){ .primary = PRIMARY_INTR_WINDOW });
	check_equal(hv_run(&h), EXIT_INTERRUPT_WINDOW);
	check_equal(hv_get(&h, F_guest_rip), HV_L2 + 3);         /* one instruction after STI */
	check_equal(hv_get(&h, F_guest_interruptibility_info), 0);
	hv_set(&h, F_cpu_based_vm_exec_control, hv_get(&h, F_cpu_based_vm_exec_control) & ~(uint64_t)PRIMARY_INTR_WINDOW);
	check_equal(hv_run(&h), EXIT_HLT);
	hv_destroy(&h);
}

GUEST_ASM(nmi_handler, 64, "inc %rbx\n iretq");

static void *send_nmi(void *arg)
{
	struct kvm_msi nmi = { .address_lo = 0xfee00000, .data = 4 << 8 };
	struct hv *h = arg;

	usleep(50000);                   /* by then L2 runs */
	guest_ioctl(h->g.vm, KVM_SIGNAL_MSI, &nmi);
	return NULL;
}

/* A virtual NMI blocks others until IRET, where the window opens. */
static void test_nmi_window(void)
{
	uint64_t gate[2] = { 0xa000 | 24ull << 16 | 0x8e00ull << 32, 0 };
	struct hv h;
	pthread_t thread;

	hv_create_with(&h, 0, spin, (struct hv_controls){ .pin = PIN_NMI | PIN_VIRTUAL_NMIS, .primary = PRIMARY_NMI_WINDOW });
	memcpy(h.g.memory + GUEST_IDT + 32, gate, sizeof(gate));
	guest_load_bytes(&h.g, 0xa000, nmi_handler_start, nmi_handler_end - nmi_handler_start);
	check_equal(hv_run(&h), EXIT_NMI_WINDOW);                /* open from the start */
	hv_set(&h, F_vm_entry_intr_info_field, NMI_INFO);
	check_equal(hv_run(&h), EXIT_NMI_WINDOW);
	check_equal(h.gpr[3], 1);                                /* after the handler */
	check_equal(hv_get(&h, F_guest_rip), HV_L2);
	hv_set(&h, F_cpu_based_vm_exec_control, hv_get(&h, F_cpu_based_vm_exec_control) & ~(uint64_t)PRIMARY_NMI_WINDOW);
	guest_no_moves();                /* the thread speaks to this VM */
	pthread_create(&thread, NULL, send_nmi, &h);
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);             /* a real one */
	check_equal(hv_get(&h, F_vm_exit_intr_info), NMI_INFO);
	pthread_join(thread, NULL);
	hv_destroy(&h);
}

static void test_monitor_trap(void)
{
	struct hv h;

	hv_create_with(&h, 0, windows, (struct hv_controls){ .primary = PRIMARY_MTF });
	for (unsigned i = 1; i <= 3; i++) {
		check_equal(hv_run(&h), EXIT_MTF);
		check_equal(hv_get(&h, F_guest_rip), HV_L2 + i);
	}
	hv_destroy(&h);
}

/* ---- MSR lists: how EFER travels without controls of its own ---- */

struct msr_entry { uint32_t index, reserved; uint64_t value; };

static void test_msr_lists(void)
{
	struct msr_entry load = { 0xc0000080, 0, EFER_SCE | EFER_LME | EFER_LMA | EFER_NX };
	struct msr_entry back = { 0xc0000080, 0, EFER_LME | EFER_LMA };
	struct msr_entry *stored;
	struct hv h;

	hv_create_with(&h, 0, windows, (struct hv_controls){ 0 });
	memcpy(h.g.memory + HV_MSR_LIST, &load, sizeof(load));
	memcpy(h.g.memory + HV_MSR_LIST + 64, &back, sizeof(back));
	stored = (struct msr_entry *)(h.g.memory + HV_MSR_STORE);
	stored->index = 0xc0000080;
	hv_set(&h, F_vm_entry_msr_load_addr, HV_MSR_LIST);
	hv_set(&h, F_vm_entry_msr_load_count, 1);
	hv_set(&h, F_vm_exit_msr_load_addr, HV_MSR_LIST + 64);
	hv_set(&h, F_vm_exit_msr_load_count, 1);
	hv_set(&h, F_vm_exit_msr_store_addr, HV_MSR_STORE);
	hv_set(&h, F_vm_exit_msr_store_count, 1);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(stored->value, load.value);
	struct kvm_sregs s;
	guest_ioctl(h.g.vcpu[0], KVM_GET_SREGS, &s);
	check_equal(s.efer, back.value);
	hv_destroy(&h);
}

/* ---- 16-bit L2 ---- */

/*
 * Segment arithmetic, flags, an interrupt through the vectors at 0, a far call; the same in real mode and in
 * virtual-8086 mode. Then what the modes differ in.
 */
GUEST_ASM(sixteen, 16,
	"mov $0x600, %ax\n mov %ax, %ss\n mov $0x100, %sp\n mov $0x1234, %ax\n mov %ax, %ds\n"
	"movw $0x5678, 4\n mov 4, %bx\n sti\n pushf\n pop %cx\n cli\n pushf\n pop %dx\n"
	"int $0x21\n lcall $0x980, $0x20\n out %al, $0x80\n hlt\n"
	".org sixteen_start + 0x80\n inc %si\n iret\n"
	".org sixteen_start + 0x820\n mov %cs, %bp\n lret");

static void check_sixteen(struct hv *h)
{
	check_equal(hv_get(h, F_guest_ds_base), 0x12340);
	check_equal(*(uint16_t *)(h->g.memory + 0x12344), 0x5678);
	check_equal(h->gpr[3] & 0xffff, 0x5678);
	check_equal(h->gpr[1] & RFLAGS_IF, RFLAGS_IF);
	check_equal(h->gpr[2] & RFLAGS_IF, 0);
	check_equal(h->gpr[6] & 0xffff, 1);
	check_equal(h->gpr[5] & 0xffff, 0x980);
	check_equal(hv_get(h, F_guest_rsp), 0x100);
	check_equal(hv_get(h, F_guest_cs_base), HV_L2);
}

static void vector_set(struct hv *h)
{
	*(uint32_t *)(h->g.memory + 0x21 * 4) = HV_L2 << 12 | 0x80;
}

static void test_real_mode(void)
{
	struct hv h;

	hv_create_with(&h, HV_WITH_UNRESTRICTED, sixteen, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
	hv_real(&h);
	vector_set(&h);
	check_equal(hv_run(&h), EXIT_IO);
	check_sixteen(&h);
	check_equal(hv_skip(&h), EXIT_HLT);
	check_equal(hv_get(&h, F_guest_cr0) & 0x80000001, 0);
	hv_destroy(&h);
	/* Without unrestricted guest it is no state to enter. */
	hv_create_with(&h, HV_WITH_EPT, sixteen, (struct hv_controls){ 0 });
	hv_real(&h);
	check_equal(hv_run(&h), EXIT_ENTRY_FAILURE | EXIT_INVALID_GUEST_STATE);
	hv_destroy(&h);
}

/* L2 gets the state of real mode with VM86's means, whatever CPUID says of VME. */
static void test_vm86(void)
{
	for (unsigned options = 0; options <= HV_FIRST_GENERATION; options += HV_FIRST_GENERATION) {
		struct hv h;

		hv_create_with(&h, options, sixteen, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
		hv_vm86(&h);
		vector_set(&h);
		check_equal(hv_run(&h), EXIT_IO);
		check_equal(hv_get(&h, F_exit_qualification), 0x80 << 16 | 0x40);
		check_sixteen(&h);
		check_equal(hv_get(&h, F_guest_rflags) & 0x23000, 0x23000);
		check_equal(hv_get(&h, F_guest_ds_ar_bytes), 0xf3);
		check_equal(hv_skip(&h), EXIT_EXCEPTION_NMI);        /* HLT is not for ring 3 */
		check_equal(hv_get(&h, F_vm_exit_intr_info), GP_INFO);
		check_equal(hv_get(&h, F_vm_exit_intr_error_code), 0);
		hv_destroy(&h);
	}
}

/* The TSS decides: a set bit of the redirection map takes INT n to the IDT, here beyond its limit. */
static void test_vm86_redirection(void)
{
	struct hv h;

	hv_create_with(&h, 0, sixteen, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
	hv_vm86(&h);
	vector_set(&h);
	h.g.memory[HV_TSS + 0x68 + 0x21 / 8] = 1 << (0x21 % 8);
	hv_set(&h, F_guest_idtr_limit, 0x21 * 8);
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), GP_INFO);
	check_equal(hv_get(&h, F_vm_exit_intr_error_code), 0x21 * 8 + 2);
	check_equal(hv_get(&h, F_idt_vectoring_info_field), 0x80000421);
	check_equal(hv_get(&h, F_vm_exit_instruction_len), 2);
	hv_destroy(&h);
}

static void test_vm86_ports(void)
{
	struct hv h;

	hv_create_with(&h, 0, sixteen, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
	hv_vm86(&h);
	vector_set(&h);
	h.g.memory[HV_TSS + 0x68 + 32 + 0x80 / 8] = 1;           /* the permission map outranks the exit */
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), GP_INFO);
	hv_destroy(&h);
}

static void test_vm86_checks(void)
{
	static const struct { enum hv_field f; uint64_t value; } wrong[] = {
		{ F_guest_cs_ar_bytes, 0x9b }, { F_guest_ss_base, 0x10 }, { F_guest_ds_limit, 0xffffffff },
		{ F_guest_cr4, 0x21 }, { F_guest_cr0, 0x80000011 }, { F_guest_gs_ar_bytes, 0x10000 },
	};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct hv h;

		hv_create_with(&h, 0, sixteen, (struct hv_controls){ 0 });
		hv_vm86(&h);
		hv_set(&h, wrong[i].f, wrong[i].value);
		check_equal(hv_run(&h), EXIT_ENTRY_FAILURE | EXIT_INVALID_GUEST_STATE);
		hv_destroy(&h);
	}
}

/* ---- */

/* ---- what L1's memory and its clock say counts at once ---- */

GUEST_ASM(live_ports, 64, "movb $1, 0x38002\n out %al, $0x10\n hlt");

/* The bitmaps are L2's to write here: bit 10h of the first one. */
static void test_live_bitmap(void)
{
	struct hv h;

	hv_create_with(&h, 0, live_ports, (struct hv_controls){ .primary = PRIMARY_IO_BITMAPS });
	hv_set(&h, F_io_bitmap_a, HV_IO_BITMAPS);
	hv_set(&h, F_io_bitmap_b, HV_IO_BITMAPS + 0x1000);
	memset(h.g.memory + HV_IO_BITMAPS, 0, 0x2000);
	check_equal(hv_run(&h), EXIT_IO);
	check_equal(hv_get(&h, F_exit_qualification), 0x10 << 16 | 1 << 6);
	hv_destroy(&h);
}

GUEST_ASM(asks_twice, 64, "out %al, $0x10\n out %al, $0x10\n hlt");

/* The bitmaps' memory goes while the client has L2's access: the instruction is finished without them. */
static void test_bitmap_goes(void)
{
	enum { ROOM = 0x400000 };
	struct kvm_userspace_memory_region r = { .slot = 1, .guest_phys_addr = ROOM, .memory_size = 0x2000 };
	void *room = mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct hv h;

	hv_create_with(&h, 0, asks_twice, (struct hv_controls){ .primary = PRIMARY_IO_BITMAPS });
	r.userspace_addr = (uintptr_t)room;
	guest_no_moves();                /* they move one slot */
	guest_ioctl(h.g.vm, KVM_SET_USER_MEMORY_REGION, &r);
	hv_set(&h, F_io_bitmap_a, ROOM);
	hv_set(&h, F_io_bitmap_b, ROOM + 0x1000);
	check_equal(hv_run(&h), HV_FAILED);
	check_equal(h.g.run[0]->io.port, 0x10);
	r.memory_size = 0;
	guest_ioctl(h.g.vm, KVM_SET_USER_MEMORY_REGION, &r);
	munmap(room, 0x2000);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	check_equal(hv_get(&h, F_vm_exit_reason), EXIT_IO);      /* without memory all ports exit */
	hv_destroy(&h);
}

#define READ_TIME "rdtsc\n shl $32, %rdx\n or %rdx, %rax\n"
GUEST_ASM(deadline, 64, READ_TIME "mov %rax, %rsi\n 1: " READ_TIME "mov %rax, %rbx\n jmp 1b");

/* L2 never reads a time beyond the preemption timer's deadline. */
static void test_timer_deadline(void)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } misc = { .head.nmsrs = 1, .e.index = 0x485 };
	enum { TICKS = 1000 };
	struct hv h;

	hv_create_with(&h, 0, deadline, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER });
	guest_ioctl(h.g.vcpu[0], KVM_GET_MSRS, &misc);
	for (unsigned i = 0; i < 100; i++) {
		h.gpr[3] = h.gpr[6] = 0;
		hv_set(&h, F_guest_rip, HV_L2);
		hv_set(&h, F_vmx_preemption_timer_value, TICKS);
		check_equal(hv_run(&h), EXIT_PREEMPTION_TIMER);
		check((int64_t)(h.gpr[3] - h.gpr[6]) <= TICKS << (misc.e.data & 31));
	}
	hv_destroy(&h);
}

GUEST_ASM(asks, 64, "out %al, $0x10\n hlt");

/* A triple fault that the client reports in L2 is L1's VM exit; so is what a TR that it makes unusable comes to. */
static void test_client_triple_fault(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_vcpu_events e;
		struct kvm_sregs s;
		struct hv h;

		hv_create_with(&h, 0, asks, (struct hv_controls){ 0 });
		guest_ioctl(h.g.vm, KVM_ENABLE_CAP, &(struct kvm_enable_cap){ .cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args[0] = 1 });
		check_equal(hv_run(&h), HV_FAILED);              /* its port is the client's */
		check_equal(h.g.run[0]->io.port, 0x10);
		guest_ioctl(h.g.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
		e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		e.triple_fault.pending = !i;
		guest_ioctl(h.g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
		guest_ioctl(h.g.vcpu[0], KVM_GET_SREGS, &s);
		s.tr.unusable = i;
		if (i)
			guest_no_moves();        /* it could not be restored */
		guest_ioctl(h.g.vcpu[0], KVM_SET_SREGS, &s);
		check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
		check_equal(h.g.run[0]->io.port, 0xe2);
		check_equal(hv_get(&h, F_vm_exit_reason), EXIT_TRIPLE_FAULT);
		hv_destroy(&h);
	}
}

static const struct test tests[] = {
	{ "intercepted instructions", test_instructions },
	{ "control registers with masks and shadows", test_control_registers },
	{ "CR4.VME on first-generation VT-x", test_vme },
	{ "ports", test_ports },
	{ "page faults under L1's own tables", test_page_faults },
	{ "page-fault error code mask and match", test_page_fault_filter },
	{ "page faults inside deliveries", test_nested_faults },
	{ "double and triple faults", test_double_fault },
	{ "EPT violations and misconfiguration", test_ept },
	{ "external interrupts, acknowledged and not", test_external_interrupt },
	{ "preemption timer", test_preemption_timer },
	{ "interrupt window", test_interrupt_window },
	{ "NMI window", test_nmi_window },
	{ "monitor trap flag", test_monitor_trap },
	{ "EFER through MSR lists", test_msr_lists },
	{ "real mode with unrestricted guest", test_real_mode },
	{ "virtual-8086 mode", test_vm86 },
	{ "virtual-8086 mode: redirection of INT n", test_vm86_redirection },
	{ "virtual-8086 mode: port permissions", test_vm86_ports },
	{ "virtual-8086 mode: entry checks", test_vm86_checks },
	{ "bitmaps that L2 writes", test_live_bitmap },
	{ "bitmaps whose memory goes", test_bitmap_goes },
	{ "time at the preemption timer's deadline", test_timer_deadline },
	{ "triple faults from the client", test_client_triple_fault },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
