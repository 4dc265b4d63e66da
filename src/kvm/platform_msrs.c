/*
 * MSRs that belong to the platform rather than to the processor's core: APIC,
 * MTRRs, machine check, nested VMX's capabilities, feature MSRs that the client
 * sets, and constants. MTRRs are stored only: memory types have no effect here.
 *
 * Results: 0 fine, 1 #GP, 2 not one of these.
 */
#include "kvm/vcpu.h"
#include "x86/features.h"

enum { MSR_PLATFORM_INFO = 0xce, MSR_POWER_CTL = 0x1fc, MSR_APIC_BASE = 0x1b, MSR_FEATURE_CONTROL = 0x3a, MSR_PRED_CMD = 0x49, MSR_UCODE_REV = 0x8b, MSR_ARCH_CAPABILITIES = 0x10a,
       MSR_FLUSH_CMD = 0x10b, MSR_MCG_CAP = 0x179, MSR_MCG_STATUS = 0x17a, MSR_MCG_CTL = 0x17b, MSR_MCG_EXT_CTL = 0x4d0, MSR_MTRR_VAR = 0x200,
       MSR_MTRR_DEFTYPE = 0x2ff, MSR_PERF_CAPABILITIES = 0x345, MSR_MC0_CTL = 0x400, MSR_VMX_BASIC = 0x480, MSR_VMX_CTLS3 = 0x492,
       MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_MC0_CTL2 = 0x280, MSR_HWCR = 0xc0010015 };
enum { MSR_FAIL = 1, MSR_UNKNOWN = 2 };
#define MCG_CTL_P (1u << 8)
#define MCG_CMCI_P (1u << 10)
#define MCG_EXT_CTL_LMCE_EN 1ull
#define HWCR_MC_STATUS_WRITES BIT(18)

void platform_msrs_reset(struct vcpu *v)
{
	v->ucode_rev = 0x100000000ull;
}

/* ---- constants ---- */

struct constant { uint32_t index, count; uint64_t value; bool writable; };
static const struct constant constants[] = {
#define CONSTANT(index, count, value) { index, count, value, false },
#define IGNORED(index, count, value) { index, count, value, true },
#include "kvm/platform_msrs.def"
#undef CONSTANT
#undef IGNORED
};

static const struct constant *constant_find(uint32_t index)
{
	for (unsigned i = 0; i < ARRAY_SIZE(constants); i++)
		if (index - constants[i].index < constants[i].count)
			return &constants[i];
	return NULL;
}

/* ---- MTRRs ---- */

/* Where an MTRR is kept, or NULL. */
static uint64_t *mtrr(struct vcpu *v, uint32_t index)
{
	if (index == MSR_MTRR_DEFTYPE)
		return &v->mtrr_deftype;
	if (index - MSR_MTRR_VAR < ARRAY_SIZE(v->mtrr_var))
		return &v->mtrr_var[index - MSR_MTRR_VAR];
	if (index == 0x250)
		return &v->mtrr_fixed[0];
	if (index == 0x258 || index == 0x259)
		return &v->mtrr_fixed[1 + index - 0x258];
	if (index - 0x268 < 8)
		return &v->mtrr_fixed[3 + index - 0x268];
	return NULL;
}

static bool memory_type_valid(uint64_t type)
{
	return type < 8 && BIT(type) & (BIT(0) | BIT(1) | BIT(4) | BIT(5) | BIT(6));
}

static bool mtrr_valid(const struct vcpu *v, uint32_t index, uint64_t value)
{
	if (index == MSR_MTRR_DEFTYPE)
		return !(value & ~0xcffull) && memory_type_valid(value & 0xff);
	if (index < 0x250) {
		if (index & 1)
			return !(value & (v->cpu->reserved_pa | 0x7ff));
		return !(value & (v->cpu->reserved_pa | 0xf00)) && memory_type_valid(value & 0xff);
	}
	for (unsigned i = 0; i < 64; i += 8)
		if (!memory_type_valid(value >> i & 0xff))
			return false;
	return true;
}

/* ---- machine check ---- */

/* Where a bank's register is kept, or NULL. */
static uint64_t *mce_bank(struct vcpu *v, uint32_t index)
{
	unsigned banks = v->mce.mcg_cap & 0xff, i = index - MSR_MC0_CTL;

	return i < banks * 4 ? &v->mce.banks[i / 4][i % 4] : NULL;
}

