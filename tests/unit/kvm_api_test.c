/*
 * The KVM API's system and VM descriptors: every errno that clients can rely
 * on, through the same calls that the shim makes. Prints TAP.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kvm/api.h"
#include "kvm/uapi.h"
#include "../tap.h"

/* kvm/vm.h has it, but cannot be included beside <signal.h>. */
void cpuid_apply_vendor(struct kvm_cpuid_entry2 *e, unsigned n);

static int sys, vm;

/* Like ioctl(), but errors are negative numbers. */
static int call(int fd, unsigned long request, void *arg)
{
	int r = anykvm_ioctl(fd, request, arg);

	return r < 0 ? -errno : r;
}

static int value(int fd, unsigned long request, unsigned long arg)
{
	return call(fd, request, (void *)arg);
}

static int vm_fresh(void)
{
	if (vm > 0) {
		anykvm_closing(vm);
		close(vm);
	}
	return vm = value(sys, KVM_CREATE_VM, 0);
}

static void test_system(void)
{
	check(value(sys, KVM_GET_API_VERSION, 0) == 12 && value(sys, KVM_GET_API_VERSION, 1) == -EINVAL);
	check(value(sys, (unsigned long)(long)(int)KVM_GET_API_VERSION | ~0xffffffffull, 0) == 12);      /* sign-extended */
	check(value(sys, KVM_GET_VCPU_MMAP_SIZE, 0) == 12288 && value(sys, KVM_GET_VCPU_MMAP_SIZE, 1) == -EINVAL);
	check(value(sys, KVM_CREATE_VM, 7) == -EINVAL);
	check(value(sys, KVM_RUN, 0) == -EINVAL && value(sys, 0x1234, 0) == -EINVAL && value(sys, KVM_CREATE_VCPU, 0) == -EINVAL);
	check(value(vm, KVM_GET_API_VERSION, 0) == -ENOTTY && value(vm, KVM_RUN, 0) == -ENOTTY && value(vm, 0x1234, 0) == -ENOTTY);
	check(value(99, KVM_GET_API_VERSION, 0) == -EBADF);
	check(value(sys, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1 && value(sys, KVM_CHECK_EXTENSION, 100000) == 0);
	check(value(vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS) == 32764);
	check(value(vm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO) == 2);
	check(value(vm, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE) == 8320);
}

/* Clients double the buffer until it is strictly larger than needed. */
static void test_cpuid(void)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));
	unsigned n = 1, vmx = 0, xsave = 0, kvm = 0;

	for (c->nent = 1; call(sys, KVM_GET_SUPPORTED_CPUID, c) == -E2BIG; c->nent = n)
		n *= 2;
	check(n <= 128 && c->nent > 15 && c->nent <= n);
	n = c->nent;
	check(call(sys, KVM_GET_SUPPORTED_CPUID, c) == 0);
	c->nent = n - 1;
	check(call(sys, KVM_GET_SUPPORTED_CPUID, c) == -E2BIG && c->nent == n - 1);
	check(call(sys, KVM_GET_SUPPORTED_CPUID, (void *)8) == -EFAULT);
	for (unsigned i = 0; i < n; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		vmx += e->function == 1 && e->ecx & 1 << 5;
		xsave += e->function == 0xd && e->index == 2 && e->eax == 256 && e->ebx == 576;
		kvm += e->function == 0x40000000 && !memcmp(&e->ebx, "KVMKVMKVM\0\0\0", 12) && e->eax == 0x40000001;
	}
	check(vmx == 1 && kvm == 1 && xsave <= 1);
	c->nent = 2;
	check(call(sys, KVM_GET_EMULATED_CPUID, c) == -E2BIG);
	free(c);
}

static struct kvm_cpuid_entry2 leaf(uint32_t f, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
	return (struct kvm_cpuid_entry2){ .function = f, .eax = a, .ebx = b, .ecx = c, .edx = d };
}

