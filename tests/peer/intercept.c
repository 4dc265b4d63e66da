/*
 * Intercepts: L2 executes one instruction, in a random mode, with random
 * controls, bitmaps, operands and prefixes, and then HLT. The first VM exit is
 * compared. Seeds beyond the one of `make check` may show what is known to
 * differ: MOV to CR3 and CR4 of bits that only one of the two processors has,
 * and LGDT and LIDT across the end of a 64 KiB segment.
 */
#include "fuzz.h"

enum operand { PLAIN, MEMORY, REGISTER, EITHER, CONTROL_REGISTER, DEBUG_REGISTER, PORT };
enum { PLACE = 0x800 /* of the instruction in its page */, LOW_CODE = AREA + LOW, DATA = AREA + 0x30000, CR8_AT = 0x80, LONGEST = 15 };

/* bytes: opcode; mem: its /digit, ANY: any register. feature: CPUID bit that must be the same on both sides. */
enum { ANY = 8, ECX1 = 0x100, EBX7 = 0x200 };
static const struct insn {
	uint8_t length, bytes[3], operand, digit;
	uint16_t feature;
	bool strange;                            /* its results are the machine's own */
} insns[] = {
	{ 2, { 0x0f, 0xa2 }, .strange = true }, { 2, { 0x0f, 0x31 }, .strange = true }, { 3, { 0x0f, 0x01, 0xf9 }, .strange = true },
	{ 2, { 0x0f, 0x33 }, .strange = true }, { 2, { 0x0f, 0x32 }, .strange = true }, { 2, { 0x0f, 0x30 } }, { 1, { 0xf4 } },
	{ 2, { 0x0f, 0x08 } }, { 2, { 0x0f, 0x09 } }, { 2, { 0x0f, 0x06 } }, { 2, { 0xf3, 0x90 } }, { 2, { 0x0f, 0x37 } }, { 2, { 0x0f, 0xaa } },
	{ 1, { 0xcc } }, { 1, { 0xf1 } }, { 2, { 0xcd, 0x80 } }, { 2, { 0x0f, 0x0b } }, { 1, { 0xce } }, { 1, { 0xfa } }, { 1, { 0x9c } },
	{ 2, { 0x0f, 0x34 } }, { 2, { 0x0f, 0x05 } },
	{ 2, { 0x0f, 0x01 }, MEMORY, 0 }, { 2, { 0x0f, 0x01 }, MEMORY, 1 }, { 2, { 0x0f, 0x01 }, MEMORY, 2 }, { 2, { 0x0f, 0x01 }, MEMORY, 3 },
	{ 2, { 0x0f, 0x01 }, EITHER, 4 }, { 2, { 0x0f, 0x01 }, EITHER, 6 }, { 2, { 0x0f, 0x01 }, MEMORY, 7 },
	{ 2, { 0x0f, 0x00 }, EITHER, 0 }, { 2, { 0x0f, 0x00 }, EITHER, 1 }, { 2, { 0x0f, 0x00 }, EITHER, 2 }, { 2, { 0x0f, 0x00 }, EITHER, 3 },
	{ 2, { 0x0f, 0x20 }, CONTROL_REGISTER }, { 2, { 0x0f, 0x22 }, CONTROL_REGISTER }, { 2, { 0x0f, 0x22 }, CONTROL_REGISTER },
	{ 2, { 0x0f, 0x21 }, DEBUG_REGISTER }, { 2, { 0x0f, 0x23 }, DEBUG_REGISTER },
	{ 1, { 0xe4 }, PORT }, { 1, { 0xe5 }, PORT }, { 1, { 0xe6 }, PORT }, { 1, { 0xe7 }, PORT },
	{ 1, { 0xec } }, { 1, { 0xed } }, { 1, { 0xee } }, { 1, { 0xef } }, { 1, { 0x6c } }, { 1, { 0x6d } }, { 1, { 0x6e } }, { 1, { 0x6f } },
	{ 2, { 0xf3, 0x6c } }, { 2, { 0xf3, 0x6d } }, { 2, { 0xf3, 0x6e } }, { 2, { 0xf3, 0x6f } },
	{ 3, { 0x0f, 0x01, 0xc1 } }, { 3, { 0x0f, 0x01, 0xc2 } }, { 3, { 0x0f, 0x01, 0xc3 } }, { 3, { 0x0f, 0x01, 0xc4 } },
	{ 2, { 0x0f, 0x78 }, EITHER, ANY }, { 2, { 0x0f, 0x79 }, EITHER, ANY }, { 2, { 0x0f, 0xc7 }, MEMORY, 6 }, { 2, { 0x0f, 0xc7 }, MEMORY, 7 },
	{ 3, { 0x66, 0x0f, 0xc7 }, MEMORY, 6 }, { 3, { 0xf3, 0x0f, 0xc7 }, MEMORY, 6 },
	{ 2, { 0x0f, 0xc7 }, REGISTER, 6, ECX1 | 30, true },
	{ 3, { 0x0f, 0x01, 0xd1 } },
};

