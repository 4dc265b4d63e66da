/*
 * System management mode. The layouts of the state-save area are tables: one
 * line per register, the place in the area and its size. Registers pass
 * through struct smm_state, all of whose members are 64 bits wide, so that RSM
 * can look at the whole before it changes anything.
 */
#include "cpu/cet.h"
#include "cpu/rules.h"
#include "cpu/smm.h"
#include "x86/features.h"
#include "x86/vmx.h"

struct smm_segment { uint64_t selector, attributes, limit, base; };

struct smm_state {
	uint64_t gpr[16], rip, rflags, cr0, cr3, cr4, efer, dr6, dr7, smbase, ssp, revision, auto_halt, pending_debug;
	struct smm_segment seg[SEG_COUNT], gdtr, idtr;
};

struct smm_field { uint16_t at; uint8_t size, word; };

#define FIELD(at, size, member) { (at) - SMM_IMAGE_AT, size, offsetof(struct smm_state, member) / 8 }
#define SEGMENT64(at, seg) FIELD(at, 2, seg.selector), FIELD((at) + 2, 2, seg.attributes), FIELD((at) + 4, 4, seg.limit), FIELD((at) + 8, 8, seg.base)
#define TABLE64(at, seg) FIELD((at) + 4, 2, seg.limit), FIELD((at) + 8, 8, seg.base)
/* Attributes as in the upper half of a descriptor: from bit 8 on. */
#define SEGMENT32(at, selector_at, seg) \
	FIELD(selector_at, 2, seg.selector), FIELD((at) + 1, 2, seg.attributes), FIELD((at) + 4, 4, seg.limit), FIELD((at) + 8, 4, seg.base)
#define TABLE32(at, seg) FIELD((at) + 4, 2, seg.limit), FIELD((at) + 8, 4, seg.base)
#define GPR64(n) FIELD(0xfff8 - 8 * (n), 8, gpr[n])
#define GPR32(n) FIELD(0xffd0 + 4 * (n), 4, gpr[n])

/* #DB traps that were due when the SMI came, as in DR6. Both layouts have it among what is reserved. */
enum { PENDING_DEBUG = 0xfef4 };

static const struct smm_field layout64[] = {
	SEGMENT64(0xfe00, seg[SEG_ES]), SEGMENT64(0xfe10, seg[SEG_CS]), SEGMENT64(0xfe20, seg[SEG_SS]), SEGMENT64(0xfe30, seg[SEG_DS]),
	SEGMENT64(0xfe40, seg[SEG_FS]), SEGMENT64(0xfe50, seg[SEG_GS]), TABLE64(0xfe60, gdtr), SEGMENT64(0xfe70, seg[SEG_LDTR]),
	TABLE64(0xfe80, idtr), SEGMENT64(0xfe90, seg[SEG_TR]),
	FIELD(0xfec9, 1, auto_halt), FIELD(0xfed0, 8, efer), FIELD(PENDING_DEBUG, 4, pending_debug), FIELD(0xfefc, 4, revision), FIELD(0xff00, 4, smbase),
	FIELD(0xff18, 8, ssp),
	FIELD(0xff48, 8, cr4), FIELD(0xff50, 8, cr3), FIELD(0xff58, 8, cr0), FIELD(0xff60, 8, dr7), FIELD(0xff68, 8, dr6),
	FIELD(0xff70, 8, rflags), FIELD(0xff78, 8, rip),
	GPR64(0), GPR64(1), GPR64(2), GPR64(3), GPR64(4), GPR64(5), GPR64(6), GPR64(7),
	GPR64(8), GPR64(9), GPR64(10), GPR64(11), GPR64(12), GPR64(13), GPR64(14), GPR64(15),
};

