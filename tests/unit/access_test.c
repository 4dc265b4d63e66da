/*
 * Rules that access memory, run one instruction at a time on a processor of
 * its own: string instructions against a model of one element at a time (all
 * sizes, directions, address sizes, faults in the middle), devices answered by
 * replay, port I/O, stack forms, XSAVE images. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "cpu/access.h"
#include "cpu/fpu.h"
#include "cpu/rules.h"
#include "../tap.h"
#include "x86/features.h"

#define RAM_SIZE (1ull << 20)
#define MMIO 0xfee00000u
#define HOLE 0x8000u                     /* a page that is not present */

static struct cpu *cpu;
static uint8_t *ram;

static unsigned rnd(unsigned below)
{
	static uint64_t state = 88172645463325252ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 20) % below;
}

/* ---- the machine: flat protected mode of 32 bits, 2-level paging, everything mapped to itself but HOLE ---- */

static bool mmio_none(struct cpu *c, uint64_t gpa, void *data, unsigned len) { return false; }
static bool mmio_none_write(struct cpu *c, uint64_t gpa, const void *data, unsigned len) { return false; }
static bool pio_none(struct cpu *c, uint16_t port, void *data, unsigned len) { return false; }
static bool pio_none_write(struct cpu *c, uint16_t port, const void *data, unsigned len) { return false; }
static const struct cpu_ops ops = { .mmio_read = mmio_none, .mmio_write = mmio_none_write, .pio_read = pio_none,
                                    .pio_write = pio_none_write };

static void machine(void)
{
	struct segment flat = { .limit = 0xffffffff, .selector = 8, .type = 3, .s = 1, .present = 1, .db = 1, .g = 1 };
	uint32_t *pd = (uint32_t *)(ram + 0xf0000), *pt = (uint32_t *)(ram + 0xf1000);

	memset(ram, 0, RAM_SIZE);
	pd[0] = 0xf1007;
	pd[MMIO >> 22] = (MMIO & 0xffc00000) | 0x87;
	for (unsigned i = 0; i < 256; i++)
		pt[i] = i == HOLE >> 12 ? 0 : i << 12 | 7;
	cpu_reset(cpu, false);
	for (int i = 0; i < SEG_LDTR; i++)
		cpu->seg[i] = flat;
	cpu->seg[SEG_CS].type = 11;
	cpu->cr0 = CR0_PE | CR0_PG;
	cpu->cr4 = CR4_PSE | CR4_OSFXSR | CR4_OSXSAVE;
	cpu->xcr0 = fpu_xcr0_supported();
	cpu->cr3 = 0xf0000;
	cpu->rip = 0x1000;
	cpu_mode_update(cpu);
}

enum end { DONE, RAISED, LEFT };

static struct insn decode(const char *bytes, unsigned len)
{
	static const int mode_bits[] = { 16, 32, 64 };
	struct insn insn;

	if (insn_decode(&insn, (const uint8_t *)bytes, len, mode_bits[cpu->mode & MODE_CODE_MASK], cpu->rip, NULL, NULL))
		check_that(false, "decode");
	return insn;
}

/* Runs rule on an instruction at RIP. The guest's vector registers may be live. */
static __attribute__((noinline, target("general-regs-only"))) enum end run_once(rule_fn *rule, const struct insn *insn)
{
	cpu->event = (struct event){ 0 };
	cpu->cur_insn = insn;
	if (__builtin_setjmp(cpu->unwind))
		return cpu->event.valid ? RAISED : LEFT;
	cpu->next_rip = cpu->rip + insn->len;
	rule(cpu, insn);
	cpu->io.nreads = cpu->io.next = 0;
	return DONE;
}

/* As the engine: until the instruction is complete. */
static enum end run(rule_fn *rule, const struct insn *insn)
{
	enum end end;

	do {
		cpu->io.next = 0;
		end = run_once(rule, insn);
	} while (end == DONE && cpu->next_rip == cpu->rip);
	return end;
}

/* ---- string instructions against a model ---- */

struct family { const char *name; uint8_t opcode; rule_fn *rule; bool source, target, store, compare; };

