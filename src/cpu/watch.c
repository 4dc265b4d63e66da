/*
 * cpu/watch -- data and I/O breakpoints. Hits are collected in pending_debug
 * and become #DB (or an exit to the client's debugger) after the instruction.
 */
#include "cpu/watch.h"

static void watch_hit(struct cpu *cpu, uint64_t addr, unsigned size, unsigned types)
{
	uint64_t dr7 = watch_dr7(cpu);

	for (unsigned i = 0; i < 4; i++) {
		unsigned len = watch_len(dr7, i);
		uint64_t at = watch_dr(cpu, i) & ~(uint64_t)(len - 1);

		if (!watch_enabled(dr7, i) || !(types & BIT(watch_type(dr7, i))))
			continue;
		if (at < addr + size && addr < at + len)
			cpu->pending_debug |= BIT(i);
	}
}

void watch_data(struct cpu *cpu, uint64_t addr, unsigned size, unsigned access)
{
	watch_hit(cpu, addr, size, BIT(WATCH_ACCESS) | (access & ACCESS_WRITE ? BIT(WATCH_WRITE) : 0));
}

void watch_port(struct cpu *cpu, uint16_t port, unsigned size)
{
	if (cpu->cr4 & CR4_DE)
		watch_hit(cpu, port, size, BIT(WATCH_IO));
}
