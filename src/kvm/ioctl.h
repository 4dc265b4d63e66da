/* Handlers of ioctls, declared from the table, and how they reach the client's memory. */
#ifndef ANYKVM_IOCTL_H
#define ANYKVM_IOCTL_H

#include "kvm/vm.h"

struct system;                           /* there is nothing behind /dev/kvm: handlers get NULL */

#define IOCTL_PARAMS_NONE(kind, type) struct kind *
#define IOCTL_PARAMS_VALUE(kind, type) struct kind *, unsigned long
#define IOCTL_PARAMS_IN(kind, type) struct kind *, const type *
#define IOCTL_PARAMS_OUT(kind, type) struct kind *, type *
#define IOCTL_PARAMS_INOUT(kind, type) struct kind *, type *
#define IOCTL_PARAMS_USER(kind, type) struct kind *, void *
#define IOCTL(kind, request, copy, type, handler) long handler(IOCTL_PARAMS_##copy(kind, type));
#include "kvm/ioctls.def"
#undef IOCTL

/* Runs the ioctl request of an object. >= 0 or -errno. */
long ioctl_dispatch(enum object_kind kind, void *object, uint32_t request, void *arg);

/* Copies from and to the client's memory without a crash on bad pointers. 0 or -EFAULT. Not for KVM_RUN's inside. */
int user_read(void *to, const void *from_client, size_t len);
int user_write(void *to_client, const void *from, size_t len);

#endif
