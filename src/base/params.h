/* The table behind struct params: for params_init(), procfs.c and the command line. */
#ifndef ANYKVM_PARAMS_H
#define ANYKVM_PARAMS_H

#include "base/base.h"

enum param_kind { PARAM_KIND_BOOL, PARAM_KIND_UINT, PARAM_KIND_STR };

struct param_info {
	const char *name;                /* "kvm_intel.nested" */
	const char *dflt;                /* as text: "1", "2048", "auto" */
	const char *text;
	enum param_kind kind;
	void *field;                     /* in params */
};

extern const struct param_info param_table[];
extern const unsigned param_count;

/* '-' and '_' are the same in names. NULL: no such parameter. */
const struct param_info *param_find(const char *name, size_t len);
/* The current value as text. */
void param_format(const struct param_info *p, char *to, size_t cap);
/* Sets "name=value" ("name" alone: a boolean to true). false, with a reason in why: nothing was changed. */
bool params_set(const char *assignment, size_t len, char *why, size_t cap);
/* Every assignment of "name=value,name=value". The first reason is kept in why; the good ones are set all the same. */
bool params_set_list(const char *list, char *why, size_t cap);
/* The "options MODULE name=value ..." lines of a modprobe.d file; lines for modules that have no parameters here are skipped. */
bool params_set_modprobe(const char *path, char *why, size_t cap);

#endif
