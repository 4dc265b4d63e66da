/* See hypervisor.h. */
#include "hypervisor.h"
#include "hypervisor32.h"

enum { WRITES = 0x22000, LIST = 0x24000, VALUES = 0x25000, GPRS = 0x26000, COMMAND = 0x26080, INVALIDATION = 0x26088, TAKEN = 0x260a0,
       L1_EXIT = GUEST_CODE + 0x200, L1_INTERRUPT = GUEST_CODE + 0x400 };
enum { LAUNCH, RESUME, TAKE_INTERRUPTS, INVEPT, INVVPID };

/*
 * Commands come at port E2h. Writes: {field, value} pairs, ended by ~0. A field
 * that L1 was not offered keeps its old value in the dump.
 */
GUEST_ASM(l1, 64,
	"mov %cr4, %rax\n or $0x2000, %rax\n mov %rax, %cr4\n"
	"mov $0x3a, %ecx\n rdmsr\n test $1, %eax\n jnz 1f\n or $5, %eax\n wrmsr\n 1:\n"
	"mov $0x480, %ecx\n rdmsr\n mov %eax, 0x20000\n mov %eax, 0x21000\n"
	"movq $0x20000, 0x23000\n vmxon 0x23000\n jbe 9f\n"
	"movq $0x21000, 0x23000\n vmclear 0x23000\n jbe 9f\n vmptrld 0x23000\n jbe 9f\n"
	"2: out %al, $0xe2\n mov $0x22000, %esi\n"
	"3: mov (%rsi), %rax\n cmp $-1, %rax\n je 4f\n vmwrite 8(%rsi), %rax\n jbe 8f\n add $16, %rsi\n jmp 3b\n"
	"4: mov 0x26000, %rax\n mov 0x26008, %rcx\n mov 0x26010, %rdx\n mov 0x26018, %rbx\n mov 0x26028, %rbp\n"
	"mov 0x26030, %rsi\n mov 0x26038, %rdi\n mov 0x26040, %r8\n mov 0x26048, %r9\n mov 0x26050, %r10\n mov 0x26058, %r11\n"
	"mov 0x26060, %r12\n mov 0x26068, %r13\n mov 0x26070, %r14\n mov 0x26078, %r15\n"
	"cmpl $1, 0x26080\n je 5f\n ja 6f\n vmlaunch\n jmp 7f\n"
	"5: vmresume\n jmp 7f\n"
	"6: cmpl $3, 0x26080\n mov 0x26088, %rax\n je 10f\n ja 11f\n sti\n nop\n nop\n cli\n jmp 2b\n"
	"10: invept 0x26090, %rax\n jbe 9f\n jmp 2b\n 11: invvpid 0x26090, %rax\n jbe 9f\n jmp 2b\n"
	"7: mov $0x4400, %ecx\n vmread %rcx, %rax\n out %al, $0xe0\n jmp 2b\n"
	"8: mov (%rsi), %rax\n out %eax, $0xe1\n jmp 2b\n"
	"9: out %al, $0xe3\n hlt\n"
	".org l1_start + 0x200\n"
	"mov %rax, 0x26000\n mov %rcx, 0x26008\n mov %rdx, 0x26010\n mov %rbx, 0x26018\n mov %rbp, 0x26028\n"
	"mov %rsi, 0x26030\n mov %rdi, 0x26038\n mov %r8, 0x26040\n mov %r9, 0x26048\n mov %r10, 0x26050\n mov %r11, 0x26058\n"
	"mov %r12, 0x26060\n mov %r13, 0x26068\n mov %r14, 0x26070\n mov %r15, 0x26078\n"
	"mov $0x24000, %esi\n"
	"1: mov (%rsi), %rax\n cmp $-1, %rax\n je 2b\n vmread %rax, %rdx\n jbe 3f\n mov %rdx, 0x1000(%rsi)\n"
	"3: add $8, %rsi\n jmp 1b\n"
	".org l1_start + 0x400\n incq 0x260a0\n iretq");

static const uint32_t encodings[] = {
#define VMCS_FIELD(encoding, ...) encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};
enum { FIELDS = sizeof(encodings) / sizeof(*encodings) };
_Static_assert(FIELDS < 512, "the list has one page");

static uint64_t *at(struct hv *h, uint64_t gpa)
{
	return (uint64_t *)(h->g.memory + gpa);
}

/* ---- what L1 is offered ---- */

static void msr_set(struct hv *h, uint32_t index, uint64_t value)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = index, .data = value } };

	check_equal(guest_ioctl(h->g.vcpu[0], KVM_SET_MSRS, &m), 1);
}

