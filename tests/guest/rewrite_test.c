/*
 * Code that is written over and over: functions of random instructions, of
 * which immediates, displacements, registers, opcodes and whole instructions
 * are stored anew between calls. The same script of stores and calls runs
 * natively, and every result must be the same.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "guest.h"

enum { AREA = 0x200000, AREA_SIZE = 0x5000, ALIAS = 0x40000000, DATA = 0x20000, SCRIPT = 0x210000, MAIL = 0x21000,
       STEPS = 4000, FUNCTIONS = 24, INSNS = 5, FORMS = 34, OTHER_CODE = 0x9000 };

/* One line of the script: a store of size bytes (0: none), then a call (0: none). An end has size 9. How: 0 the primary
 * mapping, 1 the other one, 2 the client, 3 the other processor. */
struct step { uint64_t at, size, value, call, rax, rdx, how, pad; };
/* An instruction: bytes, and where in it constants stand that may have any value. */
struct form { uint8_t len, at, size; uint8_t bytes[12]; };

static const struct form forms[FORMS] = {
	{ 6, 2, 4, { 0x81, 0xc0 } }, { 6, 2, 4, { 0x81, 0xd2 } }, { 6, 2, 4, { 0x81, 0xf2 } }, { 5, 1, 4, { 0x35 } },         /* ADD, ADC, XOR r32 */
	{ 7, 3, 4, { 0x48, 0x81, 0xc0 } }, { 7, 3, 4, { 0x48, 0x81, 0xea } }, { 4, 3, 1, { 0x48, 0x83, 0xc2 } },              /* ADD, SUB r64 */
	{ 3, 2, 1, { 0x80, 0xe8 } }, { 3, 2, 1, { 0x80, 0xc6 } }, { 3, 2, 1, { 0x83, 0xd8 } }, { 3, 2, 1, { 0x83, 0xfa } },   /* SUB AL, ADD DH, SBB, CMP */
	{ 5, 1, 4, { 0xb8 } }, { 5, 1, 4, { 0xba } }, { 10, 2, 8, { 0x48, 0xb8 } }, { 2, 1, 1, { 0xb4 } }, { 4, 2, 2, { 0x66, 0xba } },       /* MOV */
	{ 3, 2, 1, { 0x6b, 0xc2 } }, { 6, 2, 4, { 0x69, 0xd0 } }, { 3, 2, 1, { 0xc1, 0xe2 } }, { 3, 2, 1, { 0xc1, 0xc0 } },   /* IMUL, SHL, ROL */
	{ 4, 3, 1, { 0x48, 0xc1, 0xfa } }, { 5, 1, 4, { 0xa9 } }, { 4, 3, 1, { 0x0f, 0xba, 0xf8 } },                          /* SAR, TEST, BTC */
	{ 4, 3, 1, { 0x0f, 0xa4, 0xc2 } }, { 6, 5, 1, { 0xc4, 0xe3, 0x7b, 0xf0, 0xd0 } },                                     /* SHLD, RORX */
	{ 7, 3, 4, { 0x81, 0x46, 0x08 } }, { 4, 3, 1, { 0x80, 0x76, 0x11 } }, { 7, 3, 4, { 0xc7, 0x46, 0x10 } },              /* memory */
	{ 6, 4, 2, { 0x66, 0xc7, 0x46, 0x20 } }, { 3, 0, 0, { 0x03, 0x46, 0x10 } }, { 3, 0, 0, { 0x8b, 0x56, 0x20 } },
	{ 6, 1, 4, { 0x68, 0, 0, 0, 0, 0x58 } }, { 3, 1, 1, { 0x6a, 0, 0x5a } }, { 7, 3, 4, { 0x48, 0x8d, 0x90 } },           /* PUSH and POP, LEA */
};

struct function { uint32_t at, offset[INSNS + 1]; uint8_t form[INSNS]; };

struct program {
	struct function f[FUNCTIONS];
	uint8_t image[AREA_SIZE];
	struct step step[STEPS + 1];
	unsigned steps;
	uint32_t random;
};

