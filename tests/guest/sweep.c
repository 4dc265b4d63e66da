/* See sweep.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kvm/api.h"
#include "machine.h"
#include "sweep.h"

enum { ENTRIES = 20000, MOVES = 400, EXITS = 400, STEPS = 400000 };
enum mode { FREE, STEPPED, MOVED };      /* run at will; in single steps; in single steps and new processes */
static const char *const mode_name[] = { "at will", "stepped", "moved" };

/* What is seen: at an instruction boundary of L2 (reason 0: nothing of the VMCS), or at a VM exit. */
struct seen {
	struct kvm_regs regs;
	uint64_t exit, reason, qualification, linear, physical, info, error, idt_info, idt_error, len, rip, rsp, rflags,
	         interruptibility, activity, debug, entry_info, intr_status;
};

/* All that a run has beside its guest's memory; handed from process to process as a file. */
static struct run {
	unsigned which, seed, moves, seen_count, exits, steps;
	enum mode mode;
	bool launched, was_in_l2, moved, finished, failed;
	struct machine machine;
	struct seen seen[ENTRIES];
} *run;
static int run_fd;
static const struct sweep_case *the_case;

/* ---- what is seen ---- */

static void note(const struct seen *s)
{
	struct seen *last = run->seen_count ? &run->seen[run->seen_count - 1] : NULL;

	if (last && !s->exit && !memcmp(last, s, sizeof(*s)))    /* a loop of one instruction: how often is a matter of time */
		return;
	if (run->seen_count < ENTRIES)
		run->seen[run->seen_count++] = *s;
}

static void note_boundary(struct hv *h)
{
	struct seen s = { .regs = guest_regs(&h->g, 0) };
	uint64_t *r = (uint64_t *)&s.regs;

	for (unsigned i = 0; i < sizeof(s.regs) / 8; i++)
		if (the_case->ignore >> i & 1)
			r[i] = 0;
	note(&s);
}

static void note_exit(struct hv *h, uint32_t reason)
{
	note(&(struct seen){
		.exit = 1, .reason = reason, .qualification = hv_get(h, F_exit_qualification), .linear = hv_get(h, F_guest_linear_address),
		.physical = hv_get(h, F_guest_physical_address), .info = hv_get(h, F_vm_exit_intr_info),
		.error = hv_get(h, F_vm_exit_intr_error_code), .idt_info = hv_get(h, F_idt_vectoring_info_field),
		.idt_error = hv_get(h, F_idt_vectoring_error_code), .len = hv_get(h, F_vm_exit_instruction_len),
		.rip = hv_get(h, F_guest_rip), .rsp = hv_get(h, F_guest_rsp), .rflags = hv_get(h, F_guest_rflags),
		.interruptibility = hv_get(h, F_guest_interruptibility_info), .activity = hv_get(h, F_guest_activity_state),
		.debug = hv_get(h, F_guest_pending_dbg_exceptions), .entry_info = hv_get(h, F_vm_entry_intr_info_field),
		.intr_status = hv_get(h, F_guest_intr_status),
	});
}

/* ---- one process after the other ---- */

static bool in_l2(struct hv *h)
{
	union { struct kvm_nested_state s; uint8_t bytes[128 + 2 * 4096]; } n = { .s.size = sizeof(n) };

	guest_ioctl(h->g.vcpu[0], KVM_GET_NESTED_STATE, &n);
	return n.s.flags & KVM_STATE_NESTED_GUEST_MODE;
}

static _Noreturn void move(struct hv *h)
{
	char memory[16], state[16];

	machine_save(&h->g, &run->machine);
	run->launched = h->launched;
	run->failed |= failures > 0;
	run->moves++;
	guest_destroy(&h->g);
	snprintf(memory, sizeof(memory), "%d", guest_memory_fd);
	snprintf(state, sizeof(state), "%d", run_fd);
	fflush(stdout);
	execl("/proc/self/exe", "sweep", memory, state, NULL);
	perror("exec");
	exit(1);
}

/* The devices of a machine that is to be moved. */
static void equip(struct hv *h)
{
	machine_prepare(&h->g);
	guest_ioctl(h->g.vm, KVM_CREATE_PIT2, &(struct kvm_pit_config){ 0 });
}

