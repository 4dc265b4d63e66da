/*
 * Two processors whose interrupt controllers are the client's: it starts the second one by setting its registers, ends
 * HLT, brings interrupts with KVM_INTERRUPT when the guest takes them, and calls a running processor out by a signal.
 * An output to a port is the guest's way to send: an interrupt (IPI), INIT, or SIPI to the other processor.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>
#include "guest.h"
#include "kvm/api.h"

enum { PORT_IPI = 0x20, PORT_INIT, PORT_SIPI, PORT_END };
enum { SHARED = 0x20000, ROUNDS = 400 };

struct apic {
	pthread_t thread;
	int pending;                     /* vector, or -1 */
	uint8_t sipi;
	bool init, started, halted, end, failed;
};

static struct guest g;
static struct apic apic[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* The shim's part. */
static void on_signal(int signo, siginfo_t *info, void *context)
{
	uint64_t mask;

	memcpy(&mask, &((ucontext_t *)context)->uc_sigmask, sizeof(mask));
	anykvm_signal_waits(&mask);
	memcpy(&((ucontext_t *)context)->uc_sigmask, &mask, sizeof(mask));
}

/* Has processor i look at what was changed; the lock is held. */
static void kick(unsigned i)
{
	g.run[i]->immediate_exit = 1;
	pthread_kill(apic[i].thread, SIGUSR1);
	pthread_cond_broadcast(&changed);
}

static void send(unsigned from)
{
	struct kvm_run *run = g.run[from];
	struct apic *to = &apic[!from];
	uint8_t value = ((uint8_t *)run)[run->io.data_offset];

	switch (run->io.port) {
	case PORT_IPI: to->pending = value; break;
	case PORT_INIT: to->init = true; break;
	case PORT_SIPI: to->sipi = value; break;
	case PORT_END: apic[0].end = apic[1].end = true; break;
	default: apic[from].failed = true;
	}
	kick(!from);
}

/* What INIT makes of a processor, as far as this guest cares; it waits for a SIPI then. */
static void init_do(unsigned i)
{
	struct kvm_segment data = { .limit = 0xffff, .type = 3, .present = 1, .s = 1 }, code = data;
	struct kvm_vcpu_events e;
	struct kvm_sregs s;

	code.type = 11;
	code.selector = apic[i].sipi << 8;
	code.base = apic[i].sipi << 12;
	guest_ioctl(g.vcpu[i], KVM_GET_SREGS, &s);
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.idt = (struct kvm_dtable){ .limit = 0x3ff };
	s.cr0 = 0x10;
	s.cr3 = s.cr4 = s.efer = 0;
	guest_ioctl(g.vcpu[i], KVM_SET_SREGS, &s);
	guest_set_regs(&g, i, &(struct kvm_regs){ .rflags = 2 });
	guest_ioctl(g.vcpu[i], KVM_GET_VCPU_EVENTS, &e);
	e.interrupt.injected = e.interrupt.shadow = 0;
	guest_ioctl(g.vcpu[i], KVM_SET_VCPU_EVENTS, &e);
	apic[i].pending = -1;
	apic[i].halted = false;
}

/* Until there is something to run, which is ready to be run then. */
static void prepare(unsigned i)
{
	struct apic *a = &apic[i];
	struct kvm_run *run = g.run[i];

	for (;;) {
		if (a->init)
			a->init = a->started = false;
		if (a->sipi && !a->started) {
			init_do(i);
			a->started = true;
			a->sipi = 0;
		}
		if (a->end || (a->started && (!a->halted || a->pending >= 0)))
			break;
		pthread_cond_wait(&changed, &lock);
	}
	a->halted = false;
	run->immediate_exit = 0;
	if (a->pending >= 0 && run->ready_for_interrupt_injection && run->if_flag) {
		guest_ioctl(g.vcpu[i], KVM_INTERRUPT, &(struct kvm_interrupt){ .irq = a->pending });
		a->pending = -1;
	}
	run->request_interrupt_window = a->pending >= 0;
}

static void exited(unsigned i, int error)
{
	if (error) {
		apic[i].failed = apic[i].failed || error != EINTR;
		return;
	}
	switch (g.run[i]->exit_reason) {
	case KVM_EXIT_IO: send(i); break;
	case KVM_EXIT_HLT: apic[i].halted = g.run[i]->if_flag; break;
	case KVM_EXIT_IRQ_WINDOW_OPEN: break;
	default: apic[i].failed = true;
	}
}

static void *processor(void *arg)
{
	unsigned i = (struct apic *)arg - apic;

	pthread_mutex_lock(&lock);
	for (prepare(i); !apic[i].end && !apic[i].failed; prepare(i)) {
		int error;

		pthread_mutex_unlock(&lock);
		error = anykvm_ioctl(g.vcpu[i], KVM_RUN, NULL) < 0 ? errno : 0;
		anykvm_signals_return();
		pthread_mutex_lock(&lock);
		exited(i, error);
	}
	apic[!i].end = true;
	kick(!i);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void idt_gate(unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { offset | 24ull << 16 | 0x8e00ull << 32, 0 };

	memcpy(g.memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

/* The first processor runs the one code in long mode; the second is started with the other, in real mode, at 9000h. */
static void run(const uint8_t *first, size_t first_len, const uint8_t *second, size_t second_len)
{
	sigaction(SIGUSR1, &(struct sigaction){ .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO }, NULL);
	guest_create(&g, false);
	guest_add_vcpu(&g);
	guest_mode(&g, 0, GUEST_LONG);
	guest_load_bytes(&g, GUEST_CODE, first, first_len);
	guest_load_bytes(&g, 0x9000, second, second_len);
	idt_gate(0x40, GUEST_CODE + 0x100);
	memcpy(g.memory + 4 * 0x41, (uint16_t []){ 0x100, 0x900 }, 4);
	for (unsigned i = 0; i < 2; i++)
		apic[i] = (struct apic){ .pending = -1, .started = !i };
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&apic[i].thread, NULL, processor, &apic[i]);
	pthread_mutex_unlock(&lock);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(apic[i].thread, NULL);
	for (unsigned i = 0; i < 2; i++)
		check(!apic[i].failed);
}
#define run(first, second) run(first##_start, first##_end - first##_start, second##_start, second##_end - second##_start)

static uint32_t counter(unsigned i) { return *(uint32_t *)(g.memory + SHARED + 4 * i); }

/* Each answers the other's interrupt with one, and waits for it as WAIT says. */
#define START "mov $0x21, %dx\n xor %eax, %eax\n out %al, %dx\n mov $9, %al\n inc %dx\n out %al, %dx\n"
#define PING(name, WAIT) \
GUEST_ASM(ping_##name, 64, START "mov $0x20000, %esi\n xor %ebp, %ebp\n" \
	"1: " WAIT "cmp (%rsi), %ebp\n je 1b\n inc %ebp\n cmp $400, %ebp\n jae 2f\n mov $0x41, %al\n out %al, $0x20\n jmp 1b\n" \
	"2: out %al, $0x23\n hlt\n .org ping_" #name "_start + 0x100\n incl (%rsi)\n iretq\n"); \
GUEST_ASM(pong_##name, 16, "mov $0x2000, %ax\n mov %ax, %ds\n mov $0x5000, %sp\n xor %ebp, %ebp\n" \
	"0: mov $0x40, %al\n out %al, $0x20\n" \
	"1: " WAIT "cmp 4, %ebp\n je 1b\n inc %ebp\n jmp 0b\n .org pong_" #name "_start + 0x100\n incl 4\n iretw\n")

PING(halted, "sti\n hlt\n cli\n ");
PING(running, "sti\n pause\n ");
PING(window, "sti\n nop\n cli\n ");

static void check_pings(void)
{
	check_equal(counter(0), ROUNDS);
	check(counter(1) == ROUNDS - 1);
	guest_destroy(&g);
}

static void test_halted(void) { run(ping_halted, pong_halted); check_pings(); }
static void test_running(void) { run(ping_running, pong_running); check_pings(); }
static void test_window(void) { run(ping_window, pong_window); check_pings(); }

/* INIT and SIPI to a processor that works, or sleeps without interrupts, again and again. */
GUEST_ASM(restarter, 64,
	"mov $0x20000, %esi\n mov $1, %ebx\n"
	"1: " START "2: pause\n cmp %ebx, (%rsi)\n jne 2b\n inc %ebx\n cmp $100, %ebx\n jbe 1b\n out %al, $0x23\n hlt\n");
GUEST_ASM(restarted, 16, "mov $0x2000, %ax\n mov %ax, %ds\n incl 0\n testb $1, 0\n jz 2f\n 1: pause\n jmp 1b\n 2: sti\n hlt\n jmp 2b\n");

static void test_restart(void)
{
	run(restarter, restarted);
	check_equal(counter(0), 100);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "interrupts between processors that sleep", test_halted },
	{ "interrupts between processors that run", test_running },
	{ "interrupts between processors that take them now and then", test_window },
	{ "INIT and SIPI to a processor at work", test_restart },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
