/* What clients rely on beyond the letter of the API: what stays, what is refused, what shows through. */
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { PLATFORM_INFO = 0xce, POWER_CTL = 0x1fc, MISC_ENABLE = 0x1a0, KVM_WALL_CLOCK = 0x4b564d00, KVM_STEAL_TIME = 0x4b564d03 };

static void gate(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | (uint64_t)(offset & 0xffff0000) << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

static void start(struct guest *g, const uint8_t *code, size_t len)
{
	guest_create(g, true);
	guest_load_bytes(g, GUEST_CODE, code, len);
	guest_mode(g, 0, GUEST_LONG);
	gate(g, 13, GUEST_CODE + 0x100);
	gate(g, 6, GUEST_CODE + 0x180);
}
#define start(g, name) start(g, name##_start, name##_end - name##_start)

static uint64_t msr_get(struct guest *g, int i, uint32_t index)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = index };

	check_equal(guest_ioctl(g->vcpu[i], KVM_GET_MSRS, &m), 1);
	return m.e.data;
}

static void msr_set(struct guest *g, int i, uint32_t index, uint64_t value)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = index, .data = value } };

	check_equal(guest_ioctl(g->vcpu[i], KVM_SET_MSRS, &m), 1);
}

static void cap_enable(int fd, uint32_t cap, uint64_t arg)
{
	guest_ioctl(fd, KVM_ENABLE_CAP, &(struct kvm_enable_cap){ .cap = cap, .args[0] = arg });
}

/* Runs code, then tells a port. #GP (at two-byte instructions) and #UD (at three-byte ones) count in EBX and go on behind. */
#define COUNT_FAULTS(name, code) \
	GUEST_ASM(name, 64, "xor %ebx, %ebx\n" code "\n out %al, $0x14\n" \
	          ".org " #name "_start + 0x100\n inc %ebx\n add $8, %rsp\n addq $2, (%rsp)\n iretq\n" \
	          ".org " #name "_start + 0x180\n inc %ebx\n addq $3, (%rsp)\n iretq")

/* ---- KVM_RUN with immediate_exit ---- */

GUEST_ASM(port, 64, "out %al, $0x14\n inc %ecx\n out %al, $0x15");

static void test_immediate_exit(void)
{
	struct guest g;

	start(&g, port);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	g.run[0]->immediate_exit = 1;
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL), -1);
	check_equal(g.run[0]->exit_reason, KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rip, GUEST_CODE + 2);      /* the access is complete, and no more */
	g.run[0]->immediate_exit = 0;
	guest_destroy(&g);
}

/* ---- MSRs ---- */

COUNT_FAULTS(read_platform, "mov $0xce, %ecx\n rdmsr");
COUNT_FAULTS(write_power, "mov $0x1fc, %ecx\n mov $0x1234, %eax\n xor %edx, %edx\n wrmsr");

static void test_platform_info(void)
{
	struct guest g;

	for (uint64_t readable = 0; readable < 2; readable++) {
		start(&g, read_platform);
		msr_set(&g, 0, PLATFORM_INFO, 0xff00);
		cap_enable(g.vm, KVM_CAP_MSR_PLATFORM_INFO, readable);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rbx, !readable);
		check(!readable || guest_regs(&g, 0).rax == 0xff00);
		check_equal(msr_get(&g, 0, PLATFORM_INFO), 0xff00);
		guest_destroy(&g);
	}
}

static void test_stored_msrs(void)
{
	struct guest g;

	start(&g, write_power);
	guest_add_vcpu(&g);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbx, 0);
	check_equal(msr_get(&g, 0, POWER_CTL), 0x1234);
	msr_set(&g, 0, KVM_WALL_CLOCK, 0x5000);                  /* one per VM */
	check_equal(msr_get(&g, 1, KVM_WALL_CLOCK), 0x5000);
	guest_destroy(&g);
}

COUNT_FAULTS(paravirtual, "mov $0x4b564d03, %ecx\n rdmsr\n mov $5, %eax\n xor %ecx, %ecx\n vmcall\n mov %rax, %rdi");

/* Without enforcement the features work whatever CPUID says. */
static void test_pv_enforcement(void)
{
	for (uint64_t enforced = 0; enforced < 2; enforced++) {
		struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };
		struct guest g;

		start(&g, paravirtual);
		guest_ioctl(g.vcpu[0], KVM_GET_CPUID2, &c);
		for (unsigned i = 0; i < c.head.nent; i++)
			if (c.e[i].function == 0x40000001)
				c.e[i].eax = 0;
		guest_ioctl(g.vcpu[0], KVM_SET_CPUID2, &c);
		cap_enable(g.vcpu[0], KVM_CAP_ENFORCE_PV_FEATURE_CPUID, enforced);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rbx, enforced);
		check(!enforced || guest_regs(&g, 0).rdi == -1000ull);
		guest_destroy(&g);
	}
}

