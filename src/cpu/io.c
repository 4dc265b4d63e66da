/*
 * cpu/io -- IN, OUT, INS, OUTS.
 *
 * Order of checks: I/O privilege and the TSS bitmap, then the intercept, then
 * the memory operand; the first two even when REP has nothing to do. Ports that no device in the library answers are the
 * client's: the access is described in cpu->io, the processor leaves, and the
 * instruction is run again with the answer. String forms hand over many items
 * at once.
 */
#include "cpu/mmio.h"
#include "cpu/ram.h"
#include "cpu/rules.h"

/* Bits of the VM-exit qualification. */
enum { IO_QUAL_IN = 1 << 3, IO_QUAL_STRING = 1 << 4, IO_QUAL_REP = 1 << 5, IO_QUAL_IMM = 1 << 6, IO_QUAL_PORT = 16 };
enum { TSS_IO_BASE = 102 };

/* The permission bitmap is read two bytes at a time, so both must lie within the limit. */
static bool bitmap_permits(struct cpu *cpu, uint16_t port, unsigned size)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	bool tss32 = tr->present && !tr->unusable && (tr->type & 0xd) == 9;
	uint32_t at, bits;

	if (!tss32 || tr->limit < TSS_IO_BASE + 1)
		return false;
	at = lin_load(cpu, tr->base + TSS_IO_BASE, 2, ACCESS_SUPER) + port / 8;
	if (at + 1 > tr->limit)
		return false;
	bits = lin_load(cpu, tr->base + at, 2, ACCESS_SUPER);
	return !(bits >> (port & 7) & ((1u << size) - 1));
}

static void check_permission(struct cpu *cpu, uint16_t port, unsigned size)
{
	unsigned iopl = cpu->rflags >> 12 & 3;

	if (!(cpu->mode & MODE_VM86) && (!cpu_protected(cpu) || cpu->cpl <= iopl))
		return;
	if (!bitmap_permits(cpu, port, size))
		cpu_raise_gp(cpu);
}

/* The form of the instruction, from its opcode: E4-E7 with an immediate port, EC-EF with DX, 6C-6F string. */
static bool is_immediate(const struct insn *insn) { return (insn->opcode & 0xf8) == 0xe0; }

static unsigned item_size(const struct insn *insn)
{
	return !(insn->opcode & 1) ? 1 : insn->opsize == 2 ? 2 : 4;
}

static uint16_t port_of(const struct cpu *cpu, const struct insn *insn)
{
	return is_immediate(insn) ? (uint8_t)insn->imm : cpu->gpr[REG_RDX];
}

static uint64_t qualification(const struct insn *insn, uint16_t port, unsigned size, uint64_t bits)
{
	return (size - 1) | bits | (uint64_t)port << IO_QUAL_PORT;
}

/* ---- the client's answers ---- */

static bool answered(struct cpu *cpu, uint16_t port, bool is_write)
{
	struct cpu_io *io = &cpu->io;
	bool ours;

	io_sync(cpu);
	ours = io->answered && io->is_pio && io->addr == port && io->is_write == is_write;
	io->answered = false;
	return ours;
}

static _Noreturn void ask_client(struct cpu *cpu, uint16_t port, bool is_write, unsigned size, unsigned count)
{
	struct cpu_io *io = &cpu->io;

	io->pending = io->is_pio = true;
	io->is_write = is_write;
	io->addr = port;
	io->len = size;
	io->count = count;
	cpu_leave(cpu, CPU_EXIT_PIO);
}

/* ---- IN, OUT ---- */

void rule_in(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = item_size(insn);
	uint16_t port = port_of(cpu, insn);
	uint32_t value = 0;

	check_permission(cpu, port, size);
	intercept_io(cpu, port, size, qualification(insn, port, size, IO_QUAL_IN | (is_immediate(insn) ? IO_QUAL_IMM : 0)));
	if (answered(cpu, port, false))
		memcpy(&value, cpu->io.data, size);
	else if (!cpu->ops->pio_read(cpu, port, &value, size))
		ask_client(cpu, port, false, size, 1);
	reg_set(cpu, REG_RAX, size, true, value);
	debug_io_access(cpu, port, size);
}

void rule_out(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = item_size(insn);
	uint16_t port = port_of(cpu, insn);
	uint32_t value = cpu->gpr[REG_RAX];

	check_permission(cpu, port, size);
	intercept_io(cpu, port, size, qualification(insn, port, size, is_immediate(insn) ? IO_QUAL_IMM : 0));
	if (!answered(cpu, port, true) && !cpu->ops->pio_write(cpu, port, &value, size)) {
		memcpy(cpu->io.data, &value, size);
		ask_client(cpu, port, true, size, 1);
	}
	debug_io_access(cpu, port, size);
}

