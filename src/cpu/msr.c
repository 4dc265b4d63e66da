/*
 * MSRs: RDMSR, WRMSR, and the processor's own registers (x86/msr.def). All
 * others are asked of the floor above. A client that filters MSRs, or wants
 * the faulting ones, answers by replay: the rule leaves with CPU_EXIT_MSR, is
 * run again, and finds the answer in cpu->msr_exit.
 */
#include <linux/kvm.h>
#include "cpu/cet.h"
#include "cpu/rules.h"
#include "cpu/time.h"
#include "cpu/vapic.h"
#include "x86/features.h"

enum { MSR_OK, MSR_FAULT, MSR_UNKNOWN };
enum msr_check { MSR_ANY, MSR_LOW32, MSR_CANONICAL, MSR_SHADOW_STACK, MSR_MEMORY_TYPES, MSR_WAIT_LIMIT /* bit 1 and the upper half are reserved */ };
enum { FEATURE_NONE = FEATURE_COUNT };

typedef uint64_t msr_read_fn(struct cpu *cpu, bool host);
typedef bool msr_write_fn(struct cpu *cpu, uint64_t value, bool host);

/* ---- special registers ---- */

static uint64_t read_tsc(struct cpu *cpu, bool host)
{
	return host ? tsc_l1(cpu) : cpu_tsc(cpu);
}

static void tsc_move(struct cpu *cpu, int64_t by)
{
	cpu->tsc_offset += by;
	if (by)
		cpu->ops->tsc_moved(cpu, by);
}

/* The guest's write shows in TSC_ADJUST. The client's is not taken here, but by the floor above. */
static bool write_tsc(struct cpu *cpu, uint64_t value, bool host)
{
	int64_t delta = value - tsc_l1(cpu);

	cpu->msr.tsc_adjust += delta;
	tsc_move(cpu, delta);
	return true;
}

static uint64_t read_tsc_adjust(struct cpu *cpu, bool host)
{
	return cpu->msr.tsc_adjust;
}

static bool write_tsc_adjust(struct cpu *cpu, uint64_t value, bool host)
{
	int64_t delta = value - cpu->msr.tsc_adjust;

	cpu->msr.tsc_adjust = value;
	tsc_move(cpu, delta);
	return true;
}

/* IBRS, STIBP, SSBD, each under Intel's or AMD's feature. */
static uint64_t spec_ctrl_bits(const struct cpu *cpu)
{
	return (cpu_has(cpu, FEATURE_SPEC_CTRL) || cpu_has(cpu, FEATURE_AMD_IBRS) ? 1 : 0)
	     | (cpu_has(cpu, FEATURE_STIBP) || cpu_has(cpu, FEATURE_SPEC_CTRL) || cpu_has(cpu, FEATURE_AMD_STIBP) ? 2 : 0)
	     | (cpu_has(cpu, FEATURE_SSBD) || cpu_has(cpu, FEATURE_AMD_SSBD) ? 4 : 0);
}

static uint64_t read_spec_ctrl(struct cpu *cpu, bool host)
{
	return cpu->msr.spec_ctrl;
}

static bool write_spec_ctrl(struct cpu *cpu, uint64_t value, bool host)
{
	if (!host && (value & ~spec_ctrl_bits(cpu)))
		return false;
	cpu->msr.spec_ctrl = value;
	return true;
}

static uint64_t read_smbase(struct cpu *cpu, bool host)
{
	return cpu->msr.smbase;
}

static bool write_smbase(struct cpu *cpu, uint64_t value, bool host)
{
	cpu->msr.smbase = value;
	return host;
}

static uint64_t read_smi_count(struct cpu *cpu, bool host)
{
	return cpu->msr.smi_count;
}

static bool write_smi_count(struct cpu *cpu, uint64_t value, bool host)
{
	if (host)
		cpu->msr.smi_count = value;
	return host;
}

static uint64_t read_misc_enable(struct cpu *cpu, bool host)
{
	return cpu->msr.misc_enable;
}

/* Bit 18: MONITOR and MWAIT. */
static bool write_misc_enable(struct cpu *cpu, uint64_t value, bool host)
{
	bool mwait = value >> 18 & 1;

	cpu->msr.misc_enable = value;
	if (!cpu->mwait_switch || mwait == cpu_has(cpu, FEATURE_MONITOR))
		return true;
	for (unsigned i = 0; i < cpu->cpuid_count; i++)
		if (cpu->cpuid[i].leaf == 1)
			cpu->cpuid[i].ecx = (cpu->cpuid[i].ecx & ~8u) | (mwait ? 8 : 0);
	cpu_cpuid_update(cpu);
	return true;
}

