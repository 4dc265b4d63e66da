/*
 * The guest's TSC at other rates than the host's, and L2's behind it. A reading
 * lies between what two readings of the host's TSC around it come to, so
 * nothing here goes by how long something takes.
 */
#include <time.h>
#include "base/base.h"
#include "hypervisor.h"
#include "kvm/api.h"

typedef unsigned __int128 wide;
enum { MSR_TSC = 0x10, MSR_DEADLINE = 0x6e0, RATE = 5 };
#define ONE (1ull << 48)

static uint64_t host_tsc(void) { return __builtin_ia32_rdtsc(); }
static uint64_t host_khz(struct guest *g) { return anykvm_ioctl(g->vcpu[0], KVM_GET_TSC_KHZ, NULL); }

static long set_khz(int fd, unsigned long khz) { return anykvm_ioctl(fd, KVM_SET_TSC_KHZ, (void *)khz); }
static long capability(int fd, unsigned long cap) { return anykvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)cap); }

static uint64_t offset_of(struct guest *g)
{
	uint64_t offset = 0;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

	guest_ioctl(g->vcpu[0], KVM_GET_DEVICE_ATTR, &a);
	return offset;
}

static uint64_t msr(struct guest *g, uint32_t index)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = index };

	check_equal(guest_ioctl(g->vcpu[0], KVM_GET_MSRS, &m), 1);
	return m.e.data;
}

static uint64_t scaled(uint64_t tsc, uint64_t multiplier) { return (wide)tsc * multiplier >> 48; }

/* The rates of the tests, in parts of the host's. */
static const struct { unsigned times, by; } rates[] = { { 1, 1 }, { 1, 2 }, { 2, 1 }, { 1, 1000 }, { 3, 7 }, { 10, 1 } };
enum { RATES = sizeof(rates) / sizeof(*rates) };

static uint64_t set_rate(struct guest *g, unsigned i)
{
	uint64_t host = host_khz(g), khz = host * rates[i].times / rates[i].by;

	check_equal(set_khz(g->vcpu[0], khz), 0);
	check_equal(anykvm_ioctl(g->vcpu[0], KVM_GET_TSC_KHZ, NULL), khz);
	return khz == host ? ONE : ((wide)khz << 48) / host;
}

static void check_between(uint64_t value, uint64_t low, uint64_t high)
{
	check((int64_t)(value - low) >= 0);
	check((int64_t)(high - value) >= 0);
}

GUEST_ASM(readings, 64,
	"rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rbx\n rdtscp\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rsi\n"
	"mov $0x10, %ecx\n rdmsr\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rdi\n out %al, $0x10\n");

static void test_rates(void)
{
	for (unsigned i = 0; i < RATES; i++) {
		struct guest g;

		guest_create(&g, true);
		guest_load(&g, readings);
		guest_mode(&g, 0, GUEST_LONG);
		uint64_t multiplier = set_rate(&g, i), offset = offset_of(&g), low = host_tsc();
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		struct kvm_regs r = guest_regs(&g, 0);
		uint64_t read = msr(&g, MSR_TSC), high = host_tsc();

		check_between(r.rbx, scaled(low, multiplier) + offset, r.rsi);
		check_between(r.rsi, r.rbx, r.rdi);
		check_between(r.rdi, r.rsi, read);
		check_between(read, r.rdi, scaled(high, multiplier) + offset);
		guest_destroy(&g);
	}
}

/* What the client writes is what the guest reads from then on, whatever the rate. */
static void test_written(void)
{
	for (unsigned i = 0; i < RATES; i++) {
		struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = MSR_TSC, .data = 1ull << 50 } };
		struct guest g;

		guest_create(&g, true);
		uint64_t multiplier = set_rate(&g, i), low = host_tsc();
		check_equal(guest_ioctl(g.vcpu[0], KVM_SET_MSRS, &m), 1);
		uint64_t middle = host_tsc(), read = msr(&g, MSR_TSC), high = host_tsc();

		check_between(read, 1ull << 50, (1ull << 50) + scaled(high - low, multiplier) + 2);
		check(middle <= high);
		guest_destroy(&g);
	}
}

