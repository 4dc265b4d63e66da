/*
 * vmx/capabilities -- what VMX offers to L1, as the capability MSRs tell it.
 *
 * Three layers: the controls that this build implements and params.* allow
 * (vmx_caps_init); the client's choice for one VM, which can only narrow that
 * (vmx_caps_write); and what L1 is shown (vmx_caps_offered), which is the
 * client's choice except for the first-generation rule below. Everything else
 * in vmx/ goes by the last one, so a control that L1 was not offered fails its
 * VM entry and a field that belongs to it does not exist.
 */
#include "cpu/flags.h"
#include "vmx/internal.h"

#define GROUP(name) offsetof(struct vmx_caps, name)

/* The implemented controls beyond the ones that are always one; param: the parameter that can turn it off. */
static const struct implemented {
	size_t group;
	uint32_t bits;
	const bool *param;
} implemented[] = {
	{ GROUP(pin), PIN_EXT_INTR | PIN_NMI, NULL },
	{ GROUP(pin), PIN_VIRTUAL_NMIS, &params.vnmi },
	{ GROUP(pin), PIN_PREEMPTION_TIMER, &params.preemption_timer },
	{ GROUP(primary), PRIMARY_INTR_WINDOW | PRIMARY_NMI_WINDOW | PRIMARY_TSC_OFFSETTING | PRIMARY_HLT | PRIMARY_INVLPG |
	                  PRIMARY_MWAIT | PRIMARY_RDPMC | PRIMARY_RDTSC | PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE, NULL },
	{ GROUP(primary), PRIMARY_CR8_LOAD | PRIMARY_CR8_STORE | PRIMARY_TPR_SHADOW | PRIMARY_MOV_DR | PRIMARY_UNCOND_IO |
	                  PRIMARY_IO_BITMAPS | PRIMARY_MTF | PRIMARY_MSR_BITMAPS | PRIMARY_MONITOR | PRIMARY_PAUSE |
	                  PRIMARY_SECONDARY, NULL },
	{ GROUP(secondary), SECONDARY_APIC_ACCESSES, &params.flexpriority },
	{ GROUP(secondary), SECONDARY_X2APIC | SECONDARY_APIC_REGISTER | SECONDARY_VIRTUAL_INTR, &params.enable_apicv },
	{ GROUP(pin), PIN_POSTED_INTR, &params.enable_apicv },
	{ GROUP(primary), PRIMARY_TERTIARY, &params.enable_ipiv },
	{ GROUP(secondary), SECONDARY_EPT, &params.ept },
	{ GROUP(secondary), SECONDARY_VPID, &params.vpid },
	{ GROUP(secondary), SECONDARY_UNRESTRICTED, &params.unrestricted_guest },
	{ GROUP(secondary), SECONDARY_SHADOW_VMCS, &params.enable_shadow_vmcs },
	{ GROUP(secondary), SECONDARY_PML, &params.pml },
	{ GROUP(secondary), SECONDARY_VMFUNC, &params.vmfunc },
	{ GROUP(secondary), SECONDARY_EPT_VE, &params.ept_ve },
	{ GROUP(secondary), SECONDARY_MBEC, &params.mbec },
	{ GROUP(secondary), SECONDARY_SPP, &params.spp },
	{ GROUP(secondary), SECONDARY_DESCRIPTOR_TABLE | SECONDARY_RDTSCP | SECONDARY_WBINVD | SECONDARY_RDRAND |
	                    SECONDARY_INVPCID | SECONDARY_RDSEED | SECONDARY_XSAVES, NULL },
	{ GROUP(secondary), SECONDARY_TSC_SCALING, &params.tsc_scaling },
	{ GROUP(secondary), SECONDARY_PLE, &params.ple },
	{ GROUP(secondary), SECONDARY_ENCLS, &params.sgx },
	{ GROUP(secondary), SECONDARY_USER_WAIT, &params.user_wait },
	{ GROUP(secondary), SECONDARY_BUS_LOCK, &params.bus_lock },
	{ GROUP(secondary), SECONDARY_NOTIFY, &params.notify },
	{ GROUP(exit), VMEXIT_SAVE_DEBUG | VMEXIT_HOST_64 | VMEXIT_LOAD_PERF_GLOBAL | VMEXIT_ACK_INTR | VMEXIT_SAVE_PAT |
	               VMEXIT_LOAD_PAT | VMEXIT_SAVE_EFER | VMEXIT_LOAD_EFER, NULL },
	{ GROUP(exit), VMEXIT_SAVE_PREEMPTION_TIMER, &params.preemption_timer },
	{ GROUP(exit), VMEXIT_LOAD_CET, &params.cet },
	{ GROUP(entry), VMENTRY_LOAD_CET, &params.cet },
	{ GROUP(entry), VMENTRY_LOAD_DEBUG | VMENTRY_IA32E | VMENTRY_LOAD_PERF_GLOBAL | VMENTRY_LOAD_PAT | VMENTRY_LOAD_EFER, NULL },
};

