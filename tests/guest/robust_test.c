/*
 * What a client may do to us and to itself: requests that do not exist,
 * pointers that lead nowhere, memory that goes away under a running guest,
 * fork, descriptors closed in any order. And what a guest may do to itself.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { HOLE = 0x280000, CODE1 = 0x9000 };        /* HOLE: where the memory goes away */

static unsigned count_dir(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* A thread that has ended is listed for a moment. */
static unsigned threads(unsigned expected)
{
	for (int i = 0; i < 200 && count_dir("/proc/self/task") != expected; i++)
		usleep(5000);
	return count_dir("/proc/self/task");
}

/* ---- requests ---- */

/* The shim's part. */
static void on_signal(int signo, siginfo_t *info, void *context)
{
	uint64_t mask;

	memcpy(&mask, &((ucontext_t *)context)->uc_sigmask, sizeof(mask));
	anykvm_signal_waits(&mask);
	memcpy(&((ucontext_t *)context)->uc_sigmask, &mask, sizeof(mask));
}

static void try_all(int fd, void *arg)
{
	static const unsigned sizes[] = { 0, 4, 8, 16, 64, 200, 312, 1000, 4096, 16383 };

	for (unsigned nr = 0; nr < 256; nr++)
		for (unsigned i = 0; i < 4 * sizeof(sizes) / sizeof(*sizes); i++) {
			unsigned long request = _IOC(i & 3, KVMIO, nr, sizes[i / 4]);

			if (request != KVM_RUN)
				anykvm_ioctl(fd, request, arg);
		}
}

/* The requests that exist, with arguments that make no sense. */
static const unsigned long requests[] = {
	KVM_CREATE_VM, KVM_GET_MSR_INDEX_LIST, KVM_CHECK_EXTENSION, KVM_GET_SUPPORTED_CPUID, KVM_GET_MSR_FEATURE_INDEX_LIST,
	KVM_CREATE_VCPU, KVM_GET_DIRTY_LOG, KVM_SET_USER_MEMORY_REGION, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR,
	KVM_IRQ_LINE, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2, KVM_SET_GSI_ROUTING, KVM_IRQFD,
	KVM_IOEVENTFD, KVM_SIGNAL_MSI, KVM_SET_CLOCK, KVM_ENABLE_CAP, KVM_CREATE_DEVICE, KVM_X86_SET_MSR_FILTER, KVM_CLEAR_DIRTY_LOG,
	KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_TRANSLATE, KVM_INTERRUPT, KVM_GET_MSRS, KVM_SET_MSRS, KVM_SET_CPUID,
	KVM_SET_SIGNAL_MASK, KVM_GET_FPU, KVM_SET_FPU, KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_SET_VAPIC_ADDR,
	KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_NMI, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
	KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_SET_TSC_KHZ, KVM_KVMCLOCK_CTRL,
	KVM_SET_GUEST_DEBUG, KVM_SMI, KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE, KVM_GET_STATS_FD, KVM_GET_XSAVE2,
};

static void test_requests(void)
{
	uint64_t *junk = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct guest g;
	unsigned seed = 1;

	guest_create(&g, true);
	int fds[] = { g.system, g.vm, g.vcpu[0] };
	for (int k = 0; k < 3; k++) {
		try_all(fds[k], NULL);
		try_all(fds[k], (void *)16);
		try_all(fds[k], (void *)0xffff800000000000);
	}
	for (int round = 0; round < 12; round++)
		for (unsigned i = 0; i < sizeof(requests) / sizeof(*requests); i++)
			for (int k = 1; k < 3; k++) {
				int fd;

				for (unsigned w = 0; w < 2048; w++)
					junk[w] = round % 3 == 0 ? ~0ull : round % 3 == 1 ? (uint64_t)rand_r(&seed) * rand_r(&seed) : 1ull << rand_r(&seed) % 64;
				if (round % 2)
					*(uint32_t *)junk = rand_r(&seed) % 64;
				fd = anykvm_ioctl(fds[k], requests[i], junk);
				if (requests[i] == KVM_GET_STATS_FD && fd >= 0)
					close(fd);
			}
	g.run[0]->immediate_exit = 1;
	anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL);
	/* Whatever state that has left can be run. */
	sigaction(SIGALRM, &(struct sigaction){ .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO }, NULL);
	for (int i = 0; i < 20; i++) {
		g.run[0]->immediate_exit = 0;
		ualarm(20000, 0);
		anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL);
		anykvm_signals_return();
	}
	signal(SIGALRM, SIG_DFL);
	alarm(300);
	guest_destroy(&g);
	munmap(junk, 1 << 20);
}

