/*
 * vmx/vpid -- INVEPT and INVVPID. The software TLB keeps L2's translations by
 * VPID and EPTP, already composed, so both come down to dropping contexts;
 * dropping more than was asked for is always allowed.
 */
#include "vmx/internal.h"

enum { INVEPT_SINGLE = 1, INVEPT_ALL = 2 };
enum { INVVPID_ADDRESS = 0, INVVPID_SINGLE = 1, INVVPID_ALL = 2, INVVPID_SINGLE_KEEP_GLOBALS = 3 };

bool vmx_invept_type_ok(const struct vmx_vcpu *v, uint64_t type)
{
	switch (type) {
	case INVEPT_SINGLE: return v->caps.ept_vpid & EPT_CAP_INVEPT_SINGLE;
	case INVEPT_ALL: return v->caps.ept_vpid & EPT_CAP_INVEPT_ALL;
	default: return false;
	}
}

bool vmx_invvpid_type_ok(const struct vmx_vcpu *v, uint64_t type)
{
	switch (type) {
	case INVVPID_ADDRESS: return v->caps.ept_vpid & VPID_CAP_ADDRESS;
	case INVVPID_SINGLE: return v->caps.ept_vpid & VPID_CAP_SINGLE;
	case INVVPID_ALL: return v->caps.ept_vpid & VPID_CAP_ALL;
	case INVVPID_SINGLE_KEEP_GLOBALS: return v->caps.ept_vpid & VPID_CAP_SINGLE_KEEP_GLOBALS;
	default: return false;
	}
}

bool vmx_invept(struct vmx_vcpu *v, uint64_t type, const uint64_t descriptor[2])
{
	if (type == INVEPT_ALL) {
		tlb_flush_all_ept(v->cpu);
		return true;
	}
	if (!vmx_eptp_ok(v, descriptor[0]))
		return false;
	tlb_flush_eptp(v->cpu, descriptor[0]);
	return true;
}

bool vmx_invvpid(struct vmx_vcpu *v, uint64_t type, const uint64_t descriptor[2])
{
	uint16_t vpid = descriptor[0];

	if (descriptor[0] >> 16)
		return false;
	switch (type) {
	case INVVPID_ADDRESS:
		if (!vpid || !cpu_canonical(v->cpu, descriptor[1]))
			return false;
		tlb_flush_vpid_addr(v->cpu, vpid, descriptor[1]);
		return true;
	case INVVPID_ALL:
		tlb_flush_all(v->cpu);
		return true;
	default:
		if (!vpid)
			return false;
		tlb_flush_vpid(v->cpu, vpid, type == INVVPID_SINGLE);
		return true;
	}
}
