/* See machine.h. */
#include <stdlib.h>
#include <unistd.h>
#include "kvm/api.h"
#include "machine.h"
#include "vmx/vmcs12.h"

enum { MSR_TSC = 0x10, MSR_VMX_FIRST = 0x480, MSR_VMX_LAST = 0x492 };

void machine_prepare(struct guest *g)
{
	guest_ioctl(g->vm, KVM_ENABLE_CAP, &(struct kvm_enable_cap){ .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args[0] = 1 });
	guest_ioctl(g->vm, KVM_ENABLE_CAP, &(struct kvm_enable_cap){ .cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args[0] = 1 });
}

/* ---- the shadow-stack pointer, which is no MSR ---- */

static bool ssp_transfer(int fd, unsigned long request, uint64_t *ssp)
{
	struct kvm_one_reg reg = { .id = 0x2030000300000000ull, .addr = (uintptr_t)ssp };
	struct { struct kvm_reg_list head; uint64_t id; } list = { .head.n = 1 };

	guest_ioctl(fd, KVM_GET_REG_LIST, &list);
	return list.head.n && guest_ioctl(fd, request, &reg) == 0;
}

/* ---- save ---- */

static void msrs_save(struct guest *g, int fd, struct machine_vcpu *v)
{
	struct { struct kvm_msr_list head; uint32_t index[MACHINE_MSRS]; } list = { .head.nmsrs = MACHINE_MSRS };

	guest_ioctl(g->system, KVM_GET_MSR_INDEX_LIST, &list);
	v->msrs.head.nmsrs = list.head.nmsrs;
	for (unsigned i = 0; i < list.head.nmsrs; i++)
		v->msrs.e[i].index = list.index[i];
	check_equal(guest_ioctl(fd, KVM_GET_MSRS, &v->msrs), list.head.nmsrs);
}

static void vcpu_save(struct guest *g, int fd, struct machine_vcpu *v)
{
	memset(v, 0, sizeof(*v));
	v->cpuid.head.nent = MACHINE_CPUID;
	v->nested.s.size = sizeof(v->nested);
	guest_ioctl(fd, KVM_GET_CPUID2, &v->cpuid);
	guest_ioctl(fd, KVM_GET_MP_STATE, &v->mp_state);
	guest_ioctl(fd, KVM_GET_REGS, &v->regs);
	guest_ioctl(fd, KVM_GET_SREGS2, &v->sregs);
	guest_ioctl(fd, KVM_GET_XSAVE, &v->xsave);
	guest_ioctl(fd, KVM_GET_XCRS, &v->xcrs);
	guest_ioctl(fd, KVM_GET_DEBUGREGS, &v->debugregs);
	guest_ioctl(fd, KVM_GET_VCPU_EVENTS, &v->events);
	guest_ioctl(fd, KVM_GET_NESTED_STATE, &v->nested);
	ssp_transfer(fd, KVM_GET_ONE_REG, &v->ssp);
	msrs_save(g, fd, v);
}

void machine_save(struct guest *g, struct machine *m)
{
	m->nvcpus = g->nvcpus;
	for (int i = 0; i < g->nvcpus; i++)
		vcpu_save(g, g->vcpu[i], &m->vcpu[i]);
	m->chip[0].chip_id = 0;
	m->irqchip = anykvm_ioctl(g->vm, KVM_GET_IRQCHIP, &m->chip[0]) >= 0;
	guest_ioctl(g->vm, KVM_GET_CLOCK, &m->clock);
	m->has_pit = anykvm_ioctl(g->vm, KVM_GET_PIT2, &m->pit) >= 0;
	if (!m->irqchip)
		return;
	for (unsigned i = 0; i < 3; i++) {
		m->chip[i].chip_id = i;
		guest_ioctl(g->vm, KVM_GET_IRQCHIP, &m->chip[i]);
	}
	for (int i = 0; i < g->nvcpus; i++)
		guest_ioctl(g->vcpu[i], KVM_GET_LAPIC, &m->vcpu[i].lapic);
}

