/*
 * Who handles a VM exit? The processor exits only for what its control block
 * says. vmcs02's controls are vmcs12's and L0 adds none of its own, so every
 * exit under vmcs02 is L1's: intercepted instructions and exceptions, the
 * unconditional ones, and EPT violations, because only L1's EPT tables can
 * cause them (memory that L0 has no slot for is not a VM exit but MMIO). vmcs01
 * intercepts nothing.
 */
#include "vmx/internal.h"

enum vmx_verdict vmx_reflect(struct vmx_vcpu *v, const struct vmexit *e)
{
	return v->in_l2 ? VMX_TO_L1 : VMX_TO_L0;
}
