/*
 * The virtual-APIC page and virtual interrupts: TPR, PPR, EOI and self-IPI
 * virtualization, evaluation and delivery of pending virtual interrupts, and
 * posted-interrupt processing.
 */
#include "cpu/access.h"
#include "cpu/vapic.h"

/* ---- the page ---- */

uint32_t vapic_load(const struct cpu *cpu, unsigned offset)
{
	uint32_t value;

	return mem_copy(&value, cpu->ctl->vapic + offset, sizeof(value)) ? value : 0;
}

static void store(struct cpu *cpu, unsigned offset, const void *from, unsigned len)
{
	const struct control_block *ctl = cpu->ctl;

	if (mem_copy(ctl->vapic + offset, from, len) && ctl->vapic_slot)
		access_written(cpu, ctl->vapic_slot, ctl->vapic_gpa + offset, len);
}

void vapic_store(struct cpu *cpu, unsigned offset, uint32_t value)
{
	store(cpu, offset, &value, sizeof(value));
}

void vapic_store64(struct cpu *cpu, unsigned offset, uint64_t value)
{
	store(cpu, offset, &value, sizeof(value));
}

/* ---- bitmaps of 256 vectors: eight registers, 16 bytes apart ---- */

static unsigned vector_register(unsigned bitmap, uint8_t vector)
{
	return bitmap + (vector >> 5) * 16;
}

static void vector_set(struct cpu *cpu, unsigned bitmap, uint8_t vector)
{
	unsigned at = vector_register(bitmap, vector);

	vapic_store(cpu, at, vapic_load(cpu, at) | 1u << (vector & 31));
}

static void vector_clear(struct cpu *cpu, unsigned bitmap, uint8_t vector)
{
	unsigned at = vector_register(bitmap, vector);

	vapic_store(cpu, at, vapic_load(cpu, at) & ~(1u << (vector & 31)));
}

/* 0 also if none is set, as RVI and SVI have it. */
static uint8_t vector_highest(const struct cpu *cpu, unsigned bitmap)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t word = vapic_load(cpu, bitmap + i * 16);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return 0;
}

/* ---- priorities ---- */

static void ppr_virtualize(struct cpu *cpu)
{
	uint8_t tpr = vapic_load(cpu, VAPIC_TPR), svi = cpu->ctl->svi;

	vapic_store(cpu, VAPIC_PPR, tpr >> 4 >= svi >> 4 ? tpr : svi & 0xf0);
}

/* Recognition lasts until a delivery or the next evaluation. */
static void evaluate(struct cpu *cpu)
{
	struct control_block *ctl = cpu->ctl;

	ctl->virtual_interrupt = !(ctl->primary & PRIMARY_INTR_WINDOW) &&
	                         ctl->rvi >> 4 > (vapic_load(cpu, VAPIC_PPR) >> 4 & 15);
	if (ctl->virtual_interrupt)
		atomic_fetch_or(&cpu->poll, POLL_EVENT);
}

struct vapic_exit vapic_tpr_written(struct cpu *cpu)
{
	if (vapic_delivers(cpu)) {
		ppr_virtualize(cpu);
		evaluate(cpu);
	} else if ((vapic_load(cpu, VAPIC_TPR) >> 4 & 15) < (cpu->ctl->tpr_threshold & 15)) {
		return (struct vapic_exit){ EXIT_TPR_BELOW_THRESHOLD, 0 };
	}
	return (struct vapic_exit){ 0 };
}

struct vapic_exit vapic_eoi(struct cpu *cpu)
{
	struct control_block *ctl = cpu->ctl;
	uint8_t vector = ctl->svi;

	vector_clear(cpu, VAPIC_ISR, vector);
	ctl->svi = vector_highest(cpu, VAPIC_ISR);
	ppr_virtualize(cpu);
	if (ctl->eoi_exit[vector >> 6] >> (vector & 63) & 1)
		return (struct vapic_exit){ EXIT_VIRTUALIZED_EOI, vector };
	evaluate(cpu);
	return (struct vapic_exit){ 0 };
}

void vapic_self_ipi(struct cpu *cpu, uint8_t vector)
{
	struct control_block *ctl = cpu->ctl;

	vector_set(cpu, VAPIC_IRR, vector);
	if (vector > ctl->rvi)
		ctl->rvi = vector;
	evaluate(cpu);
}

void vapic_begin(struct cpu *cpu)
{
	ppr_virtualize(cpu);
	evaluate(cpu);
}

uint8_t vapic_take(struct cpu *cpu)
{
	struct control_block *ctl = cpu->ctl;
	uint8_t vector = ctl->rvi;

	vector_set(cpu, VAPIC_ISR, vector);
	ctl->svi = vector;
	vapic_store(cpu, VAPIC_PPR, vector & 0xf0);
	vector_clear(cpu, VAPIC_IRR, vector);
	ctl->rvi = vector_highest(cpu, VAPIC_IRR);
	ctl->virtual_interrupt = false;
	trace(irq, "vCPU %u: virtual interrupt %#x at %#llx", cpu->index, vector, (unsigned long long)cpu->rip);
	return vector;
}

/* ---- posted interrupts ---- */

enum { POSTED_NOTIFY = 32 };             /* bytes to the word with the outstanding-notification bit */

bool vapic_word_update(uint8_t *word, uint64_t set, uint64_t clear, uint64_t *before)
{
	enum mem_exchanged r;

	if (!mem_copy(before, word, sizeof(*before)))
		return false;
	do
		r = mem_exchange(word, before, (*before | set) & ~clear);
	while (r == MEM_DIFFERS);
	return r == MEM_EXCHANGED;
}

/* What stood in word i of the requests becomes pending. */
static void take_requests(struct cpu *cpu, unsigned i, uint64_t requests)
{
	struct control_block *ctl = cpu->ctl;

	for (unsigned half = 0; half < 2; half++) {
		uint32_t bits = requests >> 32 * half;
		unsigned first = i * 64 + half * 32, at = vector_register(VAPIC_IRR, first);

		if (!bits)
			continue;
		vapic_store(cpu, at, vapic_load(cpu, at) | bits);
		if (first + 31 - __builtin_clz(bits) > ctl->rvi)
			ctl->rvi = first + 31 - __builtin_clz(bits);
	}
}

void vapic_process_posted(struct cpu *cpu)
{
	struct control_block *ctl = cpu->ctl;
	uint64_t before;

	if (ctl->posted && vapic_word_update(ctl->posted + POSTED_NOTIFY, 0, 1, &before)) {
		for (unsigned i = 0; i < 4; i++)
			if (vapic_word_update(ctl->posted + 8 * i, 0, ~0ull, &before))
				take_requests(cpu, i, before);
		access_written(cpu, ctl->posted_slot, ctl->posted_gpa, 64);
	}
	evaluate(cpu);
	trace(irq, "vCPU %u: posted interrupts, RVI %#x", cpu->index, ctl->rvi);
}
