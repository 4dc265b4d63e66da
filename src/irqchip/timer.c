/*
 * Time for the devices: one thread per chip, and an array of deadlines (slot 0
 * the PIT's, then one per LAPIC). Deadlines change under the chip's lock, and
 * so are the callbacks made.
 *
 * A later deadline costs nothing: the thread wakes at the old time, finds
 * nothing due, and sleeps again. Only a deadline before sleep_until pays for a
 * wake-up. While the thread is awake sleep_until is 0, so that callbacks which
 * re-arm do not wake it. The lost wake-up that must not be: the thread reads
 * wake under the lock, after its scan, so a deadline set between its release
 * of the lock and its futex call has changed the word.
 */
#include <signal.h>
#include <sys/prctl.h>
#include "irqchip/internal.h"

void chip_timer_set(struct irqchip *c, unsigned slot, uint64_t at)
{
	c->deadline[slot] = at;
	if (at < c->sleep_until) {
		c->sleep_until = at;
		atomic_fetch_add(&c->wake, 1);
		futex_wake(&c->wake, 1);
	}
}

static void fire(struct irqchip *c, unsigned slot, uint64_t now)
{
	chip_timer_clear(c, slot);
	if (slot == TIMER_PIT)
		pit_due(c, now);
	else
		lapic_timer_due(c->lapics[slot - 1], now);
}

/* Fires what is due and returns the next deadline. */
static uint64_t scan(struct irqchip *c, uint64_t now)
{
	uint64_t next = UINT64_MAX;
	unsigned n = c->nlapics + 1;

	for (unsigned i = 0; i < n; i++) {
		if (c->deadline[i] <= now)
			fire(c, i, now);
		if (c->deadline[i] < next)
			next = c->deadline[i];
	}
	return next;
}

static void *timer_thread(void *arg)
{
	struct irqchip *c = arg;
	uint64_t now, next;
	uint32_t seen;
	bool stop;

	prctl(PR_SET_NAME, "irqchip");
	prctl(PR_SET_TIMERSLACK, 1);
	do {
		chip_enter(c);
		c->sleep_until = 0;
		now = time_ns();
		next = scan(c, now);
		c->sleep_until = next;
		seen = c->wake;
		stop = c->stop;
		chip_leave(c);
		now = time_ns();
		if (!stop && next > now)
			futex_wait(&c->wake, seen, next == UINT64_MAX ? UINT64_MAX : next - now);
	} while (!stop);
	return NULL;
}

/* The client's signals are not for this thread. */
int irqchip_start(struct irqchip *c)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&c->thread, NULL, timer_thread, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	c->started = r == 0;
	return r ? -EAGAIN : 0;
}

void timer_stop(struct irqchip *c)
{
	if (!c->started)
		return;
	chip_enter(c);
	c->stop = true;
	atomic_fetch_add(&c->wake, 1);
	futex_wake(&c->wake, 1);
	chip_leave(c);
	pthread_join(c->thread, NULL);
	c->started = false;
}
