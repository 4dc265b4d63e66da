/*
 * The guest's TSC: the host's plus an offset. Clients that set up several
 * vCPUs write the same value to each, one after the other; such writes are
 * taken as "the same moment", or the vCPUs would be apart by the time between
 * the writes.
 */
#include "kvm/vcpu.h"

uint64_t vcpu_l1_tsc(struct vcpu *v)
{
	return clock_host_tsc() + v->cpu->tsc_offset;
}

void tsc_offset_set(struct vcpu *v, int64_t offset)
{
	v->cpu->tsc_offset = offset;
	if (v->pv.system_time & 1)
		vcpu_request(v, REQ_CLOCK);
}

/* 0 comes from set-up and reset; else within a second of where the last written TSC is now. */
static bool synchronises(const struct tsc_sync *s, uint64_t value, uint64_t now_ns, uint64_t khz)
{
	uint64_t expected, second = khz * 1000;

	if (!s->valid)
		return false;
	if (!value)
		return true;
	expected = s->value + (unsigned __int128)(now_ns - s->ns) * khz / 1000000;
	return value < expected + second && value + second > expected;
}

/* With s->lock held. */
static void note_write(struct tsc_sync *s, uint64_t ns, uint64_t value, int64_t offset)
{
	s->ns = ns;
	s->value = value;
	s->offset = offset;
	s->valid = true;
}

void tsc_write(struct vcpu *v, uint64_t value)
{
	struct vm *vm = v->vm;
	struct tsc_sync *s = &vm->tsc_sync;
	uint64_t now_ns;
	int64_t offset;

	lock_take(&s->lock);
	now_ns = time_ns();
	offset = synchronises(s, value, now_ns, vm->tsc_khz) ? s->offset : (int64_t)(value - clock_host_tsc());
	note_write(s, now_ns, value, offset);
	lock_release(&s->lock);
	tsc_offset_set(v, offset);
}

/* Within 250 parts per million of the host's rate nothing need be scaled. */
long kvm_vcpu_set_tsc_khz(struct vcpu *v, unsigned long khz)
{
	uint64_t host = clock_tsc_khz();

	if (!khz)
		khz = host;
	return khz * 1000000 >= host * (1000000 - 250) && khz * 1000000 <= host * (1000000 + 250) ? 0 : -EINVAL;
}

long kvm_vcpu_get_tsc_khz(struct vcpu *v)
{
	return v->vm->tsc_khz;
}

static bool is_tsc_offset(const struct kvm_device_attr *a)
{
	return a->group == KVM_VCPU_TSC_CTRL && a->attr == KVM_VCPU_TSC_OFFSET;
}

long kvm_vcpu_has_device_attr(struct vcpu *v, const struct kvm_device_attr *a)
{
	return is_tsc_offset(a) ? 0 : -ENXIO;
}

long kvm_vcpu_get_device_attr(struct vcpu *v, const struct kvm_device_attr *a)
{
	uint64_t offset = v->cpu->tsc_offset;

	return is_tsc_offset(a) ? user_write((void *)(uintptr_t)a->addr, &offset, sizeof(offset)) : -ENXIO;
}

long kvm_vcpu_set_device_attr(struct vcpu *v, const struct kvm_device_attr *a)
{
	struct tsc_sync *s = &v->vm->tsc_sync;
	int64_t offset;

	if (!is_tsc_offset(a))
		return -ENXIO;
	if (user_read(&offset, (void *)(uintptr_t)a->addr, sizeof(offset)) < 0)
		return -EFAULT;
	lock_take(&s->lock);
	note_write(s, time_ns(), clock_host_tsc() + offset, offset);
	lock_release(&s->lock);
	tsc_offset_set(v, offset);
	return 0;
}
