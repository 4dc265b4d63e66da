/*
 * Memory operands. Fast: the inline TLB check of cpu/tlb.h, with the arithmetic
 * flags kept in AX around it where they are live. Careful: a call of
 * careful_begin(), which applies every rule and hands out a pointer; a
 * written operand is then committed.
 *
 * Scratch: r13, r14. Guest RSP is in r15; window registers are r10 and r11; guest
 * R10, R11 and R13..R15 are in memory.
 */
#include "xlat/internal.h"

int host_reg(int guest)
{
	static const int8_t home[16] = { H_RAX, H_RCX, H_RDX, H_RBX, H_R15, H_RBP, H_RSI, H_RDI, H_R8, H_R9, -1, -1, H_R12, -1, -1, -1 };
	return home[guest];
}

int put_guest_reg(struct translation_unit *u, int guest, int scratch)
{
	int h = host_reg(guest);
	if (h >= 0)
		return h;
	put_load(&u->e, scratch, AT_GPR(&u->e, guest));
	return scratch;
}

void put_rip(struct translation_unit *u, uint64_t rip)
{
	put_store_imm64(&u->e, AT(&u->e, rip), rip);
}

/* to = offset of the memory operand, wrapped to its address size. Uses r13 and r14; flags kept. */
void put_address(struct translation_unit *u, const struct xinsn *x, int to)
{
	struct emit *e = &u->e;
	const struct insn *in = &x->in;
	if (in->base < 0 && in->index < 0) {
		uint64_t a = in->disp;
		put_mov_imm(e, to, in->addrsize == 8 ? a : in->addrsize == 4 ? (uint32_t)a : (uint16_t)a);
		return;
	}
	int base = in->base >= 0 ? put_guest_reg(u, in->base, H_R13) : -1;
	int index = in->index >= 0 ? put_guest_reg(u, in->index, H_R14) : -1;
	struct mem_operand m = { base, index, in->scale, (int32_t)in->disp };
	if (in->addrsize == 8 && index < 0 && !m.disp)
		put_mov(e, to, base);
	else if (in->addrsize == 8)
		put_lea(e, to, m);
	else
		put_lea32(e, to, m);
	if (in->addrsize == 2)
		put_op_reg(e, 0, 0x0fb7, to, to);                /* movzx */
}

void put_effective_address(struct translation_unit *u, const struct xinsn *x) { put_address(u, x, H_R13); }

void put_segment_base(struct translation_unit *u, int seg)
{
	struct emit *e = &u->e;
	put_load(e, H_R14, mem_state(e, offsetof(struct cpu, seg) + seg * sizeof(struct segment) + offsetof(struct segment, base)));
	put_lea(e, H_R13, mem_index(H_R13, H_R14, 0, 0));
}

void put_call_c(struct translation_unit *u, const struct xinsn *x, void (*fn)(struct cpu *, uint64_t), uint64_t arg)
{
	struct emit *e = &u->e;
	put_rip(u, x->rip);
	put_mov_imm(e, H_R13, arg);
	put_mov_imm(e, H_R14, (uintptr_t)fn);
	put_call_to(e, u->engine->stub_call);
}

/* What careful_begin() is told: see careful.c. */
static uint64_t access_info(const struct xinsn *x, unsigned size, unsigned access, int seg)
{
	return size | access << 16 | (uint64_t)seg << 24 |
	       (uint64_t)x->aligned << 36 | (uint64_t)x->x87_wait << 37;
}

static struct mem_operand put_careful_access(struct translation_unit *u, const struct xinsn *x, int seg, unsigned size, unsigned access)
{
	struct emit *e = &u->e;
	put_store(e, H_R13, AT(e, slow_addr));
	struct insn *copy = meta_alloc(u->engine, sizeof *copy);
	*copy = x->in;
	put_mov_imm(e, H_R14, (uintptr_t)copy);
	put_store(e, H_R14, AT(e, cur_insn));
	put_call_c(u, x, careful_begin, access_info(x, size, access, seg));
	put_load(e, H_R14, AT(e, slow_result));
	return mem_base(H_R14, 0);
}

void put_flags_saved(struct translation_unit *u)
{
	put_store(&u->e, H_RAX, AT_SPILL(&u->e, 0));
	put_flags_to_ax(&u->e);
}

void put_flags_restored(struct translation_unit *u)
{
	put_flags_from_ax(&u->e);
	put_load(&u->e, H_RAX, AT_SPILL(&u->e, 0));
}

