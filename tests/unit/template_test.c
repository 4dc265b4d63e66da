/*
 * Instructions made from templates against the same bytes decoded in full:
 * random ones, whose constants and place differ from those of the template.
 * Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include "xlat/internal.h"

static struct cpu cpu;
static struct template templates[TEMPLATES];
static struct engine engine = { .cpu = &cpu, .templates = templates };
static struct block block;
static struct translation_unit unit = { .engine = &engine, .cpu = &cpu, .block = &block };
static uint8_t code[4096] __attribute__((aligned(4096)));
static unsigned tests, failed;

static void ok(bool good, const char *name)
{
	printf("%sok %u - %s\n", good ? "" : "not ", ++tests, name);
	failed += !good;
}

static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static const struct xinsn *decode(const uint8_t *bytes, uint64_t rip)
{
	memcpy(code, bytes, 16);
	unit_decode(&unit, code, rip);
	return &unit.insn[0];
}

/* Decodes a, which may leave a template; is b made from it, and right? 0: not made, 1: right, -1: wrong. */
static int compare(const uint8_t *a, const uint8_t *b)
{
	uint64_t rip = 0xffffffff80000000ull + (random64() & 0xffffff);
	struct xinsn made;

	decode(a, 0x400000);
	memset(&made, 0, sizeof(made));
	made.rip = rip;
	if (!template_use(&unit, &made, b))
		return 0;
	return memcmp(&made, decode(b, rip), sizeof(made)) ? -1 : 1;
}

static void show(const uint8_t *b)
{
	printf("#");
	for (unsigned i = 0; i < 15; i++)
		printf(" %02x", b[i]);
	printf("\n");
}

/* Any bytes with some prefixes before them; then the same with other bytes from some place on. */
static void random_bytes(uint32_t mode, const char *name)
{
	enum { CASES = 300000 };
	unsigned made = 0, wrong = 0;

	unit.mode = mode;
	for (unsigned n = 0; n < CASES; n++) {
		static const uint8_t prefixes[] = { 0x66, 0x64, 0x65, 0xf2, 0xf3, 0xf0, 0x67, 0x2e };
		uint8_t a[16], b[16];
		unsigned at = 0;
		uint64_t r = random64();

		for (unsigned i = 0; i < 16; i++)
			a[i] = (uint8_t)(random64() >> 20);
		for (; (r & 7) < 2 && at < 3; r >>= 3)
			a[at++] = prefixes[random64() >> 30 & 7];
		if (r & 8)
			a[at++] = 0x40 | (r >> 8 & 15);
		if (r & 16)
			a[at++] = 0x0f;
		memcpy(b, a, sizeof(b));
		for (unsigned i = 1 + (r >> 12) % 9; i < 16; i++)
			b[i] = (uint8_t)(random64() >> 20);
		int result = compare(a, b);

		made += result != 0;
		if (result < 0 && wrong++ < 10)
			show(b);
	}
	ok(!wrong, name);
	ok(made > CASES / 20, name);
	printf("# %s: %u of %u made from templates\n", name, made, CASES);
}

static void chosen(const char *name, const char *a, const char *b, bool made)
{
	uint8_t x[16] = { 0 }, y[16] = { 0 };

	for (unsigned i = 0; a[3 * i]; i++)
		x[i] = (uint8_t)strtoul(a + 3 * i, NULL, 16);
	for (unsigned i = 0; b[3 * i]; i++)
		y[i] = (uint8_t)strtoul(b + 3 * i, NULL, 16);
	ok(compare(x, y) == made, name);
}

int main(void)
{
	const uint32_t kernel = MODE_FLAT | MODE_CODE64 | MODE_CPL0 | MODE_PROTECTED;

	params.block_insns = 1;
	params.templates = false;
	unit.mode = kernel;
	chosen("jz rel8", "74 05 ", "74 f0 ", true);
	chosen("jz rel32", "0f 84 05 00 00 00 ", "0f 84 f0 ff ff ff ", true);
	chosen("call", "e8 05 00 00 00 ", "e8 78 56 34 92 ", true);
	chosen("mov rax, [rip]", "48 8b 05 01 02 03 04 ", "48 8b 05 ff ff ff ff ", true);
	chosen("mov [rbp - 8], imm32", "c7 45 f8 01 00 00 00 ", "c7 45 08 ff ff ff ff ", true);
	chosen("mov rax, imm64", "48 b8 01 00 00 00 00 00 00 00 ", "48 b8 ff ff ff ff ff ff ff 7f ", true);
	chosen("add rsp, imm8", "48 83 c4 08 ", "48 83 c4 f8 ", true);
	chosen("[rsp + disp8]", "48 8b 44 24 08 ", "48 8b 44 24 f8 ", true);
	chosen("gs:[disp32]", "65 48 8b 04 25 00 00 00 00 ", "65 48 8b 04 25 40 fc 01 80 ", true);
	chosen("shl by the same", "c1 e0 03 ", "c1 e0 03 ", true);
	chosen("shl by 0 has other flags", "c1 e0 03 ", "c1 e0 00 ", false);
	chosen("another register", "48 8b 45 08 ", "48 8b 5d 08 ", false);
	chosen("another index", "48 8b 04 08 ", "48 8b 04 18 ", false);
	chosen("locked", "f0 01 08 ", "f0 01 08 ", false);
	random_bytes(kernel, "random bytes, ring 0");
	random_bytes(MODE_FLAT | MODE_CODE64 | MODE_CPL3 | MODE_PROTECTED, "random bytes, ring 3");
	random_bytes(kernel | MODE_NO_SSE | MODE_NO_AVX | MODE_NO_X87, "random bytes without vector state");
	unit.mode = kernel;
	decode((const uint8_t *)"\x0f\x54\xc1\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90", 0x1000);
	unit.mode |= MODE_NO_SSE;
	ok(!template_use(&unit, &(struct xinsn){ .rip = 0x1000 }, code), "a template is of its mode only");
	unit.mode = MODE_FLAT | MODE_CODE32 | MODE_CPL0 | MODE_PROTECTED;
	decode((const uint8_t *)"\x01\xc8\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90", 0x1000);
	ok(!template_use(&unit, &(struct xinsn){ .rip = 0x1000 }, code), "none in 32-bit code");
	printf("1..%u\n", tests);
	return failed != 0;
}
