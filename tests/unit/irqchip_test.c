/*
 * The interrupt chips against the manuals' and KVM's rules, with made-up vCPUs:
 * ops only count. Link with build/src/irqchip/ and build/src/base/ objects.
 */
#include <stdio.h>
#include <unistd.h>
#include "irqchip/irqchip.h"
#include "../tap.h"

/* ---- made-up surroundings ---- */

static struct { _Atomic unsigned kicks[256]; unsigned resampled[64], eois[256], eoi_vcpu; } seen;

static void op_kick(void *arg, unsigned vcpu) { seen.kicks[vcpu]++; }
static void op_eoi(void *arg, unsigned vcpu, uint8_t vector) { seen.eois[vector]++; seen.eoi_vcpu = vcpu; }
static void op_resample(void *arg, unsigned gsi) { seen.resampled[gsi & 63]++; }
static uint64_t op_tsc(void *arg, unsigned vcpu) { return time_ns() * 3; }
static uint64_t op_to_ns(void *arg, unsigned vcpu, uint64_t delta) { return delta / 3; }

static const struct irqchip_ops ops = {
	.kick = op_kick, .ioapic_eoi = op_eoi, .resample = op_resample, .tsc_now = op_tsc, .tsc_to_ns = op_to_ns,
};

static struct irqchip *chip;

enum { ID = 0x20, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ESR = 0x280, ICR = 0x300, ICR2 = 0x310,
       LVTT = 0x320, LINT0 = 0x350, LINT1 = 0x360, LVTERR = 0x370, TMICT = 0x380, TMCCT = 0x390, TDCR = 0x3e0, SELF = 0x3f0 };

static uint32_t rd(unsigned vcpu, unsigned reg)
{
	uint32_t v = 0xdeadbeef;

	lapic_mmio_read(chip, vcpu, 0xfee00000 + reg, &v, 4);
	return v;
}

static void wr(unsigned vcpu, unsigned reg, uint32_t v) { lapic_mmio_write(chip, vcpu, 0xfee00000 + reg, &v, 4); }
static int msr(unsigned vcpu, unsigned reg, uint64_t v) { return lapic_msr_write(chip, vcpu, 0x800 + (reg >> 4), v); }

static void out(uint16_t port, uint8_t v) { irqchip_pio_write(chip, port, &v, 1); }

static uint8_t in(uint16_t port)
{
	uint8_t v = 0xee;

	irqchip_pio_read(chip, port, &v, 1);
	return v;
}

static void ioapic_wr(unsigned index, uint32_t v)
{
	irqchip_mmio_write(chip, 0xfec00000, &index, 4);
	irqchip_mmio_write(chip, 0xfec00010, &v, 4);
}

static uint32_t ioapic_rd(unsigned index)
{
	uint32_t v = 0;

	irqchip_mmio_write(chip, 0xfec00000, &index, 4);
	irqchip_mmio_read(chip, 0xfec00010, &v, 4);
	return v;
}

/* A full chip (split: with that many reserved pins) and enabled LAPICs. */
static void begin(unsigned vcpus, int split_pins)
{
	chip = irqchip_new(&ops, NULL);
	if (split_pins < 0)
		irqchip_create_full(chip);
	else
		irqchip_create_split(chip, split_pins);
	for (unsigned i = 0; i < vcpus; i++) {
		lapic_create(chip, i, i == 0);
		wr(i, SVR, 0x1ff);
	}
	memset(&seen, 0, sizeof(seen));
}

static void end(void)
{
	irqchip_free(chip);
	chip = NULL;
}

/* Takes everything that is pending and ends it; the vectors in order, as one number. */
static uint64_t drain(unsigned vcpu)
{
	uint64_t all = 0;
	int v;

	while ((v = irqchip_ack(chip, vcpu)) >= 0) {
		all = all << 8 | v;
		wr(vcpu, EOI, 0);
	}
	return all;
}

/* ---- LAPIC ---- */

static void test_reset(void)
{
	uint8_t byte;

	begin(2, -1);
	check_equal(rd(0, 0x30), 0x50014);
	check_equal(rd(1, ID), 1u << 24);
	check_equal(rd(0, DFR), 0xffffffff);
	check_equal(rd(0, LINT0), 0x700);
	check_equal(rd(1, LINT0), 0x10000);
	check_equal(lapic_base_get(chip, 0), 0xfee00900);
	check_equal(lapic_base_get(chip, 1), 0xfee00800);
	check_equal(lapic_create(chip, 1, false), -EEXIST);
	check(!lapic_mmio_read(chip, 0, 0xfee01000, &byte, 1));
	check(lapic_mmio_read(chip, 1, 0xfee00023, &byte, 1));
	check_equal(byte, 1);
	wr(0, SVR, 0xff);
	check_equal(rd(0, LINT0), 0x10700);
	wr(0, LINT0, 0x700);
	check_equal(rd(0, LINT0), 0x10700);
	end();
}

