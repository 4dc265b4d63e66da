/*
 * What translated code calls for a memory operand: the slow way of a fast
 * access (TLB miss), and the two halves of a careful one. info is made in
 * memory.c: size, access, segment, what is to be checked first.
 */
#include "xlat/internal.h"

static unsigned info_size(uint64_t info) { return info & 0xffff; }
static unsigned info_access(uint64_t info) { return info >> 16 & 0xff; }
static enum seg info_seg(uint64_t info) { return info >> 24 & 0xf; }
static bool info_aligned(uint64_t info) { return info >> 36 & 1; }
static bool info_x87_wait(uint64_t info) { return info >> 37 & 1; }

/* A pending x87 exception comes before any fault of the operand. */
static void check_x87(struct cpu *cpu, bool waits)
{
	uint16_t fsw;
	if (!waits)
		return;
	asm volatile("fnstsw %0" : "=m"(fsw));
	if (fsw & 0x80 && cpu->cr0 & CR0_NE)
		cpu_raise(cpu, VEC_MF);
}

/* So does misalignment of an operand that must be aligned. */
static void check_aligned(struct cpu *cpu, bool aligned, uint64_t addr, unsigned size)
{
	if (aligned && addr & (size - 1))
		cpu_raise_gp(cpu);
}

/* Leaves the block; the engine's loop goes on at rip. */
static _Noreturn void leave_block(struct cpu *cpu)
{
	cpu->leave_why = CPU_EXIT_NONE;
	__builtin_longjmp(cpu->unwind, 1);
}

/* Leaves the block: the instruction at rip is to be run as a careful translation. */
_Noreturn void be_careful(struct cpu *cpu)
{
	cpu->engine->want_careful = true;
	leave_block(cpu);
}

static bool is_ram(struct translation t) { return t.host && t.slot && !t.apic_access && !t.sub_page; }

/* Host address of addr if the TLB allows the access without further ado, else NULL. */
static uint8_t *tlb_hit(const struct cpu *cpu, uint64_t addr, bool write)
{
	const struct tlb_entry *e = tlb_entry_at(cpu->tlb, cpu->tlb_mask, addr);
	return (write ? e->write_tag : e->read_tag) == (addr & ~4095ull) ? (uint8_t *)e->host + (addr & 4095) : NULL;
}

/*
 * Both pages are in the TLB: if they lie together in the client's memory, too, the access is one like any other; else gathers the
 * operand into the bounce buffer, and site_commit() scatters it. false: they are not.
 */
static bool slow_cross(struct cpu *cpu, const struct access_site *site, uint64_t addr, uint64_t second)
{
	bool write = site->access & ACCESS_WRITE;
	unsigned len = 4096 - (addr & 4095);
	uint8_t *first = tlb_hit(cpu, addr, write), *rest = tlb_hit(cpu, second, write);
	uint8_t *bounce = cpu->bounce[0] + (addr & 63);
	if (!first || !rest || site->locked)
		return false;
	if (rest == first + len) {
		cpu->slow_result = (uintptr_t)first;
		cpu->spill[SPILL_TARGET] = (uintptr_t)site->back;
		return true;
	}
	if (write && !site->copy)
		return false;
	if (site->access & ACCESS_READ) {
		memcpy(bounce, first, len);
		memcpy(bounce + len, rest, site->size - len);
	}
	cpu->engine->cross = (struct crossing){ write, first, rest, bounce, len, site->size - len };
	cpu->slow_result = (uintptr_t)bounce;
	cpu->spill[SPILL_TARGET] = (uintptr_t)(write ? site->copy : site->back);
	return true;
}

/* An access over two pages of RAM, or a store to the block that runs: works through access_begin(), commits afterwards. */
static void slow_bounce(struct cpu *cpu, const struct access_site *site, uint64_t addr)
{
	bool write = site->access & ACCESS_WRITE;
	if (site->locked || (write && !site->copy))
		be_careful(cpu);
	cpu->engine->cross.open = false;
	cpu->slow_result = (uintptr_t)access_begin(cpu, 0, addr, site->size, site->access);
	cpu->spill[SPILL_TARGET] = (uintptr_t)(write ? site->copy : site->back);
}

/* The whole span counts as stored to. */
static uint8_t *window_beside_code(struct cpu *cpu, const struct access_site *site, uint64_t start)
{
	return site->window_write && site->beside ? access_beside_code(cpu, start, site->span) : NULL;
}

/* A store to a page with code, in a block that it leaves alone: does it go straight there? */
static bool slow_beside_code(struct cpu *cpu, const struct access_site *site, uint64_t addr)
{
	uint8_t *host = site->access & ACCESS_WRITE ? access_beside_code(cpu, addr, site->size) : NULL;
	if (!host || !site->block->valid)
		return false;
	cpu->slow_result = (uintptr_t)host;
	cpu->spill[SPILL_TARGET] = (uintptr_t)site->beside;
	return true;
}

/*
 * The lead of a window missed the TLB: its own access is translated as any
 * other, then the whole span must be in that page with the rights that the
 * members need, or the block goes on without windows. Where none is known yet
 * (a table), the span is only looked at: what the access raises, it raises
 * without windows.
 */
