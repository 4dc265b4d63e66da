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

/* The code cache: a memfd that is mapped writable in one place and executable in another. */
static bool memfd_executes(void)
{
	static const unsigned char code[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 };     /* mov eax, 42; ret */
	int fd = memfd_create("anykvm-doctor", MFD_CLOEXEC), answer = 0;
	void *w, *x;

	if (fd < 0)
		return false;
	if (!ftruncate(fd, 4096)) {
		w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		if (w != MAP_FAILED && x != MAP_FAILED) {
			memcpy(w, code, sizeof(code));
			answer = ((int (*)(void))x)();
		}
	}
	close(fd);
	return answer == 42;
}

static void check_files(void)
{
	char path[PATH_MAX];

	if (memfd_executes())
		say(GOOD, "executable memfd", "yes");
	else
		say(BAD, "executable memfd", "no: allow it (sysctl vm.memfd_noexec=0, SELinux execmem)");
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
