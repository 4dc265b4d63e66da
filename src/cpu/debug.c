/*
 * #DB: single steps and breakpoints, and the client's guest debugging, which
 * takes them (and INT3) for itself. The engine calls in MODE_STEP only, where
 * every block is one instruction.
 *
 * A single step depends on TF as it was when the instruction began, so POPF
 * and IRET that set TF trap after the next instruction, and those that clear
 * it trap once more. RF lets one instruction pass its breakpoint and is then
 * used up; if that instruction leaves without completing, RF comes back.
 */
#include "cpu/event.h"
#include "cpu/watch.h"

static uint64_t linear_pc(const struct cpu *cpu)
{
	return cpu_code64(cpu) ? cpu->rip : (cpu->seg[SEG_CS].base + cpu->rip) & 0xffffffff;
}

static _Noreturn void leave_to_client(struct cpu *cpu, unsigned exception, uint64_t dr6)
{
	cpu->debug_exit.exception = exception;
	cpu->debug_exit.pc = linear_pc(cpu);
	cpu->debug_exit.dr6 = dr6 | DR6_FIXED;
	cpu->debug_exit.dr7 = watch_dr7(cpu);
	cpu_leave(cpu, CPU_EXIT_DEBUG);
}

void debug_event_for_client(struct cpu *cpu, const struct event *ev)
{
	bool breakpoint = ev->type == EVENT_SW_EXCEPTION && ev->vector == VEC_BP;

	if (breakpoint && (cpu->guest_debug & KVM_GUESTDBG_USE_SW_BP) && !ev->injected)
		leave_to_client(cpu, VEC_BP, 0);
}

static _Noreturn void raise_debug(struct cpu *cpu, uint64_t bits)
{
	cpu_raise_event(cpu, (struct event){ .type = EVENT_HW_EXCEPTION, .vector = VEC_DB, .has_payload = true, .payload = bits });
}

/* DR6 bits of the instruction breakpoints on the present RIP. */
static uint64_t fetch_hits(const struct cpu *cpu)
{
	uint64_t dr7 = watch_dr7(cpu), pc = linear_pc(cpu), hits = 0;

	for (unsigned i = 0; i < 4; i++)
		if (watch_enabled(dr7, i) && watch_type(dr7, i) == WATCH_EXEC && watch_dr(cpu, i) == pc)
			hits |= BIT(i);
	return hits;
}

void cpu_debug_fetch(struct cpu *cpu)
{
	uint64_t hits;

	cpu->tf_at_start = cpu->rflags & RFLAGS_TF;
	cpu->rf_at_start = cpu->rflags & RFLAGS_RF;
	cpu->rflags &= ~(uint64_t)RFLAGS_RF;
	if (cpu->rf_at_start || (cpu->shadow & SHADOW_MOV_SS))
		return;
	hits = fetch_hits(cpu);
	if (!hits)
		return;
	cpu->tf_at_start = false;
	if (watch_by_client(cpu))
		leave_to_client(cpu, VEC_DB, hits);
	cpu->cur_insn = NULL;
	raise_debug(cpu, hits);
}

void cpu_debug_trap(struct cpu *cpu)
{
	uint64_t bits = cpu->pending_debug | (cpu->tf_at_start ? DR6_BS : 0);
	bool client_step = cpu->guest_debug & KVM_GUESTDBG_SINGLESTEP;

	cpu->tf_at_start = cpu->rf_at_start = false;
	/* A load of SS loses its single step and delays its data breakpoints by one instruction. */
	if (cpu->shadow & SHADOW_MOV_SS) {
		cpu->pending_debug = bits & ~DR6_BS;
		return;
	}
	cpu->pending_debug = 0;
	if (client_step || (watch_by_client(cpu) && (bits & 0xf)))
		leave_to_client(cpu, VEC_DB, bits | (client_step ? DR6_BS : 0));
	if (bits)
		raise_debug(cpu, bits);
}
