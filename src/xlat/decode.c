/* Fetches and decodes the guest instructions of one block. */
#include "xlat/internal.h"

int mode_bits_of(uint32_t mode)
{
	switch (mode & MODE_CODE_MASK) {
	case MODE_CODE64: return 64;
	case MODE_CODE32: return 32;
	default: return 16;
	}
}

static bool ends_block(const struct xinsn *x)
{
	switch (x->kind) {
	case KIND_RULE:
		return x->rule_flags & RULE_ENDS;
	case KIND_JMP: case KIND_CALL: case KIND_RET: case KIND_JMP_IND: case KIND_CALL_IND:
		return true;
	default:
		return false;
	}
}

static uint64_t next_rip(uint32_t mode, uint64_t rip)
{
	switch (mode & MODE_CODE_MASK) {
	case MODE_CODE64: return rip;
	case MODE_CODE32: return (uint32_t)rip;
	default: return (uint32_t)rip;
	}
}

/*
 * The first instruction straddles its page: fetch the rest from the next one,
 * which may fault (with the second page's address in CR2).
 */
static int decode_straddling(struct translation_unit *u, struct xinsn *x, const uint8_t *host, unsigned avail,
                             ZydisDecodedInstruction *z, ZydisDecodedOperand *ops)
{
	struct cpu *cpu = u->cpu;
	uint64_t lin = (x->rip + avail);
	if (!cpu_code64(cpu) && lin > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	if (!cpu_code64(cpu))
		lin = (uint32_t)(lin + cpu->seg[SEG_CS].base);
	if (cpu_code64(cpu) && !cpu_canonical(cpu, lin))
		cpu_raise_gp(cpu);
	struct translation t = tlb_translate(cpu, lin, ACCESS_EXEC);
	if (!t.host)
		cpu_internal_error(cpu, "instruction fetch from MMIO at guest-physical %#llx", (unsigned long long)t.gpa);
	uint8_t bytes[15];
	memcpy(bytes, host, avail);
	memcpy(bytes + avail, t.host, sizeof bytes - avail);
	u->block->source2 = t.host;
	fpu_park(cpu);
	return insn_decode(&x->in, bytes, sizeof bytes, mode_bits_of(u->mode), x->rip, z, ops);
}

/*
 * false: the block ends before this instruction. Its bytes are read once, as another vCPU may be changing them: what is
 * decoded, what templates are kept by and what unit_read() compares with memory are the same.
 */
static bool decode_one(struct translation_unit *u, struct xinsn *x, const uint8_t *host)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	unsigned in_page = 4096 - ((uintptr_t)host & 4095);
	unsigned avail = in_page < 15 ? in_page : 15;
	uint8_t bytes[15];
	if (avail == 15)
		memcpy(bytes, host, 15);
	else
		memcpy(bytes, host, avail);
	if (avail == 15 && params.templates && template_use(u, x, bytes))
		return true;
	fpu_park(u->cpu);
	int r = insn_decode(&x->in, bytes, avail, mode_bits_of(u->mode), x->rip, &z, ops);
	if (r == 1 && avail < 15) {
		if (u->count)
			return false;
		r = decode_straddling(u, x, host, avail, &z, ops);
	}
	if (r == 1) {                            /* longer than 15 bytes */
		x->next = next_rip(u->mode, x->rip + x->in.len);
		x->kind = KIND_RULE;
		x->rule = rule_too_long;
		x->rule_flags = RULE_ENDS;
		return true;
	}
	if (r == 2) {
		x->in.mnemonic = ZYDIS_MNEMONIC_INVALID;
		x->in.encoding = ENC_LEGACY;
		memset(&z, 0, sizeof z);
	}
	x->next = next_rip(u->mode, x->rip + x->in.len);
	xinsn_classify(u, x, &z, ops);
	if (!r)
		template_keep(u, x, &z);
	return true;
}

void unit_decode(struct translation_unit *u, const uint8_t *host, uint64_t rip)
{
	unsigned limit = u->mode & XMODE_ONE ? 1 : params.block_insns < MAX_BLOCK_INSNS ? params.block_insns : MAX_BLOCK_INSNS;
	uint64_t at = rip;
	u->count = 0;
	u->block->reach = 0;
	while (u->count < (limit ? limit : 1)) {
		struct xinsn *x = &u->insn[u->count];
		memset(x, 0, sizeof *x);
		x->rip = at;
		if (!decode_one(u, x, host + (at - rip)))
			break;
		u->count++;
		at += x->in.len;
		if (ends_block(x) || u->block->source2 || ((uintptr_t)(host + (at - rip)) & 4095) == 0 ||
		    (((uintptr_t)host ^ (uintptr_t)(host + (at - rip))) & ~4095ull))
			break;
	}
	u->block->insns = u->count;
	u->block->length = at - rip;
	if (u->block->reach < at - 1)
		u->block->reach = at - 1;
	unit_check_sti(u);
}
