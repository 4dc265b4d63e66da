/*
 * Code and write permission across the vCPUs of a VM.
 *
 * Two messages travel, both through a small mailbox in struct vcpu:
 *
 * A change of bytes that some vCPU has translated (REQ_CODE). The writer does
 * not wait: a vCPU that learns of the change through memory or an interrupt
 * has the poll word set before that, and drains its mailbox before it runs
 * another block.
 *
 * A page that gets its first translation (REQ_CODE_PAGE). From here on every
 * store to it must be seen, so the others must have given up their write
 * entries before the translator reads the bytes; it waits for those that are
 * inside the engine. The bad order would be:
 *     A: posts, sees B outside the engine, goes on
 *     B: looked for requests before the post, enters the engine, stores unseen
 * B sets running before it looks for requests and A posts before it looks at
 * running, all sequentially consistent, so one of them sees the other.
 * Two vCPUs may wait for each other: each empties its own mailbox meanwhile.
 * That is safe there, as the translator holds no host address for writing.
 *
 * A locked instruction whose operand crosses pages cannot be left to the host,
 * as the two pages need not be neighbours there. It runs while no other vCPU
 * is in the engine (vm->exclusive): one takes the flag, the others leave at
 * their next poll and stay out; who wants the flag while it is taken steps out
 * on the spot.
 */
#include <sched.h>
#include "kvm/vcpu.h"

static void post_change(struct vcpu *v, const uint8_t *host, unsigned len)
{
	struct mailbox *m = &v->mail;

	lock_take(&m->lock);
	if (m->nchanges < ARRAY_SIZE(m->changes)) {
		m->changes[m->nchanges].host = host;
		m->changes[m->nchanges++].len = len;
	} else {
		m->flush_code = true;
	}
	atomic_fetch_or(&v->requests, REQ_CODE);
	lock_release(&m->lock);
	atomic_fetch_or(&v->cpu->poll, POLL_CODE);
}

void coherence_code_changed(struct cpu *cpu, const uint8_t *host, unsigned len)
{
	struct vcpu *self = cpu_vcpu(cpu);
	struct vm *vm = self->vm;
	unsigned n = atomic_load(&vm->nvcpus);

	for (unsigned i = 0; i < n; i++)
		if (vm->vcpus[i] != self)
			post_change(vm->vcpus[i], host, len);
}

/* The library itself has written to guest memory (clock pages, VMX structures), on whatever thread. */
static void written_by_library(void *arg, const uint8_t *host, unsigned len)
{
	struct vm *vm = arg;
	unsigned n = atomic_load(&vm->nvcpus);

	for (unsigned i = 0; i < n; i++)
		post_change(vm->vcpus[i], host, len);
}

void coherence_hook(struct vm *vm)
{
	mem_set_code_hook(vm->mem, written_by_library, vm);
}

static void post_page(struct vcpu *v, const uint8_t *host)
{
	struct mailbox *m = &v->mail;

	lock_take(&m->lock);
	if (m->npages < ARRAY_SIZE(m->pages))
		m->pages[m->npages++] = host;
	else
		m->drop_all_writes = true;
	atomic_fetch_or(&v->requests, REQ_CODE_PAGE);
	lock_release(&m->lock);
	atomic_fetch_or(&v->cpu->poll, POLL_CODE);
}

/* The request bit goes last, under the lock: who waits for it may rely on the entries being gone. */
static void drain_pages(struct vcpu *v)
{
	struct mailbox *m = &v->mail;

	lock_take(&m->lock);
	if (m->drop_all_writes)
		tlb_drop_all_writes(v->cpu);
	for (unsigned i = 0; i < m->npages; i++)
		tlb_drop_write(v->cpu, m->pages[i]);
	m->npages = 0;
	m->drop_all_writes = false;
	atomic_fetch_and(&v->requests, ~REQ_CODE_PAGE);
	lock_release(&m->lock);
}

static void drain_changes(struct vcpu *v)
{
	struct mailbox *m = &v->mail;

	lock_take(&m->lock);
	if (m->flush_code)
		engine_flush(v->cpu);
	else
		for (unsigned i = 0; i < m->nchanges; i++)
			engine_invalidate(v->cpu, m->changes[i].host, m->changes[i].len);
	m->nchanges = 0;
	m->flush_code = false;
	atomic_fetch_and(&v->requests, ~REQ_CODE);
	lock_release(&m->lock);
}

void coherence_drain(struct vcpu *v)
{
	uint32_t req = atomic_load(&v->requests);

	if (req & REQ_CODE_PAGE)
		drain_pages(v);
	if (req & REQ_CODE)
		drain_changes(v);
}

static bool has_not_answered(struct vcpu *v)
{
	return atomic_load(&v->cpu->running) && atomic_load(&v->requests) & REQ_CODE_PAGE;
}

static void spin(unsigned n)
{
	if (n % 64 == 63)
		sched_yield();
	else
		__builtin_ia32_pause();
}

static void wait_for(struct vcpu *self, struct vcpu *v)
{
	for (unsigned n = 0; has_not_answered(v); n++) {
		if (atomic_load(&self->requests) & REQ_CODE_PAGE)
			drain_pages(self);
		spin(n);
	}
}

void coherence_code_page_new(struct cpu *cpu, const uint8_t *host_page)
{
	struct vcpu *self = cpu_vcpu(cpu);
	struct vm *vm = self->vm;
	unsigned n = atomic_load(&vm->nvcpus);

	if (n < 2)
		return;
	for (unsigned i = 0; i < n; i++)
		if (vm->vcpus[i] != self)
			post_page(vm->vcpus[i], host_page);
	for (unsigned i = 0; i < n; i++)
		if (vm->vcpus[i] != self)
			wait_for(self, vm->vcpus[i]);
}

/* ---- one vCPU alone ---- */

bool coherence_enter(struct vcpu *v)
{
	atomic_store(&v->cpu->running, true);
	if (!atomic_load(&v->requests) && !atomic_load(&v->vm->exclusive))
		return true;
	atomic_store(&v->cpu->running, false);
	for (unsigned n = 0; atomic_load(&v->vm->exclusive); n++)
		spin(n);
	return false;
}

/* Out of the engine and in again in the middle of a rule that holds no host address. */
static void step_aside(struct vcpu *self)
{
	atomic_store(&self->cpu->running, false);
	for (unsigned n = 0; atomic_load(&self->vm->exclusive); n++)
		spin(n);
	atomic_store(&self->cpu->running, true);
	if (atomic_load(&self->requests) & REQ_CODE_PAGE)
		drain_pages(self);
}

static void send_out(struct vcpu *self, struct vcpu *v)
{
	atomic_fetch_or(&v->cpu->poll, POLL_KICK);
	for (unsigned n = 0; atomic_load(&v->cpu->running); n++) {
		if (atomic_load(&self->requests) & REQ_CODE_PAGE)
			drain_pages(self);
		spin(n);
	}
}

void coherence_exclusive_begin(struct cpu *cpu)
{
	struct vcpu *self = cpu_vcpu(cpu);
	struct vm *vm = self->vm;
	unsigned n = atomic_load(&vm->nvcpus);

	if (n < 2)
		return;
	while (atomic_exchange(&vm->exclusive, true))
		step_aside(self);
	cpu->exclusive = true;
	for (unsigned i = 0; i < n; i++)
		if (vm->vcpus[i] != self)
			send_out(self, vm->vcpus[i]);
}

void coherence_exclusive_end(struct cpu *cpu)
{
	cpu->exclusive = false;
	atomic_store(&cpu_vcpu(cpu)->vm->exclusive, false);
}
