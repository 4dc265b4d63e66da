/*
 * What the files of irqchip/ share. Every function here is called with the
 * chip's lock held unless it says otherwise.
 *
 * What a vCPU asks on each turn of its loop is one atomic load: whoever changes
 * a LAPIC's or the PIC's state calls lapic_update(), which recomputes
 * lapic->pending and kicks the vCPU when there is something new.
 */
#ifndef ANYKVM_IRQCHIP_INTERNAL_H
#define ANYKVM_IRQCHIP_INTERNAL_H

#include <pthread.h>
#include "irqchip/irqchip.h"

enum { LAPIC_MAX = 256, GSI_MAX = 4096, IOAPIC_PINS = 24, PIC_PINS = 16, CHIP_PINS_MAX = 24 };

/* ---- LAPIC ---- */

enum lapic_reg {
	REG_ID = 0x20, REG_VERSION = 0x30, REG_TPR = 0x80, REG_APR = 0x90, REG_PPR = 0xa0, REG_EOI = 0xb0, REG_RRD = 0xc0,
	REG_LDR = 0xd0, REG_DFR = 0xe0, REG_SVR = 0xf0, REG_ISR = 0x100, REG_TMR = 0x180, REG_IRR = 0x200, REG_ESR = 0x280,
	REG_ICR = 0x300, REG_ICR2 = 0x310, REG_LVT_TIMER = 0x320, REG_LVT_THERMAL = 0x330, REG_LVT_PERF = 0x340,
	REG_LVT_LINT0 = 0x350, REG_LVT_LINT1 = 0x360, REG_LVT_ERROR = 0x370, REG_TIMER_INIT = 0x380, REG_TIMER_COUNT = 0x390,
	REG_TIMER_DIVIDE = 0x3e0, REG_SELF_IPI = 0x3f0,
};

enum { BASE_BSP = 0x100, BASE_EXTD = 0x400, BASE_EN = 0x800 };
enum { SVR_ENABLE = 0x100, SVR_NO_EOI_BROADCAST = 0x1000, VERSION_NO_EOI_BROADCAST = 0x1000000 };
enum { LVT_MASKED = 0x10000 };
enum delivery_mode { DM_FIXED, DM_LOWEST, DM_SMI, DM_REMOTE_READ, DM_NMI, DM_INIT, DM_SIPI, DM_EXTINT };
enum { ESR_SEND_ILLEGAL_VECTOR = 0x20, ESR_RECEIVE_ILLEGAL_VECTOR = 0x40, ESR_ILLEGAL_REGISTER = 0x80 };

struct lapic {
	struct irqchip *chip;
	unsigned id;                     /* the vCPU's, and the x2APIC id */
	bool bsp;
	_Atomic uint64_t base;           /* IA32_APIC_BASE */
	_Atomic int pending;             /* what irqchip_pending() says */
	_Atomic unsigned events;         /* LAPIC_NMI ... */
	uint8_t sipi_vector;
	uint32_t regs[1024 / 4];         /* the image of KVM_GET_LAPIC; ICR2 holds all of x2APIC's destination */
	uint32_t errors;                 /* for ESR at its next write */
	unsigned arbitration;            /* lowest-priority messages won so far */
	unsigned timer_slot;
	uint64_t timer_target;           /* ns; 0: does not count */
	uint64_t timer_period;           /* ns of one full count */
	uint64_t tsc_deadline;           /* 0: not armed */
};

/* An interrupt on its way to LAPICs. */
struct message {
	uint32_t dest;
	uint8_t vector;
	enum delivery_mode mode;
	bool logical;
	bool level;                      /* trigger mode */
	bool deassert;
	bool lowest;                     /* to one of the destinations only */
	const struct lapic *source;      /* of an IPI, else NULL */
};

