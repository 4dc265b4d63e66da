/*
 * cpu/walk -- the page walker. A paging mode is an array of levels; one loop
 * serves 2-level, PAE and 4-level paging and EPT (ept.c). Under EPT each entry
 * of the guest's structures is reached by a walk of its own.
 *
 * Accessed and dirty flags are set after all checks have passed, by compare
 * and exchange with the entry that was checked; if another processor changed
 * it meanwhile, the whole walk is made again.
 */
#include "cpu/tlb_set.h"
#include "x86/features.h"

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX BIT(63)

/* ---- the modes ---- */

static struct paging paging_2level(const struct cpu *cpu)
{
	unsigned width = cpu->maxphyaddr < 40 ? cpu->maxphyaddr : 40;

	/* A 4 MiB page keeps address bits 39:32 in bits 20:13; those beyond the physical width are reserved, as is bit 21. */
	return (struct paging){
		.level = { { 22, 10, cpu->cr4 & CR4_PSE, 0, (BIT(22) - 1) & ~(BIT(width - 19) - 1) }, { 12, 10, false, 0, 0 } },
		.levels = 2, .entry_size = 4, .present = PTE_P, .accessed = PTE_A, .dirty = PTE_D };
}

static uint64_t reserved_nx(const struct cpu *cpu)
{
	return cpu->efer & EFER_NX ? 0 : PTE_NX;
}

static struct paging paging_pae(const struct cpu *cpu)
{
	return (struct paging){
		.level = { { 21, 9, true, 0, 0x1fe000 }, { 12, 9, false, 0, 0 } },
		.levels = 2, .entry_size = 8, .present = PTE_P, .accessed = PTE_A, .dirty = PTE_D,
		.reserved = cpu->reserved_pa | (BIT(63) - BIT(52)) | reserved_nx(cpu) };
}

static struct paging paging_4level(const struct cpu *cpu)
{
	bool huge = cpu_has(cpu, FEATURE_PAGE1GB);

	return (struct paging){
		.level = { { 39, 9, false, PTE_PS, 0 }, { 30, 9, huge, huge ? 0 : PTE_PS, 0x3fffe000 }, { 21, 9, true, 0, 0x1fe000 },
		           { 12, 9, false, 0, 0 } },
		.levels = 4, .entry_size = 8, .present = PTE_P, .accessed = PTE_A, .dirty = PTE_D,
		.reserved = cpu->reserved_pa | reserved_nx(cpu) };
}

static const struct paging *paging_now(struct cpu *cpu)
{
	struct paging_memo *m = &cpu->tlbs->linear;
	uint64_t mode = (cpu->cr4 & (CR4_PAE | CR4_PSE)) | (cpu->efer & (EFER_LMA | EFER_NX)) | BIT(63);

	mode |= cpu_has(cpu, FEATURE_PAGE1GB) ? BIT(62) : 0;
	if (m->mode != mode || m->reserved != cpu->reserved_pa) {
		m->paging = cpu->efer & EFER_LMA ? paging_4level(cpu) : cpu->cr4 & CR4_PAE ? paging_pae(cpu) : paging_2level(cpu);
		m->mode = mode;
		m->reserved = cpu->reserved_pa;
	}
	return &m->paging;
}

/* ---- entries in memory ---- */

/* Host address of a paging-structure entry, NULL where no slot is. ro: it may not be written. */
static void *entry_host(struct cpu *cpu, uint64_t pa, bool *ro)
{
	const struct mem_slot *slot = mem_slot_find(cpu->mem, pa);

	*ro = slot && (slot->flags & MEM_SLOT_READONLY);
	return slot ? mem_slot_host(slot, pa) : NULL;
}

/* Addresses that nobody answers read as ones. */
static uint64_t entry_load(const void *host, unsigned size)
{
	if (!host)
		return size == 4 ? 0xffffffffu : ~0ull;
	return size == 4 ? *(const volatile uint32_t *)host : *(const volatile uint64_t *)host;
}

