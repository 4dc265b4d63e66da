/*
 * The libc symbols for files and descriptors that the client binds to instead
 * of libc's. Each one asks procfs.c or descriptors.c whether the name or the
 * descriptor is ours, and else calls libc's function.
 */
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "shim/shim.h"

/* Symbols that headers no longer, or only sometimes, declare. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
int __xstat(int version, const char *path, struct stat *st);
int __xstat64(int version, const char *path, struct stat64 *st);
int __lxstat(int version, const char *path, struct stat *st);
int __lxstat64(int version, const char *path, struct stat64 *st);
int __fxstatat(int version, int dirfd, const char *path, struct stat *st, int flags);
int __fxstatat64(int version, int dirfd, const char *path, struct stat64 *st, int flags);

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "procfs.c fills either");

/* ---- open ---- */

/* The optional third argument, which is there only if a file may be created. */
#define MODE_ARGUMENT(flags) ({ \
	mode_t mode_ = 0; \
	if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
		va_list ap_; \
		va_start(ap_, flags); \
		mode_ = va_arg(ap_, mode_t); \
		va_end(ap_); \
	} \
	mode_; })

#define DEFINE_OPEN(name) \
	EXPORT int name(const char *path, int flags, ...) \
	{ \
		mode_t mode = MODE_ARGUMENT(flags); \
		int fd; \
	\
		return shim_open(AT_FDCWD, path, flags, &fd) ? fd : shim_opened(REAL(name)(path, flags, mode), flags); \
	}

#define DEFINE_OPENAT(name) \
	EXPORT int name(int dirfd, const char *path, int flags, ...) \
	{ \
		mode_t mode = MODE_ARGUMENT(flags); \
		int fd; \
	\
		return shim_open(dirfd, path, flags, &fd) ? fd : shim_opened(REAL(name)(dirfd, path, flags, mode), flags); \
	}

/* The checked spellings of _FORTIFY_SOURCE. */
#define DEFINE_OPEN_2(name) \
	EXPORT int name(const char *path, int flags) \
	{ \
		int fd; \
	\
		return shim_open(AT_FDCWD, path, flags, &fd) ? fd : shim_opened(REAL(name)(path, flags), flags); \
	}

#define DEFINE_OPENAT_2(name) \
	EXPORT int name(int dirfd, const char *path, int flags) \
	{ \
		int fd; \
	\
		return shim_open(dirfd, path, flags, &fd) ? fd : shim_opened(REAL(name)(dirfd, path, flags), flags); \
	}

DEFINE_OPEN(open)
DEFINE_OPEN(open64)
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)
DEFINE_OPEN_2(__open_2)
DEFINE_OPEN_2(__open64_2)
DEFINE_OPENAT_2(__openat_2)
DEFINE_OPENAT_2(__openat64_2)

/* open()'s flags for fopen()'s mode. */
static int stdio_flags(const char *mode)
{
	int flags = *mode == 'r' ? O_RDONLY : *mode == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : O_WRONLY | O_CREAT | O_APPEND;

	for (; *mode && *mode != ','; mode++) {
		if (*mode == '+')
			flags = (flags & ~O_ACCMODE) | O_RDWR;
		else if (*mode == 'x')
			flags |= O_EXCL;
		else if (*mode == 'e')
			flags |= O_CLOEXEC;
	}
	return flags;
}

#define DEFINE_FOPEN(name) \
	EXPORT FILE *name(const char *path, const char *mode) \
	{ \
		int fd; \
		FILE *f; \
	\
		if (!shim_open(AT_FDCWD, path, stdio_flags(mode), &fd)) \
			return REAL(name)(path, mode); \
		if (fd < 0) \
			return NULL; \
		f = fdopen(fd, mode); \
		if (!f) \
			close(fd); \
		return f; \
	}

DEFINE_FOPEN(fopen)
DEFINE_FOPEN(fopen64)

/* ---- stat, access ---- */

#define DEFINE_STAT(name, type) \
	EXPORT int name(const char *path, struct type *st) \
	{ \
		int ret; \
	\
		return shim_stat(AT_FDCWD, path, (struct stat *)st, &ret) ? ret : REAL(name)(path, st); \
	}

#define DEFINE_STATAT(name, type) \
	EXPORT int name(int dirfd, const char *path, struct type *st, int flags) \
	{ \
		int ret; \
	\
		return shim_stat(dirfd, path, (struct stat *)st, &ret) ? ret : REAL(name)(dirfd, path, st, flags); \
	}

/* What programs built with an older libc call. */
#define DEFINE_XSTAT(name, type) \
	EXPORT int name(int version, const char *path, struct type *st) \
	{ \
		int ret; \
	\
		return shim_stat(AT_FDCWD, path, (struct stat *)st, &ret) ? ret : REAL(name)(version, path, st); \
	}

#define DEFINE_XSTATAT(name, type) \
	EXPORT int name(int version, int dirfd, const char *path, struct type *st, int flags) \
	{ \
		int ret; \
	\
		return shim_stat(dirfd, path, (struct stat *)st, &ret) ? ret : REAL(name)(version, dirfd, path, st, flags); \
	}

DEFINE_STAT(stat, stat)
DEFINE_STAT(stat64, stat64)
DEFINE_STAT(lstat, stat)
DEFINE_STAT(lstat64, stat64)
DEFINE_STATAT(fstatat, stat)
DEFINE_STATAT(fstatat64, stat64)
DEFINE_XSTAT(__xstat, stat)
DEFINE_XSTAT(__xstat64, stat64)
DEFINE_XSTAT(__lxstat, stat)
DEFINE_XSTAT(__lxstat64, stat64)
DEFINE_XSTATAT(__fxstatat, stat)
DEFINE_XSTATAT(__fxstatat64, stat64)

EXPORT int statx(int dirfd, const char *restrict path, int flags, unsigned mask, struct statx *restrict stx)
{
	int ret;

	return shim_statx(dirfd, path, stx, &ret) ? ret : REAL(statx)(dirfd, path, flags, mask, stx);
}

#define DEFINE_ACCESS(name) \
	EXPORT int name(const char *path, int mode) \
	{ \
		int ret; \
	\
		return shim_access(AT_FDCWD, path, mode, &ret) ? ret : REAL(name)(path, mode); \
	}

DEFINE_ACCESS(access)
DEFINE_ACCESS(euidaccess)
DEFINE_ACCESS(eaccess)

EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
{
	int ret;

	return shim_access(dirfd, path, mode, &ret) ? ret : REAL(faccessat)(dirfd, path, mode, flags);
}

/* ---- descriptors ---- */

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	/* Callers leave it out where the request takes none; whatever is in the register then goes on, as in libc. */
	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	return shim_ioctl(fd, request, arg);
}

EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return shim_mmap(addr, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	return shim_mmap(addr, length, prot, flags, fd, offset);
}

EXPORT int close(int fd)
{
	shim_closing(fd);
	return REAL(close)(fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	if (!(flags & CLOSE_RANGE_CLOEXEC) && first <= last)
		shim_closing_range(first, last);
	return REAL(close_range)(first, last, flags);
}

EXPORT void closefrom(int first)
{
	shim_closing_range(first < 0 ? 0 : (unsigned)first, ~0u);
	REAL(closefrom)(first);
}

EXPORT int dup2(int from, int to)
{
	shim_overwriting(from, to);
	return REAL(dup2)(from, to);
}

EXPORT int dup3(int from, int to, int flags)
{
	shim_overwriting(from, to);
	return REAL(dup3)(from, to, flags);
}