static const struct family families[] = {
	{ "movs", 0xa4, rule_movs, true, true, true, false }, { "stos", 0xaa, rule_stos, false, true, true, false },
	{ "lods", 0xac, rule_lods, true, false, false, false }, { "scas", 0xae, rule_scas, false, true, false, true },
	{ "cmps", 0xa6, rule_cmps, true, true, false, true },
};

struct model { uint32_t rax, rcx, rsi, rdi; uint64_t flags; bool fault; uint8_t ram[0x10000]; };

static uint32_t model_wrap(uint32_t reg, uint32_t value, bool a16) { return a16 ? (reg & 0xffff0000) | (value & 0xffff) : value; }

static bool model_hole(uint32_t at, unsigned size) { return at + size > HOLE && at < HOLE + 4096; }

/* One element; false: it faulted. */
static bool model_element(struct model *m, const struct family *f, unsigned size, bool down, bool a16)
{
	uint32_t si = a16 ? m->rsi & 0xffff : m->rsi, di = a16 ? m->rdi & 0xffff : m->rdi, step = down ? -size : size;
	uint64_t a = 0, b = 0;

	if ((f->source && model_hole(si, size)) || (f->target && model_hole(di, size)))
		return false;
	memcpy(&a, f->source ? m->ram + si : (uint8_t *)&m->rax, size);
	if (f->store)
		memcpy(m->ram + di, &a, size);
	else if (f->compare) {
		memcpy(&b, m->ram + di, size);
		m->flags = (a < b ? RFLAGS_CF : 0) | (a == b ? RFLAGS_ZF : 0);
	} else {
		memcpy(&m->rax, &a, size);
	}
	if (f->source)
		m->rsi = model_wrap(m->rsi, m->rsi + step, a16);
	if (f->target)
		m->rdi = model_wrap(m->rdi, m->rdi + step, a16);
	return true;
}

static void model_run(struct model *m, const struct family *f, unsigned size, uint8_t rep, bool down, bool a16)
{
	if (!rep) {
		m->fault = !model_element(m, f, size, down, a16);
		return;
	}
	while (a16 ? m->rcx & 0xffff : m->rcx) {
		if (!model_element(m, f, size, down, a16)) {
			m->fault = true;
			return;
		}
		m->rcx = model_wrap(m->rcx, m->rcx - 1, a16);
		if (f->compare && !!(m->flags & RFLAGS_ZF) != (rep == 0xf3))
			return;
	}
}

static struct model model;

static void one_string_case(const struct family *f, unsigned size, uint8_t rep, bool down, bool a16, unsigned poll)
{
	char bytes[8];
	unsigned n = 0;
	struct insn insn;
	enum end end;

	if (rep)
		bytes[n++] = rep;
	if (size == 2)
		bytes[n++] = 0x66;
	if (a16)
		bytes[n++] = 0x67;
	bytes[n++] = f->opcode | (size > 1);
	insn = decode(bytes, n);
	/* Equal bytes are likely, so that comparisons go on for a while. */
	for (unsigned i = 0; i < 0x10000; i++)
		model.ram[i] = rnd(40) ? 7 : rnd(256);
	memcpy(ram, model.ram, 0x10000);
	model.rax = 0x07070707;
	model.rcx = rnd(3) ? rnd(40) : rnd(9000);
	if (a16)
		model.rcx |= 0x10000;
	model.rsi = 0x2000 + (rnd(2) ? rnd(0x5f00) : rnd(64));
	model.rdi = rnd(3) ? 0x2000 + rnd(0x5f00) : 0xa000 + rnd(0x3000);
	if (down)
		model.rsi += 0x4000, model.rdi += 0x1000;
	model.flags = RFLAGS_CF | RFLAGS_ZF;
	model.fault = false;
	if (!a16 && model.rcx * size > 0x1800)   /* the model has 64 KiB */
		model.rcx = 0x1800 / size;
	if (a16 && (model.rcx & 0xffff) * size > 0x1800)
		model.rcx = 0x10000 | 0x1800 / size;
	cpu->gpr[REG_RAX] = model.rax;
	cpu->gpr[REG_RCX] = model.rcx;
	cpu->gpr[REG_RSI] = model.rsi;
	cpu->gpr[REG_RDI] = model.rdi;
	cpu->rflags = 2 | RFLAGS_CF | RFLAGS_ZF | (down ? RFLAGS_DF : 0);
	cpu->poll = poll;
	model_run(&model, f, size, rep, down, a16);
	end = run(f->rule, &insn);
	cpu->poll = 0;
	check_that(end == (model.fault ? RAISED : DONE), "%s%u rep %x down %d a16 %d: end %d", f->name, size, rep, down, a16, end);
	check_that(cpu->gpr[REG_RCX] == model.rcx && cpu->gpr[REG_RSI] == model.rsi && cpu->gpr[REG_RDI] == model.rdi,
	      "%s%u rep %x down %d a16 %d: rcx %lx rsi %lx rdi %lx, wanted %x %x %x", f->name, size, rep, down, a16, cpu->gpr[REG_RCX],
	      cpu->gpr[REG_RSI], cpu->gpr[REG_RDI], model.rcx, model.rsi, model.rdi);
	check_that(cpu->gpr[REG_RAX] == model.rax, "%s%u: rax", f->name, size);
	check_that(!f->compare || (cpu->rflags & (RFLAGS_CF | RFLAGS_ZF)) == model.flags, "%s%u rep %x: flags %lx, wanted %lx", f->name, size,
	      rep, cpu->rflags, model.flags);
	check_that(!memcmp(ram, model.ram, HOLE) && !memcmp(ram + 0x9000, model.ram + 0x9000, 0x7000), "%s%u rep %x down %d: memory", f->name,
	      size, rep, down);
}

