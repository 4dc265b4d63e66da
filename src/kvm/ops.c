/*
 * What the processor and nested VMX ask of this floor: devices in the library,
 * MSRs that are not the processor's, CR8, other vCPUs, L1's interrupts.
 *
 * Called from rules inside the engine: general registers only, nothing
 * allocates, no lock is held on return.
 */
#include "cpu/time.h"
#include "kvm/vcpu.h"
#include "x86/features.h"

#define CLOCK_READ_TICKS BIT(24)         /* some 5 ms */

/* Interrupt state may have changed by what the guest itself did: look before the next block. */
static void recheck(struct vcpu *v)
{
	if (irqchip_pending(v->vm->irqchip, v->id) >= 0)
		atomic_fetch_or(&v->cpu->poll, POLL_EVENT);
}

static bool op_mmio_read(struct cpu *cpu, uint64_t gpa, void *data, unsigned len)
{
	struct vcpu *v = cpu_vcpu(cpu);
	struct irqchip *c = v->vm->irqchip;

	if (!lapic_in_kernel(v))
		return false;
	return lapic_mmio_read(c, v->id, gpa, data, len) || irqchip_mmio_read(c, gpa, data, len);
}

static bool op_mmio_write(struct cpu *cpu, uint64_t gpa, const void *data, unsigned len)
{
	struct vcpu *v = cpu_vcpu(cpu);
	struct irqchip *c = v->vm->irqchip;

	if (lapic_in_kernel(v)) {
		if (lapic_mmio_write(c, v->id, gpa, data, len)) {
			recheck(v);
			return true;
		}
		if (irqchip_mmio_write(c, gpa, data, len))
			return true;
	}
	if (ioeventfd_write(v->vm, false, gpa, data, len)) {
		mem_epoch_next(v->vm->mem);
		return true;
	}
	return coalesced_write(v->vm, false, gpa, data, len);
}

static void op_vmcs_access(struct cpu *cpu)
{
	struct vcpu *v = cpu->owner;

	vmx_access_field(v->vmx);
}

static bool op_pio_read(struct cpu *cpu, uint16_t port, void *data, unsigned len)
{
	struct vcpu *v = cpu_vcpu(cpu);

	return pic_in_kernel(v) && irqchip_pio_read(v->vm->irqchip, port, data, len);
}

static bool op_pio_write(struct cpu *cpu, uint16_t port, const void *data, unsigned len)
{
	struct vcpu *v = cpu_vcpu(cpu);

	if (pic_in_kernel(v) && irqchip_pio_write(v->vm->irqchip, port, data, len)) {
		recheck(v);
		return true;
	}
	if (ioeventfd_write(v->vm, true, port, data, len)) {
		mem_epoch_next(v->vm->mem);
		return true;
	}
	return coalesced_write(v->vm, true, port, data, len);
}

/* The families of MSRs, asked in turn until one knows the index. */
static int (*const msr_readers[])(struct vcpu *, uint32_t, uint64_t *) = { platform_msr_read, pv_msr_read };
static int (*const msr_writers[])(struct vcpu *, uint32_t, uint64_t) = { platform_msr_write, pv_msr_write };

static int op_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
	int r = 2;

	for (unsigned i = 0; i < ARRAY_SIZE(msr_readers) && r == 2; i++)
		r = msr_readers[i](cpu_vcpu(cpu), index, value);
	return r;
}

static int op_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
	struct vcpu *v = cpu_vcpu(cpu);
	int r = 2;

	for (unsigned i = 0; i < ARRAY_SIZE(msr_writers) && r == 2; i++)
		r = msr_writers[i](v, index, value);
	if (r == 0 && index - 0x800 < 0x100 && lapic_in_kernel(v))
		recheck(v);
	return r;
}

/* A filtered access goes to the client if it asked for those, else it faults. */
static bool op_msr_filtered(struct cpu *cpu, uint32_t index, bool write)
{
	struct vm *vm = cpu_vcpu(cpu)->vm;

	if (msr_filter_allows(vm, index, write))
		return false;
	if (!(vm->user_msr_mask & KVM_MSR_EXIT_REASON_FILTER))
		cpu_raise_gp(cpu);
	return true;
}

uint64_t vcpu_cr8(struct vcpu *v)
{
	return lapic_in_kernel(v) ? lapic_cr8_get(v->vm->irqchip, v->id) : v->cr8;
}

void vcpu_cr8_set(struct vcpu *v, uint64_t cr8)
{
	if (lapic_in_kernel(v))
		lapic_cr8_set(v->vm->irqchip, v->id, cr8 & 15);
	else
		v->cr8 = cr8 & 15;
}

static uint64_t op_cr8_read(struct cpu *cpu)
{
	return vcpu_cr8(cpu_vcpu(cpu));
}

/* With the APIC in the client, a lower priority may free an interrupt that only the client knows of. */
static void op_cr8_write(struct cpu *cpu, uint64_t value)
{
	struct vcpu *v = cpu_vcpu(cpu);
	uint64_t before = v->cr8;

	vcpu_cr8_set(v, value);
	if (lapic_in_kernel(v)) {
		recheck(v);
	} else if (value < before) {
		v->tpr_lowered = true;
		atomic_fetch_or(&cpu->poll, POLL_EVENT);
	}
}

