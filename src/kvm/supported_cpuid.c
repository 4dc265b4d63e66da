/*
 * KVM_GET_SUPPORTED_CPUID: what guests can have. Feature bits come from the
 * table supported_cpuid.def; the other leaves (identity, caches, XSAVE layout,
 * sizes) are the host's or made here. A client that feeds the answer straight
 * back gets a working guest.
 */
#include <cpuid.h>
#include "cpu/fpu.h"
#include "kvm/lifecycle.h"
#include "x86/features.h"

enum { MAX_BASIC = 0xd, MAX_PHYS_BITS = 48, LINEAR_BITS = 48 };
#define MAX_EXTENDED 0x80000008u
#define KVM_LEAF 0x40000000u

enum source { HOST, OURS, NESTED, USER_WAIT, CET };

static const struct cpuid_bit {
	uint32_t leaf, subleaf;
	uint8_t reg, bit, source;
} bits[] = {
#define CPUID_BIT(name, leaf, subleaf, reg, bit, source) { leaf, subleaf, CPUID_##reg, bit, source },
#include "kvm/supported_cpuid.def"
#undef CPUID_BIT
};

struct list {
	struct kvm_cpuid_entry2 *entries;
	unsigned room, count;
};

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

static bool offered(const struct cpuid_bit *b, const uint32_t host[4])
{
	switch (b->source) {
	case OURS: return true;
	case NESTED: return params.nested;
	case USER_WAIT: return params.user_wait;
	case CET: return params.cet;
	default: return host[b->reg] >> b->bit & 1;
	}
}

/* Feature bits of a leaf; zero where the table has none. */
static void features(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	uint32_t host[4];

	host_cpuid(leaf, subleaf, host);
	memset(out, 0, 4 * sizeof(*out));
	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		if (bits[i].leaf == leaf && bits[i].subleaf == subleaf && offered(&bits[i], host))
			out[bits[i].reg] |= 1u << bits[i].bit;
}

static void add(struct list *l, uint32_t leaf, uint32_t subleaf, uint32_t flags, const uint32_t regs[4])
{
	if (l->count < l->room)
		l->entries[l->count] = (struct kvm_cpuid_entry2){ .function = leaf, .index = subleaf, .flags = flags,
			.eax = regs[0], .ebx = regs[1], .ecx = regs[2], .edx = regs[3] };
	l->count++;
}

static void add_host(struct list *l, uint32_t leaf)
{
	uint32_t r[4];

	host_cpuid(leaf, 0, r);
	add(l, leaf, 0, 0, r);
}

static void add_features(struct list *l, uint32_t leaf)
{
	uint32_t r[4];

	features(leaf, 0, r);
	add(l, leaf, 0, 0, r);
}

static void add_identity(struct list *l)
{
	uint32_t r[4], host[4];

	host_cpuid(0, 0, r);
	if (r[0] > MAX_BASIC)
		r[0] = MAX_BASIC;
	add(l, 0, 0, 0, r);
	host_cpuid(1, 0, host);
	features(1, 0, r);
	r[0] = host[0];
	r[1] = 8 << 8;                   /* CLFLUSH works on 64 bytes; APIC id and count are the client's to fill in */
	add(l, 1, 0, 0, r);
}

/* Intel's cache leaf, up to the entry that ends it. AMD hosts have none. */
static void add_caches(struct list *l)
{
	uint32_t r[4];

	for (uint32_t i = 0; i < 8; i++) {
		host_cpuid(4, i, r);
		add(l, 4, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, r);
		if (!(r[0] & 0x1f))
			return;
	}
}

static void add_features7(struct list *l)
{
	uint32_t r[4];

	features(7, 0, r);
	add(l, 7, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, r);
}

/* CET_U and CET_S: IA32_U_CET and IA32_PL3_SSP; the SSPs of the other rings. Bytes; nowhere in the standard layout. */
static void add_supervisor_state(struct list *l)
{
	const uint32_t supervisor = 1;

	if (!params.cet)
		return;
	add(l, 0xd, 11, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, (uint32_t[4]){ 16, 0, supervisor, 0 });
	add(l, 0xd, 12, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, (uint32_t[4]){ 24, 0, supervisor, 0 });
}

/* Components lie where the host's processor puts them, since clients read that natively. */
static void add_xsave(struct list *l)
{
	uint64_t xcr0 = fpu_xcr0_supported();
	uint32_t size = 512 + 64, r[4];

	for (unsigned i = 2; i < 63; i++) {
		host_cpuid(0xd, i, r);
		if (xcr0 & BIT(i) && r[0] + r[1] > size)
			size = r[0] + r[1];
	}
	add(l, 0xd, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, (uint32_t[4]){ xcr0, size, size, xcr0 >> 32 });
	features(0xd, 1, r);
	r[1] = r[0] & 0xa ? size : 0;
	add(l, 0xd, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, r);
	for (unsigned i = 2; i < 63; i++) {
		if (!(xcr0 & BIT(i)))
			continue;
		host_cpuid(0xd, i, r);
		add(l, 0xd, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, (uint32_t[4]){ r[0], r[1], r[2], 0 });
	}
	add_supervisor_state(l);
}

static void add_basic(struct list *l)
{
	static const uint32_t none[4];

	add_identity(l);
	add_host(l, 2);
	add_caches(l);
	add(l, 5, 0, 0, none);           /* MONITOR is not offered */
	add_features(l, 6);
	add_features7(l);
	add(l, 0xa, 0, 0, none);         /* no performance counters */
	add(l, 0xb, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, none);
	add_xsave(l);
}

/* Physical addresses reach as far as the host's, so that clients that compare them natively are content. */
static void add_address_sizes(struct list *l)
{
	uint32_t r[4], host[4];
	uint32_t phys;

	host_cpuid(0x80000008, 0, host);
	phys = host[0] & 0xff;
	features(0x80000008, 0, r);
	r[0] = (phys > MAX_PHYS_BITS ? MAX_PHYS_BITS : phys) | LINEAR_BITS << 8;
	add(l, 0x80000008, 0, 0, r);
}

static void add_extended(struct list *l)
{
	uint32_t r[4], host[4];

	host_cpuid(0x80000000, 0, r);
	r[0] = MAX_EXTENDED;
	add(l, 0x80000000, 0, 0, r);
	host_cpuid(0x80000001, 0, host);
	features(0x80000001, 0, r);
	r[0] = host[0];
	add(l, 0x80000001, 0, 0, r);
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		add_host(l, leaf);
	add_features(l, 0x80000007);
	add_address_sizes(l);
}

static void add_paravirtual(struct list *l)
{
	uint32_t r[4] = { KVM_LEAF + 1 };

	memcpy(&r[1], "KVMKVMKVM\0\0\0", 12);
	add(l, KVM_LEAF, 0, 0, r);
	add_features(l, KVM_LEAF + 1);
}

unsigned supported_cpuid(struct kvm_cpuid_entry2 *e, unsigned n)
{
	struct list l = { e, n, 0 };

	add_basic(&l);
	add_extended(&l);
	add_paravirtual(&l);
	return l.count;
}
