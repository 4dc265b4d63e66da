/*
 * L2's translations: guests of each number of levels over EPT of four and five,
 * and what must not be stale: after INVEPT and INVVPID of each type, when an
 * EPT pointer or a VPID is used again, when large pages become small ones.
 */
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"

enum { ROOT5 = 0x54000, TABLE = 0x56000, OTHER_EPT = 0x58000, PAGE = 0x200000, OTHER = 0x300000, WB = 6 << 3, RWX = 7, LARGE = 0x80, P = 7,
       EPTP_BITS = 3 << 3 | 6, VPID = 5 };

GUEST_ASM(read, 64, "mov (%rdi), %rax\n vmcall\n mov (%rdi), %rax\n vmcall");
GUEST_ASM(read32, 32, "mov (%edi), %eax\n vmcall");

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }
static uint32_t *word(struct hv *h, uint64_t gpa) { return (uint32_t *)(h->g.memory + gpa); }

/* ---- levels ---- */

/* 32-bit L2 with paging of two levels or PAE: 2 MiB and more one to one, what lies at PAGE mapped to OTHER if it is of small pages. */
static void two_levels(struct hv *h, bool large)
{
	hv_set(h, F_guest_cr3, TABLE);
	hv_set(h, F_guest_cr4, 0x2010);
	memset(quad(h, TABLE), 0, 0x2000);
	word(h, TABLE)[0] = large ? LARGE | P : (TABLE + 0x1000) | P;
	for (unsigned i = 0; i < 1024; i++)
		word(h, TABLE + 0x1000)[i] = (i == PAGE >> 12 ? OTHER : i << 12) | P;
}

static void pae(struct hv *h, bool large)
{
	static const enum hv_field pdptr[] = { F_guest_pdptr0, F_guest_pdptr1, F_guest_pdptr2, F_guest_pdptr3 };

	hv_pae(h);
	hv_set(h, F_guest_cr4, 0x2020);
	for (unsigned i = 0; i < 4; i++)
		hv_set(h, pdptr[i], quad(h, HV_PAE)[i]);
	if (large)
		return;
	quad(h, HV_PAE)[512 + 1] = TABLE | P;
	for (unsigned i = 0; i < 512; i++)
		quad(h, TABLE)[i] = (PAGE + (i << 12)) | P;
	quad(h, TABLE)[0] = OTHER | P;
}

static void four_levels(struct hv *h, bool large)
{
	hv_own_pages(h);
	if (large)
		quad(h, HV_PAGES + 0x2000)[1] = PAGE | LARGE | P;
	else
		quad(h, HV_PAGE_TABLE)[0] = OTHER | P;
}

static void flat32(struct hv *h)
{
	hv_set(h, F_vm_entry_controls, VMENTRY_DEFAULT1);
	hv_set(h, F_guest_cs_ar_bytes, 0xc09b);
}

static void test_levels(void)
{
	static const struct { const char *name; void (*tables)(struct hv *h, bool large); bool wide; } guests[] = {
		{ "two levels", two_levels, false }, { "PAE", pae, false }, { "four levels", four_levels, true },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(guests) * 8; i++) {
		bool large = i & 1, five = i & 2, vpid = i & 4, wide = guests[i / 8].wide;
		unsigned before = failures;
		struct hv h;

		hv_create(&h, HV_WITH_EPT, (struct hv_controls){ .secondary = vpid ? SECONDARY_VPID : 0 }, wide ? read_start : read32_start,
		          wide ? read_end - read_start : read32_end - read32_start);
		if (!wide)
			flat32(&h);
		guests[i / 8].tables(&h, large);
		hv_set(&h, F_virtual_processor_id, VPID);
		quad(&h, ROOT5)[0] = HV_EPT | RWX;
		if (five)
			hv_set(&h, F_ept_pointer, ROOT5 | 4 << 3 | 6);
		*quad(&h, PAGE) = 1;
		*quad(&h, OTHER) = 2;
		h.gpr[7] = PAGE;
		check_equal(hv_run(&h), EXIT_VMCALL);
		check_equal(h.gpr[0], large ? 1 : 2);
		if (failures != before)
			printf("# %s, large %d, EPT of %d levels, VPID %d\n", guests[i / 8].name, large, 4 + five, vpid);
		hv_destroy(&h);
	}
}

/* ---- what must not be stale ---- */

static void ept_remap(struct hv *h) { quad(h, HV_EPT_TABLE)[0] = OTHER | WB | RWX; }
static void ept_split(struct hv *h) { quad(h, HV_EPT + 0x2000)[1] = HV_EPT_TABLE | RWX; }
static void ept_join(struct hv *h) { quad(h, HV_EPT + 0x2000)[1] = PAGE | WB | LARGE | RWX; }
static void own_remap(struct hv *h) { quad(h, HV_PAGE_TABLE)[0] = OTHER | P; }
static void own_split(struct hv *h) { quad(h, HV_PAGES + 0x2000)[1] = HV_PAGE_TABLE | P; }
static void own_join(struct hv *h) { quad(h, HV_PAGES + 0x2000)[1] = PAGE | LARGE | P; }

static void small_other(struct hv *h)
{
	ept_remap(h);
	ept_join(h);
}

static void own_small_other(struct hv *h)
{
	own_remap(h);
	own_join(h);
}

/* The same place for tables of another guest. */
static void ept_refill(struct hv *h)
{
	memset(quad(h, HV_EPT), 0, 0x4000);
	quad(h, HV_EPT)[0] = (HV_EPT + 0x1000) | RWX;
	quad(h, HV_EPT)[512] = (HV_EPT + 0x2000) | RWX;
	for (uint64_t i = 0; i < 512; i++)
		quad(h, HV_EPT)[1024 + i] = i << 21 | WB | LARGE | RWX;
	quad(h, HV_EPT)[1024 + 1] = HV_EPT_TABLE | RWX;
	for (uint64_t i = 0; i < 512; i++)
		quad(h, HV_EPT)[1536 + i] = (OTHER + (i << 12)) | WB | RWX;
}

