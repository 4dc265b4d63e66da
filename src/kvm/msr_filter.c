/*
 * The client's filter of guest MSR accesses. vCPUs read it inside KVM_RUN with
 * the memory read lock held, so a new filter takes the old one's place while
 * they stand still.
 */
#include <stdlib.h>
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"

struct msr_filter {
	bool default_allow;
	unsigned count;
	struct range {
		uint32_t flags, base, count;
		uint8_t *allowed;        /* one bit per MSR */
	} ranges[KVM_MSR_FILTER_MAX_RANGES];
};

bool msr_filter_allows(struct vm *vm, uint32_t index, bool write)
{
	const struct msr_filter *f = vm->msr_filter;
	uint32_t access = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;

	if (!f || (index >= 0x800 && index <= 0x8ff))
		return true;
	for (unsigned i = 0; i < f->count; i++) {
		const struct range *r = &f->ranges[i];
		uint32_t n = index - r->base;

		if (index >= r->base && n < r->count && r->flags & access)
			return r->allowed[n / 8] & BIT(n % 8);
	}
	return f->default_allow;
}

static void filter_free(struct msr_filter *f)
{
	for (unsigned i = 0; f && i < f->count; i++)
		free(f->ranges[i].allowed);
	free(f);
}

void msr_filter_free(struct vm *vm)
{
	filter_free(vm->msr_filter);
}

static int range_add(struct msr_filter *f, const struct kvm_msr_filter_range *user)
{
	size_t bytes = ((size_t)user->nmsrs + 7) / 8;
	uint8_t *allowed;

	if (!user->nmsrs)
		return 0;
	if (user->flags & ~(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) || bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
		return -EINVAL;
	allowed = malloc(bytes);
	if (!allowed)
		return -ENOMEM;
	f->ranges[f->count++] = (struct range){ .flags = user->flags, .base = user->base, .count = user->nmsrs,
						.allowed = allowed };
	return user_read(allowed, user->bitmap, bytes);
}

static int filter_build(struct msr_filter *f, const struct kvm_msr_filter *user)
{
	if (user->flags & ~KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	f->default_allow = !(user->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		int r = range_add(f, &user->ranges[i]);

		if (r < 0)
			return r;
	}
	return !f->count && !f->default_allow ? -EINVAL : 0;
}

long vm_set_msr_filter(struct vm *vm, const struct kvm_msr_filter *user)
{
	struct msr_filter *f = calloc(1, sizeof(*f)), *old;
	int r = f ? filter_build(f, user) : -ENOMEM;

	if (r < 0) {
		filter_free(f);
		return r;
	}
	pthread_mutex_lock(&vm->lock);
	vm_stop(vm, REQ_DROP_WRITES);
	old = vm->msr_filter;
	vm->msr_filter = f;
	vm_resume(vm);
	pthread_mutex_unlock(&vm->lock);
	filter_free(old);
	return 0;
}
