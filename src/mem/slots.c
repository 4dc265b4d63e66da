/*
 * The client's memory slots: an array ordered by guest-physical address,
 * searched by halving. Changes happen under the write lock, so readers need
 * nothing.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include "mem/internal.h"

#define USER_SPACE_END 0x7ffffffff000ull
#define MAX_PAGES ((1ull << 31) - 1)
#define MAX_GPA (1ull << 52)
/* From here on arrays are mappings, which take no memory for what is not used. A process has few: not one for each of many small slots. */
#define MAPPED_BYTES 65536

void *mem_zalloc(size_t bytes)
{
	if (bytes < MAPPED_BYTES)
		return calloc(1, bytes);
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void mem_zfree(void *p, size_t bytes)
{
	if (bytes < MAPPED_BYTES)
		free(p);
	else if (p)
		munmap(p, bytes);
}

struct mem *mem_new(void)
{
	struct mem_vm *all = calloc(1, sizeof(*all));

	if (!all)
		return NULL;
	for (unsigned i = 0; i < MEM_SPACES; i++)
		all->space[i].all = all;
	return &all->space[MEM_NORMAL];
}

struct mem *mem_space(struct mem *m, unsigned space)
{
	return &m->all->space[space];
}

static size_t code_bytes(const struct mem_slot *s)
{
	return (s->size >> 12) * sizeof(*s->code);
}

static void slot_free(struct mem_slot *s)
{
	mem_dirty_stop(s);
	mem_zfree((void *)s->code, code_bytes(s));
	free(s);
}

static void space_free(struct mem *m)
{
	for (unsigned i = 0; i < m->count; i++)
		slot_free(m->slots[i]);
	free(m->slots);
}

void mem_free(struct mem *m)
{
	for (unsigned i = 0; i < MEM_SPACES; i++)
		space_free(mem_space(m, i));
	free(m->all);
}

uint64_t mem_generation(struct mem *m)
{
	return atomic_load(&m->all->generation);
}

/* Index of the first slot that ends above gpa. */
static unsigned slot_index(const struct mem *m, uint64_t gpa)
{
	unsigned low = 0, high = m->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (m->slots[mid]->gpa + m->slots[mid]->size <= gpa)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool slot_holds(const struct mem *m, unsigned i, uint64_t gpa)
{
	return i < m->count && gpa - m->slots[i]->gpa < m->slots[i]->size;
}

const struct mem_slot *mem_slot_find(struct mem *m, uint64_t gpa)
{
	unsigned i = atomic_load_explicit(&m->hint, memory_order_relaxed);

	if (likely(slot_holds(m, i, gpa)))
		return m->slots[i];
	i = slot_index(m, gpa);
	if (!slot_holds(m, i, gpa))
		return NULL;
	atomic_store_explicit(&m->hint, i, memory_order_relaxed);
	return m->slots[i];
}

const struct mem_slot *mem_slot_by_host(struct mem *m, const void *host, const struct mem_slot *after)
{
	const uint8_t *p = host;

	for (unsigned space = after ? after->space : 0; space < MEM_SPACES; space++) {
		const struct mem *in = mem_space(m, space);

		for (unsigned i = after ? slot_index(in, after->gpa) + 1 : 0; i < in->count; i++)
			if (p >= in->slots[i]->host && p < in->slots[i]->host + in->slots[i]->size)
				return in->slots[i];
		after = NULL;
	}
	return NULL;
}

struct mem_slot *mem_slot_by_id(struct mem *m, uint16_t id)
{
	for (unsigned i = 0; i < m->count; i++)
		if (m->slots[i]->id == id)
			return m->slots[i];
	return NULL;
}

static void slot_remove(struct mem *m, const struct mem_slot *s)
{
	unsigned i = slot_index(m, s->gpa);

	m->count--;
	memmove(&m->slots[i], &m->slots[i + 1], (m->count - i) * sizeof(*m->slots));
}

/* There is room for it: see slots_reserve(). */
static void slot_insert(struct mem *m, struct mem_slot *s)
{
	unsigned i = slot_index(m, s->gpa);

	memmove(&m->slots[i + 1], &m->slots[i], (m->count - i) * sizeof(*m->slots));
	m->slots[i] = s;
	m->count++;
}

static bool slots_reserve(struct mem *m, unsigned n)
{
	if (n <= m->capacity)
		return true;
	struct mem_slot **slots = realloc(m->slots, 2 * n * sizeof(*slots));

	if (!slots)
		return false;
	m->slots = slots;
	m->capacity = 2 * n;
	return true;
}

/* Does a slot other than except overlap [gpa, gpa+size)? */
static bool range_taken(const struct mem *m, uint64_t gpa, uint64_t size, const struct mem_slot *except)
{
	for (unsigned i = slot_index(m, gpa); i < m->count && m->slots[i]->gpa < gpa + size; i++)
		if (m->slots[i] != except)
			return true;
	return false;
}

static int slot_delete(struct mem *m, struct mem_slot *s)
{
	if (!s)
		return -EINVAL;
	slot_remove(m, s);
	slot_free(s);
	atomic_fetch_add(&m->all->generation, 1);
	return 0;
}

static int slot_create(struct mem *m, struct mem_slot init)
{
	if (range_taken(m, init.gpa, init.size, NULL))
		return -EEXIST;
	struct mem_slot *s = malloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	*s = init;
	s->code = mem_zalloc(code_bytes(s));
	if (!s->code || !slots_reserve(m, m->count + 1) || (s->flags & MEM_SLOT_LOG_DIRTY && mem_dirty_start(m, s))) {
		slot_free(s);
		return -ENOMEM;
	}
	slot_insert(m, s);
	atomic_fetch_add(&m->all->generation, 1);
	return 0;
}

static int slot_log(struct mem *m, struct mem_slot *s, uint32_t flags)
{
	if (!(flags & MEM_SLOT_LOG_DIRTY))
		mem_dirty_stop(s);
	else if (!s->dirty && mem_dirty_start(m, s))
		return -ENOMEM;
	s->flags = flags;
	return 0;
}

/* Size, address in the client and READONLY of a slot are for ever; the rest may change. */
static int slot_modify(struct mem *m, struct mem_slot *s, struct mem_slot want)
{
	if (s->host != want.host || s->size != want.size || (s->flags ^ want.flags) & MEM_SLOT_READONLY)
		return -EINVAL;
	if (s->gpa == want.gpa && s->flags == want.flags)
		return 0;
	if (s->gpa != want.gpa && range_taken(m, want.gpa, want.size, s))
		return -EEXIST;
	if (slot_log(m, s, want.flags))
		return -ENOMEM;
	if (s->gpa != want.gpa) {
		slot_remove(m, s);
		s->gpa = want.gpa;
		memset((void *)s->code, 0, code_bytes(s));
		slot_insert(m, s);
	}
	atomic_fetch_add(&m->all->generation, 1);
	return 0;
}

static bool region_valid(uint32_t flags, uint64_t gpa, uint64_t size, uint64_t host)
{
	if (flags & ~(MEM_SLOT_LOG_DIRTY | MEM_SLOT_READONLY))
		return false;
	if ((gpa | size | host) & ~PAGE_MASK_4K || size >> 12 > MAX_PAGES)
		return false;
	if (host > USER_SPACE_END || size > USER_SPACE_END - host)
		return false;
	return gpa <= MAX_GPA && size <= MAX_GPA - gpa;
}

int mem_slot_set(struct mem *m, uint16_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host)
{
	struct mem_slot *old = mem_slot_by_id(m, id);

	if (!region_valid(flags, gpa, size, (uintptr_t)host))
		return -EINVAL;
	trace(mem, "slot %ld:%u flags %u gpa %#lx size %#lx host %p", m - m->all->space, id, flags, gpa, size, host);
	if (!size)
		return slot_delete(m, old);
	struct mem_slot want = { .gpa = gpa, .size = size, .host = host, .flags = flags, .id = id, .space = m - m->all->space };

	return old ? slot_modify(m, old, want) : slot_create(m, want);
}
