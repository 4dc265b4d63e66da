/*
 * cpu/string -- MOVS, STOS, LODS, SCAS, CMPS.
 *
 * Work goes in runs: as many elements as stay in one page on each side and
 * are RAM (MOVS and STOS: or in pages known to follow one another in the host's
 * memory), done at once; anything else element by element under the general
 * rules. Registers are brought up to date after each run, so a fault, an exit
 * to a device or an interrupt in the middle finds the state that the manual
 * prescribes, and the instruction simply starts again.
 */
#include "cpu/mmio.h"
#include "cpu/ram.h"
#include "cpu/rules.h"

/* ---- shared with io.c ---- */

uint64_t string_index(const struct cpu *cpu, const struct insn *insn, unsigned reg)
{
	return reg_get(cpu, reg, insn->addrsize, true);
}

void string_advance(struct cpu *cpu, const struct insn *insn, unsigned reg, uint64_t n, unsigned size)
{
	uint64_t distance = cpu->rflags & RFLAGS_DF ? -(n * size) : n * size;

	reg_set(cpu, reg, insn->addrsize, true, cpu->gpr[reg] + distance);
}

uint64_t string_room(const struct cpu *cpu, const struct insn *insn, enum seg seg, uint64_t offset, uint64_t addr, unsigned size)
{
	const struct segment *s = &cpu->seg[seg];
	uint64_t in_page = addr & 0xfff, last = insn->addrsize == 2 ? 0xffff : 0xffffffff, room;

	if (in_page + size > PAGE_SIZE_4K)
		return 0;
	if (cpu->rflags & RFLAGS_DF)
		room = in_page / size + 1;
	else
		room = (PAGE_SIZE_4K - in_page) / size;
	if (insn->addrsize != 8) {
		uint64_t in_size = cpu->rflags & RFLAGS_DF ? offset / size + 1 : (last - offset + 1) / size;

		room = room < in_size ? room : in_size;
	}
	if (cpu->mode & MODE_FLAT)
		return room;
	if ((s->type & 0xc) == 4)                /* expand-down: not worth a fast way */
		return room ? 1 : 0;
	if (!(cpu->rflags & RFLAGS_DF) && s->limit - offset < room * size)
		room = (s->limit - offset + 1) / size;
	return room;
}

/* ---- repetition ---- */

/* What one family does with at most max elements; returns how many (at least one). *stop: its condition has ended it. */
typedef uint64_t run_fn(struct cpu *cpu, const struct insn *insn, uint64_t max, bool *stop);

static void repeat(struct cpu *cpu, const struct insn *insn, run_fn *run)
{
	bool stop = false;

	if (!insn->rep) {
		run(cpu, insn, 1, &stop);
		return;
	}
	for (;;) {
		uint64_t count = string_index(cpu, insn, REG_RCX), done;

		if (!count)
			return;
		done = run(cpu, insn, cpu->mode & MODE_STEP ? 1 : count, &stop);
		io_element_done(cpu);
		reg_set(cpu, REG_RCX, insn->addrsize, true, count - done);
		if (stop || count == done)
			return;
		if (cpu->poll || (cpu->mode & MODE_STEP)) {
			cpu->next_rip = cpu->rip;
			cpu->rflags |= RFLAGS_RF;        /* seen by the trap or interrupt between elements */
			return;
		}
	}
}

static uint64_t least(uint64_t a, uint64_t b, uint64_t c)
{
	a = a < b ? a : b;
	return a < c ? a : c;
}

/* One side of a run. */
struct side { enum seg seg; unsigned reg; uint64_t addr, room; };

static struct side side_begin(struct cpu *cpu, const struct insn *insn, enum seg seg, unsigned reg, unsigned access)
{
	uint64_t offset = string_index(cpu, insn, reg);
	struct side s = { .seg = seg, .reg = reg };

	s.addr = seg_linear(cpu, seg, offset, insn->opsize, access);
	s.room = string_room(cpu, insn, seg, offset, s.addr, insn->opsize);
	return s;
}

enum { LONGEST_RUN = 64 << 10 };         /* bytes; interrupts wait for its end */

/* Elements of a run upwards from s on: room, or more where the TLB has the next pages and the host's memory goes on. */
static uint64_t side_reach(struct cpu *cpu, const struct insn *insn, const struct side *s, const struct ram *r, uint64_t max, unsigned access)
{
	uint64_t bytes = PAGE_SIZE_4K - (s->addr & 0xfff), wanted = max < LONGEST_RUN ? max * insn->opsize : LONGEST_RUN;

	if (insn->addrsize != 8 || !cpu_code64(cpu) || cpu->rflags & RFLAGS_DF || r->slot || bytes >= wanted)
		return s->room;
	while (bytes < wanted && bytes < LONGEST_RUN && ram_known(cpu, s->addr + bytes, access) == r->host + bytes)
		bytes += PAGE_SIZE_4K;
	return bytes / insn->opsize;
}

