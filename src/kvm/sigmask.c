/* Signal masks by system call: no libc wrapper that the shim or a sanitizer may have replaced. */
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "kvm/sigmask.h"

#define BIT_OF(signo) BIT((signo) - 1)
#define FAULTS (BIT_OF(SIGSEGV) | BIT_OF(SIGBUS) | BIT_OF(SIGFPE) | BIT_OF(SIGILL))

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

uint64_t sigmask_without_faults(uint64_t mask)
{
	return mask & ~FAULTS;
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