size_t tag_offset(bool write)
{
	return write ? offsetof(struct tlb_entry, write_tag) : offsetof(struct tlb_entry, read_tag);
}

void put_lookup(struct emit *e, size_t tag, unsigned size)
{
	put_rorx(e, H_R14, H_R13, 7);
	put_op_mem(e, 1, 0x23, H_R14, AT(e, tlb_mask));          /* and r14, mask */
	put_op_mem(e, 1, 0x03, H_R14, AT(e, tlb));               /* add r14, tlb */
	put_op_mem(e, 1, 0x2b, H_R13, mem_base(H_R14, tag));     /* sub r13, tag */
	put_alu_imm(e, 1, 7, H_R13, 4096 - (int)size);
}

enum { NO_WINDOW = -1, WINDOW_LANE = -2 };

/*
 * The check of [r13, +size), with the lane if there is one, else with the TLB.
 * Leaves r14 = host page and r13 = offset in it; or, for a window, host - guest
 * address in that host register or (WINDOW_LANE) in the lane. Goes to cold code
 * if it fails.
 */
static struct cold *put_check(struct translation_unit *u, const struct xinsn *x, unsigned size, bool write, int window, unsigned lane)
{
	struct emit *e = &u->e;
	bool save = x->checks_save;
	size_t tag = tag_offset(write);
	if (save)
		put_flags_saved(u);
	if (lane) {
		put_op_mem(e, 1, 0x2b, H_R13, AT_LANE(e, lane, tag));    /* sub r13, tag */
		put_alu_imm(e, 1, 7, H_R13, 4096 - (int)size);
	} else {
		put_lookup(e, tag, size);
	}
	struct access_site *site = meta_alloc(u->engine, sizeof *site);
	*site = (struct access_site){ .rip = x->rip, .next = x->next, .block = u->block, .length = x->in.len, .locked = insn_locks(&x->in),
	                              .aligned = x->aligned, .x87_wait = x->x87_wait };
	struct cold *c = &u->cold[u->ncold++];
	*c = (struct cold){ .place = put_jcc(e, 7), .rip = x->rip, .kind = window == NO_WINDOW ? COLD_ACCESS : COLD_WINDOW, .flags_saved = save,
	                    .write = write, .site = site, .replay = x->replay, .stack_moved = x->stack_moved, .lane = lane, .size = size, .window = window, .hit = e->p };
	if (lane) {
		if (window != WINDOW_LANE)
			put_load(e, window == NO_WINDOW ? H_R14 : window, AT_LANE(e, lane, value));
	} else if (window >= 0) {
		put_load(e, window, mem_base(H_R14, offsetof(struct tlb_entry, host)));
		put_op_mem(e, 1, 0x2b, window, mem_base(H_R14, tag));
	} else {
		put_load(e, H_R14, mem_base(H_R14, offsetof(struct tlb_entry, host)));
	}
	if (save)
		put_flags_restored(u);
	c->back = e->p;
	return c;
}

static struct mem_operand put_fast_access(struct translation_unit *u, const struct xinsn *x, unsigned size, unsigned access, unsigned lane)
{
	struct cold *c = put_check(u, x, size, access & ACCESS_WRITE, NO_WINDOW, lane);
	c->site->size = size;
	c->site->access = access;
	return mem_index(H_R14, H_R13, 0, 0);
}

struct mem_operand put_access(struct translation_unit *u, const struct xinsn *x, int seg, unsigned size, unsigned access, unsigned lane)
{
	struct mem_operand m = u->careful ? put_careful_access(u, x, seg, size, access) : put_fast_access(u, x, size, access, lane);
	note_access(u, x);
	return m;
}

static unsigned operand_access(const struct xinsn *x)
{
	unsigned access = (x->in.mem_read ? ACCESS_READ : 0) | (x->in.mem_write ? ACCESS_WRITE : 0);
	return access ? access : ACCESS_READ;
}

static const int8_t window_register[] = { H_R11, H_R10, WINDOW_LANE };

/* r13 = start of the span. */
static void put_window_check(struct translation_unit *u, const struct xinsn *x, const struct window *w, unsigned size, unsigned access)
{
	int to = window_register[w->reg];
	struct cold *c = put_check(u, x, w->span, w->write, to, w->lane);
	*c->site = (struct access_site){ .rip = x->rip, .next = x->next, .block = u->block, .length = x->in.len, .size = size, .access = access,
	                                 .aligned = x->aligned, .x87_wait = x->x87_wait, .window = true, .window_write = w->write, .before = w->before, .span = w->span };
}

