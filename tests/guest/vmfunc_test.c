/* VM functions: EPTP switching by L2 itself, without a VM exit; what exits, what is #UD, and the entry checks. */
#include "base/base.h"
#include "hypervisor.h"

enum { LIST = 0x50000, OTHER = 0x52000 /* a second EPT */, OTHER_PAGES = 0x280000, EPTP_BITS = 3 << 3 | 6,
       UD_INFO = 0x80000306 };
#define EPTP (HV_EPT | EPTP_BITS)
#define EPTP_OTHER (OTHER | EPTP_BITS)

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

/* As HV_EPT, but the small pages are others. */
static void other_ept(struct hv *h)
{
	uint64_t *t = quad(h, OTHER);

	memcpy(t, quad(h, HV_EPT), 4 * 4096);
	t[0] = (OTHER + 0x1000) | 7;
	t[512] = (OTHER + 0x2000) | 7;
	t[1024 + 1] = (OTHER + 0x3000) | 7;
	for (uint64_t i = 0; i < 128; i++)
		t[1536 + i] = (OTHER_PAGES + (i << 12)) | 6 << 3 | 7;
}

static void create(struct hv *h, const uint8_t *l2, size_t len)
{
	hv_create(h, HV_WITH_EPT, (struct hv_controls){ .secondary = SECONDARY_VMFUNC }, l2, len);
	hv_set(h, F_vm_function_control, VMFUNC_EPTP_SWITCHING);
	hv_set(h, F_eptp_list_address, LIST);
	hv_set(h, F_exception_bitmap, ~0u);
	memset(quad(h, LIST), 0, 4096);
	other_ept(h);
	quad(h, LIST)[0] = EPTP;
	quad(h, LIST)[1] = EPTP_OTHER;
	quad(h, LIST)[511] = EPTP_OTHER;
	*quad(h, 0x200000) = 1;
	*quad(h, OTHER_PAGES) = 2;
}
#define create_with(h, name) create(h, name##_start, name##_end - name##_start)

GUEST_ASM(switches, 64,
	"mov 0x200000, %rbx\n xor %eax, %eax\n mov $1, %ecx\n vmfunc\n mov 0x200000, %rdx\n mov %rdx, %rbp\n"
	"movq $3, 0x200000\n xor %ecx, %ecx\n vmfunc\n mov 0x200000, %rsi\n mov $511, %ecx\n vmfunc\n mov 0x200000, %rdi\n hlt");

static void test_switch(void)
{
	struct hv h;

	create_with(&h, switches);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(h.gpr[3], 1);
	check_equal(h.gpr[5], 2);
	check_equal(h.gpr[6], 1);
	check_equal(h.gpr[7], 3);
	check_equal(*quad(&h, OTHER_PAGES), 3);
	check_equal(hv_get(&h, F_ept_pointer), EPTP_OTHER);      /* the VMCS has the last one */
	hv_destroy(&h);
}

/* Fetches, too: both EPTs map the page of the VMFUNC, with different code behind it. */
GUEST_ASM(jump, 64, "mov $0x200000, %r8d\n jmp *%r8");
GUEST_ASM(one, 64, "xor %eax, %eax\n mov $1, %ecx\n vmfunc\n mov $1, %ebx\n hlt");
GUEST_ASM(other, 64, "xor %eax, %eax\n mov $1, %ecx\n vmfunc\n mov $2, %ebx\n hlt");

static void test_fetch(void)
{
	struct hv h;

	create_with(&h, jump);
	for (unsigned i = 0; i < 3; i++) {
		guest_load_bytes(&h.g, 0x200000, one_start, one_end - one_start);
		guest_load_bytes(&h.g, OTHER_PAGES, other_start, other_end - other_start);
		hv_set(&h, F_guest_rip, HV_L2);
		hv_set(&h, F_ept_pointer, EPTP);
		check_equal(hv_run(&h), EXIT_HLT);
		check_equal(h.gpr[3], 2);
	}
	hv_destroy(&h);
}

