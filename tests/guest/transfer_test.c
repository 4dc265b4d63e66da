/*
 * Control transfers between privilege levels and modes, as guests meet them:
 * system calls, IRET to rings and modes, gates, IST, virtual-8086 mode, tasks,
 * single steps and breakpoints. Each guest stops at HLT with what it found in
 * its registers.
 */
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

/* Selectors of the table below. */
enum { SEL_CODE32 = 8, SEL_DATA = 16, SEL_CODE64 = 24, SEL_USER32 = 0x20, SEL_USER_DATA = 0x28, SEL_USER64 = 0x30, SEL_TSS = 0x40,
       SEL_TSS2 = 0x50, SEL_GATE = 0x60, SEL_CONFORMING = 0x70 };
enum { TSS = 0x3000, TSS2 = 0x3100, STACK0 = 0x6000, STACK_IST = 0x5800 };

static uint64_t system_descriptor(uint32_t base, uint32_t limit, unsigned type)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(0x80 | type) << 40 | (uint64_t)(base >> 24) << 56;
}

static void tables_write(struct guest *g, bool wide)
{
	uint64_t *gdt = (uint64_t *)(g->memory + GUEST_GDT);

	gdt[SEL_USER32 / 8] = 0x00cffb000000ffff;
	gdt[SEL_USER_DATA / 8] = 0x00cff3000000ffff;
	gdt[SEL_USER64 / 8] = 0x00affb000000ffff;
	gdt[SEL_TSS / 8] = system_descriptor(TSS, 0xff, 9);
	gdt[SEL_TSS / 8 + 1] = 0;
	gdt[SEL_TSS2 / 8] = system_descriptor(TSS2, 0x67, 9);
	gdt[SEL_CONFORMING / 8] = 0x00cf9f000000ffff;
	memset(g->memory + TSS, 0, 0x200);
	if (wide) {
		*(uint64_t *)(g->memory + TSS + 4) = STACK0;
		*(uint64_t *)(g->memory + TSS + 36) = STACK_IST;
	} else {
		*(uint32_t *)(g->memory + TSS + 4) = STACK0;
		*(uint32_t *)(g->memory + TSS + 8) = SEL_DATA;
		*(uint16_t *)(g->memory + TSS + 0x66) = 0x88;
	}
}

static void start(struct guest *g, const uint8_t *code, const uint8_t *end, enum guest_mode mode)
{
	struct kvm_sregs s;

	guest_create(g, false);
	guest_load_bytes(g, GUEST_CODE, code, end - code);
	guest_mode(g, 0, mode);
	if (mode == GUEST_REAL)
		return;
	tables_write(g, mode == GUEST_LONG);
	guest_ioctl(g->vcpu[0], KVM_GET_SREGS, &s);
	s.gdt.limit = 0x7f;
	guest_ioctl(g->vcpu[0], KVM_SET_SREGS, &s);
}
#define start(g, name, mode) start(g, name##_start, name##_end, mode)