static uint64_t read_debugctl(struct cpu *cpu, bool host)
{
	return cpu->msr.debugctl;
}

/* LBR and BTF are taken and forgotten: there are no branch records. */
static bool write_debugctl(struct cpu *cpu, uint64_t value, bool host)
{
	if (value & ~3ull)
		return false;
	cpu->msr.debugctl = 0;
	return true;
}

static uint64_t read_efer(struct cpu *cpu, bool host)
{
	return cpu->efer;
}

static bool write_efer(struct cpu *cpu, uint64_t value, bool host)
{
	if (!host)
		return efer_write(cpu, value);
	cpu->efer = (value & ~EFER_LMA) | (cpu->efer & EFER_LMA);
	cpu_mode_update(cpu);
	return true;
}

static uint64_t read_tsc_aux(struct cpu *cpu, bool host)
{
	return cpu->msr.tsc_aux;
}

static bool write_tsc_aux(struct cpu *cpu, uint64_t value, bool host)
{
	if (!host && value >> 32)
		return false;
	cpu->msr.tsc_aux = (uint32_t)value;
	return true;
}

static uint64_t read_u_cet(struct cpu *cpu, bool host)
{
	return cpu->cet.u_cet;
}

static uint64_t read_s_cet(struct cpu *cpu, bool host)
{
	return cpu->cet.s_cet;
}

static bool write_cet(struct cpu *cpu, unsigned cpl, uint64_t value)
{
	if (!cet_control_valid(cpu, value))
		return false;
	*cet_control(cpu, cpl) = value;
	cpu_mode_update(cpu);
	return true;
}

static bool write_u_cet(struct cpu *cpu, uint64_t value, bool host)
{
	return write_cet(cpu, 3, value);
}

static bool write_s_cet(struct cpu *cpu, uint64_t value, bool host)
{
	return write_cet(cpu, 0, value);
}

static uint64_t read_xss(struct cpu *cpu, bool host)
{
	return cpu->xss;
}

static bool write_xss(struct cpu *cpu, uint64_t value, bool host)
{
	if (value & ~xss_allowed(cpu))
		return false;
	cpu->xss = value;
	return true;
}

/* ---- the table ---- */

