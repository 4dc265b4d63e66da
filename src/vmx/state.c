/*
 * vmx/state -- KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE.
 *
 * The image is KVM's, byte for byte, so that a guest can move between hosts
 * with VT-x and ours. It holds the live contents of the cached VMCSs: guest
 * memory, which may lag behind them, is neither written nor read here.
 */
#include "vmx/checks.h"
#include "vmx/internal.h"

#define HEADER_SIZE sizeof(struct kvm_nested_state)
#define KNOWN_FLAGS (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING | KVM_STATE_NESTED_EVMCS | \
                     KVM_STATE_NESTED_MTF_PENDING | KVM_STATE_NESTED_GIF_SET)
_Static_assert(HEADER_SIZE == 128, "KVM's ABI");
_Static_assert(offsetof(struct kvm_nested_state, data) == 128, "KVM's ABI");
_Static_assert(sizeof(struct kvm_vmx_nested_state_data) == 2 * VMCS12_SIZE, "KVM's ABI");

#define SMM_FLAGS (KVM_STATE_NESTED_SMM_GUEST_MODE | KVM_STATE_NESTED_SMM_VMXON)

/* The image has the timer's deadline in its ticks, of L1's TSC; no tick is lost. */
static uint64_t to_ticks(const struct vmx_vcpu *v, uint64_t tsc)
{
	unsigned rate = vmx_caps_timer_rate(&v->caps);

	return (tsc >> rate) + !!(tsc & (BIT(rate) - 1));
}

static void fill_header(const struct vmx_vcpu *v, struct kvm_nested_state *h)
{
	*h = (struct kvm_nested_state){
		.format = KVM_STATE_NESTED_FORMAT_VMX, .size = HEADER_SIZE,
		.hdr.vmx = { .vmxon_pa = VMX_NO_POINTER, .vmcs12_pa = VMX_NO_POINTER },
	};
	if (!v->in_operation && !v->smm.vmxon)
		return;
	h->hdr.vmx.vmxon_pa = v->vmxon_ptr;
	h->hdr.vmx.vmcs12_pa = v->current_ptr;
	if (v->current_ptr != VMX_NO_POINTER)
		h->size += VMCS12_SIZE;
	h->hdr.vmx.smm.flags = (v->smm.vmxon ? KVM_STATE_NESTED_SMM_VMXON : 0) | (v->smm.in_l2 ? KVM_STATE_NESTED_SMM_GUEST_MODE : 0);
	if (!v->in_l2)
		return;
	if (vmx_uses_shadow(&v->vmcs12))
		h->size += VMCS12_SIZE;
	h->flags = KVM_STATE_NESTED_GUEST_MODE | (v->run_pending ? KVM_STATE_NESTED_RUN_PENDING : 0) |
	           (v->mtf_pending ? KVM_STATE_NESTED_MTF_PENDING : 0);
	if (v->timer_active) {
		h->hdr.vmx.flags = KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
		h->hdr.vmx.preemption_timer_deadline = to_ticks(v, v->timer_deadline);
	}
}

int vmx_get_nested_state(struct vmx_vcpu *v, struct kvm_nested_state *state, uint32_t user_size)
{
	struct kvm_nested_state header;

	fill_header(v, &header);
	if (user_size < header.size) {
		state->size = header.size;
		return -E2BIG;
	}
	if (v->in_l2)
		vmx_sync_vmcs12(v);
	memcpy(state, &header, HEADER_SIZE);
	if (header.size > HEADER_SIZE)
		memcpy(state->data.vmx[0].vmcs12, &v->vmcs12, VMCS12_SIZE);
	if (header.size > HEADER_SIZE + VMCS12_SIZE)
		memcpy(state->data.vmx[0].shadow_vmcs12, &v->shadow, VMCS12_SIZE);
	return 0;
}

/* ---- KVM_SET_NESTED_STATE ---- */

/* In SMM there is no VMX operation, but there may be one to go back to; outside SMM no state speaks of it. */
static bool smm_flags_ok(const struct vmx_vcpu *v, const struct kvm_nested_state *s)
{
	unsigned flags = s->hdr.vmx.smm.flags;

	REQUIRE(!(flags & ~SMM_FLAGS));
	REQUIRE(!(flags & KVM_STATE_NESTED_SMM_GUEST_MODE) || (flags & KVM_STATE_NESTED_SMM_VMXON));
	REQUIRE(v->cpu->in_smm || !flags);
	REQUIRE(!v->cpu->in_smm || !(s->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING)));
	return true;
}

/* Everything that can be said of the header before the present state is given up. */
static bool header_ok(const struct vmx_vcpu *v, const struct kvm_nested_state *s)
{
	REQUIRE(s->size >= HEADER_SIZE);
	REQUIRE(!(s->flags & ~KNOWN_FLAGS));
	REQUIRE(!(s->flags & KVM_STATE_NESTED_RUN_PENDING) || (s->flags & KVM_STATE_NESTED_GUEST_MODE));
	REQUIRE(s->format == KVM_STATE_NESTED_FORMAT_VMX);
	if (s->hdr.vmx.vmxon_pa == VMX_NO_POINTER) {
		REQUIRE(!s->hdr.vmx.smm.flags);
		REQUIRE(s->hdr.vmx.vmcs12_pa == VMX_NO_POINTER);
		REQUIRE(!(s->flags & ~KVM_STATE_NESTED_EVMCS));
	} else {
		REQUIRE(v->offered);
		REQUIRE(vmx_pa_ok(v, s->hdr.vmx.vmxon_pa, PAGE_SIZE_4K));
	}
	REQUIRE(!(s->hdr.vmx.flags & ~KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE));
	REQUIRE(!(s->flags & KVM_STATE_NESTED_EVMCS));           /* none was enabled */
	return smm_flags_ok(v, s);
}

