/*
 * The life of a vCPU, and how other threads reach it: a kick makes it look
 * around, a request says what for.
 *
 * Kicks are never lost. A vCPU in the engine notices the poll word; one that
 * is about to enter it has cleared the word before it looked for requests; one
 * that is about to sleep compares the wake counter it read before it looked.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <stdlib.h>
#include <unistd.h>
#include "kvm/lifecycle.h"
#include "kvm/vcpu.h"

#define VCPU_PAGES 3                     /* kvm_run, port data, coalesced ring (spliced in by api.c) */

void vcpu_kick(struct vcpu *v)
{
	atomic_fetch_or(&v->cpu->poll, POLL_KICK);
	atomic_fetch_add(&v->wake, 1);
	if (atomic_load(&v->sleeping))
		futex_wake(&v->wake, 1);
}

void vcpu_request(struct vcpu *v, uint32_t req)
{
	atomic_fetch_or(&v->requests, req);
	vcpu_kick(v);
}

static bool processor_new(struct vcpu *v)
{
	v->cpu = cpu_new(v->vm->mem, &vcpu_cpu_ops, v, v->id);
	if (!v->cpu)
		return false;
	v->vmx = vmx_new(v->cpu, &vcpu_vmx_ops);
	return v->vmx && engine_init(v->cpu) == 0;
}

static void processor_free(struct vcpu *v)
{
	if (!v->cpu)
		return;
	if (v->cpu->engine)
		engine_free(v->cpu);
	if (v->vmx)
		vmx_free(v->vmx);
	cpu_free(v->cpu);
}

void vcpu_free(struct vcpu *v)
{
	timers_put(v->vm, v->vm->by_id[v->id] == v);
	vcpu_stats_free(v);
	processor_free(v);
	if (v->run)
		munmap(v->run, VCPU_PAGES * PAGE_SIZE_4K);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

/* The shared pages. Returns the memfd, or -errno. */
static int pages_new(struct vcpu *v)
{
	int fd = memfd_create("anykvm-vcpu", MFD_CLOEXEC);
	void *pages;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, VCPU_PAGES * PAGE_SIZE_4K) < 0)
		goto fail;
	pages = mmap(NULL, VCPU_PAGES * PAGE_SIZE_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (pages == MAP_FAILED)
		goto fail;
	v->run = pages;
	return fd;
fail:
	close(fd);
	return -ENOMEM;
}

void vcpu_quirks_apply(struct vcpu *v)
{
	v->cpu->hypercall_faults = v->vm->disabled_quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN;
	v->cpu->mwait_faults = v->vm->disabled_quirks & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;
	v->cpu->mwait_switch = v->vm->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT;
}

static void vcpu_init(struct vcpu *v)
{
	bool bsp = v->id == v->vm->bsp_id;

	v->fd_home = v->stats_fd = -1;
	v->user_interrupt = -1;
	v->timer_ns = UINT64_MAX;
	v->mp_state = bsp || !lapic_in_kernel(v) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
	v->apic_base = 0xfee00000 | 0x800 | (bsp ? 0x100 : 0);
	v->mce.mcg_cap = 32;
	v->pv.poll_control = 1;
	v->arch_capabilities = supported_arch_capabilities();
	platform_msrs_reset(v);
}

/* Makes the object without a descriptor. 0 or -errno; *fd is the memfd to be given to the client. */
static int vcpu_new(struct vm *vm, unsigned id, struct vcpu **out, int *fd)
{
	struct vcpu *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	*v = (struct vcpu){ .vm = vm, .id = id };
	pthread_mutex_init(&v->lock, NULL);
	r = timers_get(vm);
	if (r < 0) {
		free(v);
		return r;
	}
	vcpu_init(v);
	r = *fd = pages_new(v);
	if (r >= 0 && !processor_new(v)) {
		close(*fd);
		r = -ENOMEM;
	}
	if (r >= 0) {
		r = vcpu_stats_new(v);
		if (r < 0)
			close(*fd);
	}
	if (r >= 0 && lapic_in_kernel(v))
		r = lapic_create(vm->irqchip, id, id == vm->bsp_id);
	if (r < 0) {
		vcpu_free(v);
		return r;
	}
	vcpu_quirks_apply(v);
	kvm_vcpu_set_tsc_khz(v, v->vm->tsc_khz);
	tsc_write(v, 0);
	*out = v;
	return 0;
}

int vcpu_create(struct vm *vm, unsigned id)
{
	unsigned n = vm->nvcpus;
	struct vcpu *v;
	int fd, r;

	if (id >= ARRAY_SIZE(vm->by_id) || (vm->max_vcpu_id && id >= vm->max_vcpu_id) || n >= MAX_VCPUS)
		return -EINVAL;
	if (vm->by_id[id])
		return -EEXIST;
	r = vcpu_new(vm, id, &v, &fd);
	if (r < 0)
		return r;
	vm->by_id[id] = v;
	vm->vcpus[n] = v;
	vm->nvcpus = n + 1;
	coherence_hook(vm);
	for (unsigned i = 0; i <= n; i++) {
		engine_share(vm->vcpus[i]->cpu, n + 1);
		tlb_share(vm->vcpus[i]->cpu, n + 1);
	}
	r = object_create(OBJECT_vcpu, v, vm, fd, O_CLOEXEC);
	if (r < 0) {
		vm->nvcpus = n;
		vm->by_id[id] = NULL;
		vcpu_free(v);
	}
	return r;
}
