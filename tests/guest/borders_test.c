/*
 * What L2, L1 and the client must not get of one another: L2 does not pass the
 * client's own intercepts where L1 has none; what belongs to L2 ends with it;
 * host state that no VM exit can load; bytes that nobody has written.
 */
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"
#include "smram.h"
#include "vmx/vmcs12.h"

enum { VAPIC = 0x50000, VMCS = 0x21000, SYSENTER_CS = 0x174, AFTER = 0xa000, TPR = 0x80 };

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

/* ---- the client's MSR filter ---- */

GUEST_ASM(read_msr, 64, "mov $0x174, %ecx\n rdmsr\n mov $0x175, %ecx\n rdmsr\n hlt");

static void filter(struct hv *h)
{
	static uint8_t all[1] = { 0xfe };          /* 174h alone is the client's */
	struct kvm_msr_filter f = { .ranges[0] = { .flags = KVM_MSR_FILTER_READ, .nmsrs = 8, .base = SYSENTER_CS, .bitmap = all } };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args[0] = KVM_MSR_EXIT_REASON_FILTER };

	guest_ioctl(h->g.vm, KVM_ENABLE_CAP, &cap);
	guest_ioctl(h->g.vm, KVM_X86_SET_MSR_FILTER, &f);
}

/* L1 has the first say; what it lets through meets the client's filter. */
static void test_msr_filter(void)
{
	for (unsigned l1 = 0; l1 < 2; l1++) {
		struct hv h;

		hv_create_with(&h, 0, read_msr, (struct hv_controls){ .primary = PRIMARY_MSR_BITMAPS });
		guest_no_moves();                /* the filter is this VM's */
		memset(quad(&h, HV_MSR_BITMAP), l1 ? 0xff : 0, 4096);
		filter(&h);
		hv_begin(&h);
		check_equal(guest_run(&h.g, 0), l1 ? KVM_EXIT_IO : KVM_EXIT_X86_RDMSR);
		if (l1) {
			check_equal(hv_end(&h), EXIT_RDMSR);
		} else {
			check_equal(h.g.run[0]->msr.index, SYSENTER_CS);
			h.g.run[0]->msr.data = 0x12345678;
			check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
			check_equal(hv_end(&h), EXIT_HLT);
		}
		hv_destroy(&h);
	}
}

/* ---- what ends with L2 ---- */

GUEST_ASM(asks, 64, "out %al, $0x10\n hlt");
/* Each of these would exit in L2. */
GUEST_ASM(after, 64,
	"mov $5, %eax\n mov %rax, %cr8\n mov %cr8, %rbx\n mov $100000, %ecx\n 1: pause\n dec %ecx\n jnz 1b\n mov %cr3, %rax\n mov %rax, %cr3\n"
	"rdtsc\n mov $0x174, %ecx\n rdmsr\n mov %dr7, %rax\n sgdt (%rsp)\n out %al, $0x80\n");

static void create_with_all(struct hv *h)
{
	struct hv_controls c = { .pin = PIN_PREEMPTION_TIMER | PIN_EXT_INTR | PIN_NMI,
		.primary = PRIMARY_TPR_SHADOW | PRIMARY_IO_BITMAPS | PRIMARY_MSR_BITMAPS | PRIMARY_RDTSC | PRIMARY_PAUSE | PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE |
		           PRIMARY_MOV_DR | PRIMARY_CR8_STORE | PRIMARY_SECONDARY,
		.secondary = SECONDARY_DESCRIPTOR_TABLE | SECONDARY_VPID };

	hv_create_with(h, HV_WITH_EPT, asks, c);
	memset(quad(h, HV_IO_BITMAPS), 0xff, 8192);
	h->g.memory[HV_IO_BITMAPS + 2] = 0;
	memset(quad(h, HV_MSR_BITMAP), 0xff, 4096);
	memset(quad(h, VAPIC), 0, 4096);
	guest_load_bytes(&h->g, AFTER, after_start, after_end - after_start);
	hv_set(h, F_virtual_apic_page_addr, VAPIC);
	hv_set(h, F_tpr_threshold, 0);
	hv_set(h, F_virtual_processor_id, 1);
	hv_set(h, F_exception_bitmap, ~0u);
	hv_set(h, F_tsc_offset, 1ull << 40);
	hv_set(h, F_vmx_preemption_timer_value, 1 << 20);
	check_equal(hv_run(h), HV_FAILED);               /* the port is the client's */
	settle(&h->g);
}

