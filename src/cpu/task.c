/*
 * Task switches by CALL, JMP, IRET and task gates, between 16- and 32-bit
 * TSSs. Not in long mode. In non-root operation every task switch exits.
 *
 * Up to the commit a fault belongs to the old task and changes nothing. After
 * it the new task runs: its segment registers hold selectors without
 * descriptors until each is loaded, and a bad one is the new task's #TS.
 */
#include "cpu/cet.h"
#include "cpu/event.h"
#include "cpu/transfer.h"

struct task {
	uint64_t cr3, rip, rflags, gpr[8];
	uint16_t selector[6], ldt, link;
	bool trap;
};

/* The two formats: item size, offsets, least limit. Registers and selectors follow one another in instruction order. */
static const struct tss_format { uint8_t size, rip, rflags, gpr, selector, selectors, ldt, limit; } formats[2] = {
	{ .size = 2, .rip = 0x0e, .rflags = 0x10, .gpr = 0x12, .selector = 0x22, .selectors = 4, .ldt = 0x2a, .limit = 0x2b },
	{ .size = 4, .rip = 0x20, .rflags = 0x24, .gpr = 0x28, .selector = 0x48, .selectors = 6, .ldt = 0x60, .limit = 0x67 },
};
enum { TSS32_CR3 = 0x1c, TSS32_TRAP = 0x64, TSS_BYTES = 0x68 };

static const struct tss_format *tss_format(const struct segment *tss)
{
	return &formats[tss->type >> 3 & 1];
}

static void put(uint8_t *tss, unsigned offset, unsigned size, uint64_t value)
{
	memcpy(tss + offset, &value, size);
}

static uint64_t get(const uint8_t *tss, unsigned offset, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, tss + offset, size);
	return value;
}

/* Stores the old task's registers; the static fields of its TSS stay. */
static void save_task(struct cpu *cpu, uint64_t rip, uint64_t rflags)
{
	const struct tss_format *f = tss_format(&cpu->seg[SEG_TR]);
	unsigned end = f->selector + f->selectors * f->size;
	uint8_t tss[TSS_BYTES];

	put(tss, f->rip, f->size, rip);
	put(tss, f->rflags, f->size, rflags);
	for (unsigned i = 0; i < 8; i++)
		put(tss, f->gpr + i * f->size, f->size, cpu->gpr[i]);
	for (unsigned i = 0; i < f->selectors; i++)
		put(tss, f->selector + i * f->size, f->size, cpu->seg[i].selector);
	lin_write(cpu, cpu->seg[SEG_TR].base + f->rip, tss + f->rip, end - f->rip, ACCESS_SUPER);
}

static struct task read_task(struct cpu *cpu, const struct segment *s)
{
	const struct tss_format *f = tss_format(s);
	uint8_t tss[TSS_BYTES];
	struct task t = { 0 };

	lin_read(cpu, s->base, tss, f->limit + 1, ACCESS_SUPER);
	t.link = get(tss, 0, 2);
	t.rip = get(tss, f->rip, f->size);
	t.rflags = get(tss, f->rflags, f->size);
	for (unsigned i = 0; i < 8; i++)
		t.gpr[i] = get(tss, f->gpr + i * f->size, f->size) | (f->size == 2 ? 0xffff0000 : 0);
	for (unsigned i = 0; i < f->selectors; i++)
		t.selector[i] = get(tss, f->selector + i * f->size, 2);
	t.ldt = get(tss, f->ldt, 2);
	if (f->size == 4) {
		t.cr3 = get(tss, TSS32_CR3, 4);
		t.trap = get(tss, TSS32_TRAP, 2) & 1;
	}
	return t;
}

/* ---- the new task's segment registers ---- */

