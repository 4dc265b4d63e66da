/* MMIO and ports of every size, string instructions that fault on the way, and code that changes itself. */
#include "rig.h"

enum { ROOT = 0x200000, DIR1 = 0x201000, DIR2 = 0x202000, TABLE = 0x203000, MMIO = 0x10000000, RAM_END = GUEST_MEMORY };

/* A log of exits as text: "w10000000.4=11223344 r...": what the client saw. Reads answer with bytes that count up. */
static char seen[4096];
static uint8_t next_byte;

static void log_access(char kind, uint64_t at, unsigned size, const uint8_t *data)
{
	size_t n = strlen(seen);

	n += snprintf(seen + n, sizeof(seen) - n, "%s%c%llx.%u", n ? " " : "", kind, (unsigned long long)at, size);
	if (kind == 'w' || kind == 'o') {
		n += snprintf(seen + n, sizeof(seen) - n, "=");
		for (unsigned i = size; i-- > 0;)
			n += snprintf(seen + n, sizeof(seen) - n, "%02x", data[i]);
	}
}

static int device(struct rig *rig, struct kvm_run *run)
{
	if (run->exit_reason == KVM_EXIT_MMIO) {
		log_access(run->mmio.is_write ? 'w' : 'r', run->mmio.phys_addr, run->mmio.len, run->mmio.data);
		for (unsigned i = 0; i < run->mmio.len && !run->mmio.is_write; i++)
			run->mmio.data[i] = ++next_byte;
		return 0;
	}
	if (run->exit_reason != KVM_EXIT_IO)
		return EXIT + run->exit_reason;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
		log_access(run->io.direction == KVM_EXIT_IO_IN ? 'i' : 'o', run->io.port, run->io.size, data);
		for (unsigned b = 0; b < run->io.size && run->io.direction == KVM_EXIT_IO_IN; b++)
			data[b] = ++next_byte;
	}
	return 0;
}

static void expect_seen(const char *name, const char *want)
{
	expect_value(name, "same accesses", strcmp(seen, want), 0);
	if (strcmp(seen, want))
		printf("   seen: %s\n   want: %s\n", seen, want);
}

#define DEVICE(m, name, bits, text, want, value, ...) do { \
	struct rig r_, *rig = &r_; rig_start(rig, m); rig->exit = device; seen[0] = next_byte = 0; rig->r.rbx = MMIO; \
		rig->r.rdx = 0x80; __VA_ARGS__; \
	rig_run(rig, CODE(bits, text)); expect_outcome(rig, name, DONE, ANY); expect_seen(name, want); \
	expect_value(name, "rax", rig->r2.rax, value); rig_end(rig); } while (0)

