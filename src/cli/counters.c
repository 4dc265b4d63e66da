/*
 * The counters of running clients: memfds in the kernel's binary statistics layout (<linux/kvm.h>), found among a
 * process's descriptors; it is not disturbed, and need not answer.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cli/counters.h"

#define FILE_NAME "/memfd:anykvm-stats"

static const struct kvm_stats_desc *desc_of(const struct counters *c, unsigned i)
{
	return (const void *)(c->file + c->header.desc_offset + i * (sizeof(struct kvm_stats_desc) + c->header.name_size));
}

static uint64_t value_of(const struct counters *c, unsigned i)
{
	return *(volatile const uint64_t *)(c->file + c->header.data_offset + desc_of(c, i)->offset);
}

/* Nothing beyond the file's end, and all names end: the process may be anybody's. */
static bool sound(const struct counters *c)
{
	const struct kvm_stats_header *h = &c->header;
	size_t each = sizeof(struct kvm_stats_desc) + h->name_size;

	if (!h->name_size || h->name_size > 256 || h->num_desc > 65536 || h->id_offset > c->size || c->size - h->id_offset < h->name_size ||
	    h->desc_offset > c->size || (c->size - h->desc_offset) / each < h->num_desc || h->data_offset > c->size || h->data_offset % 8 ||
	    h->desc_offset % 8 || each % 8)
		return false;
	for (unsigned i = 0; i < h->num_desc; i++)
		if (desc_of(c, i)->offset % 8 || desc_of(c, i)->offset > c->size - h->data_offset ||
		    c->size - h->data_offset - desc_of(c, i)->offset < 8 || desc_of(c, i)->name[h->name_size - 1])
			return false;
	return true;
}

static bool counters_open(const char *path, struct counters *c)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map;

	if (fd < 0)
		return false;
	map = fstat(fd, &st) || st.st_size < (off_t)sizeof(c->header) ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return false;
	*c = (struct counters){ .file = map, .size = (size_t)st.st_size, .ino = st.st_ino };
	memcpy(&c->header, c->file, sizeof(c->header));
	if (sound(c) && (c->before = calloc(c->header.num_desc, sizeof(*c->before))))
		return true;
	munmap(map, c->size);
	return false;
}

void counters_close(struct counters *c)
{
	munmap((void *)c->file, c->size);
	free(c->before);
}

/* The client's own descriptors of KVM_GET_STATS_FD lead to the same files. */
static bool known(const struct counters *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (c[i].ino == c[n].ino)
			return true;
	return false;
}

int counters_of_process(long pid, struct counters *to, unsigned room)
{
	char path[64], link[64];
	struct dirent *e;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
	dir = opendir(path);
	if (!dir)
		return -1;
	while (n < room && (e = readdir(dir))) {
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/%ld/fd/%.20s", pid, e->d_name);
		len = readlink(path, link, sizeof(link) - 1);
		link[len > 0 ? len : 0] = 0;
		if (strncmp(link, FILE_NAME " ", sizeof(FILE_NAME)) || !counters_open(path, to + n))
			continue;
		if (known(to, n))
			counters_close(to + n);
		else
			n++;
	}
	closedir(dir);
	return (int)n;
}

/* ---- the table ---- */

void counters_print(struct counters *c, unsigned vcpus)
{
	unsigned half = c->header.num_desc / 2;

	printf("%-24s", "");
	for (unsigned v = 0; v < vcpus; v++)
		for (unsigned level = 1; level <= 2; level++)
			printf(" %10.10s L%u", strrchr((const char *)c[v].file + c[v].header.id_offset, '/') + 1, level);
	putchar('\n');
	for (unsigned i = 0; i < half; i++) {
		uint64_t now[2 * MOST_VCPUS], any = 0;

		for (unsigned k = 0; k < 2 * vcpus; k++) {
			unsigned at = i + k % 2 * half;
			uint64_t value = value_of(&c[k / 2], at);

			any |= now[k] = value - c[k / 2].before[at];
			c[k / 2].before[at] = value;
		}
		if (!any)
			continue;
		printf("%-24s", desc_of(c, i)->name + 3);        /* without "l1_" */
		for (unsigned k = 0; k < 2 * vcpus; k++)
			printf(" %13llu", (unsigned long long)now[k]);
		putchar('\n');
	}
	fflush(stdout);
}

bool counters_of_one_kind(const struct counters *c, unsigned vcpus)
{
	for (unsigned v = 0; v < vcpus; v++) {
		const char *id = (const char *)c[v].file + c[v].header.id_offset;

		if (c[v].header.num_desc % 2 || c[v].header.num_desc != c->header.num_desc || !memchr(id, '/', c[v].header.name_size) ||
		    !memchr(id, 0, c[v].header.name_size) || strlen(desc_of(&c[v], 0)->name) < 3)
			return false;
	}
	return true;
}

/* ---- processes ---- */

unsigned counters_processes(void (*f)(long pid, void *arg), void *arg)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;
	unsigned n = 0;

	while (dir && (e = readdir(dir))) {
		struct counters c;
		long pid = atol(e->d_name);

		if (pid <= 0 || counters_of_process(pid, &c, 1) <= 0)
			continue;
		counters_close(&c);
		n++;
		f(pid, arg);
	}
	if (dir)
		closedir(dir);
	return n;
}

uint64_t counters_sum(const struct counters *c, unsigned vcpus, unsigned level, const char *prefix)
{
	uint64_t sum = 0;

	for (unsigned v = 0; v < vcpus; v++)
		for (unsigned i = 0, half = c[v].header.num_desc / 2; i < half; i++)
			if (!strncmp(desc_of(&c[v], i)->name + 3, prefix, strlen(prefix)))
				sum += value_of(&c[v], i + (level - 1) * half);
	return sum;
}