/* The MSRs of control groups. clearable: default-1 controls that the TRUE MSRs allow to be zero. */
static const struct control_msr {
	size_t group;
	uint32_t index, true_index;
	uint32_t default1, clearable;
} control_msrs[] = {
	{ GROUP(pin), 0x481, 0x48d, PIN_DEFAULT1, 0 },
	{ GROUP(primary), 0x482, 0x48e, PRIMARY_DEFAULT1, PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE },
	{ GROUP(exit), 0x483, 0x48f, VMEXIT_DEFAULT1, VMEXIT_SAVE_DEBUG },
	{ GROUP(entry), 0x484, 0x490, VMENTRY_DEFAULT1, VMENTRY_LOAD_DEBUG },
	{ GROUP(secondary), 0x48b, 0x48b, 0, 0 },
};

enum { MSR_BASIC = 0x480, MSR_MISC = 0x485, MSR_CR0_FIXED0 = 0x486, MSR_CR0_FIXED1 = 0x487, MSR_CR4_FIXED0 = 0x488,
       MSR_CR4_FIXED1 = 0x489, MSR_VMCS_ENUM = 0x48a, MSR_EPT_VPID_CAP = 0x48c, MSR_VMFUNC = 0x491,
       MSR_TERTIARY = 0x492 };

#define BASIC_32BIT_ADDRESSES BIT(48)
#define BASIC_INS_OUTS_INFO BIT(54)
#define BASIC_ANY_ERROR_CODE BIT(56)     /* injected exceptions need not have the error code that their vector has */
#define BASIC_SIZE(value) ((value) >> 32 & 0x1fff)
/* Bits of which a client may take some away; the rest of the MSR is numbers. */
#define BASIC_FEATURES (BIT(48) | BIT(49) | BIT(54) | BIT(55) | 0x7ull << 45 | 0xffull << 56 | BIT(31))

#define MISC_TIMER_RATE 5u               /* the preemption timer counts every 32nd TSC tick */
#define MISC_STORE_LMA BIT(5)
#define MISC_ACTIVITY_HLT BIT(6)
#define MISC_ACTIVITY_SHUTDOWN BIT(7)
#define MISC_ACTIVITY_WAIT_SIPI BIT(8)
enum { CR3_TARGETS = 4 };
#define MISC_FEATURES (0x7ffull << 5 | 0xfull << 28)
#define MISC_RATE(value) ((value) & 31)
#define MISC_CR3_TARGETS(value) ((value) >> 16 & 511)
#define MISC_MSR_LIST(value) ((value) >> 25 & 7)
#define MISC_MSEG(value) ((value) >> 32)

#define CR4_KNOWN (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | \
                   CR4_OSXMMEXCPT | CR4_UMIP | CR4_VMXE | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP)

static struct vmx_controls *group_of(const struct vmx_caps *c, size_t group)
{
	return (struct vmx_controls *)((char *)c + group);
}

/* Controls that are about EPT, and fail VM entry without it. */
#define SECONDARY_OF_EPT (SECONDARY_UNRESTRICTED | SECONDARY_PML | SECONDARY_EPT_VE | SECONDARY_MBEC | SECONDARY_SPP)

/* Without EPT there is nothing to say of it; the log needs the dirty flags. */
static void drop_without_ept(struct vmx_caps *c)
{
	if (!(c->secondary.may & SECONDARY_EPT)) {
		c->secondary.may &= ~SECONDARY_OF_EPT;
		c->ept_vpid &= ~0xffffffffull;
		c->vmfunc &= ~(uint64_t)VMFUNC_EPTP_SWITCHING;
	}
	if (!(c->ept_vpid & EPT_CAP_AD))
		c->secondary.may &= ~SECONDARY_PML;
}

