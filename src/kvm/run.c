/*
 * KVM_RUN. One call: take the client's answers, then turns of
 *
 *   requests of other threads -> signals -> events -> sleep, or the engine -> its exit
 *
 * until something is for the client. The address space is held for reading all
 * the while, except in sleep and when slots change.
 *
 * Nothing that another thread posts is missed: the poll word is cleared before
 * requests, signals and events are looked at, cpu->running is set before
 * requests are looked at a last time (coherence.c), and sleep compares the wake
 * counter as it was before the look.
 */
#include "kvm/api.h"
#include "kvm/sigmask.h"
#include "kvm/vcpu.h"
#include "x86/vmx.h"

/* Longest sleep without a look at immediate_exit: a client may set it from a signal handler that we cannot see. */
#define SLEEP_NS 250000000ull

static __thread struct vcpu *running_vcpu;

void run_interrupt(void)
{
	struct vcpu *v = running_vcpu;

	if (!v)
		return;
	atomic_store(&v->signal_seen, true);
	vcpu_kick(v);
}

/* ---- requests ---- */

/* vm_stop() waits for the read lock; it comes back when vm_resume() has been called. */
static void let_writer_pass(struct vcpu *v, uint32_t req)
{
	mem_read_unlock(v->vm->mem);
	mem_read_lock(v->vm->mem);
	if (req & REQ_SLOTS) {
		tlb_flush_all(v->cpu);
		engine_flush(v->cpu);
	} else {
		tlb_drop_all_writes(v->cpu);
	}
	vmx_follow_memory(v->vmx);
}

static void requests_handle(struct vcpu *v)
{
	const uint32_t mine = REQ_SLOTS | REQ_DROP_WRITES | REQ_CLOCK | REQ_TIMER;
	uint32_t req = atomic_load(&v->requests);

	if (!req)
		return;
	coherence_drain(v);
	req = atomic_fetch_and(&v->requests, ~mine) & mine;
	if (req & (REQ_SLOTS | REQ_DROP_WRITES))
		let_writer_pass(v, req);
	if (req & REQ_CLOCK)
		pv_clock_update(v);
	if (req & REQ_TIMER)
		vmx_timer_woken(v->vmx);
}

/* Split irqchip: the client's I/O APIC hears of one end of interrupt at a time. */
static bool exit_ioapic_eoi(struct vcpu *v)
{
	if (!(atomic_load(&v->requests) & REQ_IOAPIC_EOI))
		return false;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t word = atomic_load(&v->ioapic_eoi[i]);

		if (!word)
			continue;
		atomic_fetch_and(&v->ioapic_eoi[i], word - 1);
		v->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		v->run->eoi.vector = i * 64 + __builtin_ctzll(word);
		return true;
	}
	atomic_fetch_and(&v->requests, ~REQ_IOAPIC_EOI);
	return false;
}

/* ---- sleep ---- */

static bool blocked(const struct vcpu *v)
{
	return v->mp_state != KVM_MP_STATE_RUNNABLE || v->cpu->activity != ACTIVITY_ACTIVE;
}

static bool interrupted(const struct vcpu *v)
{
	return atomic_load(&v->signal_seen) || *(volatile uint8_t *)&v->run->immediate_exit;
}

/* seen: wake counter from before the look at what could end the sleep. */
static void vcpu_sleep(struct vcpu *v, uint32_t seen)
{
	mem_read_unlock(v->vm->mem);
	atomic_store(&v->sleeping, true);
	futex_wait(&v->wake, seen, SLEEP_NS);
	atomic_store(&v->sleeping, false);
	mem_read_lock(v->vm->mem);
}

/* ---- turns ---- */

/* Into the engine, unless something was posted since this turn looked. */
static int run_engine(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;
	uint64_t *cycles, begin;
	enum cpu_exit why;

	if (atomic_load(&v->signal_seen) || !coherence_enter(v))
		return RUN_ON;
	cycles = &cpu->stats->level[cpu->ctl->non_root][STAT_cycles];    /* the level changes outside the engine only */
	begin = clock_host_tsc();
	why = engine_run(cpu);
	*cycles += clock_host_tsc() - begin;
	atomic_store(&cpu->running, false);
	v->replay = false;
	return exit_handle(v, why);
}

