/* Interrupts into small guests: from the client, from the in-kernel irqchip, between vCPUs; sleep and wake-up. */
#include <errno.h>
#include <pthread.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

static void idt_gate(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32 | (uint64_t)(offset & 0xffff0000) << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

/* ---- irqchip in the client: KVM_INTERRUPT and the interrupt window ---- */

GUEST_ASM(window, 64,
	"xor %ebx, %ebx\n out %al, $0x10\n sti\n nop\n 1: pause\n test %ebx, %ebx\n jz 1b\n cli\n hlt\n"
	".org window_start + 0x100\n inc %ebx\n iretq");

static void test_window(void)
{
	struct guest g;
	struct kvm_interrupt irq = { .irq = 0x40 };

	guest_create(&g, false);
	guest_load(&g, window);
	guest_mode(&g, 0, GUEST_LONG);
	idt_gate(&g, 0x40, GUEST_CODE + 0x100);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->ready_for_interrupt_injection, 0);
	g.run[0]->request_interrupt_window = 1;
	check_equal(guest_run(&g, 0), KVM_EXIT_IRQ_WINDOW_OPEN);
	check_equal(g.run[0]->ready_for_interrupt_injection, 1);
	check_equal(g.run[0]->if_flag, 1);
	g.run[0]->request_interrupt_window = 0;
	guest_ioctl(g.vcpu[0], KVM_INTERRUPT, &irq);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 1);
	guest_destroy(&g);
}

/* ---- NMIs: one in service and one behind it; a third melts into them ---- */

GUEST_ASM(nmis, 64, "xor %ebx, %ebx\n nop\n nop\n hlt\n .org nmis_start + 0x100\n inc %ebx\n iretq");

static void test_nmis(void)
{
	struct guest g;
	struct kvm_vcpu_events e;

	guest_create(&g, false);
	guest_load(&g, nmis);
	guest_mode(&g, 0, GUEST_LONG);
	idt_gate(&g, 2, GUEST_CODE + 0x100);
	guest_set_regs(&g, 0, &(struct kvm_regs){ .rip = GUEST_CODE + 2, .rsp = GUEST_STACK, .rflags = 2 });
	for (unsigned i = 0; i < 3; i++)
		guest_ioctl(g.vcpu[0], KVM_NMI, NULL);
	guest_ioctl(g.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	check_equal(e.nmi.pending, 2);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 2);
	guest_destroy(&g);
}

/* ---- MSRs that the guest's CPUID does not have ---- */

GUEST_ASM(no_feature, 64,
	"xor %ebx, %ebx\n mov $0x10b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n mov $0x49, %ecx\n wrmsr\n"
	"mov $0x1b, %ecx\n rdmsr\n or $0x400, %eax\n wrmsr\n out %al, $0x13\n"
	".org no_feature_start + 0x100\n inc %ebx\n add $8, %rsp\n addq $2, (%rsp)\n iretq");

static void test_no_feature(void)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[1]; } c = { .head.nent = 1, .e[0] = { .function = 0x80000001,
		.edx = 1 << 29 } };
	struct guest g;

	guest_create(&g, true);
	guest_load(&g, no_feature);
	guest_mode(&g, 0, GUEST_LONG);
	guest_ioctl(g.vcpu[0], KVM_SET_CPUID2, &c);
	idt_gate(&g, 13, GUEST_CODE + 0x100);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbx, 3);
	guest_destroy(&g);
}

/* ---- LAPIC ---- */

/* xAPIC: enable, one-shot timer with vector 0x50, wait in HLT; three times; then tell the client. */
GUEST_ASM(lapic_timer, 64,
	"mov $0xfee00000, %esi\n xor %ebx, %ebx\n"
	"movl $0x1ff, 0xf0(%rsi)\n movl $0xb, 0x3e0(%rsi)\n movl $0x50, 0x320(%rsi)\n"
	"1: cli\n movl $100000, 0x380(%rsi)\n sti\n hlt\n cmp $3, %ebx\n jb 1b\n out %al, $0x11\n"
	".org lapic_timer_start + 0x100\n inc %ebx\n movl $0, 0xb0(%rsi)\n iretq");

