/*
 * The fixed code at the start of the code cache: entering, leaving, and calling C
 * with the guest's registers stored in struct cpu.
 */
#include "xlat/internal.h"

_Static_assert(offsetof(struct cpu_io, next) == offsetof(struct cpu_io, nreads) + 4, "cleared by one store");

static void put_save_registers(struct emit *e)
{
	for (int g = 0; g < 16; g++)
		if (host_reg(g) >= 0)
			put_store(e, host_reg(g), AT_GPR(e, g));
	put_flags_to_ax(e);
	/* rflags = rflags & ~arithmetic | AH's five | OF */
	put_op_reg(e, 0, 0x0fb6, H_RCX, H_RSP);                  /* movzx ecx, ah (4 without REX) */
	put_alu_imm(e, 0, 4, H_RCX, 0xd5);
	put_op_reg(e, 0, 0x0fb6, H_RAX, H_RAX);                  /* movzx eax, al */
	put_op_reg(e, 0, 0xc1, 4, H_RAX);                        /* shl eax, 11 */
	put8(e, 11);
	put_op_reg(e, 0, 0x09, H_RCX, H_RAX);                    /* or eax, ecx */
	put_load(e, H_RCX, AT(e, rflags));
	put_alu_imm(e, 1, 4, H_RCX, ~RFLAGS_ARITH);
	put_op_reg(e, 1, 0x09, H_RAX, H_RCX);
	put_store(e, H_RCX, AT(e, rflags));
}

static void put_load_registers(struct emit *e)
{
	put_load(e, H_RAX, AT(e, rflags));
	put_op_reg(e, 0, 0x89, H_RAX, H_RCX);                    /* mov ecx, eax */
	put_shr(e, 0, H_RCX, 11);
	put_alu_imm(e, 0, 4, H_RCX, 1);
	put8(e, 0x88); put8(e, 0xc4);                            /* mov ah, al */
	put8(e, 0x88); put8(e, 0xc8);                            /* mov al, cl */
	put_flags_from_ax(e);
	for (int g = 0; g < 16; g++)
		if (host_reg(g) >= 0)
			put_load(e, host_reg(g), AT_GPR(e, g));
}

/* The window registers, which C may use as it likes. */
static void put_windows(struct emit *e, bool save)
{
	put_op_mem(e, 1, save ? 0x89 : 0x8b, H_R10, AT(e, window[0]));
	put_op_mem(e, 1, save ? 0x89 : 0x8b, H_R11, AT(e, window[1]));
}

static const int8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void put_push_host(struct emit *e, int r) { if (r > 7) put8(e, 0x41); put8(e, 0x50 | (r & 7)); }
static void put_pop_host(struct emit *e, int r) { if (r > 7) put8(e, 0x41); put8(e, 0x58 | (r & 7)); }

/* void enter(cpu, code) */
static void make_enter(struct engine *en, struct emit *e)
{
	en->enter = (void (*)(struct cpu *, void *))to_rx(en, e->p);
	for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
		put_push_host(e, callee_saved[i]);
	put_store(e, H_RSP, mem_base(H_RDI, offsetof(struct cpu, spill) + 8 * SPILL_HOST_RSP));
	put_mov(e, H_RSP, H_RDI);
	put_store(e, H_RSI, AT_SPILL(e, SPILL_TARGET));
	put_load_registers(e);
	put_op_mem(e, 0, 0xff, 4, AT_SPILL(e, SPILL_TARGET));
}

static void put_return_to_c(struct emit *e)
{
	put_load(e, H_RSP, AT_SPILL(e, SPILL_HOST_RSP));
	for (int i = ARRAY_SIZE(callee_saved) - 1; i >= 0; i--)
		put_pop_host(e, callee_saved[i]);
	put8(e, 0xc3);
}