/* The host register with host - guest address. */
static int put_window(struct translation_unit *u, const struct window *w)
{
	if (w->reg < WINDOW_REGISTERS)
		return window_register[w->reg];
	put_load(&u->e, H_R14, AT_LANE(&u->e, w->lane, value));
	return H_R14;
}

struct mem_operand put_window_access(struct translation_unit *u, const struct xinsn *x, enum window_part part, int base, int64_t disp,
                                     unsigned size, unsigned access)
{
	struct emit *e = &u->e;
	const struct window *w = &x->window[part];
	int b = put_guest_reg(u, base, H_R13);
	if (w->role == WINDOW_LEAD) {
		if (disp == w->before)
			put_mov(e, H_R13, b);
		else
			put_lea(e, H_R13, mem_base(b, (int32_t)(disp - w->before)));
		put_window_check(u, x, w, size, access);
		b = put_guest_reg(u, base, H_R13);
	}
	return mem_index(b, put_window(u, w), 0, (int32_t)disp);
}

/* The same for a memory operand with an index, or of constant address. */
static struct mem_operand put_window_operand(struct translation_unit *u, const struct xinsn *x)
{
	const struct window *w = &x->window[WINDOW_OPERAND];
	int64_t disp = x->in.disp;
	bool short_constant = x->in.base < 0 && x->in.index < 0 && disp == (int32_t)disp && !x->high_byte;
	struct xinsn y = *x;
	if (w->table)
		y.in.index = REG_NONE;
	if (w->role == WINDOW_LEAD) {
		put_effective_address(u, &y);
		if (w->before)
			put_lea(&u->e, H_R13, mem_base(H_R13, -(int32_t)w->before));
		put_window_check(u, x, w, x->in.mem_size, w->table ? 0 : operand_access(x));
	}
	if (short_constant)
		return mem_base(put_window(u, w), (int32_t)disp);
	put_effective_address(u, x);
	return mem_index(H_R13, put_window(u, w), 0, 0);
}

struct mem_operand put_operand(struct translation_unit *u, const struct xinsn *x)
{
	if (x->window[WINDOW_OPERAND].role && (x->in.base < 0 || x->in.index >= 0))
		return put_window_operand(u, x);
	if (x->window[WINDOW_OPERAND].role)
		return put_window_access(u, x, WINDOW_OPERAND, x->in.base, x->in.disp, x->in.mem_size, operand_access(x));
	put_effective_address(u, x);
	if (!u->careful && (x->in.seg == SEG_FS || x->in.seg == SEG_GS))
		put_segment_base(u, x->in.seg);
	return put_access(u, x, x->in.seg, x->in.mem_size, operand_access(x), x->window[WINDOW_OPERAND].lane);
}

bool operand_commits(const struct translation_unit *u, const struct xinsn *x)
{
	return u->careful && x->in.mem && x->in.mem_write;
}

void put_commit(struct translation_unit *u, const struct xinsn *x)
{
	struct access_site *site = meta_alloc(u->engine, sizeof *site);
	*site = (struct access_site){ .rip = x->rip, .next = x->next, .block = u->block, .x87_wait = x->x87_wait };
	put_call_c(u, x, site_commit, (uintptr_t)site);
}

static void put_saved_flags_back(struct translation_unit *u, const struct cold *c)
{
	if (c->flags_saved)
		put_flags_restored(u);
}

/*
 * A lane missed: looks into the TLB and fills it. Returns where that begins,
 * with the address in r13. Falls through if the TLB misses, too.
 */
static uint8_t *put_lane_fill(struct translation_unit *u, const struct cold *c)
{
	struct emit *e = &u->e;
	size_t tag = tag_offset(c->write);
	put_op_mem(e, 1, 0x03, H_R13, AT_LANE(e, c->lane, tag)); /* add r13, tag */
	uint8_t *lookup = e->p;
	put_lookup(e, tag, c->size);
	uint8_t *miss = put_jcc(e, 7);
	put_store(e, H_R13, AT(e, slow_addr));
	put_load(e, H_R13, mem_base(H_R14, tag));
	put_store(e, H_R13, AT_LANE(e, c->lane, tag));
	put_load(e, H_R14, mem_base(H_R14, offsetof(struct tlb_entry, host)));
	if (c->kind == COLD_WINDOW)
		put_op_reg(e, 1, 0x29, H_R13, H_R14);            /* sub r14, r13 */
	put_store(e, H_R14, AT_LANE(e, c->lane, value));
	put_load(e, H_R13, AT(e, slow_addr));
	put_jmp_to(e, c->hit);
	patch_rel32(miss, e->p);
	return lookup;
}

