/*
 * Where a GSI leads: pins of the PICs and of the I/O APIC, or one MSI.
 *
 * A pin is up while any source holds it up; sources are kept per pin, so two
 * GSIs that share a pin share its level, too. A new table is built beside the
 * old one and takes its place only when all of it is valid.
 */
#include "irqchip/internal.h"

/* ---- messages ---- */

/* The upper destination bits count only when the client has asked for 32-bit APIC ids. */
static struct message msi_message(const struct irqchip *c, uint64_t address, uint32_t data)
{
	uint32_t high = address >> 32;

	return (struct message){
		.dest = (address >> 12 & 0xff) | (c->ids32 ? high & 0xffffff00 : 0),
		.vector = data & 0xff, .mode = data >> 8 & 7, .logical = address >> 2 & 1, .lowest = address >> 3 & 1,
		.level = data >> 15 & 1,
	};
}

static bool msi_is_valid(const struct irqchip *c, uint32_t address_hi)
{
	return !c->ids32 || !(address_hi & 0xff);
}

static int msi_send(struct irqchip *c, uint64_t address, uint32_t data)
{
	struct message m = msi_message(c, address, data);

	trace(irq, "MSI 0x%llx 0x%x", (unsigned long long)address, data);
	return message_send(c, &m);
}

int irqchip_msi(struct irqchip *c, uint64_t address, uint32_t data)
{
	int r;

	if (c->mode == IRQCHIP_NONE || !msi_is_valid(c, address >> 32))
		return -EINVAL;
	chip_enter(c);
	r = msi_send(c, address, data);
	chip_leave(c);
	return r;
}

/* ---- lines ---- */

static bool line_state(uint8_t *sources, bool level, unsigned source)
{
	*sources = (*sources & ~(1 << source)) | level << source;
	return *sources;
}

static int route_line(struct irqchip *c, const struct route *r, bool level, unsigned source)
{
	switch (r->chip) {
	case ROUTE_MSI:
		return level ? msi_send(c, (uint64_t)r->address_hi << 32 | r->address_lo, r->data) : -1;
	case KVM_IRQCHIP_IOAPIC:
		return ioapic_line(c, r->pin, line_state(&c->ioapic.lines[r->pin], level, source));
	default:
		return pic_line(c, r->pin, line_state(&c->pic.lines[r->pin], level, source));
	}
}

int gsi_line(struct irqchip *c, unsigned gsi, bool level, unsigned source)
{
	const struct routing *t = c->routing;
	int sum = -1;

	for (unsigned i = t->head[gsi]; i; i = t->route[i - 1].next) {
		int r = route_line(c, &t->route[i - 1], level, source);

		if (r >= 0)
			sum = r + (sum < 0 ? 0 : sum);
	}
	return sum;
}

int irqchip_line(struct irqchip *c, unsigned gsi, int level, unsigned source)
{
	int r;

	if (c->mode == IRQCHIP_NONE)
		return -ENXIO;
	if (gsi >= GSI_MAX)
		return -1;
	chip_enter(c);
	r = gsi_line(c, gsi, level, source);
	chip_leave(c);
	trace(irq, "GSI %u: level %d, result %d", gsi, level, r);
	return r;
}

/* ---- what comes back from a pin ---- */

static int pin_gsi(const struct irqchip *c, bool ioapic, unsigned pin)
{
	return ioapic ? c->routing->ioapic_gsi[pin] : c->routing->pic_gsi[pin];
}

void pin_acked(struct irqchip *c, bool ioapic, unsigned pin)
{
	int gsi = pin_gsi(c, ioapic, pin);
	uint8_t sources = ioapic ? c->ioapic.lines[pin] : c->pic.lines[pin];

	if (gsi < 0)
		return;
	if (gsi == 0)
		pit_acked(c);
	if (sources & 1 << IRQ_SOURCE_RESAMPLE)
		gsi_line(c, gsi, false, IRQ_SOURCE_RESAMPLE);
	if (c->ops->resample)
		c->ops->resample(c->arg, gsi);
}

void pin_unmasked(struct irqchip *c, bool ioapic, unsigned pin)
{
	if (pin_gsi(c, ioapic, pin) == 0)
		pit_unmasked(c);
}

