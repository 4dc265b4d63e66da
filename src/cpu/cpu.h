/*
 * cpu/ -- the software processor's state and the architecture's rules.
 *
 * One struct cpu per vCPU. Generated code (xlat/) addresses it through the
 * host's stack pointer, so it lies at the top of a private stack. While
 * generated code runs, guest RAX..R12 (less RSP) and the arithmetic flags
 * live in the host's registers; whenever C code runs, all of it is stored
 * here: rip is the instruction being executed, its effects not yet visible.
 *
 * How a rule (a C function that executes one instruction) ends:
 *   return            done; next_rip says where to go on (preset: after the instruction)
 *   cpu_raise*()      an exception of the guest; never returns, state as before the instruction
 *   cpu_vmexit()      a VM exit under the current control block; never returns
 *   cpu_leave()       KVM_RUN's loop is needed (port, HLT, ...); never returns
 * A rule must not hold a lock when it calls one of the last three.
 */
#ifndef ANYKVM_CPU_H
#define ANYKVM_CPU_H

#include "base/base.h"
#include "base/stats.h"
#include "cpu/control_block.h"
#include "cpu/flags.h"
#include "mem/mem.h"
#include "x86/decode.h"

struct segment {
	uint64_t base;
	uint32_t limit;                  /* bytes, granularity already applied */
	uint16_t selector;
	uint8_t type;                    /* 4-bit type; s, dpl, ... as KVM's struct kvm_segment */
	uint8_t s, dpl, present, avl, l, db, g, unusable;
};

struct descriptor_table { uint64_t base; uint16_t limit; };

/* An event being, or about to be, delivered through the IDT. */
enum event_type { EVENT_EXT_INTERRUPT = 0, EVENT_NMI = 2, EVENT_HW_EXCEPTION = 3, EVENT_SW_INTERRUPT = 4,
                  EVENT_PRIV_SW_EXCEPTION = 5 /* INT1 */, EVENT_SW_EXCEPTION = 6 /* INT3, INTO */ };  /* VMX's numbers */
struct event {
	bool valid, has_error;
	uint8_t type;                    /* enum event_type */
	uint8_t vector;
	uint8_t insn_len;                /* of INT n, INT3, INTO, INT1 */
	bool has_payload;                /* payload: CR2 of #PF, DR6 bits of #DB, to be loaded on delivery */
	bool injected;                   /* by VM entry or by the client: skip the exception bitmap */
	uint32_t error;
	uint64_t payload;
};

/* One VM exit, as the exit-information fields of a VMCS name it. */
struct vmexit {
	uint32_t reason;                 /* basic reason, with bit 31 for entry failures */
	uint64_t qualification;
	uint32_t intr_info, intr_error;  /* VM-exit interruption information */
	uint32_t idt_info, idt_error;    /* IDT-vectoring information */
	uint32_t insn_len, insn_info;
	uint64_t gla, gpa;               /* guest-linear and guest-physical address */
};

/* Why the engine came back to KVM_RUN's loop. */
enum cpu_exit {
	CPU_EXIT_NONE,                   /* poll word: look for requests, events, signals */
	CPU_EXIT_VMEXIT,                 /* cpu->vmexit under cpu->ctl */
	CPU_EXIT_PIO,                    /* cpu->io holds a port access for the client */
	CPU_EXIT_MMIO,                   /* cpu->io holds an MMIO read for the client; or queued writes are pending */
	CPU_EXIT_HLT,                    /* activity is HLT; rip past the instruction */
	CPU_EXIT_SHUTDOWN,               /* triple fault, not intercepted */
	CPU_EXIT_MSR,                    /* cpu->msr_exit: RDMSR/WRMSR for the client */
	CPU_EXIT_DEBUG,                  /* KVM_SET_GUEST_DEBUG hit: cpu->debug_exit */
	CPU_EXIT_HYPERCALL,              /* VMCALL/VMMCALL in L1: rip still at the instruction */
	CPU_EXIT_VMX_INSN,               /* a VMX instruction in root operation or outside VMX: cpu->cur_insn */
	CPU_EXIT_RSM,                    /* RSM in SMM: rip still at the instruction */
	CPU_EXIT_EFAULT,                 /* the client's memory is gone (cpu->internal text says where) */
	CPU_EXIT_INTERNAL_ERROR,         /* our bug: cpu->internal */
};