static inline uint32_t *lapic_reg(struct lapic *l, unsigned offset) { return &l->regs[offset >> 2]; }
static inline bool lapic_enabled(const struct lapic *l) { return l->base & BASE_EN; }
static inline bool lapic_x2apic(const struct lapic *l) { return (l->base & (BASE_EN | BASE_EXTD)) == (BASE_EN | BASE_EXTD); }
static inline bool lapic_software_enabled(struct lapic *l) { return *lapic_reg(l, REG_SVR) & SVR_ENABLE; }
static inline bool vector_test(struct lapic *l, unsigned bitmap, uint8_t v)
{
	return *lapic_reg(l, bitmap + (v >> 5) * 16) >> (v & 31) & 1;
}

struct lapic *lapic_find(struct irqchip *c, unsigned vcpu);              /* NULL: none */
void lapic_update(struct lapic *l);
void lapic_reset_state(struct lapic *l, bool keep_base);
/* One LAPIC takes a message. 1: delivered, 0: the vector was already waiting, -1: not accepted. */
int lapic_accept(struct lapic *l, const struct message *m);
int lapic_lvt_deliver(struct lapic *l, unsigned lvt);
void lapic_error(struct lapic *l, uint32_t bit);
void lapic_eoi(struct lapic *l);
bool lapic_takes_pic(struct lapic *l);
void lapic_pic_changed(struct irqchip *c, bool rose);
uint32_t lapic_version(const struct irqchip *c);
uint32_t lapic_x2apic_ldr(uint32_t id);

/* lapic_regs.c. Writes: 0, or 1 where x2APIC mode faults. */
void lapic_lvts_mask(struct lapic *l);

/* lapic_timer.c */
void lapic_timer_stop(struct lapic *l);
void lapic_timer_lvt_written(struct lapic *l, uint32_t before);
void lapic_timer_init_written(struct lapic *l);
void lapic_timer_divide_written(struct lapic *l, uint32_t before);
uint32_t lapic_timer_count(struct lapic *l);
void lapic_timer_restore(struct lapic *l, uint32_t old_lvt);
void lapic_timer_due(struct lapic *l, uint64_t now);

/* lapic_ipi.c */
bool lapic_matches(struct lapic *l, const struct message *m);
int message_send(struct irqchip *c, const struct message *m);
void lapic_icr_send(struct lapic *l);
void lapic_self_ipi(struct lapic *l, uint8_t vector);

/* ---- I/O APIC ---- */

struct ioapic {
	struct kvm_ioapic_state s;       /* irr: lines that are up */
	uint32_t delivered;              /* edges that went out while their line is still up */
	uint8_t lines[IOAPIC_PINS];      /* bit per IRQ_SOURCE_* */
};

void ioapic_reset(struct ioapic *io);
int ioapic_line(struct irqchip *c, unsigned pin, bool level);
void ioapic_eoi(struct irqchip *c, uint8_t vector, bool level, bool suppressed);
void ioapic_set_state(struct irqchip *c, const struct kvm_ioapic_state *s);
bool ioapic_read(struct irqchip *c, uint64_t gpa, void *data, unsigned len);
bool ioapic_write(struct irqchip *c, uint64_t gpa, const void *data, unsigned len);

/* ---- PIC pair ---- */

struct pic_pair {
	struct kvm_pic_state chip[2];
	bool output;                     /* INTR */
	uint8_t lines[PIC_PINS];
};

void pic_reset(struct pic_pair *p);
int pic_line(struct irqchip *c, unsigned pin, bool level);
int pic_peek(struct irqchip *c);                                         /* vector of the next acknowledge */
int pic_ack(struct irqchip *c);
void pic_update(struct irqchip *c);
void pic_set_state(struct irqchip *c, unsigned chip, const struct kvm_pic_state *s);
bool pic_port_read(struct irqchip *c, uint16_t port, uint8_t *value);
bool pic_port_write(struct irqchip *c, uint16_t port, uint8_t value);

/* ---- PIT ---- */

enum pit_mode { MODE_TERMINAL, MODE_ONE_SHOT, MODE_RATE, MODE_SQUARE, MODE_SOFT_STROBE, MODE_HARD_STROBE, MODE_NEVER_SET = 0xff };

