/*
 * The guest's accesses to its APIC: the APIC-access page, the x2APIC's MSRs,
 * CR8. Which of them the processor virtualizes, and what follows from writes.
 */
#include "cpu/rules.h"
#include "cpu/vapic.h"
#include "cpu/walk.h"

enum access_type { ACCESS_TYPE_READ = 0, ACCESS_TYPE_WRITE = 1, ACCESS_TYPE_EVENT = 3 };        /* VMX's numbers */

/* ---- after the instruction ---- */

static void exit_after(struct cpu *cpu, struct vapic_exit e)
{
	if (!e.reason)
		return;
	cpu->pending_debug |= cpu->tf_at_start ? DR6_BS : 0;
	cpu->tf_at_start = cpu->rf_at_start = false;
	cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
	cpu->cur_insn = NULL;
	cpu_vmexit(cpu, e.reason, e.qualification);
}

/* The end of a rule whose instruction is complete. */
static void exit_after_rule(struct cpu *cpu, struct vapic_exit e)
{
	if (e.reason)
		cpu->rip = cpu->next_rip;
	exit_after(cpu, e);
}

/* ---- writes take effect ---- */

static struct vapic_exit exit_apic_write(unsigned offset)
{
	return (struct vapic_exit){ EXIT_APIC_WRITE, offset };
}

#define ICR_RESERVED 0xfff33000u         /* bits 31:20, 17:16, 13, and 12, delivery status */
enum { ICR_SHORTHAND = 3 << 18, ICR_TO_SELF = 1 << 18, ICR_LEVEL = 1 << 15, ICR_LOGICAL = 1 << 11, ICR_MODE = 7 << 8 };

/* Edge-triggered and fixed, to the processor itself or to one by its APIC id. */
static struct vapic_exit icr_written(struct cpu *cpu, unsigned offset, uint32_t icr, uint32_t apic_id)
{
	uint32_t kind = icr & (ICR_RESERVED | ICR_SHORTHAND | ICR_LEVEL | ICR_MODE);

	if (vapic_delivers(cpu) && kind == ICR_TO_SELF && (icr & 0xf0)) {
		vapic_self_ipi(cpu, icr);
		return (struct vapic_exit){ 0 };
	}
	if (vapic_sends(cpu) && kind == 0 && !(icr & ICR_LOGICAL) && vapic_send_ipi(cpu, icr, apic_id))
		return (struct vapic_exit){ 0 };
	return exit_apic_write(offset);
}

static struct vapic_exit register_written(struct cpu *cpu, unsigned offset)
{
	switch (offset & ~3u) {
	case VAPIC_TPR:
		vapic_store(cpu, VAPIC_TPR, vapic_load(cpu, VAPIC_TPR) & 0xff);
		return vapic_tpr_written(cpu);
	case VAPIC_EOI:
		if (!vapic_delivers(cpu))
			break;
		vapic_store(cpu, VAPIC_EOI, 0);
		return vapic_eoi(cpu);
	case VAPIC_ICR:
		if (!vapic_delivers(cpu) && !vapic_sends(cpu))
			break;
		return icr_written(cpu, offset, vapic_load(cpu, VAPIC_ICR), vapic_load(cpu, VAPIC_ICR2) >> 24);
	case VAPIC_ICR2:
		vapic_store(cpu, VAPIC_ICR2, vapic_load(cpu, VAPIC_ICR2) & 0xff000000);
		return (struct vapic_exit){ 0 };
	}
	return exit_apic_write(offset);
}

void vapic_instruction_done(struct cpu *cpu)
{
	cpu->ctl->apic_write.valid = false;
	exit_after(cpu, register_written(cpu, cpu->ctl->apic_write.offset));
}

/* ---- the APIC-access page ---- */

/* Registers (offset / 16, 0 to 3F) that APIC-register virtualization lets be read and written. */
#define BITS(first, last) (((2ull << ((last) - (first))) - 1) << (first))
static const uint64_t readable = BIT(0x02) | BIT(0x03) | BIT(0x08) | BIT(0x0b) | BITS(0x0d, 0x0f) | BITS(0x10, 0x28) |
                                 BITS(0x30, 0x38) | BIT(0x3e);
static const uint64_t writable = BIT(0x02) | BIT(0x08) | BIT(0x0b) | BITS(0x0d, 0x0f) | BIT(0x28) | BITS(0x30, 0x38) | BIT(0x3e);

/* Whole registers without APIC-register virtualization, by their first byte. */
static bool always_virtualized(const struct cpu *cpu, unsigned offset)
{
	return offset == VAPIC_TPR || (vapic_delivers(cpu) && (offset == VAPIC_EOI || offset == VAPIC_ICR)) ||
	       (vapic_sends(cpu) && offset == VAPIC_ICR);
}

static bool is_virtualized(const struct cpu *cpu, unsigned offset, unsigned len, uint64_t registers)
{
	if (!vapic_tpr_shadow(cpu) || cpu->delivering.valid || len > 4 || (offset & 15) + len > 4)
		return false;
	if (always_virtualized(cpu, offset))
		return true;
	return vapic_secondary(cpu, SECONDARY_APIC_REGISTER) && offset < 0x400 && (registers >> (offset >> 4) & 1);
}

