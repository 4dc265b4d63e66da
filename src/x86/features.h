/*
 * x86/features -- CPUID features as numbers. cpu->features has one bit for
 * each; cpu_cpuid_update() fills it from the guest's CPUID table.
 */
#ifndef ANYKVM_X86_FEATURES_H
#define ANYKVM_X86_FEATURES_H

enum { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

enum feature {
#define FEATURE(name, leaf, subleaf, reg, bit) FEATURE_##name,
#include "x86/features.def"
#undef FEATURE
	FEATURE_VENDOR_AMD,              /* leaf 0 says AuthenticAMD (or Hygon) */
	FEATURE_COUNT
};

/* Does the guest's CPUID have the feature? */
#define cpu_has(cpu, feature) (((cpu)->features[(feature) >> 6] >> ((feature) & 63)) & 1)

#endif
