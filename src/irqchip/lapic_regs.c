/*
 * The LAPIC's registers, as the xAPIC page shows them and as x2APIC MSRs. What
 * exists, and which bits can be written, is in lapic_regs.def.
 *
 * An access that a LAPIC does not know sets ESR's illegal-register bit in xAPIC
 * mode; x2APIC mode faults.
 */
#include "irqchip/internal.h"

enum access { R = 1, W = 2 };
enum { READ_ONLY_LVT = 0x5000, ICR_BUSY = 0x1000 };

static const struct reg_info {
	uint8_t xapic, x2apic;
	uint32_t writable;
} reg_info[64] = {
#define REG(offset, count, x, x2, mask) [(offset) >> 4 ... ((offset) >> 4) + (count) - 1] = { x, x2, mask },
#include "irqchip/lapic_regs.def"
#undef REG
};

static const uint16_t lvts[] = { REG_LVT_TIMER, REG_LVT_THERMAL, REG_LVT_PERF, REG_LVT_LINT0, REG_LVT_LINT1, REG_LVT_ERROR };

static bool is_lvt(unsigned offset) { return offset >= REG_LVT_TIMER && offset <= REG_LVT_ERROR; }

void lapic_lvts_mask(struct lapic *l)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lvts); i++)
		*lapic_reg(l, lvts[i]) |= LVT_MASKED;
}

static uint32_t writable_bits(struct lapic *l, unsigned offset)
{
	uint32_t mask = reg_info[offset >> 4].writable;

	if (offset == REG_SVR && !(*lapic_reg(l, REG_VERSION) & VERSION_NO_EOI_BROADCAST))
		mask &= ~SVR_NO_EOI_BROADCAST;
	return mask;
}

static uint32_t reg_read(struct lapic *l, unsigned offset)
{
	if (offset == REG_TIMER_COUNT)
		return lapic_timer_count(l);
	return *lapic_reg(l, offset);
}

static void svr_write(struct lapic *l, uint32_t value)
{
	*lapic_reg(l, REG_SVR) = value;
	if (!(value & SVR_ENABLE))
		lapic_lvts_mask(l);
}

static void lvt_write(struct lapic *l, unsigned offset, uint32_t value)
{
	uint32_t before = *lapic_reg(l, offset);

	if (!lapic_software_enabled(l))
		value |= LVT_MASKED;
	*lapic_reg(l, offset) = value;
	if (offset == REG_LVT_TIMER)
		lapic_timer_lvt_written(l, before);
}

/* value holds writable bits only. */
static void reg_write(struct lapic *l, unsigned offset, uint32_t value)
{
	uint32_t before = *lapic_reg(l, offset);

	if (is_lvt(offset)) {
		lvt_write(l, offset, value);
		return;
	}
	switch (offset) {
	case REG_EOI:
		lapic_eoi(l);
		return;
	case REG_DFR:
		value |= 0x0fffffff;
		break;
	case REG_SVR:
		svr_write(l, value);
		return;
	case REG_ESR:                    /* shows what has gathered since the last write */
		value = l->errors;
		l->errors = 0;
		break;
	case REG_SELF_IPI:
		lapic_self_ipi(l, value);
		return;
	}
	*lapic_reg(l, offset) = value;
	if (offset == REG_ICR)
		lapic_icr_send(l);
	else if (offset == REG_TIMER_INIT)
		lapic_timer_init_written(l);
	else if (offset == REG_TIMER_DIVIDE)
		lapic_timer_divide_written(l, before);
}

/* ---- the xAPIC page ---- */

/* The address is ours, whatever the mode. */
static struct lapic *at_address(struct irqchip *c, unsigned vcpu, uint64_t gpa)
{
	struct lapic *l = lapic_find(c, vcpu);

	return l && (gpa ^ atomic_load_explicit(&l->base, memory_order_relaxed)) >> 12 == 0 ? l : NULL;
}

