/*
 * Random machine states, and operand addresses that hit what the engine treats
 * apart: page ends, holes, read-only pages, device memory, non-canonical addresses.
 */
#include "insn.h"

uint64_t random_value(struct rng *rng)
{
	static const uint64_t special[] = { 0, 1, ~0ull, 0x80, 0x7f, 0x8000, 0x7fff, 0x80000000, 0x7fffffff, 0x8000000000000000,
	                                    0x7fffffffffffffff, 0xff, 0xffff, 0xffffffff, 2, 0x100 };
	uint64_t v = rnd(rng);
	switch (below(rng, 8)) {
	case 0: return special[below(rng, COUNT_OF(special))];
	case 1: return (int64_t)(int8_t)v;
	case 2: return v & 0xffff;
	case 3: return v >> (v & 63);
	case 4: return (v & 0xff) * 0x0101010101010101ull;
	default: return v;
	}
}

static uint64_t random_double(struct rng *rng)
{
	static const uint64_t special[] = { 0, 1ull << 63, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000,
	                                    0x7ff8000000000001, 0x7ff0000000000001, 1, 0x000fffffffffffff, 0x41dfffffffc00000, 0x43e0000000000000 };
	if (percent(rng, 30))
		return special[below(rng, COUNT_OF(special))];
	uint64_t v = rnd(rng);
	return (v & 0x800fffffffffffff) | (uint64_t)(1023 - 40 + below(rng, 80)) << 52;
}

static uint32_t random_float(struct rng *rng)
{
	static const uint32_t special[] = { 0, 1u << 31, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00001, 0x7f800001, 1, 0x007fffff,
	                                    0x4effffff, 0x4f000000 };
	if (percent(rng, 30))
		return special[below(rng, COUNT_OF(special))];
	uint32_t v = rnd(rng);
	return (v & 0x807fffff) | (127u - 30 + below(rng, 60)) << 23;
}

void random_bytes(struct rng *rng, void *to, unsigned len)
{
	unsigned style = below(rng, 6);
	for (unsigned i = 0; i < len; i += 8) {
		uint64_t v;
		switch (style) {
		case 0: v = random_double(rng); break;
		case 1: v = random_float(rng) | (uint64_t)random_float(rng) << 32; break;
		case 2: v = random_value(rng); break;
		case 3: v = rnd(rng) & 0x0f0f0f0f0f0f0f0full; break;
		default: v = rnd(rng); break;
		}
		memcpy((uint8_t *)to + i, &v, len - i < 8 ? len - i : 8);
	}
}

static void random_st(struct rng *rng, uint8_t *to)
{
	uint64_t mantissa = rnd(rng) | 1ull << 63;
	uint16_t exponent = 16383 - 70 + below(rng, 140);
	switch (below(rng, 12)) {
	case 0: mantissa = 0; exponent = 0; break;
	case 1: mantissa = 1ull << 63; exponent = 0x7fff; break;                /* infinity */
	case 2: exponent = 0x7fff; break;                                       /* NaN */
	case 3: mantissa >>= 1; exponent = 0; break;                            /* denormal */
	case 4: mantissa = rnd(rng); exponent = rnd(rng); break;                /* perhaps unsupported */
	case 5: mantissa = 1ull << 63; exponent = 16383; break;
	}
	exponent ^= rnd(rng) << 15;
	memcpy(to, &mantissa, 8);
	memcpy(to + 8, &exponent, 2);
}

static void random_x87(struct rng *rng, uint8_t *x)
{
	uint16_t fcw = 0x37f, fsw = below(rng, 8) << 11 | (rnd(rng) & 0x4700);
	if (percent(rng, 40))
		fcw = (rnd(rng) & 0xf00) | 0x7f;
	if (percent(rng, 10))
		fcw = (fcw & ~0x3f) | (rnd(rng) & 0x3f);
	if (percent(rng, 15))
		fsw |= rnd(rng) & 0x7f;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	uint8_t tags = percent(rng, 60) ? 0xff : rnd(rng);
	memcpy(x, &fcw, 2);
	memcpy(x + 2, &fsw, 2);
	x[4] = tags;
	for (unsigned i = 0; i < 8; i++)
		random_st(rng, x + 32 + 16 * i);
}

static void random_xsave(struct rng *rng, uint8_t *x)
{
	memset(x, 0, XSAVE_BYTES);
	random_x87(rng, x);
	uint32_t mxcsr = 0x1f80;
	if (percent(rng, 40))
		mxcsr |= rnd(rng) & 0xe07f;
	if (percent(rng, 8))
		mxcsr &= ~(rnd(rng) & 0x1f80);
	memcpy(x + 24, &mxcsr, 4);
	for (unsigned i = 0; i < 16; i++) {
		random_bytes(rng, x + 160 + 16 * i, 16);
		random_bytes(rng, x + XSAVE_YMM + 16 * i, 16);
	}
	x[XSAVE_HEADER] = 7;
}

