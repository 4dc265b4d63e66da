/*
 * Control registers: what a write checks, and what it changes with it (long
 * mode, PDPTEs, cached translations). Intercepts are rules of control_insn.c;
 * the functions here are also used by VM entry, VM exit and the KVM API.
 */
#include "cpu/access.h"
#include "cpu/fpu.h"
#include "cpu/rules.h"
#include "x86/features.h"

#define CR0_KNOWN (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

/* CR4 bits, and the CPUID feature that permits each. */
static const struct { uint64_t bit; unsigned feature; } cr4_features[] = {
	{ CR4_VME, FEATURE_VME }, { CR4_PVI, FEATURE_VME }, { CR4_TSD, FEATURE_TSC }, { CR4_DE, FEATURE_DE },
	{ CR4_PSE, FEATURE_PSE }, { CR4_PAE, FEATURE_PAE }, { CR4_PGE, FEATURE_PGE }, { CR4_OSFXSR, FEATURE_FXSR },
	{ CR4_OSXMMEXCPT, FEATURE_SSE }, { CR4_UMIP, FEATURE_UMIP }, { CR4_VMXE, FEATURE_VMX }, { CR4_FSGSBASE, FEATURE_FSGSBASE },
	{ CR4_CET, FEATURE_SHSTK }, { CR4_CET, FEATURE_IBT },
	{ CR4_PCIDE, FEATURE_PCID }, { CR4_OSXSAVE, FEATURE_XSAVE }, { CR4_SMEP, FEATURE_SMEP }, { CR4_SMAP, FEATURE_SMAP },
};

uint64_t cr4_allowed(const struct cpu *cpu)
{
	/* Machine checks and the performance counters' bit are harmless to allow, and kernels set them unasked. */
	uint64_t allowed = CR4_MCE | CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(cr4_features); i++)
		if (cpu_has(cpu, cr4_features[i].feature))
			allowed |= cr4_features[i].bit;
	return allowed;
}

static void flush_all(struct cpu *cpu)
{
	tlb_flush_vpid(cpu, cpu->ctl->vpid, true);
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

/*
 * The PDPTEs live in guest-physical memory, read through EPT if that is on:
 * then a missing EPT entry exits, so the read goes the processor's own way.
 */
bool pdptrs_load(struct cpu *cpu, uint64_t cr3)
{
	const uint64_t reserved = cpu->reserved_pa | BIT(63) | (0x7ffull << 52) | 0x1e6;
	uint64_t entry[4];

	tlb_read_gpa(cpu, cr3 & 0xffffffe0, entry, sizeof(entry));
	for (int i = 0; i < 4; i++)
		if ((entry[i] & 1) && (entry[i] & reserved))
			return false;
	memcpy(cpu->pdptr, entry, sizeof(entry));
	return true;
}

/* Fixed bits of VMX operation; unrestricted guest frees PE and PG. */
static bool vmx_permits(uint64_t value, uint64_t fixed0, uint64_t fixed1)
{
	return (value & fixed0) == fixed0 && !(value & ~fixed1);
}

static bool cr0_valid(const struct cpu *cpu, uint64_t value)
{
	const struct control_block *ctl = cpu->ctl;

	if (value >> 32)
		return false;
	if ((value & CR0_PG) && !(value & CR0_PE))
		return false;
	if ((value & CR0_NW) && !(value & CR0_CD))
		return false;
	if (!(value & CR0_PG) && ((cpu->cr4 & CR4_PCIDE) || cpu_code64(cpu)))
		return false;
	if (!(value & CR0_WP) && (cpu->cr4 & CR4_CET))
		return false;
	return !ctl->in_vmx_root_or_non_root || vmx_permits(value, ctl->cr0_fixed0 & ~ctl->cr0_fixed_ignore, ctl->cr0_fixed1);
}

bool cr0_write(struct cpu *cpu, uint64_t value)
{
	uint64_t changed, efer = cpu->efer;

	if (!cr0_valid(cpu, value | CR0_ET))
		return false;
	value = (value & CR0_KNOWN) | CR0_ET;
	changed = value ^ cpu->cr0;
	if ((changed & value & CR0_PG) && (efer & EFER_LME)) {
		if (!(cpu->cr4 & CR4_PAE) || cpu->seg[SEG_CS].l)
			return false;
		efer |= EFER_LMA;
	} else if (changed & CR0_PG) {
		efer &= ~EFER_LMA;
	}
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(value, cpu->cr4, efer) && !pdptrs_load(cpu, cpu->cr3))
		return false;
	cpu->cr0 = value;
	cpu->efer = efer;
	/* Real mode has no privilege levels, and entering protected mode starts at 0. */
	if (changed & CR0_PE)
		cpu->cpl = 0;
	/* WP, like SMEP, SMAP and NXE below, is part of a TLB context's key. */
	if (changed & CR0_PG)
		flush_all(cpu);
	cpu_mode_update(cpu);
	trace(cpu, "vCPU %u: CR0 %#llx EFER %#llx", cpu->index, (unsigned long long)value, (unsigned long long)efer);
	return true;
}

