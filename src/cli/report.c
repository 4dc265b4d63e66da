/*
 * anykvm report: what a bug report about a nested setup should tell, as the kernel's document "Running nested guests with
 * KVM" asks for it: which level runs what. L0's part is collected; for L1 and L2 it says what to run there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/params.h"
#include "cli/cli.h"
#include "cli/counters.h"

static void section(const char *title)
{
	printf("\n== %s ==\n", title);
}

static void item(const char *title)
{
	printf("\n-- %s\n", title);
}

/* Its output and its complaints go into the report. */
static void output_of(const char *const argv[])
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		dup2(STDOUT_FILENO, STDERR_FILENO);
		execvp(argv[0], (char *const *)argv);
		_exit(EXIT_NOT_FOUND);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		printf("(%s: %s)\n", argv[0], strerror(errno));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NOT_FOUND)
		printf("(%s is not installed)\n", argv[0]);
}
#define OUTPUT_OF(...) output_of((const char *const[]){ __VA_ARGS__, NULL })

/* ---- this host ---- */

static void say_system(void)
{
	struct utsname u;

	item("system");
	if (!uname(&u))
		printf("%s %s %s %s\n", u.sysname, u.release, u.version, u.machine);
	OUTPUT_OF("sed", "-n", "s/^PRETTY_NAME=//p", "/etc/os-release");
	item("QEMU and libvirt");
	OUTPUT_OF("qemu-system-x86_64", "--version");
	OUTPUT_OF("libvirtd", "--version");
	item("processor");
	OUTPUT_OF("lscpu");
	item("memory, in KiB");
	OUTPUT_OF("grep", "-E", "^(MemTotal|MemAvailable|SwapTotal):", "/proc/meminfo");
	item("the end of dmesg");
	OUTPUT_OF("sh", "-c", "dmesg | tail -n 30");
}

/* As a client started here would have them, where they are not the defaults. */
static void say_parameters(void)
{
	bool any = false;

	params_init();
	for (unsigned i = 0; i < param_count; i++) {
		char current[64];

		param_format(&param_table[i], current, sizeof(current));
		if (strcmp(current, param_table[i].dflt)) {
			printf("%s=%s\n", param_table[i].name, current);
			any = true;
		}
	}
	if (!any)
		puts("all as by default");
}

static void say_host(void)
{
	char library[PATH_MAX];

	section("L0: this host");
	item("anykvm");
	printf("anykvm %s, %s\n", ANYKVM_VERSION, find_library(library) ? library : "without its library");
	item("anykvm doctor");
	command_doctor(1, NULL);
	item("parameters in this environment");
	say_parameters();
	say_system();
}

/* ---- clients ---- */

/* Words of /proc/PID/cmdline or environ, each of which ends with a 0. NULL if it cannot be read. */
static char *words_of(long pid, const char *file, size_t *len)
{
	static char text[1 << 17];
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/%s", pid, file);
	f = fopen(path, "r");
	if (!f)
		return NULL;
	*len = fread(text, 1, sizeof(text) - 1, f);
	text[*len] = 0;
	fclose(f);
	return text;
}

/* As a shell takes it. */
static void print_quoted(const char *word)
{
	if (*word && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%")]) {
		fputs(word, stdout);
		return;
	}
	putchar('\'');
	for (; *word; word++) {
		if (*word == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*word);
	}
	putchar('\'');
}

/* All words, or those that begin with prefix. */
static void print_words(const char *words, size_t len, const char *prefix)
{
	for (const char *w = words; w < words + len; w += strlen(w) + 1) {
		if (strncmp(w, prefix, strlen(prefix)))
			continue;
		print_quoted(w);
		putchar(' ');
	}
}

static void say_command(long pid)
{
	size_t len;
	char *words = words_of(pid, "environ", &len);

	if (words)
		print_words(words, len, "ANYKVM_");
	words = words_of(pid, "cmdline", &len);
	if (words)
		print_words(words, len, "");
	putchar('\n');
}

static void say_levels(const struct counters *c, unsigned vcpus)
{
	unsigned long long exits = counters_sum(c, vcpus, 2, "vmexit_");

	printf("vCPUs: %u\n", vcpus);
	if (exits)
		printf("L2 has run under KVM in L1: %llu VM exits\n", exits);
	else
		puts("no L2 has run under KVM in L1: if L1 runs a guest, it emulates it (look for -accel kvm on its QEMU's command line)");
}

/* 0, or 1 with a complaint. */
static int say_client(long pid)
{
	static struct counters c[MOST_VCPUS];
	int n = counters_of_process(pid, c, MOST_VCPUS);

	if (n < 0)
		return complain(1, "report: process %ld: %s", pid, errno == ENOENT ? "there is none" : strerror(errno));
	if (!n)
		return complain(1, "report: process %ld has no vCPUs of anykvm", pid);
	printf("\n-- process %ld, which runs L1\n", pid);
	say_command(pid);
	if (counters_of_one_kind(c, (unsigned)n)) {
		say_levels(c, (unsigned)n);
		counters_print(c, (unsigned)n);
	}
	while (n)
		counters_close(&c[--n]);
	return 0;
}

static void say_any_client(long pid, void *arg)
{
	say_client(pid);
}

/* ---- the rest is for the reader to do ---- */

static void say_guests(void)
{
	puts("\n== L1: please add what these print in it, as root ==\n\n"
	     "uname -a; cat /etc/os-release\n"
	     "qemu-system-x86_64 --version; libvirtd --version\n"
	     "ls -l /dev/kvm; grep . /sys/module/kvm*/parameters/*\n"
	     "ps -eo args | grep '[q]emu'          # the command line of L2; libvirt has it in /var/log/libvirt/qemu/NAME.log\n"
	     "lscpu; cat /proc/cpuinfo\n"
	     "x86info -a; dmidecode\n"
	     "dmesg\n"
	     "\n== L2: please add what these print in it ==\n\n"
	     "uname -a; cat /etc/os-release\n"
	     "lscpu\n"
	     "dmesg\n"
	     "\n== and tell ==\n\n"
	     "what you did, what you expected, what happened, and at which level; whether it also happens without nesting, with\n"
	     "kvm_intel on VT-x, or with `anykvm run --param engine.careful=1`; if VM entries fail in L1, the end of\n"
	     "`anykvm run --trace vmx --trace-file FILE`.");
}

int command_report(int argc, char **argv)
{
	char *end;
	long pid = 0;

	if (argc > 2)
		return complain(EXIT_USAGE, "report: takes one process, but got \"%s\" as well", argv[2]);
	if (argc > 1 && ((pid = strtol(argv[1], &end, 10)) <= 0 || *end))
		return complain(EXIT_USAGE, "report: \"%s\" is not a process number", argv[1]);
	puts("A nested setup: KVM in L1, on anykvm in L0. (Look through this before you publish it: command lines may tell secrets.)");
	say_host();
	section("running clients");
	if (pid && say_client(pid))
		return 1;
	if (!pid && !counters_processes(say_any_client, NULL))
		puts("none that you may look at");
	say_guests();
	return 0;
}
