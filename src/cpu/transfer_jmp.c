/*
 * Far JMP and far CALL: directly, through call gates (with a change of stack
 * when a CALL goes inwards), and to tasks.
 */
#include "cpu/cet.h"
#include "cpu/transfer.h"

struct far_target { uint64_t offset; uint16_t selector; };

/* ptr16:16/32 is an immediate; m16:16/32/64 holds the offset first. */
static struct far_target far_operand(struct cpu *cpu, const struct insn *insn)
{
	uint64_t mask = insn->opsize == 2 ? 0xffff : insn->opsize == 4 ? 0xffffffff : ~0ull;
	uint64_t addr;
	uint8_t raw[10];
	struct far_target t = { 0 };

	if (!insn->mem)
		return (struct far_target){ .offset = insn->imm & mask, .selector = insn->imm2 };
	addr = seg_linear(cpu, insn->seg, insn_offset(cpu, insn), insn->opsize + 2, ACCESS_READ);
	lin_read(cpu, addr, raw, insn->opsize + 2, 0);
	memcpy(&t.offset, raw, insn->opsize);
	memcpy(&t.selector, raw + insn->opsize, 2);
	return t;
}

/* Real and virtual-8086 mode: nothing is checked but the limit. */
static void load_cs_real(struct cpu *cpu, struct far_target t)
{
	uint64_t rip = transfer_target(cpu, &cpu->seg[SEG_CS], t.offset);

	seg_load_real(cpu, SEG_CS, t.selector);
	cpu->next_rip = rip;
	cpu_mode_update(cpu);
}

/* The rules for a code segment reached at the same privilege (JMP, and CALL without a gate). */
static void check_direct_code(struct cpu *cpu, const struct segment *cs)
{
	uint32_t error = selector_error(cs->selector);
	bool conforming = segment_is_conforming(cs);

	if (cpu_long_mode(cpu) && cs->l && cs->db)
		cpu_raise_error(cpu, VEC_GP, error);
	if (conforming ? cs->dpl > cpu->cpl : (cs->selector & 3) > cpu->cpl || cs->dpl != cpu->cpl)
		cpu_raise_error(cpu, VEC_GP, error);
	if (!cs->present)
		cpu_raise_error(cpu, VEC_NP, error);
}

/* Return address of size-byte items on the present stack. The new stack pointer. */
static uint64_t push_return(struct cpu *cpu, unsigned size)
{
	const struct segment *ss = &cpu->seg[SEG_SS];
	uint64_t items[2] = { cpu->seg[SEG_CS].selector, cpu->next_rip };

	return frame_push(cpu, ss, stack_addr_size(cpu), cpu->gpr[REG_RSP], size, items, 2, 0, 0);
}

/* To code segment cs at the present privilege. */
static void transfer_same(struct cpu *cpu, struct segment cs, uint64_t raw, uint64_t offset, bool call, unsigned size)
{
	uint64_t rip = transfer_target(cpu, &cs, offset), rsp = cpu->gpr[REG_RSP], ssp;

	descriptor_touch(cpu, &cs, raw);
	if (call)
		rsp = push_return(cpu, size);
	ssp = call ? shadow_call(cpu, &cs, cpu->cpl, cpu->next_rip, 0) : shadow_jmp(cpu, &cs);
	cpu->gpr[REG_RSP] = rsp;
	cet_enter(cpu, cpu->cpl, ssp);
	transfer_commit(cpu, cs, cpu->cpl, rip);
}

/* ---- gates ---- */

/* Reads the call or task gate that selector names; checks privilege and presence. */
static struct gate gate_fetch(struct cpu *cpu, uint16_t selector, uint64_t raw)
{
	uint64_t high = cpu_long_mode(cpu) ? descriptor_read_high(cpu, selector, VEC_GP) : 0;
	struct gate g = gate_unpack(raw, high);

	/* The type field of a 16-byte gate's upper half must be clear. */
	if ((high >> 40 & 0x1f) || g.dpl < cpu->cpl || g.dpl < (selector & 3))
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	if (!g.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	return g;
}

static unsigned gate_size(const struct cpu *cpu, const struct gate *g)
{
	return cpu_long_mode(cpu) ? 8 : g->type == SYS_CALL32 ? 4 : 2;
}

/* The code segment behind a call gate. */
static struct segment gate_code(struct cpu *cpu, const struct gate *g, bool call, uint64_t *raw)
{
	struct segment cs;
	bool bad;

