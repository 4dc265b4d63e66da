/*
 * Descriptors that change hands where the library does not see it, and many of them: each is what the kernel says it is.
 * Prints TAP.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "../tap.h"
#include "kvm/api.h"

static int sys, vm;

/* Errors are negative numbers. */
static int value(int fd, unsigned long request, unsigned long arg)
{
	int r = anykvm_ioctl(fd, request, (void *)arg);

	return r < 0 ? -errno : r;
}

static void test_unseen(void)
{
	char name[40];
	int again, plain = open("/dev/null", O_RDONLY);

	vm = value(sys, KVM_CREATE_VM, 0);
	check(value(vm, KVM_CHECK_EXTENSION, 0) == 1 && value(vm, KVM_GET_API_VERSION, 0) == -ENOTTY);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", vm);
	again = open(name, O_RDWR);
	check(again >= 0 && value(again, KVM_CHECK_EXTENSION, 0) == 1);
	check(lseek(vm, 0, SEEK_SET) == 0 && value(vm, KVM_CHECK_EXTENSION, 0) == 1);
	check(lseek(again, 1, SEEK_SET) == 1 && value(again, KVM_CHECK_EXTENSION, 0) == 1);
	close(again);
	syscall(SYS_dup3, sys, vm, O_CLOEXEC);           /* the same number, another object of ours */
	check(value(vm, KVM_GET_API_VERSION, 0) == 12);
	syscall(SYS_dup3, plain, vm, O_CLOEXEC);
	check(!anykvm_owns(vm) && value(vm, KVM_CHECK_EXTENSION, 0) == -EBADF);
	syscall(SYS_close, vm);
	check(value(vm, KVM_CHECK_EXTENSION, 0) == -EBADF);
	close(plain);
}

/* More objects than are found quickly. */
static void test_many(void)
{
	int fd[200], good = 0;

	for (int i = 0; i < 200; i++)
		fd[i] = anykvm_open(O_RDWR);
	for (int i = 0; i < 200; i++)
		good += fd[i] >= 0 && value(fd[i], KVM_GET_API_VERSION, 0) == 12;
	check(good == 200);
	for (int i = 0; i < 200; i += 2) {
		anykvm_closing(fd[i]);
		good -= !anykvm_owns(fd[i]) && value(fd[i], KVM_GET_API_VERSION, 0) == -EBADF;
	}
	check(good == 100);
	for (int i = 0; i < 200; i++) {
		good -= i % 2 && value(fd[i], KVM_GET_API_VERSION, 0) == 12;
		anykvm_closing(fd[i]);
		close(fd[i]);
	}
	check(good == 0);
}

static const struct test tests[] = {
	{ "descriptors that change hands unseen", test_unseen },
	{ "many descriptors", test_many },
};

int main(void)
{
	sys = anykvm_open(O_RDWR | O_CLOEXEC);
	return run_tests(tests, ARRAY_SIZE(tests));
}
