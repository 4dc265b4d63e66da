/* The objects behind the descriptors, for the files of kvm/ only. */
#ifndef ANYKVM_VM_H
#define ANYKVM_VM_H

#include <pthread.h>
#include "cpu/cpu.h"
#include "irqchip/irqchip.h"
#include "kvm/uapi.h"
#include "mem/mem.h"
#include "vmx/vmx.h"

enum { MAX_VCPUS = 64 };

struct vcpu {
	struct vm *vm;
	struct cpu *cpu;
	struct vmx_vcpu *vmx;
	unsigned id;                     /* APIC id = KVM_CREATE_VCPU argument */
	int fd_home;                     /* our own descriptor of the memfd, for mapping */
	int stats_fd;                    /* stats.c's memfd, or -1 */
	void *stats_map;
	struct kvm_run *run;             /* page 0 of the mapping; page 1: port data */
	pthread_mutex_t lock;            /* one ioctl at a time, as the kernel's vcpu mutex */
	_Atomic uint32_t mp_state;       /* KVM_MP_STATE_* */
	_Atomic uint32_t wake;           /* futex: bumped by every kick while halted */
	_Atomic uint32_t requests;       /* REQ_* posted by other threads */
	_Atomic bool smi_queued;         /* an SMI has arrived and is not taken yet */
	_Atomic unsigned nmis_queued;    /* at most 2: one in service, so to say, and one behind it */
	bool ran;                        /* KVM_RUN was called: CPUID is frozen */
	int user_interrupt;              /* KVM_INTERRUPT vector waiting, or -1 */
	uint64_t sigmask; bool sigmask_set;
	struct { uint64_t system_time, steal_time, pv_eoi, poll_control, async_pf; } pv;
	struct { uint64_t mcg_cap, mcg_status, mcg_ctl, mcg_ext_ctl, hwcr, banks[32][4]; } mce;
	uint64_t tsc_khz;                /* rate of its TSC, and what clock pages are told of it */
	uint32_t clock_mul;
	int8_t clock_shift;
	uint64_t mtrr_deftype, mtrr_fixed[11], mtrr_var[16];
	uint64_t arch_capabilities, ucode_rev, perf_capabilities, platform_info, power_ctl;
	_Atomic uint64_t ioapic_eoi[4];  /* split irqchip: vectors whose EOI the client must hear of */

	/* The vCPU half's own. */
	_Atomic bool sleeping;           /* in futex_wait(&wake) */
	_Atomic bool signal_seen;        /* a signal waits for the end of KVM_RUN */
	_Atomic uint64_t timer_ns;       /* wake-up for nested VMX's preemption timer, CLOCK_MONOTONIC; UINT64_MAX: none */
	struct { uint64_t tsc, ns; } clock_read;         /* what time_at() of ops.c goes by */
	uint64_t cr8, apic_base;         /* without an in-kernel LAPIC */
	bool tpr_lowered;                /* ... CR8 was lowered: KVM_EXIT_SET_TPR is due */
	bool pv_enforced;                /* paravirtual MSRs and hypercalls only as CPUID offers them */
	bool machine_check_waits;        /* behind the event that is queued in cpu */
	bool init_pending, sipi_pending, triple_fault, kicked_by_hypercall, tpr_reporting, clock_stopped;
	uint8_t sipi_vector;
	uint64_t asked_rip;              /* instruction that outstanding belongs to */
	bool replay;                     /* it has its answer and must run next: nothing may be delivered before */
	uint8_t outstanding;             /* enum outstanding (vcpu.h): what the client has been asked for */
	bool host_access;                /* the client, not the guest, reads or writes MSRs now */
	uint64_t vapic_addr;
	struct mailbox {                 /* what other vCPUs did to code; see coherence.c */
		struct lock lock;
		unsigned nchanges, npages;
		bool flush_code, drop_all_writes;
		struct { const uint8_t *host; uint32_t len; } changes[32];
		const uint8_t *pages[16];    /* host pages that hold code from now on */
	} mail;
};