	if (selector_null(g->selector))
		cpu_raise_gp(cpu);
	cs = descriptor_fetch(cpu, g->selector, VEC_GP, raw);
	bad = !segment_is_code(&cs) || cs.dpl > cpu->cpl;
	bad |= !call && !segment_is_conforming(&cs) && cs.dpl != cpu->cpl;
	bad |= cpu_long_mode(cpu) && (!cs.l || cs.db);
	if (bad)
		cpu_raise_error(cpu, VEC_GP, selector_error(g->selector));
	if (!cs.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(g->selector));
	return cs;
}

/* A CALL inwards in long mode: RSP from the TSS, SS null, no parameters copied. */
static void call_inner_long(struct cpu *cpu, struct segment cs, uint64_t raw, uint64_t offset)
{
	unsigned dpl = cs.dpl;
	uint64_t rsp = tss_load64(cpu, 4 + dpl * 8), rip, ssp;
	uint64_t items[4] = { cpu->seg[SEG_SS].selector, cpu->gpr[REG_RSP], cpu->seg[SEG_CS].selector, cpu->next_rip };

	if (!cpu_canonical(cpu, rsp))
		cpu_raise_error(cpu, VEC_SS, 0);
	rip = transfer_target(cpu, &cs, offset);
	descriptor_touch(cpu, &cs, raw);
	rsp = frame_push(cpu, NULL, 8, rsp, 8, items, 4, 0, ACCESS_SUPER);
	ssp = shadow_call(cpu, &cs, dpl, cpu->next_rip, 0);
	cet_enter(cpu, dpl, ssp);
	cpu->seg[SEG_SS] = segment_null(dpl);
	cpu->seg[SEG_SS].dpl = dpl;
	cpu->gpr[REG_RSP] = rsp;
	transfer_commit(cpu, cs, dpl, rip);
}

/* A CALL inwards: the new stack gets the old one's address, count parameters, and the return address. */
static void call_inner(struct cpu *cpu, const struct gate *g, struct segment cs, uint64_t raw)
{
	unsigned dpl = cs.dpl, size = gate_size(cpu, g), n = 0;
	uint64_t sp, ssp, rip, params[32], items[36], ss_raw;
	uint16_t ss_sel;
	struct segment ss;

	tss_stack(cpu, dpl, &ss_sel, &sp);
	if (selector_null(ss_sel))
		cpu_raise_error(cpu, VEC_TS, 0);
	ss = stack_segment_fetch(cpu, ss_sel, dpl, VEC_TS, &ss_raw);
	if (g->count)
		for (unsigned i = 0; i < g->count; i += 16)
			frame_read(cpu, cpu->gpr[REG_RSP] + i * size, size, params + i, g->count - i < 16 ? g->count - i : 16);
	items[n++] = cpu->seg[SEG_SS].selector;
	items[n++] = cpu->gpr[REG_RSP];
	for (unsigned i = g->count; i-- > 0;)
		items[n++] = params[i];
	items[n++] = cpu->seg[SEG_CS].selector;
	items[n++] = cpu->next_rip;
	rip = transfer_target(cpu, &cs, g->offset);
	descriptor_touch(cpu, &ss, ss_raw);
	descriptor_touch(cpu, &cs, raw);
	sp = frame_push(cpu, &ss, stack_width(false, &ss), sp, size, items, n, selector_error(ss_sel), ACCESS_SUPER);
	ssp = shadow_call(cpu, &cs, dpl, cpu->next_rip, 0);
	cet_enter(cpu, dpl, ssp);
	cpu->seg[SEG_SS] = ss;
	cpu->gpr[REG_RSP] = sp;
	transfer_commit(cpu, cs, dpl, rip);
}

static void transfer_call_gate(struct cpu *cpu, uint16_t selector, uint64_t gate_raw, bool call)
{
	struct gate g = gate_fetch(cpu, selector, gate_raw);
	uint64_t raw;
	struct segment cs = gate_code(cpu, &g, call, &raw);

	if (g.type == SYS_CALL16)
		g.offset &= 0xffff;
	if (!call || segment_is_conforming(&cs) || cs.dpl == cpu->cpl)
		transfer_same(cpu, cs, raw, g.offset, call, gate_size(cpu, &g));
	else if (cpu_long_mode(cpu))
		call_inner_long(cpu, cs, raw, g.offset);
	else
		call_inner(cpu, &g, cs, raw);
}

static void transfer_task_gate(struct cpu *cpu, uint16_t selector, uint64_t raw, bool call)
{
	struct gate g = gate_fetch(cpu, selector, raw);

	task_switch(cpu, g.selector, call ? TASK_CALL : TASK_JMP, false, 0);
}

static void transfer_tss(struct cpu *cpu, const struct segment *tss, bool call)
{
	if (tss->dpl < cpu->cpl || tss->dpl < (tss->selector & 3))
		cpu_raise_error(cpu, VEC_GP, selector_error(tss->selector));
	if (!tss->present)
		cpu_raise_error(cpu, VEC_NP, selector_error(tss->selector));
	task_switch(cpu, tss->selector, call ? TASK_CALL : TASK_JMP, false, 0);
}

static void transfer_system(struct cpu *cpu, const struct segment *d, uint64_t raw, bool call)
{
	bool legacy = !cpu_long_mode(cpu);

	if (d->type == SYS_CALL32 || (legacy && d->type == SYS_CALL16))
		transfer_call_gate(cpu, d->selector, raw, call);
	else if (legacy && d->type == SYS_TASK)
		transfer_task_gate(cpu, d->selector, raw, call);
	else if (legacy && (d->type == SYS_TSS16 || d->type == SYS_TSS32))
		transfer_tss(cpu, d, call);
	else
		cpu_raise_error(cpu, VEC_GP, selector_error(d->selector));
}

static void transfer_far(struct cpu *cpu, const struct insn *insn, bool call)
{
	struct far_target t = far_operand(cpu, insn);
	struct segment d;
	uint64_t raw;

	if (!cpu_protected(cpu)) {
		transfer_target(cpu, &cpu->seg[SEG_CS], t.offset);
		if (call)
			cpu->gpr[REG_RSP] = push_return(cpu, insn->opsize);
		load_cs_real(cpu, t);
		return;
	}
	if (selector_null(t.selector))
		cpu_raise_gp(cpu);
	d = descriptor_fetch(cpu, t.selector, VEC_GP, &raw);
	if (!d.s) {
		transfer_system(cpu, &d, raw, call);
		return;
	}
	if (!segment_is_code(&d))
		cpu_raise_error(cpu, VEC_GP, selector_error(t.selector));
	check_direct_code(cpu, &d);
	transfer_same(cpu, d, raw, t.offset, call, insn->opsize);
}

void rule_jmp_far(struct cpu *cpu, const struct insn *insn)
{
	transfer_far(cpu, insn, false);
}

void rule_call_far(struct cpu *cpu, const struct insn *insn)
{
	transfer_far(cpu, insn, true);
}
