/*
 * The paravirtual interface of KVM guests: clock pages, MSRs, wake-up and IPI
 * hypercalls.
 *
 * Clock pages hold the VM's one clock base, the same on every vCPU, so that a
 * guest may compare readings between vCPUs (TSC_STABLE).
 */
#include "cpu/time.h"
#include "kvm/vcpu.h"
#include "x86/features.h"

enum { PV_WALL_CLOCK_OLD = 0x11, PV_SYSTEM_TIME_OLD = 0x12, PV_WALL_CLOCK = 0x4b564d00, PV_SYSTEM_TIME, PV_ASYNC_PF_EN,
       PV_STEAL_TIME, PV_EOI_EN, PV_POLL_CONTROL, PV_ASYNC_PF_INT, PV_ASYNC_PF_ACK, PV_MIGRATION_CONTROL };
enum { CLOCK_TSC_STABLE = 1, CLOCK_GUEST_STOPPED = 2 };

/* ABI of the pages, shared with guests. */
struct clock_page {
	uint32_t version, pad;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};
struct wall_clock { uint32_t version, sec, nsec; };
_Static_assert(sizeof(struct clock_page) == 32, "guests know this layout");

/* Body first made invalid by an odd version, then filled, then valid again. */
static void clock_page_write(struct vcpu *v, uint64_t gpa, uint8_t flags)
{
	struct mem *mem = v->vm->mem;
	struct kvmclock_base b = clock_base(v->vm);
	uint32_t version = 0;
	struct clock_page p = { .tsc = tsc_at(v->cpu, b.tsc), .ns = b.ns, .mul = v->clock_mul, .shift = v->clock_shift, .flags = flags };

	if (!mem_read(mem, gpa, &version, 4))
		return;
	p.version = (version | 1) + 2;
	if (!mem_write(mem, gpa, &p.version, 4))
		return;
	mem_write(mem, gpa + 8, &p.tsc, sizeof(p) - 8);
	p.version++;
	mem_write(mem, gpa, &p.version, 4);
}

void pv_clock_update(struct vcpu *v)
{
	uint64_t at = v->pv.system_time;

	if (!(at & 1))
		return;
	clock_page_write(v, at & ~1ull, CLOCK_TSC_STABLE | (v->clock_stopped ? CLOCK_GUEST_STOPPED : 0));
	v->clock_stopped = false;
}

static void wall_clock_write(struct vcpu *v, uint64_t gpa)
{
	uint64_t ns = clock_wall_offset_ns(v->vm);
	struct wall_clock w = { .sec = ns / 1000000000, .nsec = ns % 1000000000 };
	uint32_t version = 0;

	if (!gpa || !mem_read(v->vm->mem, gpa, &version, 4))
		return;
	w.version = version | 1;
	mem_write(v->vm->mem, gpa, &w, sizeof(w));
	w.version++;
	mem_write(v->vm->mem, gpa, &w.version, 4);
}

/* ---- what CPUID offers ---- */

enum pv_bit { CLOCKSOURCE = 0, CLOCKSOURCE2 = 3, ASYNC_PF = 4, STEAL_TIME = 5, PV_EOI = 6, PV_UNHALT = 7, PV_SEND_IPI = 11,
              POLL_CONTROL = 12, PV_SCHED_YIELD = 13, ASYNC_PF_INT = 14, MIGRATION_CONTROL = 17 };

/* Is the feature there, as far as anybody cares? */
static bool pv_offers(struct vcpu *v, enum pv_bit bit)
{
	enum { LEAF_PV_FEATURES = 0x40000001 };
	uint32_t leaf[4];

	if (!v->pv_enforced || v->host_access)
		return true;
	cpuid_lookup(v->cpu, LEAF_PV_FEATURES, 0, leaf);
	return leaf[CPUID_EAX] >> bit & 1;
}