/* Whether a machine check is this processor's alone; there are none but the client's, so it is only kept. */
static bool ext_ctl_accessible(const struct vcpu *v)
{
	return v->host_access || vmx_lmce_enabled(v->vmx);
}

static int mce_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	uint64_t *bank = mce_bank(v, index);

	if (bank)
		*value = *bank;
	else if (index == MSR_MCG_CAP)
		*value = v->mce.mcg_cap;
	else if (index == MSR_MCG_STATUS)
		*value = v->mce.mcg_status;
	else if (index == MSR_MCG_CTL && (v->mce.mcg_cap & MCG_CTL_P || v->host_access))
		*value = v->mce.mcg_ctl;
	else if (index == MSR_MCG_EXT_CTL && ext_ctl_accessible(v))
		*value = v->mce.mcg_ext_ctl;
	else if (index == MSR_HWCR)
		*value = v->mce.hwcr;
	else if (index == MSR_MCG_CTL || index == MSR_MCG_EXT_CTL)
		return MSR_FAIL;
	else
		return MSR_UNKNOWN;
	return 0;
}

/* Guests may enable all of a bank or nothing (some leave bit 0 or 10 out), and clear a status, or write it if HWCR says so. */
static bool mce_bank_valid(const struct vcpu *v, uint32_t index, uint64_t value)
{
	unsigned which = (index - MSR_MC0_CTL) % 4;

	if (v->host_access)
		return true;
	if (which == 0)
		return !value || (value | BIT(10) | 1) == ~0ull;
	return which != 1 || !value || v->mce.hwcr & HWCR_MC_STATUS_WRITES;
}

/* Of AMD's HWCR the bits 3, 6 and 8 can be set without effect; bit 24 (TscFreqSel) is kept. */
static int hwcr_write(struct vcpu *v, uint64_t value)
{
	value &= ~(BIT(3) | BIT(6) | BIT(8));
	if (value & ~(HWCR_MC_STATUS_WRITES | BIT(24)))
		return MSR_FAIL;
	v->mce.hwcr = value;
	return 0;
}

static int mce_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	uint64_t *bank = mce_bank(v, index);

	if (bank) {
		if (!mce_bank_valid(v, index, value))
			return MSR_FAIL;
		*bank = value;
	} else if (index == MSR_MCG_STATUS) {
		v->mce.mcg_status = value;
	} else if (index == MSR_MCG_CTL) {
		if (!(v->mce.mcg_cap & MCG_CTL_P) && (value || !v->host_access))
			return MSR_FAIL;
		if (value && value != ~0ull)
			return MSR_FAIL;
		v->mce.mcg_ctl = value;
	} else if (index == MSR_MCG_EXT_CTL) {
		if (!ext_ctl_accessible(v) || value & ~MCG_EXT_CTL_LMCE_EN)
			return MSR_FAIL;
		v->mce.mcg_ext_ctl = value;
	} else if (index == MSR_HWCR) {
		return hwcr_write(v, value);
	} else {
		return index == MSR_MCG_CAP ? MSR_FAIL : MSR_UNKNOWN;
	}
	return 0;
}

/* Is index IA32_MCi_CTL2 of a bank that exists? Kept nowhere: no corrected errors are signalled. */
static bool is_mc_ctl2(const struct vcpu *v, uint32_t index)
{
	return v->mce.mcg_cap & MCG_CMCI_P && index - MSR_MC0_CTL2 < (v->mce.mcg_cap & 0xff);
}

/* ---- what the client decides ---- */

/* Registers that the client sets and the guest reads, if its CPUID says so; NULL: not one of them. */
static uint64_t *client_register(struct vcpu *v, uint32_t index, bool *visible)
{
	uint32_t edx7[4], ecx1[4];

	*visible = true;
	switch (index) {
	case MSR_UCODE_REV:
		return &v->ucode_rev;
	case MSR_POWER_CTL:
		return &v->power_ctl;
	case MSR_PLATFORM_INFO:
		*visible = !v->vm->hide_platform_info;
		return &v->platform_info;
	case MSR_ARCH_CAPABILITIES:
		cpuid_lookup(v->cpu, 7, 0, edx7);
		*visible = edx7[CPUID_EDX] & BIT(29);
		return &v->arch_capabilities;
	case MSR_PERF_CAPABILITIES:
		cpuid_lookup(v->cpu, 1, 0, ecx1);
		*visible = ecx1[CPUID_ECX] & BIT(15);
		return &v->perf_capabilities;
	default:
		return NULL;
	}
}

