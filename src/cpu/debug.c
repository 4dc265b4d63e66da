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
#include <linux/kvm.h>
#include "cpu/event.h"

/* ---- breakpoint registers in force: the guest's, or the client's while it debugs with hardware breakpoints ---- */

enum { WATCH_EXEC = 0, WATCH_WRITE = 1, WATCH_IO = 2, WATCH_ACCESS = 3 };      /* R/W field of DR7 */

static bool watch_by_client(const struct cpu *cpu)
{
	return cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP;
}

static uint64_t watch_dr7(const struct cpu *cpu)
{
	return watch_by_client(cpu) ? cpu->guest_debug_dr7 : cpu->dr7;
}

static uint64_t watch_dr(const struct cpu *cpu, unsigned i)
{
	return watch_by_client(cpu) ? cpu->guest_debug_dr[i] : cpu->dr[i];
}

static bool watch_enabled(uint64_t dr7, unsigned i)
{
	return dr7 >> (2 * i) & 3;
}

static unsigned watch_type(uint64_t dr7, unsigned i)
{
	return dr7 >> (16 + 4 * i) & 3;
}

static unsigned watch_len(uint64_t dr7, unsigned i)
{
	static const uint8_t len[4] = { 1, 2, 8, 4 };

	return len[dr7 >> (18 + 4 * i) & 3];
}

/* Hits of data and I/O breakpoints wait in pending_debug for the end of the instruction. */
static void note_hits(struct cpu *cpu, uint64_t addr, unsigned size, unsigned types)
{
	uint64_t dr7 = watch_dr7(cpu);

	for (unsigned i = 0; i < 4; i++) {
		unsigned len = watch_len(dr7, i);
		uint64_t at = watch_dr(cpu, i) & ~(uint64_t)(len - 1);

		if (watch_enabled(dr7, i) && (types & BIT(watch_type(dr7, i))) && at < addr + size && addr < at + len)
			cpu->pending_debug |= BIT(i);
	}
}

void debug_data_access(struct cpu *cpu, uint64_t addr, unsigned size, bool write)
{
	note_hits(cpu, addr, size, BIT(WATCH_ACCESS) | (write ? BIT(WATCH_WRITE) : 0));
}

void debug_io_access(struct cpu *cpu, uint16_t port, unsigned size)
{
	if (cpu->cr4 & CR4_DE)
		note_hits(cpu, port, size, BIT(WATCH_IO));
}

/* ---- #DB ---- */

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
	cpu_raise_event(cpu, (struct event){ .type = EVENT_HW_EXCEPTION, .vector = VEC_DB, .has_payload = true,
	                                     .payload = bits & (0xf | DR6_BD | DR6_BS | DR6_BT) });
}

void debug_general_detect(struct cpu *cpu)
{
	if (!(watch_dr7(cpu) & DR7_GD))
		return;
	if (watch_by_client(cpu))
		leave_to_client(cpu, VEC_DB, DR6_BD);
	raise_debug(cpu, DR6_BD);
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

/* What has set the poll word may be an SMI or INIT, which go before traps: KVM_RUN's loop queues these afterwards (cpu_trap_due()). */
static bool others_first(const struct cpu *cpu)
{
	return !cpu->guest_debug && cpu->activity == ACTIVITY_ACTIVE && (cpu->poll & ~(unsigned)POLL_LEAVE);
}

void cpu_debug_trap(struct cpu *cpu)
{
	uint64_t bits = cpu->pending_debug | (cpu->tf_at_start ? DR6_BS : 0);
	bool client_step = cpu->guest_debug & KVM_GUESTDBG_SINGLESTEP;

	cpu->tf_at_start = cpu->rf_at_start = false;
	/* Goes before #DB, which stays pending; blocking by MOV SS does not hold it back. */
	if (cpu_monitor_trap(cpu)) {
		cpu->pending_debug = cpu->shadow & SHADOW_MOV_SS ? bits & ~DR6_BS : bits;
		cpu_vmexit(cpu, EXIT_MTF, 0);
	}
	/* A load of SS loses its single step and delays its data breakpoints by one instruction. */
	if (cpu->shadow & SHADOW_MOV_SS) {
		cpu->pending_debug = bits & ~DR6_BS;
		return;
	}
	if (bits && others_first(cpu)) {
		cpu->pending_debug = bits;
		return;
	}
	cpu->pending_debug = cpu->guest_debug & GUEST_DEBUG_OWN ? bits : 0;
	if (client_step || (watch_by_client(cpu) && (bits & 0xf)))
		leave_to_client(cpu, VEC_DB, bits | (client_step ? DR6_BS : 0));
	if (bits)
		raise_debug(cpu, bits);
}
