/* Integer code: what user programs mostly are. */
#include <string.h>
#include "bench.h"

void run_int(uint64_t work)
{
	static uint64_t table[64];
	uint64_t a = 0x9e3779b97f4a7c15, b = 1, c = 0;

	for (uint64_t i = 0; i < work; i++) {
		a ^= a << 13;
		a ^= a >> 7;
		a ^= a << 17;
		b = b * 6364136223846793005 + a;
		if (a & 3)
			c += b >> 33;
		else
			c -= table[b >> 58];
		table[i & 63] ^= c;
		b = b << 9 | b >> 55;
		if (!(i & 15))
			c ^= a / (b >> 40 | 1);
	}
	sink += a ^ b ^ c;
}

/* ---- an interpreter ---- */

enum { OP_ADD, OP_SUB, OP_XOR, OP_SHIFT, OP_LOAD, OP_STORE, OP_SKIP, OP_MUL, OPS, PROGRAM = 1024 };
static uint8_t program[PROGRAM];

void setup_interpreter(void)
{
	uint64_t r = 88172645463325252;

	for (unsigned i = 0; i < PROGRAM; i++)
		program[i] = random_next(&r) % OPS;
}

void run_interpreter(uint64_t work)
{
	uint64_t memory[16] = { 1 }, acc = 3, pc = 0;

	for (uint64_t i = 0; i < work; i++) {
		uint8_t op = program[pc++ % PROGRAM];

		switch (op) {
		case OP_ADD: acc += memory[pc & 15]; break;
		case OP_SUB: acc -= memory[pc >> 2 & 15]; break;
		case OP_XOR: acc ^= pc << 3; break;
		case OP_SHIFT: acc = acc >> 3 | acc << 61; break;
		case OP_LOAD: acc = memory[acc & 15] + pc; break;
		case OP_STORE: memory[acc & 15] = acc; break;
		case OP_SKIP: pc += acc & 1; break;
		case OP_MUL: acc *= 2654435761; break;
		}
	}
	sink += acc;
}

/* ---- a hash table with open addressing, 2 MiB ---- */

enum { SLOTS = 1 << 17 };
static struct slot { uint64_t key, value; } *slots;

void setup_hash(void)
{
	slots = arena(SLOTS * sizeof(*slots));
	memset(slots, 0, SLOTS * sizeof(*slots));
}

void run_hash(uint64_t work)
{
	uint64_t r = 88172645463325252, found = 0;

	for (uint64_t i = 0; i < work; i++) {
		uint64_t key = random_next(&r) % (SLOTS / 2) + 1, at = key * 0x9e3779b97f4a7c15 >> 47;

		while (slots[at].key && slots[at].key != key)
			at = (at + 1) % SLOTS;
		if (slots[at].key)
			found += slots[at].value++;
		slots[at].key = key;
	}
	sink += found;
}

/* ---- a binary search tree, 1 MiB ---- */

enum { NODES = 1 << 15 };
static struct node { struct node *child[2]; uint64_t key, count; } *nodes;

void setup_tree(void)
{
	uint64_t r = 88172645463325252;

	nodes = arena(NODES * sizeof(*nodes));
	memset(nodes, 0, NODES * sizeof(*nodes));
	nodes->key = 1ull << 63;
	for (unsigned i = 1; i < NODES; i++) {
		struct node **at = &nodes->child[1], *n = &nodes[i];

		n->key = random_next(&r);
		at = &nodes->child[n->key > nodes->key];
		while (*at)
			at = &(*at)->child[n->key > (*at)->key];
		*at = n;
	}
}

void run_tree(uint64_t work)
{
	uint64_t r = 5, depth = 0;

	for (uint64_t i = 0; i < work; i++) {
		uint64_t key = nodes[random_next(&r) % NODES].key;
		struct node *n = nodes;

		while (n && n->key != key) {
			n = key > n->key ? n->child[1] : n->child[0];
			depth++;
		}
		if (n)
			n->count++;
	}
	sink += depth;
}

/* ---- quicksort ---- */

enum { SORTED = 4096 };
static uint32_t *original, *sorted;

void setup_sort(void)
{
	uint64_t r = 88172645463325252;

	original = arena(2 * SORTED * sizeof(*original));
	sorted = original + SORTED;
	for (unsigned i = 0; i < SORTED; i++)
		original[i] = random_next(&r);
}

static void insertion_sort(uint32_t *a, long n)
{
	for (long i = 1; i < n; i++) {
		uint32_t x = a[i];
		long j = i;

		for (; j && a[j - 1] > x; j--)
			a[j] = a[j - 1];
		a[j] = x;
	}
}

static void quicksort(uint32_t *a, long n)
{
	while (n > 12) {
		uint32_t pivot = a[n / 2];
		long i = 0, j = n - 1;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		quicksort(a, j + 1);
		a += i;
		n -= i;
	}
	insertion_sort(a, n);
}

void run_sort(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++) {
		memcpy(sorted, original, SORTED * sizeof(*sorted));
		quicksort(sorted, SORTED);
		sink += sorted[i % SORTED];
	}
}

/* ---- SHA-256 ---- */

enum { SHA_BUFFER = 4096 };
static uint32_t sha_k[64];
static uint8_t *sha_buffer;

/* The first 32 bits of the fractional part of a root of n. */
static uint32_t root_fraction(unsigned n, unsigned degree)
{
	unsigned __int128 wanted = (unsigned __int128)n << (degree == 2 ? 64 : 96);
	uint64_t root = 0;

	for (int bit = 36; bit >= 0; bit--) {
		unsigned __int128 x = root | 1ull << bit, power = x * x;

		if (degree == 3)
			power *= x;
		if (power <= wanted)
			root |= 1ull << bit;
	}
	return root;
}

void setup_sha(void)
{
	unsigned n = 0;

	sha_buffer = arena(SHA_BUFFER);
	for (unsigned p = 2; n < 64; p++) {
		unsigned d = 2;

		while (d * d <= p && p % d)
			d++;
		if (d * d > p)
			sha_k[n++] = root_fraction(p, 3);
	}
}

static uint32_t ror(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(uint32_t state[8], const uint8_t *p)
{
	uint32_t w[64], s[8];

	memcpy(s, state, sizeof(s));
	for (int i = 0; i < 16; i++, p += 4)
		w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
		uint32_t t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(*s));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		state[i] += s[i];
}

void run_sha(uint64_t work)
{
	uint32_t state[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

	for (uint64_t i = 0; i < work; i++)
		sha_block(state, sha_buffer + i * 64 % SHA_BUFFER);
	sink += state[0];
}
