/*
 * Dirty logs: one bit per page of a logged slot. Bits are set by any thread at
 * any time; they are cleared while the vCPUs stand still (kvm/memory.c), since
 * a vCPU may keep a write entry only as long as the bit behind it is set.
 */
#include "mem/internal.h"

int mem_dirty_start(struct mem *m, struct mem_slot *s)
{
	_Atomic uint64_t *dirty = mem_zalloc(mem_dirty_bytes(s));

	if (!dirty)
		return -ENOMEM;
	if (m->all->initially_set) {
		uint64_t pages = s->size >> 12;

		memset((void *)dirty, 0xff, pages / 64 * 8);
		if (pages % 64)
			dirty[pages / 64] = BIT(pages % 64) - 1;
	}
	s->dirty = dirty;
	return 0;
}

void mem_dirty_stop(struct mem_slot *s)
{
	mem_zfree((void *)s->dirty, mem_dirty_bytes(s));
	s->dirty = NULL;
}

void mem_dirty_initially_set(struct mem *m, bool on)
{
	m->all->initially_set = on;
}

void mem_mark_dirty(const struct mem_slot *s, uint64_t gpa)
{
	if (!s->dirty)
		return;
	uint64_t page = (gpa - s->gpa) >> 12;
	_Atomic uint64_t *word = &s->dirty[page / 64];

	if (!(atomic_load_explicit(word, memory_order_relaxed) & BIT(page % 64)))
		atomic_fetch_or(word, BIT(page % 64));
}

int mem_dirty_get(struct mem *m, uint16_t id, void *bitmap, bool clear)
{
	const struct mem_slot *s = mem_slot_by_id(m, id);
	uint64_t *out = bitmap;

	if (!s || !s->dirty)
		return -ENOENT;
	for (size_t i = 0; i < mem_dirty_bytes(s) / 8; i++) {
		out[i] = atomic_load_explicit(&s->dirty[i], memory_order_relaxed);
		if (clear && out[i])
			out[i] = atomic_exchange(&s->dirty[i], 0);
	}
	return 0;
}

int mem_dirty_clear(struct mem *m, uint16_t id, uint64_t first_page, uint64_t pages, const void *bitmap)
{
	const struct mem_slot *s = mem_slot_by_id(m, id);
	const uint64_t *bits = bitmap;

	if (first_page % 64)
		return -EINVAL;
	if (!s || !s->dirty)
		return -ENOENT;
	uint64_t total = s->size >> 12;

	if (first_page > total || pages > total - first_page || (pages < total - first_page && pages % 64))
		return -EINVAL;
	for (uint64_t i = 0; i < (pages + 63) / 64; i++)
		if (bits[i])
			atomic_fetch_and(&s->dirty[first_page / 64 + i], ~bits[i]);
	return 0;
}
