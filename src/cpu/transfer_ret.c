/*
 * Far RET and IRET, in every mode: to the same ring, to an outer ring, to
 * virtual-8086 mode, and back to the previous task.
 */
#include "cpu/cet.h"
#include "cpu/transfer.h"
#include "x86/vmx.h"

/* ---- RFLAGS ---- */

/* Bits that IRET may load at privilege cpl with an operand of size bytes. */
static uint64_t iret_flags_mask(const struct cpu *cpu, unsigned cpl, unsigned size)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (cpl == 0)
		mask |= RFLAGS_IOPL;
	if (cpl <= (cpu->rflags >> 12 & 3))
		mask |= RFLAGS_IF;
	if (size > 2) {
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
		if (cpl == 0)
			mask |= RFLAGS_VIF | RFLAGS_VIP;
	}
	return mask;
}

/*
 * RF counts for the next instruction only, and only where instruction
 * breakpoints are armed; elsewhere it is dropped here, so that no later event
 * saves a stale one.
 */
static uint64_t iret_keep_rf(const struct cpu *cpu, uint64_t rflags)
{
	return cpu->mode & MODE_STEP || (cpu->dr7 & 0xff) ? rflags : rflags & ~(uint64_t)RFLAGS_RF;
}

static void set_flags(struct cpu *cpu, uint64_t value, uint64_t mask)
{
	cpu_set_rflags(cpu, iret_keep_rf(cpu, (cpu->rflags & ~mask) | (value & mask)));
}

/* ---- code and stack of the target ---- */

/* The code segment that a return goes to; its RPL becomes the CPL. */
static struct segment return_code(struct cpu *cpu, uint16_t selector, uint64_t *raw)
{
	unsigned rpl = selector & 3;
	struct segment cs;

	if (selector_null(selector))
		cpu_raise_gp(cpu);
	cs = descriptor_fetch(cpu, selector, VEC_GP, raw);
	bool privilege_ok = segment_is_conforming(&cs) ? cs.dpl <= rpl : cs.dpl == rpl;
	if (!segment_is_code(&cs) || rpl < cpu->cpl || !privilege_ok || (cpu_long_mode(cpu) && cs.l && cs.db))
		cpu_raise_error(cpu, VEC_GP, selector_error(selector));
	if (!cs.present)
		cpu_raise_error(cpu, VEC_NP, selector_error(selector));
	return cs;
}

/* The stack segment that goes with it. Null is fine for 64-bit code below ring 3. */
static struct segment return_stack(struct cpu *cpu, uint16_t selector, const struct segment *cs, uint64_t *raw)
{
	unsigned cpl = cs->selector & 3;
	struct segment ss;

	if (!selector_null(selector))
		return stack_segment_fetch(cpu, selector, cpl, VEC_GP, raw);
	if (!cpu_long_mode(cpu) || !cs->l || cpl == 3 || (selector & 3) != cpl)
		cpu_raise_gp(cpu);
	ss = segment_null(selector);
	ss.dpl = cpl;
	return ss;
}

static void load_stack(struct cpu *cpu, const struct segment *cs, const struct segment *ss, uint64_t sp)
{
	unsigned width = stack_width(cpu_long_mode(cpu) && cs->l, ss);

	cpu->seg[SEG_SS] = *ss;
	if (width == 2)
		sp = (cpu->gpr[REG_RSP] & ~0xffffull) | (sp & 0xffff);
	else if (width == 4)
		sp &= 0xffffffff;
	cpu->gpr[REG_RSP] = sp;
}

/* ---- far RET ---- */

static void ret_far_real(struct cpu *cpu, unsigned size, uint64_t release)
{
	unsigned width = stack_addr_size(cpu);
	uint64_t item[2], rip;

	frame_read(cpu, cpu->gpr[REG_RSP], size, item, 2);
	rip = transfer_target(cpu, &cpu->seg[SEG_CS], item[0]);
	cpu->gpr[REG_RSP] = stack_advance(cpu->gpr[REG_RSP], width, 2 * size + release);
	seg_load_real(cpu, SEG_CS, item[1]);
	cpu->next_rip = rip;
	cpu_mode_update(cpu);
}

static void ret_far_outer(struct cpu *cpu, struct segment cs, uint64_t cs_raw, uint64_t offset, unsigned size, uint64_t release)
{
	unsigned width = stack_addr_size(cpu);
	uint64_t item[2], ss_raw = 0, rip;
	struct segment ss;

	frame_read(cpu, stack_advance(cpu->gpr[REG_RSP], width, 2 * size + release), size, item, 2);
	ss = return_stack(cpu, item[1], &cs, &ss_raw);
	rip = transfer_target(cpu, &cs, offset);
	descriptor_touch(cpu, &cs, cs_raw);
	if (!ss.unusable)
		descriptor_touch(cpu, &ss, ss_raw);
	cpu->cet.ssp = shadow_return(cpu, &cs, rip, false);
	load_stack(cpu, &cs, &ss, item[0]);
	cpu->gpr[REG_RSP] = stack_advance(cpu->gpr[REG_RSP], stack_width(cpu_long_mode(cpu) && cs.l, &ss), release);
	transfer_commit(cpu, cs, cs.selector & 3, rip);
	segments_drop_privileged(cpu);
	cpu_mode_update(cpu);
}

