/* Page-modification logging: what is logged, when the log is full, what a saved L2 carries, and the entry checks. */
#include "base/base.h"
#include "hypervisor.h"

enum { LOG = 0x50000, FULL = 512, EPT_A = 0x100, EPT_D = 0x200, AD = 0x40, RF = 0x10000 };

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }
static uint64_t *pte(struct hv *h, unsigned page) { return quad(h, HV_EPT_TABLE) + page; }

static void create(struct hv *h, unsigned index, const uint8_t *l2, size_t len)
{
	hv_create(h, HV_WITH_EPT, (struct hv_controls){ .secondary = SECONDARY_PML }, l2, len);
	hv_set(h, F_ept_pointer, HV_EPT | 3 << 3 | 6 | AD);
	hv_set(h, F_pml_address, LOG);
	hv_set(h, F_guest_pml_index, index);
	/* Only the small pages are clean. */
	quad(h, HV_EPT)[0] |= EPT_A;
	quad(h, HV_EPT)[512] |= EPT_A;
	for (unsigned i = 0; i < 512; i++)
		quad(h, HV_EPT)[1024 + i] |= EPT_A | (i == 1 ? 0 : EPT_D);
	memset(quad(h, LOG), 0x55, 4096);
}
#define create_with(h, index, name) create(h, index, name##_start, name##_end - name##_start)

GUEST_ASM(writes, 64,
	"movb $1, 0x200000\n movb $1, 0x201fff\n mov 0x202000, %al\n movb $1, 0x200008\n lock incl 0x203010\n"
	"mov $0x204000, %edi\n mov $0x2000, %ecx\n rep stosb\n hlt");

static void test_log(void)
{
	static const uint64_t expected[] = { 0x200000, 0x201000, 0x203000, 0x204000, 0x205000 };
	enum { COUNT = sizeof(expected) / sizeof(*expected) };
	struct hv h;

	create_with(&h, 511, writes);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(hv_get(&h, F_guest_pml_index), 511 - COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		check_equal(quad(&h, LOG)[511 - i], expected[i]);
	check_equal(quad(&h, LOG)[511 - COUNT], 0x5555555555555555);
	check_equal(*pte(&h, 0) & (EPT_A | EPT_D), EPT_A | EPT_D);
	check_equal(*pte(&h, 2) & (EPT_A | EPT_D), EPT_A);
	/* Dirty already: not again. */
	hv_set(&h, F_guest_rip, HV_L2);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(hv_get(&h, F_guest_pml_index), 511 - COUNT);
	hv_destroy(&h);
}

GUEST_ASM(two, 64, "movb $1, 0x200000\n movb $2, 0x201000\n hlt");

/* The second write finds no room: nothing is marked, L2 is at the instruction, and goes on once L1 has made room. */
static void test_full(void)
{
	struct hv h;

	create_with(&h, 0, two);
	check_equal(hv_run(&h), EXIT_PML_FULL);
	check_equal(hv_get(&h, F_guest_pml_index), 0xffff);
	check_equal(hv_get(&h, F_guest_rip), HV_L2 + 8);
	check_equal(hv_get(&h, F_guest_rflags) & RF, RF);
	check_equal(hv_get(&h, F_exit_qualification), 0);
	check_equal(hv_get(&h, F_idt_vectoring_info_field) >> 31, 0);
	check_equal(quad(&h, LOG)[0], 0x200000);
	check_equal(*pte(&h, 1) & (EPT_A | EPT_D), 0);
	check_equal(h.g.memory[0x201000], 0);
	hv_set(&h, F_guest_pml_index, 511);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(quad(&h, LOG)[511], 0x201000);
	check_equal(h.g.memory[0x201000], 2);
	hv_destroy(&h);
}

GUEST_ASM(reads, 64, "mov 0x200000, %al\n hlt");

/* A full log stops accesses that would set an accessed flag, too; not those that set none. */
static void test_full_read(void)
{
	static const struct { unsigned index; uint64_t flags; uint32_t reason; } cases[] = {
		{ FULL, 0, EXIT_PML_FULL }, { 0xffff, 0, EXIT_PML_FULL }, { FULL, EPT_A, EXIT_HLT }, { 0, 0, EXIT_HLT },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_with(&h, cases[i].index, reads);
		*pte(&h, 0) |= cases[i].flags;
		check_equal(hv_run(&h), cases[i].reason);
		check_equal(hv_get(&h, F_guest_pml_index), cases[i].index);
		check_equal(*pte(&h, 0) & EPT_D, 0);
		hv_destroy(&h);
	}
}

GUEST_ASM(push, 64, "int $0x40\n hlt");

/* During the delivery of an event the exit tells which. */
static void test_full_in_delivery(void)
{
	struct hv h;

	create_with(&h, FULL, push);
	hv_set(&h, F_guest_rsp, 0x201000);
	check_equal(hv_run(&h), EXIT_PML_FULL);
	check_equal(hv_get(&h, F_idt_vectoring_info_field), 0x80000440);
	check_equal(hv_get(&h, F_guest_rip), HV_L2);
	hv_destroy(&h);
}

/* With accessed and dirty flags the guest's own paging structures count as written when they are read. */
static void test_structures(void)
{
	struct hv h;

	create_with(&h, 511, two);
	hv_own_pages(&h);
	quad(&h, HV_EPT)[1024] &= ~(uint64_t)EPT_D;              /* the first 2 MiB, where HV_PAGES is */
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(quad(&h, LOG)[511], HV_PAGES);
	check_equal(quad(&h, LOG)[510], 0x200000);
	check_equal(quad(&h, LOG)[509], 0x201000);
	check_equal(hv_get(&h, F_guest_pml_index), 508);
	hv_destroy(&h);
}

/* Without accessed and dirty flags there is nothing to log; without the control neither. */
static void test_not_logged(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct hv h;

		create_with(&h, FULL, two);
		if (i)
			hv_set(&h, F_secondary_vm_exec_control, SECONDARY_EPT);
		else
			hv_set(&h, F_ept_pointer, HV_EPT | 3 << 3 | 6);
		check_equal(hv_run(&h), EXIT_HLT);
		check_equal(hv_get(&h, F_guest_pml_index), FULL);
		check_equal(quad(&h, LOG)[0], 0x5555555555555555);
		hv_destroy(&h);
	}
}