struct pit {
	struct kvm_pit_channel_state ch[3];
	uint32_t flags;                  /* KVM_PIT_FLAGS_* */
	bool speaker;                    /* port 0x61 is ours */
	bool running;                    /* channel 0 has been loaded and its timer is meant to run */
	bool reinject;
	bool acked;                      /* the guest is done with the last tick */
	bool inject;                     /* a tick is to be raised before the lock is let go */
	uint64_t pending;                /* ticks owed to the guest, the one in service included */
	uint64_t ticks;                  /* periods of channel 0 accounted for since count_load_time */
};

void pit_due(struct irqchip *c, uint64_t now);
void pit_acked(struct irqchip *c);
void pit_unmasked(struct irqchip *c);
void pit_raise(struct irqchip *c);
/* Counts now, as the guest would read it (in BCD where it asked for that), and the channel's OUT. */
uint16_t pit_count(const struct kvm_pit_channel_state *ch);
bool pit_output(const struct kvm_pit_channel_state *ch);
void pit_load(struct irqchip *c, unsigned channel, uint16_t value);
bool pit_port_read(struct irqchip *c, uint16_t port, uint8_t *value);
bool pit_port_write(struct irqchip *c, uint16_t port, uint8_t value);

/* ---- routing ---- */

enum { ROUTE_MSI = 3 };                  /* after KVM_IRQCHIP_IOAPIC */

struct route {
	uint16_t next;                   /* index + 1, 0: last of its GSI */
	uint8_t chip;                    /* KVM_IRQCHIP_*, or ROUTE_MSI */
	uint8_t pin;                     /* PIC: 0..15 */
	uint32_t address_lo, address_hi, data;
};

struct routing {
	uint16_t head[GSI_MAX];          /* index + 1 */
	unsigned used;
	struct route route[GSI_MAX];
	int16_t pic_gsi[PIC_PINS], ioapic_gsi[IOAPIC_PINS];      /* -1: none */
};

void routing_default(struct irqchip *c);
int gsi_line(struct irqchip *c, unsigned gsi, bool level, unsigned source);
/* The guest acknowledged, or unmasked, a pin. */
void pin_acked(struct irqchip *c, bool ioapic, unsigned pin);
void pin_unmasked(struct irqchip *c, bool ioapic, unsigned pin);
/* Split mode: does the client's I/O APIC want to hear of this EOI? */
bool routing_wants_eoi(struct irqchip *c, struct lapic *l, uint8_t vector);

/* ---- the chip ---- */

enum { TIMER_PIT = 0, TIMER_COUNT = LAPIC_MAX + 1 };

struct irqchip {
	struct lock lock;
	enum irqchip_mode mode;
	const struct irqchip_ops *ops;
	void *arg;
	unsigned split_pins;
	bool ids32, no_broadcast_quirk;

	struct lapic *by_id[LAPIC_MAX];
	struct lapic *lapics[LAPIC_MAX]; /* in order of creation; timer slot = index + 1 */
	_Atomic unsigned nlapics;
	struct ioapic ioapic;
	struct pic_pair pic;
	struct pit *pit;                 /* NULL, or &pit_storage */
	struct pit pit_storage;
	struct routing *routing, *routing_spare;

	/* timer.c */
	pthread_t thread;
	bool started, stop;
	struct alarm alarm;
	uint64_t sleep_until;            /* what it is set for; 0 while the thread is awake, or there is none */
	uint64_t deadline[TIMER_COUNT];  /* ns, UINT64_MAX: none */
};

static inline void chip_enter(struct irqchip *c) { lock_take(&c->lock); }
/* Raises what acknowledgements have left to raise, then lets go. */
void chip_leave(struct irqchip *c);

void chip_timer_set(struct irqchip *c, unsigned slot, uint64_t at);
static inline void chip_timer_clear(struct irqchip *c, unsigned slot) { c->deadline[slot] = UINT64_MAX; }
void timer_stop(struct irqchip *c);      /* without the lock */

#endif
