/*
 * libc's syscall(), for clients that call the kernel by number: what preload.c does by name. A client that has the
 * instruction in its own code, as Go's runtime has, cannot be met here: it opens the kernel's /dev/kvm, if there is one,
 * and its requests to descriptors that it got from us fail with ENOTTY.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/syscall.h"
#include "shim/shim.h"

enum { ARGUMENTS = 6 };

static long returned(long r)
{
	if (r >= 0 || r < -4095)
		return r;
	errno = (int)-r;
	return -1;
}

/* true: it is a call that preload.c interposes under its name, and *r is its answer. */
static bool by_name(long number, const long a[ARGUMENTS], long *r)
{
	switch (number) {
	case SYS_open:        *r = open((const char *)a[0], (int)a[1], (mode_t)a[2]); break;
	case SYS_openat:      *r = openat((int)a[0], (const char *)a[1], (int)a[2], (mode_t)a[3]); break;
	case SYS_ioctl:       *r = shim_ioctl((int)a[0], (unsigned long)a[1], (void *)a[2]); break;
	case SYS_mmap:        *r = (long)shim_mmap((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5]); break;
	case SYS_close:       *r = close((int)a[0]); break;
	case SYS_close_range: *r = close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]); break;
	case SYS_dup2:        *r = dup2((int)a[0], (int)a[1]); break;
	case SYS_dup3:        *r = dup3((int)a[0], (int)a[1], (int)a[2]); break;
	default:              return false;
	}
	return true;
}

EXPORT long syscall(long number, ...)
{
	long a[ARGUMENTS], r;
	va_list ap;

	va_start(ap, number);
	for (unsigned i = 0; i < ARGUMENTS; i++)
		a[i] = va_arg(ap, long);         /* those that are not there are not looked at either */
	va_end(ap);
	return by_name(number, a, &r) ? r : returned(raw_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}
