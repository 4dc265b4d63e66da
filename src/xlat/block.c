/* Makes one block: decode, analyse, emit. */
#include "xlat/internal.h"

/*
 * The way in through the jump cache: r13 must be this block's address. The
 * comparison leaves the flags alone even if this block does not need them, for
 * the slot may have been meant for another one that does.
 */
static void put_indirect_entry(struct translation_unit *u)
{
	struct emit *e = &u->e;
	struct block *b = u->block;
	int64_t less = -b->rip;
	b->indirect_entry = e->p;
	put_mov(e, H_R11, H_RCX);
	if (less == (int32_t)less) {
		put_lea(e, H_RCX, mem_base(H_R13, less));
	} else {
		put_mov_imm(e, H_R14, less);
		put_lea(e, H_RCX, mem_index(H_R13, H_R14, 0, 0));
	}
	put8(e, 0xe3);                                           /* jrcxz: the right block */
	uint8_t *skip = e->p++;
	put_mov(e, H_RCX, H_R11);
	put_jmp_to(e, u->engine->stub_lookup);
	*skip = e->p - (skip + 1);
	put_mov(e, H_RCX, H_R11);
}

/* Where the entry leads while the block is stale. */
static void put_leave(struct translation_unit *u)
{
	u->block->leave = u->e.p;
	if (u->mode & XMODE_NO_WINDOWS) {                        /* lookup_branch() would find the block with windows, which led here */
		put_rip(u, u->block->rip);
		put_store_imm32(&u->e, AT(&u->e, exit_id), EXITED_STALE);
		put_jmp_to(&u->e, u->engine->stub_exit);
		return;
	}
	put_mov_imm(&u->e, H_R13, u->block->rip);
	put_mov_imm(&u->e, H_R10, 0);                            /* no branch to blame */
	put_jmp_to(&u->e, u->engine->stub_lookup);
}

/* Leaves, to go on at x, if the poll word is set. No window is open here. */
static void put_poll(struct translation_unit *u, const struct xinsn *x)
{
	struct emit *e = &u->e;
	struct cold *c = &u->cold[u->ncold++];
	*c = (struct cold){ .rip = x->rip, .kind = COLD_POLL };
	if (!x->flags_live) {
		put_alu_mem_imm(e, 0, 7, AT(e, poll), 0);
		c->place = put_jcc(e, 5);
		return;
	}
	put_mov(e, H_R11, H_RCX);
	put_load32(e, H_RCX, AT(e, poll));
	put8(e, 0xe3);                                           /* jrcxz: nothing */
	uint8_t *skip = e->p++;
	put_mov(e, H_RCX, H_R11);
	c->place = put_jmp(e);
	*skip = e->p - (skip + 1);
	put_mov(e, H_RCX, H_R11);
}

/*
 * May x have stored to a device? The client must see that before the next
 * instruction. (Fast translations leave such a store to a careful one, alone
 * in its block.)
 */
static bool may_store_to_device(const struct translation_unit *u, const struct xinsn *x)
{
	return x->kind == KIND_RULE ? x->in.mem_write || x->rule == rule_pushf : u->careful && x->in.mem_write;
}

/* A block that only jumps ahead need not look at the poll word: the next one does. */
static bool jumps_ahead(const struct xinsn *x) { return x->kind == KIND_JMP && x->target > x->rip; }

static void unit_emit(struct translation_unit *u)
{
	struct block *b = u->block;
	put_indirect_entry(u);
	b->entry = u->e.p;
	b->map = u->map;
	put_loop_entry(u);
	if (!(u->mode & XMODE_ONE) && !jumps_ahead(&u->insn[0]))
		put_poll(u, &u->insn[0]);
	for (unsigned i = 0; i < u->count; i++) {
		struct xinsn *x = &u->insn[i];
		put_replay(u, x->replay_first, x->stack_moved);
		if (x->keep_flags)
			put_flags_kept(u);
		switch (x->kind) {
		case KIND_NATIVE: put_native(u, x); break;
		case KIND_LEA: put_lea_insn(u, x); break;
		case KIND_BIT_STRING: put_bit_string(u, x); break;
		case KIND_NOP: break;
		default: put_control(u, x); break;
		}
		if (i + 1 < u->count && may_store_to_device(u, x))
			put_poll(u, x + 1);
	}
	if (!u->ended) {
		put_replay(u, u->replay_last, u->stack_moved_last);
		put_goto(u, u->insn[u->count - 1].next);
	}
	unit_cold(u);
	if (!(u->mode & XMODE_ONE) && !b->source2)
		put_leave(u);
	memcpy(b->head, b->entry, HEAD_BYTES);
	b->map = meta_alloc(u->engine, sizeof *b->map * b->nmap);
	memcpy(b->map, u->map, sizeof *b->map * b->nmap);
	block_keep_patches(u);
}