static int exit_interrupted(struct vcpu *v)
{
	v->run->exit_reason = KVM_EXIT_INTR;
	return -EINTR;
}

/*
 * L2's triple fault is L1's VM exit. One is also what becomes of a state that
 * no VM entry has (TR unusable), which only the client can have made.
 */
static bool nested_triple_fault(struct vcpu *v)
{
	const struct vmexit e = { .reason = EXIT_TRIPLE_FAULT };

	if (!vmx_in_l2(v->vmx) || (!v->triple_fault && !v->cpu->seg[SEG_TR].unusable))
		return false;
	v->triple_fault = false;
	vmx_exit_to_l1(v->vmx, &e);
	return true;
}

/* Exits that need no guest code to run. */
static bool exit_pending(struct vcpu *v)
{
	if (exit_ioapic_eoi(v))
		return true;
	if (nested_triple_fault(v))
		return false;
	if (v->triple_fault || (v->cpu->activity == ACTIVITY_SHUTDOWN && !vmx_in_l2(v->vmx))) {
		v->triple_fault = false;
		v->cpu->activity = ACTIVITY_ACTIVE;
		v->run->exit_reason = KVM_EXIT_SHUTDOWN;
		return true;
	}
	if (v->tpr_lowered) {
		v->tpr_lowered = false;
		v->run->exit_reason = KVM_EXIT_SET_TPR;
		return true;
	}
	return exit_next_access(v);
}

static bool exit_window(struct vcpu *v)
{
	if (!v->run->request_interrupt_window || pic_in_kernel(v) || !vcpu_interrupt_window(v))
		return false;
	v->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
	return true;
}

static int turn(struct vcpu *v)
{
	uint32_t seen = atomic_load(&v->wake);
	uint32_t poll = atomic_exchange(&v->cpu->poll, 0);

	if (poll & POLL_FLUSH)
		engine_flush(v->cpu);
	requests_handle(v);
	if (exit_pending(v))
		return RUN_EXIT;
	if (interrupted(v))
		return exit_interrupted(v);
	if (v->replay) {
		atomic_fetch_or(&v->cpu->poll, POLL_EVENT);      /* events are next */
		return run_engine(v);
	}
	events_accept(v);
	if (!events_inject(v))
		return -EIO;
	if (exit_window(v))
		return RUN_EXIT;
	if (!blocked(v))
		return run_engine(v);
	vcpu_sleep(v, seen);
	return RUN_ON;
}

static void begin(struct vcpu *v)
{
	mem_read_lock(v->vm->mem);
	steal_time_run(v);
}

/* What no saved state has room for is dealt with before the client can look at the state. */
static void settle(struct vcpu *v)
{
	vmx_settle(v->vmx);
	mem_read_unlock(v->vm->mem);
	fpu_park(v->cpu);
}

static int run_loop(struct vcpu *v)
{
	int r;

	begin(v);
	do
		r = turn(v);
	while (r == RUN_ON);
	settle(v);
	return r;
}

/* One instruction, unless something made the engine leave before it. */
static enum cpu_exit engine_step(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;
	uint32_t debug = cpu->guest_debug;
	enum cpu_exit why;

	atomic_exchange(&cpu->poll, 0);
	requests_handle(v);
	if (!coherence_enter(v))
		return CPU_EXIT_NONE;
	cpu->guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | GUEST_DEBUG_OWN;
	cpu_mode_update(cpu);
	why = engine_run(cpu);
	atomic_store(&cpu->running, false);
	cpu->guest_debug = debug;
	cpu_mode_update(cpu);
	return why;
}

/* An exception that the client has queued. (One that was injected, which an answer may be for, is being delivered.) */
static bool event_queued(const struct vcpu *v)
{
	return v->cpu->event.valid && !v->cpu->event.injected;
}

/*
 * With an answer that its instruction has not used yet, the instruction is
 * finished first, as a single step, if immediate_exit is set (the client is
 * about to read the state, and perhaps to move it to another machine), or an
 * exception queued. That comes behind; if the instruction faults, it does so
 * again when the handler has returned.
 */
