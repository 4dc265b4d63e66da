/*
 * Control flow, the plain stack, and calls of rules.
 *
 * A direct branch inside the block's page becomes an exit that the dispatcher
 * links by one store. Any other branch puts the guest address into r13 and
 * jumps through the jump cache; the target itself verifies the address. Window
 * registers are free at a block's end.
 */
#include "xlat/internal.h"

static unsigned stack_bytes(const struct translation_unit *u) { return code64(u) ? 8 : 4; }

/* Can the block at rip be linked to? Not if it may straddle: then the second page must be proved mapped, too. */
static bool can_link(const struct translation_unit *u, uint64_t rip)
{
	return !u->block->source2 && !((rip ^ u->block->rip) & ~4095ull) && (rip & 4095) <= 4096 - 15;
}

/* The code that an unlinked exit runs. place: the jump that is to be linked. */
static struct block_exit *put_exit_stub(struct translation_unit *u, uint8_t *place, uint64_t rip)
{
	struct engine *en = u->engine;
	struct block_exit *x = meta_alloc(en, sizeof *x);
	*x = (struct block_exit){ .place = place, .stub = u->e.p, .owner = u->block, .rip = rip, .next_owned = u->block->exits };
	u->block->exits = x;
	patch_rel32(place, u->e.p);
	put_store_imm32(&u->e, AT(&u->e, exit_id), exit_new(en, x));
	put_jmp_to(&u->e, en->stub_exit);
	return x;
}

/* The same instruction again, in a translation without windows. */
void put_goto_without_windows(struct translation_unit *u, uint64_t rip)
{
	put_exit_stub(u, put_jmp(&u->e), rip)->extra = XMODE_NO_WINDOWS;
}

/* Through the jump cache, target known. r10: as stub_lookup wants it. */
static void put_far_goto(struct translation_unit *u, uint64_t rip)
{
	struct emit *e = &u->e;
	put_mov_imm(e, H_R13, rip);
	if (!cpu_canonical(u->cpu, rip))
		put_mov_imm(e, H_R10, 0);
	if (u->mode & XMODE_ONE) {                               /* whoever asked for one instruction wants to see its end */
		put_jmp_to(e, u->engine->stub_leave);
		return;
	}
	put_load(e, H_R14, AT(e, jump_cache));
	put_op_mem(e, 0, 0xff, 4, mem_base(H_R14, jump_cache_index(rip) * 8));
}

void put_goto(struct translation_unit *u, uint64_t rip)
{
	if (can_link(u, rip))
		put_exit_stub(u, put_jmp(&u->e), rip);
	else
		put_far_goto(u, rip);
}

/* The same for a jump that is already emitted at place. */
void put_goto_from(struct translation_unit *u, uint8_t *place, uint64_t rip)
{
	if (can_link(u, rip)) {
		put_exit_stub(u, place, rip);
		return;
	}
	patch_rel32(place, u->e.p);
	put_far_goto(u, rip);
}

static void put_jcc_exit(struct translation_unit *u, struct xinsn *x)
{
	uint8_t *place = put_jcc(&u->e, x->cc);
	u->cold[u->ncold++] = (struct cold){ .place = place, .rip = x->target, .kind = COLD_GOTO };
}

/* To the guest address in r13. If that is not canonical the dispatcher takes the branch at x back. */
static void put_indirect(struct translation_unit *u, const struct xinsn *x)
{
	struct emit *e = &u->e;
	if (code64(u))
		put_mov_imm(e, H_R10, x->rip);
	if (u->mode & XMODE_ONE) {
		put_jmp_to(e, u->engine->stub_leave);
		return;
	}
	put_load(e, H_R11, AT(e, jump_cache));
	put_pext(e, H_R14, H_R13, AT_SPILL(e, SPILL_JUMP_MASK));
	put_op_mem(e, 0, 0xff, 4, mem_index(H_R11, H_R14, 3, 0));
}

static void put_load_sized(struct emit *e, unsigned size, int reg, struct mem_operand m)
{
	put_op_mem(e, size == 8, 0x8b, reg, m);
}

static void put_sp_add(struct translation_unit *u, int delta)
{
	put_op_mem(&u->e, code64(u), 0x8d, H_R15, mem_base(H_R15, delta));
}

