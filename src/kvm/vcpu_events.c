/*
 * Events of a vCPU as the client sees them: KVM_GET/SET_VCPU_EVENTS, MP_STATE,
 * KVM_INTERRUPT, KVM_NMI, KVM_SMI, machine checks.
 *
 * The processor has one slot, cpu->event, for what is delivered next; KVM's
 * structure names exceptions, interrupts and NMIs apart. "Injected" there means
 * that intercepts have had their say already.
 */
#include "kvm/vcpu.h"
#include "x86/vmx.h"

#define EXCEPTION_TYPE(vector) ((vector) == VEC_BP || (vector) == VEC_OF ? EVENT_SW_EXCEPTION : EVENT_HW_EXCEPTION)

static bool is_exception(const struct event *e)
{
	return e->type == EVENT_HW_EXCEPTION || e->type == EVENT_SW_EXCEPTION || e->type == EVENT_PRIV_SW_EXCEPTION;
}

/* ---- KVM_GET_VCPU_EVENTS ---- */

/* Without payloads the client expects CR2 and DR6 to be loaded as soon as it sees the exception. */
static void deliver_payload(struct cpu *cpu)
{
	struct event *e = &cpu->event;

	if (!e->has_payload)
		return;
	if (e->vector == VEC_PF)
		cpu->cr2 = e->payload;
	else if (e->vector == VEC_DB)
		cpu->dr6 = (cpu->dr6 & ~0xfull) | DR6_FIXED | (e->payload & 0xe00f);
	e->has_payload = false;
}

static void get_exception(struct vcpu *v, struct kvm_vcpu_events *out)
{
	struct event *e = &v->cpu->event;
	bool payloads = v->vm->enabled_caps & VM_EXCEPTION_PAYLOAD;

	if (v->machine_check_waits) {
		out->exception.nr = VEC_MC;
		out->exception.injected = !payloads;
		out->exception.pending = payloads;
		return;
	}
	if (!e->valid || !is_exception(e))
		return;
	if (!payloads)
		deliver_payload(v->cpu);
	out->exception.nr = e->vector;
	out->exception.has_error_code = e->has_error;
	out->exception.error_code = e->has_error ? e->error : 0;
	out->exception.injected = e->injected || !payloads;
	out->exception.pending = !e->injected && payloads;
	out->exception_has_payload = e->has_payload;
	out->exception_payload = e->has_payload ? e->payload : 0;
}