static void test_strings(void)
{
	static const uint8_t reps[] = { 0, 0xf3, 0xf2 };

	machine();
	for (unsigned i = 0; i < 4000; i++)
		one_string_case(&families[rnd(5)], 1u << rnd(3), reps[rnd(3)], rnd(2), rnd(2), rnd(2) ? POLL_KICK : 0);
}

/* ---- devices ---- */

static void answer_read(uint64_t value)
{
	struct io_read *r = &cpu->io.reads[cpu->io.nreads++];

	*r = (struct io_read){ .addr = cpu->io.addr, .len = cpu->io.len, .done = true };
	memcpy(r->data, &value, 8);
	cpu->io.pending = false;
}

static uint64_t loaded;
static void load_rule(struct cpu *c, const struct insn *insn)
{
	uint64_t v[2];

	lin_read(c, MMIO + 0x10, v, 16, 0);
	loaded = v[0] ^ v[1];
}

static void test_mmio(void)
{
	struct insn nop = decode("\x90", 1);

	machine();
	check_that(run_once(load_rule, &nop) == LEFT && cpu->leave_why == CPU_EXIT_MMIO, "read leaves");
	check_that(cpu->io.pending && !cpu->io.is_write && cpu->io.addr == MMIO + 0x10 && cpu->io.len == 8, "first half");
	answer_read(0x1111);
	cpu->io.next = 0;
	check_that(run_once(load_rule, &nop) == LEFT && cpu->io.addr == MMIO + 0x18, "second half");
	answer_read(0x2200);
	cpu->io.next = 0;
	check_that(run_once(load_rule, &nop) == DONE && loaded == 0x3311, "both: %lx", loaded);
	check_that(run_once(load_rule, &nop) == LEFT && cpu->io.addr == MMIO + 0x10, "answers are used once");
}

static void test_mmio_movs(void)
{
	struct insn movs = decode("\xf3\xa5", 2);

	machine();
	cpu->gpr[REG_RSI] = MMIO;
	cpu->gpr[REG_RDI] = 0x2000;
	cpu->gpr[REG_RCX] = 3;
	for (unsigned i = 0; i < 3; i++) {
		check_that(run(rule_movs, &movs) == LEFT && cpu->io.addr == MMIO + 4 * i && cpu->gpr[REG_RCX] == 3 - i, "element %u", i);
		answer_read(0x100 + i);
	}
	check_that(run(rule_movs, &movs) == DONE && ((uint32_t *)(ram + 0x2000))[2] == 0x102 && !cpu->gpr[REG_RCX], "rep movs from a device");

	cpu->gpr[REG_RSI] = 0x2000;
	cpu->gpr[REG_RDI] = MMIO;
	cpu->gpr[REG_RCX] = 2;
	check_that(run_once(rule_movs, &movs) == DONE && cpu->next_rip == cpu->rip && cpu->io.nwrites == 1 && (cpu->poll & POLL_MMIO) &&
	      cpu->io.writes[0].addr == MMIO && cpu->io.writes[0].len == 4 && cpu->gpr[REG_RCX] == 1, "rep movs to a device");
	cpu->io.nwrites = cpu->poll = 0;
}

