/* KVM_ENABLE_CAP on a VM: one line per capability that can be switched on. */
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"

#define MAX_SPLIT_PINS 4096
#define VALID_EXITS (KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE | \
		     KVM_X86_DISABLE_EXITS_CSTATE)
#define VALID_MSR_REASONS (KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define VALID_X2APIC (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)

static int manual_dirty_log(struct vm *vm, uint64_t arg)
{
	uint64_t allowed = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (arg & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		allowed |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (arg & ~allowed)
		return -EINVAL;
	vm->manual_dirty = arg;
	mem_dirty_initially_set(vm->mem, arg & KVM_DIRTY_LOG_INITIALLY_SET);
	return 0;
}

static int quirks(struct vm *vm, uint64_t arg)
{
	vm->disabled_quirks = arg;
	for (unsigned i = 0; i < atomic_load(&vm->nvcpus); i++)
		vcpu_quirks_apply(vm->vcpus[i]);
	return 0;
}

static int quirks2(struct vm *vm, uint64_t arg)
{
	return arg & ~(uint64_t)capability_value(KVM_CAP_DISABLE_QUIRKS2) ? -EINVAL : quirks(vm, arg);
}

static int split_irqchip(struct vm *vm, uint64_t pins)
{
	if (pins > MAX_SPLIT_PINS)
		return -EINVAL;
	if (irqchip_mode(vm->irqchip) != IRQCHIP_NONE || atomic_load(&vm->nvcpus))
		return -EEXIST;
	return irqchip_create_split(vm->irqchip, pins);
}

static int x2apic_api(struct vm *vm, uint64_t arg)
{
	if (arg & ~VALID_X2APIC)
		return -EINVAL;
	if (arg & KVM_X2APIC_API_USE_32BIT_IDS)
		vm->enabled_caps |= VM_X2APIC_32BIT_IDS;
	if (arg & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
		vm->enabled_caps |= VM_X2APIC_NO_BROADCAST_QUIRK;
	irqchip_set_x2apic_api(vm->irqchip, vm->enabled_caps & VM_X2APIC_32BIT_IDS,
			       vm->enabled_caps & VM_X2APIC_NO_BROADCAST_QUIRK);
	return 0;
}

/* HLT, PAUSE and MWAIT never leave KVM_RUN with a LAPIC in the kernel anyway; CPUID that is set later shows it (msrs.c). */
static int disable_exits(struct vm *vm, uint64_t arg)
{
	if (arg & ~VALID_EXITS)
		return -EINVAL;
	vm->disabled_exits |= arg;
	return 0;
}

static int exception_payload(struct vm *vm, uint64_t arg)
{
	vm->enabled_caps = (vm->enabled_caps & ~VM_EXCEPTION_PAYLOAD) | (arg ? VM_EXCEPTION_PAYLOAD : 0);
	return 0;
}

static int triple_fault(struct vm *vm, uint64_t arg)
{
	vm->enabled_caps = (vm->enabled_caps & ~VM_TRIPLE_FAULT_EVENT) | (arg ? VM_TRIPLE_FAULT_EVENT : 0);
	return 0;
}

static int user_space_msr(struct vm *vm, uint64_t arg)
{
	if (arg & ~VALID_MSR_REASONS)
		return -EINVAL;
	vm->user_msr_mask = arg;
	return 0;
}

static int max_vcpu_id(struct vm *vm, uint64_t arg)
{
	if (!arg || arg < vm->bsp_id || arg > ARRAY_SIZE(vm->by_id) || (vm->max_vcpu_id && vm->max_vcpu_id != arg))
		return -EINVAL;
	vm->max_vcpu_id = arg;
	return 0;
}

static int platform_info(struct vm *vm, uint64_t arg)
{
	vm->hide_platform_info = !arg;
	return 0;
}

/* Taken for what it is: a hint. */
static int hint(struct vm *vm, uint64_t arg)
{
	return 0;
}

static const struct {
	uint32_t cap;
	int (*enable)(struct vm *vm, uint64_t arg);
} table[] = {
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual_dirty_log },
	{ KVM_CAP_DISABLE_QUIRKS, quirks },
	{ KVM_CAP_DISABLE_QUIRKS2, quirks2 },
	{ KVM_CAP_SPLIT_IRQCHIP, split_irqchip },
	{ KVM_CAP_X2APIC_API, x2apic_api },
	{ KVM_CAP_X86_DISABLE_EXITS, disable_exits },
	{ KVM_CAP_EXCEPTION_PAYLOAD, exception_payload },
	{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, triple_fault },
	{ KVM_CAP_X86_USER_SPACE_MSR, user_space_msr },
	{ KVM_CAP_MAX_VCPU_ID, max_vcpu_id },
	{ KVM_CAP_HALT_POLL, hint },
	{ KVM_CAP_MSR_PLATFORM_INFO, platform_info },
	{ KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, hint },
};

long vm_enable_cap(struct vm *vm, const struct kvm_enable_cap *cap)
{
	long r = -EINVAL;

	if (cap->flags)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].cap == cap->cap)
			r = table[i].enable(vm, cap->args[0]);
	pthread_mutex_unlock(&vm->lock);
	return r;
}
