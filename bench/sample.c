/*
 * Runs the benchmark program once at one level and measures it from outside:
 * at each of its '@' lines (see bench.c) the CPU time of the process we
 * started is read, to the nanosecond; for a QEMU that is everything its guest
 * did, at every level of nesting. The program waits for our answer, so a
 * delay on our side costs nobody anything.
 *
 *   sample -l LEVEL -r ROUND -o FILE -w ROWS [-n] [-m MIB] [-p LIBRARY] [-c SECONDS] -- COMMAND...
 *
 * %ROWS% in the command stands for the rows. -n: the process is the benchmark itself, and its own figures count.
 * -m: guest RAM, to be taken off the memory; without it boot and memory are not noted. -p: library to preload; it must then be in the process.
 * -c: most CPU seconds from one line to the next. A row that hangs or ends the guest is noted, and the rest run in a new one.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 1024, MOST_GUESTS = 5, MOST_IDLE = 10 };
enum outcome { RUNNING, DONE, BROKEN };

static const char *level, *rounds, *rows, *preload;
static bool native;
static unsigned long guest_mib;
static double limit = 60;
static FILE *out;

static struct {
	pid_t pid;
	int in, out;
	clockid_t clock;
	char row[64];                        /* the row that runs, or "" */
	uint64_t row_start, row_end, stage_start;        /* CPU time at its beginning and end, and at L1's start of L2 */
	uint64_t marks;                      /* what the marks of a row cost */
	uint64_t last_cpu, last_wall;        /* at the last line */
	unsigned long memory, ram;           /* at the end of the last row, KiB */
	char why[128];
} run;

static void die(const char *what)
{
	fprintf(stderr, "sample: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t = { 0 };

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static char *replaced(const char *text, const char *with)
{
	const char *at = strstr(text, "%ROWS%");
	char *s;

	if (!at)
		return strdup(text);
	if (asprintf(&s, "%.*s%s%s", (int)(at - text), text, with, at + 6) < 0)
		die("memory");
	return s;
}

static void start(char **command)
{
	int to[2], from[2];

	if (pipe2(to, 02000000) || pipe2(from, 02000000))     /* O_CLOEXEC */
		die("pipe");
	run.pid = fork();
	if (run.pid < 0)
		die("fork");
	if (!run.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(to[0], 0);
		dup2(from[1], 1);
		for (char **a = command; *a; a++)
			*a = replaced(*a, rows);
		if (preload)
			setenv("LD_PRELOAD", preload, 1);
		execvp(*command, command);
		die(*command);
	}
	close(to[0]);
	close(from[1]);
	run.in = to[1];
	run.out = from[0];
	run.row[0] = run.why[0] = 0;
	run.stage_start = 0;
	run.marks = UINT64_MAX;
	run.memory = run.ram = 0;
	run.last_cpu = 0;
	run.last_wall = clock_ns(CLOCK_MONOTONIC);
	clock_getcpuclockid(run.pid, &run.clock);
}

static void stop(void)
{
	kill(run.pid, SIGKILL);
	waitpid(run.pid, NULL, 0);
	close(run.in);
	close(run.out);
}

static void answer(void)
{
	if (write(run.in, "\n", 1) != 1)
		fprintf(stderr, " (the guest takes no input)");
}

/* True if the library that the run is about is in the process: figures of another KVM would be worthless. */
static bool preloaded(void)
{
	char path[64], line[LINE];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", run.pid);
	f = fopen(path, "r");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, preload);
	if (f)
		fclose(f);
	return found;
}

/* Proportional set size of all mappings, and of those as large as guest RAM, KiB. */
static void take_memory(void)
{
	unsigned long from, to, pss, all = 0, ram = 0, size = 0;
	char path[64], line[LINE];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", run.pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			size = (to - from) >> 20;
		if (sscanf(line, "Pss: %lu kB", &pss) == 1) {
			all += pss;
			ram += size == guest_mib ? pss : 0;
		}
	}
	if (f)
		fclose(f);
	run.memory = all;
	run.ram = ram;
}

/* Marking a row costs a nested guest milliseconds: what it costs a row without work is taken off the others. */
static uint64_t row_cost(void)
{
	uint64_t cost = run.row_end - run.row_start;

	return cost > run.marks ? cost - run.marks : 0;
}

static void note_end(const char *arguments)
{
	unsigned long long work, guest, own;
	char name[64];

	if (sscanf(arguments, "%63s %llu %llu %llu", name, &work, &guest, &own) != 4 || strcmp(name, run.row))
		return;
	if (!strcmp(name, "empty"))
		run.marks = run.row_end - run.row_start < run.marks ? run.row_end - run.row_start : run.marks;
	else
		fprintf(out, "%s %s row %s %llu %llu %llu\n", level, rounds, name, work, native ? own : (unsigned long long)row_cost(), guest);
	run.row[0] = 0;
}

static enum outcome note_hello(uint64_t cpu)
{
	if (preload && !preloaded()) {
		snprintf(run.why, sizeof(run.why), "%.90s is not in the process", preload);
		return BROKEN;
	}
	if (guest_mib) {
		fprintf(out, "%s %s boot %s %llu\n", level, rounds, run.stage_start ? "L2" : "L1",
		        (unsigned long long)(cpu - run.stage_start));
		fprintf(stderr, " boot(%.1fs)", (cpu - run.stage_start) * 1e-9);
	}
	return RUNNING;
}

