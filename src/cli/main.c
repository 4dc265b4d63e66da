/* The anykvm command: picks the subcommand. */
#include <stdarg.h>
#include <stdio.h>
#include "cli/cli.h"

static int command_help(int argc, char **argv);

static int command_version(int argc, char **argv)
{
	if (argc > 1)
		return complain(EXIT_USAGE, "version: takes no arguments, but got \"%s\"", argv[1]);
	puts("anykvm " ANYKVM_VERSION);
	return 0;
}

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *arguments, *text;
} commands[] = {
	{ "run", command_run, "[OPTIONS] [--] CLIENT [ARGS]", "run a KVM client, such as qemu-system-x86_64, on anykvm" },
	{ "stat", command_stat, "[--interval SECONDS] [PID]", "print what the vCPUs of a running client have counted" },
	{ "params", command_params, "", "list the parameters with their current and default values" },
	{ "doctor", command_doctor, "", "check whether this host can run anykvm" },
	{ "report", command_report, "[PID]", "collect what a bug report about a nested setup should tell" },
	{ "version", command_version, "", "print the version" },
	{ "help", command_help, "", "print this" },
};

static int command_help(int argc, char **argv)
{
	puts("anykvm gives a program the KVM API, nested virtualization included, without /dev/kvm.\n\nusage:");
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  anykvm %s%s%s\n        %s\n", commands[i].name, *commands[i].arguments ? " " : "",
		       commands[i].arguments, commands[i].text);
	puts("\noptions of run:\n"
	     "  --param NAME=VALUE    set a parameter (see `anykvm params`); may be repeated\n"
	     "  --modprobe FILE       take \"options kvm-intel nested=1 ...\" lines from a modprobe.d file\n"
	     "  --trace TOPICS        trace to stderr; comma-separated, or \"all\". Topics:");
#define T(name, text) printf("                          %-6s%s\n", #name, text);
	TRACE_TOPICS(T)
#undef T
	puts("  --trace-file FILE     trace to FILE instead\n"
	     "  --perf                write /tmp/perf-PID.map, by which `perf report` names guest code\n\n"
	     "example:\n"
	     "  anykvm run -- qemu-system-x86_64 -accel kvm -cpu host -m 2G -nographic disk.img");
	return 0;
}

int complain(int status, const char *fmt, ...)
{
	va_list ap;

	fputs("anykvm: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "help";

	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	if (!strcmp(name, "--version") || !strcmp(name, "-V"))
		name = "version";
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name)) {
			int status = commands[i].run(argc > 1 ? argc - 1 : argc, argc > 1 ? argv + 1 : argv);

			return argc > 1 ? status : EXIT_USAGE;
		}
	return complain(EXIT_USAGE, "there is no command \"%s\"; see `anykvm help`", name);
}