static void test_vendor(void)
{
	const uint32_t auth = 0x68747541, enti = 0x69746e65, camd = 0x444d4163, genu = 0x756e6547, inei = 0x49656e69, ntel = 0x6c65746e;
	struct kvm_cpuid_entry2 e[] = {
		leaf(0, 0xd, auth, camd, enti), leaf(1, 0x00b00f21, 0, 1 << 5, 0), leaf(0x80000000, 0x8000001e, auth, camd, enti),
		leaf(0x80000001, 0x00b00f21, 0x40000000, 0x004003f3, 0x2fd3fbff), leaf(0x80000008, 0x3030, 0x1000, 0x7001, 0),
		leaf(0x8000001e, 1, 2, 3, 4),
	};
	struct kvm_cpuid_entry2 no_vmx[ARRAY_SIZE(e)];

	memcpy(no_vmx, e, sizeof(e));
	no_vmx[1].ecx = 0;
	cpuid_apply_vendor(no_vmx, ARRAY_SIZE(e));
	check(no_vmx[0].ebx == auth && no_vmx[1].eax == 0x00b00f21 && no_vmx[5].eax == 1);
	cpuid_apply_vendor(e, ARRAY_SIZE(e));
	check(e[0].ebx == genu && e[0].edx == inei && e[0].ecx == ntel && e[2].ebx == genu && e[2].eax == 0x80000008);
	check(e[1].eax == 0x306c4 && e[1].ecx == 1 << 5);
	check(e[3].ecx == 0x121 && e[3].edx == 0x2c100800 && e[4].eax == 0x3030 && !e[4].ebx && !e[5].eax);
	e[1].eax = 0x00b00f21;
	cpuid_apply_vendor(e, ARRAY_SIZE(e));
	check(e[1].eax == 0x00b00f21);                           /* the client said Intel itself */
}

static void test_msr_lists(void)
{
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + 300 * 4);
	struct kvm_msrs *m = calloc(1, sizeof(*m) + 300 * sizeof(m->entries[0]));
	unsigned n, good = 0;

	check(call(sys, KVM_GET_MSR_INDEX_LIST, l) == -E2BIG && l->nmsrs > 20);
	n = l->nmsrs;
	check(call(sys, KVM_GET_MSR_INDEX_LIST, l) == 0 && l->nmsrs == n && l->indices[0] == 0x10);
	l->nmsrs = 0;
	check(call(sys, KVM_GET_MSR_FEATURE_INDEX_LIST, l) == -E2BIG && l->nmsrs > 15);
	check(call(sys, KVM_GET_MSR_FEATURE_INDEX_LIST, l) == 0);
	for (unsigned i = 0; i < l->nmsrs; i++) {
		m->nmsrs = 1;
		m->entries[0].index = l->indices[i];
		good += call(sys, KVM_GET_MSRS, m) == 1;
	}
	check(good == l->nmsrs);
	m->nmsrs = 3;
	m->entries[0].index = 0x480;
	m->entries[1].index = 0x10;
	check(call(sys, KVM_GET_MSRS, m) == 1 && (uint32_t)m->entries[0].data == 0x11e57ed0);
	m->nmsrs = 256;
	check(call(sys, KVM_GET_MSRS, m) == -E2BIG && call(sys, KVM_GET_MSRS, NULL) == -EFAULT);
	free(l);
	free(m);
}

static void test_device_attr(void)
{
	uint64_t out = 0;
	struct kvm_device_attr a = { .attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = (uintptr_t)&out };

	check(call(sys, KVM_HAS_DEVICE_ATTR, &a) == 0 && call(sys, KVM_GET_DEVICE_ATTR, &a) == 0 && (out & 3) == 3);
	a.addr = 8;
	check(call(sys, KVM_GET_DEVICE_ATTR, &a) == -EFAULT);
	a.group = 1;
	check(call(sys, KVM_HAS_DEVICE_ATTR, &a) == -ENXIO && call(sys, KVM_GET_DEVICE_ATTR, &a) == -ENXIO);
}