void random_state(struct rng *rng, struct state *s)
{
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s->gpr[i] = i < 8 || machine_bits == 64 ? random_value(rng) & machine_mask() : 0;
	s->gpr[RSP] = PAGE_ADDR(2) + 0x800 + 8 * below(rng, 32);
	s->rflags = 2 | FLAG_IF | (rnd(rng) & FLAGS_ARITH);
	if (percent(rng, 8))
		s->rflags |= FLAG_DF;
	if (percent(rng, 3))
		s->rflags |= FLAG_AC;
	if (percent(rng, 3))
		s->rflags |= FLAG_TF;
	random_xsave(rng, s->xsave);
}

/* ---- addresses ---- */
static uint64_t before_page(struct rng *rng, unsigned page, unsigned size)
{
	return PAGE_ADDR(page) - (size > 1 ? 1 + below(rng, size - 1) : 0);
}

uint64_t pick_address(struct rng *rng, unsigned size)
{
	unsigned kind = below(rng, 100), inside = PAGE_ADDR(HOLE) - DATA_BASE - 0x100 - size;
	uint64_t a = DATA_BASE + 0x80 + below(rng, inside);
	if (kind < 40)
		return a & ~63ull;
	if (kind < 55)
		return a & ~15ull;
	if (kind < 75)
		return a;
	if (kind < 83)
		return before_page(rng, 1 + below(rng, 3), size);
	if (kind < 86)
		return before_page(rng, HOLE, size);
	if (kind < 88)
		return DATA_BASE - 1 - below(rng, size);
	if (kind < 90)
		return PAGE_ADDR(HOLE) + (below(rng, PAGE) & ~15);
	if (kind < 92)
		return PAGE_ADDR(RO) + (below(rng, PAGE - size) & ~15);
	if (kind < 93)
		return before_page(rng, RO, size);
	if (kind < 96)
		return size > 64 ? a & ~63ull : PAGE_ADDR(MMIO) + (below(rng, PAGE - size) & (percent(rng, 70) ? ~15 : ~0));
	if (kind < 98)
		return size > 64 ? a & ~63ull : before_page(rng, MMIO + below(rng, 2), size);
	if (machine_bits == 16)                          /* the segment's end */
		return DATA_BASE + 0x10000 - ((size & (size - 1)) == 0 && size <= 32 ? below(rng, size + 1) : size);
	if (kind < 99)
		return a ^ 1ull << (47 + below(rng, 16));
	return 0x0000800000000000ull - (size > 1 && (size & (size - 1)) == 0 && size <= 32 ? below(rng, size) : 0);       /* around the end of the lower half */
}

int gpr_of(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return r - ZYDIS_REGISTER_AL;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return r - ZYDIS_REGISTER_AH;
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
	return whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15 ? (int)(whole - ZYDIS_REGISTER_RAX) : -1;
}

unsigned operand_bytes(const struct decoded *d)
{
	const ZydisDecodedOperand *m = memory_operand(d);
	switch (d->z.mnemonic) {
	case ZYDIS_MNEMONIC_XSAVE: case ZYDIS_MNEMONIC_XSAVE64: case ZYDIS_MNEMONIC_XSAVEC: case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT: case ZYDIS_MNEMONIC_XSAVEOPT64: case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64:
		return XSAVE_BYTES;
	case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
		return 512;
	case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FRSTOR:
		return 108;
	default:
		return m && m->size ? m->size / 8 : 1;
	}
}

static uint64_t segment_base(ZydisRegister r, uint64_t next_rip)
{
	if (machine_bits == 16)
		return r == ZYDIS_REGISTER_CS ? next_rip & ~0xffffull : DATA_BASE;
	return r == ZYDIS_REGISTER_FS ? native_fs_base : r == ZYDIS_REGISTER_GS ? native_gs_base : 0;
}

static uint64_t wrap(const struct decoded *d, uint64_t v)
{
	return d->z.address_width == 64 ? v : d->z.address_width == 32 ? (uint32_t)v : (uint16_t)v;
}

/* A SIB byte without base: some Zydis versions take it for R13 if REX.B is set. */
static bool has_no_base(const struct decoded *d)
{
	return d->z.address_width > 16 && d->z.attributes & ZYDIS_ATTRIB_HAS_SIB && (d->z.raw.sib.base & 7) == 5 && d->z.raw.modrm.mod == 0;
}

int base_register(const struct decoded *d)
{
	return has_no_base(d) ? -1 : gpr_of(memory_operand(d)->mem.base);
}

uint64_t effective_address(const struct state *s, const struct decoded *d, const ZydisDecodedOperand *m, uint64_t next_rip)
{
	uint64_t a = d->z.raw.disp.value;
	int b = base_register(d), i = m->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? -1 : gpr_of(m->mem.index);
	if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP)
		a += next_rip;
	if (b >= 0)
		a += s->gpr[b];
	if (i >= 0)
		a += s->gpr[i] * m->mem.scale;
	return wrap(d, a) + segment_base(m->mem.segment, next_rip);
}