/* r13 = stack pointer + delta, as an address. */
/* The access at [base + delta] of the stack; base: a guest register that has a home. */
static struct mem_operand put_stack_access(struct translation_unit *u, struct xinsn *x, int base, int delta, unsigned access)
{
	const struct window *w = &x->window[WINDOW_STACK];
	if (!w->role) {
		put_op_mem(&u->e, code64(u), 0x8d, H_R13, mem_base(host_reg(base), delta));
		return put_access(u, x, SEG_SS, stack_bytes(u), access, w->lane);
	}
	struct mem_operand m = put_window_access(u, x, WINDOW_STACK, base, delta, 8, access);
	note_access(u, x);
	return m;
}

static struct mem_operand put_push_access(struct translation_unit *u, struct xinsn *x)
{
	return put_stack_access(u, x, REG_RSP, -(int)stack_bytes(u), ACCESS_WRITE);
}

static void put_push_constant(struct translation_unit *u, struct xinsn *x, uint64_t v)
{
	struct emit *e = &u->e;
	struct mem_operand m = put_push_access(u, x);
	if (!code64(u) || (int64_t)v == (int32_t)v) {
		put_op_mem(e, code64(u), 0xc7, 0, m);
		put32(e, (uint32_t)v);
	} else {
		put_lea(e, H_R14, m);
		put_mov_imm(e, H_R13, v);
		put_store(e, H_R13, mem_base(H_R14, 0));
	}
	put_sp_add(u, -(int)stack_bytes(u));
}

static void put_push_register(struct translation_unit *u, struct xinsn *x, int g)
{
	struct emit *e = &u->e;
	struct mem_operand m = put_push_access(u, x);
	int h = host_reg(g);
	if (h < 0) {
		put_lea(e, H_R14, m);
		put_load(e, H_R13, AT_GPR(e, g));
		m = mem_base(H_R14, 0);
		h = H_R13;
	}
	put_op_mem(e, code64(u), 0x89, h, m);
	put_sp_add(u, -(int)stack_bytes(u));
}

static void put_push_memory(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	struct mem_operand m = put_operand(u, x);
	put_load_sized(e, stack_bytes(u), H_R13, m);
	put_store(e, H_R13, AT(e, next_rip));
	m = put_push_access(u, x);
	put_lea(e, H_R14, m);
	put_load(e, H_R13, AT(e, next_rip));
	put_op_mem(e, code64(u), 0x89, H_R13, mem_base(H_R14, 0));
	put_sp_add(u, -(int)stack_bytes(u));
}

static void put_push(struct translation_unit *u, struct xinsn *x)
{
	const struct insn *in = &x->in;
	if (in->opcode == 0x68 || in->opcode == 0x6a)
		put_push_constant(u, x, in->imm);
	else if (in->mem)
		put_push_memory(u, x);
	else
		put_push_register(u, x, in->opcode == 0xff ? x->field[FIELD_RM].gpr : x->field[FIELD_OPCODE].gpr);
}

static struct mem_operand put_stack_read(struct translation_unit *u, struct xinsn *x, int base)
{
	return put_stack_access(u, x, base, 0, ACCESS_READ);
}

static void put_pop(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	int g = x->field[FIELD_OPCODE].gpr, h = host_reg(g);
	struct mem_operand m = put_stack_read(u, x, REG_RSP);
	int to = g == REG_RSP || h < 0 ? H_R13 : h;
	put_load_sized(e, stack_bytes(u), to, m);
	put_sp_add(u, stack_bytes(u));
	if (g == REG_RSP)
		put_mov(e, H_R15, H_R13);
	else if (h < 0)
		put_store(e, H_R13, AT_GPR(e, g));
}

static void put_leave(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	struct mem_operand m = put_stack_read(u, x, REG_RBP);
	put_load_sized(e, stack_bytes(u), H_R13, m);
	put_op_mem(e, code64(u), 0x8d, H_R15, mem_base(H_RBP, stack_bytes(u)));
	put_op_reg(e, code64(u), 0x89, H_R13, H_RBP);
}

static void put_ret(struct translation_unit *u, struct xinsn *x)
{
	struct mem_operand m = put_stack_read(u, x, REG_RSP);
	put_load_sized(&u->e, stack_bytes(u), H_R13, m);
	int step = stack_bytes(u) + (x->in.imm_size ? (uint16_t)x->in.imm : 0);
	put_sp_add(u, step);
	put_replay(u, x->replay, x->stack_moved + step);
	put_indirect(u, x);
}

