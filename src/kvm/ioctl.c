/*
 * From a request code to its handler: the table ioctls.def, one thunk per line
 * that gives the handler its argument in the type it wants. The third argument
 * of an ioctl is the client's pointer; what it points to is copied, so that a
 * bad one is EFAULT as with the kernel and never a crash.
 */
#include <sys/uio.h>
#include <unistd.h>
#include "kvm/ioctl.h"
#include "base/syscall.h"

enum copy { COPY_NONE, COPY_VALUE, COPY_IN, COPY_OUT, COPY_INOUT, COPY_USER };

struct ioctl_entry {
	enum object_kind kind;
	uint32_t request;
	enum copy copy;
	unsigned size;
	const char *name;
	/* arg is the third argument, or for copied ones a buffer of size bytes. */
	long (*call)(void *object, void *arg);
};

#define CALL_ARGS_NONE(type)
#define CALL_ARGS_VALUE(type) , (unsigned long)arg
#define CALL_ARGS_IN(type) , (const type *)arg
#define CALL_ARGS_OUT(type) , (type *)arg
#define CALL_ARGS_INOUT(type) , (type *)arg
#define CALL_ARGS_USER(type) , arg

#define IOCTL(kind, request, copy, type, handler) \
	static long call_##handler(void *object, void *arg) { return handler(object CALL_ARGS_##copy(type)); }
#include "kvm/ioctls.def"
#undef IOCTL

#define BUFFER_SIZE 4096
#define IOCTL(kind, request, copy, type, handler) \
	_Static_assert(COPY_##copy == COPY_USER || sizeof(type) <= BUFFER_SIZE, #request " does not fit the buffer");
#include "kvm/ioctls.def"
#undef IOCTL

static const struct ioctl_entry entries[] = {
#define IOCTL(kind, request, copy, type, handler) \
	{ OBJECT_##kind, (uint32_t)(request), COPY_##copy, sizeof(type), #request, call_##handler },
#include "kvm/ioctls.def"
#undef IOCTL
};

static const struct ioctl_entry *entry_find(enum object_kind kind, uint32_t request)
{
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		if (entries[i].request == request && entries[i].kind == kind)
			return &entries[i];
	return NULL;
}

static bool memory_access_forbidden(long r)
{
	return r == -ENOSYS || r == -EPERM;
}

/* process_vm_readv() on ourselves. Where a sandbox forbids it, trust the pointer. */
static int user_copy(long syscall_nr, void *local, void *client, size_t len)
{
	struct iovec l = { local, len }, c = { client, len };
	long r;

	if (!len)
		return 0;
	r = raw_syscall(syscall_nr, raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0), (long)&l, 1, (long)&c, 1, 0);
	if (memory_access_forbidden(r)) {
		bool reads = syscall_nr == SYS_process_vm_readv;

		memcpy(reads ? local : client, reads ? client : local, len);
		return 0;
	}
	return r == (long)len ? 0 : -EFAULT;
}

int user_read(void *to, const void *from_client, size_t len)
{
	return user_copy(SYS_process_vm_readv, to, (void *)from_client, len);
}

int user_write(void *to_client, const void *from, size_t len)
{
	return user_copy(SYS_process_vm_writev, (void *)from, to_client, len);
}

static long call_copied(const struct ioctl_entry *e, void *object, void *arg)
{
	uint8_t buffer[BUFFER_SIZE] __attribute__((aligned(64)));
	long r;

	if (e->copy == COPY_OUT)
		memset(buffer, 0, e->size);
	else if (user_read(buffer, arg, e->size) < 0)
		return -EFAULT;
	r = e->call(object, buffer);
	if (r >= 0 && e->copy != COPY_IN && user_write(arg, buffer, e->size) < 0)
		return -EFAULT;
	return r;
}

static long call_entry(const struct ioctl_entry *e, void *object, void *arg)
{
	if (e->copy == COPY_IN || e->copy == COPY_OUT || e->copy == COPY_INOUT)
		return call_copied(e, object, arg);
	return e->call(object, arg);
}

/* One ioctl of a vCPU at a time. All but KVM_RUN, which looks after itself, may read guest memory. */
static long call_vcpu(const struct ioctl_entry *e, struct vcpu *v, void *arg)
{
	bool run = e->request == KVM_RUN;
	long r;

	pthread_mutex_lock(&v->lock);
	if (!run)
		mem_read_lock(v->vm->mem);
	r = call_entry(e, v, arg);
	if (!run)
		mem_read_unlock(v->vm->mem);
	pthread_mutex_unlock(&v->lock);
	return r;
}

/* What the kernel says to requests that it does not know. */
static long unknown(enum object_kind kind, uint32_t request)
{
	trace(kvm, "unknown ioctl %#x on object kind %d", request, kind);
	return kind == OBJECT_vm ? -ENOTTY : -EINVAL;
}

long ioctl_dispatch(enum object_kind kind, void *object, uint32_t request, void *arg)
{
	const struct ioctl_entry *e = entry_find(kind, request);
	long r;

	if (!e)
		return unknown(kind, request);
	if ((kind == OBJECT_vcpu && ((struct vcpu *)object)->vm->dead) || (kind == OBJECT_vm && ((struct vm *)object)->dead))
		return -EIO;
	r = kind == OBJECT_vcpu ? call_vcpu(e, object, arg) : call_entry(e, object, arg);
	trace(kvm, "%s %p = %ld", e->name, arg, r);
	return r;
}