/* A register of the vCPU's own local APIC, written as its mode has it. */
static void own_apic_write(struct vcpu *v, unsigned offset, uint32_t value)
{
	uint64_t base = lapic_base_get(v->vm->irqchip, v->id);

	if (base & 0x400)
		lapic_msr_write(v->vm->irqchip, v->id, 0x800 + (offset >> 4), value);
	else
		lapic_mmio_write(v->vm->irqchip, v->id, (base & PAGE_MASK_4K) + offset, &value, sizeof(value));
}

static bool op_apic_eoi(struct cpu *cpu)
{
	struct vcpu *v = cpu_vcpu(cpu);

	if (!lapic_in_kernel(v))
		return false;
	own_apic_write(v, 0xb0, 0);
	return true;
}

/* xAPIC mode has the APIC id in bits 15:8 of the destination. */
static void op_send_ipi(struct cpu *cpu, uint8_t vector, uint32_t destination)
{
	struct vcpu *v = cpu_vcpu(cpu);

	if (!lapic_in_kernel(v))
		return;
	if (vcpu_apic_base(v) & 0x400) {
		lapic_msr_write(v->vm->irqchip, v->id, 0x830, (uint64_t)destination << 32 | vector);
	} else {
		own_apic_write(v, 0x310, destination << 16 & 0xff000000);
		own_apic_write(v, 0x300, vector);
	}
}

uint64_t vcpu_apic_base(struct vcpu *v)
{
	return lapic_in_kernel(v) ? lapic_base_get(v->vm->irqchip, v->id) : v->apic_base;
}

/* EXTD without EN is no state; neither are address bits beyond the physical ones. */
int vcpu_apic_base_set(struct vcpu *v, uint64_t value, bool host)
{
	if (value & v->cpu->reserved_pa || value & 0x2ff || (value & 0xc00) == 0x400)
		return 1;
	if (!host && value & 0x400 && !cpu_has(v->cpu, FEATURE_X2APIC))
		return 1;
	if (lapic_in_kernel(v))
		return lapic_base_set(v->vm->irqchip, v->id, value, host);
	v->apic_base = value;
	return 0;
}

static void op_tsc_moved(struct cpu *cpu, int64_t by)
{
	tsc_moved(cpu_vcpu(cpu), by);
}

const struct cpu_ops vcpu_cpu_ops = {
	.mmio_read = op_mmio_read,
	.mmio_write = op_mmio_write,
	.vmcs_access = op_vmcs_access,
	.pio_read = op_pio_read,
	.pio_write = op_pio_write,
	.msr_read = op_msr_read,
	.msr_write = op_msr_write,
	.tsc_moved = op_tsc_moved,
	.cr8_read = op_cr8_read,
	.cr8_write = op_cr8_write,
	.code_changed = coherence_code_changed,
	.code_page_new = coherence_code_page_new,
	.exclusive_begin = coherence_exclusive_begin,
	.exclusive_end = coherence_exclusive_end,
	.apic_eoi = op_apic_eoi,
	.send_ipi = op_send_ipi,
	.msr_filtered = op_msr_filtered,
};

/* ---- nested VMX ---- */

static int vmx_interrupt_pending(struct cpu *cpu)
{
	return vcpu_interrupt_pending(cpu_vcpu(cpu));
}

static int vmx_interrupt_ack(struct cpu *cpu)
{
	return vcpu_interrupt_ack(cpu_vcpu(cpu));
}

static uint64_t vmx_l1_tsc(struct cpu *cpu)
{
	return vcpu_l1_tsc(cpu_vcpu(cpu));
}

/*
 * CLOCK_MONOTONIC when the host's TSC is tsc, the present. Reading the clock costs more than all the rest of a VM entry's
 * timer, so it is read every few milliseconds; meanwhile the TSC goes on for it. That and the clock's own rate, which may be
 * another one, make it wrong by some microseconds.
 */
static uint64_t time_at(struct vcpu *v, uint64_t tsc)
{
	if (tsc - v->clock_read.tsc >= CLOCK_READ_TICKS) {
		v->clock_read.ns = time_ns();
		v->clock_read.tsc = tsc;
	}
	return v->clock_read.ns + clock_tsc_to_ns(tsc - v->clock_read.tsc);
}

/* A little late rather than early, when vmx/ would ask for the same again. */
static void vmx_timer(struct cpu *cpu, uint64_t tsc)
{
	struct vcpu *v = cpu_vcpu(cpu);
	uint64_t host, now;

	if (tsc == UINT64_MAX) {
		timer_set(v, UINT64_MAX);
		return;
	}
	host = clock_host_tsc();
	now = tsc_at(cpu, host);
	if (tsc <= now)
		vcpu_kick(v);
	else
		timer_set(v, time_at(v, host) + tsc_ticks_to_ns(v, tsc - now) + 1000);
}

static uint64_t vmx_apic_base(struct cpu *cpu)
{
	return vcpu_apic_base(cpu_vcpu(cpu));
}

const struct vmx_ops vcpu_vmx_ops = {
	.interrupt_pending = vmx_interrupt_pending,
	.interrupt_ack = vmx_interrupt_ack,
	.l1_tsc = vmx_l1_tsc,
	.timer = vmx_timer,
	.apic_base = vmx_apic_base,
};