static void test_memory(void)
{
	void *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region r = { .slot = 3, .flags = 1, .guest_phys_addr = 0, .memory_size = 1 << 20,
						 .userspace_addr = (uintptr_t)ram };
	uint64_t bits[4];
	struct kvm_dirty_log log = { .slot = 3, .dirty_bitmap = bits };
	struct kvm_clear_dirty_log clear = { .slot = 3, .num_pages = 64, .dirty_bitmap = bits };

	vm_fresh();
	check(call(vm, KVM_GET_DIRTY_LOG, &log) == -ENOENT);
	check(call(vm, KVM_SET_USER_MEMORY_REGION, &r) == 0 && call(vm, KVM_SET_USER_MEMORY_REGION, (void *)16) == -EFAULT);
	check(call(vm, KVM_GET_DIRTY_LOG, &log) == 0 && !bits[0] && !bits[3]);
	check(call(vm, KVM_CLEAR_DIRTY_LOG, &clear) == 0);
	clear.first_page = 1;
	check(call(vm, KVM_CLEAR_DIRTY_LOG, &clear) == -EINVAL);
	log.dirty_bitmap = (void *)8;
	check(call(vm, KVM_GET_DIRTY_LOG, &log) == -EFAULT);
	r.slot = 4;
	check(call(vm, KVM_SET_USER_MEMORY_REGION, &r) == -EEXIST);
	r.slot = 2 << 16;
	check(call(vm, KVM_SET_USER_MEMORY_REGION, &r) == -EINVAL);
	r.slot = 3;
	r.memory_size = 0;
	check(call(vm, KVM_SET_USER_MEMORY_REGION, &r) == 0 && call(vm, KVM_SET_USER_MEMORY_REGION, &r) == -EINVAL);
	munmap(ram, 1 << 20);
}

/* The wider form, without guest_memfd. */
static void test_memory2(void)
{
	void *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region2 r = { .slot = 3, .memory_size = 1 << 20, .userspace_addr = (uintptr_t)ram, .flags = 1 << 2 };
	struct kvm_userspace_memory_region same = { .slot = 4, .memory_size = 1 << 20, .userspace_addr = (uintptr_t)ram };
	uint64_t bits[4];
	struct kvm_dirty_log log = { .slot = 3, .dirty_bitmap = bits };

	vm_fresh();
	check(value(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY2) == 1);
	check(call(vm, KVM_SET_USER_MEMORY_REGION2, &r) == -EINVAL && call(vm, KVM_SET_USER_MEMORY_REGION2, (void *)16) == -EFAULT);
	r.flags = 1;
	r.guest_memfd = 77;
	check(call(vm, KVM_SET_USER_MEMORY_REGION2, &r) == 0 && call(vm, KVM_GET_DIRTY_LOG, &log) == 0);
	check(call(vm, KVM_SET_USER_MEMORY_REGION, &same) == -EEXIST);
	r.memory_size = 0;
	check(call(vm, KVM_SET_USER_MEMORY_REGION2, &r) == 0 && call(vm, KVM_SET_USER_MEMORY_REGION, &same) == 0);
	munmap(ram, 1 << 20);
}

static int enable(uint32_t cap, uint64_t arg, uint32_t flags)
{
	struct kvm_enable_cap c = { .cap = cap, .flags = flags, .args[0] = arg };

	return call(vm, KVM_ENABLE_CAP, &c);
}

/* The bootstrap processor is one of those that KVM_CAP_MAX_VCPU_ID lets be made. */
static void test_boot_cpu(void)
{
	vm_fresh();
	check(value(vm, KVM_SET_BOOT_CPU_ID, 100000) == -EINVAL && value(vm, KVM_SET_BOOT_CPU_ID, 2) == 0);
	check(enable(KVM_CAP_MAX_VCPU_ID, 1, 0) == -EINVAL && enable(KVM_CAP_MAX_VCPU_ID, 2, 0) == 0);
	check(value(vm, KVM_SET_BOOT_CPU_ID, 3) == -EINVAL && value(vm, KVM_CREATE_VCPU, 2) == -EINVAL);
	check(value(vm, KVM_CREATE_VCPU, 1ul << 32) == -EINVAL && value(vm, KVM_CREATE_VCPU, 1) >= 0);
	check(value(vm, KVM_SET_BOOT_CPU_ID, 1) == -EBUSY);
}

