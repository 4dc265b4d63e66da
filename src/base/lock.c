/*
 * Locks and sleeping for code inside KVM_RUN: raw futexes in general registers.
 *
 * The lock's word: 0 free, 1 taken, 2 taken and somebody may be asleep. Only a
 * release that finds 2 pays for a system call. A taker that has slept always
 * leaves 2 behind: it cannot know whether others still sleep, and a word of 1
 * would lose their wake-up.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include "base/base.h"

enum { SPINS = 100 };

static long futex(_Atomic uint32_t *word, long op, uint32_t value, const struct timespec *timeout)
{
	register const struct timespec *r10 asm("r10") = timeout;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "0"(SYS_futex), "D"(word), "S"(op | FUTEX_PRIVATE_FLAG), "d"((unsigned long)value), "r"(r10)
		     : "rcx", "r11", "memory");
	return ret;
}

void futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec ts = { .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000 };

	futex(word, FUTEX_WAIT, value, timeout_ns == UINT64_MAX ? NULL : &ts);
}

void futex_wake(_Atomic uint32_t *word, int count)
{
	futex(word, FUTEX_WAKE, (uint32_t)count, NULL);
}

static bool take_if_free(struct lock *l)
{
	uint32_t free = 0;

	return atomic_load_explicit(&l->word, memory_order_relaxed) == 0 &&
	       atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed);
}

void lock_take(struct lock *l)
{
	for (int i = 0; i < SPINS; i++) {
		if (likely(take_if_free(l)))
			return;
		asm volatile("pause");
	}
	while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
		futex_wait(&l->word, 2, UINT64_MAX);
}

void lock_release(struct lock *l)
{
	if (atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2)
		futex_wake(&l->word, 1);
}
