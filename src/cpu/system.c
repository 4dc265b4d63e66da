/*
 * Instructions that manage translations, caches and the processor's activity:
 * INVLPG, INVPCID, WBINVD, CLFLUSH, HLT, MONITOR, MWAIT, PAUSE, GETSEC.
 */
#include "cpu/access.h"
#include "cpu/rules.h"
#include "cpu/time.h"
#include "x86/features.h"
#include "x86/vmx.h"

static void require_cpl0(struct cpu *cpu)
{
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
}

void rule_ud(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise_ud(cpu);
}

/* Linear address of an operand that is named, not accessed: no limit, no canonical check. */
static uint64_t named_address(const struct cpu *cpu, const struct insn *insn)
{
	uint64_t offset = insn_offset(cpu, insn);

	if (!cpu_code64(cpu))
		return (cpu->seg[(unsigned)insn->seg].base + offset) & 0xffffffff;
	return insn->seg >= SEG_FS ? cpu->seg[(unsigned)insn->seg].base + offset : offset;
}

void rule_invlpg(struct cpu *cpu, const struct insn *insn)
{
	uint64_t addr;

	require_cpl0(cpu);
	addr = named_address(cpu, insn);
	if (cpu_in_guest(cpu) && (cpu->ctl->primary & PRIMARY_INVLPG))
		cpu_vmexit(cpu, EXIT_INVLPG, addr);
	if (cpu_canonical(cpu, addr))
		tlb_flush_addr(cpu, addr);
}

enum { INVPCID_ADDRESS, INVPCID_SINGLE, INVPCID_ALL_GLOBAL, INVPCID_ALL };

static void invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, uint64_t addr)
{
	bool one = type == INVPCID_ADDRESS || type == INVPCID_SINGLE;

	if (type > INVPCID_ALL || pcid >> 12 || (one && pcid && !(cpu->cr4 & CR4_PCIDE)))
		cpu_raise_gp(cpu);
	if (type == INVPCID_ADDRESS && !cpu_canonical(cpu, addr))
		cpu_raise_gp(cpu);
	if (type == INVPCID_ADDRESS)
		tlb_flush_pcid_addr(cpu, pcid, addr);
	else if (type == INVPCID_SINGLE)
		tlb_flush_pcid(cpu, pcid, false);
	else
		tlb_flush_vpid(cpu, cpu->ctl->vpid, type == INVPCID_ALL_GLOBAL);
}

void rule_invpcid(struct cpu *cpu, const struct insn *insn)
{
	const struct control_block *ctl = cpu->ctl;
	bool enabled = !ctl->non_root || ((ctl->primary & PRIMARY_SECONDARY) && (ctl->secondary & SECONDARY_INVPCID));
	uint64_t desc[2];

	if (!cpu_has(cpu, FEATURE_INVPCID) || !enabled || (cpu->mode & MODE_VM86))
		cpu_raise_ud(cpu);
	require_cpl0(cpu);
	if (ctl->non_root && (ctl->primary & PRIMARY_INVLPG)) {
		cpu->vmexit.insn_info = intercept_insn_info(cpu, insn);
		cpu_vmexit(cpu, EXIT_INVPCID, insn->disp);
	}
	seg_read(cpu, insn->seg, insn_offset(cpu, insn), desc, sizeof(desc));
	invpcid(cpu, reg_get(cpu, insn->reg, cpu_code64(cpu) ? 8 : 4, false), desc[0], desc[1]);
}

void rule_wbinvd(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept_secondary(cpu, SECONDARY_WBINVD, EXIT_WBINVD);
}

void rule_invd(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept_always(cpu, EXIT_INVD);
}

/* Caches are the host's and coherent; only the address can fault, like a load of one byte. */
void rule_clflush(struct cpu *cpu, const struct insn *insn)
{
	if (!insn->mem)
		cpu_raise_ud(cpu);
	tlb_translate(cpu, seg_linear(cpu, insn->seg, insn_offset(cpu, insn), 1, ACCESS_READ), ACCESS_READ);
}

void rule_hlt(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept_primary(cpu, PRIMARY_HLT, EXIT_HLT);
	cpu->rip = cpu->next_rip;
	cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
	cpu->activity = ACTIVITY_HLT;
	/* A trap that is due after HLT itself finds the processor halted, and wakes it. */
	if (cpu->mode & MODE_STEP)
		cpu_debug_trap(cpu);
	cpu->rf_at_start = false;
	cpu_leave(cpu, CPU_EXIT_HLT);
}

