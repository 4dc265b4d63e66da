/*
 * The virtual APIC that L2 sees. Present so far: the TPR shadow, of which the
 * processor itself does the reads and writes (MOV CR8, the virtual-APIC page).
 */
#include "vmx/checks.h"

enum { VAPIC_TPR = 0x80 };

/*
 * With APIC accesses virtualized this is also asked right after VM entry; the
 * entry checks exclude it otherwise. Afterwards it can only become true when L2
 * lowers its TPR.
 */
bool vmx_tpr_below_threshold(const struct vmx_vcpu *v)
{
	const struct control_block *ctl = &v->vmcs02;
	uint8_t tpr = 0;

	if (!ctl->vapic || !(ctl->primary & PRIMARY_TPR_SHADOW) || (ctl->secondary & SECONDARY_VIRTUAL_INTR))
		return false;
	mem_copy(&tpr, ctl->vapic + VAPIC_TPR, sizeof(tpr));
	return tpr >> 4 < (ctl->tpr_threshold & 0xf);
}

void vmx_pause(struct vmx_vcpu *v)
{
	if (v->in_l2)
		vmx_vapic_dirty(v);
}

/* The processor writes the virtual-APIC page by its host address: tell the dirty log. */
void vmx_vapic_dirty(struct vmx_vcpu *v)
{
	struct mem *mem = v->cpu->mem;

	if (!v->vmcs02.vapic)
		return;
	mem_read_lock(mem);
	const struct mem_slot *slot = mem_slot_find(mem, v->vmcs02.vapic_gpa);
	if (slot)
		mem_mark_dirty(slot, v->vmcs02.vapic_gpa);
	mem_read_unlock(mem);
}
