/*
 * What a saved state consists of, so that it can move to and from KVM on VT-x: KVM_GET_NESTED_STATE's layout by numbers of
 * the kernel's ABI, KVM_SET_NESTED_STATE's errors in the kernel's order, and nothing of this host in any saved state.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../vmcs12_abi.h"
#include "hypervisor.h"
#include "kvm/api.h"
#include "machine.h"

enum { HEADER = 128, VMCS = 4096, SHADOW_AT = 0x50000, BITMAPS_AT = 0x51000, TIMER = 1000000000 };
#define NONE (~0ull)

/* The public header's layout, by numbers. */
#define AT(member, offset) _Static_assert(offsetof(struct kvm_nested_state, member) == (offset), "the kernel's ABI: " #member)
AT(flags, 0);
AT(format, 2);
AT(size, 4);
AT(hdr.vmx.vmxon_pa, 8);
AT(hdr.vmx.vmcs12_pa, 16);
AT(hdr.vmx.smm.flags, 24);
AT(hdr.vmx.pad, 26);
AT(hdr.vmx.flags, 28);
AT(hdr.vmx.preemption_timer_deadline, 32);
AT(data, HEADER);
AT(data.vmx[0].shadow_vmcs12, HEADER + VMCS);
_Static_assert(KVM_STATE_NESTED_GUEST_MODE == 1 && KVM_STATE_NESTED_RUN_PENDING == 2 && KVM_STATE_NESTED_EVMCS == 4 &&
	       KVM_STATE_NESTED_MTF_PENDING == 8 && KVM_STATE_NESTED_GIF_SET == 0x100, "flags");
_Static_assert(KVM_STATE_NESTED_SMM_GUEST_MODE == 1 && KVM_STATE_NESTED_SMM_VMXON == 2 && KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE == 1 &&
	       KVM_STATE_NESTED_FORMAT_VMX == 0 && KVM_STATE_NESTED_VMX_VMCS_SIZE == VMCS, "flags");

union image { struct kvm_nested_state s; uint8_t bytes[HEADER + 2 * VMCS]; };

/* Where a field lies in the image. */
static unsigned at(unsigned encoding)
{
	for (unsigned i = 0; i < sizeof(abi) / sizeof(*abi); i++)
		if (abi[i].encoding == encoding)
			return HEADER + abi[i].offset;
	check_that(false, "there is no field %#x", encoding);
	return HEADER;
}

static uint64_t word(const union image *n, unsigned offset, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, n->bytes + offset, size);
	return value;
}

static void get(struct hv *h, union image *n)
{
	memset(n, 0xee, sizeof(*n));
	n->s.size = sizeof(*n);
	guest_ioctl(h->g.vcpu[0], KVM_GET_NESTED_STATE, n);
	check(n->s.size <= sizeof(*n));
	for (unsigned i = n->s.size; i < sizeof(*n); i++)
		check_that(n->bytes[i] == 0xee, "byte %u is behind the end", i);
}

static int set(struct hv *h, const void *n)
{
	return anykvm_ioctl(h->g.vcpu[0], KVM_SET_NESTED_STATE, (void *)n) < 0 ? -errno : 0;
}

/* ---- layout ---- */

GUEST_ASM(l2, 64, "mov $0x1122334455667788, %rax\n 1: out %al, $0x10\n inc %rbx\n jmp 1b");

/* L2 runs and has just asked the client. */
static void create_in_l2(struct hv *h, bool shadow)
{
	hv_create_with(h, HV_WITH_EPT, l2, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER, .secondary = shadow ? SECONDARY_SHADOW_VMCS : 0 });
	hv_set(h, F_vmx_preemption_timer_value, TIMER);
	if (shadow) {
		*(uint32_t *)(h->g.memory + SHADOW_AT) = ABI_REVISION | 0x80000000u;
		*(uint64_t *)(h->g.memory + SHADOW_AT + at(0x6800) - HEADER) = 0x5151;
		hv_set(h, F_vmread_bitmap, BITMAPS_AT);
		hv_set(h, F_vmwrite_bitmap, BITMAPS_AT);
		hv_set(h, F_vmcs_link_pointer, SHADOW_AT);
	}
	check_equal(hv_run(h), HV_FAILED);
	check_equal(h->g.run[0]->io.port, 0x10);
}