static uint32_t rnd(struct program *p, uint32_t below)
{
	p->random = p->random * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(p->random >> 4) * below >> 28);
}

static uint64_t rnd64(struct program *p) { return (uint64_t)rnd(p, 1 << 28) << 40 ^ (uint64_t)rnd(p, 1 << 28) << 20 ^ rnd(p, 1 << 28); }

static void instruction_make(struct program *p, unsigned form, uint8_t *to)
{
	const struct form *f = &forms[form];
	static const uint64_t few[] = { 0, 1, 0x5152535455565758, 0xa1a2a3a4a5a6a7a8 };
	uint64_t constant = rnd(p, 2) ? rnd64(p) : few[rnd(p, 4)];       /* some come back */

	memcpy(to, f->bytes, f->len);
	memcpy(to + f->at, &constant, f->size);
}

/* Six for each page, the last of which begins a little before its end. */
static void function_make(struct program *p, unsigned i)
{
	struct function *f = &p->f[i];
	uint32_t at = i / 6 * 0x1000 + 0x100 + i % 6 * 0x2a0 + rnd(p, 60);

	if (i % 6 == 5)
		at = (i / 6 + 1) * 0x1000 - 1 - rnd(p, 30);
	f->at = at;
	for (unsigned k = 0; k < INSNS; k++) {
		f->form[k] = rnd(p, FORMS);
		f->offset[k] = at;
		instruction_make(p, f->form[k], p->image + at);
		at += forms[f->form[k]].len;
	}
	f->offset[INSNS] = at;
	memcpy(p->image + at, "\x48\x11\xd0\xc3", 4);            /* adc %rdx, %rax; ret */
}

static struct step *step_new(struct program *p)
{
	p->step[p->steps] = (struct step){ .at = AREA, .rax = rnd64(p), .rdx = rnd64(p) };
	return &p->step[p->steps++];
}

static void store_new(struct program *p, uint32_t at, unsigned size, const uint8_t *bytes, unsigned how)
{
	struct step *s = step_new(p);

	s->at = AREA + at;
	s->size = size;
	memcpy(&s->value, bytes, size);
	s->how = how == 1 && at + size > 0x1000 ? 0 : how;             /* the first page is the one with two addresses */
	memcpy(p->image + at, bytes, size);
}

/* Bytes [at, at+len) in stores of powers of two. */
static void rewrite(struct program *p, uint32_t at, unsigned len, const uint8_t *bytes, unsigned how)
{
	while (len) {
		unsigned size = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;

		store_new(p, at, size, bytes, how);
		at += size, bytes += size, len -= size;
	}
}

static void function_change(struct program *p, struct function *f, unsigned how)
{
	unsigned k = rnd(p, INSNS), kind = rnd(p, 8), other;
	const struct form *form = &forms[f->form[k]];
	uint8_t bytes[16];

	instruction_make(p, f->form[k], bytes);
	if (kind < 4) {                                          /* the constant */
		rewrite(p, f->offset[k] + form->at, form->size, bytes + form->at, how);
	} else if (kind == 4 && form->size) {                    /* a part of it */
		store_new(p, f->offset[k] + form->at + rnd(p, form->size), 1, bytes + form->at, how);
	} else if (kind == 5) {                                  /* the same again, and what is around it */
		rewrite(p, f->offset[k], forms[f->form[k]].len, p->image + f->offset[k], how);
	} else if (kind == 6) {                                  /* beside the code */
		store_new(p, f->offset[INSNS] + 4 + rnd(p, 8), 1, bytes, how);
	} else {                                                 /* another instruction of that length */
		for (other = rnd(p, FORMS); forms[other].len != form->len; other = (other + 1) % FORMS)
			;
		f->form[k] = other;
		instruction_make(p, other, bytes);
		rewrite(p, f->offset[k], form->len, bytes, how);
	}
}

