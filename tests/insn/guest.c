/*
 * The engine's side: a 64-bit guest at CPL 3, made once. A test is entered by
 * an IRETQ at CPL 0 and ends with an exception, whose stub pushes the vector
 * and halts; the exception's frame holds the rest.
 *
 * The data area's pages are scattered over guest-physical memory, so that what
 * is contiguous in linear addresses is not in physical ones.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "insn.h"
#include "kvm/api.h"

/* System memory: at 0 in guest-physical, at KERNEL in linear addresses. */
enum { SYSTEM_BYTES = 1 << 20, PML4 = 0x1000, PDPT_LOW = 0x2000, PD_LOW = 0x3000, PT_DATA = 0x4000, PDPT_HIGH = 0x5000, PD_HIGH = 0x6000,
       PT_KERNEL = 0x7000, PD_FRAME = 0x8000, GDT = 0x10000, IDT = 0x11000, TSS = 0x12000, LDT = 0x13000, STUBS = 0x14000, STUB_BYTES = 16, IRET_STUB = 0x15000,
       STACK_TOP = 0x19000, IRET_FRAME = 0x9000, DATA_GPA = 0x200000, CODE_GPA = 0x10000000 };
#define KERNEL 0xffffffff80000000ull
#define MMIO_GPA 0xd0000000ull
/* IRET to a 16-bit stack keeps bits 16 to 31 of RSP: system memory once more, where they are those of the data area. */
#define FRAME_16BIT (0xffffffff00000000ull | DATA_BASE)
enum { SEL_KCODE = 0x08, SEL_KDATA = 0x10, SEL_TSS = 0x40, SEL_LDT = 0x50 };
enum { P = 1, W = 2, U = 4, LARGE = 0x80 };

static int vm_fd, vcpu_fd;
static struct kvm_run *run;
static uint8_t *system_memory, *data_memory;
static uint8_t mmio_page[PAGE];
static bool in_guest;

static uint64_t *entry(unsigned table, unsigned n) { return (uint64_t *)(system_memory + table) + n; }

/* Where in data_memory page n of the data area lies. */
static unsigned scatter(unsigned n) { return n * 5 % DATA_PAGES; }
static uint8_t *data_page(unsigned n) { return page_kinds[n] == PAGE_MMIO ? mmio_page : data_memory + scatter(n) * PAGE; }

static void make_page_tables(void)
{
	*entry(PML4, 0) = PDPT_LOW | P | W | U;
	*entry(PDPT_LOW, 0) = PD_LOW | P | W | U;
	*entry(PD_LOW, DATA_BASE >> 21) = PT_DATA | P | W | U;
	for (unsigned i = 0; i < DATA_PAGES; i++) {
		uint64_t gpa = page_kinds[i] == PAGE_MMIO ? MMIO_GPA : DATA_GPA + scatter(i) * PAGE;
		if (page_kinds[i] != PAGE_NONE)
			*entry(PT_DATA, i) = gpa | P | U | (page_kinds[i] == PAGE_RO ? 0 : W) | 1ull << 63;
	}
	for (uint64_t i = 0; i < CODE_BYTES >> 21; i++)
		*entry(PD_LOW, (CODE_BASE >> 21) + i) = (CODE_GPA + (i << 21)) | P | U | LARGE | (CODE_BASE + (i << 21) >= SMC_BASE ? W : 0);
	*entry(PML4, 511) = PDPT_HIGH | P | W;
	*entry(PDPT_HIGH, 510) = PD_HIGH | P | W;
	*entry(PD_HIGH, 0) = PT_KERNEL | P | W;
	*entry(PDPT_HIGH, 508) = PD_FRAME | P | W;
	*entry(PD_FRAME, FRAME_16BIT >> 21 & 511) = P | W | LARGE;
	for (unsigned i = 0; i < SYSTEM_BYTES / PAGE; i++)
		*entry(PT_KERNEL, i) = i * PAGE | P | W;
}

static void put_gate(unsigned vector)
{
	uint64_t to = KERNEL + STUBS + vector * STUB_BYTES;
	unsigned dpl = vector == 3 || vector == 4 ? 3 : 0;
	*entry(IDT, 2 * vector) = (to & 0xffff) | SEL_KCODE << 16 | (0x8e00ull | dpl << 13) << 32 | (to >> 16 & 0xffff) << 48;
	*entry(IDT, 2 * vector + 1) = to >> 32;
}

static void put_stub(unsigned vector)
{
	uint8_t *p = system_memory + STUBS + vector * STUB_BYTES;
	if (!(0x60227d00u >> vector & 1)) {              /* no error code: push one */
		*p++ = 0x6a;
		*p++ = 0;
	}
	*p++ = 0x6a;
	*p++ = vector;
	*p++ = 0xf4;
}

static uint64_t descriptor16(uint64_t base, unsigned type)
{
	return 0xffff | (base & 0xffffff) << 16 | (uint64_t)type << 40 | (base >> 24 & 0xff) << 56;
}