/* ---- restore ---- */

static bool is_capability(uint32_t msr)
{
	return msr >= MSR_VMX_FIRST && msr <= MSR_VMX_LAST;
}

/* One by one, as each may be refused by itself. */
static void msrs_restore(int fd, const struct machine_vcpu *v, bool capabilities)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1 };

	for (unsigned i = 0; i < v->msrs.head.nmsrs; i++) {
		m.e = v->msrs.e[i];
		if (is_capability(m.e.index) == capabilities && guest_ioctl(fd, KVM_SET_MSRS, &m) != 1) {
			printf("# MSR %#x = %#llx is refused\n", m.e.index, m.e.data);
			failures++;
		}
	}
}

enum part { REGS, SREGS, XSAVE, XCRS, DEBUGREGS, MSRS, EVENTS, MP_STATE, LAPIC, NESTED, SSP, PARTS };

static void part_restore(int fd, const struct machine *m, const struct machine_vcpu *v, enum part part)
{
	switch (part) {
	case REGS: guest_ioctl(fd, KVM_SET_REGS, (void *)&v->regs); break;
	case SREGS: guest_ioctl(fd, KVM_SET_SREGS2, (void *)&v->sregs); break;
	case XSAVE: guest_ioctl(fd, KVM_SET_XSAVE, (void *)&v->xsave); break;
	case XCRS: guest_ioctl(fd, KVM_SET_XCRS, (void *)&v->xcrs); break;
	case DEBUGREGS: guest_ioctl(fd, KVM_SET_DEBUGREGS, (void *)&v->debugregs); break;
	case MSRS: msrs_restore(fd, v, false); break;
	case EVENTS: guest_ioctl(fd, KVM_SET_VCPU_EVENTS, (void *)&v->events); break;
	case MP_STATE: guest_ioctl(fd, KVM_SET_MP_STATE, (void *)&v->mp_state); break;
	case LAPIC: if (m->irqchip) guest_ioctl(fd, KVM_SET_LAPIC, (void *)&v->lapic); break;
	case NESTED: guest_ioctl(fd, KVM_SET_NESTED_STATE, (void *)&v->nested); break;
	case SSP: ssp_transfer(fd, KVM_SET_ONE_REG, (uint64_t *)&v->ssp); break;
	case PARTS: break;
	}
}

/* What a machine is comes first, CPUID and capabilities; what it does, in any order. */
static void vcpu_restore(int fd, const struct machine *m, const struct machine_vcpu *v, unsigned seed)
{
	enum part order[PARTS];

	guest_ioctl(fd, KVM_SET_CPUID2, (void *)&v->cpuid);
	msrs_restore(fd, v, true);
	for (unsigned i = 0; i < PARTS; i++)
		order[i] = i;
	for (unsigned i = PARTS - 1; i > 0; i--) {
		unsigned j = (seed = seed * 1103515245 + 12345) / 65536 % (i + 1);
		enum part p = order[i];

		order[i] = order[j];
		order[j] = p;
	}
	/* But for what the kernel refuses: nested state that speaks of SMM, outside it. */
	if (v->nested.s.hdr.vmx.smm.flags)
		part_restore(fd, m, v, EVENTS);
	for (unsigned i = 0; i < PARTS; i++)
		part_restore(fd, m, v, order[i]);
}

void machine_restore(struct guest *g, const struct machine *m, unsigned seed)
{
	for (unsigned i = 0; m->irqchip && i < 3; i++)
		guest_ioctl(g->vm, KVM_SET_IRQCHIP, (void *)&m->chip[i]);
	if (m->has_pit)
		guest_ioctl(g->vm, KVM_SET_PIT2, (void *)&m->pit);
	guest_ioctl(g->vm, KVM_SET_CLOCK, &(struct kvm_clock_data){ .clock = m->clock.clock });
	for (unsigned i = 0; i < m->nvcpus; i++)
		vcpu_restore(g->vcpu[i], m, &m->vcpu[i], seed + i);
}

