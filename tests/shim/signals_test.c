/*
 * Signals to threads inside KVM_RUN, as clients use them: handlers that return, that never return, that call KVM, masks,
 * stopped processes. A thread that has left may have left nothing taken: the vCPU runs on in another one. Prints TAP.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../tap.h"
#include "client.h"

static struct client client;
static volatile int handled, last_value;
static volatile uintptr_t handled_on;    /* an address of its stack */
static sigjmp_buf back;

static void count(int sig)
{
	int here;

	handled++;
	client_call_out();
	handled_on = (uintptr_t)&here;
}

static void count_value(int sig, siginfo_t *info, void *context)
{
	handled++;
	client_call_out();
	last_value += info->si_value.sival_int;
}

static void jump_back(int sig)
{
	siglongjmp(back, sig);
}

static void handle(int sig, void (*handler)(int), int flags)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = flags };

	handled = 0;
	check(!sigaction(sig, &act, NULL));
}

static void *run_once(void *arg)
{
	return (void *)(intptr_t)client_run(&client);
}

/* The vCPU runs in a new thread, until SIGUSR2 calls it out. */
static void check_runs_elsewhere(void)
{
	pthread_t thread;
	void *result;

	handle(SIGUSR2, count, 0);
	client.run->immediate_exit = 0;
	check(!pthread_create(&thread, NULL, run_once, NULL));
	client_wait_turns(&client, 3);
	check(!pthread_kill(thread, SIGUSR2));
	pthread_join(thread, &result);
	check_equal((intptr_t)result, EINTR);
	check_equal(handled, 1);
}

/* ---- handlers ---- */

static void read_registers(int sig)
{
	struct kvm_regs regs;

	client_call_out();
	handled += !ioctl(client.vcpu, KVM_GET_REGS, &regs) && (regs.rip & ~0xf) == 0x1000;
}

/* As the kernel: when the handler runs, KVM_RUN is over. */
static void test_handler_calls_kvm(void)
{
	struct itimerval soon = { .it_value.tv_usec = 3000 }, tick = { .it_value.tv_usec = 3000, .it_interval.tv_usec = 500 };

	handle(SIGALRM, read_registers, 0);
	for (int i = 1; i <= 20; i++) {
		setitimer(ITIMER_REAL, &soon, NULL);
		check_equal(client_run(&client), EINTR);
		check_equal(handled, i);
	}
	setitimer(ITIMER_REAL, &tick, NULL);
	while (handled < 100)
		check_equal(client_run(&client), EINTR);
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
}

static void test_longjmp(void)
{
	static volatile int jumps;

	handle(SIGALRM, jump_back, 0);
	jumps = 0;
	if (sigsetjmp(back, 1))
		jumps++;
	if (jumps < 100) {
		setitimer(ITIMER_REAL, &(struct itimerval){ .it_value.tv_usec = 200 + 37 * jumps }, NULL);
		check_equal(client_run(&client), -1);    /* does not return */
	}
	handle(SIGALRM, SIG_DFL, 0);
	check_runs_elsewhere();
}

/* A fault's number, sent by somebody: it cannot be blocked meanwhile. */
static void *send_fault(void *thread)
{
	client_wait_turns(&client, 3);
	pthread_kill(*(pthread_t *)thread, SIGSEGV);
	return NULL;
}

static void test_longjmp_fault(void)
{
	pthread_t self = pthread_self(), sender;

	handle(SIGSEGV, jump_back, 0);
	for (volatile int i = 0; i < 20; i++) {
		check(!pthread_create(&sender, NULL, send_fault, &self));
		if (!sigsetjmp(back, 1))
			check_equal(client_run(&client), -1);
		pthread_join(sender, NULL);
	}
	handle(SIGSEGV, SIG_DFL, 0);
	check_runs_elsewhere();
}

static void *leave_thread(void *arg)
{
	client_run(&client);
	return NULL;
}

static void exit_thread(int sig)
{
	pthread_exit(&client);
}

static void test_exit_in_handler(void)
{
	pthread_t thread;
	void *result;

	handle(SIGUSR1, exit_thread, 0);
	for (int i = 0; i < 20; i++) {
		check(!pthread_create(&thread, NULL, leave_thread, NULL));
		client_wait_turns(&client, 1);
		pthread_kill(thread, SIGUSR1);
		pthread_join(thread, &result);
		check(result == &client);
	}
	check_runs_elsewhere();
}