static void gate64(struct guest *g, unsigned vector, uint32_t offset, unsigned dpl, unsigned ist, bool trap)
{
	uint64_t flags = 0x8e00 | dpl << 13 | trap << 8 | ist;
	uint64_t gate[2] = { (offset & 0xffff) | (uint64_t)SEL_CODE64 << 16 | flags << 32 | (uint64_t)(offset & 0xffff0000) << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

static void gate32(struct guest *g, unsigned vector, uint32_t offset, unsigned dpl, unsigned type, uint16_t selector)
{
	uint64_t gate = (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 |
	                (uint64_t)(offset & 0xffff0000) << 32;

	memcpy(g->memory + GUEST_IDT + 8 * vector, &gate, sizeof(gate));
}

static uint64_t stack64(struct guest *g, uint64_t rsp, unsigned i)
{
	return *(uint64_t *)(g->memory + rsp + 8 * i);
}

static uint32_t stack32(struct guest *g, uint64_t esp, unsigned i)
{
	return *(uint32_t *)(g->memory + esp + 4 * i);
}

/* ---- SYSCALL, SYSRET ---- */

GUEST_ASM(syscall, 64,
	"mov $0xc0000080, %ecx\n rdmsr\n or $1, %eax\n wrmsr\n"
	"mov $0xc0000081, %ecx\n xor %eax, %eax\n mov $0x200018, %edx\n wrmsr\n"
	"mov $0xc0000082, %ecx\n lea sc_entry(%rip), %rax\n xor %edx, %edx\n wrmsr\n"
	"mov $0xc0000084, %ecx\n mov $0x200, %eax\n wrmsr\n"
	"mov $0x40, %ax\n ltr %ax\n"
	"lea sc_user(%rip), %rcx\n mov $0x202, %r11d\n sysretq\n"
	"sc_user: mov %cs, %esi\n mov %ss, %edi\n pushfq\n pop %r12\n syscall\n sc_back: nop\n hlt\n"
	"sc_entry: mov %cs, %r8d\n mov %ss, %r9d\n pushfq\n pop %r10\n lea sc_back(%rip), %r13\n hlt\n"
	"sysretq\n");

static void test_syscall(void)
{
	struct guest g;
	struct kvm_regs r;
	struct kvm_sregs s;

	start(&g, syscall, GUEST_LONG);
	gate64(&g, 13, GUEST_CODE + 0x200, 0, 0, false);
	g.memory[GUEST_CODE + 0x200] = 0xf4;
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rsi, SEL_USER64 | 3);
	check_equal(r.rdi, SEL_USER_DATA | 3);
	check_equal(r.r12, 0x202);
	check_equal(r.r8, 0x18);
	check_equal(r.r9, 0x20);
	check_equal(r.r10, 2);
	check_equal(r.r11, 0x202);
	check_equal(r.rcx, r.r13);
	check_equal(r.rsp, GUEST_STACK);
	/* Back in ring 3, HLT is #GP(0) through RSP0. */
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rip, GUEST_CODE + 0x201);
	check_equal(r.rsp, STACK0 - 48);
	check_equal(stack64(&g, r.rsp, 0), 0);
	check_equal(stack64(&g, r.rsp, 1), r.r13 + 1);
	check_equal(stack64(&g, r.rsp, 2), SEL_USER64 | 3);
	check_equal(stack64(&g, r.rsp, 3), 0x10202);
	check_equal(stack64(&g, r.rsp, 4), GUEST_STACK);
	check_equal(stack64(&g, r.rsp, 5), SEL_USER_DATA | 3);
	guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &s);
	check_equal(s.ss.selector, 0);
	check(s.ss.unusable);
	check_equal(s.cs.selector, SEL_CODE64);
	guest_destroy(&g);
}

/* ---- IRET and interrupts in long mode ---- */

GUEST_ASM(iret64, 64,
	"mov $0x40, %ax\n ltr %ax\n"
	"push $0x2b\n push $0x4000\n push $0x3202\n push $0x33\n lea ir_user(%rip), %rax\n push %rax\n iretq\n"
	"ir_user: mov $0x2b, %eax\n mov %eax, %ds\n mov %eax, %fs\n int $0x80\n"
	"mov %ds, %r14d\n mov %fs, %r15d\n cli\n int $0x81\n hlt\n"
	".org iret64_start + 0x100\n mov %rsp, %rbx\n iretq\n"
	".org iret64_start + 0x180\n mov %rsp, %rbp\n hlt\n");

