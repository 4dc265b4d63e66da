/* What the client sets it gets back; every listed MSR can be read and written; debugging by the client. */
#include <errno.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

GUEST_ASM(count, 64, "inc %rax\n inc %rax\n int3\n inc %rax\n inc %rax\n hlt");

static void test_registers(void)
{
	struct guest g;
	struct kvm_regs in, out;
	struct kvm_sregs s, t;
	struct kvm_debugregs d = { .db = { 1, 2, 3, 4 }, .dr6 = 0xffff4ff0, .dr7 = 0x400 }, e;

	guest_create(&g, true);
	for (unsigned i = 0; i < sizeof(in) / 8; i++)
		((uint64_t *)&in)[i] = 0x1111111111111111 * (i % 14 + 1);
	in.rflags = 0x246;
	guest_set_regs(&g, 0, &in);
	out = guest_regs(&g, 0);
	check(!memcmp(&in, &out, sizeof(in)));
	guest_mode(&g, 0, GUEST_LONG);
	guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &s);
	guest_ioctl(g.vcpu[0], KVM_SET_SREGS, &s);
	guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &t);
	check(!memcmp(&s, &t, sizeof(s)));
	s.cr0 &= ~1ull;                  /* PG without PE */
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_SET_SREGS, &s), -1);
	check_equal(errno, EINVAL);
	guest_ioctl(g.vcpu[0], KVM_SET_DEBUGREGS, &d);
	guest_ioctl(g.vcpu[0], KVM_GET_DEBUGREGS, &e);
	check(!memcmp(&d, &e, sizeof(d)));
	guest_destroy(&g);
}

static void test_fpu(void)
{
	struct guest g;
	struct kvm_fpu f, h;
	struct kvm_xsave x, y;

	guest_create(&g, true);
	memset(&f, 0, sizeof(f));
	f.fcw = 0x27f;
	f.mxcsr = 0x1f80;
	f.ftwx = 0xff;
	memset(f.xmm, 0x5a, sizeof(f.xmm));
	for (int i = 0; i < 8; i++)
		memset(f.fpr[i], 0x11 * i, 10);
	guest_ioctl(g.vcpu[0], KVM_SET_FPU, &f);
	guest_ioctl(g.vcpu[0], KVM_GET_FPU, &h);
	check(!memcmp(f.fpr, h.fpr, sizeof(f.fpr)));
	check(!memcmp(f.xmm, h.xmm, sizeof(f.xmm)));
	check_equal(f.fcw, h.fcw);
	check_equal(f.mxcsr, h.mxcsr);
	guest_ioctl(g.vcpu[0], KVM_GET_XSAVE, &x);
	guest_ioctl(g.vcpu[0], KVM_SET_XSAVE, &x);
	guest_ioctl(g.vcpu[0], KVM_GET_XSAVE, &y);
	check(!memcmp(&x, &y, sizeof(x)));
	x.region[512 / 4 + 1] = 0x80000000;      /* a component that nobody has */
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_SET_XSAVE, &x), -1);
	guest_destroy(&g);
}

static void test_msrs(void)
{
	struct guest g;
	struct { struct kvm_msr_list head; uint32_t index[400]; } list = { .head.nmsrs = 400 };
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1 };

	guest_create(&g, true);
	guest_ioctl(g.system, KVM_GET_MSR_INDEX_LIST, &list);
	check(list.head.nmsrs > 20);
	for (unsigned i = 0; i < list.head.nmsrs; i++) {
		m.e.index = list.index[i];
		if (guest_ioctl(g.vcpu[0], KVM_GET_MSRS, &m) != 1 || guest_ioctl(g.vcpu[0], KVM_SET_MSRS, &m) != 1) {
			printf("# MSR %#x is listed but cannot be read and written\n", m.e.index);
			failures++;
		}
	}
	m.e.index = 0x12345678;
	check_equal(guest_ioctl(g.vcpu[0], KVM_GET_MSRS, &m), 0);
	guest_destroy(&g);
}

static void test_tsc(void)
{
	struct guest g;
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = 0x10 };
	uint64_t a[2];

	guest_create(&g, true);
	guest_add_vcpu(&g);
	for (int i = 0; i < 2; i++) {
		m.e.data = 0;
		usleep(1000);
		check_equal(guest_ioctl(g.vcpu[i], KVM_SET_MSRS, &m), 1);
	}
	for (int i = 0; i < 2; i++) {
		guest_ioctl(g.vcpu[i], KVM_GET_DEVICE_ATTR, &(struct kvm_device_attr){ .group = KVM_VCPU_TSC_CTRL,
			.attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&a[i] });
	}
	check_equal(a[0], a[1]);
	check(guest_ioctl(g.vcpu[0], KVM_GET_TSC_KHZ, NULL) > 100000);
	guest_destroy(&g);
}

