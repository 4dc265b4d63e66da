/*
 * KVM_GET/SET_SREGS and SREGS2: segments, descriptor tables, control
 * registers. A set replaces everything at once, so what is checked is that the
 * result is a state that a processor can be in.
 */
#include "kvm/vcpu.h"

enum { SREGS2_PDPTRS_VALID = 1 };

static struct kvm_segment segment_get(const struct segment *s)
{
	return (struct kvm_segment){ .base = s->base, .limit = s->limit, .selector = s->selector, .type = s->type,
	                             .present = s->present, .dpl = s->dpl, .db = s->db, .s = s->s, .l = s->l, .g = s->g,
	                             .avl = s->avl, .unusable = s->unusable };
}

static struct segment segment_set(const struct kvm_segment *k)
{
	return (struct segment){ .base = k->base, .limit = k->limit, .selector = k->selector, .type = k->type & 15, .s = k->s & 1,
	                         .dpl = k->dpl & 3, .present = k->present & 1, .avl = k->avl & 1, .l = k->l & 1, .db = k->db & 1,
	                         .g = k->g & 1, .unusable = k->unusable || !(k->present & 1) };
}

/* struct kvm_sregs and kvm_sregs2 share all fields up to efer's end and apic_base. */
struct common { struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt; struct kvm_dtable gdt, idt;
                uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base; };
_Static_assert(sizeof(struct common) == offsetof(struct kvm_sregs, interrupt_bitmap), "fields shared by kvm_sregs");
_Static_assert(sizeof(struct common) == offsetof(struct kvm_sregs2, flags), "fields shared by kvm_sregs2");

static void common_get(struct vcpu *v, struct common *s)
{
	const struct cpu *cpu = v->cpu;

	s->cs = segment_get(&cpu->seg[SEG_CS]);
	s->ds = segment_get(&cpu->seg[SEG_DS]);
	s->es = segment_get(&cpu->seg[SEG_ES]);
	s->fs = segment_get(&cpu->seg[SEG_FS]);
	s->gs = segment_get(&cpu->seg[SEG_GS]);
	s->ss = segment_get(&cpu->seg[SEG_SS]);
	s->tr = segment_get(&cpu->seg[SEG_TR]);
	s->ldt = segment_get(&cpu->seg[SEG_LDTR]);
	s->gdt = (struct kvm_dtable){ .base = cpu->gdtr.base, .limit = cpu->gdtr.limit };
	s->idt = (struct kvm_dtable){ .base = cpu->idtr.base, .limit = cpu->idtr.limit };
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 = vcpu_cr8(v);
	s->efer = cpu->efer;
	s->apic_base = vcpu_apic_base(v);
}

static bool interrupt_injected(const struct cpu *cpu)
{
	return cpu->event.valid && cpu->event.type == EVENT_EXT_INTERRUPT;
}

long kvm_vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *s)
{
	common_get(v, (struct common *)s);
	memset(s->interrupt_bitmap, 0, sizeof(s->interrupt_bitmap));
	if (interrupt_injected(v->cpu))
		s->interrupt_bitmap[v->cpu->event.vector / 64] |= BIT(v->cpu->event.vector % 64);
	return 0;
}

static bool pae_paging(const struct cpu *cpu)
{
	return cpu->cr0 & CR0_PG && cpu->cr4 & CR4_PAE && !(cpu->efer & EFER_LMA);
}

long kvm_vcpu_get_sregs2(struct vcpu *v, struct kvm_sregs2 *s)
{
	common_get(v, (struct common *)s);
	s->flags = 0;
	memset(s->pdptrs, 0, sizeof(s->pdptrs));
	if (pae_paging(v->cpu)) {
		memcpy(s->pdptrs, v->cpu->pdptr, sizeof(s->pdptrs));
		s->flags = SREGS2_PDPTRS_VALID;
	}
	return 0;
}

/* Before KVM_SET_CPUID2 all that there is may be set: everything below bit 22 but LA57, SMXE and what is not offered. */
#define CR4_WITHOUT_CPUID 0x372fffull

static uint64_t cr4_settable(const struct vcpu *v)
{
	return v->cpu->cpuid_count ? cr4_allowed(v->cpu) | vmx_cr4_allowed(v->vmx) : CR4_WITHOUT_CPUID;
}

static bool sregs_valid(const struct vcpu *v, const struct common *s)
{
	const struct cpu *cpu = v->cpu;

	if (s->cr0 >> 32 || (s->cr0 & CR0_PG && !(s->cr0 & CR0_PE)) || (s->cr0 & CR0_NW && !(s->cr0 & CR0_CD)))
		return false;
	if (s->cr4 & ~cr4_settable(v))
		return false;
	if (s->efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_SVME))
		return false;
	if (s->efer & EFER_LME && s->cr0 & CR0_PG)
		return s->cr4 & CR4_PAE && s->efer & EFER_LMA && !(s->cr3 & cpu->reserved_pa & ~BIT(63));
	return !(s->efer & EFER_LMA) && !s->cs.l;
}