/* ---- aiming ---- */
static bool set_displacement(struct test *t, uint64_t value)
{
	struct decoded *d = &t->insn[0];
	unsigned bytes = d->z.raw.disp.size / 8;
	int64_t back = bytes == 1 ? (int8_t)value : bytes == 2 ? (int16_t)value : bytes == 4 ? (int32_t)value : (int64_t)value;
	if (!bytes || (wrap(d, back) != wrap(d, value)))
		return false;
	memcpy(t->code + t->offset[0] + d->z.raw.disp.offset, &value, bytes);
	return decode(t->code + t->offset[0], d->z.length, d);
}

/* Adds what is missing to a register; of 32-bit addresses the upper half stays garbage. */
static void move_register(struct test *t, int g, uint64_t by)
{
	uint64_t *r = &t->in.gpr[g];
	if (t->insn[0].z.address_width == 16)
		*r = (*r & ~0xffffull) | (uint16_t)(*r + by);
	else if (t->insn[0].z.address_width == 32)
		*r = (*r & 0xffffffff00000000) | (uint32_t)(*r + by);
	else
		*r = (*r + by) & machine_mask();
}

bool aim(struct test *t, uint64_t addr)
{
	struct decoded *d = &t->insn[0];
	const ZydisDecodedOperand *m = memory_operand(d);
	if (d->z.address_width == 16 && machine_bits == 32)
		return true;             /* below 64 KiB: nothing is there */
	uint64_t next = test_rip(t) + t->offset[0] + d->z.length, is = effective_address(&t->in, d, m, next);
	int b = base_register(d), i = m->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? -1 : gpr_of(m->mem.index);
	if (b >= 0 && b != i) {
		move_register(t, b, addr - is);
	} else {
		if (i >= 0)
			t->in.gpr[i] &= 0xffffff;
		is = effective_address(&t->in, d, m, next);
		if (!set_displacement(t, d->z.raw.disp.value + (addr - is)))
			return false;
	}
	is = effective_address(&t->in, d, memory_operand(d), next);
	return is == addr || (d->z.address_width == 32 && (uint32_t)is == (uint32_t)addr && is < 1ull << 32);
}

/* Memory of other kinds is above 4 GiB in this process: nothing there may be hit. */
static bool is_safe(uint64_t a)
{
	return a < 1ull << 32 || a + 0x0000800000000000ull >= 0x0001000000000000ull || (a >= 0x00007fffffff0000ull && a < 0x0000800000000000ull);
}

static void operand_values(struct test *t, uint64_t addr)
{
	uint8_t bytes[64];
	unsigned size = operand_bytes(&t->insn[0]);
	if (size > sizeof bytes || percent(&t->rng, 30))
		return;
	random_bytes(&t->rng, bytes, sizeof bytes);
	poke(addr, bytes, size);
}

static uint32_t undefined_flags(const struct decoded *d)
{
	return d->z.cpu_flags ? d->z.cpu_flags->undefined & FLAGS_ARITH : 0;
}

/* Processors differ in which large operands they check under RFLAGS.AC, and in the order with page faults. */
static bool alignment_check_is_certain(const struct test *t)
{
	const ZydisDecodedOperand *m = memory_operand(&t->insn[0]);
	if (!m || operand_bytes(&t->insn[0]) > 8 || is_vsib(&t->insn[0]))
		return false;
	uint64_t a = effective_address(&t->in, &t->insn[0], m, test_rip(t) + t->insn[0].z.length);
	return a >= DATA_BASE && a + 8 <= PAGE_ADDR(HOLE);
}

static bool try_single(struct test *t, const struct form *f)
{
	struct decoded *d = &t->insn[0];
	t->form = f;
	t->count = 1;
	t->offset[0] = 0;
	if (!build(&t->rng, f, any_shape(), t->code, d))
		return false;
	t->code_len = d->z.length;
	random_state(&t->rng, &t->in);
	t->in.rip = test_ip(t);
	t->undefined = undefined_flags(d);
	const ZydisDecodedOperand *m = memory_operand(d);
	if (m && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN) {
		uint64_t addr = pick_address(&t->rng, operand_bytes(d));
		if (!aim(t, addr))
			return false;
		operand_values(t, addr);
	}
	if (!special_inputs(t))
		return false;
	if (machine_bits == 16 && t->in.gpr[RSP] >> 16 != DATA_BASE >> 16)
		return false;                    /* see FRAME_16BIT */
	if (!alignment_check_is_certain(t))
		t->in.rflags &= ~(uint64_t)FLAG_AC;
	if (is_vsib(d))
		t->in.rflags &= ~(uint64_t)FLAG_TF;      /* some trap between elements */
	m = memory_operand(d);
	return !m || m->mem.type == ZYDIS_MEMOP_TYPE_AGEN || is_safe(effective_address(&t->in, d, m, test_rip(t) + d->z.length));
}

bool test_single(struct test *t, const struct form *f)
{
	for (unsigned tries = 0; tries < 50; tries++) {
		image_reset();
		if (try_single(t, f))
			return true;
	}
	return false;
}
