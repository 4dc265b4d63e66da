/*
 * Host signals raised by translated code are exceptions of the guest: #DE,
 * #MF, #XM, and #GP for a misaligned vector operand. The handler finds the
 * guest instruction by its host address, stores the registers into struct cpu
 * and sends the thread to a stub that returns to the engine's loop. A #GP is
 * left to a careful translation to raise: it may have to be #SS.
 */
#include "xlat/internal.h"
/* glibc gives its indices of gregs[] the names that x86/decode.h has for registers. */
#define REG_R8 UC_R8
#define REG_R9 UC_R9
#define REG_R10 UC_R10
#define REG_R11 UC_R11
#define REG_R12 UC_R12
#define REG_R13 UC_R13
#define REG_R14 UC_R14
#define REG_R15 UC_R15
#define REG_RDI UC_RDI
#define REG_RSI UC_RSI
#define REG_RBP UC_RBP
#define REG_RBX UC_RBX
#define REG_RDX UC_RDX
#define REG_RAX UC_RAX
#define REG_RCX UC_RCX
#define REG_RSP UC_RSP
#define REG_TRAPNO UC_TRAPNO
#include <signal.h>
#include <ucontext.h>

/* The copied instruction at host address rx, by the highest recorded offset not above it. */
static const struct insn_map *map_at(const struct engine *en, const struct block *b, const uint8_t *rx)
{
	unsigned offset = rx - (en->rx - en->rw) - b->entry;
	const struct insn_map *found = NULL;
	for (unsigned i = 0; i < b->nmap; i++)
		if (b->map[i].host_offset <= offset)
			found = &b->map[i];
	return found;
}

static greg_t *host_greg(ucontext_t *uc, int h)
{
	static const int names[16] = { UC_RAX, UC_RCX, UC_RDX, UC_RBX, UC_RSP, UC_RBP, UC_RSI, UC_RDI,
	                               UC_R8, UC_R9, UC_R10, UC_R11, UC_R12, UC_R13, UC_R14, UC_R15 };
	return &uc->uc_mcontext.gregs[names[h]];
}

static void store_registers(struct cpu *cpu, ucontext_t *uc, const struct insn_map *m)
{
	for (int g = 0; g < 16; g++)
		if (host_reg(g) >= 0)
			cpu->gpr[g] = *host_greg(uc, host_reg(g));
	for (int i = 0; i < 2; i++)
		if (m->borrowed[i] != 0xff)
			cpu->gpr[m->borrowed[i]] = cpu->spill[1 + i];
	uint64_t flags = uc->uc_mcontext.gregs[REG_EFL];
	cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_ARITH) | (flags & RFLAGS_ARITH);
}

/* The kernel says which exception it was; where it does not, the kind of instruction tells. */
static unsigned vector_of(const struct cpu *cpu, int signo, unsigned trap, unsigned fpu)
{
	unsigned simd = cpu->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD;
	if (signo == SIGFPE)
		return trap == VEC_MF ? VEC_MF : trap == VEC_XM ? simd :
		       fpu == FPU_CLASS_X87 ? VEC_MF : fpu == FPU_CLASS_SIMD ? simd : VEC_DE;
	return signo == SIGILL ? VEC_UD : VEC_GP;
}

/* Runs on the engine's loop, after the handler returned. */
void engine_signal_landed(struct cpu *cpu)
{
	struct engine *en = cpu->engine;
	if (en->signal.fault) {
		memcpy(cpu->internal.text, "client memory is not mapped", 28);
		cpu_leave(cpu, CPU_EXIT_EFAULT);
	}
	unsigned vector = en->signal.vector;
	if (en->signal.retry)
		be_careful(cpu);
	cpu_raise_event(cpu, (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = vector, .has_error = vector == VEC_GP });
}

static bool in_client_memory(struct cpu *cpu, const void *addr)
{
	return mem_slot_by_host(cpu->mem, addr, NULL) != NULL;
}

/* A rule touched client memory that is gone: unwind from here, on the rule's own stack. */
static void land_in_rule(struct cpu *cpu)
{
	memcpy(cpu->internal.text, "client memory is not mapped", 28);
	cpu_leave(cpu, CPU_EXIT_EFAULT);
}

bool engine_signal(int signo, void *siginfo, void *ucontext)
{
	struct cpu *cpu = engine_current;
	ucontext_t *uc = ucontext;
	siginfo_t *si = siginfo;
	if (!cpu || si->si_code <= 0)                            /* sent by somebody, not by an instruction */
		return false;
	struct engine *en = cpu->engine;
	const uint8_t *rip = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];
	bool memory_gone = (signo == SIGBUS || signo == SIGSEGV) && si->si_code != SI_KERNEL;
	if (rip < en->rx || rip >= en->rx + en->size) {
		if (!memory_gone || !in_client_memory(cpu, si->si_addr))
			return false;
		uc->uc_mcontext.gregs[REG_RIP] = (greg_t)land_in_rule;
		*host_greg(uc, H_RDI) = (greg_t)cpu;                
		*host_greg(uc, H_RSP) = (*host_greg(uc, H_RSP) - 256) / 16 * 16 - 8;     /* as if called, past the red zone */
		return true;
	}
	struct block *b = block_at(en, rip);
	const struct insn_map *m = b ? map_at(en, b, rip) : NULL;
	if (!m)
		return false;
	store_registers(cpu, uc, m);
	cpu->rip = b->rip + (m->guest_offset_lo | m->guest_offset_hi << 8);
	en->signal.vector = vector_of(cpu, signo, uc->uc_mcontext.gregs[UC_TRAPNO], m->fpu);
	en->signal.fault = memory_gone;
	en->signal.retry = en->signal.vector == VEC_GP && !(b->mode & XMODE_CAREFUL);
	*host_greg(uc, H_RSP) = (greg_t)cpu;                        
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)to_rx(en, en->stub_signal);
	return true;
}