/* ---- MONITOR and MWAIT without their CPUID feature: nothing, or #UD if the client has switched the quirk off ---- */

COUNT_FAULTS(mwait, "mov $0x8000, %eax\n xor %ecx, %ecx\n xor %edx, %edx\n monitor\n mwait");

static void test_mwait(void)
{
	for (unsigned faults = 0; faults < 2; faults++) {
		struct guest g;

		start(&g, mwait);
		cap_enable(g.vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT |
			   (faults ? KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS : 0));
		msr_set(&g, 0, MISC_ENABLE, 0);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rbx, faults ? 2 : 0);
		guest_set_regs(&g, 0, &(struct kvm_regs){ .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 });
		msr_set(&g, 0, MISC_ENABLE, 1 << 18);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rbx, 0);
		guest_destroy(&g);
	}
}

/* ---- the hypercall of the other vendor ---- */

COUNT_FAULTS(vmmcall, "mov $11, %eax\n vmmcall");
COUNT_FAULTS(vmcall, "mov $11, %eax\n vmcall");

static void test_hypercalls(void)
{
	for (unsigned faults = 0; faults < 2; faults++) {
		struct guest g;

		start(&g, vmmcall);
		cap_enable(g.vm, KVM_CAP_DISABLE_QUIRKS2, faults ? KVM_X86_QUIRK_FIX_HYPERCALL_INSN : 0);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rbx, faults);
		guest_destroy(&g);
		start(&g, vmcall);
		cap_enable(g.vm, KVM_CAP_DISABLE_QUIRKS2, faults ? KVM_X86_QUIRK_FIX_HYPERCALL_INSN : 0);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rbx, 0);
		guest_destroy(&g);
	}
}

/* ---- AMD's HWCR ---- */

COUNT_FAULTS(hwcr, "mov $0xc0010015, %ecx\n mov $1, %eax\n xor %edx, %edx\n wrmsr\n"
	"mov $0x401, %ecx\n mov $5, %eax\n wrmsr\n mov %ebx, %esi\n"
	"mov $0xc0010015, %ecx\n mov $0x40148, %eax\n wrmsr\n mov $0x401, %ecx\n mov $5, %eax\n wrmsr");

/* Which bits there are, and that McStatusWrEn lets the guest write the status of a bank. */
static void test_hwcr(void)
{
	struct guest g;
	uint64_t mcg_cap = 4;

	start(&g, hwcr);
	guest_ioctl(g.vcpu[0], KVM_X86_SETUP_MCE, &mcg_cap);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rsi, 2);
	check_equal(guest_regs(&g, 0).rbx, 2);
	check_equal(msr_get(&g, 0, 0xc0010015), 0x40000);
	check_equal(msr_get(&g, 0, 0x401), 5);
	for (unsigned bit = 0; bit < 64; bit++) {
		struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = 0xc0010015, .data = 1ull << bit } };
		bool kept = bit == 18 || bit == 24, ignored = bit == 3 || bit == 6 || bit == 8;

		msr_set(&g, 0, 0xc0010015, 0);
		check_equal(guest_ioctl(g.vcpu[0], KVM_SET_MSRS, &m), kept || ignored);
		check_equal(msr_get(&g, 0, 0xc0010015), kept ? 1ull << bit : 0);
	}
	guest_destroy(&g);
}

/* ---- KVM_GET_CPUID2 shows what follows the state ---- */

static void test_cpuid_state(void)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[100]; } c = { .head.nent = 100 };
	struct kvm_sregs s;
	struct guest g;

	start(&g, port);
	guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &s);
	for (unsigned on = 0; on < 2; on++) {
		s.cr4 = (s.cr4 & ~(1ull << 18)) | (uint64_t)on << 18;
		guest_ioctl(g.vcpu[0], KVM_SET_SREGS, &s);
		c.head.nent = 100;
		guest_ioctl(g.vcpu[0], KVM_GET_CPUID2, &c);
		for (unsigned i = 0; i < c.head.nent; i++)
			check(c.e[i].function != 1 || (c.e[i].ecx >> 27 & 1) == on);
	}
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	guest_ioctl(g.vcpu[0], KVM_SET_CPUID2, &c);              /* the same table, so still accepted */
	guest_destroy(&g);
}

