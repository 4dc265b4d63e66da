/*
 * The page walker and the TLB. Page tables are built in a small guest memory;
 * each access is compared with what the manual says, for permissions by an
 * oracle of its own over all combinations. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "cpu/rules.h"
#include "../tap.h"
#include "x86/features.h"
#include "x86/vmx.h"

#define RAM_SIZE (32ull << 20)
#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)
#define EPT_R 1ull
#define EPT_W 2ull
#define EPT_X 4ull
#define EPT_WB (6ull << 3)
#define EPT_AD_ENABLE 0x40ull
#define LIN 0x7f1234567000ull            /* the linear page of most tests */
#define PAGE 0x123000ull                 /* the page it leads to */

static struct cpu *cpu;
static struct control_block ctl;
static uint8_t *ram;

enum kind { OK, FAULT, EXIT };
struct result { enum kind kind; uint32_t code; uint64_t gpa, qual; };

/* ---- the machine ---- */

static bool mmio_none(struct cpu *c, uint64_t gpa, void *data, unsigned len) { return false; }
static bool mmio_none_write(struct cpu *c, uint64_t gpa, const void *data, unsigned len) { return false; }
static void code_changed(struct cpu *c, const uint8_t *host, unsigned len) { }
static const struct cpu_ops ops = { .mmio_read = mmio_none, .mmio_write = mmio_none_write, .code_changed = code_changed };

static uint64_t *q(uint64_t gpa) { return (uint64_t *)(ram + gpa); }
static uint32_t *l(uint64_t gpa) { return (uint32_t *)(ram + gpa); }

/* Tables of the long-mode tests lie at fixed places. */
enum { PML4 = 0x10000, PDPT = 0x11000, PD = 0x12000, PT = 0x13000,
       EPML4 = 0x20000, EPDPT = 0x21000, EPD = 0x22000, EPT0 = 0x23000 };

static unsigned index_of(uint64_t addr, unsigned shift) { return addr >> shift & 511; }
static uint64_t *entry_of(int level)         /* 4: PML4E ... 1: PTE, on the way to LIN */
{
	static const uint64_t table[] = { 0, PT, PD, PDPT, PML4 };

	return q(table[level]) + index_of(LIN, 3 + 9 * level);
}

static void refresh(void)
{
	cpu_mode_update(cpu);
	tlb_flush_all(cpu);
}

static void machine_long(void)
{
	memset(&ctl, 0, sizeof(ctl));
	ctl.apic_access_gpa = ctl.vapic_gpa = ~0ull;
	memset(ram, 0, 0x100000);
	cpu->ctl = &ctl;
	cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	cpu->cr4 = CR4_PAE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NX;
	cpu->cr3 = PML4;
	cpu->cpl = 0;
	cpu->rflags = 2;
	*entry_of(4) = PDPT | P | W | U;
	*entry_of(3) = PD | P | W | U;
	*entry_of(2) = PT | P | W | U;
	*entry_of(1) = PAGE | P | W | U;
	refresh();
}

static struct result translate(uint64_t addr, unsigned access)
{
	volatile struct result r = { .kind = FAULT };

	cpu->event = (struct event){ 0 };
	cpu->vmexit = (struct vmexit){ 0 };
	if (__builtin_setjmp(cpu->unwind)) {
		if (cpu->vmexit.reason)
			return (struct result){ EXIT, cpu->vmexit.reason, cpu->vmexit.gpa, cpu->vmexit.qualification };
		return (struct result){ FAULT, cpu->event.error, cpu->event.payload, 0 };
	}
	struct translation t = tlb_translate(cpu, addr, access);

	r.kind = OK;
	r.gpa = t.gpa;
	return r;
}

static void expect_ok(int line, struct result r, uint64_t gpa)
{
	check_failed(!(r.kind == OK && r.gpa == gpa), __FILE__, line, "kind %d code %#x gpa %#lx, wanted gpa %#lx", r.kind, r.code, r.gpa, gpa);
}

