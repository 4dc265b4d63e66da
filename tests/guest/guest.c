/* See guest.h. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "guest.h"
#include "kvm/api.h"
#include "machine.h"

int guest_memory_fd = -1;
static int moves_left;                   /* ANYKVM_TEST_MOVES */

int guest_ioctl(int fd, unsigned long request, void *arg)
{
	int r = anykvm_ioctl(fd, request, arg);

	if (r < 0) {
		printf("ioctl %#lx: %s\n", request, strerror(errno));
		exit(1);
	}
	return r;
}

/* What the shim does in real life: faults of translated code are the engine's. */
static void on_fault(int signo, siginfo_t *info, void *context)
{
	if (anykvm_signal(signo, info, context))
		return;
	signal(signo, SIG_DFL);
}

static void signals_install(void)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++)
		sigaction(faults[i], &act, NULL);
}

static void cpuid_install(struct guest *g, int i)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };

	guest_ioctl(g->system, KVM_GET_SUPPORTED_CPUID, &c);
	guest_ioctl(g->vcpu[i], KVM_SET_CPUID2, &c);
}

int guest_add_vcpu(struct guest *g)
{
	int i = g->nvcpus++, size = guest_ioctl(g->system, KVM_GET_VCPU_MMAP_SIZE, NULL);

	g->vcpu[i] = guest_ioctl(g->vm, KVM_CREATE_VCPU, (void *)(uintptr_t)i);
	g->run[i] = anykvm_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu[i], 0);
	if (g->run[i] == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	cpuid_install(g, i);
	return i;
}

static void vm_create(struct guest *g, bool irqchip)
{
	struct kvm_userspace_memory_region slot = { .memory_size = GUEST_MEMORY, .userspace_addr = (uintptr_t)g->memory };

	g->vm = guest_ioctl(g->system, KVM_CREATE_VM, NULL);
	if (irqchip)
		guest_ioctl(g->vm, KVM_CREATE_IRQCHIP, NULL);
	guest_ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &slot);
	g->nvcpus = 0;
}

void guest_create(struct guest *g, bool irqchip)
{
	memset(g, 0, sizeof(*g));
	signals_install();
	g->system = anykvm_open(0);
	g->memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, guest_memory_fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
	                 guest_memory_fd, 0);
	vm_create(g, irqchip);
	guest_add_vcpu(g);
	moves_left = getenv("ANYKVM_TEST_MOVES") ? atoi(getenv("ANYKVM_TEST_MOVES")) : 0;
	if (moves_left)
		machine_prepare(g);
}

static void close_object(int fd)
{
	anykvm_closing(fd);
	close(fd);
}

static void vm_close(struct guest *g)
{
	size_t size = guest_ioctl(g->system, KVM_GET_VCPU_MMAP_SIZE, NULL);

	for (int i = 0; i < g->nvcpus; i++) {
		munmap(g->run[i], size);
		close_object(g->vcpu[i]);
	}
	close_object(g->vm);
}

void guest_new_vm(struct guest *g, bool irqchip, int n)
{
	vm_close(g);
	vm_create(g, irqchip);
	while (g->nvcpus < n)
		guest_add_vcpu(g);
}

void guest_destroy(struct guest *g)
{
	vm_close(g);
	close_object(g->system);
	munmap(g->memory, GUEST_MEMORY);
}

void guest_load_bytes(struct guest *g, uint64_t gpa, const void *bytes, size_t len)
{
	memcpy(g->memory + gpa, bytes, len);
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code64)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
	                             .db = !code64, .l = code64 };
}

static struct kvm_segment real_segment(uint8_t type)
{
	return (struct kvm_segment){ .limit = 0xffff, .type = type, .present = 1, .s = 1 };
}

/* null, code32, data, code64, at GUEST_GDT; selectors 8, 16, 24. */
static void gdt_write(struct guest *g)
{
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff };

	memcpy(g->memory + GUEST_GDT, gdt, sizeof(gdt));
}

/* 2 MiB pages for the first gigabyte. */
static void page_tables_write(struct guest *g)
{
	uint64_t *t = (uint64_t *)(g->memory + GUEST_PAGES);

	t[0] = (GUEST_PAGES + 0x1000) | 7;
	t[512] = (GUEST_PAGES + 0x2000) | 7;
	for (uint64_t i = 0; i < 512; i++)
		t[1024 + i] = i << 21 | 0x87;
}

