/* Values and views that several VM-entry checks share. */
#include "vmx/checks.h"

/* Eight memory types: UC 0, WC 1, WT 4, WP 5, WB 6, UC- 7. */
bool pat_valid(uint64_t pat)
{
	for (unsigned i = 0; i < 8; i++, pat >>= 8)
		if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
			return false;
	return true;
}

bool efer_valid(uint64_t efer)
{
	return !(efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX));
}

/* Enable bits exist for the counters that leaf 0AH of the guest's CPUID counts; the MSR itself from version 2 on. */
bool perf_global_ctrl_valid(const struct cpu *cpu, uint64_t value)
{
	const struct cpuid_entry *e = NULL;

	for (unsigned i = 0; i < cpu->cpuid_count && !e; i++)
		if (cpu->cpuid[i].leaf == 0xa)
			e = &cpu->cpuid[i];
	if (!e || (e->eax & 0xff) < 2)
		return !value;
	uint64_t general = BIT(e->eax >> 8 & 31) - 1, fixed = BIT(e->edx & 31) - 1;
	return !(value & ~(general | fixed << 32));
}

/* A PDPTE of PAE paging, if present, has bits 2:1, 8:5 and those above the physical-address width clear. */
bool pdpte_valid(const struct cpu *cpu, uint64_t pdpte)
{
	return !(pdpte & 1) || (!(pdpte & 0x1e6) && !(pdpte >> cpu->maxphyaddr));
}

bool pdptes_read(const struct vmx_vcpu *v, uint64_t cr3, uint64_t pdpte[4])
{
	uint64_t entries[4];

	REQUIRE(mem_read(v->cpu->mem, cr3 & 0xffffffe0, entries, sizeof(entries)));
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		REQUIRE(pdpte_valid(v->cpu, entries[i]));
	memcpy(pdpte, entries, sizeof(entries));
	return true;
}
