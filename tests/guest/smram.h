/*
 * A small guest with SMRAM: 64 KiB at the default SMBASE that only processors
 * in system management mode see; the normal space has its own memory there.
 */
#ifndef ANYKVM_TESTS_SMRAM_H
#define ANYKVM_TESTS_SMRAM_H

#include "guest.h"

enum { SMBASE = 0x30000, SMRAM_SIZE = 0x10000, SMM_SLOTS = 1 << 16 };

/* SMRAM for the VM of g, kept over guest_new_vm() by another smram_attach(). The handler is copied to SMBASE + 8000h. */
uint8_t *smram_create(struct guest *g, const uint8_t *handler, size_t len);
#define smram_create_with(g, name) smram_create(g, name##_start, name##_end - name##_start)
void smram_attach(struct guest *g, uint8_t *smram);
void smram_destroy(uint8_t *smram);
/* A little-endian value of the state-save area; at: offset from SMBASE, fe00h and on. */
uint64_t smram_get(const uint8_t *smram, unsigned at, unsigned size);
void smram_set(uint8_t *smram, unsigned at, unsigned size, uint64_t value);
/* Runs to the next exit by OUT and checks that it is at this port. */
void run_to_port(struct guest *g, unsigned port);
/* Lets the OUT of the last exit end, and nothing after it. */
void settle(struct guest *g);
struct kvm_vcpu_events guest_events(struct guest *g);
struct kvm_sregs guest_sregs(struct guest *g);
bool guest_in_smm(struct guest *g);

#endif
