/*
 * Logging and tracing: one write(2) per line, so that lines of several threads
 * and processes do not mix. Callable from anywhere, also while the guest's x87
 * and vector state is in the host's registers: it is saved around libc's
 * formatting, and RFLAGS.DF and AC (which the guest may have set) are cleared.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/log.h"
#include "base/syscall.h"

enum { LINE_MAX_BYTES = 1024, XSAVE_HEADER = 512, XSAVE_ALIGN = 64 };

uint32_t trace_mask;
static int trace_fd = STDERR_FILENO;

const char *const trace_topic_names[TRACE_TOPIC_COUNT] = {
#define T(name, text) #name,
	TRACE_TOPICS(T)
#undef T
};
const char *const trace_topic_texts[TRACE_TOPIC_COUNT] = {
#define T(name, text) text,
	TRACE_TOPICS(T)
#undef T
};

struct line {
	char text[LINE_MAX_BYTES];
	size_t len;
};

static void put(struct line *l, const char *fmt, va_list ap)
{
	int n = vsnprintf(l->text + l->len, sizeof(l->text) - l->len, fmt, ap);

	if (n > 0)
		l->len += (size_t)n;
	if (l->len > sizeof(l->text) - 1)
		l->len = sizeof(l->text) - 1;
}

static void __attribute__((format(printf, 2, 3))) putf(struct line *l, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(l, fmt, ap);
	va_end(ap);
}

static void write_line(int fd, const char *head, const char *fmt, va_list ap)
{
	struct line l = { .len = 0 };

	putf(&l, "%s", head);
	put(&l, fmt, ap);
	if (l.len > sizeof(l.text) - 2)
		l.len = sizeof(l.text) - 2;
	if (!l.len || l.text[l.len - 1] != '\n')
		l.text[l.len++] = '\n';
	raw_syscall(SYS_write, fd, (long)l.text, (long)l.len, 0, 0, 0);  /* libc's write() is a cancellation point */
}

/* Bytes of a standard-format XSAVE image with everything that the system has enabled. */
static unsigned xsave_bytes(void)
{
	static _Atomic unsigned known;
	unsigned a, b, c, d, size = atomic_load_explicit(&known, memory_order_relaxed);

	if (size)
		return size;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		b = 0;                           /* FXSAVE will do */
	size = b ? b : XSAVE_HEADER;
	atomic_store_explicit(&known, size, memory_order_relaxed);
	return size;
}

static void vector_save(uint8_t *area, unsigned size)
{
	static const uint32_t mxcsr_default = 0x1f80;

	if (size > XSAVE_HEADER) {
		memset(area + XSAVE_HEADER, 0, 64);
		asm volatile("xsave64 (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
	} else {
		asm volatile("fxsave64 (%0)" : : "r"(area) : "memory");
	}
	asm volatile("fninit; ldmxcsr %0" : : "m"(mxcsr_default));
}

static void vector_load(const uint8_t *area, unsigned size)
{
	if (size > XSAVE_HEADER)
		asm volatile("xrstor64 (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
	else
		asm volatile("fxrstor64 (%0)" : : "r"(area) : "memory");
}

static void __attribute__((noinline)) write_line_safely(int fd, const char *head, const char *fmt, va_list ap)
{
	unsigned size = xsave_bytes();
	uint8_t space[size + XSAVE_ALIGN];
	uint8_t *area = (uint8_t *)(((uintptr_t)space + XSAVE_ALIGN - 1) & -(uintptr_t)XSAVE_ALIGN);
	unsigned long flags = __builtin_ia32_readeflags_u64();
	int saved_errno = errno;

	__builtin_ia32_writeeflags_u64(flags & ~((1ul << 10) | (1ul << 18)));
	vector_save(area, size);
	write_line(fd, head, fmt, ap);
	vector_load(area, size);
	__builtin_ia32_writeeflags_u64(flags);
	errno = saved_errno;
}

/* Appends text, in plain C: the vector state is not saved yet. */
static char *append(char *to, const char *end, const char *text)
{
	while (*text && to < end)
		*to++ = *text++;
	*to = 0;
	return to;
}

static char *append_uint(char *to, const char *end, unsigned long value)
{
	char digits[24], *d = digits + sizeof(digits) - 1;

	*d = 0;
	do
		*--d = (char)('0' + value % 10);
	while (value /= 10);
	return append(to, end, d);
}

void trace_write(enum trace_topic topic, const char *fmt, ...)
{
	char head[64], *to = head, *end = head + sizeof(head) - 1;
	uint64_t now = time_ns();
	va_list ap;

	to = append(to, end, "[");
	to = append_uint(to, end, now / 1000);
	to = append(to, end, " ");
	to = append_uint(to, end, (unsigned long)raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0));
	to = append(to, end, "] ");
	to = append(to, end, trace_topic_names[topic]);
	append(to, end, ": ");
	va_start(ap, fmt);
	write_line_safely(trace_fd, head, fmt, ap);
	va_end(ap);
}

void log_write(const char *level, const char *file, int line, const char *fmt, ...)
{
	char head[128], *to = head, *end = head + sizeof(head) - 1;
	va_list ap;

	to = append(to, end, "anykvm: ");
	to = append(to, end, file);
	to = append(to, end, ":");
	to = append_uint(to, end, (unsigned long)line);
	to = append(to, end, ": ");
	to = append(to, end, level);
	append(to, end, ": ");
	va_start(ap, fmt);
	write_line_safely(STDERR_FILENO, head, fmt, ap);
	va_end(ap);
}

static uint32_t topic_bit(const char *name, size_t len)
{
	if (len == 3 && !memcmp(name, "all", 3))
		return BIT(TRACE_TOPIC_COUNT) - 1;
	for (unsigned i = 0; i < TRACE_TOPIC_COUNT; i++)
		if (strlen(trace_topic_names[i]) == len && !memcmp(trace_topic_names[i], name, len))
			return BIT(i);
	return 0;
}

uint32_t trace_topics_parse(const char *list, char *bad, size_t cap)
{
	uint32_t mask = 0;

	*bad = 0;
	for (size_t len; *list; list += len + (list[len] == ',')) {
		uint32_t bits;

		len = strcspn(list, ",");
		bits = topic_bit(list, len);
		if (len && !bits && !*bad)
			snprintf(bad, cap, "%.*s", (int)len, list);
		mask |= bits;
	}
	return mask;
}

static void open_trace_file(const char *path)
{
	/* Raw, because the library's own open() stands before libc's. */
	int fd = (int)raw_syscall(SYS_openat, AT_FDCWD, (long)path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644, 0, 0);

	if (fd < 0)
		log_warn("cannot open trace file %s (ANYKVM_TRACE_FILE): %s; tracing to stderr", path, strerror(-fd));
	else
		trace_fd = fd;
}

void log_init(void)
{
	const char *list = getenv("ANYKVM_TRACE"), *path = getenv("ANYKVM_TRACE_FILE");
	char bad[32];

	if (!list || !*list)
		return;
	if (path && *path)
		open_trace_file(path);
	trace_mask = trace_topics_parse(list, bad, sizeof(bad));
	if (*bad)
		log_warn("unknown trace topic \"%s\" in ANYKVM_TRACE", bad);
}
