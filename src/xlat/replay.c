/*
 * Flags made again. A memory check destroys the host's flags. Where they are
 * live but the instruction that made them can be repeated for its flags alone
 * (a comparison of registers that still hold the same; a sum whose operands
 * can be had back), checks need not save them: they are made again before the
 * next instruction that has to do with flags, and wherever the block is left.
 * Where they cannot be made again they are kept in memory meanwhile, if that
 * spares more than one check the trouble.
 */
#include "xlat/internal.h"

enum maker { MAKER_NONE, MAKER_COMPARE /* CMP, TEST: itself */, MAKER_LOGIC /* AND, OR, XOR: TEST of the result */, MAKER_ADD, MAKER_SUB };

enum { MOST = 1 << 30 /* constant of a sum */ };
struct making { uint8_t maker; int8_t to, from; int32_t constant; };   /* to, from: guest registers; from -1: the constant */

static uint8_t maker_of_alu(unsigned sub)
{
	static const uint8_t makers[8] = { MAKER_ADD, MAKER_LOGIC, MAKER_NONE, MAKER_NONE, MAKER_LOGIC, MAKER_SUB, MAKER_LOGIC, MAKER_COMPARE };
	return makers[sub];
}

static struct making making_of(const struct xinsn *x)
{
	const struct insn *in = &x->in;
	struct making m = { MAKER_NONE, x->field[FIELD_RM].gpr, -1, (int32_t)in->imm };
	uint8_t op = in->opcode;
	if (x->kind != KIND_NATIVE || in->mem || in->map || in->lock || in->rep || x->high_byte || in->encoding != ENC_LEGACY)
		return m;
	if (op < 0x40 && (op & 7) < 4) {
		m.maker = maker_of_alu(op >> 3);
		m.to = x->field[op & 2 ? FIELD_REG : FIELD_RM].gpr;
		m.from = x->field[op & 2 ? FIELD_RM : FIELD_REG].gpr;
	} else if (op < 0x40 && (op & 7) < 6) {
		m.maker = maker_of_alu(op >> 3);
		m.to = REG_RAX;
	} else if (op == 0x80 || op == 0x81 || op == 0x83) {
		m.maker = maker_of_alu(in->modrm >> 3 & 7);
	} else if (op == 0x84 || op == 0x85) {
		m.maker = MAKER_COMPARE;
		m.from = x->field[FIELD_REG].gpr;
	} else if (op == 0xa8 || op == 0xa9) {
		m = (struct making){ MAKER_COMPARE, REG_RAX, -1, 0 };
	} else if ((op == 0xf6 || op == 0xf7) && (in->modrm >> 3 & 7) < 2) {
		m.maker = MAKER_COMPARE;
	}
	if (m.maker != MAKER_NONE && m.maker != MAKER_COMPARE && in->opsize < 4)
		m.maker = MAKER_NONE;
	bool sum = m.maker == MAKER_ADD || m.maker == MAKER_SUB;
	if (sum && (m.from == m.to || m.constant > MOST || m.constant < -MOST))
		m.maker = MAKER_NONE;
	return m;
}

/* Have all operands a host register? (Loading one would need a register more.) */
static bool homes(const struct making *m)
{
	return m->to >= 0 && host_reg(m->to) >= 0 && (m->from < 0 || host_reg(m->from) >= 0);
}

static uint32_t operands_of(const struct making *m)
{
	return 1u << m->to | (m->from >= 0 && m->maker != MAKER_LOGIC ? 1u << m->from : 0);
}

/* Distance by which a plain stack instruction moves RSP. */
static int stack_step(const struct xinsn *x)
{
	return x->kind == KIND_PUSH ? -8 : x->kind == KIND_POP && x->field[FIELD_OPCODE].gpr != REG_RSP ? 8 : 0;
}

