/*
 * A guest hypervisor and its L2 (hypervisor.h) that go on in a new process
 * after each instruction of L2: all that the KVM API tells of the machine is
 * saved, the process executes itself anew, and a new VM is made of it over the
 * same memory. What is seen at each instruction boundary of L2 and at each VM
 * exit is written down, and must be what an undisturbed run sees.
 */
#ifndef ANYKVM_TESTS_SWEEP_H
#define ANYKVM_TESTS_SWEEP_H

#include "hypervisor.h"

struct sweep_case {
	const char *name;
	void (*create)(struct hv *h);            /* hv_create() and what is to be set before the first VM entry */
	/* After a VM exit: what is to be set before the next VM entry; false: that was the last one. NULL: sweep_next. */
	bool (*next)(struct hv *h, uint32_t reason);
	unsigned moves;                          /* at most; 0: no limit but that of all cases */
	uint32_t ignore;                         /* registers that hold times, bits in the order of struct kvm_regs */
	bool steps_differ;                       /* single steps by the client change what the guest sees */
};

/* Goes past an instruction that exited, goes on after what is no instruction's; ends at VMCALL, a fault or a failed VM entry. */
bool sweep_next(struct hv *h, uint32_t reason);
/* main(): runs all cases. Prints TAP. */
int sweep_run(const struct sweep_case *cases, unsigned n, int argc, char **argv);

#endif
