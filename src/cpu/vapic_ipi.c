/*
 * IPI virtualization: an IPI of the guest is posted in the descriptor that the
 * PID-pointer table has for its destination, and a real IPI notifies the
 * processor that runs it.
 */
#include "cpu/access.h"
#include "cpu/vapic.h"

/* The word at bytes 39:32 of a posted-interrupt descriptor. */
#define NOTIFY_OUTSTANDING BIT(0)
#define NOTIFY_SUPPRESSED BIT(1)
#define NOTIFY_VECTOR(word) ((uint8_t)((word) >> 16))
#define NOTIFY_DESTINATION(word) ((uint32_t)((word) >> 32))

/* An entry of the table: bit 0 says that it is valid, 5:1 are reserved. */
static bool descriptor_of(struct cpu *cpu, uint32_t apic_id, uint64_t *gpa)
{
	uint64_t entry;

	if (apic_id > cpu->ctl->pid_last || !mem_read(cpu->mem, cpu->ctl->pid_table + 8ull * apic_id, &entry, sizeof(entry)))
		return false;
	*gpa = entry & ~0x3full;
	return (entry & 0x3f) == 1 && !(entry >> cpu->maxphyaddr);
}

/* Sets the outstanding-notification bit, unless it is set or notifications are suppressed. true: a notification is due. */
static bool must_notify(uint8_t *word, uint64_t *notify)
{
	enum mem_exchanged r;

	if (!mem_copy(notify, word, sizeof(*notify)))
		return false;
	do {
		if (*notify & (NOTIFY_OUTSTANDING | NOTIFY_SUPPRESSED))
			return false;
		r = mem_exchange(word, notify, *notify | NOTIFY_OUTSTANDING);
	} while (r == MEM_DIFFERS);
	return r == MEM_EXCHANGED;
}

bool vapic_send_ipi(struct cpu *cpu, uint8_t vector, uint32_t apic_id)
{
	const struct mem_slot *slot;
	uint64_t gpa, before, notify;
	uint8_t *host;
	bool due;

	if (vector < 16 || !descriptor_of(cpu, apic_id, &gpa))
		return false;
	slot = mem_slot_find(cpu->mem, gpa);
	if (!slot || (slot->flags & MEM_SLOT_READONLY))
		return true;                     /* written to nowhere */
	host = mem_slot_host(slot, gpa);
	if (!vapic_word_update(host + (vector >> 6) * 8, BIT(vector & 63), 0, &before))
		return true;
	due = must_notify(host + 32, &notify);
	access_written(cpu, slot, gpa, 64);
	trace(irq, "vCPU %u: virtual IPI %#x to APIC %u%s", cpu->index, vector, apic_id, due ? ", notified" : "");
	if (due)
		cpu->ops->send_ipi(cpu, NOTIFY_VECTOR(notify), NOTIFY_DESTINATION(notify));
	return true;
}
