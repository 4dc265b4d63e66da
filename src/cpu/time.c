/*
 * Time and entropy: RDTSC, RDTSCP, RDPMC, RDPID, RDRAND, RDSEED.
 */
#include "cpu/access.h"
#include "cpu/rules.h"
#include "cpu/time.h"
#include "x86/features.h"
#include "x86/vmx.h"

uint64_t tsc_at(const struct cpu *cpu, uint64_t host)
{
	if (cpu->tsc_multiplier)
		host = (unsigned __int128)host * cpu->tsc_multiplier >> 48;
	return host + (uint64_t)cpu->tsc_offset;
}

uint64_t tsc_l1(const struct cpu *cpu)
{
	return tsc_at(cpu, __builtin_ia32_rdtsc());
}

uint64_t cpu_tsc(struct cpu *cpu)
{
	const struct control_block *ctl = cpu->ctl;
	uint64_t tsc = tsc_l1(cpu);

	if (!ctl->non_root || !(ctl->primary & PRIMARY_TSC_OFFSETTING))
		return tsc;
	if ((ctl->primary & PRIMARY_SECONDARY) && (ctl->secondary & SECONDARY_TSC_SCALING))
		tsc = (unsigned __int128)tsc * ctl->tsc_multiplier >> 48;
	return tsc + ctl->tsc_offset;
}

static void check_tsd(struct cpu *cpu)
{
	if ((cpu->cr4 & CR4_TSD) && cpu->cpl > 0)
		cpu_raise_gp(cpu);
}

/*
 * The VMX-preemption timer is a clock tick late when another thread must wake
 * this one; a guest that reads the time must not see it pass its deadline.
 */
static void check_deadline(struct cpu *cpu)
{
	if (!cpu_in_guest(cpu) || tsc_l1(cpu) < cpu->ctl->timer_deadline)
		return;
	atomic_fetch_or(&cpu->poll, POLL_EVENT);
	cpu_leave(cpu, CPU_EXIT_NONE);
}

static void return_tsc(struct cpu *cpu)
{
	uint64_t tsc = cpu_tsc(cpu);

	check_deadline(cpu);

	cpu->gpr[REG_RAX] = (uint32_t)tsc;
	cpu->gpr[REG_RDX] = tsc >> 32;
}

/* In non-root operation "enable RDTSCP" brings RDTSCP and RDPID. */
static bool rdtscp_enabled(const struct cpu *cpu)
{
	const struct control_block *ctl = cpu->ctl;

	return !ctl->non_root || ((ctl->primary & PRIMARY_SECONDARY) && (ctl->secondary & SECONDARY_RDTSCP));
}

void rule_rdtsc(struct cpu *cpu, const struct insn *insn)
{
	check_tsd(cpu);
	intercept_primary(cpu, PRIMARY_RDTSC, EXIT_RDTSC);
	return_tsc(cpu);
}

void rule_rdtscp(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu_has(cpu, FEATURE_RDTSCP) || !rdtscp_enabled(cpu))
		cpu_raise_ud(cpu);
	check_tsd(cpu);
	intercept_primary(cpu, PRIMARY_RDTSC, EXIT_RDTSCP);
	return_tsc(cpu);
	cpu->gpr[REG_RCX] = (uint32_t)cpu->msr.tsc_aux;
}

void rule_rdpid(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu_has(cpu, FEATURE_RDPID) || !rdtscp_enabled(cpu))
		cpu_raise_ud(cpu);
	reg_set(cpu, insn->rm, cpu_code64(cpu) ? 8 : 4, false, cpu->msr.tsc_aux);
}

/* CPUID offers no performance counters, so every index is out of range. */
void rule_rdpmc(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->cpl > 0 && !(cpu->cr4 & CR4_PCE))
		cpu_raise_gp(cpu);
	intercept_primary(cpu, PRIMARY_RDPMC, EXIT_RDPMC);
	cpu_raise_gp(cpu);
}

static bool host_rdrand(uint64_t *value)
{
	bool ok;

	__asm__ volatile("rdrand %0" : "=r"(*value), "=@ccc"(ok));
	return ok;
}

static bool host_rdseed(uint64_t *value)
{
	bool ok;

	__asm__ volatile("rdseed %0" : "=r"(*value), "=@ccc"(ok));
	return ok;
}

void rule_rdrand(struct cpu *cpu, const struct insn *insn)
{
	bool seed = insn->mnemonic == ZYDIS_MNEMONIC_RDSEED;
	uint64_t value = 0;
	bool ok;

	if (!cpu_has(cpu, seed ? FEATURE_RDSEED : FEATURE_RDRAND))
		cpu_raise_ud(cpu);
	if (cpu_in_guest(cpu)) {
		cpu->vmexit.insn_info = intercept_insn_info(cpu, insn);
		intercept_secondary(cpu, seed ? SECONDARY_RDSEED : SECONDARY_RDRAND, seed ? EXIT_RDSEED : EXIT_RDRAND);
	}
	ok = seed ? host_rdseed(&value) : host_rdrand(&value);
	reg_set(cpu, insn->rm, insn->opsize, insn->rex, ok ? value : 0);
	cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_ARITH) | (ok ? RFLAGS_CF : 0);
}
