/*
 * vmx/instructions -- VMX instructions of L1, and VMREAD and VMWRITE of L2
 * under VMCS shadowing.
 *
 * They run from KVM_RUN's loop, outside the engine: vmx_instruction() makes its
 * own landing for faults of operand accesses. Until the landing or the end
 * nothing of the instruction is visible, so an operand in memory is read
 * before the first effect and written as the last one.
 *
 * What L1 gets wrong is traced, one line per way to fail.
 */
#include "cpu/access.h"
#include "vmx/internal.h"

#define FEATURE_CONTROL_VMXON 0x5ull     /* locked, VMX outside SMX */

/* ---- VMsucceed, VMfail ---- */

static void set_flags(struct vmx_vcpu *v, uint64_t flags)
{
	v->cpu->rflags = (v->cpu->rflags & ~(uint64_t)RFLAGS_ARITH) | flags;
}

void vmx_succeed(struct vmx_vcpu *v) { set_flags(v, 0); }
void vmx_fail_invalid(struct vmx_vcpu *v) { set_flags(v, RFLAGS_CF); }

void vmx_fail(struct vmx_vcpu *v, enum vm_instruction_error error)
{
	if (v->current_ptr == VMX_NO_POINTER) {
		vmx_fail_invalid(v);
		return;
	}
	v->vmcs12.vm_instruction_error = error;
	set_flags(v, RFLAGS_ZF);
}

/* Ends an instruction that failed, with its own line in the trace. */
#define fail(v, error, ...) do { trace(vmx, __VA_ARGS__); vmx_fail(v, error); } while (0)
#define fail_invalid(v, ...) do { trace(vmx, __VA_ARGS__); vmx_fail_invalid(v); } while (0)

/* ---- operands ---- */

static unsigned operand_size(const struct cpu *cpu) { return cpu_code64(cpu) ? 8 : 4; }

/* The 64-bit physical address that VMXON, VMCLEAR and VMPTRLD have in memory. */
static uint64_t pointer_operand(struct vmx_vcpu *v)
{
	return insn_load(v->cpu, v->cpu->cur_insn, 8);
}

/* The register operand that reg names: a field's encoding, or a type of invalidation. */
static uint64_t reg_operand(struct vmx_vcpu *v)
{
	return reg_get(v->cpu, v->cpu->cur_insn->reg, operand_size(v->cpu), true);
}

static void read_descriptor(struct vmx_vcpu *v, uint64_t descriptor[2])
{
	const struct insn *insn = v->cpu->cur_insn;
	seg_read(v->cpu, insn->seg, insn_offset(v->cpu, insn), descriptor, 16);
}

/* ---- the current VMCS and guest memory ---- */

static void current_flush(struct vmx_vcpu *v)
{
	if (!mem_write(v->cpu->mem, v->current_ptr, &v->vmcs12, VMCS12_SIZE))
		trace(vmx, "VMCS %#llx has no memory to be written back to", (unsigned long long)v->current_ptr);
}

void vmx_current_release(struct vmx_vcpu *v)
{
	if (v->current_ptr == VMX_NO_POINTER)
		return;
	current_flush(v);
	v->current_ptr = VMX_NO_POINTER;
}

bool vmx_shadow_load(struct vmx_vcpu *v)
{
	v->shadow_valid = mem_read(v->cpu->mem, v->vmcs12.vmcs_link_pointer, &v->shadow, VMCS12_SIZE);
	return v->shadow_valid;
}

void vmx_shadow_flush(struct vmx_vcpu *v)
{
	if (v->shadow_valid && !mem_write(v->cpu->mem, v->vmcs12.vmcs_link_pointer, &v->shadow, VMCS12_SIZE))
		trace(vmx, "shadow VMCS %#llx has no memory", (unsigned long long)v->vmcs12.vmcs_link_pointer);
	v->shadow_valid = false;
}

/* ---- VMXON, VMXOFF ---- */

static void require_vmxon_allowed(struct vmx_vcpu *v)
{
	struct cpu *cpu = v->cpu;
	const struct vmx_caps *c = &v->caps;
	bool cr0_ok = (cpu->cr0 & c->cr0_fixed0) == c->cr0_fixed0 && !(cpu->cr0 & ~c->cr0_fixed1);
	bool cr4_ok = (cpu->cr4 & c->cr4_fixed0) == c->cr4_fixed0 && !(cpu->cr4 & ~c->cr4_fixed1);

	if (cr0_ok && cr4_ok && (cpu->msr.feature_control & FEATURE_CONTROL_VMXON) == FEATURE_CONTROL_VMXON)
		return;
	trace(vmx, "VMXON: #GP: CR0 %#llx CR4 %#llx FEATURE_CONTROL %#llx", (unsigned long long)cpu->cr0,
	      (unsigned long long)cpu->cr4, (unsigned long long)cpu->msr.feature_control);
	cpu_raise_gp(cpu);
}

