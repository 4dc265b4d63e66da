/* System management mode as the client sees it: address spaces and their code, events, what is refused. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include "base/base.h"
#include "kvm/api.h"
#include "smram.h"

/* ---- two address spaces ---- */

/* Both spaces have code at 38000h: SMRAM's handler, and what the guest calls there. */
GUEST_ASM(both, 64, "mov $0x38000, %edi\n 1: out %al, $0x10\n call *%rdi\n out %al, $0x11\n jmp 1b\n");
GUEST_ASM(normal, 64, "mov 0x34000, %ebx\n movl $0x11, 0x34004\n ret");
GUEST_ASM(managed, 16, "mov $0x3000, %ax\n mov %ax, %ds\n mov 0x4000, %ebx\n movl $0x22, 0x4004\n out %al, $0xb0\n rsm");

static void test_spaces(void)
{
	struct guest g;
	uint8_t *smram;

	guest_create(&g, false);
	smram = smram_create_with(&g, managed);
	guest_load(&g, both);
	guest_load_bytes(&g, 0x38000, normal_start, normal_end - normal_start);
	guest_mode(&g, 0, GUEST_LONG);
	*(uint32_t *)(g.memory + 0x34000) = 0x1111;
	*(uint32_t *)(smram + 0x4000) = 0x2222;
	for (unsigned i = 0; i < 50; i++) {
		run_to_port(&g, 0x10);
		if (i % 3)
			guest_ioctl(g.vcpu[0], KVM_SMI, NULL);
		if (i % 3) {
			run_to_port(&g, 0xb0);
			check_equal(guest_regs(&g, 0).rbx, 0x2222);
		}
		run_to_port(&g, 0x11);
		check_equal(guest_regs(&g, 0).rbx, 0x1111);
	}
	check_equal(*(uint32_t *)(g.memory + 0x34004), 0x11);
	check_equal(*(uint32_t *)(smram + 0x4004), 0x22);
	guest_destroy(&g);
	smram_destroy(smram);
}

/*
 * Code that SMM writes by another address in its own space: the guest's page 9000h is SMM's page 10000h. vCPU 1 runs it
 * all the while, until it has seen every number.
 */
GUEST_ASM(victim, 64, "mov $0x9000, %edi\n 1: call *%rdi\n out %al, $0x10\n jmp 1b\n"
	".org victim_start + 0x100\n mov $0x9000, %edi\n 2: call *%rdi\n cmp $41, %al\n jb 2b\n hlt\n");
GUEST_ASM(number, 64, "mov $1, %al\n ret");
GUEST_ASM(writer, 16, "mov $0x1000, %ax\n mov %ax, %ds\n incb 1\n rsm");

static void *run_second(void *arg)
{
	struct guest *g = arg;

	check_equal(guest_run(g, 1), KVM_EXIT_HLT);
	return NULL;
}

static void test_code(void)
{
	struct kvm_userspace_memory_region alias = { .slot = SMM_SLOTS + 1, .guest_phys_addr = 0x10000, .memory_size = 0x1000 };
	struct kvm_regs r;
	struct guest g;
	uint8_t *smram;
	pthread_t thread;

	guest_create(&g, false);
	guest_add_vcpu(&g);
	smram = smram_create_with(&g, writer);
	alias.userspace_addr = (uintptr_t)g.memory + 0x9000;
	guest_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &alias);
	guest_load(&g, victim);
	guest_load_bytes(&g, 0x9000, number_start, number_end - number_start);
	guest_mode(&g, 0, GUEST_LONG);
	guest_mode(&g, 1, GUEST_LONG);
	r = guest_regs(&g, 1);
	r.rip += 0x100;
	guest_set_regs(&g, 1, &r);
	pthread_create(&thread, NULL, run_second, &g);
	for (unsigned i = 1; i <= 41; i++) {
		run_to_port(&g, 0x10);
		check_equal(guest_regs(&g, 0).rax & 0xff, i);
		guest_ioctl(g.vcpu[0], KVM_SMI, NULL);
	}
	pthread_join(thread, NULL);
	check_equal(guest_regs(&g, 1).rax & 0xff, 41);
	guest_destroy(&g);
	smram_destroy(smram);
}