static void program_make(struct program *p)
{
	memset(p->image, 0x90, AREA_SIZE);
	for (unsigned i = 0; i < FUNCTIONS; i++)
		function_make(p, i);
	p->steps = 0;
}

static void script_make(struct program *p, unsigned hows)
{
	while (p->steps < STEPS - 20) {
		struct function *f = &p->f[rnd(p, FUNCTIONS)];

		if (rnd(p, 3))
			function_change(p, f, rnd(p, 2) ? rnd(p, hows) : 0);
		for (unsigned n = rnd(p, 3); n; n--)
			step_new(p)->call = AREA + f->at;
	}
	step_new(p)->size = 9;
}

/* ---- natively ---- */

static void run_native(struct program *p, const uint8_t *before, uint8_t *data)
{
	uint8_t *area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(area, before, AREA_SIZE);
	for (struct step *s = p->step; s->size != 9; s++) {
		void *f = area + (s->call - AREA);

		memcpy(area + (s->at - AREA), &s->value, s->size);
		if (s->call)
			__asm__ volatile("lea -128(%%rsp), %%rsp\n clc\n call *%2\n lea 128(%%rsp), %%rsp" : "+a"(s->rax), "+d"(s->rdx) : "r"(f), "S"(data) : "memory", "cc", "rcx");
	}
	munmap(area, AREA_SIZE);
}

/* ---- in the guest ---- */

/* RBX: the script; RSI: data. A store for the other processor goes by the mail at RBP. */
GUEST_ASM(driver, 64,
	"1: mov (%rbx), %rdi\n mov 8(%rbx), %rcx\n mov 16(%rbx), %rax\n"
	"   cmp $9, %ecx\n je 9f\n jrcxz 6f\n"
	"   cmpl $1, 48(%rbx)\n jb 2f\n je 3f\n cmpl $2, 48(%rbx)\n je 4f\n"
	"   mov %rdi, 8(%rbp)\n mov %rcx, 16(%rbp)\n mov %rax, 24(%rbp)\n movl $1, (%rbp)\n"
	"5: pause\n cmpl $0, (%rbp)\n jne 5b\n jmp 6f\n"
	"4: out %al, $0x10\n mov %cr3, %rax\n mov %rax, %cr3\n jmp 6f\n"
	"3: lea 0x3fe00000(%rdi), %rdi\n"
	"2: cmp $2, %ecx\n jb 21f\n je 22f\n cmp $4, %ecx\n je 24f\n"
	"   mov %rax, (%rdi)\n jmp 6f\n 24: mov %eax, (%rdi)\n jmp 6f\n 22: mov %ax, (%rdi)\n jmp 6f\n 21: mov %al, (%rdi)\n"
	"6: mov 24(%rbx), %rdi\n test %rdi, %rdi\n jz 7f\n"
	"   mov 32(%rbx), %rax\n mov 40(%rbx), %rdx\n clc\n call *%rdi\n mov %rax, 32(%rbx)\n mov %rdx, 40(%rbx)\n"
	"7: add $64, %rbx\n jmp 1b\n"
	"9: movl $2, (%rbp)\n hlt\n");
/* The other processor: stores what the mail says, and now and then calls a function, so that it has translations, too. */
GUEST_ASM(helper, 64,
	"1: pause\n mov (%rbp), %eax\n test %eax, %eax\n jz 1b\n cmp $2, %eax\n je 9f\n"
	"   mov 8(%rbp), %rdi\n mov 16(%rbp), %rcx\n lea 24(%rbp), %rsi\n cld\n rep movsb\n"
	"   inc %ebx\n test $3, %ebx\n jnz 2f\n mov 32(%rbp), %rdi\n lea 64(%rbp), %rsi\n call *%rdi\n"
	"2: movl $0, (%rbp)\n jmp 1b\n 9: hlt\n");

