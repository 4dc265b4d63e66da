/*
 * Signals. Two things must be known that only the owner of the handlers knows:
 *
 * - SIGSEGV, SIGBUS, SIGFPE and SIGILL may come from translated code. Our
 *   handler stays installed for these four; what the client sets is kept here
 *   and gets what is not ours. They are never really blocked in a thread that
 *   runs KVM_RUN, because a blocked fault kills the process.
 * - Any other handler of the client's, and libc's for pthread_cancel(), waits for
 *   the end of the library's code, as the kernel runs handlers when a system call
 *   is over: the signal is sent again, blocked until then. KVM_RUN ends with EINTR.
 *   So do the four when somebody sent them, but unblocked, and kept here.
 *
 * Everything is passed on to libc until the client first opens /dev/kvm.
 *
 * sigaction() may be called in handlers, so the tables' lock is taken with
 * all signals blocked. Handlers of the second kind are read without it: one
 * word per signal, written before the kernel is told, and kept when the client
 * goes back to SIG_DFL, since a handler may be on its way then.
 */
#include <pthread.h>
#include <sys/ucontext.h>
#include <unistd.h>
#include "base/syscall.h"
#include "kvm/api.h"
#include "shim/masks.h"
#include "shim/shim.h"

enum { SIGNALS = 65, SIGCANCEL = 32 };

typedef void handler_fn(int, siginfo_t *, void *);

static _Atomic bool taken_over;
static struct lock tables;
static struct sigaction sync_actions[SIGNALS];   /* the client's, for the four */
static struct {
	_Atomic(handler_fn *) handler;
	_Atomic int flags;
} handlers[SIGNALS];                             /* the client's, for the others */

/* Those of the four that somebody sent while the library's code ran. */
static _Thread_local volatile uint32_t sync_kept;
static _Thread_local siginfo_t sync_kept_info[16];

/* glibc declares these as deprecated, or only for old standards. */
sighandler_t bsd_signal(int sig, sighandler_t handler);
sighandler_t ssignal(int sig, sighandler_t handler);
sighandler_t sysv_signal(int sig, sighandler_t handler);
sighandler_t __sysv_signal(int sig, sighandler_t handler);
int __sigaction(int sig, const struct sigaction *act, struct sigaction *old);

/* One place, so that it is not looked up for the first time in a handler. */
static int libc_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return REAL(sigaction)(sig, act, old);
}

static bool is_sync(int sig)
{
	return sig >= 1 && sig < SIGNALS && (SYNC_MASK & BIT(sig - 1));
}

static bool is_function(const struct sigaction *act)
{
	return act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN;
}

static uint64_t tables_lock(void)
{
	uint64_t all = ~SYNC_MASK, old;

	kernel_mask(SIG_BLOCK, &all, &old);
	lock_take(&tables);
	return old;
}

static void tables_unlock(uint64_t old)
{
	lock_release(&tables);
	kernel_mask(SIG_SETMASK, &old, NULL);
}

/* Only a fault in the library's code finds it inside; the handler may well not return. */
static void run_handler(handler_fn *handler, int sig, siginfo_t *info, void *context)
{
	int inside = shim_inside;

	shim_inside = 0;
	handler(sig, info, context);
	shim_inside = inside;
}

static void send_again(int sig, siginfo_t *info)
{
	raw_syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), sig, (long)info, 0, 0);
}

/* KVM_RUN ends, and when the handler that is running has returned, this thread takes none but the four. */
static void wait_for_leave(ucontext_t *context)
{
	uint64_t mask;

	memcpy(&mask, &context->uc_sigmask, sizeof(mask));
	anykvm_signal_waits(&mask);
	memcpy(&context->uc_sigmask, &mask, sizeof(mask));
}

void shim_leave(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	if (--shim_inside)
		return;
	atomic_signal_fence(memory_order_seq_cst);
	anykvm_signals_return();
	while (unlikely(sync_kept)) {
		int sig = __builtin_ctz(sync_kept);

		sync_kept &= ~(1u << sig);
		send_again(sig, &sync_kept_info[sig]);
	}
}

/* Alignment checking is a guest's affair. */
static void clear_alignment_check(void)
{
	unsigned long flags = __builtin_ia32_readeflags_u64();

	if (flags & (1ul << 18))
		__builtin_ia32_writeeflags_u64(flags & ~(1ul << 18));
}