static uint64_t ept_vpid_implemented(const struct vmx_caps *c)
{
	uint64_t caps = 0;
	if (c->secondary.may & SECONDARY_EPT)
		caps |= EPT_CAP_EXEC_ONLY | EPT_CAP_WALK4 | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_1G | EPT_CAP_INVEPT |
		        EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_ALL | (params.ept_ad ? EPT_CAP_AD : 0) |
		        (params.ept_5level ? EPT_CAP_WALK5 : 0) | (params.ept_info ? EPT_CAP_ADV_INFO : 0);
	if (c->secondary.may & SECONDARY_VPID)
		caps |= VPID_CAP_INVVPID | VPID_CAP_ADDRESS | VPID_CAP_SINGLE | VPID_CAP_ALL | VPID_CAP_SINGLE_KEEP_GLOBALS;
	return caps;
}

/* What makes the fields of VMCS_FEATURES exist: any of these bits. */
static uint64_t features_of(const struct vmx_caps *c)
{
	const struct { uint8_t feature; uint32_t allowed, bits; } table[] = {
		{ VMCS_FEATURE_ALWAYS, 1, 1 },
		{ VMCS_FEATURE_POSTED_INTR, c->pin.may, PIN_POSTED_INTR },
		{ VMCS_FEATURE_TIMER, c->pin.may, PIN_PREEMPTION_TIMER },
		{ VMCS_FEATURE_MSR_BITMAPS, c->primary.may, PRIMARY_MSR_BITMAPS },
		{ VMCS_FEATURE_IO_BITMAPS, c->primary.may, PRIMARY_IO_BITMAPS },
		{ VMCS_FEATURE_TPR_SHADOW, c->primary.may, PRIMARY_TPR_SHADOW },
		{ VMCS_FEATURE_SECONDARY, c->primary.may, PRIMARY_SECONDARY },
		{ VMCS_FEATURE_TERTIARY, c->primary.may, PRIMARY_TERTIARY },
		{ VMCS_FEATURE_IPI, c->tertiary, TERTIARY_IPI },
		{ VMCS_FEATURE_VPID, c->secondary.may, SECONDARY_VPID },
		{ VMCS_FEATURE_VIRTUAL_INTR, c->secondary.may, SECONDARY_VIRTUAL_INTR },
		{ VMCS_FEATURE_PML, c->secondary.may, SECONDARY_PML },
		{ VMCS_FEATURE_APIC_ACCESSES, c->secondary.may, SECONDARY_APIC_ACCESSES },
		{ VMCS_FEATURE_VMFUNC, c->secondary.may, SECONDARY_VMFUNC },
		{ VMCS_FEATURE_EPTP_LIST, c->vmfunc & VMFUNC_EPTP_SWITCHING ? c->secondary.may : 0, SECONDARY_VMFUNC },
		{ VMCS_FEATURE_EPT, c->secondary.may, SECONDARY_EPT },
		{ VMCS_FEATURE_SHADOW_VMCS, c->secondary.may, SECONDARY_SHADOW_VMCS },
		{ VMCS_FEATURE_XSAVES, c->secondary.may, SECONDARY_XSAVES },
		{ VMCS_FEATURE_ENCLS, c->secondary.may, SECONDARY_ENCLS },
		{ VMCS_FEATURE_TSC_SCALING, c->secondary.may, SECONDARY_TSC_SCALING },
		{ VMCS_FEATURE_GUEST_PAT, c->entry.may, VMENTRY_LOAD_PAT },
		{ VMCS_FEATURE_GUEST_PAT, c->exit.may, VMEXIT_SAVE_PAT },
		{ VMCS_FEATURE_GUEST_EFER, c->entry.may, VMENTRY_LOAD_EFER },
		{ VMCS_FEATURE_GUEST_EFER, c->exit.may, VMEXIT_SAVE_EFER },
		{ VMCS_FEATURE_GUEST_PERF, c->entry.may, VMENTRY_LOAD_PERF_GLOBAL },
		{ VMCS_FEATURE_HOST_PAT, c->exit.may, VMEXIT_LOAD_PAT },
		{ VMCS_FEATURE_HOST_EFER, c->exit.may, VMEXIT_LOAD_EFER },
		{ VMCS_FEATURE_HOST_PERF, c->exit.may, VMEXIT_LOAD_PERF_GLOBAL },
		{ VMCS_FEATURE_GUEST_CET, c->entry.may, VMENTRY_LOAD_CET },
		{ VMCS_FEATURE_HOST_CET, c->exit.may, VMEXIT_LOAD_CET },
		{ VMCS_FEATURE_BNDCFGS, c->entry.may, VMENTRY_LOAD_BNDCFGS },
		{ VMCS_FEATURE_BNDCFGS, c->exit.may, VMEXIT_CLEAR_BNDCFGS },
		{ VMCS_FEATURE_EPT_VE, c->secondary.may, SECONDARY_EPT_VE },
		{ VMCS_FEATURE_SPP, c->secondary.may, SECONDARY_SPP },
		{ VMCS_FEATURE_PLE, c->secondary.may, SECONDARY_PLE },
		{ VMCS_FEATURE_NOTIFY, c->secondary.may, SECONDARY_NOTIFY },
		{ VMCS_FEATURE_CR3_TARGETS, MISC_CR3_TARGETS(c->misc), ~0u },
	};
	uint64_t features = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].allowed & table[i].bits)
			features |= BIT(table[i].feature);
	return features;
}

