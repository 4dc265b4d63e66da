/*
 * Instructions on descriptor tables and descriptors: LGDT to STR, LAR to
 * ARPL, loads and stores of segment registers, FS and GS bases.
 */
#include "cpu/transfer.h"
#include "x86/features.h"
#include "x86/vmx.h"

static void require_cpl0(struct cpu *cpu)
{
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
}

/* UMIP: the instructions that tell where the system's tables are. */
static void check_umip(struct cpu *cpu)
{
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl > 0)
		cpu_raise_gp(cpu);
}

static void require_protected(struct cpu *cpu)
{
	if (!cpu_protected(cpu))
		cpu_raise_ud(cpu);
}

/* ---- GDTR, IDTR ---- */

static struct descriptor_table table_load(struct cpu *cpu, const struct insn *insn)
{
	bool wide = cpu_code64(cpu);
	unsigned size = wide ? 10 : 6;
	uint8_t raw[10] = { 0 };
	struct descriptor_table t;

	seg_read(cpu, insn->seg, insn_offset(cpu, insn), raw, size);
	memcpy(&t.limit, raw, 2);
	memcpy(&t.base, raw + 2, 8);
	if (wide && !cpu_canonical(cpu, t.base))
		cpu_raise_gp(cpu);
	if (!wide)
		t.base &= insn->opsize == 2 ? 0xffffff : 0xffffffff;
	return t;
}

static void table_store(struct cpu *cpu, const struct insn *insn, const struct descriptor_table *t)
{
	uint8_t raw[10];

	memcpy(raw, &t->limit, 2);
	memcpy(raw + 2, &t->base, 8);
	seg_write(cpu, insn->seg, insn_offset(cpu, insn), raw, cpu_code64(cpu) ? 10 : 6);
}

void rule_lgdt(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_GDTR_IDTR);
	cpu->gdtr = table_load(cpu, insn);
}

void rule_lidt(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_GDTR_IDTR);
	cpu->idtr = table_load(cpu, insn);
}

void rule_sgdt(struct cpu *cpu, const struct insn *insn)
{
	check_umip(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_GDTR_IDTR);
	table_store(cpu, insn, &cpu->gdtr);
}

void rule_sidt(struct cpu *cpu, const struct insn *insn)
{
	check_umip(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_GDTR_IDTR);
	table_store(cpu, insn, &cpu->idtr);
}

/* ---- LDTR, TR ---- */

/* The system segment that selector names in the GDT, its 64-bit base included. */
static struct segment system_segment(struct cpu *cpu, uint16_t selector, uint64_t *raw)
{
	uint64_t high;
	struct segment s;

	if (selector & 4)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	s = descriptor_fetch(cpu, selector, VEC_GP, raw);
	if (!cpu_long_mode(cpu))
		return s;
	high = descriptor_read_high(cpu, selector, VEC_GP);
	s.base |= high << 32;
	if ((high >> 40 & 0x1f) || !cpu_canonical(cpu, s.base))
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	return s;
}

void rule_lldt(struct cpu *cpu, const struct insn *insn)
{
	uint16_t selector;
	struct segment s;
	uint64_t raw;

	require_protected(cpu);
	require_cpl0(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_LDTR_TR);
	selector = rm_load(cpu, insn, 2);
	if (selector_null(selector)) {
		cpu->seg[SEG_LDTR] = segment_null(selector);
		return;
	}
	s = system_segment(cpu, selector, &raw);
	if (s.s || s.type != SYS_LDT)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	cpu->seg[SEG_LDTR] = s;
}

