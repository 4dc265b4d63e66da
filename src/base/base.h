/*
 * base/ -- what every room may use: logging with an origin, trace topics,
 * parameters, and small helpers.  Knows nothing of processors or of KVM.
 *
 * The whole library is compiled with general registers only, because the
 * guest's vector and x87 state stays in the host's registers while C code
 * runs (cpu/fpu.h).  Code reached from KVM_RUN therefore calls no libc
 * function that may use vector registers; memcpy & co. are our own
 * (base/string.c).  log_*() and trace() save and restore the vector state
 * themselves.
 */
#ifndef ANYKVM_BASE_H
#define ANYKVM_BASE_H

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1ull << (n))
#define PAGE_SIZE_4K 4096ull
#define PAGE_MASK_4K (~4095ull)
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Trace topics, one line each: name as given to `anykvm run --trace`. */
#define TRACE_TOPICS(T) \
	T(kvm, "ioctls and exits to the client") \
	T(vmx, "VM entries, exits, failed checks, VMX instructions") \
	T(irq, "interrupt delivery") \
	T(cpu, "exceptions, mode changes, CR and MSR writes") \
	T(xlat, "blocks made, invalidated, evicted") \
	T(mem, "slots and dirty logs")

enum trace_topic {
#define T(name, text) TRACE_##name,
	TRACE_TOPICS(T)
#undef T
	TRACE_TOPIC_COUNT
};

extern uint32_t trace_mask;              /* bit per enum trace_topic */
#define trace_enabled(topic) (unlikely(trace_mask & BIT(TRACE_##topic)))
/* Writes one line to the trace file (default stderr, never stdout). Costs one load when off. */
#define trace(topic, ...) \
	do { if (trace_enabled(topic)) trace_write(TRACE_##topic, __VA_ARGS__); } while (0)
void trace_write(enum trace_topic topic, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One line on stderr: "anykvm: file:line: text". Never ends the process. */
#define log_error(...) log_write("error", __FILE__, __LINE__, __VA_ARGS__)
#define log_warn(...) log_write("warning", __FILE__, __LINE__, __VA_ARGS__)
void log_write(const char *level, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * Parameters ("kvm_intel.nested", "engine.tlb_entries", ...).  One line each
 * in base/params.def; read once, when the library is first used, from the
 * environment variable ANYKVM_PARAMS (set by `anykvm run`), then constant.
 */
struct params {
#define PARAM_BOOL(field, name, dflt, text) bool field;
#define PARAM_UINT(field, name, dflt, text) uint64_t field;
#define PARAM_STR(field, name, dflt, text) char field[64];
#include "base/params.def"
#undef PARAM_BOOL
#undef PARAM_UINT
#undef PARAM_STR
};
extern struct params params;
void params_init(void);                  /* idempotent, thread safe */

/* A lock for short critical sections inside KVM_RUN: a futex mutex that uses general registers only. */
struct lock { _Atomic uint32_t word; };
void lock_take(struct lock *l);
void lock_release(struct lock *l);

/* Sleep while *word == value, at most timeout_ns (UINT64_MAX: for ever). Returns on signals too. */
void futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns);
void futex_wake(_Atomic uint32_t *word, int count);

/* A clock of clock_gettime(), and CLOCK_MONOTONIC, in ns. Callable inside KVM_RUN. */
uint64_t time_of(int clock);
uint64_t time_ns(void);

/*
 * What one thread sleeps on until a time (as time_ns()) that others set. Setting it wakes nobody; a time that is past ends the sleep
 * at once, even if it is set before the sleep begins. alarm_open() returns 0, or -EMFILE and the like: it takes a descriptor.
 */
struct alarm { int fd; };
int alarm_open(struct alarm *a);
void alarm_close(struct alarm *a);
void alarm_set(struct alarm *a, uint64_t at);
void alarm_wait(struct alarm *a);        /* returns on signals too */

#endif