static void expect_fault(int line, struct result r, uint64_t addr, uint32_t error)
{
	check_failed(!(r.kind == FAULT && r.code == error && r.gpa == addr), __FILE__, line, "kind %d code %#x at %#lx, wanted #PF %#x at %#lx",
	      r.kind, r.code, r.gpa, error, addr);
}

#define EXPECT_OK(addr, access, gpa) expect_ok(__LINE__, translate(addr, access), gpa)
#define EXPECT_FAULT(addr, access, error) expect_fault(__LINE__, translate(addr, access), addr, error)

/* ---- permissions: every combination against an oracle ---- */

struct setting { bool user, wp, smep, smap, ac, nxe, p, w, u, nx; unsigned access; };

/* The error code that must come, or -1 for none. Written from the rules' text, not from the walker. */
static int oracle(const struct setting *s)
{
	bool write = s->access & ACCESS_WRITE, fetch = s->access & ACCESS_EXEC, implicit = s->access & ACCESS_SUPER;
	bool user = s->user && !implicit, allowed;
	int code = (write ? PF_W : 0) | (user ? PF_U : 0) | (fetch && (s->nxe || s->smep) ? PF_I : 0);

	if (!s->p)
		return code;
	if (s->nx && !s->nxe)
		return code | PF_P | PF_RSVD;
	if (fetch)
		allowed = !s->nx && (user ? s->u : !(s->u && s->smep));
	else if (user)
		allowed = s->u && (!write || s->w);
	else if (s->u && s->smap && (implicit || !s->ac))
		allowed = false;
	else
		allowed = !write || s->w || !s->wp;
	return allowed ? -1 : code | PF_P;
}

static void apply(const struct setting *s, int level)
{
	uint64_t *e = entry_of(level);

	cpu->cpl = s->user ? 3 : 0;
	cpu->cr0 = (cpu->cr0 & ~CR0_WP) | (s->wp ? CR0_WP : 0);
	cpu->cr4 = CR4_PAE | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0);
	cpu->efer = EFER_LME | EFER_LMA | (s->nxe ? EFER_NX : 0);
	cpu->rflags = 2 | (s->ac ? RFLAGS_AC : 0);
	*e = (*e & 0xffffffffff000ull) | (s->p ? P : 0) | (s->w ? W : 0) | (s->u ? U : 0) | (s->nx ? NX : 0);
	refresh();
}

static void test_permissions(void)
{
	static const unsigned kinds[] = { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC, ACCESS_READ | ACCESS_SUPER,
	                                  ACCESS_WRITE | ACCESS_SUPER };

	for (int level = 1; level <= 4; level++) {
		machine_long();
		for (unsigned n = 0; n < 5 * 1024; n++) {
			struct setting s = { n & 1, n & 2, n & 4, n & 8, n & 16, n & 32, n & 64, n & 128, n & 256, n & 512, kinds[n / 1024] };
			int want = oracle(&s);
			struct result r;

			apply(&s, level);
			r = translate(LIN + 8, s.access);
			check_that(want < 0 ? r.kind == OK && r.gpa == PAGE + 8 : r.kind == FAULT && r.code == (uint32_t)want,
			      "level %d setting %#x access %#x: kind %d code %#x, wanted %d", level, n & 1023, s.access, r.kind, r.code, want);
			r = translate(LIN + 8, s.access);
			check_that(r.kind == (want < 0 ? OK : FAULT), "level %d setting %#x: not the same again", level, n & 1023);
		}
	}
}

/* ---- accessed and dirty flags ---- */

