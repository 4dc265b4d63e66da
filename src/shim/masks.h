/* Signal masks and the four signals that come from translated code. For the files of shim/ only. */
#ifndef ANYKVM_MASKS_H
#define ANYKVM_MASKS_H

#include <signal.h>
#include "base/base.h"
#include "base/syscall.h"

enum { KERNEL_SIGSET = 8 };              /* bytes of its signal set */

#define SYNC_MASK (BIT(SIGSEGV - 1) | BIT(SIGBUS - 1) | BIT(SIGFPE - 1) | BIT(SIGILL - 1))

/* In the kernel's form: no libc wrapper that thinks otherwise. */
static inline void kernel_mask(int how, const uint64_t *set, uint64_t *old)
{
	raw_syscall(SYS_rt_sigprocmask, how, (long)set, (long)old, KERNEL_SIGSET, 0, 0);
}

/* Looks up libc's functions, because they may first be wanted in a handler. */
void masks_prepare(void);

#endif
