/*
 * What becomes of guest writes inside KVM_RUN: ioeventfds, coalesced zones,
 * the MSR filter. The functions are called as the processor's upcalls call
 * them. Prints TAP.
 */
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"
#include "../tap.h"

static struct vm *vm;

static uint64_t count(int e)
{
	eventfd_t v = 0;

	return eventfd_read(e, &v) < 0 ? 0 : v;
}

static long assign(int fd, uint64_t addr, unsigned len, unsigned flags, uint64_t match)
{
	struct kvm_ioeventfd a = { .fd = fd, .addr = addr, .len = len, .flags = flags, .datamatch = match };

	return vm_ioeventfd(vm, &a);
}

static bool write_value(bool pio, uint64_t addr, uint64_t value, unsigned len)
{
	return ioeventfd_write(vm, pio, addr, &value, len);
}

static void test_ioeventfd(void)
{
	int any = eventfd(0, EFD_NONBLOCK), three = eventfd(0, EFD_NONBLOCK), port = eventfd(0, EFD_NONBLOCK);

	check(!write_value(false, 0x1000, 0, 2));
	check(assign(any, 0x1000, 0, 0, 0) == 0);
	check(assign(three, 0x1004, 2, KVM_IOEVENTFD_FLAG_DATAMATCH, 3) == 0);
	check(assign(port, 0x1000, 2, KVM_IOEVENTFD_FLAG_PIO, 0) == 0);
	close(port);                                             /* the VM keeps its own */
	check(write_value(false, 0x1000, 9, 1) && write_value(false, 0x1000, 9, 8) && count(any) == 2);
	check(write_value(false, 0x1004, 3, 2) && count(three) == 1);
	check(!write_value(false, 0x1004, 4, 2) && !write_value(false, 0x1004, 3, 4) && !write_value(false, 0x1002, 0, 2));
	check(write_value(true, 0x1000, 7, 2) && !write_value(true, 0x1000, 7, 4) && count(any) == 0);
	check(assign(any, 0x1000, 0, KVM_IOEVENTFD_FLAG_DEASSIGN, 0) == 0 && !write_value(false, 0x1000, 9, 1));
	close(any);
	close(three);
}

static void test_coalesced(void)
{
	struct kvm_coalesced_mmio_ring *ring = (void *)vm->coalesced;
	struct kvm_coalesced_mmio_zone z = { .addr = 0xa0000, .size = 0x100 }, p = { .addr = 0x60, .size = 1, .pio = 1 };
	uint32_t value = 0x11223344;
	unsigned n = 0;

	check(!coalesced_write(vm, false, 0xa0000, &value, 4));
	check(vm_register_coalesced(vm, &z) == 0 && vm_register_coalesced(vm, &p) == 0);
	check(coalesced_write(vm, false, 0xa00fc, &value, 4) && !coalesced_write(vm, false, 0xa00fd, &value, 4));
	check(!coalesced_write(vm, false, 0x9fffe, &value, 4) && !coalesced_write(vm, true, 0xa0000, &value, 4));
	check(coalesced_write(vm, true, 0x60, &value, 1) && !coalesced_write(vm, true, 0x60, &value, 2));
	check(ring->first == 0 && ring->last == 2);
	check(ring->coalesced_mmio[0].phys_addr == 0xa00fc && ring->coalesced_mmio[0].len == 4 && !ring->coalesced_mmio[0].pio);
	check(!memcmp(ring->coalesced_mmio[0].data, &value, 4) && ring->coalesced_mmio[1].pio && ring->coalesced_mmio[1].len == 1);
	while (coalesced_write(vm, false, 0xa0000, &value, 4))
		n++;
	check(n == 167 && ring->last == 169);
	ring->first = 1;
	check(coalesced_write(vm, false, 0xa0000, &value, 4) && ring->last == 0 && !coalesced_write(vm, false, 0xa0000, &value, 4));
	ring->first = ring->last = 5000;
	check(!coalesced_write(vm, false, 0xa0000, &value, 4));  /* nonsense from the client does no harm */
	ring->first = ring->last = 0;
	z.size = 0x80;
	check(vm_unregister_coalesced(vm, &z) == 0 && !coalesced_write(vm, false, 0xa0000, &value, 4));
	check(coalesced_write(vm, true, 0x60, &value, 1));
}

static void test_msr_filter(void)
{
	uint8_t none = 0, odd = 0xaa;
	struct kvm_msr_filter f = {
		.ranges[0] = { .flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = 0x35, .bitmap = &none },
		.ranges[1] = { .flags = KVM_MSR_FILTER_WRITE | KVM_MSR_FILTER_READ, .nmsrs = 8, .base = 0xc0000080, .bitmap = &odd },
		.ranges[2] = { .flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = 0x802, .bitmap = &none },
	};

	check(msr_filter_allows(vm, 0x35, false));
	check(vm_set_msr_filter(vm, &f) == 0);
	check(!msr_filter_allows(vm, 0x35, false) && msr_filter_allows(vm, 0x35, true) && msr_filter_allows(vm, 0x36, false));
	check(!msr_filter_allows(vm, 0xc0000080, true) && msr_filter_allows(vm, 0xc0000081, true));
	check(msr_filter_allows(vm, 0xc0000088, true) && msr_filter_allows(vm, 0x802, false));
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
	check(vm_set_msr_filter(vm, &f) == 0 && !msr_filter_allows(vm, 0x10, false) && msr_filter_allows(vm, 0x8ff, true));
}

static const struct test tests[] = {
	{ "ioeventfd", test_ioeventfd },
	{ "coalesced", test_coalesced },
	{ "msr filter", test_msr_filter },
};

int main(void)
{
	int status;

	params_init();
	check(vm_new(&vm) == 0);
	status = run_tests(tests, ARRAY_SIZE(tests));
	vm_put(vm);
	return status;
}