static void mmio(void)
{
	DEVICE(LONG, "sizes, read", 64, "xor eax, eax; mov al, [rbx]; mov cx, [rbx + 2]; mov ecx, [rbx + 4]; "
		"mov rcx, [rbx + 8]; movzx eax, al; hlt",
	       "r10000000.1 r10000002.2 r10000004.4 r10000008.8", 1);
	DEVICE(LONG, "sizes, write", 64, "mov rax, 0x1122334455667788; mov [rbx], al; mov [rbx + 2], ax; mov [rbx + 4], eax; "
		"mov [rbx + 8], rax; hlt",
	       "w10000000.1=88 w10000002.2=7788 w10000004.4=55667788 w10000008.8=1122334455667788", 0x1122334455667788);
	DEVICE(LONG, "read value", 64, "mov rax, [rbx]; hlt", "r10000000.8", 0x0807060504030201);
	DEVICE(LONG, "MOVZX, MOVSX", 64, "movzx eax, word ptr [rbx]; movsx ecx, byte ptr [rbx + 2]; hlt",
		"r10000000.2 r10000002.1", 0x201);
	DEVICE(LONG, "ADD to memory", 64, "mov eax, 0x10; add [rbx], eax; hlt", "r10000000.4 w10000000.4=04030211", 0x10);
	DEVICE(LONG, "XCHG", 64, "mov eax, 0x10; xchg [rbx], eax; hlt", "r10000000.4 w10000000.4=00000010", 0x04030201);
	DEVICE(LONG, "LOCK OR", 64, "mov eax, 0x80; lock or [rbx], al; hlt", "r10000000.1 w10000000.1=81", 0x80);
	DEVICE(LONG, "CMPXCHG that succeeds", 64, "mov eax, 0x201; mov ecx, 9; cmpxchg [rbx], cx; hlt",
		"r10000000.2 w10000000.2=0009", 0x201);
	DEVICE(LONG, "TEST reads only", 64, "xor eax, eax; test [rbx], eax; hlt", "r10000000.4", 0);
	DEVICE(LONG, "PUSH from and POP to", 64, "push [rbx]; pop [rbx + 8]; xor eax, eax; hlt",
		"r10000000.8 w10000008.8=0807060504030201", 0);
	DEVICE(LONG, "SSE", 64, "movups xmm0, [rbx]; movups [rbx + 16], xmm0; movq rax, xmm0; hlt",
	       "r10000000.8 r10000008.8 w10000010.8=0807060504030201 w10000018.8=100f0e0d0c0b0a09", 0x0807060504030201);
	DEVICE(LONG, "x87", 64, "fninit; fild word ptr [rbx]; fistp dword ptr [rbx + 4]; xor eax, eax; hlt",
		"r10000000.2 w10000004.4=00000201", 0);
	DEVICE(LONG, "AVX, 32 bytes", 64, "xor ecx, ecx; xor edx, edx; mov eax, 7; xsetbv; vmovups ymm0, [rbx]; xor eax, eax; "
		"hlt",
	       "r10000000.8 r10000008.8 r10000010.8 r10000018.8", 0, rig->s.cr4 |= 0x40000);
	DEVICE(LONG, "CALL through", 64, "mov byte ptr [0x4030201], 0; xor eax, eax; hlt", "w4030201.1=00", 0);
	DEVICE(LONG, "from RAM into MMIO, read", 64, "mov rax, [rbx]; hlt", "r400000.4", 0x0403020155667788,
		rig->r.rbx = RAM_END - 4; rig_poke(rig, RAM_END - 4, 4, 0x55667788));
	DEVICE(LONG, "from RAM into MMIO, write", 64, "mov rax, 0x1122334455667788; mov [rbx], rax; mov eax, [rbx - 4]; "
		"shr rax, 8; mov eax, [0x3ffffd]; hlt",
	       "w400000.5=1122334455 r400000.1", 0x01667788, rig->r.rbx = RAM_END - 3);
	DEVICE(LONG, "across two MMIO pages", 64, "mov rax, [rbx]; hlt", "r10000ffe.2 r10001000.6", 0x0807060504030201,
		rig->r.rbx = MMIO + 0xffe);
	DEVICE(LONG, "REP MOVSD from", 64, "mov rsi, rbx; mov edi, 0x4000; mov ecx, 3; rep movsd; mov rax, [0x4004]; hlt",
	       "r10000000.4 r10000004.4 r10000008.4", 0x0c0b0a0908070605);
	DEVICE(LONG, "REP MOVSB to, downwards", 64, "std; lea rdi, [rbx + 2]; mov esi, 0x4002; "
		"mov dword ptr [0x4000], 0x332211; mov ecx, 3; rep movsb; cld; mov eax, edi; hlt",
	       "w10000002.1=33 w10000001.1=22 w10000000.1=11", 0xfffffff);
	DEVICE(LONG, "MOVSQ between devices", 64, "mov rsi, rbx; lea rdi, [rbx + 0x100]; movsq; xor eax, eax; hlt",
		"r10000000.8 w10000100.8=0807060504030201", 0);
	DEVICE(LONG, "REP STOSW", 64, "mov rdi, rbx; mov eax, 0x1234; mov ecx, 2; rep stosw; hlt",
		"w10000000.2=1234 w10000002.2=1234", 0x1234);
	DEVICE(LONG, "REPNE SCASB", 64, "mov rdi, rbx; mov eax, 3; mov ecx, 9; repne scasb; mov eax, ecx; hlt",
		"r10000000.1 r10000001.1 r10000002.1", 6);
	DEVICE(LONG, "REPE CMPSB", 64, "mov rsi, rbx; mov edi, 0x4000; mov dword ptr [edi], 0x04030201; mov ecx, 9; "
		"repe cmpsb; mov eax, ecx; hlt",
	       "r10000000.1 r10000001.1 r10000002.1 r10000003.1 r10000004.1", 4);
	DEVICE(LONG, "stack on a device", 64, "lea rsp, [rbx + 16]; mov eax, 0x77; push rax; pop rcx; hlt",
		"w10000008.8=0000000000000077 r10000008.8", 0x77);
	DEVICE(LONG, "BTS beyond", 64, "mov eax, 40; bts [rbx], eax; hlt", "r10000004.4 w10000004.4=04030301", 40);
	DEVICE(LONG, "DIV by a device's value", 64, "xor edx, edx; mov eax, 0x40; div byte ptr [rbx + 1]; hlt", "r10000001.1",
		0x40);
	DEVICE(LONG, "SETcc, MOVBE, NOT, INC", 64, "stc; setc [rbx]; not byte ptr [rbx]; inc word ptr [rbx]; xor eax, eax; hlt",
	       "w10000000.1=01 r10000000.1 w10000000.1=fe r10000000.2 w10000000.2=0303", 0);
	DEVICE(LONG, "CMOV that does not move reads", 64, "xor eax, eax; cmovnz eax, [rbx]; hlt", "r10000000.4", 0);
	DEVICE(LONG, "PUSHFQ after, flags", 64, "add byte ptr [rbx], 0xff; setc al; movzx eax, al; hlt",
		"r10000000.1 w10000000.1=00", 1);
	DEVICE(PROT, "32-bit code", 32, "mov eax, [ebx]; mov [ebx + 4], ax; pushd [ebx]; pop ecx; hlt",
		"r10000000.4 w10000004.2=0201 r10000000.4", 0x04030201);
	DEVICE(REAL, "real mode, unreal", 16, "mov eax, [ebx]; mov [ebx], al; hlt", "r10000000.4 w10000000.1=01", 0x04030201,
		rig->s.ds.limit = ~0u; rig->s.ds.g = 1);
	DEVICE(LONG3, "user mode", 64, "mov al, [rbx]; movzx eax, al; hlt", "r10000000.1", 1);
}

