/*
 * Windows: one TLB check for several accesses of a block whose addresses
 * differ by constants: the same base and index values, or none at all. The
 * first access (the lead) checks the whole span and leaves (host address -
 * guest address) in a window register; the others add it to the address that
 * they have anyway. If the span is not inside one
 * page with all the rights that its members need, the block is left for a
 * translation without windows, at the lead.
 *
 * In a loop (loop.c), leads and lone accesses whose address moves by little from
 * round to round compare with a lane, and windows beyond the two registers are
 * kept in their lanes.
 *
 * Accesses by RSP compare with two lanes that all blocks share, one for pages
 * that may be read, one for pages that may be written. The TLB's context keeps them
 * (cpu/tlb_set.h): they are empty whenever something may have been taken out of it.
 *
 * Registers are followed through MOV, LEA, ADD and SUB of constants, PUSH and
 * POP as (value, offset). A rule ends all windows: it may change mappings.
 *
 * An index that MOVZX or AND has made small stays inside a table. In a loop all
 * of the table is made the span, if it is in one page as things are: then the
 * check is of the table's address, which steps as little as the loop's other
 * addresses do, and what is loaded need not wait for it.
 */
#include "xlat/internal.h"

enum { MAX_SPAN = 1024, MAX_LOOP_SPAN = 512 /* for they fail where a page ends */, MAX_STRIDE = 512, MAX_ACCESSES = 3 * MAX_BLOCK_INSNS };

/* most: what the register holds is at most that; 0: not known. */
struct value { uint16_t id, most; int64_t offset; };
/* id, index_id: what the base and the index hold; equal for two references only if they differ by a constant. size: with all of a table. */
struct access_ref { uint16_t insn, id, index_id, size; uint8_t scale, part; bool write, table, stack /* by RSP's value, or RBP's in LEAVE */; int64_t offset; };
enum { NO_VALUE = 0xffff };

struct analysis {
	struct translation_unit *u;
	struct value value[16];
	uint16_t next_id;
	struct access_ref ref[MAX_ACCESSES];
	uint16_t stop[MAX_ACCESSES];             /* first reference beyond the stretch without rules that ref[i] is in */
	unsigned nrefs, stretch;
};

static struct access_ref *note(struct analysis *a, unsigned insn, unsigned part, int base, int64_t disp, unsigned size, bool write)
{
	struct value v = base >= 0 ? a->value[base] : (struct value){ .id = NO_VALUE };
	struct access_ref *r = &a->ref[a->nrefs++];
	*r = (struct access_ref){ .insn = insn, .part = part, .id = v.id, .index_id = NO_VALUE, .offset = v.offset + disp, .size = size,
	                          .write = write, .stack = base >= 0 && v.id == a->value[REG_RSP].id };
	return r;
}

static void new_value(struct analysis *a, int g) { a->value[g] = (struct value){ .id = a->next_id++ }; }

static void end_stretch(struct analysis *a)
{
	for (; a->stretch < a->nrefs; a->stretch++)
		a->stop[a->stretch] = a->nrefs;
}

/* A 64-bit address without segment base, whose check may be moved to another instruction. */
static bool operand_followed(const struct xinsn *x)
{
	const struct insn *in = &x->in;
	return in->mem && in->mem_size && in->mem_size <= 64 && in->addrsize == 8 &&
	       in->seg != SEG_FS && in->seg != SEG_GS && !in->lock;
}

/*
 * Is r, with an index of at most so much, an access to a table in one page? The
 * registers are as the block is about to be entered with them, which decides
 * only what is worth a try.
 */
static bool is_table(const struct analysis *a, const struct access_ref *r, unsigned most)
{
	unsigned size = r->size + (most << r->scale);
	if (!a->u->loop.body || !most || size > MAX_SPAN || (r->id != NO_VALUE && r->id >= 16))
		return false;
	uint64_t start = (r->id == NO_VALUE ? 0 : a->u->cpu->gpr[r->id]) + r->offset;
	return (start & 4095) + size <= 4096;
}

static void note_operand(struct analysis *a, unsigned i, bool write)
{
	const struct xinsn *x = &a->u->insn[i];
	if (!operand_followed(x))
		return;
	struct access_ref *r = note(a, i, WINDOW_OPERAND, x->in.base, x->in.disp, x->in.mem_size, write);
	if (x->in.index < 0)
		return;
	unsigned most = a->value[x->in.index].most;
	r->scale = x->in.scale;
	r->table = is_table(a, r, most);
	if (r->table) {
		r->size += most << r->scale;
		r->scale = 0;
	} else {
		r->index_id = a->value[x->in.index].id;
		r->offset += a->value[x->in.index].offset << x->in.scale;
	}
}

