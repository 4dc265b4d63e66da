/*
 * L1's other processor writes what the VMCS refers to, all the while that this
 * one enters and leaves L2: bitmaps, MSR lists, paging structures, EPT, the
 * virtual-APIC page, the VMCS's own region. What is checked is what is used:
 * each entry comes to one of the outcomes that one or the other content gives,
 * and no value is loaded that a check has refused.
 */
#include <pthread.h>
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"

enum { WRITER = 0x50000, STACK = 0x51000, SCRIPT = 0x52000, STOP = 0x53000, VAPIC = 0x54000, APIC = 0x55000, LINKED = 0x56000, PAGE = 0x200000,
       OTHER = 0x300000, VMCS = 0x21000, KERNEL_GS_BASE = 0xc0000102, ROUNDS = 400, REVISION = 0x5a5a /* stands for a shadow VMCS's own */, WB = 6 << 3, RWX = 7, LARGE = 0x80 };

/* 64- and 32-bit code alike. */
GUEST_ASM(l2, 64, "out %al, $0x80\n rdmsr\n mov (%rdi), %eax\n hlt");
/* Pairs of address and value, over and over, until STOP is set. */
GUEST_ASM(writer, 64,
	"2: mov $0x52000, %esi\n 1: mov (%rsi), %rdi\n test %rdi, %rdi\n jz 3f\n mov 8(%rsi), %rax\n mov %rax, (%rdi)\n add $16, %rsi\n jmp 1b\n"
	"3: cmpb $0, 0x53000\n je 2b\n out %al, $0x99\n");

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

static void list(struct hv *h)
{
	quad(h, HV_MSR_LIST)[0] = KERNEL_GS_BASE;
	quad(h, HV_MSR_LIST)[1] = 0x1111;
	hv_set(h, F_vm_entry_msr_load_addr, HV_MSR_LIST);
	hv_set(h, F_vm_entry_msr_load_count, 1);
}

static void msr_bitmap(struct hv *h) { memset(quad(h, HV_MSR_BITMAP), 0, 4096); }
static void io_bitmaps(struct hv *h) { memset(quad(h, HV_IO_BITMAPS), 0, 8192); }

static void threshold(struct hv *h)
{
	hv_set(h, F_virtual_apic_page_addr, VAPIC);
	hv_set(h, F_apic_access_addr, APIC);
	hv_set(h, F_tpr_threshold, 4);
}

static void pae(struct hv *h)
{
	hv_pae(h);
	hv_set(h, F_vm_entry_controls, VMENTRY_DEFAULT1);
	hv_set(h, F_guest_cs_ar_bytes, 0xc09b);
	hv_set(h, F_guest_cr4, 0x2020);
}

static void shadow(struct hv *h)
{
	memset(quad(h, LINKED), 0, 4096);
	*quad(h, LINKED) = (uint32_t)*quad(h, VMCS) | 1u << 31;
	hv_set(h, F_vmcs_link_pointer, LINKED);
	hv_set(h, F_vmread_bitmap, LINKED + 0x1000);
	hv_set(h, F_vmwrite_bitmap, LINKED + 0x2000);
}

#define INVALID_STATE (EXIT_ENTRY_FAILURE | EXIT_INVALID_GUEST_STATE)
#define INVALID_MSR (EXIT_ENTRY_FAILURE | EXIT_MSR_LOADING)

/* outcomes: reasons besides HLT that an entry may end with, each with bit 30 (there is a reason 0). */
#define MAY(reason) ((reason) | 1u << 30)
static const struct race {
	const char *name;
	unsigned options;
	struct hv_controls c;
	void (*setup)(struct hv *h);
	uint64_t script[8];
	uint32_t outcomes[3];
} races[] = {
	{ "MSR list: a value", 0, { 0 }, list, { HV_MSR_LIST + 8, 0x1111, HV_MSR_LIST + 8, 1ull << 63 }, { MAY(INVALID_MSR) } },
	{ "MSR list: an index", 0, { 0 }, list, { HV_MSR_LIST, KERNEL_GS_BASE, HV_MSR_LIST, 0x480 }, { MAY(INVALID_MSR) } },
	{ "MSR list: an entry", 0, { 0 }, list, { HV_MSR_LIST, KERNEL_GS_BASE, HV_MSR_LIST + 8, 0x1111, HV_MSR_LIST, 0x10, HV_MSR_LIST + 8, 1ull << 63 },
	  { MAY(INVALID_MSR) } },
	{ "MSR bitmap", 0, { .primary = PRIMARY_MSR_BITMAPS }, msr_bitmap, { HV_MSR_BITMAP + 0x28, 0, HV_MSR_BITMAP + 0x28, ~0ull }, { MAY(EXIT_RDMSR) } },
	{ "I/O bitmap", 0, { .primary = PRIMARY_IO_BITMAPS }, io_bitmaps, { HV_IO_BITMAPS + 0x10, 0, HV_IO_BITMAPS + 0x10, ~0ull }, { MAY(EXIT_IO) } },
	{ "EPT: rights", HV_WITH_EPT, { 0 }, NULL, { HV_EPT_TABLE, PAGE | WB | RWX, HV_EPT_TABLE, 0, HV_EPT_TABLE, PAGE | WB | 2 },
	  { MAY(EXIT_EPT_VIOLATION), MAY(EXIT_EPT_MISCONFIG) } },
	{ "EPT: page sizes", HV_WITH_EPT, { 0 }, NULL, { HV_EPT + 0x2008, PAGE | WB | LARGE | RWX, HV_EPT + 0x2008, HV_EPT_TABLE | RWX,
	  HV_EPT_TABLE, OTHER | WB | RWX }, { 0 } },
	{ "page tables", 0, { 0 }, hv_own_pages, { HV_PAGE_TABLE, PAGE | 7, HV_PAGE_TABLE, 0, HV_PAGE_TABLE, OTHER | 7 }, { MAY(EXIT_EXCEPTION_NMI) } },
	{ "PDPTEs", 0, { 0 }, pae, { HV_PAE, (HV_PAE + 0x1000) | 1, HV_PAE, (HV_PAE + 0x1000) | 0x1e7 }, { MAY(INVALID_STATE) } },
	{ "virtual TPR", 0, { .primary = PRIMARY_TPR_SHADOW, .secondary = SECONDARY_APIC_ACCESSES }, threshold, { VAPIC + 0x80, 0x10, VAPIC + 0x80, 0x70 },
	  { MAY(EXIT_TPR_BELOW_THRESHOLD) } },
	{ "the current VMCS", 0, { 0 }, NULL, { VMCS, ~0ull, VMCS + 8, ~0ull, VMCS + 0x100, ~0ull, VMCS + 0x200, ~0ull }, { 0 } },
	{ "the shadow VMCS", 0, { .secondary = SECONDARY_SHADOW_VMCS }, shadow, { LINKED, 0, LINKED, REVISION }, { MAY(INVALID_STATE) } },
};

