/*
 * Two events that are due at one instruction boundary of L2: which one L1 sees
 * first, and that the other comes after it. Every pair of the table, at the
 * boundary behind VM entry and at the one behind an OUT while which the client
 * has let them arrive.
 */
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"
#include "smram.h"

enum { VAPIC = 0x50000, APIC = 0x51000, TPR = 0x80, L1_EXIT = GUEST_CODE + 0x200, MC_INFO = 0x80000312, DB_INFO = 0x80000301, NMI_INFO = 0x80000202,
       MTF_INFO = 0x80000700, SMI = 0x1000 };

GUEST_ASM(l2, 64, "out %al, $0x10\n nop\n nop\n vmcall");
GUEST_ASM(handler, 16, "out %al, $0xb0\n rsm");

struct pair { struct hv h; uint8_t *smram; bool smi_in_l1; };

static int vcpu(struct hv *h) { return h->g.vcpu[0]; }

/* ---- how each event is made due ---- */

static void post_machine_check(struct hv *h)
{
	uint64_t cap = 1 << 24 | 1;
	struct kvm_x86_mce mce = { .status = 5ull << 61, .mcg_status = 4 };

	guest_ioctl(vcpu(h), KVM_X86_SETUP_MCE, &cap);
	guest_ioctl(vcpu(h), KVM_X86_SET_MCE, &mce);
}

static void allow_machine_checks(struct hv *h) { hv_set(h, F_guest_cr4, 0x2620 | CR4_MCE); }

static void lower_tpr(struct hv *h)
{
	hv_set(h, F_virtual_apic_page_addr, VAPIC);
	hv_set(h, F_apic_access_addr, APIC);
	hv_set(h, F_tpr_threshold, 4);
	h->g.memory[VAPIC + TPR] = 0x30;
}

static void raise_tpr(struct hv *h) { h->g.memory[VAPIC + TPR] = 0x40; }
static void post_smi(struct hv *h) { guest_ioctl(vcpu(h), KVM_SMI, NULL); }

static void msi(struct hv *h, uint32_t data)
{
	struct kvm_lapic_state lapic;

	guest_ioctl(vcpu(h), KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(vcpu(h), KVM_SET_LAPIC, &lapic);
	check_equal(guest_ioctl(h->g.vm, KVM_SIGNAL_MSI, &(struct kvm_msi){ .address_lo = 0xfee00000, .data = data }), 1);
}

static void post_init(struct hv *h) { msi(h, 5 << 8); }
static void post_interrupt(struct hv *h) { msi(h, 0x44); }
static void inject_mtf(struct hv *h) { hv_set(h, F_vm_entry_intr_info_field, MTF_INFO); }
static void pending_step(struct hv *h) { hv_set(h, F_guest_pending_dbg_exceptions, DR6_BS); }
static void set_tf(struct hv *h) { hv_set(h, F_guest_rflags, hv_get(h, F_guest_rflags) | RFLAGS_TF | RFLAGS_FIXED); }
static void timer_now(struct hv *h) { hv_set(h, F_vmx_preemption_timer_value, 0); }
static void timer_later(struct hv *h) { hv_set(h, F_vmx_preemption_timer_value, 0xffffffff); }

static void pass_time(struct hv *h)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x10 };

	guest_ioctl(vcpu(h), KVM_GET_MSRS, &m);
	m.e.data += 1ull << 44;
	guest_ioctl(vcpu(h), KVM_SET_MSRS, &m);
}

static void nmis_mask(struct hv *h, bool masked)
{
	struct kvm_vcpu_events e = guest_events(&h->g);

	e.nmi.masked = masked;
	guest_ioctl(vcpu(h), KVM_SET_VCPU_EVENTS, &e);
}

static void block_nmis(struct hv *h) { hv_set(h, F_guest_interruptibility_info, 8); }
static void unblock_nmis(struct hv *h) { nmis_mask(h, false); }
static void post_nmi(struct hv *h) { guest_ioctl(vcpu(h), KVM_NMI, NULL); }

/* L1 has NMIs blocked until VM entry. */
static void post_nmi_for_l2(struct hv *h)
{
	nmis_mask(h, true);
	post_nmi(h);
}

static void set_if(struct hv *h) { hv_set(h, F_guest_rflags, RFLAGS_IF | RFLAGS_FIXED); }

static void set_if_now(struct hv *h)
{
	struct kvm_regs r = guest_regs(&h->g, 0);

	r.rflags |= RFLAGS_IF;
	guest_set_regs(&h->g, 0, &r);
}

static void no_window(struct hv *h, uint32_t control)
{
	hv_set(h, F_cpu_based_vm_exec_control, hv_get(h, F_cpu_based_vm_exec_control) & ~(uint64_t)control);
}

