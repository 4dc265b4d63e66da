/* EPT violations as exceptions #VE: which become one, what the guest finds, and the entry checks. */
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"

enum { INFO = 0x50000, LIST = 0x51000, PAGE = 0x200000, EPTP_BITS = 3 << 3 | 6, HANDLER = HV_L2 + 0x100,
       VE_INFO = 0x80000314, VECTOR = 20, WB = 6 << 3 };
#define SUPPRESS (1ull << 63)

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

/* The handler of #VE is at +100h. */
GUEST_ASM(access, 64, "mov (%rdi), %rax\n mov $1, %ebx\n hlt\n .org access_start + 0x100\n mov (%rsp), %rsi\n mov %cs, %edx\n mov $2, %ebx\n hlt");
GUEST_ASM(deliver, 64, "mov %rdi, %rsp\n int $0x40\n hlt\n .org deliver_start + 0x100\n mov $2, %ebx\n hlt");

static void create(struct hv *h, unsigned options, const uint8_t *l2, size_t len)
{
	uint64_t gate[2] = { (HANDLER & 0xffff) | 24ull << 16 | 0x8e00ull << 32, 0 };

	hv_create(h, options, (struct hv_controls){ .secondary = SECONDARY_EPT_VE }, l2, len);
	hv_set(h, F_ve_info_address, INFO);
	hv_set(h, F_eptp_index, 0x1234);
	memset(quad(h, INFO), 0, 4096);
	memcpy(quad(h, GUEST_IDT + 16 * VECTOR), gate, sizeof(gate));
	h->gpr[7] = PAGE + 8;
}
#define create_with(h, name) create(h, HV_WITH_EPT, name##_start, name##_end - name##_start)

static void test_delivered(void)
{
	struct hv h;

	create_with(&h, access);
	*quad(&h, HV_EPT_TABLE) = 0;
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(h.gpr[3], 2);
	check_equal(h.gpr[6], HV_L2);                            /* a fault: RIP of the instruction; no error code */
	check_equal(*quad(&h, INFO), 0xffffffff00000000 | EXIT_EPT_VIOLATION);
	check_equal(*quad(&h, INFO + 8), 0x181 | 3 << 9);        /* one of user mode, writable: the page tables of L1's tests */
	check_equal(*quad(&h, INFO + 16), PAGE + 8);
	check_equal(*quad(&h, INFO + 24), PAGE + 8);
	check_equal(*(uint16_t *)quad(&h, INFO + 32), 0x1234);
	/* Not again until the guest says that it is done. */
	hv_set(&h, F_guest_rip, HV_L2);
	check_equal(hv_run(&h), EXIT_EPT_VIOLATION);
	*quad(&h, INFO) &= 0xffffffff;
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(h.gpr[3], 2);
	hv_destroy(&h);
}

static void test_which(void)
{
	static const struct { uint64_t pte, pde; uint32_t bitmap, reason; } cases[] = {
		{ 0, 1, 0, EXIT_HLT },
		{ SUPPRESS, 1, 0, EXIT_EPT_VIOLATION },
		{ PAGE | WB | 4, 1, 0, EXIT_HLT },
		{ PAGE | WB | 4 | SUPPRESS, 1, 0, EXIT_EPT_VIOLATION },
		{ PAGE | WB | 4, SUPPRESS | 1, 0, EXIT_HLT },            /* of an entry that refers to a table the bit is ignored */
		{ PAGE | WB | 7, 0, 0, EXIT_HLT },                       /* the entry that is not present decides */
		{ PAGE | WB | 7, SUPPRESS, 0, EXIT_EPT_VIOLATION },
		{ PAGE | WB | 2, 1, 0, EXIT_EPT_MISCONFIG },
		{ 0, 1, 1 << VECTOR, EXIT_EXCEPTION_NMI },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_with(&h, access);
		*quad(&h, HV_EPT_TABLE) = cases[i].pte;
		quad(&h, HV_EPT)[1024 + 1] = (cases[i].pde & 1 ? HV_EPT_TABLE | 7 : 0) | (cases[i].pde & SUPPRESS);
		hv_set(&h, F_exception_bitmap, cases[i].bitmap);
		if (hv_run(&h) != cases[i].reason)
			printf("# case %u\n", i);
		check_equal(hv_get(&h, F_vm_exit_reason), cases[i].reason);
		if (cases[i].bitmap)
			check_equal(hv_get(&h, F_vm_exit_intr_info), VE_INFO);
		check_equal(*quad(&h, INFO + 24), cases[i].reason == EXIT_HLT || cases[i].bitmap ? PAGE + 8 : 0);
		hv_destroy(&h);
	}
}

