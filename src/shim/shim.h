/*
 * shim/ -- the libc symbols that stand between the client and the kernel, so
 * that /dev/kvm is ours. No rule of KVM lives here. For the files of shim/ only.
 *
 * The library's own code calls the same libc functions; while it runs on
 * behalf of the client (shim_inside), they go straight through.
 *
 * Nothing happens at load time: libc's functions are looked up at their first
 * use, and signals are taken over when the client first opens /dev/kvm.
 */
#ifndef ANYKVM_SHIM_H
#define ANYKVM_SHIM_H

#include <dlfcn.h>
#include <signal.h>
#include <sys/stat.h>
#include "base/base.h"

#define EXPORT __attribute__((visibility("default")))

/* libc's own function of that name. */
#define REAL(name) ({ \
	static _Atomic(void *) found_; \
	void *f_ = atomic_load_explicit(&found_, memory_order_acquire); \
	if (unlikely(!f_)) \
		atomic_store_explicit(&found_, f_ = shim_find(#name), memory_order_release); \
	(__typeof__(&name))f_; })
void *shim_find(const char *name);

extern _Atomic bool shim_used;                  /* the client has opened /dev/kvm: descriptors may be ours */
extern _Thread_local int shim_inside;           /* > 0: the library's own code runs in this thread */

/*
 * Around the library's own code. Handlers of the client and cancellation wait until its end, as they wait for the end of
 * a system call: they may never return (longjmp(), pthread_exit()), or call what is interposed here.
 */
static inline void shim_enter(void)
{
	shim_inside++;
	atomic_signal_fence(memory_order_seq_cst);
}
void shim_leave(void);
/* The same where libc's cancellation points may be met on the way. Returns what to give shim_leave_slowly(). */
int shim_enter_slowly(void);
void shim_leave_slowly(int cancel_state);

/* descriptors.c */
int shim_open_kvm(int flags);
/* What open() really returned: ours instead if that is the kernel's /dev/kvm under another name. */
int shim_opened(int fd, int flags);
bool shim_owns(int fd);
int shim_ioctl(int fd, unsigned long request, void *arg);
void *shim_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
void shim_closing(int fd);                      /* keeps errno */
void shim_closing_range(unsigned first, unsigned last);
void shim_overwriting(int from, int to);        /* before dup2(from, to) */

/*
 * procfs.c: names that mean something else here. Each returns true if the name
 * is such a one; *result and errno are then the answer.
 */
bool shim_open(int dirfd, const char *path, int flags, int *result);
bool shim_stat(int dirfd, const char *path, struct stat *st, int *result);
bool shim_statx(int dirfd, const char *path, struct statx *stx, int *result);
bool shim_access(int dirfd, const char *path, int mode, int *result);

/* signals.c */
void signals_take_over(void);                   /* idempotent; at the first open of /dev/kvm */
/* If libc has installed its handler for pthread_cancel(), ours goes before it. Idempotent. */
void signals_take_over_cancel(void);

/* masks.c */
void signals_enter_run(void);                   /* this thread is about to enter KVM_RUN */

#endif
