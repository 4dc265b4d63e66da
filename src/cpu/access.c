/*
 * cpu/access -- guest memory as instructions see it.
 *
 * An access is first resolved: one or two pieces, each in one page, each
 * translated under all the rules. Only then do bytes move. RAM is touched by
 * single host moves where the size has one, so aligned stores are as atomic
 * as the guest's own would be.
 */
#include "cpu/access.h"
#include "cpu/mmio.h"
#include "cpu/ram.h"
#include "cpu/rules.h"
#include "cpu/tlb_set.h"
#include "cpu/vapic.h"
#include "xlat/xlat.h"

/* ---- addresses ---- */

uint64_t insn_offset(const struct cpu *cpu, const struct insn *insn)
{
	uint64_t offset = insn->disp;

	if (insn->base >= 0)
		offset += cpu->gpr[insn->base];
	if (insn->index >= 0)
		offset += cpu->gpr[insn->index] << insn->scale;
	return insn->addrsize == 8 ? offset : insn->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
}

static _Noreturn void raise_segment_fault(struct cpu *cpu, enum seg seg)
{
	cpu_raise_error(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

/* Type bits: 3 code, 2 expand-down or conforming, 1 writable or readable. */
static bool segment_permits(const struct segment *s, unsigned access)
{
	if (s->unusable || !s->present)
		return false;
	if (access & ACCESS_WRITE)
		return (s->type & 0xa) == 2;
	return (s->type & 0xa) != 8;
}

static bool segment_contains(const struct segment *s, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if ((s->type & 0xc) == 4)
		return offset > s->limit && last <= (s->db ? 0xffffffff : 0xffff);
	return last <= s->limit;
}

static void check_alignment(struct cpu *cpu, uint64_t addr, unsigned size)
{
	if ((cpu->mode & MODE_ALIGN) && size <= 8 && (size & (size - 1)) == 0 && (addr & (size - 1)))
		cpu_raise_error(cpu, VEC_AC, 0);
}

static uint64_t seg_linear64(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size)
{
	uint64_t addr = offset + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);

	if (!cpu_canonical(cpu, addr) || (size && !cpu_canonical(cpu, addr + size - 1)))
		raise_segment_fault(cpu, seg);
	return addr;
}

uint64_t seg_linear(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size, unsigned access)
{
	const struct segment *s = &cpu->seg[seg];
	uint64_t addr;

	if (cpu_code64(cpu)) {
		addr = seg_linear64(cpu, seg, offset, size);
	} else {
		if ((cpu_protected(cpu) && !segment_permits(s, access)) || (size && !segment_contains(s, offset, size)))
			raise_segment_fault(cpu, seg);
		addr = (uint32_t)(s->base + offset);
	}
	check_alignment(cpu, addr, size);
	return addr;
}

/* ---- resolving ---- */

struct piece { struct translation at; uint64_t addr; unsigned len; };

/* The first byte of the next page, where linear addresses wrap as the mode has it. */
static uint64_t next_page(const struct cpu *cpu, uint64_t addr, unsigned flags)
{
	uint64_t next = (addr & PAGE_MASK_4K) + PAGE_SIZE_4K;
	bool wide = flags & ACCESS_SUPER ? cpu_long_mode(cpu) : cpu_code64(cpu);

	return wide ? next : (uint32_t)next;
}

/* A descriptor-table access beyond the canonical range; all others were checked with their segment. */
static void check_canonical(struct cpu *cpu, uint64_t addr)
{
	if (unlikely(!cpu_canonical(cpu, addr)) && cpu_long_mode(cpu))
		cpu_raise_gp(cpu);
}

static unsigned resolve(struct cpu *cpu, uint64_t addr, unsigned size, unsigned access, struct piece p[2])
{
	unsigned first = PAGE_SIZE_4K - (addr & 0xfff);

	check_canonical(cpu, addr);
	if (size <= first) {
		p[0] = (struct piece){ tlb_translate_sized(cpu, addr, access, size), addr, size };
		return 1;
	}
	p[0] = (struct piece){ tlb_translate_sized(cpu, addr, access, first), addr, first };
	addr = next_page(cpu, addr, access);
	check_canonical(cpu, addr);
	p[1] = (struct piece){ tlb_translate_sized(cpu, addr, access, size - first), addr, size - first };
	return 2;
}

/* The TLB's entries serve C code as they do translated code. */
static inline uint8_t *entry_host(struct cpu *cpu, uint64_t addr, unsigned size, unsigned access)
{
	const struct tlb_entry *e = access & ACCESS_SUPER ? tlb_super_entry(cpu, addr) : tlb_entry_at(cpu->tlb, cpu->tlb_mask, addr);
	uint64_t tag = access & ACCESS_WRITE ? e->write_tag : e->read_tag;

	return addr - tag > PAGE_SIZE_4K - size ? NULL : (uint8_t *)e->host + (addr & 0xfff);
}

/* ---- moving bytes ---- */

static void move_bytes(void *to, const void *from, unsigned size)
{
	switch (size) {
	case 1: *(volatile uint8_t *)to = *(const volatile uint8_t *)from; break;
	case 2: *(volatile uint16_t *)to = *(const volatile uint16_t *)from; break;
	case 4: *(volatile uint32_t *)to = *(const volatile uint32_t *)from; break;
	case 8: *(volatile uint64_t *)to = *(const volatile uint64_t *)from; break;
	default: memcpy(to, from, size);
	}
}

static void watch(struct cpu *cpu, uint64_t addr, unsigned size, bool write)
{
	if (unlikely(cpu->mode & MODE_WATCH))
		debug_data_access(cpu, addr, size, write);
}

/* A read-only slot answers the read half of a read and write. */
static void piece_read(struct cpu *cpu, const struct piece *p, uint8_t *to)
{
	const uint8_t *host = p->at.host ? p->at.host : p->at.slot ? mem_slot_host(p->at.slot, p->at.gpa) : NULL;

	if (host)
		move_bytes(to, host, p->len);
	else
		mmio_read(cpu, p->at.gpa, to, p->len);
}

static void piece_write(struct cpu *cpu, const struct piece *p, const uint8_t *from)
{
	if (p->at.host) {
		move_bytes(p->at.host, from, p->len);
		access_written(cpu, p->at.slot, p->at.gpa, p->len);
	} else {
		mmio_write(cpu, p->at.gpa, from, p->len);
	}
}

/*
 * The bits go first: whoever translates these bytes from here on sets them
 * again and reads what was stored; all older translations are dropped.
 */
void access_written(struct cpu *cpu, const struct mem_slot *slot, uint64_t gpa, unsigned len)
{
	mem_mark_dirty(slot, gpa);
	if (likely(!mem_code_hit(slot, gpa, len)))
		return;
	engine_invalidate(cpu, mem_slot_host(slot, gpa), len);
	cpu->ops->code_changed(cpu, mem_slot_host(slot, gpa), len);
}

/*
 * The bits go and the translations are dropped before the store. Nobody can translate the old bytes meanwhile: who marks
 * a page that this vCPU holds waits for it (struct mem_code).
 */
uint8_t *access_beside_code(struct cpu *cpu, uint64_t addr, unsigned size)
{
	const struct tlb_context *c = cpu->tlbs->current;
	unsigned index = c ? tlb_index(c, addr) : 0;
	uint64_t granules;
	uint8_t *host;

	if (!c || (c->entries[index].write_tag | 0x1000) != TLB_CODE_TAG || addr - c->entries[index].read_tag > PAGE_SIZE_4K - size)
		return NULL;
	host = (uint8_t *)c->entries[index].host + (addr & 0xfff);
	granules = mem_granules(addr, size);
	if (likely(!(atomic_load(&c->code[index]->granules) & granules)))
		return host;
	atomic_fetch_and(&c->code[index]->granules, ~granules);
	engine_invalidate(cpu, host, size);
	cpu->ops->code_changed(cpu, host, size);
	return host;
}

void lin_read(struct cpu *cpu, uint64_t addr, void *to, unsigned size, unsigned flags)
{
	const uint8_t *host = entry_host(cpu, addr, size, flags | ACCESS_READ);
	struct piece p[2];
	unsigned n;

	if (likely(host)) {
		move_bytes(to, host, size);
		return;
	}
	n = resolve(cpu, addr, size, flags | ACCESS_READ, p);
	piece_read(cpu, &p[0], to);
	if (n == 2)
		piece_read(cpu, &p[1], (uint8_t *)to + p[0].len);
	watch(cpu, addr, size, false);
}

void lin_write(struct cpu *cpu, uint64_t addr, const void *from, unsigned size, unsigned flags)
{
	uint8_t *host = entry_host(cpu, addr, size, flags | ACCESS_WRITE);
	struct piece p[2];
	unsigned n;

	if (likely(host)) {
		move_bytes(host, from, size);
		return;
	}
	n = resolve(cpu, addr, size, flags | ACCESS_WRITE, p);
	piece_write(cpu, &p[0], from);
	if (n == 2)
		piece_write(cpu, &p[1], (const uint8_t *)from + p[0].len);
	watch(cpu, addr, size, true);
}

void lin_probe_write(struct cpu *cpu, uint64_t addr, unsigned size, unsigned flags)
{
	struct piece p[2];

	if (!entry_host(cpu, addr, size, flags | ACCESS_WRITE))
		resolve(cpu, addr, size, flags | ACCESS_WRITE, p);
}

struct ram ram_find(struct cpu *cpu, uint64_t addr, unsigned access)
{
	uint8_t *host = entry_host(cpu, addr, 1, access);
	struct translation t;

	if (host)
		return (struct ram){ .host = host };
	t = tlb_translate(cpu, addr, access);
	if (cpu->mode & MODE_WATCH || t.sub_page)
		return (struct ram){ 0 };
	return (struct ram){ .host = t.host, .slot = t.host ? t.slot : NULL, .gpa = t.gpa };
}

uint8_t *ram_known(struct cpu *cpu, uint64_t addr, unsigned access)
{
	return entry_host(cpu, addr, 1, access);
}

uint64_t lin_load(struct cpu *cpu, uint64_t addr, unsigned size, unsigned flags)
{
	uint64_t value = 0;

	lin_read(cpu, addr, &value, size, flags);
	return value;
}

void lin_store(struct cpu *cpu, uint64_t addr, unsigned size, uint64_t value, unsigned flags)
{
	lin_write(cpu, addr, &value, size, flags);
}

/* ---- by segment, by operand ---- */

uint64_t seg_load(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size)
{
	return lin_load(cpu, seg_linear(cpu, seg, offset, size, ACCESS_READ), size, 0);
}

void seg_store(struct cpu *cpu, enum seg seg, uint64_t offset, unsigned size, uint64_t value)
{
	lin_store(cpu, seg_linear(cpu, seg, offset, size, ACCESS_WRITE), size, value, 0);
}

void seg_read(struct cpu *cpu, enum seg seg, uint64_t offset, void *to, unsigned size)
{
	lin_read(cpu, seg_linear(cpu, seg, offset, size, ACCESS_READ), to, size, 0);
}

void seg_write(struct cpu *cpu, enum seg seg, uint64_t offset, const void *from, unsigned size)
{
	lin_write(cpu, seg_linear(cpu, seg, offset, size, ACCESS_WRITE), from, size, 0);
}

uint64_t insn_load(struct cpu *cpu, const struct insn *insn, unsigned size)
{
	return seg_load(cpu, insn->seg, insn_offset(cpu, insn), size);
}

void insn_store(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value)
{
	seg_store(cpu, insn->seg, insn_offset(cpu, insn), size, value);
}

/* ---- operands for native instructions ---- */

void *access_begin(struct cpu *cpu, unsigned which, uint64_t addr, unsigned size, unsigned access)
{
	struct access_open *o = &cpu->open[which];
	struct piece p[2];
	unsigned n;
	uint8_t *bounce;

	if (size > 64)
		cpu_internal_error(cpu, "operand of %u bytes", size);
	n = resolve(cpu, addr, size, access, p);
	*o = (struct access_open){ .addr = addr, .gpa = p[0].at.gpa, .slot = p[0].at.slot, .size = size, .access = access };
	watch(cpu, addr, size, access & ACCESS_WRITE);
	if (n == 1 && p[0].at.host)
		return o->host = p[0].at.host;
	/* The guest's alignment is kept, for instructions that check it. */
	bounce = cpu->bounce[which] + (addr & 63);
	if (access & ACCESS_READ) {
		piece_read(cpu, &p[0], bounce);
		if (n == 2)
			piece_read(cpu, &p[1], bounce + p[0].len);
	}
	if (access & ACCESS_WRITE)
		for (unsigned i = 0; i < n; i++)
			if (unlikely(p[i].at.apic_access))
				vapic_page_check_write(cpu, p[i].at.gpa, p[i].len);
	return bounce;
}

void access_commit(struct cpu *cpu, unsigned which)
{
	struct access_open *o = &cpu->open[which];

	if (!(o->access & ACCESS_WRITE))
		return;
	if (o->host)
		access_written(cpu, o->slot, o->gpa, o->size);
	else
		lin_write(cpu, o->addr, cpu->bounce[which] + (o->addr & 63), o->size, o->access & ACCESS_SUPER);
}
