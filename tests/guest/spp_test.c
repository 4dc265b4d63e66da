/* Sub-page write permissions: which parts of a read-only page may be written, and what a table that does not tell comes to. */
#include "base/base.h"
#include "hypervisor.h"

enum { TABLE = 0x50000, PAGE = 0x200000, WB = 6 << 3, R = 1, RW = 3, AD = 0x40, EPT_D = 0x200, RF = 0x10000,
       MISS = 1 << 11, SIZE = 128 };
enum { OK = EXIT_HLT, VIOLATION = EXIT_EPT_VIOLATION };
#define SPP (1ull << 61)

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

GUEST_ASM(store1, 64, "movb $1, (%rdi)\n hlt");
GUEST_ASM(store8, 64, "mov %rax, (%rdi)\n hlt");
GUEST_ASM(add8, 64, "lock addq $1, (%rdi)\n hlt");
GUEST_ASM(push8, 64, "mov %rdi, %rsp\n push %rax\n hlt");
GUEST_ASM(string, 64, "rep stosb\n hlt");
GUEST_ASM(load8, 64, "mov (%rdi), %rax\n hlt");
#define CODE(name) name##_start, name##_end

/* PAGE may be read, and written where vector says so. */
static void create(struct hv *h, uint64_t vector, const uint8_t *start, const uint8_t *end)
{
	hv_create(h, HV_WITH_EPT, (struct hv_controls){ .secondary = SECONDARY_SPP }, start, end - start);
	hv_set(h, F_sppt_pointer, TABLE);
	*quad(h, HV_EPT_TABLE) = PAGE | WB | R | SPP;
	memset(quad(h, TABLE), 0, 4 * 4096);
	*quad(h, TABLE) = (TABLE + 0x1000) | 1;
	*quad(h, TABLE + 0x1000) = (TABLE + 0x2000) | 1;
	quad(h, TABLE + 0x2000)[PAGE >> 21 & 511] = (TABLE + 0x3000) | 1;
	*quad(h, TABLE + 0x3000) = vector;
}

/* Bit 2 n of the vector is for part n. */
static void test_parts(void)
{
	static const struct { const uint8_t *start, *end; unsigned offset, count; uint64_t vector; uint32_t reason; unsigned done; } cases[] = {
		{ CODE(store1), 0, 0, 1, OK, 0 }, { CODE(store1), 127, 0, 1, OK, 0 }, { CODE(store1), 128, 0, 1, VIOLATION, 0 },
		{ CODE(store1), 128, 0, 4, OK, 0 }, { CODE(store1), 0, 0, 4, VIOLATION, 0 }, { CODE(store1), 4095, 0, 1ull << 62, OK, 0 },
		{ CODE(store1), 0, 0, 0x5555555555555554, VIOLATION, 0 },
		{ CODE(store8), 120, 0, 5, OK, 0 }, { CODE(store8), 121, 0, 5, VIOLATION, 0 },         /* across two parts: never */
		{ CODE(add8), 8, 0, 1, OK, 0 }, { CODE(add8), 124, 0, 5, VIOLATION, 0 }, { CODE(add8), 128, 0, 1, VIOLATION, 0 },
		{ CODE(push8), 128, 0, 1, OK, 0 }, { CODE(push8), 256, 0, 1, VIOLATION, 0 },
		{ CODE(string), 0, 256, 5, OK, 256 }, { CODE(string), 100, 100, 1, VIOLATION, 28 },
		{ CODE(load8), 200, 0, 0, OK, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, cases[i].vector, cases[i].start, cases[i].end);
		h.gpr[7] = PAGE + cases[i].offset;
		h.gpr[1] = cases[i].count;
		h.gpr[0] = 0xab;
		if (hv_run(&h) != cases[i].reason)
			printf("# case %u\n", i);
		check_equal(hv_get(&h, F_vm_exit_reason), cases[i].reason);
		check_equal(cases[i].count - h.gpr[1], cases[i].done);
		if (cases[i].reason == VIOLATION)
			check_equal(hv_get(&h, F_exit_qualification) & 0x1bf, 0x180 | R << 3 | (cases[i].start == add8_start ? 3 : 2));
		hv_destroy(&h);
	}
}

/* Parts that may be written next to some that may not, again and again: no translation remembers more than one part. */
GUEST_ASM(alternate, 64, "mov $100, %ecx\n 1: movb $1, (%rdi)\n movb $1, 256(%rdi)\n dec %ecx\n jnz 1b\n movb $1, 128(%rdi)\n hlt");

static void test_remembered(void)
{
	struct hv h;

	create(&h, 0x11, CODE(alternate));
	h.gpr[7] = PAGE;
	check_equal(hv_run(&h), VIOLATION);
	check_equal(hv_get(&h, F_guest_physical_address), PAGE + 128);
	check_equal(h.gpr[1], 0);
	check_equal(h.g.memory[PAGE + 128], 0);
	hv_destroy(&h);
}