/* ---- INS, OUTS ---- */

struct string_io { enum seg seg; unsigned reg, size; uint16_t port; uint64_t count, addr, items; };

/* Linear address for the exit information: no checks, for they come later. */
static uint64_t unchecked_linear(const struct cpu *cpu, enum seg seg, uint64_t offset)
{
	if (cpu_code64(cpu))
		return offset + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);
	return (uint32_t)(cpu->seg[seg].base + offset);
}

static void intercept_string(struct cpu *cpu, const struct insn *insn, const struct string_io *s, bool in)
{
	unsigned address_size = insn->addrsize == 8 ? 2 : insn->addrsize == 4 ? 1 : 0;
	uint64_t bits = IO_QUAL_STRING | (in ? IO_QUAL_IN : 0) | (insn->rep ? IO_QUAL_REP : 0);

	cpu->vmexit.gla = unchecked_linear(cpu, s->seg, string_index(cpu, insn, s->reg));
	cpu->vmexit.insn_info = address_size << 7 | (unsigned)s->seg << 15;
	intercept_io(cpu, s->port, s->size, qualification(insn, s->port, s->size, bits));
}

/* Checks and exits, then the first item's address and how many can be handed over at once. */
static bool string_begin(struct cpu *cpu, const struct insn *insn, struct string_io *s, bool in)
{
	uint64_t offset = string_index(cpu, insn, s->reg), room;

	s->size = item_size(insn);
	s->port = cpu->gpr[REG_RDX];
	s->count = insn->rep ? string_index(cpu, insn, REG_RCX) : 1;
	check_permission(cpu, s->port, s->size);
	intercept_string(cpu, insn, s, in);
	if (!s->count)
		return false;
	s->addr = seg_linear(cpu, s->seg, offset, s->size, in ? ACCESS_WRITE : ACCESS_READ);
	room = string_room(cpu, insn, s->seg, offset, s->addr, s->size);
	s->items = s->count < room ? s->count : room;
	if (!s->items || (cpu->rflags & RFLAGS_DF) || (cpu->mode & (MODE_STEP | MODE_WATCH)))
		s->items = 1;
	/* A device takes and gives one item at a time. */
	if (s->items > 1 && !ram_find(cpu, s->addr, in ? ACCESS_WRITE : ACCESS_READ).host)
		s->items = 1;
	return true;
}

static void string_end(struct cpu *cpu, const struct insn *insn, const struct string_io *s, uint64_t n)
{
	string_advance(cpu, insn, s->reg, n, s->size);
	debug_io_access(cpu, s->port, s->size);
	io_element_done(cpu);
	if (!insn->rep)
		return;
	reg_set(cpu, REG_RCX, insn->addrsize, true, s->count - n);
	if (s->count != n)
		cpu->next_rip = cpu->rip;
}

void rule_ins(struct cpu *cpu, const struct insn *insn)
{
	struct string_io s = { .seg = SEG_ES, .reg = REG_RDI };
	uint64_t n = 1;

	if (!string_begin(cpu, insn, &s, true))
		return;
	/* The port is read once only, so what can fault does so before. */
	lin_probe_write(cpu, s.addr, s.items * s.size, 0);
	if (answered(cpu, s.port, false))
		n = cpu->io.count < s.items ? cpu->io.count : s.items;
	else if (!cpu->ops->pio_read(cpu, s.port, cpu->io.data, s.size))
		ask_client(cpu, s.port, false, s.size, s.items);
	lin_write(cpu, s.addr, cpu->io.data, n * s.size, 0);
	string_end(cpu, insn, &s, n);
}

void rule_outs(struct cpu *cpu, const struct insn *insn)
{
	struct string_io s = { .seg = insn->seg, .reg = REG_RSI };
	uint64_t n = 1;

	if (!string_begin(cpu, insn, &s, false))
		return;
	if (answered(cpu, s.port, true)) {
		n = cpu->io.count < s.items ? cpu->io.count : s.items;
	} else {
		lin_read(cpu, s.addr, cpu->io.data, s.size, 0);
		if (!cpu->ops->pio_write(cpu, s.port, cpu->io.data, s.size)) {
			if (s.items > 1)
				lin_read(cpu, s.addr, cpu->io.data, s.items * s.size, 0);
			ask_client(cpu, s.port, true, s.size, s.items);
		}
	}
	string_end(cpu, insn, &s, n);
}
