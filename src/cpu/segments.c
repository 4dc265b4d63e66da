/*
 * Segment registers: descriptors and their hidden parts, loads in every mode.
 *
 * A load commits last: everything that can fault, the accessed bit's store
 * included, comes before cpu->seg[] changes.
 */
#include "cpu/transfer.h"

uint32_t segment_ar_bytes(const struct segment *s)
{
	if (s->unusable)
		return 1u << 16;
	return s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->avl << 12 | s->l << 13 | s->db << 14 | (uint32_t)s->g << 15;
}

void segment_set_ar_bytes(struct segment *s, uint32_t ar)
{
	s->type = ar & 15;
	s->s = ar >> 4 & 1;
	s->dpl = ar >> 5 & 3;
	s->present = ar >> 7 & 1;
	s->avl = ar >> 12 & 1;
	s->l = ar >> 13 & 1;
	s->db = ar >> 14 & 1;
	s->g = ar >> 15 & 1;
	s->unusable = ar >> 16 & 1;
}

struct segment descriptor_unpack(uint64_t desc, uint16_t selector)
{
	uint32_t limit = (desc & 0xffff) | (desc >> 32 & 0xf0000);
	bool g = desc >> 55 & 1;

	return (struct segment){
		.base = (desc >> 16 & 0xffffff) | (desc >> 32 & 0xff000000),
		.limit = g ? limit << 12 | 0xfff : limit,
		.selector = selector,
		.type = desc >> 40 & 15,
		.s = desc >> 44 & 1,
		.dpl = desc >> 45 & 3,
		.present = desc >> 47 & 1,
		.avl = desc >> 52 & 1,
		.l = desc >> 53 & 1,
		.db = desc >> 54 & 1,
		.g = g,
	};
}

uint64_t descriptor_address(const struct cpu *cpu, uint16_t selector)
{
	uint64_t base = selector & 4 ? cpu->seg[SEG_LDTR].base : cpu->gdtr.base;

	return base + (selector & 0xfff8);
}

/* Raises vector(selector) unless the bytes up to offset last of the descriptor lie within its table. */
static void descriptor_check_limit(struct cpu *cpu, uint16_t selector, unsigned last, unsigned fault_vector)
{
	const struct segment *ldt = &cpu->seg[SEG_LDTR];
	uint32_t limit = selector & 4 ? ldt->limit : cpu->gdtr.limit;
	bool usable = !(selector & 4) || (!ldt->unusable && !selector_null(ldt->selector));

	if (!usable || (selector & 0xfff8u) + last > limit)
		cpu_raise_error(cpu, fault_vector, selector_error(selector));
}

uint64_t descriptor_read(struct cpu *cpu, uint16_t selector, unsigned fault_vector)
{
	descriptor_check_limit(cpu, selector, 7, fault_vector);
	return lin_load(cpu, descriptor_address(cpu, selector), 8, ACCESS_SUPER);
}

uint64_t descriptor_read_high(struct cpu *cpu, uint16_t selector, unsigned fault_vector)
{
	descriptor_check_limit(cpu, selector, 15, fault_vector);
	return lin_load(cpu, descriptor_address(cpu, selector) + 8, 8, ACCESS_SUPER);
}

struct segment descriptor_fetch(struct cpu *cpu, uint16_t selector, unsigned fault_vector, uint64_t *raw)
{
	uint64_t desc = descriptor_read(cpu, selector, fault_vector);

	if (raw)
		*raw = desc;
	return descriptor_unpack(desc, selector);
}

void descriptor_touch(struct cpu *cpu, struct segment *s, uint64_t raw)
{
	if (s->type & TYPE_ACCESSED)
		return;
	s->type |= TYPE_ACCESSED;
	lin_store(cpu, descriptor_address(cpu, s->selector) + 5, 1, (raw >> 40 & 0xff) | TYPE_ACCESSED, ACCESS_SUPER);
}