static void vmxon(struct vmx_vcpu *v)
{
	uint64_t ptr;
	uint32_t revision;

	if (v->in_operation) {
		fail(v, VMXERR_VMXON_IN_ROOT, "VMXON: already in VMX operation");
		return;
	}
	require_vmxon_allowed(v);
	ptr = pointer_operand(v);
	if (!vmx_pa_ok(v, ptr, PAGE_SIZE_4K)) {
		fail_invalid(v, "VMXON: %#llx is not the address of a page", (unsigned long long)ptr);
	} else if (!mem_read(v->cpu->mem, ptr, &revision, 4) || revision != VMX_REVISION) {
		fail_invalid(v, "VMXON: no revision identifier at %#llx", (unsigned long long)ptr);
	} else {
		vmx_enter_operation(v, ptr);
		vmx_succeed(v);
	}
}

static void vmxoff(struct vmx_vcpu *v)
{
	vmx_current_release(v);
	vmx_leave(v);
	vmx_succeed(v);
	/* INIT was blocked; it may be waiting. */
	atomic_fetch_or(&v->cpu->poll, POLL_EVENT);
}

/* ---- VMCLEAR, VMPTRLD, VMPTRST ---- */

static void vmclear(struct vmx_vcpu *v)
{
	uint64_t ptr = pointer_operand(v);
	const uint32_t clear = VMCS12_CLEAR;

	if (!vmx_pa_ok(v, ptr, PAGE_SIZE_4K)) {
		fail(v, VMXERR_VMCLEAR_ADDRESS, "VMCLEAR: %#llx is not the address of a page", (unsigned long long)ptr);
		return;
	}
	if (ptr == v->vmxon_ptr) {
		fail(v, VMXERR_VMCLEAR_VMXON_POINTER, "VMCLEAR: %#llx is the VMXON region", (unsigned long long)ptr);
		return;
	}
	if (ptr == v->current_ptr)
		vmx_current_release(v);
	if (!mem_write(v->cpu->mem, ptr + offsetof(struct vmcs12, launch_state), &clear, sizeof(clear)))
		trace(vmx, "VMCLEAR: no memory at %#llx", (unsigned long long)ptr);
	vmx_succeed(v);
}

/* Is what lies at ptr a VMCS that this processor can use? */
static bool revision_ok(struct vmx_vcpu *v, uint64_t ptr)
{
	uint32_t revision;
	if (!mem_read(v->cpu->mem, ptr, &revision, 4))
		return false;
	if ((revision & VMCS12_SHADOW_BIT) && !(v->caps.features & BIT(VMCS_FEATURE_SHADOW_VMCS)))
		return false;
	return (revision & ~VMCS12_SHADOW_BIT) == VMX_REVISION;
}

static void vmptrld(struct vmx_vcpu *v)
{
	uint64_t ptr = pointer_operand(v);

	if (!vmx_pa_ok(v, ptr, PAGE_SIZE_4K)) {
		fail(v, VMXERR_VMPTRLD_ADDRESS, "VMPTRLD: %#llx is not the address of a page", (unsigned long long)ptr);
		return;
	}
	if (ptr == v->vmxon_ptr) {
		fail(v, VMXERR_VMPTRLD_VMXON_POINTER, "VMPTRLD: %#llx is the VMXON region", (unsigned long long)ptr);
		return;
	}
	if (ptr != v->current_ptr) {
		if (!revision_ok(v, ptr)) {
			fail(v, VMXERR_VMPTRLD_REVISION, "VMPTRLD: no VMCS at %#llx", (unsigned long long)ptr);
			return;
		}
		vmx_current_release(v);
		if (!mem_read(v->cpu->mem, ptr, &v->vmcs12, VMCS12_SIZE)) {
			fail(v, VMXERR_VMPTRLD_REVISION, "VMPTRLD: memory of %#llx ends", (unsigned long long)ptr);
			return;
		}
		v->current_ptr = ptr;
	}
	vmx_succeed(v);
}

static void vmptrst(struct vmx_vcpu *v)
{
	insn_store(v->cpu, v->cpu->cur_insn, 8, v->current_ptr);
	vmx_succeed(v);
}

/* ---- VMREAD, VMWRITE ---- */

/* The VMCS that they work on: the current one, or in L2 the one its link pointer names. NULL: none. */
static struct vmcs12 *accessed_vmcs(struct vmx_vcpu *v)
{
	if (v->in_l2)
		return v->shadow_valid ? &v->shadow : NULL;
	return v->current_ptr == VMX_NO_POINTER ? NULL : &v->vmcs12;
}