static bool pv_msr_offered(struct vcpu *v, uint32_t index)
{
	static const struct { uint32_t index; enum pv_bit bit; } needs[] = {
		{ PV_WALL_CLOCK_OLD, CLOCKSOURCE }, { PV_SYSTEM_TIME_OLD, CLOCKSOURCE }, { PV_WALL_CLOCK, CLOCKSOURCE2 },
		{ PV_SYSTEM_TIME, CLOCKSOURCE2 }, { PV_ASYNC_PF_EN, ASYNC_PF }, { PV_STEAL_TIME, STEAL_TIME }, { PV_EOI_EN, PV_EOI },
		{ PV_POLL_CONTROL, POLL_CONTROL }, { PV_ASYNC_PF_INT, ASYNC_PF_INT }, { PV_ASYNC_PF_ACK, ASYNC_PF_INT },
		{ PV_MIGRATION_CONTROL, MIGRATION_CONTROL },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
		if (needs[i].index == index)
			return pv_offers(v, needs[i].bit);
	return true;
}

/* ---- MSRs ---- */

int pv_msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	if (!pv_msr_offered(v, index))
		return 1;
	switch (index) {
	case PV_WALL_CLOCK: case PV_WALL_CLOCK_OLD:
		*value = v->vm->wall_clock;
		return 0;
	case PV_SYSTEM_TIME: case PV_SYSTEM_TIME_OLD:
		*value = v->pv.system_time;
		return 0;
	case PV_STEAL_TIME:
		*value = v->pv.steal_time;
		return 0;
	case PV_EOI_EN:
		*value = v->pv.pv_eoi;
		return 0;
	case PV_POLL_CONTROL:
		*value = v->pv.poll_control;
		return 0;
	case PV_ASYNC_PF_EN: case PV_ASYNC_PF_INT: case PV_ASYNC_PF_ACK: case PV_MIGRATION_CONTROL:
		*value = 0;
		return 0;
	default:
		return 2;
	}
}

static int system_time_write(struct vcpu *v, uint64_t value)
{
	v->pv.system_time = value;
	if (v->host_access)
		vcpu_request(v, REQ_CLOCK);     /* the slots may not be there yet */
	else
		pv_clock_update(v);
	return 0;
}

int pv_msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	if (!pv_msr_offered(v, index))
		return 1;
	switch (index) {
	case PV_WALL_CLOCK: case PV_WALL_CLOCK_OLD:
		v->vm->wall_clock = value;
		if (!v->host_access)
			wall_clock_write(v, value);
		return 0;
	case PV_SYSTEM_TIME: case PV_SYSTEM_TIME_OLD:
		return system_time_write(v, value);
	case PV_STEAL_TIME:
		return steal_time_write(v, value);
	case PV_EOI_EN:
		v->pv.pv_eoi = value;            /* offered to nobody; kept for the client */
		return 0;
	case PV_POLL_CONTROL:
		if (value & ~1ull)
			return 1;
		v->pv.poll_control = value;
		return 0;
	case PV_ASYNC_PF_EN: case PV_ASYNC_PF_INT: case PV_ASYNC_PF_ACK: case PV_MIGRATION_CONTROL:
		return value ? 1 : 0;
	default:
		return 2;
	}
}

long kvm_vcpu_kvmclock_ctrl(struct vcpu *v)
{
	if (!(v->pv.system_time & 1))
		return -EINVAL;
	v->clock_stopped = true;
	vcpu_request(v, REQ_CLOCK);
	return 0;
}

/* ---- hypercalls ---- */

enum { HC_VAPIC_POLL_IRQ = 1, HC_KICK_CPU = 5, HC_CLOCK_PAIRING = 9, HC_SEND_IPI = 10, HC_SCHED_YIELD = 11, HC_MAP_GPA_RANGE = 12 };
enum { HC_EPERM = 1, HC_ENOSYS = 1000, HC_EFAULT = 14, HC_EOPNOTSUPP = 95 };

static int64_t kick_cpu(struct vcpu *v, uint64_t apic_id)
{
	struct vcpu *target = apic_id < ARRAY_SIZE(v->vm->by_id) ? v->vm->by_id[apic_id] : NULL;

	if (target) {
		target->kicked_by_hypercall = true;
		vcpu_kick(target);
	}
	return 0;
}

