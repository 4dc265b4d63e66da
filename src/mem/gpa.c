/*
 * Guest-physical memory by copy: for descriptors of devices and hypervisors
 * (clock pages, VMX structures), not for the guest's own instructions.
 */
#include "mem/internal.h"

void mem_set_code_hook(struct mem *m, void (*hook)(void *arg, const uint8_t *host, unsigned len), void *arg)
{
	m->all->code_hook = hook;
	m->all->code_hook_arg = arg;
}

/* Tells the owner of translations. A translator sets its bit before it reads the bytes, we look after we wrote them. */
static void code_written(struct mem *m, const struct mem_slot *s, uint64_t gpa, size_t len)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (mem_code_hit(s, gpa, len) && m->all->code_hook)
		m->all->code_hook(m->all->code_hook_arg, mem_slot_host(s, gpa), len);
}

uint32_t mem_epoch(const struct mem *m)
{
	return atomic_load(&m->all->epoch);
}

void mem_epoch_next(struct mem *m)
{
	atomic_fetch_add(&m->all->epoch, 1);
}

_Atomic uint32_t *mem_code_settling(struct mem *m)
{
	return &m->all->settling;
}

static size_t page_part(uint64_t gpa, size_t len)
{
	size_t left = 4096 - (gpa & 4095);

	return len < left ? len : left;
}

static bool read_pages(struct mem *m, uint64_t gpa, uint8_t *to, size_t len)
{
	while (len) {
		size_t n = page_part(gpa, len);
		const struct mem_slot *s = mem_slot_find(m, gpa);

		if (!s)
			return false;
		if (!mem_copy(to, mem_slot_host(s, gpa), n))
			return false;
		gpa += n;
		to += n;
		len -= n;
	}
	return true;
}

static bool write_pages(struct mem *m, uint64_t gpa, const uint8_t *from, size_t len)
{
	while (len) {
		size_t n = page_part(gpa, len);
		const struct mem_slot *s = mem_slot_find(m, gpa);

		if (!s || s->flags & MEM_SLOT_READONLY)
			return false;
		if (!mem_copy(mem_slot_host(s, gpa), from, n))
			return false;
		mem_mark_dirty(s, gpa);
		code_written(m, s, gpa, n);
		gpa += n;
		from += n;
		len -= n;
	}
	return true;
}

bool mem_read(struct mem *m, uint64_t gpa, void *to, size_t len)
{
	bool entered = mem_enter(m);
	bool ok = read_pages(m, gpa, to, len);

	mem_leave(m, entered);
	return ok;
}

bool mem_write(struct mem *m, uint64_t gpa, const void *from, size_t len)
{
	bool entered = mem_enter(m);
	bool ok = write_pages(m, gpa, from, len);

	mem_leave(m, entered);
	return ok;
}