void rule_ret_far(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, width = stack_addr_size(cpu);
	uint64_t release = insn->imm_size ? insn->imm & 0xffff : 0;
	uint64_t item[2], raw, rip;
	struct segment cs;

	if (!cpu_protected(cpu)) {
		ret_far_real(cpu, size, release);
		return;
	}
	frame_read(cpu, cpu->gpr[REG_RSP], size, item, 2);
	cs = return_code(cpu, item[1], &raw);
	if ((cs.selector & 3) > cpu->cpl) {
		ret_far_outer(cpu, cs, raw, item[0], size, release);
		return;
	}
	rip = transfer_target(cpu, &cs, item[0]);
	descriptor_touch(cpu, &cs, raw);
	cpu->cet.ssp = shadow_return(cpu, &cs, rip, false);
	cpu->gpr[REG_RSP] = stack_advance(cpu->gpr[REG_RSP], width, 2 * size + release);
	transfer_commit(cpu, cs, cpu->cpl, rip);
}

/* ---- IRET ---- */

/* IRET ends blocking by NMI, even if it faults; which blocking depends on the virtual NMIs of the control block. */
static void unblock_nmis(struct cpu *cpu)
{
	const struct control_block *ctl = cpu->ctl;

	if (ctl->non_root && (ctl->pin & PIN_VIRTUAL_NMIS)) {
		cpu->iret_unblocked_nmi = cpu->shadow & SHADOW_NMI;
		cpu->shadow &= ~SHADOW_NMI;
	} else if (!ctl->non_root || !(ctl->pin & PIN_NMI)) {
		cpu->iret_unblocked_nmi = cpu->nmi_blocked;
		cpu->nmi_blocked = false;
		cpu->shadow &= ~SHADOW_NMI;
	}
	/* An NMI may have been waiting for this. */
	if (cpu->iret_unblocked_nmi)
		cpu->poll |= POLL_WINDOW;
}

static void iret_real(struct cpu *cpu, unsigned size)
{
	unsigned width = stack_addr_size(cpu);
	uint64_t item[3], rip, mask = size == 2 ? 0xffff : 0x257fd5;

	frame_read(cpu, cpu->gpr[REG_RSP], size, item, 3);
	rip = transfer_target(cpu, &cpu->seg[SEG_CS], item[0]);
	cpu->gpr[REG_RSP] = stack_advance(cpu->gpr[REG_RSP], width, 3 * size);
	seg_load_real(cpu, SEG_CS, item[1]);
	cpu->next_rip = rip;
	set_flags(cpu, item[2], mask);
	cpu_mode_update(cpu);
}

/* Virtual-8086 mode below IOPL 3: only a 16-bit IRET, with IF standing for VIF. */
static void check_iret_vme(struct cpu *cpu, unsigned size, uint64_t flags)
{
	bool pending = (flags & RFLAGS_IF) && (cpu->rflags & RFLAGS_VIP);

	if (!(cpu->cr4 & CR4_VME) || size != 2 || pending || (flags & RFLAGS_TF))
		cpu_raise_gp(cpu);
}

static void iret_vm86(struct cpu *cpu, unsigned size)
{
	unsigned width = stack_addr_size(cpu);
	bool iopl3 = (cpu->rflags & RFLAGS_IOPL) == RFLAGS_IOPL;
	uint64_t item[3], rip, mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (!iopl3 && (!(cpu->cr4 & CR4_VME) || size != 2))
		cpu_raise_gp(cpu);
	frame_read(cpu, cpu->gpr[REG_RSP], size, item, 3);
	if (iopl3) {
		mask |= RFLAGS_IF | (size == 4 ? RFLAGS_AC | RFLAGS_ID | RFLAGS_RF : 0);
	} else {
		check_iret_vme(cpu, size, item[2]);
		mask |= RFLAGS_VIF;
		item[2] = (item[2] & ~(uint64_t)RFLAGS_VIF) | (item[2] & RFLAGS_IF ? RFLAGS_VIF : 0);
	}
	rip = transfer_target(cpu, &cpu->seg[SEG_CS], item[0]);
	cpu->gpr[REG_RSP] = stack_advance(cpu->gpr[REG_RSP], width, 3 * size);
	seg_load_real(cpu, SEG_CS, item[1]);
	cpu->next_rip = rip;
	set_flags(cpu, item[2], mask);
}