static void make_system(void)
{
	*entry(GDT, 1) = 0x00af9b000000ffff;
	*entry(GDT, 2) = 0x00cf93000000ffff;
	*entry(LDT, SEL_DATA16 >> 3) = descriptor16(DATA_BASE, 0xf3);
	*entry(GDT, 4) = 0x00cffb000000ffff;
	*entry(GDT, 5) = 0x00cff3000000ffff;
	*entry(GDT, 6) = 0x00affb000000ffff;
	uint64_t tss = KERNEL + TSS, rsp0 = KERNEL + STACK_TOP;
	*entry(GDT, 8) = 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56;
	*entry(GDT, 9) = tss >> 32;
	memcpy(system_memory + TSS + 4, &rsp0, 8);
	system_memory[TSS + 0x66] = 0x68;                /* no I/O bitmap */
	for (unsigned v = 0; v < 32; v++) {
		put_gate(v);
		put_stub(v);
	}
	memcpy(system_memory + IRET_STUB, "\x48\xcf", 2);
}

static int add_slot(unsigned slot, uint64_t gpa, uint64_t size, void *host)
{
	struct kvm_userspace_memory_region r = { .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host };
	return anykvm_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

static bool make_memory(int code_fd)
{
	system_memory = mmap(NULL, SYSTEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	data_memory = mmap(NULL, DATA_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *code = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, code_fd, 0);
	if (system_memory == MAP_FAILED || data_memory == MAP_FAILED || code == MAP_FAILED)
		return false;
	make_page_tables();
	make_system();
	return !add_slot(0, 0, SYSTEM_BYTES, system_memory) && !add_slot(1, DATA_GPA, DATA_PAGES * PAGE, data_memory) &&
	       !add_slot(2, CODE_GPA, CODE_BYTES, code);
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, uint8_t dpl)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .dpl = dpl, .s = 1, .g = 1,
	                             .l = type >= 8, .db = type < 8 };
}

static bool make_sregs(void)
{
	struct kvm_sregs s;
	if (anykvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return false;
	s.cs = segment(SEL_KCODE, 11, 0);
	s.ss = segment(SEL_KDATA, 3, 0);
	s.ds = s.es = segment(SEL_FLAT, 3, 3);
	if (machine_bits == 16) {
		s.ds = s.es = (struct kvm_segment){ .base = DATA_BASE, .limit = 0xffff, .selector = SEL_DATA16, .type = 3, .present = 1, .dpl = 3, .s = 1 };
		s.ldt = (struct kvm_segment){ .base = KERNEL + LDT, .limit = 0xf, .selector = SEL_LDT, .type = 2, .present = 1 };
	}
	s.fs = s.gs = (struct kvm_segment){ .unusable = 1 };
	s.fs.base = native_fs_base;
	s.gs.base = native_gs_base;
	s.tr = (struct kvm_segment){ .base = KERNEL + TSS, .limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1 };
	s.gdt = (struct kvm_dtable){ .base = KERNEL + GDT, .limit = 10 * 8 - 1 };
	s.idt = (struct kvm_dtable){ .base = KERNEL + IDT, .limit = 32 * 16 - 1 };
	s.cr0 = 0x80050033;                              /* PG AM WP NE ET MP PE */
	s.cr3 = PML4;
	s.cr4 = 0x50620;                                 /* OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PAE */
	s.efer = 0xd01;                                  /* NXE LMA LME SCE */
	return anykvm_ioctl(vcpu_fd, KVM_SET_SREGS, &s) >= 0;
}

static bool make_cpuid(int kvm_fd)
{
	enum { ROOM = 128 };
	struct kvm_cpuid2 *c = calloc(1, sizeof *c + ROOM * sizeof c->entries[0]);
	c->nent = ROOM;
	bool ok = anykvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) >= 0 && anykvm_ioctl(vcpu_fd, KVM_SET_CPUID2, c) >= 0;
	free(c);
	return ok;
}

const char *guest_init(int code_fd)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .value = 7 } } };
	int kvm_fd = anykvm_open(2);
	if (kvm_fd < 0)
		return "open";
	vm_fd = anykvm_ioctl(kvm_fd, KVM_CREATE_VM, NULL);
	if (vm_fd < 0)
		return "KVM_CREATE_VM";
	if (!make_memory(code_fd))
		return "KVM_SET_USER_MEMORY_REGION";
	vcpu_fd = anykvm_ioctl(vm_fd, KVM_CREATE_VCPU, NULL);
	if (vcpu_fd < 0)
		return "KVM_CREATE_VCPU";
	run = anykvm_mmap(NULL, anykvm_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED)
		return "mmap";
	if (!make_cpuid(kvm_fd))
		return "KVM_SET_CPUID2";
	if (!make_sregs())
		return "KVM_SET_SREGS";
	return anykvm_ioctl(vcpu_fd, KVM_SET_XCRS, &xcrs) < 0 ? "KVM_SET_XCRS" : NULL;
}

bool guest_signal(int signo, void *info, void *context) { return in_guest && anykvm_signal(signo, info, context); }

