/*
 * Near-valid VMCSs: from a state that passes VM entry, one to three things are
 * changed, and VM entry is tried. L2 executes nothing: its preemption timer
 * starts at 0, so that a VM entry that succeeds ends after event delivery.
 */
#include "fuzz.h"

enum { DPL = 3 << 5, CODE = 0x18, BS = 1 << 14, TF = 1 << 8, BTF = 2, HLT = 1 };

/*
 * What Bochs 2.7 does not check is set right: of an unrestricted guest, the DPL of SS if CS holds code; of a guest that
 * halts, whether a single step is pending.
 */
static void unchecked_by_bochs(void)
{
	uint64_t cs = field(F_guest_cs_ar_bytes), ss = field(F_guest_ss_ar_bytes), pending = field(F_guest_pending_dbg_exceptions);
	bool steps = (field(F_guest_rflags) & TF) && !(field(F_guest_ia32_debugctl) & BTF);

	if ((field(F_secondary_vm_exec_control) & SECONDARY_UNRESTRICTED) && (cs & CODE) == CODE)
		vmwrite(F_guest_ss_ar_bytes, (ss & ~DPL) | (cs & DPL));
	if (field(F_guest_activity_state) == HLT)
		vmwrite(F_guest_pending_dbg_exceptions, (pending & ~BS) | (steps ? BS : 0));
}

void entry_case(struct peer_case *c, bool *launched)
{
	uint64_t rip_flips = 0, gpr[16] = { 0 };

	c->shape = chance() % SHAPES;
	c->mutations = 1 + (chance() % 8 > 3) + (chance() % 8 > 6);
	state_base(c->shape);
	for (unsigned i = 0; i < c->mutations; i++) {
		struct mutation m;
		state_mutate(chance, &m, &rip_flips);
		c->mutation[i].field = m.field, c->mutation[i].how = m.how, c->mutation[i].value = m.value;
	}
	unchecked_by_bochs();
	case_enter(c, launched, rip_flips, gpr);
}
