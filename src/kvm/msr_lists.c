/* Which MSRs there are for clients: the list to save and restore, and the feature MSRs with their values. */
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"

enum { MSR_UCODE_REV = 0x8b, MSR_ARCH_CAPABILITIES = 0x10a, MSR_PERF_CAPABILITIES = 0x345 };
#define MCG_CTL_P BIT(8)
#define MCG_SER_P BIT(24)
#define MCG_LMCE_P BIT(27)

static const struct { uint32_t index; const bool *param; } saved[] = {
#define SAVED(index) { index, NULL },
#define NESTED(index) { index, &params.nested },
#define MANAGED(index) { index, &params.smm },
#define CET(index) { index, &params.cet },
#include "kvm/msr_lists.def"
#undef SAVED
#undef NESTED
#undef MANAGED
#undef CET
};

/* Bits of IA32_ARCH_CAPABILITIES: what this processor does not suffer from. */
enum { RDCL_NO = 0, IBRS_ALL = 1, SKIP_L1DFL = 3, SSB_NO = 4, MDS_NO = 5, PSCHANGE_MC_NO = 6, TAA_NO = 8, SBDR_SSDP_NO = 13,
       FBSDP_NO = 14, PSDP_NO = 15, BHI_NO = 20, PBRSB_NO = 24, GDS_NO = 26, RFDS_NO = 27, ITS_NO = 62 };

uint64_t supported_arch_capabilities(void)
{
	return BIT(RDCL_NO) | BIT(IBRS_ALL) | BIT(SKIP_L1DFL) | BIT(SSB_NO) | BIT(MDS_NO) | BIT(PSCHANGE_MC_NO) | BIT(TAA_NO) |
	       BIT(SBDR_SSDP_NO) | BIT(FBSDP_NO) | BIT(PSDP_NO) | BIT(BHI_NO) | BIT(PBRSB_NO) | BIT(GDS_NO) | BIT(RFDS_NO) |
	       BIT(ITS_NO);
}

uint64_t supported_mce_cap(void)
{
	return MCG_CTL_P | MCG_SER_P | MCG_LMCE_P;
}

int feature_msr(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_ARCH_CAPABILITIES:
		*value = supported_arch_capabilities();
		return 0;
	case MSR_UCODE_REV:
		*value = 1ull << 32;
		return 0;
	case MSR_PERF_CAPABILITIES:
		*value = 0;
		return 0;
	default:
		return params.nested ? vmx_feature_msr(index, value) : 2;
	}
}

/* struct kvm_msr_list: the count is always answered, the indices if they fit. */
static long msr_index_list_copy(void *user, const uint32_t *indices, unsigned n)
{
	struct kvm_msr_list *list = user;
	uint32_t room;

	if (user_read(&room, &list->nmsrs, sizeof(room)) < 0 || user_write(&list->nmsrs, &n, sizeof(n)) < 0)
		return -EFAULT;
	return room < n ? -E2BIG : user_write(list->indices, indices, n * sizeof(*indices));
}

long system_get_msr_index_list(struct system *s, void *arg)
{
	uint32_t list[ARRAY_SIZE(saved)];
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		if (!saved[i].param || *saved[i].param)
			list[n++] = saved[i].index;
	return msr_index_list_copy(arg, list, n);
}

long system_get_msr_feature_index_list(struct system *s, void *arg)
{
	uint32_t list[KVM_MSR_LIST_MAX] = { MSR_ARCH_CAPABILITIES, MSR_UCODE_REV, MSR_PERF_CAPABILITIES };
	unsigned n = 3;

	for (unsigned i = 0; params.nested && i < vmx_feature_msr_count && n < KVM_MSR_LIST_MAX; i++)
		list[n++] = vmx_feature_msr_list[i];
	return msr_index_list_copy(arg, list, n);
}

/* Ends at the first MSR that is none; the result is how many there were before it. */
static long feature_msrs_get(struct kvm_msr_entry *entries, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t value;

		if (feature_msr(entries[i].index, &value))
			return i;
		entries[i].data = value;
	}
	return n;
}

long system_get_msrs(struct system *s, void *arg)
{
	struct kvm_msrs *user = arg, head;
	struct kvm_msr_entry entries[KVM_MSR_LIST_MAX];
	long n;

	if (user_read(&head, user, sizeof(head)) < 0)
		return -EFAULT;
	if (head.nmsrs >= KVM_MSR_LIST_MAX)
		return -E2BIG;
	if (user_read(entries, user->entries, head.nmsrs * sizeof(*entries)) < 0)
		return -EFAULT;
	n = feature_msrs_get(entries, head.nmsrs);
	return user_write(user->entries, entries, head.nmsrs * sizeof(*entries)) < 0 ? -EFAULT : n;
}
