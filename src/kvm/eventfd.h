/* Descriptors of the client's that events go through, and what eventfd.c and irqfd.c share. */
#ifndef ANYKVM_EVENTFD_H
#define ANYKVM_EVENTFD_H

#include "kvm/lifecycle.h"

enum { MAX_GSI = 4096 };

/* The library's own duplicate of a client's eventfd, so that it outlives the client's close(). */
struct event_handle {
	int fd;
	uint64_t identity;               /* the same for all descriptors of one eventfd */
};
/* 0 or -errno: EBADF, EINVAL if it is no eventfd. */
int event_handle_open(struct event_handle *h, int client_fd);
void event_handle_close(struct event_handle *h);
/* Adds one. Callable inside KVM_RUN. */
void event_signal(const struct event_handle *h);
/* identity of a client's descriptor, or -errno */
int event_identity(int client_fd, uint64_t *identity);

struct ioeventfd {
	struct ioeventfd *next;
	struct event_handle event;
	bool pio, any_data;
	uint64_t addr, data;
	unsigned len;                    /* 0: any */
};

struct zone { struct zone *next; uint64_t addr; uint32_t size; bool pio; };

struct irqfd {
	struct irqfd *next;
	struct event_handle event, resample;     /* resample.fd: -1 for none */
	unsigned gsi;
};

struct eventfds {
	struct lock lock;                /* ioeventfds and zones: taken inside KVM_RUN */
	struct ioeventfd *ioeventfds;
	struct zone *zones;

	pthread_mutex_t irqfd_lock;      /* irqfds */
	struct irqfd *irqfds;
	pthread_t thread;
	int epoll, wake;                 /* the thread sleeps in epoll; wake is an eventfd of our own */
	_Atomic bool stop;
	_Atomic unsigned resamplers;     /* irqfds with a resample descriptor */
	_Atomic uint64_t acknowledged[MAX_GSI / 64];     /* level interrupts that the guest acknowledged */
};

/* irqfd.c */
int irqfds_start(struct vm *vm);
void irqfds_stop(struct vm *vm);

#endif
