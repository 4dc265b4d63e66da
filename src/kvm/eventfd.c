/*
 * Guest writes that go elsewhere than to an exit: ioeventfds and coalesced
 * zones. Both are looked up inside KVM_RUN, under a lock that is held for a
 * few instructions (and one write() to an eventfd).
 *
 * An eventfd is the same through all its descriptors; the kernel tells its
 * identity in /proc/self/fdinfo. Where that cannot be read, the descriptor's
 * number has to do.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "kvm/eventfd.h"
#include "kvm/ioctl.h"
#include "base/syscall.h"

/* ---- descriptors ---- */

static int fdinfo_read(int fd, char *text, size_t size)
{
	char path[48];
	int info;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return -1;
	n = read(info, text, size - 1);
	close(info);
	text[n < 0 ? 0 : n] = 0;
	return n < 0 ? -1 : 0;
}

int event_identity(int fd, uint64_t *identity)
{
	char text[512];
	const char *id;

	if (fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	*identity = BIT(63) | (unsigned)fd;
	if (fdinfo_read(fd, text, sizeof(text)) < 0)
		return 0;
	if (!strstr(text, "eventfd-count:"))
		return -EINVAL;
	id = strstr(text, "eventfd-id:");
	if (id)
		*identity = strtoul(id + strlen("eventfd-id:"), NULL, 10);
	return 0;
}

int event_handle_open(struct event_handle *h, int client_fd)
{
	int r = event_identity(client_fd, &h->identity);

	h->fd = -1;
	if (r < 0)
		return r;
	h->fd = fcntl(client_fd, F_DUPFD_CLOEXEC, 3);
	return h->fd < 0 ? -errno : 0;
}

void event_handle_close(struct event_handle *h)
{
	if (h->fd >= 0)
		close(h->fd);
	h->fd = -1;
}

void event_signal(const struct event_handle *h)
{
	uint64_t one = 1;

	raw_syscall(SYS_write, h->fd, (long)&one, sizeof(one), 0, 0, 0);
}

/* ---- ioeventfds ---- */

static uint64_t data_value(const void *data, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, data, len < 8 ? len : 8);
	return v;
}

static bool ioeventfd_matches(const struct ioeventfd *e, bool pio, uint64_t addr, const void *data, unsigned len)
{
	if (e->pio != pio || e->addr != addr || (e->len && e->len != len))
		return false;
	return e->any_data || e->data == data_value(data, len);
}

bool ioeventfd_write(struct vm *vm, bool pio, uint64_t addr, const void *data, unsigned len)
{
	struct eventfds *ev = vm->eventfds;
	struct ioeventfd *e;

	if (!ev->ioeventfds)
		return false;
	lock_take(&ev->lock);
	for (e = ev->ioeventfds; e && !ioeventfd_matches(e, pio, addr, data, len); e = e->next)
		;
	if (e)
		event_signal(&e->event);
	lock_release(&ev->lock);
	return e;
}

/* Would some write meet both? */
static bool collide(const struct ioeventfd *a, const struct ioeventfd *b)
{
	if (a->pio != b->pio || a->addr != b->addr)
		return false;
	if (!a->len || !b->len)
		return true;
	return a->len == b->len && (a->any_data || b->any_data || a->data == b->data);
}

static int ioeventfd_assign(struct eventfds *ev, const struct ioeventfd *want, int fd)
{
	struct ioeventfd *e = malloc(sizeof(*e)), *other;
	int r;

	if (!e)
		return -ENOMEM;
	*e = *want;
	r = event_handle_open(&e->event, fd);
	lock_take(&ev->lock);
	for (other = ev->ioeventfds; !r && other; other = other->next)
		if (collide(e, other))
			r = -EEXIST;
	if (!r) {
		e->next = ev->ioeventfds;
		ev->ioeventfds = e;
	}
	lock_release(&ev->lock);
	if (r < 0) {
		event_handle_close(&e->event);
		free(e);
	}
	return r;
}

static bool same_ioeventfd(const struct ioeventfd *e, const struct ioeventfd *want)
{
	return e->event.identity == want->event.identity && e->pio == want->pio && e->addr == want->addr && e->len == want->len &&
	       e->any_data == want->any_data && (e->any_data || e->data == want->data);
}

static int ioeventfd_deassign(struct eventfds *ev, struct ioeventfd *want, int fd)
{
	struct ioeventfd **p, *e;
	int r = event_identity(fd, &want->event.identity);

	if (r < 0)
		return r;
	lock_take(&ev->lock);
	for (p = &ev->ioeventfds; *p && !same_ioeventfd(*p, want); p = &(*p)->next)
		;
	e = *p;
	if (e)
		*p = e->next;
	lock_release(&ev->lock);
	if (!e)
		return -ENOENT;
	event_handle_close(&e->event);
	free(e);
	return 0;
}