static void test_ports(void)
{
	struct insn in = decode("\xed", 1), out = decode("\xe6\x80", 2), ins = decode("\xf3\x6d", 2), outs = decode("\xf3\x6e", 2);

	machine();
	cpu->gpr[REG_RDX] = 0x3f8;
	check_that(run_once(rule_in, &in) == LEFT && cpu->leave_why == CPU_EXIT_PIO && cpu->io.addr == 0x3f8 && cpu->io.len == 4 &&
	      !cpu->io.is_write && cpu->io.is_pio, "in leaves");
	memcpy(cpu->io.data, "\x78\x56\x34\x12", 4);
	cpu->io.pending = false;
	cpu->io.answered = true;
	check_that(run_once(rule_in, &in) == DONE && cpu->gpr[REG_RAX] == 0x12345678, "in: %lx", cpu->gpr[REG_RAX]);
	check_that(run_once(rule_in, &in) == LEFT, "the answer is used once");
	cpu->io.pending = false;
	check_that(run_once(rule_out, &out) == LEFT && cpu->io.addr == 0x80 && cpu->io.is_write && cpu->io.data[0] == 0x78, "out");
	cpu->io.pending = false;
	cpu->io.answered = true;
	check_that(run_once(rule_out, &out) == DONE && !cpu->io.answered, "out answered");

	cpu->gpr[REG_RDI] = 0x2ff0;
	cpu->gpr[REG_RCX] = 6;
	check_that(run(rule_ins, &ins) == LEFT && cpu->io.count == 4 && cpu->io.len == 4, "ins up to the page's end: %u", cpu->io.count);
	memset(cpu->io.data, 0x5a, 16);
	cpu->io.pending = false;
	cpu->io.answered = true;
	check_that(run(rule_ins, &ins) == LEFT && cpu->gpr[REG_RCX] == 2 && cpu->gpr[REG_RDI] == 0x3000 && cpu->io.count == 2, "ins goes on");
	check_that(ram[0x2ff0] == 0x5a && ram[0x2fff] == 0x5a && ram[0x3000] == 0, "ins data");
	cpu->io.pending = false;

	cpu->gpr[REG_RSI] = 0x2ff0;
	cpu->gpr[REG_RCX] = 3;
	check_that(run(rule_outs, &outs) == LEFT && cpu->io.count == 3 && cpu->io.data[2] == 0x5a && cpu->io.is_write, "outs");
	cpu->io.pending = false;
	cpu->io.answered = true;
	check_that(run(rule_outs, &outs) == DONE && cpu->gpr[REG_RCX] == 0 && cpu->gpr[REG_RSI] == 0x2ff3, "outs answered");

	cpu->cpl = 3;
	cpu->seg[SEG_TR].type = 3;
	cpu_mode_update(cpu);
	check_that(run_once(rule_in, &in) == RAISED && cpu->event.vector == VEC_GP, "no I/O at CPL 3 without a bitmap");
	cpu->seg[SEG_TR] = (struct segment){ .base = 0x4000, .limit = 0x68 + 0x100, .type = 11, .present = 1 };
	*(uint16_t *)(ram + 0x4000 + 102) = 0x68;
	check_that(run_once(rule_in, &in) == LEFT, "the bitmap permits");
	cpu->io.pending = false;
	ram[0x4068 + 0x3f8 / 8] = 8;
	check_that(run_once(rule_in, &in) == RAISED, "the bitmap forbids the last of four ports");
}

/* ---- crossings, the stack ---- */

static void cross_rule(struct cpu *c, const struct insn *insn) { lin_store(c, HOLE - 4, 8, 0x1122334455667788, 0); }
static void cross_good_rule(struct cpu *c, const struct insn *insn) { lin_store(c, 0x2ffc, 8, 0x1122334455667788, 0); }

