/* cpu/event -- what event.c, intercept.c and debug.c share. */
#ifndef ANYKVM_EVENT_H
#define ANYKVM_EVENT_H

#include "cpu/rules.h"
#include "x86/vmx.h"

/* Leaves with CPU_EXIT_DEBUG if the client debugs the guest and wants ev for itself. */
void debug_event_for_client(struct cpu *cpu, const struct event *ev);
/* An exception of the guest's program (not an interrupt, an NMI or INT n). */
static inline bool event_is_exception(const struct event *ev)
{
	return ev->type == EVENT_HW_EXCEPTION || ev->type == EVENT_SW_EXCEPTION || ev->type == EVENT_PRIV_SW_EXCEPTION;
}
/* An instruction's own event: the return address is after it, VM exits report its length. */
static inline bool event_is_software(const struct event *ev)
{
	return ev->type == EVENT_SW_INTERRUPT || ev->type == EVENT_SW_EXCEPTION || ev->type == EVENT_PRIV_SW_EXCEPTION;
}
/* Faults return to the instruction with RF set; #DB traps do not. */
static inline bool event_sets_rf(const struct event *ev)
{
	if (ev->type != EVENT_HW_EXCEPTION || ev->vector == VEC_MC)
		return false;
	return ev->vector != VEC_DB || (ev->payload & DR6_BD);
}
/* The event as VMX's interruption-information fields have it. */
uint32_t event_info(const struct event *ev);

#endif
