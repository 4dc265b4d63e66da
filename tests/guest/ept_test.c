/* EPT beyond the basics: execute permissions by mode, what a violation tells, page sizes and levels that are or are not offered. */
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"

enum { R = 1, W = 2, X = 4, WB = 6 << 3, XU = 1 << 10, PAGE = 0x200000, CODE = 0x9000, EPTP_BITS = 3 << 3 | 6, ROOT5 = 0x54000 };
enum { LINEAR = 1 << 7, TARGET = 1 << 8, USER = 1 << 9, WRITABLE = 1 << 10, NX = 1 << 11, USER_EXEC = 1 << 6 };
enum { OK = EXIT_HLT, VIOLATION = EXIT_EPT_VIOLATION, MISCONFIG = EXIT_EPT_MISCONFIG };

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

GUEST_ASM(read, 64, "mov (%rdi), %al\n hlt");
GUEST_ASM(write, 64, "movb $0xc3, (%rdi)\n hlt");
GUEST_ASM(fetch, 64, "call *%rdi\n hlt");

/* L2 makes one access to PAGE; user: the guest's page is one of user mode. */
static void create(struct hv *h, unsigned access, bool user, bool mbec)
{
	const struct { const uint8_t *start, *end; } code[] = {
		[R] = { read_start, read_end }, [W] = { write_start, write_end }, [X] = { fetch_start, fetch_end } };

	hv_create(h, HV_WITH_EPT, (struct hv_controls){ .secondary = mbec ? SECONDARY_MBEC : 0 }, code[access].start,
	          code[access].end - code[access].start);
	hv_own_pages(h);
	if (!user)
		*quad(h, HV_PAGE_TABLE) &= ~4ull;
	if (mbec)                                /* the other pages: executable in both modes */
		for (unsigned i = 0; i < 2048; i++)
			quad(h, HV_EPT)[i] |= quad(h, HV_EPT)[i] ? XU : 0;
	h->g.memory[PAGE] = 0xc3;                /* RET */
	h->gpr[7] = PAGE;
}

static const struct { uint64_t rights; unsigned access; bool user, mbec; uint32_t reason; uint64_t qualification; } rights_cases[] = {
	{ R | W | X, X, true, false, OK, 0 },
	{ R | W, X, true, false, VIOLATION, X | (R | W) << 3 | USER | WRITABLE },
	{ R | W | XU, X, true, false, VIOLATION, X | (R | W) << 3 | USER | WRITABLE },
	{ XU, R, true, false, VIOLATION, R | USER | WRITABLE },                  /* not present */
	{ X, X, false, false, OK, 0 },
	{ X, R, false, false, VIOLATION, R | X << 3 | WRITABLE },
	{ W | X, R, false, false, MISCONFIG, 0 },
	/* by mode of the linear address */
	{ R | W | X, X, true, true, VIOLATION, X | (R | W | X) << 3 | USER | WRITABLE },
	{ R | W | XU, X, true, true, OK, 0 },
	{ R | W | X, X, false, true, OK, 0 },
	{ R | W | XU, X, false, true, VIOLATION, X | (R | W) << 3 | USER_EXEC | WRITABLE },
	{ R | XU, W, true, true, VIOLATION, W | R << 3 | USER_EXEC | USER | WRITABLE },
	{ XU, X, true, true, OK, 0 },
	{ XU, R, true, true, VIOLATION, R | USER_EXEC | USER | WRITABLE },
	{ W | XU, R, true, true, MISCONFIG, 0 },
	{ 0, R, true, true, VIOLATION, R | USER | WRITABLE },
};

