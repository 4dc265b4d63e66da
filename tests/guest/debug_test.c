/* #DB: single steps, breakpoints on code, data and ports, RF, the shadow of MOV SS, general detect; and interrupt shadows. */
#include "rig.h"

enum { TF = 0x100, RF = 0x10000, BS = 0x4000, BD = 0x2000 };

static uint64_t dr6(struct rig *rig)
{
	struct kvm_debugregs d;

	guest_ioctl(rig->g.vcpu[0], KVM_GET_DEBUGREGS, &d);
	expect("DR6's fixed bits", d.dr6 & ~0xe00full, 0xffff0ff0);
	return d.dr6 & 0xe00f;
}

static void debug_registers(struct rig *rig, uint64_t dr0, uint64_t dr7)
{
	struct kvm_debugregs d = { .db = { dr0, 0, 0, 0x4100 }, .dr6 = 0xffff0ff0, .dr7 = dr7 | 0x400 };

	guest_ioctl(rig->g.vcpu[0], KVM_SET_DEBUGREGS, &d);
}

/* Runs text, expects #DB with these bits of DR6 and the frame's RIP at the mark. */
#define DEBUG(m, name, bits, text, want, dr0, dr7, ...) do { \
	struct rig r_, *rig = &r_; rig_start(rig, m); debug_registers(rig, dr0, dr7); __VA_ARGS__; \
		rig_run(rig, CODE(bits, text)); \
	expect_outcome(rig, name, (want) < 0 ? DONE : DB, ANY); if ((want) >= 0) expect_value(name, "dr6", dr6(rig), want); \
		rig_end(rig); } while (0)
#define R0(type, len) (3 | (type) << 16 | (len) << 18)
enum { EXEC, WRITE, IO, ACCESS };
#define STEP rig->r.rflags |= TF

static void steps(void)
{
	static const enum rig_mode modes[] = { REAL, PROT, PROT3, LONG, LONG3, COMPAT3, VM86 };
	for (unsigned i = 0; i < 7; i++)
		DEBUG(modes[i], "step of NOP", 32, "nop; " AT "nop; hlt", BS, 0, 0, STEP);
	DEBUG(LONG, "POPF sets TF", 64, "push 0x102; popfq; nop; " AT "nop; hlt", BS, 0, 0);
	DEBUG(LONG, "POPF clears TF", 64, "popfq; " AT "nop; hlt", BS, 0, 0, STEP; rig->r.rsp -= 8;
		rig_poke(rig, rig->r.rsp, 8, 2));
	DEBUG(LONG, "step of REP STOSB: each iteration", 64, "nop; " AT "nop; hlt", BS, 0, 0, STEP);
	DEBUG(LONG, "step of PUSHF", 64, "pushfq; " AT "nop; hlt", BS, 0, 0, STEP);
	DEBUG(LONG, "step of a taken jump", 64, "jmp 1f; nop; 1: " AT "nop; hlt", BS, 0, 0, STEP);
	DEBUG(LONG, "step of MOV SS: after the next", 64, "mov ss, eax; nop; " AT "nop; hlt", BS, 0, 0, STEP;
		rig->r.rax = DATA32);
	DEBUG(LONG, "step of CPUID", 64, "cpuid; " AT "nop; hlt", BS, 0, 0, STEP);
	DEBUG(LONG, "step of WRMSR", 64, "wrmsr; " AT "nop; hlt", BS, 0, 0, STEP; rig->r.rcx = 0xc0000102);
	DEBUG(LONG3, "step of an indirect call", 64, "call rbx; nop; hlt; nop; 1: " AT "nop; hlt", BS, 0, 0, STEP;
		rig->r.rbx = RIG_CODE + 5);
	DEBUG(LONG, "step of IRETQ that clears TF", 64, "iretq; nop; 1: " AT "nop; hlt", BS, 0, 0, STEP; rig->r.rsp -= 40;
	      rig_poke(rig, rig->r.rsp, 8, RIG_CODE + 3); rig_poke(rig, rig->r.rsp + 8, 8, CODE64);
		rig_poke(rig, rig->r.rsp + 16, 8, 2);
	      rig_poke(rig, rig->r.rsp + 24, 8, 0x6800); rig_poke(rig, rig->r.rsp + 32, 8, DATA32));
	CASE_WITH(LONG, "a fault takes no step", UD, ANY, 64, AT "ud2; hlt", rig->r.rflags |= TF);
	CASE_WITH(LONG, "INT n takes no step before its handler", 0x40, 0, 64, "int 0x40; " AT "hlt", rig->r.rflags |= TF);
	CASE_WITH(LONG, "INT1", DB, ANY, 64, ".byte 0xf1; " AT "hlt", (void)0);
	struct rig rig;
	rig_start(&rig, LONG);
	rig.r.rflags |= TF;
	rig.r.rcx = 3;
	rig.r.rdi = RIG_DATA;
	rig_run(&rig, CODE(64, "rep stosb; hlt"));
	expect_outcome(&rig, "step of REP: one iteration", DB, ANY);
	expect("RIP at REP", rig.rip, RIG_CODE);
	expect("RCX", rig.r2.rcx, 2);
	rig_end(&rig);
	rig_start(&rig, LONG3);
	struct { struct kvm_msrs head; struct kvm_msr_entry e[2]; } m = { .head.nmsrs = 2,
		.e = { { 0xc0000082, 0, RIG_HANDLERS + 16 * 0x50 }, { 0xc0000084, 0, TF } } };
	guest_ioctl(rig.g.vcpu[0], KVM_SET_MSRS, &m);
	rig.s.efer |= 1;
	rig.r.rflags |= TF;
	rig_run(&rig, CODE(64, "syscall; nop; hlt"));
	expect("SYSCALL with TF masked: no step", rig.r2.rip, RIG_HANDLERS + 16 * 0x50 + 1);
	rig_end(&rig);
}