static void test_alternate_stack(void)
{
	static char stack[65536];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) }, none = { .ss_flags = SS_DISABLE };

	check(!sigaltstack(&alternate, NULL));
	for (int on = 0; on < 2; on++) {
		handle(SIGALRM, count, on ? SA_ONSTACK : 0);
		setitimer(ITIMER_REAL, &(struct itimerval){ .it_value.tv_usec = 3000 }, NULL);
		check_equal(client_run(&client), EINTR);
		check_equal(handled, 1);
		check_equal(handled_on - (uintptr_t)stack < sizeof(stack), on);
	}
	sigaltstack(&none, NULL);
}

/* ---- flags and masks ---- */

static void test_flags(void)
{
	struct sigaction act;

	handle(SIGALRM, count, SA_RESETHAND | SA_NODEFER | SA_RESTART);
	check(!sigaction(SIGALRM, NULL, &act));
	check(act.sa_handler == count && (act.sa_flags & ~0x4000000) == (int)(SA_RESETHAND | SA_NODEFER | SA_RESTART));
	setitimer(ITIMER_REAL, &(struct itimerval){ .it_value.tv_usec = 3000 }, NULL);
	check_equal(client_run(&client), EINTR);
	check_equal(handled, 1);
	check(!sigaction(SIGALRM, NULL, &act) && act.sa_handler == SIG_DFL);
	handle(SIGALRM, count, SA_RESETHAND);            /* and with no KVM_RUN in the way */
	raise(SIGALRM);
	check_equal(handled, 1);
	check(!sigaction(SIGALRM, NULL, &act) && act.sa_handler == SIG_DFL);
}

static void *send_values(void *thread)
{
	client_wait_turns(&client, 3);
	for (int i = 1; i <= 4; i++)
		pthread_sigqueue(*(pthread_t *)thread, SIGRTMIN + 3, (union sigval){ .sival_int = i });
	return NULL;
}

/* Each that was queued comes, with what it carries. */
static void test_queued(void)
{
	struct sigaction act = { .sa_sigaction = count_value, .sa_flags = SA_SIGINFO };
	pthread_t self = pthread_self(), sender;

	handled = last_value = 0;
	check(!sigaction(SIGRTMIN + 3, &act, NULL));
	check(!pthread_create(&sender, NULL, send_values, &self));
	while (handled < 4)
		check_equal(client_run(&client), EINTR);
	pthread_join(sender, NULL);
	check_equal(handled, 4);
	check_equal(last_value, 10);
}

static void set_run_mask(const sigset_t *mask)
{
	struct { struct kvm_signal_mask head; uint64_t bits; } __attribute__((packed)) m = { .head.len = 8 };

	if (mask)
		memcpy(&m.bits, mask, 8);
	check(!ioctl(client.vcpu, KVM_SET_SIGNAL_MASK, mask ? &m : NULL));
}

/* Unblocked inside KVM_RUN only: it ends KVM_RUN, stays pending, and its handler does not run. */
static void test_run_mask(void)
{
	sigset_t usr1, inside, outside, now;
	siginfo_t info;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	handle(SIGUSR1, count, 0);
	pthread_sigmask(SIG_BLOCK, &usr1, &outside);
	sigemptyset(&inside);
	sigaddset(&inside, SIGUSR2);
	set_run_mask(&inside);
	for (int i = 0; i < 20; i++) {
		pthread_kill(pthread_self(), SIGUSR1);
		check_equal(client_run(&client), EINTR);
		check_equal(handled, 0);
		check(!sigpending(&now) && sigismember(&now, SIGUSR1));
		pthread_sigmask(SIG_BLOCK, NULL, &now);
		check(sigismember(&now, SIGUSR1) && !sigismember(&now, SIGUSR2) && !sigismember(&now, SIGTERM));
		check_equal(sigtimedwait(&usr1, &info, &(struct timespec){ 0 }), SIGUSR1);
		check_equal(info.si_pid, getpid());
	}
	/* The other way round it waits for KVM_RUN's end, and its handler runs then. */
	handle(SIGUSR2, count, 0);
	pthread_kill(pthread_self(), SIGUSR1);
	sigaddset(&inside, SIGUSR1);
	set_run_mask(&inside);
	client.run->immediate_exit = 1;
	check_equal(client_run(&client), EINTR);
	client.run->immediate_exit = 0;
	check_equal(handled, 0);
	set_run_mask(NULL);
	pthread_sigmask(SIG_SETMASK, &outside, NULL);
	check_equal(handled, 1);
	check_runs_elsewhere();
}

