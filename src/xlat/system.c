/* System instructions without a call, where the state allows it. Else their rules decide. */
#include "xlat/internal.h"

enum { KEPT_RAX, KEPT_RDX, KEPT_FLAGS };         /* use of cpu->spill[] */

static void put_restore_flags(struct emit *e, const struct xinsn *x)
{
	if (!x->flags_live)
		return;
	put_load(e, H_RAX, AT_SPILL(e, KEPT_FLAGS));
	put_flags_from_ax(e);
}

/* rax = L1's TSC; r14 = the control block. Returns the jumps to take if the rule must do it all. */
static void put_l1_tsc(struct emit *e, uint8_t *place[2])
{
	put_alu_mem_imm(e, 0, 7, AT(e, tsc_inline), 0);
	place[0] = put_jcc(e, 4);                                /* je */
	put8(e, 0x0f); put8(e, 0x31);                            /* rdtsc */
	put_op_reg(e, 1, 0xc1, 4, H_RDX);                        /* shl rdx, 32 */
	put8(e, 32);
	put_op_reg(e, 1, 0x09, H_RDX, H_RAX);                    /* or rax, rdx */
	put_op_mem(e, 1, 0x03, H_RAX, AT(e, tsc_offset));        /* add */
	put_load(e, H_R14, AT(e, ctl));
	put_op_mem(e, 1, 0x3b, H_RAX, mem_base(H_R14, offsetof(struct control_block, timer_deadline)));  /* cmp */
	place[1] = put_jcc(e, 3);                                /* jae */
}

/*
 * RDTSC: the host's, with the guest's offsets. Before the VMX-preemption
 * timer's deadline only (UINT64_MAX where there is none); see cpu/time.c.
 */
void put_rdtsc(struct translation_unit *u, struct xinsn *x)
{
	struct emit *e = &u->e;
	uint8_t *slow[2], *done;

	put_store(e, H_RAX, AT_SPILL(e, KEPT_RAX));
	put_store(e, H_RDX, AT_SPILL(e, KEPT_RDX));
	if (x->flags_live) {
		put_flags_to_ax(e);
		put_store(e, H_RAX, AT_SPILL(e, KEPT_FLAGS));
	}
	put_l1_tsc(e, slow);
	put_op_mem(e, 1, 0x03, H_RAX, mem_base(H_R14, offsetof(struct control_block, tsc_offset)));      /* add */
	put_mov32(e, H_R13, H_RAX);
	put_rorx(e, H_RDX, H_RAX, 32);
	put_mov32(e, H_RDX, H_RDX);
	put_restore_flags(e, x);
	put_mov32(e, H_RAX, H_R13);
	done = put_jmp(e);
	patch_rel32(slow[0], e->p);
	patch_rel32(slow[1], e->p);
	put_restore_flags(e, x);
	put_load(e, H_RAX, AT_SPILL(e, KEPT_RAX));
	put_load(e, H_RDX, AT_SPILL(e, KEPT_RDX));
	put_rule(u, x);
	patch_rel32(done, e->p);
}
