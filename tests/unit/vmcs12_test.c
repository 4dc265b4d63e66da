/*
 * vmcs12 and the capability MSRs. Prints TAP.
 */
#include <stdio.h>
#include "../tap.h"
#include "../vmcs12_abi.h"
#include "vmx/internal.h"


static struct vmcs12 vmcs;

static void test_layout(void)
{
	check_that(vmcs_field_count == ARRAY_SIZE(abi), "%u fields", vmcs_field_count);
	check_that(sizeof(struct vmcs12) == 4096, "page");
	check_that(offsetof(struct vmcs12, abort) == 4 && offsetof(struct vmcs12, launch_state) == 8, "header");
	for (unsigned i = 0; i < ARRAY_SIZE(abi); i++) {
		bool high;
		const struct vmcs_field *f = vmcs_field_find(abi[i].encoding, &high);
		check_that(f && f->encoding == abi[i].encoding && f->offset == abi[i].offset && !high, "field %#x", abi[i].encoding);
	}
}

/* Every encoding there can be: exactly the fields of the table and the upper halves of the 64-bit ones exist. */
static void test_encodings(void)
{
	unsigned found = 0, halves = 0;
	for (unsigned e = 0; e < 0x10000; e++) {
		bool high, listed = false;
		for (unsigned i = 0; i < ARRAY_SIZE(abi); i++)
			listed |= abi[i].encoding == (e & ~1u) && (!(e & 1) || (e >> 13 & 3) == VMCS_WIDTH_64);
		bool exists = vmcs_field_find(e, &high);
		check_that(exists == listed, "encoding %#x", e);
		found += exists && !high;
		halves += exists && high;
	}
	check_that(found == ARRAY_SIZE(abi) && halves == 41, "%u fields, %u halves", found, halves);
	bool high;
	check_that(!vmcs_field_find(0x10000, &high) && !vmcs_field_find(0x100000000ull, &high), "wide encodings");
}

static void test_overlaps(void)
{
	for (unsigned i = 0; i < vmcs_field_count; i++)
		for (unsigned j = 0; j < i; j++) {
			const struct vmcs_field *a = &vmcs_fields[i], *b = &vmcs_fields[j];
			bool apart = a->offset + vmcs_field_size(a) <= b->offset || b->offset + vmcs_field_size(b) <= a->offset;
			check_that(apart, "%s and %s", a->text, b->text);
		}
}

static uint64_t width_mask(const struct vmcs_field *f)
{
	return f->width == VMCS_WIDTH_16 ? 0xffff : f->width == VMCS_WIDTH_32 ? 0xffffffff : ~0ull;
}

static uint64_t get(uint64_t encoding)
{
	bool high;
	const struct vmcs_field *f = vmcs_field_find(encoding, &high);

	return f ? vmcs12_get(&vmcs, f, high) : ~0ull;
}

static void put(uint64_t encoding, uint64_t value)
{
	bool high;
	const struct vmcs_field *f = vmcs_field_find(encoding, &high);

	if (f)
		vmcs12_put(&vmcs, f, high, value);
}

static void test_read_write(void)
{
	const uint64_t pattern = 0x8877665544332211ull;
	for (unsigned i = 0; i < vmcs_field_count; i++) {
		const struct vmcs_field *f = &vmcs_fields[i];
		unsigned other = 0;
		memset(&vmcs, 0, sizeof(vmcs));
		put(f->encoding, pattern);
		check_that(get(f->encoding) == (pattern & width_mask(f)), "%s", f->text);
		check_that(!memcmp(&vmcs.bytes[f->offset], &pattern, vmcs_field_size(f)), "%s in memory", f->text);
		for (unsigned b = 0; b < VMCS12_SIZE; b++)
			other += vmcs.bytes[b] && (b < f->offset || b >= f->offset + vmcs_field_size(f));
		check_that(!other, "%s spills", f->text);
		if (f->width != VMCS_WIDTH_64)
			continue;
		check_that(get(f->encoding | 1) == pattern >> 32, "%s upper half", f->text);
		put(f->encoding | 1, 0xabcd);
		check_that(get(f->encoding) == (0xabcdull << 32 | (uint32_t)pattern), "%s", f->text);
	}
	memset(&vmcs, 0, sizeof(vmcs));
	vmcs.guest_rip = 0x1234;
	vmcs.host_tr_selector = 0x40;
	check_that(get(0x681e) == 0x1234, "GUEST_RIP by name");
	check_that(get(0x0c0c) == 0x40, "HOST_TR_SELECTOR by name");
}

