/*
 * Signal masks by system call: no libc wrapper that the shim or a sanitizer may have replaced.
 *
 * A thread has one mask that it came with (outside), and perhaps one for KVM_RUN (KVM_SET_SIGNAL_MASK). The first signal
 * that waits has everything blocked until the call is over, whatever else would have changed the mask.
 */
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "kvm/api.h"
#include "kvm/sigmask.h"

#define BIT_OF(signo) BIT((signo) - 1)
#define FAULTS (BIT_OF(SIGSEGV) | BIT_OF(SIGBUS) | BIT_OF(SIGFPE) | BIT_OF(SIGILL))

enum { SETXID = 33 };                    /* libc waits for it to run on every thread */

static __thread struct { volatile bool waits, inner; volatile uint64_t outside; } thread;

uint64_t sigmask_set(uint64_t mask)
{
	uint64_t old = 0;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, sizeof(mask));
	return old;
}

uint64_t sigmask_all(void)
{
	return ~(BIT_OF(32) | BIT_OF(33));
}

/* All is blocked while outside is taken down, so that a signal finds either mask with what belongs to it. */
void sigmask_enter_run(uint64_t mask)
{
	uint64_t outside = sigmask_set(~FAULTS);

	if (!thread.waits)
		thread.outside = outside;
	thread.inner = true;
	sigmask_set(thread.waits ? outside : mask & ~FAULTS);
}

void sigmask_leave_run(void)
{
	if (!thread.waits)
		sigmask_set(thread.outside);     /* a signal may begin to wait here */
	thread.inner = false;
}

bool sigmask_signal_waits(void)
{
	return thread.waits;
}

void anykvm_signal_waits(uint64_t *mask)
{
	if (!thread.waits && !thread.inner)
		thread.outside = *mask;
	thread.waits = true;
	*mask |= ~(FAULTS | BIT_OF(SETXID));
	run_interrupt();
}

void anykvm_signals_return(void)
{
	if (!thread.waits)
		return;
	thread.waits = false;
	sigmask_set(thread.outside);
}

void sigmask_allow_faults(void)
{
	static __thread bool done;
	uint64_t faults = FAULTS;

	if (done)
		return;
	done = true;
	syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &faults, NULL, sizeof(faults));
}