GUEST_ASM(asks, 64, "movb $1, 0x200000\n out %al, $0x10\n movb $2, 0x201000\n hlt");

/* A client that saves L2 in between finds the index in the VMCS, and L2 goes on with it. */
static void test_saved(void)
{
	static union { struct kvm_nested_state s; uint8_t bytes[128 + 8192]; } state;
	struct hv h;

	create_with(&h, 511, asks);
	check_equal(hv_run(&h), HV_FAILED);                      /* its port is the client's */
	check_equal(h.g.run[0]->io.port, 0x10);
	state.s.size = sizeof(state);
	guest_ioctl(h.g.vcpu[0], KVM_GET_NESTED_STATE, &state.s);
	check_equal(*(uint16_t *)(state.s.data.vmx[0].vmcs12 + 996), 510);
	*(uint16_t *)(state.s.data.vmx[0].vmcs12 + 996) = 100;
	guest_ioctl(h.g.vcpu[0], KVM_SET_NESTED_STATE, &state.s);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0xe2);
	check_equal(hv_get(&h, F_guest_pml_index), 99);
	check_equal(quad(&h, LOG)[100], 0x201000);
	hv_destroy(&h);
}

static void test_checks(void)
{
	static const struct { uint64_t address; uint32_t secondary, error; } cases[] = {
		{ LOG, SECONDARY_EPT | SECONDARY_PML, 0 },
		{ LOG + 8, SECONDARY_EPT | SECONDARY_PML, VMXERR_CONTROLS },
		{ 1ull << 52, SECONDARY_EPT | SECONDARY_PML, VMXERR_CONTROLS },
		{ LOG, SECONDARY_PML, VMXERR_CONTROLS },
		{ LOG + 8, SECONDARY_EPT, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_with(&h, 511, two);
		hv_set(&h, F_pml_address, cases[i].address);
		hv_set(&h, F_secondary_vm_exec_control, cases[i].secondary);
		check_equal(hv_error(&h), cases[i].error);
		hv_destroy(&h);
	}
}

/* By its parameter, by the parameter of the flags it needs, by the client's capability MSRs. */
static void test_not_offered(void)
{
	for (unsigned i = 0; i < 4; i++) {
		struct hv h;

		params.pml = i != 0;
		params.ept_ad = i != 1;
		if (i == 2)
			hv_narrow(0x48b, (uint64_t)SECONDARY_PML << 32);
		if (i == 3)
			hv_narrow(0x48c, EPT_CAP_AD);
		hv_create_with(&h, HV_WITH_EPT, two, (struct hv_controls){ 0 });
		hv_check_refused(&h, SECONDARY_EPT | SECONDARY_PML, F_pml_address);
		hv_destroy(&h);
	}
	params.pml = params.ept_ad = true;
}

static const struct test tests[] = {
	{ "pages that become dirty are logged once", test_log },
	{ "the log is full", test_full },
	{ "a full log and accessed flags", test_full_read },
	{ "a full log during event delivery", test_full_in_delivery },
	{ "the guest's own paging structures", test_structures },
	{ "nothing logged without the control or the flags", test_not_logged },
	{ "saved and restored", test_saved },
	{ "entry checks", test_checks },
	{ "not offered", test_not_offered },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
