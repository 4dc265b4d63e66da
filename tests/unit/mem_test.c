/*
 * Guest-physical memory: the rules of slots with their errnos, copies across
 * slots, dirty logs, code bits, and the lock between vCPUs and slot changes.
 * Prints TAP.
 */
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "mem/mem.h"
#include "../tap.h"

#define K 4096ull


static uint8_t *ram;

static int set(struct mem *m, unsigned id, uint32_t flags, uint64_t gpa, uint64_t size, uint64_t offset)
{
	mem_write_lock(m);
	int r = mem_slot_set(m, id, flags, gpa, size, ram + offset);

	mem_write_unlock(m);
	return r;
}

static void test_slot_rules(void)
{
	struct mem *m = mem_new();
	uint64_t g;

	check(set(m, 0, 0, 0, 16 * K, 0) == 0);
	check(set(m, 0, 0, 0, 16 * K, 0) == 0);                  /* the same again: nothing to do */
	check(set(m, 1, 4, 32 * K, 16 * K, 0) == -EINVAL);       /* unknown flag */
	check(set(m, 1, 0, 32 * K + 1, 16 * K, 0) == -EINVAL);
	check(set(m, 1, 0, 32 * K, 16 * K + 1, 0) == -EINVAL);
	check(set(m, 1, 0, 32 * K, 16 * K, 1) == -EINVAL);
	check(set(m, 1, 0, ~0ull & ~(K - 1), 2 * K, 0) == -EINVAL);
	check(set(m, 1, 0, 1ull << 52, K, 0) == -EINVAL);
	check(set(m, 1, 0, 0, 0, 0) == -EINVAL);                 /* deletes what is not there */
	check(set(m, 1, 0, 15 * K, K, 0) == -EEXIST);
	check(set(m, 1, 0, 16 * K, K, 64 * K) == 0);
	check(set(m, 0, 0, 0, 8 * K, 0) == -EINVAL);             /* size, host address, READONLY never change */
	check(set(m, 0, 0, 0, 16 * K, K) == -EINVAL);
	check(set(m, 0, MEM_SLOT_READONLY, 0, 16 * K, 0) == -EINVAL);
	check(set(m, 0, 0, K, 16 * K, 0) == -EEXIST);            /* a move onto slot 1 */
	check(set(m, 0, 0, 17 * K, 16 * K, 0) == 0);
	check(!mem_slot_find(m, 0) && mem_slot_find(m, 17 * K)->id == 0 && mem_slot_find(m, 16 * K)->id == 1);
	check(set(m, 0, 0, 18 * K, 16 * K, 0) == 0);             /* a move that overlaps itself */
	check(!mem_slot_find(m, 17 * K) && mem_slot_find(m, 33 * K) && !mem_slot_find(m, 34 * K));
	g = mem_generation(m);
	check(set(m, 0, 0, 0, 0, 0) == 0 && !mem_slot_find(m, 20 * K) && mem_generation(m) == g + 1);
	mem_free(m);
}

static void test_find_many(void)
{
	struct mem *m = mem_new();
	unsigned wrong = 0;

	for (unsigned i = 0; i < 100; i++)
		wrong += set(m, i, 0, (i * 37 % 100) * 2 * K, K, i * K) != 0;
	for (uint64_t page = 0; page < 200; page++) {
		const struct mem_slot *s = mem_slot_find(m, page * K + 5);

		wrong += page % 2 ? s != NULL : !s || s->gpa != page * K || s->id * 37 % 100 != page / 2;
	}
	for (unsigned i = 0; i < 100; i += 2)
		wrong += set(m, i, 0, 0, 0, 0) != 0;
	for (unsigned i = 0; i < 100; i++)
		wrong += !mem_slot_by_id(m, i) != !(i % 2);
	check(wrong == 0);
	mem_free(m);
}

static const uint8_t *hook_host;
static unsigned hook_len, hook_calls;

static void hook(void *arg, const uint8_t *host, unsigned len)
{
	hook_host = host;
	hook_len = len;
	hook_calls++;
}

