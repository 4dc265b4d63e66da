/*
 * System management mode and nested VMX: an SMI in L2 and back, what is due
 * after RSM, VMX instructions in SMM, and the nested state that the client
 * moves.
 */
#include <errno.h>
#include "base/base.h"
#include "hypervisor.h"
#include "kvm/api.h"
#include "machine.h"
#include "smram.h"

/* L2's ports are the client's: 10h before the SMI, 11h after it. The handler's: b0h, b1h. */
GUEST_ASM(l2, 64, "out %al, $0x10\n nop\n out %al, $0x11\n vmcall\n hlt");
GUEST_ASM(l2_real, 16, "out %al, $0x10\n nop\n out %al, $0x11\n vmcall\n hlt");
GUEST_ASM(handler, 16, "out %al, $0xb0\n nop\n out %al, $0xb1\n rsm");

struct nested { struct hv h; uint8_t *smram; };

static int vcpu(struct nested *t) { return t->h.g.vcpu[0]; }
static void smi(struct nested *t) { guest_ioctl(vcpu(t), KVM_SMI, NULL); }

static union { struct kvm_nested_state s; uint8_t bytes[128 + 2 * 4096]; } state;

static void state_get(struct nested *t)
{
	state.s.size = sizeof(state);
	guest_ioctl(vcpu(t), KVM_GET_NESTED_STATE, &state);
}

/* Into another VM, by the ioctls in an order of their own. */
static void move(struct nested *t, unsigned seed)
{
	static struct machine before, after;
	struct guest *g = &t->h.g;

	settle(g);
	machine_save(g, &before);
	guest_new_vm(g, true, 1);
	smram_attach(g, t->smram);
	machine_prepare(g);
	machine_restore(g, &before, seed);
	machine_save(g, &after);
	check(machine_equal(&before, &after));
}

static void create(struct nested *t, unsigned options, struct hv_controls c)
{
	hv_create_with(&t->h, options, l2, c);
	t->smram = smram_create_with(&t->h.g, handler);
	machine_prepare(&t->h.g);
}

/* To L2's first port. */
static void enter(struct nested *t)
{
	check_equal(hv_run(&t->h), HV_FAILED);
	check_equal(t->h.g.run[0]->io.port, 0x10);
	settle(&t->h.g);
}

static void expect_exit(struct nested *t, const char *name, uint32_t reason)
{
	check_equal(guest_run(&t->h.g, 0), KVM_EXIT_IO);
	if (t->h.g.run[0]->io.port != 0xe2 || hv_get(&t->h, F_vm_exit_reason) != reason) {
		printf("# %s: port %#x, exit reason %#llx, not %u\n", name, t->h.g.run[0]->io.port, (unsigned long long)hv_get(&t->h, F_vm_exit_reason), reason);
		failures++;
	}
}

static void end(struct nested *t)
{
	hv_destroy(&t->h);
	smram_destroy(t->smram);
}

/* ---- there and back ---- */

enum { MOVE_BEFORE = 1, MOVE_IN_SMM = 2, MOVE_AFTER = 4 };

/* Under EPT the PDPTEs are L2's own; RSM leaves them alone. */
static void vm86_with_ept(struct hv *h)
{
	hv_vm86(h);
	hv_set(h, F_guest_pdptr0, (HV_PAE + 0x1000) | 1);
	hv_set(h, F_guest_pdptr1, 0);
	hv_set(h, F_guest_pdptr2, 0);
	hv_set(h, F_guest_pdptr3, 0);
	memset(h->g.memory + HV_PAE, 0, 32);
}

static void with_vpid(struct hv *h) { hv_set(h, F_virtual_processor_id, 1); }