static void test_dirty(void)
{
	struct kvm_userspace_memory_region logged = { .slot = SMM_SLOTS, .guest_phys_addr = SMBASE, .memory_size = SMRAM_SIZE,
	                                              .flags = KVM_MEM_LOG_DIRTY_PAGES };
	uint64_t bits = 0;
	struct kvm_dirty_log log = { .slot = SMM_SLOTS, .dirty_bitmap = &bits };
	struct guest g;
	uint8_t *smram;

	guest_create(&g, false);
	smram = smram_create_with(&g, managed);
	logged.userspace_addr = (uintptr_t)smram;
	guest_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &logged);
	guest_load(&g, both);
	guest_mode(&g, 0, GUEST_LONG);
	guest_ioctl(g.vcpu[0], KVM_SMI, NULL);
	run_to_port(&g, 0xb0);
	guest_ioctl(g.vm, KVM_GET_DIRTY_LOG, &log);
	check_equal(bits, 1 << 4 | 1 << 15);     /* the handler's data, the state-save area */
	guest_ioctl(g.vm, KVM_GET_DIRTY_LOG, &log);
	check_equal(bits, 0);
	log.slot = 0;
	check(anykvm_ioctl(g.vm, KVM_GET_DIRTY_LOG, &log) < 0 && errno == ENOENT);
	log.slot = 2 << 16;
	check(anykvm_ioctl(g.vm, KVM_GET_DIRTY_LOG, &log) < 0 && errno == EINVAL);
	logged.slot = 2 << 16;
	check(anykvm_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &logged) < 0 && errno == EINVAL);
	logged.slot = SMM_SLOTS | 0xffff;
	check(anykvm_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &logged) < 0 && errno == EINVAL);
	guest_destroy(&g);
	smram_destroy(smram);
}

/* ---- events ---- */

GUEST_ASM(plain, 64, "1: out %al, $0x10\n jmp 1b");
GUEST_ASM(handler, 16, "out %al, $0xb0\n nop\n out %al, $0xb1\n rsm");

/* In 64-bit mode, an SMI waits. */
static uint8_t *create_with_smi(struct guest *g)
{
	uint8_t *smram;

	guest_create(g, true);
	smram = smram_create_with(g, handler);
	guest_load(g, plain);
	guest_mode(g, 0, GUEST_LONG);
	guest_ioctl(g->vcpu[0], KVM_SMI, NULL);
	return smram;
}

/* In and out of SMM by the client alone: the mode changes, the registers are the client's business. */
static void test_events(void)
{
	struct kvm_vcpu_events e;
	struct guest g;
	uint8_t *smram;

	smram = create_with_smi(&g);
	run_to_port(&g, 0xb0);
	e = guest_events(&g);
	check(e.flags & KVM_VCPUEVENT_VALID_SMM);
	e.smi.smm = 0;
	e.flags &= ~KVM_VCPUEVENT_VALID_SMM;
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);         /* not valid: nothing changes */
	check(guest_in_smm(&g));
	e.flags |= KVM_VCPUEVENT_VALID_SMM;
	e.smi.smm = 1;
	e.smi.pending = 1;
	e.smi.smm_inside_nmi = 1;
	e.smi.latched_init = 1;
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	e = guest_events(&g);
	check(e.smi.smm && e.smi.pending && e.smi.smm_inside_nmi && e.smi.latched_init);
	e.smi.latched_init = e.smi.pending = 0;
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	run_to_port(&g, 0xb1);
	run_to_port(&g, 0x10);
	check_equal(guest_events(&g).nmi.masked, 1);             /* as smm_inside_nmi said */
	e = guest_events(&g);
	e.smi.smm = 1;
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	check(guest_events(&g).smi.smm);
	e.smi.smm = 0;
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	check(!guest_events(&g).smi.smm && !guest_events(&g).smi.smm_inside_nmi);
	guest_destroy(&g);
	smram_destroy(smram);
}

