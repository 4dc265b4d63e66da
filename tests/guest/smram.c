/* See smram.h. */
#include <errno.h>
#include <sys/mman.h>
#include "kvm/api.h"
#include "smram.h"

void smram_attach(struct guest *g, uint8_t *smram)
{
	struct kvm_userspace_memory_region slot = { .slot = SMM_SLOTS, .guest_phys_addr = SMBASE, .memory_size = SMRAM_SIZE,
	                                            .userspace_addr = (uintptr_t)smram };

	guest_ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

uint8_t *smram_create(struct guest *g, const uint8_t *handler, size_t len)
{
	uint8_t *smram = mmap(NULL, SMRAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	guest_no_moves();                /* a move knows nothing of SMRAM */
	memcpy(smram + 0x8000, handler, len);
	smram_attach(g, smram);
	return smram;
}

void smram_destroy(uint8_t *smram)
{
	munmap(smram, SMRAM_SIZE);
}

uint64_t smram_get(const uint8_t *smram, unsigned at, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, smram + at, size);
	return value;
}

void smram_set(uint8_t *smram, unsigned at, unsigned size, uint64_t value)
{
	memcpy(smram + at, &value, size);
}

void run_to_port(struct guest *g, unsigned port)
{
	check_equal(guest_run(g, 0), KVM_EXIT_IO);
	check_equal(g->run[0]->io.port, port);
}

void settle(struct guest *g)
{
	g->run[0]->immediate_exit = 1;
	check(anykvm_ioctl(g->vcpu[0], KVM_RUN, NULL) < 0 && errno == EINTR);
	g->run[0]->immediate_exit = 0;
}

struct kvm_vcpu_events guest_events(struct guest *g)
{
	struct kvm_vcpu_events e;

	guest_ioctl(g->vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	return e;
}

struct kvm_sregs guest_sregs(struct guest *g)
{
	struct kvm_sregs s;

	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	return s;
}

bool guest_in_smm(struct guest *g)
{
	bool smm = guest_events(g).smi.smm;

	check_equal(!!(g->run[0]->flags & KVM_RUN_X86_SMM), smm);
	return smm;
}
