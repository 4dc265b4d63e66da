/*
 * cpu/ept -- the second level of translation: walks of EPT, page-modification
 * logging, and what becomes of an access that EPT does not allow: a VM exit,
 * or an exception #VE of the guest's own.
 */
#include "cpu/tlb_set.h"
#include "cpu/rules.h"

#define EPT_RWX (ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC)
#define EPT_USER_EXEC BIT(10)        /* under mode-based execute control; bit 2 is the supervisor's then */
#define EPT_A 0x100ull
#define EPT_D 0x200ull
#define EPT_SUPPRESS_VE BIT(63)
#define QUALIFICATION_SHSTK BIT(13)
enum { PML_ENTRIES = 512 };

static bool control(const struct cpu *cpu, uint32_t bit)
{
	return cpu->ctl->secondary & bit;
}

/* Levels below the root of a five-level EPT. Page sizes that are not offered make their bit a reserved one. */
#define LOWER_LEVELS(huge, large) \
	{ 39, 9, false, 0xf8, 0 }, { 30, 9, huge, huge ? 0x78 : 0xf8, 0x3ffff000 }, { 21, 9, large, large ? 0x78 : 0xf8, 0x1ff000 }, \
	{ 12, 9, false, 0, 0 }

static struct paging paging_ept(const struct cpu *cpu)
{
	const struct control_block *ctl = cpu->ctl;
	bool ad = ctl->eptp & EPTP_AD, huge = ctl->ept_caps & EPT_CAP_1G, large = ctl->ept_caps & EPT_CAP_2M;
	struct paging p = {
		.level = { LOWER_LEVELS(huge, large) }, .levels = 4, .entry_size = 8,
		.present = EPT_RWX | (control(cpu, SECONDARY_MBEC) ? EPT_USER_EXEC : 0),
		.reserved = cpu->reserved_pa, .accessed = ad ? EPT_A : 0, .dirty = ad ? EPT_D : 0, .ept = true };

	if ((ctl->eptp >> 3 & 7) == 4) {
		const struct level five[LEVELS] = { { 48, 9, false, 0xf8, 0 }, LOWER_LEVELS(huge, large) };

		memcpy(p.level, five, sizeof(five));
		p.levels = 5;
	}
	return p;
}

static const struct paging *paging_now(struct cpu *cpu)
{
	struct paging_memo *m = &cpu->tlbs->ept;
	uint64_t mode = (cpu->ctl->eptp & 0xfff) | (control(cpu, SECONDARY_MBEC) ? BIT(62) : 0) | BIT(63);

	if (m->mode != mode || m->caps != cpu->ctl->ept_caps || m->reserved != cpu->reserved_pa)
		*m = (struct paging_memo){ paging_ept(cpu), mode, cpu->ctl->ept_caps, cpu->reserved_pa };
	return &m->paging;
}

/* Write without read; execute only, unless it is offered; memory types of leaves that do not exist. */
bool ept_entry_bad(const struct cpu *cpu, uint64_t entry, bool leaf)
{
	uint64_t exec = ACCESS_EXEC | (control(cpu, SECONDARY_MBEC) ? EPT_USER_EXEC : 0);
	unsigned type = entry >> 3 & 7;

	if ((entry & (ACCESS_READ | ACCESS_WRITE)) == ACCESS_WRITE)
		return true;
	if (!(entry & ACCESS_READ) && (entry & exec) && !(cpu->ctl->ept_caps & EPT_CAP_EXEC_ONLY))
		return true;
	return leaf && (type == 2 || type == 3 || type == 7);
}

/* What the entries permit: under mode-based execute control fetches go by the linear address's mode. */
static unsigned rights_of(const struct cpu *cpu, const struct walk *w, uint64_t all)
{
	unsigned rights = all & EPT_RWX;

	if (control(cpu, SECONDARY_MBEC) && w->user_page)
		rights = (rights & ~ACCESS_EXEC) | (all & EPT_USER_EXEC ? ACCESS_EXEC : 0);
	return rights;
}

/* ---- violations ---- */

/* Advanced information: what the guest's own paging made of the linear address. */
static uint64_t advanced_information(const struct cpu *cpu, const struct walk *w)
{
	if (!(cpu->ctl->ept_caps & EPT_CAP_ADV_INFO))
		return 0;
	return (w->user_page ? BIT(9) : 0) | (w->writable_page ? BIT(10) : 0) | (w->nx_page ? BIT(11) : 0);
}

