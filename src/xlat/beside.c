/*
 * The fixed code for stores to pages that hold translated code. As long as the
 * bytes themselves are none of it, such a store is as good as any other: this
 * does in a few instructions what access_beside_code() does, and leaves all
 * else to the way of a TLB miss.
 */
#include "xlat/internal.h"

_Static_assert(sizeof(struct tlb_entry) == 4 * sizeof(struct mem_code *), "an entry's place gives that of its code");

static void put_restore(struct emit *e)
{
	put_load(e, H_RCX, AT_GPR(e, H_RCX));
	put_load(e, H_RDX, AT_GPR(e, H_RDX));
	put_load(e, H_RAX, AT_SPILL(e, SPILL_SCRATCH));
	put_flags_from_ax(e);
	put_load(e, H_RAX, AT_SPILL(e, 0));
}

/* rax = the granules of the page of the entry in r14; rcx = the first, rdx = how many are looked at. ZF: none of them holds code. */
static void put_granules_test(struct emit *e)
{
	put_mov(e, H_RAX, H_R14);
	put_op_mem(e, 1, 0x2b, H_RAX, AT(e, tlb));               /* sub */
	put_shr(e, 1, H_RAX, 2);
	put_op_mem(e, 1, 0x03, H_RAX, AT(e, tlb_code));          /* add */
	put_load(e, H_RAX, mem_base(H_RAX, 0));
	put_load(e, H_RAX, mem_base(H_RAX, offsetof(struct mem_code, granules)));
	put_bmi2(e, 3, 0xf7, H_RAX, H_RAX, H_RCX);               /* shrx */
	put_bmi2(e, 0, 0xf5, H_RAX, H_RAX, H_RDX);               /* bzhi */
}

/* Jumped to as stub_slow is; for a window, what is checked is its span, and r14 becomes host - guest address. */
static void make_store(struct engine *en, struct emit *e, bool window)
{
	uint8_t *miss[4];
	put_store(e, H_RAX, AT_SPILL(e, 0));
	put_flags_to_ax(e);
	put_store(e, H_RAX, AT_SPILL(e, SPILL_SCRATCH));
	put_store(e, H_RCX, AT_GPR(e, H_RCX));
	put_store(e, H_RDX, AT_GPR(e, H_RDX));
	put_load(e, H_RCX, AT(e, slow_addr));
	put_rorx(e, H_R14, H_RCX, 7);
	put_op_mem(e, 1, 0x23, H_R14, AT(e, tlb_mask));          /* and: the entry */
	put_op_mem(e, 1, 0x03, H_R14, AT(e, tlb));               /* add */
	put_load(e, H_RAX, mem_base(H_R14, offsetof(struct tlb_entry, write_tag)));
	put_alu_imm(e, 1, 1, H_RAX, 0x1000);                     /* or */
	put_op_mem(e, 1, 0x3b, H_RAX, AT(e, code_tag));          /* cmp */
	miss[0] = put_jcc(e, 5);
	put_op_mem(e, 1, 0x2b, H_RCX, mem_base(H_R14, offsetof(struct tlb_entry, read_tag)));
	put_alu_imm(e, 1, 7, H_RCX, 4095);
	miss[1] = put_jcc(e, 7);
	if (window)
		put_op_mem(e, 0, 0x0fb7, H_RDX, mem_base(H_R13, offsetof(struct access_site, span)));
	else
		put_op_mem(e, 0, 0x0fb6, H_RDX, mem_base(H_R13, offsetof(struct access_site, size)));
	put_lea(e, H_RDX, mem_index(H_RDX, H_RCX, 0, -1));
	put_alu_imm(e, 1, 7, H_RDX, 4095);
	miss[2] = put_jcc(e, 7);
	put_shr(e, 0, H_RCX, 6);
	put_shr(e, 0, H_RDX, 6);
	put_op_reg(e, 0, 0x29, H_RCX, H_RDX);                    /* sub edx, ecx */
	put_alu_imm(e, 0, 0, H_RDX, 1);
	put_granules_test(e);
	miss[3] = put_jcc(e, 5);
	put_load(e, H_RCX, mem_base(H_R13, offsetof(struct access_site, beside)));
	put_store(e, H_RCX, AT_SPILL(e, SPILL_TARGET));
	put_load(e, H_RCX, mem_base(H_R14, offsetof(struct tlb_entry, host)));
	put_op_mem(e, 1, 0x2b, H_RCX, mem_base(H_R14, offsetof(struct tlb_entry, read_tag)));
	if (!window)
		put_op_mem(e, 1, 0x03, H_RCX, AT(e, slow_addr));
	put_mov(e, H_R14, H_RCX);
	put_restore(e);
	put_mov_imm(e, H_R13, 0);
	put_op_mem(e, 0, 0xff, 4, AT_SPILL(e, SPILL_TARGET));
	for (unsigned i = 0; i < ARRAY_SIZE(miss); i++)
		patch_rel32(miss[i], e->p);
	put_restore(e);
	put_jmp_to(e, en->stub_slow);
}

void stub_store_make(struct engine *en, struct emit *e)
{
	en->stub_store = e->p;
	make_store(en, e, false);
}

void stub_store_window_make(struct engine *en, struct emit *e)
{
	en->stub_store_window = e->p;
	make_store(en, e, true);
}
