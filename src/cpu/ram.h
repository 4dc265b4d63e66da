/* Runs of string elements in RAM, for string.c and io.c. */
#ifndef ANYKVM_RAM_H
#define ANYKVM_RAM_H

#include "cpu/access.h"

struct ram {
	uint8_t *host;                   /* NULL: a device, ROM to be written, or a watched page: go element by element */
	const struct mem_slot *slot;     /* NULL: stores need no bookkeeping */
	uint64_t gpa;
};

/* Translates addr under all the rules; may raise. */
struct ram ram_find(struct cpu *cpu, uint64_t addr, unsigned access);
/* Where the TLB leads for addr, if it allows the access as it is; NULL: it does not. */
uint8_t *ram_known(struct cpu *cpu, uint64_t addr, unsigned access);
static inline void ram_written(struct cpu *cpu, const struct ram *r, int64_t from, unsigned len)
{
	if (r->slot)
		access_written(cpu, r->slot, r->gpa + from, len);
}

/*
 * How many elements, from the one at seg:offset = addr on in the direction of
 * DF, stay in its page, its segment and its address size. 0: this one crosses.
 */
uint64_t string_room(const struct cpu *cpu, const struct insn *insn, enum seg seg, uint64_t offset, uint64_t addr, unsigned size);
/* RSI or RDI in the address size; moving it by n elements. */
uint64_t string_index(const struct cpu *cpu, const struct insn *insn, unsigned reg);
void string_advance(struct cpu *cpu, const struct insn *insn, unsigned reg, uint64_t n, unsigned size);

#endif