/* ---- the instruction ---- */

struct code { uint8_t bytes[24]; unsigned length; const struct insn *insn; bool rex_allowed; };

static void put(struct code *c, unsigned byte) { c->bytes[c->length++] = byte; }
static unsigned one_in(unsigned n) { return chance() % n == 0; }

static void put_prefixes(struct code *c, bool memory)
{
	static const uint8_t segments[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };

	if (one_in(8))
		put(c, 0x66);
	if (memory && one_in(6))
		put(c, 0x67);
	if (memory && one_in(4))
		put(c, segments[chance() % ARRAY_SIZE(segments)]);
}

/* Opcodes with a mandatory prefix keep it in front of REX. */
static void put_opcode(struct code *c, unsigned rex)
{
	unsigned i = 0;

	if (c->insn->length > 1 && (c->insn->bytes[0] == 0x66 || c->insn->bytes[0] == 0xf3))
		put(c, c->insn->bytes[i++]);
	if (rex)
		put(c, rex);
	while (i < c->insn->length)
		put(c, c->insn->bytes[i++]);
}

/* ModRM, SIB and displacement of any form; mode16: the address size is 16 bits. */
static void put_memory(struct code *c, unsigned reg, bool mode16)
{
	unsigned mod = chance() % 3, rm = chance() % 8;

	put(c, mod << 6 | reg << 3 | rm);
	if (mode16) {
		for (unsigned n = mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0; n; n--)
			put(c, one_in(2) ? 0 : chance());
		return;
	}
	unsigned base = rm;
	if (rm == 4) {
		unsigned sib = chance();
		put(c, sib);
		base = sib & 7;
	}
	for (unsigned n = mod == 1 ? 1 : mod == 2 || base == 5 ? 4 : 0; n; n--)
		put(c, n == 4 || n == 1 ? chance() & 0x7f : 0);
}

static void put_operands(struct code *c, bool mode16)
{
	static const uint8_t controls[] = { 0, 0, 2, 3, 3, 4, 4, 8, 1, 7 };
	unsigned operand = c->insn->operand, digit = c->insn->digit == ANY ? chance() % 8 : c->insn->digit, rm = chance() % 8;

	if (operand == EITHER)
		operand = one_in(2) ? MEMORY : REGISTER;
	switch (operand) {
	case MEMORY:
		put_memory(c, digit, mode16);
		break;
	case REGISTER:
		put(c, 0xc0 | digit << 3 | (c->insn->strange && rm == 4 ? 0 : rm));     /* RSP is among what is compared */
		break;
	case CONTROL_REGISTER:
		put(c, 0xc0 | (controls[chance() % ARRAY_SIZE(controls)] & 7) << 3 | rm);
		break;
	case DEBUG_REGISTER:
		put(c, 0xc0 | (chance() % 8) << 3 | rm);
		break;
	case PORT:
		put(c, 0xe0 + chance() % 8);
		break;
	}
}

static bool is_string(const struct insn *insn)
{
	uint8_t last = insn->bytes[insn->length - 1];

	return last >= 0x6c && last <= 0x6f;
}

static bool same_feature(unsigned feature)
{
	unsigned at = feature & ECX1 ? ECX1_CAP : EBX7_CAP;

	return !feature || !((caps[at] ^ peer_caps[at]) >> (feature & 31) & 1);
}

