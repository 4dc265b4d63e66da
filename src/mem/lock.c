/*
 * The address-space lock. Readers are vCPUs: they take it once per KVM_RUN and
 * when they come back from sleep, so it is two counters and a futex, biased to
 * neither side. A writer announces itself first; then readers that let go
 * cannot come back before it is done.
 *
 * The order that matters: a reader counts itself, then looks for a writer; a
 * writer shows itself, then looks for readers. With both sequentially
 * consistent, at least one sees the other.
 */
#include "mem/internal.h"

/* Read locks (or a write lock) of this thread. A thread works for one VM at a time. */
static __thread unsigned depth;

static void reader_in(struct mem *m)
{
	for (;;) {
		while (atomic_load(&m->all->writer))
			futex_wait(&m->all->writer, 1, UINT64_MAX);
		atomic_fetch_add(&m->all->readers, 1);
		if (!atomic_load(&m->all->writer))
			return;
		if (atomic_fetch_sub(&m->all->readers, 1) == 1)
			futex_wake(&m->all->readers, 1);
	}
}

void mem_read_lock(struct mem *m)
{
	if (depth++ == 0)
		reader_in(m);
}

void mem_read_unlock(struct mem *m)
{
	if (--depth)
		return;
	if (atomic_fetch_sub(&m->all->readers, 1) == 1 && atomic_load(&m->all->writer))
		futex_wake(&m->all->readers, 1);
}

bool mem_enter(struct mem *m)
{
	if (depth)
		return false;
	mem_read_lock(m);
	return true;
}

void mem_leave(struct mem *m, bool entered)
{
	if (entered)
		mem_read_unlock(m);
}

void mem_write_announce(struct mem *m)
{
	lock_take(&m->all->writers);
	atomic_store(&m->all->writer, 1);
}

void mem_write_wait(struct mem *m)
{
	uint32_t n;

	while ((n = atomic_load(&m->all->readers)))
		futex_wait(&m->all->readers, n, UINT64_MAX);
	depth++;
}

void mem_write_lock(struct mem *m)
{
	mem_write_announce(m);
	mem_write_wait(m);
}

void mem_write_unlock(struct mem *m)
{
	depth--;
	atomic_store(&m->all->writer, 0);
	futex_wake(&m->all->writer, INT32_MAX);
	lock_release(&m->all->writers);
}
