/*
 * KVM_GET/SET_MSRS and CPUID. MSRs of the processor's core are cpu/'s, which
 * asks cpu_ops for all others; v->host_access says that it is the client, not
 * the guest, that reads or writes.
 */
#include <asm/kvm_para.h>
#include "kvm/vcpu.h"
#include "x86/features.h"

enum { MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b, MSRS_MAX = 256, CHUNK = 64 };

static int host_msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	if (index == MSR_TSC) {
		*value = vcpu_l1_tsc(v);         /* whatever L2 sees */
		return 0;
	}
	return msr_read(v->cpu, index, value, true);
}

static int host_msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	if (index == MSR_TSC)
		tsc_write(v, value);
	else if (index == MSR_TSC_ADJUST)
		v->cpu->msr.tsc_adjust = value;  /* restores the register; the offset comes with the TSC */
	else
		return msr_write(v->cpu, index, value, true);
	return 0;
}

int host_msr(struct vcpu *v, uint32_t index, uint64_t *value, bool write)
{
	int r;

	v->host_access = true;
	r = write ? host_msr_write(v, index, *value) : host_msr_read(v, index, value);
	v->host_access = false;
	cpu_mode_update(v->cpu);
	return r;
}

static int msrs_process(struct vcpu *v, struct kvm_msr_entry *e, unsigned n, bool write)
{
	unsigned i;

	v->host_access = true;
	for (i = 0; i < n; i++) {
		uint64_t value = e[i].data;
		int r = write ? host_msr_write(v, e[i].index, value) : host_msr_read(v, e[i].index, &value);

		if (r) {
			trace(kvm, "vCPU %u: MSR %#x %s refused (%d)", v->id, e[i].index, write ? "write" : "read", r);
			break;
		}
		e[i].data = value;
	}
	v->host_access = false;
	cpu_mode_update(v->cpu);
	return i;
}

/* The list is walked in pieces that fit the stack; the result is how many MSRs went well before the first failure. */
static long msrs_ioctl(struct vcpu *v, void *arg, bool write)
{
	struct kvm_msr_entry chunk[CHUNK];
	struct kvm_msrs head;
	uint8_t *entries = (uint8_t *)arg + sizeof(head);
	unsigned done = 0;

	if (user_read(&head, arg, sizeof(head)) < 0)
		return -EFAULT;
	if (head.nmsrs >= MSRS_MAX)
		return -E2BIG;
	while (done < head.nmsrs) {
		unsigned n = head.nmsrs - done < CHUNK ? head.nmsrs - done : CHUNK, good;

		if (user_read(chunk, entries + done * sizeof(*chunk), n * sizeof(*chunk)) < 0)
			return -EFAULT;
		good = msrs_process(v, chunk, n, write);
		if (!write && user_write(entries + done * sizeof(*chunk), chunk, good * sizeof(*chunk)) < 0)
			return -EFAULT;
		done += good;
		if (good < n)
			break;
	}
	return done;
}

long kvm_vcpu_get_msrs(struct vcpu *v, void *arg)
{
	return msrs_ioctl(v, arg, false);
}

long kvm_vcpu_set_msrs(struct vcpu *v, void *arg)
{
	return msrs_ioctl(v, arg, true);
}

/* ---- CPUID ---- */

#define CPUID_MAX ARRAY_SIZE(((struct cpu *)0)->cpuid)

static struct cpuid_entry entry_of(const struct kvm_cpuid_entry2 *e)
{
	return (struct cpuid_entry){ .leaf = e->function, .subleaf = e->index, .flags = e->flags,
	                             .eax = e->eax, .ebx = e->ebx, .ecx = e->ecx, .edx = e->edx };
}

/* Does the entry have bits that follow the processor's state: APIC, OSXSAVE, MWAIT; sizes of XSAVE areas? */
static bool follows_state(const struct cpuid_entry *e)
{
	return e->leaf == 1 || (e->leaf == 0xd && e->subleaf < 2);
}

/* Those bits are not what tells two tables apart. */
static void forget_state(struct cpuid_entry *e)
{
	if (!follows_state(e))
		return;
	if (e->leaf == 0xd) {
		e->ebx = 0;
	} else {
		e->ecx &= ~(1u << 27 | 1u << 3);
		e->edx &= ~(1u << 9);
	}
}

static bool same_table(const struct cpu *cpu, const struct kvm_cpuid_entry2 *e, unsigned n)
{
	if (cpu->cpuid_count != n)
		return false;
	for (unsigned i = 0; i < n; i++) {
		struct cpuid_entry x = entry_of(&e[i]), y = cpu->cpuid[i];

		forget_state(&x);
		forget_state(&y);
		if (memcmp(&x, &y, sizeof(x)))
			return false;
	}
	return true;
}