static void test_priority(void)
{
	begin(1, -1);
	check_equal(irqchip_pending(chip, 0), -1);
	lapic_post_vector(chip, 0, 0x41);
	lapic_post_vector(chip, 0, 0x62);
	lapic_post_vector(chip, 0, 0x65);
	check_equal(seen.kicks[0], 3);
	check_equal(irqchip_pending(chip, 0), 0x65);
	lapic_cr8_set(chip, 0, 6);
	check_equal(irqchip_pending(chip, 0), -1);
	check_equal(rd(0, TPR), 0x60);
	lapic_cr8_set(chip, 0, 5);
	check_equal(irqchip_pending(chip, 0), 0x65);
	check_equal(lapic_cr8_get(chip, 0), 5);
	check_equal(irqchip_ack(chip, 0), 0x65);
	check_equal(rd(0, PPR), 0x60);
	check_equal(irqchip_pending(chip, 0), -1);
	lapic_post_vector(chip, 0, 0x71);
	check_equal(irqchip_ack(chip, 0), 0x71);
	seen.kicks[0] = 0;
	wr(0, EOI, 0);
	check_equal(rd(0, PPR), 0x60);
	wr(0, EOI, 0);
	check_equal(seen.kicks[0], 1);
	check_equal(irqchip_ack(chip, 0), 0x62);
	wr(0, EOI, 0);
	check_equal(irqchip_pending(chip, 0), -1);
	wr(0, TPR, 0x37);
	check_equal(rd(0, PPR), 0x37);
	check_equal(irqchip_ack(chip, 0), 0x41);
	check_equal(rd(0, PPR), 0x40);
	wr(0, EOI, 0);
	check_equal(irqchip_ack(chip, 0), -1);
	end();
}

static void icr(unsigned vcpu, unsigned dest, uint32_t low)
{
	wr(vcpu, ICR2, dest << 24);
	wr(vcpu, ICR, low);
}

static void test_ipi_xapic(void)
{
	begin(6, -1);
	icr(0, 2, 0x4031);
	check_equal(drain(2), 0x31);
	check_equal(drain(1), 0);
	icr(0, 0xff, 0x4032);
	for (unsigned i = 0; i < 6; i++)
		check_equal(drain(i), 0x32);
	wr(0, ICR, 0xc4033);             /* all but self */
	check_equal(drain(0), 0);
	for (unsigned i = 1; i < 6; i++)
		check_equal(drain(i), 0x33);
	wr(3, ICR, 0x84034);             /* all */
	check_equal(drain(3), 0x34);
	check_equal(drain(0) << 8 | drain(1), 0x3434);
	wr(3, ICR, 0x44035);             /* self */
	check_equal(drain(3), 0x35);
	/* logical flat */
	for (unsigned i = 0; i < 6; i++)
		wr(i, LDR, 1u << (24 + i));
	icr(0, 0x0a, 0x4836);
	check_equal(drain(1) << 8 | drain(3), 0x3636);
	check_equal(irqchip_pending(chip, 0), -1);
	/* cluster: members 0..3 of cluster 0, then of cluster 1 */
	for (unsigned i = 0; i < 6; i++) {
		drain(i);
		wr(i, DFR, 0x0fffffff);
		wr(i, LDR, (i / 4 << 4 | 1u << i % 4) << 24);
	}
	icr(0, 0x13, 0x4837);
	check_equal(drain(4) << 8 | drain(5), 0x3737);
	check_equal(drain(0) | drain(1), 0);
	end();
}

static void test_lowest_priority(void)
{
	begin(3, -1);
	for (unsigned i = 0; i < 3; i++)
		wr(i, LDR, 1u << (24 + i));
	wr(0, TPR, 0x50);
	wr(1, TPR, 0x20);
	wr(2, TPR, 0x40);
	icr(0, 7, 0x4961);
	check_equal(drain(1), 0x61);
	check_equal(drain(0) | drain(2), 0);
	wr(1, SVR, 0xff);
	icr(0, 7, 0x4962);
	check_equal(drain(2), 0x62);
	/* equals take turns */
	wr(1, SVR, 0x1ff);
	for (unsigned i = 0; i < 3; i++)
		wr(i, TPR, 0);
	check_equal(irqchip_msi(chip, 0xfee07004 | 8, 0x63), 1);  /* 0 has won nothing yet, 1 and 2 once */
	check_equal(drain(0), 0x63);
	for (unsigned i = 0; i < 3; i++)
		check_equal(irqchip_msi(chip, 0xfee07004 | 8, 0x64), 1);
	check_equal(drain(0) << 16 | drain(1) << 8 | drain(2), 0x646464);
	end();
}

