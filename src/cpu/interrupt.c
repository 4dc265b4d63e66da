/*
 * Delivery of events through the interrupt table: real mode's vectors,
 * protected mode's 16- and 32-bit gates, long mode's gates with IST; INT n and
 * its relatives.
 *
 * Everything that can fault comes before the first change of the state, so
 * that a nested fault finds the processor as it was. Error codes name the
 * gate (bit 1); the EXT bit is added where nested faults are merged.
 */
#include "cpu/cet.h"
#include "cpu/event.h"
#include "cpu/transfer.h"

enum { IDT_ERROR = 2 };

static uint64_t return_rip(const struct cpu *cpu, const struct event *ev)
{
	return event_is_software(ev) ? cpu->rip + ev->insn_len : cpu->rip;
}

/* Software interrupts of the program itself, which the gate's DPL restrains. */
static bool checks_gate_dpl(const struct event *ev)
{
	return ev->type == EVENT_SW_INTERRUPT || ev->type == EVENT_SW_EXCEPTION;
}

/* RFLAGS as the handler finds it on its stack. */
static uint64_t flags_image(const struct cpu *cpu, const struct event *ev)
{
	return event_sets_rf(ev) ? cpu->rflags | RFLAGS_RF : cpu->rflags;
}

/* Pushes the return address on the handler's shadow stack, commits SSP and the tracker. */
static void enter_cet(struct cpu *cpu, const struct event *ev, const struct segment *cs, unsigned cpl, unsigned ist)
{
	if (likely(!(cpu->cr4 & CR4_CET)))
		return;
	cet_enter(cpu, cpl, shadow_call(cpu, cs, cpl, return_rip(cpu, ev), ist));
}

static void enter(struct cpu *cpu, struct segment cs, unsigned cpl, uint64_t rip, uint64_t clear)
{
	cs.selector = (cs.selector & ~3u) | cpl;
	cpu->seg[SEG_CS] = cs;
	cpu->cpl = cpl;
	cpu->rip = cpu->next_rip = rip;
	cpu->rflags &= ~clear;
	cpu_mode_update(cpu);
}

/* ---- real mode, and virtual-8086 mode's redirected INT n ---- */