static void arrive(struct hv *h)
{
	static struct machine again;

	hv_attach(h, run->launched);
	equip(h);
	machine_restore(&h->g, &run->machine, ++run->seed);
	machine_save(&h->g, &again);
	if (machine_equal(&run->machine, &again))
		return;
	printf("# after move %u with seed %u at RIP %#llx\n", run->moves, run->seed, run->machine.vcpu[0].regs.rip);
	failures++;
}

/* ---- steps ---- */

static bool due(bool here)
{
	unsigned limit = the_case->moves ? the_case->moves : MOVES;

	if (run->mode != MOVED || run->moved || run->moves >= limit)
		return false;
	return here || run->was_in_l2 || run->steps % 512 == 0;
}

/* Between two instructions. */
static void boundary(struct hv *h)
{
	bool here = in_l2(h);

	if (due(here)) {
		run->moved = true;               /* in the process to come */
		move(h);
	}
	run->moved = false;
	run->was_in_l2 = here;
	if (here)
		note_boundary(h);
}

static int kvm_run(struct hv *h)
{
	return anykvm_ioctl(h->g.vcpu[0], KVM_RUN, NULL);
}

static bool step(struct hv *h)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	uint32_t reason;

	guest_ioctl(h->g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	int r = kvm_run(h);
	d.control = 0;
	guest_ioctl(h->g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	reason = h->g.run[0]->exit_reason;
	return (r < 0 && (errno == EINTR || errno == EAGAIN)) || (r >= 0 && reason == KVM_EXIT_DEBUG);
}

/* To L1's next port. The client's answer to the last one is part of no state: it is taken first. */
static void advance(struct hv *h)
{
	if (run->mode == FREE) {
		guest_run(&h->g, 0);
		return;
	}
	h->g.run[0]->immediate_exit = 1;
	kvm_run(h);
	h->g.run[0]->immediate_exit = 0;
	do
		boundary(h);
	while (step(h) && ++run->steps < STEPS);
}

static void go_on(struct hv *h)
{
	bool (*next)(struct hv *, uint32_t) = the_case->next ? the_case->next : sweep_next;
	uint32_t reason;

	do {
		advance(h);
		check_equal(h->g.run[0]->exit_reason, KVM_EXIT_IO);
		reason = hv_end(h);
		note_exit(h, reason);
		if (reason == HV_FAILED || ++run->exits == EXITS || !next(h, reason))
			break;
		hv_begin(h);
	} while (true);
	run->finished = reason != HV_FAILED && run->exits < EXITS && run->steps < STEPS && run->seen_count < ENTRIES;
	run->failed |= failures > 0;
	guest_destroy(&h->g);
}

bool sweep_next(struct hv *h, uint32_t reason)
{
	if (reason & EXIT_ENTRY_FAILURE || reason == EXIT_VMCALL || reason == EXIT_EXCEPTION_NMI || reason == EXIT_TRIPLE_FAULT)
		return false;
	if (reason == EXIT_CPUID || reason == EXIT_IO || reason == EXIT_HLT || reason == EXIT_RDMSR || reason == EXIT_CR_ACCESS)
		hv_set(h, F_guest_rip, hv_get(h, F_guest_rip) + hv_get(h, F_vm_exit_instruction_len));
	return true;
}

/* ---- runs ---- */

static void *map_run(int fd)
{
	void *p = mmap(NULL, sizeof(struct run), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

static int file_of(size_t size)
{
	int fd = memfd_create("sweep", 0);

	if (fd < 0 || ftruncate(fd, size) < 0) {
		perror("memfd");
		exit(1);
	}
	return fd;
}

/* Far from where fresh vCPUs begin: a TSC near theirs would be taken for one that is to follow theirs. */
static void far_tsc(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = 0x10, .data = 1ull << 50 } };

	check_equal(guest_ioctl(h->g.vcpu[0], KVM_SET_MSRS, &m), 1);
}

static void begin(void)
{
	struct hv h;

	the_case->create(&h);
	equip(&h);
	far_tsc(&h);
	hv_begin(&h);
	go_on(&h);
}

static void go_on_here(void)
{
	struct hv h;

	arrive(&h);
	go_on(&h);
}

/* In processes of its own. */
static struct run *in_child(unsigned which, enum mode mode)
{
	struct run *r;
	int status, fd = file_of(sizeof(*r));
	pid_t child;

	r = map_run(fd);
	r->which = which;
	r->mode = mode;
	fflush(stdout);
	child = fork();
	if (!child) {
		alarm(300);
		run = r;
		run_fd = fd;
		guest_memory_fd = file_of(GUEST_MEMORY);
		begin();
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status) {
		printf("# %s: the process ended with status %#x\n", mode_name[mode], status);
		r->failed = true;
	}
	close(fd);
	return r;
}

static void tell(const struct seen *s)
{
	if (s->exit)
		printf("#   exit %#llx at RIP %#llx, qualification %#llx, information %#llx, IDT %#llx, blocking %#llx, debug %#llx\n",
		       (long long)s->reason, (long long)s->rip, (long long)s->qualification, (long long)s->info, (long long)s->idt_info,
		       (long long)s->interruptibility, (long long)s->debug);
	else
		printf("#   RIP %#llx RFLAGS %#llx RAX %#llx RBX %#llx RCX %#llx RSP %#llx\n", s->regs.rip, s->regs.rflags, s->regs.rax,
		       s->regs.rbx, s->regs.rcx, s->regs.rsp);
}

/* The next VM exit from i on, or the end. */
static unsigned exit_from(const struct run *r, unsigned i, bool exits_only)
{
	while (exits_only && i < r->seen_count && !r->seen[i].exit)
		i++;
	return i;
}

/* true: a saw what b saw; exits_only: at VM exits. */
static bool agree(const struct run *a, const struct run *b, bool exits_only)
{
	unsigned i = 0, j = 0;

	for (;; i++, j++) {
		i = exit_from(a, i, exits_only);
		j = exit_from(b, j, exits_only);
		if (i == a->seen_count || j == b->seen_count)
			break;
		if (!memcmp(&a->seen[i], &b->seen[j], sizeof(a->seen[i])))
			continue;
		printf("# %s and %s differ in entry %u:\n", mode_name[a->mode], mode_name[b->mode], j);
		tell(&a->seen[i]);
		tell(&b->seen[j]);
		return false;
	}
	if (i < a->seen_count || j < b->seen_count)
		printf("# %s saw %u entries, %s %u\n", mode_name[a->mode], a->seen_count, mode_name[b->mode], b->seen_count);
	return i == a->seen_count && j == b->seen_count;
}

static bool case_passes(unsigned which)
{
	struct run *r[3];
	bool ok = true;

	for (enum mode m = FREE; m <= MOVED; m++) {
		r[m] = in_child(which, m);
		if (!r[m]->finished)
			printf("# %s: not at the end after %u exits, %u steps\n", mode_name[m], r[m]->exits, r[m]->steps);
		ok &= r[m]->finished && !r[m]->failed;
	}
	ok &= the_case->steps_differ || agree(r[FREE], r[STEPPED], true);
	ok &= agree(r[STEPPED], r[MOVED], false);
	ok &= r[MOVED]->moves > 0;
	printf("# %u VM exits, %u entries, %u moves\n", r[MOVED]->exits, r[MOVED]->seen_count, r[MOVED]->moves);
	for (enum mode m = FREE; m <= MOVED; m++)
		munmap(r[m], sizeof(*r[m]));
	return ok;
}

int sweep_run(const struct sweep_case *cases, unsigned n, int argc, char **argv)
{
	unsigned bad = 0;

	if (argc == 3) {                 /* a process that goes on with another one's machine */
		guest_memory_fd = atoi(argv[1]);
		run_fd = atoi(argv[2]);
		run = map_run(run_fd);
		the_case = &cases[run->which];
		go_on_here();
		return 0;
	}
	unsetenv("ANYKVM_TEST_MOVES");
	printf("1..%u\n", n);
	for (unsigned i = 0; i < n; i++) {
		the_case = &cases[i];
		bool ok = case_passes(i);

		bad += !ok;
		printf("%s %u - %s\n", ok ? "ok" : "not ok", i + 1, the_case->name);
		fflush(stdout);
	}
	return !!bad;
}
