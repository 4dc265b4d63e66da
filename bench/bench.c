/*
 * The benchmark program. It is the same static file natively, as init of L1,
 * and as init of L2, and does the same work there.
 *
 *   bench ROW:WORK,...    run rows (as init: environment variable "bench")
 *   bench --list [SHARE [CPUS]]
 *                         print rows that use CPUS processors as one ROW:WORK,... list, the work divided by SHARE
 *   bench --calibrate S   print rows.def's work column for S seconds per row
 *
 * Whoever measures reads the lines that begin with '@', and answers each one
 * marked * with a newline before the program goes on:
 *
 *   @hello CPUS        * @begin ROW WORK          @.        * @end ROW WORK GUEST_NS OWN_CPU_NS
 *   @skip ROW WHY        @done
 *
 * "@." is the moment at which a row's work is done; it is short, for each character that L2 prints costs exits.
 *
 * The measure is the CPU time of the process at the other end (a QEMU, with
 * all of its guest's work in it); OWN_CPU_NS serves the native run.
 */
#include "bench.h"
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ROW(name, group, work, unit, setup, run, missing, processors) \
	{ #name, #group, unit, work, setup, run, missing, processors },
const struct row rows[] = {
#include "rows.def"
};
#undef ROW
const unsigned row_count = sizeof(rows) / sizeof(*rows);
volatile uint64_t sink;
const char *self_path;
enum { EMPTY_ROWS = 6 };

static void *arena_start;
static size_t arena_size;

void fail(const char *what)
{
	printf("@fail %s: %s\n", what, strerror(errno));
	fflush(stdout);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	_exit(1);
}

void *arena(size_t size)
{
	arena_size = size;
	arena_start = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (arena_start == MAP_FAILED)
		fail("mmap");
	memset(arena_start, 1, size);
	return arena_start;
}

static void arena_release(void)
{
	if (arena_start)
		munmap(arena_start, arena_size);
	arena_start = NULL;
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

void no_setup(void)
{
}

const char *always(void)
{
	return NULL;
}

/* The given one of the processors that we were started on, so that outer taskset and cpusets hold. */
void pin(int processor)
{
	static cpu_set_t all;
	cpu_set_t one;

	if (!CPU_COUNT(&all))
		sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all) && !processor--)
			CPU_SET(i, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t usage_ns(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000ull + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000ull;
}

/* Children of a row have ended, and are waited for, when the row has. */
static uint64_t cpu_ns(void)
{
	return usage_ns(RUSAGE_SELF) + usage_ns(RUSAGE_CHILDREN);
}

static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fflush(stdout);
}

static void await_answer(void)
{
	char c;

	do {
		if (read(0, &c, 1) != 1)
			fail("the measuring end is gone");
	} while (c != '\n' && c != '\r');
}

static void run_row(const struct row *r, uint64_t work)
{
	const char *why = sysconf(_SC_NPROCESSORS_ONLN) < r->processors ? "it needs more processors" : r->missing();
	uint64_t wall, cpu;

	if (why) {
		say("@skip %s %s\n", r->name, why);
		return;
	}
	r->setup();
	say("@begin %s %llu\n", r->name, (unsigned long long)work);
	await_answer();
	cpu = cpu_ns();
	wall = wall_ns();
	r->run(work);
	wall = wall_ns() - wall;
	cpu = cpu_ns() - cpu;
	say("@.\n");
	say("@end %s %llu %llu %llu\n", r->name, (unsigned long long)work, (unsigned long long)wall, (unsigned long long)cpu);
	await_answer();
	arena_release();
}

static const struct row *find_row(const char *name)
{
	for (unsigned i = 0; i < row_count; i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	return NULL;
}

static void run_nothing(uint64_t work)
{
}

/* Rows without work come first: the least that any costs is what marking a row costs here. */
static void run_empty_rows(void)
{
	static const struct row empty = { "empty", "", "", 0, no_setup, run_nothing, always, 1 };

	for (int i = 0; i < EMPTY_ROWS; i++)
		run_row(&empty, 0);
}

static void run_list(char *list)
{
	run_empty_rows();
	for (char *item = strtok(list, ","); item; item = strtok(NULL, ",")) {
		char *work = strchr(item, ':');
		const struct row *r;

		if (work)
			*work++ = 0;
		r = find_row(item);
		if (r)
			run_row(r, work ? strtoull(work, NULL, 0) : r->work);
		else
			say("@skip %s no such row\n", item);
	}
	say("@done\n");
}

static void print_list(uint64_t share, int processors)
{
	for (unsigned i = 0, n = 0; i < row_count; i++)
		if (rows[i].processors == processors)
			printf("%s%s:%llu", n++ ? "," : "", rows[i].name, (unsigned long long)(rows[i].work / share + 1));
	printf("\n");
}

/* Two digits suffice: the work is a round number, and everybody's the same. */
static uint64_t rounded(double x)
{
	uint64_t scale = 1;

	for (; x >= 100; x /= 10)
		scale *= 10;
	return (uint64_t)(x + 0.5) * scale;
}

static void calibrate(double seconds)
{
	for (unsigned i = 0; i < row_count; i++) {
		uint64_t work = 1, cpu = 0;

		if (rows[i].missing() || !strcmp(rows[i].group, "idle"))
			continue;
		while (cpu < 1e8 * (seconds < 1 ? seconds : 1)) {
			work *= 4;
			rows[i].setup();
			cpu = cpu_ns();
			rows[i].run(work);
			cpu = cpu_ns() - cpu;
			arena_release();
		}
		printf("%s %llu\n", rows[i].name, (unsigned long long)rounded(work * seconds * 1e9 / cpu));
		fflush(stdout);
	}
}

static void be_init(void)
{
	struct termios t;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	if (!tcgetattr(0, &t)) {
		cfmakeraw(&t);
		t.c_oflag |= OPOST | ONLCR;
		tcsetattr(0, TCSANOW, &t);
	}
}

int main(int argc, char **argv)
{
	bool init = getpid() == 1;
	char *list = init ? getenv("bench") : argv[1];

	self_path = init ? "/init" : "/proc/self/exe";
	if (!list || !strcmp(list, "--nothing"))
		return !list;
	if (!strcmp(list, "--list"))
		return print_list(argc > 2 ? strtoull(argv[2], NULL, 0) : 1, argc > 3 ? atoi(argv[3]) : 1), 0;
	if (!strcmp(list, "--calibrate"))
		return pin(0), calibrate(argc > 2 ? atof(argv[2]) : 0.25), 0;
	if (init)
		be_init();
	say("@hello %d\n", (int)sysconf(_SC_NPROCESSORS_ONLN));
	pin(0);
	run_list(list);
	if (init)
		reboot(RB_POWER_OFF);
	return 0;
}
