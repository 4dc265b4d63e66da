/* Counters of a vCPU (stats.def): plain stores by its own thread; anybody may read. */
#ifndef ANYKVM_STATS_H
#define ANYKVM_STATS_H

#include "base/base.h"

enum stat_id {
#define STAT(name, text) STAT_##name,
#define STAT_EXIT(reason, name) STAT_##name,
#define STAT_VMEXIT(reason, name) STAT_##name,
#include "base/stats.def"
#undef STAT
#undef STAT_EXIT
#undef STAT_VMEXIT
	STAT_COUNT
};

enum { STAT_LEVELS = 2 };                /* L1; L2 and what it runs */
struct stats { uint64_t level[STAT_LEVELS][STAT_COUNT]; };

extern const char *const stat_names[STAT_COUNT];
/* The counter of an exit to the client, and of a VM exit (basic reason). */
enum stat_id stat_of_exit(uint32_t reason);
enum stat_id stat_of_vmexit(uint32_t reason);

#endif