static void test_limits(void)
{
	struct guest g;

	guest_create(&g, true);
	uint64_t host = host_khz(&g);
	check_equal(capability(g.system, KVM_CAP_TSC_CONTROL), 1);
	check_equal(capability(g.vm, KVM_CAP_VM_TSC_CONTROL), 1);
	check(set_khz(g.vcpu[0], 0x7fffffff) < 0);
	check(set_khz(g.vcpu[0], ~0u) < 0);
	check(set_khz(g.vm, 0x7fffffff) < 0);
	check_equal(set_khz(g.vcpu[0], 1), 0);
	check_equal(set_khz(g.vcpu[0], 0), 0);                   /* the host's */
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_GET_TSC_KHZ, NULL), host);
	/* A VM's rate is that of vCPUs to be created. */
	check_equal(set_khz(g.vm, host / 3), 0);
	check_equal(anykvm_ioctl(g.vm, KVM_GET_TSC_KHZ, NULL), host / 3);
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_GET_TSC_KHZ, NULL), host);
	guest_add_vcpu(&g);
	check_equal(anykvm_ioctl(g.vcpu[1], KVM_GET_TSC_KHZ, NULL), host / 3);
	guest_destroy(&g);
}

/* The host's rate is CLOCK_MONOTONIC_RAW's, whatever passed between opening /dev/kvm and making the VM. */
struct reading { uint64_t before, ns, after; };
static struct reading reading(void)
{
	struct reading r;
	struct timespec t;

	r.before = host_tsc();
	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	r.after = host_tsc();
	r.ns = t.tv_sec * 1000000000ull + t.tv_nsec;
	return r;
}

static void test_host_rate(void)
{
	struct guest g;
	struct reading a = reading(), b;
	uint64_t least, most, khz;

	guest_create(&g, true);
	khz = host_khz(&g);
	do {
		b = reading();
		least = (wide)(b.before - a.after) * 1000000 / (b.ns - a.ns);
		most = (wide)(b.after - a.before) * 1000000 / (b.ns - a.ns);
	} while (most - least > least / 20000);
	check_between(khz, least - least / 10000, most + most / 10000);
	guest_destroy(&g);
}

/* ---- TSC deadline ---- */

/* 10h: interrupt handler's RDTSC. The timer is armed for r8 ticks from now, the deadline in r9. */
GUEST_ASM(deadline, 64,
	"mov $0x6e0, %ecx\n rdtsc\n shl $32, %rdx\n or %rdx, %rax\n add %r8, %rax\n mov %rax, %r9\n mov %rax, %rdx\n shr $32, %rdx\n"
	"wrmsr\n sti\n 1: hlt\n jmp 1b\n .org deadline_start + 0x100\n rdtsc\n shl $32, %rdx\n or %rdx, %rax\n out %al, $0x10\n");