/* entry: the one that decides whether the violation may become a #VE; all: AND of the entries, 0 if one is not present. */
static enum walk_outcome violation(const struct cpu *cpu, struct walk *w, uint64_t gpa, unsigned access, bool structure,
                                   uint64_t entry, uint64_t all)
{
	w->fault_gpa = gpa;
	w->qualification = access | (all & EPT_RWX) << 3;
	if (control(cpu, SECONDARY_MBEC) && (all & EPT_USER_EXEC))
		w->qualification |= BIT(6);
	if (w->linear)
		w->qualification |= BIT(7) | (structure ? 0 : BIT(8) | advanced_information(cpu, w));
	if ((w->access & ACCESS_SHSTK) && !structure)
		w->qualification |= QUALIFICATION_SHSTK;
	w->convertible = !(entry & EPT_SUPPRESS_VE);
	return WALK_EPT_VIOLATION;
}

/* The virtualization-exception information area. */
struct ve_info { uint32_t reason, busy; uint64_t qualification, gla, gpa; uint16_t eptp_index; } __attribute__((packed));
_Static_assert(offsetof(struct ve_info, eptp_index) == 32, "layout of the area");

/* Not while an event is being delivered, nor before the guest's handler has said that it is done with the last one. */
static bool ve_possible(struct cpu *cpu, const struct walk *w)
{
	uint32_t busy = ~0u;

	if (!control(cpu, SECONDARY_EPT_VE) || !w->convertible || !(cpu->cr0 & CR0_PE) || cpu->delivering.valid)
		return false;
	return mem_read(cpu->mem, cpu->ctl->ve_info_gpa + offsetof(struct ve_info, busy), &busy, sizeof(busy)) && !busy;
}

static _Noreturn void ve_raise(struct cpu *cpu, const struct walk *w)
{
	const struct ve_info info = {
		.reason = EXIT_EPT_VIOLATION, .busy = ~0u, .qualification = w->qualification, .gla = w->linear ? w->addr : 0,
		.gpa = w->fault_gpa, .eptp_index = cpu->ctl->eptp_index };

	mem_write(cpu->mem, cpu->ctl->ve_info_gpa, &info, sizeof(info));
	cpu_raise(cpu, VEC_VE);
}

/* Access types of an APIC-access exit by guest-physical address: in the delivery of an event, and else. */
enum { APIC_PHYSICAL_EVENT = 10, APIC_PHYSICAL = 15 };

_Noreturn void ept_fail(struct cpu *cpu, const struct walk *w, enum walk_outcome outcome)
{
	bool unblocked = cpu->iret_unblocked_nmi && !cpu->delivering.valid;
	uint64_t nmi = unblocked ? INTR_INFO_NMI_UNBLOCK : 0;

	if (outcome == WALK_EPT_VIOLATION && ve_possible(cpu, w))
		ve_raise(cpu, w);
	if (outcome == WALK_APIC_ACCESS)
		cpu_vmexit(cpu, EXIT_APIC_ACCESS, (cpu->delivering.valid ? APIC_PHYSICAL_EVENT : APIC_PHYSICAL) << 12);
	if (outcome == WALK_PML_FULL)
		cpu_vmexit(cpu, EXIT_PML_FULL, nmi);
	cpu->vmexit.gpa = w->fault_gpa;
	cpu->vmexit.gla = w->linear ? w->addr : 0;
	if (outcome == WALK_SPP)
		cpu_vmexit(cpu, EXIT_SPP, w->qualification | nmi);
	if (outcome == WALK_EPT_MISCONFIG)
		cpu_vmexit(cpu, EXIT_EPT_MISCONFIG, 0);
	cpu_vmexit(cpu, EXIT_EPT_VIOLATION, w->qualification | nmi);
}

/* ---- accessed and dirty flags ---- */

static bool marks_missing(const struct paging *p, const struct trail *t, bool write)
{
	bool clean = write && !(t->entry[t->depth - 1] & p->dirty);

	return clean || !(t->all & p->accessed);
}

/* The log grows downwards. */
static void pml_append(struct cpu *cpu, uint64_t gpa)
{
	struct control_block *ctl = cpu->ctl;

	gpa &= PAGE_MASK_4K;
	mem_write(cpu->mem, ctl->pml_gpa + ctl->pml_index * sizeof(gpa), &gpa, sizeof(gpa));
	ctl->pml_index--;
}