static bool page_is_open(struct lapic *l)
{
	return lapic_enabled(l) && !lapic_x2apic(l);
}

static uint32_t page_read(struct lapic *l, unsigned offset)
{
	if (offset >= 0x400 || !reg_info[offset >> 4].xapic) {
		lapic_error(l, ESR_ILLEGAL_REGISTER);
		return 0;
	}
	return reg_info[offset >> 4].xapic & R ? reg_read(l, offset) : 0;
}

/* With the page closed there is nothing at the address: all ones. Reads within the first four bytes of a register work. */
bool lapic_mmio_read(struct irqchip *c, unsigned vcpu, uint64_t gpa, void *data, unsigned len)
{
	struct lapic *l = at_address(c, vcpu, gpa);
	unsigned offset = gpa & 0xfff, byte = offset & 15;
	uint32_t value;

	if (!l)
		return false;
	if (!page_is_open(l)) {
		memset(data, 0xff, len);
		return true;
	}
	memset(data, 0, len);
	if (byte + len > 4)
		return true;
	chip_enter(c);
	value = page_read(l, offset - byte) >> byte * 8;
	chip_leave(c);
	memcpy(data, &value, len);
	return true;
}

bool lapic_mmio_write(struct irqchip *c, unsigned vcpu, uint64_t gpa, const void *data, unsigned len)
{
	struct lapic *l = at_address(c, vcpu, gpa);
	unsigned offset = gpa & 0xfff;
	uint32_t value, mask;

	if (!l)
		return false;
	if (!page_is_open(l) || len != 4 || offset & 15)
		return true;
	memcpy(&value, data, 4);
	chip_enter(c);
	/* The ICR keeps its reserved bits, as KVM's does: saved states carry them. */
	mask = offset == REG_ICR ? ~(uint32_t)ICR_BUSY : offset < 0x400 ? writable_bits(l, offset) : 0;
	if (offset >= 0x400 || !reg_info[offset >> 4].xapic)
		lapic_error(l, ESR_ILLEGAL_REGISTER);
	else if (reg_info[offset >> 4].xapic & W)
		reg_write(l, offset, value & mask);
	lapic_update(l);
	chip_leave(c);
	return true;
}

/* ---- x2APIC MSRs ---- */

int lapic_msr_read(struct irqchip *c, unsigned vcpu, uint32_t index, uint64_t *value)
{
	struct lapic *l = lapic_find(c, vcpu);
	unsigned offset = (index - 0x800) << 4;

	if (!l || !lapic_x2apic(l) || offset >= 0x400 || !(reg_info[offset >> 4].x2apic & R))
		return 1;
	chip_enter(c);
	*value = reg_read(l, offset);
	if (offset == REG_ICR)
		*value |= (uint64_t)*lapic_reg(l, REG_ICR2) << 32;
	chip_leave(c);
	return 0;
}

/* Reserved bits fault; read-only status bits do not. */
static int x2apic_write(struct lapic *l, unsigned offset, uint64_t value)
{
	uint32_t mask = writable_bits(l, offset), ignored = 0;

	if (is_lvt(offset))
		ignored = READ_ONLY_LVT;
	else if (offset == REG_ICR)
		ignored = ICR_BUSY;
	if ((uint32_t)value & ~(mask | ignored) || (offset != REG_ICR && value >> 32))
		return 1;
	if (offset == REG_ICR)
		*lapic_reg(l, REG_ICR2) = value >> 32;
	reg_write(l, offset, value & mask);
	lapic_update(l);
	return 0;
}

int lapic_msr_write(struct irqchip *c, unsigned vcpu, uint32_t index, uint64_t value)
{
	struct lapic *l = lapic_find(c, vcpu);
	unsigned offset = (index - 0x800) << 4;
	int r;

	if (!l || !lapic_x2apic(l) || offset >= 0x400 || !(reg_info[offset >> 4].x2apic & W))
		return 1;
	chip_enter(c);
	r = x2apic_write(l, offset, value);
	chip_leave(c);
	return r;
}
