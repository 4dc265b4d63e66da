/* A nested guest goes on in a new process after each of its instructions, and nothing shows. */
#include "cpu/flags.h"
#include "sweep.h"


static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

/* L2's handler for a vector, at this offset of its code. */
static void handler(struct hv *h, unsigned vector, unsigned offset)
{
	quad(h, GUEST_IDT)[2 * vector] = ((HV_L2 + offset) & 0xffff) | 24ull << 16 | 0x8e00ull << 32;
	quad(h, GUEST_IDT)[2 * vector + 1] = 0;
}

/* ---- instructions of all kinds ---- */

GUEST_ASM(plain, 64,
	"mov $0x1234, %eax\n cpuid\n xor %eax, %eax\n xor %ecx, %ecx\n mov $7, %ebx\n push %rbx\n pop %rcx\n out %al, $0x80\n"
	"mov $3, %ecx\n 1: imul $5, %rbx\n loop 1b\n movq %rbx, %xmm3\n paddq %xmm3, %xmm3\n movq %xmm3, %rdx\n fninit\n fld1\n"
	"fadd %st(0)\n fistpl 0x300000\n mov 0x300000, %esi\n mov $0x300000, %edi\n mov $5, %ecx\n rep stosb\n pushf\n pop %r8\n vmcall");

