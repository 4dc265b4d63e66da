/* Compares two outcomes of a test and prints how they differ. */
#include <stdio.h>
#include "insn.h"

bool compare_fault_flags, compare_x87_pointers = true;

static bool ends_with_fault(const struct outcome *o) { return o->vector != 1 && o->vector != 3 && o->vector != 4; }

static uint64_t flags_mask(const struct test *t, const struct outcome *o)
{
	uint64_t mask = ~(uint64_t)(t->undefined | FLAG_ID);
	if (o->vector == 1 && t->insn[0].z.cpu_flags)
		mask &= ~(uint64_t)t->insn[0].z.cpu_flags->undefined;   /* a single step ends it after one instruction */
	if (ends_with_fault(o) && !compare_fault_flags)
		mask &= ~(uint64_t)FLAGS_ARITH;
	return mask;
}

/* The parts of the XSAVE image that are state, as {offset, length, name}. */
static const struct part { uint16_t offset, len; const char *name; bool pointer; } parts[] = {
	{ 0, 2, "FCW", false }, { 2, 2, "FSW", false }, { 4, 1, "FTW", false }, { 6, 2, "FOP", true }, { 8, 8, "FIP", true }, { 16, 8, "FDP", true },
	{ 24, 4, "MXCSR", false },
#define ST(n) { 32 + 16 * n, 10, "ST" #n, false }
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),
#define XMM(n) { 160 + 16 * n, 16, "XMM" #n, false }, { XSAVE_YMM + 16 * n, 16, "YMMH" #n, false }
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7), XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15),
};

/* Some processors note the x87 pointers only when an exception is pending. */
static bool part_differs(const struct part *p, const struct outcome *a, const struct outcome *b)
{
	if (p->pointer && !(compare_x87_pointers && a->state.xsave[2] & 0x80))
		return false;
	return memcmp(a->state.xsave + p->offset, b->state.xsave + p->offset, p->len);
}

static bool xsave_equal(const struct outcome *a, const struct outcome *b)
{
	for (unsigned i = 0; i < COUNT_OF(parts); i++)
		if (part_differs(&parts[i], a, b))
			return false;
	return true;
}

static bool stores_mxcsr_mask(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_XSAVE: case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC: case ZYDIS_MNEMONIC_XSAVEC64: case ZYDIS_MNEMONIC_XSAVEOPT: case ZYDIS_MNEMONIC_XSAVEOPT64:
		return true;
	default:
		return false;
	}
}

/* The instruction that a fault's RIP points to, or NULL. */
static const struct decoded *faulting(const struct test *t, const struct outcome *o)
{
	for (unsigned i = 0; i < t->count && ends_with_fault(o); i++)
		if (o->state.rip == test_ip(t) + t->offset[i])
			return &t->insn[i];
	return NULL;
}

static uint64_t operand_of(const struct test *t, const struct decoded *d)
{
	return effective_address(&t->in, d, memory_operand(d), test_rip(t) + d->z.length);
}

/* MXCSR_MASK is what the guest's processor has. */
static void forgive_mxcsr_mask(const struct test *t, struct outcome *native, const struct outcome *guest)
{
	uint64_t at = operand_of(t, &t->insn[0]) - DATA_BASE + 28;
	if (at + 4 <= sizeof native->data)
		memcpy((uint8_t *)native->data + at, (const uint8_t *)guest->data + at, 4);
}

/* Which of #GP for misalignment and #SS for an address that is not canonical comes first is open. */
static void forgive_stack_fault(const struct test *t, const struct decoded *d, struct outcome *native, const struct outcome *guest)
{
	if (memory_operand(d) && native->vector == 13 && guest->vector == 12 && operand_of(t, d) % operand_bytes(d))
		native->vector = 12;
}

/* After a fault of a gather only the mask's sign bits count. */
static void forgive_gather_mask(const struct decoded *d, struct outcome *native, const struct outcome *guest)
{
	unsigned v = ZydisRegisterGetId(d->op[2].reg.value), step = d->op[0].element_size / 8;
	uint8_t *n = native->state.xsave;
	const uint8_t *g = guest->state.xsave;
	for (unsigned i = step - 1; i < 32; i += step) {
		unsigned at = (i < 16 ? 160 : XSAVE_YMM - 16) + 16 * v + i;
		if ((n[at] ^ g[at]) & 0x80)
			return;
	}
	memcpy(n + 160 + 16 * v, g + 160 + 16 * v, 16);
	memcpy(n + XSAVE_YMM + 16 * v, g + XSAVE_YMM + 16 * v, 16);
}

/* Makes alike what may differ. */
void forgive(const struct test *t, struct outcome *native, const struct outcome *guest)
{
	const struct decoded *d = faulting(t, native);
	if (t->form && stores_mxcsr_mask(t->form->mnemonic) && !ends_with_fault(native))
		forgive_mxcsr_mask(t, native, guest);
	if (native->vector == 14 && native->cr2 >> 46)
		native->error &= ~1ull;          /* the system's own pages */
	if (native->vector == 1 && native->state.rip == test_ip(t))
		native->state.rflags = (native->state.rflags & ~(uint64_t)FLAG_RF) | (guest->state.rflags & FLAG_RF);   /* between elements */
	if (!d || native->state.rip != guest->state.rip)
		return;
	if ((operand_bytes(d) > 16 || operand_bytes(d) == 14) && native->cr2 >> 12 == guest->cr2 >> 12)
		native->cr2 = guest->cr2;        /* which byte of a large area faults first is open */
	if (operand_bytes(d) == XSAVE_BYTES && native->vector == 14 && guest->vector == 13)
		*native = *guest;                /* an area that is bad in two ways */
	forgive_stack_fault(t, d, native, guest);
	if (is_vsib(d))
		forgive_gather_mask(d, native, guest);
}

