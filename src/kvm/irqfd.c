/*
 * irqfds: eventfds of the client's (or of a vhost thread) that raise
 * interrupts. One thread per VM waits for all of them; it is started with the
 * VM, because sandboxes may forbid threads later.
 *
 * An edge is a pulse on the GSI. With a resample descriptor the line stays up
 * until the guest acknowledges the interrupt; the chip then lowers it and tells
 * us from inside its lock, where nothing may be done but to note the GSI and
 * wake the thread, which passes the news on. (Lowering the line here would be
 * too late: the client may have raised it again.)
 *
 * The thread handles events by identity: an irqfd may be gone when its event
 * is taken up, so epoll carries its descriptor and the list is searched.
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include "kvm/eventfd.h"
#include "kvm/ioctl.h"
#include "kvm/sigmask.h"
#include "base/syscall.h"

enum { EVENTS_AT_ONCE = 16 };

/* ---- the thread ---- */

/* Empties an eventfd without ever sleeping: somebody else may have read it first. True if it was signalled. */
static bool event_take(int fd)
{
	uint64_t count;
	struct iovec v = { &count, sizeof(count) };
	long r = raw_syscall(SYS_preadv2, fd, (long)&v, 1, -1, -1, RWF_NOWAIT);

	if (r == -EOPNOTSUPP || r == -ENOSYS)
		r = raw_syscall(SYS_read, fd, (long)&count, sizeof(count), 0, 0, 0);
	return r == sizeof(count);
}

static void irqfd_fire(struct vm *vm, const struct irqfd *f)
{
	mem_epoch_next(vm->mem);
	if (f->resample.fd >= 0) {
		irqchip_line(vm->irqchip, f->gsi, 1, IRQ_SOURCE_RESAMPLE);
		return;
	}
	irqchip_line(vm->irqchip, f->gsi, 1, IRQ_SOURCE_IRQFD);
	irqchip_line(vm->irqchip, f->gsi, 0, IRQ_SOURCE_IRQFD);
}

static void event_handle(struct vm *vm, int fd)
{
	struct eventfds *ev = vm->eventfds;

	pthread_mutex_lock(&ev->irqfd_lock);
	for (struct irqfd *f = ev->irqfds; f; f = f->next)
		if (f->event.fd == fd && event_take(fd))
			irqfd_fire(vm, f);
	pthread_mutex_unlock(&ev->irqfd_lock);
}

static void gsi_resample(struct vm *vm, unsigned gsi)
{
	struct eventfds *ev = vm->eventfds;

	for (struct irqfd *f = ev->irqfds; f; f = f->next)
		if (f->gsi == gsi && f->resample.fd >= 0)
			event_signal(&f->resample);
}

static void acknowledged_handle(struct vm *vm)
{
	struct eventfds *ev = vm->eventfds;

	event_take(ev->wake);
	pthread_mutex_lock(&ev->irqfd_lock);
	for (unsigned i = 0; i < ARRAY_SIZE(ev->acknowledged); i++)
		for (uint64_t word = atomic_exchange(&ev->acknowledged[i], 0); word; word &= word - 1)
			gsi_resample(vm, i * 64 + __builtin_ctzll(word));
	pthread_mutex_unlock(&ev->irqfd_lock);
}

static void *irqfd_thread(void *arg)
{
	struct vm *vm = arg;
	struct eventfds *ev = vm->eventfds;
	struct epoll_event events[EVENTS_AT_ONCE];

	while (!atomic_load(&ev->stop)) {
		int n = epoll_wait(ev->epoll, events, EVENTS_AT_ONCE, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == ev->wake)
				acknowledged_handle(vm);
			else
				event_handle(vm, events[i].data.fd);
		}
	}
	return NULL;
}

static void thread_wake(struct eventfds *ev)
{
	uint64_t one = 1;

	raw_syscall(SYS_write, ev->wake, (long)&one, sizeof(one), 0, 0, 0);
}

void irqfd_acknowledged(struct vm *vm, unsigned gsi)
{
	struct eventfds *ev = vm->eventfds;

	if (gsi >= MAX_GSI || !atomic_load(&ev->resamplers))
		return;
	atomic_fetch_or(&ev->acknowledged[gsi / 64], BIT(gsi % 64));
	thread_wake(ev);
}