/* Requests: handled by the vCPU at its next poll, before it runs guest code again. */
enum { REQ_SLOTS = 1,          /* slots are changing: let go of the read lock, then flush all translations of addresses */
       REQ_CODE = 2,           /* code_queue has entries */
       REQ_DROP_WRITES = 4,    /* dirty logs were cleared: drop write entries */
       REQ_CODE_PAGE = 8,      /* a page became code elsewhere: drop write entries to vm->code_page, acknowledge */
       REQ_CLOCK = 16,         /* kvmclock must be updated */
       REQ_IOAPIC_EOI = 32,    /* vcpu->ioapic_eoi has vectors: KVM_EXIT_IOAPIC_EOI is due */
       REQ_TIMER = 64 };       /* the time of timer_set() has come */

struct kvmclock_base { uint64_t tsc, ns; uint32_t mul; int8_t shift; };

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
	uint64_t tsc_khz;                /* of vCPUs to be created */
	uint64_t enabled_caps;           /* CAP_* bits switched on by KVM_ENABLE_CAP */
	/* and what eventfd.c, clock.c, msr filter ... keep: private structs behind pointers */
	struct eventfds *eventfds;
	struct msr_filter *msr_filter;
	uint64_t manual_dirty;
	_Atomic int refs;
	uint64_t user_msr_mask;          /* KVM_MSR_EXIT_REASON_* that go to the client (KVM_CAP_X86_USER_SPACE_MSR) */
	uint64_t disabled_exits;         /* KVM_X86_DISABLE_EXITS_* */
	uint64_t disabled_quirks;        /* KVM_X86_QUIRK_* */
	bool hide_platform_info;         /* guests' reads of PLATFORM_INFO are #GP */
	uint64_t hypercall_exits;        /* KVM_CAP_EXIT_HYPERCALL: bit per hypercall number */
	unsigned max_vcpu_id;            /* KVM_CAP_MAX_VCPU_ID, or 0 */
	unsigned long nr_mmu_pages;
	struct kvmclock_base clock;
	struct lock clock_lock;
	_Atomic uint64_t wall_clock;     /* the PV MSR that all vCPUs share */
	struct tsc_sync { struct lock lock; uint64_t ns, value; uint64_t khz; int64_t offset; bool valid; } tsc_sync; /* last write of a TSC */
	struct timers *timers;           /* timers.c's */
	_Atomic bool dead;               /* an SMI found no memory at SMBASE: every ioctl is -EIO */
	_Atomic bool exclusive;          /* one vCPU wants to be, or is, the only one in the engine */
};

/* vm->enabled_caps */
enum { VM_EXCEPTION_PAYLOAD = 1, VM_TRIPLE_FAULT_EVENT = 2, VM_X2APIC_32BIT_IDS = 4, VM_X2APIC_NO_BROADCAST_QUIRK = 8,
       VM_HAS_PIT = 16, VM_BUS_LOCK_EXIT = 32, VM_NOTIFY_VMEXIT = 64 };

/* ---- descriptors and lives (objects.c) ---- */
enum object_kind { OBJECT_NONE, OBJECT_system, OBJECT_vm, OBJECT_vcpu, OBJECT_STATS };
/*
 * Makes memfd the client's descriptor of object and returns it (flags: O_CLOEXEC or 0); -errno, with memfd closed, on failure.
 * An object holds a reference on its VM until its last descriptor is closed.
 */
int object_create(enum object_kind kind, void *object, struct vm *vm, int memfd, int flags);
void vm_get(struct vm *vm);
void vm_put(struct vm *vm);                                   /* the last one frees the VM with its vCPUs */

/* ---- the vCPU half (vcpu.c, run.c) ---- */
int vcpu_create(struct vm *vm, unsigned id);                  /* descriptor or -errno; called with vm->lock held */
void vcpu_free(struct vcpu *v);
void vcpu_quirks_apply(struct vcpu *v);                       /* after vm->disabled_quirks changed */
void vcpu_kick(struct vcpu *v);                               /* poll word and wake futex; from any thread */
void vcpu_request(struct vcpu *v, uint32_t req);              /* sets the bits, then kicks */
void vcpu_post_nmi(struct vcpu *v);                           /* from any thread */
uint64_t vcpu_l1_tsc(struct vcpu *v);                         /* guest TSC of L1, now */
uint64_t tsc_ticks_to_ns(struct vcpu *v, uint64_t ticks);     /* of that TSC */

