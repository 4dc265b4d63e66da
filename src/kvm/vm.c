/*
 * A VM: its parts, its life, and the settings that are just stored. Memory is
 * in memory.c, interrupt controllers in irq.c, KVM_ENABLE_CAP in enable_cap.c.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"

#define MIN_MMU_PAGES 64

static void *ring_new(void)
{
	void *ring = mmap(NULL, PAGE_SIZE_4K, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return ring == MAP_FAILED ? NULL : ring;
}

static void vcpus_free(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_free(vm->vcpus[i]);
}

/* Also of a VM that is half made. */
void vm_free(struct vm *vm)
{
	if (vm->eventfds)
		eventfds_stop(vm);
	if (vm->irqchip)
		irqchip_free(vm->irqchip);       /* its thread kicks vCPUs */
	vcpus_free(vm);
	if (vm->mem)
		mem_free(vm->mem);
	if (vm->coalesced)
		munmap(vm->coalesced, PAGE_SIZE_4K);
	msr_filter_free(vm);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* Threads start here, since sandboxes may forbid them later. */
static int parts_new(struct vm *vm)
{
	int r;

	vm->mem = mem_new();
	vm->coalesced = ring_new();
	vm->irqchip = irqchip_new(&vm_irqchip_ops, vm);
	if (!vm->mem || !vm->coalesced || !vm->irqchip)
		return -ENOMEM;
	r = irqchip_start(vm->irqchip);
	return r < 0 ? r : eventfds_start(vm);
}

int vm_new(struct vm **out)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return -ENOMEM;
	*vm = (struct vm){ .refs = 1, .coalesced_fd = -1, .tsc_khz = clock_tsc_khz() };
	pthread_mutex_init(&vm->lock, NULL);
	clock_init(vm);
	r = parts_new(vm);
	if (r < 0) {
		vm_free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

/* KVM_CREATE_VM: only the default type. */
long system_create_vm(struct system *s, unsigned long type)
{
	struct vm *vm;
	int r, fd;

	if (type)
		return -EINVAL;
	r = vm_new(&vm);
	if (r < 0)
		return r;
	fd = memfd_create("anykvm-vm", MFD_CLOEXEC);
	r = fd < 0 ? -errno : object_create(OBJECT_vm, vm, vm, fd, O_CLOEXEC);
	vm_put(vm);
	return r;
}

void vm_stop(struct vm *vm, uint32_t req)
{
	unsigned n = atomic_load(&vm->nvcpus);

	mem_write_announce(vm->mem);
	for (unsigned i = 0; i < n; i++)
		vcpu_request(vm->vcpus[i], req);
	mem_write_wait(vm->mem);
}

void vm_resume(struct vm *vm)
{
	mem_write_unlock(vm->mem);
}

long vm_check_extension(struct vm *vm, unsigned long cap)
{
	return capability_value(cap);
}

long vm_create_vcpu(struct vm *vm, unsigned long id)
{
	long r;

	if (id >= ARRAY_SIZE(vm->by_id))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	r = vcpu_create(vm, id);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* There are no shadow page tables to limit; the number is kept for who asks. */
long vm_set_nr_mmu_pages(struct vm *vm, unsigned long n)
{
	if (n < MIN_MMU_PAGES)
		return -EINVAL;
	vm->nr_mmu_pages = n;
	return 0;
}

long vm_get_nr_mmu_pages(struct vm *vm)
{
	return vm->nr_mmu_pages;
}

/* Three pages that a processor without unrestricted guest would need. */
long vm_set_tss_addr(struct vm *vm, unsigned long addr)
{
	return addr > (unsigned)(-3 * 4096) ? -EINVAL : 0;
}

long vm_set_identity_map_addr(struct vm *vm, const uint64_t *addr)
{
	return atomic_load(&vm->nvcpus) ? -EINVAL : 0;
}

long vm_set_boot_cpu_id(struct vm *vm, unsigned long id)
{
	long r = 0;

	pthread_mutex_lock(&vm->lock);
	if (atomic_load(&vm->nvcpus))
		r = -EBUSY;
	else if (id > ARRAY_SIZE(vm->by_id) || (vm->max_vcpu_id && id > vm->max_vcpu_id))
		r = -EINVAL;
	else
		vm->bsp_id = id;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

long vm_get_stats_fd(struct vm *vm)
{
	return vm_stats_fd();
}

/* No device of this interface (VFIO, ...) exists here. */
long vm_create_device(struct vm *vm, const struct kvm_create_device *d)
{
	return -ENODEV;
}

long vm_has_device_attr(struct vm *vm, const struct kvm_device_attr *a)
{
	return -ENXIO;
}

/* Guests have no performance counters. */
long vm_set_pmu_event_filter(struct vm *vm, void *arg)
{
	return -EINVAL;
}
