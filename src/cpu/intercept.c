/*
 * Intercepts: what the current control block makes exit, and the
 * instruction-information field of those exits. In vmcs01 non_root is false
 * and nothing here ever exits.
 */
#include "cpu/access.h"
#include "cpu/event.h"

void intercept_primary(struct cpu *cpu, uint32_t control, uint32_t reason)
{
	if (cpu_in_guest(cpu) && (cpu->ctl->primary & control))
		cpu_vmexit(cpu, reason, 0);
}

static uint32_t secondary(const struct cpu *cpu)
{
	return cpu->ctl->primary & PRIMARY_SECONDARY ? cpu->ctl->secondary : 0;
}

void intercept_secondary(struct cpu *cpu, uint32_t control, uint32_t reason)
{
	if (cpu_in_guest(cpu) && (secondary(cpu) & control))
		cpu_vmexit(cpu, reason, 0);
}

void intercept_always(struct cpu *cpu, uint32_t reason)
{
	if (cpu_in_guest(cpu))
		cpu_vmexit(cpu, reason, 0);
}

void intercept_descriptor_table(struct cpu *cpu, const struct insn *insn, uint32_t reason)
{
	if (!cpu_in_guest(cpu) || !(secondary(cpu) & SECONDARY_DESCRIPTOR_TABLE))
		return;
	cpu->vmexit.insn_info = intercept_insn_info(cpu, insn);
	cpu_vmexit(cpu, reason, insn->mem ? (uint64_t)insn->disp : 0);
}

static bool io_bitmap_bit(const struct control_block *ctl, uint16_t port)
{
	return ctl->io_bitmap[port >> 15][(port & 0x7fff) >> 3] >> (port & 7) & 1;
}

static bool bitmap_bit(const uint8_t *map, uint32_t bit)
{
	return map[bit >> 3] >> (bit & 7) & 1;
}

void intercept_io(struct cpu *cpu, uint16_t port, unsigned size, uint64_t qualification)
{
	const struct control_block *ctl = cpu->ctl;
	bool hit = false;

	if (!ctl->non_root)
		return;
	if (ctl->primary & PRIMARY_IO_BITMAPS) {
		hit = port + size > 0x10000;     /* wraps around the port space */
		for (unsigned i = 0; i < size; i++)
			hit |= io_bitmap_bit(ctl, port + i);
	} else {
		hit = ctl->primary & PRIMARY_UNCOND_IO;
	}
	if (hit)
		cpu_vmexit(cpu, EXIT_IO, qualification);
}

/* The bitmap's four kilobytes: reads of low and high MSRs, then writes of both. */
static bool msr_bitmap_hit(const struct control_block *ctl, uint32_t index, bool write)
{
	const uint8_t *map = ctl->msr_bitmap + (write ? 2048 : 0);

	if (index < 0x2000)
		return bitmap_bit(map, index);
	if (index - 0xc0000000u < 0x2000)
		return bitmap_bit(map + 1024, index - 0xc0000000u);
	return true;
}

void intercept_msr(struct cpu *cpu, uint32_t index, bool write)
{
	const struct control_block *ctl = cpu->ctl;

	if (!ctl->non_root)
		return;
	if (!(ctl->primary & PRIMARY_MSR_BITMAPS) || msr_bitmap_hit(ctl, index, write))
		cpu_vmexit(cpu, write ? EXIT_WRMSR : EXIT_RDMSR, 0);
}

static bool exception_intercepted(const struct control_block *ctl, const struct event *ev)
{
	bool bit = ctl->exception_bitmap >> (ev->vector & 31) & 1;

	if (ev->vector == VEC_PF && ev->type == EVENT_HW_EXCEPTION)
		return bit == ((ev->error & ctl->pf_mask) == ctl->pf_match);
	return bit;
}

void intercept_exception(struct cpu *cpu, const struct event *ev)
{
	struct vmexit *v = &cpu->vmexit;

	if (!cpu_in_guest(cpu) || ev->injected || !event_is_exception(ev) || !exception_intercepted(cpu->ctl, ev))
		return;
	v->intr_info = event_info(ev);
	v->intr_error = ev->has_error ? (uint16_t)ev->error : 0;  /* a client's may be wider than any processor's */
	if (cpu->iret_unblocked_nmi && !cpu->delivering.valid && ev->vector != VEC_DF)
		v->intr_info |= INTR_INFO_NMI_UNBLOCK;
	if (event_is_software(ev))
		v->insn_len = ev->insn_len;
	if (event_sets_rf(ev))
		cpu->rflags |= RFLAGS_RF;
	cpu_vmexit(cpu, EXIT_EXCEPTION_NMI, ev->has_payload ? ev->payload : 0);
}

/* ---- instruction information ---- */

/* Scaling, address size, segment, index and base: the same bits in every layout. */
static uint32_t memory_info(const struct insn *insn)
{
	uint32_t info = (insn->addrsize == 2 ? 0 : insn->addrsize == 4 ? 1 : 2) << 7 | (uint32_t)insn->seg << 15;

	if (insn->index == REG_NONE)
		info |= 1u << 22;
	else
		info |= (uint32_t)insn->scale | (uint32_t)insn->index << 18;
	if (insn->base == REG_NONE)
		info |= 1u << 27;
	else
		info |= (uint32_t)insn->base << 23;
	return info;
}

/* LLDT, LTR, SLDT, STR, VMREAD, VMWRITE: a register operand instead of memory is told by bit 10. */
static uint32_t rm_info(const struct insn *insn)
{
	return insn->mem ? memory_info(insn) : 1u << 10 | (uint32_t)insn->rm << 3;
}

static uint32_t operand_size_info(const struct insn *insn)
{
	return insn->opsize == 8 ? 2 : insn->opsize == 4 ? 1 : 0;
}

uint32_t intercept_insn_info(const struct cpu *cpu, const struct insn *insn)
{
	uint32_t reg2 = (uint32_t)insn->reg << 28;

	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_SGDT: case ZYDIS_MNEMONIC_SIDT: case ZYDIS_MNEMONIC_LGDT: case ZYDIS_MNEMONIC_LIDT:
		return memory_info(insn) | (insn->opsize == 2 ? 0 : 1u << 11) | (insn->modrm >> 3 & 3u) << 28;
	case ZYDIS_MNEMONIC_SLDT: case ZYDIS_MNEMONIC_STR: case ZYDIS_MNEMONIC_LLDT: case ZYDIS_MNEMONIC_LTR:
		return rm_info(insn) | (insn->modrm >> 3 & 3u) << 28;
	case ZYDIS_MNEMONIC_VMREAD: case ZYDIS_MNEMONIC_VMWRITE:
		return rm_info(insn) | reg2;
	case ZYDIS_MNEMONIC_INVEPT: case ZYDIS_MNEMONIC_INVVPID: case ZYDIS_MNEMONIC_INVPCID:
		return memory_info(insn) | reg2;
	case ZYDIS_MNEMONIC_RDRAND: case ZYDIS_MNEMONIC_RDSEED:
		return (uint32_t)insn->rm << 3 | operand_size_info(insn) << 11;
	case ZYDIS_MNEMONIC_INSB: case ZYDIS_MNEMONIC_INSW: case ZYDIS_MNEMONIC_INSD:
	case ZYDIS_MNEMONIC_OUTSB: case ZYDIS_MNEMONIC_OUTSW: case ZYDIS_MNEMONIC_OUTSD:
		return (insn->addrsize == 2 ? 0 : insn->addrsize == 4 ? 1 : 2) << 7 | (uint32_t)insn->seg << 15;
	default:
		return memory_info(insn);
	}
}