/* The highest index among the fields that exist, where VMCS_ENUM has it. */
static uint64_t vmcs_enum_of(uint64_t features)
{
	unsigned highest = 0;
	for (unsigned i = 0; i < vmcs_field_count; i++)
		if ((features & BIT(vmcs_fields[i].feature)) && (vmcs_fields[i].encoding & 0x3fe) > highest)
			highest = vmcs_fields[i].encoding & 0x3fe;
	return highest;
}

void vmx_caps_init(struct vmx_caps *c)
{
	*c = (struct vmx_caps){
		.basic = VMX_REVISION | (uint64_t)VMCS12_SIZE << 32 | 6ull << 50 | BASIC_INS_OUTS_INFO | VMX_BASIC_TRUE_CONTROLS |
		         (params.cet ? BASIC_ANY_ERROR_CODE : 0),
		.misc = MISC_TIMER_RATE | MISC_STORE_LMA | MISC_ACTIVITY_HLT | MISC_ACTIVITY_WAIT_SIPI | VMX_MISC_VMWRITE_ANY |
		        (params.cr3_targets ? CR3_TARGETS << 16 : 0) | (params.shutdown_state ? MISC_ACTIVITY_SHUTDOWN : 0),
		.cr0_fixed0 = CR0_PE | CR0_NE | CR0_PG, .cr0_fixed1 = 0xffffffff,
		.cr4_fixed0 = CR4_VMXE, .cr4_fixed1 = CR4_KNOWN | (params.cet ? CR4_CET : 0),
	};
	for (unsigned i = 0; i < ARRAY_SIZE(control_msrs); i++) {
		const struct control_msr *m = &control_msrs[i];
		*group_of(c, m->group) = (struct vmx_controls){ .must = m->default1 & ~m->clearable, .may = m->default1 };
	}
	for (unsigned i = 0; i < ARRAY_SIZE(implemented); i++)
		if (!implemented[i].param || *implemented[i].param)
			group_of(c, implemented[i].group)->may |= implemented[i].bits;
	c->tertiary = c->primary.may & PRIMARY_TERTIARY ? TERTIARY_IPI : 0;
	c->ept_vpid = ept_vpid_implemented(c);
	c->vmfunc = c->secondary.may & SECONDARY_VMFUNC ? VMFUNC_EPTP_SWITCHING : 0;
	drop_without_ept(c);
	c->features = features_of(c);
	c->vmcs_enum = vmcs_enum_of(c->features);
}

bool vmx_caps_read(const struct vmx_caps *c, uint32_t index, uint64_t *value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(control_msrs); i++) {
		const struct control_msr *m = &control_msrs[i];
		const struct vmx_controls *g = group_of(c, m->group);
		if (index != m->index && index != m->true_index)
			continue;
		*value = (uint64_t)g->may << 32 | g->must | (index == m->true_index ? 0 : m->default1);
		return true;
	}
	switch (index) {
	case MSR_BASIC: *value = c->basic; return true;
	case MSR_MISC: *value = c->misc; return true;
	case MSR_CR0_FIXED0: *value = c->cr0_fixed0; return true;
	case MSR_CR0_FIXED1: *value = c->cr0_fixed1; return true;
	case MSR_CR4_FIXED0: *value = c->cr4_fixed0; return true;
	case MSR_CR4_FIXED1: *value = c->cr4_fixed1; return true;
	case MSR_VMCS_ENUM: *value = c->vmcs_enum; return true;
	case MSR_EPT_VPID_CAP: *value = c->ept_vpid; return true;
	case MSR_VMFUNC: *value = c->vmfunc; return true;
	case MSR_TERTIARY: *value = c->tertiary; return true;
	}
	return false;
}

