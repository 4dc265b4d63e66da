/*
 * Names that mean something else to the client than to the kernel: /dev/kvm,
 * and what clients and their managers look up in sysfs to learn whether
 * nesting is on. Names are normalised by their text; symbolic links are not
 * followed (shim_opened() sees where an open really went).
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "base/params.h"
#include "base/syscall.h"
#include "shim/shim.h"

#define PARAM_DIR "/sys/module/kvm_intel/parameters"

enum kind { NAME_OTHER, NAME_KVM, NAME_DIR, NAME_PARAM, NAME_ABSENT };

struct name {
	enum kind kind;
	const struct param_info *param;
};

/* Lexically: no empty, "." or ".." components. In place; path begins with '/'. */
static void normalise(char *path)
{
	char *to = path, *from = path;

	while (*from) {
		size_t len;

		from += strspn(from, "/");
		len = strcspn(from, "/");
		if (len == 2 && from[0] == '.' && from[1] == '.') {
			while (to > path && *--to != '/')
				;
		} else if (len && !(len == 1 && from[0] == '.')) {
			*to++ = '/';
			memmove(to, from, len);
			to += len;
		}
		from += len;
	}
	*to = 0;
}

/* The absolute, normalised name, or false if there is none that matters. */
static bool absolute(int dirfd, const char *path, char *to, size_t cap)
{
	size_t used = 0;
	ssize_t got = 0;
	char link[40];

	if (*path != '/') {
		if (dirfd == AT_FDCWD)
			snprintf(link, sizeof(link), "/proc/self/cwd");
		else
			snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
		got = readlink(link, to, cap);
		if (got <= 0 || (size_t)got >= cap - 1 || *to != '/')
			return false;
		used = (size_t)got;
		to[used++] = '/';
	}
	if (used + strlen(path) >= cap)
		return false;
	strcpy(to + used, path);
	normalise(to);
	return true;
}

static struct name param_name(const char *file)
{
	char full[64];
	const struct param_info *p;

	if ((size_t)snprintf(full, sizeof(full), "kvm_intel.%s", file) >= sizeof(full))
		return (struct name){ NAME_ABSENT, NULL };
	p = param_find(full, strlen(full));
	if (!p || p->kind != PARAM_KIND_BOOL || strcmp(p->name, full))
		return (struct name){ NAME_ABSENT, NULL };
	return (struct name){ NAME_PARAM, p };
}

static struct name classify(int dirfd, const char *path)
{
	static const char *const dirs[] = { "/sys/module/kvm", "/sys/module/kvm_intel", PARAM_DIR };
	char full[512];

	/* Nearly every name ends here. */
	if (shim_inside || !path || !strstr(path, "kvm") || !absolute(dirfd, path, full, sizeof(full)))
		return (struct name){ NAME_OTHER, NULL };
	if (!strcmp(full, "/dev/kvm"))
		return (struct name){ NAME_KVM, NULL };
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++)
		if (!strcmp(full, dirs[i]))
			return (struct name){ NAME_DIR, NULL };
	if (!strncmp(full, PARAM_DIR "/", sizeof(PARAM_DIR)))
		return param_name(full + sizeof(PARAM_DIR));
	if (!strcmp(full, "/sys/module/kvm_amd") || !strncmp(full, "/sys/module/kvm_amd/", 20))
		return (struct name){ NAME_ABSENT, NULL };
	return (struct name){ NAME_OTHER, NULL };
}

static int fail(int error)
{
	errno = error;
	return -1;
}

static int open_param(const struct param_info *p, int flags)
{
	int fd;
	char text[8];

	if ((flags & O_ACCMODE) != O_RDONLY)
		return fail(EACCES);
	params_init();
	param_format(p, text, sizeof(text) - 1);
	strcat(text, "\n");
	fd = memfd_create("anykvm-parameter", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd < 0)
		return -1;
	if (pwrite(fd, text, strlen(text), 0) < 0)
		return close(fd), fail(EIO);
	return fd;
}