/* ---- memory that goes away ---- */

GUEST_ASM(gone_load, 64, "mov (%rsi), %rax\n out %al, $0x10\n");
GUEST_ASM(gone_store, 64, "mov %rax, (%rsi)\n out %al, $0x10\n");
GUEST_ASM(gone_lock, 64, "lock incl (%rsi)\n out %al, $0x10\n");
GUEST_ASM(gone_split, 64, "lock incl -2(%rsi)\n out %al, $0x10\n");
GUEST_ASM(gone_push, 64, "lea 8(%rsi), %rsp\n push %rax\n out %al, $0x10\n");
GUEST_ASM(gone_rep, 64, "mov %rsi, %rdi\n mov $8, %ecx\n rep stosb\n out %al, $0x10\n");
GUEST_ASM(gone_movs, 64, "mov $0x30000, %edi\n mov $8, %ecx\n rep movsq\n out %al, $0x10\n");
GUEST_ASM(gone_sse, 64, "movups %xmm0, 8(%rsi)\n out %al, $0x10\n");
GUEST_ASM(gone_x87, 64, "fnsave (%rsi)\n out %al, $0x10\n");
GUEST_ASM(gone_fxsave, 64, "fxsave (%rsi)\n out %al, $0x10\n");
GUEST_ASM(gone_code, 64, "movb $0xe6, (%rsi)\n movb $0x10, 1(%rsi)\n out %al, $0x11\n jmp *%rsi\n");
GUEST_ASM(gone_gdt, 64, "mov $16, %eax\n mov %eax, %ds\n out %al, $0x10\n");
GUEST_ASM(gone_tables, 64, "mov %cr3, %rax\n mov %rax, %cr3\n mov 0x40000000, %rax\n out %al, $0x10\n");
GUEST_ASM(gone_across, 64, "mov -3(%rsi), %rax\n out %al, $0x10\n");
GUEST_ASM(gone_clock, 64, "mov $0x4b564d01, %ecx\n mov %esi, %eax\n or $1, %eax\n xor %edx, %edx\n wrmsr\n 1: pause\n out %al, $0x10\n jmp 1b\n");

static const struct { const char *name; const uint8_t *code, *end; bool survives; } gone[] = {
#define GONE(name, survives) { #name, gone_##name##_start, gone_##name##_end, survives }
	GONE(load, false), GONE(store, false), GONE(lock, false), GONE(split, false), GONE(push, false), GONE(rep, false),
	GONE(movs, false), GONE(sse, false), GONE(x87, false), GONE(fxsave, false), GONE(gdt, false), GONE(tables, false),
	GONE(across, false), GONE(clock, true),
};

enum loss { UNMAPPED, PROTECTED, TRUNCATED, LOSSES };