static void end_by_state(struct hv *h)
{
	struct kvm_nested_state s = { .format = KVM_STATE_NESTED_FORMAT_VMX, .size = sizeof(s), .hdr.vmx = { .vmxon_pa = ~0ull, .vmcs12_pa = ~0ull } };

	guest_ioctl(h->g.vcpu[0], KVM_SET_NESTED_STATE, &s);
}

/* As a client does that resets: VMX's lock is gone. */
static void end_by_feature_control(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x3a };

	check_equal(guest_ioctl(h->g.vcpu[0], KVM_SET_MSRS, &m), 1);
}

/* Beyond the preemption timer's deadline. */
static void pass_time(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x10 };

	guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m);
	m.e.data += 1ull << 44;
	check_equal(guest_ioctl(h->g.vcpu[0], KVM_SET_MSRS, &m), 1);
}

/* A 64-bit guest of the same vCPU runs as if VMX had never been. */
static void test_ends_with_l2(void)
{
	static const struct { const char *name; void (*end)(struct hv *h); } cases[] = {
		{ "nested state", end_by_state }, { "feature control", end_by_feature_control },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct kvm_nested_state s = { .size = sizeof(s) };
		struct kvm_lapic_state lapic;
		struct kvm_regs r;
		struct hv h;

		create_with_all(&h);
		cases[i].end(&h);
		guest_ioctl(h.g.vcpu[0], KVM_GET_NESTED_STATE, &s);
		check_equal(s.hdr.vmx.vmxon_pa, ~0ull);
		check_equal(s.flags, 0);
		r = guest_regs(&h.g, 0);
		pass_time(&h);
		r.rip = AFTER;
		guest_set_regs(&h.g, 0, &r);
		memset(quad(&h, HV_EPT), 0, 4096);
		check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
		check_equal(h.g.run[0]->io.port, 0x80);
		check_equal(guest_regs(&h.g, 0).rbx, 5);
		guest_ioctl(h.g.vcpu[0], KVM_GET_LAPIC, &lapic);
		check_equal(lapic.regs[TPR], 0x50);
		check_equal(h.g.memory[VAPIC + TPR], 0);
		hv_destroy(&h);
	}
}

/* ---- host state that cannot be loaded ---- */

