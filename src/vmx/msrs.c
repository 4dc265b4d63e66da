/*
 * vmx/msrs -- IA32_FEATURE_CONTROL and the capability MSRs as instructions of
 * the guest and KVM_GET/SET_MSRS of the client see them.
 */
#include "vmx/internal.h"

enum { MSR_FEATURE_CONTROL = 0x3a, MSR_VMX_FIRST = 0x480, MSR_VMX_CTLS2 = 0x48b, MSR_VMX_EPT_VPID = 0x48c,
       MSR_VMX_TRUE_PIN = 0x48d, MSR_VMX_TRUE_ENTRY = 0x490, MSR_VMX_VMFUNC = 0x491, MSR_VMX_CTLS3 = 0x492 };
enum { MSR_FINE = 0, MSR_FAULT = 1, MSR_UNKNOWN = 2 };

#define FEATURE_CONTROL_LOCK 1ull
#define FEATURE_CONTROL_VMX_INSIDE_SMX 2ull
#define FEATURE_CONTROL_VMX_OUTSIDE_SMX 4ull
#define FEATURE_CONTROL_LMCE (1ull << 20)
/* And both of SGX: what a client may set, before or without the CPUID that gives them a meaning; guests of KVM can set VMX inside SMX. */
#define FEATURE_CONTROL_CLIENT (FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_INSIDE_SMX | FEATURE_CONTROL_VMX_OUTSIDE_SMX | \
                                1ull << 17 | 1ull << 18 | FEATURE_CONTROL_LMCE)

const uint32_t vmx_feature_msr_list[] = {
	0x480, 0x481, 0x482, 0x483, 0x484, 0x485, 0x486, 0x487, 0x488,
	0x489, 0x48a, 0x48b, 0x48c, 0x48d, 0x48e, 0x48f, 0x490, 0x491, 0x492,
};
const unsigned vmx_feature_msr_count = ARRAY_SIZE(vmx_feature_msr_list);

static bool is_capability(uint32_t index) { return index >= MSR_VMX_FIRST && index <= MSR_VMX_CTLS3; }

int vmx_feature_msr(uint32_t index, uint64_t *value)
{
	struct vmx_caps all;
	if (!params.nested || !is_capability(index))
		return MSR_UNKNOWN;
	vmx_caps_init(&all);
	return vmx_caps_read(&all, index, value) ? MSR_FINE : MSR_UNKNOWN;
}

/* Some capability MSRs exist only where a bit of another one says so. */
static bool exists_for_guest(const struct vmx_caps *c, uint32_t index)
{
	if (index >= MSR_VMX_TRUE_PIN && index <= MSR_VMX_TRUE_ENTRY)
		return c->basic & VMX_BASIC_TRUE_CONTROLS;
	if (index == MSR_VMX_CTLS2)
		return c->primary.may & PRIMARY_SECONDARY;
	if (index == MSR_VMX_EPT_VPID)
		return c->secondary.may & (SECONDARY_EPT | SECONDARY_VPID);
	if (index == MSR_VMX_VMFUNC)
		return c->secondary.may & SECONDARY_VMFUNC;
	if (index == MSR_VMX_CTLS3)
		return c->primary.may & PRIMARY_TERTIARY;
	return true;
}

int vmx_msr_read(struct vmx_vcpu *v, uint32_t index, uint64_t *value, bool host_initiated)
{
	if (index == MSR_FEATURE_CONTROL) {
		*value = v->cpu->msr.feature_control;
		return MSR_FINE;
	}
	if (!is_capability(index) || !params.nested)
		return MSR_UNKNOWN;
	if (!v->offered || (!host_initiated && !exists_for_guest(&v->caps, index)))
		return MSR_FAULT;
	return vmx_caps_read(host_initiated ? &v->client_caps : &v->caps, index, value) ? MSR_FINE : MSR_FAULT;
}

bool vmx_lmce_enabled(const struct vmx_vcpu *v)
{
	return v->lmce_offered && v->cpu->msr.feature_control & FEATURE_CONTROL_LMCE;
}

static uint64_t feature_control_valid(const struct vmx_vcpu *v, bool host_initiated)
{
	if (host_initiated)
		return FEATURE_CONTROL_CLIENT;
	return FEATURE_CONTROL_LOCK | (v->offered ? FEATURE_CONTROL_VMX_OUTSIDE_SMX : 0) | (v->lmce_offered ? FEATURE_CONTROL_LMCE : 0);
}

/* The lock binds the guest only. A client that writes 0 takes the vCPU out of VMX operation: QEMU's reset begins so. */
static int write_feature_control(struct vmx_vcpu *v, uint64_t value, bool host_initiated)
{
	uint64_t valid = feature_control_valid(v, host_initiated);
	if (value & ~valid)
		return MSR_FAULT;
	if (!host_initiated && (v->cpu->msr.feature_control & FEATURE_CONTROL_LOCK))
		return MSR_FAULT;
	v->cpu->msr.feature_control = value;
	if (host_initiated && !value)
		vmx_leave(v);
	return MSR_FINE;
}

int vmx_msr_write(struct vmx_vcpu *v, uint32_t index, uint64_t value, bool host_initiated)
{
	if (index == MSR_FEATURE_CONTROL)
		return write_feature_control(v, value, host_initiated);
	if (!is_capability(index) || !params.nested)
		return MSR_UNKNOWN;
	/* Read-only for the guest; and nothing may change under a VMX operation that relies on it. */
	if (!host_initiated || !v->offered || v->in_operation)
		return MSR_FAULT;
	if (!vmx_caps_write(&v->client_caps, index, value)) {
		trace(vmx, "client's value %#llx for MSR %#x is more than VMX offers here", (unsigned long long)value, index);
		return MSR_FAULT;
	}
	v->caps = vmx_caps_offered(&v->client_caps);
	return MSR_FINE;
}