/* ---- capabilities ---- */

static uint64_t msr(const struct vmx_caps *c, uint32_t index)
{
	uint64_t value = 0;
	check_that(vmx_caps_read(c, index, &value), "MSR %#x", index);
	return value;
}

static void test_supported(void)
{
	struct vmx_caps c;
	vmx_caps_init(&c);
	check_that(msr(&c, 0x480) == (0x11e57ed0ull | 0x1000ull << 32 | 6ull << 50 | 7ull << 54), "%#llx",
	       (unsigned long long)msr(&c, 0x480));
	check_that((uint32_t)msr(&c, 0x481) == 0x16 && (uint32_t)msr(&c, 0x48d) == 0x16, "pin");
	check_that((uint32_t)msr(&c, 0x482) == 0x0401e172 && (uint32_t)msr(&c, 0x48e) == 0x04006172, "primary");
	check_that((uint32_t)msr(&c, 0x483) == 0x36dff && (uint32_t)msr(&c, 0x48f) == 0x36dfb, "exit");
	check_that((uint32_t)msr(&c, 0x484) == 0x11ff && (uint32_t)msr(&c, 0x490) == 0x11fb, "entry");
	check_that((msr(&c, 0x482) >> 32 & 0xa1b99e8c) == 0xa1b99e8c, "kvm_intel's and Xen's primary controls");
	check_that(msr(&c, 0x48a) == 0x42, "VMCS_ENUM with the PID-pointer table");
	check_that((msr(&c, 0x485) & 31) == 5, "timer rate");
	for (uint32_t i = 0x480; i <= 0x492; i++)
		msr(&c, i);
	uint64_t value;
	check_that(!vmx_caps_read(&c, 0x493, &value) && !vmx_caps_read(&c, 0x47f, &value), "outside");
	/* Entry and exit controls that L1s want in pairs. */
	check_that(!!(c.entry.may & VMENTRY_LOAD_PAT) == !!(c.exit.may & VMEXIT_LOAD_PAT), "PAT");
	check_that(!!(c.entry.may & VMENTRY_LOAD_EFER) == !!(c.exit.may & VMEXIT_LOAD_EFER), "EFER");
	check_that(!!(c.entry.may & VMENTRY_LOAD_PERF_GLOBAL) == !!(c.exit.may & VMEXIT_LOAD_PERF_GLOBAL), "PERF_GLOBAL_CTRL");
}

/* Each bit of each TRUE control MSR: may-be-one bits can be lost, must-be-one bits gained, never the other way. */
static void test_control_narrowing(void)
{
	static const uint32_t indices[] = { 0x48d, 0x48e, 0x48f, 0x490, 0x48b };
	for (unsigned i = 0; i < ARRAY_SIZE(indices); i++) {
		struct vmx_caps c;
		vmx_caps_init(&c);
		uint64_t all = msr(&c, indices[i]);
		for (unsigned bit = 0; bit < 64; bit++) {
			bool fits = bit < 32 ? !(all & BIT(bit)) : !!(all & BIT(bit));
			vmx_caps_init(&c);
			check_that(vmx_caps_write(&c, indices[i], all ^ BIT(bit)) == fits, "MSR %#x bit %u", indices[i], bit);
			check_that(msr(&c, indices[i]) == (fits ? all ^ BIT(bit) : all), "MSR %#x bit %u", indices[i], bit);
			check_that(vmx_caps_write(&c, indices[i], all), "back to everything");
		}
	}
}

