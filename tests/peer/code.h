/* One random instruction of L2. */
#ifndef ANYKVM_TESTS_PEER_CODE_H
#define ANYKVM_TESTS_PEER_CODE_H

#include "fuzz.h"

enum operand { PLAIN, MEMORY, REGISTER, EITHER, CONTROL_REGISTER, DEBUG_REGISTER, PORT };
enum { ANY = 8, ECX1 = 0x100, EBX7 = 0x200 };

/* bytes: opcode; digit: of ModRM, ANY: any register. feature: CPUID bit that must be the same on both sides. */
struct insn {
	uint8_t length, bytes[3], operand, digit;
	uint16_t feature;
	bool strange;                            /* its results are the machine's own */
};

/* modrm: its index in bytes, where there is a memory operand. mode16: 16-bit addresses. */
struct code { uint8_t bytes[24]; unsigned length; enum shape shape; const struct insn *insn; unsigned modrm, rex; bool mode16; };

void make_code(struct code *c, enum shape shape);
bool is_string(const struct insn *insn);
/*
 * SGDT, SIDT, LGDT, LIDT whose operand, of two parts, crosses a page: which part faults first is not defined there, nor
 * whether accesses across 4 GiB fault; and at the end of 64 KiB Bochs 2.7 goes on at their start. place: of the
 * instruction in its page.
 */
bool crosses_page_in_parts(const struct code *c, const uint64_t gpr[16], unsigned place);

static inline unsigned one_in(unsigned n) { return chance() % n == 0; }

#endif
