/*
 * Near-valid VMCSs: from a state that passes VM entry, one to three things are
 * changed, and VM entry is tried. L2 executes nothing: its preemption timer
 * starts at 0, so that a VM entry that succeeds ends after event delivery.
 */
#include "fuzz.h"

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
	case_enter(c, launched, rip_flips, gpr);
}
