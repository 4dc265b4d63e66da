/* Calls and returns, calls through pointers, and code that writes code. */
#include <string.h>
#include "bench.h"

static OPAQUE uint64_t fib(uint64_t n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

void run_fib(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		sink += fib(16);
}

#define TARGETS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define TARGET(n) static OPAQUE uint64_t target##n(uint64_t x) { return x * (2 * n + 1) + n; }
TARGETS(TARGET)
#define NAME(n) target##n,
static uint64_t (*const targets[])(uint64_t) = { TARGETS(NAME) };

void run_icall(uint64_t work)
{
	uint64_t x = 1;

	for (uint64_t i = 0; i < work; i++)
		x = targets[x >> 37 & 15](x + 0x9e3779b97f4a7c15);
	sink += x;
}

/*
 * A small compiler's life: each function is written into the next slot of a
 * ring of 256 KiB, called a few times, and patched once between the calls.
 */
enum { RING = 256 << 10, SLOT = 64, CALLS = 4 };
static uint8_t *ring;

void setup_jit(void)
{
	ring = arena(RING);
}

static uint8_t *put(uint8_t *p, const void *bytes, size_t n)
{
	memcpy(p, bytes, n);
	return p + n;
}

/* f(x): eight times (x += constant; x ^= x >> 3), with a loop around it that runs twice. */
static void compile(uint8_t *p, uint32_t constant)
{
	uint8_t *loop;

	p = put(p, "\x89\xf8\xb9\x02\0\0\0", 7);                        /* mov %edi,%eax; mov $2,%ecx */
	loop = p;
	for (int i = 0; i < 3; i++) {
		p = put(p, "\x05", 1);                                  /* add $constant,%eax */
		p = put(p, &constant, 4);
		p = put(p, "\x89\xc2\xc1\xea\x03\x31\xd0", 7);          /* mov %eax,%edx; shr $3,%edx; xor %edx,%eax */
		constant = constant * 1664525 + 1013904223;
	}
	p = put(p, "\xff\xc9\x75", 3);                                  /* dec %ecx; jnz loop */
	*p = (uint8_t)(loop - (p + 1));
	p[1] = 0xc3;
}

void run_jit(uint64_t work)
{
	uint32_t x = 1;

	for (uint64_t i = 0; i < work; i++) {
		uint8_t *code = ring + i * SLOT % RING;
		uint32_t (*f)(uint32_t) = (void *)code;

		compile(code, (uint32_t)i);
		for (int c = 0; c < CALLS; c++) {
			x = f(x);
			if (c == CALLS / 2)
				memcpy(code + 8, &x, 4);
		}
	}
	sink += x;
}