static bool ioeventfd_valid(const struct kvm_ioeventfd *a)
{
	if (a->len > 8 || !(BIT(a->len) & (BIT(0) | BIT(1) | BIT(2) | BIT(4) | BIT(8))))
		return false;
	if (a->addr + a->len < a->addr || a->flags & ~KVM_IOEVENTFD_VALID_FLAG_MASK)
		return false;
	return a->len || !(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH);
}

long vm_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *a)
{
	struct ioeventfd want = { .pio = a->flags & KVM_IOEVENTFD_FLAG_PIO, .any_data = !(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
				  .addr = a->addr, .data = a->datamatch, .len = a->len };

	if (a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return ioeventfd_deassign(vm->eventfds, &want, a->fd);
	return ioeventfd_valid(a) ? ioeventfd_assign(vm->eventfds, &want, a->fd) : -EINVAL;
}

/* ---- coalesced zones ---- */

static bool zone_holds(const struct zone *z, bool pio, uint64_t addr, uint64_t len)
{
	return z->pio == pio && addr >= z->addr && addr - z->addr <= z->size && len <= z->size - (addr - z->addr);
}

#define RING_ENTRIES ((PAGE_SIZE_4K - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

/* The client moves first, we move last; one place stays empty to tell full from empty. */
static bool ring_put(struct kvm_coalesced_mmio_ring *ring, bool pio, uint64_t addr, const void *data, unsigned len)
{
	uint32_t last = *(volatile uint32_t *)&ring->last, first = *(volatile uint32_t *)&ring->first;
	struct kvm_coalesced_mmio *e;

	if (last >= RING_ENTRIES || (last + 1) % RING_ENTRIES == first)
		return false;
	e = &ring->coalesced_mmio[last];
	e->phys_addr = addr;
	e->len = len;
	e->pio = pio;
	memcpy(e->data, data, len);
	atomic_thread_fence(memory_order_release);
	*(volatile uint32_t *)&ring->last = (last + 1) % RING_ENTRIES;
	return true;
}

bool coalesced_write(struct vm *vm, bool pio, uint64_t addr, const void *data, unsigned len)
{
	struct eventfds *ev = vm->eventfds;
	struct zone *z;
	bool done = false;

	if (!ev->zones || len > 8)
		return false;
	lock_take(&ev->lock);
	for (z = ev->zones; z && !zone_holds(z, pio, addr, len); z = z->next)
		;
	if (z)
		done = ring_put((struct kvm_coalesced_mmio_ring *)vm->coalesced, pio, addr, data, len);
	lock_release(&ev->lock);
	return done;
}

long vm_register_coalesced(struct vm *vm, const struct kvm_coalesced_mmio_zone *a)
{
	struct eventfds *ev = vm->eventfds;
	struct zone *z;

	if (a->pio > 1)
		return -EINVAL;
	z = malloc(sizeof(*z));
	if (!z)
		return -ENOMEM;
	*z = (struct zone){ .addr = a->addr, .size = a->size, .pio = a->pio };
	lock_take(&ev->lock);
	z->next = ev->zones;
	ev->zones = z;
	lock_release(&ev->lock);
	return 0;
}

/* Takes off the list, and returns, a zone that holds all of the one given; NULL: none is left. */
static struct zone *zone_remove(struct eventfds *ev, const struct kvm_coalesced_mmio_zone *a)
{
	struct zone **p, *z;

	lock_take(&ev->lock);
	for (p = &ev->zones; *p && !zone_holds(*p, a->pio, a->addr, a->size); p = &(*p)->next)
		;
	z = *p;
	if (z)
		*p = z->next;
	lock_release(&ev->lock);
	return z;
}

long vm_unregister_coalesced(struct vm *vm, const struct kvm_coalesced_mmio_zone *a)
{
	struct zone *z;

	if (a->pio > 1)
		return -EINVAL;
	while ((z = zone_remove(vm->eventfds, a)))
		free(z);
	return 0;
}

/* ---- life ---- */

int eventfds_start(struct vm *vm)
{
	vm->eventfds = calloc(1, sizeof(*vm->eventfds));
	return vm->eventfds ? irqfds_start(vm) : -ENOMEM;
}

void eventfds_stop(struct vm *vm)
{
	struct eventfds *ev = vm->eventfds;

	irqfds_stop(vm);
	for (struct ioeventfd *e = ev->ioeventfds, *next; e; e = next) {
		next = e->next;
		event_handle_close(&e->event);
		free(e);
	}
	for (struct zone *z = ev->zones, *next; z; z = next) {
		next = z->next;
		free(z);
	}
	free(ev);
	vm->eventfds = NULL;
}