/* The field, if L1 is offered what it belongs to. */
static const struct vmcs_field *offered_field(struct vmx_vcpu *v, uint64_t encoding, bool *high)
{
	const struct vmcs_field *f = vmcs_field_find(encoding, high);
	return f && (v->caps.features & BIT(f->feature)) ? f : NULL;
}

static void vmread(struct vmx_vcpu *v)
{
	const struct vmcs12 *vmcs = accessed_vmcs(v);
	uint64_t encoding = reg_operand(v);
	const struct vmcs_field *f;
	bool high;

	if (!vmcs) {
		fail_invalid(v, "VMREAD %#llx: no current VMCS", (unsigned long long)encoding);
		return;
	}
	f = offered_field(v, encoding, &high);
	if (!f) {
		fail(v, VMXERR_UNSUPPORTED_COMPONENT, "VMREAD %#llx: no such field", (unsigned long long)encoding);
		return;
	}
	rm_store(v->cpu, v->cpu->cur_insn, operand_size(v->cpu), vmcs12_get(vmcs, f, high));
	vmx_succeed(v);
}

/* Access rights have reserved bits that processors do not keep. */
static uint64_t kept_bits(const struct vmcs_field *f, uint64_t value)
{
	bool access_rights = f->encoding >= VMCS_guest_es_ar_bytes && f->encoding <= VMCS_guest_tr_ar_bytes;
	return access_rights ? value & 0x1f0ff : value;
}

static void vmwrite(struct vmx_vcpu *v)
{
	struct vmcs12 *vmcs = accessed_vmcs(v);
	uint64_t encoding = reg_operand(v), value;
	const struct vmcs_field *f;
	bool high;

	if (!vmcs) {
		fail_invalid(v, "VMWRITE %#llx: no current VMCS", (unsigned long long)encoding);
		return;
	}
	value = rm_load(v->cpu, v->cpu->cur_insn, operand_size(v->cpu));
	f = offered_field(v, encoding, &high);
	if (!f) {
		fail(v, VMXERR_UNSUPPORTED_COMPONENT, "VMWRITE %#llx: no such field", (unsigned long long)encoding);
	} else if (f->type == VMCS_TYPE_READONLY && !(v->caps.misc & VMX_MISC_VMWRITE_ANY)) {
		fail(v, VMXERR_READ_ONLY_COMPONENT, "VMWRITE %s: the field is read-only", f->text);
	} else {
		vmcs12_put(vmcs, f, high, kept_bits(f, value));
		vmx_succeed(v);
	}
}

/* ---- INVEPT, INVVPID ---- */

static void invept(struct vmx_vcpu *v)
{
	uint64_t type = reg_operand(v), descriptor[2];

	if (!(v->caps.secondary.may & SECONDARY_EPT) || !(v->caps.ept_vpid & EPT_CAP_INVEPT))
		cpu_raise_ud(v->cpu);
	if (!vmx_invept_type_ok(v, type)) {
		fail(v, VMXERR_INVALID_OPERAND, "INVEPT: type %#llx", (unsigned long long)type);
		return;
	}
	read_descriptor(v, descriptor);
	if (vmx_invept(v, type, descriptor))
		vmx_succeed(v);
	else
		fail(v, VMXERR_INVALID_OPERAND, "INVEPT: type %u EPTP %#llx", (unsigned)type, (unsigned long long)descriptor[0]);
}

static void invvpid(struct vmx_vcpu *v)
{
	uint64_t type = reg_operand(v), descriptor[2];

	if (!(v->caps.secondary.may & SECONDARY_VPID) || !(v->caps.ept_vpid & VPID_CAP_INVVPID))
		cpu_raise_ud(v->cpu);
	if (!vmx_invvpid_type_ok(v, type)) {
		fail(v, VMXERR_INVALID_OPERAND, "INVVPID: type %#llx", (unsigned long long)type);
		return;
	}
	read_descriptor(v, descriptor);
	if (vmx_invvpid(v, type, descriptor))
		vmx_succeed(v);
	else
		fail(v, VMXERR_INVALID_OPERAND, "INVVPID: type %u VPID %#llx address %#llx", (unsigned)type,
		     (unsigned long long)descriptor[0], (unsigned long long)descriptor[1]);
}

/* ---- VMLAUNCH, VMRESUME ---- */