/* ---- the client's narrowing ---- */

static bool subset(uint64_t part, uint64_t whole) { return !(part & ~whole); }

/* Must-be-one bits may be added, may-be-one bits taken away. */
static bool write_controls(const struct control_msr *m, struct vmx_caps *c, const struct vmx_caps *all, uint64_t value)
{
	const struct vmx_controls *g = group_of(all, m->group);
	if (!subset(g->must, (uint32_t)value) || !subset(value >> 32, g->may))
		return false;
	*group_of(c, m->group) = (struct vmx_controls){ .must = value, .may = value >> 32 };
	return true;
}

static bool write_basic(struct vmx_caps *c, const struct vmx_caps *all, uint64_t value)
{
	if (!subset(value & BASIC_FEATURES, all->basic) || (value & BASIC_32BIT_ADDRESSES))
		return false;
	if ((value & 0x7fffffff) != VMX_REVISION || BASIC_SIZE(value) < BASIC_SIZE(all->basic))
		return false;
	c->basic = value;
	return true;
}

static bool write_misc(struct vmx_caps *c, const struct vmx_caps *all, uint64_t value)
{
	if (!subset(value & MISC_FEATURES, all->misc))
		return false;
	if ((c->pin.may & PIN_PREEMPTION_TIMER) && MISC_RATE(value) != MISC_RATE(all->misc))
		return false;
	if (MISC_CR3_TARGETS(value) > MISC_CR3_TARGETS(all->misc) || MISC_MSR_LIST(value) > MISC_MSR_LIST(all->misc) ||
	    MISC_MSEG(value) != MISC_MSEG(all->misc))
		return false;
	c->misc = value;
	return true;
}

/* A mask that may lose bits (or, for the fixed-to-one bits of a CR, gain them). */
static bool write_mask(uint64_t *to, uint64_t value, bool fits)
{
	if (fits)
		*to = value;
	return fits;
}

bool vmx_caps_write(struct vmx_caps *c, uint32_t index, uint64_t value)
{
	struct vmx_caps all;
	vmx_caps_init(&all);
	for (unsigned i = 0; i < ARRAY_SIZE(control_msrs); i++)
		if (index == control_msrs[i].true_index)
			return write_controls(&control_msrs[i], c, &all, value);
	switch (index) {
	case MSR_BASIC: return write_basic(c, &all, value);
	case MSR_MISC: return write_misc(c, &all, value);
	case MSR_CR0_FIXED0: return write_mask(&c->cr0_fixed0, value, subset(all.cr0_fixed0, value));
	case MSR_CR4_FIXED0: return write_mask(&c->cr4_fixed0, value, subset(all.cr4_fixed0, value));
	case MSR_EPT_VPID_CAP: return write_mask(&c->ept_vpid, value, subset(value, all.ept_vpid));
	case MSR_VMFUNC: return write_mask(&c->vmfunc, value, subset(value, all.vmfunc));
	case MSR_TERTIARY: return write_mask(&c->tertiary, value, subset(value, all.tertiary));
	case MSR_VMCS_ENUM: return write_mask(&c->vmcs_enum, value, true);
	}
	return false;                    /* the non-TRUE control MSRs and the FIXED1 ones follow from others */
}

/* ---- what L1 is shown ---- */

/*
 * The first-generation rule.
 *
 * A client with a CPU model that says nothing about VMX (QEMU's
 * `-cpu qemu64,+vmx`) switches VMX on and then writes capability MSRs with no
 * optional control at all: less than any processor with VT-x ever had, so
 * that no hypervisor accepts it. Linux's kvm_intel, for one, needs all of
 * `minimum`. Such a narrowing is taken for what it is, silence, and L1 is
 * raised to what the first generations of VT-x offered: no EPT, no VPID and
 * no secondary controls, but the minimum, TPR shadow, MSR and I/O bitmaps,
 * virtual NMIs, the halted and wait-for-SIPI states, and CR4.VME in VMX
 * operation even if CPUID does not tell: without unrestricted guest, a
 * hypervisor can only run real mode as virtual-8086 mode. What the client did
 * offer beyond that stays. The parameter strict_vmx_msrs turns the rule off.
 *
 * The 64-bit controls are not part of the question, as a client offers them
 * according to the guest's long mode, but they are part of the answer.
 */
