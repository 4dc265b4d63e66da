/*
 * The calling thread's signal mask, in the kernel's form (bit n-1: signal n).
 * Apart from vm.h, because <signal.h> and the processor's headers both name registers.
 */
#ifndef ANYKVM_SIGMASK_H
#define ANYKVM_SIGMASK_H

#include "base/base.h"

/* Sets the mask; returns the one before. Async-signal-safe. */
uint64_t sigmask_set(uint64_t mask);
/* Every signal but those that libc uses itself. */
uint64_t sigmask_all(void);
/* Once per thread: SIGSEGV, SIGBUS, SIGFPE, SIGILL reach their handlers, translated code raises them. */
void sigmask_allow_faults(void);
/* Their bits taken out of a mask that the client wants. */
uint64_t sigmask_without_faults(uint64_t mask);

#endif