static void load_ldt(struct cpu *cpu, uint16_t selector)
{
	struct segment s;

	cpu->seg[SEG_LDTR] = segment_null(selector);
	if (selector_null(selector))
		return;
	if (selector & 4)
		cpu_raise_error(cpu, VEC_TS, selector_error(selector));
	s = descriptor_fetch(cpu, selector, VEC_TS, NULL);
	if (s.s || s.type != SYS_LDT || !s.present)
		cpu_raise_error(cpu, VEC_TS, selector_error(selector));
	cpu->seg[SEG_LDTR] = s;
}

static void load_code(struct cpu *cpu, uint16_t selector)
{
	unsigned rpl = selector & 3;
	struct segment s;
	uint64_t raw;

	if (selector_null(selector))
		cpu_raise_error(cpu, VEC_TS, 0);
	s = descriptor_fetch(cpu, selector, VEC_TS, &raw);
	if (!segment_is_code(&s) || (segment_is_conforming(&s) ? s.dpl > rpl : s.dpl != rpl))
		cpu_raise_error(cpu, VEC_TS, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	descriptor_touch(cpu, &s, raw);
	cpu->seg[SEG_CS] = s;
}

static void load_stack(struct cpu *cpu, uint16_t selector)
{
	struct segment s;
	uint64_t raw;

	if (selector_null(selector))
		cpu_raise_error(cpu, VEC_TS, 0);
	s = stack_segment_fetch(cpu, selector, cpu->cpl, VEC_TS, &raw);
	descriptor_touch(cpu, &s, raw);
	cpu->seg[SEG_SS] = s;
}

static void load_data(struct cpu *cpu, enum seg seg, uint16_t selector)
{
	struct segment s;
	uint64_t raw;

	if (selector_null(selector))
		return;
	s = descriptor_fetch(cpu, selector, VEC_TS, &raw);
	bool readable = s.s && (s.type & (TYPE_CODE | TYPE_READ)) != TYPE_CODE;
	bool checked = !segment_is_code(&s) || !segment_is_conforming(&s);
	if (!readable || (checked && (s.dpl < cpu->cpl || s.dpl < (selector & 3))))
		cpu_raise_error(cpu, VEC_TS, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	descriptor_touch(cpu, &s, raw);
	cpu->seg[seg] = s;
}

static void load_segments(struct cpu *cpu, const struct task *t)
{
	static const enum seg data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };

	load_ldt(cpu, t->ldt);
	if (cpu->rflags & RFLAGS_VM)
		return;
	load_stack(cpu, t->selector[SEG_SS]);
	load_code(cpu, t->selector[SEG_CS]);
	cpu_mode_update(cpu);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		load_data(cpu, data[i], t->selector[data[i]]);
}

/* ---- the switch ---- */

/* The TSS that selector names; an IRET returns to a busy one, all else goes to an available one. */
static struct segment new_tss(struct cpu *cpu, uint16_t selector, enum task_reason why, uint64_t *raw)
{
	unsigned vector = why == TASK_IRET ? VEC_TS : VEC_GP;
	unsigned busy = why == TASK_IRET ? 2 : 0;
	struct segment s;

	if (selector_null(selector) || (selector & 4))
		cpu_raise_error(cpu, vector, selector_error(selector));
	s = descriptor_fetch(cpu, selector, vector, raw);
	if (s.s || (s.type & 7) != (1 | busy))
		cpu_raise_error(cpu, vector, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	if (s.limit < tss_format(&s)->limit)
		cpu_raise_error(cpu, VEC_TS, selector_error(selector));
	shadow_task_check(cpu, &s, why);
	return s;
}

/* Sets or clears the busy bit of a TSS descriptor in the GDT. */
static void set_busy(struct cpu *cpu, uint16_t selector, bool busy)
{
	uint64_t at = descriptor_address(cpu, selector & ~7u) + 5;
	uint8_t access = lin_load(cpu, at, 1, ACCESS_SUPER);

	lin_store(cpu, at, 1, busy ? access | 2u : access & ~2u, ACCESS_SUPER);
}

/* Where the old task goes on when it is switched back to. */
static uint64_t old_rip(const struct cpu *cpu, enum task_reason why)
{
	const struct event *ev = &cpu->delivering;

	if (why != TASK_GATE)
		return cpu->next_rip;
	return event_is_software(ev) ? cpu->rip + ev->insn_len : cpu->rip;
}

static uint64_t old_rflags(const struct cpu *cpu, enum task_reason why)
{
	if (why == TASK_IRET)
		return cpu->rflags & ~(uint64_t)RFLAGS_NT;
	return why == TASK_GATE && event_sets_rf(&cpu->delivering) ? cpu->rflags | RFLAGS_RF : cpu->rflags;
}

/* The registers of the new task; its segments hold bare selectors as yet. */
static void enter_task(struct cpu *cpu, const struct task *t, uint64_t rflags)
{
	memcpy(cpu->gpr, t->gpr, sizeof(t->gpr));
	cpu->rip = cpu->next_rip = t->rip;
	cpu->cr0 |= CR0_TS;
	cpu->dr7 &= ~0x155ull;           /* local breakpoints are the old task's */
	for (unsigned i = 0; i < 6; i++)
		cpu->seg[i] = rflags & RFLAGS_VM ? segment_vm86(t->selector[i]) : segment_null(t->selector[i]);
	cpu->cpl = rflags & RFLAGS_VM ? 3 : t->selector[SEG_CS] & 3;
	if (!(rflags & RFLAGS_VM))
		cpu->seg[SEG_SS].dpl = cpu->cpl;
	cpu_set_rflags(cpu, rflags);
	cpu_mode_update(cpu);
}

static void push_error(struct cpu *cpu, unsigned size, uint64_t error)
{
	const struct segment *ss = &cpu->seg[SEG_SS];

	cpu->gpr[REG_RSP] = frame_push(cpu, ss, stack_width(false, ss), cpu->gpr[REG_RSP], size, &error, 1, 0, 0);
}

void task_switch(struct cpu *cpu, uint16_t tss_selector, enum task_reason why, bool has_error, uint32_t error)
{
	bool nested = why == TASK_CALL || why == TASK_GATE;
	uint16_t old_selector = cpu->seg[SEG_TR].selector;
	uint64_t raw, rflags;
	struct segment tss = new_tss(cpu, tss_selector, why, &raw);
	struct shadow_task shadow;
	struct task t;

	if (cpu_in_guest(cpu))
		cpu_vmexit(cpu, EXIT_TASK_SWITCH, tss_selector | (uint64_t)why << 30);
	t = read_task(cpu, &tss);
	if (nested)
		lin_probe_write(cpu, tss.base, 2, ACCESS_SUPER);
	save_task(cpu, old_rip(cpu, why), old_rflags(cpu, why));
	shadow = shadow_task_leave(cpu, why, t.rflags & RFLAGS_VM ? 3 : t.selector[SEG_CS] & 3, old_rip(cpu, why));
	if (!nested)
		set_busy(cpu, old_selector, false);
	else
		lin_store(cpu, tss.base, 2, old_selector, ACCESS_SUPER);
	if (why != TASK_IRET)
		set_busy(cpu, tss_selector, true);
	tss.type |= 2;
	cpu->seg[SEG_TR] = tss;
	rflags = nested ? t.rflags | RFLAGS_NT : t.rflags;
	enter_task(cpu, &t, rflags);
	if (tss_format(&tss)->size == 4 && (cpu->cr0 & CR0_PG) && !cr3_write(cpu, t.cr3))
		cpu_raise_error(cpu, VEC_TS, selector_error(tss_selector));
	load_segments(cpu, &t);
	shadow_task_enter(cpu, &shadow, why);
	cpu_mode_update(cpu);
	if (cpu->rip > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	if (has_error)
		push_error(cpu, tss_format(&tss)->size, error);
	if (t.trap)
		cpu->event = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = VEC_DB, .has_payload = true,
		                             .payload = DR6_BT };
}
