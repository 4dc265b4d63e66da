/*
 * The steal-time page of KVM guests. How long a vCPU was kept waiting is not measured: the page says not at all.
 *
 * It also says that a vCPU is not running (preempted). Then other vCPUs do not wait for it to flush its TLB, but leave
 * a bit there (PREEMPTED_FLUSH), and it flushes before it runs again. Nobody here says so, but a guest that comes from
 * another host can bring it along: it would never flush again. So each KVM_RUN takes it back.
 */
#include "cpu/access.h"
#include "kvm/vcpu.h"

/* ABI of the page, shared with guests. */
enum { PREEMPTED = 1, PREEMPTED_FLUSH = 2 };
struct steal_time { uint64_t steal; uint32_t version, flags; uint8_t preempted, pad[47]; };
_Static_assert(sizeof(struct steal_time) == 64 && offsetof(struct steal_time, preempted) % 8 == 0, "guests know this layout");

enum { STEAL_ENABLED = 1, STEAL_RESERVED = 0x3e };

static uint64_t page_gpa(const struct vcpu *v) { return v->pv.steal_time & ~(uint64_t)(STEAL_ENABLED | STEAL_RESERVED); }

int steal_time_write(struct vcpu *v, uint64_t value)
{
	const struct steal_time s = { .version = 2 };

	if (value & STEAL_RESERVED)
		return 1;
	v->pv.steal_time = value;
	if (value & STEAL_ENABLED && !v->host_access)
		mem_write(v->vm->mem, page_gpa(v), &s, sizeof(s));
	return 0;
}

/* Takes the byte away from the word, at once: another vCPU may be adding PREEMPTED_FLUSH. Returns what it was. */
static uint8_t preempted_take(uint8_t *word)
{
	uint64_t before = 0;
	enum mem_exchanged r;

	if (!mem_copy(&before, word, sizeof(before)))
		return 0;
	do
		r = (uint8_t)before ? mem_exchange(word, &before, before & ~0xffull) : MEM_EXCHANGED;
	while (r == MEM_DIFFERS);
	return r == MEM_EXCHANGED ? before : 0;
}

void steal_time_run(struct vcpu *v)
{
	uint64_t gpa = page_gpa(v) + offsetof(struct steal_time, preempted);
	const struct mem_slot *slot;
	uint8_t was;

	if (!(v->pv.steal_time & STEAL_ENABLED))
		return;
	slot = mem_slot_find(v->vm->mem, gpa);
	if (!slot || slot->flags & MEM_SLOT_READONLY)
		return;
	was = preempted_take(mem_slot_host(slot, gpa));
	if (likely(!was))
		return;
	access_written(v->cpu, slot, gpa, 1);
	if (was & PREEMPTED_FLUSH)
		tlb_flush_all(v->cpu);
	trace(kvm, "vCPU %u: runs again, was said to be preempted: %#x", v->id, was);
}
