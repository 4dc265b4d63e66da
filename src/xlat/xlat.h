/*
 * xlat/ -- the engine: translates guest code to host code, same ISA, and runs
 * it until the processor needs KVM_RUN's loop.
 */
#ifndef ANYKVM_XLAT_H
#define ANYKVM_XLAT_H

#include "cpu/cpu.h"

/* Makes the code cache (memory mapped writable in one place, executable in another) of one vCPU. 0 or -ENOMEM. */
int engine_init(struct cpu *cpu);
void engine_free(struct cpu *cpu);
/* The VM has so many vCPUs (at least 1): sets this one's share of the memory for code. From any thread. */
void engine_share(struct cpu *cpu, unsigned vcpus);

/*
 * Delivers cpu->event if valid and runs guest code until cpu->poll is set or
 * something needs the floors above. On return the state in *cpu is precise.
 * CPU_EXIT_NONE: the poll word was set (it is not cleared here).
 * The caller holds mem_read_lock() and has blocked nothing; SIGFPE, SIGSEGV and
 * SIGBUS must be unblocked and reach engine_signal().
 */
enum cpu_exit engine_run(struct cpu *cpu);

/*
 * For the SIGSEGV, SIGBUS, SIGFPE, SIGILL handlers of the process: if the
 * signal was raised by translated code (or by a rule touching client memory)
 * of the calling thread, turns it into the guest's exception or an exit and
 * returns true; false: it is the client's.
 */
struct siginfo_t_;
bool engine_signal(int signo, void *siginfo, void *ucontext);

/* Drops translations of [host, host+len), memory inside one page of a slot, on this vCPU. Call on the vCPU's thread or when it is not running. */
void engine_invalidate(struct cpu *cpu, const uint8_t *host, unsigned len);
/* Drops every translation. Likewise. */
void engine_flush(struct cpu *cpu);

/* Called by tlb.c when an execute entry for the page at gpa is installed. */
void engine_exec_mapped(struct cpu *cpu, uint64_t gpa);
/* Called by cpu_mode_update(): selects cpu->jump_cache for cpu->mode and the TLB context (an identity, never reused while cached). */
void engine_jump_cache_select(struct cpu *cpu, uint64_t context_id);
/* Forgets the jumps of that context into the 4 KiB page at linear address page. */
void engine_jump_cache_drop(struct cpu *cpu, uint64_t context_id, uint64_t page);

#endif
