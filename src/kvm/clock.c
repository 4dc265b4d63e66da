/*
 * Time. One clock: the host's TSC, whose rate is measured once. kvmclock is a
 * line over it, the same for all vCPUs, and is moved only by KVM_SET_CLOCK;
 * guests compute the very same numbers from their clock page.
 */
#include <time.h>
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"
#include "base/syscall.h"

/* The TSC's rate is wrong by at most one part in this many, if that can be reached in so short a time. */
#define PRECISION 100000
#define MEASURE_NS 20000000
#define PAUSE_NS 1000000
#define LONG_AGO_NS 1000000000
#define VALID_FLAGS (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)

struct moment { uint64_t tsc, ns, error; };     /* error: the TSC when the clock was ns may have been so much more or less */

/* A pair read closely together: of several tries the one that took least. */
static struct moment moment_now(clockid_t id)
{
	struct moment best = { 0 };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 8; i++) {
		uint64_t before = clock_host_tsc(), ns = time_of(id), after = clock_host_tsc();

		if (after - before < least) {
			least = after - before;
			best = (struct moment){ .tsc = before + least / 2, .ns = ns, .error = least / 2 };
		}
	}
	return best;
}

void clock_scale_find(uint64_t khz, uint32_t *mul, int8_t *shift)
{
	uint64_t factor = (1000000ull << 32) / khz;

	for (*shift = 0; factor < 1u << 31; --*shift)
		factor = (1000000ull << (32 + 1 - *shift)) / khz;
	for (; factor > UINT32_MAX; ++*shift)
		factor /= 2;
	*mul = factor;
}

static uint64_t scale(uint64_t ticks, uint32_t mul, int8_t shift)
{
	ticks = shift < 0 ? ticks >> -shift : ticks << shift;
	return (unsigned __int128)ticks * mul >> 32;
}

static uint64_t tsc_khz;
static struct { uint32_t mul; int8_t shift; } tsc_scale;

static struct moment opened;

static void note_opened(void)
{
	opened = moment_now(CLOCK_MONOTONIC_RAW);
}

void clock_opened(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, note_opened);
}

/* From when the client opened /dev/kvm, unless that is so long ago that the machine may have slept since, to when it is enough. */
static void tsc_measure(void)
{
	struct timespec pause = { .tv_nsec = PAUSE_NS };
	struct moment begin, now = moment_now(CLOCK_MONOTONIC_RAW);

	clock_opened();
	begin = now.ns - opened.ns < LONG_AGO_NS ? opened : now;
	while (now.ns - begin.ns < MEASURE_NS && now.tsc - begin.tsc <= (begin.error + now.error) * PRECISION) {
		raw_syscall(SYS_nanosleep, (long)&pause, 0, 0, 0, 0, 0);
		now = moment_now(CLOCK_MONOTONIC_RAW);
	}
	tsc_khz = (unsigned __int128)(now.tsc - begin.tsc) * 1000000 / (now.ns - begin.ns);
	clock_scale_find(tsc_khz, &tsc_scale.mul, &tsc_scale.shift);
}

uint64_t clock_tsc_khz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (unlikely(!tsc_khz))
		pthread_once(&once, tsc_measure);
	return tsc_khz;
}

uint64_t clock_tsc_to_ns(uint64_t ticks)
{
	return scale(ticks, tsc_scale.mul, tsc_scale.shift);
}

struct kvmclock_base clock_base(struct vm *vm)
{
	struct kvmclock_base b;

	lock_take(&vm->clock_lock);
	b = vm->clock;
	lock_release(&vm->clock_lock);
	return b;
}

uint64_t clock_kvm_ns(struct vm *vm, uint64_t host_tsc)
{
	struct kvmclock_base b = clock_base(vm);

	return (int64_t)(host_tsc - b.tsc) < 0 ? b.ns : b.ns + scale(host_tsc - b.tsc, b.mul, b.shift);
}

uint64_t clock_wall_offset_ns(struct vm *vm)
{
	struct moment m = moment_now(CLOCK_REALTIME);

	return m.ns - clock_kvm_ns(vm, m.tsc);
}

void clock_init(struct vm *vm)
{
	clock_tsc_khz();
	vm->clock = (struct kvmclock_base){ .tsc = clock_host_tsc(), .mul = tsc_scale.mul, .shift = tsc_scale.shift };
}

long vm_get_clock(struct vm *vm, struct kvm_clock_data *d)
{
	struct moment m = moment_now(CLOCK_REALTIME);

	*d = (struct kvm_clock_data){ .clock = clock_kvm_ns(vm, m.tsc), .flags = VALID_FLAGS, .realtime = m.ns,
				      .host_tsc = m.tsc };
	return 0;
}

/* With REALTIME the clock goes on for the time that has passed since it was read, never back. */
long vm_set_clock(struct vm *vm, const struct kvm_clock_data *d)
{
	struct moment m = moment_now(CLOCK_REALTIME);
	uint64_t ns = d->clock;

	if (d->flags & ~VALID_FLAGS)
		return -EINVAL;
	if (d->flags & KVM_CLOCK_REALTIME && m.ns > d->realtime)
		ns += m.ns - d->realtime;
	pthread_mutex_lock(&vm->lock);
	lock_take(&vm->clock_lock);
	vm->clock.tsc = m.tsc;
	vm->clock.ns = ns;
	lock_release(&vm->clock_lock);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_request(vm->vcpus[i], REQ_CLOCK);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/* For vCPUs that are created from here on. */
long vm_set_tsc_khz(struct vm *vm, unsigned long khz)
{
	uint64_t multiplier;
	long r = tsc_multiplier_of(khz ? khz : clock_tsc_khz(), &multiplier);

	if (!r)
		vm->tsc_khz = khz ? khz : clock_tsc_khz();
	return r;
}

long vm_get_tsc_khz(struct vm *vm)
{
	return vm->tsc_khz;
}