bool shim_open(int dirfd, const char *path, int flags, int *result)
{
	struct name n = classify(dirfd, path);

	switch (n.kind) {
	case NAME_KVM:
		if (flags & O_DIRECTORY)
			*result = fail(ENOTDIR);
		else if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
			*result = fail(EEXIST);
		else
			*result = shim_open_kvm(flags);
		return true;
	case NAME_PARAM:
		*result = open_param(n.param, flags);
		return true;
	case NAME_ABSENT:
		*result = fail(ENOENT);
		return true;
	default:
		return false;                    /* directories are the kernel's to list */
	}
}

/* Like a neighbour of the same kind that every system has, but for what makes it itself. */
static int describe(const struct name *n, struct stat *st)
{
	static const struct { const char *like; mode_t mode; ino_t ino; off_t size; } looks[] = {
		[NAME_KVM] = { "/dev/null", S_IFCHR | 0666, 0x6b766d, 0 },
		[NAME_DIR] = { "/", S_IFDIR | 0755, 0x6b766e, 0 },
		[NAME_PARAM] = { "/", S_IFREG | 0444, 0x6b7670, 4096 },
	};

	if (n->kind == NAME_ABSENT)
		return fail(ENOENT);
	if (raw_syscall(SYS_newfstatat, AT_FDCWD, (long)looks[n->kind].like, (long)st, 0, 0, 0) < 0)
		return -1;
	st->st_mode = looks[n->kind].mode;
	st->st_ino = looks[n->kind].ino;
	st->st_size = looks[n->kind].size;
	if (n->param)
		st->st_ino += (ino_t)(n->param - param_table);
	if (n->kind != NAME_DIR)
		st->st_nlink = 1;
	st->st_uid = st->st_gid = 0;
	st->st_blocks = 0;
	st->st_rdev = n->kind == NAME_KVM ? makedev(10, 232) : 0;
	return 0;
}

bool shim_stat(int dirfd, const char *path, struct stat *st, int *result)
{
	struct name n = classify(dirfd, path);

	if (n.kind == NAME_OTHER)
		return false;
	*result = describe(&n, st);
	return true;
}

static struct statx_timestamp statx_time(struct timespec t)
{
	return (struct statx_timestamp){ .tv_sec = t.tv_sec, .tv_nsec = (uint32_t)t.tv_nsec };
}

bool shim_statx(int dirfd, const char *path, struct statx *stx, int *result)
{
	struct stat st;

	if (!shim_stat(dirfd, path, &st, result))
		return false;
	if (*result < 0)
		return true;
	*stx = (struct statx){
		.stx_mask = STATX_BASIC_STATS, .stx_blksize = (uint32_t)st.st_blksize, .stx_nlink = (uint32_t)st.st_nlink,
		.stx_mode = (uint16_t)st.st_mode, .stx_ino = st.st_ino, .stx_size = (uint64_t)st.st_size,
		.stx_atime = statx_time(st.st_atim), .stx_mtime = statx_time(st.st_mtim), .stx_ctime = statx_time(st.st_ctim),
		.stx_rdev_major = major(st.st_rdev), .stx_rdev_minor = minor(st.st_rdev),
		.stx_dev_major = major(st.st_dev), .stx_dev_minor = minor(st.st_dev),
	};
	return true;
}

bool shim_access(int dirfd, const char *path, int mode, int *result)
{
	static const int denied[] = { [NAME_KVM] = X_OK, [NAME_DIR] = W_OK, [NAME_PARAM] = W_OK | X_OK };
	struct name n = classify(dirfd, path);

	if (n.kind == NAME_OTHER)
		return false;
	if (n.kind == NAME_ABSENT)
		*result = fail(ENOENT);
	else
		*result = mode & denied[n.kind] ? fail(EACCES) : 0;
	return true;
}