/* L2 goes on as if nothing had been, and L1 sees no VM exit. */
static void round_trip(struct nested *t, const char *name, unsigned moves)
{
	struct kvm_sregs s, s2;
	struct kvm_regs r, r2;
	unsigned before = failures;

	enter(t);
	s = guest_sregs(&t->h.g);
	r = guest_regs(&t->h.g, 0);
	smi(t);
	if (moves & MOVE_BEFORE)
		move(t, 1);
	run_to_port(&t->h.g, 0xb0);
	check(guest_in_smm(&t->h.g));
	state_get(t);
	check_equal(state.s.flags & KVM_STATE_NESTED_GUEST_MODE, 0);
	check_equal(state.s.hdr.vmx.smm.flags, KVM_STATE_NESTED_SMM_GUEST_MODE | KVM_STATE_NESTED_SMM_VMXON);
	for (unsigned seed = 0; moves & MOVE_IN_SMM && seed < 20; seed++)
		move(t, seed);
	run_to_port(&t->h.g, 0xb1);
	run_to_port(&t->h.g, 0x11);
	check(!guest_in_smm(&t->h.g));
	if (moves & MOVE_AFTER)
		move(t, 2);
	s2 = guest_sregs(&t->h.g);
	r2 = guest_regs(&t->h.g, 0);
	check_equal(r2.rip, r.rip + (moves & MOVE_AFTER ? 3 : 1));
	r2.rip = r.rip;
	check(!memcmp(&r, &r2, sizeof(r)));
	check(!memcmp(&s, &s2, sizeof(s)));
	state_get(t);
	check(state.s.flags & KVM_STATE_NESTED_GUEST_MODE);
	check_equal(state.s.hdr.vmx.smm.flags, 0);
	expect_exit(t, name, EXIT_VMCALL);
	if (failures != before)
		printf("# %s, moves %u\n", name, moves);
}

static void test_round_trips(void)
{
	static const struct { const char *name; unsigned options; bool code16; void (*mode)(struct hv *h); struct hv_controls c; } cases[] = {
		{ "64-bit", 0, false, NULL, { 0 } },
		{ "64-bit, EPT", HV_WITH_EPT, false, NULL, { 0 } },
		{ "64-bit, EPT and VPID", HV_WITH_EPT, false, with_vpid, { .secondary = SECONDARY_VPID } },
		{ "own page tables", 0, false, hv_own_pages, { 0 } },
		{ "real mode", HV_WITH_UNRESTRICTED, true, hv_real, { 0 } },
		{ "virtual-8086 mode", 0, true, hv_vm86, { 0 } },
		{ "virtual-8086 mode, EPT", HV_WITH_EPT, true, vm86_with_ept, { 0 } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 8; i++) {
		struct nested t;

		create(&t, cases[i / 8].options, cases[i / 8].c);
		if (cases[i / 8].mode)
			cases[i / 8].mode(&t.h);
		if (cases[i / 8].code16)
			guest_load_bytes(&t.h.g, HV_L2, l2_real_start, l2_real_end - l2_real_start);
		round_trip(&t, cases[i / 8].name, i % 8);
		end(&t);
	}
}

/* In VMX root operation. */
static void test_root(void)
{
	for (unsigned moves = 0; moves < 2; moves++) {
		struct nested t;

		create(&t, 0, (struct hv_controls){ 0 });
		smi(&t);
		run_to_port(&t.h.g, 0xb0);
		state_get(&t);
		check_equal(state.s.hdr.vmx.smm.flags, KVM_STATE_NESTED_SMM_VMXON);
		check_equal(guest_sregs(&t.h.g).cr4, 0);
		if (moves)
			move(&t, 5);
		run_to_port(&t.h.g, 0xb1);
		enter(&t);
		state_get(&t);
		check(state.s.flags & KVM_STATE_NESTED_GUEST_MODE);
		check_equal(state.s.hdr.vmx.smm.flags, 0);
		run_to_port(&t.h.g, 0x11);
		expect_exit(&t, "root", EXIT_VMCALL);
		end(&t);
	}
}

/* Virtual NMIs that L2 has blocked stay so. */
static void test_virtual_nmis(void)
{
	for (unsigned blocked = 0; blocked < 2; blocked++) {
		struct nested t;

		create(&t, 0, (struct hv_controls){ .pin = PIN_NMI | PIN_VIRTUAL_NMIS });
		hv_set(&t.h, F_guest_interruptibility_info, blocked ? 8 : 0);
		enter(&t);
		check_equal(guest_events(&t.h.g).nmi.masked, blocked);
		smi(&t);
		run_to_port(&t.h.g, 0xb0);
		check_equal(guest_events(&t.h.g).nmi.masked, 1);
		run_to_port(&t.h.g, 0xb1);
		run_to_port(&t.h.g, 0x11);
		check_equal(guest_events(&t.h.g).nmi.masked, blocked);
		end(&t);
	}
}

/* ---- what is due after RSM ---- */

static void post_nmi(struct nested *t) { guest_ioctl(vcpu(t), KVM_NMI, NULL); }

static void post_init(struct nested *t)
{
	guest_ioctl(t->h.g.vm, KVM_SIGNAL_MSI, &(struct kvm_msi){ .address_lo = 0xfee00000, .data = 5 << 8 });
}

static void post_interrupt(struct nested *t)
{
	struct kvm_lapic_state lapic;

	guest_ioctl(vcpu(t), KVM_GET_LAPIC, &lapic);
	*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
	guest_ioctl(vcpu(t), KVM_SET_LAPIC, &lapic);
	guest_ioctl(t->h.g.vm, KVM_SIGNAL_MSI, &(struct kvm_msi){ .address_lo = 0xfee00000, .data = 0x44 });
}

/* L1's clock jumps beyond the deadline. */
static void pass_time(struct nested *t)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x10 };

	guest_ioctl(vcpu(t), KVM_GET_MSRS, &m);
	m.e.data += 1ull << 44;
	guest_ioctl(vcpu(t), KVM_SET_MSRS, &m);
}

