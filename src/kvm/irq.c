/*
 * Interrupt controllers of a VM: the ioctls in front of irqchip/, and what
 * irqchip/ asks of us. The upcalls come with the chip's lock held, on any
 * thread, so they post and kick and do no more.
 */
#include <stdlib.h>
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"

#define MAX_ROUTES 4096

static struct vcpu *vcpu_by_id(struct vm *vm, unsigned id)
{
	return id < ARRAY_SIZE(vm->by_id) ? vm->by_id[id] : NULL;
}

static void op_kick(void *arg, unsigned apic_index)
{
	struct vcpu *v = vcpu_by_id(arg, apic_index);

	if (v)
		vcpu_kick(v);
}

static void op_ioapic_eoi(void *arg, unsigned id, uint8_t vector)
{
	struct vcpu *v = vcpu_by_id(arg, id);

	if (!v)
		return;
	atomic_fetch_or(&v->ioapic_eoi[vector / 64], BIT(vector % 64));
	vcpu_request(v, REQ_IOAPIC_EOI);
}

static void op_resample(void *arg, unsigned gsi)
{
	irqfd_acknowledged(arg, gsi);
}

static uint64_t op_tsc_now(void *arg, unsigned id)
{
	struct vcpu *v = vcpu_by_id(arg, id);

	return v ? vcpu_l1_tsc(v) : clock_host_tsc();
}

static uint64_t op_tsc_to_ns(void *arg, unsigned id, uint64_t ticks)
{
	struct vcpu *v = vcpu_by_id(arg, id);

	return v ? tsc_ticks_to_ns(v, ticks) : clock_tsc_to_ns(ticks);
}

const struct irqchip_ops vm_irqchip_ops = {
	.kick = op_kick,
	.ioapic_eoi = op_ioapic_eoi,
	.resample = op_resample,
	.tsc_now = op_tsc_now,
	.tsc_to_ns = op_tsc_to_ns,
};

static bool in_kernel(const struct vm *vm)
{
	return irqchip_mode(vm->irqchip) != IRQCHIP_NONE;
}

static bool full(const struct vm *vm)
{
	return irqchip_mode(vm->irqchip) == IRQCHIP_FULL;
}

long vm_create_irqchip(struct vm *vm)
{
	long r = -EINVAL;

	pthread_mutex_lock(&vm->lock);
	if (in_kernel(vm))
		r = -EEXIST;
	else if (!atomic_load(&vm->nvcpus))
		r = irqchip_create_full(vm->irqchip);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

long vm_get_irqchip(struct vm *vm, struct kvm_irqchip *chip)
{
	return full(vm) ? irqchip_get_chip(vm->irqchip, chip) : -ENXIO;
}

long vm_set_irqchip(struct vm *vm, const struct kvm_irqchip *chip)
{
	return full(vm) ? irqchip_set_chip(vm->irqchip, chip) : -ENXIO;
}

long vm_irq_line(struct vm *vm, const struct kvm_irq_level *l)
{
	if (!in_kernel(vm))
		return -ENXIO;
	mem_epoch_next(vm->mem);
	irqchip_line(vm->irqchip, l->irq, l->level, IRQ_SOURCE_USER);
	return 0;
}

long vm_irq_line_status(struct vm *vm, struct kvm_irq_level *l)
{
	if (!in_kernel(vm))
		return -ENXIO;
	mem_epoch_next(vm->mem);
	l->status = irqchip_line(vm->irqchip, l->irq, l->level, IRQ_SOURCE_USER);
	return 0;
}

/* Destination bits above the low eight travel in the high half of the address, if the client said that it knows. */
static bool msi_address_valid(const struct vm *vm, uint32_t address_hi)
{
	return !(vm->enabled_caps & VM_X2APIC_32BIT_IDS) || !(address_hi & 0xff);
}

static bool route_valid(const struct vm *vm, const struct kvm_irq_routing_entry *e)
{
	if (e->type != KVM_IRQ_ROUTING_MSI)
		return !e->flags;
	return !(e->flags & ~KVM_MSI_VALID_DEVID) && msi_address_valid(vm, e->u.msi.address_hi);
}

static long routing_set(struct vm *vm, const struct kvm_irq_routing_entry *entries, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!route_valid(vm, &entries[i]))
			return -EINVAL;
	return irqchip_set_routing(vm->irqchip, entries, n);
}

long vm_set_gsi_routing(struct vm *vm, void *arg)
{
	struct kvm_irq_routing *user = arg, head;
	struct kvm_irq_routing_entry *entries;
	size_t bytes;
	long r;

	if (user_read(&head, user, sizeof(head)) < 0)
		return -EFAULT;
	if (!in_kernel(vm) || head.nr > MAX_ROUTES || head.flags)
		return -EINVAL;
	bytes = head.nr * sizeof(*entries);
	entries = malloc(bytes + 1);
	if (!entries)
		return -ENOMEM;
	r = user_read(entries, user->entries, bytes);
	if (!r)
		r = routing_set(vm, entries, head.nr);
	free(entries);
	return r;
}

long vm_signal_msi(struct vm *vm, const struct kvm_msi *msi)
{
	if (!in_kernel(vm) || msi->flags || !msi_address_valid(vm, msi->address_hi))
		return -EINVAL;
	mem_epoch_next(vm->mem);
	return irqchip_msi(vm->irqchip, (uint64_t)msi->address_hi << 32 | msi->address_lo, msi->data);
}

static long create_pit(struct vm *vm, uint32_t flags)
{
	long r;

	pthread_mutex_lock(&vm->lock);
	r = pit_create(vm->irqchip, flags);
	if (!r)
		vm->enabled_caps |= VM_HAS_PIT;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* The old call has the speaker port in the kernel. */
long vm_create_pit(struct vm *vm)
{
	return create_pit(vm, KVM_PIT_SPEAKER_DUMMY);
}

long vm_create_pit2(struct vm *vm, const struct kvm_pit_config *config)
{
	return create_pit(vm, config->flags);
}

long vm_get_pit2(struct vm *vm, struct kvm_pit_state2 *s)
{
	return pit_get(vm->irqchip, s);
}

long vm_set_pit2(struct vm *vm, const struct kvm_pit_state2 *s)
{
	return pit_set(vm->irqchip, s);
}

/* The old structure is the new one without flags. */
long vm_get_pit(struct vm *vm, struct kvm_pit_state *s)
{
	struct kvm_pit_state2 s2 = { 0 };
	int r = pit_get(vm->irqchip, &s2);

	memcpy(s->channels, s2.channels, sizeof(s->channels));
	return r;
}

long vm_set_pit(struct vm *vm, const struct kvm_pit_state *s)
{
	struct kvm_pit_state2 s2 = { 0 };
	int r = pit_get(vm->irqchip, &s2);

	memcpy(s2.channels, s->channels, sizeof(s2.channels));
	return r < 0 ? r : pit_set(vm->irqchip, &s2);
}

long vm_reinject_control(struct vm *vm, const struct kvm_reinject_control *control)
{
	if (!(vm->enabled_caps & VM_HAS_PIT))
		return -ENXIO;
	return pit_reinject(vm->irqchip, control->pit_reinject);
}
