/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT: transfers that read no descriptors. CS
 * and SS become flat segments, whatever the tables say.
 *
 * Intel's rules: SYSCALL exists in 64-bit code only, and SYSRET to a
 * non-canonical address faults in ring 0. A guest that sees an AMD processor
 * may use SYSCALL in compatibility mode too.
 */
#include "cpu/cet.h"
#include "cpu/transfer.h"
#include "x86/features.h"

static void enter_flat(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool l, uint64_t rip, uint64_t rflags)
{
	cpu->seg[SEG_CS] = segment_flat_code(cs, cpl, l);
	cpu->seg[SEG_SS] = segment_flat_data(ss, cpl);
	cpu->cpl = cpl;
	cpu->next_rip = rip;
	cpu_set_rflags(cpu, rflags);
	cpu_mode_update(cpu);
}

void rule_syscall(struct cpu *cpu, const struct insn *insn)
{
	uint16_t cs = cpu->msr.star >> 32 & 0xfffc, ss = (cpu->msr.star >> 32) + 8;
	bool wide = cpu_code64(cpu);

	if (!cpu_long_mode(cpu) || !(cpu->efer & EFER_SCE) || (!wide && !cpu_has(cpu, FEATURE_VENDOR_AMD)))
		cpu_raise_ud(cpu);
	cpu->gpr[REG_RCX] = cpu->next_rip;
	cpu->gpr[REG_R11] = cpu->rflags & ~(uint64_t)RFLAGS_RF;
	if (unlikely(cpu->cr4 & CR4_CET))
		cet_system_call(cpu);
	enter_flat(cpu, cs, ss, 0, true, wide ? cpu->msr.lstar : cpu->msr.cstar,
	           cpu->rflags & ~(cpu->msr.fmask | RFLAGS_RF | RFLAGS_VM));
	/* Whether this instruction traps is decided by TF as the mask has left it. */
	cpu->tf_at_start = cpu->rflags & RFLAGS_TF;
}

void rule_sysret(struct cpu *cpu, const struct insn *insn)
{
	const uint64_t flags = RFLAGS_VALID & ~(uint64_t)(RFLAGS_RF | RFLAGS_VM);
	uint16_t base = cpu->msr.star >> 48;
	bool wide = insn->rex & 8, stepping = cpu->mode & MODE_STEP;
	uint64_t rip = wide ? cpu->gpr[REG_RCX] : cpu->gpr[REG_RCX] & 0xffffffff;

	if (!cpu_code64(cpu) || !(cpu->efer & EFER_SCE))
		cpu_raise_ud(cpu);
	if (cpu->cpl != 0 || (wide && !cpu_canonical(cpu, rip)))
		cpu_raise_gp(cpu);
	if (unlikely(cpu->cr4 & CR4_CET))
		cet_system_return(cpu);
	enter_flat(cpu, (base + (wide ? 16 : 0)) | 3, (base + 8) | 3, 3, wide, rip, cpu->gpr[REG_R11] & flags);
	/* A TF that this instruction sets traps right after it, unlike POPF's. */
	if (stepping)
		cpu->tf_at_start = cpu->rflags & RFLAGS_TF;
	else if (cpu->rflags & RFLAGS_TF)
		cpu->event = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = VEC_DB, .has_payload = true,
		                             .payload = DR6_BS };
}

void rule_sysenter(struct cpu *cpu, const struct insn *insn)
{
	bool wide = cpu_long_mode(cpu);
	uint16_t cs = cpu->msr.sysenter_cs & 0xfffc;
	uint64_t mask = wide ? ~0ull : 0xffffffff;

	if (!cpu_has(cpu, FEATURE_SEP))
		cpu_raise_ud(cpu);
	if (!(cpu->cr0 & CR0_PE) || !cs)
		cpu_raise_gp(cpu);
	if (unlikely(cpu->cr4 & CR4_CET))
		cet_system_call(cpu);
	cpu->gpr[REG_RSP] = cpu->msr.sysenter_esp & mask;
	enter_flat(cpu, cs, cs + 8, 0, wide, cpu->msr.sysenter_eip & mask,
	           cpu->rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
}

void rule_sysexit(struct cpu *cpu, const struct insn *insn)
{
	bool wide = insn->rex & 8;
	uint16_t cs = cpu->msr.sysenter_cs & 0xfffc;
	uint64_t mask = wide ? ~0ull : 0xffffffff;
	uint64_t rip = cpu->gpr[REG_RDX] & mask, rsp = cpu->gpr[REG_RCX] & mask;

	if (!cpu_has(cpu, FEATURE_SEP))
		cpu_raise_ud(cpu);
	if (!cpu_protected(cpu) || cpu->cpl != 0 || !cs)
		cpu_raise_gp(cpu);
	if (wide && (!cpu_canonical(cpu, rip) || !cpu_canonical(cpu, rsp)))
		cpu_raise_gp(cpu);
	cs += wide ? 32 : 16;
	cpu->gpr[REG_RSP] = rsp;
	if (unlikely(cpu->cr4 & CR4_CET))
		cet_system_return(cpu);
	enter_flat(cpu, cs | 3, (cs + 8) | 3, 3, wide, rip, cpu->rflags);
}