/* Not while an event is being delivered. */
static void test_in_delivery(void)
{
	struct hv h;

	create_with(&h, deliver);
	*quad(&h, HV_EPT_TABLE) = 0;
	h.gpr[7] = PAGE + 0x100;
	check_equal(hv_run(&h), EXIT_EPT_VIOLATION);
	check_equal(hv_get(&h, F_idt_vectoring_info_field), 0x80000440);
	check_equal(*quad(&h, INFO), 0);
	hv_destroy(&h);
}

GUEST_ASM(real_read, 16, "mov $0x2000, %ax\n mov %ax, %ds\n mov 0, %al\n hlt");

/* Nor in real mode. */
static void test_real_mode(void)
{
	struct hv h;

	create(&h, HV_WITH_UNRESTRICTED, real_read_start, real_read_end - real_read_start);
	hv_real(&h);
	quad(&h, HV_EPT)[1024] = 0x55000 | 7;
	for (uint64_t i = 0; i < 512; i++)
		quad(&h, 0x55000)[i] = i == 0x20 ? 0 : i << 12 | WB | 7;
	check_equal(hv_run(&h), EXIT_EPT_VIOLATION);
	check_equal(*quad(&h, INFO), 0);
	hv_destroy(&h);
}

GUEST_ASM(switches, 64,
	"xor %eax, %eax\n mov $7, %ecx\n vmfunc\n mov (%rdi), %rax\n hlt\n .org switches_start + 0x100\n mov $2, %ebx\n hlt");

/* VMFUNC's index is what the next #VE tells, and what the VMCS has. */
static void test_index(void)
{
	struct hv h;

	create_with(&h, switches);
	hv_set(&h, F_secondary_vm_exec_control, SECONDARY_EPT | SECONDARY_EPT_VE | SECONDARY_VMFUNC);
	hv_set(&h, F_vm_function_control, VMFUNC_EPTP_SWITCHING);
	hv_set(&h, F_eptp_list_address, LIST);
	quad(&h, LIST)[7] = HV_EPT | EPTP_BITS;
	*quad(&h, HV_EPT_TABLE) = 0;
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(h.gpr[3], 2);
	check_equal(*(uint16_t *)quad(&h, INFO + 32), 7);
	check_equal(hv_get(&h, F_eptp_index), 7);
	hv_destroy(&h);
}

static void test_checks(void)
{
	static const struct { uint64_t address; uint32_t secondary, error; } cases[] = {
		{ INFO, SECONDARY_EPT | SECONDARY_EPT_VE, 0 }, { INFO + 8, SECONDARY_EPT | SECONDARY_EPT_VE, VMXERR_CONTROLS },
		{ 1ull << 52, SECONDARY_EPT | SECONDARY_EPT_VE, VMXERR_CONTROLS }, { INFO + 8, SECONDARY_EPT, 0 },
		{ INFO, SECONDARY_EPT_VE, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create_with(&h, access);
		hv_set(&h, F_ve_info_address, cases[i].address);
		hv_set(&h, F_secondary_vm_exec_control, cases[i].secondary);
		check_equal(hv_error(&h), cases[i].error);
		hv_destroy(&h);
	}
}

static void test_not_offered(void) { hv_check_not_offered(&params.ept_ve, SECONDARY_EPT_VE, F_ve_info_address, access); }

static const struct test tests[] = {
	{ "delivered to the guest", test_delivered },
	{ "which violations are convertible", test_which },
	{ "not during event delivery", test_in_delivery },
	{ "not in real mode", test_real_mode },
	{ "EPTP index", test_index },
	{ "entry checks", test_checks },
	{ "not offered", test_not_offered },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
