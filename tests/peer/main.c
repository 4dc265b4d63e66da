/* The fuzzer's life in the guest: reads what to run from the disk, runs the cases, writes the report. */
#include "fuzz.h"

static uint8_t vmxon_region[4096] __attribute__((aligned(4096))), vmcs_region[4096] __attribute__((aligned(4096)));
union config config;
struct peer_report *const report = (void *)REPORT;

/* ---- chance ---- */

static uint64_t chance_state;

uint64_t chance(void)                    /* splitmix64 */
{
	uint64_t z = chance_state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* ---- the cases ---- */

void case_enter(struct peer_case *c, bool *launched, uint64_t rip_flips, uint64_t gpr[16])
{
	bool exited = vm_enter(*launched, rip_flips, gpr);

	machine_restore();
	c->verdict = exited ? field(F_vm_exit_reason) : PEER_VMFAIL + field(F_vm_instruction_error);
	bool entered = exited && !(c->verdict & EXIT_ENTRY_FAILURE);
	*launched |= entered;
	if (exited) {
		c->qualification = qualification();
		c->hash = hash_of_state(entered);
	}
	if (config.c.verbose)
		dump_state(entered);
}

static void run_case(uint32_t index, struct peer_case *c, bool *launched)
{
	static void (*const kinds[])(struct peer_case *, bool *) = { [PEER_ENTRY] = entry_case, [PEER_INTERCEPT] = intercept_case };

	chance_state = (uint64_t)config.c.seed << 32 ^ (uint64_t)index * 0x2545f4914f6cdd1d;
	*c = (struct peer_case){ .index = index };
	kinds[config.c.kind](c, launched);
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
	for (unsigned i = 0; i <= VMFUNC_MSR; i++)
		report->caps[i] = caps[i] = i < VMFUNC_MSR || (caps[SECONDARY_MSR] >> 32 & SECONDARY_VMFUNC) ? rdmsr(0x480 + i) : 0;
	report->caps[ECX1_CAP] = caps[ECX1_CAP] = cpuid(1).ecx;
	report->caps[EBX7_CAP] = caps[EBX7_CAP] = cpuid(7).ebx;
	for (unsigned i = 0; i < CAPS; i++)
		peer_caps[i] = config.c.peer_caps[BASIC_MSR] ? config.c.peer_caps[i] : caps[i];
	*(uint32_t *)vmxon_region = *(uint32_t *)vmcs_region = (uint32_t)caps[BASIC_MSR] & 0x7fffffff;
	if (!vmx_on(vmxon_region) || !vmclear(vmcs_region) || !vmptrld(vmcs_region))
		died(1000, 0, 0);
	for (unsigned i = 0; i < encodings_count; i++) {
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
