/*
 * Decoding: Zydis says what the bytes are (mnemonic, length, operands); this
 * file reduces that to struct insn.
 *
 * Prefixes are read here from the bytes themselves, because Zydis reports them
 * only where it thinks they mean something: rules want to know F2, F3, 66 and
 * segment overrides as they stand. Extensions of Intel's that no guest is
 * offered and that reuse the reserved NOPs (MPX, CLDEMOTE, WBNOINVD) are
 * switched off, so that those bytes are the NOPs they are on a processor
 * without them.
 *
 * The processor's sizes that Zydis leaves open or sees differently are put
 * right by tables: memory that is only named, not accessed, and areas whose
 * size depends on the operand size.
 */
#include <pthread.h>
#include "x86/decode.h"

enum { DECODER_16, DECODER_32, DECODER_64, DECODER_COUNT };

static ZydisDecoder decoders[DECODER_COUNT];

static void init_decoders(void)
{
	static const struct { ZydisMachineMode mode; ZydisStackWidth stack; } kinds[DECODER_COUNT] = {
		/* Not REAL_16: 16-bit code may be protected too, and the rules know the difference. */
		[DECODER_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[DECODER_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[DECODER_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};
	static const ZydisDecoderMode off[] = { ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CLDEMOTE, ZYDIS_DECODER_MODE_WBNOINVD };

	for (unsigned i = 0; i < DECODER_COUNT; i++) {
		ZydisDecoderInit(&decoders[i], kinds[i].mode, kinds[i].stack);
		for (unsigned m = 0; m < ARRAY_SIZE(off); m++)
			ZydisDecoderEnableMode(&decoders[i], off[m], ZYAN_FALSE);
	}
}

static const ZydisDecoder *decoder_for(int mode_bits)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_decoders);
	return &decoders[mode_bits == 64 ? DECODER_64 : mode_bits == 32 ? DECODER_32 : DECODER_16];
}

/* Segment named by an override prefix, or -1. */
static int override_segment(uint8_t byte)
{
	switch (byte) {
	case 0x26: return SEG_ES;
	case 0x2e: return SEG_CS;
	case 0x36: return SEG_SS;
	case 0x3e: return SEG_DS;
	case 0x64: return SEG_FS;
	case 0x65: return SEG_GS;
	default: return -1;
	}
}

/*
 * Reads the prefixes: the last of F2/F3 counts, the last segment override, and
 * REX only if the opcode follows at once. 64-bit mode has no override but FS and GS.
 * Returns the opcode's (or VEX prefix's) offset.
 */
static unsigned read_prefixes(struct insn *in, int mode_bits, int *segment)
{
	unsigned i;

	*segment = -1;
	for (i = 0; i < in->len; i++) {
		uint8_t byte = in->bytes[i];
		int seg = override_segment(byte);

		if (mode_bits == 64 && (byte & 0xf0) == 0x40) {
			in->rex = byte;
			continue;
		}
		if (seg >= 0) {
			if (mode_bits != 64 || seg >= SEG_FS)
				*segment = seg;
		} else if (byte == 0xf2 || byte == 0xf3) {
			in->rep = byte;
		} else if (byte == 0xf0) {
			in->lock = true;
		} else if (byte == 0x66) {
			in->opsize_prefix = true;
		} else if (byte != 0x67) {
			break;
		}
		in->rex = 0;
	}
	return i;
}

/* W, R, X, B of a VEX prefix as a REX byte. Outside 64-bit mode only W counts. */
static uint8_t vex_as_rex(const uint8_t *vex, int mode_bits)
{
	uint8_t rxb = (uint8_t)~vex[1] >> 5;      /* R X B; the two-byte form has R only */

	if (vex[0] == 0xc5)
		rxb &= 4;
	if (mode_bits != 64)
		rxb = 0;
	return 0x40 | rxb | (vex[0] == 0xc4 && (vex[2] & 0x80) ? 8 : 0);
}

static int gpr_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return (int)(r - ZYDIS_REGISTER_AX);
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return (int)(r - ZYDIS_REGISTER_EAX);
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return (int)(r - ZYDIS_REGISTER_RAX);
	if (r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM15)      /* index of a gather */
		return (int)(r - ZYDIS_REGISTER_XMM0);
	if (r >= ZYDIS_REGISTER_YMM0 && r <= ZYDIS_REGISTER_YMM15)
		return (int)(r - ZYDIS_REGISTER_YMM0);
	return REG_NONE;
}

