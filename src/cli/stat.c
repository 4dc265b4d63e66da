/*
 * anykvm stat: what the vCPUs of running clients have counted.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "cli/cli.h"
#include "cli/counters.h"

static void remember(long pid, void *arg)
{
	*(long *)arg = pid;
}

static void print(long pid, void *arg)
{
	printf("%ld\n", pid);
}

static int report(long pid, double interval)
{
	static struct counters c[MOST_VCPUS];
	int n = counters_of_process(pid, c, MOST_VCPUS);

	if (n < 0)
		return complain(1, "stat: process %ld: %s", pid, errno == ENOENT ? "there is none" : strerror(errno));
	if (!n)
		return complain(1, "stat: process %ld has no vCPUs of anykvm", pid);
	if (!counters_of_one_kind(c, (unsigned)n))
		return complain(1, "stat: process %ld: its counters are of another kind", pid);
	counters_print(c, (unsigned)n);
	while (interval > 0 && !kill(pid, 0)) {
		usleep((useconds_t)(interval * 1e6));
		putchar('\n');
		counters_print(c, (unsigned)n);
	}
	return 0;
}

static bool number(const char *text, double *to)
{
	char *end;

	*to = strtod(text, &end);
	return end != text && !*end && *to > 0 && *to < 1e9;
}

int command_stat(int argc, char **argv)
{
	static const struct option options[] = { { "interval", required_argument, NULL, 'i' }, { 0 } };
	double interval = 0, pid_number;
	long pid = 0;
	unsigned n;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == ':')
			return complain(EXIT_USAGE, "stat: %s needs a value", argv[optind - 1]);
		if (c != 'i')
			return complain(EXIT_USAGE, "stat: there is no option %s", argv[optind - 1]);
		if (!number(optarg, &interval))
			return complain(EXIT_USAGE, "stat: --interval %s: not a number of seconds", optarg);
	}
	if (argc - optind > 1)
		return complain(EXIT_USAGE, "stat: takes one process, but got \"%s\" as well", argv[optind + 1]);
	if (optind < argc) {
		if (!number(argv[optind], &pid_number) || pid_number != (long)pid_number)
			return complain(EXIT_USAGE, "stat: \"%s\" is not a process number", argv[optind]);
		return report((long)pid_number, interval);
	}
	n = counters_processes(remember, &pid);
	if (n == 1)
		return report(pid, interval);
	if (!n)
		return complain(1, "stat: no process that you may look at runs vCPUs of anykvm");
	counters_processes(print, NULL);
	return complain(1, "stat: there are %u such processes: name one of them", n);
}