static const struct smm_field layout32[] = {
	FIELD(PENDING_DEBUG, 4, pending_debug), FIELD(0xfef8, 4, smbase), FIELD(0xfefc, 4, revision), FIELD(0xff02, 2, auto_halt), FIELD(0xff14, 4, cr4),
	SEGMENT32(0xff2c, 0xffb4, seg[SEG_DS]), SEGMENT32(0xff38, 0xffb8, seg[SEG_FS]), SEGMENT32(0xff44, 0xffbc, seg[SEG_GS]),
	TABLE32(0xff50, idtr), SEGMENT32(0xff5c, 0xffc4, seg[SEG_TR]), TABLE32(0xff6c, gdtr),
	SEGMENT32(0xff78, 0xffc0, seg[SEG_LDTR]), SEGMENT32(0xff84, 0xffa8, seg[SEG_ES]), SEGMENT32(0xff90, 0xffac, seg[SEG_CS]),
	SEGMENT32(0xff9c, 0xffb0, seg[SEG_SS]),
	FIELD(0xffc8, 4, dr7), FIELD(0xffcc, 4, dr6),
	GPR32(0), GPR32(1), GPR32(2), GPR32(3), GPR32(4), GPR32(5), GPR32(6), GPR32(7),
	FIELD(0xfff0, 4, rip), FIELD(0xfff4, 4, rflags), FIELD(0xfff8, 4, cr3), FIELD(0xfffc, 4, cr0),
};

/* SMBASE can be relocated; an I/O instruction cannot be restarted. */
enum { REVISION64 = 0x20064, REVISION32 = 0x20000 };

static bool wide(const struct cpu *cpu) { return cpu_has(cpu, FEATURE_LM); }

static const struct smm_field *layout_of(const struct cpu *cpu, unsigned *n)
{
	*n = wide(cpu) ? ARRAY_SIZE(layout64) : ARRAY_SIZE(layout32);
	return wide(cpu) ? layout64 : layout32;
}

static void image_put(const struct cpu *cpu, struct smm_image *image, const struct smm_state *s)
{
	unsigned n;
	const struct smm_field *f = layout_of(cpu, &n);

	memset(image, 0, sizeof(*image));
	for (unsigned i = 0; i < n; i++)
		memcpy(image->bytes + f[i].at, (const uint64_t *)s + f[i].word, f[i].size);
}

static void image_get(const struct cpu *cpu, const struct smm_image *image, struct smm_state *s)
{
	unsigned n;
	const struct smm_field *f = layout_of(cpu, &n);

	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < n; i++)
		memcpy((uint64_t *)s + f[i].word, image->bytes + f[i].at, f[i].size);
}

/* ---- SMI ---- */

/* What is not usable is not present there, and has its attributes all the same. */
static struct smm_segment segment_save(struct segment seg)
{
	seg.present = seg.present && !seg.unusable;
	seg.unusable = false;
	return (struct smm_segment){ seg.selector, segment_ar_bytes(&seg), seg.limit, seg.base };
}

void smm_save(const struct cpu *cpu, struct smm_image *image)
{
	struct smm_state s = {
		.rip = cpu->rip, .rflags = cpu->rflags, .cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer,
		.dr6 = cpu->dr6, .dr7 = cpu->dr7, .smbase = cpu->msr.smbase, .ssp = cpu->cet.ssp, .revision = wide(cpu) ? REVISION64 : REVISION32,
		.auto_halt = cpu->activity == ACTIVITY_HLT, .pending_debug = cpu->pending_debug & DEBUG_TRAPS,
		.gdtr = { .base = cpu->gdtr.base, .limit = cpu->gdtr.limit }, .idtr = { .base = cpu->idtr.base, .limit = cpu->idtr.limit } };

	memcpy(s.gpr, cpu->gpr, sizeof(s.gpr));
	for (enum seg seg = SEG_ES; seg < SEG_COUNT; seg++)
		s.seg[seg] = segment_save(cpu->seg[seg]);
	if (cpu->cr0 & CR0_PE)                   /* SS's privilege is the processor's, usable or not */
		s.seg[SEG_SS].attributes = (s.seg[SEG_SS].attributes & ~0x60ull) | cpu->cpl << 5;
	image_put(cpu, image, &s);
}

