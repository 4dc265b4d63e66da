/*
 * cpu/fpu -- parking and unparking of the guest's x87 and vector state, and
 * its images for the client.
 *
 * The image is the host's standard XSAVE format, limited to x87, SSE and AVX.
 * Some processors keep the x87 pointers only while an exception is pending,
 * and in any case the host's point into the code cache, so the guest's live
 * in struct cpu and are put into every image.
 */
#include "cpu/fpu.h"
#include "cpu/fpu_image.h"

uint64_t fpu_xcr0_supported(void)
{
	static uint64_t supported;
	uint32_t low, high;

	if (!supported) {
		asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
		supported = low & (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX);
	}
	return supported;
}

unsigned fpu_xsave_size(void)
{
	return fpu_xcr0_supported() & XSTATE_AVX ? IMAGE_SIZE : IMAGE_AVX;
}

void image_pointers_store(const struct cpu *cpu, uint8_t *image, bool wide)
{
	uint16_t op = cpu->fpu_op & 0x7ff;

	memcpy(image + IMAGE_FOP, &op, 2);
	memset(image + IMAGE_FIP, 0, 16);
	memcpy(image + IMAGE_FIP, &cpu->fpu_ip, wide ? 8 : 4);
	memcpy(image + IMAGE_FDP, &cpu->fpu_dp, wide ? 8 : 4);
}

void image_pointers_load(struct cpu *cpu, const uint8_t *image, bool wide)
{
	cpu->fpu_ip = cpu->fpu_dp = 0;
	memcpy(&cpu->fpu_op, image + IMAGE_FOP, 2);
	memcpy(&cpu->fpu_ip, image + IMAGE_FIP, wide ? 8 : 4);
	memcpy(&cpu->fpu_dp, image + IMAGE_FDP, wide ? 8 : 4);
}

/* The image of components in their initial configuration. */
static void image_init(uint8_t *image, uint64_t components)
{
	if (components & XSTATE_X87) {
		memset(image, 0, IMAGE_MXCSR);
		memset(image + IMAGE_ST, 0, IMAGE_XMM - IMAGE_ST);
		image_put16(image, IMAGE_FCW, FCW_INIT);
	}
	if (components & XSTATE_SSE)
		memset(image + IMAGE_XMM, 0, 256);
	if (components & XSTATE_AVX)
		memset(image + IMAGE_AVX, 0, 256);
}

/* Of the supported components those that may differ from their initial configuration, as the host tracks it. */
static uint64_t components_in_use(void)
{
	static _Atomic uint8_t tracked;          /* 1: by XGETBV; 2: not at all */
	uint32_t a = 13, b, c = 1, d;

	if (unlikely(!tracked)) {
		asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		tracked = a & 4 ? 1 : 2;
	}
	if (tracked == 1)
		asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(1));
	else
		a = ~0u;
	return a & fpu_xcr0_supported();
}

/* XMM registers, and upper halves of YMM registers, to and from an image. */
#define EACH_REGISTER(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define STORE_XMM(n) "movaps %%xmm" #n ", 16*" #n "(%0)\n\t"
#define LOAD_XMM(n) "movaps 16*" #n "(%0), %%xmm" #n "\n\t"
#define STORE_UPPER(n) "vextractf128 $1, %%ymm" #n ", 16*" #n "(%0)\n\t"
#define LOAD_UPPER(n) "vinsertf128 $1, 16*" #n "(%0), %%ymm" #n ", %%ymm" #n "\n\t"
#define MOVE(each, image, at) asm volatile(EACH_REGISTER(each) : : "r"((image) + (at)) : "memory")

static void x87_sse_store(uint8_t *image, bool x87)
{
	if (x87) {
		native_fxsave(image);
		return;
	}
	MOVE(STORE_XMM, image, IMAGE_XMM);
	asm volatile("stmxcsr %0" : "=m"(*(uint32_t *)(image + IMAGE_MXCSR)));
}

static void x87_sse_load(const uint8_t *image, bool x87)
{
	if (x87) {
		native_fxrstor(image);
		return;
	}
	MOVE(LOAD_XMM, image, IMAGE_XMM);
	asm volatile("ldmxcsr %0" : : "m"(*(const uint32_t *)(image + IMAGE_MXCSR)));
}

/*
 * XSAVE and XRSTOR take some hundred cycles, so only what is in use is moved,
 * by the instructions that do it fastest. A component that the image's
 * XSTATE_BV leaves out has the bytes of its initial configuration there.
 */
