/* The parts of the fuzzer in the guest. A case depends on the seed and its number only. */
#ifndef ANYKVM_TESTS_PEER_FUZZ_H
#define ANYKVM_TESTS_PEER_FUZZ_H

#include "state.h"

extern union config { struct peer_config c; uint8_t sector[512]; } config;
extern struct peer_report *const report;
uint64_t chance(void);                   /* the next random number of the case */

/* compare.c */
extern const uint32_t encodings[];
extern const unsigned encodings_count;
uint64_t field(uint32_t f);              /* VMREAD; 0 where there is no such field */
uint64_t qualification(void);            /* the bits of the exit qualification that are defined */
uint64_t hash_of_state(bool entered);    /* entered: a VM exit after a VM entry that succeeded */
void dump_state(bool entered);           /* into the report */

/* VM entry, and what came of it. */
void case_enter(struct peer_case *c, bool *launched, uint64_t rip_flips, uint64_t gpr[16]);

/* What a kind of case does between the setting of the random number and the report. */
void entry_case(struct peer_case *c, bool *launched);
void intercept_case(struct peer_case *c, bool *launched);

#endif