static void test_crossing(void)
{
	struct insn nop = decode("\x90", 1);

	machine();
	check_that(run_once(cross_rule, &nop) == RAISED && cpu->event.payload == HOLE && *(uint32_t *)(ram + HOLE - 4) == 0,
	      "a crossing store faults whole, at the second page: %lx", cpu->event.payload);
	check_that(run_once(cross_good_rule, &nop) == DONE && *(uint64_t *)(ram + 0x2ffc) == 0x1122334455667788, "a crossing store");
}

static void test_stack(void)
{
	struct insn pusha = decode("\x60", 1), popa = decode("\x61", 1), pop = decode("\x8f\x44\x24\x04", 4), push = decode("\x54", 1);
	struct insn enter = decode("\xc8\x10\x00\x03", 4), leave = decode("\xc9", 1);

	machine();
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = 0x100 + i;
	cpu->gpr[REG_RSP] = 0x3008;
	check_that(run_once(rule_pusha, &pusha) == DONE && cpu->gpr[REG_RSP] == 0x2fe8 && *(uint32_t *)(ram + 0x2ff4) == 0x3008, "pusha");
	cpu->gpr[REG_RBX] = 0;
	check_that(run_once(rule_popa, &popa) == DONE && cpu->gpr[REG_RSP] == 0x3008 && cpu->gpr[REG_RBX] == 0x103, "popa");
	cpu->gpr[REG_RSP] = HOLE + 4096 + 16;
	check_that(run_once(rule_pusha, &pusha) == RAISED && cpu->gpr[REG_RSP] == HOLE + 4096 + 16, "pusha that faults");
	cpu->gpr[REG_RSP] = 0x3000;
	check_that(run_once(rule_push, &push) == DONE && *(uint32_t *)(ram + 0x2ffc) == 0x3000, "push esp pushes its old value");
	check_that(run_once(rule_pop, &pop) == DONE && *(uint32_t *)(ram + 0x3004) == 0x3000 && cpu->gpr[REG_RSP] == 0x3000,
	      "pop [esp+4] uses the new ESP");
	cpu->gpr[REG_RBP] = 0x3100;
	*(uint32_t *)(ram + 0x30fc) = 0xaaa;
	*(uint32_t *)(ram + 0x30f8) = 0xbbb;
	check_that(run_once(rule_enter, &enter) == DONE && cpu->gpr[REG_RBP] == 0x2ffc && cpu->gpr[REG_RSP] == 0x2ffc - 12 - 16 &&
	      *(uint32_t *)(ram + 0x2ffc) == 0x3100 && *(uint32_t *)(ram + 0x2ff8) == 0xaaa && *(uint32_t *)(ram + 0x2ff4) == 0xbbb &&
	      *(uint32_t *)(ram + 0x2ff0) == 0x2ffc, "enter 16, 3");
	check_that(run_once(rule_leave, &leave) == DONE && cpu->gpr[REG_RSP] == 0x3000 && cpu->gpr[REG_RBP] == 0x3100, "leave");
}

/* ---- state images. Between unpark and park no code may use vector registers. ---- */

static __attribute__((noinline, target("general-regs-only"))) enum end run_live(rule_fn *rule, const struct insn *insn)
{
	enum end end;

	fpu_unpark(cpu);
	end = run_once(rule, insn);
	fpu_park(cpu);
	return end;
}

static void fill_xsave(void)
{
	uint8_t image[832] = { 0 };

	for (unsigned i = 160; i < 416; i++)
		image[i] = i;
	for (unsigned i = 576; i < 832; i++)
		image[i] = i * 3;
	for (unsigned i = 0; i < 10; i++)
		image[32 + i] = i + 1;
	memcpy(image, "\x7f\x02\x00\x38\x80\x00\x23\x01", 8);   /* FCW, FSW with TOP 7, FTW, FOP */
	memcpy(image + 8, "\x44\x33\x22\x11", 4);
	memcpy(image + 24, "\x80\x1f", 2);
	image[512] = fpu_xcr0_supported();
	check_that(fpu_set_xsave(cpu, image, fpu_xsave_size()) == 0, "set");
}