static void ports(void)
{
	DEVICE(LONG, "IN", 64, "xor eax, eax; in al, 0x40; in ax, 0x42; in eax, 0x44; in al, dx; hlt",
		"i40.1 i42.2 i44.4 i80.1", 0x07060508);
	DEVICE(LONG, "IN AL keeps the rest", 64, "mov rax, -1; in al, dx; hlt", "i80.1", 0xffffffffffffff01);
	DEVICE(LONG, "IN EAX clears the upper half", 64, "mov rax, -1; in eax, dx; hlt", "i80.4", 0x04030201);
	DEVICE(LONG, "OUT", 64, "mov eax, 0x11223344; out 0x40, al; out 0x42, ax; out 0x44, eax; mov dx, 0xffff; out dx, al; "
		"hlt", "o40.1=44 o42.2=3344 o44.4=11223344 offff.1=44", 0x11223344);
	DEVICE(LONG, "REX.W does not matter", 64, "mov rax, -1; .byte 0x48, 0xed; hlt", "i80.4", 0x04030201);
	DEVICE(LONG, "REP INSW", 64, "mov edi, 0x4000; mov ecx, 3; rep insw; mov rax, [0x4000]; hlt", "i80.2 i80.2 i80.2",
		0x0000060504030201);
	DEVICE(LONG, "REP INSD, across a page", 64, "mov edi, 0x4ffe; mov ecx, 2; rep insd; mov rax, [0x4ffe]; hlt",
		"i80.4 i80.4", 0x0807060504030201);
	DEVICE(LONG, "REP OUTSB, downwards", 64, "std; mov esi, 0x4002; mov dword ptr [0x4000], 0x332211; mov ecx, 3; "
		"rep outsb; cld; lea eax, [rsi + rcx]; hlt", "o80.1=33 o80.1=22 o80.1=11", 0x3fff);
	DEVICE(LONG, "REP OUTSD, across a page", 64, "mov esi, 0x4ffe; mov rax, 0x1122334455667788; mov [rsi], rax; "
		"mov ecx, 2; rep outsd; hlt", "o80.4=55667788 o80.4=11223344", 0x1122334455667788);
	DEVICE(LONG, "REP INSB of nothing", 64, "xor ecx, ecx; mov edi, 0x70000000; rep insb; xor eax, eax; hlt", "", 0);
	DEVICE(LONG, "INSB to MMIO", 64, "mov rdi, rbx; insb; xor eax, eax; hlt", "i80.1 w10000000.1=01", 0);
	DEVICE(LONG, "OUTSB from MMIO", 64, "mov rsi, rbx; outsb; xor eax, eax; hlt", "r10000000.1 o80.1=01", 0);
	DEVICE(LONG, "REP INSB with ECX", 64, "mov rcx, 0x500000002; mov rdi, 0x500004000; .byte 0x67; rep insb; mov rax, rcx; "
		"hlt",
	       "i80.1 i80.1", 0);
	DEVICE(REAL, "real mode", 16, "in ax, dx; rep outsw; and eax, 0xffff; hlt", "i80.2 o80.2=5678", 0x0201, rig->r.rcx = 1;
		rig->r.rsi = 0x4000; rig_poke(rig, 0x4000, 2, 0x5678));
	DEVICE(VM86, "vm86 mode", 16, "in al, dx; movzx eax, al; hlt", "i80.1", 1, rig_poke(rig, RIG_TSS + 102, 2, 0x100));
}