static void no_mtf(struct hv *h) { no_window(h, PRIMARY_MTF); }
static void no_nmi_window(struct hv *h) { no_window(h, PRIMARY_NMI_WINDOW); }
static void no_interrupt_window(struct hv *h) { no_window(h, PRIMARY_INTR_WINDOW); }

/* ---- the events in the order of their priority ---- */

enum boundary { BEHIND_ENTRY, BEHIND_OUT };

/*
 * due: before VM entry. arrives: while L2's OUT is with the client; NULL: not at that boundary (behind entry: due does all).
 * done: what L1 does when it has seen the exit. lost: nothing keeps it over another VM exit.
 */
static const struct event_kind {
	const char *name;
	uint32_t outcome, info;
	struct hv_controls c;
	enum boundary where;
	void (*due)(struct hv *h), (*arrives)(struct hv *h), (*done)(struct hv *h);
	bool lost;
} kinds[] = {
	{ "machine check", EXIT_EXCEPTION_NMI, MC_INFO, { 0 }, BEHIND_OUT, allow_machine_checks, post_machine_check, NULL, false },
	{ "TPR below threshold", EXIT_TPR_BELOW_THRESHOLD, 0, { .primary = PRIMARY_TPR_SHADOW, .secondary = SECONDARY_APIC_ACCESSES },
	  BEHIND_ENTRY, lower_tpr, NULL, raise_tpr, false },
	{ "SMI", SMI, 0, { 0 }, BEHIND_OUT, NULL, post_smi, NULL, false },
	{ "INIT", EXIT_INIT, 0, { 0 }, BEHIND_ENTRY, post_init, NULL, NULL, false },
	{ "INIT", EXIT_INIT, 0, { 0 }, BEHIND_OUT, NULL, post_init, NULL, false },
	{ "injected MTF", EXIT_MTF, 0, { 0 }, BEHIND_ENTRY, inject_mtf, NULL, NULL, true },
	{ "MTF", EXIT_MTF, 0, { .primary = PRIMARY_MTF }, BEHIND_OUT, NULL, NULL, no_mtf, true },
	{ "pending #DB", EXIT_EXCEPTION_NMI, DB_INFO, { 0 }, BEHIND_ENTRY, pending_step, NULL, NULL, false },
	{ "single step", EXIT_EXCEPTION_NMI, DB_INFO, { 0 }, BEHIND_OUT, set_tf, NULL, NULL, false },
	{ "preemption timer", EXIT_PREEMPTION_TIMER, 0, { .pin = PIN_PREEMPTION_TIMER, .exit = VMEXIT_SAVE_PREEMPTION_TIMER }, BEHIND_ENTRY,
	  timer_now, NULL, timer_later, false },
	{ "preemption timer", EXIT_PREEMPTION_TIMER, 0, { .pin = PIN_PREEMPTION_TIMER, .exit = VMEXIT_SAVE_PREEMPTION_TIMER }, BEHIND_OUT,
	  timer_later, pass_time, timer_later, false },
	{ "NMI window", EXIT_NMI_WINDOW, 0, { .pin = PIN_NMI | PIN_VIRTUAL_NMIS, .primary = PRIMARY_NMI_WINDOW }, BEHIND_ENTRY, NULL, NULL,
	  no_nmi_window, false },
	{ "NMI window", EXIT_NMI_WINDOW, 0, { .pin = PIN_NMI | PIN_VIRTUAL_NMIS, .primary = PRIMARY_NMI_WINDOW }, BEHIND_OUT, block_nmis,
	  unblock_nmis, no_nmi_window, false },
	{ "NMI", EXIT_EXCEPTION_NMI, NMI_INFO, { .pin = PIN_NMI }, BEHIND_ENTRY, post_nmi_for_l2, NULL, NULL, false },
	{ "NMI", EXIT_EXCEPTION_NMI, NMI_INFO, { .pin = PIN_NMI }, BEHIND_OUT, NULL, post_nmi, NULL, false },
	{ "interrupt window", EXIT_INTERRUPT_WINDOW, 0, { .primary = PRIMARY_INTR_WINDOW }, BEHIND_ENTRY, set_if, NULL, no_interrupt_window, false },
	{ "interrupt window", EXIT_INTERRUPT_WINDOW, 0, { .primary = PRIMARY_INTR_WINDOW }, BEHIND_OUT, NULL, set_if_now, no_interrupt_window, false },
	{ "interrupt", EXIT_EXTERNAL_INTERRUPT, 0x80000044, { .pin = PIN_EXT_INTR, .exit = VMEXIT_ACK_INTR }, BEHIND_ENTRY, post_interrupt, NULL,
	  NULL, false },
	{ "interrupt", EXIT_EXTERNAL_INTERRUPT, 0x80000044, { .pin = PIN_EXT_INTR, .exit = VMEXIT_ACK_INTR }, BEHIND_OUT, NULL, post_interrupt,
	  NULL, false },
};

