/*
 * Shadow stacks: memory accesses. They never go through the TLB's entries,
 * which know nothing of their rights, but walk each time.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/rules.h"

_Noreturn void cet_raise(struct cpu *cpu, unsigned error)
{
	cpu_raise_error(cpu, VEC_CP, error);
}

struct shadow shadow_of(uint64_t ssp, unsigned cpl, bool wide)
{
	return (struct shadow){ ssp, wide, ACCESS_SHSTK | (cpl == 3 ? ACCESS_USER : ACCESS_SUPER) };
}

struct piece { struct translation at; unsigned len; };

/* Where [addr, +size) is, size 4 or 8: in one page or in two. All checks are made, nothing moves. */
static unsigned find(struct cpu *cpu, const struct shadow *s, uint64_t addr, unsigned size, unsigned access, struct piece p[2])
{
	unsigned first = PAGE_SIZE_4K - (addr & 0xfff);
	uint64_t last = addr + size - 1;

	if (!s->wide)
		addr = (uint32_t)addr;
	else if (!cpu_canonical(cpu, addr) || !cpu_canonical(cpu, last))
		cpu_raise_gp(cpu);
	if (size <= first) {
		p[0] = (struct piece){ tlb_translate_sized(cpu, addr, access | s->access, size), size };
		return 1;
	}
	p[0] = (struct piece){ tlb_translate_sized(cpu, addr, access | s->access, first), first };
	addr = s->wide ? addr + first : (uint32_t)(addr + first);
	p[1] = (struct piece){ tlb_translate_sized(cpu, addr, access | s->access, size - first), size - first };
	return 2;
}

static void watch(struct cpu *cpu, uint64_t addr, unsigned size, bool write)
{
	if (cpu->mode & MODE_WATCH)
		debug_data_access(cpu, addr, size, write);
}

void shadow_load(struct cpu *cpu, const struct shadow *s, uint64_t addr, void *to, unsigned size)
{
	struct piece p[2];
	unsigned n = find(cpu, s, addr, size, ACCESS_READ, p);

	for (unsigned i = 0; i < n; to = (char *)to + p[i++].len)
		if (p[i].at.host)
			memcpy(to, p[i].at.host, p[i].len);
		else
			mmio_read(cpu, p[i].at.gpa, to, p[i].len);
	watch(cpu, addr, size, false);
}

void shadow_store(struct cpu *cpu, const struct shadow *s, uint64_t addr, const void *from, unsigned size)
{
	struct piece p[2];
	unsigned n = find(cpu, s, addr, size, ACCESS_WRITE, p);

	for (unsigned i = 0; i < n; from = (const char *)from + p[i++].len) {
		if (p[i].at.host) {
			memcpy(p[i].at.host, from, p[i].len);
			access_written(cpu, p[i].at.slot, p[i].at.gpa, p[i].len);
		} else {
			mmio_write(cpu, p[i].at.gpa, from, p[i].len);
		}
	}
	watch(cpu, addr, size, true);
}

void shadow_push(struct cpu *cpu, struct shadow *s, unsigned size, uint64_t value)
{
	uint64_t ssp = s->wide ? s->ssp - size : (uint32_t)(s->ssp - size);

	shadow_store(cpu, s, ssp, &value, size);
	s->ssp = ssp;
}

bool shadow_exchange(struct cpu *cpu, const struct shadow *s, uint64_t addr, uint64_t *expected, uint64_t new)
{
	struct piece p[2];
	uint64_t wanted = *expected;

	find(cpu, s, addr, 8, ACCESS_WRITE, p);
	if (p[0].at.host) {
		if (__atomic_compare_exchange_n((uint64_t *)p[0].at.host, expected, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			access_written(cpu, p[0].at.slot, p[0].at.gpa, 8);
	} else {
		mmio_read(cpu, p[0].at.gpa, expected, 8);
		mmio_write(cpu, p[0].at.gpa, *expected == wanted ? &new : expected, 8);
	}
	watch(cpu, addr, 8, true);
	return *expected == wanted;
}