static void plain_create(struct hv *h)
{
	hv_create_with(h, HV_WITH_EPT, plain, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
}

/* ---- other modes ---- */

GUEST_ASM(sixteen, 16,
	"mov $0x600, %ax\n mov %ax, %ss\n mov $0x100, %sp\n sti\n pushf\n pop %cx\n cli\n int $0x21\n lcall $0x980, $0x20\n"
	"out %al, $0x80\n vmcall\n .org sixteen_start + 0x80\n inc %si\n iret\n .org sixteen_start + 0x820\n mov %cs, %bp\n lret");

static void real_create(struct hv *h)
{
	hv_create_with(h, HV_WITH_UNRESTRICTED, sixteen, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
	hv_real(h);
	*(uint32_t *)(h->g.memory + 0x21 * 4) = HV_L2 << 12 | 0x80;
}

/* PAE paging without EPT: the PDPTEs are in no page that could be read again. */
static void vm86_create(struct hv *h)
{
	hv_create_with(h, 0, sixteen, (struct hv_controls){ .primary = PRIMARY_UNCOND_IO });
	hv_vm86(h);
	*(uint32_t *)(h->g.memory + 0x21 * 4) = HV_L2 << 12 | 0x80;
}

/* ---- events that L1 injects ---- */

GUEST_ASM(events, 64,
	"nop\n nop\n 1: inc %rsi\n cmp $9, %rsi\n jb 1b\n vmcall\n .org events_start + 0x80\n add $0x100, %rbx\n iretq\n"
	".org events_start + 0x100\n pop %rcx\n add %rcx, %rbx\n iretq\n .org events_start + 0x180\n add $3, %rdx\n nop\n iretq\n"
	".org events_start + 0x200\n vmcall");

static const struct { uint32_t info, error, len; } injected[] = {
	{ 0x80000030, 0, 0 },            /* external interrupt */
	{ 0x80000b0d, 0x18, 0 },         /* #GP with its error code */
	{ 0x80000b0e, 2, 0 },            /* #PF */
	{ 0x80000306, 0, 0 },            /* #UD */
	{ 0x80000202, 0, 0 },            /* NMI */
	{ 0x80000430, 0, 2 },            /* INT 30h */
	{ 0x80000603, 0, 1 },            /* INT3 */
	{ 0x80000501, 0, 1 },            /* INT1 */
};
enum { INJECTED = sizeof(injected) / sizeof(*injected) };

static void events_handlers(struct hv *h)
{
	static const uint8_t plain_vectors[] = { 0x30, 6, 3, 1 };

	for (unsigned i = 0; i < sizeof(plain_vectors); i++)
		handler(h, plain_vectors[i], 0x80);
	handler(h, 0xd, 0x100);
	handler(h, 0xe, 0x100);
	handler(h, 2, 0x180);
}

static void inject(struct hv *h, unsigned i)
{
	hv_set(h, F_guest_rflags, 0x202);
	hv_set(h, F_vm_entry_intr_info_field, injected[i].info);
	hv_set(h, F_vm_entry_exception_error_code, injected[i].error);
	hv_set(h, F_vm_entry_instruction_len, injected[i].len);
}

static void events_create(struct hv *h)
{
	hv_create_with(h, 0, events, (struct hv_controls){ .pin = PIN_NMI | PIN_VIRTUAL_NMIS });
	events_handlers(h);
	inject(h, 0);
}

/* The next event, until all have been; L2 begins anew. */
static bool events_next(struct hv *h, uint32_t reason)
{
	unsigned n = h->gpr[7] + 1;      /* RDI is L2's, but it leaves it alone */

	if (reason != EXIT_VMCALL || n == INJECTED)
		return false;
	h->gpr[7] = n;
	h->gpr[6] = 0;
	hv_set(h, F_guest_rip, HV_L2);
	inject(h, n);
	return true;
}

/* The gate of the injected interrupt lies in a page that is not there; L1 maps it and injects again. */
static void vectoring_create(struct hv *h)
{
	hv_create_with(h, 0, events, (struct hv_controls){ 0 });
	events_handlers(h);
	hv_own_pages(h);
	quad(h, HV_PAGE_TABLE)[8] = 0;
	memcpy(h->g.memory + HV_SMALL_PAGES + 0x8000, h->g.memory + GUEST_IDT, 4096);
	hv_set(h, F_guest_idtr_base, HV_SMALL_PAGES + 0x8000);
	inject(h, 0);
}

static bool vectoring_next(struct hv *h, uint32_t reason)
{
	if (reason != EXIT_EXCEPTION_NMI)
		return sweep_next(h, reason);
	quad(h, HV_PAGE_TABLE)[8] = (HV_SMALL_PAGES + 0x8000) | 7;
	hv_set(h, F_vm_entry_intr_info_field, hv_get(h, F_idt_vectoring_info_field));
	return true;
}

/* ---- blocking ---- */

GUEST_ASM(shadows, 64,
	"nop\n sti\n nop\n nop\n cli\n mov $16, %eax\n mov %ax, %ss\n nop\n sti\n hlt\n nop\n vmcall");

/* The window opens an instruction after STI. */
static void shadows_create(struct hv *h)
{
	hv_create_with(h, 0, shadows, (struct hv_controls){ .primary = PRIMARY_INTR_WINDOW });
}

static bool shadows_next(struct hv *h, uint32_t reason)
{
	uint64_t primary = hv_get(h, F_cpu_based_vm_exec_control);

	if (reason == EXIT_INTERRUPT_WINDOW)
		hv_set(h, F_cpu_based_vm_exec_control, primary & ~(uint64_t)PRIMARY_INTR_WINDOW);
	if (reason == EXIT_INTERRUPT_WINDOW && hv_get(h, F_guest_rip) < HV_L2 + 5)
		hv_set(h, F_guest_interruptibility_info, 2);     /* MOV SS */
	return sweep_next(h, reason);
}

/* An NMI for L2's own handler, and one behind it that waits for IRET. */
static void nmi_create(struct hv *h)
{
	hv_create_with(h, 0, events, (struct hv_controls){ 0 });
	events_handlers(h);
	guest_ioctl(h->g.vcpu[0], KVM_NMI, NULL);
	guest_ioctl(h->g.vcpu[0], KVM_NMI, NULL);
}

/* A virtual NMI blocks; the window opens at its IRET. */
static void nmi_window_create(struct hv *h)
{
	hv_create_with(h, 0, events, (struct hv_controls){ .pin = PIN_NMI | PIN_VIRTUAL_NMIS, .primary = PRIMARY_NMI_WINDOW });
	events_handlers(h);
	hv_set(h, F_vm_entry_intr_info_field, 0x80000202);
}

static bool nmi_window_next(struct hv *h, uint32_t reason)
{
	if (reason == EXIT_NMI_WINDOW)
		hv_set(h, F_cpu_based_vm_exec_control, hv_get(h, F_cpu_based_vm_exec_control) & ~(uint64_t)PRIMARY_NMI_WINDOW);
	return sweep_next(h, reason);
}

/* ---- the monitor trap flag ---- */

static void trap_create(struct hv *h)
{
	hv_create_with(h, 0, events, (struct hv_controls){ .primary = PRIMARY_MTF });
	events_handlers(h);
	inject(h, 1);
}

/* Injected as an event: due at once, without the control. */
static void trap_injected_create(struct hv *h)
{
	hv_create_with(h, 0, events, (struct hv_controls){ 0 });
	hv_set(h, F_vm_entry_intr_info_field, 0x80000700);
}

/* ---- the preemption timer: L2 loops at one place until it expires ---- */

GUEST_ASM(spin, 64, "1: jmp 1b");

static void timer_create(struct hv *h)
{
	hv_create_with(h, 0, spin, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER, .exit = VMEXIT_SAVE_PREEMPTION_TIMER });
	hv_set(h, F_vmx_preemption_timer_value, 3000000);
}

static bool timer_next(struct hv *h, uint32_t reason)
{
	return false;
}

/* ---- the virtual APIC ---- */

enum { VAPIC = 0x50000, POSTED = 0x54000, NOTIFY = 0xf2 };

/* Self-IPIs of two priorities, a TPR that holds one of them back, ends of interrupt. */
GUEST_ASM(vapic, 64,
	"sti\n mov $0x83f, %ecx\n mov $0x41, %eax\n xor %edx, %edx\n wrmsr\n nop\n mov $0x50, %eax\n mov $0x808, %ecx\n wrmsr\n"
	"mov $0x45, %eax\n mov $0x83f, %ecx\n wrmsr\n mov $0x61, %eax\n wrmsr\n nop\n xor %eax, %eax\n mov $0x808, %ecx\n wrmsr\n nop\n"
	"mov $0x80b, %ecx\n vmcall\n .org vapic_start + 0x80\n add $1, %rbx\n push %rcx\n push %rax\n push %rdx\n xor %eax, %eax\n"
	"xor %edx, %edx\n mov $0x80b, %ecx\n wrmsr\n pop %rdx\n pop %rax\n pop %rcx\n iretq");

static void vapic_fields(struct hv *h)
{
	memset(h->g.memory + HV_MSR_BITMAP, 0, 4096);
	memset(h->g.memory + VAPIC, 0, 4096);
	hv_set(h, F_virtual_apic_page_addr, VAPIC);
	hv_set(h, F_tpr_threshold, 0);
	hv_set(h, F_guest_intr_status, 0);
	for (unsigned i = 0; i < 4; i++)
		hv_set(h, F_eoi_exit_bitmap0 + 2 * i, i == 1 ? 2 : 0);           /* vector 41h's end is L1's business */
	for (unsigned vector = 0x30; vector < 0x80; vector++)
		handler(h, vector, 0x80);
}

static const struct hv_controls apicv = {
	.pin = PIN_EXT_INTR, .primary = PRIMARY_TPR_SHADOW | PRIMARY_SECONDARY | PRIMARY_MSR_BITMAPS, .exit = VMEXIT_ACK_INTR,
	.secondary = SECONDARY_X2APIC | SECONDARY_APIC_REGISTER | SECONDARY_VIRTUAL_INTR,
};

static void vapic_create(struct hv *h)
{
	hv_create_with(h, 0, vapic, apicv);
	vapic_fields(h);
}

/* An APIC-write exit that comes with a monitor trap: it goes first, and the trap is not seen again. */
GUEST_ASM(vapic_writes, 64, "mov $0x83f, %ecx\n mov $3, %eax\n xor %edx, %edx\n wrmsr\n nop\n vmcall");

static void vapic_trap_create(struct hv *h)
{
	struct hv_controls c = apicv;

	c.primary |= PRIMARY_MTF;
	hv_create_with(h, 0, vapic_writes, c);
	vapic_fields(h);
}

/* Two vectors wait in the descriptor, and their notification in L1's local APIC. */
static void posted_create(struct hv *h)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = NOTIFY };
	struct kvm_lapic_state lapic;
	struct hv_controls c = apicv;

	c.pin |= PIN_POSTED_INTR;
	hv_create_with(h, 0, vapic, c);
	vapic_fields(h);
	memset(h->g.memory + POSTED, 0, 64);
	h->g.memory[POSTED + 0x35 / 8] |= 1 << 0x35 % 8;
	h->g.memory[POSTED + 0x72 / 8] |= 1 << 0x72 % 8;
	h->g.memory[POSTED + 32] = 1;
	hv_set(h, F_posted_intr_desc_addr, POSTED);
	hv_set(h, F_posted_intr_nv, NOTIFY);
	guest_ioctl(h->g.vcpu[0], KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(h->g.vcpu[0], KVM_SET_LAPIC, &lapic);
	guest_ioctl(h->g.vm, KVM_SIGNAL_MSI, &msi);
}

