/*
 * cpu/legacy -- stack and near-branch instructions for any mode and operand
 * size, and others that no longer are common. Memory is accessed before any
 * register changes, so that a fault leaves the state as it was.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/rules.h"

static uint64_t wrap(uint64_t value, unsigned size)
{
	return size == 8 ? value : size == 4 ? (uint32_t)value : (uint16_t)value;
}

static int64_t sign_extend(uint64_t value, unsigned size)
{
	return size ? (int64_t)(value << (64 - 8 * size)) >> (64 - 8 * size) : (int64_t)value;
}

/* 64-bit mode has no 4-byte stack operations. */
static unsigned stack_operand_size(const struct cpu *cpu, const struct insn *insn)
{
	return cpu_code64(cpu) && insn->opsize == 4 ? 8 : insn->opsize;
}

/* Near branches in 64-bit mode are always 64 bits wide. */
static unsigned branch_size(const struct cpu *cpu, const struct insn *insn)
{
	return cpu_code64(cpu) ? 8 : insn->opsize == 2 ? 2 : 4;
}

/* ---- PUSH, POP and their families ---- */

void rule_push(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);
	bool immediate = insn->map == 0 && (insn->opcode == 0x68 || insn->opcode == 0x6a);

	stack_push(cpu, size, immediate ? (uint64_t)sign_extend(insn->imm, insn->imm_size) : rm_load(cpu, insn, size));
}

/* A memory operand addressed by RSP is addressed by its value after the pop. */
static void pop_to_memory(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value, uint64_t sp)
{
	uint64_t old = cpu->gpr[REG_RSP], offset;

	stack_pointer_set(cpu, sp);
	offset = insn_offset(cpu, insn);
	cpu->gpr[REG_RSP] = old;
	seg_store(cpu, insn->seg, offset, size, value);
	stack_pointer_set(cpu, sp);
}

void rule_pop(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);
	uint64_t sp = stack_pointer(cpu), value = seg_load(cpu, SEG_SS, sp, size);

	if (insn->mem) {
		pop_to_memory(cpu, insn, size, value, sp + size);
		return;
	}
	stack_pointer_set(cpu, sp + size);
	reg_set(cpu, insn->rm, size, true, value);
}

void rule_pusha(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t sp = stack_pointer(cpu), width = stack_addr_size(cpu);

	for (unsigned i = 0; i < 8; i++)
		seg_store(cpu, SEG_SS, wrap(sp - (i + 1) * size, width), size, reg_get(cpu, i, size, true));
	stack_pointer_set(cpu, sp - 8 * size);
}

void rule_popa(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t sp = stack_pointer(cpu), width = stack_addr_size(cpu), value[8];

	for (unsigned i = 0; i < 8; i++)
		value[7 - i] = seg_load(cpu, SEG_SS, wrap(sp + i * size, width), size);
	for (unsigned i = 0; i < 8; i++)
		if (i != REG_RSP)
			reg_set(cpu, i, size, true, value[i]);
	stack_pointer_set(cpu, sp + 8 * size);
}

/* Copies the display: the frame pointers of the enclosing procedures. Returns the stack pointer after it. */
static uint64_t enter_display(struct cpu *cpu, unsigned size, unsigned level, uint64_t sp, uint64_t frame)
{
	unsigned width = stack_addr_size(cpu);
	uint64_t bp = reg_get(cpu, REG_RBP, width, true);

	for (unsigned i = 1; i < level; i++) {
		uint64_t link;

		bp = wrap(bp - size, width);
		link = seg_load(cpu, SEG_SS, bp, size);
		sp = wrap(sp - size, width);
		seg_store(cpu, SEG_SS, sp, size, link);
	}
	sp = wrap(sp - size, width);
	seg_store(cpu, SEG_SS, sp, size, frame);
	return sp;
}

void rule_enter(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn), width = stack_addr_size(cpu), level = insn->imm2 & 31;
	uint64_t sp = wrap(stack_pointer(cpu) - size, width), frame = (cpu->gpr[REG_RSP] & ~wrap(~0ull, width)) | sp;

	seg_store(cpu, SEG_SS, sp, size, reg_get(cpu, REG_RBP, size, true));
	if (level)
		sp = enter_display(cpu, size, level, sp, frame);
	sp = wrap(sp - (uint16_t)insn->imm, width);
	/* It faults if a push to the new stack would. */
	lin_probe_write(cpu, seg_linear(cpu, SEG_SS, sp, size, ACCESS_WRITE), size, 0);
	reg_set(cpu, REG_RBP, size, true, frame);
	stack_pointer_set(cpu, sp);
}

void rule_leave(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);
	uint64_t sp = reg_get(cpu, REG_RBP, stack_addr_size(cpu), true), frame = seg_load(cpu, SEG_SS, sp, size);

	stack_pointer_set(cpu, sp + size);
	reg_set(cpu, REG_RBP, size, true, frame);
}

