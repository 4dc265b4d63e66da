/*
 * irqchip/ -- LAPIC, I/O APIC, PIC pair, PIT, GSI routing. Device models with
 * KVM's semantics; they reach time and the vCPUs only through irqchip_ops.
 *
 * Locking: one lock for the whole chip, taken inside every function here;
 * ops are called with it held and must not call back in.  Everything may be
 * called from inside KVM_RUN (general registers only).
 */
#ifndef ANYKVM_IRQCHIP_H
#define ANYKVM_IRQCHIP_H

#include <linux/kvm.h>
#include "base/base.h"

struct irqchip;
enum irqchip_mode { IRQCHIP_NONE, IRQCHIP_SPLIT, IRQCHIP_FULL };

struct irqchip_ops {
	void (*kick)(void *arg, unsigned apic_index);            /* something to look at for this vCPU: interrupt, NMI, INIT, SIPI, SMI */
	void (*ioapic_eoi)(void *arg, unsigned vcpu, uint8_t vector);      /* split mode: KVM_EXIT_IOAPIC_EOI is due */
	void (*resample)(void *arg, unsigned gsi);                /* guest acknowledged a GSI; its RESAMPLE line was lowered just before */
	uint64_t (*tsc_now)(void *arg, unsigned vcpu);            /* guest's L1 TSC */
	uint64_t (*tsc_to_ns)(void *arg, unsigned vcpu, uint64_t tsc_delta);
};

struct irqchip *irqchip_new(const struct irqchip_ops *ops, void *arg);
void irqchip_free(struct irqchip *c);
/* Starts the timer thread. 0, or -EAGAIN. Called at KVM_CREATE_VM, before sandboxes close. */
int irqchip_start(struct irqchip *c);

/* ---- mode (KVM_CREATE_IRQCHIP, KVM_CAP_SPLIT_IRQCHIP) ---- */
int irqchip_create_full(struct irqchip *c);                               /* default routing included */
int irqchip_create_split(struct irqchip *c, unsigned pins);
enum irqchip_mode irqchip_mode(const struct irqchip *c);
void irqchip_set_x2apic_api(struct irqchip *c, bool ids32, bool no_broadcast_quirk);

/* ---- LAPIC; vcpu is the APIC id ---- */
int lapic_create(struct irqchip *c, unsigned vcpu, bool bsp);             /* when a vCPU is made and a LAPIC is in kernel */
void lapic_reset(struct irqchip *c, unsigned vcpu, bool init);
/* APIC base MSR (BSP, EN, EXTD bits and their transitions). write: 0, or 1 for #GP. */
uint64_t lapic_base_get(struct irqchip *c, unsigned vcpu);
int lapic_base_set(struct irqchip *c, unsigned vcpu, uint64_t value, bool host_initiated);
/* The xAPIC page at the APIC base. false: not this LAPIC's address. */
bool lapic_mmio_read(struct irqchip *c, unsigned vcpu, uint64_t gpa, void *data, unsigned len);
bool lapic_mmio_write(struct irqchip *c, unsigned vcpu, uint64_t gpa, const void *data, unsigned len);
/* x2APIC MSRs 0x800..0x8ff. 0, or 1 for #GP. */
int lapic_msr_read(struct irqchip *c, unsigned vcpu, uint32_t index, uint64_t *value);
int lapic_msr_write(struct irqchip *c, unsigned vcpu, uint32_t index, uint64_t value);
uint64_t lapic_tsc_deadline_get(struct irqchip *c, unsigned vcpu);
void lapic_tsc_deadline_set(struct irqchip *c, unsigned vcpu, uint64_t tsc);
void lapic_tsc_moved(struct irqchip *c, unsigned vcpu);  /* the TSC has jumped: an armed deadline is as far from it as it is */
uint64_t lapic_cr8_get(struct irqchip *c, unsigned vcpu);
void lapic_cr8_set(struct irqchip *c, unsigned vcpu, uint64_t cr8);
/* Highest deliverable vector (fixed, or ExtINT from the PIC), or -1; ack makes it in-service / acknowledges the PIC. */
int irqchip_pending(struct irqchip *c, unsigned vcpu);
int irqchip_ack(struct irqchip *c, unsigned vcpu);
/* Would LINT0 let an ExtINT through (client's PIC in split mode)? */
bool lapic_accepts_extint(struct irqchip *c, unsigned vcpu);
/* LAPIC only, PIC left out (posted interrupts and VMX's acknowledge use irqchip_*). */
/* Takes what has arrived: bits LAPIC_NMI etc.; each is reported once. *sipi_vector valid with LAPIC_SIPI. */
enum { LAPIC_NMI = 1, LAPIC_INIT = 2, LAPIC_SIPI = 4, LAPIC_SMI = 8, LAPIC_NMI_AGAIN = 16 };
unsigned lapic_events_take(struct irqchip *c, unsigned vcpu, uint8_t *sipi_vector);
unsigned lapic_events_peek(struct irqchip *c, unsigned vcpu);
int lapic_get(struct irqchip *c, unsigned vcpu, struct kvm_lapic_state *s);
int lapic_set(struct irqchip *c, unsigned vcpu, const struct kvm_lapic_state *s);
/* Sends a message as an IPI or MSI would. Result as KVM_IRQ_LINE_STATUS: >0 delivered to so many, 0 coalesced, -1 masked. */
int irqchip_msi(struct irqchip *c, uint64_t address, uint32_t data);
/* An interrupt for one vCPU's LAPIC (PV IPI, tests). */
void lapic_post_vector(struct irqchip *c, unsigned vcpu, uint8_t vector);

/* ---- lines, chips, timers ---- */
enum { IRQ_SOURCE_USER, IRQ_SOURCE_IRQFD, IRQ_SOURCE_PIT, IRQ_SOURCE_RESAMPLE, IRQ_SOURCE_COUNT };
int irqchip_line(struct irqchip *c, unsigned gsi, int level, unsigned source);       /* status as above; -ENXIO if no chip */
int irqchip_set_routing(struct irqchip *c, const struct kvm_irq_routing_entry *e, unsigned n);   /* 0, -EINVAL */
int irqchip_get_chip(struct irqchip *c, struct kvm_irqchip *chip);        /* 0, -EINVAL, -ENXIO */
int irqchip_set_chip(struct irqchip *c, const struct kvm_irqchip *chip);
int pit_create(struct irqchip *c, uint32_t flags);                        /* 0, -EEXIST, -ENOENT */
int pit_get(struct irqchip *c, struct kvm_pit_state2 *s);                 /* -ENXIO without PIT */
int pit_set(struct irqchip *c, const struct kvm_pit_state2 *s);
int pit_reinject(struct irqchip *c, bool on);
/* Ports and addresses of PIC, ELCR, PIT, I/O APIC. false: not ours. */
bool irqchip_pio_read(struct irqchip *c, uint16_t port, void *data, unsigned len);
bool irqchip_pio_write(struct irqchip *c, uint16_t port, const void *data, unsigned len);
bool irqchip_mmio_read(struct irqchip *c, uint64_t gpa, void *data, unsigned len);       /* I/O APIC */
bool irqchip_mmio_write(struct irqchip *c, uint64_t gpa, const void *data, unsigned len);

#endif