/* ---- bus locks ---- */

GUEST_ASM(locks, 64, "mov $0x30003d, %edi\n lock incl (%rdi)\n mov $2, %ebx\n xchg %eax, 0x100(%rdi)\n mov $3, %ebx\n vmcall");

static void locks_create(struct hv *h)
{
	hv_create_with(h, 0, locks, (struct hv_controls){ .primary = PRIMARY_SECONDARY, .secondary = SECONDARY_BUS_LOCK });
}

/* ---- time ---- */

enum { CLOCK_PAGE = 0x310000 };

/* RBX counts how often the clock page's TSC was ahead of the TSC (R14, R15), or its time less than it was (R12, R11). */
GUEST_ASM(clocks, 64,
	"xor %ebx, %ebx\n mov $6, %edi\n mov $0xb0, %al\n out %al, $0x43\n mov $0x34, %al\n out %al, $0x42\n mov $0x12, %al\n out %al, $0x42\n"
	"1: mov 0x310008, %r14\n mov 0x310010, %r12\n rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %r15\n"
	"sub %r14, %r15\n adc $0, %ebx\n cmp %r11, %r12\n adc $0, %ebx\n mov %r12, %r11\n dec %edi\n jnz 1b\n vmcall");

static void clocks_create(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = 0x4b564d01, .data = CLOCK_PAGE | 1 } };

	hv_create_with(h, 0, clocks, (struct hv_controls){ 0 });
	check_equal(guest_ioctl(h->g.vcpu[0], KVM_SET_MSRS, &m), 1);
}

