/*
 * Parameters: table, parsing of ANYKVM_PARAMS and of a modprobe.d style file
 * (ANYKVM_MODPROBE). The file comes first, so that the more specific variable
 * wins. A mistake costs one line on stderr and keeps the default: a guest must
 * not fail to start for it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/log.h"
#include "base/params.h"
#include "base/syscall.h"

#define PARAM_BOOL(field, name, dflt, text) .field = dflt,
#define PARAM_UINT(field, name, dflt, text) .field = dflt,
#define PARAM_STR(field, name, dflt, text) .field = dflt,
struct params params = {
#include "base/params.def"
};
#undef PARAM_BOOL
#undef PARAM_UINT
#undef PARAM_STR

#define PARAM_BOOL(field, name, dflt, text) { name, dflt ? "Y" : "N", text, PARAM_KIND_BOOL, &params.field },
#define PARAM_UINT(field, name, dflt, text) { name, #dflt, text, PARAM_KIND_UINT, &params.field },
#define PARAM_STR(field, name, dflt, text) { name, dflt, text, PARAM_KIND_STR, params.field },
const struct param_info param_table[] = {
#include "base/params.def"
};
#undef PARAM_BOOL
#undef PARAM_UINT
#undef PARAM_STR
const unsigned param_count = ARRAY_SIZE(param_table);

/* Numbers that the engine cannot do without limits for. Others: any. */
static const struct limit {
	const uint64_t *field;
	uint64_t min, max;
	bool power_of_two;
} limits[] = {
	{ &params.code_cache_mb, 1, 1024, false },
	{ &params.tlb_entries, 64, 1 << 20, true },
	{ &params.tlb_contexts, 1, 1024, false },
	{ &params.block_insns, 1, 512, false },
};

static char canonical(char c)
{
	return c == '-' ? '_' : c;
}

static bool same_name(const char *name, const char *given, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!name[i] || canonical(name[i]) != canonical(given[i]))
			return false;
	return !name[len];
}

const struct param_info *param_find(const char *name, size_t len)
{
	for (unsigned i = 0; i < param_count; i++)
		if (same_name(param_table[i].name, name, len))
			return &param_table[i];
	return NULL;
}

void param_format(const struct param_info *p, char *to, size_t cap)
{
	if (p->kind == PARAM_KIND_BOOL)
		snprintf(to, cap, "%s", *(const bool *)p->field ? "Y" : "N");
	else if (p->kind == PARAM_KIND_UINT)
		snprintf(to, cap, "%llu", (unsigned long long)*(const uint64_t *)p->field);
	else
		snprintf(to, cap, "%s", (const char *)p->field);
}

/* The spellings that module parameters take. */
static const char *set_bool(const struct param_info *p, const char *value)
{
	static const char *const words[2][8] = {
		{ "0", "n", "N", "off", "no", "false", "f", "F" }, { "1", "y", "Y", "on", "yes", "true", "t", "T" },
	};

	for (unsigned b = 0; b < 2; b++)
		for (unsigned i = 0; i < ARRAY_SIZE(words[b]); i++)
			if (!strcmp(value, words[b][i])) {
				*(bool *)p->field = b;
				return NULL;
			}
	return "must be 0 or 1";
}

static const char *set_uint(const struct param_info *p, const char *value)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(value, &end, 0);
	if (*value < '0' || *value > '9' || *end || errno)
		return "must be a number";
	for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
		if (limits[i].field != p->field)
			continue;
		if (n < limits[i].min || n > limits[i].max)
			return "is out of range";
		if (limits[i].power_of_two && (n & (n - 1)))
			return "must be a power of two";
	}
	*(uint64_t *)p->field = n;
	return NULL;
}

static const char *set_str(const struct param_info *p, const char *value)
{
	size_t len = strlen(value);

	if (p->field == params.vendor && strcmp(value, "auto") && strcmp(value, "keep") && len != 12)
		return "must be auto, keep or 12 letters";
	if (len >= sizeof(params.vendor))
		return "is too long";
	memcpy(p->field, value, len + 1);
	return NULL;
}

