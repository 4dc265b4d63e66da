/*
 * The LAPIC's timer. The bus runs at 1 GHz: one count is one nanosecond times
 * the divider. Counts are never stored but computed from timer_target, the
 * moment they reach zero.
 */
#include "irqchip/internal.h"

enum timer_mode { ONE_SHOT = 0, PERIODIC = 1, TSC_DEADLINE = 2 };

/* Below this a periodic timer would keep the machine busy with nothing else. */
enum { PERIOD_MIN_NS = 200000 };

static enum timer_mode mode_of(uint32_t lvt)
{
	return lvt >> 17 & 3;
}

static enum timer_mode mode(struct lapic *l)
{
	return mode_of(*lapic_reg(l, REG_LVT_TIMER));
}

/* Bits 0, 1 and 3: 2, 4, ... 128, and 1 for all ones. */
static unsigned divider(uint32_t divide)
{
	unsigned code = (divide & 3) | (divide & 8) >> 1;

	return 1u << ((code + 1) & 7);
}

static uint64_t count_to_ns(struct lapic *l, uint64_t count)
{
	return count * divider(*lapic_reg(l, REG_TIMER_DIVIDE));
}

static uint64_t full_period(struct lapic *l)
{
	uint64_t ns = count_to_ns(l, *lapic_reg(l, REG_TIMER_INIT));

	return mode(l) == PERIODIC && ns && ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns;
}

void lapic_timer_stop(struct lapic *l)
{
	l->timer_target = 0;
	l->timer_period = 0;
	l->tsc_deadline = 0;
	chip_timer_clear(l->chip, l->timer_slot);
}

static void start(struct lapic *l, uint64_t remaining_ns)
{
	l->timer_target = time_ns() + remaining_ns;
	chip_timer_set(l->chip, l->timer_slot, l->timer_target);
}

static uint64_t remaining_ns(struct lapic *l, uint64_t now)
{
	if (!l->timer_target)
		return 0;
	if (l->timer_target > now)
		return l->timer_target - now;
	return mode(l) == PERIODIC ? l->timer_period - (now - l->timer_target) % l->timer_period : 0;
}

uint32_t lapic_timer_count(struct lapic *l)
{
	unsigned div = divider(*lapic_reg(l, REG_TIMER_DIVIDE));

	if (mode(l) == TSC_DEADLINE)
		return 0;
	return (remaining_ns(l, time_ns()) + div - 1) / div;
}

/* ---- TSC deadline ---- */

/* A nanosecond late rather than early: a guest may check that its TSC has passed the deadline. */
static void deadline_arm(struct lapic *l)
{
	struct irqchip *c = l->chip;
	uint64_t tsc;

	if (!l->tsc_deadline) {
		chip_timer_clear(c, l->timer_slot);
		return;
	}
	tsc = c->ops->tsc_now(c->arg, l->id);
	if (tsc < l->tsc_deadline) {
		uint64_t now = time_ns(), ns = c->ops->tsc_to_ns(c->arg, l->id, l->tsc_deadline - tsc);

		chip_timer_set(c, l->timer_slot, ns < UINT64_MAX / 2 ? now + ns + 1 : UINT64_MAX - 1);
		return;
	}
	l->tsc_deadline = 0;
	chip_timer_clear(c, l->timer_slot);
	lapic_lvt_deliver(l, REG_LVT_TIMER);
}

uint64_t lapic_tsc_deadline_get(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);
	uint64_t tsc;

	if (!l)
		return 0;
	chip_enter(c);
	tsc = mode(l) == TSC_DEADLINE ? l->tsc_deadline : 0;
	chip_leave(c);
	return tsc;
}

void lapic_tsc_deadline_set(struct irqchip *c, unsigned vcpu, uint64_t tsc)
{
	struct lapic *l = lapic_find(c, vcpu);

	if (!l)
		return;
	chip_enter(c);
	if (mode(l) == TSC_DEADLINE && lapic_enabled(l)) {
		l->tsc_deadline = tsc;
		deadline_arm(l);
	}
	chip_leave(c);
}

void lapic_tsc_moved(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);

	if (!l)
		return;
	chip_enter(c);
	if (mode(l) == TSC_DEADLINE && l->tsc_deadline)
		deadline_arm(l);
	chip_leave(c);
}

/* ---- what register writes and time do ---- */

/* Changing to or from TSC-deadline mode disarms; one-shot and periodic share a running count. */
void lapic_timer_lvt_written(struct lapic *l, uint32_t before)
{
	enum timer_mode old = mode_of(before), new = mode(l);

	if (old == new)
		return;
	if (old == TSC_DEADLINE || new == TSC_DEADLINE) {
		lapic_timer_stop(l);
		*lapic_reg(l, REG_TIMER_INIT) = 0;
	} else {
		l->timer_period = full_period(l);
	}
}

void lapic_timer_init_written(struct lapic *l)
{
	if (mode(l) == TSC_DEADLINE) {
		*lapic_reg(l, REG_TIMER_INIT) = 0;
		return;
	}
	lapic_timer_stop(l);
	l->timer_period = full_period(l);
	if (l->timer_period)
		start(l, l->timer_period);
}

/* The count stays, so the time it still takes scales. */
void lapic_timer_divide_written(struct lapic *l, uint32_t before)
{
	uint64_t left;

	if (before == *lapic_reg(l, REG_TIMER_DIVIDE) || !l->timer_target || mode(l) == TSC_DEADLINE)
		return;
	left = remaining_ns(l, time_ns()) / divider(before);
	l->timer_period = full_period(l);
	start(l, count_to_ns(l, left));
}

/* From the timer thread. The slot may be left over from an arming that no longer counts. */
void lapic_timer_due(struct lapic *l, uint64_t now)
{
	if (mode(l) == TSC_DEADLINE) {
		deadline_arm(l);
		return;
	}
	if (!l->timer_target)
		return;
	if (now < l->timer_target) {
		chip_timer_set(l->chip, l->timer_slot, l->timer_target);
		return;
	}
	if (mode(l) == PERIODIC && l->timer_period) {
		l->timer_target += l->timer_period * (1 + (now - l->timer_target) / l->timer_period);
		chip_timer_set(l->chip, l->timer_slot, l->timer_target);
	} else {
		l->timer_target = 0;
	}
	lapic_lvt_deliver(l, REG_LVT_TIMER);
}

/*
 * After KVM_SET_LAPIC: goes on from the image's current count. A one-shot timer whose count is zero has fired already, and
 * its interrupt is in the image's IRR.
 */
void lapic_timer_restore(struct lapic *l, uint32_t old_lvt)
{
	uint64_t left = count_to_ns(l, *lapic_reg(l, REG_TIMER_COUNT)), deadline = l->tsc_deadline;

	*lapic_reg(l, REG_TIMER_COUNT) = 0;
	lapic_timer_stop(l);
	if (mode(l) == TSC_DEADLINE) {
		l->tsc_deadline = mode_of(old_lvt) == TSC_DEADLINE ? deadline : 0;
		deadline_arm(l);
		return;
	}
	l->timer_period = full_period(l);
	if (!left && mode(l) == PERIODIC)
		left = l->timer_period;
	if (left && l->timer_period)
		start(l, left < l->timer_period ? left : l->timer_period);
}
