/*
 * Wake-ups of vCPUs at a time, for nested VMX's preemption timer: one thread
 * per VM, made with the first vCPU (sandboxes forbid threads later). Arming is
 * a store; the thread's alarm is set only when the new time is before the one it
 * is set for, so a guest hypervisor that re-arms the same far deadline at every
 * VM entry costs no system call. "The same" is never so to the nanosecond.
 *
 * The order that matters: timer_set() stores the time, then reads next; the
 * thread stores next, then reads the times (both sequentially consistent), so
 * a time is either seen by the scan or seen to be earlier than next. Whoever
 * sets the alarm looks at next again afterwards, so the last one to set it has
 * set it for what next says.
 */
#include <stdlib.h>
#include "kvm/sigmask.h"
#include "kvm/vcpu.h"

enum { TIMER_SLACK = 5000 /* ns; a wake-up takes longer */ };

struct timers {
	pthread_t thread;
	unsigned users;
	struct alarm alarm;
	_Atomic uint64_t next;           /* what it is set for; UINT64_MAX: nothing */
	_Atomic bool stop;
};

/* Fires what is due; returns the earliest time that is not. */
static uint64_t timers_scan(struct vm *vm, uint64_t now)
{
	uint64_t next = UINT64_MAX;
	unsigned n = atomic_load(&vm->nvcpus);

	for (unsigned i = 0; i < n; i++) {
		struct vcpu *v = vm->vcpus[i];
		uint64_t at = atomic_load(&v->timer_ns);

		if (at <= now) {
			if (atomic_compare_exchange_strong(&v->timer_ns, &at, UINT64_MAX))
				vcpu_request(v, REQ_TIMER);
		} else if (at < next) {
			next = at;
		}
	}
	return next;
}

/* The alarm is to go off at ns, or before. */
static void timers_arm(struct timers *t, uint64_t ns)
{
	uint64_t next = atomic_load(&t->next);

	do {
		if (ns >= next || next - ns <= TIMER_SLACK)
			return;
	} while (!atomic_compare_exchange_weak(&t->next, &next, ns));
	do {
		ns = atomic_load(&t->next);
		if (ns != UINT64_MAX)
			alarm_set(&t->alarm, ns);
	} while (ns != atomic_load(&t->next));
}

static void *timers_thread(void *arg)
{
	struct vm *vm = arg;
	struct timers *t = vm->timers;

	for (;;) {
		atomic_store(&t->next, UINT64_MAX);
		timers_arm(t, timers_scan(vm, time_ns()));
		if (atomic_load(&t->stop))
			return NULL;
		alarm_wait(&t->alarm);
	}
}

/* Client signals are not for this thread. */
static int thread_start(struct timers *t, struct vm *vm)
{
	uint64_t old = sigmask_set(sigmask_all());
	int r = pthread_create(&t->thread, NULL, timers_thread, vm);

	sigmask_set(old);
	return -r;
}

int timers_get(struct vm *vm)
{
	struct timers *t = vm->timers;
	int r;

	if (t) {
		t->users++;
		return 0;
	}
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	*t = (struct timers){ .users = 1, .next = UINT64_MAX };
	r = alarm_open(&t->alarm);
	if (r < 0) {
		free(t);
		return r;
	}
	vm->timers = t;
	r = thread_start(t, vm);
	if (r < 0) {
		vm->timers = NULL;
		alarm_close(&t->alarm);
		free(t);
	}
	return r;
}

/* all: vCPUs are being freed one by one, so the thread must not look at any of them again. */
void timers_put(struct vm *vm, bool all)
{
	struct timers *t = vm->timers;

	if (!t || (--t->users && !all))
		return;
	atomic_store(&t->stop, true);
	alarm_set(&t->alarm, 0);
	pthread_join(t->thread, NULL);
	vm->timers = NULL;
	alarm_close(&t->alarm);
	free(t);
}

void timer_set(struct vcpu *v, uint64_t ns)
{
	struct timers *t = v->vm->timers;

	if (atomic_load_explicit(&v->timer_ns, memory_order_relaxed) == ns)
		return;
	atomic_store(&v->timer_ns, ns);
	timers_arm(t, ns);
}
