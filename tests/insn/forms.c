/*
 * Enumerates instruction forms: all prefixes, maps, opcodes and ModRM bytes are
 * decoded, and what differs in mnemonic, encoding or operand kinds is a form.
 */
#include <stdlib.h>
#include "insn.h"

struct form *forms;
unsigned form_count;
static unsigned form_room;
static uint32_t *table;                          /* open hash: 1 + index into forms */
enum { TABLE = 1 << 16 };

static ZydisDecoder decoder;
int machine_bits = 64;

static void decoder_init(void)
{
	static const ZydisDecoderMode off[] = { ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE,
	                                        ZYDIS_DECODER_MODE_WBNOINVD };
	static const ZydisMachineMode modes[] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64 };
	static const ZydisStackWidth widths[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64 };
	ZydisDecoderInit(&decoder, modes[machine_bits / 32], widths[machine_bits / 32]);
	for (unsigned i = 0; i < COUNT_OF(off); i++)
		ZydisDecoderEnableMode(&decoder, off[i], ZYAN_FALSE);
}

bool decode(const uint8_t *bytes, unsigned len, struct decoded *d)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &d->z, d->op));
}

const ZydisDecodedOperand *memory_operand(const struct decoded *d)
{
	for (unsigned i = 0; i < d->z.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && (d->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
		                                                   d->op[i].encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64))
			return &d->op[i];
	return NULL;
}

bool is_vsib(const struct decoded *d)
{
	const ZydisDecodedOperand *m = memory_operand(d);
	return m && m->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x100000001b3ull;
	return h ^ h >> 29;
}

static uint64_t register_kind(const ZydisDecodedOperand *op)
{
	ZydisRegister r = op->reg.value;
	if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
		return r;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return 1000;                     /* no REX beside these */
	return 2000 + ZydisRegisterGetClass(r);
}

static uint64_t operand_key(uint64_t h, const ZydisDecodedOperand *op)
{
	h = mix(h, op->type | op->visibility << 8 | (uint64_t)op->size << 16 | (uint64_t)op->encoding << 32);
	if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
		h = mix(h, register_kind(op));
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
		h = mix(h, ZydisRegisterGetClass(op->mem.index));
	return h;
}