GUEST_ASM(function, 64, "vmfunc\n hlt");

static void test_exits(void)
{
	static const struct { uint32_t eax, ecx, reason; uint64_t functions, entry2; } cases[] = {
		{ 0, 1, EXIT_HLT, 1, 0 },
		{ 0, 512, EXIT_VMFUNC, 1, 0 },                           /* beyond the list */
		{ 0, 0x10001, EXIT_VMFUNC, 1, 0 },
		{ 1, 1, EXIT_VMFUNC, 1, 0 },                             /* a leaf that is not enabled */
		{ 63, 1, EXIT_VMFUNC, 1, 0 },
		{ 64, 1, EXIT_EXCEPTION_NMI, 1, 0 },                     /* no such leaf */
		{ 0x80000000, 1, EXIT_EXCEPTION_NMI, 1, 0 },
		{ 0, 1, EXIT_VMFUNC, 0, 0 },
		{ 0, 2, EXIT_VMFUNC, 1, 0 },                             /* memory type 0 is not offered */
		{ 0, 2, EXIT_VMFUNC, 1, OTHER | 2 << 3 | 6 },            /* three levels */
		{ 0, 2, EXIT_VMFUNC, 1, EPTP_OTHER | 0x80 },             /* reserved bits */
		{ 0, 2, EXIT_VMFUNC, 1, EPTP_OTHER | 1ull << 52 },
		{ 0, 2, EXIT_HLT, 1, EPTP_OTHER | 0x40 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_with(&h, function);
		quad(&h, LIST)[2] = cases[i].entry2;
		hv_set(&h, F_vm_function_control, cases[i].functions);
		h.gpr[0] = cases[i].eax;
		h.gpr[1] = cases[i].ecx;
		check_equal(hv_run(&h), cases[i].reason);
		if (cases[i].reason != EXIT_HLT) {
			check_equal(hv_get(&h, F_ept_pointer), EPTP);
			check_equal(hv_get(&h, F_guest_rip), HV_L2);
		}
		if (cases[i].reason == EXIT_EXCEPTION_NMI)
			check_equal(hv_get(&h, F_vm_exit_intr_info), UD_INFO);
		if (cases[i].reason == EXIT_VMFUNC) {
			check_equal(hv_get(&h, F_vm_exit_instruction_len), 3);
			check_equal(hv_get(&h, F_exit_qualification), 0);
		}
		hv_destroy(&h);
	}
}

/* Without the control, and in L1, it is undefined. */
static void test_undefined(void)
{
	struct hv h;

	create_with(&h, function);
	hv_set(&h, F_secondary_vm_exec_control, SECONDARY_EPT);
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), UD_INFO);
	hv_destroy(&h);
}

GUEST_ASM(at_cpl3, 64,
	"mov $0x1b, %ecx\n push %rcx\n push $0x6000\n push $2\n push $0x23\n push $0x9100\n iretq\n"
	".org at_cpl3_start + 0x100\n xor %eax, %eax\n mov $1, %ecx\n vmfunc\n mov 0x200000, %rbx\n cpuid\n");

/* At any privilege level. */
static void test_user(void)
{
	struct hv h;

	create_with(&h, at_cpl3);
	*quad(&h, 0x60000 + 24) = 0x00cff3000000ffff;            /* a GDT of L2's own: 18h data, 20h code of ring 3 */
	*quad(&h, 0x60000 + 32) = 0x00affb000000ffff;
	hv_set(&h, F_guest_gdtr_base, 0x60000);
	hv_set(&h, F_guest_gdtr_limit, 39);
	memcpy(quad(&h, HV_PAGES), quad(&h, GUEST_PAGES), 3 * 4096);
	quad(&h, HV_PAGES)[0] = (HV_PAGES + 0x1000) | 7;
	quad(&h, HV_PAGES)[512] = (HV_PAGES + 0x2000) | 7;
	for (unsigned i = 0; i < 512; i++)
		quad(&h, HV_PAGES)[1024 + i] |= 4;
	hv_set(&h, F_guest_cr3, HV_PAGES);
	check_equal(hv_run(&h), EXIT_CPUID);
	check_equal(h.gpr[3], 2);
	check_equal(hv_get(&h, F_guest_cs_selector), 0x23);
	hv_destroy(&h);
}