/* With page-modification logging: no flag is set while the log is full, and a page that becomes dirty is logged. */
static enum step mark(struct cpu *cpu, struct walk *w, const struct paging *p, struct trail *t, uint64_t gpa, bool write)
{
	bool logging = control(cpu, SECONDARY_PML), clean = !(t->entry[t->depth - 1] & p->dirty);
	enum step step;

	if (logging && cpu->ctl->pml_index >= PML_ENTRIES && marks_missing(p, t, write)) {
		w->second = WALK_PML_FULL;
		return STEP_SECOND;
	}
	step = trail_mark(cpu, w, p, t, write);
	if (logging && step == STEP_OK && clean && (t->entry[t->depth - 1] & p->dirty))
		pml_append(cpu, gpa);
	return step;
}

/* ---- walks ---- */

/* The entries do not permit what is missing: perhaps the sub-page table does. */
static enum walk_outcome denied(struct cpu *cpu, struct walk *w, uint64_t gpa, unsigned missing, bool structure,
                                const struct trail *t)
{
	enum walk_outcome outcome = WALK_EPT_VIOLATION;

	if (missing == ACCESS_WRITE && !structure && spp_eligible(cpu, w, t, gpa))
		outcome = spp_walk(cpu, w, gpa);
	w->sub_page = outcome == WALK_OK;
	return outcome;
}

/* *rights: what the entries permit; *dirty: the leaf is marked dirty, or needs no mark. */
static enum walk_outcome ept_walk(struct cpu *cpu, struct walk *w, uint64_t gpa, unsigned access, bool structure, uint64_t *pa,
                                  unsigned *rights, bool *dirty)
{
	const struct paging *p = paging_now(cpu);
	uint64_t root = cpu->ctl->eptp & ADDR_MASK;
	struct trail t;
	enum step step;

	do {
		step = walk_levels(cpu, w, p, root, gpa, &t);
		*rights = rights_of(cpu, w, t.all);
		if (t.first && (step != STEP_OK || (access & ~*rights))) {
			w->whole = true;
			step = STEP_AGAIN;
			continue;
		}
		if (step == STEP_NOT_PRESENT)
			return violation(cpu, w, gpa, access, structure, t.entry[t.depth - 1], 0);
		if (step == STEP_RESERVED) {
			w->fault_gpa = gpa;
			return WALK_EPT_MISCONFIG;
		}
		if (!w->probe && (access & ~*rights)) {
			enum walk_outcome outcome = denied(cpu, w, gpa, access & ~*rights, structure, &t);

			if (outcome == WALK_EPT_VIOLATION)
				return violation(cpu, w, gpa, access, structure, t.entry[t.depth - 1], t.all);
			if (outcome != WALK_OK)
				return outcome;
		}
		if (!w->probe && p->accessed)
			step = mark(cpu, w, p, &t, gpa, access & ACCESS_WRITE);
		if (step == STEP_SECOND)
			return w->second;
	} while (step == STEP_AGAIN);
	walk_cache_note(cpu, w, p, root, gpa, &t);
	*pa = t.address;
	*dirty = !p->dirty || (t.entry[t.depth - 1] & p->dirty);
	return WALK_OK;
}

enum walk_outcome walk_physical(struct cpu *cpu, struct walk *w, uint64_t gpa, unsigned access, bool structure, uint64_t *pa)
{
	enum walk_outcome outcome;
	unsigned rights;
	bool dirty;

	*pa = gpa;
	if (!walk_has_ept(cpu))
		return WALK_OK;
	outcome = ept_walk(cpu, w, gpa, access, structure, pa, &rights, &dirty);
	return outcome == WALK_OK && !w->probe && walk_is_apic_access(cpu, *pa) ? WALK_APIC_ACCESS : outcome;
}

enum walk_outcome ept_walk_target(struct cpu *cpu, struct walk *w)
{
	enum walk_outcome outcome;
	unsigned rights;
	bool dirty;

	w->pa = w->gpa;
	if (!walk_has_ept(cpu))
		return WALK_OK;
	outcome = ept_walk(cpu, w, w->gpa, w->access & EPT_RWX, false, &w->pa, &rights, &dirty);
	if (outcome == WALK_OK) {
		w->rights &= rights;
		w->dirty = w->dirty && dirty;
	}
	return outcome;
}
