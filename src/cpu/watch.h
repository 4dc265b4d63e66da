/* Breakpoint registers in force: the guest's, or the client's while it debugs with hardware breakpoints. */
#ifndef ANYKVM_WATCH_H
#define ANYKVM_WATCH_H

#include <linux/kvm.h>
#include "cpu/cpu.h"

enum { WATCH_EXEC = 0, WATCH_WRITE = 1, WATCH_IO = 2, WATCH_ACCESS = 3 };      /* R/W field of DR7 */

static inline bool watch_by_client(const struct cpu *cpu) { return cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP; }
static inline uint64_t watch_dr7(const struct cpu *cpu) { return watch_by_client(cpu) ? cpu->guest_debug_dr7 : cpu->dr7; }
static inline uint64_t watch_dr(const struct cpu *cpu, unsigned i)
{
	return watch_by_client(cpu) ? cpu->guest_debug_dr[i] : cpu->dr[i];
}
static inline bool watch_enabled(uint64_t dr7, unsigned i) { return dr7 >> (2 * i) & 3; }
static inline unsigned watch_type(uint64_t dr7, unsigned i) { return dr7 >> (16 + 4 * i) & 3; }
static inline unsigned watch_len(uint64_t dr7, unsigned i)
{
	static const uint8_t len[4] = { 1, 2, 8, 4 };
	return len[dr7 >> (18 + 4 * i) & 3];
}

/* Notes hits of data breakpoints (I/O ones for ports) in cpu->pending_debug. access: ACCESS_READ and/or ACCESS_WRITE. */
void watch_data(struct cpu *cpu, uint64_t addr, unsigned size, unsigned access);
void watch_port(struct cpu *cpu, uint16_t port, unsigned size);

#endif