static void test_enable_cap(void)
{
	vm_fresh();
	check(enable(KVM_CAP_EXCEPTION_PAYLOAD, 1, 0) == 0 && enable(KVM_CAP_EXCEPTION_PAYLOAD, 1, 1) == -EINVAL);
	check(enable(KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, 0) == 0 && enable(12345, 0, 0) == -EINVAL);
	check(enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2, 0) == -EINVAL && enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3, 0) == 0);
	check(enable(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, 0) == 0 && enable(KVM_CAP_X86_USER_SPACE_MSR, 64, 0) == -EINVAL);
	check(enable(KVM_CAP_X2APIC_API, 3, 0) == 0 && enable(KVM_CAP_X2APIC_API, 4, 0) == -EINVAL);
	check(enable(KVM_CAP_SPLIT_IRQCHIP, 5000, 0) == -EINVAL && enable(KVM_CAP_SPLIT_IRQCHIP, 24, 0) == 0);
	check(enable(KVM_CAP_SPLIT_IRQCHIP, 24, 0) == -EEXIST && value(vm, KVM_CREATE_IRQCHIP, 0) == -EEXIST);
	check(enable(KVM_CAP_MAX_VCPU_ID, 8, 0) == 0 && enable(KVM_CAP_MAX_VCPU_ID, 9, 0) == -EINVAL);
}

static void test_msr_filter(void)
{
	struct kvm_msr_filter f = { 0 };
	uint8_t bitmap[2] = { 0xfe, 0xff };

	vm_fresh();
	check(call(vm, KVM_X86_SET_MSR_FILTER, &f) == 0);
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
	check(call(vm, KVM_X86_SET_MSR_FILTER, &f) == -EINVAL);
	f.flags = 2;
	check(call(vm, KVM_X86_SET_MSR_FILTER, &f) == -EINVAL);
	f.flags = 0;
	f.ranges[0] = (struct kvm_msr_filter_range){ .flags = KVM_MSR_FILTER_READ, .nmsrs = 10, .base = 0x35, .bitmap = bitmap };
	check(call(vm, KVM_X86_SET_MSR_FILTER, &f) == 0);
	f.ranges[0].bitmap = (void *)8;
	check(call(vm, KVM_X86_SET_MSR_FILTER, &f) == -EFAULT);
	f.ranges[0].flags = 4;
	check(call(vm, KVM_X86_SET_MSR_FILTER, &f) == -EINVAL);
}

static int ioeventfd(int fd, uint64_t addr, uint32_t len, uint32_t flags, uint64_t match)
{
	struct kvm_ioeventfd a = { .fd = fd, .addr = addr, .len = len, .flags = flags, .datamatch = match };

	return call(vm, KVM_IOEVENTFD, &a);
}

static void test_ioeventfd(void)
{
	enum { MATCH = KVM_IOEVENTFD_FLAG_DATAMATCH, PIO = KVM_IOEVENTFD_FLAG_PIO, OFF = KVM_IOEVENTFD_FLAG_DEASSIGN };
	int e = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK), copy = dup(e), not = open("/dev/null", O_RDONLY);

	vm_fresh();
	for (unsigned i = 0; i < 7; i++)
		check(ioeventfd(e, 0, 2, PIO | MATCH, i) == 0);
	check(ioeventfd(other, 0, 2, PIO | MATCH, 3) == -EEXIST && ioeventfd(other, 0, 2, PIO, 0) == -EEXIST);
	check(ioeventfd(other, 0, 0, PIO, 0) == -EEXIST && ioeventfd(other, 0, 4, PIO | MATCH, 3) == 0);
	check(ioeventfd(other, 0, 2, MATCH, 3) == 0);            /* MMIO is another space */
	for (unsigned i = 0; i < 7; i++)
		check(ioeventfd(copy, 0, 2, PIO | MATCH | OFF, i) == 0);     /* a duplicate names the same eventfd */
	check(ioeventfd(e, 0, 2, PIO | MATCH | OFF, 1) == -ENOENT && ioeventfd(other, 0, 4, PIO | MATCH | OFF, 4) == -ENOENT);
	check(ioeventfd(e, 8, 3, 0, 0) == -EINVAL && ioeventfd(e, 8, 0, MATCH, 0) == -EINVAL && ioeventfd(e, 8, 4, 256, 0) == -EINVAL);
	check(ioeventfd(e, ~0ull, 4, 0, 0) == -EINVAL && ioeventfd(77, 8, 4, 0, 0) == -EBADF && ioeventfd(not, 8, 4, 0, 0) == -EINVAL);
	close(e);
	close(other);
	close(copy);
	close(not);
}

