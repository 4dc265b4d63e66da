/*
 * Two events that are due at one instruction boundary outside VMX: in what
 * order they are taken, and that neither is lost. The instruction is an OUT,
 * while which the client has let them arrive; the next one is at a page's start
 * and may have a breakpoint or no page.
 */
#include "base/base.h"
#include "cpu/flags.h"
#include "smram.h"

enum { NEXT = 0x200000, OUT = NEXT - 2, HANDLERS = 0xa000, STACK = 0x7000, PDE = GUEST_PAGES + 0x2000 + 8, FAULT = 14, STEP = 0x100, BREAKPOINT,
       SMI, RESET, VECTOR = 0x44 };

GUEST_ASM(handler, 16, "out %al, $0xb0\n rsm");
GUEST_ASM(main_code, 64, "out %al, $0x10\n nop\n out %al, $0x11\n");

struct taken { unsigned what; uint64_t rip; };

struct order { struct guest g; uint8_t *smram; struct taken taken[2]; unsigned n; };

static int vcpu(struct order *t) { return t->g.vcpu[0]; }

/* ---- how each event is made due ---- */

static void machine_check(struct order *t)
{
	uint64_t cap = 1 << 24 | 1;
	struct kvm_x86_mce mce = { .status = 5ull << 61, .mcg_status = 4 };

	guest_ioctl(vcpu(t), KVM_X86_SETUP_MCE, &cap);
	guest_ioctl(vcpu(t), KVM_X86_SET_MCE, &mce);
}

static void msi(struct order *t, uint32_t data)
{
	struct kvm_lapic_state lapic;

	guest_ioctl(vcpu(t), KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(vcpu(t), KVM_SET_LAPIC, &lapic);
	check_equal(guest_ioctl(t->g.vm, KVM_SIGNAL_MSI, &(struct kvm_msi){ .address_lo = 0xfee00000, .data = data }), 1);
}

static void smi(struct order *t) { guest_ioctl(vcpu(t), KVM_SMI, NULL); }
static void init(struct order *t) { msi(t, 5 << 8); }
static void nmi(struct order *t) { guest_ioctl(vcpu(t), KVM_NMI, NULL); }
static void interrupt(struct order *t) { msi(t, VECTOR); }

static void set_flag(struct order *t, uint64_t flag)
{
	struct kvm_regs r = guest_regs(&t->g, 0);

	r.rflags |= flag;
	guest_set_regs(&t->g, 0, &r);
}

static void step(struct order *t) { set_flag(t, RFLAGS_TF); }

static void breakpoint(struct order *t)
{
	struct kvm_debugregs d = { .db = { NEXT }, .dr6 = 0xffff0ff0, .dr7 = 0x401 };

	guest_ioctl(vcpu(t), KVM_SET_DEBUGREGS, &d);
}

static void no_page(struct order *t) { *(uint64_t *)(t->g.memory + PDE) = 0; }

/* In the order of their priority; early: before the OUT. */
static const struct event_kind {
	const char *name;
	unsigned what;
	void (*due)(struct order *t);
	bool early;
} kinds[] = {
	{ "machine check", 18, machine_check, false },
	{ "SMI", SMI, smi, false },
	{ "INIT", RESET, init, false },
	{ "single step", STEP, step, true },
	{ "NMI", 2, nmi, false },
	{ "interrupt", VECTOR, interrupt, false },
	{ "breakpoint", BREAKPOINT, breakpoint, true },
	{ "page fault of the fetch", FAULT, no_page, true },
};

/* ---- what is taken ---- */

/* Each vector's handler says at port 12h which it is; its frame lies above RAX, and above the error code of a page fault. */
static void handlers_write(struct guest *g)
{
	for (unsigned v = 0; v < 256; v++) {
		uint8_t code[] = { 0x50, 0xb0, v, 0xe6, 0x12, 0x58, 0x48, 0xcf };
		uint64_t gate[2] = { (HANDLERS + 16 * v) | 24ull << 16 | 0x8e00ull << 32, 0 };

		memcpy(g->memory + HANDLERS + 16 * v, code, sizeof(code));
		memcpy(g->memory + GUEST_IDT + 16 * v, gate, sizeof(gate));
	}
}

/* A step's and a breakpoint's vector is the same: DR6 tells them apart. */
static unsigned which_debug(struct order *t)
{
	struct kvm_debugregs d;
	bool stepped;

	guest_ioctl(vcpu(t), KVM_GET_DEBUGREGS, &d);
	stepped = d.dr6 & DR6_BS;
	d.dr6 = 0xffff0ff0;
	guest_ioctl(vcpu(t), KVM_SET_DEBUGREGS, &d);
	return stepped ? STEP : BREAKPOINT;
}

static void take(struct order *t)
{
	struct guest *g = &t->g;
	struct taken *to = &t->taken[t->n++];
	struct kvm_regs r = guest_regs(g, 0);
	uint8_t vector = r.rax;

	*to = (struct taken){ vector, *(uint64_t *)(g->memory + r.rsp + (vector == FAULT ? 16 : 8)) };
	if (vector == 1)
		to->what = which_debug(t);
	if (to->what == BREAKPOINT)              /* as a debugger does */
		*(uint64_t *)(g->memory + r.rsp + 24) |= RFLAGS_RF;
}

static void run(struct order *t)
{
	struct guest *g = &t->g;

	while (t->n < 2) {
		if (guest_run(g, 0) != KVM_EXIT_IO) {
			t->taken[t->n++] = (struct taken){ guest_sregs(g).cs.selector == 0xf000 ? RESET : 0, NEXT };
			return;
		}
		if (g->run[0]->io.port == 0x11)
			return;
		if (g->run[0]->io.port == 0xb0)
			t->taken[t->n++] = (struct taken){ SMI, smram_get(t->smram, 0xff78, 8) };
		else
			take(t);
	}
}

/* The handler that speaks first may be the later one, above the other's frame. */
static void put_in_order(struct order *t)
{
	unsigned vector = t->taken[1].what == STEP || t->taken[1].what == BREAKPOINT ? 1 : t->taken[1].what;
	struct taken swap = t->taken[0];

	if (t->n < 2 || swap.rip != HANDLERS + 16 * vector)
		return;
	t->taken[0] = t->taken[1];
	t->taken[1] = swap;
}

/* ---- one pair ---- */

static void start(struct order *t)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	*t = (struct order){ .n = 0 };
	guest_create(&t->g, true);
	t->smram = smram_create_with(&t->g, handler);
	handlers_write(&t->g);
	guest_load_bytes(&t->g, OUT, main_code_start, main_code_end - main_code_start);
	guest_mode(&t->g, 0, GUEST_LONG);
	s = guest_sregs(&t->g);
	s.cr4 |= CR4_MCE;
	s.idt.limit = 0xfff;
	guest_ioctl(vcpu(t), KVM_SET_SREGS, &s);
	r = guest_regs(&t->g, 0);
	r.rip = OUT;
	r.rsp = STACK;
	r.rflags = RFLAGS_IF | RFLAGS_FIXED;
	guest_set_regs(&t->g, 0, &r);
}