static void new_eptp(struct hv *h)
{
	memcpy(quad(h, OTHER_EPT), quad(h, HV_EPT), 0x4000);
	quad(h, OTHER_EPT)[0] = (OTHER_EPT + 0x1000) | RWX;
	quad(h, OTHER_EPT)[512] = (OTHER_EPT + 0x2000) | RWX;
	quad(h, OTHER_EPT)[1024 + 1] = (OTHER_EPT + 0x3000) | RWX;
	quad(h, OTHER_EPT)[1536] = OTHER | WB | RWX;
	hv_set(h, F_ept_pointer, OTHER_EPT | EPTP_BITS);
}

static void new_vpid(struct hv *h)
{
	own_remap(h);
	hv_set(h, F_virtual_processor_id, VPID + 1);
}

static void no_vpid(struct hv *h)
{
	own_remap(h);
	hv_set(h, F_secondary_vm_exec_control, hv_get(h, F_secondary_vm_exec_control) & ~SECONDARY_VPID);
}

static void invept_single(struct hv *h) { hv_invalidate(h, false, 1, HV_EPT | EPTP_BITS, 0); }
static void invept_all(struct hv *h) { hv_invalidate(h, false, 2, 0, 0); }
static void invvpid_address(struct hv *h) { hv_invalidate(h, true, 0, VPID, PAGE); }
static void invvpid_single(struct hv *h) { hv_invalidate(h, true, 1, VPID, 0); }
static void invvpid_all(struct hv *h) { hv_invalidate(h, true, 2, 0, 0); }
static void invvpid_but_global(struct hv *h) { hv_invalidate(h, true, 3, VPID, 0); }

/* L2 has read 1 at PAGE; L1 changes something and invalidates; L2 reads 2. before: prepares the first reading. */
static void test_not_stale(void)
{
	static const struct { const char *name; void (*before)(struct hv *h), (*change)(struct hv *h), (*invalidate)(struct hv *h); } cases[] = {
		{ "EPT entry, INVEPT", NULL, ept_remap, invept_single },
		{ "EPT entry, INVEPT of all", NULL, ept_remap, invept_all },
		{ "EPT: a large page becomes small ones", small_other, ept_split, invept_single },
		{ "EPT tables of another guest in the same place", NULL, ept_refill, invept_single },
		{ "another EPT pointer", NULL, new_eptp, NULL },
		{ "page table, INVVPID of the address", NULL, own_remap, invvpid_address },
		{ "page table, INVVPID of the VPID", NULL, own_remap, invvpid_single },
		{ "page table, INVVPID of all", NULL, own_remap, invvpid_all },
		{ "page table, INVVPID but for global pages", NULL, own_remap, invvpid_but_global },
		{ "a large page becomes small ones, INVVPID", own_small_other, own_split, invvpid_address },
		{ "another VPID", NULL, new_vpid, NULL },
		{ "no VPID", NULL, no_vpid, NULL },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned before = failures;
		struct hv h;

		hv_create_with(&h, HV_WITH_EPT, read, (struct hv_controls){ .secondary = SECONDARY_VPID });
		hv_own_pages(&h);
		hv_set(&h, F_virtual_processor_id, VPID);
		*quad(&h, PAGE) = 1;
		*quad(&h, OTHER) = 2;
		h.gpr[7] = PAGE;
		if (cases[i].before)
			cases[i].before(&h);
		check_equal(hv_run(&h), EXIT_VMCALL);
		check_equal(h.gpr[0], 1);
		cases[i].change(&h);
		if (cases[i].invalidate)
			cases[i].invalidate(&h);
		check_equal(hv_skip(&h), EXIT_VMCALL);
		check_equal(h.gpr[0], 2);
		if (failures != before)
			printf("# %s\n", cases[i].name);
		hv_destroy(&h);
	}
}

/* There and back, and small pages into a large one: the old translation is right again. */
static void test_back(void)
{
	struct hv h;

	hv_create_with(&h, HV_WITH_EPT, read, (struct hv_controls){ .secondary = SECONDARY_VPID });
	hv_own_pages(&h);
	hv_set(&h, F_virtual_processor_id, VPID);
	*quad(&h, PAGE) = 1;
	*quad(&h, OTHER) = 2;
	h.gpr[7] = PAGE;
	for (unsigned i = 0; i < 6; i++) {
		if (i & 1)
			new_eptp(&h);
		else
			hv_set(&h, F_ept_pointer, HV_EPT | EPTP_BITS);
		hv_set(&h, F_guest_rip, HV_L2);
		check_equal(hv_run(&h), EXIT_VMCALL);
		check_equal(h.gpr[0], i & 1 ? 2 : 1);
	}
	hv_set(&h, F_ept_pointer, HV_EPT | EPTP_BITS);
	for (unsigned i = 0; i < 6; i++) {
		if (i & 1)
			ept_join(&h);
		else
			small_other(&h), ept_split(&h);
		invept_single(&h);
		hv_set(&h, F_guest_rip, HV_L2);
		check_equal(hv_run(&h), EXIT_VMCALL);
		check_equal(h.gpr[0], i & 1 ? 1 : 2);
	}
	hv_destroy(&h);
}

static const struct test tests[] = {
	{ "guests of two to four levels over EPT of four and five", test_levels },
	{ "translations after INVEPT, INVVPID, with other tags, of other sizes", test_not_stale },
	{ "EPT pointers and page sizes that come back", test_back },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
