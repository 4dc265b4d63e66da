/* The objects behind the descriptors, for the files of kvm/ only. */
#ifndef ANYKVM_VM_H
#define ANYKVM_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include "cpu/cpu.h"
#include "irqchip/irqchip.h"
#include "mem/mem.h"
#include "vmx/vmx.h"

enum { MAX_VCPUS = 64 };

struct vcpu {
	struct vm *vm;
	struct cpu *cpu;
	struct vmx_vcpu *vmx;
	unsigned id;                     /* APIC id = KVM_CREATE_VCPU argument */
	int fd_home;                     /* our own descriptor of the memfd, for mapping */
	struct kvm_run *run;             /* page 0 of the mapping; page 1: port data */
	pthread_mutex_t lock;            /* one ioctl at a time, as the kernel's vcpu mutex */
	_Atomic uint32_t mp_state;       /* KVM_MP_STATE_* */
	_Atomic uint32_t wake;           /* futex: bumped by every kick while halted */
	_Atomic uint32_t requests;       /* REQ_* posted by other threads */
	_Atomic bool nmi_queued, smi_queued;
	bool ran;                        /* KVM_RUN was called: CPUID is frozen */
	int user_interrupt;              /* KVM_INTERRUPT vector waiting, or -1 */
	uint64_t sigmask; bool sigmask_set;
	struct { uint64_t system_time, wall_clock, steal_time, pv_eoi, poll_control, async_pf; } pv;
	struct { uint64_t mcg_cap, mcg_status, mcg_ctl, banks[32][4]; } mce;
	uint64_t mtrr_deftype, mtrr_fixed[11], mtrr_var[16];
	uint64_t arch_capabilities, ucode_rev, perf_capabilities;
};

/* Requests: handled by the vCPU at its next poll, before it runs guest code again. */
enum { REQ_SLOTS = 1,          /* slots are changing: let go of the read lock, then flush all translations of addresses */
       REQ_CODE = 2,           /* code_queue has entries */
       REQ_DROP_WRITES = 4,    /* dirty logs were cleared: drop write entries */
       REQ_CODE_PAGE = 8,      /* a page became code elsewhere: drop write entries to vm->code_page, acknowledge */
       REQ_CLOCK = 16 };       /* kvmclock must be updated */

struct vm {
	struct mem *mem;
	struct irqchip *irqchip;
	struct vcpu *vcpus[MAX_VCPUS];   /* by order of creation; see nvcpus */
	_Atomic unsigned nvcpus;
	struct vcpu *by_id[256];
	pthread_mutex_t lock;
	uint32_t bsp_id;
	uint8_t *coalesced;              /* struct kvm_coalesced_mmio_ring page */
	int coalesced_fd;
	uint64_t tsc_khz;
	uint64_t kvmclock_offset;        /* ns added to CLOCK_MONOTONIC */
	uint64_t enabled_caps;           /* CAP_* bits switched on by KVM_ENABLE_CAP */
	/* and what eventfd.c, clock.c, msr filter ... keep: private structs behind pointers */
	struct eventfds *eventfds;
	struct msr_filter *msr_filter;
	uint64_t manual_dirty;
	_Atomic int refs;
};

#endif