static void test_copies(void)
{
	struct mem *m = mem_new();
	uint8_t out[32], in[32];

	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = i + 1;
	set(m, 0, 0, 0, 4 * K, 0);
	set(m, 1, 0, 4 * K, 4 * K, 100 * K);
	set(m, 2, MEM_SLOT_READONLY, 8 * K, K, 200 * K);
	check(mem_write(m, 4 * K - 10, in, sizeof(in)) && mem_read(m, 4 * K - 10, out, sizeof(out)) && !memcmp(in, out, sizeof(in)));
	check(!memcmp(ram + 4 * K - 10, in, 10) && !memcmp(ram + 100 * K, in + 10, 22));
	check(!mem_write(m, 8 * K - 4, in, 8) && mem_read(m, 8 * K - 4, out, 8));
	check(!mem_read(m, 9 * K - 4, out, 8) && !mem_read(m, 1ull << 40, out, 1));
	mem_set_code_hook(m, hook, NULL);
	mem_read_lock(m);
	_Atomic uint64_t *code = &mem_slot_code(mem_slot_find(m, K), K)->granules;
	mem_read_unlock(m);
	*code = 9ull << 3;               /* bytes 192..255 and 384..447 of page 1 hold code */
	check(mem_write(m, K + 184, in, 8) && hook_calls == 0);
	check(mem_write(m, K + 188, in, 8) && hook_calls == 1 && hook_host == ram + K + 188 && hook_len == 8);
	check(*code == 1ull << 6);       /* what was hit is no code any more */
	check(mem_write(m, K + 255, in, 8) && hook_calls == 1);
	*code = 1ull << 3;
	check(mem_write(m, K + 255, in, 8) && hook_calls == 2 && !*code);
	*code = 1ull << 3;
	check(mem_write(m, K + 256, in, 8) && hook_calls == 2);
	check(mem_write(m, K + 100, ram, 300) && hook_calls == 3);
	mem_free(m);
}

/* The same ids and addresses in both; what is shared is the lock, the generation and the client's memory. */
static void test_spaces(void)
{
	struct mem *m = mem_new(), *smm = mem_space(m, MEM_SMM);
	uint64_t generation = mem_generation(m);
	const struct mem_slot *s;
	uint8_t byte = 0x55;

	check(mem_space(m, MEM_NORMAL) == m && mem_space(smm, MEM_NORMAL) == m && mem_space(smm, MEM_SMM) == smm);
	check(set(m, 0, 0, 0, 4 * K, 0) == 0 && set(smm, 0, 0, 0, 8 * K, 0) == 0 && set(smm, 1, MEM_SLOT_LOG_DIRTY, 16 * K, K, 100 * K) == 0);
	check(mem_generation(m) == generation + 3 && mem_generation(smm) == generation + 3);
	check(mem_slot_find(m, K)->space == MEM_NORMAL && mem_slot_find(smm, K)->space == MEM_SMM && mem_slot_by_id(smm, 1) && !mem_slot_by_id(m, 1));
	check(!mem_slot_find(m, 5 * K) && mem_slot_find(smm, 5 * K) && !mem_slot_find(m, 16 * K));
	check(!mem_write(m, 16 * K, &byte, 1) && mem_write(smm, 16 * K + 1, &byte, 1) && ram[100 * K + 1] == 0x55);
	/* Memory that both show is found twice, the normal space's slot first. */
	s = mem_slot_by_host(smm, ram + K, NULL);
	check(s == mem_slot_find(m, K));
	s = mem_slot_by_host(m, ram + K, s);
	check(s == mem_slot_find(smm, K) && !mem_slot_by_host(m, ram + K, s));
	check(mem_slot_by_host(m, ram + 100 * K, NULL) == mem_slot_find(smm, 16 * K));
	/* Deleting in one leaves the other alone. */
	check(set(m, 0, 0, 0, 0, 0) == 0 && !mem_slot_find(m, K) && mem_slot_find(smm, K));
	mem_free(m);
}

