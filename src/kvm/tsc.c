/*
 * The guest's TSC: the host's, scaled if the client asked for another rate,
 * plus an offset. Clients that set up several vCPUs write the same value to
 * each, one after the other; such writes are taken as "the same moment", or the
 * vCPUs would be apart by the time between the writes.
 */
#include "cpu/time.h"
#include "kvm/vcpu.h"

uint64_t vcpu_l1_tsc(struct vcpu *v)
{
	return tsc_at(v->cpu, clock_host_tsc());
}

void tsc_offset_set(struct vcpu *v, int64_t offset)
{
	v->cpu->tsc_offset = offset;
	vmx_tsc_changed(v->vmx);
	if (v->pv.system_time & 1)
		vcpu_request(v, REQ_CLOCK);
}

/*
 * The clock page pairs a TSC with a time, and a deadline of the local APIC is a
 * TSC: both follow. The preemption timer counts on whatever the TSC says.
 */
void tsc_moved(struct vcpu *v, int64_t by)
{
	vmx_tsc_moved(v->vmx, by);
	pv_clock_update(v);
	if (lapic_in_kernel(v))
		lapic_tsc_moved(v->vm->irqchip, v->id);
}

/* 0 comes from set-up and reset; else within a second of where the last written TSC is now. */
static bool synchronises(const struct tsc_sync *s, uint64_t value, uint64_t now_ns, uint64_t khz)
{
	uint64_t expected, second = khz * 1000;

	if (!s->valid || s->khz != khz)
		return false;
	if (!value)
		return true;
	expected = s->value + (unsigned __int128)(now_ns - s->ns) * khz / 1000000;
	return value < expected + second && value + second > expected;
}

/* With s->lock held. */
static void note_write(struct tsc_sync *s, uint64_t khz, uint64_t ns, uint64_t value, int64_t offset)
{
	s->khz = khz;
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
	offset = synchronises(s, value, now_ns, v->tsc_khz) ? s->offset : v->cpu->tsc_offset + (int64_t)(value - vcpu_l1_tsc(v));
	note_write(s, v->tsc_khz, now_ns, value, offset);
	lock_release(&s->lock);
	tsc_offset_set(v, offset);
}

/* Within 250 parts per million of the host's rate nothing is scaled. */
long tsc_multiplier_of(uint64_t khz, uint64_t *multiplier)
{
	uint64_t host = clock_tsc_khz();
	bool near = khz * 1000000 >= host * (1000000 - 250) && khz * 1000000 <= host * (1000000 + 250);

	if (!khz || khz >= INT32_MAX)
		return -EINVAL;
	*multiplier = near ? 0 : ((unsigned __int128)khz << 48) / host;
	return 0;
}

uint64_t tsc_ticks_to_ns(struct vcpu *v, uint64_t ticks)
{
	uint64_t multiplier = v->cpu->tsc_multiplier;
	unsigned __int128 host = multiplier ? ((unsigned __int128)ticks << 48) / multiplier : ticks;

	return clock_tsc_to_ns(host >> 64 ? UINT64_MAX : (uint64_t)host);
}

/* The offset stays, so the TSC jumps: clients write it afterwards. */
long kvm_vcpu_set_tsc_khz(struct vcpu *v, unsigned long khz)
{
	uint64_t multiplier, host = clock_tsc_khz();
	long r = tsc_multiplier_of(khz ? khz : host, &multiplier);

	if (r)
		return r;
	v->tsc_khz = khz ? khz : host;
	v->cpu->tsc_multiplier = multiplier;
	cpu_mode_update(v->cpu);
	clock_scale_find(multiplier ? v->tsc_khz : host, &v->clock_mul, &v->clock_shift);
	tsc_offset_set(v, v->cpu->tsc_offset);
	return 0;
}

long kvm_vcpu_get_tsc_khz(struct vcpu *v)
{
	return v->tsc_khz;
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
	note_write(s, v->tsc_khz, time_ns(), vcpu_l1_tsc(v) - v->cpu->tsc_offset + offset, offset);
	lock_release(&s->lock);
	tsc_offset_set(v, offset);
	return 0;
}
