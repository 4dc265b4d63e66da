/* See cet.h. */
#include "base/base.h"
#include "cet.h"

#define REG_SSP 0x2030000300000000ull

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40 };

static uint64_t *entry_of(struct rig *rig, enum cet_page page)
{
	return (uint64_t *)(rig->g.memory + RIG_PAGE_TABLE) + page;
}

void cet_page_set(struct rig *rig, enum cet_page page, unsigned flags)
{
	*entry_of(rig, page) = flags ? (CET_FRAMES + page * 4096) | flags : 0;
}

static void pages_make(struct rig *rig)
{
	static const unsigned flags[CET_PAGES] = { [SHADOW] = P | D, [USER_SHADOW] = P | U | D, [DATA] = P | W, [USER_DATA] = P | W | U,
	                                           [CLEAN] = P, [ABSENT] = 0, [SHADOW_2] = P | D, [SHADOW_3] = P | D };

	rig_small_pages(rig);
	*(uint64_t *)(rig->g.memory + GUEST_PAGES) |= U;
	*(uint64_t *)(rig->g.memory + GUEST_PAGES + 0x1000 + 8) |= U;
	*(uint64_t *)(rig->g.memory + RIG_PAGE_TABLE - 0x1000) |= U;
	for (unsigned i = 0; i < CET_PAGES; i++)
		cet_page_set(rig, i, flags[i]);
}

void cet_start(struct rig *rig, enum rig_mode mode, uint64_t u_cet, uint64_t s_cet, uint64_t ssp)
{
	params.cet = true;
	rig_start(rig, mode);
	rig->s.cr0 |= 1 << 16;
	rig->s.cr4 |= 1 << 23;
	if (mode >= LONG)
		pages_make(rig);
	cet_msr_set(rig, M_U_CET, u_cet);
	cet_msr_set(rig, M_S_CET, s_cet);
	cet_ssp_set(rig, ssp);
}

void cet_msr_set(struct rig *rig, uint32_t index, uint64_t value)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = index, .data = value } };

	expect_value("KVM_SET_MSRS", "count", guest_ioctl(rig->g.vcpu[0], KVM_SET_MSRS, &m), 1);
}

uint64_t cet_msr(struct rig *rig, uint32_t index)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e = { .index = index } };

	expect_value("KVM_GET_MSRS", "count", guest_ioctl(rig->g.vcpu[0], KVM_GET_MSRS, &m), 1);
	return m.e.data;
}

void cet_ssp_set(struct rig *rig, uint64_t ssp)
{
	struct kvm_one_reg reg = { .id = REG_SSP, .addr = (uintptr_t)&ssp };

	guest_ioctl(rig->g.vcpu[0], KVM_SET_ONE_REG, &reg);
}

uint64_t cet_ssp(struct rig *rig)
{
	uint64_t ssp = ~0ull;
	struct kvm_one_reg reg = { .id = REG_SSP, .addr = (uintptr_t)&ssp };

	guest_ioctl(rig->g.vcpu[0], KVM_GET_ONE_REG, &reg);
	return ssp;
}

static uint64_t physical(uint64_t lin)
{
	return lin < RIG_PAGES ? lin : CET_FRAMES + (lin - RIG_PAGES);
}

uint64_t cet_peek(struct rig *rig, uint64_t lin) { return rig_peek(rig, physical(lin), 8); }
void cet_poke(struct rig *rig, uint64_t lin, uint64_t value) { rig_poke(rig, physical(lin), 8, value); }

void cet_mark_handlers(struct rig *rig)
{
	for (unsigned v = 0; v < 256; v++)
		memcpy(rig->g.memory + RIG_HANDLERS + 16 * v, rig->mode >= LONG ? "\xf3\x0f\x1e\xfa\xf4" : "\xf3\x0f\x1e\xfb\xf4", 5);
}
