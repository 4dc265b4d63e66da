/*
 * What single instructions need of their inputs: implicit operands that point
 * somewhere, divisors that do not overflow every time, valid images to restore;
 * and which instructions cannot be tested here at all.
 */
#include "insn.h"

#define M(name) case ZYDIS_MNEMONIC_##name

/* ---- what is tested ---- */
static bool is_offered(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_ADOX_ADCX: case ZYDIS_ISA_EXT_AES: case ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH: case ZYDIS_ISA_EXT_AVX:
	case ZYDIS_ISA_EXT_AVX2: case ZYDIS_ISA_EXT_AVX2GATHER: case ZYDIS_ISA_EXT_AVXAES: case ZYDIS_ISA_EXT_BASE: case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2: case ZYDIS_ISA_EXT_CLFLUSHOPT: case ZYDIS_ISA_EXT_CLFSH: case ZYDIS_ISA_EXT_CLWB: case ZYDIS_ISA_EXT_F16C:
	case ZYDIS_ISA_EXT_FMA: case ZYDIS_ISA_EXT_LONGMODE: case ZYDIS_ISA_EXT_LZCNT: case ZYDIS_ISA_EXT_MMX: case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_PAUSE: case ZYDIS_ISA_EXT_PCLMULQDQ: case ZYDIS_ISA_EXT_RDWRFSGS: case ZYDIS_ISA_EXT_SHA: case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2: case ZYDIS_ISA_EXT_SSE3: case ZYDIS_ISA_EXT_SSE4: case ZYDIS_ISA_EXT_SSSE3: case ZYDIS_ISA_EXT_X87:
	case ZYDIS_ISA_EXT_XSAVE: case ZYDIS_ISA_EXT_XSAVEC: case ZYDIS_ISA_EXT_XSAVEOPT: case ZYDIS_ISA_EXT_PREFETCHWT1:
		return true;
	default:
		return false;
	}
}

/* Results come from the system, not from the operands; or control goes elsewhere. */
static bool is_system(const ZydisDecodedInstruction *z)
{
	switch (z->mnemonic) {
	M(CPUID): M(RDTSC): M(RDTSCP): M(RDPMC): M(RDPID): M(RDRAND): M(RDSEED): M(XGETBV): M(SGDT): M(SIDT): M(SLDT): M(STR): M(SMSW):
	M(SYSCALL): M(SYSENTER): M(SYSRET): M(SYSEXIT): M(INT): M(IRET): M(IRETD): M(IRETQ): M(LAR): M(LSL): M(VERR): M(VERW): M(LFS): M(LGS):
	M(LSS): M(LDS): M(LES): M(WRFSBASE): M(WRGSBASE): M(UD0): M(UD1): M(VMCALL): M(VMMCALL): M(INT1): M(GETSEC): M(MONITOR): M(MWAIT): M(RSM):
		return true;
	default:
		return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	}
}

