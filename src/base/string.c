/*
 * memcpy & co. of the library, in general registers only: the guest's vector
 * state is in the host's registers while the library's C code runs, and
 * libc's versions would overwrite it.  Hidden, so the client keeps libc's.
 *
 * Small sizes are the hot ones (guest accesses, structures), so they are done
 * with overlapping moves and no loop; big ones are left to the processor's
 * own string instructions.
 */
#include "base/base.h"

typedef uint64_t __attribute__((may_alias, aligned(1))) u64;
typedef uint32_t __attribute__((may_alias, aligned(1))) u32;
typedef uint16_t __attribute__((may_alias, aligned(1))) u16;

enum { STRING_INSN_MIN = 256 };          /* below, a loop beats the start-up time of REP */

/* At most 16 bytes. All loads come before the stores, so overlap is no matter. */
static inline void copy_small(unsigned char *d, const unsigned char *s, size_t n)
{
	if (n >= 8) {
		uint64_t head = *(const u64 *)s, tail = *(const u64 *)(s + n - 8);

		*(u64 *)d = head;
		*(u64 *)(d + n - 8) = tail;
	} else if (n >= 4) {
		uint32_t head = *(const u32 *)s, tail = *(const u32 *)(s + n - 4);

		*(u32 *)d = head;
		*(u32 *)(d + n - 4) = tail;
	} else if (n >= 2) {
		uint16_t head = *(const u16 *)s, tail = *(const u16 *)(s + n - 2);

		*(u16 *)d = head;
		*(u16 *)(d + n - 2) = tail;
	} else if (n) {
		*d = *s;
	}
}

/* More than 16 bytes, upwards; right also when d lies below s. */
static inline void copy_up(unsigned char *d, const unsigned char *s, size_t n)
{
	uint64_t tail = *(const u64 *)(s + n - 8);
	unsigned char *last = d + n - 8;

	for (; d < last; d += 8, s += 8)
		*(u64 *)d = *(const u64 *)s;
	*(u64 *)last = tail;
}

/* More than 16 bytes, downwards: d lies above s and overlaps it. */
static inline void copy_down(unsigned char *d, const unsigned char *s, size_t n)
{
	uint64_t head = *(const u64 *)s;

	for (size_t i = n; i >= 8; i -= 8)
		*(u64 *)(d + i - 8) = *(const u64 *)(s + i - 8);
	*(u64 *)d = head;
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
	if (n <= 16)
		copy_small(dst, src, n);
	else if (n < STRING_INSN_MIN)
		copy_up(dst, src, n);
	else {
		void *d = dst;

		asm volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	}
	return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
	if (n <= 16)
		copy_small(dst, src, n);
	else if ((uintptr_t)dst - (uintptr_t)src >= n)
		if (n < STRING_INSN_MIN)
			copy_up(dst, src, n);
		else
			return memcpy(dst, src, n);
	else
		copy_down(dst, src, n);
	return dst;
}

void *memset(void *dst, int c, size_t n)
{
	uint64_t pattern = (unsigned char)c * 0x0101010101010101ull;
	unsigned char *d = dst;

	if (n >= STRING_INSN_MIN) {
		asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	} else if (n >= 8) {
		for (unsigned char *last = d + n - 8; d < last; d += 8)
			*(u64 *)d = pattern;
		*(u64 *)((unsigned char *)dst + n - 8) = pattern;
	} else if (n >= 4) {
		*(u32 *)d = (uint32_t)pattern;
		*(u32 *)(d + n - 4) = (uint32_t)pattern;
	} else if (n) {
		d[0] = d[n / 2] = d[n - 1] = (unsigned char)c;
	}
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *p = a, *q = b;

	for (; n >= 8; n -= 8, p += 8, q += 8) {
		uint64_t x = *(const u64 *)p, y = *(const u64 *)q;

		if (x != y)
			return __builtin_bswap64(x) < __builtin_bswap64(y) ? -1 : 1;
	}
	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}
