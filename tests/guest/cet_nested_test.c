/* CET state across VM entry and exit: the controls, the fields and their checks; EPT violations of shadow stacks. */
#include "base/base.h"
#include "hypervisor.h"

enum { SHSTK = 1, ENDBR = 4, SUPPRESS = 1 << 10, WAIT = 1 << 11, CP = 21, CR4_WITH_CET = 0x2620 | 1 << 23, STACK = HV_SMALL_PAGES + 0x3000 };

GUEST_ASM(calls, 64, "rdsspq %rbx\n call 1f\n hlt\n 1: rdsspq %rcx\n hlt");
GUEST_ASM(tampers, 64, "call 1f\n 1: call 2f\n hlt\n 2: incq (%rsp)\n ret\n");
GUEST_ASM(stops, 64, "hlt");

static uint64_t *quad(struct hv *h, uint64_t at) { return (uint64_t *)(h->g.memory + at); }

/* L2 with CET state of its own; its third small page is a shadow stack. */
static void create(struct hv *h, unsigned options, struct hv_controls c, const uint8_t *l2, size_t len)
{
	params.cet = true;
	c.entry |= VMENTRY_LOAD_CET;
	c.exit |= VMEXIT_LOAD_CET;
	hv_create(h, options, c, l2, len);
	memcpy(quad(h, HV_PAGES), quad(h, GUEST_PAGES), 3 * 4096);
	quad(h, HV_PAGES)[0] = (HV_PAGES + 0x1000) | 3;
	quad(h, HV_PAGES)[512] = (HV_PAGES + 0x2000) | 3;
	quad(h, HV_PAGES)[1024 + 1] = HV_PAGE_TABLE | 3;
	for (uint64_t i = 0; i < 512; i++)
		quad(h, HV_PAGE_TABLE)[i] = (HV_SMALL_PAGES + i * 4096) | (i == 3 ? 0x41 : 3);
	hv_set(h, F_guest_cr3, HV_PAGES);
	hv_set(h, F_guest_cr4, CR4_WITH_CET);
	hv_set(h, F_guest_s_cet, SHSTK);
	hv_set(h, F_guest_ssp, STACK + 0x800);
	hv_set(h, F_guest_intr_ssp_table, 0x1000);
	hv_set(h, F_host_s_cet, 0);
	hv_set(h, F_host_ssp, 0x2000);
	hv_set(h, F_host_intr_ssp_table, 0x3000);
}
#define create_with(h, options, name, ...) create(h, options, __VA_ARGS__, name##_start, name##_end - name##_start)

static uint64_t msr(struct hv *h, uint32_t index)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = index };

	check_equal(guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m), 1);
	return m.e.data;
}

static uint64_t ssp(struct hv *h)
{
	uint64_t value = 0;

	guest_ioctl(h->g.vcpu[0], KVM_GET_ONE_REG, &(struct kvm_one_reg){ .id = 0x2030000300000000ull, .addr = (uintptr_t)&value });
	return value;
}

static void test_load_and_save(void)
{
	struct hv h;

	create_with(&h, 0, calls, (struct hv_controls){ 0 });
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(h.gpr[3], STACK + 0x800);
	check_equal(h.gpr[1], STACK + 0x7f8);
	check_equal(hv_get(&h, F_guest_ssp), STACK + 0x7f8);
	check_equal(hv_get(&h, F_guest_s_cet), SHSTK);
	check_equal(hv_get(&h, F_guest_intr_ssp_table), 0x1000);
	check_equal(ssp(&h), 0x2000);
	check_equal(msr(&h, 0x6a2), 0);
	check_equal(msr(&h, 0x6a8), 0x3000);
	hv_destroy(&h);
}

/* Without the controls L2 has what L1 has, and exits save it all the same. */
static void test_without_controls(void)
{
	struct hv h;

	create_with(&h, 0, stops, (struct hv_controls){ 0 });
	hv_set(&h, F_vm_entry_controls, (uint32_t)msr(&h, 0x490) | VMENTRY_IA32E);
	hv_set(&h, F_vm_exit_controls, (uint32_t)msr(&h, 0x48f) | VMEXIT_HOST_64);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(hv_get(&h, F_guest_ssp), 0);
	check_equal(hv_get(&h, F_guest_intr_ssp_table), 0);
	check_equal(ssp(&h), 0);
	hv_destroy(&h);
}

