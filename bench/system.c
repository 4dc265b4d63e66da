/* The kernel's work: calls, processes, pipes, faults, mappings, signals, timers; and instructions that leave a guest. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

enum { PAGE = 4096, FAULT_AREA = 4 << 20, MAPPING = 64 << 10, RING_PROCESSES = 8, RING_TOUCH = 32 << 10, PORT = 0x80 };

static void wait_for(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0)
		if (errno != EINTR)
			fail("waitpid");
}

static pid_t fork_or_fail(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	return pid;
}

void run_fork(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		pid_t pid = fork_or_fail();

		if (!pid)
			_exit(0);
		wait_for(pid);
	}
}

void run_forkexec(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		pid_t pid = fork_or_fail();

		if (!pid) {
			execl(self_path, "bench", "--nothing", (char *)NULL);
			_exit(1);
		}
		wait_for(pid);
	}
}

void run_getpid(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		sink += syscall(SYS_getpid);
}

/* ---- processes that pass a byte around through pipes ---- */

static int pipes[RING_PROCESSES][2];
static unsigned pipe_count;

static void make_pipes(unsigned n)
{
	pipe_count = n;
	for (unsigned i = 0; i < n; i++)
		if (pipe(pipes[i]))
			fail("pipe");
}

void setup_pipe(void)
{
	make_pipes(2);
}

void setup_ctxsw(void)
{
	make_pipes(RING_PROCESSES);
}

static void touch(uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i += 64)
		p[i]++;
}

/* Member i reads from its pipe and writes to the next one's; it ends when its pipe is closed. */
static _Noreturn void ring_member(unsigned i, size_t work_set)
{
	static uint8_t own[RING_TOUCH];
	char c;

	for (unsigned k = 0; k < pipe_count; k++) {
		if (k != i)
			close(pipes[k][0]);
		if (k != (i + 1) % pipe_count)
			close(pipes[k][1]);
	}
	while (read(pipes[i][0], &c, 1) == 1) {
		touch(own, work_set);
		if (write(pipes[(i + 1) % pipe_count][1], &c, 1) != 1)
			break;
	}
	_exit(0);
}

static void run_ring(uint64_t work, size_t work_set)
{
	static uint8_t own[RING_TOUCH];
	pid_t members[RING_PROCESSES];
	char c = 0;

	for (unsigned i = 1; i < pipe_count; i++) {
		members[i] = fork_or_fail();
		if (!members[i])
			ring_member(i, work_set);
	}
	for (uint64_t n = 0; n < work; n++) {
		if (write(pipes[1][1], &c, 1) != 1 || read(pipes[0][0], &c, 1) != 1)
			fail("pipe");
		touch(own, work_set);
	}
	for (unsigned i = 0; i < pipe_count; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
	for (unsigned i = 1; i < pipe_count; i++)
		wait_for(members[i]);
}

void run_pipe(uint64_t work)
{
	run_ring(work, 0);
}

void run_ctxsw(uint64_t work)
{
	run_ring(work, RING_TOUCH);
}

/* ---- memory ---- */

static uint8_t *pages;

void setup_fault(void)
{
	pages = arena(FAULT_AREA);
	madvise(pages, FAULT_AREA, MADV_NOHUGEPAGE);
}

void run_fault(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		size_t at = i * PAGE % FAULT_AREA;

		if (!at)
			madvise(pages, FAULT_AREA, MADV_DONTNEED);
		pages[at] = 1;
	}
}

void setup_mprotect(void)
{
	pages = arena(16 * PAGE);
}

void run_mprotect(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		uint8_t *p = pages + i % 16 * PAGE;

		mprotect(p, PAGE, PROT_READ);
		mprotect(p, PAGE, PROT_READ | PROT_WRITE);
		*p = 1;
	}
}

void run_mmap(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		uint8_t *p = mmap(NULL, MAPPING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			fail("mmap");
		*p = 1;
		munmap(p, MAPPING);
	}
}

/* ---- signals and time ---- */

static void on_signal(int signo)
{
	sink++;
}

void setup_signal(void)
{
	signal(SIGUSR1, on_signal);
}

void run_signal(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		raise(SIGUSR1);
}

void run_clock(uint64_t work)
{
	struct timespec t;

	for (uint64_t i = 0; i < work; i++) {
		clock_gettime(CLOCK_MONOTONIC, &t);
		sink += t.tv_nsec;
	}
}

void run_timer(uint64_t work)
{
	struct timespec t = { .tv_nsec = 50000 };

	for (uint64_t i = 0; i < work; i++)
		nanosleep(&t, NULL);
}

/* Milliseconds in which nothing is to be done. */
void run_idle(uint64_t work)
{
	struct timespec t = { .tv_sec = work / 1000, .tv_nsec = work % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

/* ---- exits ---- */

void run_cpuid(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		uint32_t a = 0, b, c = 0, d;

		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		sink += b;
	}
}

void run_rdtsc(uint64_t work)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < work; i++)
		sum += __builtin_ia32_rdtsc();
	sink += sum;
}

/* The port that firmware writes its progress to: reading it changes nothing. */
const char *without_ports(void)
{
	return ioperm(PORT, 1, 1) ? "port I/O is not permitted here" : NULL;
}

void run_port(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		sink += inb(PORT);
}
