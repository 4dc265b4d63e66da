/*
 * The engine's loop: find or make the block at RIP, run translated code until
 * it comes back, see why.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include "cpu/vapic.h"
#include "xlat/internal.h"

__thread struct cpu *engine_current;             /* for signal handlers (recover.c) */

int engine_init(struct cpu *cpu)
{
	struct engine *en = calloc(1, sizeof *en);
	if (!en)
		return -ENOMEM;
	en->cpu = cpu;
	if (!engine_map(en)) {
		engine_unmap(en);
		free(en);
		return -ENOMEM;
	}
	perfmap_open();
	stubs_make(en);
	en->jump_cache = -1;
	cpu->engine = en;
	cpu->spill[SPILL_JUMP_MASK] = (uint64_t)(JUMP_CACHE_ENTRIES - 1) << JUMP_CACHE_SHIFT;
	engine_reset(en);
	cpu_mode_update(cpu);
	return 0;
}

void engine_free(struct cpu *cpu)
{
	if (!cpu->engine)
		return;
	engine_unmap(cpu->engine);
	free(cpu->engine);
	cpu->engine = NULL;
}

/* Host address of the instruction at RIP. Raises what the fetch raises. */
static const uint8_t *fetch_host(struct cpu *cpu)
{
	uint64_t lin = cpu->rip;
	if (!cpu_code64(cpu)) {
		if (lin > cpu->seg[SEG_CS].limit)
			cpu_raise_gp(cpu);
		lin = (uint32_t)(lin + cpu->seg[SEG_CS].base);
	} else if (!cpu_canonical(cpu, lin)) {
		cpu_raise_gp(cpu);
	}
	const uint8_t *host = exec_host(cpu, lin);
	if (likely(host))
		return host;
	struct translation t = tlb_translate(cpu, lin, ACCESS_EXEC);
	if (!t.host || !t.slot)
		cpu_internal_error(cpu, "instruction fetch from MMIO at guest-physical %#llx", (unsigned long long)t.gpa);
	return t.host;
}

/* Does the second page of a straddling block still lead where it did? */
static bool straddle_current(struct cpu *cpu, const struct block *b)
{
	struct translation t = tlb_translate(cpu, straddle_page(cpu, b), ACCESS_EXEC);
	return t.host == b->source2;
}

static uint32_t block_mode(struct cpu *cpu, bool careful)
{
	uint32_t mode = cpu->mode;
	if (careful)
		mode |= XMODE_CAREFUL | XMODE_ONE;
	if (mode & MODE_STEP || cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS))
		mode |= XMODE_ONE;
	return mode;
}

static struct block *find_any_block(struct cpu *cpu, uint32_t mode)
{
	struct engine *en = cpu->engine;
	const uint8_t *host = fetch_host(cpu);
	struct block **quick = quick_place(en, cpu->rip), *b = *quick;
	if (likely(b && b->valid && !b->straddles && block_is(b, host, cpu->rip, mode)) && !params.revalidate)
		return b;
	b = block_find(en, host, cpu->rip, mode);
	if (b && b->straddles) {
		bool current = straddle_current(cpu, b);         /* may have killed it already */
		if (b->valid && !current)
			block_discard(en, b);
		if (!b->valid)
			b = NULL;
	}
	if (b && params.revalidate && b->valid && !block_current(b))
		block_kill(en, b);
	if (b && !b->valid && !block_revive(en, b)) {
		block_discard(en, b);
		b = NULL;
	}
	if (!b) {
		engine_room(en);
		b = block_translate(en, host, cpu->rip, mode);
	}
	*quick = b;
	return b;
}

/*
 * A guest without paging never says, by a change of its mappings, that it is
 * going to run what a device has put into its memory. So whenever the client
 * may have written, each page is compared before it is fetched from again.
 */
static void unpaged_catch_up(struct cpu *cpu)
{
	if (unlikely(!unpaged_current(cpu)))
		tlb_forget_code(cpu);
}

static bool within_limit(const struct cpu *cpu, const struct block *b)
{
	return cpu->mode & MODE_FLAT || cpu_code64(cpu) || b->reach <= cpu->seg[SEG_CS].limit;
}

