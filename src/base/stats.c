/* Names of the counters, and which one stands for an exit reason. */
#include "base/stats.h"

const char *const stat_names[STAT_COUNT] = {
#define STAT(name, text) #name,
#define STAT_EXIT(reason, name) #name,
#define STAT_VMEXIT(reason, name) #name,
#include "base/stats.def"
#undef STAT
#undef STAT_EXIT
#undef STAT_VMEXIT
};

/* 0 stands for the "other" one; counter 0 is none of an exit. */
static const uint8_t exits[64] = {
#define STAT(name, text)
#define STAT_EXIT(reason, name) [reason] = STAT_##name,
#define STAT_VMEXIT(reason, name)
#include "base/stats.def"
#undef STAT_EXIT
#undef STAT_VMEXIT
};

static const uint8_t vmexits[80] = {
#define STAT_EXIT(reason, name)
#define STAT_VMEXIT(reason, name) [reason] = STAT_##name,
#include "base/stats.def"
};

enum stat_id stat_of_exit(uint32_t reason)
{
	return reason < ARRAY_SIZE(exits) && exits[reason] ? exits[reason] : STAT_exit_other;
}

enum stat_id stat_of_vmexit(uint32_t reason)
{
	return reason < ARRAY_SIZE(vmexits) && vmexits[reason] ? vmexits[reason] : STAT_vmexit_other;
}
