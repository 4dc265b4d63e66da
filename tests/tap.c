#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include "tap.h"

unsigned failures;

void check_failed(bool failed, const char *file, int line, const char *format, ...)
{
	va_list args;

	if (!failed)
		return;
	failures++;
	printf("# %s:%d: ", file, line);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

void check_same(unsigned long long a, unsigned long long b, const char *file, int line, const char *a_text, const char *b_text)
{
	check_failed(a != b, file, line, "%s is %#llx, not %s = %#llx", a_text, a, b_text, b);
}

int run_tests(const struct test *tests, size_t n)
{
	printf("1..%zu\n", n);
	for (size_t i = 0; i < n; i++) {
		unsigned before = failures;

		alarm(300);
		tests[i].run();
		printf("%sok %zu - %s\n", failures == before ? "" : "not ", i + 1, tests[i].name);
		fflush(stdout);
	}
	return failures != 0;
}
