/* What the files of the VM half share: how the parts of a VM begin and end. */
#ifndef ANYKVM_LIFECYCLE_H
#define ANYKVM_LIFECYCLE_H

#include "kvm/vm.h"

/* vm.c */
int vm_new(struct vm **out);             /* 0 or -errno; one reference, the caller's */
void vm_free(struct vm *vm);

/* eventfd.c, with its thread. 0 or -errno. */
int eventfds_start(struct vm *vm);
void eventfds_stop(struct vm *vm);
/* The guest acknowledged a level interrupt that an irqfd raised. Any thread, the irqchip's lock may be held. */
void irqfd_acknowledged(struct vm *vm, unsigned gsi);

/* clock.c */
void clock_init(struct vm *vm);

/* irq.c: upcalls of the irqchip */
extern const struct irqchip_ops vm_irqchip_ops;

/* msr_filter.c */
void msr_filter_free(struct vm *vm);

/* capabilities.c: what KVM_CHECK_EXTENSION says */
int capability_value(unsigned long cap);

/* stats.c: descriptors for KVM_GET_STATS_FD, or -errno */
int vm_stats_fd(void);
int vcpu_stats_fd(struct vcpu *v);
int vcpu_stats_new(struct vcpu *v);      /* its processor exists. 0 or -errno */
void vcpu_stats_free(struct vcpu *v);

enum { KVM_MSR_LIST_MAX = 256 };         /* most MSRs in one KVM_GET/SET_MSRS, exclusive */

#endif