bool outcomes_equal(const struct test *t, const struct outcome *a, const struct outcome *b)
{
	if (a->vector != b->vector || a->error != b->error || a->cr2 != b->cr2 || a->state.rip != b->state.rip)
		return false;
	if (memcmp(a->state.gpr, b->state.gpr, sizeof a->state.gpr) || (a->state.rflags ^ b->state.rflags) & flags_mask(t, a))
		return false;
	for (unsigned p = 0; p < DATA_PAGES; p++)
		if (page_kinds[p] != PAGE_NONE && memcmp(a->data[p], b->data[p], PAGE))
			return false;
	if (t->smc && memcmp(a->code, b->code, t->code_len))
		return false;
	return xsave_equal(a, b);
}

/* ---- report ---- */
static const char *const gpr_names[GPR_COUNT] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                  "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };

static void hex(const uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		printf("%02x", p[i]);
}

static void print_code(const struct test *t)
{
	ZydisFormatter f;
	char text[128];
	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned i = 0; i < t->count; i++) {
		uint64_t at = test_rip(t) + t->offset[i];
		ZydisFormatterFormatInstruction(&f, &t->insn[i].z, t->insn[i].op, t->insn[i].z.operand_count_visible, text, sizeof text, at, NULL);
		printf("#   %llx: ", (long long)at);
		hex(t->code + t->offset[i], t->insn[i].z.length);
		printf("  %s\n", text);
	}
}

static void print_inputs(const struct test *t)
{
	printf("#   in: rflags %llx", (long long)t->in.rflags);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		printf(" %s %llx", gpr_names[i], (long long)t->in.gpr[i]);
	printf("\n#   in: xsave ");
	hex(t->in.xsave, 160);
	printf("\n");
	const ZydisDecodedOperand *m = t->count == 1 ? memory_operand(&t->insn[0]) : NULL;
	if (!m)
		return;
	uint64_t ea = effective_address(&t->in, &t->insn[0], m, test_rip(t) + t->insn[0].z.length);
	printf("#   operand at %llx", (long long)ea);
	if (ea >= DATA_BASE && ea + 32 < PAGE_ADDR(DATA_PAGES)) {
		printf(": ");
		hex(image + (ea - DATA_BASE), 32);
	}
	printf("\n");
}

static void print_pair(const char *name, uint64_t a, uint64_t b)
{
	if (a != b)
		printf("#   %-7s native %llx, engine %llx\n", name, (long long)a, (long long)b);
}

static void print_memory(const struct outcome *a, const struct outcome *b)
{
	for (unsigned p = 0; p < DATA_PAGES; p++) {
		if (page_kinds[p] == PAGE_NONE)
			continue;
		for (unsigned i = 0; i < PAGE; i++) {
			if (a->data[p][i] == b->data[p][i])
				continue;
			unsigned n = PAGE - i < 48 ? PAGE - i : 48, at = p * PAGE + i;
			printf("#   memory %llx before ", (long long)(DATA_BASE + at));
			hex(image + at, n);
			printf("\n#                   native ");
			hex(a->data[p] + i, n);
			printf("\n#                   engine ");
			hex(b->data[p] + i, n);
			printf("\n");
			break;
		}
	}
}

void report(const struct test *t, const struct outcome *native, const struct outcome *guest, const char *why)
{
	printf("not ok %llu - %s\n", (long long)t->index, t->form ? ZydisMnemonicGetString(t->form->mnemonic) : t->smc ? "self-modifying code" : "sequence");
	print_code(t);
	print_inputs(t);
	if (why) {
		printf("#   engine: %s (native: vector %u at %llx)\n", why, native->vector, (long long)native->state.rip);
		return;
	}
	print_pair("vector", native->vector, guest->vector);
	print_pair("error", native->error, guest->error);
	print_pair("cr2", native->cr2, guest->cr2);
	print_pair("rip", native->state.rip, guest->state.rip);
	print_pair("rflags", native->state.rflags & flags_mask(t, native), guest->state.rflags & flags_mask(t, native));
	for (unsigned i = 0; i < GPR_COUNT; i++)
		print_pair(gpr_names[i], native->state.gpr[i], guest->state.gpr[i]);
	for (unsigned i = 0; i < COUNT_OF(parts); i++) {
		const struct part *p = &parts[i];
		if (!part_differs(p, native, guest))
			continue;
		printf("#   %-7s native ", p->name);
		hex(native->state.xsave + p->offset, p->len);
		printf(", engine ");
		hex(guest->state.xsave + p->offset, p->len);
		printf("\n");
	}
	print_memory(native, guest);
	if (t->smc && memcmp(native->code, guest->code, t->code_len)) {
		printf("#   code: native ");
		hex(native->code, t->code_len);
		printf("\n#         engine ");
		hex(guest->code, t->code_len);
		printf("\n");
	}
}