/* Linear-address bits: 48 or 57, or not said. */
static bool table_valid(const struct kvm_cpuid_entry2 *e, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned bits = e[i].eax >> 8 & 0xff;

		if (e[i].function == 0x80000008 && bits != 48 && bits != 57 && bits != 0)
			return false;
	}
	return true;
}

/* Without exits at HLT nobody notices that a guest halts to wait for a lock: it is not told to. */
static void hide_pv_unhalt(struct kvm_cpuid_entry2 *e, unsigned n)
{
	static const uint32_t signature[] = { 0x4b4d564b, 0x564b4d56, 0x4d };    /* KVMKVMKVM */
	bool kvm = false;

	for (unsigned i = 0; i < n; i++)
		if (e[i].function == KVM_CPUID_SIGNATURE)
			kvm = !memcmp(&e[i].ebx, signature, sizeof(signature));
	for (unsigned i = 0; kvm && i < n; i++)
		if (e[i].function == KVM_CPUID_FEATURES)
			e[i].eax &= ~BIT(KVM_FEATURE_PV_UNHALT);
}

/* After the first KVM_RUN only the same table is accepted. */
static long cpuid_set(struct vcpu *v, struct kvm_cpuid_entry2 *e, unsigned n)
{
	struct cpu *cpu = v->cpu;

	cpuid_apply_vendor(e, n);
	if (v->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT)
		hide_pv_unhalt(e, n);
	if (v->ran)
		return same_table(cpu, e, n) ? 0 : -EINVAL;
	if (!table_valid(e, n))
		return -EINVAL;
	for (unsigned i = 0; i < n; i++)
		cpu->cpuid[i] = entry_of(&e[i]);
	cpu->cpuid_count = n;
	cpu_cpuid_update(cpu);
	vmx_cpuid_update(v->vmx);
	cpu_mode_update(cpu);
	return 0;
}

long kvm_vcpu_set_cpuid2(struct vcpu *v, void *arg)
{
	struct kvm_cpuid_entry2 entries[CPUID_MAX];
	struct kvm_cpuid2 head;

	if (user_read(&head, arg, sizeof(head)) < 0)
		return -EFAULT;
	if (head.nent > CPUID_MAX)
		return -E2BIG;
	if (user_read(entries, (uint8_t *)arg + sizeof(head), head.nent * sizeof(*entries)) < 0)
		return -EFAULT;
	return cpuid_set(v, entries, head.nent);
}

/* The old form has no subleaves. */
long kvm_vcpu_set_cpuid(struct vcpu *v, void *arg)
{
	struct kvm_cpuid_entry2 entries[CPUID_MAX];
	struct kvm_cpuid_entry old;
	struct kvm_cpuid head;

	if (user_read(&head, arg, sizeof(head)) < 0)
		return -EFAULT;
	if (head.nent > CPUID_MAX)
		return -E2BIG;
	for (unsigned i = 0; i < head.nent; i++) {
		if (user_read(&old, (uint8_t *)arg + sizeof(head) + i * sizeof(old), sizeof(old)) < 0)
			return -EFAULT;
		entries[i] = (struct kvm_cpuid_entry2){ .function = old.function, .eax = old.eax, .ebx = old.ebx,
		                                        .ecx = old.ecx, .edx = old.edx };
	}
	return cpuid_set(v, entries, head.nent);
}

/* As the guest would see it now. */
static int entry_write(struct cpu *cpu, const struct cpuid_entry *e, void *to)
{
	uint32_t r[4] = { e->eax, e->ebx, e->ecx, e->edx };
	struct kvm_cpuid_entry2 out = { .function = e->leaf, .index = e->subleaf, .flags = e->flags };

	if (follows_state(e))
		cpuid_lookup(cpu, e->leaf, e->subleaf, r);
	out.eax = r[CPUID_EAX];
	out.ebx = r[CPUID_EBX];
	out.ecx = r[CPUID_ECX];
	out.edx = r[CPUID_EDX];
	return user_write(to, &out, sizeof(out));
}

long kvm_vcpu_get_cpuid2(struct vcpu *v, void *arg)
{
	struct kvm_cpuid2 head;
	unsigned n = v->cpu->cpuid_count;
	long r = 0;

	if (user_read(&head, arg, sizeof(head)) < 0)
		return -EFAULT;
	if (head.nent < n)
		r = -E2BIG;
	for (unsigned i = 0; i < n && !r; i++)
		r = entry_write(v->cpu, &v->cpu->cpuid[i], (uint8_t *)arg + sizeof(head) + i * sizeof(struct kvm_cpuid_entry2));
	head.nent = n;
	return user_write(arg, &head, sizeof(head)) < 0 ? -EFAULT : r;
}
