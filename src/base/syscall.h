/*
 * System calls made without libc: the shim interposes libc's names, and code
 * inside KVM_RUN must not depend on what they do to vector registers.
 */
#ifndef ANYKVM_BASE_SYSCALL_H
#define ANYKVM_BASE_SYSCALL_H

#include <sys/syscall.h>

/* The kernel's result: >= 0 or -errno. */
static inline long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#endif