/* Called with r13 = argument, r14 = function; everything is stored around it, rip is set by the caller. */
static void make_call(struct engine *en, struct emit *e)
{
	en->stub_call = e->p;
	e->bias = 8;
	put_windows(e, true);
	put_save_registers(e);
	put_lea(e, H_RDI, mem_base(H_RSP, 8));
	put_mov(e, H_RSI, H_R13);
	put_push_host(e, H_R13);                                 /* aligns the stack */
	put_op_reg(e, 0, 0xff, 2, H_R14);
	put_pop_host(e, H_R13);
	put_store_imm64(e, AT(e, io.nreads), 0);                 /* io_end(): nreads and next */
	put_load_registers(e);
	put_windows(e, false);
	put8(e, 0xc3);
	e->bias = 0;
}

/* Jumped to from cold code: slow_access(cpu, r13); goes on at spill[SPILL_TARGET] with r14 = the host address, r13 = 0. */
static void make_slow(struct engine *en, struct emit *e)
{
	en->stub_slow = e->p;
	put_windows(e, true);
	put_save_registers(e);
	put_mov(e, H_RDI, H_RSP);
	put_mov(e, H_RSI, H_R13);
	put_mov_imm(e, H_R14, (uintptr_t)slow_access);
	put_op_reg(e, 0, 0xff, 2, H_R14);
	put_load_registers(e);
	put_windows(e, false);
	put_load(e, H_R14, AT(e, slow_result));
	put_mov_imm(e, H_R13, 0);
	put_op_mem(e, 0, 0xff, 4, AT_SPILL(e, SPILL_TARGET));
}

/* r14(cpu, r13), a rule, with everything stored. */
static void put_last_rule(struct emit *e)
{
	put_save_registers(e);
	put_mov(e, H_RDI, H_RSP);
	put_mov(e, H_RSI, H_R13);
	put_op_reg(e, 0, 0xff, 2, H_R14);
	put_store_imm64(e, AT(e, io.nreads), 0);
}

/* Jumped to: the rule in r14 ends the block. */
static void make_rule_end(struct engine *en, struct emit *e)
{
	en->stub_rule_end = e->p;
	put_last_rule(e);
	put_store_imm32(e, AT(e, exit_id), EXITED_NEXT);
	put_return_to_c(e);
}

/* The same in a block that others may follow: goes on at once if the next one is known. */
static void make_rule_next(struct engine *en, struct emit *e)
{
	en->stub_rule_next = e->p;
	put_last_rule(e);
	put_mov(e, H_RDI, H_RSP);
	put_mov_imm(e, H_R14, (uintptr_t)lookup_next);
	put_op_reg(e, 0, 0xff, 2, H_R14);
	put_mov(e, H_R14, H_RAX);
	put_op_reg(e, 1, 0x85, H_RAX, H_RAX);                    /* test rax, rax */
	uint8_t *leave = put_jcc(e, 4);
	put_load_registers(e);
	put_op_reg(e, 0, 0xff, 4, H_R14);
	patch_rel32(leave, e->p);
	put_store_imm32(e, AT(e, exit_id), EXITED_NEXT);
	put_return_to_c(e);
}

/* The guest registers that C does not keep. */
static const int8_t caller_saved[] = { H_RCX, H_RDX, H_RSI, H_RDI, H_R8, H_R9 };

/*
 * Jumped to when the jump cache does not know the guest address in r13: goes on where lookup_branch() says. r10: address of the
 * indirect branch; that is needed only if r13 is not canonical, and 0 then after a direct branch.
 */
static void make_lookup(struct engine *en, struct emit *e)
{
	en->stub_lookup = e->p;
	put_store(e, H_R13, AT(e, rip));
	put_store(e, H_R10, AT(e, branch_rip));
	put_store(e, H_RAX, AT_SPILL(e, 0));
	put_flags_to_ax(e);
	put_store(e, H_RAX, AT_SPILL(e, 1));
	for (unsigned i = 0; i < ARRAY_SIZE(caller_saved); i++)
		put_store(e, caller_saved[i], AT_GPR(e, caller_saved[i]));
	put_mov(e, H_RDI, H_RSP);
	put_mov_imm(e, H_R14, (uintptr_t)lookup_branch);
	put_op_reg(e, 0, 0xff, 2, H_R14);
	put_mov(e, H_R14, H_RAX);
	put_load(e, H_RAX, AT_SPILL(e, 1));
	put_flags_from_ax(e);
	put_load(e, H_RAX, AT_SPILL(e, 0));
	for (unsigned i = 0; i < ARRAY_SIZE(caller_saved); i++)
		put_load(e, caller_saved[i], AT_GPR(e, caller_saved[i]));
	put_op_reg(e, 0, 0xff, 4, H_R14);
}

