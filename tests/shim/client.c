#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "../tap.h"
#include "client.h"

enum { CODE = 0x1000, TURNS = 0x2000, MEMORY = 0x10000, RUN_SIZE = 4096 };

static struct kvm_run *volatile last;

static const uint8_t code[][16] = {
	[GUEST_QUIET] = { 0x66, 0xff, 0x06, 0x00, 0x20, 0xeb, 0xf9 },                   /* 1: incl 0x2000; jmp 1b */
	[GUEST_ASKING] = { 0x66, 0xff, 0x06, 0x00, 0x20, 0xe6, 0x10, 0xeb, 0xf7 },       /* out %al, $0x10 between them */
	[GUEST_HALTED] = { 0x66, 0xff, 0x06, 0x00, 0x20, 0xf4, 0xeb, 0xf8 },             /* hlt between them */
};

void client_open(struct client *c, enum guest_kind kind)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;

	c->system = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	c->vm = ioctl(c->system, KVM_CREATE_VM, 0);
	if (kind == GUEST_HALTED)
		check(!ioctl(c->vm, KVM_CREATE_IRQCHIP, 0));
	c->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (uintptr_t)c->memory;
	check(!ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &region));
	memcpy(c->memory + CODE, code[kind], sizeof(code[kind]));
	c->turns = (void *)(c->memory + TURNS);
	c->vcpu = ioctl(c->vm, KVM_CREATE_VCPU, 0);
	last = c->run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu, 0);
	check(!ioctl(c->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	check(!ioctl(c->vcpu, KVM_SET_SREGS, &sregs));
	check(!ioctl(c->vcpu, KVM_SET_REGS, &regs));
}

void client_close(struct client *c)
{
	munmap(c->run, RUN_SIZE);
	check(!close(c->vcpu));
	check(!close(c->vm));
	check(!close(c->system));
	munmap(c->memory, MEMORY);
}

int client_run(struct client *c)
{
	int error;

	while (!ioctl(c->vcpu, KVM_RUN, 0))
		;
	error = errno;
	c->run->immediate_exit = 0;
	return error;
}

void client_call_out(void)
{
	last->immediate_exit = 1;
}

void client_wait_turns(struct client *c, uint32_t n)
{
	uint32_t first = *c->turns;

	while (*c->turns - first < n)
		sched_yield();
}
