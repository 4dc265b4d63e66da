/* What string instructions and port I/O need to know of accesses that devices answer. */
#ifndef ANYKVM_MMIO_H
#define ANYKVM_MMIO_H

#include "cpu/access.h"

/* The log of answers is for this run of this instruction: otherwise forgets it. */
static inline void io_sync(struct cpu *cpu)
{
	if (cpu->io.rip != cpu->rip)
		cpu->io.nreads = cpu->io.answered = 0;
	if (!cpu->io.nreads)
		cpu->io.next = 0;
	cpu->io.rip = cpu->rip;
}

/* One element of a repeated instruction is complete: its answers are used up. */
static inline void io_element_done(struct cpu *cpu)
{
	cpu->io.nreads = cpu->io.next = 0;
}

#endif
