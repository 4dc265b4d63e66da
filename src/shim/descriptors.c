/*
 * Descriptors: from the client's calls to the KVM API of kvm/api.h and back.
 *
 * The kernel's own KVM must stay out of reach, however the client came by a
 * descriptor for it: a device node under another name is replaced by ours as
 * soon as it is open, and KVM's requests are never passed on to the kernel.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "base/base.h"
#include "base/syscall.h"
#include "kvm/api.h"
#include "shim/shim.h"

enum { MISC_MAJOR = 10, KVM_MINOR = 232 };

_Atomic bool shim_used;
_Thread_local int shim_inside;

static long missing(void)
{
	errno = ENOSYS;
	return -1;
}

void *shim_find(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	return f ? f : (void *)missing;
}

int shim_enter_slowly(void)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	shim_enter();
	return state;
}

/* A cancellation that has come happens when the type is set: glibc 2.36 loses the thread's result where the state is. */
void shim_leave_slowly(int cancel_state)
{
	int type;

	shim_leave();
	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
	pthread_setcancelstate(cancel_state, NULL);
	pthread_setcanceltype(type, NULL);
}

int shim_open_kvm(int flags)
{
	int fd, state;

	params_init();
	signals_take_over();
	state = shim_enter_slowly();
	fd = anykvm_open(flags);
	shim_leave_slowly(state);
	if (fd >= 0)
		atomic_store(&shim_used, true);
	return fd;
}

static bool fd_is_open(int fd)
{
	return raw_syscall(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0) >= 0;
}

static bool is_real_kvm(int fd)
{
	struct stat st;

	/* Raw, because fstat() of a preloaded neighbour may think otherwise. */
	return !raw_syscall(SYS_fstat, fd, (long)&st, 0, 0, 0, 0) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(MISC_MAJOR, KVM_MINOR);
}

int shim_opened(int fd, int flags)
{
	int saved = errno;

	if (fd < 0 || shim_inside || !is_real_kvm(fd)) {
		errno = saved;
		return fd;
	}
	raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
	return shim_open_kvm(flags);
}

bool shim_owns(int fd)
{
	int saved = errno;
	bool ours;

	if (fd < 0 || shim_inside || !atomic_load_explicit(&shim_used, memory_order_relaxed))
		return false;
	shim_enter();
	ours = anykvm_owns(fd);
	shim_leave();
	errno = saved;
	return ours;
}

/* A request of KVM's type on a descriptor that is not ours. */
static int refuse(int fd)
{
	errno = fd_is_open(fd) ? ENOTTY : EBADF;
	return -1;
}

static bool is_kvm_request(uint32_t request)
{
	/* The Nitro enclaves driver has these numbers within KVM's type. */
	return _IOC_TYPE(request) == KVMIO && !(_IOC_NR(request) >= 0x20 && _IOC_NR(request) < 0x40);
}

/* A running vCPU is called out by a cancellation, as by other signals. */
static bool ioctl_run(int fd, unsigned long request, void *arg, int *ret)
{
	bool ours;

	signals_enter_run();
	shim_enter();
	ours = anykvm_ioctl_ours(fd, request, arg, ret);
	shim_leave();
	return ours;
}

static bool ioctl_other(int fd, unsigned long request, void *arg, int *ret)
{
	int state = shim_enter_slowly();
	bool ours = anykvm_ioctl_ours(fd, request, arg, ret);

	shim_leave_slowly(state);
	return ours;
}

int shim_ioctl(int fd, unsigned long request, void *arg)
{
	bool ours;
	int ret;

	if (shim_inside || !is_kvm_request((uint32_t)request))
		return REAL(ioctl)(fd, request, arg);
	if (!atomic_load_explicit(&shim_used, memory_order_relaxed))
		return refuse(fd);
	ours = ((uint32_t)request == KVM_RUN ? ioctl_run : ioctl_other)(fd, request, arg, &ret);
	return ours ? ret : refuse(fd);
}

void *shim_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *p;

	if ((flags & MAP_ANONYMOUS) || !shim_owns(fd))
		return REAL(mmap)(addr, length, prot, flags, fd, offset);
	shim_enter();
	p = anykvm_mmap(addr, length, prot, flags, fd, offset);
	shim_leave();
	return p;
}

void shim_closing(int fd)
{
	int saved = errno, state;

	if (!shim_owns(fd))
		return;
	state = shim_enter_slowly();
	anykvm_closing(fd);
	shim_leave_slowly(state);
	errno = saved;
}

void shim_overwriting(int from, int to)
{
	if (from != to && shim_owns(to) && fd_is_open(from))
		shim_closing(to);
}

void shim_closing_range(unsigned first, unsigned last)
{
	int saved = errno, state;
	struct dirent *e;
	DIR *d;

	if (shim_inside || !atomic_load_explicit(&shim_used, memory_order_relaxed))
		return;
	state = shim_enter_slowly();
	d = opendir("/proc/self/fd");
	while (d && (e = readdir(d))) {
		char *end;
		unsigned long fd = strtoul(e->d_name, &end, 10);

		if (end != e->d_name && !*end && fd >= first && fd <= last && anykvm_owns((int)fd))
			anykvm_closing((int)fd);
	}
	if (d)
		closedir(d);
	shim_leave_slowly(state);
	errno = saved;
}
