/*
 * anykvm stat: what the vCPUs of running clients have counted. A client's counters are memfds in the kernel's binary
 * statistics layout (<linux/kvm.h>), found among its descriptors; it is not disturbed, and need not answer.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cli/cli.h"

enum { MOST_VCPUS = 256 };
#define FILE_NAME "/memfd:anykvm-stats"

struct counters {
	const uint8_t *file;
	size_t size;
	ino_t ino;
	struct kvm_stats_header header;
	uint64_t *before;                /* what was printed last */
};

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

static void counters_close(struct counters *c)
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

/* The counters of a process. Returns how many vCPUs, or -1 (errno) if its descriptors cannot be seen. */
static int process_open(long pid, struct counters *to, unsigned room)
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

/* Lists the processes that have counters; returns how many, and one of them. */
static unsigned list_processes(bool print, long *one)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;
	unsigned n = 0;

	while (dir && (e = readdir(dir))) {
		struct counters c;
		long pid = atol(e->d_name);

		if (pid <= 0 || process_open(pid, &c, 1) <= 0)
			continue;
		n++;
		*one = pid;
		if (print)
			printf("%ld\n", pid);
		counters_close(&c);
	}
	if (dir)
		closedir(dir);
	return n;
}

/* ---- the table ---- */

/* Columns are vCPUs at their levels; a line of which all are 0 is left out. */
static void print_table(struct counters *c, unsigned vcpus)
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

static bool of_one_kind(const struct counters *c, unsigned vcpus)
{
	for (unsigned v = 0; v < vcpus; v++) {
		const char *id = (const char *)c[v].file + c[v].header.id_offset;

		if (c[v].header.num_desc % 2 || c[v].header.num_desc != c->header.num_desc || !memchr(id, '/', c[v].header.name_size) ||
		    !memchr(id, 0, c[v].header.name_size) || strlen(desc_of(&c[v], 0)->name) < 3)
			return false;
	}
	return true;
}

static int report(long pid, double interval)
{
	static struct counters c[MOST_VCPUS];
	int n = process_open(pid, c, MOST_VCPUS);

	if (n < 0)
		return complain(1, "stat: process %ld: %s", pid, errno == ENOENT ? "there is none" : strerror(errno));
	if (!n)
		return complain(1, "stat: process %ld has no vCPUs of anykvm", pid);
	if (!of_one_kind(c, (unsigned)n))
		return complain(1, "stat: process %ld: its counters are of another kind", pid);
	print_table(c, (unsigned)n);
	while (interval > 0 && !kill(pid, 0)) {
		usleep((useconds_t)(interval * 1e6));
		putchar('\n');
		print_table(c, (unsigned)n);
	}
	return 0;
}

static bool number(const char *text, double *to)
{
	char *end;

	*to = strtod(text, &end);
	return end != text && !*end && *to > 0 && *to < 1e9;
}

int command_stat(int argc, char **argv)
{
	static const struct option options[] = { { "interval", required_argument, NULL, 'i' }, { 0 } };
	double interval = 0, pid_number;
	long pid = 0;
	unsigned n;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == ':')
			return complain(EXIT_USAGE, "stat: %s needs a value", argv[optind - 1]);
		if (c != 'i')
			return complain(EXIT_USAGE, "stat: there is no option %s", argv[optind - 1]);
		if (!number(optarg, &interval))
			return complain(EXIT_USAGE, "stat: --interval %s: not a number of seconds", optarg);
	}
	if (argc - optind > 1)
		return complain(EXIT_USAGE, "stat: takes one process, but got \"%s\" as well", argv[optind + 1]);
	if (optind < argc) {
		if (!number(argv[optind], &pid_number) || pid_number != (long)pid_number)
			return complain(EXIT_USAGE, "stat: \"%s\" is not a process number", argv[optind]);
		return report((long)pid_number, interval);
	}
	n = list_processes(false, &pid);
	if (n == 1)
		return report(pid, interval);
	if (!n)
		return complain(1, "stat: no process that you may look at runs vCPUs of anykvm");
	list_processes(true, &pid);
	return complain(1, "stat: there are %u such processes: name one of them", n);
}
