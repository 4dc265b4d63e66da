/* A client that makes its system calls by number, through libc's syscall(). Prints TAP. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "../tap.h"

static void test_kvm(void)
{
	struct kvm_regs regs;
	long system, vm, vcpu;
	struct kvm_run *run;

	system = syscall(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR | O_CLOEXEC);
	check_equal(syscall(SYS_ioctl, system, KVM_GET_API_VERSION, 0), 12);
	check_equal(syscall(SYS_ioctl, system, KVM_GET_API_VERSION, 1), -1);
	check_equal(errno, EINVAL);
	vm = syscall(SYS_ioctl, system, KVM_CREATE_VM, 0);
	vcpu = syscall(SYS_ioctl, vm, KVM_CREATE_VCPU, 0);
	run = (void *)syscall(SYS_mmap, NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	check(run != MAP_FAILED);
	run->immediate_exit = 1;
	check_equal(syscall(SYS_ioctl, vcpu, KVM_RUN, 0), -1);
	check_equal(errno, EINTR);
	check_equal(syscall(SYS_dup2, vcpu, vm), vm);            /* the VM's last descriptor is gone, the vCPU has two */
	check_equal(syscall(SYS_close, vcpu), 0);
	check_equal(syscall(SYS_ioctl, vm, KVM_GET_REGS, &regs), 0);
	check_equal(syscall(SYS_ioctl, vcpu, KVM_GET_REGS, &regs), -1);
	check_equal(errno, EBADF);
	check_equal(syscall(SYS_close_range, vm, vm, 0), 0);
	check_equal(syscall(SYS_open, "/sys/module/kvm_amd/parameters/nested", O_RDONLY), -1);
	check_equal(errno, ENOENT);
	check_equal(syscall(SYS_close, system), 0);
}

/* What is not KVM's is the kernel's, answers and errors. */
static void test_others(void)
{
	struct stat st;
	char text[8] = "";
	int ends[2];

	check_equal(syscall(SYS_getpid), getpid());
	check_equal(syscall(SYS_pipe2, ends, O_CLOEXEC), 0);
	check_equal(syscall(SYS_write, ends[1], "hello", 5), 5);
	check_equal(syscall(SYS_pread64, ends[0], text, 5, 0), -1);
	check_equal(errno, ESPIPE);
	check_equal(syscall(SYS_read, ends[0], text, 5), 5);
	check(!strcmp(text, "hello"));
	check_equal(syscall(SYS_ioctl, ends[0], KVM_GET_API_VERSION, 0), -1);
	check_equal(errno, ENOTTY);
	check_equal(syscall(SYS_newfstatat, AT_FDCWD, "/", &st, 0), 0);
	check_equal(syscall(SYS_close, 1000), -1);
	check_equal(errno, EBADF);
	check_equal(syscall(100000), -1);
	check_equal(errno, ENOSYS);
}

static const struct test tests[] = {
	{ "KVM by syscall()", test_kvm },
	{ "other calls by syscall()", test_others },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