/* ---- strings that fault on the way: page 0x21 is missing ---- */

static void tables(struct rig *rig)
{
	for (unsigned i = 0; i < 512; i++)
		rig_poke(rig, TABLE + i * 8, 8, (uint64_t)i << 12 | (i == 0x21 ? 6 : 7));
	rig_poke(rig, ROOT, 8, DIR1 | 7);
	rig_poke(rig, DIR1, 8, DIR2 | 7);
	rig_poke(rig, DIR2, 8, TABLE | 7);
	rig->s.cr3 = ROOT;
}

static void string_faults(void)
{
	struct { const char *name; struct code code; uint64_t rcx, rsi, rdi, cr2; uint32_t error; const char *seen; } t[] = {
#define S(name, text, rcx, rsi, rdi, cr2, error, seen) { name, CODE(64, text "; hlt"), rcx, rsi, rdi, cr2, error, seen }
		S("REP MOVSB, source missing", "mov esi, 0x20ffe; mov edi, 0x30000; mov ecx, 8; " AT "rep movsb", 6, 0x21000,
			0x30002, 0x21000, 0, ""),
		S("REP MOVSB, target missing", "mov edi, 0x20ffe; mov esi, 0x30000; mov ecx, 8; " AT "rep movsb", 6, 0x30002,
			0x21000, 0x21000, 2, ""),
		S("REP MOVSD, target half missing", "mov edi, 0x20ffa; mov esi, 0x30000; mov ecx, 8; " AT "rep movsd", 7,
			0x30004, 0x20ffe, 0x21000, 2, ""),
		S("REP MOVSQ downwards", "std; mov edi, 0x22008; mov esi, 0x30100; mov ecx, 8; " AT "rep movsq", 6, 0x300f0,
			0x21ff8, 0x21ff8, 2, ""),
		S("REP STOSQ", "mov edi, 0x20ff0; mov ecx, 8; " AT "rep stosq", 6, 0, 0x21000, 0x21000, 2, ""),
		S("REP STOSB downwards", "std; mov edi, 0x22001; mov ecx, 8; " AT "rep stosb", 6, 0, 0x21fff, 0x21fff, 2, ""),
		S("REP LODSW", "mov esi, 0x20ffc; mov ecx, 8; " AT "rep lodsw", 6, 0x21000, 0, 0x21000, 0, ""),
		S("REPNE SCASB", "mov edi, 0x20ffd; mov ecx, 8; mov al, 1; " AT "repne scasb", 5, 0, 0x21000, 0x21000, 0, ""),
		S("REPE CMPSB", "mov edi, 0x20ffd; mov esi, 0x20000; mov ecx, 8; " AT "repe cmpsb", 5, 0x20003, 0x21000,
			0x21000, 0, ""),
		S("REP INSB", "mov edi, 0x20ffd; mov ecx, 8; " AT "rep insb", 5, 0, 0x21000, 0x21000, 2, "i80.1 i80.1 i80.1"),
		S("REP INSD, target half missing", "mov edi, 0x20ffa; mov ecx, 8; " AT "rep insd", 7, 0, 0x20ffe, 0x21000, 2,
			"i80.4"),
		S("REP OUTSB", "mov esi, 0x20ffd; mov ecx, 8; " AT "rep outsb", 5, 0x21000, 0, 0x21000, 0,
			"o80.1=00 o80.1=00 o80.1=00"),
		S("REP INSB, first missing: no port is read", "mov edi, 0x21000; mov ecx, 8; " AT "rep insb", 8, 0, 0x21000,
			0x21000, 2, ""),
		S("INSB, missing", "mov edi, 0x21000; mov ecx, 8; " AT "insb", 8, 0, 0x21000, 0x21000, 2, ""),
	};

	for (unsigned i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rig rig;

		rig_start(&rig, LONG);
		tables(&rig);
		rig.exit = device;
		seen[0] = next_byte = 0;
		rig.r.rdx = 0x80;
		rig_run(&rig, t[i].code);
		expect_outcome(&rig, t[i].name, PF, t[i].error);
		expect(t[i].name, rig.s2.cr2, t[i].cr2);
		expect(t[i].name, rig.r2.rcx, t[i].rcx);
		expect(t[i].name, rig.r2.rsi, t[i].rsi);
		expect(t[i].name, rig.r2.rdi, t[i].rdi);
		expect_seen(t[i].name, t[i].seen);
		rig_end(&rig);
	}
	VALUE(LONG, "REP with RCX 0 touches nothing", 64, "xor ecx, ecx; mov esi, 0x21000; mov edi, esi; rep movsb; rep stosb; "
		"repe cmpsb; xor eax, eax; hlt", 0, tables(rig));
	VALUE(LONG, "67h: ECX counts, upper halves go", 64, "mov rcx, 0x500000002; mov rdi, 0x500004000; mov al, 1; "
		".byte 0x67; rep stosb; lea rax, [rdi + rcx]; hlt", 0x4002);
	VALUE(REAL, "DI wraps", 16, "mov di, 0xfffe; mov cx, 4; mov al, 0; mov eax, 0; mov es, cx; rep stosb; mov ax, di; hlt",
		2, rig_poke(rig, 0, 4, 0));
	CASE(REAL, "STOSW at FFFF", GP, ANY, 16, "mov di, 0xffff; " AT "stosw; hlt");
	VALUE(LONG, "MOVSB over itself fills", 64, "mov byte ptr [0x4000], 0x5a; mov esi, 0x4000; mov edi, 0x4001; "
		"mov ecx, 20; rep movsb; movzx eax, byte ptr [0x4014]; hlt", 0x5a);
}

