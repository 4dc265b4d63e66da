/* KVM_GET_STATS_FD: a file with the kernel's layout and the few statistics that make sense here. */
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>
#include "kvm/lifecycle.h"

enum { NAME_SIZE = 48 };

struct stats_file {
	struct kvm_stats_header header;
	char id[NAME_SIZE];
	struct {
		uint32_t flags;
		int16_t exponent;
		uint16_t size;
		uint32_t offset, bucket_size;
		char name[NAME_SIZE];
	} desc[1];
	uint64_t data[1];
};

int stats_fd(const char *id)
{
	struct stats_file f = {
		.header = { .name_size = NAME_SIZE, .num_desc = ARRAY_SIZE(f.desc), .id_offset = offsetof(struct stats_file, id),
			    .desc_offset = offsetof(struct stats_file, desc), .data_offset = offsetof(struct stats_file, data) },
		.desc = { { .flags = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10, .size = 1,
			    .name = "max_mmu_page_hash_collisions" } },
	};
	int fd = memfd_create("anykvm-stats", MFD_CLOEXEC);
	size_t n = strlen(id);

	if (fd < 0)
		return -errno;
	memcpy(f.id, id, n < NAME_SIZE ? n : NAME_SIZE - 1);
	if (write(fd, &f, sizeof(f)) != sizeof(f) || lseek(fd, 0, SEEK_SET) < 0) {
		close(fd);
		return -ENOMEM;
	}
	return fd;
}
