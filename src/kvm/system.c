/* ioctls of /dev/kvm itself. KVM_CREATE_VM is in vm.c, MSRs in msr_lists.c. */
#include "cpu/fpu.h"
#include "kvm/ioctl.h"
#include "kvm/lifecycle.h"

enum { MMAP_PAGES = 3 };

long system_get_api_version(struct system *s, unsigned long arg)
{
	return arg ? -EINVAL : KVM_API_VERSION;
}

long system_get_vcpu_mmap_size(struct system *s, unsigned long arg)
{
	return arg ? -EINVAL : MMAP_PAGES * (long)PAGE_SIZE_4K;
}

long system_check_extension(struct system *s, unsigned long cap)
{
	return capability_value(cap);
}

long system_get_mce_cap(struct system *s, uint64_t *cap)
{
	*cap = supported_mce_cap();
	return 0;
}

/* Too small a buffer is E2BIG, and nothing tells how much would do: clients double it. */
static long cpuid_copy(void *arg, const struct kvm_cpuid_entry2 *entries, uint32_t n)
{
	struct kvm_cpuid2 *user = arg;
	uint32_t room;

	if (user_read(&room, &user->nent, sizeof(room)) < 0)
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	if (user_write(user->entries, entries, n * sizeof(*entries)) < 0 || user_write(&user->nent, &n, sizeof(n)) < 0)
		return -EFAULT;
	return 0;
}

long system_get_supported_cpuid(struct system *s, void *arg)
{
	struct kvm_cpuid_entry2 entries[SUPPORTED_CPUID_MAX];

	memset(entries, 0, sizeof(entries));
	return cpuid_copy(arg, entries, supported_cpuid(entries, SUPPORTED_CPUID_MAX));
}

/* What would be slower than on the real processor: nothing is, in that sense. */
long system_get_emulated_cpuid(struct system *s, void *arg)
{
	static const struct kvm_cpuid_entry2 entries[] = {
		{ .function = 0, .eax = 7 },
		{ .function = 1 },
		{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
	};

	return cpuid_copy(arg, entries, ARRAY_SIZE(entries));
}

static bool is_guest_xcr0(const struct kvm_device_attr *a)
{
	return !a->group && a->attr == KVM_X86_XCOMP_GUEST_SUPP;
}

long system_get_device_attr(struct system *s, const struct kvm_device_attr *a)
{
	uint64_t xcr0 = fpu_xcr0_supported();

	return is_guest_xcr0(a) ? user_write((void *)(uintptr_t)a->addr, &xcr0, sizeof(xcr0)) : -ENXIO;
}

long system_has_device_attr(struct system *s, const struct kvm_device_attr *a)
{
	return is_guest_xcr0(a) ? 0 : -ENXIO;
}
