/*
 * Decides how each instruction is translated: copied, a short sequence, or a
 * call of a rule; and collects what the emitter needs to know of its operands.
 */
#include "xlat/internal.h"

/* Extensions that guests may have; anything else is #UD. */
static bool extension_offered(unsigned ext)
{
	switch (ext) {
	case ZYDIS_ISA_EXT_INVALID: case ZYDIS_ISA_EXT_ADOX_ADCX: case ZYDIS_ISA_EXT_AES: case ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH:
	case ZYDIS_ISA_EXT_AVX: case ZYDIS_ISA_EXT_AVX2: case ZYDIS_ISA_EXT_AVX2GATHER: case ZYDIS_ISA_EXT_AVXAES: case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_BMI1: case ZYDIS_ISA_EXT_BMI2: case ZYDIS_ISA_EXT_CET: case ZYDIS_ISA_EXT_CLDEMOTE: case ZYDIS_ISA_EXT_CLFLUSHOPT:
	case ZYDIS_ISA_EXT_CLFSH: case ZYDIS_ISA_EXT_CLWB: case ZYDIS_ISA_EXT_F16C: case ZYDIS_ISA_EXT_FMA: case ZYDIS_ISA_EXT_INVPCID:
	case ZYDIS_ISA_EXT_LONGMODE: case ZYDIS_ISA_EXT_LZCNT: case ZYDIS_ISA_EXT_MMX: case ZYDIS_ISA_EXT_MONITOR: case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_PAUSE: case ZYDIS_ISA_EXT_PCLMULQDQ: case ZYDIS_ISA_EXT_PREFETCHWT1: case ZYDIS_ISA_EXT_RDPID: case ZYDIS_ISA_EXT_RDRAND:
	case ZYDIS_ISA_EXT_RDSEED: case ZYDIS_ISA_EXT_RDTSCP: case ZYDIS_ISA_EXT_RDWRFSGS: case ZYDIS_ISA_EXT_SHA: case ZYDIS_ISA_EXT_SMAP:
	case ZYDIS_ISA_EXT_SMX: case ZYDIS_ISA_EXT_SSE: case ZYDIS_ISA_EXT_SSE2: case ZYDIS_ISA_EXT_SSE3: case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSSE3: case ZYDIS_ISA_EXT_VMFUNC: case ZYDIS_ISA_EXT_VTX: case ZYDIS_ISA_EXT_X87: case ZYDIS_ISA_EXT_XSAVE:
	case ZYDIS_ISA_EXT_XSAVEC: case ZYDIS_ISA_EXT_XSAVEOPT: case ZYDIS_ISA_EXT_XSAVES: case ZYDIS_ISA_EXT_SVM: case ZYDIS_ISA_EXT_SGX:
	case ZYDIS_ISA_EXT_WAITPKG:
		return true;
	default:
		return false;
	}
}

static bool is_x87(const ZydisDecodedInstruction *z)
{
	return z->meta.isa_ext == ZYDIS_ISA_EXT_X87 || z->mnemonic == ZYDIS_MNEMONIC_FISTTP;     /* it came with SSE3 */
}

static uint8_t fpu_class_of(const struct insn *in, const ZydisDecodedInstruction *z)
{
	if (is_x87(z))
		return FPU_CLASS_X87;
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_MMX:
		return FPU_CLASS_X87;
	case ZYDIS_ISA_EXT_SSE: case ZYDIS_ISA_EXT_SSE2: case ZYDIS_ISA_EXT_SSE3: case ZYDIS_ISA_EXT_SSSE3: case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_AES: case ZYDIS_ISA_EXT_PCLMULQDQ: case ZYDIS_ISA_EXT_SHA: case ZYDIS_ISA_EXT_AVX: case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX2GATHER: case ZYDIS_ISA_EXT_AVXAES: case ZYDIS_ISA_EXT_F16C: case ZYDIS_ISA_EXT_FMA:
		return FPU_CLASS_SIMD;
	default:
		return FPU_CLASS_NONE;
	}
}

