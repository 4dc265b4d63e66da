/*
 * What translated code calls for a memory operand: the slow way of a fast
 * access (TLB miss), and the two halves of a careful one. info is made in
 * memory.c: size, access, segment, which operand, instruction length.
 */
#include "xlat/internal.h"

static unsigned info_size(uint64_t info) { return info & 0xffff; }
static unsigned info_access(uint64_t info) { return info >> 16 & 0xff; }
static enum seg info_seg(uint64_t info) { return info >> 24 & 0xf; }
static unsigned info_which(uint64_t info) { return info >> 28 & 0xf; }
static unsigned info_length(uint64_t info) { return info >> 32 & 0xf; }
static bool info_aligned(uint64_t info) { return info >> 36 & 1; }
static bool info_x87_wait(uint64_t info) { return info >> 37 & 1; }

/* A pending x87 exception comes before any fault of the operand. */
static void check_x87(struct cpu *cpu, uint64_t info)
{
	uint16_t fsw;
	if (!info_x87_wait(info))
		return;
	asm volatile("fnstsw %0" : "=m"(fsw));
	if (fsw & 0x80 && cpu->cr0 & CR0_NE)
		cpu_raise(cpu, VEC_MF);
}

/* So does misalignment of an operand that must be aligned. */
static void check_aligned(struct cpu *cpu, uint64_t info, uint64_t addr)
{
	if (info_aligned(info) && addr & (info_size(info) - 1))
		cpu_raise_gp(cpu);
}

/* Leaves the block: the instruction at rip is to be run as a careful translation. */
static _Noreturn void be_careful(struct cpu *cpu)
{
	cpu->engine->want_careful = true;
	cpu->leave_why = CPU_EXIT_NONE;
	__builtin_longjmp(cpu->unwind, 1);
}

/* RAM inside one page whose stores need no notice? Then cpu->slow_result is its host address. */
void slow_access(struct cpu *cpu, uint64_t info)
{
	uint64_t addr = cpu->slow_addr;
	unsigned size = info_size(info), access = info_access(info);
	struct engine *en = cpu->engine;
	en->stats.slow++;
	check_x87(cpu, info);
	if ((addr & 4095) + size > 4096 || (cpu_code64(cpu) && !cpu_canonical(cpu, addr)))
		be_careful(cpu);
	en->slow_insn.len = info_length(info);
	cpu->cur_insn = &en->slow_insn;
	check_aligned(cpu, info, addr);
	struct translation t = tlb_translate(cpu, addr, access);
	if (!t.host || !t.slot || t.apic_access)
		be_careful(cpu);
	if (access & ACCESS_WRITE && atomic_load(mem_slot_code(t.slot, t.gpa)))
		be_careful(cpu);
	cpu->slow_result = (uintptr_t)t.host;
}

void careful_begin(struct cpu *cpu, uint64_t info)
{
	unsigned size = info_size(info), access = info_access(info);
	check_x87(cpu, info);
	uint64_t addr = seg_linear(cpu, info_seg(info), cpu->slow_addr, size, access);
	check_aligned(cpu, info, addr);
	cpu->slow_result = (uintptr_t)access_begin(cpu, info_which(info), addr, size, access);
}

void careful_commit(struct cpu *cpu, uint64_t which) { access_commit(cpu, which); }
