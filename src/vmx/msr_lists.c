/*
 * The MSR lists of VM entry and VM exit: 16-byte entries in guest memory, each
 * read once, then judged and used. The processor reads or writes an MSR as
 * RDMSR and WRMSR at CPL 0 would, without intercepts, save for those that the
 * lists may not name.
 */
#include "cpu/rules.h"
#include "vmx/checks.h"

struct msr_entry { uint32_t index, reserved; uint64_t value; };
_Static_assert(sizeof(struct msr_entry) == 16, "layout of the lists");

enum { MSR_TSC = 0x10, MSR_SMM_MONITOR_CTL = 0x9b, MSR_BIOS_UPDATE = 0x79, MSR_BIOS_SIGN = 0x8b, MSR_SMBASE = 0x9e };
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u

static bool x2apic(const struct vmx_vcpu *v)
{
	return v->ops->apic_base(v->cpu) & BIT(10);
}

/* Both kinds of list leave out SMM's MSRs, and the local APIC's in x2APIC mode. */
static bool listable(const struct vmx_vcpu *v, const struct msr_entry *e)
{
	REQUIRE(e->reserved == 0);
	REQUIRE(!(e->index >> 8 == 8 && x2apic(v)));
	REQUIRE(e->index != MSR_SMBASE);
	return true;
}

static bool load_entry(struct vmx_vcpu *v, const struct msr_entry *e)
{
	if (!listable(v, e))
		return false;
	REQUIRE(e->index != MSR_FS_BASE);                /* the segment's base is loaded already */
	REQUIRE(e->index != MSR_GS_BASE);
	REQUIRE(e->index != MSR_SMM_MONITOR_CTL);
	REQUIRE(e->index != MSR_BIOS_UPDATE && e->index != MSR_BIOS_SIGN);
	REQUIRE(msr_write(v->cpu, e->index, e->value, false) == 0);
	return true;
}

static bool store_entry(struct vmx_vcpu *v, struct msr_entry *e)
{
	if (!listable(v, e))
		return false;
	if (e->index == MSR_TSC)                         /* L1's own, without the offset that L2 sees */
		e->value = v->ops->l1_tsc(v->cpu);
	else
		REQUIRE(msr_read(v->cpu, e->index, &e->value, false) == 0);
	return true;
}

uint32_t vmx_msr_list_load(struct vmx_vcpu *v, uint64_t addr, uint32_t count)
{
	struct msr_entry e;

	for (uint32_t i = 0; i < count; i++, addr += sizeof(e)) {
		bool ok = i < vmx_caps_msr_list_max(&v->caps) && mem_read(v->cpu->mem, addr, &e, sizeof(e));
		if (!ok || !load_entry(v, &e)) {
			trace(vmx, "MSR list: cannot load entry %u (MSR %#x)", i + 1, ok ? e.index : 0);
			return i + 1;
		}
	}
	return 0;
}

uint32_t vmx_msr_list_store(struct vmx_vcpu *v, uint64_t addr, uint32_t count)
{
	const unsigned value = offsetof(struct msr_entry, value);
	struct msr_entry e;

	for (uint32_t i = 0; i < count; i++, addr += sizeof(e)) {
		bool ok = i < vmx_caps_msr_list_max(&v->caps) && mem_read(v->cpu->mem, addr, &e, value);
		if (!ok || !store_entry(v, &e) || !mem_write(v->cpu->mem, addr + value, &e.value, sizeof(e.value))) {
			trace(vmx, "MSR list: cannot store entry %u (MSR %#x)", i + 1, ok ? e.index : 0);
			return i + 1;
		}
	}
	return 0;
}
