/*
 * When an SMI is taken, and what waits for the end of SMM; the two address
 * spaces; the client's side of it.
 */
#include <errno.h>
#include <pthread.h>
#include "base/base.h"
#include "kvm/api.h"
#include "smram.h"

/* Ports: 10h and up outside SMM, b0h in the handler, 30h in the handler of an NMI. */
GUEST_ASM(code, 64,
	"out %al, $0x10\n nop\n out %al, $0x11\n hlt\n out %al, $0x12\n hlt\n"
	".org code_start + 0x100\n out %al, $0x30\n out %al, $0x31\n iretq\n"
	".org code_start + 0x180\n out %al, $0x10\n sti\n out %al, $0x11\n nop\n hlt\n"
	".org code_start + 0x200\n int $0x50\n out %al, $0x11\n hlt\n"
	".org code_start + 0x280\n out %al, $0x13\n iretq");
GUEST_ASM(handler, 16, "out %al, $0xb0\n nop\n out %al, $0xb1\n rsm");

struct events { struct guest g; uint8_t *smram; };

static void gate(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

static void start_at(struct events *t, bool irqchip, unsigned offset)
{
	struct kvm_regs r;

	guest_create(&t->g, irqchip);
	t->smram = smram_create_with(&t->g, handler);
	guest_load(&t->g, code);
	guest_mode(&t->g, 0, GUEST_LONG);
	gate(&t->g, 2, GUEST_CODE + 0x100);
	gate(&t->g, 0x50, GUEST_CODE + 0x280);
	r = guest_regs(&t->g, 0);
	r.rip += offset;
	guest_set_regs(&t->g, 0, &r);
}

static void start(struct events *t, bool irqchip)
{
	start_at(t, irqchip, 0);
	run_to_port(&t->g, 0x10);
}

static void end(struct events *t)
{
	guest_destroy(&t->g);
	smram_destroy(t->smram);
}

static void smi(struct events *t) { guest_ioctl(t->g.vcpu[0], KVM_SMI, NULL); }
static void nmi(struct events *t) { guest_ioctl(t->g.vcpu[0], KVM_NMI, NULL); }

/* The exits that follow, to the end. */
static void expect_ports(struct events *t, const char *name, const uint16_t *ports)
{
	enum { HLT = 0 };

	for (unsigned i = 0; i == 0 || ports[i - 1] != HLT; i++) {
		int exit = guest_run(&t->g, 0);
		unsigned port = exit == KVM_EXIT_IO ? t->g.run[0]->io.port : exit == KVM_EXIT_HLT ? HLT : 0xffff;

		if (port != ports[i]) {
			printf("# %s, step %u: exit %d port %#x, not %#x\n", name, i, exit, port, ports[i]);
			failures++;
			return;
		}
	}
}
#define EXPECT(t, name, ...) expect_ports(t, name, (const uint16_t[]){ __VA_ARGS__, 0 })

/* ---- what comes first, and what waits ---- */

static void test_latched(void)
{
	struct events t;

	start(&t, false);
	smi(&t);
	smi(&t);                                 /* two that nobody has taken are one */
	EXPECT(&t, "two SMIs at once", 0xb0, 0xb1, 0x11);
	end(&t);

	start(&t, false);
	smi(&t);
	run_to_port(&t.g, 0xb0);
	smi(&t);
	check_equal(guest_events(&t.g).smi.pending, 1);
	EXPECT(&t, "one in SMM", 0xb1, 0xb0, 0xb1, 0x11);
	end(&t);
}

static void test_nmi(void)
{
	struct events t;

	start(&t, false);
	nmi(&t);
	smi(&t);
	EXPECT(&t, "SMI before NMI", 0xb0, 0xb1, 0x30, 0x31, 0x11);
	end(&t);

	start(&t, false);
	smi(&t);
	run_to_port(&t.g, 0xb0);
	nmi(&t);
	EXPECT(&t, "NMI in SMM", 0xb1, 0x30, 0x31, 0x11);
	end(&t);

	/* NMIs are blocked before, and again after; without it they would not be. */
	start(&t, false);
	nmi(&t);
	run_to_port(&t.g, 0x30);
	smi(&t);
	run_to_port(&t.g, 0xb0);
	check_equal(guest_events(&t.g).smi.smm_inside_nmi, 1);
	nmi(&t);
	run_to_port(&t.g, 0xb1);
	run_to_port(&t.g, 0x31);
	check_equal(guest_events(&t.g).nmi.masked, 1);
	check_equal(guest_events(&t.g).smi.smm_inside_nmi, 0);
	EXPECT(&t, "SMI in the handler of an NMI", 0x30, 0x31, 0x11);
	end(&t);
}

/* IRET ends NMI blocking in SMM, too; RSM sets it as it was. */
GUEST_ASM(iret_handler, 16,
	"mov %cs, %ax\n mov %ax, %ds\n lidt %cs:0x8080\n mov %ax, %ss\n mov $0x7000, %sp\n"
	"pushf\n push %cs\n push $0x8020\n iret\n .org iret_handler_start + 0x20\n out %al, $0xb0\n nop\n out %al, $0xb1\n rsm\n"
	".org iret_handler_start + 0x60\n out %al, $0x32\n iret\n"
	".org iret_handler_start + 0x80\n .word 0x3ff\n .long 0x38100\n"
	".org iret_handler_start + 0x108\n .word 0x8060, 0x3000");

static void test_iret(void)
{
	struct events t;

	start(&t, false);
	memcpy(t.smram + 0x8000, iret_handler_start, iret_handler_end - iret_handler_start);
	smi(&t);
	run_to_port(&t.g, 0xb0);
	check_equal(guest_events(&t.g).nmi.masked, 0);
	nmi(&t);
	run_to_port(&t.g, 0x32);
	check(guest_in_smm(&t.g));
	EXPECT(&t, "NMI after IRET in SMM", 0xb1, 0x11);
	end(&t);
}

static void test_shadow(void)
{
	struct events t;

	start_at(&t, false, 0x180);
	run_to_port(&t.g, 0x10);
	run_to_port(&t.g, 0x11);                 /* this OUT is in STI's shadow */
	smi(&t);
	check_equal(guest_events(&t.g).interrupt.shadow, KVM_X86_SHADOW_INT_STI);
	run_to_port(&t.g, 0xb0);
	check_equal(smram_get(t.smram, 0xff78, 8), GUEST_CODE + 0x185);
	check(smram_get(t.smram, 0xff70, 8) & 0x200);
	run_to_port(&t.g, 0xb1);
	check_equal(guest_run(&t.g, 0), KVM_EXIT_HLT);
	end(&t);
}

/* An event that is being delivered goes first: the handler's first instruction is where the SMI is taken. */
static void test_delivery(void)
{
	struct kvm_vcpu_events e;
	struct events t;

	start(&t, false);
	settle(&t.g);
	smi(&t);
	e = guest_events(&t.g);
	e.interrupt.injected = 1;
	e.interrupt.nr = 0x50;
	guest_ioctl(t.g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	run_to_port(&t.g, 0xb0);
	check_equal(smram_get(t.smram, 0xff78, 8), GUEST_CODE + 0x280);
	EXPECT(&t, "interrupt being delivered", 0xb1, 0x13, 0x11);
	end(&t);
}

/* ---- HLT ---- */

static void test_halt(void)
{
	struct kvm_mp_state m = { .mp_state = KVM_MP_STATE_HALTED };

	for (unsigned restart = 0; restart < 2; restart++) {
		struct events t;

		start(&t, true);
		settle(&t.g);
		guest_ioctl(t.g.vcpu[0], KVM_SET_MP_STATE, &m);
		smi(&t);
		run_to_port(&t.g, 0xb0);
		check_equal(smram_get(t.smram, 0xfec9, 1), 1);
		smram_set(t.smram, 0xfec9, 1, restart);
		run_to_port(&t.g, 0xb1);
		if (!restart) {
			run_to_port(&t.g, 0x11);
		} else {                                 /* back in HLT: another SMI is what ends it */
			smi(&t);
			run_to_port(&t.g, 0xb0);
			check_equal(smram_get(t.smram, 0xfec9, 1), 1);
			smi(&t);                         /* from the handler on, so that no run waits for ever */
			run_to_port(&t.g, 0xb1);
			run_to_port(&t.g, 0xb0);
		}
		end(&t);
	}
}

/* ---- the local APIC ---- */

static void test_apic(void)
{
	struct kvm_msi message = { .address_lo = 0xfee00000, .data = 2 << 8 };
	struct events t;

	start(&t, true);
	check_equal(guest_ioctl(t.g.vm, KVM_SIGNAL_MSI, &message), 1);
	run_to_port(&t.g, 0xb0);
	run_to_port(&t.g, 0xb1);
	run_to_port(&t.g, 0x11);
	end(&t);
}

/* INIT waits in SMM; the state that it leaves is that of a processor which has had it after RSM. */
static void test_init(void)
{
	struct kvm_msi init = { .address_lo = 0xfee00000, .data = 5 << 8 };
	struct events t;

	for (unsigned both = 0; both < 2; both++) {      /* in SMM, or with the SMI, which is taken first */
		start(&t, true);
		smi(&t);
		if (!both)
			run_to_port(&t.g, 0xb0);
		check_equal(guest_ioctl(t.g.vm, KVM_SIGNAL_MSI, &init), 1);
		if (both)
			run_to_port(&t.g, 0xb0);
		check_equal(guest_events(&t.g).smi.latched_init, 1);
		check_equal(guest_sregs(&t.g).cs.base, SMBASE);
		run_to_port(&t.g, 0xb1);
		t.g.memory[0] = 0;
		guest_run(&t.g, 0);                      /* at the reset vector there is no memory */
		check_equal(guest_events(&t.g).smi.latched_init, 0);
		check(!guest_in_smm(&t.g));
		check_equal(guest_sregs(&t.g).cs.selector, 0xf000);
		check_equal(guest_sregs(&t.g).cs.base, 0xffff0000);
		end(&t);
	}
}

/* A vCPU that waits for its start-up message keeps the SMI till then. */
static void test_not_started(void)
{
	struct kvm_msi init = { .address_lo = 0xfee01000, .data = 5 << 8 }, sipi = { .address_lo = 0xfee01000, .data = 6 << 8 | 8 };
	struct kvm_mp_state m;
	struct events t;

	start(&t, true);
	guest_add_vcpu(&t.g);
	guest_ioctl(t.g.vcpu[1], KVM_SMI, NULL);
	guest_ioctl(t.g.vm, KVM_SIGNAL_MSI, &init);
	guest_ioctl(t.g.vcpu[1], KVM_GET_MP_STATE, &m);
	check_equal(m.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	guest_ioctl(t.g.vm, KVM_SIGNAL_MSI, &sipi);
	guest_ioctl(t.g.vcpu[1], KVM_GET_MP_STATE, &m);
	check_equal(m.mp_state, KVM_MP_STATE_RUNNABLE);
	check_equal(guest_run(&t.g, 1), KVM_EXIT_IO);
	check_equal(t.g.run[1]->io.port, 0xb0);
	check_equal(smram_get(t.smram, 0xfe10, 2), 0x800);       /* CS that the start-up message gave */
	check_equal(smram_get(t.smram, 0xff78, 8), 0);
	end(&t);
}

static const struct test tests[] = {
	{ "SMIs wait in SMM, and melt into one", test_latched },
	{ "SMIs and NMIs", test_nmi },
	{ "IRET in SMM", test_iret },
	{ "an SMI after STI", test_shadow },
	{ "an SMI and an event being delivered", test_delivery },
	{ "an SMI in HLT", test_halt },
	{ "SMIs by message", test_apic },
	{ "INIT waits in SMM", test_init },
	{ "a vCPU that is not started", test_not_started },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