static void memory_take(struct guest *g, enum loss how, bool away, int file)
{
	uint8_t *at = g->memory + HOLE;

	if (how == TRUNCATED)
		check(ftruncate(file, away ? 0 : 0x1000) == 0);
	else if (how == PROTECTED)
		mprotect(at, 0x1000, away ? PROT_NONE : PROT_READ | PROT_WRITE);
	else if (away)
		munmap(at, 0x1000);
	else
		mmap(at, 0x1000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void prepare_gone(struct guest *g, int i, int file)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	guest_create(g, false);
	g->run[0]->immediate_exit = 0;
	guest_load_bytes(g, GUEST_CODE, gone[i].code, gone[i].end - gone[i].code);
	guest_mode(g, 0, GUEST_LONG);
	r = guest_regs(g, 0);
	r.rsi = HOLE;
	guest_set_regs(g, 0, &r);
	if (file >= 0)
		mmap(g->memory + HOLE, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
	if (gone[i].code == gone_gdt_start) {
		guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
		s.gdt.base = HOLE;
		guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
	}
	if (gone[i].code == gone_tables_start)
		((uint64_t *)(g->memory + GUEST_PAGES))[512 + 1] = HOLE | 7;
}

/* Taken away before the first use, or, with entries in the TLB, after it. */
static void run_gone(int i, enum loss how, bool warm)
{
	int file = how == TRUNCATED ? memfd_create("test", 0) : -1;
	struct guest g;
	struct kvm_regs r;

	if (file >= 0)
		check(ftruncate(file, 0x1000) == 0);
	prepare_gone(&g, i, file);
	memcpy(g.memory + HOLE, g.memory + GUEST_GDT, 32);
	if (gone[i].code == gone_tables_start)
		*(uint64_t *)(g.memory + HOLE) = 0x87;
	r = guest_regs(&g, 0);
	if (warm)
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	g.run[0]->immediate_exit = 1;            /* to finish the OUT */
	anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL);
	g.run[0]->immediate_exit = 0;
	guest_set_regs(&g, 0, &r);
	memory_take(&g, how, true, file);
	int why = guest_run(&g, 0);
	if (why != (gone[i].survives ? KVM_EXIT_IO : -EFAULT)) {
		failures++;
		printf("%s, loss %d, %s: %d\n", gone[i].name, how, warm ? "warm" : "cold", why);
	}
	memory_take(&g, how, false, file);
	memcpy(g.memory + HOLE, g.memory + GUEST_GDT, 32);
	if (gone[i].code == gone_tables_start)
		*(uint64_t *)(g.memory + HOLE) = 0x87;
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	guest_destroy(&g);
	if (file >= 0)
		close(file);
}

static void test_gone(void)
{
	for (unsigned i = 0; i < sizeof(gone) / sizeof(*gone); i++)
		for (enum loss how = 0; how < LOSSES; how++) {
			run_gone(i, how, false);
			run_gone(i, how, true);
		}
}

/* Code itself is gone. */
static void test_code_gone(void)
{
	struct guest g;
	struct kvm_regs r;

	guest_create(&g, false);
	guest_load(&g, gone_code);
	guest_mode(&g, 0, GUEST_LONG);
	r = guest_regs(&g, 0);
	r.rsi = HOLE;
	guest_set_regs(&g, 0, &r);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	memory_take(&g, UNMAPPED, true, -1);
	check_equal(guest_run(&g, 0), -EFAULT);
	memory_take(&g, UNMAPPED, false, -1);
	memcpy(g.memory + HOLE, "\xe6\x10", 2);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0x10);
	guest_destroy(&g);
}

/* A guest that runs while its memory is taken, by another thread. */
GUEST_ASM(walks, 64, "1: mov $0x200000, %edi\n mov $0x20000, %ecx\n rep stosq\n lock incl 0x280ffe\n add %rax, 0x280100\n jmp 1b\n");

static void *run_until_efault(void *arg)
{
	return (void *)(intptr_t)guest_run(arg, 0);
}

static void test_gone_running(void)
{
	for (int round = 0; round < 20; round++) {
		struct guest g;
		pthread_t thread;
		void *why;

		guest_create(&g, false);
		guest_add_vcpu(&g);
		guest_load(&g, walks);
		guest_mode(&g, 0, GUEST_LONG);
		pthread_create(&thread, NULL, run_until_efault, &g);
		usleep(2000 + 500 * round);
		munmap(g.memory + HOLE, 0x1000);
		pthread_join(thread, &why);
		check_equal((intptr_t)why, -EFAULT);
		guest_destroy(&g);
	}
}

/* ---- the guest's own undoing ---- */

GUEST_ASM(triple, 64, "lidt (%rsi)\n ud2\n");
GUEST_ASM(triple16, 16, "mov $0x3000, %si\n lidtl (%si)\n int $3\n");

static void leave_long_mode(struct guest *g)
{
	struct kvm_sregs s;

	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.cr0 = 0x10;
	s.cr4 = s.efer = 0;
	s.cs.l = 0;
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
}

static void test_triple(void)
{
	struct guest g;

	for (int irqchip = 0; irqchip < 2; irqchip++)
		for (int real = 0; real < 2; real++) {
			guest_create(&g, irqchip);
			if (real)
				guest_load(&g, triple16);
			else
				guest_load(&g, triple);
			guest_mode(&g, 0, real ? GUEST_REAL : GUEST_LONG);
			check_equal(guest_run(&g, 0), KVM_EXIT_SHUTDOWN);
			/* The client resets and goes on. */
			guest_load_bytes(&g, GUEST_CODE, "\xe6\x10", 2);
			leave_long_mode(&g);
			guest_mode(&g, 0, GUEST_REAL);
			check_equal(guest_run(&g, 0), KVM_EXIT_IO);
			guest_destroy(&g);
		}
}