/* Memory that is named but not accessed, so that no access of it can fault. */
static bool address_only(const struct insn *in)
{
	if (in->mnemonic == ZYDIS_MNEMONIC_LEA || in->mnemonic == ZYDIS_MNEMONIC_INVLPG)
		return true;
	/* NOPs with a memory operand, prefetches */
	return in->encoding == ENC_LEGACY && in->map == 1 && (in->opcode == 0x0d || (in->opcode >= 0x18 && in->opcode <= 0x1f));
}

/* Bytes of areas whose size Zydis gives otherwise or not at all; 0: as Zydis has it. */
static unsigned special_size(const struct insn *in, int mode_bits)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
		return mode_bits == 64 ? 10 : 6;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return 512;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64:
		return 576;                      /* at least: legacy area and header */
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
		return in->opsize_prefix == (mode_bits != 16) ? 14 : 28;
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
		return in->opsize_prefix == (mode_bits != 16) ? 94 : 108;
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB:
		return 1;                        /* checked like a load of one byte */
	case ZYDIS_MNEMONIC_BOUND:
		return 2u * in->opsize;
	default:
		return 0;
	}
}

static bool is_cache_line_op(uint16_t mnemonic)
{
	return mnemonic == ZYDIS_MNEMONIC_CLFLUSH || mnemonic == ZYDIS_MNEMONIC_CLFLUSHOPT || mnemonic == ZYDIS_MNEMONIC_CLWB;
}

static void fill_access(struct insn *in, const ZydisDecodedOperand *op, int mode_bits)
{
	unsigned size = special_size(in, mode_bits);

	if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN || op->mem.type == ZYDIS_MEMOP_TYPE_MIB || address_only(in))
		return;
	in->mem_size = (uint16_t)(size ? size : op->size / 8);
	in->mem_read = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	in->mem_write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	if (is_cache_line_op(in->mnemonic)) {
		in->mem_read = true;
		in->mem_write = false;
	}
}

static uint64_t truncate(uint64_t value, unsigned bytes)
{
	return bytes >= 8 ? value : value & (BIT(8 * bytes) - 1);
}

/* Fills what describes the memory operand op of modrm or moffs. */
static void fill_memory(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, int mode_bits, uint64_t rip)
{
	in->mem = true;
	in->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
	if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
		in->rip_relative = true;
		in->disp = (int64_t)truncate(rip + in->len + (uint64_t)in->disp, in->addrsize);
	} else if (!in->has_modrm) {
		in->disp = (int64_t)truncate((uint64_t)in->disp, in->addrsize);
	}
	in->base = (int8_t)gpr_number(op->mem.base);
	if (in->addrsize != 2 && in->has_modrm && (in->modrm & 0xc7) == 0x04 && (z->raw.sib.base & 7) == 5) {
		in->base = REG_NONE;             /* displacement alone, whatever REX.B says; Zydis takes it for R13 */
		in->disp = z->raw.disp.value;
	}
	in->index = (int8_t)gpr_number(op->mem.index);
	in->scale = in->index == REG_NONE || !op->mem.scale ? 0 : (uint8_t)__builtin_ctz(op->mem.scale);
	fill_access(in, op, mode_bits);
}

static const ZydisDecodedOperand *find_memory(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < z->operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && (ops[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
		                                                 ops[i].encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64))
			return &ops[i];
	return NULL;
}

static uint64_t immediate(const ZydisDecodedInstruction *z, unsigned n)
{
	unsigned size = z->raw.imm[n].size;
	uint64_t value = z->raw.imm[n].value.u;

	if (z->raw.imm[n].is_signed || !size)
		return value;
	return truncate(value, size / 8);
}

/* Opcodes of the first two maps that hold a register number in their low three bits. */
static bool opcode_holds_register(const struct insn *in)
{
	if (in->encoding != ENC_LEGACY || in->has_modrm)
		return false;
	if (in->map == 1)
		return in->opcode >= 0xc8 && in->opcode <= 0xcf;                                /* BSWAP */
	return in->map == 0 && ((in->opcode >= 0x40 && in->opcode <= 0x5f) ||                   /* INC, DEC, PUSH, POP */
	                        (in->opcode >= 0x90 && in->opcode <= 0x97) ||                   /* XCHG */
	                        (in->opcode >= 0xb0 && in->opcode <= 0xbf));                    /* MOV */
}

static void fill_registers(struct insn *in, const ZydisDecodedInstruction *z)
{
	in->has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	if (in->has_modrm) {
		in->modrm = in->bytes[z->raw.modrm.offset];
		in->reg = (uint8_t)((in->modrm >> 3 & 7) | (in->rex & 4 ? 8 : 0));
		in->rm = (uint8_t)((in->modrm & 7) | (in->rex & 1 ? 8 : 0));
	} else if (opcode_holds_register(in)) {
		in->rm = (uint8_t)((in->opcode & 7) | (in->rex & 1 ? 8 : 0));
	}
}

