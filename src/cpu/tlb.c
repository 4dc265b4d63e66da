/*
 * cpu/tlb -- contexts of the software TLB, and translation on a miss.
 *
 * All memory is taken at creation; the kernel gives pages when a context is
 * first used. A context is chosen by everything that its entries depend on
 * except CR3: as on a processor, loading CR3 flushes a PCID or says not to.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include "cpu/tlb_set.h"
#include "cpu/walk.h"
#include "xlat/xlat.h"

/* A power of two from 64 to 65536. */
static uint64_t entries_of(uint64_t wanted)
{
	uint64_t n = 64;

	while (n < wanted && n < 65536)
		n *= 2;
	return n;
}

bool tlb_init(struct cpu *cpu)
{
	unsigned count = params.tlb_contexts < 2 ? 2 : params.tlb_contexts > TLB_CONTEXTS_MAX ? TLB_CONTEXTS_MAX : params.tlb_contexts;
	uint64_t entries = entries_of(params.tlb_entries), most = entries_of(params.tlb_entries_max);
	if (most < entries)
		most = entries;
	size_t size = count * most * (sizeof(struct tlb_entry) + sizeof(struct mem_code *) + 1);
	struct tlb_set *s = calloc(1, sizeof(*s) + count * sizeof(s->context[0]));
	uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (!s || memory == MAP_FAILED) {
		free(s);
		if (memory != MAP_FAILED)
			munmap(memory, size);
		return false;
	}
	s->count = count;
	s->total_allowed = params.tlb_entries_total;
	s->entries = entries;
	s->most = most;
	s->memory = memory;
	s->memory_size = size;
	for (unsigned i = 0; i < count; i++) {
		s->context[i].entries = (struct tlb_entry *)memory + i * most;
		s->context[i].code = (struct mem_code **)(memory + count * most * sizeof(struct tlb_entry)) + i * most;
		s->context[i].meta = memory + count * most * (sizeof(struct tlb_entry) + sizeof(struct mem_code *)) + i * most;
	}
	cpu->tlbs = s;
	cpu->code_tag = TLB_CODE_TAG;
	cpu->tlb_mask = (entries - 1) * sizeof(struct tlb_entry);
	return true;
}

void tlb_free(struct cpu *cpu)
{
	if (!cpu->tlbs)
		return;
	munmap(cpu->tlbs->memory, cpu->tlbs->memory_size);
	free(cpu->tlbs);
	cpu->tlbs = NULL;
}

void tlb_share(struct cpu *cpu, unsigned vcpus)
{
	struct tlb_set *s = cpu->tlbs;

	atomic_store(&s->total_allowed, params.tlb_entries_total * (vcpus + 1) / (2 * vcpus));  /* half as much again for each further one */
}

/* ---- choosing a context ---- */

/* cpl 3: user-mode accesses; override: EFLAGS.AC lifts SMAP from others. */
static uint32_t key_paging_bits(const struct cpu *cpu, unsigned cpl, bool override)
{
	uint32_t bits = TLB_PG;

	bits |= cpu->cr4 & CR4_PAE ? TLB_PAE : cpu->cr4 & CR4_PSE ? TLB_PSE : 0;
	bits |= cpu->cr4 & CR4_PGE ? TLB_PGE : 0;
	bits |= cpu->efer & EFER_NX ? TLB_NXE : 0;
	bits |= cpu->efer & EFER_LMA ? TLB_LMA : 0;
	if (cpl == 3)
		return bits | TLB_USER;
	bits |= cpu->cr0 & CR0_WP ? TLB_WP : 0;
	bits |= cpu->cr4 & CR4_SMEP ? TLB_SMEP : 0;
	if (cpu->cr4 & CR4_SMAP)
		bits |= TLB_SMAP | (override ? TLB_OVERRIDE : 0);
	return bits;
}

static struct tlb_key key_for(const struct cpu *cpu, unsigned cpl, bool override)
{
	bool paging = cpu->cr0 & CR0_PG;

	return (struct tlb_key){
		/* Of the pointer, all but the memory type matters. */
		.eptp = walk_has_ept(cpu) ? cpu->ctl->eptp & ~7ull : 0,
		.bits = (paging ? key_paging_bits(cpu, cpl, override) : 0) | (cpu->mode & MODE_WATCH ? TLB_WATCH : 0)
		      | (cpu->ctl->secondary & SECONDARY_MBEC ? TLB_MBEC : 0),
		.vpid = cpu->ctl->vpid,
		.pcid = paging && (cpu->cr4 & CR4_PCIDE) ? cpu->cr3 & 0xfff : 0 };
}

