/*
 * Time for the devices: one thread per chip, and an array of deadlines (slot 0
 * the PIT's, then one per LAPIC). Deadlines change under the chip's lock, and
 * so are the callbacks made.
 *
 * A later deadline costs nothing: the thread wakes at the old time, finds
 * nothing due, and sleeps again. A deadline before sleep_until costs a system
 * call, which sets the alarm that the thread sleeps on. While the thread is
 * awake sleep_until is 0, so that callbacks which re-arm leave the alarm to it.
 */
#include <signal.h>
#include <sys/prctl.h>
#include "irqchip/internal.h"

void chip_timer_set(struct irqchip *c, unsigned slot, uint64_t at)
{
	c->deadline[slot] = at;
	if (at < c->sleep_until) {
		c->sleep_until = at;
		alarm_set(&c->alarm, at);
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
	bool stop;

	prctl(PR_SET_NAME, "irqchip");
	for (;;) {
		chip_enter(c);
		c->sleep_until = 0;
		c->sleep_until = scan(c, time_ns());
		if (c->sleep_until != UINT64_MAX)
			alarm_set(&c->alarm, c->sleep_until);
		stop = c->stop;
		chip_leave(c);
		if (stop)
			return NULL;
		alarm_wait(&c->alarm);
	}
}

/* The client's signals are not for this thread. */
int irqchip_start(struct irqchip *c)
{
	sigset_t all, old;
	int r = alarm_open(&c->alarm);

	if (r)
		return r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&c->thread, NULL, timer_thread, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	c->started = r == 0;
	if (r)
		alarm_close(&c->alarm);
	return r ? -EAGAIN : 0;
}

void timer_stop(struct irqchip *c)
{
	if (!c->started)
		return;
	chip_enter(c);
	c->stop = true;
	alarm_set(&c->alarm, 0);
	chip_leave(c);
	pthread_join(c->thread, NULL);
	c->started = false;
	c->sleep_until = 0;
	alarm_close(&c->alarm);
}