/* The block at RIP. One that reaches beyond CS's limit, as it is now, is run as far as the limit goes, one instruction at a time. */
static struct block *find_block(struct cpu *cpu, uint32_t mode)
{
	struct block *b = find_any_block(cpu, mode);
	if (likely(within_limit(cpu, b)))
		return b;
	if (!(mode & XMODE_ONE))
		b = find_any_block(cpu, mode | XMODE_ONE);
	if (!within_limit(cpu, b))
		cpu_raise_gp(cpu);
	return b;
}

/* Lets the way that was just taken lead straight to b the next time. exit_id: how generated code came back. */
static void remember_way(struct cpu *cpu, struct block *b, uint64_t exit_id)
{
	struct engine *en = cpu->engine;
	if (!block_linkable(cpu, b))
		return;
	if (exit_id == EXITED_LOOKUP)
		jump_cache_set(en, b);
	if (exit_id >= EXITED_NEXT || b->source2)
		return;
	struct block_exit *x = en->exits[exit_id];
	bool one_page = !(((uintptr_t)x->owner->source ^ (uintptr_t)b->source) & ~4095ull);
	if (x->owner->valid && !x->target && x->rip == b->rip && ((x->owner->mode & ~XMODE_NO_WINDOWS) | x->extra) == b->mode && one_page)
		exit_link(en, x, b);
}

/* After a block of one instruction: what holds for the instruction alone ends. */
static void finish_one(struct cpu *cpu, uint32_t mode_before, uint32_t shadow_before)
{
	if (shadow_before & (SHADOW_STI | SHADOW_MOV_SS)) {
		cpu->shadow &= ~(shadow_before & (SHADOW_STI | SHADOW_MOV_SS));
		if (cpu->want)
			atomic_fetch_or(&cpu->poll, POLL_WINDOW);
	}
	/* POPF may have cleared TF and still traps. */
	if ((mode_before | cpu->mode) & MODE_STEP)
		cpu_debug_trap(cpu);
}

/*
 * An indirect branch to an address that is not canonical faults itself: undo
 * what it did to RSP and let its rule raise the exception.
 */
static void undo_branch(struct cpu *cpu)
{
	struct insn in;
	uint64_t rip = cpu->branch_rip;
	struct translation t = tlb_translate(cpu, rip, ACCESS_EXEC);
	unsigned avail = 4096 - (rip & 4095);
	fpu_park(cpu);
	if (!t.host || insn_decode(&in, t.host, avail < 15 ? avail : 15, 64, rip, NULL, NULL))
		return;
	if (in.mnemonic == ZYDIS_MNEMONIC_RET)
		cpu->gpr[REG_RSP] -= 8 + (in.imm_size ? (uint16_t)in.imm : 0);
	else if (in.mnemonic == ZYDIS_MNEMONIC_CALL)
		cpu->gpr[REG_RSP] += 8;
	cpu->rip = rip;
	cpu->branch_rip = 0;
	cpu->engine->want_careful = true;
}

/* RIP after generated code came back with exit_id. */
static void update_rip(struct cpu *cpu, uint64_t exit_id)
{
	if (exit_id == EXITED_LOOKUP && unlikely(!cpu_canonical(cpu, cpu->rip)) && cpu_code64(cpu) && cpu->branch_rip)
		undo_branch(cpu);
	if (exit_id == EXITED_NEXT)
		cpu->rip = cpu->next_rip;
	else if (exit_id < EXITED_NEXT)
		cpu->rip = cpu->engine->exits[exit_id]->rip;
}

/* The client has answered the instruction that is next: no poll before it, no fast access. */
static bool answer_waits(const struct cpu *cpu)
{
	return cpu->io.nreads || cpu->io.answered || cpu->msr_exit.answered;
}

static void answers_forget(struct cpu *cpu)
{
	cpu->io.nreads = cpu->io.next = 0;
	cpu->io.answered = cpu->msr_exit.answered = false;
}