static void note_accesses(struct analysis *a, unsigned i)
{
	const struct xinsn *x = &a->u->insn[i];
	switch (x->kind) {
	case KIND_NATIVE: note_operand(a, i, x->in.mem_write); break;
	case KIND_JMP_IND: note_operand(a, i, false); break;
	case KIND_PUSH: case KIND_CALL_IND: note_operand(a, i, false); note(a, i, WINDOW_STACK, REG_RSP, -8, 8, true); break;
	case KIND_CALL: note(a, i, WINDOW_STACK, REG_RSP, -8, 8, true); break;
	case KIND_POP: case KIND_RET: note(a, i, WINDOW_STACK, REG_RSP, 0, 8, false); break;
	case KIND_LEAVE: note(a, i, WINDOW_STACK, REG_RBP, 0, 8, false)->stack = true; break;
	}
}

static bool is_register_move(const struct xinsn *x)
{
	const struct insn *in = &x->in;
	return x->kind == KIND_NATIVE && in->map == 0 && (in->opcode == 0x89 || in->opcode == 0x8b) && !in->mem && in->opsize == 8;
}

/* ADD or SUB of a constant to a 64-bit register: the signed distance. */
static bool is_adjustment(struct xinsn *x, int64_t *distance)
{
	const struct insn *in = &x->in;
	unsigned sub = in->modrm >> 3 & 7;
	if (x->kind != KIND_NATIVE || in->map || (in->opcode != 0x81 && in->opcode != 0x83) || in->mem || in->opsize != 8 || (sub != 0 && sub != 5))
		return false;
	*distance = sub ? -(int64_t)depend_on_imm(x) : (int64_t)depend_on_imm(x);
	return true;
}

/* The most that x, in a loop, can leave in the register it writes, if that is little; else 0. */
static unsigned most_left(const struct analysis *a, struct xinsn *x)
{
	const struct insn *in = &x->in;
	bool extends = in->map == 1 && in->opcode == 0xb6;
	bool masks = !in->map && ((in->opcode & 0xfd) == 0x81 ? (in->modrm >> 3 & 7) == 4 : in->opcode == 0x25);
	if (!a->u->loop.body || x->kind != KIND_NATIVE || in->encoding != ENC_LEGACY || in->opsize < 4)
		return 0;
	return extends ? 0xff : masks && depend_on_imm(x) <= MAX_SPAN ? in->imm : 0;
}

static void follow(struct analysis *a, struct xinsn *x)
{
	struct value *v = a->value;
	int64_t distance;
	if (x->kind == KIND_RULE) {
		for (int g = 0; g < 16; g++)
			new_value(a, g);
		end_stretch(a);
	} else if (x->kind == KIND_PUSH) {
		v[REG_RSP].offset -= 8;
	} else if (x->kind == KIND_LEAVE) {
		v[REG_RSP] = v[REG_RBP];
		v[REG_RSP].offset += 8;
		new_value(a, REG_RBP);
	} else if (is_register_move(x)) {
		int to = x->field[x->in.opcode == 0x89 ? FIELD_RM : FIELD_REG].gpr, from = x->field[x->in.opcode == 0x89 ? FIELD_REG : FIELD_RM].gpr;
		v[to] = v[from];
	} else if (is_adjustment(x, &distance)) {
		v[x->field[FIELD_RM].gpr].offset += distance;
		v[x->field[FIELD_RM].gpr].most = 0;
	} else if (x->kind == KIND_LEA && x->in.base >= 0 && x->in.index < 0 && x->in.opsize == 8 && x->in.addrsize == 8) {
		struct value sum = v[x->in.base];
		sum.offset += x->in.disp;
		sum.most = 0;
		v[x->field[FIELD_REG].gpr] = sum;
	} else {
		if (x->kind == KIND_POP)
			v[REG_RSP].offset += 8;
		for (int g = 0; g < 16; g++)
			if (x->written >> g & 1 && !(x->kind == KIND_POP && g == REG_RSP && x->field[FIELD_OPCODE].gpr != REG_RSP)) {
				new_value(a, g);
				v[g].most = most_left(a, x);
			}
	}
}

static bool same_values(const struct access_ref *a, const struct access_ref *b)
{
	return a->id == b->id && a->index_id == b->index_id && a->scale == b->scale;
}

/* May [low, high) be one window? Constant addresses need but lie in one page. */
static bool fits(const struct analysis *a, const struct access_ref *r, int64_t low, int64_t high)
{
	if (r->id == NO_VALUE && r->index_id == NO_VALUE)
		return !((low ^ (high - 1)) >> 12);
	return high - low <= (a->u->loop.body && !r->table ? MAX_LOOP_SPAN : MAX_SPAN);
}

