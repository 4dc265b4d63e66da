/*
 * cpu/cet -- control-flow enforcement: shadow stacks (shadow_stack.c for memory
 * accesses, shadow_transfer.c and shadow_task.c for transfers, shadow_insn.c for
 * its own instructions) and indirect branch tracking (branch_tracking.c).
 *
 * Whether the CPL has them is part of the mode word (MODE_SHSTK, MODE_IBT).
 * What a transfer does to the shadow stack is decided before anything else of
 * the state changes: a function here reads, checks and stores, returns the SSP
 * to be, and its caller commits that together with the rest.
 */
#ifndef ANYKVM_CET_H
#define ANYKVM_CET_H

#include "cpu/rules.h"

/* IA32_U_CET and IA32_S_CET. Above bit 11: the page address of the legacy code page bitmap. */
enum { CET_SHSTK = 1 << 0, CET_WRSS = 1 << 1, CET_ENDBR = 1 << 2, CET_LEGACY = 1 << 3, CET_NO_TRACK = 1 << 4,
       CET_SUPPRESS_DIS = 1 << 5, CET_SUPPRESS = 1 << 10, CET_WAIT = 1 << 11 };
/* Error codes of #CP. */
enum { CP_NEAR_RET = 1, CP_FAR_RET = 2, CP_ENDBRANCH = 3, CP_RSTORSSP = 4, CP_SETSSBSY = 5 };
/* Bit 0 of a supervisor shadow-stack token. */
enum { TOKEN_BUSY = 1 };

static inline uint64_t *cet_control(struct cpu *cpu, unsigned cpl) { return cpl == 3 ? &cpu->cet.u_cet : &cpu->cet.s_cet; }
/* Does the feature (CET_SHSTK, CET_ENDBR) count at cpl? In virtual-8086 mode and in real mode none does. */
static inline bool cet_enabled(const struct cpu *cpu, unsigned cpl, unsigned feature)
{
	if (likely(!(cpu->cr4 & CR4_CET)) || !(cpu->cr0 & CR0_PE) || (cpl == 3 && (cpu->rflags & RFLAGS_VM)))
		return false;
	return (cpl == 3 ? cpu->cet.u_cet : cpu->cet.s_cet) & feature;
}

/* May value be loaded into IA32_U_CET or IA32_S_CET, and into an SSP register, by WRMSR, XRSTORS or VM entry and exit? */
bool cet_control_valid(const struct cpu *cpu, uint64_t value);
static inline bool cet_ssp_valid(const struct cpu *cpu, uint64_t value) { return !(value & 3) && cpu_canonical(cpu, value); }
/* The bits of the mode word, for cpu_mode_update(). */
uint32_t cet_mode(const struct cpu *cpu);

_Noreturn void cet_raise(struct cpu *cpu, unsigned error);       /* #CP */

/* ---- shadow_stack.c: accesses ---- */
/* A shadow stack as accesses see it. */
struct shadow { uint64_t ssp; bool wide; unsigned access; };     /* wide: 64-bit addresses; access: ACCESS_SHSTK with SUPER or USER */
struct shadow shadow_of(uint64_t ssp, unsigned cpl, bool wide);
void shadow_load(struct cpu *cpu, const struct shadow *s, uint64_t addr, void *to, unsigned size);
void shadow_store(struct cpu *cpu, const struct shadow *s, uint64_t addr, const void *from, unsigned size);
void shadow_push(struct cpu *cpu, struct shadow *s, unsigned size, uint64_t value);
/* Replaces the 8 bytes at addr, a multiple of 8, by new if they are *expected; *expected is what they were. */
bool shadow_exchange(struct cpu *cpu, const struct shadow *s, uint64_t addr, uint64_t *expected, uint64_t new);

/* ---- shadow_transfer.c ---- */
/* Near CALL pushes target's return address, near RET checks it: size 2, 4 or 8. The new SSP. */
uint64_t shadow_near_call(struct cpu *cpu, unsigned size, uint64_t return_rip);
uint64_t shadow_near_ret(struct cpu *cpu, unsigned size, uint64_t target);
/*
 * Far JMP, far CALL and delivery of an event, to code segment cs at privilege cpl. rip: the return address. ist: of the
 * gate, or 0. For all of them: without a shadow stack there, SSP as it is.
 */
uint64_t shadow_jmp(struct cpu *cpu, const struct segment *cs);
uint64_t shadow_call(struct cpu *cpu, const struct segment *cs, unsigned cpl, uint64_t rip, unsigned ist);
/* Far RET (iret: IRET) to cs:rip, whose RPL is the new CPL; frees the token of the stack that it leaves. */
uint64_t shadow_return(struct cpu *cpu, const struct segment *cs, uint64_t rip, bool iret);
/* IRET to virtual-8086 mode. */
void shadow_return_vm86(struct cpu *cpu);
/* Commits: cpl is entered by a far CALL or JMP, an event, SYSCALL or SYSENTER. To be called while cpu->cpl is still the old one. */
void cet_enter(struct cpu *cpu, unsigned cpl, uint64_t ssp);
/* SYSCALL and SYSENTER to ring 0; SYSRET and SYSEXIT to ring 3. */
void cet_system_call(struct cpu *cpu);
void cet_system_return(struct cpu *cpu);

/* ---- shadow_task.c: the steps of a task switch ---- */
/* A frame to be pushed on the new task's shadow stack, or popped from the old one's. */
struct shadow_task { bool frame; uint64_t cs, lip, ssp; };
/* With CET a TSS has 32 bits and room for SSP; #TS. */
void shadow_task_check(struct cpu *cpu, const struct segment *tss, enum task_reason why);
/* The old task is saved, and goes on at return_rip. */
struct shadow_task shadow_task_leave(struct cpu *cpu, enum task_reason why, unsigned new_cpl, uint64_t return_rip);
/* The new task's registers and segments are loaded. */
void shadow_task_enter(struct cpu *cpu, const struct shadow_task *t, enum task_reason why);

/* ---- cet_state.c ---- */
/* Bytes of an XSAVE area with the components rfbm: in the standard form, or packed where there are supervisor ones. */
unsigned xsave_area_size(uint64_t rfbm);
/* Stores CET_U and CET_S in the packed area at addr, unless they are in their initial state. Those that were stored. */
uint64_t cet_save(struct cpu *cpu, uint64_t addr, uint64_t rfbm);
/* What XRSTORS is to load: zeros for a component that is in its initial state. */
struct cet_state { uint64_t u[2], s[3]; };
/* Reads and checks it (#GP). layout: the area's XCOMP_BV; used: what of it is to be read. */
struct cet_state cet_read(struct cpu *cpu, uint64_t addr, uint64_t layout, uint64_t used);
void cet_load(struct cpu *cpu, const struct cet_state *c, uint64_t rfbm);

/* ---- branch_tracking.c ---- */
/* A near indirect CALL or JMP. */
void track_indirect(struct cpu *cpu, const struct insn *insn);
/*
 * In MODE_TRACK, before the instruction insn at RIP (NULL: its bytes are none) runs: #CP unless it is the ENDBRANCH of the
 * mode, or its page is a legacy one. INT3 and INT1 leave things as they are. Ends MODE_TRACK otherwise.
 */
void track_target(struct cpu *cpu, const struct insn *insn);

#endif