/* The local APIC's timer in TSC-deadline mode with vector 41h, whose handler is at 100h. */
static void deadline_vector(struct guest *g)
{
	uint64_t gate[2] = { (GUEST_CODE + 0x100) | 24ull << 16 | 0x8e00ull << 32, 0 };
	struct kvm_lapic_state lapic;

	memcpy(g->memory + GUEST_IDT + 16 * 0x41, gate, sizeof(gate));
	guest_ioctl(g->vcpu[0], KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	*(uint32_t *)(lapic.regs + 0x320) = 0x40041;
	guest_ioctl(g->vcpu[0], KVM_SET_LAPIC, &lapic);
}

static void test_deadline(void)
{
	for (unsigned i = 0; i < RATES; i++) {
		struct kvm_regs r;
		struct guest g;

		guest_create(&g, true);
		guest_load(&g, deadline);
		guest_mode(&g, 0, GUEST_LONG);
		uint64_t multiplier = set_rate(&g, i);
		deadline_vector(&g);
		r = guest_regs(&g, 0);
		r.r8 = scaled(20000000, multiplier);
		guest_set_regs(&g, 0, &r);
		uint64_t low = host_tsc();
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		r = guest_regs(&g, 0);
		check((int64_t)(r.rax - r.r9) >= 0);             /* the deadline has passed */
		check(host_tsc() - low >= 20000000 - 1000);      /* and not in a tenth or a thousandth of the time */
		guest_destroy(&g);
	}
}

/* ---- the guest moves its TSC ---- */

enum { CLOCK_PAGE = 0x300000 };

/* Tells its TSC at port 10h before and after it moves it: adds r8 to the MSR in rsi. */
GUEST_ASM(moves, 64,
	"mov $0x4b564d01, %ecx\n mov $0x300001, %eax\n xor %edx, %edx\n wrmsr\n rdtsc\n out %al, $0x10\n"
	"mov %esi, %ecx\n rdmsr\n shl $32, %rdx\n or %rdx, %rax\n add %r8, %rax\n mov %rax, %rdx\n shr $32, %rdx\n wrmsr\n"
	"rdtsc\n out %al, $0x10\n hlt");

struct clock_page { uint32_t version, pad; uint64_t tsc, ns; uint32_t mul; int8_t shift; uint8_t flags, pad2[2]; };

static uint64_t clock_of_vm(struct guest *g)
{
	struct kvm_clock_data d = { 0 };

	guest_ioctl(g->vm, KVM_GET_CLOCK, &d);
	return d.clock;
}

/* The time that the guest computes from a TSC that it has read, between what the VM's clock was before and after. */
static void check_clock(struct guest *g)
{
	const struct clock_page *p = (const void *)(g->memory + CLOCK_PAGE);
	uint64_t low = clock_of_vm(g), ns, ticks;
	struct kvm_regs r;

	check_equal(guest_run(g, 0), KVM_EXIT_IO);
	r = guest_regs(g, 0);
	ticks = (r.rdx << 32 | (uint32_t)r.rax) - p->tsc;
	ticks = p->shift < 0 ? ticks >> -p->shift : ticks << p->shift;
	ns = p->ns + (uint64_t)((wide)ticks * p->mul >> 32);
	check_between(ns, low - 1, clock_of_vm(g) + 1);
	check_equal(p->version & 1, 0);
}

static void test_clock_follows(void)
{
	static const uint64_t by[] = { 1ull << 45, -(1ull << 30), 1ull << 62 };

	for (unsigned i = 0; i < 2 * sizeof(by) / sizeof(*by); i++) {
		bool adjust = i & 1;
		struct kvm_regs r;
		struct guest g;

		guest_create(&g, true);
		guest_load(&g, moves);
		guest_mode(&g, 0, GUEST_LONG);
		r = guest_regs(&g, 0);
		r.rsi = adjust ? 0x3b : MSR_TSC;
		r.r8 = by[i / 2];
		guest_set_regs(&g, 0, &r);
		check_clock(&g);
		check_clock(&g);
		check_between(msr(&g, 0x3b), adjust ? r.r8 : r.r8 - (1ull << 40), r.r8);     /* the guest's own write shows there */
		guest_destroy(&g);
	}
}

/* Armed for a TSC far away, at which the guest then sets itself. */
GUEST_ASM(jumps_to_deadline, 64,
	"mov $0x6e0, %ecx\n xor %eax, %eax\n mov $0x1000000, %edx\n wrmsr\n mov $0x10, %ecx\n inc %edx\n wrmsr\n"
	"sti\n 1: hlt\n jmp 1b\n .org jumps_to_deadline_start + 0x100\n mov $0x6e0, %ecx\n rdmsr\n out %al, $0x10\n");

static void test_deadline_follows(void)
{
	struct guest g;

	guest_create(&g, true);
	guest_load(&g, jumps_to_deadline);
	guest_mode(&g, 0, GUEST_LONG);
	deadline_vector(&g);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal((uint32_t)guest_regs(&g, 0).rax, 0);         /* disarmed */
	guest_destroy(&g);
}

GUEST_ASM(l2_moves, 64, "mov $0x10, %ecx\n rdmsr\n add $0x10000, %edx\n wrmsr\n hlt");

/* The preemption timer counts ticks, whatever L2 makes of the TSC. */
static void test_timer_does_not_follow(void)
{
	enum { TICKS = 0x7fffffff };
	struct hv h;

	hv_create_with(&h, 0, l2_moves, (struct hv_controls){ .primary = PRIMARY_MSR_BITMAPS, .pin = PIN_PREEMPTION_TIMER,
	                                                      .exit = VMEXIT_SAVE_PREEMPTION_TIMER });
	memset(h.g.memory + HV_MSR_BITMAP, 0, 4096);
	hv_set(&h, F_vmx_preemption_timer_value, TICKS);
	check_equal(hv_run(&h), EXIT_HLT);
	check_between(hv_get(&h, F_vmx_preemption_timer_value), TICKS / 2, TICKS);
	hv_destroy(&h);
}

/* ---- L2 ---- */

static const struct { uint64_t multiplier, offset; bool offsetting, scaling; } l2[] = {
	{ ONE, 0, false, false }, { ONE, 1ull << 60, true, false }, { ONE / 2, 1ull << 60, true, true }, { ONE * 3, 5, true, true },
	{ ONE * 3, 5, false, true }, { 1, 0, true, true }, { ~0ull >> 2, 77, true, true },
};

/* Both scalings and both offsets, one after the other; without offsetting neither the offset nor the multiplier counts. */
static void test_l2(void)
{
	for (unsigned i = 0; i < RATES * sizeof(l2) / sizeof(*l2); i++) {
		unsigned n = i / RATES;
		struct hv_controls c = { .primary = PRIMARY_SECONDARY | PRIMARY_MSR_BITMAPS | (l2[n].offsetting ? PRIMARY_TSC_OFFSETTING : 0),
		                         .secondary = SECONDARY_RDTSCP | (l2[n].scaling ? SECONDARY_TSC_SCALING : 0) };
		uint64_t factor = l2[n].offsetting && l2[n].scaling ? l2[n].multiplier : ONE, plus = l2[n].offsetting ? l2[n].offset : 0;
		struct hv h;

		hv_create_with(&h, 0, readings, c);
		memset(h.g.memory + HV_MSR_BITMAP, 0, 4096);
		uint64_t multiplier = set_rate(&h.g, i % RATES), offset = offset_of(&h.g), low = host_tsc();
		hv_set(&h, F_tsc_multiplier, l2[n].multiplier);
		hv_set(&h, F_tsc_offset, l2[n].offset);
		check_equal(hv_run(&h), HV_FAILED);              /* its port is the client's */
		struct kvm_regs r = guest_regs(&h.g, 0);
		uint64_t read = msr(&h.g, MSR_TSC), high = host_tsc();

		check_between(r.rbx, scaled(scaled(low, multiplier) + offset, factor) + plus, r.rsi);
		check_between(r.rsi, r.rbx, r.rdi);
		check_between(r.rdi, r.rsi, scaled(scaled(high, multiplier) + offset, factor) + plus);
		check_between(read, scaled(low, multiplier) + offset, scaled(high, multiplier) + offset);   /* L1's, for the client */
		hv_destroy(&h);
	}
}

GUEST_ASM(spin, 64, "1: pause\n jmp 1b");

/* The preemption timer counts L1's ticks, at whatever rate; what is left is saved. */
static void test_preemption_timer(void)
{
	for (unsigned i = 0; i < RATES; i++) {
		struct hv h;

		hv_create_with(&h, 0, spin, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER, .exit = VMEXIT_SAVE_PREEMPTION_TIMER });
		uint64_t multiplier = set_rate(&h.g, i), ticks = (scaled(20000000, multiplier) >> RATE) + 1, low = msr(&h.g, MSR_TSC);

		hv_set(&h, F_vmx_preemption_timer_value, ticks);
		check_equal(hv_run(&h), EXIT_PREEMPTION_TIMER);
		check(msr(&h.g, MSR_TSC) - low >= (ticks - 1) << RATE);
		check_equal(hv_get(&h, F_vmx_preemption_timer_value), 0);
		hv_destroy(&h);
	}
}

