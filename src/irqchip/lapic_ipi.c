/*
 * Who gets a message: physical and logical destinations, xAPIC and x2APIC,
 * shorthands, lowest priority. Serves the ICR, MSIs and the I/O APIC.
 */
#include "irqchip/internal.h"

enum { XAPIC_BROADCAST = 0xff, DFR_FLAT = 0xf };
#define X2APIC_BROADCAST 0xffffffffu

/* An 8-bit destination 0xff from a device also means everyone in x2APIC mode, unless the client switched that off. */
static bool is_broadcast(struct lapic *l, const struct message *m)
{
	if (m->source && lapic_x2apic(m->source))
		return m->dest == X2APIC_BROADCAST;
	if (!lapic_x2apic(l) || m->source)
		return m->dest == XAPIC_BROADCAST;
	return m->dest == X2APIC_BROADCAST || (m->dest == XAPIC_BROADCAST && !l->chip->no_broadcast_quirk);
}

static bool matches_physical(struct lapic *l, uint32_t dest)
{
	if (lapic_x2apic(l))
		return dest == l->id;
	return dest == *lapic_reg(l, REG_ID) >> 24;
}

/* Clusters: 16 members with a 16-bit cluster number in x2APIC, 4 with a 4-bit number in xAPIC. */
static bool matches_logical(struct lapic *l, uint32_t dest)
{
	uint32_t ldr = *lapic_reg(l, REG_LDR);

	if (lapic_x2apic(l))
		return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff;
	ldr >>= 24;
	if (*lapic_reg(l, REG_DFR) >> 28 == DFR_FLAT)
		return ldr & dest & 0xff;
	return ldr >> 4 == dest >> 4 && ldr & dest & 15;
}

bool lapic_matches(struct lapic *l, const struct message *m)
{
	return is_broadcast(l, m) || (m->logical ? matches_logical : matches_physical)(l, m->dest);
}

/* ---- delivery ---- */

static int add_result(int sum, int r)
{
	return r < 0 ? sum : r + (sum < 0 ? 0 : sum);
}

/* Lower processor priority wins, then who has won less often. */
static bool is_lower(struct lapic *a, struct lapic *b)
{
	uint32_t pa = *lapic_reg(a, REG_PPR) >> 4, pb = *lapic_reg(b, REG_PPR) >> 4;

	return pa != pb ? pa < pb : a->arbitration < b->arbitration;
}

static int send_lowest(struct irqchip *c, const struct message *m)
{
	struct lapic *best = NULL;

	for (unsigned i = 0; i < c->nlapics; i++) {
		struct lapic *l = c->lapics[i];

		if (lapic_enabled(l) && lapic_software_enabled(l) && lapic_matches(l, m) && (!best || is_lower(l, best)))
			best = l;
	}
	if (!best)
		return -1;
	best->arbitration++;
	return lapic_accept(best, m);
}

/* To all that match; a physical broadcast has no lowest priority. >0: so many, 0: coalesced, -1: nobody took it. */
int message_send(struct irqchip *c, const struct message *m)
{
	bool everyone = !m->logical && m->dest == XAPIC_BROADCAST;
	int sum = -1;

	if ((m->lowest || m->mode == DM_LOWEST) && !everyone)
		return send_lowest(c, m);
	for (unsigned i = 0; i < c->nlapics; i++) {
		struct lapic *l = c->lapics[i];

		if (lapic_enabled(l) && lapic_matches(l, m))
			sum = add_result(sum, lapic_accept(l, m));
	}
	return sum;
}

/* ---- the ICR ---- */

enum shorthand { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS };

static void send_shorthand(struct lapic *from, const struct message *m, enum shorthand to)
{
	struct irqchip *c = from->chip;

	if (to == TO_SELF) {
		lapic_accept(from, m);
		return;
	}
	for (unsigned i = 0; i < c->nlapics; i++) {
		struct lapic *l = c->lapics[i];

		if (lapic_enabled(l) && (to == TO_ALL || l != from))
			lapic_accept(l, m);
	}
}

void lapic_icr_send(struct lapic *l)
{
	uint32_t icr = *lapic_reg(l, REG_ICR), icr2 = *lapic_reg(l, REG_ICR2);
	enum shorthand to = icr >> 18 & 3;
	struct message m = {
		.dest = lapic_x2apic(l) ? icr2 : icr2 >> 24, .vector = icr & 0xff, .mode = icr >> 8 & 7, .logical = icr >> 11 & 1,
		.level = icr >> 15 & 1, .deassert = !(icr >> 14 & 1), .source = l,
	};

	trace(irq, "LAPIC %u: ICR 0x%08x%08x", l->id, icr2, icr);
	if ((m.mode == DM_FIXED || m.mode == DM_LOWEST) && m.vector < 16) {
		lapic_error(l, ESR_SEND_ILLEGAL_VECTOR);
		return;
	}
	if (to == TO_DESTINATION)
		message_send(l->chip, &m);
	else
		send_shorthand(l, &m, to);
}

void lapic_self_ipi(struct lapic *l, uint8_t vector)
{
	if (vector < 16)
		lapic_error(l, ESR_SEND_ILLEGAL_VECTOR);
	else
		lapic_accept(l, &(struct message){ .vector = vector, .mode = DM_FIXED, .source = l });
}