static void test_rights(void)
{
	for (unsigned i = 0; i < sizeof(rights_cases) / sizeof(*rights_cases); i++) {
		struct hv h;

		create(&h, rights_cases[i].access, rights_cases[i].user, rights_cases[i].mbec);
		*quad(&h, HV_EPT_TABLE) = PAGE | WB | rights_cases[i].rights;
		if (hv_run(&h) != rights_cases[i].reason || (rights_cases[i].reason == VIOLATION &&
		    hv_get(&h, F_exit_qualification) != (rights_cases[i].qualification | LINEAR | TARGET)))
			printf("# case %u\n", i);
		check_equal(hv_get(&h, F_vm_exit_reason), rights_cases[i].reason);
		if (rights_cases[i].reason == VIOLATION)
			check_equal(hv_get(&h, F_exit_qualification), rights_cases[i].qualification | LINEAR | TARGET);
		hv_destroy(&h);
	}
}

/* The same EPT with and without the control, one after the other: translations of one do not serve the other. */
static void test_control_changes(void)
{
	struct hv h;

	create(&h, X, true, true);
	*quad(&h, HV_EPT_TABLE) = PAGE | WB | R | W | X;
	for (unsigned i = 0; i < 4; i++) {
		hv_set(&h, F_guest_rip, HV_L2);
		hv_set(&h, F_guest_rsp, HV_L2_STACK);
		hv_set(&h, F_secondary_vm_exec_control, SECONDARY_EPT | (i & 1 ? 0 : SECONDARY_MBEC));
		check_equal(hv_run(&h), i & 1 ? OK : VIOLATION);
	}
	hv_destroy(&h);
}

/* Execute-only pages not offered: a misconfiguration. */
static void test_no_execute_only(void)
{
	static const struct { uint64_t rights; bool mbec; uint32_t reason; } cases[] = {
		{ X, false, MISCONFIG }, { R | X, false, OK }, { XU, false, VIOLATION }, { XU, true, MISCONFIG }, { X, true, MISCONFIG },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_narrow(0x48c, EPT_CAP_EXEC_ONLY);
		create(&h, X, false, cases[i].mbec);
		*quad(&h, HV_EPT_TABLE) = PAGE | WB | cases[i].rights;
		check_equal(hv_run(&h), cases[i].reason);
		hv_destroy(&h);
	}
}

static void test_mbec_checks(void)
{
	for (unsigned i = 0; i < 3; i++) {
		struct hv h;

		params.mbec = i != 0;
		if (i == 1)
			hv_narrow(0x48b, (uint64_t)SECONDARY_MBEC << 32);
		create(&h, R, true, false);
		hv_set(&h, F_secondary_vm_exec_control, SECONDARY_MBEC | (i == 2 ? 0 : SECONDARY_EPT));
		check_equal(hv_error(&h), VMXERR_CONTROLS);
		hv_destroy(&h);
	}
	params.mbec = true;
}

/* ---- what a violation tells of the guest's paging ---- */

static void test_information(void)
{
	static const struct { uint64_t pte, qualification; } cases[] = {
		{ 1, 0 }, { 3, WRITABLE }, { 5, USER }, { 7, USER | WRITABLE }, { 1ull << 63 | 3, WRITABLE | NX },
	};

	for (unsigned offered = 0; offered < 3; offered++)
		for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
			struct hv h;

			params.ept_info = offered != 0;
			if (offered == 1)
				hv_narrow(0x48c, EPT_CAP_ADV_INFO);
			create(&h, R, true, false);
			hv_set(&h, F_vm_entry_controls, VMENTRY_DEFAULT1 | VMENTRY_IA32E | VMENTRY_LOAD_EFER);
			hv_set(&h, F_guest_ia32_efer, EFER_LMA | EFER_LME | EFER_NX);
			*quad(&h, HV_PAGE_TABLE) = PAGE | cases[i].pte;
			*quad(&h, HV_EPT_TABLE) = 0;
			check_equal(hv_run(&h), VIOLATION);
			check_equal(hv_get(&h, F_exit_qualification), R | LINEAR | TARGET | (offered == 2 ? cases[i].qualification : 0));
			hv_destroy(&h);
		}
	params.ept_info = true;
}

GUEST_ASM(real_read, 16, "mov $0x2000, %ax\n mov %ax, %ds\n mov 0, %al\n hlt");