/*
 * Called from cold code, with an address in r13, for one of the lanes of the stack: fills it from the TLB, if that has the page.
 * Leaves the address in slow_addr, and in r13 less the lane's tag.
 */
static void make_stack_lane(struct engine *en, struct emit *e, unsigned lane)
{
	bool write = lane == LANE_STACK_WRITE;
	en->stub_stack[lane - LANE_STACK_READ] = e->p;
	e->bias = 8;
	put_store(e, H_R13, AT(e, slow_addr));
	put_lookup(e, tag_offset(write), 1);
	uint8_t *miss = put_jcc(e, 7);
	put_load(e, H_R13, mem_base(H_R14, tag_offset(write)));
	put_load(e, H_R14, mem_base(H_R14, offsetof(struct tlb_entry, host)));
	put_op_reg(e, 1, 0x29, H_R13, H_R14);                    /* sub r14, r13 */
	for (unsigned i = LANE_STACK_READ; i <= lane; i++) {     /* what may be written may be read */
		put_store(e, H_R13, AT_LANE(e, i, tag));
		put_store(e, H_R14, AT_LANE(e, i, value));
	}
	patch_rel32(miss, e->p);
	put_load(e, H_R13, AT(e, slow_addr));
	put_op_mem(e, 1, 0x2b, H_R13, AT_LANE(e, lane, tag));    /* sub r13, tag */
	put8(e, 0xc3);
	e->bias = 0;
}

static void make_stack_read(struct engine *en, struct emit *e) { make_stack_lane(en, e, LANE_STACK_READ); }
static void make_stack_write(struct engine *en, struct emit *e) { make_stack_lane(en, e, LANE_STACK_WRITE); }

static void make_exit(struct engine *en, struct emit *e)
{
	en->stub_leave = e->p;
	put_store(e, H_R13, AT(e, rip));
	put_store(e, H_R10, AT(e, branch_rip));
	en->stub_unknown = e->p;
	put_store_imm32(e, AT(e, exit_id), EXITED_LOOKUP);
	en->stub_exit = e->p;
	put_save_registers(e);
	put_return_to_c(e);
}

/* A signal handler sends the thread here, with the registers already in struct cpu. */
static void make_signal(struct engine *en, struct emit *e)
{
	en->stub_signal = e->p;
	put_store_imm32(e, AT(e, exit_id), EXITED_SIGNAL);
	put_return_to_c(e);
}

void stubs_make(struct engine *en)
{
	static const struct { const char *name; void (*make)(struct engine *, struct emit *); } stubs[] = {
		{ "stub_enter", make_enter }, { "stub_call", make_call }, { "stub_slow", make_slow }, { "stub_store", stub_store_make },
		{ "stub_store_window", stub_store_window_make }, { "stub_rule_end", make_rule_end }, { "stub_rule_next", make_rule_next },
		{ "stub_lookup", make_lookup }, { "stub_stack_read", make_stack_read }, { "stub_stack_write", make_stack_write },
		{ "stub_exit", make_exit }, { "stub_signal", make_signal },
	};
	struct emit e = { .p = en->rw };
	for (unsigned i = 0; i < ARRAY_SIZE(stubs); i++) {
		uint8_t *start = e.p;
		stubs[i].make(en, &e);
		perfmap_stub(en, stubs[i].name, start, e.p);
	}
	en->code_start = (uint8_t *)(((uintptr_t)e.p + 63) & ~63ull);
}