/* ---- code that changes itself ---- */

#define SELF(m, name, bits, text, want, ...) VALUE(m, name, bits, text, want, __VA_ARGS__)
static void self_modifying(void)
{
	static const enum rig_mode modes[] = { PROT, LONG, PROT3, LONG3, COMPAT };
	for (unsigned i = 0; i < 5; i++) {
		SELF(modes[i], "next instruction", 32, "mov ebx, 0x8000; nop; mov byte ptr [ebx + 13], 7; nop; nop; "
			"mov eax, 1; hlt", 7, (void)0);
		SELF(modes[i], "a loop's body", 32, "mov ebx, 0x800d; xor eax, eax; mov ecx, 5; nop; 1: add eax, 1; "
			"inc byte ptr [ebx + 2]; loop 1b; hlt", 15, (void)0);
	}
	SELF(LONG, "by STOSB", 64, "mov edi, 0x8017; mov al, 0x90; mov ecx, 2; cld; nop; nop; nop; rep stosb; mov eax, 5; "
		".byte 0xeb, 0xfe; hlt", 5);
	SELF(LONG, "by PUSH", 64, "lea rsp, [rip + 1f + 8]; mov rbx, 0x9090909090909090; mov eax, 6; push rbx; "
		"1: .byte 0xeb, 0xfe, 0xeb, 0xfe, 0xeb, 0xfe, 0xeb, 0xfe; hlt", 6);
	SELF(LONG, "by CALL's return address", 64, "mov rbx, [rip + 2f]; lea rsp, [rip + 1f + 8]; call 1f; 2: hlt; nop; nop; "
		"nop; nop; nop; nop; nop; nop; 1: .rept 8; .byte 0xf4; .endr; hlt", 0, rig->r.rax = 0);
	SELF(LONG, "by SSE", 64, "movups xmm0, [rip + 2f]; mov eax, 3; movups [rip + 1f], xmm0; 1: .rept 8; .byte 0xeb, 0xfe; "
		".endr; hlt; 2: .rept 16; nop; .endr", 3);
	SELF(LONG, "by LOCK XCHG", 64, "mov ecx, 0x9090; xor eax, eax; xchg [rip + 1f], cx; 1: .byte 0xeb, 0xfe; inc eax; hlt",
		1);
	SELF(LONG, "by a word", 64, "xor eax, eax; mov word ptr [rip + 1f], 0x9090; 1: .byte 0xeb, 0xfe; inc eax; hlt", 1);
	SELF(REAL, "in real mode", 16, "mov ax, cs; mov ds, ax; mov eax, 0; mov byte ptr [0x11], 9; nop; mov al, 1; hlt", 9,
		rig_poke(rig, 0, 1, 0));
	SELF(LONG, "the second page of an instruction", 64, "mov ebx, 0x12ffe; mov byte ptr [rbx], 0xb8; "
		"mov dword ptr [rbx + 1], 1; mov byte ptr [rbx + 5], 0xc3; call rbx; mov ecx, eax;"
	     "mov byte ptr [rbx + 2], 1; call rbx; add eax, ecx; hlt", 0x102);
	SELF(LONG, "data beside code, many times", 64, "lea rbx, [rip + 1f]; mov ecx, 1000; xor eax, eax; 2: add [rbx], ecx; "
		"inc eax; loop 2b; hlt; .balign 8; 1: .long 0", 1000);
	SELF(LONG, "a patched call target", 64, "mov ebx, 0x12000; mov dword ptr [rbx], 0x01c0ff; "
		"mov byte ptr [rbx + 2], 0xc3; xor eax, eax; mov ecx, 50; 1: call rbx; xor byte ptr [rbx + 1], 8;"
	     "loop 1b; hlt", 0);
}

int main(void)
{
	mmio();
	ports();
	string_faults();
	self_modifying();
	return rig_summary();
}