static void test_other_narrowing(void)
{
	struct vmx_caps c;
	vmx_caps_init(&c);
	uint64_t basic = msr(&c, 0x480), misc = msr(&c, 0x485), ept = msr(&c, 0x48c);
	for (uint32_t i = 0x481; i <= 0x484; i++)
		check_that(!vmx_caps_write(&c, i, msr(&c, i)), "non-TRUE %#x", i);
	check_that(!vmx_caps_write(&c, 0x487, 0xffffffff) && !vmx_caps_write(&c, 0x489, 0x2000), "FIXED1");
	check_that(vmx_caps_write(&c, 0x486, 0x80000021) && vmx_caps_write(&c, 0x488, 0x2000), "FIXED0");
	check_that(!vmx_caps_write(&c, 0x486, 0x20) && !vmx_caps_write(&c, 0x488, 0), "FIXED0 bits freed");

	check_that(!vmx_caps_write(&c, 0x480, basic ^ 1), "revision");
	check_that(!vmx_caps_write(&c, 0x480, basic | BIT(48)), "32-bit addresses");
	check_that(!vmx_caps_write(&c, 0x480, basic | BIT(49)), "dual monitor");
	check_that(!vmx_caps_write(&c, 0x480, (basic & ~(0x1fffull << 32)) | 0x800ull << 32), "smaller VMCS");
	check_that(vmx_caps_write(&c, 0x480, basic & ~BIT(54)) && msr(&c, 0x480) == (basic & ~BIT(54)), "INS/OUTS information lost");

	check_that(!vmx_caps_write(&c, 0x485, misc ^ 1), "timer rate");
	check_that(!vmx_caps_write(&c, 0x485, misc | 1ull << 16), "CR3 targets");
	check_that(vmx_caps_write(&c, 0x485, misc & ~(0x1ffull << 16)) && vmx_caps_write(&c, 0x485, misc), "fewer CR3 targets");
	check_that(!vmx_caps_write(&c, 0x485, misc | 1ull << 25), "MSR lists");
	check_that(!vmx_caps_write(&c, 0x485, misc | 1ull << 32), "MSEG");
	check_that(!vmx_caps_write(&c, 0x485, misc | BIT(9)) && !vmx_caps_write(&c, 0x485, misc | BIT(14)), "states, PT");
	check_that(vmx_caps_write(&c, 0x485, misc & ~BIT(6)), "HLT state lost");

	check_that(vmx_caps_write(&c, 0x48c, 0) && vmx_caps_write(&c, 0x48c, ept), "EPT_VPID_CAP");
	check_that(!vmx_caps_write(&c, 0x48c, ept | EPT_CAP_UC), "uncached EPT structures");
	check_that(vmx_caps_write(&c, 0x48a, 0x2e) && msr(&c, 0x48a) == 0x2e, "VMCS_ENUM");
	params.vmfunc = false;
	vmx_caps_init(&c);
	check_that(vmx_caps_write(&c, 0x491, 0) && !vmx_caps_write(&c, 0x491, 1), "VMFUNC");
	params.vmfunc = true;
	vmx_caps_init(&c);
	check_that(!vmx_caps_write(&c, 0x491, 2) && vmx_caps_write(&c, 0x491, 0) && vmx_caps_write(&c, 0x491, 1), "VMFUNC");
}

/* What QEMU writes for `-cpu qemu64,+vmx`. */
static struct vmx_caps silent_client(void)
{
	struct vmx_caps c;
	vmx_caps_init(&c);
	check_that(vmx_caps_write(&c, 0x48e, 0x0401e172ull << 32 | 0x0401e172), "primary");
	check_that(vmx_caps_write(&c, 0x48d, 0x16ull << 32 | 0x16), "pin");
	check_that(vmx_caps_write(&c, 0x48f, 0x36fffull << 32 | 0x36dff), "exit");
	check_that(vmx_caps_write(&c, 0x490, 0x11ffull << 32 | 0x11ff), "entry");
	check_that(vmx_caps_write(&c, 0x48b, 0), "secondary");
	check_that(vmx_caps_write(&c, 0x48c, 0), "EPT_VPID_CAP");
	check_that(vmx_caps_write(&c, 0x480, 0x11e57ed0ull | 0x1000ull << 32 | 6ull << 50), "BASIC");
	check_that(vmx_caps_write(&c, 0x485, 5), "MISC");
	c.cr4_fixed1 &= ~(CR4_VME | CR4_PVI);            /* its CPUID has no VME */
	return c;
}