static void breakpoints(void)
{
	DEBUG(LONG, "on an instruction: before it", 64, "nop; nop; " AT "nop; hlt", 1, RIG_CODE + 2, R0(EXEC, 0));
	DEBUG(LONG, "on the first instruction", 64, "nop; nop; hlt", 1, RIG_CODE, R0(EXEC, 0));
	DEBUG(LONG, "RF passes it", 64, "nop; nop; hlt", -1, RIG_CODE, R0(EXEC, 0), rig->r.rflags |= RF);
	DEBUG(LONG, "disabled", 64, "nop; nop; hlt", -1, RIG_CODE, 0);
	DEBUG(LONG, "in the middle of an instruction", 64, "mov eax, 5; hlt", -1, RIG_CODE + 1, R0(EXEC, 0));
	DEBUG(LONG, "after MOV SS: not taken", 64, "mov ss, eax; nop; hlt", -1, RIG_CODE + 2, R0(EXEC, 0), rig->r.rax = DATA32);
	DEBUG(LONG, "step on to it: BS, then it", 64, "nop; " AT "nop; hlt", BS, RIG_CODE + 1, R0(EXEC, 0), STEP);
	DEBUG(LONG, "data write", 64, "mov [0x4000], eax; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 3));
	DEBUG(LONG, "data write, a read does not", 64, "mov eax, [0x4000]; hlt", -1, 0x4000, R0(WRITE, 3));
	DEBUG(LONG, "data access, a read does", 64, "mov eax, [0x4000]; " AT "nop; hlt", 1, 0x4000, R0(ACCESS, 3));
	DEBUG(LONG, "8 bytes, the last", 64, "mov [0x4007], al; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 2));
	DEBUG(LONG, "8 bytes, one after", 64, "mov [0x4008], al; hlt", -1, 0x4000, R0(WRITE, 2));
	DEBUG(LONG, "overlap from below", 64, "mov [0x3ffd], rax; " AT "nop; hlt", 1, 0x4004, R0(WRITE, 0));
	DEBUG(LONG, "1 byte, beside", 64, "mov [0x4001], eax; hlt", -1, 0x4000, R0(WRITE, 0));
	DEBUG(LONG, "address aligned down by its length", 64, "mov [0x4000], al; " AT "nop; hlt", 1, 0x4003, R0(WRITE, 3));
	DEBUG(LONG, "PUSH", 64, "push rax; " AT "nop; hlt", 1, RIG_STACK - 8, R0(WRITE, 2));
	DEBUG(LONG, "CALL", 64, "call 1f; nop; 1: " AT "nop; hlt", 1, RIG_STACK - 8, R0(WRITE, 2));
	DEBUG(LONG, "RMW", 64, "lock inc dword ptr [0x4000]; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 3));
	DEBUG(LONG, "SSE store", 64, "movups [0x3ff8], xmm0; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 3));
	DEBUG(LONG, "STOSB", 64, "mov edi, 0x4000; stosb; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 3));
	DEBUG(LONG, "MOVSB reads", 64, "mov esi, 0x4000; mov edi, 0x5000; movsb; " AT "nop; hlt", 1, 0x4000, R0(ACCESS, 3));
	DEBUG(LONG, "with a step", 64, "mov [0x4000], eax; " AT "nop; hlt", BS | 1, 0x4000, R0(WRITE, 3), STEP);
	DEBUG(LONG, "MOV SS from memory: after the next", 64, "mov ss, [0x4000]; nop; " AT "nop; hlt", 1, 0x4000,
		R0(ACCESS, 1), rig_poke(rig, 0x4000, 2, DATA32));
	DEBUG(LONG, "faulting write does not hit", 64, "mov rax, 0x4000; mov rbx, 0x40000000; movsq; hlt", -1, 0x4008,
		R0(WRITE, 2));
	DEBUG(PROT3, "user's write", 32, "mov [0x4000], eax; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 3));
	DEBUG(REAL, "in real mode", 16, "mov [0x4000], ax; " AT "nop; hlt", 1, 0x4000, R0(WRITE, 3));
	CASE_WITH(LONG, "REP STOSB: after the iteration", DB, ANY, 64, "nop; " AT "rep stosb; hlt",
		debug_registers(rig, 0x4002, R0(WRITE, 0)); rig->r.rcx = 8; rig->r.rdi = 0x4000);
}

static int answer_io(struct rig *rig,
	struct kvm_run *run) { return run->exit_reason == KVM_EXIT_IO ? 0 : EXIT + run->exit_reason; }

static void ports_and_detect(void)
{
	DEBUG(LONG, "port, OUT", 64, "mov edx, 0x80; out dx, al; " AT "nop; hlt", 1, 0x80, R0(IO, 0), rig->exit = answer_io;
		rig->s.cr4 |= 8);
	DEBUG(LONG, "port, IN of 4 over it", 64, "mov edx, 0x80; in eax, dx; " AT "nop; hlt", 1, 0x82, R0(IO, 0),
		rig->exit = answer_io; rig->s.cr4 |= 8);
	DEBUG(LONG, "port, without CR4.DE", 64, "mov edx, 0x80; out dx, al; hlt", -1, 0x80, R0(IO, 0), rig->exit = answer_io);
	DEBUG(LONG, "port, beside", 64, "mov edx, 0x81; out dx, al; hlt", -1, 0x80, R0(IO, 0), rig->exit = answer_io;
		rig->s.cr4 |= 8);
	DEBUG(LONG, "general detect, write", 64, "nop; " AT "mov dr0, rax; hlt", BD, 0, 0x2000);
	DEBUG(LONG, "general detect, read", 64, "nop; " AT "mov rax, dr7; hlt", BD, 0, 0x2000);
	CASE(LONG, "DR6, upper half", GP, 0, 64, "mov rax, 1; shl rax, 32; " AT "mov dr6, rax; hlt");
	CASE(LONG, "DR7, upper half", GP, 0, 64, "mov rax, 1; shl rax, 32; " AT "mov dr7, rax; hlt");
	CASE(LONG, "DR0 not canonical", DONE, 0, 64, "mov rax, 1; shl rax, 47; mov dr0, rax; hlt");
	CASE(LONG3, "MOV DR at CPL 3", GP, 0, 64, "nop; " AT "mov rax, dr0; hlt");
	CASE_WITH(LONG, "DR4 with DE", UD, 0, 64, "nop; " AT ".byte 0x0f, 0x21, 0xe0; hlt", rig->s.cr4 |= 8);
	VALUE(LONG, "DR4 is DR6", 64, "nop; .byte 0x0f, 0x21, 0xe0; hlt", 0xffff0ff0);
	CASE(LONG, "DR8", UD, 0, 64, "nop; " AT ".byte 0x44, 0x0f, 0x21, 0xc0; hlt");
	VALUE(LONG, "DR7's fixed bits", 64, "mov eax, 0xffffdfff; and eax, 0xffffff00; mov dr7, rax; mov rax, dr7; hlt",
		0xffff0700);
	VALUE(LONG, "DR6's fixed bits", 64, "xor eax, eax; mov dr6, rax; mov rax, dr6; hlt", 0xffff0ff0);
	struct rig rig;
	rig_start(&rig, LONG);
	debug_registers(&rig, 0, 0x2000);
	rig_run(&rig, CODE(64, "mov dr0, rax; hlt"));
	struct kvm_debugregs d;
	guest_ioctl(rig.g.vcpu[0], KVM_GET_DEBUGREGS, &d);
	expect("GD is cleared for the handler", d.dr7 & 0x2000, 0);
	rig_end(&rig);
}

/* RF in the frame: set by faults, not by traps and interrupts; restored for the REP that goes on. */
static void resume_flag(void)
{
	struct { const char *name; struct code code; int vector; uint64_t rf; } t[] = {
		{ "#UD", CODE(64, "ud2; hlt"), UD, RF }, { "#GP", CODE(64, "mov cr8, rbx; hlt"), GP, RF },
			{ "INT3", CODE(64, "int3; hlt"), BP, 0 },
		{ "INT n", CODE(64, "int 0x40; hlt"), 0x40, 0 }, { "step", CODE(64, "push 0x102; popfq; nop; hlt"), DB, 0 },
		{ "#PF", CODE(64, "mov eax, [rbx]; hlt"), PF, RF }, { "#DE", CODE(64, "xor ecx, ecx; div ecx; hlt"), DE, RF },
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, LONG);
		rig.r.rbx = 0x7000000000;
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, t[i].vector, ANY);
		expect(t[i].name, rig.rflags & RF, t[i].rf);
		rig_end(&rig);
	}
	struct rig rig;
	rig_start(&rig, LONG);
	debug_registers(&rig, RIG_CODE, R0(EXEC, 0));
	rig_run(&rig, CODE(64, "nop; hlt"));
	expect("instruction breakpoint leaves RF", rig.rflags & RF, 0);
	rig_end(&rig);
}

/* ---- interrupt shadows: an interrupt is requested from the start ---- */

static void shadow(const char *name, struct code code, bool iflag, int64_t offset)
{
	struct rig rig;
	struct kvm_interrupt irq = { .irq = 0x70 };

	rig_start(&rig, LONG);
	rig_run(&rig, CODE(64, "hlt"));                  /* then the real code, with the interrupt pending */
	guest_load_bytes(&rig.g, RIG_CODE + 0x100, code.start, code.end - code.start);
	rig.r.rip = RIG_CODE + 0x100;
	rig.r.rax = DATA32;
	rig.r.rflags = iflag ? 0x202 : 2;
	guest_set_regs(&rig.g, 0, &rig.r);
	struct kvm_run *run = rig.g.run[0];
	int why;
	/* As a client without irqchip does: inject when ready, else ask for the window. */
	for (unsigned i = 0; i < 10; i++) {
		run->request_interrupt_window = 1;
		why = guest_run(&rig.g, 0);
		if (why == KVM_EXIT_IRQ_WINDOW_OPEN) {
			run->request_interrupt_window = 0;
			guest_ioctl(rig.g.vcpu[0], KVM_INTERRUPT, &irq);
			why = guest_run(&rig.g, 0);
		}
		if (why == KVM_EXIT_HLT)
			break;
	}
	rig.r2 = guest_regs(&rig.g, 0);
	if (offset < 0)
		expect_value(name, "no interrupt", rig.r2.rip < RIG_HANDLERS, 1);
	else
		expect_value(name, "return address", rig_peek(&rig, rig.r2.rsp, 8), RIG_CODE + 0x100 + offset);
	rig_end(&rig);
}

static void shadows(void)
{
	shadow("STI holds off one instruction", CODE(64, "sti; nop; nop; cli; hlt"), false, 2);
	shadow("STI, CLI", CODE(64, "sti; cli; hlt"), false, -1);
	shadow("STI with IF set does not", CODE(64, "nop; sti; nop; cli; hlt"), true, 0);
	shadow("STI, MOV SS, CLI", CODE(64, "nop; mov ss, eax; nop; cli; hlt"), true, 0);
	shadow("POPF has no shadow", CODE(64, "push 0x202; popfq; nop; cli; hlt"), false, 6);
	shadow("IF clear", CODE(64, "nop; nop; hlt"), false, -1);
}

int main(void)
{
	steps();
	breakpoints();
	ports_and_detect();
	resume_flag();
	shadows();
	return rig_summary();
}