static bool opcode_holds_register(const struct decoded *d)
{
	for (unsigned i = 0; i < d->z.operand_count; i++)
		if (d->op[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			return true;
	return false;
}

uint64_t form_key(const struct decoded *d)
{
	const ZydisDecodedInstruction *z = &d->z;
	const ZydisInstructionAttributes kept = ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
	uint64_t h = 0xcbf29ce484222325ull;
	h = mix(h, z->mnemonic | (uint64_t)z->encoding << 16 | (uint64_t)z->opcode_map << 24);
	h = mix(h, opcode_holds_register(d) ? z->opcode & ~7 : z->opcode);
	h = mix(h, z->operand_width | (uint64_t)z->operand_count << 16);
	h = mix(h, z->attributes & kept);
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		h = mix(h, z->raw.vex.L);
	for (unsigned i = 0; i < z->operand_count; i++)
		h = operand_key(h, &d->op[i]);
	return h;
}

static uint32_t *table_find(uint64_t key)
{
	uint32_t i = key % TABLE;
	while (table[i] && forms[table[i] - 1].key != key)
		i = (i + 1) % TABLE;
	return &table[i];
}

/* Legacy or VEX bytes put together from the fields of f; zeros follow as SIB, displacement and immediate. */
static unsigned example(const struct form *f, uint8_t *to)
{
	unsigned n = 0;
	if (f->vex) {
		to[n++] = 0xc4;
		to[n++] = 0xe0 | f->map;
		to[n++] = f->w << 7 | f->vvvv << 3 | f->l << 2 | f->pp;
	} else {
		for (unsigned i = 0; i < f->nprefix; i++)
			to[n++] = f->prefix[i];
		if (f->w)
			to[n++] = 0x48;
		if (f->map)
			to[n++] = 0x0f;
		if (f->map > 1)
			to[n++] = f->map == 2 ? 0x38 : 0x3a;
	}
	to[n++] = f->opcode;
	to[n++] = f->modrm;
	memset(to + n, 0, 15 - n);
	return 15;
}

static void consider(struct form *f, const char *filter)
{
	struct decoded d;
	uint8_t bytes[15];
	example(f, bytes);
	if (!decode(bytes, sizeof bytes, &d) || is_excluded(&d))
		return;
	if (filter && strcasecmp(filter, ZydisMnemonicGetString(d.z.mnemonic)))
		return;
	f->key = form_key(&d);
	uint32_t *place = table_find(f->key);
	if (*place)
		return;
	if (form_count == form_room)
		forms = realloc(forms, sizeof *forms * (form_room = form_room * 2 + 1024));
	memcpy(f->bytes, bytes, sizeof bytes);
	f->len = d.z.length;
	f->has_modrm = d.z.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	f->memory = memory_operand(&d) && f->has_modrm;
	f->opcode_register = opcode_holds_register(&d);
	f->mnemonic = d.z.mnemonic;
	forms[form_count++] = *f;
	*place = form_count;
}

/* Every ModRM: register forms with all values, memory forms with one shape for each reg field. */
static void each_modrm(struct form *f, const char *filter)
{
	for (unsigned modrm = 0xc0; modrm <= 0xff; modrm++) {
		f->modrm = modrm;
		consider(f, filter);
	}
	for (unsigned reg = 0; reg < 8; reg++) {
		f->modrm = reg << 3 | 7;         /* [rdi] */
		consider(f, filter);
		f->modrm = reg << 3 | 4;         /* with SIB: gathers want one */
		consider(f, filter);
	}
}

/* Bytes that are no opcodes: prefixes and escapes. */
static bool is_opcode(unsigned map, unsigned byte)
{
	static const uint8_t others[] = { 0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3 };
	if (map == 1)
		return byte != 0x38 && byte != 0x3a;
	if (machine_bits == 64 && ((byte & 0xf0) == 0x40 || byte == 0x62 || byte == 0xc4 || byte == 0xc5) && !map)
		return false;
	return map > 1 || !memchr(others, byte, sizeof others);
}

static void legacy_forms(const char *filter)
{
	static const uint8_t sets[][3] = { { 0 }, { 0x66 }, { 0xf2 }, { 0xf3 }, { 0x66, 0xf2 }, { 0x66, 0xf3 }, { 0xf0 }, { 0x66, 0xf0 } };
	for (unsigned set = 0; set < COUNT_OF(sets); set++)
		for (unsigned w = 0; w < (machine_bits == 64 ? 2 : 1); w++)
			for (unsigned map = 0; map < 4; map++)
				for (unsigned opcode = 0; opcode < 256; opcode++) {
					if (!is_opcode(map, opcode))
						continue;
					struct form f = { .w = w, .map = map, .opcode = opcode };
					memcpy(f.prefix, sets[set], 3);
					f.nprefix = !!sets[set][0] + !!sets[set][1];
					each_modrm(&f, filter);
				}
}

static void vex_forms(const char *filter)
{
	for (unsigned bits = 0; bits < 16; bits++)
		for (unsigned map = 1; map < 4; map++)
			for (unsigned opcode = 0; opcode < 256; opcode++)
				for (unsigned vvvv = 15; vvvv <= 15; vvvv -= 7) {
					struct form f = { .vex = true, .map = map, .opcode = opcode, .vvvv = vvvv,
					                  .w = bits & 1, .l = bits >> 1 & 1, .pp = bits >> 2 };
					each_modrm(&f, filter);
				}
}

void forms_enumerate(const char *filter)
{
	decoder_init();
	table = calloc(TABLE, sizeof *table);
	legacy_forms(filter);
	vex_forms(filter);
}
