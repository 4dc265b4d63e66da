/* Layout of FXSAVE and XSAVE images, and the host's own instructions on them. */
#ifndef ANYKVM_FPU_IMAGE_H
#define ANYKVM_FPU_IMAGE_H

#include "cpu/fpu.h"

enum { XSTATE_X87 = 1, XSTATE_SSE = 2, XSTATE_AVX = 4, XSTATE_CET_U = 1 << 11, XSTATE_CET_S = 1 << 12 };
enum { IMAGE_FCW = 0, IMAGE_FSW = 2, IMAGE_FTW = 4, IMAGE_FOP = 6, IMAGE_FIP = 8, IMAGE_FDP = 16, IMAGE_MXCSR = 24,
       IMAGE_MXCSR_MASK = 28, IMAGE_ST = 32, IMAGE_XMM = 160, IMAGE_LEGACY_SIZE = 512, IMAGE_XSTATE_BV = 512,
       IMAGE_XCOMP_BV = 520, IMAGE_AVX = 576, IMAGE_SIZE = 832 };
#define XCOMP_COMPACTED BIT(63)
#define MXCSR_INIT 0x1f80u
#define MXCSR_MASK 0xffffu
#define FCW_INIT 0x37f

struct image { uint8_t bytes[IMAGE_SIZE]; } __attribute__((aligned(64)));

static inline uint16_t image_get16(const uint8_t *p, unsigned at) { uint16_t v; memcpy(&v, p + at, 2); return v; }
static inline uint32_t image_get32(const uint8_t *p, unsigned at) { uint32_t v; memcpy(&v, p + at, 4); return v; }
static inline uint64_t image_get64(const uint8_t *p, unsigned at) { uint64_t v; memcpy(&v, p + at, 8); return v; }
static inline void image_put16(uint8_t *p, unsigned at, uint16_t v) { memcpy(p + at, &v, 2); }
static inline void image_put32(uint8_t *p, unsigned at, uint32_t v) { memcpy(p + at, &v, 4); }
static inline void image_put64(uint8_t *p, unsigned at, uint64_t v) { memcpy(p + at, &v, 8); }

static inline void native_xsave(uint8_t *image, uint32_t components)
{
	asm volatile("xsave64 (%0)" : : "r"(image), "a"(components), "d"(0) : "memory");
}
static inline void native_xrstor(const uint8_t *image, uint32_t components)
{
	asm volatile("xrstor64 (%0)" : : "r"(image), "a"(components), "d"(0) : "memory");
}
static inline void native_fxsave(uint8_t *image) { asm volatile("fxsave64 (%0)" : : "r"(image) : "memory"); }
static inline void native_fxrstor(const uint8_t *image) { asm volatile("fxrstor64 (%0)" : : "r"(image) : "memory"); }

/* The x87 pointers between struct cpu and an image, of the 64-bit (wide) or the 32-bit form. Selectors are zero. */
void image_pointers_store(const struct cpu *cpu, uint8_t *image, bool wide);
void image_pointers_load(struct cpu *cpu, const uint8_t *image, bool wide);

#endif
