/*
 * The local APIC's heart: IRR, ISR, TMR, priorities, acknowledge and EOI, and
 * what a message does. Registers as the guest sees them are in lapic_regs.c.
 */
#include "irqchip/internal.h"

struct lapic *lapic_find(struct irqchip *c, unsigned vcpu)
{
	return vcpu < LAPIC_MAX ? __atomic_load_n(&c->by_id[vcpu], __ATOMIC_ACQUIRE) : NULL;
}

/* ---- bitmaps of 256 vectors: eight registers, 16 bytes apart ---- */

static void vector_set(struct lapic *l, unsigned bitmap, uint8_t v)
{
	*lapic_reg(l, bitmap + (v >> 5) * 16) |= 1u << (v & 31);
}

static void vector_clear(struct lapic *l, unsigned bitmap, uint8_t v)
{
	*lapic_reg(l, bitmap + (v >> 5) * 16) &= ~(1u << (v & 31));
}

static int vector_highest(struct lapic *l, unsigned bitmap)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t word = *lapic_reg(l, bitmap + i * 16);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

/* ---- priorities ---- */

static void ppr_update(struct lapic *l)
{
	int isr = vector_highest(l, REG_ISR);
	uint32_t tpr = *lapic_reg(l, REG_TPR) & 0xff, class = isr < 0 ? 0 : isr & 0xf0;

	*lapic_reg(l, REG_PPR) = (tpr & 0xf0) >= class ? tpr : class;
}

/* Highest vector in IRR that the processor priority lets through, or -1. */
static int fixed_pending(struct lapic *l)
{
	int irr = vector_highest(l, REG_IRR);

	return irr >= 0 && (irr & 0xf0) > (int)(*lapic_reg(l, REG_PPR) & 0xf0) ? irr : -1;
}

/* INTR of the PIC reaches the processor through LINT0 in ExtINT mode, or directly when the LAPIC is off. */
bool lapic_takes_pic(struct lapic *l)
{
	return !lapic_enabled(l) || (*lapic_reg(l, REG_LVT_LINT0) & (LVT_MASKED | 0x700)) == DM_EXTINT << 8;
}

static bool pic_pending(struct lapic *l)
{
	return l->chip->pic.output && l->chip->mode == IRQCHIP_FULL && lapic_takes_pic(l);
}

void lapic_update(struct lapic *l)
{
	int now = -1, before;

	ppr_update(l);
	if (pic_pending(l))
		now = pic_peek(l->chip);
	else if (lapic_enabled(l))
		now = fixed_pending(l);
	before = atomic_exchange(&l->pending, now);
	if (now >= 0 && now != before)
		l->chip->ops->kick(l->chip->arg, l->id);
}

/* Pins in fixed or NMI mode see the PIC's output as an edge. */
void lapic_pic_changed(struct irqchip *c, bool rose)
{
	for (unsigned i = 0; i < c->nlapics; i++) {
		struct lapic *l = c->lapics[i];

		if (rose && !lapic_takes_pic(l))
			lapic_lvt_deliver(l, REG_LVT_LINT0);
		lapic_update(l);
	}
}

int irqchip_pending(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);

	return likely(l) ? atomic_load_explicit(&l->pending, memory_order_acquire) : -1;
}

int irqchip_ack(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);
	int v = -1;

	if (!l)
		return -1;
	chip_enter(c);
	if (pic_pending(l)) {
		v = pic_ack(c);
	} else if (lapic_enabled(l)) {
		ppr_update(l);
		v = fixed_pending(l);
		if (v >= 0) {
			vector_clear(l, REG_IRR, v);
			vector_set(l, REG_ISR, v);
		}
	}
	lapic_update(l);
	chip_leave(c);
	if (v >= 0)
		trace(irq, "LAPIC %u: vector 0x%x in service", vcpu, v);
	return v;
}

bool lapic_accepts_extint(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);
	bool r;

	if (!l)
		return true;
	chip_enter(c);
	r = lapic_takes_pic(l);
	chip_leave(c);
	return r;
}

void lapic_eoi(struct lapic *l)
{
	struct irqchip *c = l->chip;
	int v = vector_highest(l, REG_ISR);
	bool level, suppressed = *lapic_reg(l, REG_SVR) & SVR_NO_EOI_BROADCAST;

	if (v < 0)
		return;
	vector_clear(l, REG_ISR, v);
	level = vector_test(l, REG_TMR, v);
	if (c->mode == IRQCHIP_FULL)
		ioapic_eoi(c, v, level, suppressed);
	else if (!suppressed && routing_wants_eoi(c, l, v))
		c->ops->ioapic_eoi(c->arg, l->id, v);
	lapic_update(l);
}

