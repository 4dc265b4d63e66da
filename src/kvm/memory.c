/*
 * Memory slots and dirty logs as the client sees them. Every change happens
 * while the vCPUs stand still, so it is visible to them when the ioctl returns.
 *
 * Clearing a dirty bit is such a change: a vCPU may keep a write entry in its
 * TLB as long as the bit is set, so bits are cleared while all stand still,
 * and they drop their write entries before they run again.
 */
#include <stdlib.h>
#include "kvm/ioctl.h"

#define SLOT_COUNT 32764

/* Only dirty logging differs: nothing moves, so translations stay valid. */
static bool same_place(const struct mem_slot *s, const struct kvm_userspace_memory_region *r)
{
	return s && r->memory_size == s->size && r->guest_phys_addr == s->gpa && r->userspace_addr == (uintptr_t)s->host;
}

/* The upper half of the client's number names the address space, the lower one the slot there. NULL: there is no such. */
static struct mem *space_of(struct vm *vm, uint32_t slot)
{
	unsigned spaces = params.smm ? MEM_SPACES : 1;

	return slot >> 16 < spaces && (uint16_t)slot < SLOT_COUNT ? mem_space(vm->mem, slot >> 16) : NULL;
}

long vm_set_user_memory_region(struct vm *vm, const struct kvm_userspace_memory_region *r)
{
	long ret;
	struct mem *space = space_of(vm, r->slot);
	uint16_t id = r->slot;

	if (!space)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	vm_stop(vm, same_place(mem_slot_by_id(space, id), r) ? REQ_DROP_WRITES : REQ_SLOTS);
	ret = mem_slot_set(space, id, r->flags, r->guest_phys_addr, r->memory_size, (void *)(uintptr_t)r->userspace_addr);
	vm_resume(vm);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

/* KVM_MEM_GUEST_MEMFD is a flag that no slot can have; without it the fields after the first five say nothing. */
long vm_set_user_memory_region2(struct vm *vm, const struct kvm_userspace_memory_region2 *r)
{
	return vm_set_user_memory_region(vm, &(struct kvm_userspace_memory_region){
		.slot = r->slot, .flags = r->flags, .guest_phys_addr = r->guest_phys_addr, .memory_size = r->memory_size,
		.userspace_addr = r->userspace_addr });
}

static bool any_set(const uint64_t *bits, size_t bytes)
{
	for (size_t i = 0; i < bytes / 8; i++)
		if (bits[i])
			return true;
	return false;
}

/* Clean logs are read often (displays) and need no stop. */
static int log_read(struct vm *vm, uint32_t slot, uint64_t *bits, size_t bytes)
{
	struct mem *space = space_of(vm, slot);
	int r = mem_dirty_get(space, slot, bits, false);

	if (r < 0 || vm->manual_dirty || !any_set(bits, bytes))
		return r;
	vm_stop(vm, REQ_DROP_WRITES);
	r = mem_dirty_get(space, slot, bits, true);
	vm_resume(vm);
	return r;
}

/* Bytes of the slot's log, or -errno. */
static long log_size(struct vm *vm, uint32_t slot)
{
	struct mem *space = space_of(vm, slot);
	const struct mem_slot *s;

	if (!space)
		return -EINVAL;
	s = mem_slot_by_id(space, slot);
	return s && s->dirty ? (long)(((s->size >> 12) + 63) / 64 * 8) : -ENOENT;
}

static long dirty_log_get(struct vm *vm, const struct kvm_dirty_log *log)
{
	long bytes = log_size(vm, log->slot), r;
	uint64_t *bits;

	if (bytes < 0)
		return bytes;
	bits = malloc(bytes);
	if (!bits)
		return -ENOMEM;
	r = log_read(vm, log->slot, bits, bytes);
	if (!r)
		r = user_write(log->dirty_bitmap, bits, bytes);
	free(bits);
	return r;
}

long vm_get_dirty_log(struct vm *vm, const struct kvm_dirty_log *log)
{
	long r;

	pthread_mutex_lock(&vm->lock);
	r = dirty_log_get(vm, log);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static long dirty_log_clear(struct vm *vm, const struct kvm_clear_dirty_log *log)
{
	size_t bytes = (log->num_pages + 63ull) / 64 * 8;
	long size = log_size(vm, log->slot), r;
	uint64_t *bits;

	if (size < 0)
		return size;
	if (log->first_page % 64 || bytes > (size_t)size)
		return -EINVAL;
	bits = malloc(bytes + 8);
	if (!bits)
		return -ENOMEM;
	r = user_read(bits, log->dirty_bitmap, bytes);
	if (!r) {
		vm_stop(vm, REQ_DROP_WRITES);
		r = mem_dirty_clear(space_of(vm, log->slot), log->slot, log->first_page, log->num_pages, bits);
		vm_resume(vm);
	}
	free(bits);
	return r;
}

long vm_clear_dirty_log(struct vm *vm, const struct kvm_clear_dirty_log *log)
{
	long r;

	pthread_mutex_lock(&vm->lock);
	r = dirty_log_clear(vm, log);
	pthread_mutex_unlock(&vm->lock);
	return r;
}