static void test_flags(void)
{
	machine_long();
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	for (int i = 1; i <= 4; i++)
		check_that((*entry_of(i) & (A | D)) == A, "level %d after a read: %#lx", i, *entry_of(i));
	EXPECT_OK(LIN, ACCESS_WRITE, PAGE);
	for (int i = 1; i <= 4; i++)
		check_that((*entry_of(i) & (A | D)) == (i == 1 ? A | D : A), "level %d after a write: %#lx", i, *entry_of(i));

	machine_long();
	*entry_of(1) &= ~W;
	EXPECT_FAULT(LIN, ACCESS_WRITE, PF_P | PF_W);
	check_that(!(*entry_of(1) & (A | D)), "a faulting write left flags: %#lx", *entry_of(1));

	machine_long();
	uint64_t gpa;
	bool writable, user;
	check_that(tlb_probe(cpu, LIN, &gpa, &writable, &user) && gpa == PAGE && writable && user, "probe");
	check_that(!(*entry_of(4) & A), "a probe left flags");
}

/* ---- reserved bits ---- */

static void sweep_long(int level, uint64_t base, uint64_t reserved)
{
	uint64_t *e = entry_of(level);

	for (unsigned bit = 12; bit < 64; bit++) {
		bool bad = reserved >> bit & 1;
		struct result r;

		*e = base | 1ull << bit;
		tlb_flush_all(cpu);
		r = translate(LIN, ACCESS_READ | ACCESS_SUPER);
		check_that(bad == (r.kind == FAULT && r.code == (PF_P | PF_RSVD)), "level %d entry %#lx: kind %d code %#x", level, *e, r.kind,
		      r.code);
	}
	*e = base;
}

static void test_reserved(void)
{
	const uint64_t high = (1ull << 52) - (1ull << 36);

	for (int nxe = 0; nxe < 2; nxe++) {
		uint64_t rsvd = high | (nxe ? 0 : NX);

		machine_long();
		cpu->efer = EFER_LME | EFER_LMA | (nxe ? EFER_NX : 0);
		refresh();
		sweep_long(1, PAGE | P | W | U, rsvd);
		sweep_long(2, P | W | U | PS, rsvd | 0x1fe000);
		*entry_of(2) = PT | P | W | U;
		sweep_long(3, P | W | U | PS, rsvd | 0x3fffe000);
	}
	machine_long();
	*entry_of(4) |= PS;
	refresh();
	EXPECT_FAULT(LIN, ACCESS_READ, PF_P | PF_RSVD);
	machine_long();
	cpu->features[FEATURE_PAGE1GB >> 6] &= ~(1ull << (FEATURE_PAGE1GB & 63));
	*entry_of(3) = P | W | PS;
	refresh();
	EXPECT_FAULT(LIN, ACCESS_READ, PF_P | PF_RSVD);
	cpu->features[FEATURE_PAGE1GB >> 6] |= 1ull << (FEATURE_PAGE1GB & 63);
}

/* ---- page sizes and modes ---- */

static void test_large(void)
{
	machine_long();
	*entry_of(2) = 0x400000 | P | W | PS | 1 << 12 /* PAT */;
	refresh();
	EXPECT_OK(LIN + 5, ACCESS_WRITE, 0x400000 | (LIN & 0x1fffff) | 5);
	check_that((*entry_of(2) & (A | D)) == (A | D), "2 MiB flags");
	machine_long();
	*entry_of(3) = P | W | PS;
	refresh();
	EXPECT_OK(LIN + 5, ACCESS_READ, (LIN & 0x3fffffff) | 5);
}

static void machine_32(void)
{
	machine_long();
	cpu->efer = 0;
	cpu->cr4 = 0;
	cpu->cr3 = 0x30000;
	refresh();
}

static void test_2level(void)
{
	const uint32_t addr = 0xc0345678;

	machine_32();
	l(0x30000)[addr >> 22] = 0x31000 | P | W | U;
	l(0x31000)[addr >> 12 & 1023] = PAGE | P | W;
	EXPECT_OK(addr, ACCESS_WRITE, PAGE | 0x678);
	check_that(l(0x31000)[addr >> 12 & 1023] == (PAGE | P | W | A | D), "flags of a PTE of 4 bytes");
	EXPECT_OK(addr | 1ull << 32, ACCESS_READ, PAGE | 0x678);
	EXPECT_FAULT(0x1000, ACCESS_EXEC, 0);
	cpu->cpl = 3;
	refresh();
	EXPECT_FAULT(addr, ACCESS_READ, PF_P | PF_U);
	machine_32();
	l(0x30000)[addr >> 22] = 0x00800000 | P | W | PS | 0x5 << 13;
	EXPECT_FAULT(addr, ACCESS_READ, 0);      /* without PSE the bit means nothing: an empty table at 0x80a000 */
}