/* From ring 0 to virtual-8086 mode: EIP CS EFLAGS ESP SS ES DS FS GS. */
static void iret_to_vm86(struct cpu *cpu)
{
	static const enum seg order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	uint64_t item[9];

	frame_read(cpu, cpu->gpr[REG_RSP], 4, item, 9);
	if ((item[0] & 0xffffffff) > 0xffff)
		cpu_raise_gp(cpu);
	shadow_return_vm86(cpu);
	cpu->seg[SEG_CS] = segment_vm86(item[1]);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		cpu->seg[order[i]] = segment_vm86(item[4 + i]);
	cpu->gpr[REG_RSP] = item[3];
	cpu->cpl = 3;
	cpu->next_rip = item[0] & 0xffff;
	cpu_set_rflags(cpu, iret_keep_rf(cpu, item[2] | RFLAGS_VM));
	cpu_mode_update(cpu);
}

/* Nested task: back to the task that the TSS links to. */
static void iret_task(struct cpu *cpu)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	uint16_t link;

	if (tr->limit < 1)
		cpu_raise_error(cpu, VEC_TS, selector_error(tr->selector));
	link = lin_load(cpu, tr->base, 2, ACCESS_SUPER);
	task_switch(cpu, link, TASK_IRET, false, 0);
}

/* To an outer ring, or from 64-bit code: RSP and SS come from the frame too. */
static void iret_with_stack(struct cpu *cpu, struct segment cs, uint64_t cs_raw, const uint64_t *item, unsigned size)
{
	unsigned old_cpl = cpu->cpl, cpl = cs.selector & 3;
	uint64_t ss_raw = 0, rip, mask = iret_flags_mask(cpu, old_cpl, size);
	struct segment ss = return_stack(cpu, item[4], &cs, &ss_raw);

	rip = transfer_target(cpu, &cs, item[0]);
	descriptor_touch(cpu, &cs, cs_raw);
	if (!ss.unusable)
		descriptor_touch(cpu, &ss, ss_raw);
	if (unlikely(cpu->cr4 & CR4_CET))
		cpu->cet.ssp = shadow_return(cpu, &cs, rip, true);
	load_stack(cpu, &cs, &ss, item[3]);
	cpu->seg[SEG_CS] = cs;
	cpu->cpl = cpl;
	cpu->next_rip = rip;
	if (cpl > old_cpl)
		segments_drop_privileged(cpu);
	set_flags(cpu, item[2], mask);
	cpu_mode_update(cpu);
}

static void iret_same(struct cpu *cpu, struct segment cs, uint64_t cs_raw, const uint64_t *item, unsigned size)
{
	uint64_t rip = transfer_target(cpu, &cs, item[0]), mask = iret_flags_mask(cpu, cpu->cpl, size);

	descriptor_touch(cpu, &cs, cs_raw);
	if (unlikely(cpu->cr4 & CR4_CET))
		cpu->cet.ssp = shadow_return(cpu, &cs, rip, true);
	cpu->gpr[REG_RSP] = stack_advance(cpu->gpr[REG_RSP], stack_addr_size(cpu), 3 * size);
	set_flags(cpu, item[2], mask);
	transfer_commit(cpu, cs, cpu->cpl, rip);
}

static void iret_protected(struct cpu *cpu, unsigned size)
{
	bool wide = cpu_code64(cpu);
	uint64_t item[5], raw;
	struct segment cs;

	frame_read(cpu, cpu->gpr[REG_RSP], size, item, wide ? 5 : 3);
	if (!cpu_long_mode(cpu) && size == 4 && (item[2] & RFLAGS_VM) && cpu->cpl == 0) {
		iret_to_vm86(cpu);
		return;
	}
	cs = return_code(cpu, item[1], &raw);
	if (!wide && (cs.selector & 3) == cpu->cpl) {
		iret_same(cpu, cs, raw, item, size);
		return;
	}
	if (!wide)
		frame_read(cpu, cpu->gpr[REG_RSP], size, item, 5);
	iret_with_stack(cpu, cs, raw, item, size);
}

void rule_iret(struct cpu *cpu, const struct insn *insn)
{
	unblock_nmis(cpu);
	if (!(cpu->cr0 & CR0_PE)) {
		iret_real(cpu, insn->opsize);
	} else if (cpu->rflags & RFLAGS_VM) {
		iret_vm86(cpu, insn->opsize);
	} else if (cpu->rflags & RFLAGS_NT) {
		if (cpu_long_mode(cpu))
			cpu_raise_gp(cpu);
		iret_task(cpu);
	} else {
		iret_protected(cpu, insn->opsize);
	}
	cpu->iret_unblocked_nmi = false;
}
