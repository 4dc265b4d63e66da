/*
 * The pair of 8259s. The state is kept in the structures of KVM_GET_IRQCHIP.
 *
 * The slave's request reaches the master as an edge on IR2 each time the pair
 * is looked at, and stays in the master's IRR until it is acknowledged.
 */
#include "irqchip/internal.h"

enum { CASCADE = 2, NONE = 8 };
enum { ICW1_NEEDED_FIRST = 0, ICW2_NEXT = 1, ICW3_NEXT = 2, ICW4_NEXT = 3 };

static const uint8_t elcr_masks[2] = { 0xf8, 0xde };

void pic_reset(struct pic_pair *p)
{
	memset(p, 0, sizeof(*p));
	for (unsigned i = 0; i < 2; i++)
		p->chip[i].elcr_mask = elcr_masks[i];
}

/* ---- priorities ---- */

/* How many steps below the highest priority the best of these requests is; NONE without any. */
static unsigned priority(const struct kvm_pic_state *s, uint8_t requests)
{
	unsigned p = 0;

	if (!requests)
		return NONE;
	while (!(requests >> ((p + s->priority_add) & 7) & 1))
		p++;
	return p;
}

/* Request that may interrupt now, or -1. */
static int request(const struct pic_pair *pair, unsigned chip)
{
	const struct kvm_pic_state *s = &pair->chip[chip];
	unsigned p = priority(s, s->irr & ~s->imr);
	uint8_t busy = s->isr;

	if (p == NONE)
		return -1;
	if (s->special_mask)
		busy &= ~s->imr;
	if (s->special_fully_nested_mode && chip == 0)
		busy &= ~(1 << CASCADE);
	return p < priority(s, busy) ? (int)((p + s->priority_add) & 7) : -1;
}

/* 1: a new request, 0: it was waiting already, -1: masked. */
static int line_set(struct kvm_pic_state *s, unsigned irq, bool level)
{
	uint8_t bit = 1 << irq;
	int r = 1;

	if (!level) {
		s->last_irr &= ~bit;
		if (s->elcr & bit)
			s->irr &= ~bit;
	} else if (s->elcr & bit || !(s->last_irr & bit)) {
		r = !(s->irr & bit);
		s->irr |= bit;
		s->last_irr |= bit;
	}
	return s->imr & bit ? -1 : r;
}

void pic_update(struct irqchip *c)
{
	struct pic_pair *p = &c->pic;
	bool before = p->output;

	if (request(p, 1) >= 0) {
		line_set(&p->chip[0], CASCADE, true);
		line_set(&p->chip[0], CASCADE, false);
	}
	p->output = request(p, 0) >= 0;
	if (before || p->output)
		lapic_pic_changed(c, p->output && !before);
}

int pic_line(struct irqchip *c, unsigned pin, bool level)
{
	int r = line_set(&c->pic.chip[pin >> 3], pin & 7, level);

	pic_update(c);
	return r;
}

/* ---- acknowledge and EOI ---- */

static void isr_clear(struct irqchip *c, unsigned chip, unsigned irq)
{
	c->pic.chip[chip].isr &= ~(1 << irq);
	if (chip || irq != CASCADE)
		pin_acked(c, false, chip * 8 + irq);
}

static void acknowledge(struct irqchip *c, unsigned chip, unsigned irq)
{
	struct kvm_pic_state *s = &c->pic.chip[chip];

	s->isr |= 1 << irq;
	if (!(s->elcr & 1 << irq))
		s->irr &= ~(1 << irq);
	if (s->auto_eoi) {
		if (s->rotate_on_auto_eoi)
			s->priority_add = (irq + 1) & 7;
		isr_clear(c, chip, irq);
	}
}

/* A request that has gone away between INTR and the acknowledge shows as IR7 and is not in service. */
int pic_peek(struct irqchip *c)
{
	int irq = request(&c->pic, 0), slave;

	if (irq != CASCADE)
		return c->pic.chip[0].irq_base + (irq < 0 ? 7 : irq);
	slave = request(&c->pic, 1);
	return c->pic.chip[1].irq_base + (slave < 0 ? 7 : slave);
}

int pic_ack(struct irqchip *c)
{
	int vector = pic_peek(c), irq = request(&c->pic, 0), slave = irq == CASCADE ? request(&c->pic, 1) : -1;

	if (irq >= 0)
		acknowledge(c, 0, irq);
	if (slave >= 0)
		acknowledge(c, 1, slave);
	pic_update(c);
	return vector;
}

/* ---- command words ---- */

/* A new initialization drops edges and what is in service; those who wait for acknowledgements must not wait for ever. */
static void icw1(struct irqchip *c, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &c->pic.chip[chip];
	uint8_t dropped = (s->irr & ~s->elcr) | s->isr;

	s->init4 = value & 1;
	s->last_irr = 0;
	s->irr &= s->elcr;
	s->imr = 0;
	s->isr = 0;
	s->priority_add = 0;
	s->special_mask = 0;
	s->read_reg_select = 0;
	s->poll = 0;
	if (!s->init4) {
		s->special_fully_nested_mode = 0;
		s->auto_eoi = 0;
	}
	s->init_state = ICW2_NEXT;
	for (unsigned irq = 0; irq < 8; irq++) {
		if (dropped & 1 << irq)
			isr_clear(c, chip, irq);
	}
	pic_update(c);
}

