/*
 * insn_decode() against hand-made expectations: one line per instruction, with
 * the fields that are easy to get wrong. Prints TAP.
 */
#include <stdio.h>
#include <string.h>
#include "x86/decode.h"

enum { R = 1, W = 2, RW = 3 };

/* Which fields a line expects, by group. Fields not named are not looked at. */
static const struct test {
	const char *name;
	int mode;
	const char *bytes;
	unsigned count;
	int result;
	struct insn want;
	unsigned check;
} tests[] = {
#define SIZE 1                           /* opsize, addrsize, len */
#define MEM 2                            /* mem .. mem_write */
#define IMM 4                            /* imm, imm2 and their sizes */
#define PREFIX 8                         /* rep, lock, opsize_prefix, seg */
#define MODRM 16                         /* modrm, rex, reg, rm */
#define LENGTH 32                        /* len, and so many bytes */
#define B(s) s, sizeof(s) - 1
#define ABS .base = REG_NONE, .index = REG_NONE
#define AT(b) .mem = true, .base = b, .index = REG_NONE
	/* operand sizes */
	{ "push rbp", 64, B("\x55"), 0, { .len = 1, .opsize = 8, .addrsize = 8 }, SIZE },
	{ "push bp", 64, B("\x66\x55"), 0, { .len = 2, .opsize = 2, .addrsize = 8 }, SIZE },
	{ "push ebp", 32, B("\x55"), 0, { .len = 1, .opsize = 4, .addrsize = 4 }, SIZE },
	{ "mov r8d, r9d by REX", 64, B("\x45\x89\xc8"), 0, { .modrm = 0xc8, .rex = 0x45, .reg = 9, .rm = 8 }, MODRM },
	{ "66 then REX.W: W wins", 64, B("\x66\x48\x8b\x00"), 0, { .len = 4, .opsize = 8, .addrsize = 8 }, SIZE },
	{ "REX not last: ignored", 64, B("\x48\x66\x8b\x00"), 0, { .len = 4, .opsize = 2, .addrsize = 8 }, SIZE },
	{ "call with 66 stays 64-bit", 64, B("\x66\xe8\x01\x00\x00\x80"), 0,
	  { .imm = 0xffffffff80000001, .imm_size = 4 }, IMM },
	{ "jmp rel16", 32, B("\x66\xe9\x01\x82"), 0, { .imm = 0xffffffffffff8201, .imm_size = 2 }, IMM },
	{ "retf", 64, B("\xcb"), 0, { .len = 1, .opsize = 4, .addrsize = 8 }, SIZE },
	{ "retfq", 64, B("\x48\xcb"), 0, { .len = 2, .opsize = 8, .addrsize = 8 }, SIZE },
	{ "mov al, ah", 64, B("\x88\xe0"), 0, { .len = 2, .opsize = 1, .addrsize = 8 }, SIZE },
	{ "outs with REX.W is 32-bit", 64, B("\x48\x6f"), 0, { .len = 2, .opsize = 4, .addrsize = 8 }, SIZE },
	{ "mov cr0 in 32-bit code", 32, B("\x0f\x22\xc0"), 0, { .len = 3, .opsize = 4, .addrsize = 4 }, SIZE },
	{ "mov cr0 in 64-bit code", 64, B("\x0f\x22\xc0"), 0, { .len = 3, .opsize = 8, .addrsize = 8 }, SIZE },
	{ "vmread in 64-bit code", 64, B("\x0f\x78\xc8"), 0, { .len = 3, .opsize = 8, .addrsize = 8 }, SIZE },
	/* control registers: mod is ignored, no SIB, no displacement */
	{ "mov cr with mod 0, rm 4", 64, B("\x0f\x20\x04\x25"), 0, { ABS, .seg = SEG_DS }, MEM },
	{ "mov cr with mod 0: length", 64, B("\x0f\x20\x04\x25"), 0, { .len = 3, .opsize = 8, .addrsize = 8 }, SIZE },
	{ "mov cr1", 64, B("\x0f\x22\xc8\x90"), 2, { .len = 3 }, LENGTH },
	{ "lock mov cr0", 32, B("\xf0\x0f\x22\xc0\x90"), 2, { .len = 4 }, LENGTH },
	/* memory operands */
	{ "[rip+0x10]", 64, B("\x8a\x05\x10\x00\x00\x00"), 0,
	  { .mem = true, ABS, .rip_relative = true, .disp = 0x1016, .mem_size = 1, .mem_read = true }, MEM },
	{ "[eip-0x80000000]", 64, B("\x67\x8a\x05\x00\x00\x00\x80"), 0,
	  { .mem = true, ABS, .rip_relative = true, .disp = 0x80001007, .mem_size = 1, .mem_read = true }, MEM },
	{ "moffs64", 64, B("\xa0\x01\x02\x03\x04\x05\x06\x07\x88"), 0,
	  { .mem = true, ABS, .disp = (int64_t)0x8807060504030201, .mem_size = 1, .mem_read = true }, MEM },
	{ "moffs32 is not sign-extended", 64, B("\x67\xa3\x01\x02\x03\x84"), 0,
	  { .mem = true, ABS, .disp = 0x84030201, .mem_size = 4, .mem_write = true }, MEM },
	{ "moffs16", 16, B("\xa1\x01\x82"), 0, { .mem = true, ABS, .disp = 0x8201, .mem_size = 2, .mem_read = true }, MEM },
	{ "[bx+si]", 16, B("\x8b\x00"), 0,
	  { .mem = true, .base = REG_RBX, .index = REG_RSI, .mem_size = 2, .mem_read = true }, MEM },
	{ "[bp-2] 16-bit", 16, B("\x8b\x46\xfe"), 0, { AT(REG_RBP), .disp = -2, .mem_size = 2, .mem_read = true }, MEM },
	{ "[ecx*2+0x10]", 16, B("\x67\x8b\x04\x4d\x10\x00\x00\x00"), 0,
	  { .mem = true, .base = REG_NONE, .index = REG_RCX, .scale = 1, .disp = 0x10, .mem_size = 2, .mem_read = true }, MEM },
	{ "[r12+0x10]", 64, B("\x41\x8b\x44\x24\x10"), 0, { AT(REG_R12), .disp = 0x10, .mem_size = 4, .mem_read = true }, MEM },
	{ "[r13+r12*8]", 64, B("\x4b\x01\x44\xe5\x00"), 0, { .mem = true, .base = REG_R13, .index = REG_R12, .scale = 3,
	  .mem_size = 8, .mem_read = true, .mem_write = true }, MEM },
	{ "lea", 64, B("\x48\x8d\x00"), 0, { AT(REG_RAX) }, MEM },
	{ "invlpg", 64, B("\x0f\x01\x38"), 0, { AT(REG_RAX) }, MEM },
	{ "long nop", 64, B("\x0f\x1f\x00"), 0, { AT(REG_RAX) }, MEM },
	{ "prefetchw", 64, B("\x0f\x0d\x08"), 0, { AT(REG_RAX) }, MEM },
	{ "clflush reads a byte", 64, B("\x0f\xae\x38"), 0, { AT(REG_RAX), .mem_size = 1, .mem_read = true }, MEM },
	{ "sldt writes 2 bytes", 64, B("\x0f\x00\x00"), 0, { AT(REG_RAX), .mem_size = 2, .mem_write = true }, MEM },
	{ "lgdt 64", 64, B("\x0f\x01\x10"), 0, { AT(REG_RAX), .mem_size = 10, .mem_read = true }, MEM },
	{ "lgdt 32", 32, B("\x0f\x01\x10"), 0, { AT(REG_RAX), .mem_size = 6, .mem_read = true }, MEM },
	{ "fxsave", 64, B("\x0f\xae\x00"), 0, { AT(REG_RAX), .mem_size = 512, .mem_write = true }, MEM },
	{ "fnstenv 16", 16, B("\x67\xd9\x30"), 0, { AT(REG_RAX), .mem_size = 14, .mem_write = true }, MEM },
	{ "far jmp m16:64", 64, B("\x48\xff\x28"), 0, { AT(REG_RAX), .mem_size = 10, .mem_read = true }, MEM },
	{ "cmpxchg16b", 64, B("\x48\x0f\xc7\x08"), 0,
	  { AT(REG_RAX), .mem_size = 16, .mem_read = true, .mem_write = true }, MEM },
	{ "invept", 64, B("\x66\x0f\x38\x80\x00"), 0, { AT(REG_RAX), .mem_size = 16, .mem_read = true }, MEM },
	{ "vmread to memory", 64, B("\x0f\x78\x00"), 0, { AT(REG_RAX), .mem_size = 8, .mem_write = true }, MEM },
	{ "vgatherdpd", 64, B("\xc4\x62\xf9\x92\x0c\x11"), 0,
	  { .mem = true, .base = REG_RCX, .index = 2, .mem_size = 8, .mem_read = true }, MEM },
	/* segments and other prefixes */
	{ "rsp base: SS", 64, B("\x8b\x04\x24"), 0, { .seg = SEG_SS }, PREFIX },
	{ "rbp base: SS, CS override ignored", 64, B("\x2e\x8b\x45\x00"), 0, { .seg = SEG_SS }, PREFIX },
	{ "FS stays with CS after it", 64, B("\x64\x2e\x8b\x00"), 0, { .seg = SEG_FS }, PREFIX },
	{ "ebp base, DS override", 32, B("\x3e\x8b\x45\x00"), 0, { .seg = SEG_DS }, PREFIX },
	{ "last override counts", 32, B("\x26\x36\x8b\x00"), 0, { .seg = SEG_SS }, PREFIX },
	{ "string with override", 32, B("\x2e\xf3\xa5"), 0, { .seg = SEG_CS, .rep = 0xf3 }, PREFIX },
	{ "last of F2, F3", 64, B("\xf3\xf2\xa4"), 0, { .seg = SEG_DS, .rep = 0xf2 }, PREFIX },
	{ "lock, 66", 64, B("\xf0\x66\x01\x00"), 0, { .seg = SEG_DS, .lock = true, .opsize_prefix = true }, PREFIX },
	{ "lock of a register", 64, B("\xf0\x01\xc0\x90"), 2, { .len = 3 }, LENGTH },
	/* immediates */
	{ "push imm8", 64, B("\x6a\xff"), 0, { .imm = UINT64_MAX, .imm_size = 1 }, IMM },
	{ "mov r64, imm64", 64, B("\x48\xb8\x01\x02\x03\x04\x05\x06\x07\x88"), 0,
	  { .imm = 0x8807060504030201, .imm_size = 8 }, IMM },
	{ "shl by imm8 is unsigned", 64, B("\xc0\xe0\xff"), 0, { .imm = 0xff, .imm_size = 1 }, IMM },
	{ "int 0x80", 64, B("\xcd\x80"), 0, { .imm = 0x80, .imm_size = 1 }, IMM },
	{ "in al, 0x80", 64, B("\xe4\x80"), 0, { .imm = 0x80, .imm_size = 1 }, IMM },
	{ "enter", 64, B("\xc8\x10\x80\x01"), 0, { .imm = 0x8010, .imm_size = 2, .imm2 = 1, .imm2_size = 1 }, IMM },
	{ "far call", 32, B("\x9a\x01\x02\x03\x84\x05\x86"), 0,
	  { .imm = 0x84030201, .imm_size = 4, .imm2 = 0x8605, .imm2_size = 2 }, IMM },
	{ "pause", 64, B("\xf3\x90"), 0, { .rep = 0xf3, .seg = SEG_DS }, PREFIX },
	{ "xchg r8, rax with F3", 64, B("\xf3\x49\x90"), 0, { .rep = 0, .seg = SEG_DS }, PREFIX },
	{ "xchg r8, rax has a register", 64, B("\xf3\x49\x90"), 0, { .rex = 0x49, .rm = 8 }, MODRM },
	/* VEX */
	{ "vaddpd r9, r10, r11", 64, B("\xc4\x41\x29\x58\xcb"), 0, { .modrm = 0xcb, .rex = 0x45, .reg = 9, .rm = 11 }, MODRM },
	{ "two-byte VEX has R only", 64, B("\xc5\x78\x28\xc1"), 0, { .modrm = 0xc1, .rex = 0x44, .reg = 8, .rm = 1 }, MODRM },
	{ "andn with W", 64, B("\xc4\xe2\xf8\xf2\xc1"), 0, { .len = 5, .opsize = 8, .addrsize = 8 }, SIZE },
	{ "66 before VEX", 64, B("\x66\xc5\xf9\xef\xc0"), 2, { .len = 3 }, LENGTH },
	/* ends */
	{ "missing modrm", 64, B("\x8b"), 1, { .len = 1 }, LENGTH },
	{ "16 bytes", 64, B("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"), 1, { .len = 15 }, LENGTH },
	{ "bound in 64-bit code", 64, B("\x62\x00"), 1, { .len = 2 }, LENGTH },
	{ "push es in 64-bit code", 64, B("\x06\x90"), 2, { .len = 1 }, LENGTH },
};