/* Sent again, it is blocked: by the handler's own mask first. */
static void keep_async_signal(int sig, siginfo_t *info)
{
	uint64_t itself = BIT(sig - 1);

	if (atomic_load(&handlers[sig].flags) & SA_NODEFER)
		kernel_mask(SIG_BLOCK, &itself, NULL);
	send_again(sig, info);
}

/* The kernel would have done that when the signal came the first time. */
static void reset_if_for_one_use(int sig)
{
	struct sigaction act = { .sa_handler = SIG_DFL };

	if (atomic_load(&handlers[sig].flags) & SA_RESETHAND)
		libc_sigaction(sig, &act, NULL);
}

static void async_handler(int sig, siginfo_t *info, void *context)
{
	handler_fn *handler = atomic_load(&handlers[sig].handler);

	clear_alignment_check();
	if (shim_inside) {
		wait_for_leave(context);
		keep_async_signal(sig, info);
	} else if (handler) {
		reset_if_for_one_use(sig);
		handler(sig, info, context);
	}
}

static bool was_sent(int sig, const siginfo_t *info)
{
	return info->si_code <= 0 || (sig == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

/*
 * The default action for one of the four. A fault comes again when the
 * instruction is executed again, and dumps core where it happened; a signal that
 * somebody sent has to be sent again.
 */
static void die(int sig, siginfo_t *info)
{
	struct sigaction act = { .sa_handler = SIG_DFL };

	libc_sigaction(sig, &act, NULL);
	if (was_sent(sig, info))
		send_again(sig, info);
}

/* What the client wants done. Takes away its handler if that is for one use only. */
static struct sigaction sync_action_use(int sig)
{
	uint64_t mask = tables_lock();
	struct sigaction act = sync_actions[sig];

	if (is_function(&act) && (act.sa_flags & SA_RESETHAND))
		sync_actions[sig].sa_handler = SIG_DFL;
	tables_unlock(mask);
	return act;
}

static void client_sync_signal(int sig, siginfo_t *info, ucontext_t *context)
{
	struct sigaction act = sync_action_use(sig);
	uint64_t mask, blocked;

	if (act.sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	if (!is_function(&act)) {
		die(sig, info);
		return;
	}
	/* The mask that the kernel would have given that handler; the old one returns with the context. */
	memcpy(&mask, &context->uc_sigmask, sizeof(mask));
	memcpy(&blocked, &act.sa_mask, sizeof(blocked));
	mask |= blocked | (act.sa_flags & SA_NODEFER ? 0 : BIT(sig - 1));
	kernel_mask(SIG_SETMASK, &mask, NULL);
	run_handler((handler_fn *)act.sa_sigaction, sig, info, context);
}

/* Until shim_leave(); one of a number, as the kernel keeps them. */
static void keep_sync_signal(int sig, siginfo_t *info, ucontext_t *context)
{
	if (!(sync_kept & 1u << sig))
		sync_kept_info[sig] = *info;
	sync_kept |= 1u << sig;
	wait_for_leave(context);
}

static void sync_handler(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	clear_alignment_check();
	if (was_sent(sig, info) && shim_inside)
		keep_sync_signal(sig, info, context);
	else if (!anykvm_signal(sig, info, context))
		client_sync_signal(sig, info, context);
	errno = saved;
}

/* Other signals wait while ours decides; SA_NODEFER, since it may leave by unwinding. */
static void install_sync(int sig)
{
	struct sigaction act = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (sync_actions[sig].sa_flags & SA_RESTART) };
	uint64_t mask = ~SYNC_MASK;

	act.sa_sigaction = sync_handler;
	memcpy(&act.sa_mask, &mask, sizeof(mask));
	libc_sigaction(sig, &act, NULL);
}

/* Under the lock. As sigaction(), for any signal but the four. */
static int async_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	handler_fn *was = atomic_load(&handlers[sig].handler);
	int was_flags = atomic_load(&handlers[sig].flags), ret;
	struct sigaction kernel, kernel_old;

	if (act) {
		kernel = *act;
		if (is_function(act)) {
			atomic_store(&handlers[sig].handler, (handler_fn *)act->sa_sigaction);
			atomic_store(&handlers[sig].flags, act->sa_flags);
			kernel.sa_sigaction = async_handler;
			kernel.sa_flags = (act->sa_flags | SA_SIGINFO) & ~SA_RESETHAND;
		}
	}
	ret = libc_sigaction(sig, act ? &kernel : NULL, &kernel_old);
	if (ret < 0) {
		atomic_store(&handlers[sig].handler, was);
		atomic_store(&handlers[sig].flags, was_flags);
		return ret;
	}
	if (old) {
		*old = kernel_old;
		if (kernel_old.sa_sigaction == async_handler) {
			old->sa_sigaction = was;
			old->sa_flags = (old->sa_flags & ~SA_SIGINFO) | (was_flags & (SA_SIGINFO | SA_RESETHAND));
		}
	}
	return ret;
}

/* Under the lock. As sigaction(), for one of the four. */
static int sync_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction was = sync_actions[sig];

	if (act) {
		sync_actions[sig] = *act;
		install_sync(sig);
	}
	if (old)
		*old = was;
	return 0;
}

