/*
 * The calling thread's signal mask, in the kernel's form (bit n-1: signal n),
 * and what becomes of it while a signal waits for the end of a call.
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
/* The mask that the client wants inside KVM_RUN, those four excepted, and back; once a signal waits, that is put off. */
void sigmask_enter_run(uint64_t mask);
void sigmask_leave_run(void);
/* run.c: the KVM_RUN that this thread is in, if any, is to end with EINTR. Async-signal-safe. */
void run_interrupt(void);
/* A signal waits for the end of this thread's call. */
bool sigmask_signal_waits(void);

#endif