static const struct msr {
	uint32_t index;
	uint16_t feature;
	uint8_t check;
	uint32_t offset;                 /* in struct cpu, unless read and write are there */
	msr_read_fn *read;
	msr_write_fn *write;
} msrs[] = {
#define MSR(index, name, where, feature, check) \
	{ index, FEATURE_##feature, MSR_##check, offsetof(struct cpu, where), NULL, NULL },
#define MSR_SPECIAL(index, name, feature) { index, FEATURE_##feature, MSR_ANY, 0, read_##name, write_##name },
#include "x86/msr.def"
#undef MSR
#undef MSR_SPECIAL
};

static const struct msr *msr_find(uint32_t index)
{
	unsigned low = 0, high = ARRAY_SIZE(msrs);

	while (low < high) {             /* the table is in ascending order */
		unsigned mid = (low + high) / 2;

		if (msrs[mid].index == index)
			return &msrs[mid];
		if (msrs[mid].index < index)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* Registers that more than one feature brings. */
static bool msr_offered(const struct cpu *cpu, const struct msr *m)
{
	switch (m->index) {
	case 0x48:
		return spec_ctrl_bits(cpu);
	case 0x9e:
		return false;            /* the client's only */
	case 0x6a0: case 0x6a2:
		return cpu_has(cpu, FEATURE_SHSTK) || cpu_has(cpu, FEATURE_IBT);
	case 0x6a8:
		return cpu_has(cpu, FEATURE_SHSTK) && cpu_has(cpu, FEATURE_LM);
	case 0xc0000080:
		return cpu_has(cpu, FEATURE_LM) || cpu_has(cpu, FEATURE_NX) || cpu_has(cpu, FEATURE_SYSCALL);
	case 0xc0000103:
		return cpu_has(cpu, FEATURE_RDTSCP) || cpu_has(cpu, FEATURE_RDPID);
	default:
		return m->feature == FEATURE_NONE || cpu_has(cpu, m->feature);
	}
}

static bool memory_types_valid(uint64_t pat)
{
	for (unsigned i = 0; i < 64; i += 8)
		if ((pat >> i & 0xff) > 7 || (0x0c >> (pat >> i & 7) & 1))
			return false;
	return true;
}

static bool msr_value_valid(const struct cpu *cpu, const struct msr *m, uint64_t value)
{
	switch (m->check) {
	case MSR_SHADOW_STACK:
		return cet_ssp_valid(cpu, value);
	case MSR_WAIT_LIMIT:
		return !(value >> 32) && !(value & 2);
	case MSR_CANONICAL:
		return cpu_canonical(cpu, value);
	case MSR_MEMORY_TYPES:
		return memory_types_valid(value);
	default:
		return true;
	}
}

int msr_read(struct cpu *cpu, uint32_t index, uint64_t *value, bool host_initiated)
{
	const struct msr *m = msr_find(index);

	if (!m)
		return cpu->ops->msr_read(cpu, index, value);
	if (!host_initiated && !msr_offered(cpu, m))
		return MSR_FAULT;
	*value = m->read ? m->read(cpu, host_initiated) : *(uint64_t *)((char *)cpu + m->offset);
	return MSR_OK;
}

int msr_write(struct cpu *cpu, uint32_t index, uint64_t value, bool host_initiated)
{
	const struct msr *m = msr_find(index);

	trace(cpu, "vCPU %u: WRMSR %#x = %#llx", cpu->index, index, (unsigned long long)value);
	if (!m)
		return cpu->ops->msr_write(cpu, index, value);
	if ((!host_initiated && !msr_offered(cpu, m)) || !msr_value_valid(cpu, m, value))
		return MSR_FAULT;
	if (m->write)
		return m->write(cpu, value, host_initiated) ? MSR_OK : MSR_FAULT;
	*(uint64_t *)((char *)cpu + m->offset) = m->check == MSR_LOW32 ? (uint32_t)value : value;
	return MSR_OK;
}

/* ---- RDMSR and WRMSR ---- */

/* Asks the client; the instruction is run again when it has answered. */
static _Noreturn void ask_client(struct cpu *cpu, uint32_t index, bool write, uint64_t data, uint32_t reason)
{
	cpu->msr_exit.index = index;
	cpu->msr_exit.write = write;
	cpu->msr_exit.data = data;
	cpu->msr_exit.reason = reason;
	cpu->msr_exit.answered = cpu->msr_exit.error = false;
	cpu_leave(cpu, CPU_EXIT_MSR);
}

/* The client's answer to this very access, if it was asked. #GP if that is the answer. */
static bool client_answer(struct cpu *cpu, uint32_t index, bool write, uint64_t *value)
{
	if (!cpu->msr_exit.answered || cpu->msr_exit.index != index || cpu->msr_exit.write != write)
		return false;
	cpu->msr_exit.answered = false;
	if (cpu->msr_exit.error)
		cpu_raise_gp(cpu);
	*value = cpu->msr_exit.data;
	return true;
}

static _Noreturn void msr_fault(struct cpu *cpu, uint32_t index, bool write, uint64_t data, int verdict)
{
	uint32_t reason = verdict == MSR_UNKNOWN ? KVM_MSR_EXIT_REASON_UNKNOWN : KVM_MSR_EXIT_REASON_INVAL;

	trace(cpu, "vCPU %u: %s of MSR %#x faults (%s)", cpu->index, write ? "write" : "read", index,
	      verdict == MSR_UNKNOWN ? "unknown" : "invalid");
	if (cpu->msr_exit_reasons & reason)
		ask_client(cpu, index, write, data, reason);
	cpu_raise_gp(cpu);
}

void rule_rdmsr(struct cpu *cpu, const struct insn *insn)
{
	uint32_t index = cpu->gpr[REG_RCX];
	uint64_t value = 0;

	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	intercept_msr(cpu, index, false);
	if (!client_answer(cpu, index, false, &value) && !vapic_rdmsr(cpu, index, &value)) {
		if (cpu->ops->msr_filtered(cpu, index, false))
			ask_client(cpu, index, false, 0, KVM_MSR_EXIT_REASON_FILTER);
		int verdict = msr_read(cpu, index, &value, false);
		if (verdict != MSR_OK)
			msr_fault(cpu, index, false, 0, verdict);
	}
	cpu->gpr[REG_RAX] = (uint32_t)value;
	cpu->gpr[REG_RDX] = value >> 32;
}

void rule_wrmsr(struct cpu *cpu, const struct insn *insn)
{
	uint32_t index = cpu->gpr[REG_RCX];
	uint64_t value = (uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32, ignored;
	int verdict;

	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	intercept_msr(cpu, index, true);
	if (client_answer(cpu, index, true, &ignored) || vapic_wrmsr(cpu, index, value))
		return;
	if (cpu->ops->msr_filtered(cpu, index, true))
		ask_client(cpu, index, true, value, KVM_MSR_EXIT_REASON_FILTER);
	verdict = msr_write(cpu, index, value, false);
	if (verdict != MSR_OK)
		msr_fault(cpu, index, true, value, verdict);
}
