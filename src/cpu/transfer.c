/*
 * Parts that far transfers and event delivery have in common: branch targets,
 * stack frames, the TSS's stacks.
 */
#include "cpu/transfer.h"

uint64_t transfer_target(struct cpu *cpu, const struct segment *cs, uint64_t rip)
{
	if (cpu_long_mode(cpu) && cs->l) {
		if (!cpu_canonical(cpu, rip))
			cpu_raise_gp(cpu);
		return rip;
	}
	rip &= 0xffffffff;
	if (rip > cs->limit)
		cpu_raise_gp(cpu);
	return rip;
}

void transfer_commit(struct cpu *cpu, struct segment cs, unsigned cpl, uint64_t rip)
{
	cs.selector = (cs.selector & ~3u) | cpl;
	cpu->seg[SEG_CS] = cs;
	cpu->cpl = cpl;
	cpu->next_rip = rip;
	cpu_mode_update(cpu);
}

struct gate gate_unpack(uint64_t low, uint64_t high)
{
	return (struct gate){
		.offset = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32,
		.selector = low >> 16,
		.count = low >> 32 & 31,
		.ist = low >> 32 & 7,
		.type = low >> 40 & 15,
		.s = low >> 44 & 1,
		.dpl = low >> 45 & 3,
		.present = low >> 47 & 1,
	};
}

unsigned stack_width(bool code64, const struct segment *ss)
{
	return code64 ? 8 : ss->db ? 4 : 2;
}

static uint64_t width_mask(unsigned width)
{
	return width == 8 ? ~0ull : width == 4 ? 0xffffffffull : 0xffffull;
}

uint64_t stack_advance(uint64_t sp, unsigned width, uint64_t bytes)
{
	uint64_t mask = width_mask(width);

	/* A 32-bit stack pointer zero-extends, a 16-bit one keeps what is above it. */
	return (width == 2 ? sp & ~mask : 0) | ((sp + bytes) & mask);
}

/* Linear address of [off, +size) on stack ss, or #SS(error). */
static uint64_t stack_linear(struct cpu *cpu, const struct segment *ss, unsigned width, uint64_t off, unsigned size,
                             uint32_t error)
{
	uint64_t last = off + size - 1;

	if (width == 8) {
		if (!cpu_canonical(cpu, off) || !cpu_canonical(cpu, last))
			cpu_raise_error(cpu, VEC_SS, error);
		return off;
	}
	bool down = ss->s && (ss->type & (TYPE_CODE | TYPE_DOWN)) == TYPE_DOWN;
	bool fits = down ? off > ss->limit && last <= (ss->db ? 0xffffffffull : 0xffffull) : last <= ss->limit;
	if (ss->unusable || !fits)
		cpu_raise_error(cpu, VEC_SS, error);
	return (ss->base + off) & 0xffffffff;
}

/* The frame wraps around the end of its stack segment: item by item, all checked first. */
static void push_wrapping(struct cpu *cpu, const struct segment *ss, unsigned width, uint64_t sp, unsigned size,
                          const uint64_t *items, unsigned n, uint32_t error, unsigned flags)
{
	uint64_t mask = width_mask(width);

	for (int pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < n; i++) {
			uint64_t addr = stack_linear(cpu, ss, width, (sp - (i + 1) * size) & mask, size, error);

			if (pass == 0)
				lin_probe_write(cpu, addr, size, flags);
			else
				lin_store(cpu, addr, size, items[i], flags);
		}
}

uint64_t frame_push(struct cpu *cpu, const struct segment *ss, unsigned width, uint64_t sp, unsigned size,
                    const uint64_t *items, unsigned n, uint32_t error, unsigned flags)
{
	uint64_t mask = width_mask(width), low = (sp - (uint64_t)n * size) & mask;
	uint8_t image[40 * 8];

	if (low + (uint64_t)n * size - 1 > mask) {
		push_wrapping(cpu, ss, width, sp, size, items, n, error, flags);
	} else {
		for (unsigned i = 0; i < n; i++)
			memcpy(image + (n - 1 - i) * size, &items[i], size);
		lin_write(cpu, stack_linear(cpu, ss, width, low, n * size, error), image, n * size, flags);
	}
	return stack_advance(sp, width, -(uint64_t)n * size);
}

void frame_read(struct cpu *cpu, uint64_t sp, unsigned size, uint64_t *items, unsigned n)
{
	const struct segment *ss = &cpu->seg[SEG_SS];
	unsigned width = stack_width(cpu_code64(cpu), ss);
	uint64_t mask = width_mask(width), low = sp & mask;
	uint8_t image[16 * 8];

	if (low + (uint64_t)n * size - 1 > mask && width != 8) {
		for (unsigned i = 0; i < n; i++)
			items[i] = lin_load(cpu, stack_linear(cpu, ss, width, (sp + i * size) & mask, size, 0), size, 0);
		return;
	}
	lin_read(cpu, stack_linear(cpu, ss, width, low, n * size, 0), image, n * size, 0);
	for (unsigned i = 0; i < n; i++) {
		items[i] = 0;
		memcpy(&items[i], image + i * size, size);
	}
}

uint64_t tss_load64(struct cpu *cpu, unsigned offset)
{
	const struct segment *tr = &cpu->seg[SEG_TR];

	if (offset + 7 > tr->limit)
		cpu_raise_error(cpu, VEC_TS, selector_error(tr->selector));
	return lin_load(cpu, tr->base + offset, 8, ACCESS_SUPER);
}

void tss_stack(struct cpu *cpu, unsigned dpl, uint16_t *ss, uint64_t *sp)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	bool wide = tr->type & 8;
	unsigned size = wide ? 4 : 2, offset = wide ? 4 + dpl * 8 : 2 + dpl * 4;

	if (offset + 2 * size - 1 > tr->limit)
		cpu_raise_error(cpu, VEC_TS, selector_error(tr->selector));
	*sp = lin_load(cpu, tr->base + offset, size, ACCESS_SUPER);
	*ss = lin_load(cpu, tr->base + offset + size, 2, ACCESS_SUPER);
}