void smm_set(struct cpu *cpu, bool on)
{
	cpu->in_smm = on;
	cpu->mem = mem_space(cpu->mem, on ? MEM_SMM : MEM_NORMAL);
	tlb_flush_all(cpu);
	cpu_mode_update(cpu);
}

static void enter_segments(struct cpu *cpu)
{
	struct segment flat = { .limit = 0xffffffff, .type = 3, .s = 1, .present = 1, .g = 1 };

	for (enum seg seg = SEG_ES; seg < SEG_LDTR; seg++)
		cpu->seg[seg] = flat;
	cpu->seg[SEG_CS].selector = cpu->msr.smbase >> 4;
	cpu->seg[SEG_CS].base = (uint32_t)cpu->msr.smbase;
	cpu->cpl = 0;
	cpu->idtr = (struct descriptor_table){ 0 };      /* the handler takes no event before it has loaded one */
}

bool smm_enter(struct cpu *cpu, const struct smm_image *image)
{
	struct mem *smram = mem_space(cpu->mem, MEM_SMM);

	if (!mem_write(smram, (uint32_t)cpu->msr.smbase + SMM_IMAGE_AT, image, sizeof(*image)))
		return false;
	trace(cpu, "vCPU %u: SMI at %#llx, SMBASE %#llx", cpu->index, (unsigned long long)cpu->rip, (unsigned long long)cpu->msr.smbase);
	cpu->smi_in_nmi = cpu->nmi_blocked;
	cpu->nmi_blocked = true;
	cpu->msr.smi_count++;
	cpu->activity = ACTIVITY_ACTIVE;
	cpu->shadow = 0;
	cpu->pending_debug = 0;
	cpu->rflags = RFLAGS_FIXED;
	cpu->rip = cpu->next_rip = 0x8000;
	cpu->cr0 &= ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
	cpu->cr4 = 0;
	cpu->efer = wide(cpu) ? 0 : cpu->efer;           /* the P6 layout has no place for it */
	cpu->dr7 = DR7_FIXED;
	enter_segments(cpu);
	smm_set(cpu, true);
	return true;
}

/* ---- RSM ---- */

void rule_rsm(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu->in_smm)
		cpu_raise_ud(cpu);
	cpu_leave(cpu, CPU_EXIT_RSM);
}

bool smm_leave(struct cpu *cpu, struct smm_image *image)
{
	if (!mem_read(cpu->mem, (uint32_t)cpu->msr.smbase + SMM_IMAGE_AT, image, sizeof(*image)))
		return false;
	cpu->nmi_blocked = cpu->smi_in_nmi;
	cpu->smi_in_nmi = false;
	smm_set(cpu, false);
	return true;
}

/* VMX operation has bits that cannot be other than they are; it, not CPUID, says which there are. */
static void fix_control_registers(const struct cpu *cpu, struct smm_state *s)
{
	const struct control_block *ctl = cpu->ctl;

	s->cr0 |= CR0_ET;
	if (!ctl->in_vmx_root_or_non_root)
		return;
	s->cr0 = (s->cr0 | (ctl->cr0_fixed0 & ~ctl->cr0_fixed_ignore)) & ctl->cr0_fixed1;
	s->cr4 |= ctl->cr4_fixed0;
}

static bool control_registers_valid(const struct cpu *cpu, const struct smm_state *s)
{
	bool paging = s->cr0 & CR0_PG, long_mode = paging && (s->efer & EFER_LME);
	uint64_t cr4 = cpu->ctl->in_vmx_root_or_non_root ? cpu->ctl->cr4_fixed1 : cr4_allowed(cpu);

	if (s->cr0 >> 32 || (paging && !(s->cr0 & CR0_PE)) || ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)))
		return false;
	if ((s->cr4 & CR4_CET) && (!(s->cr0 & CR0_WP) || !cet_ssp_valid(cpu, s->ssp)))
		return false;
	if ((s->cr4 & ~cr4) || ((s->cr4 & CR4_PCIDE) && !long_mode) || (long_mode && !(s->cr4 & CR4_PAE)))
		return false;
	return !long_mode || !(s->cr3 >> 52 || (s->cr3 & cpu->reserved_pa));
}

