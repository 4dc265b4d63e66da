/*
 * The chips' state as clients save and restore it: KVM_GET/SET_LAPIC and
 * KVM_GET/SET_IRQCHIP.
 *
 * In x2APIC mode the id in the image is 32 bits wide if the client has asked for
 * that, else it is where xAPIC has it; the logical id is not state but a
 * function of the id.
 */
#include "irqchip/internal.h"

_Static_assert(sizeof(((struct lapic *)0)->regs) == sizeof(((struct kvm_lapic_state *)0)->regs), "the image is our registers");

static uint32_t *image_reg(struct kvm_lapic_state *s, unsigned offset)
{
	return (uint32_t *)(s->regs + offset);
}

int lapic_get(struct irqchip *c, unsigned vcpu, struct kvm_lapic_state *s)
{
	struct lapic *l = lapic_find(c, vcpu);

	if (!l)
		return -EINVAL;
	chip_enter(c);
	lapic_timer_due(l, time_ns());   /* a count of zero in the image has interrupted */
	memcpy(s->regs, l->regs, sizeof(s->regs));
	*image_reg(s, REG_TIMER_COUNT) = lapic_timer_count(l);
	if (lapic_x2apic(l) && !c->ids32)
		*image_reg(s, REG_ID) <<= 24;
	chip_leave(c);
	return 0;
}

int lapic_set(struct irqchip *c, unsigned vcpu, const struct kvm_lapic_state *s)
{
	struct lapic *l = lapic_find(c, vcpu);
	uint32_t old_lvt, id;

	if (!l)
		return -EINVAL;
	memcpy(&id, s->regs + REG_ID, 4);
	chip_enter(c);
	if (lapic_x2apic(l) && c->ids32 && id != l->id) {
		chip_leave(c);
		return -EINVAL;
	}
	old_lvt = *lapic_reg(l, REG_LVT_TIMER);
	memcpy(l->regs, s->regs, sizeof(l->regs));
	*lapic_reg(l, REG_VERSION) = lapic_version(c);
	if (lapic_x2apic(l)) {
		*lapic_reg(l, REG_ID) = l->id;
		*lapic_reg(l, REG_LDR) = lapic_x2apic_ldr(l->id);
	}
	lapic_timer_restore(l, old_lvt);
	lapic_update(l);
	chip_leave(c);
	return 0;
}

/* ---- PICs and I/O APIC ---- */

static int chip_error(const struct irqchip *c, const struct kvm_irqchip *chip)
{
	if (c->mode != IRQCHIP_FULL)
		return -ENXIO;
	return chip->chip_id > KVM_IRQCHIP_IOAPIC ? -EINVAL : 0;
}

int irqchip_get_chip(struct irqchip *c, struct kvm_irqchip *chip)
{
	int r = chip_error(c, chip);

	if (r)
		return r;
	chip_enter(c);
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC) {
		chip->chip.ioapic = c->ioapic.s;
		chip->chip.ioapic.irr &= ~c->ioapic.delivered;
	} else {
		chip->chip.pic = c->pic.chip[chip->chip_id];
	}
	chip_leave(c);
	return 0;
}

int irqchip_set_chip(struct irqchip *c, const struct kvm_irqchip *chip)
{
	int r = chip_error(c, chip);

	if (r)
		return r;
	chip_enter(c);
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_set_state(c, &chip->chip.ioapic);
	else
		pic_set_state(c, chip->chip_id, &chip->chip.pic);
	chip_leave(c);
	return 0;
}