enum activity { ACTIVITY_ACTIVE, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_WAIT_SIPI };  /* VMX's numbers */

/* Bits of cpu->poll. Any bit makes translated code leave at the next block head. */
enum { POLL_KICK = 1, POLL_EVENT = 2, POLL_WINDOW = 4, POLL_CODE = 8, POLL_FLUSH = 16, POLL_MMIO = 32, POLL_LEAVE = 64 /* no more than that */ };

/* Bits of cpu->shadow: VMX's interruptibility state. */
enum { SHADOW_STI = 1, SHADOW_MOV_SS = 2, SHADOW_SMI = 4, SHADOW_NMI = 8 };

/*
 * Replay of accesses that the client (or an in-kernel device) answers: reads
 * leave KVM_RUN at the instruction's start, which is run again with the answer.
 */
struct io_read { uint64_t addr; uint8_t data[8]; uint8_t len; bool done; };
struct cpu_io {
	uint64_t rip;                    /* instruction that the log belongs to */
	unsigned nreads, next;           /* answered reads; next one to consume in this run of the instruction */
	struct io_read reads[16];        /* a 64-byte MMIO load crossing pages at most */
	/*
	 * The access that is waiting for the client (CPU_EXIT_PIO, CPU_EXIT_MMIO). kvm/ answers it before the instruction
	 * runs again: pending is cleared, an MMIO read is appended to reads[] as done, and a port access gets answered = true,
	 * data[] then holding count * len bytes for IN and INS; the rule that uses it clears it.
	 */
	bool pending, is_write, is_pio, answered;
	uint64_t addr;                   /* guest-physical address or port */
	unsigned len, count;             /* bytes of one item; items (string I/O) */
	uint8_t data[4096];              /* port data, count * len bytes */
	/* MMIO writes of a finished instruction, to be handed to the client one by one. */
	unsigned nwrites, wnext;
	struct { uint64_t addr; uint8_t data[8]; uint8_t len; } writes[80];
};

struct cpu;

/* Upcalls: what the processor asks of the floors above. Filled in by kvm/ at creation. Never NULL. */
struct cpu_ops {
	/* Devices in the library (LAPIC, I/O APIC, ioeventfd, coalesced MMIO, PIT, PIC). true: done; false: the client's. */
	bool (*mmio_read)(struct cpu *cpu, uint64_t gpa, void *data, unsigned len);
	bool (*mmio_write)(struct cpu *cpu, uint64_t gpa, const void *data, unsigned len);
	bool (*pio_read)(struct cpu *cpu, uint16_t port, void *data, unsigned len);
	bool (*pio_write)(struct cpu *cpu, uint16_t port, const void *data, unsigned len);
	/* MSRs that are not the processor's own (APIC base, x2APIC, TSC deadline, KVM's, VMX capabilities, MTRR ...).
	 * 0 fine; 1 #GP; 2 unknown MSR. */
	int (*msr_read)(struct cpu *cpu, uint32_t index, uint64_t *value);
	int (*msr_write)(struct cpu *cpu, uint32_t index, uint64_t value);
	/* The guest has moved its TSC, by WRMSR or an MSR list: what goes by it is to follow. */
	void (*tsc_moved)(struct cpu *cpu, int64_t by);
	uint64_t (*cr8_read)(struct cpu *cpu);
	void (*cr8_write)(struct cpu *cpu, uint64_t value);          /* value 0..15 */
	/* Tells the other vCPUs that bytes [host, host+len) of a page with translated code were just changed. */
	void (*code_changed)(struct cpu *cpu, const uint8_t *host, unsigned len);
	/* A page is about to get its first translation: make the other vCPUs give up write entries to it; waits for them. */
	void (*code_page_new)(struct cpu *cpu, const uint8_t *host_page);
	/*
	 * Stands in for the bus lock: between the two no other vCPU runs guest code. exclusive_begin() may let others go
	 * first, so the caller holds no host address; it sets cpu->exclusive, and exclusive_end() clears it.
	 */
	void (*exclusive_begin)(struct cpu *cpu);
	void (*exclusive_end)(struct cpu *cpu);
	/* VMREAD or VMWRITE (cpu->cur_insn), all checks of mode and privilege made: as a rule, without leaving. */
	void (*vmcs_access)(struct cpu *cpu);
	/*
	 * The processor's own use of its local APIC in APIC virtualization: an EOI (false: there is no local APIC in the
	 * library), and a fixed IPI to an APIC id in the form of a posted-interrupt descriptor's NDST.
	 */
	bool (*apic_eoi)(struct cpu *cpu);
	void (*send_ipi)(struct cpu *cpu, uint8_t vector, uint32_t destination);
	/* MSR filter of the client: true when the access must go to the client. */
	bool (*msr_filtered)(struct cpu *cpu, uint32_t index, bool write);
};