static unsigned abi_size(unsigned encoding)
{
	static const unsigned size[] = { 2, 8, 4, 8 };

	return size[encoding >> 13 & 3];
}

/* What is no field of KVM's is 0: a reserved word, or one of ours that is not in use. */
static void check_gaps(const union image *n)
{
	bool known[VMCS] = { [0 ... 3] = true, [8 ... 11] = true };

	for (unsigned i = 0; i < sizeof(abi) / sizeof(*abi); i++)
		for (unsigned b = 0; b < abi_size(abi[i].encoding) && abi[i].offset < ABI_KVM_SIZE; b++)
			known[abi[i].offset + b] = true;
	for (unsigned i = 0; i < VMCS; i++)
		check_that(known[i] || !n->bytes[HEADER + i], "byte %u of vmcs12 is %#x", i, n->bytes[HEADER + i]);
}

static void check_header(const union image *n, unsigned size, unsigned flags)
{
	check_equal(word(n, 0, 2), flags);
	check_equal(word(n, 2, 2), 0);
	check_equal(word(n, 4, 4), size);
	check_equal(word(n, 24, 4), 0);                          /* SMM's flags, padding */
	for (unsigned i = 40; i < HEADER; i++)
		check_that(!n->bytes[i], "byte %u of the header is %#x", i, n->bytes[i]);
}

static void test_layout(void)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	union image n;
	struct hv h;

	create_in_l2(&h, false);
	get(&h, &n);
	regs = guest_regs(&h.g, 0);
	guest_ioctl(h.g.vcpu[0], KVM_GET_SREGS, &sregs);
	check_header(&n, HEADER + VMCS, KVM_STATE_NESTED_GUEST_MODE);
	check(word(&n, 8, 8) < GUEST_MEMORY && word(&n, 16, 8) < GUEST_MEMORY && word(&n, 8, 8) != word(&n, 16, 8));
	check_equal(*(uint32_t *)(h.g.memory + word(&n, 8, 8)), ABI_REVISION);
	check_equal(word(&n, HEADER, 4), ABI_REVISION);
	check_equal(word(&n, HEADER + 4, 4), 0);                 /* no abort */
	check_equal(word(&n, HEADER + 8, 4), 1);                 /* launched */
	check_equal(word(&n, at(0x2800), 8), NONE);              /* VMCS link pointer */
	check_equal(word(&n, at(0x201a), 8), HV_EPT | 0x1e);     /* EPT pointer */
	check_equal(word(&n, at(0x6800), 8), sregs.cr0);
	check_equal(word(&n, at(0x681e), 8), regs.rip);
	check_equal(word(&n, at(0x681c), 8), regs.rsp);
	check_equal(word(&n, at(0x0802), 2), sregs.cs.selector);
	check_equal(word(&n, at(0x482e), 4), TIMER);             /* as L1 wrote it */
	check_gaps(&n);
	hv_destroy(&h);
}

static void test_shadow_layout(void)
{
	union image n;
	struct hv h;

	create_in_l2(&h, true);
	get(&h, &n);
	check_header(&n, HEADER + 2 * VMCS, KVM_STATE_NESTED_GUEST_MODE);
	check_equal(word(&n, at(0x2800), 8), SHADOW_AT);
	check_equal(word(&n, HEADER + VMCS, 4), ABI_REVISION | 0x80000000u);
	check_equal(word(&n, VMCS + at(0x6800), 8), 0x5151);
	hv_destroy(&h);
}

static uint64_t tsc(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x10 };

	check_equal(guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m), 1);
	return m.e.data;
}

/* In the timer's units, of L1's TSC: not of this host's, and as VMX_MISC gives the rate. */
static void test_deadline(void)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } misc = { .head.nmsrs = 1, .e.index = 0x485 };
	uint64_t before, after;
	union image n;
	struct hv h;

	hv_create_with(&h, HV_WITH_EPT, l2, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER });
	hv_set(&h, F_vmx_preemption_timer_value, TIMER);
	before = tsc(&h);
	check_equal(hv_run(&h), HV_FAILED);
	after = tsc(&h);
	guest_ioctl(h.g.vcpu[0], KVM_GET_MSRS, &misc);
	check_equal(misc.e.data & 31, 5);
	get(&h, &n);
	check_equal(word(&n, 28, 4), KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE);
	check(word(&n, 32, 8) >= (before >> 5) + TIMER && word(&n, 32, 8) <= (after >> 5) + TIMER);
	hv_destroy(&h);
	hv_create_with(&h, HV_WITH_EPT, l2, (struct hv_controls){ 0 });
	check_equal(hv_run(&h), HV_FAILED);
	get(&h, &n);
	check_equal(word(&n, 28, 4), 0);                         /* without the control neither flag nor deadline */
	check_equal(word(&n, 32, 8), 0);
	hv_destroy(&h);
}

