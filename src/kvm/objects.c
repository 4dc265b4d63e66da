/*
 * Descriptors. Each object (the system, a VM, a vCPU) is represented to the
 * client by a memfd; which object a descriptor means is found by the memfd's
 * (device, inode), so duplicates of any origin work.
 *
 * That is asked of the kernel at every call, because descriptors come and go
 * without our seeing it (libc's own closes, raw system calls). For ioctls the
 * question is a cheaper one: nobody reads or writes the memfd, so its file
 * position is free to hold a stamp, a random number that only this object has.
 * Duplicates share the position. Whoever finds another one asks for the inode.
 *
 * Lives: an object is in the table until its last descriptor goes
 * (anykvm_closing()). A VM and each of its vCPUs hold one reference on the
 * struct vm while they are in the table, and so does every ioctl under way;
 * with the last reference the VM goes, and the vCPUs with it.
 *
 * The kernel keeps a VM in the process that made it; after fork() the child's
 * copies answer EIO and take nothing down. A child of vfork() closes its own
 * descriptors only, while the table is its parent's, so it is left alone.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "kvm/api.h"
#include "kvm/lifecycle.h"
#include "kvm/objects.h"
#include "base/syscall.h"

/* Larger than any position that a file comes to by being used. */
#define STAMP_BASE (INT64_MAX - (int64_t)(BIT(61) - 1))

static struct object *stamped[64];       /* by stamp; an object may have lost its place to another */
static struct object *objects[64];
static _Atomic unsigned object_count;
static struct lock table_lock;
static pid_t owner;                      /* the process that the table is about */

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

/* With the lock held. */
static struct object **stamp_place(int64_t stamp)
{
	return &stamped[stamp % ARRAY_SIZE(stamped)];
}

/* With the lock held. */
static bool object_found(const struct object *o, struct object *out)
{
	if (!o)
		return false;
	*out = *o;
	if (o->vm && !o->foreign)
		vm_get(o->vm);
	return true;
}

bool object_get(int fd, struct object *out)
{
	struct stat st;
	bool found;

	if (fd < 0 || !atomic_load(&object_count) || fd_identity(fd, &st) < 0)
		return false;
	lock_take(&table_lock);
	found = object_found(*object_slot(&st), out);
	lock_release(&table_lock);
	return found;
}

bool object_get_often(int fd, struct object *out)
{
	int64_t stamp = raw_syscall(SYS_lseek, fd, 0, SEEK_CUR, 0, 0, 0);
	const struct object *o;
	bool found = false;

	if (stamp >= STAMP_BASE) {
		lock_take(&table_lock);
		o = *stamp_place(stamp);
		found = o && o->stamp == stamp && object_found(o, out);
		lock_release(&table_lock);
	}
	return found || object_get(fd, out);
}

/* Stamps memfd. 0 if that cannot be done. */
static int64_t stamp_new(int memfd)
{
	int64_t random;

	if (raw_syscall(SYS_getrandom, (long)&random, sizeof(random), GRND_NONBLOCK, 0, 0, 0) != sizeof(random))
		return 0;
	random = STAMP_BASE | (random & (int64_t)(BIT(61) - 1));
	return raw_syscall(SYS_lseek, memfd, random, SEEK_SET, 0, 0, 0) == random ? random : 0;
}

void object_put(const struct object *o)
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
	*o = (struct object){ .dev = st.st_dev, .ino = st.st_ino, .kind = kind, .object = object, .vm = vm,
			      .stamp = stamp_new(memfd) };
	if (vm)
		vm_get(vm);
	lock_take(&table_lock);
	owner = getpid();
	if (o->stamp)
		*stamp_place(o->stamp) = o;
	o->next = *bucket(o->ino);
	*bucket(o->ino) = o;
	atomic_fetch_add(&object_count, 1);
	lock_release(&table_lock);
	return memfd;
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
		if (o->stamp && *stamp_place(o->stamp) == o)
			*stamp_place(o->stamp) = NULL;
		atomic_fetch_sub(&object_count, 1);
	}
	lock_release(&table_lock);
	return o;
}

void anykvm_closing(int fd)
{
	struct stat st;
	struct object *o;

	if (getpid() != owner || !anykvm_owns(fd) || fd_identity(fd, &st) < 0 || has_duplicate(fd, &st))
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
	owner = getpid();
	for (unsigned i = 0; i < ARRAY_SIZE(objects); i++)
		for (struct object *o = objects[i]; o; o = o->next)
			o->foreign = o->kind != OBJECT_system;
}
