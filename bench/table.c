/*
 * Prints the table of a bench from the lines that sample wrote.
 *
 *   table BASE FILE: ratios of CPU time per unit of work to level BASE (usually native): lower is better.
 */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LEVELS = 8, MOST_ROWS = 64, MOST_SAMPLES = 64, MOST_NOTES = 200 };

struct samples { unsigned n; double v[MOST_SAMPLES]; };

static const struct { const char *name, *group, *unit; } rows[] = {
#define ROW(name, group, work, unit, setup, run, missing, processors) { #name, #group, unit },
#include "rows.def"
#undef ROW
};
enum { ROWS = sizeof(rows) / sizeof(*rows) };

static struct level {
	char name[32];
	struct samples cpu[MOST_ROWS], guest[MOST_ROWS], boot[2], memory;
} levels[MOST_LEVELS];
static unsigned level_count;
static char notes[MOST_NOTES][160];
static unsigned note_count;

static struct level *level_of(const char *name)
{
	for (unsigned i = 0; i < level_count; i++)
		if (!strcmp(levels[i].name, name))
			return &levels[i];
	if (level_count == MOST_LEVELS)
		exit(2);
	snprintf(levels[level_count].name, sizeof(levels->name), "%s", name);
	return &levels[level_count++];
}

static int row_of(const char *name)
{
	for (int i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].name, name))
			return i;
	return -1;
}