bool cr3_write(struct cpu *cpu, uint64_t value)
{
	bool pcide = cpu->cr4 & CR4_PCIDE, keep = pcide && (value & BIT(63));

	if (pcide)
		value &= ~BIT(63);
	if (cpu_long_mode(cpu) && ((value & cpu->reserved_pa) || value >> 52))
		return false;
	if (!cpu_long_mode(cpu))
		value &= 0xffffffff;
	if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !pdptrs_load(cpu, value))
		return false;
	cpu->cr3 = value;
	if (!keep)
		tlb_flush_pcid(cpu, pcide ? value & 0xfff : 0, false);
	cpu_mode_update(cpu);
	return true;
}

static bool cr4_valid(const struct cpu *cpu, uint64_t value)
{
	const struct control_block *ctl = cpu->ctl;
	uint64_t changed = value ^ cpu->cr4;

	/* VMX operation has its own list of the bits there are. */
	if (!ctl->in_vmx_root_or_non_root && (value & ~cr4_allowed(cpu)))
		return false;
	if (cpu_long_mode(cpu) && (!(value & CR4_PAE) || (changed & CR4_LA57)))
		return false;
	if ((changed & value & CR4_PCIDE) && (!cpu_long_mode(cpu) || (cpu->cr3 & 0xfff)))
		return false;
	if ((value & CR4_CET) && !(cpu->cr0 & CR0_WP))
		return false;
	if ((value & CR4_VMXE) && cpu->in_smm)
		return false;
	return !ctl->in_vmx_root_or_non_root || vmx_permits(value, ctl->cr4_fixed0, ctl->cr4_fixed1);
}

bool cr4_write(struct cpu *cpu, uint64_t value)
{
	const uint64_t paging = CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP;
	uint64_t changed = value ^ cpu->cr4;

	if (!cr4_valid(cpu, value))
		return false;
	if ((changed & paging) && pae_paging(cpu->cr0, value, cpu->efer) && !pdptrs_load(cpu, cpu->cr3))
		return false;
	cpu->cr4 = value;
	if ((changed & (CR4_PAE | CR4_PSE | CR4_PGE)) || (changed & value & CR4_SMEP) || (changed & ~value & CR4_PCIDE))
		flush_all(cpu);
	cpu_mode_update(cpu);
	trace(cpu, "vCPU %u: CR4 %#llx", cpu->index, (unsigned long long)value);
	return true;
}

uint64_t efer_allowed(const struct cpu *cpu)
{
	return EFER_LMA | (cpu_has(cpu, FEATURE_SYSCALL) ? EFER_SCE : 0) | (cpu_has(cpu, FEATURE_LM) ? EFER_LME : 0)
	     | (cpu_has(cpu, FEATURE_NX) ? EFER_NX : 0);
}

bool efer_write(struct cpu *cpu, uint64_t value)
{
	if ((value & ~efer_allowed(cpu)) || (((value ^ cpu->efer) & EFER_LME) && (cpu->cr0 & CR0_PG)))
		return false;
	cpu->efer = (value & ~EFER_LMA) | (cpu->efer & EFER_LMA);
	cpu_mode_update(cpu);
	return true;
}

bool xcr0_write(struct cpu *cpu, uint64_t value)
{
	/* x87 always; AVX needs SSE. */
	if (!(value & 1) || (value & ~fpu_xcr0_supported()) || (value & 6) == 4)
		return false;
	cpu->xcr0 = value;
	cpu_mode_update(cpu);
	return true;
}