static void sregs_protected(struct kvm_sregs *s, bool code64)
{
	s->cs = segment(code64 ? 24 : 8, 11, code64);
	s->ds = s->es = s->fs = s->gs = s->ss = segment(16, 3, false);
	s->gdt = (struct kvm_dtable){ .base = GUEST_GDT, .limit = 31 };
	s->cr0 = 0x33;
	if (code64) {
		s->cr0 |= 0x80000000;
		s->cr3 = GUEST_PAGES;
		s->cr4 = 0x620;          /* PAE, OSFXSR, OSXMMEXCPT */
		s->efer = 0x500;
	}
}

void guest_mode(struct guest *g, int i, enum guest_mode mode)
{
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK - i * 0x400, .rflags = 2 };
	struct kvm_sregs s;

	gdt_write(g);
	page_tables_write(g);
	guest_ioctl(g->vcpu[i], KVM_GET_SREGS, &s);
	if (mode == GUEST_REAL) {
		s.cs = real_segment(11);
		s.ds = s.es = s.fs = s.gs = s.ss = real_segment(3);
		s.cr0 = 0x10;
	} else {
		sregs_protected(&s, mode == GUEST_LONG);
	}
	s.idt = (struct kvm_dtable){ .base = mode == GUEST_REAL ? 0 : GUEST_IDT, .limit = mode == GUEST_REAL ? 0x3ff : 0xfff };
	guest_ioctl(g->vcpu[i], KVM_SET_SREGS, &s);
	guest_set_regs(g, i, &regs);
}

struct kvm_regs guest_regs(struct guest *g, int i)
{
	struct kvm_regs regs;

	guest_ioctl(g->vcpu[i], KVM_GET_REGS, &regs);
	return regs;
}

void guest_set_regs(struct guest *g, int i, const struct kvm_regs *regs)
{
	guest_ioctl(g->vcpu[i], KVM_SET_REGS, (void *)regs);
}

void guest_no_moves(void)
{
	moves_left = 0;
}

static void step_mode(struct guest *g, int i, bool on)
{
	struct kvm_guest_debug d = { .control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0 };

	guest_ioctl(g->vcpu[i], KVM_SET_GUEST_DEBUG, &d);
}

/* The client's answer to the last exit is part of no state: it is taken first. */
static bool answer_taken(struct guest *g, int i)
{
	g->run[i]->immediate_exit = 1;
	int r = anykvm_ioctl(g->vcpu[i], KVM_RUN, NULL);

	g->run[i]->immediate_exit = 0;
	return r < 0;
}

/* All of L2's boundaries and those of its entry and exit; of L1's otherwise one in 64. */
static bool worth_a_move(struct guest *g, int i)
{
	static bool was_in_l2;
	static unsigned steps;
	union { struct kvm_nested_state s; uint8_t bytes[128 + 2 * 4096]; } n = { .s.size = sizeof(n) };
	bool in_l2, yes;

	guest_ioctl(g->vcpu[i], KVM_GET_NESTED_STATE, &n);
	in_l2 = n.s.flags & KVM_STATE_NESTED_GUEST_MODE;
	yes = in_l2 || was_in_l2 || ++steps % 64 == 0;
	was_in_l2 = in_l2;
	return yes;
}

/* In single steps, with moves between them, until there is an exit for the test or no move is left. */
static int run_moving(struct guest *g, int i)
{
	static unsigned seed;

	if (!answer_taken(g, i))
		return g->run[i]->exit_reason;
	while (moves_left > 0) {
		if (worth_a_move(g, i)) {
			machine_move(g, ++seed);
			moves_left--;
		}
		step_mode(g, i, true);
		int r = anykvm_ioctl(g->vcpu[i], KVM_RUN, NULL);

		step_mode(g, i, false);
		if (r < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (g->run[i]->exit_reason != KVM_EXIT_DEBUG && g->run[i]->exit_reason != KVM_EXIT_INTR)
			return g->run[i]->exit_reason;
	}
	return guest_run(g, i);
}

int guest_run(struct guest *g, int i)
{
	if (moves_left > 0)
		return run_moving(g, i);
	for (;;) {
		if (anykvm_ioctl(g->vcpu[i], KVM_RUN, NULL) >= 0)
			return g->run[i]->exit_reason;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
		g->run[i]->immediate_exit = 0;
	}
}
