/*
 * CPUID: the client's table as the guest sees it, with the bits that follow
 * the processor's state, and the features that the rules ask for.
 */
#include <linux/kvm.h>
#include "cpu/fpu_image.h"
#include "cpu/rules.h"
#include "x86/features.h"
#include "x86/vmx.h"

static const struct cpuid_entry *find(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < cpu->cpuid_count; i++) {
		const struct cpuid_entry *e = &cpu->cpuid[i];

		if (e->leaf == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->subleaf == subleaf))
			return e;
	}
	return NULL;
}

/* Is leaf within the range that its class (basic, hypervisor, extended) announces? */
static bool in_range(const struct cpu *cpu, uint32_t leaf)
{
	uint32_t class = leaf - 0x40000000u < 0x10000000u ? leaf & 0xffffff00u : leaf >= 0xc0000000u ? 0xc0000000u : leaf & 0x80000000u;
	const struct cpuid_entry *first = find(cpu, class, 0);

	return first && leaf <= first->eax;
}

/* Beyond the range Intel's processors answer with the highest basic leaf, AMD's with zeros. */
static const struct cpuid_entry *find_out_of_range(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf)
{
	const struct cpuid_entry *basic = find(cpu, 0, 0);

	if (!basic || cpu_has(cpu, FEATURE_VENDOR_AMD) || in_range(cpu, leaf))
		return NULL;
	return find(cpu, basic->eax, subleaf);
}

/* ---- bits that follow the state ---- */

static void set_bit(uint32_t *word, unsigned bit, bool on)
{
	*word = on ? *word | 1u << bit : *word & ~(1u << bit);
}

static void dynamic_leaf1(struct cpu *cpu, uint32_t out[4])
{
	uint64_t apic_base;

	set_bit(&out[CPUID_ECX], 27, cpu->cr4 & CR4_OSXSAVE);
	if (cpu->ops->msr_read(cpu, 0x1b, &apic_base) == 0)
		set_bit(&out[CPUID_EDX], 9, (out[CPUID_EDX] & 1u << 9) && (apic_base & 1u << 11));
}

/* Bytes of an XSAVE area for the components in mask: in the standard layout, or packed. */
static uint32_t xsave_bytes(const struct cpu *cpu, uint64_t mask, bool compact)
{
	uint32_t bytes = 576;

	for (unsigned i = 2; i < 63; i++) {
		const struct cpuid_entry *e = mask >> i & 1 ? find(cpu, 0xd, i) : NULL;
		uint32_t offset;

		if (!e)
			continue;
		offset = !compact ? e->ebx : e->ecx & 2 ? (bytes + 63) & ~63u : bytes;
		if (offset + e->eax > bytes)
			bytes = offset + e->eax;
	}
	return bytes;
}

static void dynamic_leaf_d(struct cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
	if (subleaf == 0)
		out[CPUID_EBX] = xsave_bytes(cpu, cpu->xcr0, false);
	else if (subleaf == 1 && (out[CPUID_EAX] & (1u << 1 | 1u << 3)))
		out[CPUID_EBX] = xsave_bytes(cpu, cpu->xcr0 | cpu->xss, true);
}

static void dynamic_bits(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	if (leaf == 1)
		dynamic_leaf1(cpu, out);
	else if (leaf == 7 && subleaf == 0)
		set_bit(&out[CPUID_ECX], 4, cpu->cr4 & CR4_PKE);
	else if (leaf == 0xd)
		dynamic_leaf_d(cpu, subleaf, out);
}

uint64_t xss_allowed(const struct cpu *cpu)
{
	const struct cpuid_entry *e = find(cpu, 0xd, 1);

	return e ? e->ecx & (XSTATE_CET_U | XSTATE_CET_S) : 0;
}

/* Topology leaves answer any subleaf with its number and the APIC id. */
static void missing_subleaf(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	const struct cpuid_entry *e = leaf == 0xb || leaf == 0x1f ? find(cpu, leaf, 1) : NULL;

	if (e) {
		out[CPUID_ECX] = subleaf & 0xff;
		out[CPUID_EDX] = e->edx;
	}
}

void cpuid_lookup(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	const struct cpuid_entry *e = find(cpu, leaf, subleaf);
	bool exact = e;

	memset(out, 0, 4 * sizeof(out[0]));
	if (!e)
		e = find_out_of_range(cpu, leaf, subleaf);
	if (!e) {
		missing_subleaf(cpu, leaf, subleaf, out);
		return;
	}
	out[CPUID_EAX] = e->eax;
	out[CPUID_EBX] = e->ebx;
	out[CPUID_ECX] = e->ecx;
	out[CPUID_EDX] = e->edx;
	if (exact)
		dynamic_bits(cpu, leaf, subleaf, out);
}

void rule_cpuid(struct cpu *cpu, const struct insn *insn)
{
	uint32_t out[4];

	intercept_always(cpu, EXIT_CPUID);
	cpuid_lookup(cpu, cpu->gpr[REG_RAX], cpu->gpr[REG_RCX], out);
	cpu->gpr[REG_RAX] = out[CPUID_EAX];
	cpu->gpr[REG_RBX] = out[CPUID_EBX];
	cpu->gpr[REG_RCX] = out[CPUID_ECX];
	cpu->gpr[REG_RDX] = out[CPUID_EDX];
}

/* ---- features ---- */

static const struct { uint32_t leaf; uint8_t subleaf, reg, bit; } features[] = {
#define FEATURE(name, leaf, subleaf, reg, bit) { leaf, subleaf, CPUID_##reg, bit },
#include "x86/features.def"
#undef FEATURE
};

static bool table_has(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
	const struct cpuid_entry *e = find(cpu, leaf, subleaf);

	return e && ((&e->eax)[reg] >> bit & 1);
}

/* AuthenticAMD or HygonGenuine, by EBX of leaf 0. */
static bool vendor_is_amd(const struct cpu *cpu)
{
	const struct cpuid_entry *e = find(cpu, 0, 0);

	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

static void update_maxphyaddr(struct cpu *cpu)
{
	const struct cpuid_entry *e = find(cpu, 0x80000008, 0);
	uint32_t bits = e ? e->eax & 0xff : 36;

	cpu->maxphyaddr = bits < 32 || bits > 52 ? 36 : bits;
	cpu->reserved_pa = (BIT(52) - 1) & ~(BIT(cpu->maxphyaddr) - 1);
}

void cpu_cpuid_update(struct cpu *cpu)
{
	memset(cpu->features, 0, sizeof(cpu->features));
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
		if (table_has(cpu, features[i].leaf, features[i].subleaf, features[i].reg, features[i].bit))
			cpu->features[i >> 6] |= BIT(i & 63);
	if (vendor_is_amd(cpu))
		cpu->features[FEATURE_VENDOR_AMD >> 6] |= BIT(FEATURE_VENDOR_AMD & 63);
	update_maxphyaddr(cpu);
	cpu_mode_update(cpu);
}

_Static_assert(FEATURE_COUNT <= 64 * 8, "cpu->features has room for every feature");
