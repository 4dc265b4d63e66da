/*
 * All of a machine's state as a client moves it: what the KVM API gives, put
 * into another VM. Memory is the client's and moves with it.
 */
#ifndef ANYKVM_TESTS_MACHINE_H
#define ANYKVM_TESTS_MACHINE_H

#include "guest.h"

enum { MACHINE_MSRS = 200, MACHINE_CPUID = 100 };

struct machine_vcpu {
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[MACHINE_CPUID]; } cpuid;
	struct { struct kvm_msrs head; struct kvm_msr_entry e[MACHINE_MSRS]; } msrs;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	uint64_t ssp;                    /* 0 without shadow stacks */
	struct kvm_lapic_state lapic;
	union { struct kvm_nested_state s; uint8_t bytes[128 + 2 * 4096]; } nested;
};

struct machine {
	unsigned nvcpus;
	bool irqchip, has_pit;
	struct machine_vcpu vcpu[GUEST_MAX_VCPUS];
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
};

/* What a VM that is to be moved needs from its creation on: events with their payloads. */
void machine_prepare(struct guest *g);
void machine_save(struct guest *g, struct machine *m);
/* Into the VM and the vCPUs of g, fresh ones; seed chooses an order of the ioctls. */
void machine_restore(struct guest *g, const struct machine *m, unsigned seed);
/* Differences are printed; what follows the host's time is not compared. */
bool machine_equal(const struct machine *a, const struct machine *b);
/* Moves g into a new VM of this process and checks that nothing changed. */
void machine_move(struct guest *g, unsigned seed);

#endif