/* The same by a stub, with a lane of the stack. If the TLB misses, too, r13 is the address less the lane's tag, which is in slow_addr. */
static uint8_t *put_stack_lane_fill(struct translation_unit *u, const struct cold *c)
{
	struct emit *e = &u->e;
	put_op_mem(e, 1, 0x03, H_R13, AT_LANE(e, c->lane, tag)); /* add r13, tag */
	uint8_t *lookup = e->p;
	put_call_to(e, u->engine->stub_stack[c->lane - LANE_STACK_READ]);
	put_alu_imm(e, 1, 7, H_R13, 4096 - (int)c->size);
	patch_rel32(put_jcc(e, 6), c->hit);
	return lookup;
}

static uint8_t *slow_stub(const struct engine *en, const struct cold *c)
{
	if (!c->write || c->site->aligned || c->site->x87_wait || c->window == WINDOW_LANE)
		return en->stub_slow;
	return c->kind == COLD_WINDOW ? en->stub_store_window : en->stub_store;
}

/*
 * At cold code of a TLB miss r14 is the entry, r13 the address less its tag;
 * flags may be in AX. slow_access() chooses how it goes on: back to the hot
 * code, or through a copy of the instruction that is followed by a commit.
 */
static void put_cold_access(struct translation_unit *u, struct cold *c)
{
	struct emit *e = &u->e;
	struct engine *en = u->engine;
	size_t tag = tag_offset(c->write);
	bool stack = c->lane && c->lane < LANES_FIXED;
	uint8_t *lookup = stack ? put_stack_lane_fill(u, c) : c->lane ? put_lane_fill(u, c) : NULL;
	if (c->kind == COLD_WINDOW) {
		put_alu_imm(e, 1, 7, H_R13, 4095);               /* cmp: the page hits, so the span crosses its end */
		uint8_t *miss = put_jcc(e, 7);
		put_saved_flags_back(u, c);
		c->site->copy = to_rx(en, e->p);
		put_replay(u, c->replay, c->stack_moved);
		put_goto_without_windows(u, c->rip);
		patch_rel32(miss, e->p);
	}
	if (!stack) {
		put_op_mem(e, 1, 0x03, H_R13, mem_base(H_R14, tag));     /* add r13, tag */
		put_store(e, H_R13, AT(e, slow_addr));
	}
	put_saved_flags_back(u, c);
	put_replay(u, c->replay, c->stack_moved);
	put_mov_imm(e, H_R13, (uintptr_t)c->site);
	put_jmp_to(e, slow_stub(en, c));
	if (c->kind == COLD_WINDOW && c->window >= 0) {
		c->site->back = c->site->beside = to_rx(en, e->p);
		put_mov(e, c->window, H_R14);
		put_jmp_to(e, c->back);
	}
	if (c->kind == COLD_WINDOW && c->lane) {                 /* the TLB has the page now */
		c->site->back = to_rx(en, e->p);
		if (c->flags_saved)
			put_flags_saved(u);
		put_load(e, H_R13, AT(e, slow_addr));
		put_jmp_to(e, lookup);
	}
	if (c->kind == COLD_WINDOW)
		return;
	c->site->back = c->site->beside = to_rx(en, c->back);
	if (!c->copy)
		return;
	c->site->copy = to_rx(en, e->p);
	struct mem_operand m = mem_base(H_R14, 0);
	put_renamed(u, c->copy, &m);
	put_mov_imm(e, H_R13, (uintptr_t)c->site);
	put_mov_imm(e, H_R14, (uintptr_t)site_commit);
	put_call_to(e, en->stub_call);
	put_jmp_to(e, c->after);
}

static void put_cold_poll(struct translation_unit *u, const struct cold *c)
{
	struct emit *e = &u->e;
	put_rip(u, c->rip);
	put_store_imm32(e, AT(e, exit_id), EXITED_POLL);
	put_jmp_to(e, u->engine->stub_exit);
}

void unit_cold(struct translation_unit *u)
{
	for (unsigned i = 0; i < u->ncold; i++) {
		struct cold *c = &u->cold[i];
		if (c->kind != COLD_GOTO)
			patch_rel32(c->place, u->e.p);
		switch (c->kind) {
		case COLD_ACCESS: case COLD_WINDOW: put_cold_access(u, c); break;
		case COLD_POLL: put_cold_poll(u, c); break;
		case COLD_LANES: put_cold_lanes(u, c); break;
		case COLD_GOTO: put_goto_from(u, c->place, c->rip); break;
		}
	}
}
