/*
 * The 8254. Nothing counts: counts and outputs are computed from the time since
 * a channel was loaded. Channel 0 raises GSI 0 for a moment at each period.
 *
 * With reinjection on, each tick waits for the guest's acknowledge of the one
 * before, and ticks that could not be raised are owed to the guest: a guest that
 * counts ticks keeps time however slowly it is run. A pin that is unmasked starts
 * with no debts.
 */
#include "irqchip/internal.h"

#define NS_PER_SECOND 1000000000ull
#define PIT_HZ 1193182ull

/* 200 us: below this a periodic channel would keep the machine busy with nothing else. */
enum { PERIOD_MIN_COUNT = 239 };

/* Rounded so that the ticks of the time of n ticks are at least n. */
static uint64_t ticks_to_ns(uint64_t n)
{
	return n / PIT_HZ * NS_PER_SECOND + (n % PIT_HZ * NS_PER_SECOND + PIT_HZ - 1) / PIT_HZ;
}

static uint64_t ns_to_ticks(uint64_t ns)
{
	return ns / NS_PER_SECOND * PIT_HZ + ns % NS_PER_SECOND * PIT_HZ / NS_PER_SECOND;
}

/* ---- counts and outputs ---- */

static uint64_t elapsed(const struct kvm_pit_channel_state *ch, uint64_t now)
{
	return (int64_t)now > ch->count_load_time ? ns_to_ticks(now - ch->count_load_time) : 0;
}

static unsigned to_bcd(unsigned n) { return n % 10 | n / 10 % 10 << 4 | n / 100 % 10 << 8 | n / 1000 % 10 << 12; }
static unsigned from_bcd(unsigned n) { return (n & 15) + (n >> 4 & 15) * 10 + (n >> 8 & 15) * 100 + (n >> 12 & 15) * 1000; }

uint16_t pit_count(const struct kvm_pit_channel_state *ch)
{
	uint64_t d = elapsed(ch, time_ns());
	unsigned span = ch->bcd ? 10000 : 0x10000, n;

	switch (ch->mode) {
	case MODE_TERMINAL:
	case MODE_ONE_SHOT:
	case MODE_SOFT_STROBE:
	case MODE_HARD_STROBE:
		n = (ch->count + span - d % span) % span;
		break;
	case MODE_SQUARE:                /* two at a time, twice per period */
		n = ch->count - 2 * d % ch->count;
		break;
	default:
		n = ch->count - d % ch->count;
		break;
	}
	return ch->bcd ? to_bcd(n) : n;
}

bool pit_output(const struct kvm_pit_channel_state *ch)
{
	uint64_t d = elapsed(ch, time_ns());

	switch (ch->mode) {
	case MODE_ONE_SHOT:
		return d < ch->count;
	case MODE_RATE:
		return d && d % ch->count == 0;
	case MODE_SQUARE:
		return d % ch->count < (ch->count + 1) / 2;
	case MODE_SOFT_STROBE:
	case MODE_HARD_STROBE:
		return d == ch->count;
	default:
		return d >= ch->count;
	}
}

/* ---- channel 0's interrupt ---- */

static bool is_periodic(const struct kvm_pit_channel_state *ch)
{
	return ch->mode == MODE_RATE || ch->mode == MODE_SQUARE;
}

static unsigned tick_count(const struct kvm_pit_channel_state *ch)
{
	return is_periodic(ch) && ch->count < PERIOD_MIN_COUNT ? PERIOD_MIN_COUNT : ch->count;
}

static void debts_forget(struct pit *p)
{
	p->pending = 0;
	p->acked = true;
}

static void arm(struct irqchip *c)
{
	struct pit *p = c->pit;
	const struct kvm_pit_channel_state *ch = &p->ch[0];

	if (!p->running || p->flags & KVM_PIT_FLAGS_HPET_LEGACY)
		chip_timer_clear(c, TIMER_PIT);
	else
		chip_timer_set(c, TIMER_PIT, ch->count_load_time + ticks_to_ns((p->ticks + 1) * tick_count(ch)));
}

static void restart(struct irqchip *c)
{
	struct pit *p = c->pit;

	p->ch[0].count_load_time = time_ns();
	p->ticks = 0;
	p->running = p->ch[0].mode <= MODE_SOFT_STROBE;
	debts_forget(p);
	arm(c);
}