static void test_first_generation(void)
{
	struct vmx_caps client = silent_client(), c = vmx_caps_offered(&client);
	check_that(c.first_generation && !client.first_generation, "rule applied");
	check_that((msr(&c, 0x482) >> 32 & 0x20b99e8c) == 0x20b99e8c, "kvm_intel's primary minimum");
	check_that((c.pin.may & 9) == 9 && (c.exit.may & 0x8204) == 0x8204 && (c.entry.may & 0x204) == 0x204, "its other minimums");
	check_that((c.primary.may & 0x12200000) == 0x12200000, "TPR shadow, MSR and I/O bitmaps");
	check_that(!(c.primary.may & (PRIMARY_SECONDARY | PRIMARY_MTF)) && !c.secondary.may && !c.ept_vpid, "nothing newer");
	check_that((c.primary.must & 0x18000) == 0x18000, "CR3 exits stay fixed");
	check_that(!(c.features & (BIT(VMCS_FEATURE_EPT) | BIT(VMCS_FEATURE_VPID) | BIT(VMCS_FEATURE_SECONDARY))), "fields");
	check_that(c.features & BIT(VMCS_FEATURE_TPR_SHADOW), "fields of the TPR shadow");
	check_that(c.cr4_fixed1 & CR4_VME, "virtual-8086 mode for L2's real mode");
	/* The client reads back what it wrote. */
	check_that(msr(&client, 0x48d) == (0x16ull << 32 | 0x16), "client's view");

	params.strict_vmx_msrs = true;
	c = vmx_caps_offered(&client);
	check_that(!c.first_generation && c.primary.may == 0x0401e172 && !(c.cr4_fixed1 & CR4_VME), "strict");
	params.strict_vmx_msrs = false;

	/* A client that offers more than the minimum is taken to the letter. */
	vmx_caps_init(&client);
	check_that(vmx_caps_write(&client, 0x48e, msr(&client, 0x48e) & ~((uint64_t)PRIMARY_MTF << 32)), "without MTF");
	c = vmx_caps_offered(&client);
	check_that(!c.first_generation && !(c.primary.may & PRIMARY_MTF) && (c.secondary.may & SECONDARY_EPT), "literal");
}

static void test_consistency(void)
{
	struct vmx_caps client, c;
	vmx_caps_init(&client);
	client.secondary.may &= ~SECONDARY_EPT;
	c = vmx_caps_offered(&client);
	check_that(!(uint32_t)c.ept_vpid && c.ept_vpid >> 32 && !(c.secondary.may & SECONDARY_UNRESTRICTED), "no EPT");
	vmx_caps_init(&client);
	client.secondary.may &= ~SECONDARY_VPID;
	c = vmx_caps_offered(&client);
	check_that((uint32_t)c.ept_vpid && !(c.ept_vpid >> 32) && !(c.features & BIT(VMCS_FEATURE_VPID)), "no VPID");
	params.ept = false;
	vmx_caps_init(&c);
	check_that(!(c.secondary.may & (SECONDARY_EPT | SECONDARY_UNRESTRICTED)) && !(uint32_t)c.ept_vpid, "ept=0");
	check_that(!(c.secondary.may & (SECONDARY_PML | SECONDARY_EPT_VE | SECONDARY_MBEC)) && !c.vmfunc, "what needs EPT");
	params.ept = true;
	params.ept_ad = false;
	vmx_caps_init(&c);
	check_that(!(c.secondary.may & SECONDARY_PML) && !(c.ept_vpid & EPT_CAP_AD), "eptad=0");
	params.ept_ad = true;
	params.preemption_timer = false;
	vmx_caps_init(&c);
	check_that(!(c.pin.may & PIN_PREEMPTION_TIMER) && !(c.exit.may & VMEXIT_SAVE_PREEMPTION_TIMER), "preemption_timer=0");
	params.preemption_timer = true;
}

static const struct test tests[] = {
	{ "offsets are KVM's", test_layout },
	{ "encodings", test_encodings },
	{ "fields do not overlap", test_overlaps },
	{ "every field can be read and written", test_read_write },
	{ "capabilities of this build", test_supported },
	{ "control MSRs can only be narrowed", test_control_narrowing },
	{ "other capability MSRs", test_other_narrowing },
	{ "a silent client gets first-generation VT-x", test_first_generation },
	{ "what is not offered is not described", test_consistency },
};

int main(void)
{
	params_init();
	params.strict_vmx_msrs = false;
	return run_tests(tests, ARRAY_SIZE(tests));
}