static void add(struct samples *s, double x)
{
	if (s->n < MOST_SAMPLES)
		s->v[s->n++] = x;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(struct samples *s)
{
	if (!s->n)
		return NAN;
	qsort(s->v, s->n, sizeof(*s->v), by_value);
	return (s->v[(s->n - 1) / 2] + s->v[s->n / 2]) / 2;
}

/* From the least to the most, in percent of the median. */
static double spread(struct samples *s)
{
	double m = median(s);

	return s->n ? (s->v[s->n - 1] - s->v[0]) / m * 100 : NAN;
}

static void note(const char *text)
{
	for (unsigned i = 0; i < note_count; i++)
		if (!strcmp(notes[i], text))
			return;
	if (note_count < MOST_NOTES)
		snprintf(notes[note_count++], sizeof(*notes), "%s", text);
}

static void read_line(const char *line)
{
	char name[32], kind[16], what[64], rest[100] = "", text[160];
	double a = 0, b = 0, c = 0;
	struct level *l;
	int r;

	if (sscanf(line, "%31s %*s %15s %63s %99[^\n]", name, kind, what, rest) < 3)
		return;
	l = level_of(name);
	r = row_of(what);
	if (!strcmp(kind, "row") && r >= 0 && sscanf(rest, "%lf %lf %lf", &a, &b, &c) == 3 && a > 0) {
		add(&l->cpu[r], b / a);
		add(&l->guest[r], c / a);
	} else if (!strcmp(kind, "boot")) {
		add(&l->boot[!strcmp(what, "L2")], atof(rest) * 1e-9);
	} else if (!strcmp(kind, "mem")) {
		add(&l->memory, (atof(what) - atof(rest)) / 1024);
	} else if (!strcmp(kind, "fail") || !strcmp(kind, "skip")) {
		snprintf(text, sizeof(text), "%s: %s: %s%s", name, what, *kind == 'f' ? "FAILED: " : "skipped: ", rest);
		note(text);
	}
}

static double ratio(struct level *l, struct level *base, int row)
{
	return median(&l->cpu[row]) / median(&base->cpu[row]);
}

static void print_time(double ns)
{
	if (isnan(ns))
		printf("%14s", "-");
	else
		printf("%*.*f %s", 11, 1, ns < 1e3 ? ns : ns < 1e6 ? ns / 1e3 : ns / 1e6, ns < 1e3 ? "ns" : ns < 1e6 ? "us" : "ms");
}

static void print_cell(struct level *l, struct level *base, int row)
{
	char text[32];

	if (!l->cpu[row].n)
		snprintf(text, sizeof(text), "-");
	else if (base->cpu[row].n)
		snprintf(text, sizeof(text), "%.2f +-%.0f%%", ratio(l, base, row), spread(&l->cpu[row]) / 2);
	else
		snprintf(text, sizeof(text), "[%.2f us]", median(&l->cpu[row]) / 1e3);
	printf("  %14s", text);
}

static void print_head(const char *first, const char *second, struct level *base)
{
	printf("%-14s%14s", first, second);
	for (unsigned i = 0; i < level_count; i++)
		if (&levels[i] != base)
			printf("  %14s", levels[i].name);
	printf("\n");
}

static void print_rows(struct level *base)
{
	for (int r = 0; r < ROWS; r++) {
		bool any = false;

		if (!strcmp(rows[r].group, "idle"))
			continue;
		for (unsigned i = 0; i < level_count; i++)
			any |= levels[i].cpu[r].n > 0;
		if (!any)
			continue;
		printf("%-14s", rows[r].name);
		print_time(median(&base->cpu[r]));
		for (unsigned i = 0; i < level_count; i++)
			if (&levels[i] != base)
				print_cell(&levels[i], base, r);
		printf("   %s\n", rows[r].unit);
	}
}

/* Geometric mean over the rows of these groups that both have; a mark if some of the base's are missing. */
static void print_mean(const char *title, const char *groups, struct level *base)
{
	printf("%-28s", title);
	for (unsigned i = 0; i < level_count; i++) {
		double sum = 0;
		int n = 0, missing = 0;

		if (&levels[i] == base)
			continue;
		for (int r = 0; r < ROWS; r++) {
			double x = ratio(&levels[i], base, r);

			if (!strstr(groups, rows[r].group))
				continue;
			missing += !isnan(median(&base->cpu[r])) && isnan(x);
			sum += isnan(x) ? 0 : log(x);
			n += !isnan(x);
		}
		if (n)
			printf("  %13.2f%s", exp(sum / n), missing ? "*" : " ");
		else
			printf("  %14s", "-");
	}
	printf("\n");
}

static void print_samples(const char *title, size_t offset)
{
	printf("%-28s", title);
	for (unsigned i = 0; i < level_count; i++) {
		struct samples *s = (struct samples *)((char *)&levels[i] + offset);
		char text[32] = "-";

		if (s->n)
			snprintf(text, sizeof(text), "%.2f +-%.0f%%", median(s), spread(s) / 2);
		printf("  %14s", text);
	}
	printf("\n");
}

static void print_rate(const char *title, const char *row)
{
	int r = row_of(row);

	printf("%-28s", title);
	for (unsigned i = 0; i < level_count; i++)
		printf("  %14.0f", levels[i].cpu[r].n ? 1e9 / median(&levels[i].cpu[r]) : 0);
	printf("\n");
}

/* A row whose unit is a millisecond in which nothing is to be done. */
static void print_idle(const char *title, const char *row)
{
	int r = row_of(row);

	printf("%-28s", title);
	for (unsigned i = 0; i < level_count; i++)
		if (levels[i].cpu[r].n)
			printf("  %14.2f", median(&levels[i].cpu[r]) / 1e6 * 100);
		else
			printf("  %14s", "-");
	printf("\n");
}

static void print_guest_time(const char *title, const char *row)
{
	int r = row_of(row);

	printf("%-28s", title);
	for (unsigned i = 0; i < level_count; i++)
		printf("  %14.1f", levels[i].guest[r].n ? median(&levels[i].guest[r]) / 1e3 : 0);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct level *base;
	char line[512];
	FILE *f;

	f = argc == 3 ? fopen(argv[2], "r") : NULL;
	if (!f)
		return fprintf(stderr, "usage: table BASE FILE\n"), 2;
	base = level_of(argv[1]);
	while (fgets(line, sizeof(line), f))
		read_line(line);
	printf("CPU time per unit of work, as a ratio to %s; median +- half the spread. Lower is better.\n\n", base->name);
	print_head("row", base->name, base);
	print_rows(base);
	printf("\n");
	print_head("geometric mean", "", base);
	print_mean("integer", "int", base);
	print_mean("all user code", "int mem fp call jit", base);
	print_mean("code that writes code", "jit", base);
	print_mean("OS-heavy", "os", base);
	printf("\n");
	print_head("", "", NULL);
	print_samples("boot to L1's init, CPU s", offsetof(struct level, boot[0]));
	print_samples("then to L2's init, CPU s", offsetof(struct level, boot[1]));
	print_samples("QEMU less guest RAM, MiB", offsetof(struct level, memory));
	print_idle("idle, % of a core", "idle");
	print_rate("CPUIDs per CPU second", "cpuid");
	print_guest_time("a sleep of 50 us takes, us", "timer");
	print_guest_time("IPI wake-up and back, us", "ipi");
	for (unsigned i = 0; i < note_count; i++)
		printf("%s%s\n", i ? "" : "\n", notes[i]);
	return 0;
}
