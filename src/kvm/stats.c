/*
 * Statistics in the kernel's binary layout (KVM_GET_STATS_FD), one memfd per vCPU, in which the vCPU's thread counts:
 * a reader needs no help of ours. `anykvm stat` finds the memfds among a process's descriptors, so nothing is left
 * behind when the process ends.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "kvm/lifecycle.h"
#include "base/syscall.h"
#include "kvm/vcpu.h"

enum { NAME_SIZE = 48, VCPU_STATS = STAT_LEVELS * STAT_COUNT };

struct stats_desc { uint32_t flags; int16_t exponent; uint16_t size; uint32_t offset, bucket_size; char name[NAME_SIZE]; };
_Static_assert(sizeof(struct stats_desc) == sizeof(struct kvm_stats_desc) + NAME_SIZE, "the kernel's layout");

struct vm_file { struct kvm_stats_header header; char id[NAME_SIZE]; struct stats_desc desc[1]; uint64_t data[1]; };
struct vcpu_file { struct kvm_stats_header header; char id[NAME_SIZE]; struct stats_desc desc[VCPU_STATS]; struct stats data; };

#define HEADER(type) { .name_size = NAME_SIZE, .num_desc = ARRAY_SIZE(((type *)0)->desc), .id_offset = offsetof(type, id), \
                       .desc_offset = offsetof(type, desc), .data_offset = offsetof(type, data) }

static int file_new(const char *name, const void *from, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (pwrite(fd, from, size, 0) != (ssize_t)size) {
		close(fd);
		return -ENOMEM;
	}
	return fd;
}

int vm_stats_fd(void)
{
	static const struct vm_file f = {
		.header = HEADER(struct vm_file), .id = "kvm-vm",
		.desc = { { .flags = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10, .size = 1,
			    .name = "max_mmu_page_hash_collisions" } },
	};

	return file_new("anykvm-vm-stats", &f, sizeof(f));
}

int vcpu_stats_new(struct vcpu *v)
{
	struct vcpu_file *f = calloc(1, sizeof(*f));
	void *map;

	if (!f)
		return -ENOMEM;
	f->header = (struct kvm_stats_header)HEADER(struct vcpu_file);
	snprintf(f->id, sizeof(f->id), "kvm-%d/vcpu-%u", (int)getpid(), v->id);
	for (unsigned i = 0; i < VCPU_STATS; i++) {
		f->desc[i] = (struct stats_desc){ .flags = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10,
		                                  .size = 1, .offset = i * sizeof(uint64_t) };
		snprintf(f->desc[i].name, NAME_SIZE, "l%u_%s", i / STAT_COUNT + 1, stat_names[i % STAT_COUNT]);
	}
	v->stats_fd = file_new("anykvm-stats", f, sizeof(*f));
	free(f);
	if (v->stats_fd < 0)
		return v->stats_fd;
	map = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, v->stats_fd, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	v->stats_map = map;
	v->cpu->stats = &((struct vcpu_file *)map)->data;
	return 0;
}

void vcpu_stats_free(struct vcpu *v)
{
	if (v->stats_map)
		munmap(v->stats_map, sizeof(struct vcpu_file));
	if (v->stats_fd >= 0)
		close(v->stats_fd);
}

/* Another open file of the memfd, since a file position is not to be shared, and may only be read. */
int vcpu_stats_fd(struct vcpu *v)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", v->stats_fd);
	return raw_syscall(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
}
