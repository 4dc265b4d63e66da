/*
 * The time. The kernel's vDSO may be compiled with SSE, so the low halves of
 * the vector registers are kept around the call; it never uses AVX, whose
 * upper halves SSE instructions leave alone.
 */
#include <time.h>
#include "base/base.h"

#define EACH_XMM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define SAVE(n) "movups %%xmm" #n ", 16*" #n "(%0)\n\t"
#define LOAD(n) "movups 16*" #n "(%0), %%xmm" #n "\n\t"

uint64_t time_of(int clock)
{
	uint8_t xmm[16 * 16] __attribute__((aligned(16)));
	struct timespec ts;

	asm volatile(EACH_XMM(SAVE) : : "r"(xmm) : "memory");
	clock_gettime(clock, &ts);
	asm volatile(EACH_XMM(LOAD) : : "r"(xmm) : "memory");
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t time_ns(void)
{
	return time_of(CLOCK_MONOTONIC);
}