static void try(const struct event_kind *a, const struct event_kind *b)
{
	unsigned before = failures;
	struct order t;

	start(&t);
	for (unsigned i = 0; i < 2; i++)
		if ((i ? a : b)->early)
			(i ? a : b)->due(&t);
	run_to_port(&t.g, 0x10);
	for (unsigned i = 0; i < 2; i++)
		if (!(i ? a : b)->early)
			(i ? a : b)->due(&t);
	run(&t);
	put_in_order(&t);
	check_equal(t.taken[0].what, a->what);
	check_equal(t.taken[0].rip, NEXT);
	if (a->what != RESET)
		check_equal(t.taken[1].what, b->what);
	if (failures != before)
		printf("# %s, %s: %#x at %#llx, %#x at %#llx\n", a->name, b->name, t.taken[0].what, (unsigned long long)t.taken[0].rip,
		       t.taken[1].what, (unsigned long long)t.taken[1].rip);
	guest_destroy(&t.g);
	smram_destroy(t.smram);
}

static void test_pairs(void)
{
	for (unsigned a = 0; a < ARRAY_SIZE(kinds); a++)
		for (unsigned b = a + 1; b < ARRAY_SIZE(kinds); b++)
			if (kinds[a].what != 18 || kinds[b].what != RESET)       /* the reset leaves nothing to see of the other */
				try(&kinds[a], &kinds[b]);
}

/* A client that moves the vCPU finds a trap that waits as a pending exception. */
static void test_trap_is_saved(void)
{
	struct kvm_enable_cap payloads = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args[0] = 1 };
	struct kvm_vcpu_events e;
	struct order t;

	start(&t);
	guest_ioctl(t.g.vm, KVM_ENABLE_CAP, &payloads);
	step(&t);
	run_to_port(&t.g, 0x10);
	settle(&t.g);
	e = guest_events(&t.g);
	check_equal(e.exception.pending, 1);
	check_equal(e.exception.nr, 1);
	check_equal(e.exception_payload, DR6_BS);
	check_equal(guest_regs(&t.g, 0).rip, NEXT);
	run(&t);
	check_equal(t.taken[0].what, STEP);
	guest_destroy(&t.g);
	smram_destroy(t.smram);
}

/* A machine check does not take the place of an interrupt that has been acknowledged and not delivered. */
static void test_machine_check_waits(void)
{
	struct kvm_vcpu_events e;
	struct order t;

	start(&t);
	run_to_port(&t.g, 0x10);
	settle(&t.g);
	e = guest_events(&t.g);
	e.interrupt.injected = 1;
	e.interrupt.nr = VECTOR;
	guest_ioctl(vcpu(&t), KVM_SET_VCPU_EVENTS, &e);
	machine_check(&t);
	for (unsigned i = 0; i < 2; i++) {
		e = guest_events(&t.g);
		check_equal(e.interrupt.injected, 1);
		check_equal(e.exception.nr, 18);
		guest_ioctl(vcpu(&t), KVM_SET_VCPU_EVENTS, &e);
	}
	run(&t);
	put_in_order(&t);
	check_equal(t.taken[0].what, VECTOR);
	check_equal(t.taken[1].what, 18);
	guest_destroy(&t.g);
	smram_destroy(t.smram);
}

static const struct test tests[] = {
	{ "pairs of events behind an instruction", test_pairs },
	{ "a trap that waits is saved", test_trap_is_saved },
	{ "a machine check behind an acknowledged interrupt", test_machine_check_waits },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
