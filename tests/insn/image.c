/* The data area's contents: a base of random bytes, with a test's own bytes poked in. */
#include "insn.h"

const uint8_t page_kinds[DATA_PAGES] = {
	PAGE_RW, PAGE_RW, PAGE_RW, PAGE_RW, PAGE_NONE, PAGE_RW, PAGE_RO, PAGE_NONE, PAGE_RW, PAGE_MMIO, PAGE_RW, PAGE_NONE,
};

uint8_t image[DATA_PAGES * PAGE];
static uint8_t base[DATA_PAGES * PAGE];
static bool dirty[DATA_PAGES];

void image_init(uint64_t seed)
{
	struct rng rng = { seed };
	for (unsigned i = 0; i < sizeof base; i += 16)
		random_bytes(&rng, base + i, 16);
	memcpy(image, base, sizeof base);
}

void image_reset(void)
{
	for (unsigned p = 0; p < DATA_PAGES; p++)
		if (dirty[p])
			memcpy(image + p * PAGE, base + p * PAGE, PAGE);
	memset(dirty, 0, sizeof dirty);
}

bool poke(uint64_t addr, const void *bytes, unsigned len)
{
	if (addr < DATA_BASE || addr + len > PAGE_ADDR(DATA_PAGES))
		return false;
	for (uint64_t a = addr & ~4095ull; a < addr + len; a += PAGE) {
		unsigned p = (a - DATA_BASE) / PAGE;
		if (page_kinds[p] == PAGE_NONE)
			return false;
		dirty[p] = true;
	}
	memcpy(image + (addr - DATA_BASE), bytes, len);
	return true;
}