struct floor { uint32_t pin, primary, exit, entry; };

static const struct floor minimum = {
	.pin = PIN_EXT_INTR | PIN_NMI,
	.primary = PRIMARY_INTR_WINDOW | PRIMARY_TSC_OFFSETTING | PRIMARY_HLT | PRIMARY_INVLPG | PRIMARY_MWAIT | PRIMARY_RDPMC |
	           PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE | PRIMARY_CR8_LOAD | PRIMARY_CR8_STORE | PRIMARY_MOV_DR |
	           PRIMARY_UNCOND_IO | PRIMARY_MONITOR,
	.exit = VMEXIT_SAVE_DEBUG | VMEXIT_ACK_INTR,
	.entry = VMENTRY_LOAD_DEBUG,
};

static const struct floor first_generation = {
	.pin = PIN_EXT_INTR | PIN_NMI | PIN_VIRTUAL_NMIS,
	.primary = PRIMARY_INTR_WINDOW | PRIMARY_NMI_WINDOW | PRIMARY_TSC_OFFSETTING | PRIMARY_HLT | PRIMARY_INVLPG |
	           PRIMARY_MWAIT | PRIMARY_RDPMC | PRIMARY_RDTSC | PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE | PRIMARY_CR8_LOAD |
	           PRIMARY_CR8_STORE | PRIMARY_TPR_SHADOW | PRIMARY_MOV_DR | PRIMARY_UNCOND_IO | PRIMARY_IO_BITMAPS |
	           PRIMARY_MSR_BITMAPS | PRIMARY_MONITOR | PRIMARY_PAUSE,
	.exit = VMEXIT_SAVE_DEBUG | VMEXIT_HOST_64 | VMEXIT_ACK_INTR,
	.entry = VMENTRY_LOAD_DEBUG | VMENTRY_IA32E,
};

static bool below_minimum(const struct vmx_caps *c)
{
	return !subset(minimum.pin, c->pin.may) || !subset(minimum.primary, c->primary.may) ||
	       !subset(minimum.exit, c->exit.may) || !subset(minimum.entry, c->entry.may);
}

static void raise_to_first_generation(struct vmx_caps *c)
{
	struct vmx_caps all;
	vmx_caps_init(&all);
	c->first_generation = true;
	c->pin.may |= first_generation.pin & all.pin.may;
	c->primary.may |= first_generation.primary & all.primary.may;
	c->exit.may |= first_generation.exit & all.exit.may;
	c->entry.may |= first_generation.entry & all.entry.may;
	c->misc |= MISC_ACTIVITY_HLT | MISC_ACTIVITY_WAIT_SIPI;
	c->cr4_fixed1 |= CR4_VME | CR4_PVI;
}

/* Without a control there is nothing to say about it: L1s refuse an EPT_VPID_CAP that tells otherwise. */
static void make_consistent(struct vmx_caps *c)
{
	if (!(c->primary.may & PRIMARY_SECONDARY))
		c->secondary = (struct vmx_controls){ 0, 0 };
	if (!(c->primary.may & PRIMARY_TERTIARY))
		c->tertiary = 0;
	drop_without_ept(c);
	if (!(c->cr4_fixed1 & CR4_CET)) {
		c->entry.may &= ~(uint32_t)VMENTRY_LOAD_CET;
		c->exit.may &= ~(uint32_t)VMEXIT_LOAD_CET;
		c->basic &= ~BASIC_ANY_ERROR_CODE;
	}
	if (!(c->secondary.may & SECONDARY_VMFUNC))
		c->vmfunc = 0;
	if (!(c->secondary.may & SECONDARY_VPID))
		c->ept_vpid &= 0xffffffffull;
}

struct vmx_caps vmx_caps_offered(const struct vmx_caps *client)
{
	struct vmx_caps c = *client;
	if (!params.strict_vmx_msrs && below_minimum(client))
		raise_to_first_generation(&c);
	make_consistent(&c);
	c.features = features_of(&c);
	return c;
}