static void test_iret64(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, iret64, GUEST_LONG);
	gate64(&g, 0x80, GUEST_CODE + 0x100, 3, 0, false);
	gate64(&g, 0x81, GUEST_CODE + 0x180, 3, 1, true);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, STACK0 - 40);
	check_equal(r.rbp, STACK_IST - 40);
	check_equal(r.r14, 0x2b);
	check_equal(r.r15, 0x2b);
	check_equal(stack64(&g, r.rbp, 1), 0x33);
	check_equal(stack64(&g, r.rbp, 2), 0x3002);
	check_equal(stack64(&g, r.rbp, 3), 0x4000);
	check_equal(r.rflags, 0x3002);
	guest_destroy(&g);
}

/* A gate below the caller's privilege, and what a non-present page of the stack does on the way. */
GUEST_ASM(denied, 64,
	"mov $0x40, %ax\n ltr %ax\n"
	"push $0x2b\n push $0x4000\n push $0x2\n push $0x33\n lea de_user(%rip), %rax\n push %rax\n iretq\n"
	"de_user: int $0x80\n"
	".org denied_start + 0x100\n mov %rsp, %rbx\n hlt\n");

static void test_denied(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, denied, GUEST_LONG);
	gate64(&g, 0x80, GUEST_CODE + 0x180, 0, 0, false);
	gate64(&g, 13, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(stack64(&g, r.rbx, 0), 0x80 * 8 + 2);
	check_equal(*(g.memory + stack64(&g, r.rbx, 1)), 0xcd);
	guest_destroy(&g);
}

/* Faults while an event is delivered: #GP for want of a gate, then #DF with its error code 0. */
GUEST_ASM(double_fault, 64, "mov $0x40, %ax\n ltr %ax\n ud2\n hlt\n .org double_fault_start + 0x100\n mov %rsp, %rbx\n hlt\n");

static void test_double_fault(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, double_fault, GUEST_LONG);
	gate64(&g, 13, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(stack64(&g, r.rbx, 0), 6 * 8 + 2 + 1);
	guest_destroy(&g);

	start(&g, double_fault, GUEST_LONG);
	gate64(&g, 8, GUEST_CODE + 0x100, 0, 1, false);
	gate64(&g, 6, GUEST_CODE + 0x80, 0, 0, false);
	*(uint64_t *)(g.memory + GUEST_IDT + 16 * 6) &= ~(1ull << 47);
	gate64(&g, 11, GUEST_CODE + 0x80, 0, 0, false);
	*(uint64_t *)(g.memory + GUEST_IDT + 16 * 11) &= ~(1ull << 47);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, STACK_IST - 48);
	check_equal(stack64(&g, r.rbx, 0), 0);
	guest_destroy(&g);
}

/* ---- compatibility mode, far transfers ---- */

GUEST_ASM(compat, 64,
	"sub $16, %rsp\n movl $cp_32 - compat_start + 0x8000, (%rsp)\n movl $8, 4(%rsp)\n ljmp *(%rsp)\n"
	".code32\n cp_32: mov %cs, %ebx\n mov $0xffffffff, %ecx\n inc %ecx\n lea 0x12345678, %edx\n"
	"ljmp $24, $cp_64 - compat_start + 0x8000\n"
	".code64\n cp_64: mov %cs, %esi\n mov $1, %r15d\n lea cp_far(%rip), %rax\n push $24\n push %rax\n lretq\n cp_far: hlt\n");

static void test_compat(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, compat, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 8);
	check_equal(r.rcx, 0);
	check_equal(r.rdx, 0x12345678);
	check_equal(r.rsi, 24);
	check_equal(r.r15, 1);
	check_equal(r.rsp, GUEST_STACK - 16);
	guest_destroy(&g);
}

/* ---- protected mode: rings by IRET, a call gate with parameters, back by RETF ---- */

GUEST_ASM(rings, 32,
	"mov $0x40, %ax\n ltr %ax\n"
	"push $0x2b\n push $0x4000\n push $0x2\n push $0x23\n push $rg_user - rings_start + 0x8000\n iret\n"
	"rg_user: push $0x1111\n push $0x2222\n lcall $0x63, $0\n mov %cs, %edi\n mov %esp, %ebp\n int $0x80\n"
	".org rings_start + 0x100\n mov 8(%esp), %ebx\n mov 12(%esp), %ecx\n mov %cs, %edx\n mov %esp, %esi\n lret $8\n"
	".org rings_start + 0x180\n hlt\n");