/* L2's NMI blocking is ended by the client while an SMI waits. */
static void unblock_nmis(struct nested *t)
{
	struct kvm_vcpu_events e = guest_events(&t->h.g);

	e.nmi.masked = 0;
	guest_ioctl(vcpu(t), KVM_SET_VCPU_EVENTS, &e);
}

/* Nothing of it happens in SMM; after RSM, before L2's next instruction, all of it does. */
static void test_due(void)
{
	static const struct { const char *name; struct hv_controls c; void (*before)(struct nested *t), (*in_smm)(struct nested *t); uint32_t reason; } cases[] = {
		{ "NMI", { .pin = PIN_NMI }, NULL, post_nmi, EXIT_EXCEPTION_NMI },
		{ "INIT", { 0 }, NULL, post_init, EXIT_INIT },
		{ "interrupt", { .pin = PIN_EXT_INTR }, NULL, post_interrupt, EXIT_EXTERNAL_INTERRUPT },
		{ "interrupt of before", { .pin = PIN_EXT_INTR }, post_interrupt, NULL, EXIT_EXTERNAL_INTERRUPT },
		{ "preemption timer", { .pin = PIN_PREEMPTION_TIMER }, NULL, pass_time, EXIT_PREEMPTION_TIMER },
		{ "preemption timer that runs", { .pin = PIN_PREEMPTION_TIMER }, NULL, NULL, EXIT_VMCALL },
		{ "NMI window", { .pin = PIN_NMI | PIN_VIRTUAL_NMIS, .primary = PRIMARY_NMI_WINDOW }, unblock_nmis, NULL, EXIT_NMI_WINDOW },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct nested t;

		create(&t, 0, cases[i].c);
		hv_set(&t.h, F_vmx_preemption_timer_value, 0xffffffff);
		hv_set(&t.h, F_guest_interruptibility_info, cases[i].before == unblock_nmis ? 8 : 0);
		enter(&t);
		smi(&t);
		if (cases[i].before)
			cases[i].before(&t);
		run_to_port(&t.h.g, 0xb0);
		if (cases[i].in_smm)
			cases[i].in_smm(&t);
		run_to_port(&t.h.g, 0xb1);
		if (cases[i].reason == EXIT_VMCALL)
			run_to_port(&t.h.g, 0x11);
		expect_exit(&t, cases[i].name, cases[i].reason);
		check_equal(hv_get(&t.h, F_guest_rip), HV_L2 + (cases[i].reason == EXIT_VMCALL ? 5 : 2));
		end(&t);
	}
}