/* Gives the memory of c beyond n entries back to the host, for another context to take. */
static void context_trim(struct tlb_context *c, uint64_t n)
{
	uint64_t from = (uint64_t)(c->entries + n), size = (c->count - n) * sizeof(struct tlb_entry);

	if (!(from & 4095) && !(size & 4095))
		madvise((void *)from, size, MADV_DONTNEED);
}

/* Empties c and gives it n entries. */
static void context_size(struct tlb_set *s, struct tlb_context *c, uint64_t n)
{
	if (c->count > n)
		context_trim(c, n);
	s->total += n - c->count;
	for (uint64_t i = 0; i < n; i++)
		tlb_entry_clear(&c->entries[i]);
	memset(c->meta, 0, n);
	c->count = n;
	c->conflicts = 0;
	c->listed[TLB_LOCAL] = c->listed[TLB_GLOBAL] = 0;
}

/* Makes c, perhaps used for something else until now, an empty context. */
static void context_recycle(struct cpu *cpu, struct tlb_context *c, const struct tlb_key *key)
{
	struct tlb_set *s = cpu->tlbs;

	if (c == s->current)
		s->current = NULL;
	s->super = NULL;
	if (c->jumps)
		tlb_context_flush(cpu, c, false);
	if (c->count != s->entries)
		context_size(s, c, s->entries);
	c->key = s->key[c - s->context] = *key;
	c->own.id = ++s->last_id;
	c->walks = ++s->last_id;
	c->seen = s->drops;
	c->jumps = &c->own;
	tlb_context_changed(cpu, c);
}

static struct tlb_context **hint_of(struct tlb_set *s, const struct tlb_key *k)
{
	uint64_t h = (k->eptp ^ (uint64_t)k->vpid << 44 ^ (uint64_t)k->pcid << 32 ^ k->bits) * 0x9e3779b97f4a7c15ull;

	return &s->hint[(h >> 40) % TLB_HINTS];
}

static struct tlb_context *context_search(struct cpu *cpu, const struct tlb_key *key)
{
	struct tlb_set *s = cpu->tlbs;
	struct tlb_context *oldest = s->context;

	for (unsigned i = 0; i < s->used; i++) {
		if (tlb_key_equal(&s->key[i], key))
			return &s->context[i];
		if (s->context[i].last_use < oldest->last_use)
			oldest = &s->context[i];
	}
	if (s->used < s->count)
		oldest = &s->context[s->used++];
	context_recycle(cpu, oldest, key);
	return oldest;
}

static struct tlb_context *context_find(struct cpu *cpu, const struct tlb_key *key)
{
	struct tlb_context **hint = hint_of(cpu->tlbs, key);

	if (!*hint || !tlb_key_equal(&(*hint)->key, key))
		*hint = context_search(cpu, key);
	return *hint;
}

static void context_select(struct cpu *cpu, struct tlb_context *c)
{
	struct tlb_jumps *j = c->jumps;
	struct tlb_context *before = cpu->tlbs->current;

	for (unsigned i = 0; i < STACK_LANES; i++) {
		if (before)
			before->stack[i] = cpu->lane[LANE_STACK_READ + i];
		cpu->lane[LANE_STACK_READ + i] = c->stack[i];
	}
	cpu->tlbs->current = c;
	cpu->tlb = c->entries;
	cpu->tlb_key = c->lane_key;
	cpu->tlb_code = c->code;
	cpu->tlb_mask = (c->count - 1) * sizeof(struct tlb_entry);
	/* A shared domain may have become another one's since c was last here. */
	if (tlb_shares_jumps(&c->key) && (j == &c->own || j->key.eptp != c->key.eptp || j->key.bits != c->key.bits || j->key.vpid != c->key.vpid))
		c->jumps = tlb_jumps_find(cpu, &c->key, &c->own);
	if (c->seen != cpu->tlbs->drops || c->jumps->seen != cpu->tlbs->drops)
		tlb_context_catch_up(cpu, c);
}

void tlb_context_update(struct cpu *cpu)
{
	struct tlb_set *s = cpu->tlbs;
	struct tlb_key key = key_for(cpu, cpu->cpl, cpu->rflags & RFLAGS_AC);

	if (!s->current || !tlb_key_equal(&s->current->key, &key))
		context_select(cpu, context_find(cpu, &key));
	s->super = NULL;
	s->current->last_use = s->current->jumps->last_use = ++s->clock;
	if (cpu->engine)
		engine_jump_cache_select(cpu, s->current->jumps->id);
}

/* Whose entries are for implicit supervisor accesses: those that ring 3 makes, too, and those that EFLAGS.AC does not lift SMAP from. */
static struct tlb_context *super_context(struct cpu *cpu)
{
	struct tlb_set *s = cpu->tlbs;
	struct tlb_context *c = s->super;
	struct tlb_key key;

