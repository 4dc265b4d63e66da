/*
 * cpu/transfer -- what the files that change CS, SS or TR share: far
 * transfers, event delivery, task switches, system calls.
 */
#ifndef ANYKVM_TRANSFER_H
#define ANYKVM_TRANSFER_H

#include "cpu/access.h"
#include "cpu/rules.h"

/* System-segment types; 64-bit mode knows only LDT, TSS_32*, CALL_32, INT_32, TRAP_32, all of them 64 bits wide. */
enum { SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK = 5, SYS_INT16 = 6, SYS_TRAP16 = 7,
       SYS_TSS32 = 9, SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14, SYS_TRAP32 = 15 };

/* Bits of a code or data segment's type. */
enum { TYPE_ACCESSED = 1, TYPE_WRITE = 2 /* data */, TYPE_READ = 2 /* code */, TYPE_DOWN = 4 /* data */,
       TYPE_CONFORMING = 4 /* code */, TYPE_CODE = 8 };

struct gate { uint64_t offset; uint16_t selector; uint8_t type, dpl, ist, count; bool s, present; };

static inline bool selector_null(uint16_t sel) { return !(sel & 0xfffc); }
static inline uint32_t selector_error(uint16_t sel) { return sel & 0xfffc; }
static inline bool segment_is_code(const struct segment *s) { return s->s && (s->type & TYPE_CODE); }
static inline bool segment_is_conforming(const struct segment *s) { return s->type & TYPE_CONFORMING; }
static inline bool segment_is_writable_data(const struct segment *s)
{
	return s->s && (s->type & (TYPE_CODE | TYPE_WRITE)) == TYPE_WRITE;
}

/*
 * The segment registers' hidden parts after a null selector, and flat ones of SYSCALL and SYSENTER. Inline, so that the parts
 * go straight to where they belong: a copy by words would wait for each of its bytes to be written.
 */
static inline struct segment segment_null(uint16_t selector)
{
	return (struct segment){ .selector = selector, .unusable = 1 };
}

static inline struct segment segment_flat_code(uint16_t selector, unsigned dpl, bool l)
{
	return (struct segment){ .limit = ~0u, .selector = selector, .type = TYPE_CODE | TYPE_READ | TYPE_ACCESSED, .s = 1, .dpl = dpl,
	                         .present = 1, .l = l, .db = !l, .g = 1 };
}

static inline struct segment segment_flat_data(uint16_t selector, unsigned dpl)
{
	return (struct segment){ .limit = ~0u, .selector = selector, .type = TYPE_WRITE | TYPE_ACCESSED, .s = 1, .dpl = dpl,
	                         .present = 1, .db = 1, .g = 1 };
}

/* ---- segments.c ---- */
/* The descriptor of selector, expanded; faults as descriptor_read(). raw may be NULL. */
struct segment descriptor_fetch(struct cpu *cpu, uint16_t selector, unsigned fault_vector, uint64_t *raw);
/* Upper half of a 16-byte system descriptor (long mode). */
uint64_t descriptor_read_high(struct cpu *cpu, uint16_t selector, unsigned fault_vector);
/* Linear address of a descriptor that was read before. */
uint64_t descriptor_address(const struct cpu *cpu, uint16_t selector);
/* Sets the accessed bit in memory if it is clear, and in *s. */
void descriptor_touch(struct cpu *cpu, struct segment *s, uint64_t raw);
/* Checks an SS descriptor for privilege cpl; vector is #GP (loads) or #TS (stack switches). */
struct segment stack_segment_fetch(struct cpu *cpu, uint16_t selector, unsigned cpl, unsigned fault_vector, uint64_t *raw);
struct segment segment_vm86(uint16_t selector);
/* On a return to an outer ring: data segments that the new CPL may not use become null. */
void segments_drop_privileged(struct cpu *cpu);

/* ---- transfer.c ---- */
/* Raises #GP(0) unless rip may be fetched through cs (canonical, or below the limit); returns it truncated. */
uint64_t transfer_target(struct cpu *cpu, const struct segment *cs, uint64_t rip);
/* Makes cs and cpl current and goes on at rip. cpu_mode_update() included. */
void transfer_commit(struct cpu *cpu, struct segment cs, unsigned cpl, uint64_t rip);
struct gate gate_unpack(uint64_t low, uint64_t high);

/* Width of addresses on the stack: 8 for 64-bit code, else by ss. */
unsigned stack_width(bool code64, const struct segment *ss);
/* Pushes items (first item first) of size bytes below sp; all or nothing; #SS(error). Returns the new stack pointer. */
uint64_t frame_push(struct cpu *cpu, const struct segment *ss, unsigned width, uint64_t sp, unsigned size,
                    const uint64_t *items, unsigned n, uint32_t error, unsigned flags);
/* Reads items upwards from sp, the stack pointer is not changed; #SS(0). */
void frame_read(struct cpu *cpu, uint64_t sp, unsigned size, uint64_t *items, unsigned n);
/* sp after popping bytes: only the stack's width changes. */
uint64_t stack_advance(uint64_t sp, unsigned width, uint64_t bytes);
/* Stack pointer and SS for privilege dpl from the TSS (not long mode); #TS. */
void tss_stack(struct cpu *cpu, unsigned dpl, uint16_t *ss, uint64_t *sp);
/* The 8 bytes at offset of a 64-bit TSS: RSP0..2, IST1..7. */
uint64_t tss_load64(struct cpu *cpu, unsigned offset);

#endif