static int finish_instruction(struct vcpu *v)
{
	struct event queued = v->cpu->event;
	enum cpu_exit why = CPU_EXIT_NONE;
	int r = RUN_ON;

	if (!v->replay)
		return RUN_ON;
	if (event_queued(v))
		v->cpu->event.valid = false;
	else
		queued.valid = false;
	begin(v);
	for (unsigned i = 0; i < 100 && why == CPU_EXIT_NONE; i++)
		why = engine_step(v);
	v->replay = false;
	if (queued.valid)                        /* first: it may outrank the exit */
		v->cpu->event = queued;
	if (why != CPU_EXIT_DEBUG)
		r = exit_handle(v, why);
	settle(v);
	return r;
}

/* ---- before and after ---- */

/*
 * An application processor that has not been started: sleeps until INIT or
 * SIPI, then has the client call again.
 */
static int wait_for_start(struct vcpu *v)
{
	uint32_t seen;

	while (v->mp_state == KVM_MP_STATE_UNINITIALIZED) {
		seen = atomic_load(&v->wake);
		if (interrupted(v))
			return exit_interrupted(v);
		events_accept(v);
		if (v->mp_state != KVM_MP_STATE_UNINITIALIZED)
			break;
		atomic_store(&v->sleeping, true);
		futex_wait(&v->wake, seen, SLEEP_NS);
		atomic_store(&v->sleeping, false);
	}
	return -EAGAIN;
}

static int run_checked(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	int r;

	if (v->mp_state == KVM_MP_STATE_UNINITIALIZED)
		return wait_for_start(v);
	r = sync_regs_load(v);
	if (r < 0)
		return r;
	if (!lapic_in_kernel(v))
		vcpu_cr8_set(v, run->cr8);
	exit_complete(v);
	if (exit_next_access(v))
		return RUN_EXIT;
	if (run->immediate_exit) {
		r = finish_instruction(v);
		return r == RUN_ON ? -EINTR : r;         /* the exit reason stays what it was: clients look at it */
	}
	r = event_queued(v) ? finish_instruction(v) : RUN_ON;
	return r == RUN_ON ? run_loop(v) : r;
}

/* What clients read after every return, whatever the reason. */
static void report(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	run->if_flag = vcpu_interrupt_enabled(v);
	run->flags = v->cpu->in_smm ? KVM_RUN_X86_SMM : 0;
	run->cr8 = vcpu_cr8(v);
	run->apic_base = vcpu_apic_base(v);
	run->ready_for_interrupt_injection = pic_in_kernel(v) || vcpu_interrupt_window(v);
	sync_regs_store(v);
}

long kvm_vcpu_run(struct vcpu *v)
{
	int r;

	v->ran = true;
	mem_epoch_next(v->vm->mem);
	v->cpu->msr_exit_reasons = v->vm->user_msr_mask;
	sigmask_allow_faults();
	atomic_store(&v->signal_seen, false);
	running_vcpu = v;
	if (sigmask_signal_waits())              /* since before there was a vCPU to tell */
		run_interrupt();
	if (v->sigmask_set)
		sigmask_enter_run(v->sigmask);
	r = run_checked(v);
	if (v->sigmask_set)
		sigmask_leave_run();
	running_vcpu = NULL;
	report(v);
	if (r == RUN_EXIT || r == -EINTR)
		cpu_count(v->cpu, stat_of_exit(r == -EINTR ? KVM_EXIT_INTR : v->run->exit_reason));
	trace(kvm, "vCPU %u: exit %u (%d) at %#llx", v->id, v->run->exit_reason, r, (unsigned long long)v->cpu->rip);
	return r;
}

/* struct kvm_signal_mask, or NULL for none: the mask of the thread inside KVM_RUN. */
long kvm_vcpu_set_signal_mask(struct vcpu *v, void *arg)
{
	struct { uint32_t len; uint64_t set; } __attribute__((packed)) m;

	if (!arg) {
		v->sigmask_set = false;
		return 0;
	}
	if (user_read(&m, arg, sizeof(m.len)) < 0)
		return -EFAULT;
	if (m.len != sizeof(m.set))
		return -EINVAL;
	if (user_read(&m, arg, sizeof(m)) < 0)
		return -EFAULT;
	v->sigmask = m.set;
	v->sigmask_set = true;
	return 0;
}

bool anykvm_signal(int signo, void *siginfo, void *ucontext)
{
	return mem_copy_signal(signo, siginfo, ucontext) || engine_signal(signo, siginfo, ucontext);
}