/* ---- compare ---- */

static bool same(const char *what, unsigned vcpu, const void *a, const void *b, size_t len)
{
	const uint8_t *p = a, *q = b;

	for (size_t i = 0; i < len; i++)
		if (p[i] != q[i]) {
			printf("# vCPU %u: %s differs at byte %#zx: %#x, %#x\n", vcpu, what, i, p[i], q[i]);
			return false;
		}
	return true;
}

static bool same_msrs(unsigned vcpu, const struct machine_vcpu *a, const struct machine_vcpu *b)
{
	bool ok = a->msrs.head.nmsrs == b->msrs.head.nmsrs;

	for (unsigned i = 0; i < a->msrs.head.nmsrs; i++)
		if (a->msrs.e[i].index != MSR_TSC && a->msrs.e[i].data != b->msrs.e[i].data) {
			printf("# vCPU %u: MSR %#x is %#llx, then %#llx\n", vcpu, a->msrs.e[i].index, a->msrs.e[i].data, b->msrs.e[i].data);
			ok = false;
		}
	return ok;
}

/* The LAPIC's current count runs. */
static struct kvm_lapic_state without_count(struct kvm_lapic_state s)
{
	memset(s.regs + 0x390, 0, 4);
	return s;
}

/* The preemption timer's value in vmcs12 runs; its deadline says it. */
static void same_nested(bool *ok, unsigned i, const struct machine_vcpu *a, const struct machine_vcpu *b)
{
	enum { TIMER_VALUE = 128 + offsetof(struct vmcs12, vmx_preemption_timer_value) };
	struct machine_vcpu p = *a, q = *b;

	memset(p.nested.bytes + TIMER_VALUE, 0, 4);
	memset(q.nested.bytes + TIMER_VALUE, 0, 4);
	*ok &= same("nested state", i, &p.nested, &q.nested, p.nested.s.size);
}

/* The counters run. */
static struct kvm_pit_state2 without_times(struct kvm_pit_state2 s)
{
	for (unsigned i = 0; i < 3; i++)
		s.channels[i].count_load_time = 0;
	return s;
}

bool machine_equal(const struct machine *a, const struct machine *b)
{
	struct kvm_pit_state2 p = without_times(a->pit), q = without_times(b->pit);
	bool ok = a->nvcpus == b->nvcpus && a->has_pit == b->has_pit;

	if (a->has_pit)
		ok &= same("PIT", 0, &p, &q, sizeof(p));
	ok &= a->clock.clock <= b->clock.clock;

	for (unsigned i = 0; i < a->nvcpus; i++) {
		const struct machine_vcpu *v = &a->vcpu[i], *w = &b->vcpu[i];
		struct kvm_lapic_state l = without_count(v->lapic), k = without_count(w->lapic);

#define SAME(part) ok &= same(#part, i, &v->part, &w->part, sizeof(v->part))
		SAME(regs);
		SAME(sregs);
		SAME(xsave);
		SAME(xcrs);
		SAME(debugregs);
		SAME(events);
		SAME(mp_state);
		SAME(ssp);
#undef SAME
		same_nested(&ok, i, v, w);
		ok &= same("LAPIC", i, &l, &k, sizeof(l)) && same_msrs(i, v, w);
	}
	return ok;
}

/* ---- move ---- */

static struct machine before, after;

void machine_move(struct guest *g, unsigned seed)
{
	machine_save(g, &before);
	guest_new_vm(g, before.irqchip, before.nvcpus);
	machine_prepare(g);
	machine_restore(g, &before, seed);
	machine_save(g, &after);
	if (!machine_equal(&before, &after)) {
		printf("# after a move with seed %u at RIP %#llx\n", seed, before.vcpu[0].regs.rip);
		failures++;
	}
}