/* A level message may have been accepted before its route changed: then TMR still knows. */
bool routing_wants_eoi(struct irqchip *c, struct lapic *l, uint8_t vector)
{
	const struct routing *t = c->routing;

	for (unsigned gsi = 0; gsi < c->split_pins; gsi++) {
		for (unsigned i = t->head[gsi]; i; i = t->route[i - 1].next) {
			const struct route *r = &t->route[i - 1];
			struct message m = msi_message(c, (uint64_t)r->address_hi << 32 | r->address_lo, r->data);

			if (m.level && m.vector == vector && (vector_test(l, REG_TMR, vector) || lapic_matches(l, &m)))
				return true;
		}
	}
	return false;
}

/* ---- the table ---- */

static void table_clear(struct routing *t)
{
	memset(t->head, 0, sizeof(t->head));
	memset(t->pic_gsi, 0xff, sizeof(t->pic_gsi));
	memset(t->ioapic_gsi, 0xff, sizeof(t->ioapic_gsi));
	t->used = 0;
}

/* A GSI leads to each chip once at most, or to one MSI and nothing else. */
static bool fits(const struct routing *t, unsigned gsi, unsigned chip)
{
	for (unsigned i = t->head[gsi]; i; i = t->route[i - 1].next) {
		if (chip == ROUTE_MSI || t->route[i - 1].chip == ROUTE_MSI || t->route[i - 1].chip == chip)
			return false;
	}
	return true;
}

static int table_add(struct routing *t, unsigned gsi, struct route r)
{
	if (gsi >= GSI_MAX || t->used >= GSI_MAX || !fits(t, gsi, r.chip))
		return -EINVAL;
	r.next = t->head[gsi];
	t->route[t->used++] = r;
	t->head[gsi] = t->used;
	if (r.chip == KVM_IRQCHIP_IOAPIC)
		t->ioapic_gsi[r.pin] = gsi;
	else if (r.chip != ROUTE_MSI)
		t->pic_gsi[r.pin] = gsi;
	return 0;
}

static int add_pin(struct irqchip *c, struct routing *t, const struct kvm_irq_routing_entry *e)
{
	uint32_t chip = e->u.irqchip.irqchip, pin = e->u.irqchip.pin;
	unsigned pins = chip == KVM_IRQCHIP_IOAPIC ? IOAPIC_PINS : PIC_PINS / 2;

	if (c->mode != IRQCHIP_FULL || e->flags || chip > KVM_IRQCHIP_IOAPIC || pin >= pins)
		return -EINVAL;
	if (chip == KVM_IRQCHIP_PIC_SLAVE)
		pin += PIC_PINS / 2;
	return table_add(t, e->gsi, (struct route){ .chip = chip, .pin = pin });
}

static int add_msi(struct irqchip *c, struct routing *t, const struct kvm_irq_routing_entry *e)
{
	if (e->flags & ~KVM_MSI_VALID_DEVID || !msi_is_valid(c, e->u.msi.address_hi))
		return -EINVAL;
	return table_add(t, e->gsi, (struct route){
		.chip = ROUTE_MSI, .address_lo = e->u.msi.address_lo, .address_hi = e->u.msi.address_hi, .data = e->u.msi.data,
	});
}

static int table_build(struct irqchip *c, struct routing *t, const struct kvm_irq_routing_entry *e, unsigned n)
{
	int r = 0;

	table_clear(t);
	for (unsigned i = 0; i < n && r == 0; i++) {
		if (e[i].type == KVM_IRQ_ROUTING_IRQCHIP)
			r = add_pin(c, t, &e[i]);
		else if (e[i].type == KVM_IRQ_ROUTING_MSI)
			r = add_msi(c, t, &e[i]);
		else
			r = -EINVAL;
	}
	return r;
}

int irqchip_set_routing(struct irqchip *c, const struct kvm_irq_routing_entry *e, unsigned n)
{
	int r;

	if (c->mode == IRQCHIP_NONE || n > GSI_MAX)
		return -EINVAL;
	chip_enter(c);
	r = table_build(c, c->routing_spare, e, n);
	if (r == 0) {
		struct routing *old = c->routing;

		c->routing = c->routing_spare;
		c->routing_spare = old;
	}
	chip_leave(c);
	return r;
}

/* GSIs 0-15 lead to the PICs and to the I/O APIC's pin of that number, 16-23 to the I/O APIC only. */
void routing_default(struct irqchip *c)
{
	table_clear(c->routing);
	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		table_add(c->routing, gsi, (struct route){ .chip = KVM_IRQCHIP_IOAPIC, .pin = gsi });
		if (gsi < PIC_PINS)
			table_add(c->routing, gsi, (struct route){ .chip = gsi / 8, .pin = gsi });
	}
}
