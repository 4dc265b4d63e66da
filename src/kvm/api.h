/*
 * kvm/ -- the KVM API as the shim and the tests call it: descriptors in,
 * kernel-style results out (>= 0, or -1 with errno set, as the libc calls they
 * stand for).
 *
 * Descriptors are memfds, recognised by (device, inode), so that dup(),
 * fcntl(F_DUPFD) and further mmap()s work without our seeing them.
 */
#ifndef ANYKVM_API_H
#define ANYKVM_API_H

#include "base/base.h"

/* open("/dev/kvm", flags). Returns a descriptor; O_CLOEXEC is honoured. */
int anykvm_open(int flags);
/* True if fd is one of ours. Cheap for descriptors that are not. */
bool anykvm_owns(int fd);
/* ioctl() on one of our descriptors. cmd: only the low 32 bits count. errno as the kernel's. */
int anykvm_ioctl(int fd, unsigned long cmd, void *arg);
/* The same for any descriptor: false, and nothing done, if it is not ours. */
bool anykvm_ioctl_ours(int fd, unsigned long cmd, void *arg, int *result);
/* mmap() of one of our descriptors: vCPU pages with the VM-wide coalesced ring spliced in. */
void *anykvm_mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset);
/* fd is about to be closed (or overwritten by dup2). Tears down when it is an object's last descriptor. */
void anykvm_closing(int fd);
/* In a forked child: every object answers EIO. */
void anykvm_forked(void);
/*
 * In a signal handler, on a thread inside one of these calls: the signal is to be sent again once the call is over.
 * *mask, to which the handler will return, becomes one that blocks what can wait; KVM_RUN ends with EINTR at its
 * next turn, or at its first if it has not begun.
 */
void anykvm_signal_waits(uint64_t *mask);
/* The call is over: the mask from before it returns, unless no signal waited. What waits comes in here. */
void anykvm_signals_return(void);
/* SIGSEGV, SIGBUS, SIGFPE, SIGILL: true if it was ours and is dealt with. */
bool anykvm_signal(int signo, void *siginfo, void *ucontext);

#endif
