/* The benchmark program that runs natively, in L1 and in L2: its rows, and what they share. */
#ifndef ANYKVM_BENCH_H
#define ANYKVM_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Not inlined, not cloned, not looked into: what a caller in another library would see. */
#define OPAQUE __attribute__((noipa))

struct row {
	const char *name, *group, *unit;
	uint64_t work;                   /* units that take a quarter of a second natively */
	void (*setup)(void);             /* not measured */
	void (*run)(uint64_t work);
	const char *(*missing)(void);    /* why the row cannot run here, or NULL */
	int processors;                  /* how many the row uses: it runs where there are at least as many */
};

extern const struct row rows[];
extern const unsigned row_count;
/* Results go here, so that no compiler finds the work useless. */
extern volatile uint64_t sink;
extern const char *self_path;        /* what fork+exec executes, with --nothing */

/* Memory for the row that runs; given back after it. */
void *arena(size_t size);
uint64_t random_next(uint64_t *state);
_Noreturn void fail(const char *what);
void pin(int processor);

#define ROW(name, group, work, unit, setup, run, missing, processors) \
	void setup(void); \
	void run(uint64_t work_); \
	const char *missing(void);
#include "rows.def"
#undef ROW

#endif
