/*
 * Descriptors. Each object (the system, a VM, a vCPU) is represented to the
 * client by a memfd; which object a descriptor means is found by the memfd's
 * (device, inode), so duplicates of any origin work.
 *
 * Lives: an object is in the table until its last descriptor goes
 * (anykvm_closing()). A VM and each of its vCPUs hold one reference on the
 * struct vm while they are in the table, and so does every ioctl under way;
 * with the last reference the VM goes, and the vCPUs with it.
 *
 * The kernel keeps a VM in the process that made it; after fork() the child's
 * copies answer EIO and take nothing down.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "kvm/api.h"
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"
#include "kvm/syscall.h"

enum { RING_PAGE = 2 };                  /* of a vCPU's mapping: the VM's coalesced ring */

struct object {
	struct object *next;
	dev_t dev;
	ino_t ino;
	enum object_kind kind;
	void *object;
	struct vm *vm;                   /* NULL for the system */
	bool foreign;                    /* made by the process that forked us */
};

static struct object *objects[64];
static _Atomic unsigned object_count;
static struct lock table_lock;

void vm_get(struct vm *vm)
{
	atomic_fetch_add(&vm->refs, 1);
}

void vm_put(struct vm *vm)
{
	if (atomic_fetch_sub(&vm->refs, 1) == 1)
		vm_free(vm);
}

static int fd_identity(int fd, struct stat *st)
{
	return raw_syscall(SYS_fstat, fd, (long)st, 0, 0, 0, 0);
}

static struct object **bucket(ino_t ino)
{
	return &objects[ino % ARRAY_SIZE(objects)];
}

/* With the lock held. */
static struct object **object_slot(const struct stat *st)
{
	struct object **p = bucket(st->st_ino);

	while (*p && ((*p)->ino != st->st_ino || (*p)->dev != st->st_dev))
		p = &(*p)->next;
	return p;
}

/* The object of fd, with a reference on its VM. */
static bool object_get(int fd, struct object *out)
{
	struct stat st;
	struct object *o;

	if (fd < 0 || !atomic_load(&object_count) || fd_identity(fd, &st) < 0)
		return false;
	lock_take(&table_lock);
	o = *object_slot(&st);
	if (o) {
		*out = *o;
		if (o->vm && !o->foreign)
			vm_get(o->vm);
	}
	lock_release(&table_lock);
	return o;
}

static void object_put(const struct object *o)
{
	if (o->vm && !o->foreign)
		vm_put(o->vm);
}

int object_create(enum object_kind kind, void *object, struct vm *vm, int memfd, int flags)
{
	struct object *o = malloc(sizeof(*o));
	struct stat st;

	if (!o || fd_identity(memfd, &st) < 0 || fcntl(memfd, F_SETFD, flags & O_CLOEXEC ? FD_CLOEXEC : 0) < 0) {
		free(o);
		close(memfd);
		return -ENOMEM;
	}
	*o = (struct object){ .dev = st.st_dev, .ino = st.st_ino, .kind = kind, .object = object, .vm = vm };
	if (vm)
		vm_get(vm);
	lock_take(&table_lock);
	o->next = *bucket(o->ino);
	*bucket(o->ino) = o;
	atomic_fetch_add(&object_count, 1);
	lock_release(&table_lock);
	return memfd;
}

int anykvm_open(int flags)
{
	int fd, r;

	params_init();
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

int anykvm_ioctl(int fd, unsigned long cmd, void *arg)
{
	struct object o;
	long r;

	if (!object_get(fd, &o)) {
		errno = EBADF;
		return -1;
	}
	r = o.foreign ? -EIO : ioctl_dispatch(o.kind, o.object, (uint32_t)cmd, arg);
	object_put(&o);
	if (r >= 0)
		return r;
	errno = -r;
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

/* Is there a descriptor of the same memfd besides fd? If that cannot be found out, there is. */
static bool has_duplicate(int fd, const struct stat *st)
{
	DIR *dir = opendir("/proc/self/fd");
	bool found = !dir;
	struct dirent *e;

	while (!found && (e = readdir(dir))) {
		struct stat other;
		int n = atoi(e->d_name);

		if (e->d_name[0] == '.' || n == fd || fd_identity(n, &other) < 0)
			continue;
		found = other.st_dev == st->st_dev && other.st_ino == st->st_ino;
	}
	if (dir)
		closedir(dir);
	return found;
}

static struct object *object_remove(const struct stat *st)
{
	struct object **p, *o;

	lock_take(&table_lock);
	p = object_slot(st);
	o = *p;
	if (o) {
		*p = o->next;
		atomic_fetch_sub(&object_count, 1);
	}
	lock_release(&table_lock);
	return o;
}

void anykvm_closing(int fd)
{
	struct stat st;
	struct object *o;

	if (!anykvm_owns(fd) || fd_identity(fd, &st) < 0 || has_duplicate(fd, &st))
		return;
	o = object_remove(&st);
	if (!o)
		return;
	object_put(o);
	free(o);
}

void anykvm_forked(void)
{
	table_lock = (struct lock){ 0 };         /* its holder may have stayed behind in the parent */
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		for (struct object *o = objects[i]; o; o = o->next)
			o->foreign = o->kind != OBJECT_system;
}