static struct { uint32_t msr; uint64_t bits; } narrowed;

void hv_narrow(uint32_t msr, uint64_t bits)
{
	narrowed.msr = msr;
	narrowed.bits = bits;
}

static void narrow(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = narrowed.msr };

	if (!narrowed.msr)
		return;
	guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m);
	msr_set(h, narrowed.msr, m.e.data & ~narrowed.bits);
	narrowed.msr = 0;
}

/* The controls of a group that L1 sees itself: it goes by KVM's own view only for a client that narrows nothing. */
static uint64_t allowed(struct hv *h, uint32_t msr, bool first_generation)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = msr };

	guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m);
	return first_generation ? m.e.data | 0xffffffff00000000 : m.e.data;
}

static void set_controls(struct hv *h, enum hv_field f, uint32_t msr, uint32_t wanted, bool first_generation)
{
	uint64_t a = allowed(h, msr, first_generation);

	if (wanted & ~(uint32_t)(a >> 32))
		printf("# MSR %#x does not offer %#x\n", msr, wanted & ~(uint32_t)(a >> 32));
	hv_set(h, f, wanted | (uint32_t)a);
}

static void cpuid_without_vme(struct hv *h)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };

	guest_ioctl(h->g.system, KVM_GET_SUPPORTED_CPUID, &c);
	for (unsigned i = 0; i < c.head.nent; i++)
		if (c.e[i].function == 1)
			c.e[i].edx &= ~2u;
	guest_ioctl(h->g.vcpu[0], KVM_SET_CPUID2, &c);
}

/* What QEMU writes for a CPU model that says nothing about VMX. */
static void offer_nothing(struct hv *h)
{
	cpuid_without_vme(h);
	msr_set(h, 0x48e, 0x0401e172ull << 32 | 0x0401e172);
	msr_set(h, 0x48d, 0x16ull << 32 | 0x16);
	msr_set(h, 0x48f, 0x36fffull << 32 | 0x36dff);
	msr_set(h, 0x490, 0x13ffull << 32 | 0x11ff);
	msr_set(h, 0x48b, 0);
	msr_set(h, 0x48c, 0);
	msr_set(h, 0x485, 5);
}

/* ---- the VMCS ---- */

void hv_set(struct hv *h, enum hv_field f, uint64_t value)
{
	uint64_t *w = at(h, WRITES);

	while (*w != ~0ull)
		w += 2;
	w[0] = f;
	w[1] = value;
	w[2] = ~0ull;
}

uint64_t hv_get(struct hv *h, enum hv_field f)
{
	for (unsigned i = 0; i < FIELDS; i++)
		if (encodings[i] == f)
			return at(h, VALUES)[i];
	return ~0ull;
}

static void segment_set(struct hv *h, unsigned seg, uint16_t selector, uint64_t base, uint32_t limit, uint32_t ar)
{
	hv_set(h, F_guest_es_selector + 2 * seg, selector);
	hv_set(h, F_guest_es_base + 2 * seg, base);
	hv_set(h, F_guest_es_limit + 2 * seg, limit);
	hv_set(h, F_guest_es_ar_bytes + 2 * seg, ar);
}

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };

static void guest_state(struct hv *h, uint64_t cr4_fixed)
{
	for (unsigned seg = ES; seg <= GS; seg++)
		segment_set(h, seg, seg == CS ? 24 : 16, 0, 0xffffffff, seg == CS ? 0xa09b : 0xc093);
	segment_set(h, LDTR, 0, 0, 0, 0x10000);
	segment_set(h, TR, 32, HV_TSS, 0x67, 0x8b);
	hv_set(h, F_guest_gdtr_base, GUEST_GDT);
	hv_set(h, F_guest_gdtr_limit, 31);
	hv_set(h, F_guest_idtr_base, GUEST_IDT);
	hv_set(h, F_guest_idtr_limit, 0xfff);
	hv_set(h, F_guest_cr0, 0x80010031);
	hv_set(h, F_guest_cr3, GUEST_PAGES);
	hv_set(h, F_guest_cr4, 0x620 | cr4_fixed);
	hv_set(h, F_cr4_read_shadow, 0x620);
	hv_set(h, F_guest_dr7, 0x400);
	hv_set(h, F_guest_rsp, HV_L2_STACK);
	hv_set(h, F_guest_rip, HV_L2);
	hv_set(h, F_guest_rflags, 2);
	hv_set(h, F_vmcs_link_pointer, ~0ull);
}