static bool state_valid(const struct cpu *cpu, const struct smm_state *s)
{
	return control_registers_valid(cpu, s) && !(s->efer & ~efer_allowed(cpu)) && !(s->dr6 >> 32) && !(s->dr7 >> 32);
}

static void segments_load(struct cpu *cpu, const struct smm_state *s)
{
	for (enum seg seg = SEG_ES; seg < SEG_COUNT; seg++) {
		const struct smm_segment *from = &s->seg[seg];
		struct segment *to = &cpu->seg[seg];

		*to = (struct segment){ .base = from->base, .limit = from->limit, .selector = from->selector };
		segment_set_ar_bytes(to, from->attributes);
		to->unusable = !to->present;
	}
	cpu->gdtr = (struct descriptor_table){ .base = s->gdtr.base, .limit = s->gdtr.limit };
	cpu->idtr = (struct descriptor_table){ .base = s->idtr.base, .limit = s->idtr.limit };
	cpu->cpl = !(cpu->cr0 & CR0_PE) ? 0 : cpu->rflags & RFLAGS_VM ? 3 : cpu->seg[SEG_SS].dpl;
}

static void registers_load(struct cpu *cpu, const struct smm_state *s)
{
	bool long_mode = (s->cr0 & CR0_PG) && (s->efer & EFER_LME);

	memcpy(cpu->gpr, s->gpr, (wide(cpu) ? 16 : 8) * sizeof(s->gpr[0]));
	cpu->rip = cpu->next_rip = s->rip;
	cpu->cr0 = s->cr0;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->efer = (s->efer & ~EFER_LMA) | (long_mode ? EFER_LMA : 0);
	cpu->rflags = (s->rflags & RFLAGS_VALID & ~(long_mode ? RFLAGS_VM : 0ull)) | RFLAGS_FIXED;
	cpu->dr6 = (s->dr6 & (0xf | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
	cpu->dr7 = (s->dr7 & 0xffff23ff) | DR7_FIXED;
	cpu->msr.smbase = s->smbase;
	cpu->cet.ssp = wide(cpu) ? s->ssp : cpu->cet.ssp;
	cpu->pending_debug |= s->pending_debug & DEBUG_TRAPS;    /* L2's are in the VMCS, too */
}

/* Without EPT; with it they are the guest's own, and the VMCS has them. */
static bool pdptes_load(struct cpu *cpu)
{
	bool pae = (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_long_mode(cpu);

	return !pae || (cpu->ctl->secondary & SECONDARY_EPT) || pdptrs_load(cpu, cpu->cr3);
}

bool smm_resume(struct cpu *cpu, const struct smm_image *image)
{
	struct smm_state s;

	image_get(cpu, image, &s);
	s.efer = wide(cpu) ? s.efer : cpu->efer;
	fix_control_registers(cpu, &s);
	if (!state_valid(cpu, &s)) {
		trace(cpu, "vCPU %u: RSM to an invalid state, CR0 %#llx CR4 %#llx EFER %#llx", cpu->index, (unsigned long long)s.cr0,
		      (unsigned long long)s.cr4, (unsigned long long)s.efer);
		return false;
	}
	registers_load(cpu, &s);
	segments_load(cpu, &s);
	if (cpu->activity == ACTIVITY_ACTIVE || cpu->activity == ACTIVITY_HLT)
		cpu->activity = s.auto_halt & 1 ? ACTIVITY_HLT : ACTIVITY_ACTIVE;
	tlb_flush_all(cpu);
	cpu_mode_update(cpu);
	trace(cpu, "vCPU %u: RSM to %#llx", cpu->index, (unsigned long long)cpu->rip);
	return pdptes_load(cpu);
}