static int poll_add(struct eventfds *ev, int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(ev->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

/* The client's signals are not for this thread. */
static int thread_start(struct vm *vm)
{
	uint64_t old = sigmask_set(sigmask_all());
	int r = pthread_create(&vm->eventfds->thread, NULL, irqfd_thread, vm);

	sigmask_set(old);
	return -r;
}

int irqfds_start(struct vm *vm)
{
	struct eventfds *ev = vm->eventfds;
	int r;

	pthread_mutex_init(&ev->irqfd_lock, NULL);
	ev->epoll = epoll_create1(EPOLL_CLOEXEC);
	ev->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = ev->epoll < 0 || ev->wake < 0 ? -EMFILE : poll_add(ev, ev->wake);
	return r < 0 ? r : thread_start(vm);
}

static void irqfd_free(struct eventfds *ev, struct irqfd *f)
{
	if (f->event.fd >= 0)
		epoll_ctl(ev->epoll, EPOLL_CTL_DEL, f->event.fd, NULL);
	if (f->resample.fd >= 0)
		atomic_fetch_sub(&ev->resamplers, 1);
	event_handle_close(&f->event);
	event_handle_close(&f->resample);
	free(f);
}

void irqfds_stop(struct vm *vm)
{
	struct eventfds *ev = vm->eventfds;

	if (ev->thread) {
		atomic_store(&ev->stop, true);
		thread_wake(ev);
		pthread_join(ev->thread, NULL);
	}
	for (struct irqfd *f = ev->irqfds, *next; f; f = next) {
		next = f->next;
		irqfd_free(ev, f);
	}
	if (ev->epoll >= 0)
		close(ev->epoll);
	if (ev->wake >= 0)
		close(ev->wake);
	pthread_mutex_destroy(&ev->irqfd_lock);
}

/* ---- KVM_IRQFD ---- */

static bool is_assigned(const struct eventfds *ev, uint64_t identity)
{
	for (const struct irqfd *f = ev->irqfds; f; f = f->next)
		if (f->event.identity == identity)
			return true;
	return false;
}

static int irqfd_open(struct eventfds *ev, struct irqfd *f, const struct kvm_irqfd *a)
{
	int r = event_handle_open(&f->event, a->fd);

	if (!r && a->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		r = event_handle_open(&f->resample, a->resamplefd);
		if (f->resample.fd >= 0)
			atomic_fetch_add(&ev->resamplers, 1);
	}
	return r;
}

/* epoll is level-triggered: an eventfd that is signalled already fires at once. */
static int irqfd_assign(struct eventfds *ev, const struct kvm_irqfd *a)
{
	struct irqfd *f = malloc(sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	*f = (struct irqfd){ .event.fd = -1, .resample.fd = -1, .gsi = a->gsi };
	pthread_mutex_lock(&ev->irqfd_lock);
	r = irqfd_open(ev, f, a);
	if (!r && is_assigned(ev, f->event.identity))
		r = -EBUSY;
	if (!r)
		r = poll_add(ev, f->event.fd);
	if (!r) {
		f->next = ev->irqfds;
		ev->irqfds = f;
	}
	pthread_mutex_unlock(&ev->irqfd_lock);
	if (r < 0)
		irqfd_free(ev, f);
	return r;
}

static int irqfd_deassign(struct vm *vm, const struct kvm_irqfd *a)
{
	struct eventfds *ev = vm->eventfds;
	uint64_t identity;
	int r = event_identity(a->fd, &identity);

	if (r < 0)
		return r;
	pthread_mutex_lock(&ev->irqfd_lock);
	for (struct irqfd **p = &ev->irqfds, *f; (f = *p);) {
		if (f->event.identity != identity || f->gsi != a->gsi) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		if (f->resample.fd >= 0)
			irqchip_line(vm->irqchip, f->gsi, 0, IRQ_SOURCE_RESAMPLE);
		irqfd_free(ev, f);
	}
	pthread_mutex_unlock(&ev->irqfd_lock);
	return 0;
}

long vm_irqfd(struct vm *vm, const struct kvm_irqfd *a)
{
	enum irqchip_mode mode = irqchip_mode(vm->irqchip);

	if (a->flags & ~(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (a->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return irqfd_deassign(vm, a);
	if (mode == IRQCHIP_NONE || (a->flags & KVM_IRQFD_FLAG_RESAMPLE && mode != IRQCHIP_FULL))
		return -EINVAL;
	return irqfd_assign(vm->eventfds, a);
}