/* An exit by the monitor trap flag that is due when the SMI comes is so after RSM. */
static void test_monitor_trap(void)
{
	struct nested t;

	create(&t, 0, (struct hv_controls){ 0 });
	enter(&t);
	state_get(&t);
	state.s.flags |= KVM_STATE_NESTED_MTF_PENDING;
	guest_ioctl(vcpu(&t), KVM_SET_NESTED_STATE, &state);
	smi(&t);
	run_to_port(&t.h.g, 0xb0);
	check_equal(smram_get(t.smram, 0xff78, 8), HV_L2 + 2);
	run_to_port(&t.h.g, 0xb1);
	expect_exit(&t, "monitor trap", EXIT_MTF);
	check_equal(hv_get(&t.h, F_guest_rip), HV_L2 + 2);
	end(&t);
}

/* L2 in HLT is there again after RSM, if the handler does not clear the flag. */
static void test_halted(void)
{
	struct kvm_mp_state halted = { .mp_state = KVM_MP_STATE_HALTED };

	for (unsigned restart = 0; restart < 2; restart++) {
		struct nested t;

		create(&t, 0, (struct hv_controls){ .pin = PIN_NMI });
		enter(&t);
		guest_ioctl(vcpu(&t), KVM_SET_MP_STATE, &halted);
		smi(&t);
		run_to_port(&t.h.g, 0xb0);
		check_equal(smram_get(t.smram, 0xfec9, 1), 1);
		smram_set(t.smram, 0xfec9, 1, restart);
		post_nmi(&t);
		run_to_port(&t.h.g, 0xb1);
		expect_exit(&t, "halted", EXIT_EXCEPTION_NMI);
		check_equal(hv_get(&t.h, F_guest_activity_state), restart);
		end(&t);
	}
}

/* ---- VMX in SMM ---- */

GUEST_ASM(cr4, 16, "mov %cr4, %eax\n or %ebx, %eax\n mov %eax, %cr4\n out %al, $0xb0\n rsm");

static void test_vmxe(void)
{
	static const struct { uint64_t bits; int exit; } cases[] = { { 0x20, KVM_EXIT_IO }, { 0x2000, KVM_EXIT_SHUTDOWN } };

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct nested t;
		struct kvm_regs r;

		create(&t, 0, (struct hv_controls){ 0 });
		memcpy(t.smram + 0x8000, cr4_start, cr4_end - cr4_start);
		settle(&t.h.g);
		r = guest_regs(&t.h.g, 0);
		r.rbx = cases[i].bits;
		guest_set_regs(&t.h.g, 0, &r);
		smi(&t);
		check_equal(guest_run(&t.h.g, 0), cases[i].exit);        /* #GP without an IDT */
		end(&t);
	}
}

/* RSM to no state: L2's triple fault, as in KVM. */
static void test_invalid(void)
{
	struct nested t;

	create(&t, 0, (struct hv_controls){ 0 });
	enter(&t);
	smi(&t);
	run_to_port(&t.h.g, 0xb0);
	run_to_port(&t.h.g, 0xb1);
	smram_set(t.smram, 0xfed0, 8, 2);
	expect_exit(&t, "invalid area", EXIT_TRIPLE_FAULT);
	end(&t);
}

/* CR0 and CR4 bits that VMX operation fixes are set, whatever the area says. */
static void test_fixed_bits(void)
{
	struct nested t;

	create(&t, 0, (struct hv_controls){ 0 });
	enter(&t);
	smi(&t);
	run_to_port(&t.h.g, 0xb0);
	smram_set(t.smram, 0xff58, 8, smram_get(t.smram, 0xff58, 8) & ~0x20ull);         /* NE */
	smram_set(t.smram, 0xff48, 8, smram_get(t.smram, 0xff48, 8) & ~0x2000ull);       /* VMXE */
	run_to_port(&t.h.g, 0xb1);
	run_to_port(&t.h.g, 0x11);
	check(guest_sregs(&t.h.g).cr0 & 0x20);
	check(guest_sregs(&t.h.g).cr4 & 0x2000);
	end(&t);
}

/* ---- nested state ---- */