static void *write_on(void *arg)
{
	struct hv *h = arg;

	check_equal(guest_run(&h->g, 1), KVM_EXIT_IO);
	check_equal(h->g.run[1]->io.port, 0x99);
	return NULL;
}

static void writer_create(struct hv *h, const struct race *r)
{
	guest_add_vcpu(&h->g);
	guest_load_bytes(&h->g, WRITER, writer_start, writer_end - writer_start);
	guest_mode(&h->g, 1, GUEST_LONG);
	guest_ioctl(h->g.vcpu[1], KVM_SET_MP_STATE, &(struct kvm_mp_state){ .mp_state = KVM_MP_STATE_RUNNABLE });
	guest_set_regs(&h->g, 1, &(struct kvm_regs){ .rip = WRITER, .rsp = STACK + 0x1000, .rflags = 2 });
	memset(quad(h, SCRIPT), 0, 4096);
	memcpy(quad(h, SCRIPT), r->script, sizeof(r->script));
	for (unsigned i = 0; i < ARRAY_SIZE(r->script); i++)
		if (r->script[i] == REVISION)
			quad(h, SCRIPT)[i] = *quad(h, LINKED);
	*quad(h, STOP) = 0;
}

static bool expected(const struct race *r, uint32_t reason)
{
	for (unsigned i = 0; i < ARRAY_SIZE(r->outcomes); i++)
		if (r->outcomes[i] == MAY(reason))
			return true;
	return reason == EXIT_HLT;
}

static uint64_t kernel_gs_base(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = KERNEL_GS_BASE };

	guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m);
	return m.e.data;
}

/* One entry and what follows, to HLT or an exit that no instruction makes. A port that does not exit is the client's. */
static uint32_t round_trip(struct hv *h)
{
	uint32_t reason = hv_run(h);

	for (;;) {
		if (reason == HV_FAILED && h->g.run[0]->io.port == 0x80) {
			check_equal(guest_run(&h->g, 0), KVM_EXIT_IO);
			reason = hv_end(h);
		} else if (reason == EXIT_IO || reason == EXIT_RDMSR) {
			reason = hv_skip(h);
		} else {
			return reason;
		}
	}
}

static void run_race(const struct race *r)
{
	unsigned before = failures;
	struct hv_controls c = r->c;
	pthread_t thread;
	struct hv h;

	c.primary |= PRIMARY_MSR_BITMAPS | (c.secondary ? PRIMARY_SECONDARY : 0);
	hv_create_with(&h, r->options, l2, c);
	guest_no_moves();                /* two processors */
	msr_bitmap(&h);
	if (r->setup)
		r->setup(&h);
	writer_create(&h, r);
	*quad(&h, PAGE) = 1;
	*quad(&h, OTHER) = 2;
	pthread_create(&thread, NULL, write_on, &h);
	for (unsigned i = 0; i < ROUNDS && failures == before; i++) {
		h.gpr[1] = 0x174;
		h.gpr[7] = PAGE;
		hv_set(&h, F_guest_rip, HV_L2);
		uint32_t reason = round_trip(&h);
		check_that(expected(r, reason), "exit reason %#x", reason);
		if (reason == EXIT_HLT)
			check(h.gpr[0] == 1 || h.gpr[0] == 2);
		check_equal(kernel_gs_base(&h) >> 47, 0);
	}
	*quad(&h, STOP) = 1;
	pthread_join(thread, NULL);
	if (failures != before)
		printf("# %s\n", r->name);
	hv_destroy(&h);
}

static void test_races(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(races); i++)
		run_race(&races[i]);
}

static const struct test tests[] = {
	{ "what the VMCS refers to is written by another processor", test_races },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