static void test_refused(void)
{
	struct kvm_mp_state init = { .mp_state = KVM_MP_STATE_INIT_RECEIVED }, sipi = { .mp_state = KVM_MP_STATE_SIPI_RECEIVED };
	struct kvm_vcpu_events e;
	struct guest g;
	uint8_t *smram;

	smram = create_with_smi(&g);
	for (unsigned i = 0; i < 2; i++) {       /* one waits; in SMM */
		check(anykvm_ioctl(g.vcpu[0], KVM_SET_MP_STATE, &init) < 0 && errno == EINVAL);
		check(anykvm_ioctl(g.vcpu[0], KVM_SET_MP_STATE, &sipi) < 0 && errno == EINVAL);
		run_to_port(&g, i ? 0xb1 : 0xb0);
	}
	run_to_port(&g, 0x10);
	e = guest_events(&g);
	guest_ioctl(g.vcpu[0], KVM_SET_MP_STATE, &init);
	guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
	e.smi.smm = 1;
	check(anykvm_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e) < 0 && errno == EINVAL);
	e.smi.smm = 0;
	e.smi.pending = 1;
	check(anykvm_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e) < 0 && errno == EINVAL);
	guest_destroy(&g);
	smram_destroy(smram);
}

static bool listed(struct guest *g, uint32_t msr)
{
	struct { struct kvm_msr_list head; uint32_t index[400]; } list = { .head.nmsrs = 400 };

	guest_ioctl(g->system, KVM_GET_MSR_INDEX_LIST, &list);
	for (unsigned i = 0; i < list.head.nmsrs; i++)
		if (list.index[i] == msr)
			return true;
	return false;
}

/* anykvm.smm switches all of it off. */
static void test_parameter(void)
{
	static const struct { unsigned long cap; int with, without; } caps[] = {
		{ KVM_CAP_X86_SMM, 1, 0 }, { KVM_CAP_MULTI_ADDRESS_SPACE, 2, 1 } };

	for (unsigned on = 0; on < 2; on++) {
		struct kvm_userspace_memory_region slot = { .slot = SMM_SLOTS, .memory_size = 0x1000 };
		struct kvm_msi message = { .address_lo = 0xfee00000, .data = 2 << 8 };
		struct kvm_vcpu_events e;
		struct guest g;

		params.smm = on;
		guest_create(&g, true);
		slot.userspace_addr = (uintptr_t)g.memory;
		guest_load(&g, plain);
		guest_mode(&g, 0, GUEST_LONG);
		for (unsigned i = 0; i < ARRAY_SIZE(caps); i++)
			check_equal(guest_ioctl(g.system, KVM_CHECK_EXTENSION, (void *)caps[i].cap), on ? caps[i].with : caps[i].without);
		check_equal(listed(&g, 0x9e), on);
		check_equal(listed(&g, 0x34), on);
		check_equal(anykvm_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &slot), on ? 0 : -1);
		e = guest_events(&g);
		e.smi.smm = 1;
		check_equal(anykvm_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e), on ? 0 : -1);
		e.smi.smm = 0;
		guest_ioctl(g.vcpu[0], KVM_SET_VCPU_EVENTS, &e);
		check_equal(anykvm_ioctl(g.vcpu[0], KVM_SMI, NULL), on ? 0 : -1);
		if (!on) {
			guest_ioctl(g.vm, KVM_SIGNAL_MSI, &message);
			run_to_port(&g, 0x10);
			run_to_port(&g, 0x10);
		}
		guest_destroy(&g);
	}
}

static const struct test tests[] = {
	{ "each space has its own memory and code", test_spaces },
	{ "code that SMM writes by another address", test_code },
	{ "slots and dirty logs of both spaces", test_dirty },
	{ "SMM by KVM_SET_VCPU_EVENTS", test_events },
	{ "what is refused", test_refused },
	{ "the parameter", test_parameter },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
