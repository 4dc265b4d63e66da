/* Loads that wait for each other, and copies and fills, short and long. */
#include <string.h>
#include "bench.h"

enum { LINE = 64, SMALL_CHASE = 16 << 10, LARGE_CHASE = 32 << 20, COPY_AREA = 4 << 20 };

/* ---- pointer chasing: a random cycle through all lines ---- */

static void **chase;

static void setup_chase(size_t size)
{
	uint64_t r = 88172645463325252;
	size_t n = size / LINE;
	uint8_t *base = arena(size + n * sizeof(uint32_t));
	uint32_t *order = (uint32_t *)(base + size);

	for (size_t i = 0; i < n; i++)
		order[i] = i;
	for (size_t i = n - 1; i; i--) {
		size_t j = random_next(&r) % (i + 1);
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (size_t i = 0; i < n; i++)
		*(void **)(base + order[i] * (size_t)LINE) = base + order[(i + 1) % n] * (size_t)LINE;
	chase = (void **)base;
}

void setup_chase_small(void)
{
	setup_chase(SMALL_CHASE);
}

void setup_chase_large(void)
{
	setup_chase(LARGE_CHASE);
}

void run_chase(uint64_t work)
{
	void **p = chase;

	for (uint64_t i = 0; i < work; i++)
		p = *p;
	sink += (uintptr_t)p;
}

/* ---- the C library's memcpy and memset, called as programs call them ---- */

static uint8_t *area;
static uint16_t lengths[256];
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;
static void *(*volatile fill)(void *, int, size_t) = memset;

void setup_copy(void)
{
	uint64_t r = 88172645463325252;

	area = arena(2 * COPY_AREA);
	for (unsigned i = 0; i < 256; i++) {
		unsigned x = random_next(&r) % 8;

		lengths[i] = random_next(&r) % (4u << x) + 1;    /* mostly a few dozen bytes, up to 512 */
	}
}

void run_memcpy_small(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		copy(area + i % 1024 * 13, area + COPY_AREA + i % 512 * 11, lengths[i % 256]);
}

void run_memset_small(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		fill(area + i % 1024 * 13, (int)i, lengths[i % 256]);
}

void run_memcpy_large(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		copy(area + i % 4 * (1 << 20), area + COPY_AREA + i % 3 * (1 << 20), 1 << 20);
}

void run_memset_large(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		fill(area + i % 4 * (1 << 20), (int)i, 1 << 20);
}

void run_rep_movs(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		void *to = area + i % 64 * 4096, *from = area + COPY_AREA + i % 60 * 4096;
		uint64_t n = 4096;

		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	}
}
