/*
 * pthread_cancel() of a thread that is in the library's code. libc sends the signal SIGCANCEL to a thread that may be
 * cancelled anywhere, and unwinds it from the handler, whatever it holds; here that waits like other handlers (signals.c).
 *
 * libc installs its handler within the first pthread_cancel(), and may send the signal in the same call. So that ours is
 * there before, the first one made is that of a thread for which it means nothing.
 */
#include <pthread.h>
#include "shim/shim.h"

static int libc_cancel(pthread_t thread)
{
	return REAL(pthread_cancel)(thread);
}

static void *wait_for_lock(void *arg)
{
	pthread_mutex_t *lock = arg;

	pthread_mutex_lock(lock);                /* no cancellation point, and this thread has none */
	pthread_mutex_unlock(lock);
	return NULL;
}

static void install_libc_handler(void)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	sigset_t all, mask;
	pthread_t thread;
	int state;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &mask);         /* the client's handlers run on the client's threads */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	pthread_mutex_lock(&lock);
	if (!pthread_create(&thread, NULL, wait_for_lock, &lock)) {
		libc_cancel(thread);
		pthread_mutex_unlock(&lock);
		pthread_join(thread, NULL);
	}
	pthread_setcancelstate(state, NULL);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

EXPORT int pthread_cancel(pthread_t thread)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (atomic_load_explicit(&shim_used, memory_order_relaxed)) {
		pthread_once(&once, install_libc_handler);
		signals_take_over_cancel();
	}
	return libc_cancel(thread);
}
