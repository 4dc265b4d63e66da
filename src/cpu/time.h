/* cpu/time -- the time-stamp counter as the files of cpu/ see it. */
#ifndef ANYKVM_CPU_TIME_H
#define ANYKVM_CPU_TIME_H

#include "cpu/cpu.h"

/* L1's TSC when the host's is host: scaled, with the vCPU's offset; the control block left out. */
uint64_t tsc_at(const struct cpu *cpu, uint64_t host);
/* The same now. */
uint64_t tsc_l1(const struct cpu *cpu);

#endif
