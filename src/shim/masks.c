/*
 * The mask of a thread that has been in KVM_RUN: the four signals that translated code raises are never really blocked in
 * it, but the client is told what it asked for.
 */
#include "shim/masks.h"
#include "shim/shim.h"

/* Which of the four the client believes to be blocked. */
static _Thread_local bool runs_kvm;
static _Thread_local uint64_t believed_blocked;

static int libc_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return REAL(pthread_sigmask)(how, set, old);
}

static int libc_sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	return REAL(sigprocmask)(how, set, old);
}

void masks_prepare(void)
{
	libc_pthread_sigmask(SIG_BLOCK, NULL, NULL);
	libc_sigprocmask(SIG_BLOCK, NULL, NULL);
}

void signals_enter_run(void)
{
	uint64_t four = SYNC_MASK, old;

	if (runs_kvm)
		return;
	kernel_mask(SIG_UNBLOCK, &four, &old);
	believed_blocked = old & SYNC_MASK;
	runs_kvm = true;
}

/* The four are taken out of what is asked for, and put into what is answered. */
static int change_mask(int (*real)(int, const sigset_t *, sigset_t *), int how, const sigset_t *set, sigset_t *old)
{
	uint64_t before = believed_blocked, asked = 0, bits;
	sigset_t filtered;
	int ret;

	if (!runs_kvm)
		return real(how, set, old);
	if (set) {
		filtered = *set;
		memcpy(&bits, set, sizeof(bits));
		asked = bits & SYNC_MASK;
		bits &= ~SYNC_MASK;
		memcpy(&filtered, &bits, sizeof(bits));
	}
	ret = real(how, set ? &filtered : NULL, old);
	if (ret)
		return ret;
	if (set)
		believed_blocked = how == SIG_BLOCK ? before | asked : how == SIG_UNBLOCK ? before & ~asked : asked;
	if (old) {
		memcpy(&bits, old, sizeof(bits));
		bits |= before;
		memcpy(old, &bits, sizeof(bits));
	}
	return 0;
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return change_mask(libc_pthread_sigmask, how, set, old);
}

EXPORT int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	return change_mask(libc_sigprocmask, how, set, old);
}
