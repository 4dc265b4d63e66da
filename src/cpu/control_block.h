/*
 * The control block: what the processor intercepts and how it translates
 * guest-physical addresses. vmcs01 and vmcs02 are both of this type; the
 * processor runs under exactly one and knows nothing of nesting. vmx/merge.c
 * fills vmcs02's at VM entry; vmcs01's has every control clear.
 *
 * Controls have the VMX bit positions (x86/vmx.h). Bitmaps are read where L1
 * keeps them, bit by bit, so that what is written to one counts at once.
 */
#ifndef ANYKVM_CONTROL_BLOCK_H
#define ANYKVM_CONTROL_BLOCK_H

#include "base/base.h"

struct mem_slot;

struct control_block {
	bool non_root;                   /* VMX non-root operation: unconditional exits apply */
	uint32_t pin, primary, secondary;
	uint64_t tertiary;
	uint32_t exit_controls, entry_controls;
	uint32_t exception_bitmap, pf_mask, pf_match;
	uint64_t cr0_mask, cr4_mask, cr0_shadow, cr4_shadow;
	uint32_t cr3_target_count;
	uint64_t cr3_target[4];
	uint64_t tsc_offset, tsc_multiplier;     /* offset: 0 without TSC offsetting; multiplier: 48 fraction bits; used if TSC scaling is on */
	uint64_t eptp;                           /* used if secondary has EPT */
	uint64_t ept_caps;                       /* EPT_CAP_* that the guest hypervisor is offered */
	uint64_t pml_gpa;                        /* L1-physical; the log's index is in 0..511, or the log is full */
	uint16_t pml_index;
	uint64_t sppt_gpa;                       /* sub-page permission table, L1-physical */
	uint64_t ve_info_gpa;                    /* #VE: information area, L1-physical, and what it tells of the EPTP */
	uint16_t eptp_index;
	uint64_t vm_functions, eptp_list_gpa;    /* VMFUNC: leaves that are enabled; list of EPT pointers, L1-physical */
	uint16_t vpid;                           /* TLB tag; 0 for vmcs01 and when VPID is off */
	uint64_t timer_deadline;                 /* L1 TSC at which the VMX-preemption timer runs out; UINT64_MAX: off */
	/* The virtual APIC (cpu/vapic.h). Host addresses and slots are good until slots change. */
	uint32_t tpr_threshold;
	uint64_t vapic_gpa, apic_access_gpa;     /* L1-physical; ~0 when off */
	uint8_t *vapic;                          /* host address of the virtual-APIC page, NULL when off */
	const struct mem_slot *vapic_slot;       /* NULL: no memory of L1's */
	uint64_t posted_gpa;                     /* posted-interrupt descriptor */
	uint8_t *posted;                         /* its host address; NULL: off, or no memory */
	const struct mem_slot *posted_slot;
	uint64_t eoi_exit[4];                    /* EOI-exit bitmap */
	uint64_t pid_table;                      /* PID-pointer table of IPI virtualization */
	uint16_t pid_last;                       /* its last index */
	uint8_t rvi, svi;                        /* guest interrupt status */
	bool virtual_interrupt;                  /* a pending virtual interrupt is recognized */
	/* The running instruction has written to the virtual-APIC page, here; what follows from it is due at its end. */
	struct { bool valid; uint8_t len; uint16_t offset; } apic_write;
	uint64_t xss_exit_bitmap, encls_bitmap;
	uint32_t ple_gap, ple_window;            /* PAUSE loops, TSC ticks */
	uint64_t ple_first, ple_last;            /* the loop's first PAUSE and the last one; 0: none since VM entry */
	uint32_t notify_window;                  /* TSC ticks */
	/* Host addresses of pages; valid if the control that uses them is on. */
	const uint8_t *msr_bitmap, *io_bitmap[2];        /* I/O: A, then B */
	const uint8_t *vmread_bitmap, *vmwrite_bitmap;
	uint64_t cr0_fixed_ignore;               /* CR0 bits that unrestricted guest frees (PE, PG), else 0 */
	bool in_vmx_root_or_non_root;            /* VMX operation: CR0/CR4 fixed bits apply to MOV CR */
	uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
};

#endif