static void test_lapic_timer(void)
{
	struct guest g;

	guest_create(&g, true);
	guest_load(&g, lapic_timer);
	guest_mode(&g, 0, GUEST_LONG);
	/* the first gigabyte only is mapped: the fourth maps the APIC */
	((uint64_t *)(g.memory + GUEST_PAGES))[512 + 3] = (GUEST_PAGES + 0x3000) | 7;
	for (uint64_t i = 0; i < 512; i++)
		((uint64_t *)(g.memory + GUEST_PAGES))[1536 + i] = (i << 21 | 3ull << 30) | 0x87;
	idt_gate(&g, 0x50, GUEST_CODE + 0x100);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(g.run[0]->io.port, 0x11);
	check_equal(guest_regs(&g, 0).rbx, 3);
	guest_destroy(&g);
}

/* ---- a second processor: INIT, SIPI, and code that one changes and the other runs ---- */

/* x2APIC: INIT and SIPI (page 9) to APIC id 1; then patch the other's code 1000 times and wait for its answer each time. */
GUEST_ASM(bsp, 64,
	"mov $0x1b, %ecx\n rdmsr\n or $0xc00, %eax\n wrmsr\n"
	"mov $0x80f, %ecx\n mov $0x1ff, %eax\n xor %edx, %edx\n wrmsr\n"
	"mov $0x830, %ecx\n mov $1, %edx\n mov $0x4500, %eax\n wrmsr\n"
	"mov $0x4609, %eax\n wrmsr\n"
	"mov $1, %ebx\n mov $0xa000, %esi\n"
	"1: movl %ebx, 0x9102\n"                 /* the immediate of the other's mov $imm32, %eax */
	"   movl %ebx, (%rsi)\n"
	"2: pause\n cmpl %ebx, 4(%rsi)\n jne 2b\n"
	"   cmpl %ebx, 8(%rsi)\n jne 3f\n"
	"   inc %ebx\n cmp $1000, %ebx\n jbe 1b\n"
	"3: out %al, $0x12\n");

/* Real mode at 9000h: waits for a new number at 0a000h, calls the patched code, stores its result, echoes the number. */
GUEST_ASM(ap, 16,
	"cli\n xor %ax, %ax\n mov %ax, %ds\n xor %ecx, %ecx\n"
	"1: pause\n mov 0xa000, %edx\n cmp %ecx, %edx\n je 1b\n mov %edx, %ecx\n"
	"   ljmp $0, $0x9080\n"
	".org ap_start + 0x80\n"
	"   cpuid\n mov 0xa000, %ecx\n ljmp $0, $0x9100\n"
	".org ap_start + 0x100\n"
	"   .byte 0x66, 0xb8, 0, 0, 0, 0\n"      /* mov $0, %eax */
	"   mov %eax, 0xa008\n mov %ecx, 0xa004\n ljmp $0, $(0x9000 + 8)\n");

static void *run_ap(void *arg)
{
	struct guest *g = arg;

	while (anykvm_ioctl(g->vcpu[1], KVM_RUN, NULL) < 0 && (errno == EAGAIN || errno == EINTR) && !g->run[1]->immediate_exit)
		;
	return NULL;
}

static void test_smp(void)
{
	struct guest g;
	pthread_t thread;

	guest_create(&g, true);
	guest_add_vcpu(&g);
	guest_load(&g, bsp);
	guest_load_bytes(&g, 0x9000, ap_start, ap_end - ap_start);
	guest_mode(&g, 0, GUEST_LONG);
	pthread_create(&thread, NULL, run_ap, &g);
	check_equal(guest_run(&g, 0), KVM_EXIT_IO);
	check_equal(guest_regs(&g, 0).rbx, 1001);
	g.run[1]->immediate_exit = 1;
	guest_set_regs(&g, 0, &(struct kvm_regs){ .rip = GUEST_CODE, .rflags = 2 });
	memcpy(g.memory + 0x9000 + 8, "\xfa\xf4", 2);
	/* the other sleeps or spins; any kick makes it look at immediate_exit */
	guest_ioctl(g.vm, KVM_SET_CLOCK, &(struct kvm_clock_data){ 0 });
	pthread_join(thread, NULL);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "interrupt window and KVM_INTERRUPT", test_window },
	{ "NMIs that wait", test_nmis },
	{ "MSRs without their feature", test_no_feature },
	{ "LAPIC timer and HLT", test_lapic_timer },
	{ "INIT, SIPI, cross-modified code", test_smp },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
