/*
 * cpu/access -- guest memory as instructions see it: segmentation, canonical
 * and alignment checks, paging, page crossing, MMIO.
 *
 * An access that crosses a page is checked on both pages before any byte
 * moves. Reads from MMIO may leave KVM_RUN and come back by replay
 * (struct cpu_io); writes to MMIO are queued and leave at the end of the
 * instruction.
 */
#ifndef ANYKVM_ACCESS_H
#define ANYKVM_ACCESS_H

#include "cpu/cpu.h"

/* Effective offset of insn's memory operand, wrapped to its address size. */
uint64_t insn_offset(const struct cpu *cpu, const struct insn *insn);
/*
 * Linear address of [seg:offset, +size) after the segment's checks for access
 * (ACCESS_READ/WRITE): type, limit, null/unusable; canonical in 64-bit mode.
 * Raises #GP(0), or #SS(0) for SS, and #AC when alignment is checked.
 */
uint64_t seg_linear(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size, unsigned access);

/* By linear address; access flags: 0 or ACCESS_SUPER. Any size up to 4096. */
void lin_read(struct cpu *cpu, uint64_t addr, void *to, unsigned size, unsigned flags);
void lin_write(struct cpu *cpu, uint64_t addr, const void *from, unsigned size, unsigned flags);
/* Faults as lin_write would, moves nothing. */
void lin_probe_write(struct cpu *cpu, uint64_t addr, unsigned size, unsigned flags);
uint64_t lin_load(struct cpu *cpu, uint64_t addr, unsigned size, unsigned flags);      /* 1, 2, 4, 8 bytes, zero-extended */
void lin_store(struct cpu *cpu, uint64_t addr, unsigned size, uint64_t value, unsigned flags);

/* By segment and offset. */
uint64_t seg_load(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size);
void seg_store(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size, uint64_t value);
void seg_read(struct cpu *cpu, enum seg seg, uint64_t offset, void *to, unsigned size);
void seg_write(struct cpu *cpu, enum seg seg, uint64_t offset, const void *from, unsigned size);
/* The memory operand of insn. */
uint64_t insn_load(struct cpu *cpu, const struct insn *insn, unsigned size);
void insn_store(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value);

/* Register operands. size 1 with rex == 0: registers 4..7 are AH..BH. 4-byte writes zero-extend. */
uint64_t reg_get(const struct cpu *cpu, unsigned reg, unsigned size, bool rex);
void reg_set(struct cpu *cpu, unsigned reg, unsigned size, bool rex, uint64_t value);
/* modrm r/m operand, register or memory. */
uint64_t rm_load(struct cpu *cpu, const struct insn *insn, unsigned size);
void rm_store(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value);

/* The stack, of the width that SS.B and 64-bit mode give. Push writes memory before RSP changes. */
void stack_push(struct cpu *cpu, unsigned size, uint64_t value);
uint64_t stack_pop(struct cpu *cpu, unsigned size);
unsigned stack_addr_size(const struct cpu *cpu);                       /* 2, 4 or 8 */
uint64_t stack_pointer(const struct cpu *cpu);                         /* RSP masked to that width */
void stack_pointer_set(struct cpu *cpu, uint64_t value);

/*
 * For careful translations: a host pointer at which the native instruction can
 * work on the operand [addr, +size): guest RAM itself if it lies in one page
 * of a slot, else cpu->bounce[which] filled by the rules. access: ACCESS_READ
 * and/or ACCESS_WRITE (checked now). access_commit() ends it: copies a written
 * bounce buffer back, queues MMIO writes, invalidates translated code.
 */
void *access_begin(struct cpu *cpu, unsigned which, uint64_t addr, unsigned size, unsigned access);
void access_commit(struct cpu *cpu, unsigned which);

/*
 * Accesses that the client answers (struct cpu_io): a read, and every port access, leaves KVM_RUN with rip at the
 * instruction, which finds the answer when it is run again -- before any new event is delivered. The log of answers
 * ends with the instruction: the engine clears io.nreads when it has completed. MMIO writes are queued; POLL_MMIO is
 * set, and once the instruction is complete KVM_RUN hands them to the client and clears the queue and the bit.
 */
/* MMIO and ports. Each may leave KVM_RUN. */
void mmio_read(struct cpu *cpu, uint64_t gpa, void *to, unsigned len);
void mmio_write(struct cpu *cpu, uint64_t gpa, const void *from, unsigned len);

/*
 * Host address for a store to [addr, +size) that the caller makes next, where the TLB says that the page may be written to
 * and holds translated code, or NULL. Drops the translations of these bytes, here and on other vCPUs. Not for ACCESS_SUPER.
 */
uint8_t *access_beside_code(struct cpu *cpu, uint64_t addr, unsigned size);
/* A change of [gpa, gpa+len), inside one page, was stored: drops translations, here and on other vCPUs, marks it dirty. */
void access_written(struct cpu *cpu, const struct mem_slot *slot, uint64_t gpa, unsigned len);

#endif