/* MMX forms of instructions that came with SSE: CR4.OSFXSR does not matter to them. */
static bool is_mmx_form(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	bool mmx = false;
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_CVTPS2PI: case ZYDIS_MNEMONIC_CVTTPS2PI: case ZYDIS_MNEMONIC_CVTPD2PI: case ZYDIS_MNEMONIC_CVTTPD2PI:
		return false;
	default:
		break;
	}
	for (unsigned i = 0; i < z->operand_count; i++) {
		ZydisRegisterClass class = ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(ops[i].reg.value) : 0;
		if (class == ZYDIS_REGCLASS_XMM)
			return false;
		mmx |= class == ZYDIS_REGCLASS_MMX;
	}
	return mmx;
}

/* SSE-numbered instructions that touch no vector state and are not subject to CR0.TS and CR4.OSFXSR. */
static bool is_plain_sse(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_LFENCE: case ZYDIS_MNEMONIC_SFENCE: case ZYDIS_MNEMONIC_MFENCE: case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_CRC32: case ZYDIS_MNEMONIC_POPCNT: case ZYDIS_MNEMONIC_CLFLUSH: case ZYDIS_MNEMONIC_PAUSE:
	/* These look at CR0 themselves. */
	case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
		return true;
	default:
		return false;
	}
}

/* Later general-purpose instructions whose 66 gives the operand size, as that of the old ones. */
static bool is_sized_by_66(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CRC32: case ZYDIS_MNEMONIC_POPCNT: case ZYDIS_MNEMONIC_LZCNT: case ZYDIS_MNEMONIC_TZCNT: case ZYDIS_MNEMONIC_MOVBE:
		return true;
	default:
		return false;
	}
}

static bool is_prefetch_or_hint(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_NOP: case ZYDIS_MNEMONIC_ENDBR32: case ZYDIS_MNEMONIC_ENDBR64: case ZYDIS_MNEMONIC_RDSSPD: case ZYDIS_MNEMONIC_RDSSPQ:
	case ZYDIS_MNEMONIC_PREFETCH: case ZYDIS_MNEMONIC_PREFETCHNTA: case ZYDIS_MNEMONIC_PREFETCHT0: case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2: case ZYDIS_MNEMONIC_PREFETCHW: case ZYDIS_MNEMONIC_PREFETCHWT1: case ZYDIS_MNEMONIC_CLDEMOTE:
		return true;
	default:
		return false;
	}
}

/* Hints of CET that are instructions as things are. */
static bool is_live_hint(const struct translation_unit *u, unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ENDBR32: case ZYDIS_MNEMONIC_ENDBR64:
		return u->mode & MODE_IBT;
	case ZYDIS_MNEMONIC_RDSSPD: case ZYDIS_MNEMONIC_RDSSPQ:
		return u->mode & MODE_SHSTK;
	default:
		return false;
	}
}

/* x87 control instructions leave FIP, FDP and FOP alone. */
static bool is_x87_control(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FNCLEX: case ZYDIS_MNEMONIC_FLDCW: case ZYDIS_MNEMONIC_FNSTCW: case ZYDIS_MNEMONIC_FNSTSW: case ZYDIS_MNEMONIC_FWAIT:
	case ZYDIS_MNEMONIC_FNINIT: case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FLDENV: case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR: case ZYDIS_MNEMONIC_EMMS:
	case ZYDIS_MNEMONIC_FENI8087_NOP: case ZYDIS_MNEMONIC_FDISI8087_NOP: case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return true;
	default:
		return false;
	}
}

/* These take a pending x87 exception; the others are the ones that work while it is pending. */
static bool waits_for_x87(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_FNCLEX: case ZYDIS_MNEMONIC_FNINIT: case ZYDIS_MNEMONIC_FNSTCW: case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE:
		return false;
	default:
		for (int i = 0; i < z->operand_count; i++)
			if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_MMX)
				return true;
		return is_x87(z) || z->meta.isa_ext == ZYDIS_ISA_EXT_MMX;
	}
}

