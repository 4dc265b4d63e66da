/*
 * Intercepts: L2 executes one instruction, in a random mode, with random
 * controls, bitmaps, operands and prefixes, and then HLT. The first VM exit is
 * compared.
 */
#include "code.h"

enum { PLACE = 0x800 /* of the instruction in its page */, LOW_CODE = AREA + LOW, DATA = AREA + 0x30000, CR8_AT = 0x80, LONGEST = 15 };

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

static void registers(const struct insn *insn, uint64_t rsp, uint64_t gpr[16])
{
	static const uint32_t msrs[] = { 0x10, 0x174, 0x175, 0x277, 0x1fff, 0x2000, 0x40000000, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0001fff,
	                                 0xc0002000, 0x12345678 };
	static const uint16_t ports[] = { 0x2000, 0x2001, 0x2007, 0x200e, 0x201f, 0xfffe, 0xffff };
	unsigned last = insn->bytes[insn->length - 1];

	for (unsigned i = 0; i < 16; i++)
		gpr[i] = register_value();
	gpr[4] = rsp;
	if (last == 0x30 || last == 0x32)
		gpr[1] = msrs[chance() % ARRAY_SIZE(msrs)];
	if (insn->length == 1 || last <= 0x6f)
		gpr[2] = ports[chance() % ARRAY_SIZE(ports)];
	if (last >= 0x6c && last <= 0x6f)
		gpr[1] = chance() % 3;           /* of REP */
	if (last == 0xa2)
		gpr[0] = 0;
	for (unsigned i = 0; last == 0x22 && i < 16; i++)       /* MOV CR: bits of CR4 that only one of the two processors has */
		gpr[i] &= ~(caps[CR4_FIXED1_MSR] ^ peer_caps[CR4_FIXED1_MSR]);
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
	registers(code.insn, field(F_guest_rsp), gpr);
	while (crosses_page_in_parts(&code, gpr, PLACE)) {
		make_code(&code, c->shape);
		registers(code.insn, field(F_guest_rsp), gpr);
	}
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
