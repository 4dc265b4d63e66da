/* See rig.h. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include "kvm/api.h"
#include "rig.h"

static int passed, failed;

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
	       (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

uint64_t call_gate(uint16_t selector, uint32_t offset, unsigned access, unsigned count)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)count << 32 | (uint64_t)access << 40 |
	       (uint64_t)(offset >> 16) << 48;
}

uint64_t rig_peek(struct rig *rig, uint64_t at, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, rig->g.memory + at, size);
	return value;
}

void rig_poke(struct rig *rig, uint64_t at, unsigned size, uint64_t value)
{
	memcpy(rig->g.memory + at, &value, size);
}

static bool is_long(const struct rig *rig) { return rig->mode >= LONG; }
static bool is_user(const struct rig *rig)
{
	return rig->mode == PROT3 || rig->mode == VM86 || rig->mode == LONG3 || rig->mode == COMPAT3;
}

void rig_gate(struct rig *rig, unsigned vector, uint16_t selector, unsigned access, unsigned ist)
{
	uint64_t offset = RIG_HANDLERS + 16 * vector, size = is_long(rig) ? 16 : 8;

	if (rig->mode == REAL) {
		rig_poke(rig, 4 * vector, 4, offset);
		return;
	}
	rig_poke(rig, RIG_IDT + size * vector, 8, call_gate(selector, offset, access, ist));
	if (size == 16)
		rig_poke(rig, RIG_IDT + size * vector + 8, 8, 0);
}

uint64_t *rig_small_pages(struct rig *rig)
{
	const uint64_t directory = RIG_PAGE_TABLE - 0x1000;

	rig_poke(rig, GUEST_PAGES + 0x1000 + 8, 8, directory | 3);
	rig_poke(rig, directory, 8, RIG_PAGE_TABLE | 3);
	return (uint64_t *)(rig->g.memory + RIG_PAGE_TABLE);
}

static void gdt_fill(struct rig *rig)
{
	rig->gdt = (uint64_t *)(rig->g.memory + RIG_GDT);
	rig->gdt[CODE32 / 8] = 0x00cf9b000000ffff;
	rig->gdt[DATA32 / 8] = 0x00cf93000000ffff;
	rig->gdt[CODE64 / 8] = 0x00af9b000000ffff;
	rig->gdt[USER32 / 8] = 0x00cffb000000ffff;
	rig->gdt[USERDATA / 8] = 0x00cff3000000ffff;
	rig->gdt[USER64 / 8] = 0x00affb000000ffff;
	rig->gdt[CODE16 / 8] = 0x00009b000000ffff;
	rig->gdt[TSS / 8] = descriptor(RIG_TSS, 0x3ff, 0x8b, 0);
	rig->gdt[TSS2 / 8] = descriptor(RIG_TSS2, 0x67, 0x89, 0);
	rig->gdt[LDT / 8] = descriptor(RIG_LDT, 0x3f, 0x82, 0);
	rig->gdt[DATA16 / 8] = 0x000093000000ffff;
}

static void tss_fill(struct rig *rig)
{
	if (is_long(rig)) {
		rig_poke(rig, RIG_TSS + 4, 8, RIG_STACK0);
		rig_poke(rig, RIG_TSS + 36, 8, RIG_IST1);
	} else {
		rig_poke(rig, RIG_TSS + 4, 4, RIG_STACK0);
		rig_poke(rig, RIG_TSS + 8, 2, DATA32);
	}
	rig_poke(rig, RIG_TSS + 102, 2, 0x400);          /* no I/O bitmap */
}

static struct kvm_segment flat(uint16_t selector, unsigned type, unsigned flags)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1,
		.dpl = selector & 3,
	                             .g = 1, .db = flags >> 2 & 1, .l = flags >> 1 & 1 };
}

static struct kvm_segment real(uint16_t selector, unsigned type, unsigned dpl)
{
	return (struct kvm_segment){ .base = selector * 16, .limit = 0xffff, .selector = selector, .type = type, .present = 1,
		.s = 1,
	                             .dpl = dpl };
}