/* Without paging every address is a user-mode one, and writable. In the guest's structures none of it is told. */
static void test_information_elsewhere(void)
{
	struct hv h;

	hv_create_with(&h, HV_WITH_UNRESTRICTED, real_read, (struct hv_controls){ 0 });
	hv_real(&h);
	quad(&h, HV_EPT)[1024] = (ROOT5 + 0x1000) | 7;           /* the first 2 MiB in small pages, of which one is missing */
	for (uint64_t i = 0; i < 512; i++)
		quad(&h, ROOT5 + 0x1000)[i] = i == 0x20 ? 0 : i << 12 | WB | 7;
	check_equal(hv_run(&h), VIOLATION);
	check_equal(hv_get(&h, F_guest_physical_address), 0x20000);
	check_equal(hv_get(&h, F_exit_qualification), R | LINEAR | TARGET | USER | WRITABLE);
	hv_destroy(&h);

	create(&h, R, true, false);
	quad(&h, HV_PAGES)[1024 + 1] = 0x202007;                 /* its table in a page that is missing */
	*quad(&h, HV_EPT_TABLE + 2 * 8) = 0;
	check_equal(hv_run(&h), VIOLATION);
	check_equal(hv_get(&h, F_exit_qualification), R | LINEAR);
	hv_destroy(&h);
}

/* ---- levels and page sizes ---- */

static void five_levels(struct hv *h)
{
	memset(quad(h, ROOT5), 0, 4096);
	quad(h, ROOT5)[0] = HV_EPT | 7;
	hv_set(h, F_ept_pointer, ROOT5 | 4 << 3 | 6);
}

static void test_five_levels(void)
{
	static const struct { uint64_t root; uint32_t reason; } cases[] = {
		{ HV_EPT | 7, OK }, { HV_EPT | 0x87, MISCONFIG }, { HV_EPT | 0xf, MISCONFIG }, { HV_EPT | 1ull << 51 | 7, MISCONFIG },
		{ 0, VIOLATION }, { HV_EPT | 2, MISCONFIG },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, W, true, false);
		five_levels(&h);
		quad(&h, ROOT5)[0] = cases[i].root;
		check_equal(hv_run(&h), cases[i].reason);
		hv_destroy(&h);
	}
}

static void test_five_levels_not_offered(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct hv h;

		params.ept_5level = i != 0;
		if (i == 1)
			hv_narrow(0x48c, EPT_CAP_WALK5);
		create(&h, R, true, false);
		five_levels(&h);
		check_equal(hv_error(&h), VMXERR_CONTROLS);
		hv_destroy(&h);
	}
	params.ept_5level = true;
}

static void test_page_sizes(void)
{
	static const struct { uint64_t taken; bool huge; uint32_t reason; } cases[] = {
		{ 0, false, OK }, { EPT_CAP_2M, false, MISCONFIG }, { EPT_CAP_1G, false, OK },
		{ 0, true, OK }, { EPT_CAP_2M, true, OK }, { EPT_CAP_1G, true, MISCONFIG },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		if (cases[i].taken)
			hv_narrow(0x48c, cases[i].taken);
		create(&h, R, true, false);
		if (cases[i].huge)
			quad(&h, HV_EPT)[512] = WB | 0x87;
		check_equal(hv_run(&h), cases[i].reason);
		hv_destroy(&h);
	}
}

static const struct test tests[] = {
	{ "rights, by mode of the address too", test_rights },
	{ "mode-based execute control switched on and off", test_control_changes },
	{ "execute-only pages not offered", test_no_execute_only },
	{ "mode-based execute control: entry checks", test_mbec_checks },
	{ "advanced information on violations", test_information },
	{ "advanced information without paging and in structures", test_information_elsewhere },
	{ "five levels", test_five_levels },
	{ "five levels not offered", test_five_levels_not_offered },
	{ "page sizes not offered", test_page_sizes },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
