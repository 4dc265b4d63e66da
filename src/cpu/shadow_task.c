/*
 * Shadow stacks across task switches. A new task's SSP is in its TSS and leads
 * to a token; a nested task's stack holds the frame of the task it was called
 * from. Up to the commit faults are the old task's, then the new one's.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/transfer.h"

enum { TSS32_SSP = 104 };

static _Noreturn void raise_ts(struct cpu *cpu, const struct segment *tss)
{
	cpu_raise_error(cpu, VEC_TS, selector_error(tss->selector));
}

void shadow_task_check(struct cpu *cpu, const struct segment *tss, enum task_reason why)
{
	if (likely(!(cpu->cr4 & CR4_CET)))
		return;
	if (why == TASK_IRET && cet_enabled(cpu, cpu->cpl, CET_SHSTK) && (cpu->cet.ssp & 7))
		raise_ts(cpu, &cpu->seg[SEG_TR]);
	if (!(tss->type & 8) || tss->limit < TSS32_SSP + 3)
		raise_ts(cpu, tss);
}

/* The frame of the task that this one was called from; the token below it is given back. */
static void leave_nested(struct cpu *cpu, struct shadow_task *t, unsigned new_cpl)
{
	struct shadow s = shadow_of(cpu->cet.ssp, cpu->cpl, false);
	uint64_t token;

	if (new_cpl == cpu->cpl || new_cpl < 3) {
		shadow_load(cpu, &s, s.ssp + 16, &t->cs, 8);
		shadow_load(cpu, &s, s.ssp + 8, &t->lip, 8);
		shadow_load(cpu, &s, s.ssp, &t->ssp, 8);
		s.ssp = (uint32_t)(s.ssp + 24);
		t->frame = true;
	} else {
		t->ssp = cpu->cet.pl_ssp[3];
	}
	token = s.ssp | TOKEN_BUSY;
	shadow_exchange(cpu, &s, s.ssp, &token, s.ssp);
	cpu->cet.ssp = 0;
}

struct shadow_task shadow_task_leave(struct cpu *cpu, enum task_reason why, unsigned new_cpl, uint64_t return_rip)
{
	struct shadow_task t = { .ssp = cpu->cet.pl_ssp[3] };

	if (!cet_enabled(cpu, cpu->cpl, CET_SHSTK) || why == TASK_JMP)
		return t;
	if (why == TASK_IRET) {
		leave_nested(cpu, &t, new_cpl);
	} else if (cpu->cpl == 3 && new_cpl < 3) {
		cpu->cet.pl_ssp[3] = cpu->cet.ssp;
	} else {
		t = (struct shadow_task){ .frame = true, .cs = cpu->seg[SEG_CS].selector, .ssp = cpu->cet.ssp,
		                          .lip = (uint32_t)(cpu->seg[SEG_CS].base + return_rip) };
	}
	return t;
}

static void enter_new(struct cpu *cpu, const struct shadow_task *t)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	uint64_t ssp = lin_load(cpu, tr->base + TSS32_SSP, 4, ACCESS_SUPER), token = ssp;
	struct shadow s = shadow_of(ssp, cpu->cpl, false);

	if ((ssp & 7) || !shadow_exchange(cpu, &s, ssp, &token, ssp | TOKEN_BUSY))
		raise_ts(cpu, tr);
	if (t->frame) {
		shadow_push(cpu, &s, 8, t->cs);
		shadow_push(cpu, &s, 8, t->lip);
		shadow_push(cpu, &s, 8, t->ssp);
	}
	cpu->cet.ssp = s.ssp;
}

static void return_to(struct cpu *cpu, const struct shadow_task *t)
{
	const struct segment *cs = &cpu->seg[SEG_CS];

	if (t->frame && (t->cs != cs->selector || t->lip != (uint32_t)(cs->base + cpu->rip)))
		cet_raise(cpu, CP_FAR_RET);
	if (!cet_enabled(cpu, cpu->cpl, CET_SHSTK))
		return;
	if ((t->ssp & 3) || t->ssp >> 32)
		cet_raise(cpu, CP_FAR_RET);
	cpu->cet.ssp = t->ssp;
}

void shadow_task_enter(struct cpu *cpu, const struct shadow_task *t, enum task_reason why)
{
	if (likely(!(cpu->cr4 & CR4_CET)))
		return;
	if ((cpu->rflags & RFLAGS_VM) && (cpu->cet.u_cet & (CET_SHSTK | CET_ENDBR)))
		raise_ts(cpu, &cpu->seg[SEG_TR]);
	if (why == TASK_IRET) {
		return_to(cpu, t);
		return;
	}
	if (cet_enabled(cpu, cpu->cpl, CET_SHSTK))
		enter_new(cpu, t);
	cet_enter(cpu, cpu->cpl, cpu->cet.ssp);
}