static void segments_fill(struct rig *rig)
{
	struct kvm_sregs *s = &rig->s;
	struct kvm_segment data = is_user(rig) ? flat(USERDATA | 3, 3, 4) : flat(DATA32, 3, 4);

	if (rig->mode == REAL || rig->mode == VM86) {
		data = real(0, 3, rig->mode == VM86 ? 3 : 0);
		s->cs = real(0x800, rig->mode == VM86 ? 3 : 11, data.dpl);
	} else if (rig->mode == PROT16) {
		s->cs = flat(CODE16, 11, 0);
		s->cs.g = 0;
		s->cs.limit = 0xffff;
	} else if (rig->mode == LONG || rig->mode == LONG3) {
		s->cs = flat(is_user(rig) ? USER64 | 3 : CODE64, 11, 2);
	} else {
		s->cs = flat(is_user(rig) ? USER32 | 3 : CODE32, 11, 4);
	}
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){ .base = RIG_TSS, .limit = 0x3ff, .selector = TSS, .type = 11, .present = 1 };
	s->ldt = (struct kvm_segment){ .unusable = 1 };
	s->gdt = (struct kvm_dtable){ .base = RIG_GDT, .limit = RIG_GDT_ENTRIES * 8 - 1 };
	s->idt = (struct kvm_dtable){ .base = RIG_IDT, .limit = 0xfff };
	if (rig->mode == REAL)
		s->idt = (struct kvm_dtable){ .base = 0, .limit = 0x3ff };
}

void rig_start(struct rig *rig, enum rig_mode mode)
{
	bool flat_code = mode != REAL && mode != VM86;

	alarm(300);
	memset(rig, 0, sizeof(*rig));
	rig->mode = mode;
	guest_create(&rig->g, false);
	guest_mode(&rig->g, 0, is_long(rig) ? GUEST_LONG : mode == REAL ? GUEST_REAL : GUEST_PROTECTED);
	guest_ioctl(rig->g.vcpu[0], KVM_GET_SREGS, &rig->s);
	segments_fill(rig);
	gdt_fill(rig);
	tss_fill(rig);
	for (unsigned v = 0; v < 256; v++) {
		rig_gate(rig, v, is_long(rig) ? CODE64 : CODE32, 0x8e, 0);
		rig->g.memory[RIG_HANDLERS + 16 * v] = 0xf4;
	}
	rig->r = (struct kvm_regs){ .rip = flat_code ? RIG_CODE : 0, .rsp = RIG_STACK, .rflags = mode == VM86 ? 0x20002 : 2 };
}

/* ---- what came of it ---- */

static bool has_error_code(const struct rig *rig)
{
	return rig->mode != REAL && rig->vector < 32 && (0x227d00u >> rig->vector & 1);
}

static void read_frame(struct rig *rig)
{
	unsigned size = rig->mode == REAL || rig->gate16 ? 2 : is_long(rig) ? 8 : 4, n = has_error_code(rig);
	uint64_t at = rig->r2.rsp + rig->s2.ss.base;

#define ITEM(i) rig_peek(rig, at + ((i) + n) * size, size)
	if (at + 64 > GUEST_MEMORY)
		return;
	rig->error = n ? rig_peek(rig, at, size) : 0;
	rig->rip = ITEM(0);
	rig->cs = ITEM(1) & 0xffff;
	rig->rflags = ITEM(2);
	rig->rsp = ITEM(3);
	rig->ss = ITEM(4) & 0xffff;
#undef ITEM
}

/* #GP(0) of a HLT outside ring 0? */
static bool ends_user_code(const struct rig *rig)
{
	bool vm86 = rig->mode == VM86 && (rig->rflags & 0x20000);
	uint64_t at = rig->rip + (vm86 ? rig->cs * 16 : 0);

	return (vm86 || (rig->cs & 3)) && at < GUEST_MEMORY && rig->g.memory[at] == 0xf4;
}

/* A handler in conforming code has kept the user's privilege and stack: look at the frame below. */
static int outcome_of_user_handler(struct rig *rig)
{
	rig->vector = (rig->rip - RIG_HANDLERS) / 16;
	rig->r2.rsp = rig->rsp;
	rig->r2.rflags = rig->rflags;
	rig->s2.cs.selector = rig->cs;
	read_frame(rig);
	return rig->vector;
}