/* Must the memory operand be aligned to its size? Legacy SSE: unless said otherwise; VEX: only where said so. */
static bool wants_alignment(const struct insn *in, const ZydisDecodedInstruction *z)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CMPXCHG16B: case ZYDIS_MNEMONIC_VMOVAPS: case ZYDIS_MNEMONIC_VMOVAPD: case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS: case ZYDIS_MNEMONIC_VMOVNTPD: case ZYDIS_MNEMONIC_VMOVNTDQ: case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	case ZYDIS_MNEMONIC_MOVUPS: case ZYDIS_MNEMONIC_MOVUPD: case ZYDIS_MNEMONIC_MOVDQU: case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM: case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
		return false;
	default:
		/* some processors let SHA operands be: theirs to say */
		return in->mem_size == 16 && in->encoding == ENC_LEGACY && fpu_class_of(in, z) == FPU_CLASS_SIMD && z->meta.isa_ext != ZYDIS_ISA_EXT_SHA;
	}
}

static int gpr_number(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE || ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_INVALID)
		return -1;
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
	return whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15 ? (int)(whole - ZYDIS_REGISTER_RAX) : -1;
}

static void collect_register(struct xinsn *x, const ZydisDecodedOperand *op)
{
	ZydisRegister r = op->reg.value;
	bool high = r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
	int g = high ? (int)(r - ZYDIS_REGISTER_AH) : gpr_number(r);
	if (g < 0)
		return;
	x->used |= 1u << g;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		x->written |= 1u << g;
	x->high_byte |= high;
	int f = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ? FIELD_REG : op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ? FIELD_RM :
	        op->encoding == ZYDIS_OPERAND_ENCODING_OPCODE ? FIELD_OPCODE : op->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD ? FIELD_VVVV : -1;
	if (f < 0)
		return;
	x->field[f].gpr = high ? -1 : g;   /* AH..DH stay where they are */
	x->field[f].read |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || op->size < 32 ||
	                    (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);
	x->field[f].write |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

static void collect_operands(struct xinsn *x, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	for (int f = 0; f < FIELD_COUNT; f++)
		x->field[f].gpr = -1;
	for (int i = 0; i < z->operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
			collect_register(x, op);
	}
	if (x->in.base >= 0)
		x->used |= 1u << x->in.base;
	if (x->in.index >= 0)
		x->used |= 1u << x->in.index;
	x->imm_offset = z->raw.imm[0].size ? z->raw.imm[0].offset : x->in.len;
	if (z->cpu_flags) {
		x->flags_read = z->cpu_flags->tested & RFLAGS_ARITH;
		x->flags_written = (z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1 | z->cpu_flags->undefined) & RFLAGS_ARITH;
	}
}

/* Double shifts, and shifts and rotates by more than one. */
static bool shifts_by_count(const struct insn *in)
{
	unsigned op = in->opcode;
	if (in->encoding != ENC_LEGACY)
		return false;
	return in->map == 0 ? op == 0xd2 || op == 0xd3 || op == 0xc0 || op == 0xc1 : in->map == 1 && (op == 0xa4 || op == 0xa5 || op == 0xac || op == 0xad);
}

/* Is the count a constant other than 0? RCL and RCR take it modulo 9 or 17, so it may be 0 all the same. */
static bool shifts_surely(struct xinsn *x)
{
	const struct insn *in = &x->in;
	bool constant = in->map == 0 ? in->opcode == 0xc0 || in->opcode == 0xc1 : in->opcode == 0xa4 || in->opcode == 0xac;
	bool through_carry = in->map == 0 && (in->modrm >> 3 & 6) == 2;
	return constant && !through_carry && depend_on_imm(x) & (in->opsize == 8 ? 63 : 31);
}

/* BT and its kin, BSF, BSR, TZCNT, LZCNT: processors keep some of the flags that are undefined after them. */
static bool tests_bits(const struct insn *in)
{
	unsigned op = in->opcode;
	return in->encoding == ENC_LEGACY && in->map == 1 && (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb || op == 0xba || op == 0xbc || op == 0xbd);
}

/* Flags that an instruction may leave as they were are live before it if they are live after it. */
static void classify_kept_flags(struct xinsn *x, const ZydisDecodedInstruction *z)
{
	if (shifts_by_count(&x->in) && !shifts_surely(x)) {
		x->flags_kept = true;
		x->flags_written = 0;
	} else if (tests_bits(&x->in)) {
		x->flags_kept = true;
		x->flags_written &= ~z->cpu_flags->undefined;
	}
}

static void set_rule(struct xinsn *x, rule_fn *fn, unsigned flags)
{
	x->kind = KIND_RULE;
	x->rule = fn;
	x->rule_flags = flags;
}

static bool is_segment_register(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

static bool is_register_class(const ZydisDecodedOperand *op, ZydisRegisterClass c)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == c;
}

static bool classify_mov(struct xinsn *x, const ZydisDecodedOperand *ops)
{
	if (is_register_class(&ops[0], ZYDIS_REGCLASS_CONTROL) || is_register_class(&ops[1], ZYDIS_REGCLASS_CONTROL))
		set_rule(x, rule_mov_cr, RULE_ENDS);
	else if (is_register_class(&ops[0], ZYDIS_REGCLASS_DEBUG) || is_register_class(&ops[1], ZYDIS_REGCLASS_DEBUG))
		set_rule(x, rule_mov_dr, RULE_ENDS);
	else if (is_segment_register(&ops[0]))
		set_rule(x, rule_mov_to_sreg, RULE_ENDS);
	else if (is_segment_register(&ops[1]))
		set_rule(x, rule_mov_from_sreg, 0);
	else
		return false;
	return true;
}

/* Is the stack of the plain kind that push, pop, call and ret are inlined for? size: operand size in bytes. */
static bool plain_stack(const struct translation_unit *u, unsigned size)
{
	if (u->careful)
		return false;
	if (code64(u))
		return size == 8;
	return size == 4 && u->mode & MODE_STACK32;
}

static unsigned branch_mask_size(const struct translation_unit *u, const struct xinsn *x)
{
	return code64(u) ? 8 : x->in.opsize;
}

static void branch_target(struct translation_unit *u, struct xinsn *x)
{
	uint64_t t = x->next + x->in.imm;
	unsigned size = branch_mask_size(u, x);
	x->target = size == 8 ? t : size == 4 ? (uint32_t)t : (uint16_t)t;
}

/*
 * A jump out of CS's limit faults at the jump, so its rule looks at it. Other
 * targets are among what the dispatcher compares with the limit of the day
 * (find_block()); when that is too low, the instructions run one by one.
 */
static bool looks_at_limit(struct translation_unit *u, uint64_t target)
{
	if (u->mode & MODE_FLAT || code64(u))
		return false;
	if (u->mode & XMODE_ONE || target > u->cpu->seg[SEG_CS].limit)
		return true;
	if (target > u->block->reach)
		u->block->reach = target;
	return false;
}

static void classify_direct_jump(struct translation_unit *u, struct xinsn *x)
{
	x->kind = KIND_JMP;
	branch_target(u, x);
	if (looks_at_limit(u, x->target))
		set_rule(x, rule_near_jmp, RULE_ENDS);
}

static bool classify_branch(struct translation_unit *u, struct xinsn *x, const ZydisDecodedInstruction *z)
{
	const struct insn *in = &x->in;
	bool far = z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	bool wide = branch_mask_size(u, x) == (code64(u) ? 8 : 4);
	if (in->map == 0 ? (in->opcode & 0xf0) == 0x70 : in->map == 1 && (in->opcode & 0xf0) == 0x80) {
		x->kind = KIND_JCC;
		x->cc = in->opcode & 15;
		branch_target(u, x);
		if (looks_at_limit(u, x->target))
			set_rule(x, rule_near_jmp, RULE_ENDS);
		return true;
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (far)
			set_rule(x, rule_jmp_far, RULE_ENDS);
		else if (in->opcode != 0xff)
			classify_direct_jump(u, x);
		else if (wide && !u->careful && !(u->mode & MODE_IBT))
			x->kind = KIND_JMP_IND;
		else
			set_rule(x, rule_near_jmp, RULE_ENDS);
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (far)
			set_rule(x, rule_call_far, RULE_ENDS);
		else if (!wide || !plain_stack(u, branch_mask_size(u, x)) || u->mode & MODE_SHSTK || (u->mode & MODE_IBT && in->has_modrm))
			set_rule(x, rule_near_call, RULE_ENDS);
		else if (in->opcode == 0xe8)
			x->kind = KIND_CALL, branch_target(u, x);
		else
			x->kind = KIND_CALL_IND;
		return true;
	case ZYDIS_MNEMONIC_RET:
		if (far)
			set_rule(x, rule_ret_far, RULE_ENDS);
		else if (!wide || !plain_stack(u, branch_mask_size(u, x)) || u->mode & MODE_SHSTK)
			set_rule(x, rule_near_ret, RULE_ENDS);
		else
			x->kind = KIND_RET;
		return true;
	}
	return false;
}

static bool classify_stack(struct translation_unit *u, struct xinsn *x, const ZydisDecodedOperand *ops)
{
	const struct insn *in = &x->in;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		if (is_segment_register(&ops[0]))
			set_rule(x, rule_push_sreg, RULE_ENDS);
		else if (!plain_stack(u, in->opsize))
			set_rule(x, rule_push, RULE_ENDS);
		else
			x->kind = KIND_PUSH;
		return true;
	case ZYDIS_MNEMONIC_POP:
		if (is_segment_register(&ops[0]))
			set_rule(x, rule_pop_sreg, RULE_ENDS);
		else if (!plain_stack(u, in->opsize) || in->opcode == 0x8f)
			set_rule(x, rule_pop, RULE_ENDS);
		else
			x->kind = KIND_POP;
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
		if (plain_stack(u, in->opsize))
			x->kind = KIND_LEAVE;
		else
			set_rule(x, rule_leave, RULE_ENDS);
		return true;
	}
	return false;
}