static void fill_encoding(struct insn *in, const ZydisDecodedInstruction *z)
{
	in->mnemonic = (uint16_t)z->mnemonic;
	in->encoding = z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ? ENC_LEGACY :
	               z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? ENC_VEX : ENC_OTHER;
	in->map = (uint8_t)z->opcode_map;
	in->opcode = z->opcode;
	in->opsize = z->operand_width / 8;
	in->addrsize = z->address_width / 8;
	if (in->encoding == ENC_LEGACY && in->map == 0 && in->opcode >= 0x6c && in->opcode <= 0x6f && in->opsize == 8)
		in->opsize = 4;                  /* INS, OUTS: there are no 8-byte ports */
}

static void fill(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, int mode_bits,
                 uint64_t rip)
{
	const ZydisDecodedOperand *memory = find_memory(z, ops);
	int segment;
	unsigned at;

	fill_encoding(in, z);
	at = read_prefixes(in, mode_bits, &segment);
	if (in->encoding == ENC_VEX)
		in->rex = vex_as_rex(in->bytes + at, mode_bits);
	fill_registers(in, z);
	if (memory)
		fill_memory(in, z, memory, mode_bits, rip);
	if (segment >= 0)
		in->seg = (int8_t)segment;
	else if (in->base == REG_RSP || (in->base == REG_RBP && in->mem))
		in->seg = SEG_SS;
	in->imm_size = z->raw.imm[0].size / 8;
	in->imm2_size = z->raw.imm[1].size / 8;
	in->imm = immediate(z, 0);
	in->imm2 = immediate(z, 1);
}

/*
 * F3 90 with REX.B is XCHG of R8, not PAUSE, whatever Zydis says: decoded
 * again, with a segment override in place of F3, which says the same to
 * everybody.
 */
static bool redecode_exchange(ZydisDecodedInstruction *z, ZydisDecodedOperand *ops, const uint8_t *bytes, int mode_bits)
{
	uint8_t copy[ZYDIS_MAX_INSTRUCTION_LENGTH];
	unsigned length = z->length, prefixes = z->raw.rex.offset;

	if (z->mnemonic != ZYDIS_MNEMONIC_PAUSE || !z->raw.rex.B)
		return false;
	for (unsigned i = 0; i < length; i++)
		copy[i] = i < prefixes && bytes[i] == 0xf3 ? 0x3e : bytes[i];
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder_for(mode_bits), copy, length, z, ops));
}

/* How many of these bytes, which are no instruction, it takes to see that. */
static unsigned undefined_length(const uint8_t *bytes, unsigned avail, int mode_bits, ZydisDecodedInstruction *z, ZydisDecodedOperand *ops)
{
	unsigned n = 1;

	while (n < avail && ZydisDecoderDecodeFull(decoder_for(mode_bits), bytes, n, z, ops) == ZYDIS_STATUS_NO_MORE_DATA)
		n++;
	return n;
}

int insn_decode(struct insn *insn, const uint8_t *bytes, unsigned avail, int mode_bits, uint64_t rip,
                ZydisDecodedInstruction *z, ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT])
{
	ZydisDecodedInstruction own_z;
	ZydisDecodedOperand own_ops[ZYDIS_MAX_OPERAND_COUNT];
	bool exchange;
	ZyanStatus status;

	z = z ? z : &own_z;
	ops = ops ? ops : own_ops;
	avail = avail > sizeof(insn->bytes) ? sizeof(insn->bytes) : avail;
	*insn = (struct insn){ .mnemonic = ZYDIS_MNEMONIC_INVALID, .base = REG_NONE, .index = REG_NONE, .seg = SEG_DS };
	status = ZydisDecoderDecodeFull(decoder_for(mode_bits), bytes, avail, z, ops);
	if (!ZYAN_SUCCESS(status)) {
		bool incomplete = status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG;
		insn->len = incomplete ? avail : undefined_length(bytes, avail, mode_bits, z, ops);
		memcpy(insn->bytes, bytes, insn->len);
		return incomplete ? 1 : 2;
	}
	exchange = redecode_exchange(z, ops, bytes, mode_bits);
	insn->len = z->length;
	memcpy(insn->bytes, bytes, z->length);
	fill(insn, z, ops, mode_bits, rip);
	if (exchange)
		insn->rep = 0;
	/* AMD's other spelling of MOV CR8 is no instruction of Intel's. */
	if (insn->lock && insn->map == 1 && insn->encoding == ENC_LEGACY && (insn->opcode == 0x20 || insn->opcode == 0x22)) {
		insn->mnemonic = ZYDIS_MNEMONIC_INVALID;
		return 2;
	}
	return 0;
}
