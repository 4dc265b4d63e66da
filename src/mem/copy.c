/*
 * Copies and exchanges that survive memory which the client has unmapped or
 * truncated: all of one is a short piece of assembly without a stack frame, so
 * the signal handler knows a fault in it by its address and sends it to the
 * return of false.
 */
#include <signal.h>
#include <ucontext.h>
#include "mem/mem.h"

extern const uint8_t mem_copy_moves[], mem_copy_failed[];

/* Words move at once: the guest may look at them or change them meanwhile. */
__asm__(
	".text\n.globl mem_copy, mem_exchange\n.hidden mem_copy, mem_exchange, mem_copy_moves, mem_copy_failed\n"
	".type mem_copy, @function\n.type mem_exchange, @function\n"
	"mem_copy:\n"
	"mem_copy_moves:\n"
	"	cmp $8, %rdx\n	je 8f\n	cmp $4, %rdx\n	je 4f\n	cmp $2, %rdx\n	je 2f\n"
	"	mov %rdx, %rcx\n	rep movsb\n	jmp 9f\n"
	"8:	mov (%rsi), %rcx\n	mov %rcx, (%rdi)\n	jmp 9f\n"
	"4:	mov (%rsi), %ecx\n	mov %ecx, (%rdi)\n	jmp 9f\n"
	"2:	movzwl (%rsi), %ecx\n	mov %cx, (%rdi)\n"
	"9:	mov $1, %eax\n	ret\n"
	"mem_exchange:\n"
	"	mov (%rsi), %rax\n	lock cmpxchg %rdx, (%rdi)\n	mov %rax, (%rsi)\n"
	"	mov $2, %eax\n	mov $1, %ecx\n	cmove %ecx, %eax\n	ret\n"
	"mem_copy_failed:\n"
	"	xor %eax, %eax\n	ret\n"
	".size mem_copy, . - mem_copy\n"
	".globl mem_copy_moves, mem_copy_failed\n");

bool mem_copy_signal(int signo, const void *siginfo, void *ucontext)
{
	const siginfo_t *info = siginfo;
	greg_t *rip = &((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RIP];

	if ((signo != SIGSEGV && signo != SIGBUS) || info->si_code <= 0)
		return false;
	if ((uintptr_t)*rip < (uintptr_t)mem_copy_moves || (uintptr_t)*rip >= (uintptr_t)mem_copy_failed)
		return false;
	*rip = (greg_t)mem_copy_failed;
	return true;
}