struct segment segment_vm86(uint16_t selector)
{
	return (struct segment){ .base = (uint64_t)selector << 4, .limit = 0xffff, .selector = selector,
	                         .type = TYPE_WRITE | TYPE_ACCESSED, .s = 1, .dpl = 3, .present = 1 };
}

struct segment stack_segment_fetch(struct cpu *cpu, uint16_t selector, unsigned cpl, unsigned fault_vector, uint64_t *raw)
{
	struct segment s = descriptor_fetch(cpu, selector, fault_vector, raw);

	if ((selector & 3) != cpl || s.dpl != cpl || !segment_is_writable_data(&s))
		cpu_raise_error(cpu, fault_vector, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_SS, selector_error(selector));
	return s;
}

/* A null SS keeps its DPL at the CPL: that is where VMX and KVM look for it. */
static struct segment null_stack(uint16_t selector, unsigned cpl)
{
	struct segment s = segment_null(selector);

	s.dpl = cpl;
	return s;
}

static void load_stack_segment(struct cpu *cpu, uint16_t selector)
{
	struct segment s;
	uint64_t raw;

	if (selector_null(selector)) {
		if (!cpu_code64(cpu) || cpu->cpl == 3 || (selector & 3) != cpu->cpl)
			cpu_raise_gp(cpu);
		cpu->seg[SEG_SS] = null_stack(selector, cpu->cpl);
		return;
	}
	s = stack_segment_fetch(cpu, selector, cpu->cpl, VEC_GP, &raw);
	descriptor_touch(cpu, &s, raw);
	cpu->seg[SEG_SS] = s;
}

static void load_data_segment(struct cpu *cpu, enum seg seg, uint16_t selector)
{
	struct segment s;
	uint64_t raw;

	if (selector_null(selector)) {
		cpu->seg[seg] = segment_null(selector);
		return;
	}
	s = descriptor_fetch(cpu, selector, VEC_GP, &raw);
	bool readable = s.s && (s.type & (TYPE_CODE | TYPE_READ)) != TYPE_CODE;
	bool checked = !segment_is_code(&s) || !segment_is_conforming(&s);
	if (!readable || (checked && ((selector & 3) > s.dpl || cpu->cpl > s.dpl)))
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	descriptor_touch(cpu, &s, raw);
	cpu->seg[seg] = s;
}

void seg_load_real(struct cpu *cpu, enum seg seg, uint16_t selector)
{
	struct segment *s = &cpu->seg[seg];

	if (cpu->rflags & RFLAGS_VM) {
		*s = segment_vm86(selector);
		return;
	}
	/* Limit and size stay as protected mode left them ("unreal" mode). */
	if (s->unusable)
		s->limit = 0xffff;
	s->unusable = 0;
	s->selector = selector;
	s->base = (uint64_t)selector << 4;
	s->present = s->s = 1;
	s->type = seg == SEG_CS && (s->type & TYPE_CODE) ? s->type : TYPE_WRITE | TYPE_ACCESSED;
	s->dpl = 0;
}

void seg_load_selector(struct cpu *cpu, enum seg seg, uint16_t selector)
{
	if (!cpu_protected(cpu))
		seg_load_real(cpu, seg, selector);
	else if (seg == SEG_SS)
		load_stack_segment(cpu, selector);
	else
		load_data_segment(cpu, seg, selector);
	/* In 64-bit mode no part of the mode word depends on DS or ES, and FS and GS never matter to it. */
	if (seg == SEG_SS || (seg < SEG_FS && !cpu_code64(cpu)))
		cpu_mode_update(cpu);
}

void segments_drop_privileged(struct cpu *cpu)
{
	static const enum seg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct segment *s = &cpu->seg[data[i]];
		bool conforming = segment_is_code(s) && segment_is_conforming(s);

		if (!s->unusable && !conforming && s->dpl < cpu->cpl)
			*s = (struct segment){ .base = s->base, .unusable = 1 };      /* bases of FS and GS live on */
	}
}