/* MONITOR and MWAIT are allowed to do nothing: a wake-up may always come early. */
void rule_monitor(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->mwait_faults && !cpu_has(cpu, FEATURE_MONITOR)) || cpu->cpl != 0)
		cpu_raise_ud(cpu);
	intercept_primary(cpu, PRIMARY_MONITOR, EXIT_MONITOR);
	if ((uint32_t)cpu->gpr[REG_RCX])
		cpu_raise_gp(cpu);
	tlb_translate(cpu, seg_linear(cpu, insn->seg, reg_get(cpu, REG_RAX, insn->addrsize, false), 1, ACCESS_READ), ACCESS_READ);
}

void rule_mwait(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->mwait_faults && !cpu_has(cpu, FEATURE_MONITOR)) || cpu->cpl != 0)
		cpu_raise_ud(cpu);
	intercept_primary(cpu, PRIMARY_MWAIT, EXIT_MWAIT);
	if ((uint32_t)cpu->gpr[REG_RCX] > 1)
		cpu_raise_gp(cpu);
	__asm__ volatile("pause");
}

/* PAUSEs of CPL 0 that follow each other within the gap make a loop; one that goes on beyond the window exits. */
static void pause_loop(struct cpu *cpu)
{
	struct control_block *ctl = cpu->ctl;
	uint64_t now = tsc_l1(cpu);

	if (!ctl->ple_last || now - ctl->ple_last > ctl->ple_gap)
		ctl->ple_first = now;
	ctl->ple_last = now;
	if (now - ctl->ple_first > ctl->ple_window)
		cpu_vmexit(cpu, EXIT_PAUSE, 0);
}

void rule_pause(struct cpu *cpu, const struct insn *insn)
{
	intercept_primary(cpu, PRIMARY_PAUSE, EXIT_PAUSE);
	if (cpu_in_guest(cpu) && (cpu->ctl->secondary & SECONDARY_PLE) && cpu->cpl == 0)
		pause_loop(cpu);
	__asm__ volatile("pause");
}

/* ---- waiting at any privilege level ---- */

static void require_user_wait(struct cpu *cpu)
{
	if (!cpu_has(cpu, FEATURE_WAITPKG) || (cpu_in_guest(cpu) && !(cpu->ctl->secondary & SECONDARY_USER_WAIT)))
		cpu_raise_ud(cpu);
}

void rule_umonitor(struct cpu *cpu, const struct insn *insn)
{
	require_user_wait(cpu);
	tlb_translate(cpu, seg_linear(cpu, insn->seg, reg_get(cpu, insn->rm, insn->addrsize, false), 1, ACCESS_READ), ACCESS_READ);
}

/* TPAUSE and UMWAIT: a wake-up may always come early. CF would tell that the operating system's limit was reached. */
void rule_user_wait(struct cpu *cpu, const struct insn *insn)
{
	bool tpause = insn->mnemonic == ZYDIS_MNEMONIC_TPAUSE;

	require_user_wait(cpu);
	if ((cpu->cr4 & CR4_TSD) && cpu->cpl > 0)
		cpu_raise_gp(cpu);
	if (cpu_in_guest(cpu))
		cpu->vmexit.insn_info = (uint32_t)insn->rm << 3;
	intercept_primary(cpu, PRIMARY_RDTSC, tpause ? EXIT_TPAUSE : EXIT_UMWAIT);
	if ((uint32_t)cpu->gpr[insn->rm] & ~1u)
		cpu_raise_gp(cpu);
	cpu->rflags &= ~(uint64_t)RFLAGS_ARITH;
	__asm__ volatile("pause");
}

/* There are no enclaves: whatever does not exit is undefined. */
void rule_encls(struct cpu *cpu, const struct insn *insn)
{
	uint32_t leaf = cpu->gpr[REG_RAX];

	if (cpu_protected(cpu) && cpu->cpl == 0 && cpu_in_guest(cpu) && (cpu->ctl->secondary & SECONDARY_ENCLS) &&
	    (cpu->ctl->encls_bitmap >> (leaf < 63 ? leaf : 63) & 1))
		cpu_vmexit(cpu, EXIT_ENCLS, 0);
	cpu_raise_ud(cpu);
}

/* SMX is not offered. */
void rule_getsec(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise_ud(cpu);
}