static void map_alias(struct guest *g)
{
	uint64_t *tables = (uint64_t *)(g->memory + 0x110000);

	((uint64_t *)(g->memory + GUEST_PAGES))[512 + 1] = 0x111000 | 7;
	tables[512] = 0x112000 | 7;
	tables[1024] = AREA | 3;
	tables[1025] = (AREA + 0x3000) | 3;
}

static void *helper_main(void *arg)
{
	return (void *)(intptr_t)guest_run(arg, 1);
}

static void guest_prepare(struct guest *g, struct program *p, bool two)
{
	struct kvm_regs r = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2, .rbx = SCRIPT, .rsi = DATA, .rbp = MAIL };

	guest_create(g, false);
	guest_load(g, driver);
	guest_mode(g, 0, GUEST_LONG);
	map_alias(g);
	guest_load_bytes(g, AREA, p->image, AREA_SIZE);
	guest_set_regs(g, 0, &r);
	*(uint64_t *)(g->memory + MAIL + 32) = AREA + p->f[3].at;
	if (!two)
		return;
	guest_add_vcpu(g);
	guest_load_bytes(g, OTHER_CODE, helper_start, helper_end - helper_start);
	guest_mode(g, 1, GUEST_LONG);
	r.rip = OTHER_CODE, r.rsp -= 0x400, r.rbx = 0;
	guest_set_regs(g, 1, &r);
}

/* Runs the script; the client makes the stores that are its own. */
static void run_guest(struct guest *g, struct program *p, bool two)
{
	pthread_t thread;
	void *why;

	memcpy(g->memory + SCRIPT, p->step, sizeof(p->step));
	if (two)
		pthread_create(&thread, NULL, helper_main, g);
	while (guest_run(g, 0) == KVM_EXIT_IO) {
		struct kvm_regs r = guest_regs(g, 0);

		memcpy(g->memory + r.rdi, &r.rax, r.rcx);
	}
	check_equal(g->run[0]->exit_reason, KVM_EXIT_HLT);
	if (two) {
		pthread_join(thread, &why);
		check_equal((intptr_t)why, KVM_EXIT_HLT);
	}
}

static void compare(struct guest *g, const struct program *p, const uint8_t *data)
{
	const struct step *seen = (const void *)(g->memory + SCRIPT);
	unsigned before = failures;

	for (unsigned i = 0; i < p->steps && failures == before; i++) {
		check_equal(seen[i].rax, p->step[i].rax);
		check_equal(seen[i].rdx, p->step[i].rdx);
		if (failures != before)
			printf("# step %u, seed of the script: %u\n", i, p->random);
	}
	check(!memcmp(g->memory + DATA, data, 64));
	check(!memcmp(g->memory + AREA, p->image, AREA_SIZE));
}

static void run(unsigned seed, unsigned hows)
{
	static struct program p;
	static uint8_t before[AREA_SIZE];
	uint8_t data[64] = { 0 };
	struct guest g;

	p.random = seed;
	program_make(&p);
	memcpy(before, p.image, AREA_SIZE);
	guest_prepare(&g, &p, hows > 3);
	script_make(&p, hows);
	run_guest(&g, &p, hows > 3);
	run_native(&p, before, data);
	compare(&g, &p, data);
	guest_destroy(&g);
}

/*
 * The constant says how far apart two accesses are: first in one page, then in
 * two, which are no neighbours in physical memory.
 */
GUEST_ASM(distance, 64,
	"mov $0x40000ff0, %esi\n"
	"1: call 2f\n hlt\n movl $16, 4f - 4 - distance_start + 0x8000\n jmp 1b\n"
	"2: mov %rsi, %rcx\n .byte 0x48, 0x81, 0xc1\n .long 8\n 4: mov (%rsi), %eax\n add (%rcx), %eax\n ret\n");

static void test_distance(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, distance);
	guest_mode(&g, 0, GUEST_LONG);
	map_alias(&g);
	g.memory[AREA + 0xff0] = 100;
	g.memory[AREA + 0xff8] = 7;
	g.memory[AREA + 0x1000] = 99;
	g.memory[AREA + 0x3000] = 9;
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rax, 107);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rax, 109);
	guest_destroy(&g);
}