#include "cpu/tlb.h"

/* Pages that translated code remembers (xlat/loop.c, xlat/window.c): linear address, and what is added to get the host address. */
enum { CPU_LANES = 8192, LANE_NONE = 0, LANE_STACK_READ, LANE_STACK_WRITE, LANES_FIXED, STACK_LANES = 2 };
struct lane { uint64_t tag, value; };

struct cpu {
	/* --- what generated code touches; offsets below 128 encode in one byte --- */
	uint64_t gpr[16];
	uint64_t rip, next_rip;
	_Atomic uint32_t poll;
	uint32_t shadow;                 /* SHADOW_*: blocking by STI, MOV SS, NMI */
	uint64_t rflags;                 /* whole register whenever C code runs */
	struct tlb_entry *tlb;           /* current context's entries */
	uint64_t tlb_mask;               /* (entries - 1) * sizeof(struct tlb_entry) */
	uint64_t tlb_key;                /* another one whenever tlb is, or when anything was taken out of it */
	void **jump_cache;               /* current context's and mode's */
	uint64_t spill[9];               /* the translator's */
	uint64_t slow_addr, branch_rip, slow_result;     /* branch_rip: of the last indirect branch, or 0 */
	uint64_t window[2];              /* the translator's window registers while C code runs */
	struct mem_code **tlb_code;      /* current context's: what is known of the page of each entry */
	uint64_t code_tag;               /* TLB_CODE_TAG */
	struct segment seg[SEG_COUNT];
	uint8_t bounce[2][128] __attribute__((aligned(64)));
	uint64_t exit_id;
	uint64_t fpu_ip, fpu_dp;         /* guest addresses of the last x87 instruction and operand */
	uint16_t fpu_op;                 /* its opcode (11 bits) */

	/* --- processor state --- */
	uint32_t mode;                   /* enum mode_bits, kept by cpu_mode_update() */
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0, xss;
	uint64_t dr[4], dr6, dr7;
	uint64_t pdptr[4];
	struct descriptor_table gdtr, idtr;
	uint8_t cpl;                     /* SS.DPL; 0 in real mode, 3 in virtual-8086 mode */
	uint8_t activity;                /* enum activity */
	bool nmi_blocked;                /* outside VMX's virtual NMIs: by NMI delivery until IRET */
	bool in_smm;                     /* mem is then the address space of system management mode (cpu/smm.h) */
	bool smi_in_nmi;                 /* the SMI came while NMIs were blocked: they will be after RSM */
	uint64_t pending_debug;          /* DR6 bits of #DB traps that wait for the instruction boundary */
	struct msrs {
		uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
		uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
		uint64_t pat, misc_enable, debugctl, spec_ctrl, smbase, smi_count;
		uint64_t perf_global_ctrl, feature_control, tsc_adjust, umwait_control;
	} msr;
	struct { uint64_t ssp, u_cet, s_cet, pl_ssp[4], ssp_table; } cet;        /* cpu/cet.h */
	uint32_t tsc_inline;             /* RDTSC as things are: may not fault nor exit, and knows offsets only. cpu_mode_update() keeps it */
	/* Guest TSC = host TSC * tsc_multiplier / 2^48 + tsc_offset, before ctl's own; multiplier 0: not scaled. */
	uint64_t tsc_multiplier;
	int64_t tsc_offset;
	uint32_t maxphyaddr;             /* 36..48, from guest CPUID; default 36 */
	uint64_t reserved_pa;            /* physical-address bits that must be zero, from maxphyaddr */
	struct cpuid_entry { uint32_t leaf, subleaf, flags, eax, ebx, ecx, edx; } cpuid[256];
	unsigned cpuid_count;
	bool hypercall_faults;           /* VMMCALL of a guest that is not AMD's, and VMCALL of one that is, are #UD; else hypercalls, too */
	bool mwait_faults;               /* MONITOR and MWAIT without their CPUID feature are #UD; else they do nothing */
	bool mwait_switch;               /* IA32_MISC_ENABLE switches that feature on and off */
	uint64_t features[8];            /* guest CPUID features as bits FEATURE_* (x86/features.h) */

