/*
 * The steal-time page: what it says of a vCPU that runs. A guest that comes from another host may bring along that
 * it does not run, and that its TLB is to be flushed before it does.
 */
#include "guest.h"

enum { MSR_STEAL = 0x4b564d03, STEAL = 0x20000, BYTE = STEAL + 16, PREEMPTED = 1, FLUSH = 2, ENABLED = 1 };
enum { TABLE = 0x112000, FRAMES = 0x200000 };

/* Reads the page at 1 GiB into BL, the byte into CL. */
GUEST_ASM(looks, 64, "1: mov 0x40000000, %bl\n mov 0x20010, %cl\n out %al, $0x10\n jmp 1b\n");

static void msr_set(struct guest *g, uint64_t value)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = MSR_STEAL, .data = value } };

	check_equal(guest_ioctl(g->vcpu[0], KVM_SET_MSRS, &m), 1);
}

static uint64_t *page_entry(struct guest *g) { return (uint64_t *)(g->memory + TABLE); }

static void start(struct guest *g)
{
	guest_create(g, true);
	guest_load(g, looks);
	guest_mode(g, 0, GUEST_LONG);
	((uint64_t *)(g->memory + GUEST_PAGES))[512 + 1] = (TABLE - 0x1000) | 7;
	page_entry(g)[-512] = TABLE | 7;
	*page_entry(g) = FRAMES | 7;
	g->memory[FRAMES] = 1;
	g->memory[FRAMES + 0x1000] = 2;
}

static void looks_and_finds(struct guest *g, unsigned page, unsigned byte)
{
	struct kvm_regs r;

	check_equal(guest_run(g, 0), KVM_EXIT_IO);
	r = guest_regs(g, 0);
	check_equal(r.rbx & 0xff, page);
	check_equal(r.rcx & 0xff, byte);
	check_equal(g->memory[BYTE], byte);
}

static void test_runs(void)
{
	struct guest g;

	start(&g);
	msr_set(&g, STEAL | ENABLED);
	memset(g.memory + STEAL, 0x55, 64);
	g.memory[BYTE] = PREEMPTED;
	looks_and_finds(&g, 1, 0);
	for (unsigned i = 0; i < 64; i++)
		check_equal(g.memory[STEAL + i], STEAL + i == BYTE ? 0 : 0x55);
	g.memory[BYTE] = PREEMPTED;
	looks_and_finds(&g, 1, 0);
	guest_destroy(&g);
}

static void test_flush(void)
{
	struct guest g;

	start(&g);
	msr_set(&g, STEAL | ENABLED);
	looks_and_finds(&g, 1, 0);
	for (unsigned i = 1; i < 5; i++) {
		*page_entry(&g) = (FRAMES + (i & 1) * 0x1000) | 7;
		g.memory[BYTE] = PREEMPTED | FLUSH;
		looks_and_finds(&g, 1 + (i & 1), 0);
	}
	guest_destroy(&g);
}

/* The page is the guest's own as long as it is not the steal-time page. */
static void test_off(void)
{
	struct guest g;

	start(&g);
	g.memory[BYTE] = PREEMPTED;
	looks_and_finds(&g, 1, PREEMPTED);
	msr_set(&g, STEAL | ENABLED);
	looks_and_finds(&g, 1, 0);
	msr_set(&g, STEAL);
	g.memory[BYTE] = PREEMPTED | FLUSH;
	looks_and_finds(&g, 1, PREEMPTED | FLUSH);
	guest_destroy(&g);
}

static void slot_set(struct guest *g, unsigned slot, uint32_t flags, uint64_t gpa, uint64_t size, void *host)
{
	struct kvm_userspace_memory_region r = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
	                                         .userspace_addr = (uintptr_t)host };

	guest_ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

/* No memory, or none that can be written: the guest runs all the same. */
static void test_nowhere(void)
{
	static uint8_t rom[4096] __attribute__((aligned(4096)));
	struct guest g;

	start(&g);
	msr_set(&g, GUEST_MEMORY | ENABLED);
	looks_and_finds(&g, 1, 0);
	memset(rom, PREEMPTED, sizeof(rom));
	slot_set(&g, 1, KVM_MEM_READONLY, GUEST_MEMORY, sizeof(rom), rom);
	looks_and_finds(&g, 1, 0);
	check_equal(rom[16], PREEMPTED);
	guest_destroy(&g);
}

static void test_logged(void)
{
	static uint64_t bits[GUEST_MEMORY / 4096 / 64];
	struct kvm_dirty_log log = { .dirty_bitmap = bits };
	struct guest g;

	start(&g);
	msr_set(&g, STEAL | ENABLED);
	slot_set(&g, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, GUEST_MEMORY, g.memory);
	for (unsigned was = 0; was < 2; was++) {
		g.memory[BYTE] = was;
		looks_and_finds(&g, 1, 0);
		guest_ioctl(g.vm, KVM_GET_DIRTY_LOG, &log);
		check_equal(bits[0] >> (STEAL / 4096) & 1, was);
	}
	guest_destroy(&g);
}

/* The guest's own WRMSR makes the page; reserved bits fault, to the HLT at GUEST_CODE + 0x40. */
GUEST_ASM(asks, 64,
	"mov $0x4b564d03, %ecx\n xor %edx, %edx\n mov $0x20001, %eax\n wrmsr\n rdmsr\n mov %eax, %ebx\n out %al, $0x10\n"
	"mov $0x20003, %eax\n wrmsr\n out %al, $0x11\n .org asks_start + 0x40\n out %al, $0x12\n");

static void test_guest(void)
{
	static const uint8_t none[64] = { [8] = 2 };     /* an even version */
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };
	uint64_t gate[2] = { (GUEST_CODE + 0x40) | 24ull << 16 | 0x8e00ull << 32, 0 };
	struct guest g;

	start(&g);
	guest_ioctl(g.system, KVM_GET_SUPPORTED_CPUID, &c);
	for (unsigned i = 0; i < c.head.nent; i++)
		check(c.e[i].function != 0x40000001 || c.e[i].eax & 1 << 5);
	guest_load(&g, asks);
	memset(g.memory + STEAL, 0x55, 64);
	memcpy(g.memory + GUEST_IDT + 13 * 16, gate, sizeof(gate));
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbx, STEAL | ENABLED);
	check(!memcmp(g.memory + STEAL, none, sizeof(none)));
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0x12);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "who runs is not preempted", test_runs },
	{ "a flush that waits is made", test_flush },
	{ "another page is left alone", test_off },
	{ "no memory there, or ROM", test_nowhere },
	{ "what is taken back is in the dirty log", test_logged },
	{ "the guest's own MSR", test_guest },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