/* Code where no memory is: one line on stderr that says where. */
static void test_internal(void)
{
	struct guest g;
	char line[1024] = "";
	int out = dup(2), file = memfd_create("stderr", 0);
	struct kvm_regs r = { .rip = 0x10000000, .rsp = GUEST_STACK, .rflags = 2 };

	guest_create(&g, false);
	guest_mode(&g, 0, GUEST_LONG);
	guest_set_regs(&g, 0, &r);
	dup2(file, 2);
	check_equal(guest_run(&g, 0), KVM_EXIT_INTERNAL_ERROR);
	dup2(out, 2);
	check(pread(file, line, sizeof(line) - 1, 0) > 0);
	check(strstr(line, "L1") && strstr(line, "RIP 0x10000000") && strchr(line, '\n') == line + strlen(line) - 1);
	check_equal(g.run[0]->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	guest_load_bytes(&g, GUEST_CODE, "\xe6\x10", 2);
	r.rip = GUEST_CODE;
	guest_set_regs(&g, 0, &r);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	guest_destroy(&g);
	close(file);
	close(out);
}

/* ---- ends ---- */

GUEST_ASM(spins, 64, "incl 0x20000\n 1: pause\n jmp 1b\n");

static void *run_once(void *arg)
{
	struct guest *g = arg;
	int r = anykvm_ioctl(g->vcpu[0], KVM_RUN, NULL);

	return (void *)(intptr_t)(r < 0 ? -errno : r);
}

/* Everything is closed under a running vCPU; when that comes back, nothing is left. */
static void test_nothing_left(void)
{
	unsigned fds = count_dir("/proc/self/fd"), tasks = threads(3);
	struct guest g;

	sigaction(SIGUSR1, &(struct sigaction){ .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO }, NULL);
	for (int round = 0; round < 30; round++) {
		pthread_t thread;
		void *why;

		guest_create(&g, round & 1);
		guest_add_vcpu(&g);
		guest_load(&g, spins);
		guest_mode(&g, 0, GUEST_LONG);
		pthread_create(&thread, NULL, run_once, &g);
		while (!((volatile uint8_t *)g.memory)[0x20000])
			usleep(100);
		for (int i = 0; i < 2; i++)
			munmap(g.run[i], 3 * 4096);
		guest_destroy(&g);
		pthread_kill(thread, SIGUSR1);
		pthread_join(thread, &why);
		/* Its memory is gone as well, which it need not have noticed. */
		check((intptr_t)why == -EINTR || (intptr_t)why == -EFAULT);
	}
	check_equal(count_dir("/proc/self/fd"), fds);
	check_equal(threads(tasks), tasks);
}

/* The child's copies are dead and take nothing with them. */
static void test_fork(void)
{
	struct guest g;
	int status = -1;
	pid_t child;

	guest_create(&g, true);
	guest_load(&g, gone_code);
	guest_mode(&g, 0, GUEST_REAL);
	guest_load_bytes(&g, GUEST_CODE, "\xe6\x10\xeb\xfc", 4);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	child = fork();
	if (!child) {
		struct kvm_regs r;
		int bad = 0;

		anykvm_forked();
		bad |= anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL) != -1 || errno != EIO;
		bad |= anykvm_ioctl(g.vcpu[0], KVM_GET_REGS, &r) != -1 || errno != EIO;
		bad |= anykvm_ioctl(g.vm, KVM_CREATE_VCPU, (void *)1) != -1 || errno != EIO;
		anykvm_closing(g.vcpu[0]);
		anykvm_closing(g.vm);
		/* A VM of its own works. */
		guest_create(&g, true);
		guest_mode(&g, 0, GUEST_REAL);
		guest_load_bytes(&g, GUEST_CODE, "\xe6\x10", 2);
		bad |= guest_run(&g, 0) != KVM_EXIT_IO;
		_exit(bad);
	}
	waitpid(child, &status, 0);
	check_equal(status, 0);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "requests that make no sense", test_requests },
	{ "memory taken away", test_gone },
	{ "code taken away", test_code_gone },
	{ "memory taken away under a running guest", test_gone_running },
	{ "triple fault", test_triple },
	{ "no code there: internal error", test_internal },
	{ "nothing is left behind", test_nothing_left },
	{ "fork", test_fork },
};

int main(void)
{
	signal(SIGALRM, SIG_DFL);
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