	if (!c) {
		key = key_for(cpu, 0, false);
		c = s->current->key.bits & (TLB_USER | TLB_OVERRIDE) ? context_find(cpu, &key) : s->current;
		c->last_use = ++s->clock;
		s->super = c;
	}
	if (c->seen != s->drops)
		tlb_context_catch_up(cpu, c);
	return c;
}

const struct tlb_entry *tlb_super_entry(struct cpu *cpu, uint64_t addr)
{
	const struct tlb_context *c = super_context(cpu);

	return &c->entries[tlb_index(c, addr)];
}

bool tlb_jump_note(struct cpu *cpu, uint64_t addr)
{
	struct tlb_context *c = cpu->tlbs->current;
	unsigned index = tlb_index(c, addr), meta = c->meta[index];

	if (c->entries[index].exec_tag != TLB_PAGE(addr) || (c->jumps != &c->own && !(meta & META_GLOBAL)))
		return false;
	tlb_jumps_note(c->jumps, addr, meta & META_HUGE ? 30 : meta & META_LARGE ? tlb_large_shift(&c->key) : 12);
	return true;
}

/* ---- filling entries ---- */

static bool slot_is_logged_clean(const struct mem_slot *slot, uint64_t pa)
{
	uint64_t page = (pa - slot->gpa) >> 12;

	return slot->dirty && !(slot->dirty[page / 64] & BIT(page % 64));
}

/* Says that this vCPU is about to hold an entry for writing: see struct mem_code. */
static void page_hold(struct mem_code *code, uint64_t holder)
{
	if (!(atomic_load(&code->holders) & holder))
		atomic_fetch_or(&code->holders, holder);
}

/* The tag for stores to a page that the guest may write to. */
static uint64_t write_tag(const struct cpu *cpu, const struct mem_slot *slot, uint64_t pa, uint64_t page)
{
	struct mem_code *code = mem_slot_code(slot, pa);

	if (slot->flags & MEM_SLOT_READONLY || slot_is_logged_clean(slot, pa))
		return tlb_no_write(page);
	if (!atomic_load(&code->granules)) {
		page_hold(code, MEM_HOLDS_PAGE(cpu->index));
		if (!atomic_load(&code->granules))
			return page;
	}
	page_hold(code, MEM_HOLDS_BESIDE(cpu->index));
	return tlb_code_write(page);
}

static void context_list(struct tlb_context *c, unsigned class, unsigned index)
{
	if (c->meta[index] & META_LISTED << class)
		return;
	c->meta[index] |= META_LISTED << class;
	if (c->listed[class] < TLB_LISTED)
		c->list[class][c->listed[class]] = index;
	if (c->listed[class] <= TLB_LISTED)
		c->listed[class]++;
}

static void context_note(struct tlb_context *c, const struct walk *w, unsigned index)
{
	uint8_t meta = w->global ? META_GLOBAL : 0;

	if (w->shift > 22) {
		meta |= META_HUGE;
		c->huge |= BIT(tlb_hash(w->addr >> 30) & 63);
	} else if (w->shift > 12) {
		unsigned hash = tlb_hash(w->addr >> tlb_large_shift(&c->key));

		meta |= META_LARGE;
		c->large[hash / 64] |= BIT(hash % 64);
	}
	context_list(c, w->global ? TLB_GLOBAL : TLB_LOCAL, index);
	c->meta[index] = meta | (c->meta[index] & (META_LISTED | META_LISTED_GLOBAL));
}

/* May c have so many entries more? Takes them from contexts that were not used for longer. */
static bool room_for(struct cpu *cpu, const struct tlb_context *c, uint64_t more)
{
	struct tlb_set *s = cpu->tlbs;
	uint64_t allowed = atomic_load(&s->total_allowed);

	while (s->total + more > allowed) {
		struct tlb_context *oldest = NULL;

		for (struct tlb_context *o = s->context; o < s->context + s->used; o++)
			if (o != c && o != s->current && o->count > s->entries && (!oldest || o->last_use < oldest->last_use))
				oldest = o;
		if (!oldest)
			return false;
		context_size(s, oldest, s->entries);
		tlb_context_changed(cpu, oldest);
	}
	return true;
}

/*
 * More entries were pushed out since the last flush than there are: the
 * working set does not fit. Execute entries go too, but jump targets need not:
 * their pages are still mapped.
 */
static void context_grow(struct cpu *cpu, struct tlb_context *c)
{
	struct tlb_set *s = cpu->tlbs;
	uint64_t n = c->count * 4 < s->most ? c->count * 4 : s->most;

	if (++c->conflicts <= c->count || c->count >= s->most || !room_for(cpu, c, n - c->count))
		return;
	context_size(s, c, n);
	if (c == s->current)
		cpu->tlb_mask = (c->count - 1) * sizeof(struct tlb_entry);
}

/*
 * Execute permission enters only by a fetch, so that the engine hears of each
 * page it must compare with its translations.
 */