static void test_dirty(void)
{
	struct mem *m = mem_new();
	uint64_t bits[4], one = 1;

	set(m, 0, 0, 0, 70 * K, 0);
	check(mem_dirty_get(m, 0, bits, true) == -ENOENT && mem_dirty_get(m, 9, bits, true) == -ENOENT);
	check(set(m, 0, MEM_SLOT_LOG_DIRTY, 0, 70 * K, 0) == 0);
	check(mem_dirty_get(m, 0, bits, true) == 0 && !bits[0] && !bits[1]);
	mem_write(m, 5 * K, &one, 8);
	mem_write(m, 65 * K - 4, &one, 8);
	check(mem_dirty_get(m, 0, bits, false) == 0 && bits[0] == 1ull << 5 && bits[1] == 3);
	check(mem_dirty_get(m, 0, bits, true) == 0 && bits[0] == 1ull << 5 && bits[1] == 3);
	check(mem_dirty_get(m, 0, bits, true) == 0 && !bits[0] && !bits[1]);
	mem_write(m, 0, &one, 8);
	mem_write(m, K, &one, 8);
	mem_write(m, 69 * K, &one, 8);
	bits[0] = 2;
	check(mem_dirty_clear(m, 0, 1, 64, bits) == -EINVAL);
	check(mem_dirty_clear(m, 0, 0, 63, bits) == -EINVAL);
	check(mem_dirty_clear(m, 0, 64, 7, bits) == -EINVAL);
	check(mem_dirty_clear(m, 1, 0, 64, bits) == -ENOENT);
	check(mem_dirty_clear(m, 0, 0, 64, bits) == 0);
	check(mem_dirty_get(m, 0, bits, false) == 0 && bits[0] == 1 && bits[1] == 1 << 5);
	bits[0] = ~0ull;
	check(mem_dirty_clear(m, 0, 64, 6, bits) == 0);
	check(mem_dirty_get(m, 0, bits, false) == 0 && bits[0] == 1 && bits[1] == 0);
	check(set(m, 0, 0, 0, 70 * K, 0) == 0 && mem_dirty_get(m, 0, bits, false) == -ENOENT);
	mem_dirty_initially_set(m, true);
	check(set(m, 0, MEM_SLOT_LOG_DIRTY, 0, 70 * K, 0) == 0 && mem_dirty_get(m, 0, bits, true) == 0);
	check(bits[0] == ~0ull && bits[1] == 0x3f);
	mem_free(m);
}

/* ---- the lock ---- */

static struct mem *shared;
static _Atomic bool quit;
static _Atomic unsigned overlaps, rounds;
static _Atomic uint64_t a, b;

static void *reader(void *arg)
{
	while (!quit) {
		mem_read_lock(shared);
		for (unsigned i = 0; i < 50; i++) {
			mem_read_lock(shared);           /* nests */
			if (a != b)
				overlaps++;
			mem_read_unlock(shared);
		}
		rounds++;
		mem_read_unlock(shared);
	}
	return NULL;
}

static void test_lock(void)
{
	pthread_t t[3];

	shared = mem_new();
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, reader, NULL);
	for (unsigned i = 0; i < 20000; i++) {
		uint8_t byte;

		mem_write_lock(shared);
		a++;
		mem_read(shared, 0, &byte, 1);           /* reads by the writer itself do not wait */
		b++;
		mem_write_unlock(shared);
	}
	quit = true;
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	check(!overlaps && rounds);
	mem_free(shared);
}

static unsigned mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned lines = 0;

	for (int c; f && (c = getc(f)) != EOF;)
		lines += c == '\n';
	if (f)
		fclose(f);
	return lines;
}

/* A process may have 65530 mappings, and a client 32764 slots that take one each. */
static void test_small_slots(void)
{
	struct mem *m = mem_new();
	unsigned before = mappings();

	for (unsigned i = 0; i < 500; i++) {
		/* One that does not become one with its neighbours. */
		mmap(NULL, K, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(set(m, i, 0, 2 * i * K, K, 0) == 0);
	}
	check(mappings() - before < 600);
	mem_free(m);
}

static const struct test tests[] = {
	{ "slot rules", test_slot_rules },
	{ "find many", test_find_many },
	{ "many small slots", test_small_slots },
	{ "copies", test_copies },
	{ "spaces", test_spaces },
	{ "dirty", test_dirty },
	{ "lock", test_lock },
};

int main(void)
{
	ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return run_tests(tests, ARRAY_SIZE(tests));
}