static bool same_memory(const struct insn *a, const struct insn *b)
{
	return a->mem == b->mem && a->base == b->base && a->index == b->index && a->scale == b->scale &&
	       a->rip_relative == b->rip_relative && a->disp == b->disp && a->mem_size == b->mem_size &&
	       a->mem_read == b->mem_read && a->mem_write == b->mem_write;
}

static bool passes(const struct test *t)
{
	struct insn in;

	if (insn_decode(&in, (const uint8_t *)t->bytes, t->count, t->mode, 0x1000, NULL, NULL) != t->result)
		return false;
	if ((t->check & SIZE) && (in.len != t->want.len || in.opsize != t->want.opsize || in.addrsize != t->want.addrsize))
		return false;
	if ((t->check & LENGTH) && (in.len != t->want.len || memcmp(in.bytes, t->bytes, in.len)))
		return false;
	if ((t->check & MEM) && !same_memory(&in, &t->want))
		return false;
	if ((t->check & IMM) && (in.imm != t->want.imm || in.imm_size != t->want.imm_size || in.imm2 != t->want.imm2 ||
	                         in.imm2_size != t->want.imm2_size))
		return false;
	if ((t->check & PREFIX) && (in.rep != t->want.rep || in.lock != t->want.lock || in.seg != t->want.seg ||
	                            in.opsize_prefix != t->want.opsize_prefix))
		return false;
	return !(t->check & MODRM) || (in.modrm == t->want.modrm && in.rex == t->want.rex && in.reg == t->want.reg &&
	                               in.rm == t->want.rm);
}

int main(void)
{
	unsigned failed = 0;

	printf("1..%zu\n", ARRAY_SIZE(tests));
	for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
		bool good = passes(&tests[i]);

		printf("%sok %u - %s (%d-bit)\n", good ? "" : "not ", i + 1, tests[i].name, tests[i].mode);
		failed += !good;
	}
	return failed != 0;
}