static void test_rings(void)
{
	struct guest g;
	struct kvm_regs r;
	uint64_t *gdt;

	start(&g, rings, GUEST_PROTECTED);
	gdt = (uint64_t *)(g.memory + GUEST_GDT);
	gdt[SEL_GATE / 8] = (uint64_t)SEL_CODE32 << 16 | 0xec02ull << 32 | (GUEST_CODE + 0x100);
	gate32(&g, 0x80, GUEST_CODE + 0x180, 3, 14, SEL_CODE32);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 0x2222);
	check_equal(r.rcx, 0x1111);
	check_equal(r.rdx, SEL_CODE32);
	check_equal(r.rsi, STACK0 - 24);
	check_equal(r.rdi, 0x23);
	check_equal(r.rbp, 0x4000);
	check_equal(r.rsp, STACK0 - 20);
	check_equal(stack32(&g, r.rsp, 1), 0x23);
	check_equal(stack32(&g, r.rsp, 3), 0x4000);
	check_equal(stack32(&g, r.rsp, 4), 0x2b);
	guest_destroy(&g);
}

/* ---- virtual-8086 mode: there by IRET, out by #GP on CLI ---- */

GUEST_ASM(vm86, 32,
	"mov $0x40, %ax\n ltr %ax\n"
	"push $0x55\n push $0x44\n push $0x33\n push $0x22\n push $0x200\n push $0xffe\n push $0x20002\n push $0x800\n push $0x80\n iret\n"
	".org vm86_start + 0x80\n .code16\n mov %cs, %bx\n mov %ds, %cx\n push %cx\n cli\n"
	".code32\n .org vm86_start + 0x100\n hlt\n");

static void test_vm86(void)
{
	struct guest g;
	struct kvm_regs r;
	struct kvm_sregs s;

	start(&g, vm86, GUEST_PROTECTED);
	gate32(&g, 13, GUEST_CODE + 0x100, 0, 14, SEL_CODE32);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	guest_ioctl(g.vcpu[0], KVM_GET_SREGS, &s);
	check_equal(r.rbx & 0xffff, 0x800);
	check_equal(r.rcx & 0xffff, 0x33);
	check_equal(*(uint16_t *)(g.memory + 0x2000 + 0xffc), 0x33);
	check_equal(r.rsp, STACK0 - 40);
	check_equal(stack32(&g, r.rsp, 0), 0);
	check_equal(stack32(&g, r.rsp, 2), 0x800);
	check_equal(stack32(&g, r.rsp, 3) & 0x20002, 0x20002);
	check_equal(stack32(&g, r.rsp, 4), 0xffc);
	check_equal(stack32(&g, r.rsp, 5), 0x200);
	check_equal(stack32(&g, r.rsp, 6), 0x22);
	check_equal(stack32(&g, r.rsp, 9), 0x55);
	check(s.ds.unusable);
	check_equal(s.cs.selector, SEL_CODE32);
	guest_destroy(&g);
}

/* ---- task switches: CALL to a TSS, IRET back ---- */

GUEST_ASM(tasks, 32,
	"mov $0x40, %ax\n ltr %ax\n mov $7, %ebx\n lcall $0x50, $0\n mov %cr0, %esi\n mov %edi, %edi\n hlt\n"
	".org tasks_start + 0x100\n inc %ecx\n mov %ecx, 0x3f00\n pushf\n popl 0x3f04\n iret\n");