static void test_events(void)
{
	uint8_t sipi = 0;

	begin(2, -1);
	check_equal(lapic_events_take(chip, 1, &sipi), 0);
	icr(0, 1, 0x4500);
	check_equal(lapic_events_peek(chip, 1), LAPIC_INIT);
	icr(0, 1, 0x8500);               /* the deassert is nothing */
	icr(0, 1, 0x4699);
	check_equal(seen.kicks[1], 2);
	check_equal(lapic_events_take(chip, 1, &sipi), LAPIC_INIT | LAPIC_SIPI);
	check_equal(sipi, 0x99);
	check_equal(lapic_events_take(chip, 1, &sipi), 0);
	icr(0, 1, 0x4699);
	icr(0, 1, 0x4500);               /* INIT takes the SIPI back */
	check_equal(lapic_events_take(chip, 1, &sipi), LAPIC_INIT);
	wr(0, ICR, 0xc4400);
	check_equal(lapic_events_take(chip, 1, &sipi), LAPIC_NMI);
	check_equal(lapic_events_peek(chip, 0), 0);
	irqchip_msi(chip, 0xfee01000, 0x200);
	check_equal(lapic_events_take(chip, 1, NULL), LAPIC_SMI);
	wr(1, SVR, 0xff);                /* software-disabled: fixed no, NMI yes */
	icr(0, 1, 0x4044);
	icr(0, 1, 0x4400);
	check_equal(irqchip_pending(chip, 1), -1);
	check_equal(lapic_events_take(chip, 1, NULL), LAPIC_NMI);
	end();
}

static void test_errors(void)
{
	begin(2, -1);
	wr(0, LVTERR, 0xfe);
	icr(0, 1, 0x4005);
	check_equal(rd(0, ESR), 0);
	check_equal(drain(0), 0xfe);
	wr(0, ESR, 0);
	check_equal(rd(0, ESR), 0x20);
	rd(0, 0x40);
	wr(0, ESR, 0);
	check_equal(rd(0, ESR), 0x80);
	lapic_post_vector(chip, 0, 3);
	wr(0, ESR, 0);
	check_equal(rd(0, ESR), 0x40);
	wr(0, ESR, 0);
	check_equal(rd(0, ESR), 0);
	end();
}

static void test_x2apic(void)
{
	uint64_t v;

	begin(20, -1);
	check_equal(lapic_msr_read(chip, 0, 0x802, &v), 1);
	check_equal(lapic_base_set(chip, 0, 0xfee00500, false), 1);
	for (unsigned i = 0; i < 20; i++)
		check_equal(lapic_base_set(chip, i, 0xfee00c00 | (i ? 0 : 0x100), false), 0);
	check_equal(lapic_base_set(chip, 0, 0xfee00900, false), 1);
	check_equal(lapic_msr_read(chip, 18, 0x802, &v), 0);
	check_equal(v, 18);
	check_equal(lapic_msr_read(chip, 18, 0x80d, &v), 0);
	check_equal(v, 0x10004);
	check_equal(rd(0, ID), 0xffffffff);       /* the page is closed */
	check_equal(msr(0, LDR, 1), 1);
	check_equal(msr(0, EOI, 1), 1);
	check_equal(msr(0, TPR, 0x100), 1);
	check_equal(msr(0, DFR, 0), 1);
	check_equal(msr(0, ICR2, 0), 1);
	check_equal(msr(0, ESR, 1), 1);
	check_equal(msr(0, TPR, 1ull << 32), 1);
	check_equal(lapic_msr_read(chip, 0, 0x80b, &v), 1);
	check_equal(msr(0, ICR, 18ull << 32 | 0x4041), 0);
	check_equal(irqchip_ack(chip, 18), 0x41);
	check_equal(msr(18, EOI, 0), 0);
	check_equal(lapic_msr_read(chip, 0, 0x830, &v), 0);
	check_equal(v, 18ull << 32 | 0x4041);
	check_equal(msr(0, ICR, 0x1000cull << 32 | 0x4842), 0);   /* cluster 1, members 2 and 3 */
	check_equal(irqchip_ack(chip, 18), 0x42);
	check_equal(irqchip_ack(chip, 19), 0x42);
	check_equal(irqchip_ack(chip, 2), -1);
	check_equal(msr(0, ICR, 0xffffffffull << 32 | 0x4051), 0);
	check_equal(irqchip_ack(chip, 7), 0x51);
	check_equal(msr(5, SELF, 0x77), 0);
	check_equal(irqchip_ack(chip, 5), 0x77);
	check_equal(irqchip_msi(chip, 0xfeeff000, 0x88), 20);
	irqchip_set_x2apic_api(chip, true, true);
	check_equal(irqchip_msi(chip, 0xfeeff000, 0x89), (uint64_t)-1);
	check_equal(irqchip_msi(chip, 0x1fee00000, 0x89), (uint64_t)-EINVAL);
	check_equal(lapic_base_set(chip, 0, 0xfee00100, false), 0);
	check_equal(lapic_base_set(chip, 0, 0xfee00d00, false), 1);
	check_equal(lapic_base_set(chip, 0, 0xfee00900, false), 0);
	check_equal(rd(0, SVR), 0xff);
	end();
}

/* ---- I/O APIC ---- */

