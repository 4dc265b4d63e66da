/* anykvm doctor: looks at the host and says what is missing. */
#include <cpuid.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cli/cli.h"

enum verdict { GOOD, NOTE, BAD };
static bool any_bad;

static void say(enum verdict v, const char *what, const char *text)
{
	static const char *const words[] = { [GOOD] = "ok", [NOTE] = "note", [BAD] = "FAIL" };

	printf("%-5s %-16s %s\n", words[v], what, text);
	any_bad |= v == BAD;
}

static void check_processor(void)
{
	unsigned max, a, b = 0, c = 0, d = 0;
	char vendor[13] = "", brand[49] = "", text[128];

	__get_cpuid(0, &max, &b, &c, &d);
	memcpy(vendor, &b, 4);
	memcpy(vendor + 4, &d, 4);
	memcpy(vendor + 8, &c, 4);
	for (unsigned i = 0; i < 3; i++)
		if (__get_cpuid(0x80000002 + i, &a, &b, &c, &d))
			memcpy(brand + 16 * i, (unsigned[]){ a, b, c, d }, 16);
	snprintf(text, sizeof(text), "%s, %s", vendor, brand + strspn(brand, " "));
	say(GOOD, "processor", text);
}

static void check_features(void)
{
	const char *why = why_not_host();
	unsigned a, b, c, d;

	say(why ? BAD : GOOD, "BMI2", why ? why : "yes");
	if (__builtin_cpu_supports("avx2"))
		say(GOOD, "AVX2", "yes");
	else
		say(NOTE, "AVX2", "no: guests are not offered it either");
	if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE))
		say(GOOD, "XSAVE", "yes");
	else
		say(BAD, "XSAVE", "no: the guest's vector state cannot be kept; use a host whose system has it enabled");
}

/* The code cache: memory that is mapped writable in one place and executable in another. */
static bool memory_executes(void)
{
	static const unsigned char code[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 };     /* mov eax, 42; ret */
	void *w, *x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (x == MAP_FAILED)
		return false;
	w = mremap(x, 0, 4096, MREMAP_MAYMOVE);
	if (w == MAP_FAILED || mprotect(w, 4096, PROT_READ | PROT_WRITE))
		return false;
	memcpy(w, code, sizeof(code));
	return ((int (*)(void))x)() == 42;
}

static void check_files(void)
{
	char path[PATH_MAX];

	if (memory_executes())
		say(GOOD, "code at run time", "yes");
	else
		say(BAD, "code at run time", "no: allow memory that is writable and executable (SELinux: execmem)");
	say(find_library(path) ? GOOD : BAD, "libanykvm.so", find_library(path) ? path : "not found: run make, or make install");
	say(GOOD, "/dev/kvm", access("/dev/kvm", F_OK) ? "absent (not needed)" : "present (not used)");
	if (!find_program("qemu-system-x86_64", path))
		say(NOTE, "QEMU", "qemu-system-x86_64 is not in PATH; on Debian: apt install qemu-system-x86");
	else if (why_not_preloadable(path))
		say(NOTE, "QEMU", why_not_preloadable(path));
	else
		say(GOOD, "QEMU", path);
}

int command_doctor(int argc, char **argv)
{
	if (argc > 1)
		return complain(EXIT_USAGE, "doctor: takes no arguments, but got \"%s\"", argv[1]);
	check_processor();
	check_features();
	check_files();
	return any_bad;
}