static bool clocks_next(struct hv *h, uint32_t reason)
{
	check_equal(h->gpr[3], 0);
	check(*quad(h, CLOCK_PAGE + 24) != 0);          /* the page was written */
	return sweep_next(h, reason);
}
#define TIMES (1u << 0 | 1u << 3 | 1u << 11 | 1u << 12 | 1u << 14 | 1u << 15 | 1u << 17 /* RFLAGS */)

/* ---- L2 has a shadow VMCS ---- */

enum { SHADOW = 0x58000, SHADOW_BITMAPS = 0x59000 };
GUEST_ASM(shadowed, 64,
	"mov $0x681e, %eax\n mov $0x1234, %ebx\n vmwrite %rbx, %rax\n xor %ebx, %ebx\n vmread %rax, %rcx\n mov $0x4402, %eax\n"
	"vmread %rax, %rdx\n vmwrite %rbx, %rax\n nop\n vmcall");

static void shadowed_create(struct hv *h)
{
	hv_create_with(h, 0, shadowed, (struct hv_controls){ .primary = PRIMARY_SECONDARY, .secondary = SECONDARY_SHADOW_VMCS });
	memset(h->g.memory + SHADOW, 0, 0x3000);
	memcpy(h->g.memory + SHADOW, h->g.memory + 0x21000, 4);
	h->g.memory[SHADOW + 3] |= 0x80;
	hv_set(h, F_vmread_bitmap, SHADOW_BITMAPS);
	hv_set(h, F_vmwrite_bitmap, SHADOW_BITMAPS + 0x1000);
	hv_set(h, F_vmcs_link_pointer, SHADOW);
}

/* ---- */

static const struct sweep_case cases[] = {
	{ .name = "instructions", .create = plain_create },
	{ .name = "real mode", .create = real_create },
	{ .name = "virtual-8086 mode, PAE paging", .create = vm86_create },
	{ .name = "events injected by VM entry", .create = events_create, .next = events_next },
	{ .name = "an event whose delivery faults", .create = vectoring_create, .next = vectoring_next },
	{ .name = "STI and MOV SS, interrupt window, HLT", .create = shadows_create, .next = shadows_next },
	{ .name = "NMIs of L2's own", .create = nmi_create },
	{ .name = "virtual NMIs, NMI window", .create = nmi_window_create, .next = nmi_window_next },
	{ .name = "monitor trap flag", .create = trap_create },
	{ .name = "monitor trap as an event", .create = trap_injected_create },
	{ .name = "preemption timer", .create = timer_create, .next = timer_next, .moves = 40 },
	{ .name = "virtual APIC", .create = vapic_create },
	{ .name = "APIC write and monitor trap", .create = vapic_trap_create },
	{ .name = "posted interrupts", .create = posted_create },
	{ .name = "bus locks", .create = locks_create },
	{ .name = "TSC, kvmclock, PIT", .create = clocks_create, .next = clocks_next, .ignore = TIMES },
	{ .name = "shadow VMCS", .create = shadowed_create },
};

int main(int argc, char **argv)
{
	return sweep_run(cases, sizeof(cases) / sizeof(*cases), argc, argv);
}