/* What a list of the VM exit names cannot be stored or loaded: VMX abort, with its number, and the processor is shut down. */
static void test_abort(void)
{
	static const struct { enum hv_field address, count; uint64_t index, value; uint32_t abort; } cases[] = {
		{ F_vm_exit_msr_store_addr, F_vm_exit_msr_store_count, 0x12345678, 0, 1 },
		{ F_vm_exit_msr_load_addr, F_vm_exit_msr_load_count, 0xc0000102, 1ull << 63, 4 },
		{ F_vm_exit_msr_load_addr, F_vm_exit_msr_load_count, 0x480, 0, 4 },
		{ F_vm_exit_msr_load_addr, F_vm_exit_msr_load_count, 0xc0000100, 0, 4 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct hv h;

		hv_create_with(&h, 0, read_msr, (struct hv_controls){ 0 });
		quad(&h, HV_MSR_LIST)[0] = cases[i].index;
		quad(&h, HV_MSR_LIST)[1] = cases[i].value;
		hv_set(&h, cases[i].address, HV_MSR_LIST);
		hv_set(&h, cases[i].count, 1);
		hv_begin(&h);
		check_equal(guest_run(&h.g, 0), KVM_EXIT_SHUTDOWN);
		check_equal(((struct vmcs12 *)(h.g.memory + VMCS))->abort, cases[i].abort);
		hv_destroy(&h);
	}
}

/* ---- bytes that nobody has written ---- */

/* What the library's functions find on their stack is this, if they do not write it. */
static __attribute__((noinline)) void stack_fill(uint8_t with)
{
	volatile uint8_t bytes[64 << 10];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = with;
}

#define GETS(X) \
	X(KVM_GET_REGS, struct kvm_regs) X(KVM_GET_SREGS, struct kvm_sregs) X(KVM_GET_SREGS2, struct kvm_sregs2) X(KVM_GET_FPU, struct kvm_fpu) \
	X(KVM_GET_LAPIC, struct kvm_lapic_state) X(KVM_GET_MP_STATE, struct kvm_mp_state) X(KVM_GET_VCPU_EVENTS, struct kvm_vcpu_events) \
	X(KVM_GET_DEBUGREGS, struct kvm_debugregs) X(KVM_GET_XSAVE, struct kvm_xsave) X(KVM_GET_XCRS, struct kvm_xcrs)

/* Every byte of what the client gets is the same, whatever was on the stack and in its own buffer. */
static void test_gets(void)
{
	static uint8_t got[2][8192];
	struct hv h;

	hv_create_with(&h, HV_WITH_EPT, asks, (struct hv_controls){ 0 });
	check_equal(hv_run(&h), HV_FAILED);
	settle(&h.g);
#define GET(request, type) \
	for (unsigned i = 0; i < 2; i++) { \
		memset(got[i], i ? 0xff : 0, sizeof(got[i])); \
		stack_fill(i ? 0x5a : 0xa5); \
		guest_ioctl(h.g.vcpu[0], request, got[i]); \
	} \
	check_that(!memcmp(got[0], got[1], sizeof(type)), #request);
	GETS(GET)
	for (unsigned i = 0; i < 2; i++) {
		memset(got[i], i ? 0xff : 0, sizeof(got[i]));
		stack_fill(i ? 0x5a : 0xa5);
		((struct kvm_nested_state *)got[i])->size = sizeof(got[i]);
		guest_ioctl(h.g.vcpu[0], KVM_GET_NESTED_STATE, got[i]);
	}
	check_that(!memcmp(got[0], got[1], ((struct kvm_nested_state *)got[0])->size), "KVM_GET_NESTED_STATE");
	hv_destroy(&h);
}

/* Nor does any of it reach L1: what VM exits write, and the VMCS's region in memory when the client has the state saved. */
static void test_exits(void)
{
	static uint8_t seen[2][4096], region[2][4096];

	for (unsigned i = 0; i < 2; i++) {
		union { struct kvm_nested_state s; uint8_t bytes[8320]; } state = { .s.size = sizeof(state) };
		struct hv h;

		stack_fill(i ? 0x5a : 0xa5);
		hv_create_with(&h, HV_WITH_EPT, read_msr, (struct hv_controls){ 0 });
		stack_fill(i ? 0x5a : 0xa5);
		check_equal(hv_run(&h), EXIT_RDMSR);
		memcpy(seen[i], quad(&h, 0x25000), 4096);        /* all fields, as L1 has read them */
		guest_ioctl(h.g.vcpu[0], KVM_GET_NESTED_STATE, &state);
		memcpy(region[i], quad(&h, VMCS), 4096);
		hv_destroy(&h);
	}
	check(!memcmp(seen[0], seen[1], 4096));
	check(!memcmp(region[0], region[1], 4096));
}

static const struct test tests[] = {
	{ "the client's MSR filter holds for L2", test_msr_filter },
	{ "controls, timer and pages of L2 end with VMX operation", test_ends_with_l2 },
	{ "VMX abort", test_abort },
	{ "every byte that the client gets is written", test_gets },
	{ "every byte that L1 gets is written", test_exits },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