/* ---- processes ---- */

static void end_child(int sig)
{
	_exit(7);
}

static int child(void)
{
	struct client own;

	signal(SIGTERM, end_child);
	client_open(&own, GUEST_QUIET);
	client.memory[0] = 1;                    /* shared */
	while (*own.turns < 1000 || !client.memory[1]) {
		ualarm(1000, 0);
		signal(SIGALRM, count);
		client_run(&own);
		client.memory[2]++;
	}
	signal(SIGALRM, SIG_IGN);
	client_run(&own);
	return 1;
}

static void test_stop(void)
{
	int status, pid;

	client.memory[0] = client.memory[1] = 0;
	pid = fork();
	if (!pid)
		_exit(child());
	for (int i = 0; i < 5; i++) {
		uint8_t before;

		while (!*(volatile uint8_t *)client.memory)
			sched_yield();
		check(!kill(pid, SIGSTOP));
		check_equal(waitpid(pid, &status, WUNTRACED), pid);
		check(WIFSTOPPED(status));
		before = client.memory[2];
		check(!kill(pid, SIGCONT));
		while (*(volatile uint8_t *)(client.memory + 2) == before)
			sched_yield();
	}
	client.memory[1] = 1;
	kill(pid, SIGTERM);
	check_equal(waitpid(pid, &status, 0), pid);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* While a thread is in KVM_RUN another one forks: the child's copies are of no use to it, and its end is not the VM's. */
static void test_fork_meanwhile(void)
{
	struct kvm_regs regs;
	pthread_t thread;
	void *result;
	int status;

	handle(SIGUSR2, count, 0);
	client.run->immediate_exit = 0;
	check(!pthread_create(&thread, NULL, run_once, NULL));
	for (int i = 0; i < 10; i++) {
		int pid;

		client_wait_turns(&client, 3);
		pid = fork();
		if (!pid) {
			bool refused = ioctl(client.vcpu, KVM_GET_REGS, &regs) < 0 && errno == EIO;

			refused &= ioctl(client.vcpu, KVM_RUN, 0) < 0 && errno == EIO;
			close(client.vcpu);
			close(client.vm);
			execl("/bin/sh", "sh", "-c", refused ? "exit 3" : "exit 4", NULL);
		}
		check_equal(waitpid(pid, &status, 0), pid);
		check(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	}
	client_wait_turns(&client, 3);
	check(!pthread_kill(thread, SIGUSR2));
	pthread_join(thread, &result);
	check_equal((intptr_t)result, EINTR);
}

/* vfork()'s child has the parent's memory, but descriptors of its own. */
static void test_vfork_closes(void)
{
	struct kvm_regs regs;
	int status, pid = vfork();

	if (!pid) {
		close(client.vcpu);
		close(client.vm);
		close(client.system);
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	check_equal(waitpid(pid, &status, 0), pid);
	check_equal(status, 0);
	check(!ioctl(client.vcpu, KVM_GET_REGS, &regs));
	check_equal(ioctl(client.system, KVM_GET_API_VERSION, 0), 12);
	check_runs_elsewhere();
}

static const struct test tests[] = {
	{ "a handler may call KVM for the vCPU that it interrupted", test_handler_calls_kvm },
	{ "a handler may leave KVM_RUN by siglongjmp()", test_longjmp },
	{ "the same with a fault's signal that somebody sent", test_longjmp_fault },
	{ "a handler may end its thread", test_exit_in_handler },
	{ "a handler's stack is the one that it asked for", test_alternate_stack },
	{ "SA_RESETHAND, SA_NODEFER, SA_RESTART", test_flags },
	{ "queued signals keep their values", test_queued },
	{ "KVM_SET_SIGNAL_MASK", test_run_mask },
	{ "a client that is stopped goes on", test_stop },
	{ "fork and exec meanwhile", test_fork_meanwhile },
	{ "vfork(), close(), exec", test_vfork_closes },
};

int main(void)
{
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	client_open(&client, GUEST_QUIET);
	status = run_tests(tests, sizeof(tests) / sizeof(*tests));
	client_close(&client);
	return status;
}