static void test_ioapic(void)
{
	begin(2, -1);
	check_equal(ioapic_rd(1), 0x170011);
	check_equal(ioapic_rd(0x10), 0x10000);
	ioapic_wr(0, 0x5000000);
	check_equal(ioapic_rd(0), 0x5000000);
	check_equal(irqchip_line(chip, 20, 1, IRQ_SOURCE_USER), (uint64_t)-1);
	irqchip_line(chip, 20, 0, IRQ_SOURCE_USER);
	/* edge */
	ioapic_wr(0x10 + 40, 0x45);
	ioapic_wr(0x11 + 40, 1u << 24);
	check_equal(irqchip_line(chip, 20, 1, IRQ_SOURCE_USER), 1);
	check_equal(irqchip_line(chip, 20, 1, IRQ_SOURCE_USER), 0);
	check_equal(drain(1), 0x45);
	check_equal(irqchip_line(chip, 20, 0, IRQ_SOURCE_USER), 1);
	check_equal(irqchip_line(chip, 20, 1, IRQ_SOURCE_USER), 1);
	irqchip_line(chip, 20, 0, IRQ_SOURCE_USER);
	irqchip_line(chip, 20, 1, IRQ_SOURCE_USER);
	check_equal(drain(1), 0x45);
	/* level */
	ioapic_wr(0x11 + 42, 1u << 24);
	ioapic_wr(0x10 + 42, 0x8052);
	check_equal(irqchip_line(chip, 21, 1, IRQ_SOURCE_USER), 1);
	check_equal(irqchip_line(chip, 21, 1, IRQ_SOURCE_IRQFD), 0);
	check_equal(ioapic_rd(0x10 + 42), 0xc052);
	check_equal(irqchip_ack(chip, 1), 0x52);
	check_equal(rd(1, 0x180 + 0x20), 1u << 18);
	irqchip_line(chip, 21, 0, IRQ_SOURCE_USER);
	wr(1, EOI, 0);                   /* the other source still holds the line */
	check_equal(irqchip_ack(chip, 1), 0x52);
	irqchip_line(chip, 21, 0, IRQ_SOURCE_IRQFD);
	wr(1, EOI, 0);
	check_equal(irqchip_pending(chip, 1), -1);
	check_equal(ioapic_rd(0x10 + 42), 0x8052);
	/* masked while the line goes up, then opened */
	ioapic_wr(0x10 + 42, 0x18052);
	check_equal(irqchip_line(chip, 21, 1, IRQ_SOURCE_USER), (uint64_t)-1);
	ioapic_wr(0x10 + 42, 0x8052);
	check_equal(irqchip_ack(chip, 1), 0x52);
	ioapic_wr(0x10 + 42, 0x10052);   /* edge for a moment clears remote IRR */
	check_equal(ioapic_rd(0x10 + 42), 0x10052);
	end();
}

static void test_resample(void)
{
	begin(1, -1);
	ioapic_wr(0x10 + 20, 0x8052);
	out(0xa1, 0xff);
	check_equal(irqchip_line(chip, 10, 1, IRQ_SOURCE_RESAMPLE), 1);
	check_equal(irqchip_ack(chip, 0), 0x52);
	seen.resampled[10] = 0;
	wr(0, EOI, 0);
	check_equal(seen.resampled[10], 1);
	check_equal(irqchip_pending(chip, 0), -1);
	check_equal(ioapic_rd(0x10 + 20), 0x8052);
	end();
}

static void test_split_eoi(void)
{
	struct kvm_irq_routing_entry e = { .gsi = 9, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { 0xfee00000, 0, 0x8066 } };
	struct kvm_irq_routing_entry pin = { .gsi = 1, .type = KVM_IRQ_ROUTING_IRQCHIP };

	begin(1, 24);
	check_equal(rd(0, 0x30), 0x1050014);
	check_equal(irqchip_set_routing(chip, &pin, 1), (uint64_t)-EINVAL);
	check_equal(irqchip_set_routing(chip, &e, 1), 0);
	check_equal(irqchip_line(chip, 9, 1, IRQ_SOURCE_USER), 1);
	check_equal(irqchip_line(chip, 9, 0, IRQ_SOURCE_USER), (uint64_t)-1);
	check_equal(drain(0), 0x66);
	check_equal(seen.eois[0x66], 1);
	lapic_post_vector(chip, 0, 0x67);
	drain(0);
	check_equal(seen.eois[0x67], 0);
	wr(0, SVR, 0x11ff);              /* broadcast suppressed */
	irqchip_line(chip, 9, 1, IRQ_SOURCE_USER);
	check_equal(drain(0), 0x66);
	check_equal(seen.eois[0x66], 1);
	check_equal(irqchip_create_full(chip), (uint64_t)-EEXIST);
	check_equal(pit_create(chip, 0), (uint64_t)-ENOENT);
	end();
}

/* ---- routing ---- */

