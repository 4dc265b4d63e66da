/* Two processors: wake-ups and TLB shootdowns, both of which are an IPI and an answer. */
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench.h"

enum { PAGE = 4096 };
static _Atomic uint32_t turn[2];
static _Atomic int stop;
static uint8_t *page;

static void give(int to)
{
	atomic_store(&turn[to], 1);
	syscall(SYS_futex, &turn[to], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void take(int me)
{
	while (!atomic_exchange(&turn[me], 0))
		syscall(SYS_futex, &turn[me], FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void *partner(void *arg)
{
	uint64_t n = *(uint64_t *)arg;

	pin(1);
	for (uint64_t i = 0; i < n; i++) {
		take(1);
		give(0);
	}
	return NULL;
}

static pthread_t start(void *(*f)(void *), void *arg)
{
	pthread_t t;

	if (pthread_create(&t, NULL, f, arg))
		fail("pthread_create");
	return t;
}

void setup_ipi(void)
{
	atomic_store(&turn[0], 0);
	atomic_store(&turn[1], 0);
}

void run_ipi(uint64_t work)
{
	pthread_t t = start(partner, &work);

	for (uint64_t i = 0; i < work; i++) {
		give(1);
		take(0);
	}
	pthread_join(t, NULL);
}

static void *spinner(void *arg)
{
	pin(1);
	while (!atomic_load(&stop))
		__builtin_ia32_pause();
	return NULL;
}

void setup_shootdown(void)
{
	page = arena(PAGE);
	atomic_store(&stop, 0);
}

void run_shootdown(uint64_t work)
{
	pthread_t t = start(spinner, NULL);

	for (uint64_t i = 0; i < work; i++) {
		mprotect(page, PAGE, PROT_READ);
		mprotect(page, PAGE, PROT_READ | PROT_WRITE);
		*page = 1;
	}
	atomic_store(&stop, 1);
	pthread_join(t, NULL);
}