/* r13 = target of an indirect branch. */
static void put_branch_operand(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	if (x->in.mem) {
		struct mem_operand m = put_operand(u, x);
		put_load_sized(e, stack_bytes(u), H_R13, m);
		return;
	}
	int h = put_guest_reg(u, x->field[FIELD_RM].gpr, H_R13);
	put_op_reg(e, code64(u), 0x89, h, H_R13);
}

static void put_jmp_ind(struct translation_unit *u, struct xinsn *x)
{
	put_branch_operand(u, x);
	put_replay(u, x->replay, x->stack_moved);
	put_indirect(u, x);
}

static void put_call_direct(struct translation_unit *u, struct xinsn *x)
{
	put_push_constant(u, x, x->next);
	put_replay(u, x->replay, x->stack_moved - (int)stack_bytes(u));
	put_goto(u, x->target);
}

static void put_call_ind(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	put_branch_operand(u, x);
	put_store(e, H_R13, AT(e, next_rip));
	put_push_constant(u, x, x->next);
	put_load(e, H_R13, AT(e, next_rip));
	put_replay(u, x->replay, x->stack_moved - (int)stack_bytes(u));
	put_indirect(u, x);
}

/* RFLAGS.IF in memory, without touching the host's flags: rotated to the top it falls off a doubling. */
static void put_interrupt_flag(struct translation_unit *u, bool on)
{
	struct emit *e = &u->e;
	put_load(e, H_R13, AT(e, rflags));
	put_rorx(e, H_R13, H_R13, 10);
	put_lea(e, H_R13, mem_index(H_R13, H_R13, 0, 0));
	put_rorx(e, H_R13, H_R13, 55);
	if (on)
		put_lea(e, H_R13, mem_base(H_R13, RFLAGS_IF));
	put_store(e, H_R13, AT(e, rflags));
}

/*
 * STI at CPL 0, followed by an instruction in the block that is no rule: that
 * one is the interrupt shadow, for nothing is polled before it has run. If
 * somebody waits for the window the rule does it all.
 */
static void put_sti(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	put_store(e, H_RCX, AT_SPILL(e, 0));
	put_load32(e, H_RCX, AT(e, want));
	put8(e, 0xe3);                                           /* jrcxz: nobody waits */
	uint8_t *skip = e->p++;
	put_load(e, H_RCX, AT_SPILL(e, 0));
	put_rule(u, x);
	*skip = e->p - (skip + 1);
	put_load(e, H_RCX, AT_SPILL(e, 0));
	put_interrupt_flag(u, true);
}

void put_rule(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	struct insn *copy = meta_alloc(u->engine, sizeof *copy);
	*copy = x->in;
	put_rip(u, x->rip);
	put_store_imm64(e, AT(e, next_rip), x->next);
	put_mov_imm(e, H_R13, (uintptr_t)copy);
	put_mov_imm(e, H_R14, (uintptr_t)x->rule);
	put_store(e, H_R13, AT(e, cur_insn));
	if (x->rule_flags & RULE_ENDS)
		put_jmp_to(e, u->mode & XMODE_ONE ? u->engine->stub_rule_end : u->engine->stub_rule_next);
	else
		put_call_to(e, u->engine->stub_call);
}

/* Emits x if it is control flow, stack or a rule. Sets u->ended if nothing falls through. */
void put_control(struct translation_unit *u, struct xinsn *x)
{
	switch (x->kind) {
	case KIND_RULE: put_rule(u, x); u->ended = x->rule_flags & RULE_ENDS; break;
	case KIND_JCC: put_jcc_exit(u, x); break;
	case KIND_JMP: put_goto(u, x->target); u->ended = true; break;
	case KIND_CALL: put_call_direct(u, x); u->ended = true; break;
	case KIND_RET: put_ret(u, x); u->ended = true; break;
	case KIND_JMP_IND: put_jmp_ind(u, x); u->ended = true; break;
	case KIND_CALL_IND: put_call_ind(u, x); u->ended = true; break;
	case KIND_PUSH: put_push(u, x); break;
	case KIND_POP: put_pop(u, x); break;
	case KIND_LEAVE: put_leave(u, x); break;
	case KIND_CLI: put_interrupt_flag(u, false); break;
	case KIND_STI: put_sti(u, x); break;
	case KIND_RDTSC: put_rdtsc(u, x); break;
	case KIND_LOOP: put_loop_back(u, x); u->ended = u->loop.always; break;
	}
}