static void get_interrupt(struct vcpu *v, struct kvm_vcpu_events *out)
{
	const struct event *e = &v->cpu->event;
	uint32_t shadow = v->cpu->shadow;

	if (e->valid && (e->type == EVENT_EXT_INTERRUPT || e->type == EVENT_SW_INTERRUPT)) {
		out->interrupt.injected = 1;
		out->interrupt.nr = e->vector;
		out->interrupt.soft = e->type == EVENT_SW_INTERRUPT;
	} else if (v->user_interrupt >= 0 && !lapic_in_kernel(v)) {
		out->interrupt.injected = 1;
		out->interrupt.nr = v->user_interrupt;
	}
	out->interrupt.shadow = (shadow & SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
	                        (shadow & SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0);
}

static bool nmi_masked(const struct cpu *cpu)
{
	return cpu->nmi_blocked || cpu->shadow & SHADOW_NMI;
}

long kvm_vcpu_get_events(struct vcpu *v, struct kvm_vcpu_events *out)
{
	const struct event *e = &v->cpu->event;

	memset(out, 0, sizeof(*out));
	events_accept(v);
	events_take_trap(v);
	get_exception(v, out);
	get_interrupt(v, out);
	out->nmi.injected = e->valid && e->type == EVENT_NMI;
	out->nmi.pending = atomic_load(&v->nmis_queued);
	out->nmi.masked = nmi_masked(v->cpu);
	out->smi.smm = v->cpu->in_smm;
	out->smi.smm_inside_nmi = v->cpu->smi_in_nmi;
	out->smi.pending = atomic_load(&v->smi_queued);
	out->smi.latched_init = v->init_pending;
	out->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	if (v->vm->enabled_caps & VM_EXCEPTION_PAYLOAD)
		out->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (v->vm->enabled_caps & VM_TRIPLE_FAULT_EVENT) {
		out->triple_fault.pending = v->triple_fault;
		out->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
	return 0;
}

/* ---- KVM_SET_VCPU_EVENTS ---- */

enum { SETTABLE = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
                  KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT };

/* INIT is latched in SMM. Without SMM only the state outside it can be set. */
static bool smi_valid(const struct vcpu *v, const struct kvm_vcpu_events *in)
{
	if (!(in->flags & KVM_VCPUEVENT_VALID_SMM) || !(in->smi.smm || in->smi.pending || in->smi.smm_inside_nmi))
		return true;
	return params.smm && v->mp_state != KVM_MP_STATE_INIT_RECEIVED;
}

static bool events_valid(const struct vcpu *v, const struct kvm_vcpu_events *in)
{
	uint64_t caps = v->vm->enabled_caps;
	bool exception = in->exception.injected;

	if (in->flags & ~(uint32_t)SETTABLE)
		return false;
	if (in->flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
		if (!(caps & VM_EXCEPTION_PAYLOAD) || (in->exception.pending && in->exception.injected))
			return false;
		exception = in->exception.pending || in->exception.injected;
	}
	if (exception && (in->exception.nr > 31 || in->exception.nr == VEC_NMI))
		return false;
	if (in->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && !(caps & VM_TRIPLE_FAULT_EVENT))
		return false;
	return smi_valid(v, in);
}

static bool has_exception(const struct kvm_vcpu_events *in)
{
	return in->exception.injected || (in->flags & KVM_VCPUEVENT_VALID_PAYLOAD && in->exception.pending);
}

/* A machine check that waits for the event before it; see machine_check_queue(). */
static bool has_waiting_machine_check(const struct kvm_vcpu_events *in)
{
	return has_exception(in) && in->exception.nr == VEC_MC && (in->nmi.injected || in->interrupt.injected);
}

/* The one event that is to be delivered first. */
static struct event event_of(const struct kvm_vcpu_events *in)
{
	bool payload = in->flags & KVM_VCPUEVENT_VALID_PAYLOAD;

	if (has_exception(in) && !has_waiting_machine_check(in))
		return (struct event){ .valid = true, .type = EXCEPTION_TYPE(in->exception.nr), .vector = in->exception.nr,
		                       .has_error = in->exception.has_error_code, .error = in->exception.error_code,
		                       .insn_len = in->exception.nr == VEC_BP || in->exception.nr == VEC_OF,
		                       .injected = in->exception.injected,
		                       .has_payload = payload && in->exception_has_payload, .payload = in->exception_payload };
	if (in->nmi.injected)
		return (struct event){ .valid = true, .type = EVENT_NMI, .vector = VEC_NMI, .injected = true };
	if (in->interrupt.injected)
		return (struct event){ .valid = true, .type = in->interrupt.soft ? EVENT_SW_INTERRUPT : EVENT_EXT_INTERRUPT,
		                       .vector = in->interrupt.nr, .insn_len = in->interrupt.soft ? 2 : 0, .injected = true };
	return (struct event){ 0 };
}

/* Under virtual NMIs the blocking is L2's, else the processor's. */
static void nmi_mask(struct cpu *cpu, bool masked)
{
	bool virtual = cpu->ctl->non_root && cpu->ctl->pin & PIN_VIRTUAL_NMIS;

	cpu->shadow &= ~SHADOW_NMI;
	if (virtual && masked)
		cpu->shadow |= SHADOW_NMI;
	cpu->nmi_blocked = masked && !virtual;
}

static void set_smi(struct vcpu *v, const struct kvm_vcpu_events *in)
{
	if (!(in->flags & KVM_VCPUEVENT_VALID_SMM))
		return;
	smm_set_by_client(v, in->smi.smm, in->smi.smm_inside_nmi);
	atomic_store(&v->smi_queued, in->smi.pending);
	if (lapic_in_kernel(v))
		v->init_pending = in->smi.latched_init;
}

long kvm_vcpu_set_events(struct vcpu *v, const struct kvm_vcpu_events *in)
{
	struct cpu *cpu = v->cpu;

	if (!events_valid(v, in))
		return -EINVAL;
	events_accept(v);
	set_smi(v, in);
	cpu->event = event_of(in);
	v->machine_check_waits = has_waiting_machine_check(in);
	if (in->interrupt.injected && in->interrupt.nr == v->user_interrupt)
		v->user_interrupt = -1;
	if (in->flags & KVM_VCPUEVENT_VALID_SHADOW) {
		cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
		cpu->shadow |= in->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0;
		cpu->shadow |= in->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0;
	}
	if (in->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		atomic_store(&v->nmis_queued, in->nmi.pending < 2 ? in->nmi.pending : 2);
	nmi_mask(cpu, in->nmi.masked);
	if (in->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR && lapic_in_kernel(v))
		v->sipi_vector = in->sipi_vector;
	if (in->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
		v->triple_fault = in->triple_fault.pending;
	vcpu_kick(v);
	return 0;
}

/* ---- KVM_GET/SET_MP_STATE ---- */

long kvm_vcpu_get_mp_state(struct vcpu *v, struct kvm_mp_state *s)
{
	events_accept(v);
	s->mp_state = v->mp_state;
	if (s->mp_state != KVM_MP_STATE_RUNNABLE)
		return 0;
	if (v->cpu->activity == ACTIVITY_HLT && !v->kicked_by_hypercall)
		s->mp_state = KVM_MP_STATE_HALTED;
	else if (v->cpu->activity == ACTIVITY_WAIT_SIPI)         /* L2's; the vCPU itself runs */
		s->mp_state = KVM_MP_STATE_INIT_RECEIVED;
	return 0;
}

/* In L2 the state says what vmcs12's activity says: HLT, wait for SIPI, or else active or shutdown. */
static void set_l2_state(struct vcpu *v, uint32_t state)
{
	struct cpu *cpu = v->cpu;

	if (state == KVM_MP_STATE_HALTED)
		cpu->activity = ACTIVITY_HLT;
	else if (state == KVM_MP_STATE_INIT_RECEIVED)
		cpu->activity = ACTIVITY_WAIT_SIPI;
	else if (cpu->activity != ACTIVITY_SHUTDOWN)
		cpu->activity = ACTIVITY_ACTIVE;
	v->mp_state = KVM_MP_STATE_RUNNABLE;
}

/* KVM_SET_NESTED_STATE may come before KVM_SET_MP_STATE or after it. */
void vcpu_l2_restored(struct vcpu *v)
{
	if (v->mp_state == KVM_MP_STATE_INIT_RECEIVED && v->cpu->activity == ACTIVITY_WAIT_SIPI)
		v->mp_state = KVM_MP_STATE_RUNNABLE;
}

long kvm_vcpu_set_mp_state(struct vcpu *v, const struct kvm_mp_state *s)
{
	uint32_t state = s->mp_state;
	bool starting = state == KVM_MP_STATE_INIT_RECEIVED || state == KVM_MP_STATE_SIPI_RECEIVED;

	if (starting && (v->cpu->in_smm || atomic_load(&v->smi_queued)))
		return -EINVAL;
	if (state > KVM_MP_STATE_SIPI_RECEIVED || (!lapic_in_kernel(v) && state != KVM_MP_STATE_RUNNABLE))
		return -EINVAL;
	if (vmx_in_l2(v->vmx) && state != KVM_MP_STATE_UNINITIALIZED && state != KVM_MP_STATE_SIPI_RECEIVED) {
		set_l2_state(v, state);
		vcpu_kick(v);
		return 0;
	}
	v->cpu->activity = state == KVM_MP_STATE_HALTED ? ACTIVITY_HLT : ACTIVITY_ACTIVE;
	if (state == KVM_MP_STATE_SIPI_RECEIVED) {
		v->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		v->sipi_pending = true;
	} else {
		v->mp_state = state == KVM_MP_STATE_HALTED ? KVM_MP_STATE_RUNNABLE : state;
	}
	vcpu_kick(v);
	return 0;
}

/* ---- KVM_INTERRUPT, KVM_NMI, KVM_SMI ---- */

long kvm_vcpu_interrupt(struct vcpu *v, const struct kvm_interrupt *i)
{
	if (i->irq > 255)
		return -EINVAL;
	if (pic_in_kernel(v))
		return -ENXIO;
	if (lapic_in_kernel(v) && v->user_interrupt >= 0)
		return -EEXIST;
	v->user_interrupt = i->irq;
	vcpu_kick(v);
	return 0;
}

long kvm_vcpu_nmi(struct vcpu *v)
{
	vcpu_post_nmi(v);
	return 0;
}

long kvm_vcpu_smi(struct vcpu *v)
{
	if (!params.smm)
		return -ENOTTY;
	atomic_store(&v->smi_queued, true);
	vcpu_kick(v);
	return 0;
}

/* ---- machine checks ---- */

#define MCI_STATUS_VAL BIT(63)
#define MCI_STATUS_OVER BIT(62)
#define MCI_STATUS_UC BIT(61)
#define MCG_STATUS_MCIP BIT(2)
#define MCG_CTL_P BIT(8)
#define MCG_LMCE_P BIT(27)

long kvm_vcpu_setup_mce(struct vcpu *v, const uint64_t *cap)
{
	unsigned banks = *cap & 0xff;

	if (!banks || banks > ARRAY_SIZE(v->mce.banks))
		return -EINVAL;
	if (*cap & ~(supported_mce_cap() | 0xff | 0xff0000))
		return -EINVAL;
	v->mce.mcg_cap = *cap;
	if (*cap & MCG_CTL_P)
		v->mce.mcg_ctl = ~0ull;
	for (unsigned i = 0; i < banks; i++)
		v->mce.banks[i][0] = ~0ull;
	vmx_offer_lmce(v->vmx, *cap & MCG_LMCE_P);
	return 0;
}

/* Behind an interrupt that is acknowledged already, or an NMI: it would be lost. An exception comes again by itself. */
static void machine_check_queue(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;

	v->machine_check_waits = cpu->event.valid && !is_exception(&cpu->event);
	if (!v->machine_check_waits)
		cpu->event = (struct event){ .valid = true, .type = EVENT_HW_EXCEPTION, .vector = VEC_MC };
	vcpu_kick(v);
}

static void bank_record(uint64_t *bank, const struct kvm_x86_mce *m, bool overflow)
{
	bank[1] = m->status | (overflow ? MCI_STATUS_OVER : 0);
	bank[2] = m->addr;
	bank[3] = m->misc;
}

/* An uncorrected error while one is being handled, or that the guest has not enabled, shuts down. */
static long uncorrected(struct vcpu *v, const struct kvm_x86_mce *m, uint64_t *bank)
{
	struct cpu *cpu = v->cpu;

	if ((v->mce.mcg_cap & MCG_CTL_P && v->mce.mcg_ctl != ~0ull) || bank[0] != ~0ull)
		return 0;
	if (v->mce.mcg_status & MCG_STATUS_MCIP || !(cpu->cr4 & CR4_MCE)) {
		v->triple_fault = true;
		return 0;
	}
	bank_record(bank, m, bank[1] & MCI_STATUS_VAL);
	v->mce.mcg_status = m->mcg_status;
	machine_check_queue(v);
	return 0;
}

long kvm_vcpu_set_mce(struct vcpu *v, const struct kvm_x86_mce *m)
{
	uint64_t *bank;

	if (m->bank >= (v->mce.mcg_cap & 0xff) || !(m->status & MCI_STATUS_VAL))
		return -EINVAL;
	bank = v->mce.banks[m->bank];
	if (m->status & MCI_STATUS_UC)
		return uncorrected(v, m, bank);
	if (!(bank[1] & MCI_STATUS_VAL) || !(bank[1] & MCI_STATUS_UC))
		bank_record(bank, m, bank[1] & MCI_STATUS_VAL);
	else
		bank[1] |= MCI_STATUS_OVER;
	return 0;
}