/* ---- accepting ---- */

static void event_post(struct lapic *l, unsigned event, unsigned cancels)
{
	l->events = (l->events & ~cancels) | event;
	l->chip->ops->kick(l->chip->arg, l->id);
}

static int accept_fixed(struct lapic *l, uint8_t v, bool level)
{
	bool waiting;

	if (!lapic_enabled(l) || !lapic_software_enabled(l))
		return -1;
	if (v < 16) {
		lapic_error(l, ESR_RECEIVE_ILLEGAL_VECTOR);
		return -1;
	}
	waiting = vector_test(l, REG_IRR, v);
	vector_set(l, REG_IRR, v);
	(level ? vector_set : vector_clear)(l, REG_TMR, v);
	trace(irq, "LAPIC %u: vector 0x%x requested", l->id, v);
	lapic_update(l);
	return !waiting;
}

/* An INIT makes a SIPI that came before it void. */
int lapic_accept(struct lapic *l, const struct message *m)
{
	switch (m->mode) {
	case DM_FIXED:
	case DM_LOWEST:
		return m->level && m->deassert ? -1 : accept_fixed(l, m->vector, m->level);
	case DM_SMI:
		event_post(l, LAPIC_SMI, 0);
		return 1;
	case DM_NMI:
		event_post(l, l->events & LAPIC_NMI ? LAPIC_NMI_AGAIN : LAPIC_NMI, 0);
		return 1;
	case DM_INIT:
		if (m->level && m->deassert)
			return -1;
		event_post(l, LAPIC_INIT, LAPIC_SIPI);
		return 1;
	case DM_SIPI:
		l->sipi_vector = m->vector;
		event_post(l, LAPIC_SIPI, 0);
		return 1;
	default:
		return -1;
	}
}

/* The timer and error entries have no delivery mode: their bits are 0, fixed. ExtINT is lapic_takes_pic()'s. */
int lapic_lvt_deliver(struct lapic *l, unsigned lvt)
{
	uint32_t e = *lapic_reg(l, lvt);

	if (!lapic_enabled(l) || e & LVT_MASKED)
		return -1;
	return lapic_accept(l, &(struct message){ .vector = e & 0xff, .mode = e >> 8 & 7 });
}

/* Only a new error interrupts; that also ends the recursion of an error entry with an illegal vector. */
void lapic_error(struct lapic *l, uint32_t bit)
{
	if (l->errors & bit)
		return;
	l->errors |= bit;
	lapic_lvt_deliver(l, REG_LVT_ERROR);
}

void lapic_post_vector(struct irqchip *c, unsigned vcpu, uint8_t vector)
{
	struct lapic *l = lapic_find(c, vcpu);

	if (!l)
		return;
	chip_enter(c);
	lapic_accept(l, &(struct message){ .vector = vector, .mode = DM_FIXED });
	chip_leave(c);
}

unsigned lapic_events_peek(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);

	return l ? atomic_load_explicit(&l->events, memory_order_acquire) : 0;
}

unsigned lapic_events_take(struct irqchip *c, unsigned vcpu, uint8_t *sipi_vector)
{
	struct lapic *l = lapic_find(c, vcpu);
	unsigned events;

	if (!l || likely(!atomic_load_explicit(&l->events, memory_order_acquire)))
		return 0;
	chip_enter(c);
	events = l->events;
	l->events = 0;
	if (sipi_vector)
		*sipi_vector = l->sipi_vector;
	chip_leave(c);
	return events;
}

/* ---- CR8: the class of TPR ---- */

uint64_t lapic_cr8_get(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);

	return l ? (__atomic_load_n(lapic_reg(l, REG_TPR), __ATOMIC_RELAXED) & 0xff) >> 4 : 0;
}

void lapic_cr8_set(struct irqchip *c, unsigned vcpu, uint64_t cr8)
{
	struct lapic *l = lapic_find(c, vcpu);

	if (!l)
		return;
	chip_enter(c);
	*lapic_reg(l, REG_TPR) = (cr8 & 15) << 4;
	lapic_update(l);
	chip_leave(c);
}