static void test_routing(void)
{
	struct kvm_irq_routing_entry e[3] = {
		{ .gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { KVM_IRQCHIP_PIC_MASTER, 5 } },
		{ .gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { KVM_IRQCHIP_IOAPIC, 7 } },
		{ .gsi = 60, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { 0xfee00000, 0, 0x59 } },
	};

	begin(1, -1);
	check_equal(irqchip_set_routing(chip, e, 3), 0);
	check_equal(irqchip_line(chip, 60, 1, IRQ_SOURCE_USER), 1);
	check_equal(irqchip_line(chip, 60, 1, IRQ_SOURCE_USER), 0);
	check_equal(drain(0), 0x59);
	check_equal(irqchip_line(chip, 6, 1, IRQ_SOURCE_USER), (uint64_t)-1);
	ioapic_wr(0x10 + 14, 0x71);
	irqchip_line(chip, 5, 1, IRQ_SOURCE_USER);
	out(0x21, 0xff);
	check_equal(drain(0), 0x71);
	e[2].gsi = 5;
	check_equal(irqchip_set_routing(chip, e, 3), (uint64_t)-EINVAL);
	e[2].gsi = 4096;
	check_equal(irqchip_set_routing(chip, e, 3), (uint64_t)-EINVAL);
	e[2].gsi = 60;
	e[2].flags = 2;
	check_equal(irqchip_set_routing(chip, e, 3), (uint64_t)-EINVAL);
	e[2].flags = KVM_MSI_VALID_DEVID;
	check_equal(irqchip_set_routing(chip, e, 3), 0);
	e[1].u.irqchip.pin = 24;
	check_equal(irqchip_set_routing(chip, e, 3), (uint64_t)-EINVAL);
	e[1].u.irqchip = (struct kvm_irq_routing_irqchip){ KVM_IRQCHIP_PIC_MASTER, 4 };
	check_equal(irqchip_set_routing(chip, e, 3), (uint64_t)-EINVAL);
	e[1].type = KVM_IRQ_ROUTING_HV_SINT;
	check_equal(irqchip_set_routing(chip, e, 3), (uint64_t)-EINVAL);
	check_equal(irqchip_line(chip, 60, 1, IRQ_SOURCE_USER), 1);       /* a refused table changes nothing */
	check_equal(irqchip_set_routing(chip, e, 0), 0);
	check_equal(irqchip_line(chip, 60, 1, IRQ_SOURCE_USER), (uint64_t)-1);
	end();
	chip = irqchip_new(&ops, NULL);
	check_equal(irqchip_line(chip, 1, 1, IRQ_SOURCE_USER), (uint64_t)-ENXIO);
	check_equal(irqchip_create_split(chip, 4097), (uint64_t)-EINVAL);
	end();
}

/* ---- PIC ---- */

static void pic_init(unsigned icw4)
{
	static const uint8_t words[2][3] = { { 0x20, 4, 0 }, { 0x28, 2, 0 } };

	for (unsigned i = 0; i < 2; i++) {
		uint16_t port = i ? 0xa0 : 0x20;

		out(port, 0x11);
		out(port + 1, words[i][0]);
		out(port + 1, words[i][1]);
		out(port + 1, icw4);
		out(port + 1, 0);
	}
}

static void pulse(unsigned gsi)
{
	irqchip_line(chip, gsi, 1, IRQ_SOURCE_USER);
	irqchip_line(chip, gsi, 0, IRQ_SOURCE_USER);
}

static void test_pic(void)
{
	begin(1, -1);
	pic_init(1);
	pulse(3);
	check_equal(irqchip_pending(chip, 0), 0x23);
	check_equal(in(0x20), 8);
	pulse(1);
	check_equal(irqchip_pending(chip, 0), 0x21);
	check_equal(irqchip_ack(chip, 0), 0x21);
	check_equal(irqchip_pending(chip, 0), -1);
	out(0x20, 0x20);
	check_equal(irqchip_ack(chip, 0), 0x23);
	/* the cascade: IR2 is above IR3 */
	pulse(12);
	check_equal(irqchip_ack(chip, 0), 0x2c);
	out(0x20, 0x0b);
	out(0xa0, 0x0b);
	check_equal(in(0x20), 0x0c);
	check_equal(in(0xa0), 0x10);
	pulse(13);
	check_equal(irqchip_pending(chip, 0), -1);
	out(0xa0, 0x20);
	out(0x20, 0x62);
	check_equal(irqchip_ack(chip, 0), 0x2d);
	out(0xa0, 0x20);
	out(0x20, 0x20);
	out(0x20, 0x20);
	check_equal(in(0x20), 0);
	/* masks */
	out(0x21, 0x10);
	check_equal(irqchip_line(chip, 4, 1, IRQ_SOURCE_USER), (uint64_t)-1);
	check_equal(irqchip_pending(chip, 0), -1);
	out(0x21, 0);
	check_equal(irqchip_ack(chip, 0), 0x24);
	out(0x20, 0xe4);                 /* rotate on specific EOI: 4 is lowest now */
	irqchip_line(chip, 4, 0, IRQ_SOURCE_USER);
	pulse(4);
	pulse(5);
	check_equal(irqchip_ack(chip, 0), 0x25);
	out(0x20, 0x20);
	check_equal(irqchip_ack(chip, 0), 0x24);
	end();
}