static bool entry_exchange(void *host, unsigned size, uint64_t old, uint64_t new)
{
	if (size == 4) {
		uint32_t expect = old;

		return __atomic_compare_exchange_n((uint32_t *)host, &expect, (uint32_t)new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	return __atomic_compare_exchange_n((uint64_t *)host, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* ---- one walk through one set of structures ---- */

static uint64_t leaf_address(const struct paging *p, const struct level *l, uint64_t entry, uint64_t addr)
{
	uint64_t offset = BIT(l->shift) - 1;

	if (p->entry_size == 4 && l->shift > 12)
		return (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32 | (addr & offset);
	return (entry & ADDR_MASK & ~offset) | (addr & offset);
}

static enum step step_of(struct walk *w, enum walk_outcome outcome)
{
	w->second = outcome;
	return outcome == WALK_OK ? STEP_OK : STEP_SECOND;
}

static enum step structure_address(struct cpu *cpu, struct walk *w, const struct paging *p, uint64_t gpa, uint64_t *pa)
{
	unsigned access = ACCESS_READ | (cpu->ctl->eptp & EPTP_AD ? ACCESS_WRITE : 0);

	*pa = gpa;
	return p->ept ? STEP_OK : step_of(w, walk_physical(cpu, w, gpa, access, true, pa));
}

/* Host address of the entry at guest-physical (EPT: physical) address gpa of the structure t->last. */
static enum step entry_find(struct cpu *cpu, struct walk *w, const struct paging *p, uint64_t gpa, struct trail *t, const void **host)
{
	uint64_t pa;
	enum step step;
	uint8_t *at;
	bool ro;

	if (t->last.host) {
		*host = t->last.host + (gpa & 4095);
		return STEP_OK;
	}
	step = structure_address(cpu, w, p, gpa, &pa);
	if (step != STEP_OK)
		return step;
	*host = at = entry_host(cpu, pa, &ro);
	t->last.host = ro || !at ? NULL : at - (gpa & 4095);     /* for the flags: writes to ROM have no effect */
	return STEP_OK;
}

/* The entry of level i. Sets the trail's depth. */
static enum step level_read(struct cpu *cpu, struct walk *w, const struct paging *p, unsigned i, uint64_t table, uint64_t addr,
                            struct trail *t)
{
	const struct level *l = &p->level[i];
	uint64_t gpa = table + (addr >> l->shift & (BIT(l->bits) - 1)) * p->entry_size;
	const void *host;
	enum step step = entry_find(cpu, w, p, gpa, t, &host);

	if (step != STEP_OK)
		return step;
	t->last.table = table;
	t->last.all = t->all;
	t->last.any = t->any;
	t->host[i] = t->last.host ? t->last.host + (gpa & 4095) : NULL;
	t->entry[i] = entry_load(host, p->entry_size);
	t->gpa[i] = gpa;
	t->depth = i + 1;
	return STEP_OK;
}

enum step walk_levels(struct cpu *cpu, struct walk *w, const struct paging *p, uint64_t table, uint64_t addr, struct trail *t)
{
	walk_cache_begin(cpu, w, p, addr, &table, t);
	for (unsigned i = t->first; i < p->levels; i++) {
		const struct level *l = &p->level[i];
		enum step step = level_read(cpu, w, p, i, table, addr, t);
		uint64_t entry;
		bool leaf;

		if (step != STEP_OK)
			return step;
		entry = t->entry[i];
		if (!(entry & p->present))
			return STEP_NOT_PRESENT;
		leaf = i + 1 == p->levels || (l->large && (entry & PTE_PS));
		if (entry & (p->reserved | (i + 1 == p->levels ? 0 : leaf ? l->reserved_large : l->reserved_table)))
			return STEP_RESERVED;
		if (p->ept && ept_entry_bad(cpu, entry, leaf))
			return STEP_RESERVED;
		t->all &= entry;
		t->any |= entry;
		if (leaf) {
			t->shift = l->shift;
			t->address = leaf_address(p, l, entry, addr);
			return STEP_OK;
		}
		table = entry & (p->entry_size == 4 ? 0xfffff000 : ADDR_MASK);
		t->last.host = NULL;
	}
	return STEP_NOT_PRESENT;                 /* not reached: the last level is a leaf */
}

enum step trail_mark(struct cpu *cpu, struct walk *w, const struct paging *p, struct trail *t, bool write)
{
	for (unsigned i = t->first; i < t->depth; i++) {
		uint64_t want = p->accessed | (write && i + 1 == t->depth ? p->dirty : 0), pa = t->gpa[i];

		if ((t->entry[i] & want) == want)
			continue;
		/* An update is a write of the structure, which EPT may forbid where it allowed the read. */
		if (!p->ept) {
			enum step step = step_of(w, walk_physical(cpu, w, pa, ACCESS_READ | ACCESS_WRITE, true, &pa));

			if (step != STEP_OK)
				return step;
		}
		if (!t->host[i])
			continue;
		if (!entry_exchange(t->host[i], p->entry_size, t->entry[i], t->entry[i] | want))
			return STEP_AGAIN;
		mem_mark_dirty(mem_slot_find(cpu->mem, pa), pa);
		t->entry[i] |= want;
	}
	return STEP_OK;
}

/* ---- the guest's own paging ---- */

static unsigned rights_of(const struct cpu *cpu, const struct walk *w, bool user_page, bool writable, bool nx)
{
	bool smap_override = (cpu->rflags & RFLAGS_AC) && !(w->access & ACCESS_SUPER);
	unsigned rights = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;

	if (w->user && !user_page)
		return 0;
	if (!writable && (w->user || (cpu->cr0 & CR0_WP)))
		rights &= ~ACCESS_WRITE;
	if (nx || (!w->user && user_page && (cpu->cr4 & CR4_SMEP)))
		rights &= ~ACCESS_EXEC;
	if (!w->user && user_page && (cpu->cr4 & CR4_SMAP) && !smap_override)
		rights &= ~(ACCESS_READ | ACCESS_WRITE);
	return rights;
}

/* A page of a shadow stack: it alone lacks R/W, and is dirty all the same. Supervisor and user have their own ones. */
static unsigned shadow_rights(const struct walk *w, const struct trail *t)
{
	uint64_t leaf = t->entry[t->depth - 1];
	bool shadow = (t->last.all & PTE_W) && (leaf & (PTE_W | PTE_D)) == PTE_D;

	return shadow && w->user == w->user_page ? ACCESS_READ | ACCESS_WRITE : 0;
}

static enum walk_outcome page_fault(const struct cpu *cpu, struct walk *w, uint32_t why)
{
	bool fetch_known = (cpu->cr4 & CR4_SMEP) || ((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NX));

	w->error = why | (w->access & ACCESS_WRITE ? PF_W : 0) | (w->user ? PF_U : 0)
	         | ((w->access & ACCESS_EXEC) && fetch_known ? PF_I : 0) | (w->access & ACCESS_SHSTK ? PF_SS : 0);
	return WALK_PAGE_FAULT;
}

static enum walk_outcome walk_outcome_of(const struct cpu *cpu, struct walk *w, enum step step)
{
	switch (step) {
	case STEP_NOT_PRESENT: return page_fault(cpu, w, 0);
	case STEP_RESERVED: return page_fault(cpu, w, PF_P | PF_RSVD);
	case STEP_SECOND: return w->second;
	default: return WALK_OK;
	}
}

static enum step walk_again(struct walk *w)
{
	w->whole = true;
	return STEP_AGAIN;
}

/* One attempt; STEP_AGAIN when an entry changed under it, or is to be looked at from the root. */
static enum step walk_paged(struct cpu *cpu, struct walk *w, const struct paging *p, uint64_t root, enum walk_outcome *outcome)
{
	unsigned wanted = w->access & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC);
	struct trail t;
	enum step step = walk_levels(cpu, w, p, root, w->addr, &t);

	if (t.first && (step == STEP_NOT_PRESENT || step == STEP_RESERVED))
		return walk_again(w);
	*outcome = walk_outcome_of(cpu, w, step);
	if (step != STEP_OK)
		return step;
	w->user_page = t.all & PTE_U;
	w->writable_page = t.all & PTE_W;
	w->nx_page = p->entry_size == 8 && (t.any & PTE_NX);
	w->rights = w->access & ACCESS_SHSTK ? shadow_rights(w, &t) : rights_of(cpu, w, w->user_page, w->writable_page, w->nx_page);
	if (!w->probe && (wanted & ~w->rights) && t.first)
		return walk_again(w);
	if (!w->probe && (wanted & ~w->rights)) {
		*outcome = page_fault(cpu, w, PF_P);
		return STEP_OK;
	}
	if (!w->probe) {
		step = trail_mark(cpu, w, p, &t, w->access & ACCESS_WRITE);
		*outcome = walk_outcome_of(cpu, w, step);
		if (step != STEP_OK)
			return step;
		walk_cache_note(cpu, w, p, root, w->addr, &t);
	}
	w->gpa = t.address;
	w->shift = t.shift;
	w->dirty = t.entry[t.depth - 1] & PTE_D;
	w->global = (cpu->cr4 & CR4_PGE) && (t.entry[t.depth - 1] & PTE_G);
	*outcome = ept_walk_target(cpu, w);
	return STEP_OK;
}

static enum walk_outcome walk_unpaged(struct cpu *cpu, struct walk *w)
{
	w->gpa = w->addr;
	w->rights = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
	w->dirty = w->user_page = w->writable_page = true;
	w->global = w->nx_page = false;
	w->shift = 12;
	return ept_walk_target(cpu, w);
}

enum walk_outcome walk_linear(struct cpu *cpu, struct walk *w)
{
	uint64_t root = cpu->cr3 & ADDR_MASK;
	enum walk_outcome outcome;
	const struct paging *p;

	if (!(cpu->cr0 & CR0_PG))
		return walk_unpaged(cpu, w);
	p = paging_now(cpu);
	if (!(cpu->cr4 & CR4_PAE)) {
		root = cpu->cr3 & 0xfffff000;
	} else if (!(cpu->efer & EFER_LMA)) {
		uint64_t pdpte = cpu->pdptr[w->addr >> 30 & 3];

		if (!(pdpte & PTE_P))
			return page_fault(cpu, w, 0);
		root = pdpte & ADDR_MASK;
	}
	while (walk_paged(cpu, w, p, root, &outcome) == STEP_AGAIN)
		;
	return outcome;
}

_Noreturn void walk_fail(struct cpu *cpu, const struct walk *w, enum walk_outcome outcome)
{
	if (outcome == WALK_PAGE_FAULT)
		cpu_raise_page_fault(cpu, w->addr, w->error);
	ept_fail(cpu, w, outcome);
}