/* The constant says how much of a table a loop looks at: first what lies in one page, then in two. */
GUEST_ASM(mask, 64,
	"mov $0x40000f00, %esi\n"
	"1: call 2f\n hlt\n movl $0x1ff, 4f - 4 - mask_start + 0x8000\n jmp 1b\n"
	"2: mov $0x200, %ecx\n xor %eax, %eax\n"
	"3: mov %ecx, %edi\n .byte 0x81, 0xe7\n .long 0x3f\n 4: movzbl (%rsi, %rdi), %ebx\n add %ebx, %eax\n dec %ecx\n jnz 3b\n ret\n");

static void test_mask(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, mask);
	guest_mode(&g, 0, GUEST_LONG);
	map_alias(&g);
	memset(g.memory + AREA + 0xf00, 1, 0x100);
	memset(g.memory + AREA + 0x1000, 50, 0x100);
	memset(g.memory + AREA + 0x3000, 2, 0x100);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rax, 0x200);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rax, 0x100 + 2 * 0x100);
	guest_destroy(&g);
}

/*
 * A loop that stores to five places of a page with code, each twice in a
 * round: data, data that runs into the next page, and the code.
 */
GUEST_ASM(beside, 64,
	"mov $1, %ebx\n mov $0x200000, %r12d\n"
	"1: mov $0x200100, %edi\n mov $0x200400, %edx\n mov $0x200f00, %r8d\n mov $0x200800, %r9d\n mov $20, %ecx\n"
	"2: mov %rbx, (%rdi)\n mov %rbx, 8(%rdi)\n mov %rbx, (%rdx)\n mov %rbx, 8(%rdx)\n mov %rbx, (%r8)\n mov %rbx, 8(%r8)\n"
	"   mov %rbx, (%r9)\n mov %rbx, 8(%r9)\n mov %ebx, 1(%r12)\n mov %bl, 0x11(%r12)\n"
	"   add $16, %rdi\n add $16, %rdx\n add $16, %r8\n add $16, %r9\n dec %ecx\n jnz 2b\n"
	"   call *%r12\n cmp %ebx, %eax\n jne 9f\n inc %ebx\n cmp $1000, %ebx\n jb 1b\n 9: hlt\n");

static void test_beside(void)
{
	static const uint16_t places[] = { 0x100, 0x400, 0x800, 0xf00 };
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, beside);
	guest_mode(&g, 0, GUEST_LONG);
	guest_load_bytes(&g, AREA, "\xb8\0\0\0\0\xc3", 6);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 1000);
	check_equal(g.memory[AREA + 0x11], 999 & 0xff);
	for (unsigned i = 0; i < sizeof(places) / sizeof(*places); i++) {
		const uint64_t *p = (const void *)(g.memory + AREA + places[i]);

		for (unsigned k = 0; k < 40; k++)
			check_equal(p[k], 999);
		check_equal(p[40], 0);
	}
	guest_destroy(&g);
}

/* Two stores that would share a check, but for a page's end between them; the first rewrites the block that they are in. */
GUEST_ASM(own, 64,
	"mov $1, %ebx\n mov $0x8000, %edi\n jmp 1f\n .org own_start + 0xfa0\n"
	"1: mov %ebx, 2f - own_start + 1(%rdi)\n mov %ebx, 0x1010(%rdi)\n"
	"2: mov $0, %eax\n cmp %ebx, %eax\n jne 9f\n cmp %ebx, 0x1010(%rdi)\n jne 9f\n"
	"inc %ebx\n cmp $2000, %ebx\n jb 1b\n 9: hlt\n");

static void test_own(void)
{
	struct guest g;

	guest_create(&g, false);
	guest_load(&g, own);
	guest_mode(&g, 0, GUEST_LONG);
	check_equal(guest_run(&g, 0), KVM_EXIT_HLT);
	check_equal(guest_regs(&g, 0).rbx, 2000);
	guest_destroy(&g);
}

