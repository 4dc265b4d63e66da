/*
 * x87 and vector state across exits to the client: whatever of it the guest and the client use, neither sees the other's.
 * The guest loads an image by XRSTOR, leaves, stores one by XSAVE, and leaves again.
 */
#include <stdlib.h>
#include "guest.h"

enum { LOADED = 0x10000, STORED = 0x11000, XSTATE_BV = 512, AVX = 576, IMAGE = 832, X87_USED = 1, SSE_USED = 2, AVX_USED = 4 };

GUEST_ASM(moves, 64, "1: mov $7, %eax\n xor %edx, %edx\n mov $0x10000, %esi\n xrstor64 (%rsi)\n out %al, $0x10\n"
          "mov $7, %eax\n mov $0x11000, %esi\n xsave64 (%rsi)\n out %al, $0x11\n jmp 1b");

static uint64_t seed = 1;

static uint64_t noise(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static void put(uint8_t *image, unsigned at, uint64_t value, unsigned len) { memcpy(image + at, &value, len); }

/* Bytes of components that used leaves out are noise, too: nothing may look at them. */
static void image_fill(uint8_t *image, unsigned used)
{
	for (unsigned i = 0; i < IMAGE; i += 8)
		put(image, i, noise(), 8);
	put(image, 0, 0x3f | (noise() & 0xc00) | 0x340, 2);      /* exceptions masked, any rounding */
	put(image, 2, noise() & 0x7f3f & ~0x40u, 2);
	put(image, 4, noise() & 0xff, 2);
	put(image, 6, 0, 2);
	memset(image + 8, 0, 16);
	put(image, 24, 0x1f80 | (noise() & 0xe03f), 4);
	for (unsigned i = 0; i < 8; i++)
		put(image, 32 + 16 * i + 10, 0, 6);
	memset(image + 416, 0, AVX - 416);
	put(image, XSTATE_BV, used, 8);
}

static bool same(const uint8_t *image, const uint8_t *want, unsigned at, unsigned len, bool used)
{
	static const uint8_t zero[256];

	return !memcmp(image + at, used ? want + at : zero, len);
}

/* Has image what want stands for? Components that are not in want's XSTATE_BV are initial, whatever image says of them. */
static void expect(const char *who, const uint8_t *image, const uint8_t *want, bool avx)
{
	unsigned used = want[XSTATE_BV];
	uint16_t control;
	bool x87, sse, upper;

	memcpy(&control, image, 2);
	x87 = used & X87_USED ? same(image, want, 0, 5, true) : control == 0x37f && same(image, want, 2, 3, false);
	x87 = x87 && same(image, want, 32, 128, used & X87_USED);
	sse = same(image, want, 24, 4, true) && same(image, want, 160, 256, used & SSE_USED);
	upper = !avx || same(image, want, AVX, 256, used & AVX_USED);
	if (!x87 || !sse || !upper)
		printf("%s, components %u: x87 %d, SSE %d, AVX %d\n", who, used, x87, sse, upper);
	check(x87 && sse && upper);
}

/* As a client leaves the registers when it calls: anything in vectors, x87 used or not, its own control words. */
struct words { uint16_t fcw; uint32_t mxcsr; };

static void client_uses(const struct words *w, bool x87)
{
	if (x87)
		__asm__ volatile("fldpi; fstp %%st(0)" : : : "st");
	__asm__ volatile("fldcw %0; ldmxcsr %1; pcmpeqd %%xmm0, %%xmm0; movaps %%xmm0, %%xmm15"
	                 : : "m"(w->fcw), "m"(w->mxcsr) : "xmm0", "xmm15");
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vcmptrueps %%ymm0, %%ymm0, %%ymm0; vmovaps %%ymm0, %%ymm7" : : : "xmm0", "xmm7");
}

static void expect_client(const struct words *w)
{
	struct { uint16_t fcw, pad, fsw, pad2, tags, pad3; uint32_t rest[4]; } env;
	uint32_t mxcsr;

	__asm__ volatile("fnstenv %0; fldenv %0; stmxcsr %1" : "=m"(env), "=m"(mxcsr));
	check_equal(env.fcw, w->fcw);
	check_equal(env.tags, 0xffff);
	check_equal(mxcsr, w->mxcsr);
}

static void run(struct guest *g, unsigned port, const struct words *w, bool x87)
{
	client_uses(w, x87);
	check_equal(guest_run(g, 0), KVM_EXIT_IO);
	expect_client(w);
	check_equal(g->run[0]->io.port, port);
}

static bool guest_start(struct guest *g)
{
	bool avx = __builtin_cpu_supports("avx");
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0].value = avx ? 7 : 3 };
	struct kvm_sregs s;

	guest_create(g, true);
	guest_load(g, moves);
	guest_mode(g, 0, GUEST_LONG);
	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.cr4 |= 0x40600;                /* OSXSAVE, OSXMMEXCPT, OSFXSR */
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
	guest_ioctl(g->vcpu[0], KVM_SET_XCRS, &x);
	return avx;
}

/* Every combination after every other one. */
static void test_components(void)
{
	struct words usual = { 0x37f, 0x1f80 }, odd = { 0x27f, 0x7f80 };
	struct kvm_xsave image;
	struct guest g;
	bool avx = guest_start(&g);

	guest_no_moves();
	for (unsigned i = 0; i < 2000; i++) {
		unsigned used = noise() >> 20 & (avx ? 7 : 3), how = noise() >> 30;
		const struct words *w = how & 1 ? &odd : &usual;

		image_fill(g.memory + LOADED, used);
		run(&g, 0x10, w, how & 2);
		guest_ioctl(g.vcpu[0], KVM_GET_XSAVE, &image);
		expect("the client", (uint8_t *)image.region, g.memory + LOADED, avx);
		if (how & 4)
			guest_ioctl(g.vcpu[0], KVM_SET_XSAVE, &image);
		run(&g, 0x11, w, how & 8);
		expect("the guest", g.memory + STORED, g.memory + LOADED, avx);
	}
	guest_destroy(&g);
}

/* The client's image has its own idea of what is in use. */
static void test_set_by_client(void)
{
	struct words usual = { 0x37f, 0x1f80 };
	struct guest g;
	bool avx = guest_start(&g);

	for (unsigned i = 0; i < 500; i++) {
		struct kvm_xsave image = { 0 };
		unsigned used = noise() >> 20 & (avx ? 7 : 3);

		image_fill(g.memory + LOADED, noise() >> 20 & (avx ? 7 : 3));
		run(&g, 0x10, &usual, i & 1);
		image_fill((uint8_t *)image.region, used);
		guest_ioctl(g.vcpu[0], KVM_SET_XSAVE, &image);
		run(&g, 0x11, &usual, i & 2);
		if (!(used & (SSE_USED | AVX_USED)))
			image.region[6] = 0x1f80;        /* MXCSR comes with SSE or AVX */
		expect("the guest", g.memory + STORED, (uint8_t *)image.region, avx);
	}
	guest_destroy(&g);
}

int main(void)
{
	static const struct test tests[] = {
		{ "components in use and not", test_components },
		{ "components that the client sets", test_set_by_client },
	};

	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
