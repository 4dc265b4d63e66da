/* One page walk, for tlb.c and its test. */
#ifndef ANYKVM_WALK_H
#define ANYKVM_WALK_H

#include "cpu/cpu.h"
#include "x86/vmx.h"

enum walk_outcome { WALK_OK, WALK_PAGE_FAULT, WALK_EPT_VIOLATION, WALK_EPT_MISCONFIG, WALK_PML_FULL, WALK_SPP,
                    WALK_APIC_ACCESS /* by guest-physical address */ };

struct walk {
	/* The question. */
	uint64_t addr;                   /* linear address */
	unsigned access;                 /* ACCESS_* */
	unsigned size;                   /* bytes, within a page */
	bool user;                       /* user-mode access: CPL 3 and not implicit */
	bool probe;                      /* change nothing: no accessed or dirty flags, no permission checks */
	bool linear;                     /* the access has a linear address (not a PDPTE load) */
	bool whole;                      /* from the root: what is remembered of other walks has led to a failure */
	/* The answer. */
	uint64_t gpa, pa;                /* guest-physical address; the same after EPT (L1-physical) */
	unsigned rights;                 /* ACCESS_READ, WRITE, EXEC that a further access of the same kind would have */
	bool dirty;                      /* the page is marked dirty at every level: stores need no walk */
	bool global;
	bool user_page, writable_page;   /* U/S and R/W over all levels; both without paging */
	bool sub_page;                   /* a write that only the sub-page table allows */
	bool nx_page;                    /* XD at some level */
	uint8_t shift;                   /* log2 of the guest's page size */
	/* The failure. */
	uint32_t error;                  /* page-fault error code */
	uint64_t qualification, fault_gpa;
	bool convertible;                /* an EPT violation that may become a #VE */
	enum walk_outcome second;        /* what EPT made of an access to the guest's structures */
};

enum walk_outcome walk_linear(struct cpu *cpu, struct walk *w);
/* Guest-physical to L1-physical; the identity without EPT. structure: w's own paging structures, not its target. */
enum walk_outcome walk_physical(struct cpu *cpu, struct walk *w, uint64_t gpa, unsigned access, bool structure, uint64_t *pa);
/* What is wrong with an EPT pointer, by the capabilities caps (EPT_CAP_*); NULL: VM entry takes it. */
static inline const char *eptp_fault(uint64_t caps, unsigned maxphyaddr, uint64_t eptp)
{
	unsigned memory_type = eptp & 7, levels = (eptp >> 3 & 7) + 1;

	if (!(memory_type == 0 && (caps & EPT_CAP_UC)) && !(memory_type == 6 && (caps & EPT_CAP_WB)))
		return "memory type";
	if (!(levels == 4 && (caps & EPT_CAP_WALK4)) && !(levels == 5 && (caps & EPT_CAP_WALK5)))
		return "page-walk length";
	if ((eptp & 0x40) && !(caps & EPT_CAP_AD))
		return "accessed and dirty flags";
	return (eptp & 0xf80) || eptp >> maxphyaddr ? "reserved bits" : NULL;
}

/* Turns a failed walk into the guest's page fault, #VE or a VM exit. */
_Noreturn void walk_fail(struct cpu *cpu, const struct walk *w, enum walk_outcome outcome);

/* The physical address lies on the page whose accesses are virtualized. */
static inline bool walk_is_apic_access(const struct cpu *cpu, uint64_t pa)
{
	return (cpu->ctl->secondary & SECONDARY_APIC_ACCESSES) && (pa ^ cpu->ctl->apic_access_gpa) >> 12 == 0;
}
static inline bool walk_has_ept(const struct cpu *cpu) { return cpu->ctl->secondary & SECONDARY_EPT; }

#endif
