/*
 * KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_REG_LIST: registers by number.
 * A number names an MSR, or one of KVM's own: the shadow-stack pointer, which
 * has no MSR.
 */
#include "cpu/cet.h"
#include "kvm/vcpu.h"
#include "x86/features.h"

/* What newer kernels define; bits of an id: architecture and size, type, index. */
#define REG_X86 0x2000000000000000ull
#define REG_SIZE_U64 0x0030000000000000ull
#define REG_ARCH_AND_SIZE 0xfff0000000000000ull
#define REG_RESERVED 0x000fff0000000000ull
enum { REG_TYPE_MSR = 2, REG_TYPE_KVM = 3, REG_GUEST_SSP = 0 };
#define REG_ID_GUEST_SSP (REG_X86 | REG_SIZE_U64 | (uint64_t)REG_TYPE_KVM << 32 | REG_GUEST_SSP)

static bool has_ssp(const struct vcpu *v)
{
	return cpu_has(v->cpu, FEATURE_SHSTK);
}

static long read_reg(struct vcpu *v, uint64_t id, uint64_t *value)
{
	if (id == REG_ID_GUEST_SSP && has_ssp(v)) {
		*value = v->cpu->cet.ssp;
		return 0;
	}
	return (id >> 32 & 0xff) == REG_TYPE_MSR && !host_msr(v, id, value, false) ? 0 : -EINVAL;
}

static long write_reg(struct vcpu *v, uint64_t id, uint64_t value)
{
	if (id == REG_ID_GUEST_SSP && has_ssp(v)) {
		if (!cet_ssp_valid(v->cpu, value))
			return -EINVAL;
		v->cpu->cet.ssp = value;
		return 0;
	}
	return (id >> 32 & 0xff) == REG_TYPE_MSR && !host_msr(v, id, &value, true) ? 0 : -EINVAL;
}

static bool id_valid(uint64_t id)
{
	return (id & REG_ARCH_AND_SIZE) == (REG_X86 | REG_SIZE_U64) && !(id & REG_RESERVED);
}

long kvm_vcpu_get_one_reg(struct vcpu *v, const struct kvm_one_reg *reg)
{
	uint64_t value;
	long r = id_valid(reg->id) ? read_reg(v, reg->id, &value) : -EINVAL;

	if (r < 0)
		return r;
	return user_write((void *)(uintptr_t)reg->addr, &value, sizeof(value)) < 0 ? -EFAULT : 0;
}

long kvm_vcpu_set_one_reg(struct vcpu *v, const struct kvm_one_reg *reg)
{
	uint64_t value;

	if (!id_valid(reg->id))
		return -EINVAL;
	if (user_read(&value, (void *)(uintptr_t)reg->addr, sizeof(value)) < 0)
		return -EFAULT;
	return write_reg(v, reg->id, value);
}

/* What KVM_GET_MSR_INDEX_LIST does not have. */
long kvm_vcpu_get_reg_list(struct vcpu *v, void *arg)
{
	struct kvm_reg_list *list = arg;
	uint64_t id = REG_ID_GUEST_SSP, room, n = has_ssp(v);

	if (user_read(&room, &list->n, sizeof(room)) < 0 || user_write(&list->n, &n, sizeof(n)) < 0)
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	return n && user_write(list->reg, &id, sizeof(id)) < 0 ? -EFAULT : 0;
}