static void make_code(struct code *c, enum shape shape)
{
	*c = (struct code){ .insn = &insns[chance() % ARRAY_SIZE(insns)] };
	/* Bochs 2.7 counts INT n that virtual-8086 mode refuses as an event in delivery. */
	while (!same_feature(c->insn->feature) || (c->insn->bytes[0] == 0xcd && shape == SHAPE_VM86))
		c->insn = &insns[chance() % ARRAY_SIZE(insns)];
	put_prefixes(c, c->insn->operand == MEMORY || c->insn->operand == EITHER || is_string(c->insn));
	bool prefix67 = false;
	for (unsigned i = 0; i < c->length; i++)
		prefix67 |= c->bytes[i] == 0x67;
	unsigned rex = shape == SHAPE_LONG && one_in(3) ? 0x40 + chance() % 16 : 0;
	put_opcode(c, c->insn->operand == DEBUG_REGISTER ? rex & ~4 : rex);     /* Bochs 2.7 takes DR8 for DR0 */
	put_operands(c, (shape == SHAPE_VM86 || shape == SHAPE_REAL) != prefix67 && shape != SHAPE_LONG);
}

/* ---- its surroundings ---- */

static void controls(bool user)
{
	const uint64_t primary = PRIMARY_INVLPG | PRIMARY_RDTSC | PRIMARY_CR3_LOAD | PRIMARY_CR3_STORE | PRIMARY_CR8_LOAD |
	                         PRIMARY_CR8_STORE | PRIMARY_TPR_SHADOW | PRIMARY_MOV_DR | PRIMARY_PAUSE;
	const uint64_t secondary = SECONDARY_DESCRIPTOR_TABLE | SECONDARY_RDTSCP | SECONDARY_WBINVD | SECONDARY_RDRAND | SECONDARY_INVPCID |
	                           SECONDARY_SHADOW_VMCS;
	static const uint64_t masks[] = { 0, ~0ull, 1, 2, 8, 0x80000000, 0x20, 0x80, 0x2000, 0x80000021 };

	vmwrite(F_pin_based_vm_exec_control, field(F_pin_based_vm_exec_control) & ~PIN_PREEMPTION_TIMER);
	vmwrite(F_cpu_based_vm_exec_control, (field(F_cpu_based_vm_exec_control) | (one_in(2) ? PRIMARY_IO_BITMAPS : PRIMARY_UNCOND_IO) |
	                                      PRIMARY_MSR_BITMAPS | PRIMARY_RDPMC) ^ (chance() & primary & common_controls(PRIMARY_MSR)));
	vmwrite(F_secondary_vm_exec_control, field(F_secondary_vm_exec_control) ^ (chance() & secondary & common_controls(SECONDARY_MSR)));
	vmwrite(F_exception_bitmap, user || one_in(2) ? ~0u : chance());
	vmwrite(F_page_fault_error_code_mask, one_in(2) ? 0 : chance() & 31);
	vmwrite(F_page_fault_error_code_match, one_in(2) ? 0 : chance() & 31);
	vmwrite(F_cr0_guest_host_mask, masks[chance() % ARRAY_SIZE(masks)] | 0x80000021);    /* Bochs 2.7 lets L2 clear bits that VMX fixes */
	vmwrite(F_cr4_guest_host_mask, masks[chance() % ARRAY_SIZE(masks)]);
	vmwrite(F_cr0_read_shadow, one_in(2) ? field(F_guest_cr0) : chance());
	vmwrite(F_cr4_read_shadow, one_in(2) ? field(F_guest_cr4) : chance());
}

/* All I/O exits but for ports that nothing answers; of WRMSR only what does no harm may go through. */
static void bitmaps(void)
{
	static const uint32_t harmless[] = { 0x174, 0x175, 0x277, 0xc0000100, 0xc0000101, 0xc0000102 };
	uint8_t *io = (void *)(uint64_t)IO_BITMAPS, *msr = (void *)(uint64_t)MSR_BITMAP;

	memset(io, 0xff, 0x2000);
	for (unsigned port = 0x2000; port < 0x2020; port += 8)
		io[port / 8] = chance();
	io[0xe0 / 8] = chance();
	io[0x1fff] = chance();
	memset(msr, 0xff, 0x1000);
	for (unsigned i = 0; i < 2; i++)
		memset(msr + 0x400 * i, chance(), 0x400);
	for (unsigned i = 0; i < ARRAY_SIZE(harmless); i++)
		if (one_in(2))
			msr[0x800 + (harmless[i] >> 31) * 0x400 + (harmless[i] & 0x1fff) / 8] &= ~(1 << harmless[i] % 8);
	memset((void *)(uint64_t)VMREAD_BITMAP, one_in(2) ? 0xff : 0, 0x2000);
	*(uint32_t *)(uint64_t)(VIRTUAL_APIC + CR8_AT) = chance() & 0xff;
}

