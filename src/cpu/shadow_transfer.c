/*
 * Shadow stacks: what control transfers push on them and check against them.
 *
 * A frame of a far transfer is CS, LIP and the SSP before it. A stack that a
 * call or an event to an inner ring switches to begins with a token: its own
 * address, with a busy bit that a processor takes and gives back.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/rules.h"

static bool wide_target(const struct cpu *cpu, const struct segment *cs)
{
	return cpu_long_mode(cpu) && cs->l;
}

/* The linear address of rip in code segment cs. */
static uint64_t lip_of(const struct cpu *cpu, const struct segment *cs, uint64_t rip)
{
	return wide_target(cpu, cs) ? rip : (uint32_t)(cs->base + rip);
}

/* ---- near ---- */

uint64_t shadow_near_call(struct cpu *cpu, unsigned size, uint64_t return_rip)
{
	struct shadow s = shadow_of(cpu->cet.ssp, cpu->cpl, cpu_code64(cpu));

	shadow_push(cpu, &s, size == 8 ? 8 : 4, size == 2 ? (uint16_t)return_rip : return_rip);
	return s.ssp;
}

uint64_t shadow_near_ret(struct cpu *cpu, unsigned size, uint64_t target)
{
	struct shadow s = shadow_of(cpu->cet.ssp, cpu->cpl, cpu_code64(cpu));
	unsigned bytes = size == 8 ? 8 : 4;
	uint64_t expected = 0;

	shadow_load(cpu, &s, s.ssp, &expected, bytes);
	if (expected != target)
		cet_raise(cpu, CP_NEAR_RET);
	return s.wide ? s.ssp + bytes : (uint32_t)(s.ssp + bytes);
}

/* ---- far calls and events ---- */

static void push_frame(struct cpu *cpu, struct shadow *s, uint64_t rip, uint64_t old_ssp)
{
	const struct segment *cs = &cpu->seg[SEG_CS];

	shadow_push(cpu, s, 8, cs->selector);
	shadow_push(cpu, s, 8, lip_of(cpu, cs, rip));
	shadow_push(cpu, s, 8, old_ssp);
}

/* To the same privilege: on the present stack, aligned to 8 bytes with a zero above it. */
static uint64_t call_here(struct cpu *cpu, unsigned cpl, bool wide, uint64_t rip)
{
	struct shadow s = shadow_of(cpu->cet.ssp, cpl, wide);
	uint32_t zero = 0;

	if (!wide && s.ssp >> 32)
		cpu_raise_gp(cpu);
	shadow_store(cpu, &s, s.ssp - 4, &zero, sizeof(zero));
	s.ssp &= ~7ull;
	push_frame(cpu, &s, rip, cpu->cet.ssp);
	return s.ssp;
}

/* Token and frame lie in 32 aligned bytes, so that no push can fault once the token is taken. */
static bool frame_fits(uint64_t ssp)
{
	return (ssp & ~0x1full) == ((ssp - 24) & ~0x1full);
}

/* To the stack at base, whose token is taken. Ring 3's SSP goes to its register, that of other rings into a frame. */
static uint64_t call_switching(struct cpu *cpu, unsigned cpl, bool wide, uint64_t rip, uint64_t base)
{
	struct shadow s = shadow_of(base, cpl, wide);
	bool pushes = cpu->cpl != 3;
	uint64_t token = base;

	if ((base & 7) || (pushes && !frame_fits(base)) || (!wide && base >> 32))
		cpu_raise_gp(cpu);
	if (!shadow_exchange(cpu, &s, base, &token, base | TOKEN_BUSY))
		cpu_raise_gp(cpu);
	if (pushes)
		push_frame(cpu, &s, rip, cpu->cet.ssp);
	return s.ssp;
}

uint64_t shadow_jmp(struct cpu *cpu, const struct segment *cs)
{
	if (cet_enabled(cpu, cpu->cpl, CET_SHSTK) && !wide_target(cpu, cs) && cpu->cet.ssp >> 32)
		cpu_raise_gp(cpu);
	return cpu->cet.ssp;
}

uint64_t shadow_call(struct cpu *cpu, const struct segment *cs, unsigned cpl, uint64_t rip, unsigned ist)
{
	bool wide = wide_target(cpu, cs);

	if (!cet_enabled(cpu, cpl, CET_SHSTK))
		return cpu->cet.ssp;
	if (ist)
		return call_switching(cpu, cpl, wide, rip, lin_load(cpu, cpu->cet.ssp_table + ist * 8, 8, ACCESS_SUPER));
	if (cpl != cpu->cpl)
		return call_switching(cpu, cpl, wide, rip, cpu->cet.pl_ssp[cpl]);
	return call_here(cpu, cpl, wide, rip);
}

/* Bits above the linear-address width follow the highest one below. */
static uint64_t adjusted(const struct cpu *cpu, uint64_t ssp)
{
	int shift = cpu->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;

	return cpu_long_mode(cpu) ? (uint64_t)((int64_t)(ssp << shift) >> shift) : ssp;
}