static void test_pse36(void)
{
	const uint32_t addr = 0xc0345678;

	machine_32();
	cpu->cr4 = CR4_PSE;
	l(0x30000)[addr >> 22] = 0x00800000 | P | W | PS | 0x5 << 13;
	refresh();
	EXPECT_OK(addr, ACCESS_READ, 0x500800000ull | (addr & 0x3fffff));
	for (unsigned bit = 13; bit < 22; bit++) {
		bool bad = bit >= 17;
		struct result r;

		l(0x30000)[addr >> 22] = 0x00800000 | P | W | PS | 1u << bit;
		tlb_flush_all(cpu);
		r = translate(addr, ACCESS_READ);
		check_that(bad ? r.kind == FAULT && r.code == (PF_P | PF_RSVD) : r.kind == OK, "PSE-36 bit %u: kind %d", bit, r.kind);
	}
}

static void test_pae(void)
{
	const uint32_t addr = 0xc0345678;

	machine_32();
	cpu->cr4 = CR4_PAE;
	cpu->efer = EFER_NX;
	refresh();
	memset(cpu->pdptr, 0, sizeof(cpu->pdptr));
	EXPECT_FAULT(addr, ACCESS_READ, 0);
	cpu->pdptr[3] = 0x31000 | P;
	q(0x31000)[addr >> 21 & 511] = 0x32000 | P | W | U;
	q(0x32000)[addr >> 12 & 511] = PAGE | P | U | NX;
	EXPECT_OK(addr, ACCESS_READ, PAGE | 0x678);
	EXPECT_FAULT(addr, ACCESS_EXEC, PF_P | PF_I);
	EXPECT_FAULT(addr, ACCESS_WRITE, PF_P | PF_W);
	q(0x32000)[addr >> 12 & 511] = PAGE | P | U | 1ull << 52;
	tlb_flush_all(cpu);
	EXPECT_FAULT(addr, ACCESS_READ, PF_P | PF_RSVD);
	q(0x31000)[addr >> 21 & 511] = 0x600000 | P | PS;
	tlb_flush_all(cpu);
	EXPECT_OK(addr, ACCESS_READ, 0x600000 | (addr & 0x1fffff));
}

static void test_unpaged(void)
{
	machine_32();
	cpu->cr0 = CR0_PE;
	refresh();
	EXPECT_OK(0x345678, ACCESS_WRITE, 0x345678);
	EXPECT_OK(0x100345678ull, ACCESS_EXEC, 0x345678);
}

/* ---- EPT ---- */

/* L2's physical memory: 2 MiB pages 0 to 7 map to themselves; the first through 4 KiB entries at EPT0. */
static void machine_ept(uint64_t eptp_bits)
{
	machine_long();
	ctl.non_root = true;
	ctl.secondary = SECONDARY_EPT;
	ctl.eptp = EPML4 | 3 << 3 | 6 | eptp_bits;
	ctl.ept_caps = EPT_CAP_EXEC_ONLY | EPT_CAP_2M | EPT_CAP_1G;
	q(EPML4)[0] = EPDPT | 7;
	q(EPDPT)[0] = EPD | 7;
	q(EPD)[0] = EPT0 | 7;
	for (unsigned i = 1; i < 8; i++)
		q(EPD)[i] = i << 21 | 7 | EPT_WB | PS;
	for (unsigned i = 0; i < 512; i++)
		q(EPT0)[i] = i << 12 | 7 | EPT_WB;
	refresh();
}