static void host_state(struct hv *h)
{
	static const enum hv_field data[] = { F_host_es_selector, F_host_ss_selector, F_host_ds_selector, F_host_fs_selector,
	                                      F_host_gs_selector };

	hv_set(h, F_host_cs_selector, 24);
	hv_set(h, F_host_tr_selector, 32);
	for (unsigned i = 0; i < sizeof(data) / sizeof(*data); i++)
		hv_set(h, data[i], 16);
	hv_set(h, F_host_cr0, 0x80000031);
	hv_set(h, F_host_cr3, GUEST_PAGES);
	hv_set(h, F_host_cr4, 0x2620);
	hv_set(h, F_host_gdtr_base, GUEST_GDT);
	hv_set(h, F_host_idtr_base, GUEST_IDT);
	hv_set(h, F_host_rsp, GUEST_STACK);
	hv_set(h, F_host_rip, L1_EXIT);
}

static void ept_write(struct hv *h)
{
	uint64_t *t = at(h, HV_EPT);

	t[0] = (HV_EPT + 0x1000) | 7;
	t[512] = (HV_EPT + 0x2000) | 7;
	for (uint64_t i = 0; i < 512; i++) {
		t[1024 + i] = i << 21 | 0x80 | 6 << 3 | 7;
		t[1536 + i] = (HV_SMALL_PAGES + (i << 12)) | 6 << 3 | 7;
	}
	t[1024 + 1] = HV_EPT_TABLE | 7;
	hv_set(h, F_ept_pointer, HV_EPT | 3 << 3 | 6);
}

static void control_state(struct hv *h, unsigned options, struct hv_controls c)
{
	bool first = options & HV_FIRST_GENERATION;

	if (options & (HV_WITH_EPT | HV_WITH_UNRESTRICTED)) {
		c.primary |= PRIMARY_SECONDARY;
		c.secondary |= SECONDARY_EPT | (options & HV_WITH_UNRESTRICTED ? SECONDARY_UNRESTRICTED : 0);
		ept_write(h);
	}
	set_controls(h, F_pin_based_vm_exec_control, 0x48d, c.pin, first);
	set_controls(h, F_cpu_based_vm_exec_control, 0x48e, PRIMARY_HLT | c.primary, first);
	if (c.secondary)
		set_controls(h, F_secondary_vm_exec_control, 0x48b, c.secondary, first);
	set_controls(h, F_vm_exit_controls, 0x48f, (options & HV_PAE_HOST ? 0 : VMEXIT_HOST_64) | c.exit, first);
	set_controls(h, F_vm_entry_controls, 0x490, (options & HV_PAE_HOST ? 0 : VMENTRY_IA32E) | c.entry, first);
	if (c.primary & PRIMARY_IO_BITMAPS) {
		hv_set(h, F_io_bitmap_a, HV_IO_BITMAPS);
		hv_set(h, F_io_bitmap_b, HV_IO_BITMAPS + 4096);
	}
	if (c.primary & PRIMARY_MSR_BITMAPS)
		hv_set(h, F_msr_bitmap, HV_MSR_BITMAP);
}

static void zero_fields(struct hv *h)
{
	static const enum hv_field zero[] = {
		F_exception_bitmap, F_page_fault_error_code_mask, F_page_fault_error_code_match, F_cr3_target_count,
		F_vm_exit_msr_store_count, F_vm_exit_msr_load_count, F_vm_entry_msr_load_count, F_vm_entry_intr_info_field,
		F_guest_interruptibility_info, F_guest_activity_state, F_cr0_guest_host_mask, F_cr4_guest_host_mask,
		F_guest_pending_dbg_exceptions, F_tsc_offset,
	};

	for (unsigned i = 0; i < sizeof(zero) / sizeof(*zero); i++)
		hv_set(h, zero[i], 0);
}

/* ---- life ---- */