static void test_pic_modes(void)
{
	begin(1, -1);
	pic_init(3);                     /* automatic EOI */
	pulse(3);
	check_equal(irqchip_ack(chip, 0), 0x23);
	pulse(3);
	check_equal(irqchip_ack(chip, 0), 0x23);
	/* level by ELCR */
	out(0x4d0, 0xff);
	check_equal(in(0x4d0), 0xf8);
	out(0x4d1, 0xff);
	check_equal(in(0x4d1), 0xde);
	irqchip_line(chip, 5, 1, IRQ_SOURCE_USER);
	check_equal(irqchip_ack(chip, 0), 0x25);
	check_equal(irqchip_pending(chip, 0), 0x25);
	irqchip_line(chip, 5, 0, IRQ_SOURCE_USER);
	check_equal(irqchip_pending(chip, 0), -1);
	/* poll */
	pulse(1);
	out(0x20, 0x0c);
	check_equal(in(0x20), 0x81);
	check_equal(irqchip_pending(chip, 0), -1);
	/* LINT0 */
	pulse(1);
	wr(0, LINT0, 0x10700);
	check_equal(irqchip_pending(chip, 0), -1);
	check(!lapic_accepts_extint(chip, 0));
	wr(0, LINT0, 0x700);
	check_equal(irqchip_pending(chip, 0), 0x21);
	lapic_post_vector(chip, 0, 0xf0);
	check_equal(irqchip_ack(chip, 0), 0x21);
	check_equal(irqchip_ack(chip, 0), 0xf0);
	/* LINT0 as NMI, and the APIC switched off */
	wr(0, LINT0, 0x400);
	pulse(1);
	check_equal(lapic_events_take(chip, 0, NULL), LAPIC_NMI);
	check_equal(lapic_base_set(chip, 0, 0xfee00100, false), 0);
	check_equal(irqchip_ack(chip, 0), 0x21);
	end();
}

/* ---- PIT ---- */

static void pit_program(unsigned mode, uint16_t count)
{
	out(0x43, 0x30 | mode << 1);
	out(0x40, count & 0xff);
	out(0x40, count >> 8);
}

static unsigned wait_pending(unsigned vcpu, unsigned ms)
{
	for (unsigned i = 0; i < ms * 10 && irqchip_pending(chip, vcpu) < 0; i++)
		usleep(100);
	return irqchip_pending(chip, vcpu);
}

static unsigned pit_latched(uint8_t command)
{
	unsigned low;

	out(0x43, command);
	low = in(0x40);
	return low | in(0x40) << 8;
}

/* Takes the PIC's interrupt. */
static void pit_take(void)
{
	check_equal(irqchip_ack(chip, 0), 0x20);
	out(0x20, 0x20);
}

/* The longest period, 55 ms: tried again where the machine was too busy to look at it within one. */
static void test_pit_counts(void)
{
	unsigned first, second;
	uint64_t start;
	int pending;

	begin(1, -1);
	check_equal(irqchip_start(chip), 0);
	check_equal(pit_create(chip, 0), 0);
	do {
		pic_init(1);
		start = time_ns();
		pit_program(2, 0xffff);
		first = pit_latched(0);
		usleep(2000);
		second = pit_latched(0xd2);      /* read back, count only */
		pending = irqchip_pending(chip, 0);
	} while (time_ns() - start > 50000000);
	check(first <= 0xffff && second < first && first - second >= 2386);
	check_equal(pending, -1);
	end();
}

/* Ticks that the guest was too slow for are owed: together there are as many as the time has had. */
static void test_pit_owed(void)
{
	uint64_t start, end_of_patience, n = 1;

	begin(1, -1);
	check_equal(irqchip_start(chip), 0);
	check_equal(pit_create(chip, 0), 0);
	pic_init(1);
	pit_program(2, 11932);           /* 10 ms */
	start = time_ns();
	check_equal(wait_pending(0, 10000), 0x20);
	check_equal(irqchip_ack(chip, 0), 0x20);
	usleep(45000);                   /* four ticks are owed now, and come one by one */
	check_equal(irqchip_pending(chip, 0), -1);
	out(0x20, 0x20);
	end_of_patience = time_ns() + 10000000000;
	for (; n < (time_ns() - start) / 10000152 && time_ns() < end_of_patience; n++) {
		wait_pending(0, 1000);
		pit_take();
	}
	check(time_ns() < end_of_patience);
	end();
}

static void test_pit(void)
{
	uint16_t both;
	uint8_t byte;

	begin(1, -1);
	check_equal(irqchip_start(chip), 0);
	check(!irqchip_pio_read(chip, 0x40, &byte, 1));
	check_equal(pit_create(chip, 0), 0);
	check_equal(pit_create(chip, 0), (uint64_t)-EEXIST);
	check(!irqchip_pio_read(chip, 0x61, &byte, 1));
	check(irqchip_pio_read(chip, 0x40, &both, 2));
	pic_init(1);
	check_equal(pit_reinject(chip, false), 0);
	pit_program(0, 1193);            /* once after 1 ms */
	usleep(500);
	check_equal(wait_pending(0, 10000), 0x20);
	pit_take();
	usleep(5000);
	check_equal(irqchip_pending(chip, 0), -1);
	out(0x43, 0xe2);                 /* status: out high, word access, mode 0 */
	check_equal(in(0x40), 0xb0);
	end();
}