static uint64_t element_load(const uint8_t *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile uint8_t *)p;
	case 2: return *(const volatile uint16_t *)p;
	case 4: return *(const volatile uint32_t *)p;
	default: return *(const volatile uint64_t *)p;
	}
}

static void element_store(uint8_t *p, unsigned size, uint64_t value)
{
	switch (size) {
	case 1: *(volatile uint8_t *)p = value; break;
	case 2: *(volatile uint16_t *)p = value; break;
	case 4: *(volatile uint32_t *)p = value; break;
	default: *(volatile uint64_t *)p = value;
	}
}

/* Bytes that n elements from r on cover have been stored. */
static void run_written(struct cpu *cpu, const struct ram *r, uint64_t n, unsigned size)
{
	ram_written(cpu, r, cpu->rflags & RFLAGS_DF ? -(int64_t)((n - 1) * size) : 0, n * size);
}

static int64_t step_of(const struct cpu *cpu, unsigned size)
{
	return cpu->rflags & RFLAGS_DF ? -(int64_t)size : size;
}

/* ---- MOVS and STOS: the host's own, except downwards (C code needs DF clear) ---- */

#define NATIVE_REP(insn, inputs...) do { uint64_t n_ = n; asm volatile("rep " insn : "+c"(n_), "+D"(to) inputs); } while (0)

static void native_movs(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: NATIVE_REP("movsb", , "+S"(from) : : "memory"); break;
	case 2: NATIVE_REP("movsw", , "+S"(from) : : "memory"); break;
	case 4: NATIVE_REP("movsl", , "+S"(from) : : "memory"); break;
	default: NATIVE_REP("movsq", , "+S"(from) : : "memory");
	}
}

static void native_stos(uint8_t *to, uint64_t value, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: NATIVE_REP("stosb", : "a"(value) : "memory"); break;
	case 2: NATIVE_REP("stosw", : "a"(value) : "memory"); break;
	case 4: NATIVE_REP("stosl", : "a"(value) : "memory"); break;
	default: NATIVE_REP("stosq", : "a"(value) : "memory");
	}
}

static void ram_move(const struct cpu *cpu, uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
	int64_t step = step_of(cpu, size);

	if (step > 0) {
		native_movs(to, from, n, size);
		return;
	}
	for (; n--; to += step, from += step)
		element_store(to, size, element_load(from, size));
}

static uint64_t run_movs(struct cpu *cpu, const struct insn *insn, uint64_t max, bool *stop)
{
	unsigned size = insn->opsize;
	struct side from = side_begin(cpu, insn, insn->seg, REG_RSI, ACCESS_READ);
	struct side to = side_begin(cpu, insn, SEG_ES, REG_RDI, ACCESS_WRITE);
	uint64_t n = least(max, from.room, to.room);
	struct ram source = { 0 }, target = { 0 };

	if (n) {
		source = ram_find(cpu, from.addr, ACCESS_READ);
		target = ram_find(cpu, to.addr, ACCESS_WRITE);
	}
	if (source.host && target.host) {
		n = least(max, side_reach(cpu, insn, &from, &source, max, ACCESS_READ), side_reach(cpu, insn, &to, &target, max, ACCESS_WRITE));
		ram_move(cpu, target.host, source.host, n, size);
		run_written(cpu, &target, n, size);
	} else {
		n = 1;
		lin_store(cpu, to.addr, size, lin_load(cpu, from.addr, size, 0), 0);
	}
	string_advance(cpu, insn, REG_RSI, n, size);
	string_advance(cpu, insn, REG_RDI, n, size);
	return n;
}

static uint64_t run_stos(struct cpu *cpu, const struct insn *insn, uint64_t max, bool *stop)
{
	unsigned size = insn->opsize;
	struct side to = side_begin(cpu, insn, SEG_ES, REG_RDI, ACCESS_WRITE);
	uint64_t n = least(max, to.room, max);
	struct ram target = { 0 };

	if (n)
		target = ram_find(cpu, to.addr, ACCESS_WRITE);
	if (target.host) {
		/* The order of equal stores cannot be seen. */
		n = least(max, side_reach(cpu, insn, &to, &target, max, ACCESS_WRITE), max);
		uint8_t *low = cpu->rflags & RFLAGS_DF ? target.host - (n - 1) * size : target.host;

		native_stos(low, cpu->gpr[REG_RAX], n, size);
		run_written(cpu, &target, n, size);
	} else {
		n = 1;
		lin_store(cpu, to.addr, size, cpu->gpr[REG_RAX], 0);
	}
	string_advance(cpu, insn, REG_RDI, n, size);
	return n;
}