static int irqfd(int fd, uint32_t gsi, uint32_t flags, int resample)
{
	struct kvm_irqfd a = { .fd = fd, .gsi = gsi, .flags = flags, .resamplefd = resample };

	return call(vm, KVM_IRQFD, &a);
}

static bool becomes_empty(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (unsigned i = 0; i < 200; i++, usleep(5000))
		if (!poll(&p, 1, 0))
			return true;
	return false;
}

static void test_irqfd(void)
{
	int e = eventfd(1, EFD_NONBLOCK), r = eventfd(0, EFD_NONBLOCK), not = open("/dev/null", O_RDONLY);

	vm_fresh();
	check(irqfd(e, 5, 0, -1) == -EINVAL);                    /* no chip */
	check(value(vm, KVM_CREATE_IRQCHIP, 0) == 0);
	check(irqfd(e, 5, 0, -1) == 0 && becomes_empty(e));      /* was signalled before */
	check(irqfd(e, 6, 0, -1) == -EBUSY);
	check(irqfd(e, 5, KVM_IRQFD_FLAG_DEASSIGN, -1) == 0 && irqfd(e, 5, KVM_IRQFD_FLAG_DEASSIGN, -1) == 0);
	check(eventfd_write(e, 1) == 0 && (usleep(20000), !becomes_empty(e)));
	check(irqfd(e, 10, KVM_IRQFD_FLAG_RESAMPLE, r) == 0 && becomes_empty(e));
	check(irqfd(not, 5, 0, -1) == -EINVAL && irqfd(99, 5, 0, -1) == -EBADF && irqfd(r, 5, 8, -1) == -EINVAL);
	check(irqfd(e, 10, KVM_IRQFD_FLAG_DEASSIGN, -1) == 0);
	vm_fresh();
	enable(KVM_CAP_SPLIT_IRQCHIP, 24, 0);
	check(irqfd(e, 10, KVM_IRQFD_FLAG_RESAMPLE, r) == -EINVAL);
	close(e);
	close(r);
	close(not);
}

static void test_irqchip(void)
{
	struct kvm_irq_level l = { .irq = 4, .level = 1 };
	struct kvm_irqchip chip = { .chip_id = 0 };
	struct kvm_pit_config pit = { 0 };
	struct kvm_pit_state2 state;
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
	struct { struct kvm_irq_routing head; struct kvm_irq_routing_entry e[2]; } routes = { .head.nr = 1 };

	vm_fresh();
	check(call(vm, KVM_IRQ_LINE, &l) == -ENXIO && call(vm, KVM_GET_IRQCHIP, &chip) == -ENXIO);
	check(call(vm, KVM_CREATE_PIT2, &pit) == -ENOENT && call(vm, KVM_GET_PIT2, &state) == -ENXIO);
	check(call(vm, KVM_SIGNAL_MSI, &msi) == -EINVAL && call(vm, KVM_SET_GSI_ROUTING, &routes) == -EINVAL);
	check(value(vm, KVM_CREATE_IRQCHIP, 0) == 0 && value(vm, KVM_CREATE_IRQCHIP, 0) == -EEXIST);
	check(call(vm, KVM_IRQ_LINE, &l) == 0 && call(vm, KVM_IRQ_LINE_STATUS, &l) == 0);
	check(call(vm, KVM_GET_IRQCHIP, &chip) == 0 && call(vm, KVM_SET_IRQCHIP, &chip) == 0);
	chip.chip_id = 3;
	check(call(vm, KVM_GET_IRQCHIP, &chip) == -EINVAL && call(vm, KVM_SET_IRQCHIP, &chip) == -EINVAL);
	check(call(vm, KVM_CREATE_PIT2, &pit) == 0 && call(vm, KVM_CREATE_PIT2, &pit) == -EEXIST);
	check(call(vm, KVM_GET_PIT2, &state) == 0 && call(vm, KVM_SET_PIT2, &state) == 0);
	routes.e[0] = (struct kvm_irq_routing_entry){ .gsi = 5, .type = KVM_IRQ_ROUTING_MSI };
	check(call(vm, KVM_SET_GSI_ROUTING, &routes) == 0);
	routes.e[0].flags = 2;
	check(call(vm, KVM_SET_GSI_ROUTING, &routes) == -EINVAL);
	routes.head.flags = 1;
	check(call(vm, KVM_SET_GSI_ROUTING, &routes) == -EINVAL);
	msi.flags = 4;
	check(call(vm, KVM_SIGNAL_MSI, &msi) == -EINVAL);
}