static uint64_t register_value(void)
{
	switch (chance() % 8) {
	case 0: return chance();
	case 1: return chance() % 64;
	case 2: return 0x7ffffffffff0 + chance() % 32;
	case 3: return 0x80000031 ^ 1ull << chance() % 32;
	case 4: return 0x2020 ^ 1ull << chance() % 32;
	default: return DATA + chance() % 0x800;
	}
}

static void registers(const struct insn *insn, uint64_t gpr[16])
{
	static const uint32_t msrs[] = { 0x10, 0x174, 0x175, 0x277, 0x1fff, 0x2000, 0x40000000, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0001fff,
	                                 0xc0002000, 0x12345678 };
	static const uint16_t ports[] = { 0x2000, 0x2001, 0x2007, 0x200e, 0x201f, 0xfffe, 0xffff };
	unsigned last = insn->bytes[insn->length - 1];

	for (unsigned i = 0; i < 16; i++)
		gpr[i] = register_value();
	if (last == 0x30 || last == 0x32)
		gpr[1] = msrs[chance() % ARRAY_SIZE(msrs)];
	if (insn->length == 1 || last <= 0x6f)
		gpr[2] = ports[chance() % ARRAY_SIZE(ports)];
	if (last >= 0x6c && last <= 0x6f)
		gpr[1] = chance() % 3;           /* of REP */
	if (last == 0xa2)
		gpr[0] = 0;
}

/* CPL 3, and I/O privilege. */
static void privilege(bool user)
{
	vmwrite(F_guest_rflags, field(F_guest_rflags) | (one_in(2) ? 0x3000 : 0));
	if (!user)
		return;
	for (unsigned seg = 0; seg < 6; seg++) {
		vmwrite(F_guest_es_ar_bytes + 2 * seg, field(F_guest_es_ar_bytes + 2 * seg) | 0x60);
		vmwrite(F_guest_es_selector + 2 * seg, field(F_guest_es_selector + 2 * seg) | 3);
	}
}

void intercept_case(struct peer_case *c, bool *launched)
{
	static const enum shape shapes[] = { SHAPE_LONG, SHAPE_LONG, SHAPE_COMPAT, SHAPE_PAE, SHAPE_VM86, SHAPE_REAL };
	uint64_t gpr[16];
	struct code code;

	c->shape = shapes[chance() % ARRAY_SIZE(shapes)];
	bool low = c->shape == SHAPE_VM86 || c->shape == SHAPE_REAL, user = !low && one_in(4);
	uint8_t *place = (void *)(uint64_t)((low ? LOW_CODE : L2_CODE) + PLACE);
	state_base(c->shape);
	make_code(&code, c->shape);
	controls(user);
	bitmaps();
	privilege(user);
	registers(code.insn, gpr);
	memset((void *)(uint64_t)DATA, 0, 0x1000);
	memset(place - PLACE, 0xf4, 0x1000);
	memcpy(place, code.bytes, code.length);
	vmwrite(F_guest_rip, low ? PLACE : L2_CODE + PLACE);
	c->insn_length = code.length;
	memcpy(c->insn, code.bytes, LONGEST);
	case_enter(c, launched, 0, gpr);
	if (code.insn->strange)
		return;
	for (unsigned i = 0; i < 16; i++) {
		/* REP with nothing to do and 32-bit addresses: some processors clear upper halves, others do not. */
		uint64_t v = i == 4 ? 0 : c->shape == SHAPE_LONG && !is_string(code.insn) ? gpr[i] : (uint32_t)gpr[i];
		c->hash = (c->hash ^ v) * 0x100000001b3 ^ c->hash >> 31;
		report->values[GPR_VALUES + i] = v;
	}
}