static void set_state(struct nested *t, const char *name, bool valid)
{
	int r = anykvm_ioctl(vcpu(t), KVM_SET_NESTED_STATE, &state);

	if (valid ? r < 0 : (r >= 0 || errno != EINVAL)) {
		printf("# nested state: %s: %d, errno %d\n", name, r, errno);
		failures++;
	}
}

static void test_state(void)
{
	enum { G = KVM_STATE_NESTED_SMM_GUEST_MODE, V = KVM_STATE_NESTED_SMM_VMXON };
	static const struct { const char *name; uint16_t flags, smm; uint64_t vmxon; bool in_smm, outside; } cases[] = {
		{ "as it was", 0, G | V, 0, true, false },
		{ "VMXON alone", 0, V, 0, true, false },
		{ "in VMX operation, in SMM", 0, 0, 0, true, true },
		{ "guest mode without VMXON", 0, G, 0, false, false },
		{ "an unknown flag", 0, G | V | 4, 0, false, false },
		{ "L2 runs in SMM", KVM_STATE_NESTED_GUEST_MODE, 0, 0, false, true },
		{ "L2 runs and SMM hides it", KVM_STATE_NESTED_GUEST_MODE, G | V, 0, false, false },
		{ "VM entry pending in SMM", KVM_STATE_NESTED_RUN_PENDING, G | V, 0, false, false },
		{ "flags without a VMXON region", 0, V, ~0ull, false, false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 2; i++) {
		struct nested t;
		bool in_smm = i % 2;

		create(&t, 0, (struct hv_controls){ 0 });
		enter(&t);
		if (in_smm)
			smi(&t);
		if (in_smm)
			run_to_port(&t.h.g, 0xb0);
		state_get(&t);
		state.s.flags = cases[i / 2].flags;
		state.s.hdr.vmx.smm.flags = cases[i / 2].smm;
		if (cases[i / 2].vmxon)
			state.s.hdr.vmx.vmxon_pa = state.s.hdr.vmx.vmcs12_pa = ~0ull;
		set_state(&t, cases[i / 2].name, in_smm ? cases[i / 2].in_smm : cases[i / 2].outside);
		end(&t);
	}
}

/* A restored L2 that VM entry would not take shows at RSM; when the client ends SMM by itself, VMX operation ends. */
static void test_restored(void)
{
	struct kvm_vcpu_events e;
	struct nested t;

	for (unsigned bad = 0; bad < 2; bad++) {
		create(&t, 0, (struct hv_controls){ 0 });
		enter(&t);
		smi(&t);
		run_to_port(&t.h.g, 0xb0);
		settle(&t.h.g);
		state_get(&t);
		if (bad)                                 /* all but the revision */
			memset(state.bytes + 128 + 8, 0, 4096 - 8);
		set_state(&t, "restored", true);
		run_to_port(&t.h.g, 0xb1);
		check_equal(guest_run(&t.h.g, 0), bad ? KVM_EXIT_SHUTDOWN : KVM_EXIT_IO);
		end(&t);
	}
	create(&t, 0, (struct hv_controls){ 0 });
	enter(&t);
	smi(&t);
	run_to_port(&t.h.g, 0xb0);
	e = guest_events(&t.h.g);
	e.smi.smm = 0;
	guest_ioctl(vcpu(&t), KVM_SET_VCPU_EVENTS, &e);
	state_get(&t);
	check_equal(state.s.hdr.vmx.vmxon_pa, ~0ull);
	check_equal(state.s.hdr.vmx.smm.flags, 0);
	end(&t);
}

static const struct test tests[] = {
	{ "an SMI in L2 and back, moved or not", test_round_trips },
	{ "an SMI in VMX root operation", test_root },
	{ "virtual NMI blocking", test_virtual_nmis },
	{ "what is due after RSM", test_due },
	{ "the monitor trap flag", test_monitor_trap },
	{ "L2 in HLT", test_halted },
	{ "CR4.VMXE in SMM", test_vmxe },
	{ "RSM to no state of L2", test_invalid },
	{ "fixed bits at RSM", test_fixed_bits },
	{ "nested state with SMM flags", test_state },
	{ "L2 restored in SMM", test_restored },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
