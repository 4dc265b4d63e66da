/* VM-execution controls that few hypervisors use: each does what the manual says, or fails VM entry when it is not offered. */
#include "base/base.h"
#include "cpu/flags.h"
#include "hypervisor.h"

enum { UD_INFO = 0x80000306, GP_INFO = 0x80000b0d, SHUTDOWN = 2 };

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

/* L1 has NMIs blocked, so this one is for L2, where they are not. */
static void post_nmi(struct hv *h)
{
	struct kvm_vcpu_events e;

	guest_ioctl(h->g.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	e.nmi.masked = 1;
	guest_ioctl(h->g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	guest_ioctl(h->g.vcpu[0], KVM_NMI, NULL);
}

/* ---- CR3-target values ---- */

GUEST_ASM(load_cr3, 64, "mov %rdi, %cr3\n mov %rsi, %cr3\n hlt");

static void test_cr3_targets(void)
{
	/* value 1 and 2 are targets; count tells how many count */
	static const struct { uint64_t first, second; unsigned count; uint32_t reason; uint64_t qualification; } cases[] = {
		{ HV_PAGES, GUEST_PAGES, 2, EXIT_HLT, 0 }, { GUEST_PAGES, HV_PAGES, 2, EXIT_HLT, 0 },
		{ HV_PAGES, GUEST_PAGES, 1, EXIT_CR_ACCESS, 3 | 6 << 8 },
		{ HV_PAGES, GUEST_PAGES, 0, EXIT_CR_ACCESS, 3 | 7 << 8 },
		{ HV_PAGES | 8, GUEST_PAGES, 2, EXIT_CR_ACCESS, 3 | 7 << 8 },
		{ HV_PAGES, HV_PAGES + 0x1000, 4, EXIT_HLT, 0 }, { HV_PAGES, HV_PAGES + 0x1000, 3, EXIT_CR_ACCESS, 3 | 6 << 8 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_create_with(&h, 0, load_cr3, (struct hv_controls){ .primary = PRIMARY_CR3_LOAD });
		memcpy(quad(&h, HV_PAGES), quad(&h, GUEST_PAGES), 4096);
		memcpy(quad(&h, HV_PAGES + 0x1000), quad(&h, GUEST_PAGES), 4096);
		hv_set(&h, F_cr3_target_value0, HV_PAGES);
		hv_set(&h, F_cr3_target_value1, GUEST_PAGES);
		hv_set(&h, F_cr3_target_value2, 0);
		hv_set(&h, F_cr3_target_value3, HV_PAGES + 0x1000);
		hv_set(&h, F_cr3_target_count, cases[i].count);
		h.gpr[7] = cases[i].first;
		h.gpr[6] = cases[i].second;
		check_equal(hv_run(&h), cases[i].reason);
		check_equal(hv_get(&h, F_exit_qualification), cases[i].qualification);
		hv_destroy(&h);
	}
}

static void test_cr3_target_count(void)
{
	/* parameter; what the client takes from VMX_MISC; count; error */
	static const struct { bool offered; uint64_t taken; unsigned count; uint32_t error; } cases[] = {
		{ true, 0, 4, 0 }, { true, 0, 5, VMXERR_CONTROLS }, { true, 0, ~0u, VMXERR_CONTROLS },
		{ false, 0, 0, 0 }, { false, 0, 1, VMXERR_CONTROLS },
		{ true, 4 << 16, 0, 0 }, { true, 4 << 16, 1, VMXERR_CONTROLS },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		params.cr3_targets = cases[i].offered;
		hv_narrow(cases[i].taken ? 0x485 : 0, cases[i].taken);
		hv_create_with(&h, 0, load_cr3, (struct hv_controls){ 0 });
		hv_set(&h, F_cr3_target_count, cases[i].count);
		check_equal(hv_error(&h), cases[i].error);
		hv_destroy(&h);
	}
	params.cr3_targets = true;
}

/* ---- PAUSE loops ---- */

GUEST_ASM(pauses, 64, "pause\n pause\n pause\n hlt");
GUEST_ASM(user_pauses, 64,
	"mov $0x1b, %ecx\n push %rcx\n push $0x6000\n push $2\n push $0x23\n push $0x9100\n iretq\n"
	".org user_pauses_start + 0x100\n pause\n pause\n cpuid\n");

/* A GDT of L2's own with segments for ring 3 (18h data, 20h code), and pages for it. */
static void user_segments(struct hv *h)
{
	*quad(h, 0x60000 + 24) = 0x00cff3000000ffff;
	*quad(h, 0x60000 + 32) = 0x00affb000000ffff;
	hv_set(h, F_guest_gdtr_base, 0x60000);
	hv_set(h, F_guest_gdtr_limit, 39);
	memcpy(quad(h, HV_PAGES), quad(h, GUEST_PAGES), 3 * 4096);
	quad(h, HV_PAGES)[0] = (HV_PAGES + 0x1000) | 7;
	quad(h, HV_PAGES)[512] = (HV_PAGES + 0x2000) | 7;
	for (unsigned i = 0; i < 512; i++)
		quad(h, HV_PAGES)[1024 + i] |= 4;
	hv_set(h, F_guest_cr3, HV_PAGES);
}

static void test_pause_loop(void)
{
	/* A gap that no two PAUSEs are within makes each the first of its loop; a window that none outlasts never exits. */
	static const struct { uint32_t gap, window, primary; bool user; uint32_t reason, offset; } cases[] = {
		{ ~0u, 0, 0, false, EXIT_PAUSE, 2 }, { 0, 0, 0, false, EXIT_HLT, 0 }, { ~0u, ~0u, 0, false, EXIT_HLT, 0 },
		{ ~0u, ~0u, PRIMARY_PAUSE, false, EXIT_PAUSE, 0 }, { ~0u, 0, 0, true, EXIT_CPUID, 0x104 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;
		struct hv_controls c = { .primary = PRIMARY_SECONDARY | cases[i].primary, .secondary = SECONDARY_PLE };

		if (cases[i].user) {
			hv_create_with(&h, 0, user_pauses, c);
			user_segments(&h);
		} else {
			hv_create_with(&h, 0, pauses, c);
		}
		hv_set(&h, F_ple_gap, cases[i].gap);
		hv_set(&h, F_ple_window, cases[i].window);
		check_equal(hv_run(&h), cases[i].reason);
		if (cases[i].reason != EXIT_HLT)
			check_equal(hv_get(&h, F_guest_rip), HV_L2 + cases[i].offset);
		if (i == 0)                      /* VM entry begins anew: PAUSE again, the next one exits */
			check_equal(hv_run(&h), EXIT_PAUSE);
		if (i == 0)
			check_equal(hv_get(&h, F_guest_rip), HV_L2 + 4);
		hv_destroy(&h);
	}
}

/* ---- ENCLS ---- */

GUEST_ASM(encls, 64, "encls\n hlt");

static void test_encls(void)
{
	static const struct { uint32_t leaf; uint64_t bitmap; bool on; uint32_t reason; } cases[] = {
		{ 0, 1, true, EXIT_ENCLS }, { 0, ~1ull, true, EXIT_EXCEPTION_NMI }, { 5, 1 << 5, true, EXIT_ENCLS },
		{ 63, 1ull << 63, true, EXIT_ENCLS }, { 1000, 1ull << 63, true, EXIT_ENCLS }, { 1000, ~0ull >> 1, true, EXIT_EXCEPTION_NMI },
		{ 0, ~0ull, false, EXIT_EXCEPTION_NMI },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_create_with(&h, 0, encls, (struct hv_controls){ .primary = PRIMARY_SECONDARY, .secondary = SECONDARY_ENCLS });
		if (!cases[i].on)
			hv_set(&h, F_secondary_vm_exec_control, 0);
		hv_set(&h, F_encls_exiting_bitmap, cases[i].bitmap);
		hv_set(&h, F_exception_bitmap, ~0u);
		h.gpr[0] = cases[i].leaf;
		check_equal(hv_run(&h), cases[i].reason);
		if (cases[i].reason == EXIT_EXCEPTION_NMI)
			check_equal(hv_get(&h, F_vm_exit_intr_info), UD_INFO);
		else
			check_equal(hv_get(&h, F_vm_exit_instruction_len), 3);
		hv_destroy(&h);
	}
}

/* ---- user wait ---- */

GUEST_ASM(tpause, 64, "stc\n tpause %edi\n setc %bl\n hlt");
GUEST_ASM(umwait, 64, "umonitor %rsi\n umwait %edi\n hlt");
GUEST_ASM(umonitor, 64, "umonitor %rsi\n hlt");

static void test_user_wait(void)
{
	static const struct { const uint8_t *start, *end; uint32_t value, secondary, primary, reason, info; } cases[] = {
		{ tpause_start, tpause_end, 0, SECONDARY_USER_WAIT, 0, EXIT_HLT, 0 },
		{ tpause_start, tpause_end, 1, SECONDARY_USER_WAIT, 0, EXIT_HLT, 0 },
		{ tpause_start, tpause_end, 2, SECONDARY_USER_WAIT, 0, EXIT_EXCEPTION_NMI, GP_INFO },
		{ tpause_start, tpause_end, 2, SECONDARY_USER_WAIT, PRIMARY_RDTSC, EXIT_TPAUSE, 7 << 3 },
		{ tpause_start, tpause_end, 0, 0, 0, EXIT_EXCEPTION_NMI, UD_INFO },
		{ tpause_start, tpause_end, 0, 0, PRIMARY_RDTSC, EXIT_EXCEPTION_NMI, UD_INFO },
		{ umwait_start, umwait_end, 1, SECONDARY_USER_WAIT, 0, EXIT_HLT, 0 },
		{ umwait_start, umwait_end, 0x80000000, SECONDARY_USER_WAIT, 0, EXIT_EXCEPTION_NMI, GP_INFO },
		{ umwait_start, umwait_end, 0, SECONDARY_USER_WAIT, PRIMARY_RDTSC, EXIT_UMWAIT, 7 << 3 },
		{ umonitor_start, umonitor_end, 0, SECONDARY_USER_WAIT, PRIMARY_RDTSC, EXIT_HLT, 0 },
		{ umonitor_start, umonitor_end, 0, 0, 0, EXIT_EXCEPTION_NMI, UD_INFO },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_create(&h, 0, (struct hv_controls){ .primary = PRIMARY_SECONDARY | cases[i].primary, .secondary = SECONDARY_USER_WAIT },
		          cases[i].start, cases[i].end - cases[i].start);
		hv_set(&h, F_secondary_vm_exec_control, cases[i].secondary);
		hv_set(&h, F_exception_bitmap, ~0u);
		h.gpr[7] = cases[i].value;
		h.gpr[6] = HV_L2_STACK;
		if (hv_run(&h) != cases[i].reason)
			printf("# case %u\n", i);
		check_equal(hv_get(&h, F_vm_exit_reason), cases[i].reason);
		if (cases[i].reason == EXIT_EXCEPTION_NMI)
			check_equal(hv_get(&h, F_vm_exit_intr_info), cases[i].info);
		if (cases[i].reason == EXIT_TPAUSE || cases[i].reason == EXIT_UMWAIT) {
			check_equal(hv_get(&h, F_vmx_instruction_info), cases[i].info);
			check_equal(hv_get(&h, F_vm_exit_instruction_len), 4);
		}
		hv_destroy(&h);
	}
}

GUEST_ASM(limit, 64, "mov $0xe1, %ecx\n xor %edx, %edx\n mov %edi, %eax\n wrmsr\n rdmsr\n hlt");

/* IA32_UMWAIT_CONTROL: bit 1 is reserved. */
static void test_wait_limit(void)
{
	for (unsigned value = 0; value < 4; value++) {
		struct hv h;

		hv_create_with(&h, 0, limit, (struct hv_controls){ .primary = PRIMARY_MSR_BITMAPS });
		memset(quad(&h, HV_MSR_BITMAP), 0, 4096);
		hv_set(&h, F_exception_bitmap, ~0u);
		h.gpr[7] = 0xfffffff0 | value;
		check_equal(hv_run(&h), value & 2 ? EXIT_EXCEPTION_NMI : EXIT_HLT);
		if (!(value & 2))
			check_equal(h.gpr[0], 0xfffffff0 | value);
		hv_destroy(&h);
	}
}

/* ---- the shutdown state ---- */

GUEST_ASM(halts, 64, "mov $1, %ebx\n hlt");

/* Only an NMI, an INIT and L1's own timers and windows end it; interrupts do not. */
static void test_shutdown_state(void)
{
	static const struct { struct hv_controls c; uint32_t reason; } cases[] = {
		{ { .pin = PIN_PREEMPTION_TIMER }, EXIT_PREEMPTION_TIMER },
		{ { .pin = PIN_NMI }, EXIT_EXCEPTION_NMI },
		{ { .pin = PIN_NMI | PIN_VIRTUAL_NMIS, .primary = PRIMARY_NMI_WINDOW }, EXIT_NMI_WINDOW },
		{ { .pin = PIN_EXT_INTR | PIN_PREEMPTION_TIMER }, EXIT_PREEMPTION_TIMER },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		hv_create_with(&h, 0, halts, cases[i].c);
		hv_set(&h, F_guest_activity_state, SHUTDOWN);
		if (cases[i].c.pin & PIN_PREEMPTION_TIMER)
			hv_set(&h, F_vmx_preemption_timer_value, 1000);
		if (cases[i].c.pin & PIN_EXT_INTR) {
			struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
			struct kvm_lapic_state lapic;

			guest_ioctl(h.g.vcpu[0], KVM_GET_LAPIC, &lapic);
			*(uint32_t *)(lapic.regs + 0xf0) = 0x1ff;
			guest_ioctl(h.g.vcpu[0], KVM_SET_LAPIC, &lapic);
			check_equal(guest_ioctl(h.g.vm, KVM_SIGNAL_MSI, &msi), 1);
		}
		if (cases[i].c.pin == PIN_NMI)
			post_nmi(&h);
		check_equal(hv_run(&h), cases[i].reason);
		check_equal(hv_get(&h, F_guest_activity_state), SHUTDOWN);
		check_equal(h.gpr[3], 0);
		hv_destroy(&h);
	}
}

static void test_shutdown_checks(void)
{
	/* injection: none, NMI, external interrupt, #MC, #UD */
	static const struct { uint32_t inject; bool offered; uint64_t taken; bool fails; } cases[] = {
		{ 0, true, 0, false }, { 0x80000202, true, 0, false }, { 0x80000041, true, 0, true }, { 0x80000312, true, 0, false },
		{ 0x80000306, true, 0, true }, { 0, false, 0, true }, { 0, true, 1 << 7, true },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct hv h;

		params.shutdown_state = cases[i].offered;
		hv_narrow(cases[i].taken ? 0x485 : 0, cases[i].taken);
		hv_create_with(&h, 0, halts, (struct hv_controls){ .pin = PIN_PREEMPTION_TIMER });
		hv_set(&h, F_vmx_preemption_timer_value, 0);
		hv_set(&h, F_guest_activity_state, SHUTDOWN);
		hv_set(&h, F_guest_rflags, 0x202);
		hv_set(&h, F_vm_entry_intr_info_field, cases[i].inject);
		check_equal(hv_run(&h) == (EXIT_ENTRY_FAILURE | EXIT_INVALID_GUEST_STATE), cases[i].fails);
		hv_destroy(&h);
	}
	params.shutdown_state = true;
}

/* ---- bus locks ---- */

GUEST_ASM(locks, 64,
	"lock incl (%rdi)\n mov $1, %ebx\n lock incl 61(%rdi)\n mov $2, %ebx\n mov 61(%rdi), %eax\n incl 61(%rdi)\n"
	"xchg %eax, 4094(%rdi)\n mov $3, %ebx\n hlt");

/* After the instruction, and only for accesses that two cache lines share. */
static void test_bus_lock(void)
{
	struct hv h;

	hv_create_with(&h, 0, locks, (struct hv_controls){ .primary = PRIMARY_SECONDARY, .secondary = SECONDARY_BUS_LOCK });
	h.gpr[7] = 0x300000;
	check_equal(hv_run(&h), EXIT_BUS_LOCK);
	check_equal(h.gpr[3], 1);
	check_equal(hv_get(&h, F_guest_rip), HV_L2 + 12);
	check_equal(h.g.memory[0x300000 + 61], 1);
	check_equal(hv_run(&h), EXIT_BUS_LOCK);
	check_equal(h.gpr[3], 2);
	check_equal(*(uint32_t *)(h.g.memory + 0x300000 + 4094), 1);
	check_equal(hv_run(&h), EXIT_HLT);
	hv_destroy(&h);
	/* Without the control nothing exits. */
	hv_create_with(&h, 0, locks, (struct hv_controls){ 0 });
	h.gpr[7] = 0x300000;
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(h.gpr[3], 3);
	hv_destroy(&h);
}

/* An exit that comes before it says so in a bit of its reason. */
static void test_bus_lock_with_another(void)
{
	struct hv h;

	hv_create_with(&h, 0, locks, (struct hv_controls){ .primary = PRIMARY_SECONDARY | PRIMARY_MTF, .secondary = SECONDARY_BUS_LOCK });
	h.gpr[7] = 0x300000;
	check_equal(hv_run(&h), EXIT_MTF);                       /* LOCK INC within a line */
	check_equal(hv_run(&h), EXIT_MTF);
	check_equal(hv_run(&h), EXIT_MTF | EXIT_BUS_LOCKED);
	check_equal(hv_get(&h, F_guest_rip), HV_L2 + 12);
	check_equal(hv_run(&h), EXIT_MTF);
	hv_destroy(&h);
}

/* ---- notify window ---- */

GUEST_ASM(undefined, 64, "ud2\n hlt\n .org undefined_start + 0x100\n mov $1, %ebx\n hlt");

/* #UD through a gate that is not present: #NP instead, without an instruction in between. */
static void test_notify(void)
{
	static const struct { uint32_t window, reason; bool on; } cases[] = {
		{ 0, EXIT_NOTIFY, true }, { ~0u, EXIT_HLT, true }, { 0, EXIT_HLT, false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		uint64_t gate[2] = { ((HV_L2 + 0x100) & 0xffff) | 24ull << 16 | 0x8e00ull << 32, 0 };
		struct hv h;

		hv_create_with(&h, 0, undefined, (struct hv_controls){ .primary = PRIMARY_SECONDARY, .secondary = SECONDARY_NOTIFY });
		if (!cases[i].on)
			hv_set(&h, F_secondary_vm_exec_control, 0);
		hv_set(&h, F_notify_window, cases[i].window);
		memcpy(quad(&h, GUEST_IDT + 16 * 11), gate, sizeof(gate));
		gate[0] &= ~(0x8000ull << 32);
		memcpy(quad(&h, GUEST_IDT + 16 * 6), gate, sizeof(gate));
		check_equal(hv_run(&h), cases[i].reason);
		check_equal(h.gpr[3], cases[i].reason == EXIT_HLT);
		if (cases[i].reason == EXIT_NOTIFY) {
			check_equal(hv_get(&h, F_idt_vectoring_info_field), 0x80000b0b);
			check_equal(hv_get(&h, F_exit_qualification), 0);
		}
		hv_destroy(&h);
	}
}

/* ---- not offered ---- */

/* By parameter or by the client's VMX_PROCBASED_CTLS2: the control must be 0, its fields do not exist. */
static void test_not_offered(void)
{
	static const struct { uint32_t control; bool *param; enum hv_field field; } cases[] = {
		{ SECONDARY_PLE, &params.ple, F_ple_gap }, { SECONDARY_PLE, &params.ple, F_ple_window },
		{ SECONDARY_ENCLS, &params.sgx, F_encls_exiting_bitmap }, { SECONDARY_USER_WAIT, &params.user_wait, 0 },
		{ SECONDARY_BUS_LOCK, &params.bus_lock, 0 }, { SECONDARY_NOTIFY, &params.notify, F_notify_window },
		{ SECONDARY_TSC_SCALING, &params.tsc_scaling, F_tsc_multiplier },
	};

	for (unsigned i = 0; i < 2 * sizeof(cases) / sizeof(*cases); i++) {
		uint32_t control = cases[i / 2].control;
		struct hv h;

		*cases[i / 2].param = i & 1;
		if (i & 1)
			hv_narrow(0x48b, (uint64_t)control << 32);
		hv_create_with(&h, 0, halts, (struct hv_controls){ .primary = PRIMARY_SECONDARY });
		hv_set(&h, F_secondary_vm_exec_control, control);
		check_equal(hv_error(&h), VMXERR_CONTROLS);
		if (cases[i / 2].field) {
			hv_set(&h, cases[i / 2].field, 1);
			hv_run(&h);
			check_equal(h.g.run[0]->io.port, 0xe1);
		}
		hv_destroy(&h);
		*cases[i / 2].param = true;
	}
}

static const struct test tests[] = {
	{ "CR3-target values", test_cr3_targets },
	{ "CR3-target count", test_cr3_target_count },
	{ "PAUSE loops", test_pause_loop },
	{ "ENCLS", test_encls },
	{ "user wait", test_user_wait },
	{ "IA32_UMWAIT_CONTROL", test_wait_limit },
	{ "shutdown state", test_shutdown_state },
	{ "shutdown state: entry checks", test_shutdown_checks },
	{ "bus locks", test_bus_lock },
	{ "bus locks and other exits", test_bus_lock_with_another },
	{ "notify window", test_notify },
	{ "not offered", test_not_offered },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