	/* --- events --- */
	struct event event;              /* to be delivered at the next instruction boundary */
	struct event delivering;         /* being delivered: a fault now is nested (double fault, IDT-vectoring info) */
	uint32_t want;                   /* WANT_*: kvm/ waits for a window */

	/* --- control block: what is intercepted, second-level translation --- */
	struct control_block *ctl;       /* vmcs01's or vmcs02's; never NULL */
	struct vmexit vmexit;

	/* --- leaving --- */
	void *unwind[5];                 /* __builtin_setjmp buffer of the engine's loop */
	const struct insn *cur_insn;     /* instruction of the rule that runs */
	uint32_t leave_why;              /* enum cpu_exit that unwound; CPU_EXIT_NONE: an exception was raised, cpu->event holds it */
	bool tf_at_start, rf_at_start;   /* RFLAGS.TF and RF when the instruction began (cpu_debug_fetch notes them) */
	bool bus_locked;                 /* the last instruction took a bus lock that the control block wants to know of */
	bool events_chained;             /* event came of a fault in the delivery of the one before: no instruction in between */
	uint64_t chain_start;            /* host TSC when the first of them was taken up */
	bool iret_unblocked_nmi;         /* the IRET that runs has ended NMI blocking: a fault's VM exit reports it */
	uint32_t msr_exit_reasons;       /* KVM_MSR_EXIT_REASON_* that the client asked for */
	struct cpu_io io;
	/* Operands between access_begin() and access_commit(). host: guest RAM, or NULL: bounced. */
	struct access_open { uint64_t addr, gpa; uint8_t *host; const struct mem_slot *slot; unsigned size, access; } open[2];
	struct { uint32_t index; bool write; uint64_t data; uint32_t reason; bool answered, error; } msr_exit;
	struct { uint32_t exception; uint64_t pc, dr6, dr7; } debug_exit;
	struct { char text[256]; } internal;
	uint32_t guest_debug;            /* KVM_GUESTDBG_* control of the client, or of KVM_RUN's own step: GUEST_DEBUG_OWN */
	uint64_t guest_debug_dr[4], guest_debug_dr7;

	/* --- x87 and vector state (cpu/fpu.h) --- */
	bool fpu_live;                   /* guest's state is in the host's registers, not in xsave */
	uint32_t host_mxcsr;             /* the client thread's own, while fpu_live */
	uint16_t host_fcw;
	uint8_t *xsave;                  /* host's standard XSAVE format, 64-byte aligned, fpu_xsave_size() bytes */

	/* --- owners --- */
	struct mem *mem;
	const struct cpu_ops *ops;
	void *owner;                     /* struct vcpu of kvm/ */
	struct engine *engine;           /* xlat/'s */
	struct tlb_set *tlbs;            /* cpu/tlb.c's */
	struct stats *stats;             /* never NULL */
	unsigned index;                  /* APIC id */
	_Atomic bool running;            /* inside the engine: may hold TLB entries in use */
	bool exclusive;                  /* no other vCPU runs: a locked instruction crosses pages */