static int shim_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	uint64_t mask;
	int ret;

	if (!atomic_load(&taken_over) || sig < 1 || sig >= SIGNALS)
		return libc_sigaction(sig, act, old);
	mask = tables_lock();
	ret = is_sync(sig) ? sync_sigaction(sig, act, old) : async_sigaction(sig, act, old);
	tables_unlock(mask);
	return ret;
}

static void take_over_signal(int sig)
{
	struct sigaction act;

	if (libc_sigaction(sig, NULL, &act) < 0)
		return;                          /* libc's own */
	if (is_sync(sig)) {
		sync_actions[sig] = act;
		install_sync(sig);
	} else if (is_function(&act)) {
		async_sigaction(sig, &act, NULL);
	}
}

void signals_take_over(void)
{
	uint64_t mask;

	if (atomic_load(&taken_over))
		return;
	mask = tables_lock();
	if (!atomic_load(&taken_over)) {
		for (int sig = 1; sig < SIGNALS; sig++)
			take_over_signal(sig);
		pthread_atfork(NULL, NULL, anykvm_forked);
		masks_prepare();
		atomic_store(&taken_over, true);
	}
	tables_unlock(mask);
}

/* libc's sigaction() refuses its own signals, so this is the kernel's, whose restorer stays libc's. */
struct kernel_sigaction {
	handler_fn *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

void signals_take_over_cancel(void)
{
	struct kernel_sigaction act;
	uint64_t mask;

	if (!atomic_load(&taken_over))
		return;
	mask = tables_lock();
	if (!raw_syscall(SYS_rt_sigaction, SIGCANCEL, 0, (long)&act, KERNEL_SIGSET, 0, 0) && act.handler && act.handler != async_handler) {
		atomic_store(&handlers[SIGCANCEL].handler, act.handler);
		act.handler = async_handler;
		raw_syscall(SYS_rt_sigaction, SIGCANCEL, (long)&act, 0, KERNEL_SIGSET, 0, 0);
	}
	tables_unlock(mask);
}

/* ---- symbols ---- */

EXPORT int sigaction(int sig, const struct sigaction *restrict act, struct sigaction *restrict old)
{
	return shim_sigaction(sig, act, old);
}

EXPORT int __sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return shim_sigaction(sig, act, old);
}

static sighandler_t simple_signal(int sig, sighandler_t handler, int flags)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = flags }, old;

	if (handler == SIG_ERR || sig < 1 || sig >= SIGNALS) {
		errno = EINVAL;
		return SIG_ERR;
	}
	sigemptyset(&act.sa_mask);
	if (!(flags & SA_NODEFER))
		sigaddset(&act.sa_mask, sig);
	return shim_sigaction(sig, &act, &old) < 0 ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
	return simple_signal(sig, handler, SA_RESTART);
}

EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler)
{
	return simple_signal(sig, handler, SA_RESTART);
}

EXPORT sighandler_t ssignal(int sig, sighandler_t handler)
{
	return simple_signal(sig, handler, SA_RESTART);
}

EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
	return simple_signal(sig, handler, SA_RESETHAND | SA_NODEFER);
}

EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
	return simple_signal(sig, handler, SA_RESETHAND | SA_NODEFER);
}
