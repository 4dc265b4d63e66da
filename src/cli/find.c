/* Finding things: the library, the client, and whether one can be loaded into the other. */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cli/cli.h"

bool find_library(char path[PATH_MAX])
{
	static const char *const places[] = { "libanykvm.so", "../lib/anykvm/libanykvm.so" };
	char self[PATH_MAX], name[PATH_MAX + 32];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (len <= 0)
		return false;
	self[len] = 0;
	*strrchr(self, '/') = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(name, sizeof(name), "%s/%s", self, places[i]);
		if (realpath(name, path))
			return true;
	}
	return false;
}

static bool executable(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

bool find_program(const char *name, char path[PATH_MAX])
{
	const char *dirs = getenv("PATH");

	if (strchr(name, '/'))
		return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && executable(path);
	for (dirs = dirs ? dirs : "/usr/local/bin:/usr/bin:/bin"; ; dirs++) {
		int len = (int)strcspn(dirs, ":");

		if (snprintf(path, PATH_MAX, "%.*s%s%s", len, dirs, len ? "/" : "./", name) < PATH_MAX && executable(path))
			return true;
		dirs += len;
		if (!*dirs)
			return false;
	}
}

static const char *why_not_elf(int fd, const Elf64_Ehdr *eh)
{
	Elf64_Phdr ph;

	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64)
		return "it is not a 64-bit x86 program, which is all that libanykvm.so can be loaded into; use an amd64 build";
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		off_t at = (off_t)(eh->e_phoff + i * (size_t)eh->e_phentsize);

		if (pread(fd, &ph, sizeof(ph), at) == sizeof(ph) && ph.p_type == PT_INTERP)
			return NULL;
	}
	return "it is statically linked, so no library can be preloaded into it; use a dynamically linked build";
}

/* The interpreter of a script, if head is the beginning of one. */
static bool script_interpreter(const char *head, size_t len, char path[PATH_MAX])
{
	char line[256];
	char *name;

	if (len < 2 || head[0] != '#' || head[1] != '!')
		return false;
	snprintf(line, sizeof(line), "%.*s", (int)(len - 2), head + 2);
	line[strcspn(line, "\n")] = 0;
	name = strtok(line, " \t");
	return name && snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
}

const char *why_not_preloadable(const char *path)
{
	union { Elf64_Ehdr eh; char text[256]; } head = { .text = "" };
	char interpreter[PATH_MAX];
	const char *why = NULL;
	struct stat st;
	ssize_t len;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;                     /* not readable, yet it may run; exec will tell */
	len = read(fd, &head, sizeof(head) - 1);
	if (!fstat(fd, &st) && (st.st_mode & (S_ISUID | S_ISGID)) && geteuid() != 0)
		why = "it is set-user-ID or set-group-ID, for which the system ignores preloaded libraries; run a copy without";
	else if (len >= (ssize_t)sizeof(head.eh) && !memcmp(head.eh.e_ident, ELFMAG, SELFMAG))
		why = why_not_elf(fd, &head.eh);
	else if (len > 0 && script_interpreter(head.text, (size_t)len, interpreter) && strcmp(interpreter, path))
		why = why_not_preloadable(interpreter);
	close(fd);
	return why;
}

const char *why_not_host(void)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("bmi2"))
		return "this processor lacks BMI2 (in Intel's since Haswell, in AMD's since Excavator), which translated code "
		       "needs; in a virtual machine, give it the host's CPU model";
	return NULL;
}