/* ---- bytes that are no instruction ---- */

/* Calls what is at RDI, tells the client, changes the byte at RCX to DL if there is one. Handlers of #UD and #GP return for it. */
GUEST_ASM(toggles, 64,
	"1: xor %eax, %eax\n call *%rdi\n out %al, $0x10\n jrcxz 2f\n mov %dl, (%rcx)\n jmp 1b\n 2: mov %cr3, %rax\n mov %rax, %cr3\n jmp 1b\n"
	".org toggles_start + 0x100\n mov 24(%rsp), %rsp\n mov $6, %eax\n ret\n"
	".org toggles_start + 0x180\n mov 32(%rsp), %rsp\n mov $13, %eax\n ret\n");

static void gate_set(struct guest *g, unsigned vector, uint32_t offset)
{
	uint64_t gate[2] = { (offset & 0xffff) | 24ull << 16 | 0x8e00ull << 32, 0 };

	memcpy(g->memory + GUEST_IDT + 16 * vector, gate, sizeof(gate));
}

/* bytes raise the vector; with byte [at] changed they are an instruction, and RET. */
static void run_toggles(const char *bytes, unsigned length, unsigned at, uint8_t changed, unsigned vector, bool by_client)
{
	enum { PLACE = 0x200ff0 };
	struct guest g;
	struct kvm_regs r;

	guest_create(&g, false);
	guest_load(&g, toggles);
	guest_mode(&g, 0, GUEST_LONG);
	gate_set(&g, 6, GUEST_CODE + 0x100);
	gate_set(&g, 13, GUEST_CODE + 0x180);
	guest_load_bytes(&g, PLACE, bytes, length);
	g.memory[PLACE + length] = 0xc3;
	for (unsigned i = 0; i < 6; i++) {
		r = guest_regs(&g, 0);
		r.rdi = PLACE;
		r.rcx = by_client ? 0 : PLACE + at;
		r.rdx = i & 1 ? changed : (uint8_t)bytes[at];
		if (by_client)
			g.memory[PLACE + at] = r.rdx;
		guest_set_regs(&g, 0, &r);
		check_equal(guest_run(&g, 0), KVM_EXIT_IO);
		check_equal(guest_regs(&g, 0).rax, i & 1 ? 0 : vector);
	}
	guest_destroy(&g);
}

/* What says that they are none stands behind the first byte. */
static void test_undefined(void)
{
	for (unsigned by_client = 0; by_client < 2; by_client++) {
		run_toggles("\x66\xce", 2, 1, 0x90, 6, by_client);               /* INTO; NOP */
		run_toggles("\xf0\x01\xc0", 3, 2, 0x06, 6, by_client);           /* LOCK of a register; of memory */
		run_toggles("\x66\x0f\x38\xff\xc0", 5, 3, 0x1c, 6, by_client);   /* no opcode; PABSB */
		run_toggles("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66", 15, 14, 0x90, 13, by_client);
	}
}

static void test_one_mapping(void) { for (unsigned seed = 1; seed <= 4; seed++) run(seed, 1); }
static void test_two_mappings(void) { for (unsigned seed = 11; seed <= 14; seed++) run(seed, 2); }
static void test_client(void) { for (unsigned seed = 21; seed <= 22; seed++) run(seed, 3); }
static void test_processors(void) { for (unsigned seed = 31; seed <= 33; seed++) run(seed, 4); }

static const struct test tests[] = {
	{ "functions rewritten by stores", test_one_mapping },
	{ "functions rewritten through another address", test_two_mappings },
	{ "functions rewritten by the client", test_client },
	{ "functions rewritten by another processor", test_processors },
	{ "a block that rewrites itself, at the end of a page", test_own },
	{ "loops that store beside code and to it", test_beside },
	{ "a rewritten distance between two accesses", test_distance },
	{ "a rewritten mask of an index", test_mask },
	{ "bytes that are no instruction become one", test_undefined },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
