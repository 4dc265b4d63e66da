/* What the files of the vCPU half share. */
#ifndef ANYKVM_VCPU_H
#define ANYKVM_VCPU_H

#include "cpu/fpu.h"
#include "cpu/rules.h"
#include "kvm/ioctl.h"
#include "kvm/vm.h"
#include "xlat/xlat.h"

/* How a turn of KVM_RUN's loop ends: a client's -errno is negative. */
enum { RUN_ON = 1,                       /* next turn */
       RUN_EXIT = 0 };                   /* to the client, kvm_run says why */

/* What the client was asked for at the last return from KVM_RUN, to be answered at the next one. */
enum outstanding { ASKED_NOTHING, ASKED_PIO, ASKED_MMIO_READ, ASKED_MSR, ASKED_HYPERCALL };

static inline struct vcpu *cpu_vcpu(const struct cpu *cpu) { return cpu->owner; }
static inline bool lapic_in_kernel(const struct vcpu *v) { return irqchip_mode(v->vm->irqchip) != IRQCHIP_NONE; }
static inline bool pic_in_kernel(const struct vcpu *v) { return irqchip_mode(v->vm->irqchip) == IRQCHIP_FULL; }

/* ---- ops.c ---- */
extern const struct cpu_ops vcpu_cpu_ops;
extern const struct vmx_ops vcpu_vmx_ops;
uint64_t vcpu_cr8(struct vcpu *v);
void vcpu_cr8_set(struct vcpu *v, uint64_t cr8);
uint64_t vcpu_apic_base(struct vcpu *v);
int vcpu_apic_base_set(struct vcpu *v, uint64_t value, bool host);

/* ---- coherence.c: code and write permission across vCPUs ---- */
void coherence_code_changed(struct cpu *cpu, const uint8_t *host, unsigned len);
void coherence_code_page_new(struct cpu *cpu, const uint8_t *host_page);
void coherence_drain(struct vcpu *v);    /* REQ_CODE, REQ_CODE_PAGE; on the vCPU's thread, outside the engine */
bool coherence_enter(struct vcpu *v);    /* sets cpu->running, unless something is to be done or waited for before */
void coherence_exclusive_begin(struct cpu *cpu);
void coherence_exclusive_end(struct cpu *cpu);
void coherence_hook(struct vm *vm);      /* writes by the library itself (mem_write) */

/* ---- timers.c: one thread per VM that wakes vCPUs at a time ---- */
int timers_get(struct vm *vm);           /* with vm->lock held, once per vCPU. 0 or -errno */
void timers_put(struct vm *vm, bool all);
void timer_set(struct vcpu *v, uint64_t ns);

/* ---- events.c ---- */
bool vcpu_interrupt_enabled(struct vcpu *v);     /* if_flag */
bool vcpu_interrupt_window(struct vcpu *v);      /* ready_for_interrupt_injection, PIC in user space */
int vcpu_interrupt_pending(struct vcpu *v);      /* vector, or -1 */
int vcpu_interrupt_ack(struct vcpu *v);
/* INIT and SIPI that have arrived. */
void events_accept(struct vcpu *v);
/* Queues what is due into cpu->event, exits from L2 to L1 where L1 asked for it; wakes from HLT. false: the VM is dead. */
bool events_inject(struct vcpu *v);
/* #DB traps that are due outside L2 become cpu->event. */
void events_take_trap(struct vcpu *v);

/* ---- smm.c ---- */
bool smi_waits(struct vcpu *v);          /* an SMI has arrived, for a vCPU that takes it before all else */
/* At an instruction boundary: into SMM if an SMI has arrived and can be taken. false: the VM is dead. */
bool smi_inject(struct vcpu *v);
int smm_exit(struct vcpu *v);            /* RSM: RUN_ON */
/* KVM_SET_VCPU_EVENTS; nested VMX ends with a change. */
void smm_set_by_client(struct vcpu *v, bool on, bool in_nmi);

/* ---- exits.c ---- */
bool exit_next_access(struct vcpu *v);   /* fills kvm_run with the next port or MMIO access for the client, if any */
void exit_complete(struct vcpu *v);      /* takes the client's answers */
int exit_handle(struct vcpu *v, enum cpu_exit why);      /* RUN_ON, RUN_EXIT or -errno */
int exit_reason(struct vcpu *v, uint32_t reason);        /* an exit without further data: RUN_EXIT */

/* ---- msrs.c ---- */
int host_msr(struct vcpu *v, uint32_t index, uint64_t *value, bool write);       /* by the client; 0, 1, 2 as cpu_ops.msr_read */

/* ---- pv.c ---- */
int pv_msr_read(struct vcpu *v, uint32_t index, uint64_t *value);        /* 0, 1, 2 as cpu_ops.msr_read */
int pv_msr_write(struct vcpu *v, uint32_t index, uint64_t value);
void pv_clock_update(struct vcpu *v);
/* VMCALL. true: done; false: kvm_run asks the client. */
bool pv_hypercall(struct vcpu *v);
void pv_hypercall_complete(struct vcpu *v);

/* ---- steal_time.c ---- */
int steal_time_write(struct vcpu *v, uint64_t value);    /* its MSR: 0, 1 as cpu_ops.msr_write */
void steal_time_run(struct vcpu *v);     /* KVM_RUN begins, the address space is held for reading */

/* ---- platform_msrs.c: MSRs that are neither the processor's nor paravirtual ---- */
int platform_msr_read(struct vcpu *v, uint32_t index, uint64_t *value);
int platform_msr_write(struct vcpu *v, uint32_t index, uint64_t value);
void platform_msrs_reset(struct vcpu *v);

/* ---- tsc.c ---- */
void tsc_write(struct vcpu *v, uint64_t value);          /* by the client or at creation: with synchronisation */
void tsc_moved(struct vcpu *v, int64_t by);              /* by the guest */
void tsc_offset_set(struct vcpu *v, int64_t offset);
void vcpu_l2_restored(struct vcpu *v);                   /* vcpu_events.c: KVM_SET_NESTED_STATE is done */
int sync_regs_load(struct vcpu *v);                      /* sync_regs.c: 0 or -EINVAL */
void sync_regs_store(struct vcpu *v);

#endif
