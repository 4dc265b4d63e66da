/*
 * Near-valid VMCSs: from a state that passes VM entry, one to three things are
 * changed, VM entry is tried, and what came of it goes to the disk. L2 executes
 * nothing: its preemption timer starts at 0, so that a VM entry that succeeds
 * ends after event delivery. Case n depends on the seed and n only.
 */
#include "state.h"

static uint8_t vmxon_region[4096] __attribute__((aligned(4096))), vmcs_region[4096] __attribute__((aligned(4096)));
static union { struct peer_config c; uint8_t sector[512]; } config;
static struct peer_report *const report = (void *)REPORT;

enum { AR_UNUSABLE = 0x10000, RFLAGS_RF = 0x10000 };

static const uint32_t encodings[] = {
#define VMCS_FIELD(encoding, ...) encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};

/* ---- chance ---- */

static uint64_t chance;

static uint64_t next(void)               /* splitmix64 */
{
	uint64_t z = chance += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* ---- what is compared ---- */

static uint64_t field(uint32_t f)
{
	uint64_t v = 0;

	vmread(f, &v);
	return v;
}

/* What the manual leaves undefined is read as 0. */
static uint64_t defined_value(uint32_t f)
{
	uint64_t v = field(f), info;

	switch (f) {
	case F_vm_exit_intr_error_code:
		info = field(F_vm_exit_intr_info);
		return (info & INTR_INFO_VALID) && (info & INTR_INFO_HAS_ERROR) ? v : 0;
	case F_vm_exit_intr_info:
	case F_idt_vectoring_info_field:
		return v & INTR_INFO_VALID ? v : 0;
	case F_idt_vectoring_error_code:
		info = field(F_idt_vectoring_info_field);
		return (info & INTR_INFO_VALID) && (info & INTR_INFO_HAS_ERROR) ? v : 0;
	}
	return v;
}

/* Which segment register's base, limit or access rights a field is; -1: something else. */
static int segment_of(uint32_t f)
{
	static const uint32_t first[] = { F_guest_es_base, F_guest_es_limit, F_guest_es_ar_bytes };

	for (unsigned i = 0; i < ARRAY_SIZE(first); i++)
		if (f >= first[i] && f < first[i] + 16)
			return (f - first[i]) / 2;
	return -1;
}

_Static_assert(ARRAY_SIZE(encodings) <= FIELDS_MAX, "the report has room for each field");

static bool compared(unsigned i, bool entered)
{
	uint32_t f = encodings[i];

	if (!(report->present[i / 64] & config.c.peer_present[i / 64] & 1ull << i % 64))
		return false;
	if (f == F_vm_exit_instruction_len || f == F_vmx_instruction_info || f == F_guest_linear_address || f == F_guest_physical_address)
		return false;                    /* not defined for most exits */
	if (f == F_vm_instruction_error)
		return false;                    /* in the verdict, and else it keeps its history */
	if ((f >> 10 & 3) == 1)
		return entered;                  /* an entry that failed says only why */
	return (f >> 10 & 3) == 2 || f == F_vm_entry_intr_info_field || f == F_vm_entry_controls;
}

/* A VM exit saves of an unusable segment register that it is unusable; the rest is not defined. */
static uint64_t value_of(uint32_t f, bool entered)
{
	int seg = segment_of(f);

	if (f == F_guest_rflags && entered && field(F_vm_exit_reason) != EXIT_PREEMPTION_TIMER)
		return field(f) & ~RFLAGS_RF;    /* Bochs 2.7 does not set it for faults */
	if (f == F_guest_cs_ar_bytes && !(field(F_guest_cr0) & 1))
		return 0;                        /* it changes the type of CS in real mode */
	if (entered && seg >= 0 && (field(F_guest_es_ar_bytes + 2 * seg) & AR_UNUSABLE))
		return AR_UNUSABLE;
	return defined_value(f);
}

static uint64_t hash_of_state(bool entered)
{
	uint64_t h = 0xcbf29ce484222325;

	for (unsigned i = 0; i < ARRAY_SIZE(encodings); i++)
		if (compared(i, entered))
			h = (h ^ value_of(encodings[i], entered)) * 0x100000001b3 ^ h >> 31;
	return h;
}

static void dump(bool entered)
{
	for (unsigned i = 0; i < ARRAY_SIZE(encodings); i++)
		if (compared(i, entered))
			report->values[i] = value_of(encodings[i], entered);
}

/* ---- the cases ---- */

static void run_case(uint32_t index, struct peer_case *c, bool *launched)
{
	uint64_t rip_flips = 0;

	chance = (uint64_t)config.c.seed << 32 ^ (uint64_t)index * 0x2545f4914f6cdd1d;
	*c = (struct peer_case){ .index = index, .shape = next() % SHAPES, .mutations = 1 + (next() % 8 > 3) + (next() % 8 > 6) };
	state_base(c->shape);
	for (unsigned i = 0; i < c->mutations; i++) {
		struct mutation m;
		state_mutate(next, &m, &rip_flips);
		c->mutation[i].field = m.field, c->mutation[i].how = m.how, c->mutation[i].value = m.value;
	}
	bool exited = vm_enter(*launched, rip_flips);
	machine_restore();
	c->verdict = exited ? field(F_vm_exit_reason) : PEER_VMFAIL + field(F_vm_instruction_error);
	bool entered = exited && !(c->verdict & EXIT_ENTRY_FAILURE);
	*launched |= entered;
	if (exited) {
		c->qualification = field(F_exit_qualification);
		c->hash = hash_of_state(entered);
	}
	if (config.c.verbose)
		dump(entered);
}

static void finish(void) __attribute__((noreturn));
static void finish(void)
{
	report->magic = PEER_MAGIC;
	disk_write(REPORT_LBA, (sizeof(*report) + report->cases * sizeof(struct peer_case) + 511) / 512, report);
	power_off();
}

void died(uint32_t vector, uint64_t rip, uint64_t cr2)
{
	report->exception = vector;
	report->rip = rip;
	report->cr2 = cr2;
	finish();
}

static void vmx_start(void)
{
	if (!(rdmsr(0x3a) & 1))
		wrmsr(0x3a, 5);
	for (unsigned i = 0; i < CAPS; i++)
		report->caps[i] = caps[i] = i < VMFUNC_MSR || (caps[SECONDARY_MSR] >> 32 & SECONDARY_VMFUNC) ? rdmsr(0x480 + i) : 0;
	for (unsigned i = 0; i < CAPS; i++)
		peer_caps[i] = config.c.peer_caps[BASIC_MSR] ? config.c.peer_caps[i] : caps[i];
	*(uint32_t *)vmxon_region = *(uint32_t *)vmcs_region = (uint32_t)caps[BASIC_MSR] & 0x7fffffff;
	if (!vmx_on(vmxon_region) || !vmclear(vmcs_region) || !vmptrld(vmcs_region))
		died(1000, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(encodings); i++) {
		uint64_t v;
		if (vmread(encodings[i], &v))
			report->present[i / 64] |= 1ull << i % 64;
	}
}

void start(void) __attribute__((section(".start"), used, noreturn));
void start(void)
{
	bool launched = false;

	memset(report, 0, sizeof(*report));
	report->exception = ~0u;
	machine_init();
	disk_read(CONFIG_LBA, 1, &config);
	vmx_start();
	state_init();
	for (uint32_t i = 0; i < config.c.count; i++) {
		report->cases = i + 1;
		run_case(config.c.first + i, &report->list[i], &launched);
	}
	finish();
}