/* ---- errors ---- */

static union image good;

/* The image with a change: the result, and whether L2 is left as it was. */
#define SET(h, result, kept, change) \
	do { \
		union image n, now; \
		check_equal(set(h, &good), 0); \
		n = good; \
		change; \
		check_that(set(h, &n) == (result), "%s", #change); \
		get(h, &now); \
		check_that((memcmp(&now, &good, good.s.size) == 0) == (kept), "%s: L2 is %s", #change, (kept) ? "gone" : "there"); \
	} while (0)
#define REFUSED(h, change) SET(h, -EINVAL, true, change)        /* before the old state is given up */
#define LOST(h, change) SET(h, -EINVAL, false, change)          /* behind that */

static void test_header_errors(void)
{
	struct hv h;

	create_in_l2(&h, false);
	get(&h, &good);
	check_equal(set(&h, (void *)16), -EFAULT);
	check_equal(set(&h, NULL), -EFAULT);
	REFUSED(&h, n.s.size = 0);
	REFUSED(&h, n.s.size = HEADER - 1);
	for (unsigned bit = 4; bit < 16; bit++)
		if (bit != 8)
			REFUSED(&h, n.s.flags |= 1u << bit);
	REFUSED(&h, n.s.flags = KVM_STATE_NESTED_RUN_PENDING);
	REFUSED(&h, n.s.format = 1);
	REFUSED(&h, n.s.format = 0xffff);
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa = NONE);                                       /* with a VMCS, and guest mode */
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa = NONE; n.s.flags = 0);
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa = n.s.hdr.vmx.vmcs12_pa = NONE);
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa = n.s.hdr.vmx.vmcs12_pa = NONE; n.s.flags = KVM_STATE_NESTED_MTF_PENDING);
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa = n.s.hdr.vmx.vmcs12_pa = NONE; n.s.flags = 0; n.s.hdr.vmx.smm.flags = 2);
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa |= 8);
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa |= 1ull << 62);
	REFUSED(&h, n.s.hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM_VMXON);                 /* outside SMM */
	REFUSED(&h, n.s.hdr.vmx.smm.flags = 4);
	REFUSED(&h, n.s.hdr.vmx.flags |= 2);
	REFUSED(&h, n.s.flags |= KVM_STATE_NESTED_EVMCS);                                /* none enabled */
	REFUSED(&h, n.s.hdr.vmx.vmxon_pa = n.s.hdr.vmx.vmcs12_pa = NONE; n.s.flags = KVM_STATE_NESTED_EVMCS);
	SET(&h, 0, true, n.s.flags |= KVM_STATE_NESTED_GIF_SET);                         /* SVM's, without effect */
	SET(&h, 0, false, n.s.hdr.vmx.vmxon_pa = n.s.hdr.vmx.vmcs12_pa = NONE; n.s.flags = 0);
	hv_destroy(&h);
}

static void test_vmcs_errors(void)
{
	struct hv h;

	create_in_l2(&h, false);
	get(&h, &good);
	LOST(&h, n.s.size = HEADER);
	LOST(&h, n.s.size = HEADER + ABI_KVM_SIZE - 1);
	LOST(&h, n.s.hdr.vmx.vmcs12_pa = NONE);
	LOST(&h, n.s.hdr.vmx.vmcs12_pa = n.s.hdr.vmx.vmxon_pa);
	LOST(&h, n.s.hdr.vmx.vmcs12_pa |= 0x10);
	LOST(&h, n.bytes[HEADER]++);                                                     /* revision */
	LOST(&h, n.bytes[at(0x400c)] &= ~1);                                         /* exit controls that must be 1 */
	LOST(&h, n.bytes[at(0x6c00)] &= ~1);                                         /* host CR0.PE */
	LOST(&h, n.bytes[at(0x4826)] = 9);                                             /* guest activity state */
	hv_destroy(&h);
	/* As much as KVM reads is enough. */
	create_in_l2(&h, false);
	get(&h, &good);
	good.s.size = HEADER + ABI_KVM_SIZE;
	check_equal(set(&h, &good), 0);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0x10);
	hv_destroy(&h);
}