static void run_to_first_command(struct hv *h, bool pae_host)
{
	static const uint64_t tss[] = { 0x00008b0500000067, 0 };
	uint64_t gate[2] = { L1_INTERRUPT | 24ull << 16 | 0x8e00ull << 32, 0 };
	struct kvm_sregs s;

	if (pae_host) {
		hv32_load(h);
		guest_mode(&h->g, 0, GUEST_PROTECTED);
	} else {
		guest_load(&h->g, l1);
		guest_mode(&h->g, 0, GUEST_LONG);
	}
	memcpy(at(h, GUEST_GDT + 32), tss, sizeof(tss));
	for (unsigned vector = 32; vector < 256; vector++)
		memcpy(at(h, GUEST_IDT + 16 * vector), gate, sizeof(gate));
	guest_ioctl(h->g.vcpu[0], KVM_GET_SREGS, &s);
	s.gdt.limit = 47;
	guest_ioctl(h->g.vcpu[0], KVM_SET_SREGS, &s);
	check_equal(guest_run(&h->g, 0), KVM_EXIT_IO);
	check_equal(h->g.run[0]->io.port, 0xe2);
}

void hv_create(struct hv *h, unsigned options, struct hv_controls extra, const uint8_t *l2, size_t len)
{
	*h = (struct hv){ .launched = false };
	guest_create(&h->g, true);
	h->gpr = at(h, GPRS);
	if (options & HV_FIRST_GENERATION)
		offer_nothing(h);
	narrow(h);
	*at(h, WRITES) = ~0ull;
	for (unsigned i = 0; i < FIELDS; i++)
		at(h, LIST)[i] = encodings[i];
	at(h, LIST)[FIELDS] = ~0ull;
	guest_load_bytes(&h->g, HV_L2, l2, len);
	run_to_first_command(h, options & HV_PAE_HOST);
	zero_fields(h);
	control_state(h, options, extra);
	guest_state(h, 0x2000);
	host_state(h);
	if (options & HV_PAE_HOST)
		hv32_state(h);
}

void hv_attach(struct hv *h, bool launched)
{
	*h = (struct hv){ .launched = launched };
	guest_create(&h->g, true);
	h->gpr = at(h, GPRS);
}

void hv_destroy(struct hv *h)
{
	guest_destroy(&h->g);
}

void hv_begin(struct hv *h)
{
	*at(h, COMMAND) = h->launched ? RESUME : LAUNCH;
}

uint32_t hv_end(struct hv *h)
{
	uint32_t port = h->g.run[0]->io.port;
	uint64_t reason = hv_get(h, F_vm_exit_reason);

	*at(h, WRITES) = ~0ull;
	if (port == 0xe1)
		printf("# VMWRITE of field %llx failed\n", guest_regs(&h->g, 0).rax);
	if (port == 0xe0) {
		h->error = guest_regs(&h->g, 0).rax;
		check_equal(guest_run(&h->g, 0), KVM_EXIT_IO);   /* to the next command */
	}
	if (port != 0xe2)
		return HV_FAILED;
	h->launched |= !(reason & EXIT_ENTRY_FAILURE);
	return reason;
}

uint32_t hv_run(struct hv *h)
{
	hv_begin(h);
	check_equal(guest_run(&h->g, 0), KVM_EXIT_IO);
	return hv_end(h);
}

uint32_t hv_error(struct hv *h)
{
	h->error = 0;
	hv_run(h);
	return h->error;
}

void hv_check_refused(struct hv *h, uint32_t secondary, enum hv_field field)
{
	hv_set(h, F_secondary_vm_exec_control, secondary);
	check_equal(hv_error(h), VMXERR_CONTROLS);
	hv_set(h, field, 0);
	hv_run(h);
	check_equal(h->g.run[0]->io.port, 0xe1);         /* the VMWRITE failed */
}

void hv_check_control_off(bool *param, uint32_t control, enum hv_field field, const uint8_t *l2, size_t len)
{
	for (unsigned i = 0; i < 2; i++) {
		struct hv h;

		*param = i != 0;
		if (i == 1)
			hv_narrow(0x48b, (uint64_t)control << 32);
		hv_create(&h, HV_WITH_EPT, (struct hv_controls){ 0 }, l2, len);
		hv_check_refused(&h, SECONDARY_EPT | control, field);
		hv_destroy(&h);
	}
	*param = true;
}

uint32_t hv_skip(struct hv *h)
{
	hv_set(h, F_guest_rip, hv_get(h, F_guest_rip) + hv_get(h, F_vm_exit_instruction_len));
	return hv_run(h);
}