/* The table that KVM_GET_CPUID2 returns after PV_UNHALT was set in it. */
static bool pv_unhalt_after(struct guest *g, uint32_t signature)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[2]; } c = { .head.nent = 2, .e = {
		{ .function = 0x40000000, .ebx = signature, .ecx = 0x564b4d56, .edx = 0x4d }, { .function = 0x40000001, .eax = 1 << 7 } } };

	guest_ioctl(g->vcpu[0], KVM_SET_CPUID2, &c);
	guest_ioctl(g->vcpu[0], KVM_GET_CPUID2, &c);
	return c.e[1].eax >> 7 & 1;
}

static void test_pv_unhalt(void)
{
	enum { KVM = 0x4b4d564b };
	struct guest g;

	start(&g, port);
	check(pv_unhalt_after(&g, KVM));
	cap_enable(g.vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT);
	check(!pv_unhalt_after(&g, KVM) && pv_unhalt_after(&g, 0xdeadbeef));
	guest_destroy(&g);
}

/* Before CPUID is set, every CR4 bit that there is may be. */
static void test_cr4_first(void)
{
	int system = anykvm_open(0), vm = guest_ioctl(system, KVM_CREATE_VM, NULL);
	int vcpu = guest_ioctl(vm, KVM_CREATE_VCPU, NULL);
	int fd[] = { vcpu, vm, system };
	struct kvm_sregs s;

	guest_ioctl(vcpu, KVM_GET_SREGS, &s);
	s.cr4 = 0x372fff;
	guest_ioctl(vcpu, KVM_SET_SREGS, &s);
	memset(&s, 0, sizeof(s));
	guest_ioctl(vcpu, KVM_GET_SREGS, &s);
	check_equal(s.cr4, 0x372fff);
	for (int i = 0; i < 3; i++) {
		anykvm_closing(fd[i]);
		close(fd[i]);
	}
}

/* ---- guest debugging ---- */

GUEST_ASM(debugged, 64, "sti\n nop\n nop\n mov %dr0, %rax\n out %al, $0x14\n .org debugged_start + 0x110\n ud2");

/* A pending interrupt waits while the client says so; DR7.GD is the client's while it debugs. */
static void test_debug(void)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ };
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, debugged);
	guest_mode(&g, 0, GUEST_LONG);
	gate(&g, 0x40, GUEST_CODE + 0x110);
	guest_ioctl(g.vcpu[0], KVM_INTERRUPT, &(struct kvm_interrupt){ .irq = 0x40 });
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	for (unsigned i = 1; i <= 3; i++) {
		check_equal(guest_run(&g, 0), KVM_EXIT_DEBUG);
		check_equal(g.run[0]->debug.arch.pc, GUEST_CODE + i);
	}
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_BLOCKIRQ;
	d.arch.debugreg[7] = 0x2400;
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	check_equal(guest_run(&g, 0), KVM_EXIT_DEBUG);
	check_equal(g.run[0]->debug.arch.pc, GUEST_CODE + 3);
	check_equal(g.run[0]->debug.arch.dr6, 0xffff2ff0);
	guest_destroy(&g);
}

static const struct { const char *name; void (*run)(void); } tests[] = {
	{ "immediate_exit leaves the exit reason", test_immediate_exit },
	{ "PLATFORM_INFO", test_platform_info },
	{ "MSRs that are only stored", test_stored_msrs },
	{ "paravirtual features as CPUID has them", test_pv_enforcement },
	{ "MONITOR and MWAIT as quirks", test_mwait },
	{ "VMMCALL as the quirk", test_hypercalls },
	{ "HWCR", test_hwcr },
	{ "CPUID that follows the state", test_cpuid_state },
	{ "PV_UNHALT without exits at HLT", test_pv_unhalt },
	{ "CR4 before CPUID", test_cr4_first },
	{ "debugging: interrupts blocked, DR7.GD", test_debug },
};

int main(void)
{
	int n = sizeof(tests) / sizeof(*tests), bad = 0;

	printf("1..%d\n", n);
	for (int i = 0; i < n; i++) {
		unsigned before = failures;

		alarm(20);
		tests[i].run();
		bad += failures != before;
		printf("%s %d - %s\n", failures == before ? "ok" : "not ok", i + 1, tests[i].name);
		fflush(stdout);
	}
	return !!bad;
}