static void test_tasks(void)
{
	struct guest g;
	struct kvm_regs r;
	uint32_t *t;

	start(&g, tasks, GUEST_PROTECTED);
	t = (uint32_t *)(g.memory + TSS2);
	t[0x20 / 4] = GUEST_CODE + 0x100;
	t[0x24 / 4] = 2;
	t[0x2c / 4] = 41;
	t[0x38 / 4] = 0x5000;
	t[0x48 / 4] = t[0x50 / 4] = t[0x54 / 4] = SEL_DATA;
	t[0x4c / 4] = SEL_CODE32;
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(*(uint32_t *)(g.memory + 0x3f00), 42);
	check_equal(*(uint32_t *)(g.memory + 0x3f04) & 0x4002, 0x4002);
	check_equal(r.rbx, 7);
	check_equal(r.rsi & 9, 9);
	check_equal(r.rsp, GUEST_STACK);
	check_equal(r.rflags & 0x4000, 0);
	check_equal(t[0], SEL_TSS);
	check_equal(((uint64_t *)(g.memory + GUEST_GDT))[SEL_TSS2 / 8] >> 40 & 15, 9);
	check_equal(((uint64_t *)(g.memory + GUEST_GDT))[SEL_TSS / 8] >> 40 & 15, 11);
	guest_destroy(&g);
}

/* ---- #DB ---- */

/* TF set by POPF: the first trap comes after the instruction that follows it. */
GUEST_ASM(step, 64,
	"mov $0x40, %ax\n ltr %ax\n xor %ebx, %ebx\n xor %ebp, %ebp\n pushfq\n orq $0x100, (%rsp)\n popfq\n"
	"st_1: nop\n st_2: nop\n pushfq\n andq $~0x100, (%rsp)\n popfq\n st_end: nop\n hlt\n"
	".org step_start + 0x100\n test %ebp, %ebp\n jnz 1f\n mov (%rsp), %rbp\n 1: inc %ebx\n mov %dr6, %rsi\n mov (%rsp), %rdi\n iretq\n");

static void test_step(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, step, GUEST_LONG);
	gate64(&g, 1, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 5);           /* nop, nop, pushf, and, popf */
	check_equal(r.rsi, 0xffff4ff0);
	check_equal(r.rdi, r.rip - 2);
	guest_destroy(&g);
}

/* An instruction breakpoint (RF passes it), and a data breakpoint on a store. */
GUEST_ASM(breakpoints, 64,
	"mov $0x40, %ax\n ltr %ax\n xor %ebx, %ebx\n lea bp_1(%rip), %rax\n mov %rax, %dr0\n mov $0x3f00, %eax\n mov %rax, %dr1\n"
	"mov $0x100f, %ecx\n mov $0xd0000a, %eax\n or $0x400, %eax\n mov %rax, %dr7\n"
	"nop\n bp_1: nop\n movl $1, 0x3f00\n bp_2: mov %rdx, %rdi\n xor %eax, %eax\n mov %rax, %dr7\n hlt\n"
	".org breakpoints_start + 0x100\n inc %ebx\n mov %dr6, %rsi\n movzwl %si, %esi\n shl $16, %rdx\n or %rsi, %rdx\n xor %esi, %esi\n mov %rsi, %dr6\n"
	"mov (%rsp), %rbp\n orl $0x10000, 16(%rsp)\n iretq\n");

static void test_breakpoints(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, breakpoints, GUEST_LONG);
	gate64(&g, 1, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 2);
	check_equal(r.rdi & 0xf, 2);
	check_equal(r.rdi >> 16 & 0xf, 1);
	guest_destroy(&g);
}

/* SYSRET that sets TF traps at once, not one instruction later. */
GUEST_ASM(sysret_step, 64,
	"mov $0x40, %ax\n ltr %ax\n mov $0xc0000080, %ecx\n rdmsr\n or $1, %eax\n wrmsr\n"
	"mov $0xc0000081, %ecx\n xor %eax, %eax\n mov $0x200018, %edx\n wrmsr\n"
	"lea ss_user(%rip), %rcx\n mov %rcx, %rbx\n mov $0x102, %r11d\n sysretq\n ss_user: nop\n nop\n"
	".org sysret_step_start + 0x100\n mov (%rsp), %rdi\n mov %dr6, %rsi\n hlt\n");