static void test_xsave(void)
{
	struct insn xsave = decode("\x0f\xae\x20", 3), xrstor = decode("\x0f\xae\x28", 3), fxsave = decode("\x0f\xae\x00", 3);
	struct insn fxrstor = decode("\x0f\xae\x08", 3), xsavec = decode("\x0f\xc7\x20", 3), fnsave = decode("\xdd\x30", 2);
	struct insn frstor = decode("\xdd\x20", 2);
	uint8_t before[832], after[832];

	machine();
	cpu->features[FEATURE_XSAVEC >> 6] |= 1ull << (FEATURE_XSAVEC & 63);
	cpu->gpr[REG_RAX] = 0x3000;
	cpu->gpr[REG_RDX] = 0;
	fill_xsave();
	fpu_get_xsave(cpu, before, sizeof(before));
	/* RFBM is EDX:EAX, and the address is in EAX too: 0x3000 has none of the three bits. */
	check_that(run_live(rule_xsave, &xsave) == DONE && *(uint64_t *)(ram + 0x3200) == 0, "nothing requested");
	cpu->gpr[REG_RAX] = 0x3007;
	check_that(run_live(rule_xsave, &xsave) == RAISED && cpu->event.vector == VEC_GP, "alignment");
	xsave.disp = xrstor.disp = xsavec.disp = -7;
	check_that(run_live(rule_xsave, &xsave) == DONE, "xsave");
	check_that(*(uint64_t *)(ram + 0x3200) == fpu_xcr0_supported(), "XSTATE_BV %lx", *(uint64_t *)(ram + 0x3200));
	check_that(!memcmp(ram + 0x3000, before, 160) && !memcmp(ram + 0x30a0, before + 160, 128), "x87 and XMM0-7");
	check_that(ram[0x3000 + 288] == 0 && ram[0x3000 + 576 + 128] == 0, "not registers 8 to 15");

	fpu_reset(cpu, false);
	check_that(run_live(rule_xrstor, &xrstor) == DONE, "xrstor");
	fpu_get_xsave(cpu, after, sizeof(after));
	check_that(!memcmp(before, after, 288) && !memcmp(before + 576, after + 576, 128), "restored");
	check_that(after[288] == 0, "register 8 untouched");
	*(uint64_t *)(ram + 0x3200) |= 8;
	check_that(run_live(rule_xrstor, &xrstor) == RAISED && cpu->event.vector == VEC_GP, "component beyond XCR0");
	*(uint64_t *)(ram + 0x3200) = 0;
	*(uint32_t *)(ram + 0x3018) = 0x10000;
	check_that(run_live(rule_xrstor, &xrstor) == RAISED, "MXCSR");
	*(uint32_t *)(ram + 0x3018) = 0x1f80;
	check_that(run_live(rule_xrstor, &xrstor) == DONE, "all initial");
	fpu_get_xsave(cpu, after, sizeof(after));
	check_that(after[0] == 0x7f && after[1] == 3 && after[160] == 0 && after[576] == 0 && cpu->fpu_ip == 0, "initial state");

	fill_xsave();
	memset(ram + 0x3000, 0, 4096);
	check_that(run_live(rule_xsave, &xsavec) == DONE && *(uint64_t *)(ram + 0x3208) == (fpu_xcr0_supported() | 1ull << 63), "xsavec");
	fpu_reset(cpu, false);
	check_that(run_live(rule_xrstor, &xrstor) == DONE, "xrstor, compacted");
	fpu_get_xsave(cpu, after, sizeof(after));
	check_that(!memcmp(before, after, 288) && !memcmp(before + 576, after + 576, 128), "restored, compacted");

	cpu->gpr[REG_RAX] = 0x3000;
	memset(ram + 0x3000, 0xee, 4096);
	check_that(run_live(rule_fxsave, &fxsave) == DONE && !memcmp(ram + 0x3000, before, 24) && !memcmp(ram + 0x30a0, before + 160, 128) &&
	      ram[0x3000 + 288] == 0xee, "fxsave");
	fpu_reset(cpu, false);
	check_that(run_live(rule_fxrstor, &fxrstor) == DONE, "fxrstor");
	fpu_get_xsave(cpu, after, sizeof(after));
	check_that(!memcmp(before, after, 288), "fxrstor restored");

	check_that(run_live(rule_fnsave, &fnsave) == DONE && *(uint32_t *)(ram + 0x3000) == 0xffff027f &&
	      *(uint32_t *)(ram + 0x300c) == 0x11223344 && *(uint32_t *)(ram + 0x3010) == 0x1230000 && ram[0x301c] == 1, "fnsave");
	fpu_get_xsave(cpu, after, sizeof(after));
	check_that(after[1] == 3 && after[4] == 0, "fnsave initialises");
	check_that(run_live(rule_frstor, &frstor) == DONE, "frstor");
	fpu_get_xsave(cpu, after, sizeof(after));
	check_that(!memcmp(before, after, 160), "frstor restored");
}

