/* pthread_cancel() of threads that use KVM: whoever comes after finds nothing taken and nothing lost. Prints TAP. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "../tap.h"
#include "client.h"

static struct client client;
static int cancel_type = PTHREAD_CANCEL_ASYNCHRONOUS, cancel_state = PTHREAD_CANCEL_ENABLE;
static volatile int cleaned, handled;

static void nothing(int sig)
{
	handled++;
	client_call_out();
}

static void clean(void *arg)
{
	struct kvm_regs regs;

	cleaned += !ioctl(client.vcpu, KVM_GET_REGS, &regs);
}

static void *run(void *arg)
{
	intptr_t result = 0;

	pthread_setcancelstate(cancel_state, NULL);
	pthread_setcanceltype(cancel_type, NULL);
	pthread_cleanup_push(clean, NULL);
	result = client_run(&client);
	pthread_testcancel();
	pthread_cleanup_pop(0);
	return (void *)result;
}

static pthread_t begin(void *(*f)(void *))
{
	pthread_t thread;

	check(!pthread_create(&thread, NULL, f, NULL));
	return thread;
}

static void *end(pthread_t thread)
{
	void *result;

	pthread_join(thread, &result);
	return result;
}

static void wait_asleep(void)
{
	struct kvm_run *volatile run = client.run;

	while (!*client.turns || run->exit_reason == KVM_EXIT_IO)
		sched_yield();
	usleep(2000);                            /* it passes either way */
}

/* ---- asynchronous ---- */

static void cancel_running(enum guest_kind kind, int rounds)
{
	client_open(&client, kind);
	cleaned = 0;
	for (int i = 0; i < rounds; i++) {
		pthread_t thread = begin(run);

		if (kind == GUEST_HALTED)
			wait_asleep();
		else
			client_wait_turns(&client, i % 5);
		check_equal(pthread_cancel(thread), 0);
		check(end(thread) == PTHREAD_CANCELED);
	}
	check(cleaned <= rounds && (rounds < 100 || cleaned > rounds / 2));     /* a few were cancelled before KVM_RUN */
	/* The vCPU runs on in this thread, and does not keep the VM. */
	handled = 0;
	signal(SIGALRM, nothing);
	ualarm(20000, 0);
	check_equal(client_run(&client), EINTR);
	check_equal(handled, 1);
	client_close(&client);
}

static void test_quiet(void)
{
	cancel_running(GUEST_QUIET, 100);
}

static void test_asking(void)
{
	cancel_running(GUEST_ASKING, 100);
}

static void test_asleep(void)
{
	cancel_running(GUEST_HALTED, 20);
}

/* ---- not where ioctl() is no cancellation point ---- */

static void run_on(int state, int type)
{
	pthread_t thread;

	client_open(&client, GUEST_ASKING);
	cancel_state = state;
	cancel_type = type;
	handled = cleaned = 0;
	signal(SIGUSR1, nothing);
	thread = begin(run);
	client_wait_turns(&client, 10);
	check_equal(pthread_cancel(thread), 0);
	client_wait_turns(&client, 1000);        /* waits for ever if it has gone */
	check_equal(cleaned, 0);
	pthread_kill(thread, SIGUSR1);
	check((intptr_t)end(thread) == (state == PTHREAD_CANCEL_ENABLE ? (intptr_t)PTHREAD_CANCELED : EINTR));
	check_equal(handled, 1);
	cancel_state = PTHREAD_CANCEL_ENABLE;
	cancel_type = PTHREAD_CANCEL_ASYNCHRONOUS;
	client_close(&client);
}

static void test_deferred(void)
{
	run_on(PTHREAD_CANCEL_ENABLE, PTHREAD_CANCEL_DEFERRED);
}

static void test_disabled(void)
{
	run_on(PTHREAD_CANCEL_DISABLE, PTHREAD_CANCEL_ASYNCHRONOUS);
}

/* ---- the other calls ---- */

static volatile int stage;

/* Cancelled already: open() is a cancellation point in the kernel's case, ioctl() is not. */
static void *set_up(void *arg)
{
	struct client own;

	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	own.system = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	stage = 1;
	while (stage == 1)
		sched_yield();
	own.vm = ioctl(own.system, KVM_CREATE_VM, 0);
	check(!ioctl(own.vm, KVM_CREATE_IRQCHIP, 0));
	own.vcpu = ioctl(own.vm, KVM_CREATE_VCPU, 0);
	check(own.vm >= 0 && own.vcpu >= 0);
	stage = 3;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	close(own.vcpu);
	close(own.vm);
	close(own.system);
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	pthread_testcancel();
	return NULL;
}

static void test_deferred_calls(void)
{
	pthread_t thread;

	stage = 0;
	thread = begin(set_up);
	while (!stage)
		sched_yield();
	pthread_cancel(thread);
	stage = 2;
	check(end(thread) == PTHREAD_CANCELED);
	check_equal(stage, 3);
}

/* Any moment of any call: what is shared by all objects must stay usable. */
static void *use_much(void *arg)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c;
	struct kvm_sregs sregs;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;) {
		c.head.nent = 100;
		ioctl(client.system, KVM_GET_SUPPORTED_CPUID, &c);
		ioctl(client.vcpu, KVM_GET_SREGS, &sregs);
		ioctl(client.vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP);
		stage++;
	}
	return NULL;
}

static void test_any_call(void)
{
	struct kvm_sregs sregs;

	client_open(&client, GUEST_QUIET);
	for (int i = 0; i < 100; i++) {
		pthread_t thread;

		stage = 0;
		thread = begin(use_much);
		while (stage < i % 3)
			sched_yield();
		pthread_cancel(thread);
		check(end(thread) == PTHREAD_CANCELED);
		check(!ioctl(client.vcpu, KVM_GET_SREGS, &sregs));
	}
	client_close(&client);
}

/* ---- nothing is left behind ---- */

static int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void test_leaks(void)
{
	int files, threads;

	cancel_running(GUEST_QUIET, 2);
	files = count_entries("/proc/self/fd");
	threads = count_entries("/proc/self/task");
	for (int i = 0; i < 20; i++)
		cancel_running(i % 2 ? GUEST_HALTED : GUEST_ASKING, 2);
	check_equal(count_entries("/proc/self/fd"), files);
	for (int i = 0; i < 200 && count_entries("/proc/self/task") != threads; i++)
		usleep(5000);                    /* one that has ended is listed for a moment */
	check_equal(count_entries("/proc/self/task"), threads);
}

static const struct test tests[] = {
	{ "a running vCPU's thread, at once", test_quiet },
	{ "one whose guest exits all the time", test_asking },
	{ "one whose guest sleeps", test_asleep },
	{ "a deferred cancellation leaves KVM_RUN alone", test_deferred },
	{ "a disabled one too", test_disabled },
	{ "ioctl() is no cancellation point", test_deferred_calls },
	{ "any moment of any call", test_any_call },
	{ "no descriptors and threads are left", test_leaks },
};

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
