/* Host instruction encoding (see emit.h). Straightforward transcription of the encoding rules. */
#include "xlat/emit.h"

void put_modrm(struct emit *e, int reg, struct mem_operand m)
{
	reg &= 7;
	if (m.base < 0) {
		put8(e, reg << 3 | 4);
		put8(e, m.scale << 6 | (m.index < 0 ? 4 : m.index & 7) << 3 | 5);
		put32(e, m.disp);
		return;
	}
	int mod = m.disp == 0 && (m.base & 7) != 5 ? 0 : m.disp >= -128 && m.disp < 128 ? 1 : 2;
	if (m.index < 0 && (m.base & 7) != 4) {
		put8(e, mod << 6 | reg << 3 | (m.base & 7));
	} else {
		put8(e, mod << 6 | reg << 3 | 4);
		put8(e, m.scale << 6 | (m.index < 0 ? 4 : m.index & 7) << 3 | (m.base & 7));
	}
	if (mod == 1)
		put8(e, m.disp);
	else if (mod == 2)
		put32(e, m.disp);
}

static void put_rex(struct emit *e, int w, int reg, int index, int base)
{
	int rex = w << 3 | (reg > 7) << 2 | (index > 7) << 1 | (base > 7);
	if (rex)
		put8(e, 0x40 | rex);
}

static void put_opcode(struct emit *e, unsigned opcode)
{
	if (opcode > 0xff)
		put8(e, opcode >> 8);
	put8(e, opcode);
}

void put_op_mem(struct emit *e, int w, unsigned opcode, int reg, struct mem_operand m)
{
	put_rex(e, w, reg, m.index, m.base);
	put_opcode(e, opcode);
	put_modrm(e, reg, m);
}

void put_op_reg(struct emit *e, int w, unsigned opcode, int reg, int rm)
{
	put_rex(e, w, reg, -1, rm);
	put_opcode(e, opcode);
	put8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void put_mov_imm(struct emit *e, int reg, uint64_t v)
{
	if (v <= 0xffffffffu) {
		put_rex(e, 0, 0, -1, reg);
		put8(e, 0xb8 | (reg & 7));
		put32(e, (uint32_t)v);
	} else if ((int64_t)v == (int32_t)v) {
		put_op_reg(e, 1, 0xc7, 0, reg);
		put32(e, (uint32_t)v);
	} else {
		put_rex(e, 1, 0, -1, reg);
		put8(e, 0xb8 | (reg & 7));
		put64(e, v);
	}
}

void put_store_imm32(struct emit *e, struct mem_operand m, uint32_t v)
{
	put_op_mem(e, 0, 0xc7, 0, m);
	put32(e, v);
}

void put_store_imm64(struct emit *e, struct mem_operand m, uint64_t v)
{
	if ((int64_t)v == (int32_t)v) {
		put_op_mem(e, 1, 0xc7, 0, m);
		put32(e, (uint32_t)v);
		return;
	}
	put_store_imm32(e, m, (uint32_t)v);
	m.disp += 4;
	put_store_imm32(e, m, (uint32_t)(v >> 32));
}

void put_alu_imm(struct emit *e, int w, int sub, int reg, int32_t v)
{
	bool small = v >= -128 && v < 128;
	put_op_reg(e, w, small ? 0x83 : 0x81, sub, reg);
	if (small)
		put8(e, v);
	else
		put32(e, v);
}

void put_shr(struct emit *e, int w, int reg, int by)
{
	put_op_reg(e, w, 0xc1, 5, reg);
	put8(e, by);
}

void put_alu_mem_imm(struct emit *e, int w, int sub, struct mem_operand m, int32_t v)
{
	bool small = v >= -128 && v < 128;
	put_op_mem(e, w, small ? 0x83 : 0x81, sub, m);
	if (small)
		put8(e, v);
	else
		put32(e, v);
}

void put_rorx(struct emit *e, int to, int from, int count)
{
	put8(e, 0xc4);
	put8(e, (to > 7 ? 0 : 0x80) | 0x40 | (from > 7 ? 0 : 0x20) | 3);
	put8(e, 0x80 | 0x78 | 3);
	put8(e, 0xf0);
	put8(e, 0xc0 | (to & 7) << 3 | (from & 7));
	put8(e, count);
}

void put_bmi2(struct emit *e, unsigned pp, unsigned opcode, int to, int from, int by)
{
	put8(e, 0xc4);
	put8(e, 0xe0 | 2);
	put8(e, 0x80 | (~by & 15) << 3 | pp);
	put8(e, opcode);
	put8(e, 0xc0 | to << 3 | from);
}

void put_pext(struct emit *e, int to, int from, struct mem_operand mask)
{
	put8(e, 0xc4);
	put8(e, (to > 7 ? 0 : 0x80) | (mask.index > 7 ? 0 : 0x40) | (mask.base > 7 ? 0 : 0x20) | 2);
	put8(e, 0x80 | (~from & 15) << 3 | 2);
	put8(e, 0xf5);
	put_modrm(e, to, mask);
}

uint8_t *put_jcc(struct emit *e, int cc)
{
	put8(e, 0x0f);
	put8(e, 0x80 | cc);
	put32(e, 0);
	return e->p - 4;
}

uint8_t *put_jmp(struct emit *e)
{
	put8(e, 0xe9);
	put32(e, 0);
	return e->p - 4;
}

uint8_t *put_call(struct emit *e)
{
	put8(e, 0xe8);
	put32(e, 0);
	return e->p - 4;
}

void put_jmp_to(struct emit *e, const uint8_t *target) { patch_rel32(put_jmp(e), target); }
void put_call_to(struct emit *e, const uint8_t *target) { patch_rel32(put_call(e), target); }

void put_flags_to_ax(struct emit *e)
{
	put8(e, 0x9f);                                   /* lahf */
	put8(e, 0x0f); put8(e, 0x90); put8(e, 0xc0);     /* seto al */
}

void put_flags_from_ax(struct emit *e)
{
	put8(e, 0x04); put8(e, 0x7f);                    /* add al, 7f: OF back */
	put8(e, 0x9e);                                   /* sahf */
}