/* Takes the page from all who may write to it without notice: [from, ...) of it has just become code. */
static void take_writes(struct cpu *cpu, struct mem_code *code, const uint8_t *from, bool unsettled)
{
	const uint8_t *host_page = (const uint8_t *)((uintptr_t)from & ~4095ull);
	uint64_t own_page = MEM_HOLDS_PAGE(cpu->index), own = cpu->index < 31 ? own_page | MEM_HOLDS_BESIDE(cpu->index) : 0;
	if (!(atomic_load(&code->holders) & ~(own & ~own_page)) && !unsettled)
		return;
	uint64_t holders = atomic_fetch_and(&code->holders, own & ~own_page);    /* first: they enter themselves again when they come back */
	if (holders & own_page || unsettled || !own)
		tlb_drop_write(cpu, host_page);
	if (holders & ~own || unsettled)
		cpu->ops->code_page_new(cpu, host_page);
}

/*
 * Marks the granules of the page that [from, from+len) lies in, in every slot
 * that shows this memory, and takes it from its writers (struct mem_code).
 * While another vCPU is at that, perhaps with this very page, its mark is no
 * promise yet, so we ask as well.
 */
void mark_code(struct cpu *cpu, const uint8_t *from, unsigned len)
{
	_Atomic uint32_t *settling = mem_code_settling(cpu->mem);
	for (const struct mem_slot *slot = NULL; (slot = mem_slot_by_host(cpu->mem, from, slot));) {
		uint64_t gpa = slot->gpa + (from - slot->host), bits = mem_granules(gpa, len);
		struct mem_code *code = mem_slot_code(slot, gpa);
		if ((atomic_load(&code->granules) & bits) == bits && !atomic_load(settling))
			continue;
		atomic_fetch_add(settling, 1);
		atomic_fetch_or(&code->granules, bits);
		take_writes(cpu, code, from, atomic_load(settling) > 1);
		atomic_fetch_sub(settling, 1);
	}
}

/*
 * Before the bytes are read, the page must be known as code, or a store of
 * another vCPU between reading and marking would go unnoticed. How far the
 * block reaches is known only after decoding, so the whole stretch that it
 * may take is marked first.
 */
static void mark_before_reading(struct engine *en, const uint8_t *host, uint32_t mode)
{
	unsigned room = 4096 - ((uintptr_t)host & 4095);
	unsigned most = mode & XMODE_ONE ? 15 : 64;
	mark_code(en->cpu, host, room < most ? room : most);
}

/* Padded to words of eight bytes, as the mask is (revive.c). */
static void remember_bytes(struct engine *en, struct block *b)
{
	b->bytes = meta_alloc(en, b->length + 7);
	memset(b->bytes + b->length, 0, 7);
	unsigned first = 4096 - ((uintptr_t)b->source & 4095);
	if (first > b->length)
		first = b->length;
	memcpy(b->bytes, b->source, first);
	if (first < b->length)
		memcpy(b->bytes + first, b->source2, b->length - first);
}

/* Were the bytes decoded the ones that are there now that all of them are marked as code? */
static bool decoded_current(const struct translation_unit *u)
{
	for (unsigned i = 0, at = 0; i < u->count; at += u->insn[i++].in.len)
		if (memcmp(u->insn[i].in.bytes, u->block->bytes + at, u->insn[i].in.len))
			return false;
	return true;
}

static void unit_read(struct translation_unit *u, const uint8_t *host, uint64_t rip)
{
	struct block *b = u->block;
	unsigned in_page = 4096 - ((uintptr_t)host & 4095);
	do {
		b->source2 = NULL;
		unit_decode(u, host, rip);
		mark_code(u->cpu, host, b->source2 ? in_page : b->length);
		if (b->source2)
			mark_code(u->cpu, b->source2, b->length - in_page);
		remember_bytes(u->engine, b);
	} while (!decoded_current(u));
}

struct block *block_translate(struct engine *en, const uint8_t *host, uint64_t rip, uint32_t mode)
{
	static __thread struct translation_unit unit;
	struct translation_unit *u = &unit;
	struct block *b = meta_alloc_aligned(en, sizeof *b);
	*b = (struct block){ .source = host, .rip = rip, .mode = mode };
	u->engine = en;
	u->cpu = en->cpu;
	u->block = b;
	u->mode = mode;
	u->careful = mode & XMODE_CAREFUL || !(mode & MODE_FLAT) || mode & (MODE_ALIGN | MODE_WATCH | MODE_BUS_LOCK) || params.careful;
	u->ncold = u->npatches = 0;
	u->ended = false;
	u->e = (struct emit){ .p = en->code };
	mark_before_reading(en, host, mode);
	unit_read(u, host, rip);
	unit_loop(u);
	unit_liveness(u);
	unit_windows(u);
	unit_replay(u);
	unit_emit(u);
	b->code_size = u->e.p - en->code;
	en->code = (uint8_t *)(((uintptr_t)u->e.p + 15) & ~15ull);
	b->valid = true;
	b->straddles = b->source2;
	trace(xlat, "vCPU %u: block %#llx mode %#x: %u instructions, %u bytes, first %02x %02x %02x %02x", en->cpu->index,
	      (unsigned long long)rip, mode, b->insns, b->code_size, b->bytes[0], b->length > 1 ? b->bytes[1] : 0,
	      b->length > 2 ? b->bytes[2] : 0, b->length > 3 ? b->bytes[3] : 0);
	block_insert(en, b);
	perfmap_block(en, b);
	cpu_count(en->cpu, STAT_blocks);
	en->cpu->stats->level[en->cpu->ctl->non_root][STAT_instructions] += b->insns;
	return b;
}