/* Can the host raise a signal there? It would show the flags. */
static bool may_signal(const struct xinsn *x)
{
	if (x->aligned)
		return true;
	switch (x->in.mnemonic) {
	case ZYDIS_MNEMONIC_VMOVDQU: case ZYDIS_MNEMONIC_VMOVUPS: case ZYDIS_MNEMONIC_VMOVUPD: case ZYDIS_MNEMONIC_MOVDQU: case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD: case ZYDIS_MNEMONIC_MOVQ: case ZYDIS_MNEMONIC_MOVD: case ZYDIS_MNEMONIC_VMOVQ: case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_MOVSS: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_VMOVSS: case ZYDIS_MNEMONIC_VMOVSD: case ZYDIS_MNEMONIC_VZEROUPPER:
	case ZYDIS_MNEMONIC_PXOR: case ZYDIS_MNEMONIC_VPXOR: case ZYDIS_MNEMONIC_XORPS: case ZYDIS_MNEMONIC_MOVHPS: case ZYDIS_MNEMONIC_MOVLPS:
		return x->fpu_class == FPU_CLASS_X87;
	default:
		return x->fpu_class != FPU_CLASS_NONE;
	}
}

/* Leaves the block after an access of its own, with the flags as they were. */
static bool leaves_by_stack(const struct xinsn *x)
{
	return x->kind == KIND_RET || x->kind == KIND_CALL || x->kind == KIND_CALL_IND || x->kind == KIND_JMP_IND;
}

/* Nothing but its registers and memory: neither leaves the block nor calls a rule. */
static bool is_plain(const struct xinsn *x)
{
	switch (x->kind) {
	case KIND_NATIVE: case KIND_NOP: case KIND_LEA: case KIND_PUSH: case KIND_POP: case KIND_LEAVE: case KIND_BIT_STRING:
		return true;
	default:
		return false;
	}
}

static bool has_to_do_with_flags(const struct xinsn *x)
{
	return x->flags_read || x->flags_written || x->flags_kept || !(is_plain(x) || leaves_by_stack(x));
}

static bool checks_memory(const struct xinsn *x)
{
	bool stack = x->kind == KIND_PUSH || x->kind == KIND_POP || x->kind == KIND_LEAVE || x->kind == KIND_RET || x->kind == KIND_CALL ||
	             x->kind == KIND_CALL_IND;
	return (x->in.mem && x->in.mem_size && x->window[WINDOW_OPERAND].role != WINDOW_MEMBER) ||
	       (stack && x->window[WINDOW_STACK].role != WINDOW_MEMBER);
}

/* What the flags after an instruction can be had from: source, a number (-1: only by keeping them); RSP's distance since. */
struct origin { int source, moved; struct making making; };

static bool by_stack(const struct making *m)
{
	return operands_of(m) == 1u << REG_RSP && (m->maker == MAKER_ADD || m->maker == MAKER_SUB);
}

/* x is neither of those that have to do with flags nor does it end the block: is the origin still good after it? */
static bool survives(const struct origin *o, const struct xinsn *x)
{
	if (o->source < 0)
		return true;
	bool moves = by_stack(&o->making) && stack_step(x), stack = x->kind == KIND_PUSH || x->kind == KIND_POP || x->kind == KIND_LEAVE;
	uint32_t written = x->written | (stack ? 1u << REG_RSP : 0);
	return !((moves ? written & ~(1u << REG_RSP) : written) & operands_of(&o->making));
}

/* Up to which instruction, excluded, checks need not save the flags that are live before insn[from]; from: not worth it. */
static unsigned reach(const struct translation_unit *u, unsigned from, const struct origin *o, bool *leaves)
{
	unsigned n = from, checks = 0;
	for (; n < u->count && !has_to_do_with_flags(&u->insn[n]) && !leaves_by_stack(&u->insn[n]); n++) {
		if (!survives(o, &u->insn[n]) || may_signal(&u->insn[n]))
			return from;
		checks += checks_memory(&u->insn[n]);
	}
	*leaves = n < u->count && leaves_by_stack(&u->insn[n]) && !u->insn[n].flags_written;
	if (n < u->count && leaves_by_stack(&u->insn[n]) && !*leaves)
		return from;
	if (*leaves && o->source >= 0 && operands_of(&o->making) & 1u << REG_RSP && !by_stack(&o->making))
		return from;
	if (*leaves)
		checks += checks_memory(&u->insn[n++]);
	return checks >= (o->source < 0 ? 2 : 1) ? n : from;
}