static void test_checks(void)
{
	static const struct { uint64_t functions, list; uint32_t secondary, error; } cases[] = {
		{ 1, LIST, SECONDARY_EPT | SECONDARY_VMFUNC, 0 },
		{ 0, LIST + 8, SECONDARY_EPT | SECONDARY_VMFUNC, 0 },
		{ 1, LIST + 8, SECONDARY_EPT | SECONDARY_VMFUNC, VMXERR_CONTROLS },
		{ 1, 1ull << 52, SECONDARY_EPT | SECONDARY_VMFUNC, VMXERR_CONTROLS },
		{ 2, LIST, SECONDARY_EPT | SECONDARY_VMFUNC, VMXERR_CONTROLS },
		{ 1ull << 63, LIST, SECONDARY_EPT | SECONDARY_VMFUNC, VMXERR_CONTROLS },
		{ 1, LIST, SECONDARY_VMFUNC, VMXERR_CONTROLS },
		{ 0, LIST, SECONDARY_VMFUNC, 0 },
		{ 2, LIST + 8, SECONDARY_EPT, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_with(&h, switches);
		hv_set(&h, F_vm_function_control, cases[i].functions);
		hv_set(&h, F_eptp_list_address, cases[i].list);
		hv_set(&h, F_secondary_vm_exec_control, cases[i].secondary);
		check_equal(hv_error(&h), cases[i].error);
		hv_destroy(&h);
	}
}

/* By parameter, by the client's capability MSRs: the control, and the one function. */
static void test_not_offered(void)
{
	for (unsigned i = 0; i < 3; i++) {
		struct hv h;

		params.vmfunc = i != 0;
		if (i == 1)
			hv_narrow(0x48b, (uint64_t)SECONDARY_VMFUNC << 32);
		if (i == 2)
			hv_narrow(0x491, VMFUNC_EPTP_SWITCHING);
		hv_create_with(&h, HV_WITH_EPT, function, (struct hv_controls){ 0 });
		if (i == 2)
			hv_set(&h, F_vm_function_control, VMFUNC_EPTP_SWITCHING);
		hv_check_refused(&h, SECONDARY_EPT | SECONDARY_VMFUNC, F_eptp_list_address);
		hv_destroy(&h);
	}
	params.vmfunc = true;
}

GUEST_ASM(asks, 64, "xor %eax, %eax\n mov $1, %ecx\n vmfunc\n out %al, $0x10\n mov 0x200000, %rbx\n hlt");

/* A saved L2 has the EPT pointer that it switched to. */
static void test_saved(void)
{
	static union { struct kvm_nested_state s; uint8_t bytes[128 + 8192]; } state;
	struct hv h;

	create_with(&h, asks);
	check_equal(hv_run(&h), HV_FAILED);                      /* its port is the client's */
	check_equal(h.g.run[0]->io.port, 0x10);
	state.s.size = sizeof(state);
	guest_ioctl(h.g.vcpu[0], KVM_GET_NESTED_STATE, &state.s);
	check_equal(*(uint64_t *)(state.s.data.vmx[0].vmcs12 + 120), EPTP_OTHER);
	guest_ioctl(h.g.vcpu[0], KVM_SET_NESTED_STATE, &state.s);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	check_equal(hv_get(&h, F_vm_exit_reason), EXIT_HLT);
	check_equal(h.gpr[3], 2);
	hv_destroy(&h);
}

static const struct test tests[] = {
	{ "EPTP switching", test_switch },
	{ "EPTP switching and fetches", test_fetch },
	{ "what exits and what is undefined", test_exits },
	{ "undefined without the control", test_undefined },
	{ "at CPL 3", test_user },
	{ "saved and restored", test_saved },
	{ "entry checks", test_checks },
	{ "not offered", test_not_offered },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
