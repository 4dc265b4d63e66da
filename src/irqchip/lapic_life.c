/* The local APIC's life: creation, reset and INIT, and the modes of the APIC base MSR. */
#include <stdlib.h>
#include "irqchip/internal.h"

enum { LVT_ENTRIES = 6, VERSION = 0x14 };

uint32_t lapic_version(const struct irqchip *c)
{
	uint32_t v = VERSION | (LVT_ENTRIES - 1) << 16;

	/* Our own I/O APIC has no EOI register, so the guest must not do without the broadcast. */
	return c->mode == IRQCHIP_SPLIT ? v | VERSION_NO_EOI_BROADCAST : v;
}

uint32_t lapic_x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

static void id_reset(struct lapic *l)
{
	if (lapic_x2apic(l)) {
		*lapic_reg(l, REG_ID) = l->id;
		*lapic_reg(l, REG_LDR) = lapic_x2apic_ldr(l->id);
	} else {
		*lapic_reg(l, REG_ID) = l->id << 24;
	}
}

/* Firmware may rely on LINT0 of the boot processor being in virtual-wire mode from the start. */
void lapic_reset_state(struct lapic *l, bool keep_base)
{
	lapic_timer_stop(l);
	if (!keep_base)
		l->base = 0xfee00000 | BASE_EN | (l->bsp ? BASE_BSP : 0);
	memset(l->regs, 0, sizeof(l->regs));
	l->errors = 0;
	l->arbitration = 0;
	*lapic_reg(l, REG_VERSION) = lapic_version(l->chip);
	*lapic_reg(l, REG_DFR) = 0xffffffff;
	*lapic_reg(l, REG_SVR) = 0xff;
	lapic_lvts_mask(l);
	if (l->bsp)
		*lapic_reg(l, REG_LVT_LINT0) = DM_EXTINT << 8;
	id_reset(l);
	lapic_update(l);
}

void lapic_reset(struct irqchip *c, unsigned vcpu, bool init)
{
	struct lapic *l = lapic_find(c, vcpu);

	if (!l)
		return;
	chip_enter(c);
	lapic_reset_state(l, init);
	chip_leave(c);
}

int lapic_create(struct irqchip *c, unsigned vcpu, bool bsp)
{
	struct lapic *l;

	if (vcpu >= LAPIC_MAX)
		return -EINVAL;
	if (c->by_id[vcpu])
		return -EEXIST;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	*l = (struct lapic){ .chip = c, .id = vcpu, .bsp = bsp, .pending = -1 };
	chip_enter(c);
	l->timer_slot = c->nlapics + 1;
	lapic_reset_state(l, false);
	c->lapics[c->nlapics] = l;
	atomic_fetch_add(&c->nlapics, 1);
	__atomic_store_n(&c->by_id[vcpu], l, __ATOMIC_RELEASE);
	chip_leave(c);
	return 0;
}

/* ---- IA32_APIC_BASE ---- */

uint64_t lapic_base_get(struct irqchip *c, unsigned vcpu)
{
	struct lapic *l = lapic_find(c, vcpu);

	return l ? atomic_load_explicit(&l->base, memory_order_relaxed) : 0;
}

/* A guest leaves x2APIC mode only by switching the APIC off, and enters it only from xAPIC mode. */
static bool transition_allowed(unsigned from, unsigned to)
{
	enum { X2APIC = BASE_EN | BASE_EXTD };

	return !(from == X2APIC && to == BASE_EN) && !(from == 0 && to == X2APIC);
}

int lapic_base_set(struct irqchip *c, unsigned vcpu, uint64_t value, bool host_initiated)
{
	struct lapic *l = lapic_find(c, vcpu);
	unsigned from, to = value & (BASE_EN | BASE_EXTD);

	if (!l || to == BASE_EXTD)
		return 1;
	chip_enter(c);
	from = l->base & (BASE_EN | BASE_EXTD);
	if (!host_initiated && !transition_allowed(from, to)) {
		chip_leave(c);
		return 1;
	}
	l->base = value;
	if (from != to) {
		trace(irq, "LAPIC %u: base 0x%llx", vcpu, (unsigned long long)value);
		if (!to && !host_initiated)
			lapic_reset_state(l, true);
		id_reset(l);
	}
	lapic_update(l);
	chip_leave(c);
	return 0;
}