/* One '@' line. */
static enum outcome take_line(const char *line)
{
	uint64_t cpu = clock_ns(run.clock);
	char word[16] = "", name[64] = "";
	const char *arguments = strchr(line, ' ');

	sscanf(line, "@%15s %63s", word, name);
	arguments = arguments ? arguments + 1 : "";
	run.last_cpu = cpu;
	run.last_wall = clock_ns(CLOCK_MONOTONIC);
	if (!strcmp(word, "hello"))
		return note_hello(cpu);
	if (!strcmp(word, "l1") && guest_mib)
		fprintf(out, "%s %s boot L1 %llu\n", level, rounds, (unsigned long long)cpu);
	if (!strcmp(word, "l2"))
		run.stage_start = cpu;
	if (!strcmp(word, "skip"))
		fprintf(out, "%s %s skip %s\n", level, rounds, arguments);
	if (!strcmp(word, "fail")) {
		snprintf(run.why, sizeof(run.why), "%.100s", arguments);
		return BROKEN;
	}
	if (!strcmp(word, "begin")) {
		snprintf(run.row, sizeof(run.row), "%s", name);
		if (strcmp(name, "empty"))
			fprintf(stderr, " %s", name);
		run.row_start = clock_ns(run.clock);
		answer();
	}
	if (!strcmp(word, "."))
		run.row_end = cpu;
	if (!strcmp(word, "end")) {
		note_end(arguments);
		take_memory();
		answer();
	}
	return strcmp(word, "done") ? RUNNING : DONE;
}

static bool over_limit(void)
{
	uint64_t cpu = clock_ns(run.clock) - run.last_cpu, wall = clock_ns(CLOCK_MONOTONIC) - run.last_wall;

	if (cpu > limit * 1e9)
		snprintf(run.why, sizeof(run.why), "over %g CPU seconds", limit);
	else if (wall > limit * 1e9 * MOST_IDLE || (wall > limit * 1e9 && cpu < wall / 20))
		snprintf(run.why, sizeof(run.why), "no answer");
	return *run.why;
}

/* Guest output to lines; what does not begin with '@' is kept in the log for people. */
static enum outcome take_output(FILE *log)
{
	static char line[LINE];
	size_t n = 0;
	char c;

	for (;;) {
		struct pollfd p = { .fd = run.out, .events = POLLIN };

		if (!poll(&p, 1, 1000)) {
			if (over_limit())
				return BROKEN;
			continue;
		}
		if (read(run.out, &c, 1) != 1) {
			snprintf(run.why, sizeof(run.why), "the guest or its QEMU ended");
			return BROKEN;
		}
		fputc(c, log);
		if (c != '\n' && c != '\r' && n < LINE - 1) {
			line[n++] = c;
			continue;
		}
		line[n] = 0;
		n = 0;
		if (*line == '@') {
			enum outcome o = take_line(line);

			if (o != RUNNING)
				return o;
		}
	}
}

/* What is left of the list after the row that broke. */
static const char *rows_after(const char *name)
{
	size_t len = strlen(name);

	for (const char *p = rows; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, name, len) && p[len] == ':')
			return strchr(p, ',') ? strchr(p, ',') + 1 : "";
	return "";
}

static void run_all(char **command, FILE *log)
{
	for (int guests = 0; *rows && guests < MOST_GUESTS; guests++) {
		enum outcome outcome;
		char *failed;

		start(command);
		outcome = take_output(log);
		if (guest_mib && run.memory)
			fprintf(out, "%s %s mem %lu %lu\n", level, rounds, run.memory, run.ram);
		if (outcome == DONE) {
			stop();
			return;
		}
		failed = *run.row ? run.row : "boot";
		fprintf(out, "%s %s fail %s %s\n", level, rounds, failed, run.why);
		fprintf(stderr, " [%s: %s]", failed, run.why);
		stop();
		rows = rows_after(failed);
	}
}

int main(int argc, char **argv)
{
	char name[512];
	FILE *log;
	int c;

	while ((c = getopt(argc, argv, "+l:r:o:w:nm:p:c:")) != -1) {
		switch (c) {
		case 'l': level = optarg; break;
		case 'r': rounds = optarg; break;
		case 'o': snprintf(name, sizeof(name), "%s", optarg); out = fopen(name, "a"); break;
		case 'w': rows = optarg; break;
		case 'n': native = true; break;
		case 'm': guest_mib = strtoul(optarg, NULL, 0); break;
		case 'p': preload = optarg; break;
		case 'c': limit = atof(optarg); break;
		default: return 2;
		}
	}
	if (!level || !rounds || !out || !rows || optind >= argc)
		return fprintf(stderr, "sample: see the head of sample.c\n"), 2;
	setvbuf(out, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	snprintf(name + strlen(name), sizeof(name) - strlen(name), ".%s.log", level);
	log = fopen(name, "a");
	if (!log)
		die(name);
	setvbuf(log, NULL, _IOLBF, 0);
	fprintf(stderr, "%s %s:", rounds, level);
	run_all(argv + optind, log);
	fprintf(stderr, "\n");
	return 0;
}