static bool has_segment_operand(const struct decoded *d)
{
	for (unsigned i = 0; i < d->z.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && d->op[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
		    ZydisRegisterGetClass(d->op[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
	return false;
}

/* Makers differ in what 66 does to a near branch. */
static bool is_short_branch(const struct decoded *d)
{
	if (d->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE && d->z.mnemonic != ZYDIS_MNEMONIC_RET)
		return false;
	for (unsigned i = 0; i < d->z.raw.prefix_count; i++)
		if (d->z.raw.prefixes[i].value == 0x66)
			return true;
	return false;
}

/* Reserved forms that makers fill differently: PREFETCH of a register, PAUSE with REX.B, 64-bit VPINSRQ in 32-bit code. */
static bool is_reserved(const struct decoded *d)
{
	if (d->z.mnemonic == ZYDIS_MNEMONIC_PAUSE)
		return d->z.raw.rex.B;
	if (machine_bits == 32 && (d->z.mnemonic == ZYDIS_MNEMONIC_VPINSRD || d->z.mnemonic == ZYDIS_MNEMONIC_VPEXTRD))
		return d->z.raw.vex.W;
	return d->z.opcode_map == ZYDIS_OPCODE_MAP_0F && d->z.opcode == 0x0d && d->z.raw.modrm.mod == 3;
}

bool is_excluded(const struct decoded *d)
{
	if (is_reserved(d))
		return true;
	if (d->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && d->z.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return true;
	return !is_offered(&d->z) || is_system(&d->z) || has_segment_operand(d) || is_short_branch(d);
}

static bool needs_special_inputs(const ZydisDecodedInstruction *z)
{
	switch (z->mnemonic) {
	M(MOVSB): M(MOVSW): M(MOVSQ): M(STOSB): M(STOSW): M(STOSD): M(STOSQ): M(LODSB): M(LODSW): M(LODSD): M(LODSQ): M(SCASB): M(SCASW):
	M(SCASD): M(SCASQ): M(CMPSB): M(CMPSW): M(CMPSQ): M(IN): M(OUT): M(ENTER): M(LEAVE): M(POPF): M(POPFD): M(POPFQ): M(POPA): M(POPAD): M(INTO): M(BOUND): M(XLAT): M(MASKMOVQ):
	M(MASKMOVDQU): M(VMASKMOVDQU): M(FXSAVE): M(FXSAVE64): M(FXRSTOR): M(FXRSTOR64): M(XSAVE): M(XSAVE64): M(XSAVEC): M(XSAVEC64):
	M(XSAVEOPT): M(XSAVEOPT64): M(XRSTOR): M(XRSTOR64): M(LDMXCSR): M(VLDMXCSR): M(FLDCW): M(FLDENV): M(FRSTOR): M(UD2): M(INT3):
	M(FNINIT): M(FNSTENV): M(FNSAVE):
		return true;
	M(MOVSD): M(CMPSD):
		return z->meta.isa_ext == ZYDIS_ISA_EXT_BASE;
	default:
		return z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
	}
}

bool is_simple(const struct decoded *d)
{
	const ZydisDecodedOperand *m = memory_operand(d);
	if (d->z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED || needs_special_inputs(&d->z) || is_vsib(d))
		return false;
	if (d->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || d->z.mnemonic == ZYDIS_MNEMONIC_RET)
		return d->z.meta.category == ZYDIS_CATEGORY_COND_BR && d->z.cpu_flags && d->z.cpu_flags->tested &&
		       d->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && d->z.mnemonic != ZYDIS_MNEMONIC_LOOPE && d->z.mnemonic != ZYDIS_MNEMONIC_LOOPNE;
	/* bit strings reach far from their operand */
	return !(m && d->z.opcode_map == ZYDIS_OPCODE_MAP_0F && (d->z.opcode == 0xa3 || d->z.opcode == 0xab || d->z.opcode == 0xb3 ||
	                                                         d->z.opcode == 0xbb) && d->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY);
}

/* ---- helpers ---- */
static uint64_t address32(struct test *t, uint64_t a)
{
	if (machine_bits == 16 && t->insn[0].z.address_width == 32)
		return (uint16_t)a;
	if (machine_bits < 64)
		return (uint32_t)a;
	return t->insn[0].z.address_width == 32 ? (uint32_t)a | rnd(&t->rng) << 32 : a;
}

/* Implicit operand in the segment that an override names: what to subtract from its address. */
static uint64_t override_base(const struct test *t)
{
	const struct decoded *d = &t->insn[0];
	for (unsigned i = 0; i < d->z.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && d->op[i].mem.segment >= ZYDIS_REGISTER_FS)
			return d->op[i].mem.segment == ZYDIS_REGISTER_FS ? native_fs_base : native_gs_base;
	return 0;
}

static uint64_t operand_address(const struct test *t)
{
	const ZydisDecodedOperand *m = memory_operand(&t->insn[0]);
	return m ? effective_address(&t->in, &t->insn[0], m, test_rip(t) + t->insn[0].z.length) : 0;
}

static bool base_is(const struct test *t, int g)
{
	const ZydisDecodedOperand *m = memory_operand(&t->insn[0]);
	return m && (base_register(&t->insn[0]) == g || gpr_of(m->mem.index) == g);
}

/* Sets an implicit operand unless that would move the explicit one. */
static bool set_gpr(struct test *t, int g, uint64_t v)
{
	if (base_is(t, g))
		return false;
	t->in.gpr[g] = v & machine_mask();
	return true;
}

static bool keep_gpr(struct test *t, int g, uint64_t v)
{
	set_gpr(t, g, v);
	return true;
}

static uint64_t code_target(struct test *t)
{
	uint64_t target = t->slot + below(&t->rng, 60);
	/* The engine pushes a call's return address before it finds the target not canonical. */
	if (t->insn[0].z.mnemonic == ZYDIS_MNEMONIC_CALL || machine_bits < 64)
		return target;
	return percent(&t->rng, 7) ? target ^ 1ull << (47 + below(&t->rng, 16)) : target;
}

/* ---- by kind of instruction ---- */
static bool divide(struct test *t)
{
	uint64_t *g = t->in.gpr;
	bool sign = t->insn[0].z.mnemonic == ZYDIS_MNEMONIC_IDIV;
	if (percent(&t->rng, 20))
		return true;
	if (t->insn[0].op[0].size == 8)
		return keep_gpr(t, RAX, (g[RAX] & ~0xffffull) | (sign ? (uint16_t)(int8_t)g[RAX] : (uint8_t)g[RAX]));
	unsigned bits = t->insn[0].op[0].size;
	return keep_gpr(t, RDX, sign && g[RAX] >> (bits - 1) & 1 ? ~0ull : below(&t->rng, 3));
}

static bool small_count(struct test *t)
{
	return percent(&t->rng, 70) ? keep_gpr(t, RCX, (t->in.gpr[RCX] & ~0xffull) | below(&t->rng, 70)) : true;
}

static bool bit_string(struct test *t)
{
	const struct decoded *d = &t->insn[0];
	if (!memory_operand(d) || d->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return true;
	int g = gpr_of(d->op[1].reg.value), size = d->op[1].size;
	if (base_is(t, g))
		return false;
	int64_t bit = (int64_t)below(&t->rng, 0x4000) - 0x2000;
	if (percent(&t->rng, 10))
		bit *= 8;
	t->in.gpr[g] = (size == 64 ? (uint64_t)bit : size == 32 ? (uint32_t)bit | rnd(&t->rng) << 32 : (uint16_t)bit | rnd(&t->rng) << 16) & machine_mask();
	return true;
}

static uint64_t string_address(struct test *t)
{
	struct rng *rng = &t->rng;
	unsigned kind = below(rng, 20);
	uint64_t a = kind < 15 ? PAGE_ADDR(1) + below(rng, 2 * PAGE) : kind < 17 ? PAGE_ADDR(HOLE) - below(rng, 128) :
	             kind == 17 ? PAGE_ADDR(RO) + below(rng, PAGE) : kind == 18 ? PAGE_ADDR(MMIO) - 64 + below(rng, PAGE) : pick_address(rng, 8);
	return percent(rng, 50) ? a & ~7ull : a;
}

static bool is_port_string(unsigned mnemonic)
{
	switch (mnemonic) {
	M(INSB): M(INSW): M(INSD): M(OUTSB): M(OUTSW): M(OUTSD):
		return true;
	default:
		return false;
	}
}

static bool string(struct test *t)
{
	struct rng *rng = &t->rng;
	uint64_t count = percent(rng, 80) ? below(rng, 40) : percent(rng, 50) ? 0 : below(rng, 600);
	uint8_t same[256];
	t->in.gpr[RSI] = address32(t, string_address(t) - override_base(t));
	t->in.gpr[RDI] = address32(t, percent(rng, 20) ? t->in.gpr[RSI] + override_base(t) + below(rng, 64) - 32 : string_address(t));
	if (t->insn[0].z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		t->in.gpr[RCX] = address32(t, count);
	if (is_port_string(t->insn[0].z.mnemonic) && !(uint32_t)t->in.gpr[RCX])
		t->in.gpr[RCX] = 1;              /* processors differ in whether nothing may be transferred */
	t->in.rflags ^= percent(rng, 30) ? FLAG_DF : 0;
	if (percent(rng, 60)) {                          /* equal stretches for CMPS and SCAS */
		memset(same, percent(rng, 50) ? t->in.gpr[RAX] & 0xff : 0x5a, sizeof same);
		poke((t->insn[0].z.address_width == 32 ? (uint32_t)t->in.gpr[RSI] : t->in.gpr[RSI]) & ~63ull, same, below(rng, 256));
		poke((t->insn[0].z.address_width == 32 ? (uint32_t)t->in.gpr[RDI] : t->in.gpr[RDI]) & ~63ull, same, below(rng, 256));
	}
	return true;
}

static bool port(struct test *t) { return keep_gpr(t, RDX, rnd(&t->rng)); }

static bool stack(struct test *t)
{
	struct rng *rng = &t->rng;
	unsigned kind = below(rng, 20);
	if (kind == 0)
		set_gpr(t, RSP, PAGE_ADDR(0) + below(rng, 16));
	else if (kind == 1)
		set_gpr(t, RSP, PAGE_ADDR(HOLE) - below(rng, 16));
	else if (kind == 2)
		set_gpr(t, RSP, PAGE_ADDR(2) + below(rng, 16));
	else if (kind == 3)
		set_gpr(t, RSP, PAGE_ADDR(MMIO) + 64 + 8 * below(rng, 16));
	else if (kind == 4)
		set_gpr(t, RSP, t->in.gpr[RSP] ^ 1ull << 60);
	else if (kind == 5)
		set_gpr(t, RSP, PAGE_ADDR(RO) + 64);
	return keep_gpr(t, RBP, percent(rng, 5) ? pick_address(rng, 8) : PAGE_ADDR(1) + 0x200 + below(rng, PAGE));
}

static bool ret(struct test *t)
{
	uint64_t target = code_target(t);
	stack(t);
	poke(t->in.gpr[RSP], &target, machine_bits / 8);
	return true;
}

static bool relative(struct test *t, unsigned n)
{
	struct decoded *d = &t->insn[0];
	int32_t rel = percent(&t->rng, 50) ? (int32_t)below(&t->rng, 110) : -16 - (int32_t)below(&t->rng, 40);
	memcpy(t->code + d->z.raw.imm[n].offset, &rel, d->z.raw.imm[n].size / 8);
	return decode(t->code, d->z.length, d);
}

static bool branch(struct test *t)
{
	struct decoded *d = &t->insn[0];
	if (d->z.mnemonic == ZYDIS_MNEMONIC_CALL)
		stack(t);
	if (d->z.raw.imm[0].is_relative) {
		if (percent(&t->rng, 60))
			keep_gpr(t, RCX, below(&t->rng, 3));     /* LOOP, JRCXZ */
		return relative(t, 0);
	}
	uint64_t target = code_target(t);
	if (d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && d->op[0].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
		t->in.gpr[gpr_of(d->op[0].reg.value)] = target;
	else
		poke(operand_address(t), &target, machine_bits / 8);    /* if there is no memory, the branch faults */
	return true;
}

static bool popf(struct test *t)
{
	uint64_t flags = rnd(&t->rng) & ~(uint64_t)FLAG_ID;
	stack(t);
	if (!percent(&t->rng, 10))
		flags &= ~(uint64_t)FLAG_TF;
	poke(t->in.gpr[RSP], &flags, 8);
	return true;
}

static bool xlat(struct test *t)
{
	t->in.gpr[RBX] = address32(t, pick_address(&t->rng, 1) - (uint8_t)t->in.gpr[RAX] - override_base(t));
	return true;
}

static bool maskmov(struct test *t)
{
	if (t->insn[0].z.address_width == 16 && machine_bits == 32)
		return false;
	for (unsigned i = 0; i < t->insn[0].z.raw.prefix_count; i++)
		if (t->insn[0].z.raw.prefixes[i].value == 0x2e && machine_bits < 64)
			return false;            /* nor may they through CS */
	/* Processors differ in whether bytes that are not stored can fault. */
	uint64_t a = percent(&t->rng, 10) ? PAGE_ADDR(MMIO) + 64 : PAGE_ADDR(1) + 0x800 + below(&t->rng, PAGE);
	t->in.gpr[RDI] = address32(t, (percent(&t->rng, 20) ? PAGE_ADDR(2) - below(&t->rng, 16) : a) - override_base(t));
	return true;
}

static bool has_dword_index(unsigned mnemonic)
{
	switch (mnemonic) {
	M(VGATHERDPS): M(VGATHERDPD): M(VPGATHERDD): M(VPGATHERDQ):
		return true;
	default:
		return false;
	}
}

static bool gather(struct test *t)
{
	struct decoded *d = &t->insn[0];
	const ZydisDecodedOperand *m = memory_operand(d);
	unsigned step = has_dword_index(d->z.mnemonic) ? 4 : 8;
	unsigned v = ZydisRegisterGetId(m->mem.index);
	if (!aim(t, percent(&t->rng, 80) ? PAGE_ADDR(2) + below(&t->rng, 64) * 4 : PAGE_ADDR(HOLE) - 0x400))
		return false;
	for (unsigned i = 0; i < 32; i += step) {
		int64_t index = ((int64_t)below(&t->rng, 0x1000) - 0x800) / m->mem.scale;
		if (percent(&t->rng, 3))
			index = 0x8000;
		memcpy(t->in.xsave + (i < 16 ? 160 : XSAVE_YMM - 16) + 16 * v + i, &index, step);
	}
	return true;
}

static bool random_area(struct test *t, unsigned len)
{
	struct state other;
	random_state(&t->rng, &other);
	if (percent(&t->rng, 8))
		other.xsave[26] = 1;                     /* a reserved bit of MXCSR */
	return poke(operand_address(t), other.xsave, len) || percent(&t->rng, 20);
}

static bool aim_aligned(struct test *t, unsigned align)
{
	if (percent(&t->rng, 85))
		return aim(t, (operand_address(t) & 0xffffffff) & ~(uint64_t)(align - 1));
	return true;
}

static bool fxsave(struct test *t) { return aim_aligned(t, 16); }
static bool fxrstor(struct test *t) { return aim_aligned(t, 16) && random_area(t, 512); }

static bool xsave(struct test *t)
{
	if (!aim_aligned(t, 64))
		return false;
	if (base_is(t, RAX) || base_is(t, RDX))
		return false;
	t->in.gpr[RAX] = (t->in.gpr[RAX] & ~0xffffffffull) | below(&t->rng, 8);
	t->in.gpr[RDX] &= ~0xffffffffull;
	uint64_t header[8] = { rnd(&t->rng) & 7 };
	poke(operand_address(t) + XSAVE_HEADER, header, sizeof header);
	return true;
}

static bool xrstor(struct test *t)
{
	if (!xsave(t) || !random_area(t, XSAVE_BYTES))
		return false;
	uint64_t header[8] = { rnd(&t->rng) & 7 };
	if (percent(&t->rng, 25))
		header[1] = 1ull << 63 | header[0] | (rnd(&t->rng) & 7);
	if (percent(&t->rng, 4))
		header[below(&t->rng, 8)] |= 1ull << below(&t->rng, 64);
	if (header[0] & ~7ull || header[1] & ~0x8000000000000007ull)
		header[0] = 7, header[1] = 1ull << 62;     /* components that only this processor has: not comparable */
	poke(operand_address(t) + XSAVE_HEADER, header, sizeof header);
	return true;
}

static bool ldmxcsr(struct test *t)
{
	uint32_t v = rnd(&t->rng) & 0xffff;
	if (percent(&t->rng, 85))
		poke(operand_address(t), &v, 4);
	return true;
}

static bool fldcw(struct test *t)
{
	uint16_t v = rnd(&t->rng) & 0x1f7f;
	if (percent(&t->rng, 70))
		v |= 0x3f;
	poke(operand_address(t), &v, 2);
	return true;
}

/* Comparison succeeds half of the time. */
static bool cmpxchg(struct test *t)
{
	const ZydisDecodedOperand *op = &t->insn[0].op[0];
	if (percent(&t->rng, 50))
		return true;
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
		poke(operand_address(t), &t->in.gpr[RAX], op->size / 8);
	else if (op->reg.value < ZYDIS_REGISTER_AH || op->reg.value > ZYDIS_REGISTER_BH)
		t->in.gpr[gpr_of(op->reg.value)] = t->in.gpr[RAX];
	return true;
}

static bool cmpxchg_pair(struct test *t)
{
	unsigned half = t->insn[0].op[0].size / 16;
	uint8_t pair[16];
	memcpy(pair, &t->in.gpr[RAX], half);
	memcpy(pair + half, &t->in.gpr[RDX], half);
	if (percent(&t->rng, 50))
		poke(operand_address(t), pair, 2 * half);
	return true;
}

static bool text_lengths(struct test *t)
{
	keep_gpr(t, RAX, (int64_t)below(&t->rng, 40) - 20);
	return keep_gpr(t, RDX, (int64_t)below(&t->rng, 40) - 20);
}

/* Control operand of BEXTR and BZHI: start and length that fit, mostly. */
static bool bit_field(struct test *t)
{
	int g = gpr_of(t->insn[0].op[2].reg.value);
	if (!base_is(t, g) && percent(&t->rng, 70))
		t->in.gpr[g] &= 0x3f3f;
	return true;
}

bool special_inputs(struct test *t)
{
	if (t->insn[0].z.address_width < 64 && override_base(t) >> 32)
		return false;                    /* cannot reach the data area */
	switch (t->insn[0].z.mnemonic) {
	M(DIV): M(IDIV): return divide(t);
	M(ROL): M(ROR): M(RCL): M(RCR): M(SHL): M(SHR): M(SAR): M(SHLD): M(SHRD): return small_count(t);
	M(BT): M(BTS): M(BTR): M(BTC): return bit_string(t);
	M(MOVSB): M(MOVSW): M(MOVSQ): M(STOSB): M(STOSW): M(STOSD): M(STOSQ): M(LODSB): M(LODSW): M(LODSD): M(LODSQ): M(SCASB): M(SCASW):
	M(SCASD): M(SCASQ): M(CMPSB): M(CMPSW): M(CMPSQ): M(INSB): M(INSW): M(INSD): M(OUTSB): M(OUTSW): M(OUTSD): return string(t);
	M(MOVSD): M(CMPSD): return t->insn[0].z.meta.isa_ext == ZYDIS_ISA_EXT_BASE ? string(t) : true;
	M(IN): M(OUT): return port(t);
	M(PUSHA): M(PUSHAD): M(PUSHFD): M(PUSH): M(POP): M(PUSHF): M(PUSHFQ): M(ENTER): M(LEAVE): return stack(t);
	M(POPA): M(POPAD): return true;          /* some have popped a few when a later one faults */
	M(RET): return ret(t);
	M(VMASKMOVPS): M(VMASKMOVPD): M(VPMASKMOVD): M(VPMASKMOVQ): 
		return machine_bits == 64 || operand_address(t) + 32 <= (machine_bits == 32 ? 1ull << 32 : DATA_BASE + 0x10000);
	M(POPF): M(POPFD): M(POPFQ): return popf(t);
	M(XLAT): return xlat(t);
	M(MASKMOVQ): M(MASKMOVDQU): M(VMASKMOVDQU): return maskmov(t);
	M(VGATHERDPS): M(VGATHERDPD): M(VGATHERQPS): M(VGATHERQPD): M(VPGATHERDD): M(VPGATHERDQ): M(VPGATHERQD): M(VPGATHERQQ): return gather(t);
	M(FXSAVE): M(FXSAVE64): return fxsave(t);
	M(FXRSTOR): M(FXRSTOR64): return fxrstor(t);
	M(XSAVE): M(XSAVE64): M(XSAVEC): M(XSAVEC64): M(XSAVEOPT): M(XSAVEOPT64): return xsave(t);
	M(XRSTOR): M(XRSTOR64): return xrstor(t);
	M(LDMXCSR): M(VLDMXCSR): return ldmxcsr(t);
	M(FLDCW): return fldcw(t);
	M(CMPXCHG): return cmpxchg(t);
	M(CMPXCHG8B): M(CMPXCHG16B): return cmpxchg_pair(t);
	M(PCMPESTRI): M(PCMPESTRM): M(VPCMPESTRI): M(VPCMPESTRM): return text_lengths(t);
	M(BEXTR): M(BZHI): return bit_field(t);
	default: return t->insn[0].z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE ? true : branch(t);
	}
}
