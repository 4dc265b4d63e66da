/* The counters of running clients, for stat and report. */
#ifndef ANYKVM_COUNTERS_H
#define ANYKVM_COUNTERS_H

#include <linux/kvm.h>
#include <sys/types.h>
#include "base/base.h"

enum { MOST_VCPUS = 256 };

/* Of one vCPU: first those of L1, then as many of L2. */
struct counters {
	const uint8_t *file;
	size_t size;
	ino_t ino;
	struct kvm_stats_header header;
	uint64_t *before;                /* what was printed last */
};

/* Those of a process. Returns how many vCPUs, or -1 (errno) if its descriptors cannot be seen. */
int counters_of_process(long pid, struct counters *to, unsigned room);
void counters_close(struct counters *c);
/* false: not what counters_print() expects. */
bool counters_of_one_kind(const struct counters *c, unsigned vcpus);
/* What was added since the last time. Columns are vCPUs at their levels; a line of which all are 0 is left out. */
void counters_print(struct counters *c, unsigned vcpus);
/* The sum over vCPUs of a level (1 or 2). name: without "l1_"; a prefix stands for all that begin so. */
uint64_t counters_sum(const struct counters *c, unsigned vcpus, unsigned level, const char *prefix);
/* Calls f for each process that has any; returns how many. */
unsigned counters_processes(void (*f)(long pid, void *arg), void *arg);

#endif