static void test_clock(void)
{
	struct kvm_clock_data a, b, past;

	vm_fresh();
	check(call(vm, KVM_GET_CLOCK, &a) == 0 && (a.flags & 0xe) == 0xe && a.realtime && a.host_tsc);
	check(value(vm, KVM_GET_TSC_KHZ, 0) > 100000);
	a.clock = 1000000000000;
	a.flags = 0;
	check(call(vm, KVM_SET_CLOCK, &a) == 0);
	usleep(50000);
	check(call(vm, KVM_GET_CLOCK, &b) == 0 && b.clock - a.clock > 49000000 && b.clock - a.clock < 1000000000);
	past = b;
	past.flags = KVM_CLOCK_REALTIME;
	past.realtime -= 5000000000;
	check(call(vm, KVM_SET_CLOCK, &past) == 0 && call(vm, KVM_GET_CLOCK, &a) == 0 && a.clock - b.clock >= 5000000000);
	a.flags = 1;
	check(call(vm, KVM_SET_CLOCK, &a) == -EINVAL);
}

static void test_settings(void)
{
	uint64_t addr = 0xfeffc000;
	struct kvm_coalesced_mmio_zone z = { .addr = 0xb8000, .size = 4096 };
	struct kvm_create_device d = { .type = 7 };
	int stats;
	struct kvm_stats_header h;

	vm_fresh();
	check(value(vm, KVM_SET_TSS_ADDR, 0xfeffd000) == 0 && value(vm, KVM_SET_TSS_ADDR, 0xfffff000) == -EINVAL);
	check(call(vm, KVM_SET_IDENTITY_MAP_ADDR, &addr) == 0);
	check(value(vm, KVM_SET_BOOT_CPU_ID, 0) == 0);
	check(value(vm, KVM_SET_NR_MMU_PAGES, 10) == -EINVAL && value(vm, KVM_SET_NR_MMU_PAGES, 100) == 0);
	check(value(vm, KVM_GET_NR_MMU_PAGES, 0) == 100);
	check(call(vm, KVM_REGISTER_COALESCED_MMIO, &z) == 0 && call(vm, KVM_UNREGISTER_COALESCED_MMIO, &z) == 0);
	z.pio = 2;
	check(call(vm, KVM_REGISTER_COALESCED_MMIO, &z) == -EINVAL);
	check(call(vm, KVM_CREATE_DEVICE, &d) == -ENODEV && value(vm, KVM_CREATE_VCPU, 256) == -EINVAL);
	stats = value(vm, KVM_GET_STATS_FD, 0);
	check(stats >= 0 && read(stats, &h, sizeof(h)) == sizeof(h) && h.num_desc >= 1 && !anykvm_owns(stats));
	close(stats);
}

/* A client saves and restores every MSR of the list. */
static void msrs_round_trip(int vcpu)
{
	struct { struct kvm_msr_list head; uint32_t indices[256]; } l = { .head.nmsrs = 256 };
	struct { struct kvm_msrs head; struct kvm_msr_entry e[1]; } m = { .head.nmsrs = 1 };

	check(call(sys, KVM_GET_MSR_INDEX_LIST, &l) == 0);
	for (unsigned i = 0; i < l.head.nmsrs; i++) {
		m.e[0].index = l.indices[i];
		int get = call(vcpu, KVM_GET_MSRS, &m), set = call(vcpu, KVM_SET_MSRS, &m);

		if (get != 1 || set != 1)
			printf("# MSR %#x: get %d set %d\n", l.indices[i], get, set);
		check(get == 1 && set == 1);
	}
}