void hv_take_interrupts(struct hv *h)
{
	*at(h, COMMAND) = TAKE_INTERRUPTS;
	check_equal(guest_run(&h->g, 0), KVM_EXIT_IO);
	check_equal(h->g.run[0]->io.port, 0xe2);
	*at(h, WRITES) = ~0ull;
}

void hv_invalidate(struct hv *h, bool vpid, uint64_t type, uint64_t low, uint64_t high)
{
	uint64_t *to = at(h, INVALIDATION);

	to[0] = type;
	to[1] = low;
	to[2] = high;
	*at(h, COMMAND) = vpid ? INVVPID : INVEPT;
	check_equal(guest_run(&h->g, 0), KVM_EXIT_IO);
	check_equal(h->g.run[0]->io.port, 0xe2);
	*at(h, WRITES) = ~0ull;
}

uint64_t hv_interrupts(struct hv *h)
{
	return *at(h, TAKEN);
}

/* ---- L2's modes ---- */

static void leave_long_mode(struct hv *h)
{
	hv_set(h, F_vm_entry_controls, VMENTRY_DEFAULT1);
}

void hv_real(struct hv *h)
{
	leave_long_mode(h);
	for (unsigned seg = ES; seg <= GS; seg++)
		segment_set(h, seg, seg == CS ? HV_L2 >> 4 : 0, seg == CS ? HV_L2 : 0, 0xffff, seg == CS ? 0x9b : 0x93);
	hv_set(h, F_guest_idtr_base, 0);
	hv_set(h, F_guest_idtr_limit, 0x3ff);
	hv_set(h, F_guest_cr0, 0x30);
	hv_set(h, F_cr0_guest_host_mask, 0x20);
	hv_set(h, F_cr0_read_shadow, 0);
	hv_set(h, F_guest_cr3, 0);
	hv_set(h, F_guest_cr4, 0x2000);
	hv_set(h, F_guest_rip, 0);
}

/* A TSS that leads INT n to the interrupt vectors at 0 and allows all ports, as the processor would in real mode. */
static void vm86_tss(struct hv *h)
{
	enum { BASE = 0x68, REDIRECTION = 32, PORTS = 65536 / 8 + 1 };
	uint8_t *tss = h->g.memory + HV_TSS;

	memset(tss, 0, BASE + REDIRECTION + PORTS);
	tss[0x66] = BASE + REDIRECTION;
	tss[BASE + REDIRECTION + PORTS - 1] = 0xff;
	segment_set(h, TR, 32, HV_TSS, BASE + REDIRECTION + PORTS - 1, 0x8b);
}

void hv_pae(struct hv *h)
{
	uint64_t *t = at(h, HV_PAE);

	memset(t, 0, 4096);
	t[0] = (HV_PAE + 0x1000) | 1;
	for (uint64_t i = 0; i < 512; i++)
		t[512 + i] = i << 21 | 0x87;
	hv_set(h, F_guest_cr3, HV_PAE);
}

void hv_vm86(struct hv *h)
{
	leave_long_mode(h);
	for (unsigned seg = ES; seg <= GS; seg++)
		segment_set(h, seg, seg == CS ? HV_L2 >> 4 : 0, seg == CS ? HV_L2 : 0, 0xffff, 0xf3);
	vm86_tss(h);
	hv_pae(h);
	hv_set(h, F_guest_idtr_base, 0);
	hv_set(h, F_guest_idtr_limit, 0x3ff);
	hv_set(h, F_guest_cr0, 0x80000031);
	hv_set(h, F_guest_cr4, 0x2021);          /* VMXE, PAE, VME */
	hv_set(h, F_guest_rip, 0);
	hv_set(h, F_guest_rflags, 0x23002);      /* VM, IOPL 3 */
	hv_set(h, F_exception_bitmap, ~0u);
}

void hv_own_pages(struct hv *h)
{
	uint64_t *t = at(h, HV_PAGES);

	memcpy(t, at(h, GUEST_PAGES), 3 * 4096);
	t[0] = (HV_PAGES + 0x1000) | 7;
	t[512] = (HV_PAGES + 0x2000) | 7;
	t[1024 + 1] = HV_PAGE_TABLE | 7;
	for (uint64_t i = 0; i < 512; i++)
		t[1536 + i] = (HV_SMALL_PAGES + (i << 12)) | 7;
	hv_set(h, F_guest_cr3, HV_PAGES);
	hv_set(h, F_exception_bitmap, 1 << 14);
}