static void test_shadow_errors(void)
{
	struct hv h;

	create_in_l2(&h, true);
	get(&h, &good);
	LOST(&h, n.s.size = HEADER + VMCS);
	LOST(&h, n.s.size = HEADER + VMCS + ABI_KVM_SIZE - 1);
	LOST(&h, n.bytes[HEADER + VMCS]++);
	LOST(&h, n.bytes[HEADER + VMCS + 3] &= 0x7f);                                    /* no shadow VMCS */
	check_equal(set(&h, &good), 0);
	good.s.size = HEADER + VMCS + ABI_KVM_SIZE;
	check_equal(set(&h, &good), 0);
	hv_destroy(&h);
}

/* The image so that only its first bytes can be read. */
static void *cut(unsigned readable)
{
	static uint8_t *pages;

	if (!pages) {
		pages = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mprotect(pages + 4 * 4096, 4 * 4096, PROT_NONE);
	}
	return memcpy(pages + 4 * 4096 - readable, &good, readable);
}

/* EFAULT comes where the kernel reads, and EINVAL of what it has looked at before it does. */
static void test_faults(void)
{
	union image image;
	struct hv h;

	create_in_l2(&h, true);
	get(&h, &good);
	image = good;
	check_equal(set(&h, cut(HEADER - 1)), -EFAULT);
	check_equal(set(&h, cut(HEADER)), -EFAULT);
	check_equal(set(&h, cut(HEADER + ABI_KVM_SIZE - 1)), -EFAULT);
	check_equal(set(&h, cut(HEADER + VMCS)), -EFAULT);
	good.s.format = 1;
	check_equal(set(&h, cut(HEADER)), -EINVAL);
	good = image;
	good.s.hdr.vmx.vmcs12_pa |= 1;
	check_equal(set(&h, cut(HEADER)), -EINVAL);
	good = image;
	good.s.size = HEADER + VMCS;                             /* too short for the shadow VMCS, which is not read then */
	check_equal(set(&h, cut(HEADER + VMCS)), -EINVAL);
	good = image;
	good.s.flags = 0;
	check_equal(set(&h, cut(HEADER + VMCS)), 0);             /* nor outside guest mode */
	good.s.hdr.vmx.vmxon_pa = good.s.hdr.vmx.vmcs12_pa = NONE;
	check_equal(set(&h, cut(HEADER)), 0);                    /* nor any VMCS without VMX operation */
	hv_destroy(&h);
}

/* ---- nothing of this host ---- */

static struct machine machine;

/* The parts in which KVM's API gives this host's time are left out. */
static void without_host_time(struct machine *m)
{
	memset(&m->clock, 0, sizeof(m->clock));
	for (unsigned i = 0; i < 3; i++)
		m->pit.channels[i].count_load_time = 0;
	for (unsigned i = 0; i < m->vcpu[0].msrs.head.nmsrs; i++)
		if (m->vcpu[0].msrs.e[i].index == 0x10)          /* L1's TSC */
			m->vcpu[0].msrs.e[i].data = 0;
	m->vcpu[0].nested.s.hdr.vmx.preemption_timer_deadline = 0;
}

static void save(struct hv *h)
{
	memset(&machine, 0, sizeof(machine));
	create_in_l2(h, true);
	machine_save(&h->g, &machine);
	without_host_time(&machine);
}

/* In an own process: the state and the guest's memory to standard output. */
static int dump(bool used)
{
	static struct hv h, other;

	if (used) {                                              /* what another guest leaves behind */
		create_in_l2(&other, false);
		hv_destroy(&other);
		create_in_l2(&other, true);
	}
	save(&h);
	return failures || write(3, &machine, sizeof(machine)) != sizeof(machine) ||
	       write(3, h.g.memory, GUEST_MEMORY) != GUEST_MEMORY;
}

static uint8_t *dump_of(const char *how, unsigned long persona, int rlimit_pages)
{
	size_t size = sizeof(machine) + GUEST_MEMORY;
	uint8_t *map;
	int status, fd = memfd_create("dump", 0), pid = fork();

	if (!pid) {
		personality(persona);
		dup2(fd, 3);
		for (int i = 0; i < rlimit_pages; i++)
			open("/dev/null", O_RDONLY);             /* other descriptors, inherited */
		execl("/proc/self/exe", "image_test", how, NULL);
		_exit(9);
	}
	check_equal(waitpid(pid, &status, 0), pid);
	check_equal(status, 0);
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return map;
}

