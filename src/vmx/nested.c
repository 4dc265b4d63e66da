/*
 * vmx/nested -- life of a vCPU's VMX state, and which control block the
 * processor runs under.
 */
#include <stdlib.h>
#include "cpu/rules.h"
#include "vmx/internal.h"
#include "x86/features.h"

/* L0 intercepts nothing of L1 by itself: what it emulates reaches it through upcalls. */
static void init_control_block(struct control_block *ctl)
{
	ctl->tsc_multiplier = BIT(48);
	ctl->timer_deadline = UINT64_MAX;
	ctl->vapic_gpa = ctl->apic_access_gpa = ctl->posted_gpa = UINT64_MAX;
}

/* CR bits that VMX operation fixes, for MOV CR in either control block. */
static void fix_cr_bits(struct vmx_vcpu *v, struct control_block *ctl)
{
	ctl->in_vmx_root_or_non_root = v->in_operation;
	ctl->cr0_fixed0 = v->caps.cr0_fixed0;
	ctl->cr0_fixed1 = v->caps.cr0_fixed1;
	ctl->cr4_fixed0 = v->caps.cr4_fixed0;
	ctl->cr4_fixed1 = v->caps.cr4_fixed1;
}

struct vmx_vcpu *vmx_new(struct cpu *cpu, const struct vmx_ops *ops)
{
	struct vmx_vcpu *v = calloc(1, sizeof(*v));
	if (!v)
		return NULL;
	v->cpu = cpu;
	v->ops = ops;
	v->vmxon_ptr = v->current_ptr = VMX_NO_POINTER;
	init_control_block(&v->vmcs01);
	init_control_block(&v->vmcs02);
	vmx_caps_init(&v->client_caps);
	vmx_cpuid_update(v);
	vmx_run_l1(v);
	return v;
}

void vmx_free(struct vmx_vcpu *v)
{
	free(v);
}

void vmx_reset(struct vmx_vcpu *v)
{
	vmx_leave(v);
	v->cpu->msr.feature_control = 0;
}

void vmx_cpuid_update(struct vmx_vcpu *v)
{
	v->offered = params.nested && cpu_has(v->cpu, FEATURE_VMX);
	v->client_caps.cr4_fixed1 = cr4_allowed(v->cpu) | CR4_VMXE | CR4_PCE;
	v->caps = vmx_caps_offered(&v->client_caps);
	if (!v->offered)
		vmx_leave(v);
	fix_cr_bits(v, &v->vmcs01);
}

void vmx_offer_lmce(struct vmx_vcpu *v, bool offered)
{
	v->lmce_offered = offered;
}

uint64_t vmx_cr4_allowed(const struct vmx_vcpu *v)
{
	return v->offered ? v->caps.cr4_fixed1 : 0;
}

bool vmx_in_l2(const struct vmx_vcpu *v) { return v->in_l2; }
bool vmx_in_operation(const struct vmx_vcpu *v) { return v->in_operation; }

static void run_under(struct vmx_vcpu *v, struct control_block *ctl)
{
	v->in_l2 = ctl == &v->vmcs02;
	fix_cr_bits(v, ctl);
	v->cpu->ctl = ctl;
	cpu_mode_update(v->cpu);
}

void vmx_run_l1(struct vmx_vcpu *v) { run_under(v, &v->vmcs01); }
void vmx_run_l2(struct vmx_vcpu *v) { run_under(v, &v->vmcs02); }

void vmx_enter_operation(struct vmx_vcpu *v, uint64_t ptr)
{
	v->in_operation = true;
	v->vmxon_ptr = ptr;
	v->current_ptr = VMX_NO_POINTER;
	vmx_run_l1(v);
}

void vmx_leave(struct vmx_vcpu *v)
{
	if (!v->in_operation && !v->smm.vmxon)
		return;
	if (v->timer_active)
		v->ops->timer(v->cpu, UINT64_MAX);
	v->timer_active = v->run_pending = v->mtf_pending = v->pages_pending = v->shadow_valid = false;
	v->in_operation = v->smm.vmxon = v->smm.in_l2 = v->smm.restored = false;
	v->vmxon_ptr = v->current_ptr = VMX_NO_POINTER;
	vmx_run_l1(v);
}
