/* Alarms: a timerfd each. Only the thread that sleeps on it is ever woken, and only when the time has come. */
#include <sys/timerfd.h>
#include "base/base.h"
#include "base/syscall.h"

int alarm_open(struct alarm *a)
{
	a->fd = raw_syscall(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC, 0, 0, 0, 0);
	return a->fd < 0 ? a->fd : 0;
}

void alarm_close(struct alarm *a)
{
	raw_syscall(SYS_close, a->fd, 0, 0, 0, 0, 0);
	a->fd = -1;
}

void alarm_set(struct alarm *a, uint64_t at)
{
	struct itimerspec when = { .it_value = { .tv_sec = at / 1000000000, .tv_nsec = at ? at % 1000000000 : 1 /* 0 means never */ } };

	raw_syscall(SYS_timerfd_settime, a->fd, TFD_TIMER_ABSTIME, (long)&when, 0, 0, 0);
}

void alarm_wait(struct alarm *a)
{
	uint64_t times;

	raw_syscall(SYS_read, a->fd, (long)&times, sizeof(times), 0, 0, 0);
}
