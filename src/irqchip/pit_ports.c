/* The 8254's ports, and port 0x61, which shows channel 2 to the speaker. */
#include "irqchip/internal.h"

enum { CONTROL = 3, PORT_SPEAKER = 0x61 };
enum { RW_NONE = 0, RW_LSB = 1, RW_MSB = 2, RW_WORD0 = 3, RW_WORD1 = 4 };

static void count_latch(struct kvm_pit_channel_state *ch)
{
	if (ch->count_latched)
		return;
	ch->latched_count = pit_count(ch);
	ch->count_latched = ch->rw_mode;
}

static void status_latch(struct kvm_pit_channel_state *ch)
{
	if (ch->status_latched)
		return;
	ch->status = pit_output(ch) << 7 | ch->rw_mode << 4 | (ch->mode & 7) << 1 | ch->bcd;
	ch->status_latched = 1;
}

static void read_back(struct pit *p, uint8_t value)
{
	for (unsigned n = 0; n < 3; n++) {
		if (!(value & 2 << n))
			continue;
		if (!(value & 0x20))
			count_latch(&p->ch[n]);
		if (!(value & 0x10))
			status_latch(&p->ch[n]);
	}
}

/* A new mode stops channel 0 until it is given a count. */
static void control_write(struct irqchip *c, uint8_t value)
{
	struct kvm_pit_channel_state *ch;
	unsigned n = value >> 6, rw = value >> 4 & 3;

	if (n == 3) {
		read_back(c->pit, value);
		return;
	}
	ch = &c->pit->ch[n];
	if (rw == RW_NONE) {
		count_latch(ch);
		return;
	}
	ch->rw_mode = ch->read_state = ch->write_state = rw;
	ch->mode = value >> 1 & 7;
	if (ch->mode > MODE_HARD_STROBE)
		ch->mode -= 4;
	ch->bcd = value & 1;
	ch->count_latched = ch->status_latched = 0;
	if (n == 0) {
		c->pit->running = false;
		chip_timer_clear(c, TIMER_PIT);
	}
}

static void counter_write(struct irqchip *c, unsigned n, uint8_t value)
{
	struct kvm_pit_channel_state *ch = &c->pit->ch[n];

	switch (ch->write_state) {
	case RW_MSB:
		pit_load(c, n, value << 8);
		break;
	case RW_WORD0:
		ch->write_latch = value;
		ch->write_state = RW_WORD1;
		break;
	case RW_WORD1:
		ch->write_state = RW_WORD0;
		pit_load(c, n, ch->write_latch | value << 8);
		break;
	default:
		pit_load(c, n, value);
		break;
	}
}

static uint8_t latched_read(struct kvm_pit_channel_state *ch)
{
	switch (ch->count_latched) {
	case RW_MSB:
		ch->count_latched = 0;
		return ch->latched_count >> 8;
	case RW_WORD0:
		ch->count_latched = RW_MSB;
		return ch->latched_count;
	default:
		ch->count_latched = 0;
		return ch->latched_count;
	}
}

static uint8_t counter_read(struct kvm_pit_channel_state *ch)
{
	if (ch->status_latched) {
		ch->status_latched = 0;
		return ch->status;
	}
	if (ch->count_latched)
		return latched_read(ch);
	switch (ch->read_state) {
	case RW_MSB:
		return pit_count(ch) >> 8;
	case RW_WORD0:
		ch->read_state = RW_WORD1;
		return pit_count(ch);
	case RW_WORD1:
		ch->read_state = RW_WORD0;
		return pit_count(ch) >> 8;
	default:
		return pit_count(ch);
	}
}

/* Channel 2's gate and output, the speaker's data bit, and a bit that toggles with refresh, about every 16 us. */
static uint8_t speaker_read(struct pit *p)
{
	bool data = p->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON, refresh = time_ns() >> 14 & 1;

	return p->ch[2].gate | data << 1 | refresh << 4 | pit_output(&p->ch[2]) << 5;
}

static void speaker_write(struct pit *p, uint8_t value)
{
	struct kvm_pit_channel_state *ch = &p->ch[2];
	bool rises = value & 1 && !ch->gate;

	p->flags = (p->flags & ~KVM_PIT_FLAGS_SPEAKER_DATA_ON) | (value & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	if (rises && ch->mode != MODE_TERMINAL && ch->mode != MODE_SOFT_STROBE)
		ch->count_load_time = time_ns();
	ch->gate = value & 1;
}

bool pit_port_read(struct irqchip *c, uint16_t port, uint8_t *value)
{
	if (port == PORT_SPEAKER)
		*value = speaker_read(c->pit);
	else if ((port & 3) != CONTROL)
		*value = counter_read(&c->pit->ch[port & 3]);
	return true;
}

bool pit_port_write(struct irqchip *c, uint16_t port, uint8_t value)
{
	if (port == PORT_SPEAKER)
		speaker_write(c->pit, value);
	else if ((port & 3) == CONTROL)
		control_write(c, value);
	else
		counter_write(c, port & 3, value);
	return true;
}