	struct lane lane[CPU_LANES];     /* the translator's (xlat/loop.c) */
};

/* In guest_debug: the step is not the client's, and the guest's own traps stay due. */
#define GUEST_DEBUG_OWN (1u << 31)

enum { WANT_INTR = 1, WANT_NMI = 2, WANT_SMI = 4 };

/*
 * The mode word: everything that the translation of the same bytes depends on.
 * Part of every block's key.
 */
enum mode_bits {
	MODE_CODE16 = 0, MODE_CODE32 = 1, MODE_CODE64 = 2, MODE_CODE_MASK = 3,
	MODE_STACK32 = 1 << 2,           /* SS.B; in 64-bit code both clear: stack is 64 */
	MODE_FLAT = 1 << 3,              /* CS, DS, ES, SS: base 0, limit 4G, writable/readable, usable (or 64-bit code) */
	MODE_CPL3 = 1 << 4,              /* CPL is 3 */
	MODE_CPL0 = 1 << 5,
	MODE_NO_X87 = 1 << 6,            /* CR0.EM or CR0.TS: x87/MMX instructions fault */
	MODE_NO_SSE = 1 << 7,            /* CR0.EM, CR0.TS or !CR4.OSFXSR */
	MODE_NO_AVX = 1 << 8,            /* !CR4.OSXSAVE or XCR0 lacks AVX or CR0.TS */
	MODE_STEP = 1 << 9,              /* RFLAGS.TF, DR7 breakpoints or the client's single step: one instruction a block */
	MODE_VM86 = 1 << 10,
	MODE_PROTECTED = 1 << 11,        /* CR0.PE and not virtual-8086 */
	MODE_LMA = 1 << 12,
	MODE_ALIGN = 1 << 13,            /* CR0.AM, RFLAGS.AC and CPL 3: alignment checked -> careful translations */
	MODE_INTERCEPT = 1 << 14,        /* control block intercepts PAUSE, RDTSC, RDRAND ...: those go to their rules */
	MODE_WATCH = 1 << 15,            /* DR7 has data breakpoints: careful translations */
	MODE_NO_WAIT = 1 << 16,          /* CR0.MP and CR0.TS: WAIT faults */
	MODE_BUS_LOCK = 1 << 17,         /* bus locks exit: careful translations */
	MODE_SHSTK = 1 << 18,            /* the CPL has a shadow stack: CALL and RET go to their rules */
	MODE_IBT = 1 << 19,              /* the CPL's indirect branches are tracked: they go to their rules */
	MODE_TRACK = 1 << 20,            /* an ENDBRANCH is due: the engine looks at the next instruction first */
};

static inline void cpu_count(struct cpu *cpu, enum stat_id what) { cpu->stats->level[cpu->ctl->non_root][what]++; }

/* ---- life (cpu/state.c) ---- */
/* Lies at the top of a private stack, zeroed, in reset state. NULL: no memory. */
struct cpu *cpu_new(struct mem *mem, const struct cpu_ops *ops, void *owner, unsigned index);
void cpu_free(struct cpu *cpu);
/* Register state after RESET (init: after INIT, which keeps x87/SSE state, CR0.CD/NW, most MSRs and TSC). */
void cpu_reset(struct cpu *cpu, bool init);
/* Recomputes mode and the TLB context. To be called after any change of CS, SS, DS, ES, CR0, CR3, CR4, EFER, XCR0,
 * DR7, CPL, RFLAGS.TF/VM/AC, IA32_U_CET, IA32_S_CET, or ctl. */
void cpu_mode_update(struct cpu *cpu);
/* Sets RFLAGS with its side effects (mode word, interrupt window). Reserved bits are fixed up. */
void cpu_set_rflags(struct cpu *cpu, uint64_t rflags);
/* Loads CPUID-derived state after cpuid[] changed: features, maxphyaddr. */
void cpu_cpuid_update(struct cpu *cpu);
/* Interrupts (NMIs) can be taken at this boundary, control block aside. */
bool cpu_interrupt_allowed(const struct cpu *cpu);
bool cpu_nmi_allowed(const struct cpu *cpu);