static int client_register_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	bool visible;
	uint64_t *r = client_register(v, index, &visible);

	if (!r)
		return MSR_UNKNOWN;
	if (!visible && !v->host_access)
		return MSR_FAIL;
	*value = *r;
	return 0;
}

/* Guests write UCODE_REV before they read it, as the manual says; that changes nothing. POWER_CTL they may write. */
static int client_register_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	bool visible;
	uint64_t *r = client_register(v, index, &visible);

	if (!r)
		return MSR_UNKNOWN;
	if (!v->host_access && index != MSR_POWER_CTL)
		return index == MSR_UCODE_REV ? 0 : MSR_FAIL;
	*r = value;
	return 0;
}

/* ---- APIC ---- */

static int apic_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	struct irqchip *c = v->vm->irqchip;
	bool kernel = lapic_in_kernel(v);

	if (index == MSR_APIC_BASE)
		*value = vcpu_apic_base(v);
	else if (index == MSR_TSC_DEADLINE)
		*value = kernel ? lapic_tsc_deadline_get(c, v->id) : 0;
	else if (index - MSR_X2APIC < 0x100)
		return kernel ? lapic_msr_read(c, v->id, index, value) : MSR_FAIL;
	else
		return MSR_UNKNOWN;
	return 0;
}

static int apic_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	struct irqchip *c = v->vm->irqchip;
	bool kernel = lapic_in_kernel(v);

	if (index == MSR_APIC_BASE)
		return vcpu_apic_base_set(v, value, v->host_access);
	if (index - MSR_X2APIC < 0x100)
		return kernel ? lapic_msr_write(c, v->id, index, value) : MSR_FAIL;
	if (index != MSR_TSC_DEADLINE)
		return MSR_UNKNOWN;
	if (kernel)
		lapic_tsc_deadline_set(c, v->id, value);
	return 0;
}

static bool is_vmx(uint32_t index)
{
	return index == MSR_FEATURE_CONTROL || (index >= MSR_VMX_BASIC && index <= MSR_VMX_CTLS3);
}

/* ---- all together ---- */

int platform_msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	const struct constant *c = constant_find(index);
	const uint64_t *m = mtrr(v, index);
	int r;

	if (is_vmx(index))
		return vmx_msr_read(v->vmx, index, value, v->host_access);
	if (c || is_mc_ctl2(v, index)) {
		*value = c ? c->value : 0;
		return 0;
	}
	if (m) {
		*value = *m;
		return 0;
	}
	r = apic_read(v, index, value);
	if (r == MSR_UNKNOWN)
		r = mce_read(v, index, value);
	if (r == MSR_UNKNOWN)
		r = client_register_read(v, index, value);
	return r;
}

/* The client may write back what it read: snapshots hold constants, too. */
static int constant_write(const struct vcpu *v, const struct constant *c, uint64_t value)
{
	return c->writable || v->host_access || (value == c->value && c->index == 0x140) ? 0 : MSR_FAIL;
}

/* Nothing to predict or flush here. The client may write them without the feature. */
static int command_write(const struct vcpu *v, uint32_t index, uint64_t value)
{
	bool predict = cpu_has(v->cpu, FEATURE_SPEC_CTRL) || cpu_has(v->cpu, FEATURE_AMD_IBPB);
	bool offered = index == MSR_PRED_CMD ? predict : cpu_has(v->cpu, FEATURE_FLUSH_L1D);

	return (offered || v->host_access) && !(value & ~1ull) ? 0 : MSR_FAIL;
}

int platform_msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	const struct constant *c = constant_find(index);
	uint64_t *m = mtrr(v, index);
	int r;

	if (is_vmx(index))
		return vmx_msr_write(v->vmx, index, value, v->host_access);
	if (c)
		return constant_write(v, c, value);
	if (is_mc_ctl2(v, index))
		return 0;
	if (m) {
		if (!mtrr_valid(v, index, value))
			return MSR_FAIL;
		*m = value;
		return 0;
	}
	if (index == MSR_PRED_CMD || index == MSR_FLUSH_CMD)
		return command_write(v, index, value);
	r = apic_write(v, index, value);
	if (r == MSR_UNKNOWN)
		r = mce_write(v, index, value);
	if (r == MSR_UNKNOWN)
		r = client_register_write(v, index, value);
	return r;
}