static void deliver_through_ivt(struct cpu *cpu, const struct event *ev, uint64_t table, uint64_t flags, uint64_t clear)
{
	uint32_t entry = lin_load(cpu, table + ev->vector * 4u, 4, 0);
	const struct segment *ss = &cpu->seg[SEG_SS];
	uint64_t ip = return_rip(cpu, ev);
	uint64_t items[3] = { flags & 0xffff, cpu->seg[SEG_CS].selector, ip };

	if ((entry & 0xffff) > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	cpu->gpr[REG_RSP] = frame_push(cpu, ss, stack_width(false, ss), cpu->gpr[REG_RSP], 2, items, 3, 0, 0);
	seg_load_real(cpu, SEG_CS, entry >> 16);
	cpu->rip = cpu->next_rip = entry & 0xffff;
	cpu->rflags &= ~clear;
	cpu_mode_update(cpu);
}

static void deliver_real(struct cpu *cpu, const struct event *ev)
{
	if (ev->vector * 4u + 3 > cpu->idtr.limit)
		cpu_raise_error(cpu, VEC_GP, ev->vector * 8u + IDT_ERROR);
	deliver_through_ivt(cpu, ev, cpu->idtr.base, cpu->rflags, RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
}

/* The TSS's redirection bitmap lies below its I/O bitmap; a clear bit leads INT n to the task's own handler. */
static bool vme_redirects(struct cpu *cpu, unsigned vector)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	unsigned io_base, at;

	if (!(cpu->cr4 & CR4_VME) || !(tr->type & 8))
		return false;
	if (tr->limit < 103)
		cpu_raise_gp(cpu);
	io_base = lin_load(cpu, tr->base + 102, 2, ACCESS_SUPER);
	at = io_base - 32 + vector / 8;
	if (io_base < 32 || at > tr->limit)
		cpu_raise_gp(cpu);
	return !(lin_load(cpu, tr->base + at, 1, ACCESS_SUPER) >> (vector & 7) & 1);
}

static void deliver_vme(struct cpu *cpu, const struct event *ev)
{
	bool iopl3 = (cpu->rflags & RFLAGS_IOPL) == RFLAGS_IOPL;
	uint64_t flags = cpu->rflags;

	if (!iopl3) {
		flags = (flags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL;
		flags |= cpu->rflags & RFLAGS_VIF ? RFLAGS_IF : 0;
	}
	deliver_through_ivt(cpu, ev, 0, flags, RFLAGS_TF | RFLAGS_RF | RFLAGS_AC | (iopl3 ? RFLAGS_IF : RFLAGS_VIF));
}

/* ---- gates ---- */

static struct gate idt_gate(struct cpu *cpu, const struct event *ev)
{
	bool wide = cpu_long_mode(cpu);
	unsigned size = wide ? 16 : 8;
	uint32_t error = ev->vector * 8u + IDT_ERROR;
	uint64_t raw[2] = { 0, 0 };
	struct gate g;
	bool valid;

	if (ev->vector * size + size - 1 > cpu->idtr.limit)
		cpu_raise_error(cpu, VEC_GP, error);
	lin_read(cpu, cpu->idtr.base + ev->vector * size, raw, size, ACCESS_SUPER);
	g = gate_unpack(raw[0], wide ? raw[1] & 0xffffffff : 0);
	valid = g.type == SYS_INT32 || g.type == SYS_TRAP32;
	if (!wide)
		valid |= g.type == SYS_INT16 || g.type == SYS_TRAP16 || g.type == SYS_TASK;
	if (g.s || !valid || (checks_gate_dpl(ev) && g.dpl < cpu->cpl))
		cpu_raise_error(cpu, VEC_GP, error);
	if (!g.present)
		cpu_raise_error(cpu, VEC_NP, error);
	return g;
}

/* The handler's code segment. */
static struct segment handler_code(struct cpu *cpu, const struct gate *g, uint64_t *raw)
{
	struct segment cs;
	bool bad;

	if (selector_null(g->selector))
		cpu_raise_gp(cpu);
	cs = descriptor_fetch(cpu, g->selector, VEC_GP, raw);
	bad = !segment_is_code(&cs) || cs.dpl > cpu->cpl;
	bad |= cpu_long_mode(cpu) && (!cs.l || cs.db);
	bad |= (cpu->rflags & RFLAGS_VM) && (segment_is_conforming(&cs) || cs.dpl != 0);
	if (bad)
		cpu_raise_error(cpu, VEC_GP, selector_error(g->selector));
	if (!cs.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(g->selector));
	return cs;
}

static uint64_t cleared_flags(const struct gate *g)
{
	return RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | (g->type & 1 ? 0 : RFLAGS_IF);
}

/* ---- long mode ---- */

static void deliver_long(struct cpu *cpu, const struct event *ev)
{
	enum { TSS_RSP0 = 4, TSS_IST1 = 36 };
	struct gate g = idt_gate(cpu, ev);
	uint64_t raw, rsp = cpu->gpr[REG_RSP];
	struct segment cs = handler_code(cpu, &g, &raw);
	unsigned cpl = segment_is_conforming(&cs) ? cpu->cpl : cs.dpl;
	uint64_t items[6] = { cpu->seg[SEG_SS].selector, rsp, flags_image(cpu, ev), cpu->seg[SEG_CS].selector,
	                      return_rip(cpu, ev), ev->error };

	if (g.ist)
		rsp = tss_load64(cpu, TSS_IST1 + (g.ist - 1) * 8);
	else if (cpl != cpu->cpl)
		rsp = tss_load64(cpu, TSS_RSP0 + cpl * 8);
	if (!cpu_canonical(cpu, g.offset))
		cpu_raise_gp(cpu);
	rsp = frame_push(cpu, NULL, 8, rsp & ~15ull, 8, items, ev->has_error ? 6 : 5, 0, cpl != cpu->cpl ? ACCESS_SUPER : 0);
	descriptor_touch(cpu, &cs, raw);
	enter_cet(cpu, ev, &cs, cpl, g.ist);
	cpu->gpr[REG_RSP] = rsp;
	if (cpl != cpu->cpl) {
		cpu->seg[SEG_SS] = segment_null(cpl);
		cpu->seg[SEG_SS].dpl = cpl;
	}
	enter(cpu, cs, cpl, g.offset, cleared_flags(&g));
}

/* ---- protected mode ---- */

static void deliver_same(struct cpu *cpu, const struct event *ev, const struct gate *g, struct segment cs, uint64_t raw)
{
	const struct segment *ss = &cpu->seg[SEG_SS];
	unsigned size = g->type & 8 ? 4 : 2;
	uint64_t items[4] = { flags_image(cpu, ev), cpu->seg[SEG_CS].selector, return_rip(cpu, ev), ev->error };
	uint64_t rip = transfer_target(cpu, &cs, g->offset), rsp;

	rsp = frame_push(cpu, ss, stack_width(false, ss), cpu->gpr[REG_RSP], size, items, ev->has_error ? 4 : 3, 0, 0);
	descriptor_touch(cpu, &cs, raw);
	enter_cet(cpu, ev, &cs, cpu->cpl, 0);
	cpu->gpr[REG_RSP] = rsp;
	enter(cpu, cs, cpu->cpl, rip, cleared_flags(g));
}

/* What goes on the inner stack, virtual-8086 mode's data segments first. Returns the number of items. */
static unsigned inner_frame(const struct cpu *cpu, const struct event *ev, uint64_t *items)
{
	static const enum seg data[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
	unsigned n = 0;

	if (cpu->rflags & RFLAGS_VM)
		for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
			items[n++] = cpu->seg[data[i]].selector;
	items[n++] = cpu->seg[SEG_SS].selector;
	items[n++] = cpu->gpr[REG_RSP];
	items[n++] = flags_image(cpu, ev);
	items[n++] = cpu->seg[SEG_CS].selector;
	items[n++] = return_rip(cpu, ev);
	if (ev->has_error)
		items[n++] = ev->error;
	return n;
}

static void deliver_inner(struct cpu *cpu, const struct event *ev, const struct gate *g, struct segment cs, uint64_t raw)
{
	static const enum seg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	uint64_t items[10], sp, rip, ss_raw;
	unsigned n, cpl = cs.dpl;
	uint16_t ss_sel;
	struct segment ss;

	tss_stack(cpu, cpl, &ss_sel, &sp);
	if (selector_null(ss_sel))
		cpu_raise_error(cpu, VEC_TS, 0);
	ss = stack_segment_fetch(cpu, ss_sel, cpl, VEC_TS, &ss_raw);
	rip = transfer_target(cpu, &cs, g->offset);
	n = inner_frame(cpu, ev, items);
	sp = frame_push(cpu, &ss, stack_width(false, &ss), sp, g->type & 8 ? 4 : 2, items, n, selector_error(ss_sel),
	                cpu->cpl == 3 ? ACCESS_SUPER : 0);
	descriptor_touch(cpu, &ss, ss_raw);
	descriptor_touch(cpu, &cs, raw);
	enter_cet(cpu, ev, &cs, cpl, 0);
	if (cpu->rflags & RFLAGS_VM)
		for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
			cpu->seg[data[i]] = segment_null(0);
	cpu->seg[SEG_SS] = ss;
	cpu->gpr[REG_RSP] = sp;
	enter(cpu, cs, cpl, rip, cleared_flags(g));
}

static void deliver_protected(struct cpu *cpu, const struct event *ev)
{
	struct gate g = idt_gate(cpu, ev);
	struct segment cs;
	uint64_t raw;

	if (g.type == SYS_TASK) {
		task_switch(cpu, g.selector, TASK_GATE, ev->has_error, ev->error);
		cpu->rip = cpu->next_rip;
		return;
	}
	if (!(g.type & 8))
		g.offset &= 0xffff;
	cs = handler_code(cpu, &g, &raw);
	if (segment_is_conforming(&cs) || cs.dpl == cpu->cpl)
		deliver_same(cpu, ev, &g, cs, raw);
	else
		deliver_inner(cpu, ev, &g, cs, raw);
}

void interrupt_deliver(struct cpu *cpu, const struct event *ev)
{
	trace(irq, "vCPU %u: vector %u type %u at %#llx", cpu->index, ev->vector, ev->type, (unsigned long long)cpu->rip);
	if (!(cpu->cr0 & CR0_PE))
		deliver_real(cpu, ev);
	else if (cpu_long_mode(cpu))
		deliver_long(cpu, ev);
	else if ((cpu->rflags & RFLAGS_VM) && ev->type == EVENT_SW_INTERRUPT && vme_redirects(cpu, ev->vector))
		deliver_vme(cpu, ev);
	else
		deliver_protected(cpu, ev);
}

/* ---- INT n, INT3, INTO, INT1 ---- */

static _Noreturn void raise_software(struct cpu *cpu, const struct insn *insn, enum event_type type, unsigned vector)
{
	cpu_raise_event(cpu, (struct event){ .type = type, .vector = vector, .insn_len = insn->len });
}

void rule_int(struct cpu *cpu, const struct insn *insn)
{
	unsigned vector = insn->imm & 0xff;

	/* In virtual-8086 mode below IOPL 3, only INT n that VME redirects is allowed. */
	if ((cpu->mode & MODE_VM86) && (cpu->rflags & RFLAGS_IOPL) != RFLAGS_IOPL && !vme_redirects(cpu, vector))
		cpu_raise_gp(cpu);
	raise_software(cpu, insn, EVENT_SW_INTERRUPT, vector);
}

void rule_int3(struct cpu *cpu, const struct insn *insn)
{
	raise_software(cpu, insn, EVENT_SW_EXCEPTION, VEC_BP);
}

void rule_into(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->rflags & RFLAGS_OF)
		raise_software(cpu, insn, EVENT_SW_EXCEPTION, VEC_OF);
}

void rule_int1(struct cpu *cpu, const struct insn *insn)
{
	uint64_t pending = cpu->pending_debug;

	/* Traps that MOV SS has held back go with this #DB. */
	cpu->pending_debug = 0;
	cpu_raise_event(cpu, (struct event){ .type = EVENT_PRIV_SW_EXCEPTION, .vector = VEC_DB, .insn_len = insn->len,
	                                     .has_payload = pending, .payload = pending & (0xf | DR6_BS) });
}