bool params_set(const char *assignment, size_t len, char *why, size_t cap)
{
	static const char *(*const setters[])(const struct param_info *, const char *) = {
		[PARAM_KIND_BOOL] = set_bool, [PARAM_KIND_UINT] = set_uint, [PARAM_KIND_STR] = set_str,
	};
	const char *equals = memchr(assignment, '=', len), *trouble;
	size_t name_len = equals ? (size_t)(equals - assignment) : len;
	const struct param_info *p = param_find(assignment, name_len);
	char value[128] = "1";

	if (equals)
		snprintf(value, sizeof(value), "%.*s", (int)(len - name_len - 1), equals + 1);
	if (!p)
		trouble = "is not a parameter (see `anykvm params`)";
	else if (!equals && p->kind != PARAM_KIND_BOOL)
		trouble = "needs a value";
	else
		trouble = setters[p->kind](p, value);
	if (!trouble)
		return true;
	if (p && equals)
		snprintf(why, cap, "%s=%s: the value %s", p->name, value, trouble);
	else
		snprintf(why, cap, "%.*s %s", (int)name_len, assignment, trouble);
	return false;
}

bool params_set_list(const char *list, char *why, size_t cap)
{
	bool good = true;

	for (size_t len; *list; list += len + (list[len] == ',')) {
		char reason[256];

		len = strcspn(list, ",");
		if (!len || params_set(list, len, reason, sizeof(reason)))
			continue;
		if (good)
			snprintf(why, cap, "%s", reason);
		good = false;
	}
	return good;
}

/* Is "module." the beginning of any parameter's name? */
static bool known_module(const char *module, size_t len)
{
	for (unsigned i = 0; i < param_count; i++) {
		const char *name = param_table[i].name;
		size_t k = 0;

		while (k < len && canonical(name[k]) == canonical(module[k]))
			k++;
		if (k == len && name[len] == '.')
			return true;
	}
	return false;
}

/* Moves past blanks and measures the word there. */
static size_t next_word(const char **s)
{
	*s += strspn(*s, " \t\r");
	return strcspn(*s, " \t\r\n#");
}

static bool modprobe_line(const char *line, char *why, size_t cap)
{
	const char *module;
	size_t len = next_word(&line), module_len;
	bool good = true;

	if (len != 7 || strncmp(line, "options", 7))
		return true;
	line += len;
	module_len = next_word(&line);
	module = line;
	if (!known_module(module, module_len))
		return true;
	for (line += module_len; (len = next_word(&line)); line += len) {
		char assignment[192];
		int n = snprintf(assignment, sizeof(assignment), "%.*s.%.*s", (int)module_len, module, (int)len, line);

		if (n >= (int)sizeof(assignment))
			n = sizeof(assignment) - 1;
		if (!params_set(assignment, (size_t)n, why, cap))
			good = false;
	}
	return good;
}

bool params_set_modprobe(const char *path, char *why, size_t cap)
{
	char text[8192];
	ssize_t got, len = 0;
	bool good = true;
	/* Raw, because the library's own open() stands before libc's. */
	int fd = (int)raw_syscall(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);

	if (fd < 0) {
		snprintf(why, cap, "cannot open %s: %s", path, strerror(-fd));
		return false;
	}
	while (len < (ssize_t)sizeof(text) - 1 && (got = read(fd, text + len, sizeof(text) - 1 - (size_t)len)) > 0)
		len += got;
	raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
	text[len] = 0;
	for (char *line = text, *end; line; line = end) {
		end = strchr(line, '\n');
		if (end)
			*end++ = 0;
		good &= modprobe_line(line, why, cap);
	}
	return good;
}

static void init_once(void)
{
	const char *file = getenv("ANYKVM_MODPROBE"), *list = getenv("ANYKVM_PARAMS");
	char why[256];

	log_init();
	if (file && *file && !params_set_modprobe(file, why, sizeof(why)))
		log_warn("ANYKVM_MODPROBE: %s", why);
	if (list && *list && !params_set_list(list, why, sizeof(why)))
		log_warn("ANYKVM_PARAMS: %s", why);
	params.enable_ipiv &= params.enable_apicv;       /* as the kernel's module has it */
}

void params_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_once);
}
