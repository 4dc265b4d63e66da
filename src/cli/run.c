/*
 * anykvm run: sets LD_PRELOAD and ANYKVM_*, and becomes the client. Mistakes are
 * found here, where they can be told, rather than in the client.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/log.h"
#include "base/params.h"
#include "cli/cli.h"

/* NAME=text,more */
static void extend_variable(const char *name, const char *more, const char *separator, bool in_front)
{
	const char *old = getenv(name);
	size_t size;
	char *text;

	if (!old || !*old) {
		setenv(name, more, 1);
		return;
	}
	size = strlen(old) + strlen(more) + 2;
	text = malloc(size);
	if (!text)
		return;
	snprintf(text, size, "%s%s%s", in_front ? more : old, separator, in_front ? old : more);
	setenv(name, text, 1);
	free(text);
}

static int option_param(const char *value)
{
	char why[256];

	if (!params_set_list(value, why, sizeof(why)))
		return complain(EXIT_USAGE, "run: --param: %s", why);
	extend_variable("ANYKVM_PARAMS", value, ",", false);
	return 0;
}

static int option_trace(const char *value)
{
	char bad[32];

	trace_topics_parse(value, bad, sizeof(bad));
	if (*bad)
		return complain(EXIT_USAGE, "run: --trace %s: there is no topic \"%s\"; see `anykvm help`", value, bad);
	extend_variable("ANYKVM_TRACE", value, ",", false);
	return 0;
}

/* The client may change its directory before the file is opened. */
static int option_trace_file(const char *value)
{
	char path[2 * PATH_MAX], cwd[PATH_MAX];
	FILE *f = fopen(value, "a");

	if (!f)
		return complain(1, "run: --trace-file %s: %s", value, strerror(errno));
	fclose(f);
	snprintf(path, sizeof(path), "%s%s%s", *value == '/' || !getcwd(cwd, sizeof(cwd)) ? "" : cwd, *value == '/' ? "" : "/", value);
	setenv("ANYKVM_TRACE_FILE", path, 1);
	return 0;
}

static int option_modprobe(const char *value)
{
	char why[256], path[PATH_MAX];

	if (!params_set_modprobe(value, why, sizeof(why)))
		return complain(EXIT_USAGE, "run: --modprobe: %s", why);
	setenv("ANYKVM_MODPROBE", realpath(value, path) ? path : value, 1);
	return 0;
}

static int parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "param", required_argument, NULL, 'p' },
		{ "trace", required_argument, NULL, 't' },
		{ "trace-file", required_argument, NULL, 'f' },
		{ "modprobe", required_argument, NULL, 'm' },
		{ "perf", no_argument, NULL, 'P' },
		{ 0 },
	};
	int c, status = 0;

	opterr = 0;
	while (!status && (c = getopt_long(argc, argv, "+:", options, NULL)) != -1) {
		switch (c) {
		case 'p': status = option_param(optarg); break;
		case 't': status = option_trace(optarg); break;
		case 'f': status = option_trace_file(optarg); break;
		case 'm': status = option_modprobe(optarg); break;
		case 'P': status = option_param("anykvm.perf=1"); break;
		case ':': return complain(EXIT_USAGE, "run: %s needs a value", argv[optind - 1]);
		default: return complain(EXIT_USAGE, "run: there is no option %s; put -- before the client", argv[optind - 1]);
		}
	}
	if (!status && optind >= argc)
		return complain(EXIT_USAGE, "run: no client given: anykvm run [OPTIONS] -- CLIENT [ARGS]");
	return status;
}

int command_run(int argc, char **argv)
{
	char library[PATH_MAX], client[PATH_MAX];
	int status = parse_options(argc, argv);
	const char *why;

	if (status)
		return status;
	argv += optind;
	if ((why = why_not_host()))
		return complain(EXIT_CANNOT_RUN, "run: %s", why);
	if (!find_library(library))
		return complain(EXIT_CANNOT_RUN, "run: libanykvm.so is neither beside anykvm nor in ../lib/anykvm; run make install");
	if (strpbrk(library, ": "))
		return complain(EXIT_CANNOT_RUN, "run: %s: LD_PRELOAD takes no path with a space or colon; install it elsewhere", library);
	if (!find_program(argv[0], client))
		return complain(EXIT_NOT_FOUND, "run: %s: not found, or not executable", argv[0]);
	if ((why = why_not_preloadable(client)))
		return complain(EXIT_CANNOT_RUN, "run: %s: %s", argv[0], why);
	extend_variable("LD_PRELOAD", library, ":", true);
	execv(client, argv);
	return complain(EXIT_CANNOT_RUN, "run: %s: %s", client, strerror(errno));
}
