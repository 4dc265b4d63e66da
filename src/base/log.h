/* Opening the trace: for params_init() and the command line only. */
#ifndef ANYKVM_LOG_H
#define ANYKVM_LOG_H

#include "base/base.h"

/* Sets trace_mask from ANYKVM_TRACE ("vmx,irq" or "all") and opens ANYKVM_TRACE_FILE. */
void log_init(void);
/* Bits for a list of topics; the first unknown one is left in bad (cap bytes), else bad is empty. */
uint32_t trace_topics_parse(const char *list, char *bad, size_t cap);
extern const char *const trace_topic_names[TRACE_TOPIC_COUNT];
extern const char *const trace_topic_texts[TRACE_TOPIC_COUNT];

#endif