static void cpuid_set_supported(int vcpu)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };

	check(call(sys, KVM_GET_SUPPORTED_CPUID, &c) == 0 && call(vcpu, KVM_SET_CPUID2, &c) == 0);
}

/* One ring for the VM, seen through every vCPU's mapping; pages 0 and 1 are each vCPU's own. */
static void test_vcpu_mapping(void)
{
	int a, b, copy;
	uint8_t *ma, *mb, *mc;

	vm_fresh();
	check(value(vm, KVM_CREATE_IRQCHIP, 0) == 0);
	a = value(vm, KVM_CREATE_VCPU, 0);
	b = value(vm, KVM_CREATE_VCPU, 1);
	check(a >= 0 && b >= 0 && value(vm, KVM_CREATE_VCPU, 1) == -EEXIST && fcntl(a, F_GETFD) & FD_CLOEXEC);
	check(value(vm, KVM_SET_BOOT_CPU_ID, 1) == -EBUSY && value(vm, KVM_CREATE_IRQCHIP, 0) == -EEXIST);
	check(value(a, KVM_CREATE_VCPU, 2) == -EINVAL && value(a, 0x5401, 0) == -EINVAL && value(a, KVM_CHECK_EXTENSION, 0) == -EINVAL);
	copy = dup(a);
	ma = anykvm_mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	mb = anykvm_mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, b, 0);
	mc = anykvm_mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
	check(ma != MAP_FAILED && mb != MAP_FAILED && mc != MAP_FAILED);
	ma[1] = 1;
	ma[8192] = 42;
	check(mb[8192] == 42 && mc[8192] == 42 && mc[1] == 1 && mb[1] == 0);
	ma[8192] = 0;
	cpuid_set_supported(a);
	msrs_round_trip(a);
	check(call(a, KVM_GET_REGS, (void *)8) == -EFAULT);
	close(a);
	anykvm_closing(vm);
	close(vm);
	vm = -1;
	check(value(copy, KVM_GET_TSC_KHZ, 0) > 0);              /* vCPUs keep their VM */
	anykvm_closing(copy);
	close(copy);
	anykvm_closing(b);
	close(b);
	munmap(ma, 12288);
	munmap(mb, 12288);
	munmap(mc, 12288);
}

static int child_errno(int fd)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		anykvm_forked();
		_exit(value(fd, KVM_CHECK_EXTENSION, 0) == -EIO);
	}
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

static void test_descriptors(void)
{
	int copy, plain = open("/dev/null", O_RDONLY);

	vm_fresh();
	check(anykvm_owns(vm) && anykvm_owns(sys) && !anykvm_owns(plain) && !anykvm_owns(-1) && !anykvm_owns(0));
	check(fcntl(vm, F_GETFD) & FD_CLOEXEC);
	copy = dup(vm);
	anykvm_closing(vm);
	close(vm);
	check(anykvm_owns(copy) && value(copy, KVM_CHECK_EXTENSION, 0) == 1);
	check(child_errno(copy) == 1);
	check(anykvm_mmap(NULL, 4096, PROT_READ, MAP_SHARED, copy, 0) == MAP_FAILED);
	anykvm_closing(copy);
	check(!anykvm_owns(copy) && value(copy, KVM_CHECK_EXTENSION, 0) == -EBADF);
	close(copy);
	close(plain);
	vm = -1;
}

static const struct test tests[] = {
	{ "system", test_system },
	{ "cpuid", test_cpuid },
	{ "vendor", test_vendor },
	{ "msr lists", test_msr_lists },
	{ "device attr", test_device_attr },
	{ "memory", test_memory },
	{ "memory, the wider form", test_memory2 },
	{ "bootstrap processor", test_boot_cpu },
	{ "enable cap", test_enable_cap },
	{ "msr filter", test_msr_filter },
	{ "ioeventfd", test_ioeventfd },
	{ "irqfd", test_irqfd },
	{ "irqchip", test_irqchip },
	{ "clock", test_clock },
	{ "settings", test_settings },
	{ "vcpu mapping", test_vcpu_mapping },
	{ "descriptors", test_descriptors },
};

int main(void)
{
	sys = anykvm_open(O_RDWR | O_CLOEXEC);
	vm_fresh();
	return run_tests(tests, ARRAY_SIZE(tests));
}