void cet_enter(struct cpu *cpu, unsigned cpl, uint64_t ssp)
{
	uint64_t *control = cet_control(cpu, cpl);

	if (cpl != 3 && cpu->cpl == 3 && cet_enabled(cpu, 3, CET_SHSTK))
		cpu->cet.pl_ssp[3] = adjusted(cpu, cpu->cet.ssp);
	cpu->cet.ssp = ssp;
	if (cet_enabled(cpu, cpl, CET_ENDBR))
		*control = (*control | CET_WAIT) & ~(uint64_t)CET_SUPPRESS;
}

/* ---- far returns ---- */

/* Pops the frame on top of s, which must be that of a transfer from cs:rip. The SSP in it. */
static uint64_t pop_frame(struct cpu *cpu, struct shadow *s, const struct segment *cs, uint64_t rip)
{
	uint64_t frame[3];               /* SSP, LIP, CS */

	for (unsigned i = 3; i-- > 0;)
		shadow_load(cpu, s, s->ssp + i * 8, &frame[i], 8);
	s->ssp = s->wide ? s->ssp + 24 : (uint32_t)(s->ssp + 24);
	if (frame[2] != cs->selector || frame[1] != lip_of(cpu, cs, rip) || (frame[0] & 3))
		cet_raise(cpu, CP_FAR_RET);
	return frame[0];
}

/* Gives the token at the base of s back, if there is one. */
static void free_token(struct cpu *cpu, const struct shadow *s)
{
	uint64_t token = s->ssp | TOKEN_BUSY;

	shadow_exchange(cpu, s, s->ssp, &token, s->ssp);
}

static void check_new_ssp(struct cpu *cpu, const struct segment *cs, uint64_t ssp)
{
	if (wide_target(cpu, cs) ? !cpu_canonical(cpu, ssp) : ssp >> 32)
		cpu_raise_gp(cpu);
}

/* IRET in long mode may leave a stack of the interrupt SSP table: the SSP in the frame is not the one above it then. */
static uint64_t return_here(struct cpu *cpu, const struct segment *cs, uint64_t rip, bool iret)
{
	struct shadow s = shadow_of(cpu->cet.ssp, cpu->cpl, cpu_code64(cpu));
	uint64_t ssp;

	if (s.ssp & 7)
		cet_raise(cpu, CP_FAR_RET);
	ssp = pop_frame(cpu, &s, cs, rip);
	check_new_ssp(cpu, cs, ssp);
	if (iret && cpu_long_mode(cpu) && ssp != s.ssp)
		free_token(cpu, &s);
	return ssp;
}

static uint64_t return_outer(struct cpu *cpu, const struct segment *cs, uint64_t rip)
{
	unsigned cpl = cs->selector & 3;
	struct shadow s = shadow_of(cpu->cet.ssp, cpu->cpl, cpu_code64(cpu));
	bool leaves = cet_enabled(cpu, cpu->cpl, CET_SHSTK), enters = cet_enabled(cpu, cpl, CET_SHSTK);
	uint64_t ssp = cpu->cet.pl_ssp[3];

	if (leaves && (s.ssp & 7))
		cet_raise(cpu, CP_FAR_RET);
	if (leaves && cpl != 3)
		ssp = pop_frame(cpu, &s, cs, rip);
	if (enters)
		check_new_ssp(cpu, cs, ssp);
	if (leaves)
		free_token(cpu, &s);
	return enters ? ssp : s.ssp;
}

uint64_t shadow_return(struct cpu *cpu, const struct segment *cs, uint64_t rip, bool iret)
{
	if ((cs->selector & 3) != cpu->cpl)
		return return_outer(cpu, cs, rip);
	return cet_enabled(cpu, cpu->cpl, CET_SHSTK) ? return_here(cpu, cs, rip, iret) : cpu->cet.ssp;
}

void shadow_return_vm86(struct cpu *cpu)
{
	struct shadow s = shadow_of(cpu->cet.ssp, cpu->cpl, false);

	if (!(cpu->cr4 & CR4_CET))
		return;
	if (cpu->cet.u_cet & (CET_SHSTK | CET_ENDBR))
		cpu_raise_gp(cpu);
	if (!cet_enabled(cpu, cpu->cpl, CET_SHSTK))
		return;
	if (s.ssp & 7)
		cet_raise(cpu, CP_FAR_RET);
	free_token(cpu, &s);
}

/* ---- SYSCALL and its kin: no frame; software finds its own stack ---- */

void cet_system_call(struct cpu *cpu)
{
	if (cet_enabled(cpu, cpu->cpl, CET_SHSTK))
		cpu->cet.pl_ssp[3] = adjusted(cpu, cpu->cet.ssp);
	cet_enter(cpu, 0, cet_enabled(cpu, 0, CET_SHSTK) ? 0 : cpu->cet.ssp);
}

void cet_system_return(struct cpu *cpu)
{
	if (cet_enabled(cpu, 3, CET_SHSTK))
		cpu->cet.ssp = cpu->cet.pl_ssp[3];
}
