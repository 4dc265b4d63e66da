/* A client as others are built: no library of ours, only <linux/kvm.h>. To be run by `anykvm run`. */
#ifndef ANYKVM_TESTS_SHIM_CLIENT_H
#define ANYKVM_TESTS_SHIM_CLIENT_H

#include <linux/kvm.h>
#include <stdint.h>

/* What the guest does; it counts its turns in memory. */
enum guest_kind { GUEST_QUIET, GUEST_ASKING, GUEST_HALTED };     /* without exits, with one a turn, asleep after one turn */

struct client {
	int system, vm, vcpu;
	struct kvm_run *run;
	uint8_t *memory;
	volatile uint32_t *turns;
};

void client_open(struct client *c, enum guest_kind kind);
void client_close(struct client *c);
/* KVM_RUN until it fails: errno. */
int client_run(struct client *c);
/* For handlers: the last client opened ends client_run(), also where the signal came between two KVM_RUNs. */
void client_call_out(void);
/* Until the guest has counted on, as seen by another thread. */
void client_wait_turns(struct client *c, uint32_t n);

#endif