/* The flags are live before insn[from]. */
static void mark(struct translation_unit *u, unsigned from, const struct origin *o)
{
	bool leaves = false;
	unsigned n = reach(u, from, o, &leaves), replay = o->source < 0 ? REPLAY_KEPT : o->source + 1;
	int moved = o->moved;
	if (n == from)
		return;
	u->insn[from].keep_flags = o->source < 0;
	if (o->source >= 0)
		depend_on_imm(&u->insn[o->source]);
	for (unsigned i = from; i < n; i++) {
		struct xinsn *x = &u->insn[i];
		x->checks_save = false;
		x->replay = replay;
		x->stack_moved = moved;
		moved += stack_step(x);
	}
	if (leaves)
		return;
	if (n < u->count) {
		u->insn[n].replay_first = replay;
		u->insn[n].stack_moved = moved;
	} else {
		u->replay_last = replay;
		u->stack_moved_last = moved;
	}
}

/* Follows the origin of the flags over x. */
static void follow(struct translation_unit *u, unsigned i, struct origin *o)
{
	const struct xinsn *x = &u->insn[i];
	struct making m = making_of(x);
	if (m.maker != MAKER_NONE && homes(&m))
		*o = (struct origin){ (int)i, 0, m };
	else if (x->flags_written || x->flags_kept || !(is_plain(x) || x->kind == KIND_JCC) || !survives(o, x))
		*o = (struct origin){ .source = -1 };
	else
		o->moved += stack_step(x);
}

void unit_replay(struct translation_unit *u)
{
	struct origin o = { .source = -1 };
	u->replay_last = 0;
	if (u->careful || (u->mode & MODE_CODE_MASK) != MODE_CODE64 || params.precise_flags)
		return;
	for (unsigned i = 0; i < u->count; i++) {
		uint32_t live = u->insn[i].flags_live;
		struct origin here = o;
		if (o.source >= 0 && live & ~u->insn[o.source].flags_written)
			here.source = -1;
		if (live && (i == 0 || has_to_do_with_flags(&u->insn[i - 1])))
			mark(u, i, &here);
		follow(u, i, &o);
	}
}

/* ADD or SUB again, in r14. moved: RSP's distance since. */
static void put_sum(struct emit *e, const struct making *m, int w, int moved)
{
	int to = host_reg(m->to), from = m->from >= 0 ? host_reg(m->from) : -1;
	bool add = m->maker == MAKER_ADD;
	if (from < 0) {
		put_op_mem(e, w, 0x8d, H_R14, mem_base(to, (add ? -m->constant : m->constant) - moved));
	} else if (add) {
		put_op_reg(e, w, 0x89, to, H_R14);
		put_op_reg(e, w, 0x29, from, H_R14);             /* sub r14, from */
	} else {
		put_op_mem(e, w, 0x8d, H_R14, mem_index(to, from, 0, 0));
	}
	if (from < 0)
		put_alu_imm(e, w, add ? 0 : 7, H_R14, m->constant);
	else
		put_op_reg(e, w, add ? 0x01 : 0x39, from, H_R14);
}

void put_flags_kept(struct translation_unit *u)
{
	put_flags_saved(u);
	put_store(&u->e, H_RAX, AT_SPILL(&u->e, SPILL_FLAGS));
	put_load(&u->e, H_RAX, AT_SPILL(&u->e, 0));
}

void put_replay(struct translation_unit *u, unsigned replay, int moved)
{
	struct emit *e = &u->e;
	if (!replay)
		return;
	if (replay == REPLAY_KEPT) {
		put_store(e, H_RAX, AT_SPILL(e, 0));
		put_load(e, H_RAX, AT_SPILL(e, SPILL_FLAGS));
		put_flags_restored(u);
		return;
	}
	const struct xinsn *x = &u->insn[replay - 1];
	struct making m = making_of(x);
	int w = x->in.opsize == 8, to = host_reg(m.to);
	switch (m.maker) {
	case MAKER_COMPARE: put_register_form(u, x); break;
	case MAKER_LOGIC: put_op_reg(e, w, 0x85, to, to); break;
	default: put_sum(e, &m, w, m.to == REG_RSP ? moved : 0); break;
	}
}