static void test_checks(void)
{
	static const struct { uint64_t multiplier; uint32_t secondary, error; } cases[] = {
		{ 0, SECONDARY_TSC_SCALING, 7 }, { 1, SECONDARY_TSC_SCALING, 0 }, { 0, 0, 0 } };

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_create_with(&h, 0, spin, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER, .primary = PRIMARY_SECONDARY });
		hv_set(&h, F_vmx_preemption_timer_value, 0);
		hv_set(&h, F_secondary_vm_exec_control, cases[i].secondary);
		hv_set(&h, F_tsc_multiplier, cases[i].multiplier);
		check_equal(hv_error(&h), cases[i].error);
		hv_destroy(&h);
	}
}

static const struct test tests[] = {
	{ "RDTSC, RDTSCP, RDMSR at other rates", test_rates },
	{ "written by the client", test_written },
	{ "limits of the rate; a VM's default", test_limits },
	{ "the host's rate", test_host_rate },
	{ "TSC deadline", test_deadline },
	{ "WRMSR of TSC and TSC_ADJUST: kvmclock", test_clock_follows },
	{ "WRMSR of TSC: TSC deadline", test_deadline_follows },
	{ "WRMSR of TSC in L2: preemption timer", test_timer_does_not_follow },
	{ "scaling and offsets of L1 and L2", test_l2 },
	{ "preemption timer", test_preemption_timer },
	{ "entry checks", test_checks },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
