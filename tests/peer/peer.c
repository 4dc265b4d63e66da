/*
 * The fuzzer's disk, from outside.
 *   peer image DISK BOOT GUEST                       makes a disk
 *   peer config DISK KIND SEED FIRST COUNT [VERBOSE] what to run (entry, intercept); the report is emptied
 *   peer caps DISK PEER-DISK                         takes the other side's capability MSRs from its report
 *   peer compare DISK PEER-DISK                      prints cases that differ; status 1 if there are any
 *   peer dump DISK PEER-DISK                         after a verbose run: fields that differ
 * A line on stderr says what is wrong; then the status is 2.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "peer.h"

enum { SECTOR = 512 };

static const struct { uint32_t encoding; const char *name; } fields[] = {
#define VMCS_FIELD(encoding, width, type, offset, name, ...) { encoding, #name },
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};

static _Noreturn void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("peer: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(2);
}

static FILE *open_disk(const char *path, const char *mode, uint32_t lba)
{
	FILE *f = fopen(path, mode);

	if (!f || fseek(f, (long)lba * SECTOR, SEEK_SET))
		fail("%s: cannot be opened", path);
	return f;
}

static void write_at(const char *path, const char *mode, uint32_t lba, const void *data, size_t size)
{
	FILE *f = open_disk(path, mode, lba);

	if (fwrite(data, 1, size, f) != size || fclose(f))
		fail("%s: cannot be written", path);
}

static size_t read_file(const char *path, void *to, size_t size)
{
	FILE *f = open_disk(path, "rb", 0);
	size_t n = fread(to, 1, size, f);

	if (fgetc(f) != EOF)
		fail("%s: longer than %zu bytes", path, size);
	fclose(f);
	return n;
}

static void read_config(const char *path, struct peer_config *c)
{
	FILE *f = open_disk(path, "rb", CONFIG_LBA);

	if (fread(c, sizeof(*c), 1, f) != 1)
		fail("%s: no configuration", path);
	fclose(f);
}

static struct peer_report *read_report(const char *path)
{
	FILE *f = open_disk(path, "rb", REPORT_LBA);
	size_t size = (size_t)(DISK_SECTORS - REPORT_LBA) * SECTOR;
	struct peer_report *r = malloc(size);

	if (!r || fread(r, 1, size, f) != size)
		fail("%s: cut short", path);
	fclose(f);
	if (r->magic != PEER_MAGIC)
		fail("%s: the guest wrote no report", path);
	return r;
}

/* ---- commands ---- */

static void image(char **args)
{
	static char disk[DISK_SECTORS * SECTOR];

	read_file(args[1], disk, SECTOR);
	read_file(args[2], disk + GUEST_LBA * SECTOR, GUEST_SECTORS * SECTOR);
	write_at(args[0], "wb", 0, disk, sizeof(disk));
}

static void config(char **args, int n)
{
	struct peer_config c;
	static const char empty[SECTOR];

	read_config(args[0], &c);
	c.magic = PEER_MAGIC;
	c.kind = strcmp(args[1], "entry") ? PEER_INTERCEPT : PEER_ENTRY;
	c.seed = strtoul(args[2], NULL, 0);
	c.first = strtoul(args[3], NULL, 0);
	c.count = strtoul(args[4], NULL, 0);
	c.verbose = n > 5;
	write_at(args[0], "r+b", CONFIG_LBA, &c, sizeof(c));
	write_at(args[0], "r+b", REPORT_LBA, empty, sizeof(empty));
}

static void take_caps(char **args)
{
	struct peer_config c;
	struct peer_report *peer = read_report(args[1]);

	read_config(args[0], &c);
	memcpy(c.peer_caps, peer->caps, sizeof(c.peer_caps));
	memcpy(c.peer_present, peer->present, sizeof(c.peer_present));
	write_at(args[0], "r+b", CONFIG_LBA, &c, sizeof(c));
	free(peer);
}

static const char *field_name(uint32_t encoding)
{
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		if (fields[i].encoding == encoding)
			return fields[i].name;
	return "?";
}

