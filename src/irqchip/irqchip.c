/*
 * The chip as a whole: life, mode, and who answers a port or an address.
 *
 * Everything is allocated when the VM or a vCPU is made, nothing later.
 */
#include <stdlib.h>
#include "irqchip/internal.h"

struct irqchip *irqchip_new(const struct irqchip_ops *ops, void *arg)
{
	struct irqchip *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->ops = ops;
	c->arg = arg;
	c->routing = calloc(1, sizeof(*c->routing));
	c->routing_spare = calloc(1, sizeof(*c->routing_spare));
	if (!c->routing || !c->routing_spare) {
		irqchip_free(c);
		return NULL;
	}
	memset(c->routing->pic_gsi, 0xff, sizeof(c->routing->pic_gsi));
	memset(c->routing->ioapic_gsi, 0xff, sizeof(c->routing->ioapic_gsi));
	for (unsigned i = 0; i < TIMER_COUNT; i++)
		chip_timer_clear(c, i);
	ioapic_reset(&c->ioapic);
	pic_reset(&c->pic);
	return c;
}

void irqchip_free(struct irqchip *c)
{
	if (!c)
		return;
	timer_stop(c);
	for (unsigned i = 0; i < c->nlapics; i++)
		free(c->lapics[i]);
	free(c->routing);
	free(c->routing_spare);
	free(c);
}

void chip_leave(struct irqchip *c)
{
	if (unlikely(c->pit && c->pit->inject))
		pit_raise(c);
	lock_release(&c->lock);
}

int irqchip_create_full(struct irqchip *c)
{
	int r = -EEXIST;

	chip_enter(c);
	if (c->mode == IRQCHIP_NONE) {
		routing_default(c);
		c->mode = IRQCHIP_FULL;
		r = 0;
	}
	chip_leave(c);
	return r;
}

int irqchip_create_split(struct irqchip *c, unsigned pins)
{
	int r = -EEXIST;

	if (pins > GSI_MAX)
		return -EINVAL;
	chip_enter(c);
	if (c->mode == IRQCHIP_NONE) {
		c->split_pins = pins;
		c->mode = IRQCHIP_SPLIT;
		r = 0;
	}
	chip_leave(c);
	return r;
}

enum irqchip_mode irqchip_mode(const struct irqchip *c)
{
	return __atomic_load_n(&c->mode, __ATOMIC_ACQUIRE);
}

void irqchip_set_x2apic_api(struct irqchip *c, bool ids32, bool no_broadcast_quirk)
{
	chip_enter(c);
	c->ids32 |= ids32;
	c->no_broadcast_quirk |= no_broadcast_quirk;
	chip_leave(c);
}

/* ---- ports ---- */

enum { PORT_NONE, PORT_PIC, PORT_PIT };

static int port_owner(const struct irqchip *c, uint16_t port)
{
	if (c->mode != IRQCHIP_FULL)
		return PORT_NONE;
	if ((port & ~0x81) == 0x20 || (port & ~1) == 0x4d0)
		return PORT_PIC;
	if (c->pit && ((port & ~3) == 0x40 || (port == 0x61 && c->pit->speaker)))
		return PORT_PIT;
	return PORT_NONE;
}

bool irqchip_pio_read(struct irqchip *c, uint16_t port, void *data, unsigned len)
{
	int owner = port_owner(c, port);
	uint8_t value = 0;

	if (owner == PORT_NONE)
		return false;
	memset(data, 0, len);
	chip_enter(c);
	if (owner == PORT_PIT)
		pit_port_read(c, port, &value);
	else if (len == 1)
		pic_port_read(c, port, &value);
	chip_leave(c);
	*(uint8_t *)data = value;
	return true;
}

bool irqchip_pio_write(struct irqchip *c, uint16_t port, const void *data, unsigned len)
{
	int owner = port_owner(c, port);
	uint8_t value = *(const uint8_t *)data;

	if (owner == PORT_NONE)
		return false;
	chip_enter(c);
	if (owner == PORT_PIT)
		pit_port_write(c, port, value);
	else if (len == 1)
		pic_port_write(c, port, value);
	chip_leave(c);
	return true;
}

/* ---- addresses ---- */

static bool is_ioapic(const struct irqchip *c, uint64_t gpa)
{
	return c->mode == IRQCHIP_FULL && gpa - c->ioapic.s.base_address < 0x100;
}

bool irqchip_mmio_read(struct irqchip *c, uint64_t gpa, void *data, unsigned len)
{
	bool ours;

	if (!is_ioapic(c, gpa))
		return false;
	chip_enter(c);
	ours = ioapic_read(c, gpa, data, len);
	chip_leave(c);
	return ours;
}

bool irqchip_mmio_write(struct irqchip *c, uint64_t gpa, const void *data, unsigned len)
{
	bool ours;

	if (!is_ioapic(c, gpa))
		return false;
	chip_enter(c);
	ours = ioapic_write(c, gpa, data, len);
	chip_leave(c);
	return ours;
}