/* Runs translated code from RIP until it comes back. Returns how. */
static uint64_t run_block(struct cpu *cpu, uint64_t came_by)
{
	struct engine *en = cpu->engine;
	bool careful = en->want_careful || answer_waits(cpu);
	uint32_t mode, shadow;
	en->want_careful = false;
	if (cpu->mode & MODE_STEP)
		cpu_debug_fetch(cpu);
	else
		cpu->rflags &= ~(uint64_t)RFLAGS_RF;
	cpu->vmexit = (struct vmexit){ 0 };
	mode = block_mode(cpu, careful);
	if (came_by < EXITED_NEXT && !(mode & XMODE_ONE))
		mode |= en->exits[came_by]->extra;
	if (came_by == EXITED_STALE && !(mode & XMODE_ONE))
		mode |= XMODE_NO_WINDOWS;
	shadow = cpu->shadow;
	uint64_t turns = en->turns;
	unpaged_catch_up(cpu);
	if (unlikely(mode & MODE_TRACK)) {
		engine_landing(cpu, fetch_host(cpu));
		mode = (mode & ~(uint32_t)MODE_TRACK) | (cpu->mode & MODE_TRACK);
	}
	struct block *b = find_block(cpu, mode);
	if (turns == en->turns)                                  /* else the way that led here is gone */
		remember_way(cpu, b, came_by);
	cpu->io.next = 0;
	if (!cpu->fpu_live)
		fpu_unpark(cpu);
	cpu_count(cpu, STAT_dispatches);
	if (mode & XMODE_CAREFUL)
		cpu_count(cpu, STAT_careful);
	en->enter(cpu, to_rx(en, b->entry));
	uint64_t exit_id = cpu->exit_id;
	if (exit_id == EXITED_SIGNAL)
		engine_signal_landed(cpu);
	update_rip(cpu, exit_id);
	if (mode & XMODE_ONE)
		answers_forget(cpu);
	if (unlikely(cpu->ctl->apic_write.valid))
		vapic_instruction_done(cpu);
	if (mode & XMODE_ONE)
		finish_one(cpu, mode, shadow);
	return exit_id;
}

/* What an unwinding (exception, VM exit, leave) asks for. CPU_EXIT_NONE: go on in the loop. */
static enum cpu_exit after_unwind(struct cpu *cpu)
{
	enum cpu_exit why = cpu->leave_why;
	cpu->leave_why = CPU_EXIT_NONE;
	return why;
}

/* Is something to be done outside? POLL_LEAVE is done with by being here: the way that led here (came_by) is not to be lost for it. */
static bool polled(struct cpu *cpu)
{
	if (likely(!atomic_load_explicit(&cpu->poll, memory_order_relaxed)))
		return false;
	return atomic_fetch_and(&cpu->poll, ~(unsigned)POLL_LEAVE) & ~(unsigned)POLL_LEAVE;
}

enum cpu_exit engine_run(struct cpu *cpu)
{
	struct engine *en = cpu->engine;
	volatile uint64_t came_by = EXITED_NEXT;
	engine_current = cpu;
	if (__builtin_setjmp(cpu->unwind)) {
		cpu = engine_current;
		en = cpu->engine;
		if (cpu->exclusive)
			cpu->ops->exclusive_end(cpu);
		came_by = EXITED_NEXT;
		enum cpu_exit why = after_unwind(cpu);
		if (why != CPU_EXIT_NONE) {
			engine_current = NULL;
			return why;
		}
		if (cpu->event.valid)                            /* an exception: the instruction asks again when it comes again */
			cpu->io.answered = cpu->msr_exit.answered = false;
	}
	for (;;) {
		if (en->flush_wanted || (params.flush_every && ++en->dispatches % params.flush_every == 0)) {
			engine_reset(en);
			came_by = EXITED_NEXT;
		}
		/* An instruction that is answered comes before an event that the client has added meanwhile. */
		if (cpu->event.valid && !cpu->io.answered && !cpu->msr_exit.answered)
			cpu_event_deliver(cpu);
		if (polled(cpu) && !en->want_careful && !answer_waits(cpu)) {
			engine_current = NULL;
			return CPU_EXIT_NONE;
		}
		came_by = run_block(cpu, came_by);
	}
}