/* Fixed and NMI delivery to the APIC ids base + each bit of the 128-bit map. */
static int64_t send_ipi(struct vcpu *v, uint64_t low, uint64_t high, uint64_t base, uint64_t icr)
{
	unsigned __int128 map = (unsigned __int128)high << 64 | low;
	int64_t sent = 0;

	for (unsigned i = 0; i < 128; i++) {
		uint64_t id = base + i;

		if (!(map >> i & 1) || id >= ARRAY_SIZE(v->vm->by_id) || !v->vm->by_id[id])
			continue;
		if ((icr & 0x700) == 0x400) {
			vcpu_post_nmi(v->vm->by_id[id]);
		} else if (!(icr & 0x700)) {
			lapic_post_vector(v->vm->irqchip, id, icr & 0xff);
		}
		sent++;
	}
	return sent;
}

/* Time of the host's wall clock with the TSC it was read at. */
static int64_t clock_pairing(struct vcpu *v, uint64_t gpa, uint64_t type)
{
	struct { int64_t sec, nsec; uint64_t tsc; uint32_t flags, pad[9]; } p = { 0 };
	uint64_t host = clock_host_tsc(), ns;

	if (type)
		return -HC_EOPNOTSUPP;
	ns = clock_kvm_ns(v->vm, host) + clock_wall_offset_ns(v->vm);
	p.sec = ns / 1000000000;
	p.nsec = ns % 1000000000;
	p.tsc = tsc_at(v->cpu, host);
	return mem_write(v->vm->mem, gpa, &p, sizeof(p)) ? 0 : -HC_EFAULT;
}

static void hypercall_end(struct vcpu *v, uint64_t result)
{
	struct cpu *cpu = v->cpu;
	uint64_t len = cpu->next_rip - cpu->rip;

	cpu->gpr[REG_RAX] = cpu_code64(cpu) ? result : (uint32_t)result;
	cpu->rip += len >= 3 && len <= 15 ? len : 3;
	if (!cpu_code64(cpu))
		cpu->rip = (uint32_t)cpu->rip;
	cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
}

/* KVM_CAP_EXIT_HYPERCALL: the client decides on page attributes. */
static bool ask_client(struct vcpu *v, uint64_t nr, const uint64_t *a)
{
	struct kvm_run *run = v->run;

	run->exit_reason = KVM_EXIT_HYPERCALL;
	run->hypercall.nr = nr;
	run->hypercall.ret = 0;
	memset(run->hypercall.args, 0, sizeof(run->hypercall.args));
	memcpy(run->hypercall.args, a, 3 * sizeof(*a));
	run->hypercall.longmode = cpu_code64(v->cpu);
	v->outstanding = ASKED_HYPERCALL;
	return false;
}

void pv_hypercall_complete(struct vcpu *v)
{
	hypercall_end(v, v->run->hypercall.ret);
}

bool pv_hypercall(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;
	uint64_t mask = cpu_code64(cpu) ? ~0ull : 0xffffffff, nr = cpu->gpr[REG_RAX] & mask;
	uint64_t a[4] = { cpu->gpr[REG_RBX] & mask, cpu->gpr[REG_RCX] & mask, cpu->gpr[REG_RDX] & mask, cpu->gpr[REG_RSI] & mask };
	int64_t r = -HC_ENOSYS;

	trace(kvm, "vCPU %u: hypercall %llu", v->id, (unsigned long long)nr);
	if (cpu->cpl)
		r = -HC_EPERM;
	else if (nr == HC_MAP_GPA_RANGE && v->vm->hypercall_exits & BIT(HC_MAP_GPA_RANGE))
		return ask_client(v, nr, a);
	else if (nr == HC_VAPIC_POLL_IRQ || (nr == HC_SCHED_YIELD && pv_offers(v, PV_SCHED_YIELD)))
		r = 0;
	else if (nr == HC_KICK_CPU && pv_offers(v, PV_UNHALT))
		r = kick_cpu(v, a[1]);
	else if (nr == HC_SEND_IPI && lapic_in_kernel(v) && pv_offers(v, PV_SEND_IPI))
		r = send_ipi(v, a[0], a[1], a[2], a[3]);
	else if (nr == HC_CLOCK_PAIRING)
		r = clock_pairing(v, a[0], a[1]);
	hypercall_end(v, r);
	return true;
}