static bool fpu_unavailable(const struct translation_unit *u, struct xinsn *x)
{
	if (x->in.mnemonic == ZYDIS_MNEMONIC_FWAIT) {
		if (!(u->mode & MODE_NO_WAIT))
			return false;
		set_rule(x, rule_x87_unavailable, RULE_ENDS);
		return true;
	}
	if (x->fpu_class == FPU_CLASS_X87 && u->mode & MODE_NO_X87) {
		set_rule(x, rule_x87_unavailable, RULE_ENDS);
		return true;
	}
	if (x->fpu_class == FPU_CLASS_SIMD && u->mode & (x->in.encoding == ENC_VEX ? MODE_NO_AVX : MODE_NO_SSE)) {
		set_rule(x, rule_simd_unavailable, RULE_ENDS);
		return true;
	}
	return false;
}

static bool is_bit_string(const struct insn *in)
{
	return in->mem && in->map == 1 && (in->opcode == 0xa3 || in->opcode == 0xab || in->opcode == 0xb3 || in->opcode == 0xbb);
}

void xinsn_classify(struct translation_unit *u, struct xinsn *x, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	struct insn *in = &x->in;
	if (in->mnemonic == ZYDIS_MNEMONIC_INVALID || in->encoding == ENC_OTHER || !extension_offered(z->meta.isa_ext)) {
		set_rule(x, rule_ud, RULE_ENDS);
		return;
	}
	collect_operands(x, z, ops);
	if (is_prefetch_or_hint(in->mnemonic) && !(in->lock) && !is_live_hint(u, in->mnemonic)) {
		x->kind = KIND_NOP;
		return;
	}
	classify_kept_flags(x, z);
	x->fpu_class = is_plain_sse(in->mnemonic) ? FPU_CLASS_NONE : fpu_class_of(in, z);
	if (x->fpu_class == FPU_CLASS_SIMD && is_mmx_form(z, ops))
		x->fpu_class = FPU_CLASS_X87;
	x->simd = x->fpu_class != FPU_CLASS_NONE || (z->meta.isa_ext != ZYDIS_ISA_EXT_BASE && !is_sized_by_66(in->mnemonic));
	x->force66 = (u->mode & MODE_CODE_MASK) == MODE_CODE16 && in->opsize == 2;
	x->x87_op = is_x87(z) && !is_x87_control(in->mnemonic);
	x->x87_wait = waits_for_x87(z, ops);
	x->aligned = in->mem && wants_alignment(in, z);
	if (fpu_unavailable(u, x))
		return;
	/* MOVSD and CMPSD name string instructions and SSE2 ones alike. */
	const struct rule_binding *r = x->fpu_class == FPU_CLASS_SIMD &&
		(in->mnemonic == ZYDIS_MNEMONIC_MOVSD || in->mnemonic == ZYDIS_MNEMONIC_CMPSD) ? NULL : rule_find(in->mnemonic);
	if (r) {
		set_rule(x, r->fn, r->flags);
		if (u->mode & MODE_CPL0 && u->mode & MODE_PROTECTED && !(u->mode & (XMODE_ONE | MODE_STEP)))
			x->kind = r->fn == rule_cli ? KIND_CLI : r->fn == rule_sti ? KIND_STI : KIND_RULE;
		if (r->fn == rule_rdtsc && !(u->mode & (XMODE_ONE | MODE_STEP)))
			x->kind = KIND_RDTSC;
		return;
	}
	if (z->meta.isa_ext == ZYDIS_ISA_EXT_CET || z->meta.isa_ext == ZYDIS_ISA_EXT_SVM || z->meta.isa_ext == ZYDIS_ISA_EXT_SGX || in->mnemonic == ZYDIS_MNEMONIC_UD0 ||
	    in->mnemonic == ZYDIS_MNEMONIC_UD1 || in->mnemonic == ZYDIS_MNEMONIC_UD2) {
		set_rule(x, rule_ud, RULE_ENDS);
		return;
	}
	if (in->mnemonic == ZYDIS_MNEMONIC_PAUSE && u->mode & MODE_INTERCEPT) {
		set_rule(x, rule_pause, RULE_ENDS);
		return;
	}
	if (in->mnemonic == ZYDIS_MNEMONIC_MOV && classify_mov(x, ops))
		return;
	if (classify_branch(u, x, z) || classify_stack(u, x, ops))
		return;
	if (in->mem && in->mem_write && in->seg == SEG_CS && u->mode & MODE_PROTECTED && !code64(u)) {
		set_rule(x, rule_cs_store, RULE_ENDS);
		return;
	}
	x->kind = in->mnemonic == ZYDIS_MNEMONIC_LEA ? KIND_LEA : is_bit_string(in) ? KIND_BIT_STRING : KIND_NATIVE;
}

/*
 * An STI stays inline only if the block goes on with an instruction that is no
 * rule (see put_sti()); otherwise the block ends with it.
 */
void unit_check_sti(struct translation_unit *u)
{
	struct block *b = u->block;
	for (unsigned i = 0; i < u->count; i++) {
		struct xinsn *x = &u->insn[i];
		if (x->kind != KIND_STI || (i + 1 < u->count && x[1].kind != KIND_RULE && x[1].kind != KIND_RDTSC))
			continue;
		x->kind = KIND_RULE;
		u->count = b->insns = i + 1;
		b->length = x->rip + x->in.len - b->rip;
	}
}