static void test_pit_state(void)
{
	struct kvm_pit_state2 a, b;

	begin(1, -1);
	check_equal(pit_get(chip, &a), (uint64_t)-ENXIO);
	check_equal(pit_create(chip, KVM_PIT_SPEAKER_DUMMY), 0);
	pit_program(2, 5000);
	out(0x43, 0xb0);
	out(0x42, 0xe8);
	out(0x42, 0x03);
	out(0x61, 3);
	check_equal(in(0x61) & 3, 3);
	usleep(1500);
	check_equal(in(0x61) & 0x20, 0x20);
	check_equal(pit_get(chip, &a), 0);
	check_equal(a.channels[0].count, 5000);
	check_equal(a.channels[2].count, 1000);
	check_equal(a.channels[2].gate, 1);
	check_equal(a.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	check_equal(pit_set(chip, &a), 0);
	check_equal(pit_get(chip, &b), 0);
	check(!memcmp(&a, &b, sizeof(a)));
	a.channels[0].count = 0;
	check_equal(pit_set(chip, &a), 0);
	check_equal(pit_get(chip, &b), 0);
	check_equal(b.channels[0].count, 0x10000);
	check(b.channels[0].count_load_time > a.channels[0].count_load_time);
	/* BCD */
	out(0x43, 0x31);
	out(0x40, 0x00);
	out(0x40, 0x50);
	check_equal(pit_get(chip, &b), 0);
	check_equal(b.channels[0].count, 5000);
	end();
}

/* ---- LAPIC timer ---- */

static void test_timer(void)
{
	uint64_t start;
	uint32_t count;

	begin(2, -1);
	check_equal(irqchip_start(chip), 0);
	wr(1, TDCR, 0xb);
	wr(1, LVTT, 0xec);
	start = time_ns();
	wr(1, TMICT, 5000000);           /* 5 ms */
	count = rd(1, TMCCT);
	check(count > 1000000 && count <= 5000000);
	check_equal(wait_pending(1, 1000), 0xec);
	check(time_ns() - start >= 5000000);
	check_equal(drain(1), 0xec);
	check_equal(rd(1, TMCCT), 0);
	usleep(8000);
	check_equal(irqchip_pending(chip, 1), -1);
	/* divider 4 */
	wr(1, TDCR, 1);
	start = time_ns();
	wr(1, TMICT, 1000000);
	check_equal(wait_pending(1, 1000), 0xec);
	check(time_ns() - start >= 4000000);
	drain(1);
	/* periodic */
	wr(1, LVTT, 0x200ec);
	wr(1, TMICT, 250000);
	for (unsigned i = 0; i < 4; i++) {
		check_equal(wait_pending(1, 1000), 0xec);
		drain(1);
	}
	check(rd(1, TMCCT) > 0);
	wr(1, TMICT, 0);
	drain(1);
	usleep(3000);
	check_equal(irqchip_pending(chip, 1), -1);
	/* masked: counts, says nothing */
	wr(1, LVTT, 0x100ec);
	wr(1, TMICT, 1000);
	usleep(1000);
	check_equal(irqchip_pending(chip, 1), -1);
	end();
}

static void test_deadline(void)
{
	uint64_t at;

	begin(1, -1);
	check_equal(irqchip_start(chip), 0);
	lapic_tsc_deadline_set(chip, 0, op_tsc(NULL, 0) + 1000);
	check_equal(lapic_tsc_deadline_get(chip, 0), 0);  /* not in this mode */
	wr(0, LVTT, 0x400ef);
	at = op_tsc(NULL, 0) + 3 * 4000000;
	lapic_tsc_deadline_set(chip, 0, at);
	check_equal(lapic_tsc_deadline_get(chip, 0), at);
	check_equal(wait_pending(0, 1000), 0xef);
	check(op_tsc(NULL, 0) >= at);
	check_equal(lapic_tsc_deadline_get(chip, 0), 0);
	drain(0);
	lapic_tsc_deadline_set(chip, 0, op_tsc(NULL, 0) - 1);    /* in the past: at once */
	check_equal(irqchip_pending(chip, 0), 0xef);
	drain(0);
	lapic_tsc_deadline_set(chip, 0, op_tsc(NULL, 0) + 3 * 2000000);
	lapic_tsc_deadline_set(chip, 0, 0);
	usleep(4000);
	check_equal(irqchip_pending(chip, 0), -1);
	wr(0, TMICT, 1000);
	check_equal(rd(0, TMICT), 0);
	/* a far deadline, then a near one, then the far one again */
	lapic_tsc_deadline_set(chip, 0, op_tsc(NULL, 0) + 3000000000ull);
	lapic_tsc_deadline_set(chip, 0, op_tsc(NULL, 0) + 3000000ull);
	check_equal(wait_pending(0, 500), 0xef);
	end();
}

/* ---- state images ---- */

static void test_lapic_state(void)
{
	struct kvm_lapic_state s, t;

	begin(2, -1);
	check_equal(irqchip_start(chip), 0);
	wr(0, TPR, 0x20);
	lapic_post_vector(chip, 0, 0x55);
	check_equal(irqchip_ack(chip, 0), 0x55);
	lapic_post_vector(chip, 0, 0x66);
	wr(0, LVTT, 0xec);
	wr(0, TDCR, 0xb);
	wr(0, TMICT, 20000000);
	check_equal(lapic_get(chip, 0, &s), 0);
	check(*(uint32_t *)(s.regs + TMCCT) > 0);
	check_equal(*(uint32_t *)(s.regs + PPR), 0x50);
	lapic_reset(chip, 0, false);
	check_equal(irqchip_pending(chip, 0), -1);
	check_equal(lapic_set(chip, 0, &s), 0);
	check_equal(irqchip_ack(chip, 0), 0x66);
	check(rd(0, TMCCT) > 0);
	wr(0, EOI, 0);
	wr(0, EOI, 0);
	check_equal(wait_pending(0, 1000), 0xec);
	/* expired, and in the image's IRR: once only */
	check_equal(lapic_get(chip, 0, &s), 0);
	check_equal(*(uint32_t *)(s.regs + TMCCT), 0);
	check_equal(lapic_set(chip, 0, &s), 0);
	check_equal(lapic_get(chip, 0, &t), 0);
	check(!memcmp(&s, &t, sizeof(s)));
	check_equal(drain(0), 0xec);
	usleep(3000);
	check_equal(irqchip_pending(chip, 0), -1);
	/* ids in x2APIC mode */
	lapic_base_set(chip, 1, 0xfee00c00, true);
	lapic_get(chip, 1, &s);
	check_equal(*(uint32_t *)(s.regs + ID), 1u << 24);
	check_equal(lapic_set(chip, 1, &s), 0);
	irqchip_set_x2apic_api(chip, true, false);
	check_equal(lapic_set(chip, 1, &s), (uint64_t)-EINVAL);
	lapic_get(chip, 1, &s);
	check_equal(*(uint32_t *)(s.regs + ID), 1);
	check_equal(lapic_set(chip, 1, &s), 0);
	check_equal(lapic_get(chip, 7, &s), (uint64_t)-EINVAL);
	end();
}

static void test_chip_state(void)
{
	struct kvm_irqchip m = { .chip_id = KVM_IRQCHIP_PIC_MASTER }, s = { .chip_id = KVM_IRQCHIP_PIC_SLAVE };
	struct kvm_irqchip io = { .chip_id = KVM_IRQCHIP_IOAPIC }, bad = { .chip_id = 3 };

	begin(1, -1);
	check_equal(irqchip_get_chip(chip, &bad), (uint64_t)-EINVAL);
	pic_init(1);
	pulse(12);
	ioapic_wr(0x10 + 40, 0x8045);
	irqchip_line(chip, 20, 1, IRQ_SOURCE_USER);
	ioapic_wr(0x10 + 42, 0x46);
	irqchip_line(chip, 21, 1, IRQ_SOURCE_USER);
	check_equal(irqchip_get_chip(chip, &m), 0);
	check_equal(irqchip_get_chip(chip, &s), 0);
	check_equal(irqchip_get_chip(chip, &io), 0);
	check_equal(m.chip.pic.irq_base, 0x20);
	check_equal(s.chip.pic.irr, 0x10);
	check_equal(io.chip.ioapic.irr & 0x300000, 0x100000);     /* the edge is out already */
	check_equal(io.chip.ioapic.redirtbl[20].fields.remote_irr, 1);
	end();
	begin(1, -1);
	check_equal(irqchip_set_chip(chip, &m), 0);
	check_equal(irqchip_set_chip(chip, &s), 0);
	check_equal(irqchip_set_chip(chip, &io), 0);
	check_equal(irqchip_ack(chip, 0), 0x2c);
	check_equal(irqchip_pending(chip, 0), -1);                /* remote IRR holds the level back */
	io.chip.ioapic.redirtbl[20].fields.remote_irr = 0;
	check_equal(irqchip_set_chip(chip, &io), 0);
	check_equal(irqchip_ack(chip, 0), 0x45);
	end();
	begin(1, 24);
	check_equal(irqchip_get_chip(chip, &m), (uint64_t)-ENXIO);
	check_equal(irqchip_set_chip(chip, &io), (uint64_t)-ENXIO);
	end();
}

static const struct test tests[] = {
	{ "reset", test_reset },
	{ "priority", test_priority },
	{ "ipi xapic", test_ipi_xapic },
	{ "lowest priority", test_lowest_priority },
	{ "events", test_events },
	{ "errors", test_errors },
	{ "x2apic", test_x2apic },
	{ "ioapic", test_ioapic },
	{ "resample", test_resample },
	{ "split eoi", test_split_eoi },
	{ "routing", test_routing },
	{ "pic", test_pic },
	{ "pic modes", test_pic_modes },
	{ "pit", test_pit },
	{ "pit counts", test_pit_counts },
	{ "pit ticks that are owed", test_pit_owed },
	{ "pit state", test_pit_state },
	{ "timer", test_timer },
	{ "deadline", test_deadline },
	{ "lapic state", test_lapic_state },
	{ "chip state", test_chip_state },
};

int main(void)
{
	return run_tests(tests, ARRAY_SIZE(tests));
}
