/*
 * The I/O APIC: version 0x11, 24 pins, no EOI register.
 *
 * irr holds the lines that are up. An edge goes out when a line rises and is
 * lost while the pin is masked; a level goes out whenever the line is up, the
 * pin is open, and no LAPIC is still busy with it (remote IRR).
 */
#include "irqchip/internal.h"

enum { SELECT = 0x00, WINDOW = 0x10 };
enum { INDEX_ID, INDEX_VERSION, INDEX_ARBITRATION, INDEX_PINS = 0x10 };
enum { VERSION = 0x11 };

/* Bits of a redirection entry's low half that the guest cannot write: delivery status, remote IRR. */
enum { READ_ONLY = 0x5000 };

typedef __typeof__(((struct kvm_ioapic_state *)0)->redirtbl[0]) entry_t;

void ioapic_reset(struct ioapic *io)
{
	memset(io, 0, sizeof(*io));
	io->s.base_address = 0xfec00000;
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		io->s.redirtbl[i].fields.mask = 1;
}

/* ---- delivery ---- */

static int send(struct irqchip *c, unsigned pin)
{
	entry_t *e = &c->ioapic.s.redirtbl[pin];
	int r = message_send(c, &(struct message){
		.dest = e->fields.dest_id, .vector = e->fields.vector, .mode = e->fields.delivery_mode,
		.logical = e->fields.dest_mode, .level = e->fields.trig_mode,
	});

	if (e->fields.trig_mode && r >= 0)
		e->fields.remote_irr = 1;
	else if (!e->fields.trig_mode)
		c->ioapic.delivered |= 1u << pin;
	return r;
}

/* The line is up and, for an edge, has just risen. */
static int service(struct irqchip *c, unsigned pin)
{
	entry_t *e = &c->ioapic.s.redirtbl[pin];

	if (e->fields.mask)
		return -1;
	if (e->fields.trig_mode && e->fields.remote_irr)
		return 0;
	return send(c, pin);
}

int ioapic_line(struct irqchip *c, unsigned pin, bool level)
{
	struct ioapic *io = &c->ioapic;
	uint32_t bit = 1u << pin;
	bool was = io->s.irr & bit;

	if (!level) {
		io->s.irr &= ~bit;
		io->delivered &= ~bit;
		return 1;
	}
	io->s.irr |= bit;
	if (!io->s.redirtbl[pin].fields.trig_mode) {
		if (was)
			return 0;
		io->delivered &= ~bit;
	}
	return service(c, pin);
}

/* Whoever waits for acknowledgements hears of edges too; they may lower the line, which counts for what follows. */
void ioapic_eoi(struct irqchip *c, uint8_t vector, bool level, bool suppressed)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		entry_t *e = &c->ioapic.s.redirtbl[pin];

		if (e->fields.vector != vector)
			continue;
		pin_acked(c, true, pin);
		if (!level || suppressed || !e->fields.trig_mode)
			continue;
		e->fields.remote_irr = 0;
		if (c->ioapic.s.irr & 1u << pin)
			service(c, pin);
	}
}

/* ---- registers ---- */

static uint32_t window_read(struct ioapic *io)
{
	uint32_t index = io->s.ioregsel, pin = (index - INDEX_PINS) >> 1;

	switch (index) {
	case INDEX_ID:
	case INDEX_ARBITRATION:
		return (io->s.id & 15) << 24;
	case INDEX_VERSION:
		return (IOAPIC_PINS - 1) << 16 | VERSION;
	}
	if (index < INDEX_PINS || pin >= IOAPIC_PINS)
		return index < INDEX_PINS ? 0 : 0xffffffff;
	return io->s.redirtbl[pin].bits >> (index & 1) * 32;
}

/* Guests clear a stuck remote IRR by making the pin edge-triggered for a moment. */
static void entry_write(struct irqchip *c, unsigned pin, bool high, uint32_t value)
{
	entry_t *e = &c->ioapic.s.redirtbl[pin];
	bool masked = e->fields.mask;

	if (high)
		e->bits = (e->bits & 0xffffffff) | (uint64_t)value << 32;
	else
		e->bits = (e->bits & (0xffffffff00000000 | READ_ONLY)) | (value & 0x1ffff & ~READ_ONLY);
	if (!e->fields.trig_mode)
		e->fields.remote_irr = 0;
	if (masked && !e->fields.mask)
		pin_unmasked(c, true, pin);
	if (e->fields.trig_mode && c->ioapic.s.irr & 1u << pin)
		service(c, pin);
}

static void window_write(struct irqchip *c, uint32_t value)
{
	struct ioapic *io = &c->ioapic;
	uint32_t index = io->s.ioregsel, pin = (index - INDEX_PINS) >> 1;

	if (index == INDEX_ID)
		io->s.id = value >> 24 & 15;
	else if (index >= INDEX_PINS && pin < IOAPIC_PINS)
		entry_write(c, pin, index & 1, value);
}

bool ioapic_read(struct irqchip *c, uint64_t gpa, void *data, unsigned len)
{
	uint32_t value = 0;

	memset(data, 0, len);
	switch (gpa & 0xff) {
	case SELECT:
		value = c->ioapic.s.ioregsel;
		break;
	case WINDOW:
		value = window_read(&c->ioapic);
		break;
	}
	memcpy(data, &value, len < 4 ? len : 4);
	return true;
}

bool ioapic_write(struct irqchip *c, uint64_t gpa, const void *data, unsigned len)
{
	uint32_t value = 0;

	memcpy(&value, data, len < 4 ? len : 4);
	switch (gpa & 0xff) {
	case SELECT:
		c->ioapic.s.ioregsel = value & 0xff;
		break;
	case WINDOW:
		window_write(c, value);
		break;
	}
	return true;
}

/* Lines that are up in the image, and whose edge has not gone out yet, are raised anew. */
void ioapic_set_state(struct irqchip *c, const struct kvm_ioapic_state *s)
{
	uint32_t up = s->irr & ((1u << IOAPIC_PINS) - 1);

	c->ioapic.s = *s;
	c->ioapic.s.irr = 0;
	c->ioapic.delivered = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if (up & 1u << pin)
			ioapic_line(c, pin, true);
	}
}
