/*
 * cpu/vapic -- APIC virtualization: the guest's accesses to its APIC that the
 * processor answers from the virtual-APIC page, and virtual interrupts. All of
 * it follows the controls of the control block, whose rvi, svi and
 * virtual_interrupt are the state that is not in the page.
 *
 * What an instruction writes takes effect when it is complete; a VM exit that
 * this causes comes after the instruction (a trap). The page may be changed by
 * others at any time: every word is read once.
 */
#ifndef ANYKVM_VAPIC_H
#define ANYKVM_VAPIC_H

#include "cpu/cpu.h"
#include "x86/vmx.h"

enum vapic_register { VAPIC_TPR = 0x80, VAPIC_PPR = 0xa0, VAPIC_EOI = 0xb0, VAPIC_ISR = 0x100, VAPIC_IRR = 0x200,
                      VAPIC_ICR = 0x300, VAPIC_ICR2 = 0x310, VAPIC_SELF_IPI = 0x3f0 };

/* A VM exit that is due after the instruction; reason 0: none. */
struct vapic_exit { uint32_t reason; uint64_t qualification; };

static inline bool vapic_tpr_shadow(const struct cpu *cpu)
{
	return cpu->ctl->non_root && (cpu->ctl->primary & PRIMARY_TPR_SHADOW) && cpu->ctl->vapic;
}
static inline bool vapic_secondary(const struct cpu *cpu, uint32_t control)
{
	return (cpu->ctl->primary & PRIMARY_SECONDARY) && (cpu->ctl->secondary & control);
}
static inline bool vapic_delivers(const struct cpu *cpu) { return vapic_secondary(cpu, SECONDARY_VIRTUAL_INTR); }
static inline bool vapic_sends(const struct cpu *cpu) { return cpu->ctl->tertiary & TERTIARY_IPI; }

/* ---- the page (vapic.c) ---- */

/* A register; 0 if the client has taken the memory away. */
uint32_t vapic_load(const struct cpu *cpu, unsigned offset);
void vapic_store(struct cpu *cpu, unsigned offset, uint32_t value);
void vapic_store64(struct cpu *cpu, unsigned offset, uint64_t value);

/* ---- virtualization of the registers that decide about interrupts (vapic.c) ---- */

/* The new value is in the page already. */
struct vapic_exit vapic_tpr_written(struct cpu *cpu);
struct vapic_exit vapic_eoi(struct cpu *cpu);
void vapic_self_ipi(struct cpu *cpu, uint8_t vector);
/* VM entry, or a guest that is restored: PPR virtualization, evaluation of pending virtual interrupts. */
void vapic_begin(struct cpu *cpu);
/* A recognized virtual interrupt is taken: the vector to be delivered through the IDT. */
uint8_t vapic_take(struct cpu *cpu);
/* The notification vector has arrived and was acknowledged: the descriptor's requests become the page's. */
void vapic_process_posted(struct cpu *cpu);

/* ---- accesses (vapic_access.c) ---- */

/* Of the page at ctl->apic_access_gpa. false: gpa is elsewhere. They exit where the access is not virtualized. */
bool vapic_page_read(struct cpu *cpu, uint64_t gpa, void *to, unsigned len);
bool vapic_page_write(struct cpu *cpu, uint64_t gpa, const void *from, unsigned len);
/* Exits as the write would: for instructions that do something else before they write. */
void vapic_page_check_write(struct cpu *cpu, uint64_t gpa, unsigned len);
/* RDMSR and WRMSR of 800h..8FFh. false: not virtualized. */
bool vapic_rdmsr(struct cpu *cpu, uint32_t index, uint64_t *value);
bool vapic_wrmsr(struct cpu *cpu, uint32_t index, uint64_t value);
/* MOV CR8. */
void vapic_cr8_write(struct cpu *cpu, uint64_t value);
/* The instruction is complete, rip is after it, and ctl->apic_write is valid: does what the write asks for; may exit. */
void vapic_instruction_done(struct cpu *cpu);

/* ---- IPI virtualization (vapic_ipi.c) ---- */

/* Posts vector to the guest processor with that APIC id. false: not possible, an APIC-write VM exit is due. */
bool vapic_send_ipi(struct cpu *cpu, uint8_t vector, uint32_t apic_id);
/* Sets and clears bits of an aligned word in memory, atomically. before: as it was. false: the memory is gone. */
bool vapic_word_update(uint8_t *word, uint64_t set, uint64_t clear, uint64_t *before);

#endif
