/*
 * x86/decode -- one guest instruction, decoded by Zydis and reduced to what
 * the rules and the translator need.
 */
#ifndef ANYKVM_DECODE_H
#define ANYKVM_DECODE_H

#include <Zydis/Zydis.h>
#include "base/base.h"

enum { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
       REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_NONE = -1 };
enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

enum insn_encoding { ENC_LEGACY, ENC_VEX, ENC_OTHER };  /* OTHER: EVEX, XOP, 3DNow! -- #UD for guests */

struct insn {
	uint8_t bytes[15];
	uint8_t len;
	uint16_t mnemonic;               /* ZydisMnemonic; ZYDIS_MNEMONIC_INVALID: #UD */
	uint8_t encoding;                /* enum insn_encoding */
	uint8_t map;                     /* opcode map: 0 one byte, 1 0F, 2 0F38, 3 0F3A */
	uint8_t opcode;
	uint8_t opsize;                  /* effective operand size, bytes: 1, 2, 4, 8 (of byte forms: 1) */
	uint8_t addrsize;                /* effective address size, bytes: 2, 4, 8 */
	uint8_t rep;                     /* 0, 0xf2 or 0xf3 as present */
	bool lock, opsize_prefix;        /* F0, 66 present */
	bool has_modrm;
	uint8_t modrm, rex;              /* rex: 0 if absent, else the byte; for VEX only W,R,X,B bits as 0x40|WRXB */
	uint8_t reg, rm;                 /* modrm fields widened by REX.R and REX.B (or VEX): 0..15 */
	/* Memory operand of modrm (or moffs of MOV A0-A3; then base = index = none). */
	bool mem;
	int8_t base, index;              /* REG_NONE or 0..15; RIP-relative: both none and rip_relative set */
	uint8_t scale;                   /* 0..3: shift */
	bool rip_relative;               /* disp already holds next RIP + displacement */
	int8_t seg;                      /* enum seg after overrides; default DS or SS by base */
	int64_t disp;
	uint16_t mem_size;               /* bytes accessed, 0 for address-only (LEA, INVLPG, ...) */
	bool mem_read, mem_write;
	uint64_t imm, imm2;              /* sign-extended as the instruction has it; branches: raw displacement in imm */
	uint8_t imm_size, imm2_size;     /* bytes */
};

/*
 * mode_bits: 16, 32 or 64 (CS.D and CS.L). rip: guest address of bytes[0], for
 * RIP-relative operands. avail: bytes that could be fetched (at most 15).
 * Returns ZYAN_SUCCESS-like: 0 fine; 1 needs more bytes than avail (page
 * boundary or the 15-byte limit); 2 undefined opcode. insn->bytes and len are
 * then those that say so.
 * ops and z receive Zydis' own view for the translator; may be NULL.
 */
int insn_decode(struct insn *insn, const uint8_t *bytes, unsigned avail, int mode_bits, uint64_t rip,
                ZydisDecodedInstruction *z, ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT]);

#endif