static void tlb_install(struct cpu *cpu, struct tlb_context *c, const struct walk *w, const struct mem_slot *slot)
{
	struct tlb_entry *e = &c->entries[tlb_index(c, w->addr)], new;
	uint64_t page = TLB_PAGE(w->addr), host = (uint64_t)mem_slot_host(slot, TLB_PAGE(w->pa));
	bool watched = c->key.bits & TLB_WATCH, kept = e->exec_tag == page && e->host == host;
	bool exec = (w->rights & ACCESS_EXEC) && ((w->access & ACCESS_EXEC) || kept);

	/* State and context may disagree while a rule is changing privilege: then remember nothing. */
	if (!!(c->key.bits & TLB_USER) != (w->user && (c->key.bits & TLB_PG)) || !!(c->key.bits & TLB_PG) != !!(cpu->cr0 & CR0_PG))
		return;
	new.read_tag = (w->rights & ACCESS_READ) && !watched ? page : TLB_NO_TAG;
	new.write_tag = new.read_tag != TLB_NO_TAG && (w->rights & ACCESS_WRITE) && w->dirty ? write_tag(cpu, slot, w->pa, page) : tlb_no_write(page);
	new.exec_tag = exec ? page : TLB_NO_TAG;
	new.host = host;
	if (tlb_entry_page(&new) == TLB_NO_TAG)
		return;
	if (tlb_entry_page(e) != TLB_NO_TAG && tlb_entry_page(e) != page) {
		context_grow(cpu, c);
		e = &c->entries[tlb_index(c, w->addr)];
	}
	context_note(c, w, e - c->entries);
	*e = new;
	c->code[e - c->entries] = mem_slot_code(slot, w->pa);
	if (w->access & ACCESS_EXEC && cpu->engine)
		engine_exec_mapped(cpu, w->pa);
}

static struct walk walk_of(const struct cpu *cpu, uint64_t addr, unsigned access)
{
	return (struct walk){ .addr = cpu->efer & EFER_LMA ? addr : (uint32_t)addr, .access = access,
	                      .user = (cpu->cpl == 3 && !(access & ACCESS_SUPER)) || (access & ACCESS_USER), .linear = true };
}

struct translation tlb_translate(struct cpu *cpu, uint64_t addr, unsigned access)
{
	return tlb_translate_sized(cpu, addr, access, 1);
}

struct translation tlb_translate_sized(struct cpu *cpu, uint64_t addr, unsigned access, unsigned size)
{
	struct walk w = walk_of(cpu, addr, access);
	enum walk_outcome outcome;
	struct translation t = { 0 };

	w.size = size;
	outcome = walk_linear(cpu, &w);
	cpu_count(cpu, STAT_tlb_misses);
	if (outcome != WALK_OK) {
		tlb_context_changed(cpu, cpu->tlbs->current);    /* a fault forgets what it is about */
		walk_fail(cpu, &w, outcome);
	}
	t.gpa = w.pa;
	t.sub_page = w.sub_page;
	if (unlikely(walk_is_apic_access(cpu, w.pa))) {
		if (access & ACCESS_EXEC)
			cpu_vmexit(cpu, EXIT_APIC_ACCESS, (w.pa & 0xfff) | 2 << 12);
		t.apic_access = true;
		return t;
	}
	t.slot = mem_slot_find(cpu->mem, w.pa);
	if (!t.slot || ((access & ACCESS_WRITE) && (t.slot->flags & MEM_SLOT_READONLY)))
		return t;
	t.host = mem_slot_host(t.slot, w.pa);
	if (access & ACCESS_WRITE)
		mem_mark_dirty(t.slot, w.pa);
	if (!(access & ACCESS_SHSTK))
		tlb_install(cpu, access & ACCESS_SUPER ? super_context(cpu) : cpu->tlbs->current, &w, t.slot);
	return t;
}

bool tlb_probe(struct cpu *cpu, uint64_t addr, uint64_t *gpa, bool *writable, bool *user)
{
	struct walk w = walk_of(cpu, addr, ACCESS_READ | ACCESS_SUPER);

	w.probe = true;
	if (walk_linear(cpu, &w) != WALK_OK)
		return false;
	*gpa = w.pa;
	*writable = w.writable_page;
	*user = w.user_page;
	return true;
}

void tlb_read_gpa(struct cpu *cpu, uint64_t gpa, void *to, unsigned size)
{
	struct walk w = { .access = ACCESS_READ };
	enum walk_outcome outcome = walk_physical(cpu, &w, gpa, ACCESS_READ, true, &gpa);

	if (outcome != WALK_OK)
		walk_fail(cpu, &w, outcome);
	if (!mem_read(cpu->mem, gpa, to, size))
		memset(to, 0xff, size);
}
