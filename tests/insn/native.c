/*
 * The oracle. An INT3 in native_run() enters the signal handler, which puts the
 * test's state into the frame and returns to the test's first instruction;
 * the INT3 after the test, or its exception, enters the handler again, which
 * takes the state out and returns to native_run().
 */
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include "insn.h"

uint64_t native_fs_base, native_gs_base;
uint8_t *code_alias;

static uint8_t *data_alias;                      /* the data area, writable throughout */
static enum { IDLE, STARTING, RUNNING } phase;
static const struct test *test;
static struct outcome *result;
static gregset_t saved_gregs;
static uint8_t saved_fpu[8192];
static unsigned fpu_bytes;

static const int greg_of[GPR_COUNT] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(2);
}

int code_memory(void)
{
	int fd = memfd_create("code", MFD_CLOEXEC);
	check(fd >= 0 && !ftruncate(fd, CODE_BYTES), "code");
	code_alias = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(code_alias != MAP_FAILED, "code");
	return fd;
}

static void map_data(void)
{
	int fd = memfd_create("data", MFD_CLOEXEC);
	check(fd >= 0 && !ftruncate(fd, DATA_PAGES * PAGE), "data");
	data_alias = mmap(NULL, DATA_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	check(data_alias != MAP_FAILED, "data");
	for (unsigned p = 0; p < DATA_PAGES; p++) {
		int prot = page_kinds[p] == PAGE_RO ? PROT_READ : PROT_READ | PROT_WRITE;
		if (page_kinds[p] == PAGE_NONE)
			continue;
		check(mmap((void *)PAGE_ADDR(p), PAGE, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, p * PAGE) ==
		      (void *)PAGE_ADDR(p), "data");
	}
	close(fd);
}

/* contents: 0 data, 2 code */
static void set_ldt(unsigned selector, uint64_t base, unsigned contents)
{
	struct user_desc d = { .entry_number = selector >> 3, .base_addr = base, .limit = 0xffff, .contents = contents };
	check(!syscall(SYS_modify_ldt, 0x11, &d, sizeof d), "modify_ldt");
}

void native_init(int code_fd)
{
	map_data();
	check(mmap((void *)CODE_BASE, CODE_BYTES - SMC_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, code_fd, 0) ==
	      (void *)CODE_BASE, "code");
	check(mmap((void *)SMC_BASE, SMC_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, code_fd,
	           CODE_BYTES - SMC_BYTES) == (void *)SMC_BASE, "code");
	/* 64-bit code does not look at these, 32-bit code does. */
	if (machine_bits == 16)
		set_ldt(SEL_DATA16, DATA_BASE, 0);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(data_selector()));
	native_gs_base = 0x3450;
	check(!syscall(SYS_arch_prctl, ARCH_SET_GS, native_gs_base), "GS base");
	check(!syscall(SYS_arch_prctl, ARCH_GET_FS, &native_fs_base), "FS base");
}

/* ---- signal frame ---- */
static void put_fpu(uint8_t *frame, const uint8_t *from)
{
	uint64_t header;
	memcpy(frame, from, 28);
	memcpy(frame + 32, from + 32, 416 - 32);
	memcpy(&header, frame + XSAVE_HEADER, 8);
	header |= 7;
	memcpy(frame + XSAVE_HEADER, &header, 8);
	memcpy(frame + XSAVE_YMM, from + XSAVE_YMM, 256);
}

/* A component in its initial state is not stored: fill it in. */
static void take_fpu(uint8_t *to, const uint8_t *frame)
{
	uint64_t header;
	memset(to, 0, XSAVE_BYTES);
	memcpy(&header, frame + XSAVE_HEADER, 8);
	if (header & 1) {
		memcpy(to, frame, 24);
		memcpy(to + 32, frame + 32, 128);
	} else {
		to[0] = 0x7f, to[1] = 3;
	}
	memcpy(to + 24, frame + 24, 4);
	if (header & 2)
		memcpy(to + 160, frame + 160, 256);
	if (header & 4)
		memcpy(to + XSAVE_YMM, frame + XSAVE_YMM, 256);
	to[XSAVE_HEADER] = 7;
}

