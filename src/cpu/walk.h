/* One page walk, for tlb.c and its test. */
#ifndef ANYKVM_WALK_H
#define ANYKVM_WALK_H

#include "cpu/cpu.h"
#include "x86/vmx.h"

enum walk_outcome { WALK_OK, WALK_PAGE_FAULT, WALK_EPT_VIOLATION, WALK_EPT_MISCONFIG };

struct walk {
	/* The question. */
	uint64_t addr;                   /* linear address */
	unsigned access;                 /* ACCESS_* */
	bool user;                       /* user-mode access: CPL 3 and not implicit */
	bool probe;                      /* change nothing: no accessed or dirty flags, no permission checks */
	bool linear;                     /* the access has a linear address (not a PDPTE load) */
	/* The answer. */
	uint64_t gpa, pa;                /* guest-physical address; the same after EPT (L1-physical) */
	unsigned rights;                 /* ACCESS_READ, WRITE, EXEC that a further access of the same kind would have */
	bool dirty;                      /* the page is marked dirty at every level: stores need no walk */
	bool global;
	bool user_page, writable_page;   /* U/S and R/W over all levels */
	uint8_t shift;                   /* log2 of the guest's page size */
	/* The failure. */
	uint32_t error;                  /* page-fault error code */
	uint64_t qualification, fault_gpa;
};

enum walk_outcome walk_linear(struct cpu *cpu, struct walk *w);
/* Guest-physical to L1-physical; the identity without EPT. structure: w's own paging structures, not its target. */
enum walk_outcome walk_physical(struct cpu *cpu, struct walk *w, uint64_t gpa, unsigned access, bool structure, uint64_t *pa);
/* Turns a failed walk into the guest's page fault or a VM exit. */
_Noreturn void walk_fail(struct cpu *cpu, const struct walk *w, enum walk_outcome outcome);

static inline bool walk_has_ept(const struct cpu *cpu) { return cpu->ctl->secondary & SECONDARY_EPT; }

#endif