/* True: L2 runs or the exit of a failed entry was made, so RIP and RFLAGS are not those of this instruction any more. */
static bool launch_or_resume(struct vmx_vcpu *v, bool launch)
{
	const char *name = launch ? "VMLAUNCH" : "VMRESUME";

	if (v->current_ptr == VMX_NO_POINTER || (v->vmcs12.revision_id & VMCS12_SHADOW_BIT)) {
		fail_invalid(v, "%s: no current VMCS that can be entered", name);
		return false;
	}
	if (v->cpu->shadow & SHADOW_MOV_SS) {
		fail(v, VMXERR_ENTRY_MOV_SS, "%s: events are blocked by MOV SS", name);
		return false;
	}
	if (launch && v->vmcs12.launch_state != VMCS12_CLEAR) {
		fail(v, VMXERR_VMLAUNCH_NON_CLEAR, "VMLAUNCH: the VMCS is launched");
		return false;
	}
	if (!launch && v->vmcs12.launch_state != VMCS12_LAUNCHED) {
		fail(v, VMXERR_VMRESUME_NON_LAUNCHED, "VMRESUME: the VMCS is clear");
		return false;
	}
	switch (vmx_enter(v, launch)) {
	case VMX_ENTRY_BAD_CONTROLS:
		fail(v, VMXERR_CONTROLS, "%s: invalid control fields", name);
		return false;
	case VMX_ENTRY_BAD_HOST:
		fail(v, VMXERR_HOST_STATE, "%s: invalid host-state fields", name);
		return false;
	case VMX_ENTERED:
	case VMX_ENTRY_EXITED:
	case VMX_ENTRY_ABORTED:
		break;
	}
	return true;
}

/* ---- dispatch ---- */

/*
 * What all of them check first, in this order. VMXON outside VMX operation
 * goes by CR4.VMXE, the others by VMX operation itself.
 */
static void require_mode(struct vmx_vcpu *v, bool is_vmxon)
{
	struct cpu *cpu = v->cpu;
	bool compatibility = cpu_long_mode(cpu) && !cpu_code64(cpu);

	if (!v->offered || !cpu_protected(cpu) || compatibility)
		cpu_raise_ud(cpu);
	if (is_vmxon ? !(cpu->cr4 & CR4_VMXE) : !v->in_operation)
		cpu_raise_ud(cpu);
	if (cpu->cpl)
		cpu_raise_gp(cpu);
}

/* The instruction is over: RIP moves on, what lasts one instruction ends, traps come due. */
static void complete(struct cpu *cpu)
{
	cpu->rip = cpu->next_rip;
	cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
	cpu->rflags &= ~(uint64_t)RFLAGS_RF;
	if (cpu->mode & MODE_STEP)
		cpu_debug_trap(cpu);
}

static void execute(struct vmx_vcpu *v)
{
	uint16_t mnemonic = v->cpu->cur_insn->mnemonic;

	require_mode(v, mnemonic == ZYDIS_MNEMONIC_VMXON);
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VMXON: vmxon(v); break;
	case ZYDIS_MNEMONIC_VMXOFF: vmxoff(v); break;
	case ZYDIS_MNEMONIC_VMCLEAR: vmclear(v); break;
	case ZYDIS_MNEMONIC_VMPTRLD: vmptrld(v); break;
	case ZYDIS_MNEMONIC_VMPTRST: vmptrst(v); break;
	case ZYDIS_MNEMONIC_VMREAD: vmread(v); break;
	case ZYDIS_MNEMONIC_VMWRITE: vmwrite(v); break;
	case ZYDIS_MNEMONIC_INVEPT: invept(v); break;
	case ZYDIS_MNEMONIC_INVVPID: invvpid(v); break;
	case ZYDIS_MNEMONIC_VMCALL:
		/* Without a monitor for SMM there is nobody to call. (L1's hypercalls to the client's KVM never come here.) */
		fail(v, VMXERR_VMCALL_IN_ROOT, "VMCALL in VMX root operation");
		break;
	case ZYDIS_MNEMONIC_VMLAUNCH:
	case ZYDIS_MNEMONIC_VMRESUME:
		if (launch_or_resume(v, mnemonic == ZYDIS_MNEMONIC_VMLAUNCH))
			return;
		break;
	default:
		cpu_raise_ud(v->cpu);
	}
	complete(v->cpu);
}

void vmx_access_field(struct vmx_vcpu *v)
{
	if (v->cpu->cur_insn->mnemonic == ZYDIS_MNEMONIC_VMREAD)
		vmread(v);
	else
		vmwrite(v);
}

void vmx_instruction(struct vmx_vcpu *v)
{
	v->cpu->leave_why = CPU_EXIT_NONE;
	/* Faults and everything else that leaves a rule land here; cpu->event and cpu->leave_why tell. */
	if (__builtin_setjmp(v->cpu->unwind))
		return;
	execute(v);
}
