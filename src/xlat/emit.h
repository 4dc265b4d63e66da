/*
 * xlat/emit -- host instruction encoding. Bytes are appended at e->p in the
 * writable mapping of the code cache; relative operands are the same in the
 * executable one. Guest state is addressed as [rsp + offset]: AT(field).
 */
#ifndef ANYKVM_EMIT_H
#define ANYKVM_EMIT_H

#include "cpu/cpu.h"

enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };

/* A host memory operand: [base + index << scale + disp]. base -1: absolute 32-bit. */
struct mem_operand { int8_t base, index; uint8_t scale; int32_t disp; };

struct emit {
	uint8_t *p;
	int bias;                        /* bytes pushed since rsp was the cpu pointer */
};

static inline struct mem_operand mem_base(int base, int32_t disp) { return (struct mem_operand){ base, -1, 0, disp }; }
static inline struct mem_operand mem_index(int base, int index, int scale, int32_t disp)
{
	return (struct mem_operand){ base, index, scale, disp };
}
static inline struct mem_operand mem_state(const struct emit *e, size_t offset)
{
	return (struct mem_operand){ H_RSP, -1, 0, (int32_t)offset + e->bias };
}
/* A field of struct cpu. */
#define AT(e, field) mem_state(e, offsetof(struct cpu, field))
#define AT_GPR(e, n) mem_state(e, offsetof(struct cpu, gpr) + 8 * (n))
#define AT_LANE(e, n, field) mem_state(e, offsetof(struct cpu, lane) + (n) * sizeof(struct lane) + offsetof(struct lane, field))
#define AT_SPILL(e, n) mem_state(e, offsetof(struct cpu, spill) + 8 * (n))

static inline void put8(struct emit *e, unsigned v) { *e->p++ = (uint8_t)v; }
static inline void put32(struct emit *e, uint32_t v) { memcpy(e->p, &v, 4); e->p += 4; }
static inline void put64(struct emit *e, uint64_t v) { memcpy(e->p, &v, 8); e->p += 8; }

void put_modrm(struct emit *e, int reg, struct mem_operand m);
/* REX (if needed), opcode (1 or 2 bytes, 0F first), modrm. w: REX.W. */
void put_op_mem(struct emit *e, int w, unsigned opcode, int reg, struct mem_operand m);
void put_op_reg(struct emit *e, int w, unsigned opcode, int reg, int rm);

static inline void put_load(struct emit *e, int reg, struct mem_operand m) { put_op_mem(e, 1, 0x8b, reg, m); }
static inline void put_load32(struct emit *e, int reg, struct mem_operand m) { put_op_mem(e, 0, 0x8b, reg, m); }
static inline void put_store(struct emit *e, int reg, struct mem_operand m) { put_op_mem(e, 1, 0x89, reg, m); }
static inline void put_store32(struct emit *e, int reg, struct mem_operand m) { put_op_mem(e, 0, 0x89, reg, m); }
static inline void put_lea(struct emit *e, int reg, struct mem_operand m) { put_op_mem(e, 1, 0x8d, reg, m); }
static inline void put_lea32(struct emit *e, int reg, struct mem_operand m) { put_op_mem(e, 0, 0x8d, reg, m); }
static inline void put_mov(struct emit *e, int to, int from) { if (to != from) put_op_reg(e, 1, 0x89, from, to); }
static inline void put_mov32(struct emit *e, int to, int from) { put_op_reg(e, 0, 0x89, from, to); }
void put_mov_imm(struct emit *e, int reg, uint64_t v);            /* shortest form; flags kept */
void put_store_imm32(struct emit *e, struct mem_operand m, uint32_t v);
/* 64-bit constant into memory by two 32-bit stores, or one sign-extended one. */
void put_store_imm64(struct emit *e, struct mem_operand m, uint64_t v);
void put_alu_imm(struct emit *e, int w, int sub, int reg, int32_t v);         /* 81 /sub */
void put_shr(struct emit *e, int w, int reg, int by);
void put_alu_mem_imm(struct emit *e, int w, int sub, struct mem_operand m, int32_t v);
void put_rorx(struct emit *e, int to, int from, int count);
/* BMI2's SHRX (pp 3, F7) and BZHI (pp 0, F5): 64-bit, of the low eight registers. */
void put_bmi2(struct emit *e, unsigned pp, unsigned opcode, int to, int from, int by);
void put_pext(struct emit *e, int to, int from, struct mem_operand mask);
uint8_t *put_jcc(struct emit *e, int cc);                        /* returns the place of rel32 */
uint8_t *put_jmp(struct emit *e);
uint8_t *put_call(struct emit *e);
void put_jmp_to(struct emit *e, const uint8_t *target);
void put_call_to(struct emit *e, const uint8_t *target);
static inline void patch_rel32(uint8_t *place, const uint8_t *target)
{
	int32_t d = (int32_t)(target - (place + 4));
	__atomic_store(( int32_t *)place, &d, __ATOMIC_RELAXED);
}
/* Arithmetic flags to AX (LAHF, SETO) and back. */
void put_flags_to_ax(struct emit *e);
void put_flags_from_ax(struct emit *e);

#endif
