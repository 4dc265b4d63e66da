/* Alarms: they end a sleep when their time has come, even if that was before it, and setting one wakes nobody. Prints TAP. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "../tap.h"

enum { FAR = 1000000000 /* seconds from the machine's start */ };
#define FAR_NS (FAR * 1000000000ull)

static struct sleeper {
	struct alarm alarm;
	_Atomic pid_t thread;
} sleeper;

static void *sleeper_run(void *arg)
{
	struct sleeper *s = arg;

	s->thread = gettid();
	alarm_wait(&s->alarm);
	return NULL;
}

/* A line of the thread's status: what stands behind name. */
static void status_of(pid_t thread, const char *name, char *value, size_t size)
{
	char path[64], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", thread);
	f = fopen(path, "r");
	*value = 0;
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			snprintf(value, size, "%s", line + strlen(name));
	if (f)
		fclose(f);
}

static void await_sleep(pid_t thread)
{
	char state[32];

	do {
		usleep(100);
		status_of(thread, "State:\t", state, sizeof(state));
	} while (*state != 'S');
}

static void test_past(void)
{
	struct alarm a;

	check_equal(alarm_open(&a), 0);
	alarm_set(&a, 0);
	alarm_wait(&a);
	alarm_set(&a, FAR_NS);
	alarm_set(&a, time_ns() - 1);
	alarm_wait(&a);
	alarm_close(&a);
}

static void test_future(void)
{
	struct alarm a;
	uint64_t at = time_ns() + 2000000;

	check_equal(alarm_open(&a), 0);
	alarm_set(&a, at);
	alarm_wait(&a);
	check(time_ns() >= at);
	alarm_close(&a);
}

static void test_set_wakes_nobody(void)
{
	char before[32], after[32];
	pthread_t t;

	check_equal(alarm_open(&sleeper.alarm), 0);
	check_equal(pthread_create(&t, NULL, sleeper_run, &sleeper), 0);
	while (!sleeper.thread)
		usleep(100);
	await_sleep(sleeper.thread);
	status_of(sleeper.thread, "voluntary_ctxt_switches:\t", before, sizeof(before));
	for (int i = 0; i < 100; i++)
		alarm_set(&sleeper.alarm, FAR_NS - i);
	await_sleep(sleeper.thread);
	status_of(sleeper.thread, "voluntary_ctxt_switches:\t", after, sizeof(after));
	check_that(*before && !strcmp(before, after), "woken: %s switches, then %s", before, after);
	alarm_set(&sleeper.alarm, 0);
	pthread_join(t, NULL);
	alarm_close(&sleeper.alarm);
}

static const struct test tests[] = {
	{ "a time that is past ends the sleep at once", test_past },
	{ "the sleep is not too short", test_future },
	{ "setting it wakes nobody", test_set_wakes_nobody },
};

int main(void)
{
	return run_tests(tests, ARRAY_SIZE(tests));
}
