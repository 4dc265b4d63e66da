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
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "base/base.h"
#include "kvm/api.h"
#include "shim/shim.h"

enum { MISC_MAJOR = 10, KVM_MINOR = 232 };

_Atomic bool shim_used;
_Thread_local int shim_inside;
_Thread_local bool shim_in_run;

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

int shim_open_kvm(int flags)
{
	int fd;

	params_init();
	signals_take_over();
	shim_inside++;
	fd = anykvm_open(flags);
	shim_inside--;
	if (fd >= 0)
		atomic_store(&shim_used, true);
	return fd;
}

static bool is_real_kvm(int fd)
{
	struct stat st;

	/* Raw, because fstat() of a preloaded neighbour may think otherwise. */
	return !syscall(SYS_fstat, fd, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(MISC_MAJOR, KVM_MINOR);
}

int shim_opened(int fd, int flags)
{
	int saved = errno;

	if (fd < 0 || shim_inside || !is_real_kvm(fd)) {
		errno = saved;
		return fd;
	}
	syscall(SYS_close, fd);
	return shim_open_kvm(flags);
}

bool shim_owns(int fd)
{
	int saved = errno;
	bool ours;

	if (fd < 0 || shim_inside || !atomic_load_explicit(&shim_used, memory_order_relaxed))
		return false;
	shim_inside++;
	ours = anykvm_owns(fd);
	shim_inside--;
	errno = saved;
	return ours;
}

/* A request of KVM's type on a descriptor that is not ours. */
static int refuse(int fd)
{
	if (syscall(SYS_fcntl, fd, F_GETFD) >= 0)
		errno = ENOTTY;
	return -1;
}

static bool is_kvm_request(uint32_t request)
{
	/* The Nitro enclaves driver has these numbers within KVM's type. */
	return _IOC_TYPE(request) == KVMIO && !(_IOC_NR(request) >= 0x20 && _IOC_NR(request) < 0x40);
}

int shim_ioctl(int fd, unsigned long request, void *arg)
{
	bool run = (uint32_t)request == KVM_RUN, ours;
	int ret;

	if (shim_inside || !is_kvm_request((uint32_t)request))
		return REAL(ioctl)(fd, request, arg);
	if (!atomic_load_explicit(&shim_used, memory_order_relaxed))
		return refuse(fd);
	if (run)
		signals_enter_run();
	shim_inside++;
	shim_in_run = run;
	ours = anykvm_ioctl_ours(fd, request, arg, &ret);
	shim_in_run = false;
	shim_inside--;
	return ours ? ret : refuse(fd);
}

void *shim_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *p;

	if ((flags & MAP_ANONYMOUS) || !shim_owns(fd))
		return REAL(mmap)(addr, length, prot, flags, fd, offset);
	shim_inside++;
	p = anykvm_mmap(addr, length, prot, flags, fd, offset);
	shim_inside--;
	return p;
}

void shim_closing(int fd)
{
	int saved = errno;

	if (!shim_owns(fd))
		return;
	shim_inside++;
	anykvm_closing(fd);
	shim_inside--;
	errno = saved;
}

void shim_closing_range(unsigned first, unsigned last)
{
	int saved = errno;
	struct dirent *e;
	DIR *d;

	if (shim_inside || !atomic_load_explicit(&shim_used, memory_order_relaxed))
		return;
	shim_inside++;
	d = opendir("/proc/self/fd");
	shim_inside--;
	while (d && (e = readdir(d))) {
		char *end;
		unsigned long fd = strtoul(e->d_name, &end, 10);

		if (end != e->d_name && !*end && fd >= first && fd <= last)
			shim_closing((int)fd);
	}
	if (d)
		closedir(d);
	errno = saved;
}