static void test_table(void)
{
	/* which entry, its value; the event's qualification, or ~0 for a store that is done */
	static const struct { uint64_t at, value, qualification; } cases[] = {
		{ TABLE, 0, MISS }, { TABLE, (TABLE + 0x1000) | 2, MISS }, { TABLE, (TABLE + 0x1000) | 3, 0 },
		{ TABLE, (TABLE + 0x1000) | 0x801, 0 }, { TABLE, (TABLE + 0x1000) | 1 | 1ull << 63, 0 },
		{ TABLE, (TABLE + 0x1000) | 1 | 1ull << 51, 0 },
		{ TABLE + 0x1000, 0, MISS }, { TABLE + 0x1000, (TABLE + 0x2000) | 5, 0 },
		{ TABLE + 0x2008, 0, MISS }, { TABLE + 0x2008, (TABLE + 0x3000) | 0x81, 0 },
		{ TABLE + 0x3000, 2 | 1, 0 }, { TABLE + 0x3000, 1ull << 63 | 1, 0 }, { TABLE + 0x3000, 1, ~0ull },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, 1, CODE(store1));
		*quad(&h, cases[i].at) = cases[i].value;
		h.gpr[7] = PAGE + 5;
		check_equal(hv_run(&h), cases[i].qualification == ~0ull ? OK : EXIT_SPP);
		if (cases[i].qualification != ~0ull) {
			check_equal(hv_get(&h, F_exit_qualification), cases[i].qualification);
			check_equal(hv_get(&h, F_guest_physical_address), PAGE + 5);
			check_equal(hv_get(&h, F_guest_linear_address), PAGE + 5);
			check_equal(hv_get(&h, F_guest_rip), HV_L2);
			check_equal(hv_get(&h, F_guest_rflags) & RF, RF);
			check_equal(h.g.memory[PAGE + 5], 0);
		}
		hv_destroy(&h);
	}
}

/* Only 4 KiB pages that EPT forbids to write itself, with bit 61 set; the dirty flag is set as for any store. */
static void test_eligible(void)
{
	static const struct { uint64_t pte, table; bool control; uint32_t reason; uint64_t dirty; } cases[] = {
		{ PAGE | WB | R | SPP, 7, true, OK, EPT_D }, { PAGE | WB | R, 7, true, VIOLATION, 0 },
		{ PAGE | WB | R | SPP, 5, true, VIOLATION, 0 }, { PAGE | WB | R | SPP, 7, false, VIOLATION, 0 },
		{ PAGE | WB | RW | SPP, 7, true, OK, EPT_D }, { PAGE | WB | 4 | SPP, 7, true, VIOLATION, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, 1, CODE(store1));
		*quad(&h, HV_EPT_TABLE) = cases[i].pte;
		quad(&h, HV_EPT)[1024 + 1] = HV_EPT_TABLE | cases[i].table;
		hv_set(&h, F_ept_pointer, HV_EPT | 3 << 3 | 6 | AD);
		if (!cases[i].control)
			hv_set(&h, F_secondary_vm_exec_control, SECONDARY_EPT);
		h.gpr[7] = PAGE;
		check_equal(hv_run(&h), cases[i].reason);
		check_equal(*quad(&h, HV_EPT_TABLE) & EPT_D, cases[i].dirty);
		hv_destroy(&h);
	}
}

static void test_checks(void)
{
	static const struct { uint64_t table; uint32_t secondary, error; } cases[] = {
		{ TABLE, SECONDARY_EPT | SECONDARY_SPP, 0 }, { TABLE | 8, SECONDARY_EPT | SECONDARY_SPP, VMXERR_CONTROLS },
		{ 1ull << 52, SECONDARY_EPT | SECONDARY_SPP, VMXERR_CONTROLS }, { TABLE, SECONDARY_SPP, VMXERR_CONTROLS },
		{ TABLE | 8, SECONDARY_EPT, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		create(&h, 1, CODE(store1));
		h.gpr[7] = PAGE;
		hv_set(&h, F_sppt_pointer, cases[i].table);
		hv_set(&h, F_secondary_vm_exec_control, cases[i].secondary);
		check_equal(hv_error(&h), cases[i].error);
		hv_destroy(&h);
	}
}

static void test_not_offered(void) { hv_check_not_offered(&params.spp, SECONDARY_SPP, F_sppt_pointer, store1); }

static const struct test tests[] = {
	{ "parts of a page", test_parts },
	{ "nothing remembered for the whole page", test_remembered },
	{ "misses and misconfigurations of the table", test_table },
	{ "which pages are eligible", test_eligible },
	{ "entry checks", test_checks },
	{ "not offered", test_not_offered },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
