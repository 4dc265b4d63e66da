/* For test programs in C: checks that say what does not hold, and tables of tests run with a TAP line each. */
#ifndef ANYKVM_TESTS_TAP_H
#define ANYKVM_TESTS_TAP_H

#include <stdbool.h>
#include <stddef.h>

struct test { const char *name; void (*run)(void); };

/* Runs them one after another. The status for main() to return: 1 if any check failed. */
int run_tests(const struct test *tests, size_t n);

/* How many checks have failed so far. */
extern unsigned failures;

/* All three go on after a failure. */
#define check(cond) check_failed(!(cond), __FILE__, __LINE__, "not so: %s", #cond)
#define check_equal(a, b) check_same((unsigned long long)(a), (unsigned long long)(b), __FILE__, __LINE__, #a, #b)
#define check_that(cond, ...) check_failed(!(cond), __FILE__, __LINE__, __VA_ARGS__)

void check_failed(bool failed, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
void check_same(unsigned long long a, unsigned long long b, const char *file, int line, const char *a_text, const char *b_text);

#endif