/* vpgatherdd ymm0, [eax+ymm1*4], ymm2 and vmaskmovps [eax], ymm2, ymm0 */
static void test_masked(void)
{
	struct insn gather = decode("\xc4\xe2\x6d\x90\x04\x88", 6), store = decode("\xc4\xe2\x6d\x2e\x00", 5);
	uint8_t image[832] = { 0 };
	int32_t *xmm = (int32_t *)(image + 160), *high = (int32_t *)(image + 576);

	if (!(fpu_xcr0_supported() & 4))
		return;
	machine();
	for (unsigned i = 0; i < 0x400; i++)
		((uint32_t *)(ram + 0x7000))[i] = i;
	cpu->gpr[REG_RAX] = 0x7000;
	image[24] = 0x80, image[25] = 0x1f, image[512] = 7;
	for (int i = 0; i < 4; i++) {
		xmm[4 + i] = 10 + i;             /* indices; the last two lead into the hole */
		high[4 + i] = i < 2 ? 20 + i : 0x400;
		xmm[8 + i] = i == 1 ? 0 : -1;
		high[8 + i] = i == 3 ? 0 : -1;
		xmm[i] = high[i] = 0x55;
	}
	check_that(fpu_set_xsave(cpu, image, sizeof(image)) == 0, "set");
	check_that(run_live(rule_gather, &gather) == RAISED && cpu->event.payload == HOLE, "gather into the hole: %lx", cpu->event.payload);
	fpu_get_xsave(cpu, image, sizeof(image));
	check_that(xmm[0] == 10 && xmm[1] == 0x55 && xmm[2] == 12 && high[1] == 21 && high[2] == 0x55, "elements that arrived");
	check_that(xmm[8] == 0 && high[8] == 0 && high[9] == 0 && high[10] == -1, "mask of what is left");
	xmm[4] = 999, high[6] = 30;
	check_that(fpu_set_xsave(cpu, image, sizeof(image)) == 0 && run_live(rule_gather, &gather) == DONE, "the rest");
	fpu_get_xsave(cpu, image, sizeof(image));
	check_that(xmm[0] == 10 && high[2] == 30 && high[3] == 0x55 && high[10] == 0, "all");

	cpu->gpr[REG_RAX] = HOLE - 16;
	for (int i = 0; i < 4; i++)
		xmm[8 + i] = i & 1 ? -1 : 0, high[8 + i] = 0;
	check_that(fpu_set_xsave(cpu, image, sizeof(image)) == 0 && run_live(rule_vmaskmov, &store) == DONE, "masked elements cannot fault");
	check_that(*(uint32_t *)(ram + HOLE - 16) == 0x3fc && *(uint32_t *)(ram + HOLE - 12) == 0x55, "masked store");
}

static const struct test tests[] = {
	{ "strings", test_strings },
	{ "mmio", test_mmio },
	{ "mmio movs", test_mmio_movs },
	{ "ports", test_ports },
	{ "crossing", test_crossing },
	{ "stack", test_stack },
	{ "xsave", test_xsave },
	{ "masked", test_masked },
};

int main(void)
{
	struct mem *mem = mem_new();

	params_init();
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mem_write_lock(mem);
	mem_slot_set(mem, 0, 0, 0, RAM_SIZE, ram);
	mem_write_unlock(mem);
	cpu = cpu_new(mem, &ops, NULL, 0);
	mem_read_lock(mem);
	return run_tests(tests, ARRAY_SIZE(tests));
}
