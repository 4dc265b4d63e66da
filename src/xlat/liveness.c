/*
 * Backward liveness of the arithmetic flags. A memory check destroys the
 * host's flags, so it saves them only where they are live. Everything is live
 * where the block can be left.
 */
#include "xlat/internal.h"

void unit_liveness(struct translation_unit *u)
{
	uint32_t live = RFLAGS_ARITH;
	for (int i = (int)u->count - 1; i >= 0; i--) {
		struct xinsn *x = &u->insn[i];
		bool leaves = x->kind == KIND_RULE || x->kind == KIND_STI || x->kind == KIND_JCC || x->kind == KIND_JMP || x->kind == KIND_LOOP || params.precise_flags;
		if (leaves)
			live = RFLAGS_ARITH;
		else
			live = (live & ~x->flags_written) | x->flags_read;
		x->flags_live = live;
		x->checks_save = live != 0;
	}
}
