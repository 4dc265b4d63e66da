/* The KVM API: <linux/kvm.h>, and what later kernels have than the one of Debian 12. */
#ifndef ANYKVM_UAPI_H
#define ANYKVM_UAPI_H

#include <linux/kvm.h>

#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
	__u32 slot, flags;
	__u64 guest_phys_addr, memory_size, userspace_addr;
	__u64 guest_memfd_offset;                /* with KVM_MEM_GUEST_MEMFD, which is not offered */
	__u32 guest_memfd, pad1;
	__u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#define KVM_CAP_USER_MEMORY2 231
#endif

_Static_assert(KVM_SET_USER_MEMORY_REGION2 == 0x40a0ae49, "clients were compiled with this number");

#endif