/* At a HLT: a handler's, or the code's own. */
static int outcome_of_hlt(struct rig *rig)
{
	uint64_t at = rig->s2.cs.base + rig->r2.rip - 1;

	if (at < RIG_HANDLERS || at >= RIG_HANDLERS + 0x1000)
		return DONE;
	rig->vector = (at - RIG_HANDLERS) / 16;
	read_frame(rig);
	if (rig->vector == GP && rig->error == 0 && ends_user_code(rig))
		return rig->rip >= RIG_HANDLERS && rig->rip < RIG_HANDLERS + 0x1000 ? outcome_of_user_handler(rig) : DONE;
	return rig->vector;
}

int rig_resume(struct rig *rig)
{
	int why, outcome = 0;

	do {
		why = guest_run(&rig->g, 0);
		rig->exits += why != KVM_EXIT_HLT;
		outcome = why != KVM_EXIT_HLT && rig->exit ? rig->exit(rig, rig->g.run[0]) : EXIT + why;
	} while (!outcome);
	rig->r2 = guest_regs(&rig->g, 0);
	guest_ioctl(rig->g.vcpu[0], KVM_GET_SREGS, &rig->s2);
	rig->vector = outcome;
	if (outcome == EXIT + KVM_EXIT_HLT)
		rig->vector = outcome_of_hlt(rig);
	/* A handler that a case has given an OUT, because it must not fault. */
	if (outcome == EXIT + KVM_EXIT_IO && rig->r2.rip >= RIG_HANDLERS && rig->r2.rip < RIG_HANDLERS + 0x1000) {
		rig->vector = (rig->r2.rip - RIG_HANDLERS) / 16;
		read_frame(rig);
	}
	return rig->vector;
}

int rig_run(struct rig *rig, struct code code)
{
	guest_load_bytes(&rig->g, RIG_CODE, code.start, code.end - code.start);
	rig->g.memory[RIG_CODE + (code.end - code.start)] = 0xf4;
	rig->mark = code.mark > code.start ? rig->r.rip + (code.mark - code.start) : 0;
	guest_ioctl(rig->g.vcpu[0], KVM_SET_SREGS, &rig->s);
	guest_set_regs(&rig->g, 0, &rig->r);
	return rig_resume(rig);
}

void rig_end(struct rig *rig)
{
	guest_destroy(&rig->g);
}

/* ---- verdicts ---- */

static void verdict(bool good)
{
	passed += good;
	failed += !good;
}

static const char *outcome_name(int outcome, char *buffer)
{
	static const char *const names[22] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS",
		"#NP", "#SS",
	                                       "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP" };

	if (outcome >= 0 && outcome < 22)
		return names[outcome];
	if (outcome == DONE)
		return "done";
	sprintf(buffer, outcome >= EXIT ? "exit %d" : "%d", outcome >= EXIT ? outcome - EXIT : outcome);
	return buffer;
}

void expect_outcome(struct rig *rig, const char *name, int vector, int64_t error)
{
	bool good = rig->vector == vector && (error == ANY || rig->error == error);
	bool where = vector == DONE || vector >= EXIT || !rig->mark || rig->rip == rig->mark;
	char a[16], b[16];

	if (getenv("RIG_NAMES"))
		fprintf(stderr, "%s\n", name);
	verdict(good && where);
	if (good && where)
		return;
	printf("not ok: %s (mode %d): %s(%#x) at %#llx, not %s(%#llx) at %#llx; rip %#llx\n", name, rig->mode,
	       outcome_name(rig->vector, a), rig->error, (unsigned long long)rig->rip, outcome_name(vector, b),
	       (unsigned long long)error, (unsigned long long)rig->mark, (unsigned long long)rig->r2.rip);
}

void expect_value(const char *name, const char *what, uint64_t got, uint64_t want)
{
	verdict(got == want);
	if (got != want)
		printf("not ok: %s: %s is %#llx, not %#llx\n", name, what, (unsigned long long)got, (unsigned long long)want);
}

int rig_summary(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	return !!failed;
}