static bool early_end(const char *path, const struct peer_report *r)
{
	if (r->exception != ~0u)
		printf("%s: ended by exception %u at %#llx, CR2 %#llx, in case %u\n", path, r->exception, (unsigned long long)r->rip,
		       (unsigned long long)r->cr2, r->cases ? r->list[r->cases - 1].index : 0);
	return r->exception != ~0u;
}

enum { INVALID_GUEST_STATE = 0x80000021 };

/* VM entry checks controls and host state in any order, and so guest state and link pointer. */
static bool same(const struct peer_case *a, const struct peer_case *b)
{
	bool both_early = a->verdict >= PEER_VMFAIL && b->verdict >= PEER_VMFAIL;
	bool both_invalid = a->verdict == INVALID_GUEST_STATE && b->verdict == INVALID_GUEST_STATE;

	if ((both_early || both_invalid) && a->mutations > 1)
		return true;
	return a->verdict == b->verdict && a->qualification == b->qualification && a->hash == b->hash;
}

static void show(const struct peer_case *a, const struct peer_case *b)
{
	static const char *const shapes[] = { "64-bit", "compatibility", "PAE", "virtual-8086", "real", "64-bit without EPT", "PAE without EPT" };

	printf("case %u (%s): verdict %#x, qualification %#llx; peer %#x, %#llx%s\n", a->index, shapes[a->shape % 7], a->verdict,
	       (unsigned long long)a->qualification, b->verdict, (unsigned long long)b->qualification,
	       a->verdict == b->verdict && a->qualification == b->qualification ? "; state differs" : "");
	if (a->insn_length)
		printf("   ");
	for (unsigned i = 0; i < a->insn_length; i++)
		printf(" %02x%s", a->insn[i], i + 1 == a->insn_length ? "\n" : "");
	for (unsigned i = 0; i < a->mutations && i < MUTATIONS; i++)
		printf("    %s = %#llx%s\n", field_name(a->mutation[i].field), (unsigned long long)a->mutation[i].value,
		       a->mutation[i].how == 2 ? " (VMWRITE failed)" : "");
}

static int compare(char **args)
{
	struct peer_report *a = read_report(args[0]), *b = read_report(args[1]);
	unsigned different = 0, entered = 0, failed_entry = 0, n = a->cases < b->cases ? a->cases : b->cases;
	bool early = early_end(args[0], a) | early_end(args[1], b);

	for (unsigned i = 0; i < n; i++) {
		uint32_t v = a->list[i].verdict;
		entered += !(v >> 31);
		failed_entry += v >> 28 == 8;
		if (same(&a->list[i], &b->list[i]))
			continue;
		different++;
		show(&a->list[i], &b->list[i]);
	}
	printf("%u cases: %u entered, %u VM-entry failures, %u VMfail; %u differ\n", n, entered, failed_entry, n - entered - failed_entry,
	       different);
	return different || early || a->cases != b->cases;
}

static void dump(char **args)
{
	struct peer_report *a = read_report(args[0]), *b = read_report(args[1]);

	for (unsigned i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		if (a->values[i] != b->values[i])
			printf("%-32s %18llx   peer %18llx\n", fields[i].name, (unsigned long long)a->values[i],
			       (unsigned long long)b->values[i]);
	for (unsigned i = GPR_VALUES; i < GPR_VALUES + 16; i++)
		if (a->values[i] != b->values[i])
			printf("register %-2u %40llx   peer %18llx\n", i - GPR_VALUES, (unsigned long long)a->values[i],
			       (unsigned long long)b->values[i]);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	char **args = argv + 2;
	int n = argc - 2;

	if (!strcmp(what, "image") && n == 3)
		image(args);
	else if (!strcmp(what, "config") && n >= 5)
		config(args, n);
	else if (!strcmp(what, "caps") && n == 2)
		take_caps(args);
	else if (!strcmp(what, "compare") && n == 2)
		return compare(args);
	else if (!strcmp(what, "dump") && n == 2)
		dump(args);
	else
		fail("usage: see the top of tests/peer/peer.c");
	return 0;
}