static void ticked(struct pit *p, uint64_t n)
{
	if (p->reinject) {
		p->pending += n;
		if (!p->acked)
			return;
		p->acked = false;
	}
	p->inject = true;
}

void pit_due(struct irqchip *c, uint64_t now)
{
	struct pit *p = c->pit;
	uint64_t n = elapsed(&p->ch[0], now) / tick_count(&p->ch[0]) - p->ticks;

	if (n) {
		if (!is_periodic(&p->ch[0]))
			p->running = false;
		p->ticks += n;
		ticked(p, p->running ? n : 1);
	}
	arm(c);
}

/* Called when the lock is about to be let go: acknowledges come from the middle of the chips' own work. */
void pit_raise(struct irqchip *c)
{
	c->pit->inject = false;
	gsi_line(c, 0, true, IRQ_SOURCE_PIT);
	gsi_line(c, 0, false, IRQ_SOURCE_PIT);
}

void pit_acked(struct irqchip *c)
{
	struct pit *p = c->pit;

	if (!p || !p->reinject)
		return;
	p->acked = true;
	if (p->pending && --p->pending) {
		p->acked = false;
		p->inject = true;
	}
}

void pit_unmasked(struct irqchip *c)
{
	if (c->pit)
		debts_forget(c->pit);
}

void pit_load(struct irqchip *c, unsigned n, uint16_t value)
{
	struct kvm_pit_channel_state *ch = &c->pit->ch[n];

	if (ch->bcd)
		ch->count = value ? from_bcd(value) : 10000;
	else
		ch->count = value ? value : 0x10000;
	if (!ch->count)
		ch->count = 10000;
	ch->count_load_time = time_ns();
	if (n == 0)
		restart(c);
}

/* ---- the client's side ---- */

int pit_create(struct irqchip *c, uint32_t flags)
{
	struct pit *p = &c->pit_storage;
	int r = c->pit ? -EEXIST : c->mode != IRQCHIP_FULL ? -ENOENT : 0;

	if (r)
		return r;
	chip_enter(c);
	*p = (struct pit){ .speaker = flags & KVM_PIT_SPEAKER_DUMMY, .reinject = true, .acked = true };
	for (unsigned n = 0; n < 3; n++) {
		p->ch[n] = (struct kvm_pit_channel_state){
			.mode = MODE_NEVER_SET, .gate = n != 2, .count = 0x10000, .count_load_time = time_ns(),
		};
	}
	__atomic_store_n(&c->pit, p, __ATOMIC_RELEASE);
	chip_leave(c);
	return 0;
}

int pit_get(struct irqchip *c, struct kvm_pit_state2 *s)
{
	if (!c->pit)
		return -ENXIO;
	chip_enter(c);
	memset(s, 0, sizeof(*s));
	memcpy(s->channels, c->pit->ch, sizeof(s->channels));
	s->flags = c->pit->flags;
	chip_leave(c);
	return 0;
}

/* Clients read, change channel 2 and write back while the machine runs: channel 0 must not lose its phase by that. */
static bool channel0_unchanged(const struct pit *p, const struct kvm_pit_state2 *s)
{
	const struct kvm_pit_channel_state *a = &p->ch[0], *b = &s->channels[0];

	return a->mode == b->mode && a->count == b->count && a->count_load_time == b->count_load_time &&
	       !((p->flags ^ s->flags) & KVM_PIT_FLAGS_HPET_LEGACY);
}

int pit_set(struct irqchip *c, const struct kvm_pit_state2 *s)
{
	struct pit *p = c->pit;
	bool same;

	if (!p)
		return -ENXIO;
	chip_enter(c);
	same = channel0_unchanged(p, s);
	memcpy(p->ch, s->channels, sizeof(p->ch));
	p->flags = s->flags;
	for (unsigned n = 0; n < 3; n++) {
		p->ch[n].gate &= 1;
		p->ch[n].bcd &= 1;
		if (!p->ch[n].count || p->ch[n].count > 0x10000)
			p->ch[n].count = 0x10000;
	}
	if (!same)
		restart(c);
	chip_leave(c);
	return 0;
}

int pit_reinject(struct irqchip *c, bool on)
{
	if (!c->pit)
		return -ENXIO;
	chip_enter(c);
	c->pit->reinject = on;
	debts_forget(c->pit);
	chip_leave(c);
	return 0;
}