/* ---- leaving a rule (cpu/event.c) ---- */
_Noreturn void cpu_raise(struct cpu *cpu, unsigned vector);                       /* no error code: #UD, #DE, #NM, #MF ... */
_Noreturn void cpu_raise_error(struct cpu *cpu, unsigned vector, uint32_t error); /* #GP, #SS, #TS, #NP, #AC */
_Noreturn void cpu_raise_page_fault(struct cpu *cpu, uint64_t addr, uint32_t error);
_Noreturn void cpu_raise_event(struct cpu *cpu, struct event ev);
static inline _Noreturn void cpu_raise_gp(struct cpu *cpu) { cpu_raise_error(cpu, 13, 0); }
static inline _Noreturn void cpu_raise_ud(struct cpu *cpu) { cpu_raise(cpu, 6); }
_Noreturn void cpu_leave(struct cpu *cpu, enum cpu_exit why);
/* VM exit with reason and qualification; fills insn_len from cur_insn, IDT-vectoring information from cpu->delivering.
 * Fields already set in cpu->vmexit by the caller (insn_info, gla, gpa, intr_info) are kept; it is zeroed when
 * the next instruction begins. */
_Noreturn void cpu_vmexit(struct cpu *cpu, uint32_t reason, uint64_t qualification);
_Noreturn void cpu_internal_error(struct cpu *cpu, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Delivers cpu->event through the IDT (checks the exception bitmap and VM exits first). May raise. */
void cpu_event_deliver(struct cpu *cpu);
/* #DB traps after an instruction: TF, breakpoints; called by the engine in MODE_STEP. May raise. */
void cpu_debug_trap(struct cpu *cpu);
/* Instruction breakpoints before an instruction; called by the engine in MODE_STEP. May raise or leave. */
void cpu_debug_fetch(struct cpu *cpu);

static inline bool cpu_long_mode(const struct cpu *cpu) { return cpu->efer & EFER_LMA; }
static inline bool cpu_code64(const struct cpu *cpu) { return (cpu->mode & MODE_CODE_MASK) == MODE_CODE64; }
static inline bool cpu_protected(const struct cpu *cpu) { return cpu->mode & MODE_PROTECTED; }
static inline bool cpu_in_guest(const struct cpu *cpu) { return cpu->ctl->non_root; }
/* Is the address canonical for the current paging mode (48 or 57 bits)? */
static inline bool cpu_canonical(const struct cpu *cpu, uint64_t a)
{
	int shift = cpu->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;
	return (uint64_t)((int64_t)(a << shift) >> shift) == a;
}

/* The control block has the monitor trap flag: a VM exit after every instruction and after every delivered event. */
static inline bool cpu_monitor_trap(const struct cpu *cpu)
{
	const uint32_t monitor_trap_flag = 1u << 27;
	return cpu->ctl->non_root && (cpu->ctl->primary & monitor_trap_flag);
}

/*
 * #DB traps in pending_debug that may be taken at this boundary. They are there if cpu_debug_trap() found the poll word set:
 * SMIs, INIT and some VM exits go first. Bit 12: a breakpoint that VMX's field does not name.
 */
enum { DEBUG_TRAPS = 0xd00f };
static inline bool cpu_trap_due(const struct cpu *cpu)
{
	return (cpu->pending_debug & DEBUG_TRAPS) && !(cpu->shadow & SHADOW_MOV_SS) && cpu->activity <= ACTIVITY_HLT;
}

/* Makes them the event that is delivered next. */
static inline void cpu_trap_queue(struct cpu *cpu)
{
	const uint64_t in_dr6 = 0xc00f;

	cpu->event = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = 1, .has_payload = true, .payload = cpu->pending_debug & in_dr6 };
	cpu->pending_debug = 0;
	cpu->activity = ACTIVITY_ACTIVE;
}

/* Guest TSC now, all offsets and scaling of the control block applied. */
uint64_t cpu_tsc(struct cpu *cpu);

#endif