void fpu_park(struct cpu *cpu)
{
	uint64_t used, before;
	uint32_t mask = MXCSR_MASK;

	if (!cpu->fpu_live)
		return;
	used = components_in_use() | XSTATE_SSE;
	before = image_get64(cpu->xsave, IMAGE_XSTATE_BV);
	image_init(cpu->xsave, before & ~used);
	image_put64(cpu->xsave, IMAGE_XSTATE_BV, used);
	x87_sse_store(cpu->xsave, used & XSTATE_X87);
	image_pointers_store(cpu, cpu->xsave, true);
	memcpy(cpu->xsave + IMAGE_MXCSR_MASK, &mask, 4);
	if (used & XSTATE_AVX) {
		MOVE(STORE_UPPER, cpu->xsave, IMAGE_AVX);
		asm volatile("vzeroupper");
	}
	if (used & XSTATE_X87)
		asm volatile("fninit");
	asm volatile("fldcw %0; ldmxcsr %1" : : "m"(cpu->host_fcw), "m"(cpu->host_mxcsr));
	cpu->fpu_live = false;
}

/* Where the guest's x87 state is initial and the host's is not, only XRSTOR makes it so in a way that the host knows of. */
void fpu_unpark(struct cpu *cpu)
{
	uint64_t used = image_get64(cpu->xsave, IMAGE_XSTATE_BV), host = components_in_use();

	if (cpu->fpu_live)
		return;
	asm volatile("fnstcw %0; stmxcsr %1" : "=m"(cpu->host_fcw), "=m"(cpu->host_mxcsr));
	if (host & ~used & XSTATE_X87) {
		native_xrstor(cpu->xsave, fpu_xcr0_supported());
	} else {
		if (host & XSTATE_AVX)
			asm volatile("vzeroupper");
		x87_sse_load(cpu->xsave, used & XSTATE_X87);
		if (used & XSTATE_AVX)
			MOVE(LOAD_UPPER, cpu->xsave, IMAGE_AVX);
	}
	cpu->fpu_live = true;
}

void fpu_reset(struct cpu *cpu, bool init)
{
	if (init)
		return;
	fpu_park(cpu);
	memset(cpu->xsave, 0, fpu_xsave_size());
	/* After RESET, unlike after FNINIT: exceptions unmasked, registers tagged as zeros. */
	image_put16(cpu->xsave, IMAGE_FCW, 0x40);
	cpu->xsave[IMAGE_FTW] = 0xff;
	image_put32(cpu->xsave, IMAGE_MXCSR, MXCSR_INIT);
	image_put32(cpu->xsave, IMAGE_MXCSR_MASK, MXCSR_MASK);
	image_put64(cpu->xsave, IMAGE_XSTATE_BV, XSTATE_X87 | XSTATE_SSE);
	cpu->fpu_ip = cpu->fpu_dp = cpu->fpu_op = 0;
}

void fpu_get_xsave(struct cpu *cpu, void *image, unsigned size)
{
	unsigned have = fpu_xsave_size();
	uint8_t *to = image;

	memset(to, 0, size);
	image_pointers_store(cpu, cpu->xsave, true);
	memcpy(to, cpu->xsave, size < have ? size : have);
	if (size >= IMAGE_AVX)           /* clients look at the legacy region without asking whether it is in use */
		to[IMAGE_XSTATE_BV] |= XSTATE_X87 | XSTATE_SSE;
}

int fpu_set_xsave(struct cpu *cpu, const void *image, unsigned size)
{
	static const uint8_t zero[56];
	const uint8_t *from = image;
	unsigned have = fpu_xsave_size();
	uint64_t bv;

	if (size < IMAGE_AVX)
		return -EINVAL;
	bv = image_get64(from, IMAGE_XSTATE_BV);
	if ((bv & ~fpu_xcr0_supported()) || memcmp(from + IMAGE_XCOMP_BV, zero, sizeof(zero)))
		return -EINVAL;
	if (((bv & XSTATE_AVX) && size < have) || (image_get32(from, IMAGE_MXCSR) & ~MXCSR_MASK))
		return -EINVAL;
	memcpy(cpu->xsave, from, size < have ? size : have);
	image_init(cpu->xsave, fpu_xcr0_supported() & ~bv);
	if (!(bv & (XSTATE_SSE | XSTATE_AVX)))
		image_put32(cpu->xsave, IMAGE_MXCSR, MXCSR_INIT);
	image_put32(cpu->xsave, IMAGE_MXCSR_MASK, MXCSR_MASK);
	image_pointers_load(cpu, cpu->xsave, true);
	return 0;
}