/* One field wrong at a time. */
static void test_checks(void)
{
	static const struct { enum hv_field field; uint64_t value; uint32_t guest, host; } cases[] = {
		{ F_guest_s_cet, 0x3d, 0, 0 }, { F_guest_s_cet, 0x40, 1, 0 }, { F_guest_s_cet, 0x200, 1, 0 },
		{ F_guest_s_cet, SUPPRESS | WAIT, 1, 0 }, { F_guest_s_cet, SHSTK | SUPPRESS, 0, 0 }, { F_guest_s_cet, 1ull << 50, 1, 0 },
		{ F_guest_ssp, STACK + 1, 1, 0 }, { F_guest_ssp, STACK + 4, 0, 0 }, { F_guest_ssp, 1ull << 47, 0, 0 }, { F_guest_ssp, 1ull << 48, 1, 0 },
		{ F_guest_intr_ssp_table, 1ull << 47, 1, 0 }, { F_guest_cr0, 0x80000031, 1, 0 },
		{ F_host_s_cet, 0x3d, 0, 0 }, { F_host_s_cet, 0x80, 0, VMXERR_HOST_STATE }, { F_host_s_cet, SUPPRESS | WAIT, 0, VMXERR_HOST_STATE },
		{ F_host_s_cet, 1ull << 47, 0, VMXERR_HOST_STATE }, { F_host_ssp, 2, 0, VMXERR_HOST_STATE }, { F_host_ssp, 1ull << 47, 0, VMXERR_HOST_STATE },
		{ F_host_intr_ssp_table, 1ull << 47, 0, VMXERR_HOST_STATE }, { F_host_cr4, CR4_WITH_CET, 0, VMXERR_HOST_STATE },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;
		uint32_t reason;

		create_with(&h, 0, stops, (struct hv_controls){ 0 });
		hv_set(&h, cases[i].field, cases[i].value);
		reason = hv_run(&h);
		if (cases[i].host)
			check_that(reason == HV_FAILED && h.error == cases[i].host, "case %u: %#x, error %u", i, reason, h.error);
		else
			check_that(reason == (cases[i].guest ? EXIT_INVALID_GUEST_STATE | EXIT_ENTRY_FAILURE : EXIT_HLT), "case %u: %#x", i, reason);
		hv_destroy(&h);
	}
}

/* #CP of L2 exits with its error code, and is injected with or without one. */
static void test_control_protection(void)
{
	struct hv h;

	create_with(&h, 0, tampers, (struct hv_controls){ 0 });
	hv_set(&h, F_exception_bitmap, 1u << CP);
	check_equal(hv_run(&h), EXIT_EXCEPTION_NMI);
	check_equal(hv_get(&h, F_vm_exit_intr_info), 0x80000b00 | CP);
	check_equal(hv_get(&h, F_vm_exit_intr_error_code), 1);
	for (unsigned with = 0; with < 2; with++) {
		uint64_t gate[2] = { (HV_L2 & 0xffff) | 24ull << 16 | 0x8e00ull << 32, 0 };

		memcpy(quad(&h, GUEST_IDT + 16 * CP), gate, sizeof(gate));
		memcpy(h.g.memory + HV_L2, stops_start, 1);
		hv_set(&h, F_vm_entry_intr_info_field, 0x80000300 | CP | with << 11);
		hv_set(&h, F_vm_entry_exception_error_code, 3);
		hv_set(&h, F_guest_rsp, HV_L2_STACK);
		check_equal(hv_run(&h), EXIT_HLT);
		check_equal(hv_get(&h, F_guest_rsp), HV_L2_STACK - 40 - 8 * with);
		if (with)
			check_equal(*quad(&h, HV_L2_STACK - 48), 3);
	}
	hv_destroy(&h);
}

static void test_ept_violation(void)
{
	struct hv h;

	create_with(&h, HV_WITH_EPT, calls, (struct hv_controls){ 0 });
	quad(&h, HV_EPT_TABLE)[3] &= ~2ull;
	check_equal(hv_run(&h), EXIT_EPT_VIOLATION);
	check_equal(hv_get(&h, F_exit_qualification) & 0x21ff, 0x2000 | 0x180 | 5 << 3 | 2);
	check_equal(hv_get(&h, F_guest_linear_address), STACK + 0x7f8);
	check_equal(hv_get(&h, F_guest_ssp), STACK + 0x800);
	hv_destroy(&h);
}

/* By parameter, and by a client whose CPUID has neither feature. */
static void test_not_offered(void)
{
	for (unsigned by_client = 0; by_client < 2; by_client++) {
		struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };
		struct guest g;
		struct { struct kvm_msrs head; struct kvm_msr_entry e[4]; } m = { .head.nmsrs = 4,
			.e = { { .index = 0x480 }, { .index = 0x489 }, { .index = 0x48f }, { .index = 0x490 } } };

		params.cet = by_client;
		guest_create(&g, true);
		guest_ioctl(g.system, KVM_GET_SUPPORTED_CPUID, &c);
		for (unsigned i = 0; i < c.head.nent; i++)
			if (c.e[i].function == 7) {
				c.e[i].ecx &= ~(1u << 7);
				c.e[i].edx &= ~(1u << 20);
			}
		guest_ioctl(g.vcpu[0], KVM_SET_CPUID2, &c);
		check_equal(guest_ioctl(g.vcpu[0], KVM_GET_MSRS, &m), 4);
		check_equal(m.e[1].data >> 23 & 1, 0);
		if (!by_client) {
			check_equal(m.e[0].data >> 56 & 1, 0);
			check_equal(m.e[2].data >> 32 & VMEXIT_LOAD_CET, 0);
			check_equal(m.e[3].data >> 32 & VMENTRY_LOAD_CET, 0);
		}
		guest_destroy(&g);
	}
	params.cet = true;
}

static const struct test tests[] = {
	{ "CET state is loaded and saved", test_load_and_save },
	{ "without the controls", test_without_controls },
	{ "entry checks", test_checks },
	{ "control-protection exceptions", test_control_protection },
	{ "EPT violations", test_ept_violation },
	{ "not offered", test_not_offered },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