static void test_processes(void)
{
	uint8_t *a = dump_of("fresh", ADDR_NO_RANDOMIZE, 0), *b = dump_of("used", 0, 20);
	unsigned shown = 0;

	for (size_t i = 0; i < sizeof(machine) + GUEST_MEMORY && shown < 10; i++)
		if (a[i] != b[i]) {
			shown++;
			check_that(false, "byte %#zx of the %s differs", i < sizeof(machine) ? i : i - sizeof(machine),
				   i < sizeof(machine) ? "state" : "memory");
		}
}

/* Is it an address in this process? */
static bool is_mapped(uint64_t value)
{
	static struct { uint64_t first, end; } maps[1000];
	static unsigned n;

	if (!n) {
		FILE *f = fopen("/proc/self/maps", "r");
		char line[512];

		while (n < 1000 && fgets(line, sizeof(line), f))
			n += sscanf(line, "%lx-%lx", &maps[n].first, &maps[n].end) == 2;
		fclose(f);
	}
	for (unsigned i = 0; i < n; i++)
		if (value >= maps[i].first && value < maps[i].end)
			return true;
	return false;
}

static void test_addresses(void)
{
	const uint8_t *bytes = (const uint8_t *)&machine;
	struct hv h;

	save(&h);
	check(is_mapped((uintptr_t)&machine) && is_mapped((uintptr_t)h.g.memory));
	for (size_t i = 0; i + 8 <= sizeof(machine); i++) {
		uint64_t value;

		memcpy(&value, bytes + i, 8);
		check_that(!is_mapped(value), "%#zx bytes into the state is an address: %#llx", i, (unsigned long long)value);
	}
	hv_destroy(&h);
}

/* ---- the vector state ---- */

/* The standard form, components where CPUID says: FCW, MXCSR, x87, XMM, the header at 512, then YMM's upper halves at 576. */
static void test_xsave(void)
{
	static struct kvm_xsave x, y;
	uint8_t *bytes = (uint8_t *)&x;
	uint64_t bv, xcomp;
	struct hv h;

	create_in_l2(&h, false);
	memset(&x, 0xee, sizeof(x));
	guest_ioctl(h.g.vcpu[0], KVM_GET_XSAVE, &x);
	memcpy(&bv, bytes + 512, 8);
	memcpy(&xcomp, bytes + 520, 8);
	check_equal(bv & ~7ull, 0);                              /* what guests can have, whatever XCR0 is */
	check_equal(xcomp, 0);
	for (unsigned i = 528; i < 576; i++)
		check_that(!bytes[i], "byte %u of the header is %#x", i, bytes[i]);
	check_equal(x.region[6], 0x1f80);
	/* ST0 to 7, XMM0 to 15 */
	for (unsigned i = 0; i < 160 + 256; i++)
		bytes[i < 160 ? 32 + i / 16 * 16 + i % 16 % 10 : i] = (uint8_t)(i * 7);
	bv = 3;
	memcpy(bytes + 512, &bv, 8);
	guest_ioctl(h.g.vcpu[0], KVM_SET_XSAVE, &x);
	guest_ioctl(h.g.vcpu[0], KVM_GET_XSAVE, &y);
	check(!memcmp(bytes + 160, (uint8_t *)&y + 160, 256));
	check(!memcmp(bytes + 32, (uint8_t *)&y + 32, 10));
	hv_destroy(&h);
}

static const struct test tests[] = {
	{ "layout", test_layout },
	{ "layout with a shadow VMCS", test_shadow_layout },
	{ "the preemption timer's deadline", test_deadline },
	{ "errors of the header", test_header_errors },
	{ "errors of the VMCS", test_vmcs_errors },
	{ "errors of the shadow VMCS", test_shadow_errors },
	{ "images that cannot be read", test_faults },
	{ "the vector state's layout", test_xsave },
	{ "two processes have the same state", test_processes },
	{ "no addresses of this process", test_addresses },
};

int main(int argc, char **argv)
{
	if (argc > 1)
		return dump(!strcmp(argv[1], "used"));
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