static void slow_window(struct cpu *cpu, const struct access_site *site)
{
	uint64_t start = cpu->slow_addr, addr = start + site->before;
	cpu->spill[SPILL_TARGET] = (uintptr_t)site->copy;
	if ((addr & 4095) + site->size > 4096 || (start & 4095) + site->span > 4096 || !cpu_canonical(cpu, start))
		return;
	if (site->access) {
		check_x87(cpu, site->x87_wait);
		check_aligned(cpu, site->aligned, addr, site->size);
	}
	uint8_t *beside = window_beside_code(cpu, site, start), *host = NULL;
	if (!beside) {
		if (site->access)
			tlb_translate(cpu, addr, site->access);
		host = tlb_hit(cpu, start, site->window_write);
	}
	if (!beside && !host)
		beside = window_beside_code(cpu, site, start);
	if ((!host && !beside) || !site->block->valid)
		return;
	cpu->slow_result = (uintptr_t)(host ? host : beside) - start;
	cpu->spill[SPILL_TARGET] = (uintptr_t)(host ? site->back : site->beside);
}

/*
 * A TLB miss. RAM inside one page whose stores need no notice: the host
 * address. What devices answer is left to a careful translation.
 */
void slow_access(struct cpu *cpu, struct access_site *site)
{
	uint64_t addr = cpu->slow_addr, second = (addr | 4095) + 1;
	struct engine *en = cpu->engine;
	cpu_count(cpu, STAT_slow_accesses);
	cpu->rip = site->rip;
	en->slow_insn.len = site->length;
	cpu->cur_insn = &en->slow_insn;
	if (site->window) {
		cpu_count(cpu, STAT_slow_windows);
		slow_window(cpu, site);
		return;
	}
	check_x87(cpu, site->x87_wait);
	if (cpu_code64(cpu) && !(cpu_canonical(cpu, addr) && cpu_canonical(cpu, addr + site->size - 1)))
		be_careful(cpu);
	check_aligned(cpu, site->aligned, addr, site->size);
	if ((addr & 4095) + site->size > 4096) {
		cpu_count(cpu, STAT_slow_crossings);
		if (!cpu_code64(cpu) && second >> 32)            /* past the limit */
			be_careful(cpu);
		if (slow_cross(cpu, site, addr, second))
			return;
		if (!is_ram(tlb_translate(cpu, addr, site->access)) || !is_ram(tlb_translate(cpu, second, site->access)))
			be_careful(cpu);
		slow_bounce(cpu, site, addr);
		return;
	}
	if (slow_beside_code(cpu, site, addr))
		return;
	struct translation t = tlb_translate_sized(cpu, addr, site->access, site->size);
	if (!is_ram(t))
		be_careful(cpu);
	if (slow_beside_code(cpu, site, addr))
		return;
	if (site->access & ACCESS_WRITE && (atomic_load(&mem_slot_code(t.slot, t.gpa)->granules) || !site->block->valid)) {
		cpu_count(cpu, STAT_slow_code_stores);
		slow_bounce(cpu, site, addr);
		return;
	}
	cpu->slow_result = (uintptr_t)t.host;
	cpu->spill[SPILL_TARGET] = (uintptr_t)site->back;
}

/* Has an unmasked invalid operation, overflow or underflow kept an x87 store from storing? */
static bool x87_stored_nothing(void)
{
	uint16_t fsw, fcw;
	asm volatile("fnstsw %0; fnstcw %1" : "=m"(fsw), "=m"(fcw));
	return fsw & ~fcw & 0x19;
}

/* Ends a store that went through careful_begin(), slow_cross() or slow_bounce(). If it hit the block that runs, the rest of it is not to be run. */
void site_commit(struct cpu *cpu, uint64_t arg)
{
	const struct access_site *site = (const struct access_site *)arg;
	struct crossing *x = &cpu->engine->cross;
	if (site->x87_wait && x87_stored_nothing()) {
		x->open = false;
		return;
	}
	if (x->open) {
		memcpy(x->first, x->bounce, x->first_len);
		memcpy(x->rest, x->bounce + x->first_len, x->rest_len);
		x->open = false;
		return;
	}
	access_commit(cpu, 0);
	if (cpu->exclusive)
		cpu->ops->exclusive_end(cpu);
	if (site->block->mode & (XMODE_ONE | MODE_STEP) || (site->block->valid && !cpu->bus_locked))
		return;
	cpu->io.nreads = cpu->io.next = 0;
	cpu->rip = site->next;
	leave_block(cpu);
}

void careful_begin(struct cpu *cpu, uint64_t info)
{
	unsigned size = info_size(info), access = info_access(info);
	cpu->engine->cross.open = false;
	check_x87(cpu, info_x87_wait(info));
	uint64_t addr = seg_linear(cpu, info_seg(info), cpu->slow_addr, size, access);
	check_aligned(cpu, info_aligned(info), addr, size);
	if (access & ACCESS_WRITE && (addr & 4095) + size > 4096 && insn_locks(cpu->cur_insn))
		cpu->ops->exclusive_begin(cpu);
	cpu->slow_result = (uintptr_t)access_begin(cpu, 0, addr, size, access);
	if (cpu->mode & MODE_BUS_LOCK && (addr & 63) + size > 64 && insn_locks(cpu->cur_insn)) {
		cpu->bus_locked = true;
		atomic_fetch_or(&cpu->poll, POLL_EVENT);
	}
}