/* ---- one test ---- */
static bool put_state(const struct test *t)
{
	static struct kvm_xsave x;
	uint64_t frame[5] = { t->in.rip, code_selector(), t->in.rflags, t->in.gpr[RSP], data_selector() };
	const uint64_t *g = t->in.gpr;
	struct kvm_regs r = { g[RAX], g[RBX], g[RCX], g[RDX], g[RSI], g[RDI],
	                      (machine_bits == 16 ? FRAME_16BIT : KERNEL) + IRET_FRAME, g[RBP], g[8], g[9], g[10], g[11], g[12], g[13],
	                      g[14], g[15], KERNEL + IRET_STUB, 2 };
	*entry(LDT, SEL_CODE16 >> 3) = descriptor16(code_base(t), 0xfb);
	memcpy(system_memory + IRET_FRAME, frame, sizeof frame);
	memcpy(&x, t->in.xsave, XSAVE_BYTES);
	for (unsigned p = 0; p < DATA_PAGES; p++)
		if (page_kinds[p] != PAGE_NONE && memcmp(data_page(p), image + p * PAGE, PAGE))
			memcpy(data_page(p), image + p * PAGE, PAGE);
	return anykvm_ioctl(vcpu_fd, KVM_SET_XSAVE, &x) >= 0 && anykvm_ioctl(vcpu_fd, KVM_SET_REGS, &r) >= 0;
}

/* Components in their initial state may hold anything. */
static void normalise(uint8_t *x)
{
	if (!(x[XSAVE_HEADER] & 1)) {
		memset(x, 0, 24);
		memset(x + 32, 0, 128);
		x[0] = 0x7f, x[1] = 3;
	}
	if (!(x[XSAVE_HEADER] & 2))
		memset(x + 160, 0, 256);
	if (!(x[XSAVE_HEADER] & 4))
		memset(x + XSAVE_YMM, 0, 256);
}

static const char *take_state(struct outcome *out)
{
	static struct kvm_xsave x;
	struct kvm_regs r;
	struct kvm_sregs s;
	uint64_t frame[7];
	if (anykvm_ioctl(vcpu_fd, KVM_GET_REGS, &r) < 0 || anykvm_ioctl(vcpu_fd, KVM_GET_XSAVE, &x) < 0)
		return "cannot read the state";
	if (r.rsp != KERNEL + STACK_TOP - sizeof frame)
		return "stack pointer of the exception's stub";
	memcpy(frame, system_memory + STACK_TOP - sizeof frame, sizeof frame);
	if (frame[3] != code_selector() || frame[6] != data_selector())
		return "selectors in the exception's frame";
	uint64_t *g = out->state.gpr;
	uint64_t regs[GPR_COUNT] = { r.rax, r.rcx, r.rdx, r.rbx, frame[5], r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15 };
	memcpy(g, regs, sizeof regs);
	if (machine_bits < 64)
		g[RSP] &= 0xffffffff;
	out->vector = frame[0];
	out->error = frame[1];
	out->state.rip = frame[2];
	out->state.rflags = frame[4];
	out->cr2 = 0;
	if (out->vector == 14) {
		if (anykvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0)
			return "cannot read CR2";
		out->cr2 = s.cr2;
	}
	memcpy(out->state.xsave, &x, XSAVE_BYTES);
	normalise(out->state.xsave);
	for (unsigned p = 0; p < DATA_PAGES; p++)
		if (page_kinds[p] != PAGE_NONE)
			memcpy(out->data[p], data_page(p), PAGE);
	return NULL;
}

static const char *answer_mmio(void)
{
	uint64_t at = run->mmio.phys_addr - MMIO_GPA;
	if (run->mmio.phys_addr < MMIO_GPA || at + run->mmio.len > PAGE || run->mmio.len > 8)
		return "MMIO outside the device's page";
	if (run->mmio.is_write)
		memcpy(mmio_page + at, run->mmio.data, run->mmio.len);
	else
		memcpy(run->mmio.data, mmio_page + at, run->mmio.len);
	return NULL;
}

static const char *other_exit(void)
{
	static char text[160];
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		snprintf(text, sizeof text, "internal error %u", run->internal.suberror);
	else
		snprintf(text, sizeof text, "exit reason %u", run->exit_reason);
	return text;
}

static int enter(void)
{
	in_guest = true;
	int r = anykvm_ioctl(vcpu_fd, KVM_RUN, NULL);
	in_guest = false;
	return r;
}

const char *guest_run(const struct test *t, struct outcome *out)
{
	const char *why = NULL;
	if (!put_state(t))
		return "cannot set the state";
	for (unsigned exits = 0; exits < 100000; exits++) {
		if (enter() < 0) {
			if (errno == EINTR)
				continue;
			return "KVM_RUN failed";
		}
		switch (run->exit_reason) {
		case KVM_EXIT_MMIO:
			if ((why = answer_mmio()))
				return why;
			break;
		case KVM_EXIT_HLT:
			return take_state(out);
		default:
			return other_exit();
		}
	}
	return "too many exits";
}
