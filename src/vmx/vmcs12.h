/*
 * vmx/vmcs12 -- L1's VMCS for L2: a 4 KiB page with the layout that KVM gave
 * it, because KVM_GET_NESTED_STATE hands it out and migration streams carry
 * it to other hosts. Every member comes from x86/vmcs_fields.def; its name is
 * the manual's (KVM's spelling) in lower case: v->guest_rip, v->host_cr3,
 * v->cpu_based_vm_exec_control ...
 *
 * Natural-width fields are always kept as 64 bits.
 */
#ifndef ANYKVM_VMCS12_H
#define ANYKVM_VMCS12_H

#include "base/base.h"
#include "x86/vmx.h"

#define VMCS12_SIZE 4096u
#define VMCS12_KVM_SIZE 998u             /* KVM reads only that much of a saved one: up to its last field */
#define VMCS12_SHADOW_BIT 0x80000000u    /* in revision_id: a shadow VMCS */
enum { VMCS12_CLEAR = 0, VMCS12_LAUNCHED = 1 };

typedef uint16_t vmcs_16;
typedef uint32_t vmcs_32;
typedef uint64_t vmcs_64;
typedef uint64_t vmcs_NAT;

/* A union of one-member structs puts every field at the table's offset, in whatever order the table has them. */
struct vmcs12 {
	union {
		struct {
			uint32_t revision_id;    /* bits 30:0; bit 31 VMCS12_SHADOW_BIT */
			uint32_t abort;          /* VMX-abort indicator */
			uint32_t launch_state;   /* VMCS12_CLEAR or VMCS12_LAUNCHED */
		};
#define VMCS_FIELD(encoding, width, type, offset, name, text, feature) \
		struct { uint8_t pad_##name[offset]; vmcs_##width name; };
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
		uint8_t bytes[VMCS12_SIZE];
	};
};

enum vmcs_encoding {
#define VMCS_FIELD(encoding, width, type, offset, name, text, feature) VMCS_##name = encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};

enum vmcs_width { VMCS_WIDTH_16 = 0, VMCS_WIDTH_64 = 1, VMCS_WIDTH_32 = 2, VMCS_WIDTH_NAT = 3 };         /* as encoded */
enum vmcs_type { VMCS_TYPE_CONTROL = 0, VMCS_TYPE_READONLY = 1, VMCS_TYPE_GUEST = 2, VMCS_TYPE_HOST = 3 };   /* as encoded */

/* What makes a field exist (vmx_caps_features() says which of them L1 is offered). */
#define VMCS_FEATURES(F) \
	F(ALWAYS) F(VPID) F(POSTED_INTR) F(VIRTUAL_INTR) F(PML) F(MSR_BITMAPS) F(IO_BITMAPS) F(TPR_SHADOW) F(APIC_ACCESSES) \
	F(VMFUNC) F(EPTP_LIST) F(EPT) F(SHADOW_VMCS) F(XSAVES) F(ENCLS) F(TSC_SCALING) F(SECONDARY) F(TIMER) \
	F(GUEST_PAT) F(GUEST_EFER) F(GUEST_PERF) F(HOST_PAT) F(HOST_EFER) F(HOST_PERF) F(BNDCFGS) F(GUEST_CET) F(HOST_CET) \
	F(EPT_VE) F(SPP) F(CR3_TARGETS) F(PLE) F(NOTIFY) F(TERTIARY) F(IPI)
enum vmcs_feature {
#define F(name) VMCS_FEATURE_##name,
	VMCS_FEATURES(F)
#undef F
	VMCS_FEATURE_COUNT
};

struct vmcs_field {
	uint16_t encoding, offset;
	uint8_t width, type, feature;            /* enum vmcs_width, vmcs_type, vmcs_feature */
	const char *text;
};
extern const struct vmcs_field vmcs_fields[];
extern const unsigned vmcs_field_count;

/*
 * The field with that encoding, NULL if none has it. Constant time. With the
 * access-high bit (bit 0), which only 64-bit fields have, *high is set.
 */
const struct vmcs_field *vmcs_field_find(uint64_t encoding, bool *high);
/* Bytes of the field in vmcs12. */
static inline unsigned vmcs_field_size(const struct vmcs_field *f)
{
	return f->width == VMCS_WIDTH_16 ? 2 : f->width == VMCS_WIDTH_32 ? 4 : 8;
}

/*
 * A field of v, or its upper half (high); writes truncate to the field's width. No rights are checked here, neither features
 * nor read-only: that is VMREAD's and VMWRITE's business.
 */
uint64_t vmcs12_get(const struct vmcs12 *v, const struct vmcs_field *f, bool high);
void vmcs12_put(struct vmcs12 *v, const struct vmcs_field *f, bool high, uint64_t value);
#endif
