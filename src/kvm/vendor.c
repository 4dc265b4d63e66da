/*
 * The vendor that a guest sees. Clients copy the vendor of the physical
 * processor into the guest's CPUID, but a guest with VMX must take itself for
 * an Intel processor, or its kernel looks for SVM. So, when the guest gets VMX,
 * leaves that say AMD are rewritten: identity, and what only AMD has.
 */
#include "kvm/lifecycle.h"

#define VMX_BIT (1u << 5)
#define HASWELL 0x000306c4u              /* family 6, model 0x3c, stepping 4 */
#define LAST_INTEL_EXTENDED 0x80000008u
/* Bits of 0x80000001 that Intel has, too. */
#define INTEL_ECX (1u << 0 | 1u << 5 | 1u << 8)                             /* LAHF, LZCNT, PREFETCHW */
#define INTEL_EDX (1u << 11 | 1u << 20 | 1u << 26 | 1u << 27 | 1u << 29)    /* SYSCALL, NX, 1 GiB pages, RDTSCP, LM */

struct table { struct kvm_cpuid_entry2 *e; unsigned n; };

static struct kvm_cpuid_entry2 *find(struct table t, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < t.n; i++)
		if (t.e[i].function == leaf && (t.e[i].index == subleaf || !(t.e[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return &t.e[i];
	return NULL;
}

/* The twelve letters lie in EBX, EDX, ECX. */
static bool vendor_is(const struct kvm_cpuid_entry2 *e, const char *name)
{
	return !memcmp(&e->ebx, name, 4) && !memcmp(&e->edx, name + 4, 4) && !memcmp(&e->ecx, name + 8, 4);
}

static void vendor_set(struct kvm_cpuid_entry2 *e, const char *name)
{
	memcpy(&e->ebx, name, 4);
	memcpy(&e->edx, name + 4, 4);
	memcpy(&e->ecx, name + 8, 4);
}

static bool has_vmx(struct table t)
{
	const struct kvm_cpuid_entry2 *e = find(t, 1, 0);

	return e && e->ecx & VMX_BIT;
}

/* An AMD family would be no Intel processor that ever was; an Intel model that the client named stays. */
static void identity_apply(struct table t)
{
	struct kvm_cpuid_entry2 *e = find(t, 1, 0);

	if (e && (e->eax >> 8 & 0xf) == 0xf)
		e->eax = HASWELL;
}

static void features_apply(struct table t)
{
	struct kvm_cpuid_entry2 *e = find(t, 0x80000001, 0);

	if (e) {
		e->eax = 0;
		e->ebx = 0;
		e->ecx &= INTEL_ECX;
		e->edx &= INTEL_EDX;
	}
	e = find(t, 0x80000008, 0);
	if (e) {
		e->eax &= 0xffff;
		e->ebx = e->ecx = e->edx = 0;
	}
}

/* Data and instruction cache 32 KiB, second level 256 KiB: described by leaf 4, which leaf 2 refers to. */
static void caches_apply(struct table t)
{
	static const uint32_t leaf4[4][4] = {
		{ 0x00000121, 0x01c0003f, 0x3f, 1 },
		{ 0x00000122, 0x01c0003f, 0x3f, 1 },
		{ 0x00000143, 0x01c0003f, 0x1ff, 1 },
		{ 0 },
	};
	struct kvm_cpuid_entry2 *e = find(t, 2, 0);

	if (e && !e->eax)
		e->eax = 0x00feff01;
	e = find(t, 4, 0);
	if (!e || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->eax & 0x1f)
		return;
	/* Only as many as the client's table has entries for, the last one being the end mark. */
	for (unsigned i = 0; i < 3 && find(t, 4, i) && find(t, 4, i + 1); i++) {
		e = find(t, 4, i);
		e->eax = leaf4[i][0];
		e->ebx = leaf4[i][1];
		e->ecx = leaf4[i][2];
		e->edx = leaf4[i][3];
	}
}

static void clear(struct kvm_cpuid_entry2 *e)
{
	e->eax = e->ebx = e->ecx = e->edx = 0;
}

static void extended_leaves_apply(struct table t)
{
	struct kvm_cpuid_entry2 *e = find(t, 0x80000000, 0);

	if (e && e->eax > LAST_INTEL_EXTENDED)
		e->eax = LAST_INTEL_EXTENDED;
	for (unsigned i = 0; i < t.n; i++) {
		e = &t.e[i];
		if (e->function == 0x80000005 || (e->function > LAST_INTEL_EXTENDED && e->function < 0x80010000))
			clear(e);
		if (e->function == 0x80000006)
			e->eax = e->ebx = e->edx = 0;
		if (e->function == 0x80000007)
			e->eax = e->ebx = e->ecx = 0;
	}
}

static void become_intel(struct table t)
{
	identity_apply(t);
	features_apply(t);
	caches_apply(t);
	extended_leaves_apply(t);
}

void cpuid_apply_vendor(struct kvm_cpuid_entry2 *e, unsigned n)
{
	struct table t = { e, n };
	bool automatic = !strcmp(params.vendor, "auto");
	const char *name = automatic ? "GenuineIntel" : params.vendor;
	struct kvm_cpuid_entry2 *first = find(t, 0, 0), *extended = find(t, 0x80000000, 0);

	if (!first || strlen(name) != 12 || (automatic && !has_vmx(t)) || vendor_is(first, name))
		return;
	vendor_set(first, name);
	if (extended)
		vendor_set(extended, name);
	if (!strcmp(name, "GenuineIntel"))
		become_intel(t);
}