/* The members of the window that ref[lead] would open: how many, and their span. */
static unsigned gather(const struct analysis *a, unsigned lead, int64_t *low, int64_t *high, bool *write, unsigned *last)
{
	const struct access_ref *r = &a->ref[lead];
	unsigned n = 0;
	*low = r->offset;
	*high = r->offset + r->size;
	*write = false;
	for (unsigned i = lead; i < a->stop[lead]; i++) {
		const struct access_ref *m = &a->ref[i];
		int64_t l = m->offset < *low ? m->offset : *low, h = m->offset + m->size > *high ? m->offset + m->size : *high;
		if (!same_values(m, r) || !fits(a, r, l, h))
			continue;
		*low = l;
		*high = h;
		*write |= m->write;
		*last = i;
		n++;
	}
	return n;
}

/* The value with which a register entered the loop: is it the same, but for a small distance, in the next round? */
static bool value_steady(const struct analysis *a, unsigned id, unsigned scale)
{
	int64_t most = (int64_t)MAX_STRIDE * a->u->loop.rounds;
	if (id == NO_VALUE)
		return true;
	if (id >= 16 || a->value[id].id != id)
		return false;
	int64_t step = a->value[id].offset << scale;
	return step <= most && step >= -most;
}

/* A lane for the access, if it is worth one: 0 if not. */
static unsigned lane_for(const struct analysis *a, const struct access_ref *r)
{
	if (!a->u->loop.body || !value_steady(a, r->id, 0) || !value_steady(a, r->index_id, r->scale))
		return 0;
	return loop_lane(a->u);
}

static void assign(struct analysis *a, unsigned lead, unsigned reg, int64_t low, int64_t high, bool write, unsigned last, unsigned lane)
{
	for (unsigned i = lead; i <= last; i++) {
		const struct access_ref *m = &a->ref[i];
		if (!same_values(m, &a->ref[lead]) || m->offset < low || m->offset + m->size > high)
			continue;
		struct window *w = &a->u->insn[m->insn].window[m->part];
		w->role = i == lead ? WINDOW_LEAD : WINDOW_MEMBER;
		w->reg = reg;
		w->lane = lane;
	}
	struct window *w = &a->u->insn[a->ref[lead].insn].window[a->ref[lead].part];
	w->before = a->ref[lead].offset - low;
	w->span = high - low;
	w->write = write;
	w->table = a->ref[lead].table;
}

/* The stack is mostly the page that it was a moment ago. */
static unsigned stack_lane(bool write) { return write ? LANE_STACK_WRITE : LANE_STACK_READ; }

/* A lone access to the stack: a window for itself. */
static void assign_alone(struct analysis *a, const struct access_ref *r)
{
	a->u->insn[r->insn].window[r->part] = (struct window){ .role = WINDOW_LEAD, .reg = WINDOW_IN_LANE, .write = r->write,
	                                                       .lane = stack_lane(r->write), .span = r->size };
}

void unit_windows(struct translation_unit *u)
{
	static __thread struct analysis analysis;
	struct analysis *a = &analysis;
	unsigned busy[WINDOW_REGISTERS] = { 0, 0 };      /* each window register is taken for references below this */
	if (u->careful || !code64(u) || u->mode & (XMODE_NO_WINDOWS | XMODE_ONE) || !params.windows)
		return;
	a->u = u;
	a->nrefs = a->stretch = a->next_id = 0;
	for (int g = 0; g < 16; g++)
		new_value(a, g);
	for (unsigned i = 0; i < u->count; i++) {
		note_accesses(a, i);
		follow(a, &u->insn[i]);
	}
	end_stretch(a);
	for (unsigned i = 0; i < a->nrefs; i++) {
		int64_t low, high;
		unsigned last;
		bool write;
		unsigned reg = i >= busy[0] ? 0 : i >= busy[1] ? 1 : WINDOW_IN_LANE;
		struct window *w = &u->insn[a->ref[i].insn].window[a->ref[i].part];
		if (w->role)
			continue;
		unsigned lane = lane_for(a, &a->ref[i]);
		bool stack = !lane && a->ref[i].stack && !a->ref[i].table;
		w->lane = lane;
		bool table = a->ref[i].table && lane;
		if ((reg == WINDOW_IN_LANE && !lane) || gather(a, i, &low, &high, &write, &last) < (table ? 1 : 2)) {
			if (stack)
				assign_alone(a, &a->ref[i]);
			continue;
		}
		assign(a, i, reg, low, high, write, last, stack ? stack_lane(write) : lane);
		if (reg < WINDOW_REGISTERS)
			busy[reg] = last + 1;
	}
}