static void set_selectors(ucontext_t *uc, uint16_t cs)
{
	uint16_t sel[4];                         /* CS GS FS SS */
	memcpy(sel, &uc->uc_mcontext.gregs[REG_CSGSFS], 8);
	sel[0] = cs;
	sel[3] = data_selector();
	memcpy(&uc->uc_mcontext.gregs[REG_CSGSFS], sel, 8);
}

static void enter_test(ucontext_t *uc)
{
	memcpy(&saved_gregs, &uc->uc_mcontext.gregs, sizeof saved_gregs);
	uint8_t *fpu = (uint8_t *)uc->uc_mcontext.fpregs;
	uint32_t size;
	memcpy(&size, fpu + 464 + 4, 4);
	fpu_bytes = size < sizeof saved_fpu ? size : sizeof saved_fpu;
	memcpy(saved_fpu, fpu, fpu_bytes);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		uc->uc_mcontext.gregs[greg_of[i]] = test->in.gpr[i];
	uc->uc_mcontext.gregs[REG_RIP] = test->in.rip;
	uc->uc_mcontext.gregs[REG_EFL] = test->in.rflags;
	set_selectors(uc, code_selector());
	put_fpu(fpu, test->in.xsave);
	phase = RUNNING;
}

static void leave_test(ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	for (unsigned i = 0; i < GPR_COUNT; i++)
		result->state.gpr[i] = g[greg_of[i]];
	if (machine_bits < 64)
		result->state.gpr[RSP] &= 0xffffffff;
	result->state.rip = g[REG_RIP];
	result->state.rflags = g[REG_EFL];
	result->vector = g[REG_TRAPNO];
	result->error = result->vector == 3 || result->vector == 1 ? 0 : g[REG_ERR];
	result->cr2 = result->vector == 14 ? g[REG_CR2] : 0;
	uint8_t *fpu = (uint8_t *)uc->uc_mcontext.fpregs;
	take_fpu(result->state.xsave, fpu);
	memcpy(fpu, saved_fpu, fpu_bytes);
	memcpy(&uc->uc_mcontext.gregs, &saved_gregs, sizeof saved_gregs);
	phase = IDLE;
}

bool native_signal(int signo, void *info, void *context)
{
	if (phase == IDLE)
		return false;
	if (phase == STARTING)
		enter_test(context);
	else
		leave_test(context);
	return true;
}

/* ---- handlers ---- */
static bool (*other_handler)(int, void *, void *);

static void handler(int signo, siginfo_t *info, void *context)
{
	/* AC would make our own C code fault, and sigreturn would keep NT and ID. */
	__asm__ volatile("pushfq; andl $~0x244000, (%%rsp); popfq" ::: "cc", "memory");
	if (native_signal(signo, info, context) || (other_handler && other_handler(signo, info, context)))
		return;
	ucontext_t *uc = context;
	fprintf(stderr, "signal %d at %#llx, address %#llx, trap %lld\n", signo, (long long)uc->uc_mcontext.gregs[REG_RIP],
	        (long long)uc->uc_mcontext.gregs[REG_CR2], (long long)uc->uc_mcontext.gregs[REG_TRAPNO]);
	signal(signo, SIG_DFL);
}

void signal_init(bool (*other)(int, void *, void *))
{
	static const int signals[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	enum { STACK = 1 << 17 };
	other_handler = other;
	stack_t stack = { .ss_sp = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = STACK };
	check(stack.ss_sp != MAP_FAILED && !sigaltstack(&stack, NULL), "sigaltstack");
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	for (unsigned i = 0; i < COUNT_OF(signals); i++)
		check(!sigaction(signals[i], &action, NULL), "sigaction");
}

void native_run(const struct test *t, struct outcome *out)
{
	for (unsigned p = 0; p < DATA_PAGES; p++)
		if (page_kinds[p] != PAGE_NONE && memcmp(data_alias + p * PAGE, image + p * PAGE, PAGE))
			memcpy(data_alias + p * PAGE, image + p * PAGE, PAGE);
	static uint64_t base;
	if (machine_bits == 16 && base != code_base(t))
		set_ldt(SEL_CODE16, base = code_base(t), 2);
	test = t;
	result = out;
	phase = STARTING;
	__asm__ volatile("int3" ::: "memory", "cc");
	for (unsigned p = 0; p < DATA_PAGES; p++)
		if (page_kinds[p] != PAGE_NONE)
			memcpy(out->data[p], data_alias + p * PAGE, PAGE);
}