/* ---- near branches ---- */

static void check_target(struct cpu *cpu, uint64_t target)
{
	if (cpu_code64(cpu) ? !cpu_canonical(cpu, target) : target > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
}

static uint64_t relative_target(const struct cpu *cpu, const struct insn *insn)
{
	return wrap(cpu->next_rip + sign_extend(insn->imm, insn->imm_size), branch_size(cpu, insn));
}

static uint64_t branch_target(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = branch_size(cpu, insn);

	return insn->has_modrm ? rm_load(cpu, insn, size) : relative_target(cpu, insn);
}

/* A CALL to the next instruction only wants to know its address: that is no return address. */
static bool calls_next(const struct insn *insn)
{
	return !insn->has_modrm && !insn->imm;
}

/* On the stack, then on the shadow stack; both stack pointers move when neither has faulted. */
static void push_return(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = branch_size(cpu, insn);
	uint64_t before = cpu->gpr[REG_RSP], after;

	stack_push(cpu, size, cpu->next_rip);
	if (!(cpu->mode & MODE_SHSTK) || calls_next(insn))
		return;
	after = cpu->gpr[REG_RSP];
	cpu->gpr[REG_RSP] = before;
	cpu->cet.ssp = shadow_near_call(cpu, size, cpu->next_rip);
	cpu->gpr[REG_RSP] = after;
}

void rule_near_call(struct cpu *cpu, const struct insn *insn)
{
	uint64_t target = branch_target(cpu, insn);

	check_target(cpu, target);
	push_return(cpu, insn);
	cpu->next_rip = target;
	if (insn->has_modrm)
		track_indirect(cpu, insn);
}

void rule_near_ret(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = branch_size(cpu, insn);
	uint64_t sp = stack_pointer(cpu), target = seg_load(cpu, SEG_SS, sp, size);

	check_target(cpu, target);
	if (cpu->mode & MODE_SHSTK)
		cpu->cet.ssp = shadow_near_ret(cpu, size, target);
	stack_pointer_set(cpu, sp + size + (insn->imm_size ? (uint16_t)insn->imm : 0));
	cpu->next_rip = target;
}

/* The sixteen conditions of Jcc; odd ones negate. */
static bool condition(const struct cpu *cpu, unsigned code)
{
	uint64_t f = cpu->rflags;
	bool less = !(f & RFLAGS_SF) != !(f & RFLAGS_OF), is;

	switch (code >> 1) {
	case 0: is = f & RFLAGS_OF; break;
	case 1: is = f & RFLAGS_CF; break;
	case 2: is = f & RFLAGS_ZF; break;
	case 3: is = f & (RFLAGS_CF | RFLAGS_ZF); break;
	case 4: is = f & RFLAGS_SF; break;
	case 5: is = f & RFLAGS_PF; break;
	case 6: is = less; break;
	default: is = less || (f & RFLAGS_ZF);
	}
	return is != (code & 1);
}

void rule_near_jmp(struct cpu *cpu, const struct insn *insn)
{
	bool conditional = insn->map == 1 ? (insn->opcode & 0xf0) == 0x80 : (insn->opcode & 0xf0) == 0x70;
	uint64_t target;

	if (conditional && !condition(cpu, insn->opcode & 15))
		return;
	target = branch_target(cpu, insn);
	check_target(cpu, target);
	cpu->next_rip = target;
	if (insn->has_modrm)
		track_indirect(cpu, insn);
}

/* LOOPNE, LOOPE, LOOP, JCXZ: opcodes E0 to E3. The counter has the address size. */
void rule_loop(struct cpu *cpu, const struct insn *insn)
{
	uint64_t count = reg_get(cpu, REG_RCX, insn->addrsize, true), target = relative_target(cpu, insn);
	bool zero = cpu->rflags & RFLAGS_ZF, taken;

	if (insn->opcode == 0xe3) {
		taken = count == 0;
	} else {
		count = wrap(count - 1, insn->addrsize);
		taken = count && (insn->opcode == 0xe2 || zero == (insn->opcode == 0xe1));
	}
	if (taken) {
		check_target(cpu, target);
		cpu->next_rip = target;
	}
	if (insn->opcode != 0xe3)
		reg_set(cpu, REG_RCX, insn->addrsize, true, count);
}

/* ---- odds ---- */

void rule_xlat(struct cpu *cpu, const struct insn *insn)
{
	uint64_t offset = wrap(cpu->gpr[REG_RBX] + (uint8_t)cpu->gpr[REG_RAX], insn->addrsize);

	reg_set(cpu, REG_RAX, 1, true, seg_load(cpu, insn->seg, offset, 1));
}

/* SALC: AL from the carry flag. */
void rule_les_salc(struct cpu *cpu, const struct insn *insn)
{
	reg_set(cpu, REG_RAX, 1, true, cpu->rflags & RFLAGS_CF ? 0xff : 0);
}