enum ocw2 { ROTATE_AEOI_CLEAR, EOI, OCW2_NOP, EOI_SPECIFIC, ROTATE_AEOI_SET, ROTATE_EOI, SET_PRIORITY, ROTATE_EOI_SPECIFIC };

static void ocw2(struct irqchip *c, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &c->pic.chip[chip];
	enum ocw2 command = value >> 5;
	unsigned irq = value & 7, p;

	switch (command) {
	case ROTATE_AEOI_CLEAR:
	case ROTATE_AEOI_SET:
		s->rotate_on_auto_eoi = command == ROTATE_AEOI_SET;
		return;
	case OCW2_NOP:
		return;
	case SET_PRIORITY:
		s->priority_add = (irq + 1) & 7;
		pic_update(c);
		return;
	case EOI:
	case ROTATE_EOI:
		p = priority(s, s->isr);
		if (p == NONE)
			return;
		irq = (p + s->priority_add) & 7;
		break;
	default:
		break;
	}
	if (command == ROTATE_EOI || command == ROTATE_EOI_SPECIFIC)
		s->priority_add = (irq + 1) & 7;
	isr_clear(c, chip, irq);
	pic_update(c);
}

static void ocw3(struct kvm_pic_state *s, uint8_t value)
{
	if (value & 4)
		s->poll = 1;
	if (value & 2)
		s->read_reg_select = value & 1;
	if (value & 0x40)
		s->special_mask = value >> 5 & 1;
}

static void command_write(struct irqchip *c, unsigned chip, uint8_t value)
{
	if (value & 0x10) {
		icw1(c, chip, value);
	} else if (value & 8) {
		ocw3(&c->pic.chip[chip], value);
		pic_update(c);
	} else {
		ocw2(c, chip, value);
	}
}

static void imr_write(struct irqchip *c, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &c->pic.chip[chip];
	uint8_t opened = s->imr & ~value;

	s->imr = value;
	for (unsigned irq = 0; irq < 8; irq++) {
		if (opened & 1 << irq)
			pin_unmasked(c, false, chip * 8 + irq);
	}
	pic_update(c);
}

static void data_write(struct irqchip *c, unsigned chip, uint8_t value)
{
	struct kvm_pic_state *s = &c->pic.chip[chip];

	switch (s->init_state) {
	case ICW1_NEEDED_FIRST:
		imr_write(c, chip, value);
		break;
	case ICW2_NEXT:
		s->irq_base = value & 0xf8;
		s->init_state = ICW3_NEXT;
		break;
	case ICW3_NEXT:
		s->init_state = s->init4 ? ICW4_NEXT : ICW1_NEEDED_FIRST;
		break;
	case ICW4_NEXT:
		s->special_fully_nested_mode = value >> 4 & 1;
		s->auto_eoi = value >> 1 & 1;
		s->init_state = ICW1_NEEDED_FIRST;
		break;
	}
}

/* A poll is an acknowledge by reading. */
static uint8_t poll_read(struct irqchip *c, unsigned chip)
{
	int irq = request(&c->pic, chip);

	c->pic.chip[chip].poll = 0;
	if (irq >= 0)
		acknowledge(c, chip, irq);
	pic_update(c);
	return irq >= 0 ? 0x80 | irq : 0;
}

/* ---- ports ---- */

static bool is_elcr(uint16_t port) { return (port & ~1) == 0x4d0; }

bool pic_port_read(struct irqchip *c, uint16_t port, uint8_t *value)
{
	unsigned chip = port >> 7 & 1;
	struct kvm_pic_state *s = &c->pic.chip[chip];

	if (is_elcr(port))
		*value = c->pic.chip[port & 1].elcr;
	else if (s->poll)
		*value = poll_read(c, chip);
	else if (port & 1)
		*value = s->imr;
	else
		*value = s->read_reg_select ? s->isr : s->irr;
	return true;
}

bool pic_port_write(struct irqchip *c, uint16_t port, uint8_t value)
{
	unsigned chip = port >> 7 & 1;

	if (is_elcr(port))
		c->pic.chip[port & 1].elcr = value & elcr_masks[port & 1];
	else if (port & 1)
		data_write(c, chip, value);
	else
		command_write(c, chip, value);
	return true;
}

void pic_set_state(struct irqchip *c, unsigned chip, const struct kvm_pic_state *s)
{
	c->pic.chip[chip] = *s;
	c->pic.chip[chip].priority_add &= 7;
	c->pic.chip[chip].elcr_mask = elcr_masks[chip];
	pic_update(c);
}
