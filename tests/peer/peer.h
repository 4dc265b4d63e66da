/* What the guest and the tool say to each other through the disk. */
#ifndef ANYKVM_TESTS_PEER_H
#define ANYKVM_TESTS_PEER_H

#include <stdint.h>
#include "layout.h"

enum { PEER_MAGIC = 0x72656570, CAPS = 20 /* MSRs 480h to 491h; ECX of CPUID leaf 1, EBX of leaf 7 */, FIELDS_MAX = 256, GPR_VALUES = 240 /* place of the registers among the values */, MUTATIONS = 3 };

enum { PEER_ENTRY, PEER_INTERCEPT };      /* kinds of cases */

/* Sector CONFIG_LBA. */
struct peer_config {
	uint32_t magic, seed, first, count;
	uint32_t verbose;                        /* dump every field after the only case */
	uint32_t kind;
	/* Of the other side, 0: unknown. Control bits in which the two differ stay as they are, fields that only one has do not count. */
	uint64_t peer_caps[CAPS], peer_present[FIELDS_MAX / 64];
};

/* One case. insn: of PEER_INTERCEPT. verdict: exit reason, or VMFAIL + error. hash: over all guest-state and exit-information fields afterwards. */
enum { PEER_VMFAIL = 0xf0000000 };
struct peer_case {
	uint32_t index, verdict;
	uint64_t qualification, hash;
	uint32_t shape, mutations;
	struct { uint32_t field, how; uint64_t value; } mutation[MUTATIONS];
	uint8_t insn_length, insn[15];
};

/* From sector REPORT_LBA. */
struct peer_report {
	uint32_t magic, cases;
	uint32_t exception, pad;                 /* ~0, or the vector that ended the guest early */
	uint64_t rip, cr2;
	uint64_t caps[CAPS];
	uint64_t present[FIELDS_MAX / 64];       /* fields that VMREAD knows, in the order of vmcs_fields.def */
	uint64_t values[FIELDS_MAX];             /* verbose: in the same order */
	struct peer_case list[];
};

#endif
