/* What the files of mem/ share. */
#ifndef ANYKVM_MEM_INTERNAL_H
#define ANYKVM_MEM_INTERNAL_H

#include "mem/mem.h"

/* One address space. */
struct mem {
	/* Slots ordered by gpa; each is allocated by itself, so that pointers survive changes of other slots. */
	struct mem_slot **slots;
	unsigned count, capacity;
	_Atomic unsigned hint;           /* slot that was found last, most likely the one wanted next */
	struct mem_vm *all;
};

/* What the address spaces of a VM share. */
struct mem_vm {
	struct mem space[MEM_SPACES];
	_Atomic uint64_t generation;
	bool initially_set;

	_Atomic uint32_t epoch;
	_Atomic uint32_t settling;       /* see mem_code_settling() */

	void (*code_hook)(void *arg, const uint8_t *host, unsigned len);
	void *code_hook_arg;

	struct lock writers;             /* one writer at a time */
	_Atomic uint32_t writer;         /* futex: 1 while a writer waits or works */
	_Atomic uint32_t readers;        /* futex: threads that hold the read lock */
};

/* Takes the read lock unless the calling thread holds it already; true if it did. */
bool mem_enter(struct mem *m);
void mem_leave(struct mem *m, bool entered);

/* Zeroed memory that costs nothing until it is touched. NULL: none left. */
void *mem_zalloc(size_t bytes);
void mem_zfree(void *p, size_t bytes);

/* Bytes of a dirty bitmap. */
static inline size_t mem_dirty_bytes(const struct mem_slot *s) { return ((s->size >> 12) + 63) / 64 * 8; }
/* Gives s a dirty bitmap. 0 or -ENOMEM. */
int mem_dirty_start(struct mem *m, struct mem_slot *s);
void mem_dirty_stop(struct mem_slot *s);

#endif