static void test_sysret_step(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, sysret_step, GUEST_LONG);
	gate64(&g, 1, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rdi, r.rbx);
	check_equal(r.rsi, 0xffff4ff0);
	guest_destroy(&g);
}

/* The trap of a HLT that is stepped finds the processor halted and wakes it. */
GUEST_ASM(halt_step, 64,
	"mov $0x40, %ax\n ltr %ax\n xor %ebx, %ebx\n pushfq\n orq $0x100, (%rsp)\n popfq\n hlt\n hs_next: lea hs_next(%rip), %rbp\n hlt\n"
	".org halt_step_start + 0x100\n inc %ebx\n mov (%rsp), %rdi\n andq $~0x100, 16(%rsp)\n iretq\n");

static void test_halt_step(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, halt_step, GUEST_LONG);
	gate64(&g, 1, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 1);
	check_equal(r.rdi, r.rbp);
	guest_destroy(&g);
}

/* A data breakpoint that MOV SS holds back goes with the #DB of an INT1 behind it: one #DB, not two. */
GUEST_ASM(held_back, 64,
	"mov $0x40, %ax\n ltr %ax\n xor %ebx, %ebx\n movl $16, 0x3f00\n mov $0x3f00, %eax\n mov %rax, %dr0\n"
	"mov $0xf0402, %eax\n mov %rax, %dr7\n mov 0x3f00, %ss\n .byte 0xf1\n hb_next: lea hb_next(%rip), %rbp\n hlt\n"
	".org held_back_start + 0x100\n inc %ebx\n mov (%rsp), %rdi\n mov %dr6, %rsi\n iretq\n");

static void test_held_back(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, held_back, GUEST_LONG);
	gate64(&g, 1, GUEST_CODE + 0x100, 0, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 1);
	check_equal(r.rsi & 0xf, 1);
	check_equal(r.rdi, r.rbp);
	guest_destroy(&g);
}

/* IRET to ring 3 takes a ring-0 GS away, but leaves its base. */
GUEST_ASM(gs_base, 64,
	"mov $0x40, %ax\n ltr %ax\n mov $16, %eax\n mov %eax, %gs\n mov $0xc0000101, %ecx\n mov $0x12345, %eax\n xor %edx, %edx\n wrmsr\n"
	"push $0x2b\n push $0x4000\n push $0x2\n push $0x33\n lea gb_user(%rip), %rax\n push %rax\n iretq\n"
	"gb_user: mov %gs, %ebx\n int $0x80\n"
	".org gs_base_start + 0x100\n mov $0xc0000101, %ecx\n rdmsr\n hlt\n");

static void test_gs_base(void)
{
	struct guest g;
	struct kvm_regs r;

	start(&g, gs_base, GUEST_LONG);
	gate64(&g, 0x80, GUEST_CODE + 0x100, 3, 0, false);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	r = guest_regs(&g, 0);
	check_equal(r.rbx, 0);
	check_equal(r.rax, 0x12345);
	guest_destroy(&g);
}

static const struct test tests[] = {
	{ "SYSCALL and SYSRET", test_syscall },
	{ "IRET to ring 3, interrupts from it", test_iret64 },
	{ "gate below the caller's privilege", test_denied },
	{ "nested faults", test_double_fault },
	{ "compatibility mode and far transfers", test_compat },
	{ "rings and call gates", test_rings },
	{ "virtual-8086 mode", test_vm86 },
	{ "task switches", test_tasks },
	{ "single steps", test_step },
	{ "breakpoints", test_breakpoints },
	{ "SYSRET that sets TF", test_sysret_step },
	{ "HLT under single step", test_halt_step },
	{ "breakpoint held back to INT1", test_held_back },
	{ "GS base across rings", test_gs_base },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
