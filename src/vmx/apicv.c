/*
 * APIC virtualization of L2, as far as it is a matter of VM entries and exits
 * and of L1's interrupts: the virtual APIC itself is the processor's
 * (cpu/vapic.h).
 */
#include "cpu/vapic.h"
#include "vmx/checks.h"

/*
 * With APIC accesses virtualized this is also asked right after VM entry; the
 * entry checks exclude it otherwise. Afterwards L2's own writes to the TPR
 * exit by themselves.
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

void vmx_virtual_interrupts_begin(struct vmx_vcpu *v)
{
	if (vapic_delivers(v->cpu))
		vapic_begin(v->cpu);
}

void vmx_virtual_interrupts_save(struct vmx_vcpu *v)
{
	const struct control_block *ctl = &v->vmcs02;

	if (ctl->secondary & SECONDARY_VIRTUAL_INTR)
		v->vmcs12.guest_intr_status = ctl->svi << 8 | ctl->rvi;
}

bool vmx_virtual_interrupt_take(struct vmx_vcpu *v, bool nmi_pending)
{
	struct cpu *cpu = v->cpu;
	bool nmi_first = nmi_pending && cpu_nmi_allowed(cpu);

	if (!v->vmcs02.virtual_interrupt || nmi_first || !cpu_interrupt_allowed(cpu) || cpu->activity > ACTIVITY_HLT)
		return false;
	cpu->event = (struct event){ .valid = true, .type = EVENT_EXT_INTERRUPT, .vector = vapic_take(cpu) };
	return true;
}

bool vmx_posted_interrupt(struct vmx_vcpu *v, uint8_t vector)
{
	if (!(v->vmcs02.pin & PIN_POSTED_INTR) || vector != v->vmcs12.posted_intr_nv || !v->cpu->ops->apic_eoi(v->cpu))
		return false;
	vapic_process_posted(v->cpu);
	return true;
}