static bool current_vmcs_ok(const struct vmx_vcpu *v, const struct kvm_nested_state *s)
{
	REQUIRE(s->hdr.vmx.vmcs12_pa != VMX_NO_POINTER);
	REQUIRE(s->hdr.vmx.vmcs12_pa != s->hdr.vmx.vmxon_pa);
	REQUIRE(vmx_pa_ok(v, s->hdr.vmx.vmcs12_pa, PAGE_SIZE_4K));
	return true;
}

static int load_shadow(struct vmx_vcpu *v, const struct kvm_nested_state *s, uint32_t readable)
{
	const uint32_t needed = HEADER_SIZE + VMCS12_SIZE + VMCS12_KVM_SIZE;

	if (!vmx_uses_shadow(&v->vmcs12))
		return 0;
	if (s->size < needed)
		return -EINVAL;
	if (readable < needed)
		return -EFAULT;
	memcpy(&v->shadow, s->data.vmx[0].shadow_vmcs12, VMCS12_SIZE);
	if (v->shadow.revision_id != (VMX_REVISION | VMCS12_SHADOW_BIT))
		return -EINVAL;
	v->shadow_valid = true;
	return 0;
}

/* The guest of v->vmcs12 goes on where the client took it: all checks of VM entry, but no VM entry. */
static int restore_l2(struct vmx_vcpu *v, const struct kvm_nested_state *s, uint32_t readable)
{
	uint64_t qualification;
	int r = load_shadow(v, s, readable);

	v->run_pending = s->flags & KVM_STATE_NESTED_RUN_PENDING;
	v->mtf_pending = s->flags & KVM_STATE_NESTED_MTF_PENDING;
	v->timer_active = s->hdr.vmx.flags & KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
	v->timer_deadline = s->hdr.vmx.preemption_timer_deadline << vmx_caps_timer_rate(&v->caps);
	/* Else it is injected long since, and the state that L2 came to need not suit it. */
	if (!v->run_pending)
		v->vmcs12.vm_entry_intr_info_field &= ~INTR_INFO_VALID;
	if (!r && !(vmx_check_controls(v, &v->vmcs12) && vmx_check_host(v, &v->vmcs12) &&
	            vmx_check_guest(v, &v->vmcs12, &qualification)))
		r = -EINVAL;
	if (!r) {
		vmx_resume_l2(v);
		return 0;
	}
	v->run_pending = v->mtf_pending = v->timer_active = v->shadow_valid = false;
	return r;
}

/* In SMM: VMX operation is what RSM will go back to. */
static int restore_smm(struct vmx_vcpu *v, unsigned flags)
{
	if (!(flags & KVM_STATE_NESTED_SMM_VMXON))
		return 0;
	if ((flags & KVM_STATE_NESTED_SMM_GUEST_MODE) && (v->current_ptr == VMX_NO_POINTER || v->vmcs12.revision_id != VMX_REVISION))
		return -EINVAL;
	vmx_smm_restore(v, flags & KVM_STATE_NESTED_SMM_GUEST_MODE);
	return 0;
}

int vmx_set_nested_state(struct vmx_vcpu *v, const struct kvm_nested_state *state, uint32_t readable)
{
	/* Also what tells "no VMX state" from a reset client with a full-sized buffer: the pointers, not the size. */
	if (!header_ok(v, state))
		return -EINVAL;
	vmx_leave(v);
	if (state->hdr.vmx.vmxon_pa == VMX_NO_POINTER)
		return 0;
	vmx_enter_operation(v, state->hdr.vmx.vmxon_pa);
	if (state->size < HEADER_SIZE + VMCS12_KVM_SIZE) {
		bool vmcs_expected = (state->flags & KVM_STATE_NESTED_GUEST_MODE) || state->hdr.vmx.vmcs12_pa != VMX_NO_POINTER;
		return vmcs_expected ? -EINVAL : restore_smm(v, state->hdr.vmx.smm.flags);
	}
	if (!current_vmcs_ok(v, state))
		return -EINVAL;
	if (readable < HEADER_SIZE + VMCS12_KVM_SIZE)
		return -EFAULT;
	memcpy(&v->vmcs12, state->data.vmx[0].vmcs12, VMCS12_SIZE);
	v->current_ptr = state->hdr.vmx.vmcs12_pa;
	/* A shadow VMCS may be current, but not run. */
	if ((v->vmcs12.revision_id & ~VMCS12_SHADOW_BIT) != VMX_REVISION)
		return -EINVAL;
	if ((state->flags & KVM_STATE_NESTED_GUEST_MODE) && v->vmcs12.revision_id != VMX_REVISION)
		return -EINVAL;
	return state->flags & KVM_STATE_NESTED_GUEST_MODE ? restore_l2(v, state, readable) : restore_smm(v, state->hdr.vmx.smm.flags);
}
