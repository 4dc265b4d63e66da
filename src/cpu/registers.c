/* cpu/registers -- register and r/m operands, and the stack as the mode has it. */
#include "cpu/access.h"

static bool is_high_byte(unsigned reg, unsigned size, bool rex)
{
	return size == 1 && !rex && reg >= 4 && reg < 8;
}

uint64_t reg_get(const struct cpu *cpu, unsigned reg, unsigned size, bool rex)
{
	if (is_high_byte(reg, size, rex))
		return (uint8_t)(cpu->gpr[reg - 4] >> 8);
	switch (size) {
	case 1: return (uint8_t)cpu->gpr[reg];
	case 2: return (uint16_t)cpu->gpr[reg];
	case 4: return (uint32_t)cpu->gpr[reg];
	default: return cpu->gpr[reg];
	}
}

void reg_set(struct cpu *cpu, unsigned reg, unsigned size, bool rex, uint64_t value)
{
	uint64_t *r = &cpu->gpr[reg];

	if (is_high_byte(reg, size, rex)) {
		r = &cpu->gpr[reg - 4];
		*r = (*r & ~0xff00ull) | (value & 0xff) << 8;
		return;
	}
	switch (size) {
	case 1: *r = (*r & ~0xffull) | (uint8_t)value; break;
	case 2: *r = (*r & ~0xffffull) | (uint16_t)value; break;
	case 4: *r = (uint32_t)value; break;
	default: *r = value;
	}
}

uint64_t rm_load(struct cpu *cpu, const struct insn *insn, unsigned size)
{
	return insn->mem ? insn_load(cpu, insn, size) : reg_get(cpu, insn->rm, size, insn->rex);
}

void rm_store(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value)
{
	if (insn->mem)
		insn_store(cpu, insn, size, value);
	else
		reg_set(cpu, insn->rm, size, insn->rex, value);
}

/* ---- the stack ---- */

unsigned stack_addr_size(const struct cpu *cpu)
{
	return cpu_code64(cpu) ? 8 : cpu->seg[SEG_SS].db ? 4 : 2;
}

uint64_t stack_pointer(const struct cpu *cpu)
{
	return reg_get(cpu, REG_RSP, stack_addr_size(cpu), true);
}

void stack_pointer_set(struct cpu *cpu, uint64_t value)
{
	reg_set(cpu, REG_RSP, stack_addr_size(cpu), true, value);
}

static uint64_t stack_wrap(const struct cpu *cpu, uint64_t sp)
{
	unsigned width = stack_addr_size(cpu);

	return width == 8 ? sp : width == 4 ? (uint32_t)sp : (uint16_t)sp;
}

void stack_push(struct cpu *cpu, unsigned size, uint64_t value)
{
	uint64_t sp = stack_wrap(cpu, stack_pointer(cpu) - size);

	seg_store(cpu, SEG_SS, sp, size, value);
	stack_pointer_set(cpu, sp);
}

uint64_t stack_pop(struct cpu *cpu, unsigned size)
{
	uint64_t sp = stack_pointer(cpu), value = seg_load(cpu, SEG_SS, sp, size);

	stack_pointer_set(cpu, sp + size);
	return value;
}