static void test_events(void)
{
	struct guest g;
	struct kvm_vcpu_events e;
	struct kvm_mp_state s;

	guest_create(&g, true);
	guest_add_vcpu(&g);
	guest_ioctl(g.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	check(!e.exception.injected && !e.interrupt.injected && !e.nmi.pending && !e.nmi.masked);
	e.interrupt.injected = 1;
	e.interrupt.nr = 0x33;
	e.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	e.nmi.pending = 1;
	e.nmi.masked = 1;
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	memset(&e, 0, sizeof(e));
	guest_ioctl(g.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	check(e.interrupt.injected && e.nmi.pending && e.nmi.masked);
	check_equal(e.interrupt.nr, 0x33);
	check_equal(e.interrupt.shadow, KVM_X86_SHADOW_INT_STI);
	e.exception.injected = 1;
	e.exception.nr = 2;
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e), -1);
	guest_ioctl(g.vcpu[0], KVM_GET_MP_STATE, &s);
	check_equal(s.mp_state, KVM_MP_STATE_RUNNABLE);
	guest_ioctl(g.vcpu[1], KVM_GET_MP_STATE, &s);
	check_equal(s.mp_state, KVM_MP_STATE_UNINITIALIZED);
	s.mp_state = KVM_MP_STATE_HALTED;
	guest_ioctl(g.vcpu[1], KVM_SET_MP_STATE, &s);
	s.mp_state = 0;
	guest_ioctl(g.vcpu[1], KVM_GET_MP_STATE, &s);
	check_equal(s.mp_state, KVM_MP_STATE_HALTED);
	guest_destroy(&g);
}

static void test_debug(void)
{
	struct guest g;
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };

	guest_create(&g, false);
	guest_load(&g, count);
	guest_mode(&g, 0, GUEST_LONG);
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	for (int i = 1; i <= 2; i++) {
		check_equal(guest_run(&g, 0), KVM_EXIT_DEBUG);
		check_equal(g.run[0]->debug.arch.pc, GUEST_CODE + 3 * i);
		check(g.run[0]->debug.arch.dr6 & 0x4000);
		check_equal(guest_regs(&g, 0).rax, i);
		check_equal(guest_regs(&g, 0).rflags & 0x100, 0);
	}
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	check_equal(guest_run(&g, 0), KVM_EXIT_DEBUG);
	check_equal(g.run[0]->debug.arch.exception, 3);
	check_equal(g.run[0]->debug.arch.pc, GUEST_CODE + 6);
	g.memory[GUEST_CODE + 6] = 0x90;
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	d.arch.debugreg[0] = GUEST_CODE + 10;
	d.arch.debugreg[7] = 0x402;
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	check_equal(guest_run(&g, 0), KVM_EXIT_DEBUG);
	check_equal(g.run[0]->debug.arch.pc, GUEST_CODE + 10);
	check_equal(guest_regs(&g, 0).rax, 3);
	d.control = 0;
	guest_ioctl(g.vcpu[0], KVM_SET_GUEST_DEBUG, &d);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rax, 4);
	guest_destroy(&g);
}

static void test_sync_regs(void)
{
	struct guest g;
	struct kvm_run *run;

	guest_create(&g, false);
	run = g.run[0];
	guest_load(&g, count);
	guest_mode(&g, 0, GUEST_LONG);
	run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	run->kvm_dirty_regs = 0x80;
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_RUN, NULL), -1);
	check_equal(errno, EINVAL);
	guest_ioctl(g.vcpu[0], KVM_GET_REGS, &run->s.regs.regs);
	run->s.regs.regs.rax = 41;
	run->s.regs.regs.rip = GUEST_CODE + 10;
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(run->s.regs.regs.rax, 42);
	guest_destroy(&g);
}

static void test_nested_state(void)
{
	struct guest g;
	union { struct kvm_nested_state s; uint8_t bytes[8320]; } n = { .s.size = sizeof(n) };

	guest_create(&g, true);
	guest_ioctl(g.vcpu[0], KVM_GET_NESTED_STATE, &n);
	check_equal(n.s.size, 128);
	check_equal(n.s.hdr.vmx.vmxon_pa, ~0ull);
	check_equal(n.s.hdr.vmx.vmcs12_pa, ~0ull);
	n.s.size = sizeof(n);
	guest_ioctl(g.vcpu[0], KVM_SET_NESTED_STATE, &n);
	n.s.size = 100;
	check_equal(anykvm_ioctl(g.vcpu[0], KVM_GET_NESTED_STATE, &n), -1);
	check_equal(errno, E2BIG);
	check_equal(n.s.size, 128);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "registers", test_registers },
	{ "x87 and vector state", test_fpu },
	{ "MSR list", test_msrs },
	{ "TSC synchronisation", test_tsc },
	{ "events and MP state", test_events },
	{ "debugging by the client", test_debug },
	{ "KVM_CAP_SYNC_REGS", test_sync_regs },
	{ "nested state", test_nested_state },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