/* ---- LODS ---- */

static uint64_t run_lods(struct cpu *cpu, const struct insn *insn, uint64_t max, bool *stop)
{
	unsigned size = insn->opsize;
	struct side from = side_begin(cpu, insn, insn->seg, REG_RSI, ACCESS_READ);
	uint64_t n = least(max, from.room, max), value;
	struct ram source = { 0 };

	if (n)
		source = ram_find(cpu, from.addr, ACCESS_READ);
	if (source.host) {
		value = element_load(source.host + (int64_t)(n - 1) * step_of(cpu, size), size);
	} else {
		n = 1;
		value = lin_load(cpu, from.addr, size, 0);
	}
	reg_set(cpu, REG_RAX, size, true, value);
	string_advance(cpu, insn, REG_RSI, n, size);
	return n;
}

/* ---- SCAS and CMPS ---- */

#define COMPARE(suffix, part) \
	asm("cmp" suffix " %" part "2, %" part "1; lahf; seto %%al" : "=a"(flags) : "r"(a), "r"(b) : "cc")

/* Arithmetic flags of a - b. */
static void compare_flags(struct cpu *cpu, uint64_t a, uint64_t b, unsigned size)
{
	uint32_t flags;

	switch (size) {
	case 1: COMPARE("b", "b"); break;
	case 2: COMPARE("w", "w"); break;
	case 4: COMPARE("l", "k"); break;
	default: COMPARE("q", "q");
	}
	/* LAHF leaves SF, ZF, AF, PF and CF in AH, SETO the overflow flag in AL. */
	cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_ARITH) | (flags >> 8 & 0xd5) | (flags & 1 ? RFLAGS_OF : 0);
}

/* REPE goes on while equal, REPNE while not. */
static bool goes_on(const struct insn *insn, uint64_t a, uint64_t b)
{
	return (a == b) == (insn->rep == 0xf3);
}

static uint64_t run_scas(struct cpu *cpu, const struct insn *insn, uint64_t max, bool *stop)
{
	unsigned size = insn->opsize;
	struct side to = side_begin(cpu, insn, SEG_ES, REG_RDI, ACCESS_READ);
	uint64_t n = least(max, to.room, max), a = reg_get(cpu, REG_RAX, size, true), b, done = 0;
	struct ram target = { 0 };

	if (n)
		target = ram_find(cpu, to.addr, ACCESS_READ);
	if (target.host) {
		do
			b = element_load(target.host + (int64_t)done * step_of(cpu, size), size);
		while (++done < n && goes_on(insn, a, b));
	} else {
		b = lin_load(cpu, to.addr, size, 0);
		done = 1;
	}
	compare_flags(cpu, a, b, size);
	*stop = !goes_on(insn, a, b);
	string_advance(cpu, insn, REG_RDI, done, size);
	return done;
}

static uint64_t run_cmps(struct cpu *cpu, const struct insn *insn, uint64_t max, bool *stop)
{
	unsigned size = insn->opsize;
	struct side from = side_begin(cpu, insn, insn->seg, REG_RSI, ACCESS_READ);
	struct side to = side_begin(cpu, insn, SEG_ES, REG_RDI, ACCESS_READ);
	uint64_t n = least(max, from.room, to.room), a, b, done = 0;
	struct ram source = { 0 }, target = { 0 };

	if (n) {
		source = ram_find(cpu, from.addr, ACCESS_READ);
		target = ram_find(cpu, to.addr, ACCESS_READ);
	}
	if (source.host && target.host) {
		do {
			a = element_load(source.host + (int64_t)done * step_of(cpu, size), size);
			b = element_load(target.host + (int64_t)done * step_of(cpu, size), size);
		} while (++done < n && goes_on(insn, a, b));
	} else {
		a = lin_load(cpu, from.addr, size, 0);
		b = lin_load(cpu, to.addr, size, 0);
		done = 1;
	}
	compare_flags(cpu, a, b, size);
	*stop = !goes_on(insn, a, b);
	string_advance(cpu, insn, REG_RSI, done, size);
	string_advance(cpu, insn, REG_RDI, done, size);
	return done;
}

void rule_movs(struct cpu *cpu, const struct insn *insn) { repeat(cpu, insn, run_movs); }
void rule_stos(struct cpu *cpu, const struct insn *insn) { repeat(cpu, insn, run_stos); }
void rule_lods(struct cpu *cpu, const struct insn *insn) { repeat(cpu, insn, run_lods); }
void rule_scas(struct cpu *cpu, const struct insn *insn) { repeat(cpu, insn, run_scas); }
void rule_cmps(struct cpu *cpu, const struct insn *insn) { repeat(cpu, insn, run_cmps); }