static _Noreturn void access_exit(struct cpu *cpu, unsigned offset, enum access_type type)
{
	if (cpu->delivering.valid)
		type = ACCESS_TYPE_EVENT;
	cpu_vmexit(cpu, EXIT_APIC_ACCESS, offset | (uint64_t)type << 12);
}

bool vapic_page_read(struct cpu *cpu, uint64_t gpa, void *to, unsigned len)
{
	unsigned offset = gpa & 0xfff;
	uint32_t value;

	if (!walk_is_apic_access(cpu, gpa))
		return false;
	if (cpu->ctl->apic_write.valid || !is_virtualized(cpu, offset, len, readable))
		access_exit(cpu, offset, ACCESS_TYPE_READ);
	value = vapic_load(cpu, offset & ~3u) >> (offset & 3) * 8;
	memcpy(to, &value, len);
	return true;
}

/* One instruction may write once, or the same bytes again. */
void vapic_page_check_write(struct cpu *cpu, uint64_t gpa, unsigned len)
{
	const struct control_block *ctl = cpu->ctl;
	unsigned offset = gpa & 0xfff;
	bool other = ctl->apic_write.valid && (ctl->apic_write.offset != offset || ctl->apic_write.len != len);

	if (walk_is_apic_access(cpu, gpa) && (other || !is_virtualized(cpu, offset, len, writable)))
		access_exit(cpu, offset, ACCESS_TYPE_WRITE);
}

bool vapic_page_write(struct cpu *cpu, uint64_t gpa, const void *from, unsigned len)
{
	struct control_block *ctl = cpu->ctl;
	unsigned offset = gpa & 0xfff, shift = (offset & 3) * 8;
	uint32_t value = 0, mask;

	if (!walk_is_apic_access(cpu, gpa))
		return false;
	vapic_page_check_write(cpu, gpa, len);
	memcpy(&value, from, len);
	mask = (len == 4 ? ~0u : (1u << len * 8) - 1) << shift;
	vapic_store(cpu, offset & ~3u, (vapic_load(cpu, offset & ~3u) & ~mask) | value << shift);
	ctl->apic_write.valid = true;
	ctl->apic_write.offset = offset;
	ctl->apic_write.len = len;
	cpu->poll |= POLL_EVENT;
	return true;
}

/* ---- the x2APIC's MSRs ---- */

enum { X2APIC_TPR = 0x808, X2APIC_EOI = 0x80b, X2APIC_ICR = 0x830, X2APIC_SELF_IPI = 0x83f };

static bool x2apic_mode(const struct cpu *cpu, uint32_t index)
{
	return index - 0x800 < 0x100 && vapic_tpr_shadow(cpu) && vapic_secondary(cpu, SECONDARY_X2APIC);
}

bool vapic_rdmsr(struct cpu *cpu, uint32_t index, uint64_t *value)
{
	if (!x2apic_mode(cpu, index) || (index != X2APIC_TPR && !vapic_secondary(cpu, SECONDARY_APIC_REGISTER)))
		return false;
	if (!mem_copy(value, cpu->ctl->vapic + (index & 0xff) * 16, sizeof(*value)))
		*value = 0;
	return true;
}

static void fault_unless(struct cpu *cpu, bool valid)
{
	if (!valid)
		cpu_raise_gp(cpu);
}

static struct vapic_exit msr_self_ipi(struct cpu *cpu, uint8_t vector)
{
	if (vector < 16)
		return exit_apic_write(VAPIC_SELF_IPI);
	vapic_self_ipi(cpu, vector);
	return (struct vapic_exit){ 0 };
}

bool vapic_wrmsr(struct cpu *cpu, uint32_t index, uint64_t value)
{
	struct vapic_exit e;

	if (!x2apic_mode(cpu, index))
		return false;
	if (index == X2APIC_TPR) {
		fault_unless(cpu, value <= 0xff);
		vapic_store64(cpu, VAPIC_TPR, value);
		e = vapic_tpr_written(cpu);
	} else if (index == X2APIC_EOI && vapic_delivers(cpu)) {
		fault_unless(cpu, value == 0);
		vapic_store64(cpu, VAPIC_EOI, 0);
		e = vapic_eoi(cpu);
	} else if (index == X2APIC_SELF_IPI && vapic_delivers(cpu)) {
		fault_unless(cpu, value <= 0xff);
		vapic_store64(cpu, VAPIC_SELF_IPI, value);
		e = msr_self_ipi(cpu, value);
	} else if (index == X2APIC_ICR && vapic_sends(cpu)) {
		vapic_store64(cpu, VAPIC_ICR, value);
		e = icr_written(cpu, VAPIC_ICR, value, value >> 32);
	} else {
		return false;
	}
	exit_after_rule(cpu, e);
	return true;
}

void vapic_cr8_write(struct cpu *cpu, uint64_t value)
{
	vapic_store(cpu, VAPIC_TPR, value << 4);
	exit_after_rule(cpu, vapic_tpr_written(cpu));
}