/* ---- the VM half (vm.c, irq.c, eventfd.c, msr_filter.c, clock.c) ---- */
/*
 * Stops every vCPU: announces a writer, posts req (REQ_SLOTS or REQ_DROP_WRITES), waits until all have let go of the
 * read lock. A vCPU that sees either request inside KVM_RUN clears it, does mem_read_unlock() and mem_read_lock() (which
 * waits for vm_resume()), and only then flushes its TLB (REQ_SLOTS) or drops write entries (REQ_DROP_WRITES).
 */
void vm_stop(struct vm *vm, uint32_t req);
void vm_resume(struct vm *vm);
static inline void vm_stop_the_world(struct vm *vm) { vm_stop(vm, REQ_SLOTS); }
/* All true if the write is done with, and nothing is left for the client. Callable inside KVM_RUN. */
bool ioeventfd_write(struct vm *vm, bool pio, uint64_t addr, const void *data, unsigned len);
bool coalesced_write(struct vm *vm, bool pio, uint64_t addr, const void *data, unsigned len);
/* May the guest access this MSR? false: filtered (x2APIC MSRs never are). Callable inside KVM_RUN. */
bool msr_filter_allows(struct vm *vm, uint32_t index, bool write);
/*
 * The host's TSC rate, and what it makes of TSC ticks. It is measured once, from when the client opens /dev/kvm: with a vDSO
 * clock over two or three milliseconds.
 */
void clock_opened(void);
uint64_t clock_tsc_khz(void);
uint64_t clock_tsc_to_ns(uint64_t ticks);
/* ns = ((ticks << shift) * mul) >> 32 for a clock of khz, with all the 32 bits of mul. */
void clock_scale_find(uint64_t khz, uint32_t *mul, int8_t *shift);
/* How a guest TSC of khz is made of the host's: in 2^-48, 0 if the rates are near enough. 0 or -EINVAL. (tsc.c) */
long tsc_multiplier_of(uint64_t khz, uint64_t *multiplier);
static inline uint64_t clock_host_tsc(void) { return __builtin_ia32_rdtsc(); }
/*
 * kvmclock: ns = base.ns + ((host_tsc - base.tsc) scaled by mul and shift). A guest's clock page gets
 * tsc_timestamp = its TSC at base.tsc, system_time = base.ns, and mul and shift of its TSC's rate: without scaling the same
 * numbers on all vCPUs, so that the TSC_STABLE flag holds.
 */
struct kvmclock_base clock_base(struct vm *vm);               /* a consistent copy; callable inside KVM_RUN */
uint64_t clock_kvm_ns(struct vm *vm, uint64_t host_tsc);
uint64_t clock_wall_offset_ns(struct vm *vm);                 /* CLOCK_REALTIME minus kvmclock, for the wall-clock page */

/* ---- what guests can have (supported_cpuid.c, msr_lists.c) ---- */
enum { SUPPORTED_CPUID_MAX = 64 };
/* Fills at most n entries; returns how many there are. */
unsigned supported_cpuid(struct kvm_cpuid_entry2 *e, unsigned n);
/* The vendor that the guest sees (parameter anykvm.vendor); called for the entries of KVM_SET_CPUID2. */
void cpuid_apply_vendor(struct kvm_cpuid_entry2 *e, unsigned n);
/* IA32_ARCH_CAPABILITIES, and the bits MCG_CAP may have. */
uint64_t supported_arch_capabilities(void);
uint64_t supported_mce_cap(void);
/* Value of a feature MSR for KVM_GET_MSRS on the system descriptor. 0; 2: not a feature MSR. */
int feature_msr(uint32_t index, uint64_t *value);

#endif
