/* The calls of the client: from a descriptor to its object, and the result as libc returns it. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>
#include "kvm/api.h"
#include "kvm/ioctl.h"
#include "kvm/objects.h"
#include "base/syscall.h"

enum { RING_PAGE = 2 };                  /* of a vCPU's mapping: the VM's coalesced ring */

int anykvm_open(int flags)
{
	int fd, r;

	params_init();
	clock_opened();
	fd = memfd_create("anykvm", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	r = object_create(OBJECT_system, NULL, NULL, fd, flags);
	if (r < 0) {
		errno = -r;
		return -1;
	}
	return r;
}

bool anykvm_owns(int fd)
{
	struct object o;

	if (!object_get(fd, &o))
		return false;
	object_put(&o);
	return true;
}

bool anykvm_ioctl_ours(int fd, unsigned long cmd, void *arg, int *result)
{
	struct object o;
	long r;

	if (!object_get_often(fd, &o))
		return false;
	r = o.foreign ? -EIO : ioctl_dispatch(o.kind, o.object, (uint32_t)cmd, arg);
	object_put(&o);
	*result = r < 0 ? -1 : r;
	if (r < 0)
		errno = -r;
	return true;
}

int anykvm_ioctl(int fd, unsigned long cmd, void *arg)
{
	int r;

	if (anykvm_ioctl_ours(fd, cmd, arg, &r))
		return r;
	errno = EBADF;
	return -1;
}

/* Puts the VM's ring where the mapping has its third page. An old size of 0 makes mremap() map the same page again. */
static long ring_splice(const struct vm *vm, uint8_t *map, size_t length, int prot, int64_t offset)
{
	int64_t ring = RING_PAGE * (int64_t)PAGE_SIZE_4K - offset;
	long r;

	if (ring < 0 || (size_t)ring >= length)
		return 0;
	r = raw_syscall(SYS_mremap, (long)vm->coalesced, 0, PAGE_SIZE_4K, MREMAP_MAYMOVE | MREMAP_FIXED, (long)(map + ring), 0);
	if (r >= 0 || r < -4095)
		r = raw_syscall(SYS_mprotect, (long)(map + ring), PAGE_SIZE_4K, prot, 0, 0, 0);
	return r;
}

void *anykvm_mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
{
	struct object o;
	long map, r = 0;

	if (!object_get(fd, &o)) {
		errno = EBADF;
		return MAP_FAILED;
	}
	map = o.foreign ? -EIO : o.kind != OBJECT_vcpu ? -ENODEV :
	      raw_syscall(SYS_mmap, (long)addr, length, prot, flags, fd, offset);
	if (map >= 0 || map < -4095)
		r = ring_splice(o.vm, (uint8_t *)map, length, prot, offset);
	object_put(&o);
	if (r < 0 && r >= -4095) {
		raw_syscall(SYS_munmap, map, length, 0, 0, 0, 0);
		map = r;
	}
	if (map >= 0 || map < -4095)
		return (void *)map;
	errno = -map;
	return MAP_FAILED;
}