static uint64_t *ept_of(uint64_t gpa) { return q(EPT0) + index_of(gpa, 12); }

static void expect_exit(int line, struct result r, uint32_t reason, uint64_t gpa, uint64_t qual)
{
	check_failed(!(r.kind == EXIT && r.code == reason && r.gpa == gpa && (reason == EXIT_EPT_MISCONFIG || (r.qual & 0xfff) == qual)), __FILE__, line,
	             "kind %d code %u gpa %#lx qualification %#lx, wanted %u %#lx %#lx", r.kind, r.code, r.gpa, r.qual, reason, gpa, qual);
}
#define EXPECT_VIOLATION(access, gpa, qual) expect_exit(__LINE__, translate(LIN + 4, access), EXIT_EPT_VIOLATION, gpa, qual)
#define EXPECT_MISCONFIG(gpa) expect_exit(__LINE__, translate(LIN + 4, ACCESS_READ), EXIT_EPT_MISCONFIG, gpa, 0)

static void test_ept_rights(void)
{
	static const unsigned accesses[] = { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

	machine_ept(0);
	for (unsigned rights = 0; rights < 8; rights++)
		for (unsigned i = 0; i < 3; i++) {
			*ept_of(PAGE) = PAGE | rights | EPT_WB;
			tlb_flush_all(cpu);
			if (rights && (rights & 3) == 2)
				EXPECT_MISCONFIG(PAGE + 4);
			else if (rights & accesses[i])
				EXPECT_OK(LIN + 4, accesses[i], PAGE + 4);
			else
				EXPECT_VIOLATION(accesses[i], PAGE + 4, accesses[i] | rights << 3 | 0x180);
		}
	/* Rights are those of all levels. */
	*ept_of(PAGE) = PAGE | 7 | EPT_WB;
	q(EPD)[0] = EPT0 | EPT_R | EPT_X;
	*entry_of(1) |= A | D;
	*entry_of(2) |= A;
	*entry_of(3) |= A;
	*entry_of(4) |= A;
	tlb_flush_all(cpu);
	EXPECT_VIOLATION(ACCESS_WRITE, PAGE + 4, ACCESS_WRITE | 5 << 3 | 0x180);
	EXPECT_OK(LIN + 4, ACCESS_READ, PAGE + 4);
}

static void test_ept_misconfig(void)
{
	for (unsigned type = 0; type < 8; type++) {
		machine_ept(0);
		*ept_of(PAGE) = PAGE | 7 | type << 3;
		refresh();
		if (type == 2 || type == 3 || type == 7)
			EXPECT_MISCONFIG(PAGE + 4);
		else
			EXPECT_OK(LIN + 4, ACCESS_READ, PAGE + 4);
	}
	for (unsigned bit = 36; bit < 64; bit++) {
		machine_ept(0);
		*ept_of(PAGE) |= 1ull << bit;
		refresh();
		if (bit < 52)
			EXPECT_MISCONFIG(PAGE + 4);
		else
			EXPECT_OK(LIN + 4, ACCESS_READ, PAGE + 4);
	}
	for (unsigned bit = 3; bit < 8; bit++) {
		machine_ept(0);
		q(EPML4)[0] |= 1ull << bit;
		refresh();
		EXPECT_MISCONFIG(PML4 + 8 * index_of(LIN, 39));
	}
	machine_ept(0);
	q(EPD)[0] = 7 | EPT_WB | PS | 1 << 12;
	refresh();
	EXPECT_MISCONFIG(PML4 + 8 * index_of(LIN, 39));
}

/* Accesses to the guest's own paging structures. */
static void test_ept_structures(void)
{
	uint64_t pte = PT + 8 * index_of(LIN, 12);

	machine_ept(0);
	*ept_of(PT) = 0;
	refresh();
	EXPECT_VIOLATION(ACCESS_WRITE, pte, EPT_R | 0x80);
	/* Read-only structures: fine until a flag must be set. */
	*ept_of(PT) = PT | EPT_R | EPT_WB;
	EXPECT_VIOLATION(ACCESS_READ, pte, EPT_R | EPT_W | EPT_R << 3 | 0x80);
	*entry_of(1) |= A;
	EXPECT_OK(LIN + 4, ACCESS_READ, PAGE + 4);
	EXPECT_VIOLATION(ACCESS_WRITE, pte, EPT_R | EPT_W | EPT_R << 3 | 0x80);
	*entry_of(1) |= D;
	EXPECT_OK(LIN + 4, ACCESS_WRITE, PAGE + 4);

	/* With EPT's own flags every access to them is a write. */
	machine_ept(EPT_AD_ENABLE);
	*entry_of(1) |= A | D;
	*ept_of(PT) = PT | EPT_R | EPT_WB;
	refresh();
	EXPECT_VIOLATION(ACCESS_READ, pte, EPT_R | EPT_W | EPT_R << 3 | 0x80);
}

static void test_ept_flags(void)
{
	machine_ept(EPT_AD_ENABLE);
	EXPECT_OK(LIN + 4, ACCESS_READ, PAGE + 4);
	check_that((*ept_of(PAGE) & 0x300) == 0x100, "target after a read: %#lx", *ept_of(PAGE));
	check_that((*ept_of(PT) & 0x300) == 0x300, "structure after a read: %#lx", *ept_of(PT));
	check_that((q(EPD)[0] & 0x300) == 0x100, "table entry: %#lx", q(EPD)[0]);
	EXPECT_OK(LIN + 4, ACCESS_WRITE, PAGE + 4);
	check_that((*ept_of(PAGE) & 0x300) == 0x300, "target after a write: %#lx", *ept_of(PAGE));
	machine_ept(0);
	EXPECT_OK(LIN + 4, ACCESS_WRITE, PAGE + 4);
	check_that(!(*ept_of(PAGE) & 0x300), "flags without the control: %#lx", *ept_of(PAGE));
}

static void test_ept_remap(void)
{
	uint64_t entry;

	machine_ept(0);
	*ept_of(PAGE) = 0x456000 | 7 | EPT_WB;
	refresh();
	EXPECT_OK(LIN + 4, ACCESS_READ, 0x456004);
	q(EPT0)[5] = 0x77000 | 7 | EPT_WB;
	*q(0x77018) = 0x1122334455667788;
	tlb_read_gpa(cpu, 0x5018, &entry, 8);
	check_that(entry == 0x1122334455667788, "guest-physical read through EPT: %#lx", entry);
	cpu->cr0 &= ~CR0_PG;
	cpu->efer = 0;
	refresh();
	EXPECT_OK(PAGE + 4, ACCESS_READ, 0x456004);
}

/* ---- the TLB ---- */

static const struct tlb_entry *entry_at(uint64_t addr)
{
	return (const void *)((const uint8_t *)cpu->tlb + ((addr >> 12) * 32 & cpu->tlb_mask));
}
static bool readable(uint64_t addr) { return entry_at(addr)->read_tag == (addr & ~4095ull); }
static bool writable(uint64_t addr) { return entry_at(addr)->write_tag == (addr & ~4095ull); }
static bool executable(uint64_t addr) { return entry_at(addr)->exec_tag == (addr & ~4095ull); }

static void test_tlb_entries(void)
{
	const struct mem_slot *slot = mem_slot_find(cpu->mem, PAGE);

	machine_long();
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	check_that(readable(LIN) && !writable(LIN) && !executable(LIN), "clean page");
	EXPECT_OK(LIN, ACCESS_WRITE, PAGE);
	check_that(readable(LIN) && writable(LIN) && !executable(LIN), "dirty page");
	EXPECT_OK(LIN, ACCESS_EXEC, PAGE);
	check_that(readable(LIN) && writable(LIN) && executable(LIN), "fetched page");
	check_that(entry_at(LIN)->host == (uint64_t)ram + PAGE, "host address");
	tlb_drop_write(cpu, ram + PAGE);
	check_that(readable(LIN) && !writable(LIN) && executable(LIN), "write permission dropped");
	mem_slot_code(slot, PAGE)->granules = 1;
	EXPECT_OK(LIN, ACCESS_WRITE, PAGE);
	check_that(readable(LIN) && !writable(LIN) && executable(LIN), "page with code");
	mem_slot_code(slot, PAGE)->granules = 0;
	/* An access of other rights than the context's leaves no entry. */
	machine_long();
	cpu->cpl = 3;
	*entry_of(1) &= ~U;
	refresh();
	EXPECT_OK(LIN, ACCESS_READ | ACCESS_SUPER, PAGE);
	check_that(!readable(LIN), "supervisor access in a user context");
	/* No slot, no entry. */
	machine_long();
	*entry_of(1) = 0x80000000 | P | W;
	refresh();
	EXPECT_OK(LIN + 4, ACCESS_READ, 0x80000004);
	check_that(!readable(LIN), "MMIO");
}

static void test_tlb_flush(void)
{
	machine_long();
	cpu->cr4 |= CR4_PGE;
	*entry_of(1) |= G;
	*(entry_of(1) + 1) = (PAGE + 4096) | P | W;
	refresh();
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	EXPECT_OK(LIN + 4096, ACCESS_READ, PAGE + 4096);
	tlb_flush_pcid(cpu, 0, false);
	check_that(readable(LIN) && !readable(LIN + 4096), "global entries survive a CR3 load");
	tlb_flush_addr(cpu, LIN);
	check_that(!readable(LIN), "INVLPG takes global entries");
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	tlb_flush_vpid(cpu, 0, true);
	check_that(!readable(LIN), "global flush");
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	tlb_flush_eptp(cpu, 0);
	check_that(readable(LIN), "INVEPT leaves others alone");
}

/* An INVLPG anywhere in a large page drops all of its fragments, and only them. */
static void test_tlb_large(void)
{
	const uint64_t base = LIN & ~0x1fffffull;

	machine_long();
	*entry_of(2) = 0x400000 | P | W | PS;
	*(entry_of(2) + 1) = 0x600000 | P | W | PS;
	refresh();
	for (unsigned i = 0; i < 1024; i++)
		translate(base + i * 4096, ACCESS_READ);
	tlb_flush_addr(cpu, base + 17 * 4096);
	for (unsigned i = 0; i < 1024; i++)
		check_that(readable(base + i * 4096) == (i >= 512), "fragment %u after INVLPG", i);
	/* More fragments than are listed: a full flush finds them all. */
	tlb_flush_all(cpu);
	for (unsigned i = 0; i < 1024; i++)
		check_that(!readable(base + i * 4096), "fragment %u after a flush", i);
}

static void test_tlb_contexts(void)
{
	struct tlb_entry *first;

	machine_long();
	cpu->cr4 |= CR4_PCIDE;
	refresh();
	first = cpu->tlb;
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	for (unsigned pcid = 1; pcid < 8; pcid++) {
		cpu->cr3 = PML4 | pcid;
		cpu_mode_update(cpu);
		check_that(cpu->tlb != first && !readable(LIN), "PCID %u has its own entries", pcid);
	}
	cpu->cr3 = PML4;
	cpu_mode_update(cpu);
	check_that(cpu->tlb == first && readable(LIN), "back in the first");
	ctl.vpid = 5;
	cpu_mode_update(cpu);
	check_that(!readable(LIN), "a VPID has its own entries");
	/* More contexts than there are: old ones are recycled empty. */
	for (unsigned pcid = 1; pcid < 100; pcid++) {
		cpu->cr3 = PML4 | pcid;
		cpu_mode_update(cpu);
		check_that(!readable(LIN), "recycled context %u", pcid);
		translate(LIN, ACCESS_READ);
	}
	ctl.vpid = 0;
	cpu->cpl = 3;
	cpu->cr3 = PML4;
	cpu_mode_update(cpu);
	check_that(!readable(LIN), "user mode has its own entries");
}

/* Each context has to forget for itself, and nothing but the right to fetch. */
static void test_forget_code(void)
{
	machine_32();
	cpu->cr0 = CR0_PE;
	ctl.vpid = 1;
	refresh();
	EXPECT_OK(PAGE, ACCESS_EXEC, PAGE);
	ctl.vpid = 2;
	cpu_mode_update(cpu);
	EXPECT_OK(PAGE, ACCESS_EXEC, PAGE);
	mem_epoch_next(cpu->mem);
	check_that(!tlb_code_forgotten(cpu) && executable(PAGE), "the client may have written");
	tlb_forget_code(cpu);
	check_that(tlb_code_forgotten(cpu) && !executable(PAGE) && readable(PAGE), "only code is forgotten");
	ctl.vpid = 1;
	cpu_mode_update(cpu);
	check_that(!tlb_code_forgotten(cpu) && executable(PAGE), "another context has it still");
	tlb_forget_code(cpu);
	check_that(tlb_code_forgotten(cpu) && !executable(PAGE), "until it forgets");
}

static void test_dirty_log(void)
{
	uint64_t bitmap[RAM_SIZE / 4096 / 64];

	mem_read_unlock(cpu->mem);
	machine_long();
	mem_write_lock(cpu->mem);
	mem_slot_set(cpu->mem, 0, MEM_SLOT_LOG_DIRTY, 0, RAM_SIZE, ram);
	mem_write_unlock(cpu->mem);
	*entry_of(1) |= D;
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	check_that(readable(LIN) && !writable(LIN), "a logged page is not yet writable");
	EXPECT_OK(LIN, ACCESS_WRITE, PAGE);
	check_that(writable(LIN), "it is once it is logged");
	check_that(mem_dirty_get(cpu->mem, 0, bitmap, true) == 0, "log");
	check_that(bitmap[PAGE >> 18] >> (PAGE >> 12 & 63) & 1, "the page is in the log");
	check_that(bitmap[PT >> 18] >> (PT >> 12 & 63) & 1, "so is the page table whose flags were set");
	tlb_drop_all_writes(cpu);
	check_that(readable(LIN) && !writable(LIN), "writes must be logged again");
	EXPECT_OK(LIN, ACCESS_READ, PAGE);
	check_that(!writable(LIN), "a read does not log");
	mem_read_lock(cpu->mem);
}

static const struct test tests[] = {
	{ "permissions", test_permissions },
	{ "flags", test_flags },
	{ "reserved", test_reserved },
	{ "large", test_large },
	{ "2level", test_2level },
	{ "pse36", test_pse36 },
	{ "pae", test_pae },
	{ "unpaged", test_unpaged },
	{ "ept rights", test_ept_rights },
	{ "ept misconfig", test_ept_misconfig },
	{ "ept structures", test_ept_structures },
	{ "ept flags", test_ept_flags },
	{ "ept remap", test_ept_remap },
	{ "tlb entries", test_tlb_entries },
	{ "tlb flush", test_tlb_flush },
	{ "tlb large", test_tlb_large },
	{ "tlb contexts", test_tlb_contexts },
	{ "code forgotten", test_forget_code },
	{ "dirty log", test_dirty_log },
};

int main(void)
{
	struct mem *mem = mem_new();

	params_init();
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mem_write_lock(mem);
	mem_slot_set(mem, 0, 0, 0, RAM_SIZE, ram);
	mem_write_unlock(mem);
	cpu = cpu_new(mem, &ops, NULL, 0);
	cpu->features[FEATURE_PAGE1GB >> 6] |= 1ull << (FEATURE_PAGE1GB & 63);
	mem_read_lock(mem);
	return run_tests(tests, ARRAY_SIZE(tests));
}