/* ---- one pair ---- */

static void create(struct pair *p, const struct event_kind *a, const struct event_kind *b)
{
	uint64_t gate[2] = { (GUEST_CODE + 0x400) | 24ull << 16 | 0x8e00ull << 32, 0 };
	struct hv_controls c = { .pin = a->c.pin | b->c.pin, .primary = a->c.primary | b->c.primary,
	                         .secondary = a->c.secondary | b->c.secondary, .exit = a->c.exit | b->c.exit };

	c.primary |= c.secondary ? PRIMARY_SECONDARY : 0;
	*p = (struct pair){ .smi_in_l1 = false };
	hv_create_with(&p->h, 0, l2, c);
	p->smram = smram_create_with(&p->h.g, handler);
	memcpy(p->h.g.memory + GUEST_IDT + 32, gate, sizeof(gate));      /* L1 counts its NMIs with its interrupts */
	hv_set(&p->h, F_exception_bitmap, 1 << 18 | 1 << 1);
	if (a->where == BEHIND_ENTRY)
		hv_set(&p->h, F_guest_rip, HV_L2 + 2);
	if (b->due)
		b->due(&p->h);
	if (a->due)
		a->due(&p->h);
}

/* To the next outcome: a VM exit, or an SMI in L2. One in L1 is noted. */
static uint32_t next(struct pair *p)
{
	struct guest *g = &p->h.g;

	while (guest_run(g, 0) == KVM_EXIT_IO) {
		if (g->run[0]->io.port != 0xb0)
			return hv_end(&p->h);
		if (smram_get(p->smram, 0xff78, 8) == HV_L2 + 2)
			return SMI;
		check_equal(smram_get(p->smram, 0xff78, 8), L1_EXIT);
		p->smi_in_l1 = true;
	}
	return HV_FAILED;
}

/* L2 runs again, if it does not already. */
static uint32_t go_on(struct pair *p, uint32_t from)
{
	if (from != SMI)
		hv_begin(&p->h);
	return next(p);
}

static bool is(struct pair *p, const struct event_kind *k, uint32_t outcome)
{
	return outcome == k->outcome && (!k->info || hv_get(&p->h, F_vm_exit_intr_info) == k->info);
}

/* What L1 takes itself, as soon as the first event has brought it there. */
static bool taken_by_l1(struct pair *p, const struct event_kind *first, const struct event_kind *k)
{
	if (first->outcome == SMI)
		return false;
	if (k->outcome == SMI)
		return p->smi_in_l1;
	return k->info == NMI_INFO && hv_interrupts(&p->h) == 1;
}

static uint32_t first_outcome(struct pair *p, const struct event_kind *a, const struct event_kind *b)
{
	hv_begin(&p->h);
	if (a->where == BEHIND_ENTRY)
		return next(p);
	check_equal(next(p), HV_FAILED);
	check_equal(p->h.g.run[0]->io.port, 0x10);
	if (b->arrives)
		b->arrives(&p->h);
	if (a->arrives)
		a->arrives(&p->h);
	return next(p);
}

static void try(const struct event_kind *a, const struct event_kind *b)
{
	unsigned before = failures;
	struct pair p;
	uint32_t outcome;

	create(&p, a, b);
	outcome = first_outcome(&p, a, b);
	check_that(is(&p, a, outcome), "not first: outcome %#x", outcome);
	if (outcome != SMI)
		check_equal(hv_get(&p.h, F_guest_rip), HV_L2 + 2);
	if (a->done)
		a->done(&p.h);
	if (!taken_by_l1(&p, a, b) && !(b->lost && a->outcome != SMI)) {
		outcome = go_on(&p, outcome);
		check_that(is(&p, b, outcome), "not second: outcome %#x", outcome);
		check_equal(hv_get(&p.h, F_guest_rip), HV_L2 + 2);
	}
	if (failures != before)
		printf("# %s, %s, behind %s\n", a->name, b->name, a->where ? "OUT" : "VM entry");
	hv_destroy(&p.h);
	smram_destroy(p.smram);
}

static void try_all(enum boundary where)
{
	for (unsigned a = 0; a < ARRAY_SIZE(kinds); a++)
		for (unsigned b = a + 1; b < ARRAY_SIZE(kinds); b++)
			if (kinds[a].where == where && kinds[b].where == where)
				try(&kinds[a], &kinds[b]);
}

static void test_behind_entry(void) { try_all(BEHIND_ENTRY); }
static void test_behind_out(void) { try_all(BEHIND_OUT); }

static const struct test tests[] = {
	{ "pairs of events behind VM entry", test_behind_entry },
	{ "pairs of events behind an instruction of L2", test_behind_out },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
