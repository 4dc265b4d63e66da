/*
 * cpu/fpuenv -- FNSTENV, FLDENV, FNSAVE and FRSTOR in their four layouts: 16
 * or 32 bits wide, for protected mode (pointers as selector and offset) or
 * real and virtual-8086 mode (linear address and opcode).
 */
#include "cpu/access.h"
#include "cpu/rules.h"

/* The 32-bit protected-mode environment, which the host's instructions use in 64-bit mode. */
struct fpu_env { uint32_t fcw, fsw, ftw, fip, fcs_fop, fdp, fds; };
struct fpu_save { struct fpu_env env; uint8_t st[80]; };
_Static_assert(sizeof(struct fpu_env) == 28 && sizeof(struct fpu_save) == 108, "the processor's own formats");

enum { FSW_ES = 0x80 };

static bool is_small(const struct cpu *cpu, const struct insn *insn)
{
	return ((cpu->mode & MODE_CODE_MASK) == MODE_CODE16) != insn->opsize_prefix;
}

static unsigned env_size(const struct cpu *cpu, const struct insn *insn)
{
	return is_small(cpu, insn) ? 14 : 28;
}

/* One field: a word, or a word in a doubleword. */
static void put_field(uint8_t *out, bool small, unsigned i, uint32_t value)
{
	memcpy(out + (small ? 2 : 4) * i, &value, small ? 2 : 4);
}

static uint32_t get_field(const uint8_t *in, bool small, unsigned i)
{
	uint32_t value = 0;

	memcpy(&value, in + (small ? 2 : 4) * i, small ? 2 : 4);
	return value;
}

/* Fields 3 to 6: pointers and opcode. */
static void env_pack(const struct cpu *cpu, const struct insn *insn, const struct fpu_env *env, uint8_t *out)
{
	bool small = is_small(cpu, insn);
	uint32_t high = small ? 0 : 0xffff0000, op = cpu->fpu_op & 0x7ff;

	put_field(out, small, 0, (uint16_t)env->fcw | high);
	put_field(out, small, 1, (uint16_t)env->fsw | high);
	put_field(out, small, 2, (uint16_t)env->ftw | high);
	if (cpu_protected(cpu)) {
		put_field(out, small, 3, cpu->fpu_ip);
		put_field(out, small, 4, small ? 0 : op << 16);
		put_field(out, small, 5, cpu->fpu_dp);
		put_field(out, small, 6, high);
		return;
	}
	uint32_t ip = cpu->fpu_ip + cpu->seg[SEG_CS].base, dp = cpu->fpu_dp;

	put_field(out, small, 3, (uint16_t)ip | high);
	put_field(out, small, 4, ip >> 16 << 12 | op);
	put_field(out, small, 5, (uint16_t)dp | high);
	put_field(out, small, 6, dp >> 16 << 12);
}

static void env_unpack(struct cpu *cpu, const struct insn *insn, const uint8_t *in, struct fpu_env *env)
{
	bool small = is_small(cpu, insn);
	uint32_t f4 = get_field(in, small, 4), f6 = get_field(in, small, 6);

	*env = (struct fpu_env){ .fcw = (uint16_t)get_field(in, small, 0), .fsw = (uint16_t)get_field(in, small, 1),
	                         .ftw = (uint16_t)get_field(in, small, 2) };
	cpu->fpu_ip = get_field(in, small, 3);
	cpu->fpu_dp = get_field(in, small, 5);
	if (cpu_protected(cpu)) {
		cpu->fpu_op = small ? 0 : f4 >> 16 & 0x7ff;
		return;
	}
	cpu->fpu_ip = ((uint16_t)cpu->fpu_ip | (uint64_t)(f4 >> 12 << 16)) - cpu->seg[SEG_CS].base;
	cpu->fpu_dp = (uint16_t)cpu->fpu_dp | (uint64_t)(f6 >> 12 << 16);
	cpu->fpu_op = f4 & 0x7ff;
}

static void check_available(struct cpu *cpu)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VEC_NM);
}

/* FLDENV and FRSTOR first report a pending exception, as all waiting instructions do. */
static void check_pending(struct cpu *cpu)
{
	uint16_t fsw;

	asm volatile("fnstsw %0" : "=m"(fsw));
	if (fsw & FSW_ES)
		cpu_raise(cpu, VEC_MF);
}

static uint64_t operand(struct cpu *cpu, const struct insn *insn, unsigned size, unsigned access)
{
	return seg_linear(cpu, insn->seg, insn_offset(cpu, insn), size, access);
}

void rule_fnstenv(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(cpu, insn);
	struct fpu_env env;
	uint8_t out[28];
	uint64_t addr;

	check_available(cpu);
	addr = operand(cpu, insn, size, ACCESS_WRITE);
	lin_probe_write(cpu, addr, size, 0);
	asm volatile("fnstenv %0" : "=m"(env));
	env_pack(cpu, insn, &env, out);
	lin_write(cpu, addr, out, size, 0);
}

void rule_fldenv(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(cpu, insn);
	struct fpu_env env;
	uint8_t in[28];

	check_available(cpu);
	check_pending(cpu);
	lin_read(cpu, operand(cpu, insn, size, ACCESS_READ), in, size, 0);
	env_unpack(cpu, insn, in, &env);
	asm volatile("fldenv %0" : : "m"(env));
}

void rule_fnsave(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(cpu, insn);
	struct fpu_save save;
	uint8_t out[108];
	uint64_t addr;

	check_available(cpu);
	addr = operand(cpu, insn, size + 80, ACCESS_WRITE);
	lin_probe_write(cpu, addr, size + 80, 0);
	asm volatile("fnsave %0" : "=m"(save));
	env_pack(cpu, insn, &save.env, out);
	memcpy(out + size, save.st, 80);
	lin_write(cpu, addr, out, size + 80, 0);
	cpu->fpu_ip = cpu->fpu_dp = cpu->fpu_op = 0;
}

void rule_frstor(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(cpu, insn);
	struct fpu_save save;
	uint8_t in[108];

	check_available(cpu);
	check_pending(cpu);
	lin_read(cpu, operand(cpu, insn, size + 80, ACCESS_READ), in, size + 80, 0);
	env_unpack(cpu, insn, in, &save.env);
	memcpy(save.st, in + size, 80);
	asm volatile("frstor %0" : : "m"(save));
}