/* Limits and bases of tables and segments are taken as they are. */
static void segments_set(struct cpu *cpu, const struct common *s)
{
	cpu->seg[SEG_CS] = segment_set(&s->cs);
	cpu->seg[SEG_DS] = segment_set(&s->ds);
	cpu->seg[SEG_ES] = segment_set(&s->es);
	cpu->seg[SEG_FS] = segment_set(&s->fs);
	cpu->seg[SEG_GS] = segment_set(&s->gs);
	cpu->seg[SEG_SS] = segment_set(&s->ss);
	cpu->seg[SEG_TR] = segment_set(&s->tr);
	cpu->seg[SEG_LDTR] = segment_set(&s->ldt);
	cpu->gdtr = (struct descriptor_table){ .base = s->gdt.base, .limit = s->gdt.limit };
	cpu->idtr = (struct descriptor_table){ .base = s->idt.base, .limit = s->idt.limit };
}

/* A client that only resets registers expects the boot processor to run again. */
static void wake_at_reset_vector(struct vcpu *v)
{
	const struct cpu *cpu = v->cpu;

	if (v->id == v->vm->bsp_id && cpu->rip == 0xfff0 && cpu->seg[SEG_CS].selector == 0xf000 &&
	    cpu->seg[SEG_CS].base == 0xffff0000 && !(cpu->cr0 & CR0_PE))
		v->mp_state = KVM_MP_STATE_RUNNABLE;
}

static int common_set(struct vcpu *v, const struct common *s)
{
	struct cpu *cpu = v->cpu;

	if (!sregs_valid(v, s) || vcpu_apic_base_set(v, s->apic_base, true))
		return -EINVAL;
	segments_set(cpu, s);
	cpu->cr0 = s->cr0 | CR0_ET;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->efer = s->efer;
	vcpu_cr8_set(v, s->cr8);
	if (!(cpu->cr0 & CR0_PE))
		cpu->cpl = 0;
	else
		cpu->cpl = cpu->rflags & RFLAGS_VM ? 3 : cpu->seg[SEG_SS].dpl;
	tlb_flush_all(cpu);
	wake_at_reset_vector(v);
	return 0;
}

static void interrupt_queue(struct cpu *cpu, const uint64_t bitmap[4])
{
	for (unsigned i = 0; i < 4; i++) {
		if (!bitmap[i])
			continue;
		cpu->event = (struct event){ .valid = true, .type = EVENT_EXT_INTERRUPT, .injected = true,
		                             .vector = i * 64 + __builtin_ctzll(bitmap[i]) };
		return;
	}
}

long kvm_vcpu_set_sregs(struct vcpu *v, const struct kvm_sregs *s)
{
	int r = common_set(v, (const struct common *)s);

	if (r < 0)
		return r;
	if (pae_paging(v->cpu))
		pdptrs_load(v->cpu, v->cpu->cr3);
	interrupt_queue(v->cpu, (const uint64_t *)s->interrupt_bitmap);
	cpu_mode_update(v->cpu);
	return 0;
}

long kvm_vcpu_set_sregs2(struct vcpu *v, const struct kvm_sregs2 *s)
{
	bool given = s->flags & SREGS2_PDPTRS_VALID;
	int r;

	if (s->flags & ~(uint64_t)SREGS2_PDPTRS_VALID)
		return -EINVAL;
	if (given && (!(s->cr0 & CR0_PG) || !(s->cr4 & CR4_PAE) || s->efer & EFER_LMA))
		return -EINVAL;
	r = common_set(v, (const struct common *)s);
	if (r < 0)
		return r;
	if (given)
		memcpy(v->cpu->pdptr, s->pdptrs, sizeof(v->cpu->pdptr));
	else if (pae_paging(v->cpu))
		pdptrs_load(v->cpu, v->cpu->cr3);
	cpu_mode_update(v->cpu);
	return 0;
}

/* ---- KVM_TRANSLATE ---- */

long kvm_vcpu_translate(struct vcpu *v, struct kvm_translation *t)
{
	uint64_t gpa = 0;
	bool writable = false, user = false;

	t->valid = tlb_probe(v->cpu, t->linear_address, &gpa, &writable, &user);
	t->physical_address = t->valid ? gpa : ~0ull;
	t->writeable = t->valid && writable;
	t->usermode = t->valid && user;
	return 0;
}