void rule_ltr(struct cpu *cpu, const struct insn *insn)
{
	uint16_t selector;
	struct segment s;
	uint64_t raw;

	require_protected(cpu);
	require_cpl0(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_LDTR_TR);
	selector = rm_load(cpu, insn, 2);
	if (selector_null(selector))
		cpu_raise_gp(cpu);
	s = system_segment(cpu, selector, &raw);
	if (s.s || (s.type != SYS_TSS32 && (cpu_long_mode(cpu) || s.type != SYS_TSS16)))
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	if (!s.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	/* Busy from now on. */
	s.type |= 2;
	lin_store(cpu, descriptor_address(cpu, selector) + 5, 1, (raw >> 40 & 0xff) | 2, ACCESS_SUPER);
	cpu->seg[SEG_TR] = s;
}

/* A 16-bit value to memory, or zero-extended to a register. */
static void store_selector(struct cpu *cpu, const struct insn *insn, uint16_t selector)
{
	if (insn->mem)
		insn_store(cpu, insn, 2, selector);
	else
		reg_set(cpu, insn->rm, insn->opsize, insn->rex, selector);
}

void rule_sldt(struct cpu *cpu, const struct insn *insn)
{
	require_protected(cpu);
	check_umip(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_LDTR_TR);
	store_selector(cpu, insn, cpu->seg[SEG_LDTR].selector);
}

void rule_str(struct cpu *cpu, const struct insn *insn)
{
	require_protected(cpu);
	check_umip(cpu);
	intercept_descriptor_table(cpu, insn, EXIT_LDTR_TR);
	store_selector(cpu, insn, cpu->seg[SEG_TR].selector);
}

/* ---- LAR, LSL, VERR, VERW, ARPL: nothing faults but memory, ZF tells ---- */

static void set_zf(struct cpu *cpu, bool on)
{
	cpu->rflags = on ? cpu->rflags | RFLAGS_ZF : cpu->rflags & ~(uint64_t)RFLAGS_ZF;
}

/* Reads the descriptor if selector is within its table. */
static bool descriptor_try(struct cpu *cpu, uint16_t selector, uint64_t *raw)
{
	const struct segment *ldt = &cpu->seg[SEG_LDTR];
	uint32_t limit = selector & 4 ? ldt->limit : cpu->gdtr.limit;

	if (selector_null(selector) || ((selector & 4) && ldt->unusable) || (selector & 0xfff8u) + 7 > limit)
		return false;
	*raw = lin_load(cpu, descriptor_address(cpu, selector), 8, ACCESS_SUPER);
	return true;
}

/* Conforming code is visible to everyone, all else up to its DPL. */
static bool privilege_allows(const struct cpu *cpu, const struct segment *s)
{
	unsigned rpl = s->selector & 3;

	if (segment_is_code(s) && segment_is_conforming(s))
		return true;
	return s->dpl >= cpu->cpl && s->dpl >= rpl;
}

/* System types that LAR and LSL know; gates have no limit. */
static bool lar_type(const struct cpu *cpu, unsigned type)
{
	return (cpu_long_mode(cpu) ? 0x1a04 : 0x1a3e) >> type & 1;
}

static bool lsl_type(const struct cpu *cpu, unsigned type)
{
	return (cpu_long_mode(cpu) ? 0x0a04 : 0x0a0e) >> type & 1;
}

/* LAR and LSL: the descriptor of the selector operand, if it is of a type they know and may be seen. */
static bool descriptor_visible(struct cpu *cpu, const struct insn *insn, bool (*knows)(const struct cpu *, unsigned type), uint64_t *raw,
                               struct segment *s)
{
	uint16_t selector;

	require_protected(cpu);
	selector = rm_load(cpu, insn, 2);
	if (!descriptor_try(cpu, selector, raw))
		return false;
	*s = descriptor_unpack(*raw, selector);
	return (s->s || knows(cpu, s->type)) && privilege_allows(cpu, s);
}

void rule_lar(struct cpu *cpu, const struct insn *insn)
{
	struct segment s;
	uint64_t raw;
	bool ok = descriptor_visible(cpu, insn, lar_type, &raw, &s);

	if (ok)
		reg_set(cpu, insn->reg, insn->opsize, insn->rex, raw >> 32 & (insn->opsize == 2 ? 0xff00 : 0xffff00));
	set_zf(cpu, ok);
}

void rule_lsl(struct cpu *cpu, const struct insn *insn)
{
	struct segment s;
	uint64_t raw;
	bool ok = descriptor_visible(cpu, insn, lsl_type, &raw, &s);

	if (ok)
		reg_set(cpu, insn->reg, insn->opsize, insn->rex, s.limit);
	set_zf(cpu, ok);
}

static void verify(struct cpu *cpu, const struct insn *insn, bool write)
{
	uint16_t selector;
	struct segment s;
	uint64_t raw;
	bool ok = false;

	require_protected(cpu);
	selector = rm_load(cpu, insn, 2);
	if (descriptor_try(cpu, selector, &raw)) {
		s = descriptor_unpack(raw, selector);
		bool readable = s.s && (!(s.type & TYPE_CODE) || (s.type & TYPE_READ));
		ok = (write ? segment_is_writable_data(&s) : readable) && privilege_allows(cpu, &s);
	}
	set_zf(cpu, ok);
}

void rule_verr(struct cpu *cpu, const struct insn *insn)
{
	verify(cpu, insn, false);
}

void rule_verw(struct cpu *cpu, const struct insn *insn)
{
	verify(cpu, insn, true);
}

void rule_arpl(struct cpu *cpu, const struct insn *insn)
{
	uint16_t dest, rpl;

	require_protected(cpu);
	dest = rm_load(cpu, insn, 2);
	rpl = reg_get(cpu, insn->reg, 2, false) & 3;
	if ((dest & 3) < rpl) {
		rm_store(cpu, insn, 2, (dest & ~3u) | rpl);
		set_zf(cpu, true);
	} else {
		set_zf(cpu, false);
	}
}

/* ---- segment registers ---- */

/* After a load of SS neither interrupts nor #DB come before the next instruction. */
static void load_segment(struct cpu *cpu, enum seg seg, uint16_t selector)
{
	seg_load_selector(cpu, seg, selector);
	if (seg == SEG_SS)
		cpu->shadow |= SHADOW_MOV_SS;
}

void rule_mov_to_sreg(struct cpu *cpu, const struct insn *insn)
{
	unsigned seg = insn->modrm >> 3 & 7;

	if (seg == SEG_CS || seg > SEG_GS)
		cpu_raise_ud(cpu);
	load_segment(cpu, seg, rm_load(cpu, insn, 2));
}

void rule_mov_from_sreg(struct cpu *cpu, const struct insn *insn)
{
	unsigned seg = insn->modrm >> 3 & 7;

	if (seg > SEG_GS)
		cpu_raise_ud(cpu);
	store_selector(cpu, insn, cpu->seg[seg].selector);
}

/* PUSH and POP of ES, CS, SS, DS hold the register in bits 4:3 of the opcode; 0F A0/A1 is FS, 0F A8/A9 is GS. */
static enum seg stack_sreg(const struct insn *insn)
{
	if (insn->map == 1)
		return insn->opcode & 8 ? SEG_GS : SEG_FS;
	return insn->opcode >> 3 & 3;
}

void rule_push_sreg(struct cpu *cpu, const struct insn *insn)
{
	stack_push(cpu, insn->opsize, cpu->seg[stack_sreg(insn)].selector);
}

void rule_pop_sreg(struct cpu *cpu, const struct insn *insn)
{
	uint64_t sp = cpu->gpr[REG_RSP], popped;
	uint16_t selector = stack_pop(cpu, insn->opsize);

	/* The load may fault: RSP moves only when it has not. The increment is of the old stack's width. */
	popped = cpu->gpr[REG_RSP];
	cpu->gpr[REG_RSP] = sp;
	load_segment(cpu, stack_sreg(insn), selector);
	cpu->gpr[REG_RSP] = popped;
}

static enum seg far_pointer_segment(const struct insn *insn)
{
	switch (insn->map << 8 | insn->opcode) {
	case 0xc4: return SEG_ES;
	case 0xc5: return SEG_DS;
	case 0x1b2: return SEG_SS;
	case 0x1b4: return SEG_FS;
	default: return SEG_GS;
	}
}

void rule_load_far_pointer(struct cpu *cpu, const struct insn *insn)
{
	uint8_t raw[10];
	uint64_t offset = 0;
	uint16_t selector;

	if (!insn->mem)
		cpu_raise_ud(cpu);
	seg_read(cpu, insn->seg, insn_offset(cpu, insn), raw, insn->opsize + 2u);
	memcpy(&offset, raw, insn->opsize);
	memcpy(&selector, raw + insn->opsize, 2);
	/* Unlike MOV SS, LSS holds nothing off. */
	seg_load_selector(cpu, far_pointer_segment(insn), selector);
	reg_set(cpu, insn->reg, insn->opsize, insn->rex, offset);
}

/* ---- FS and GS bases ---- */

void rule_swapgs(struct cpu *cpu, const struct insn *insn)
{
	uint64_t base = cpu->seg[SEG_GS].base;

	if (!cpu_code64(cpu))
		cpu_raise_ud(cpu);
	require_cpl0(cpu);
	cpu->seg[SEG_GS].base = cpu->msr.kernel_gs_base;
	cpu->msr.kernel_gs_base = base;
}

void rule_fsgsbase(struct cpu *cpu, const struct insn *insn)
{
	unsigned which = insn->modrm >> 3 & 7;           /* 0 RDFSBASE, 1 RDGSBASE, 2 WRFSBASE, 3 WRGSBASE */
	struct segment *s = &cpu->seg[which & 1 ? SEG_GS : SEG_FS];
	unsigned size = insn->rex & 8 ? 8 : 4;           /* 66 does not matter */
	uint64_t value;

	if (!cpu_code64(cpu) || !(cpu->cr4 & CR4_FSGSBASE))
		cpu_raise_ud(cpu);
	if (!(which & 2)) {
		reg_set(cpu, insn->rm, size, insn->rex, s->base);
		return;
	}
	value = reg_get(cpu, insn->rm, size, insn->rex);
	if (!cpu_canonical(cpu, value))
		cpu_raise_gp(cpu);
	s->base = value;
}
