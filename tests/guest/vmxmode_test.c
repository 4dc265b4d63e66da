/* VMX instructions in each mode and at each privilege level, outside VMX operation and in VMX root operation. */
#include "rig.h"

enum { VMXE = 0x2000 };

/* As bytes, so that they are the same in each mode. Operands in memory: by (R|E)BX, or by BP and DI. */
#define INVEPT_ ".byte 0x66, 0x0f, 0x38, 0x80, 0x03"
#define INVVPID_ ".byte 0x66, 0x0f, 0x38, 0x81, 0x03"
#define VMXON_ ".byte 0xf3, 0x0f, 0xc7, 0x33"
#define FOR_EACH(X, ...) \
	X("VMCLEAR", ".byte 0x66, 0x0f, 0xc7, 0x33", __VA_ARGS__) X("VMPTRLD", ".byte 0x0f, 0xc7, 0x33", __VA_ARGS__) \
	X("VMPTRST", ".byte 0x0f, 0xc7, 0x3b", __VA_ARGS__) X("VMREAD", ".byte 0x0f, 0x78, 0xc0", __VA_ARGS__) \
	X("VMREAD to memory", ".byte 0x0f, 0x78, 0x03", __VA_ARGS__) X("VMWRITE", ".byte 0x0f, 0x79, 0xc0", __VA_ARGS__) \
	X("VMLAUNCH", ".byte 0x0f, 0x01, 0xc2", __VA_ARGS__) X("VMRESUME", ".byte 0x0f, 0x01, 0xc3", __VA_ARGS__) \
	X("VMXOFF", ".byte 0x0f, 0x01, 0xc4", __VA_ARGS__) X("INVEPT", INVEPT_, __VA_ARGS__) X("INVVPID", INVVPID_, __VA_ARGS__)

static const enum rig_mode modes[] = { REAL, PROT, PROT3, PROT16, VM86, LONG, LONG3, COMPAT, COMPAT3 };
enum { MODES = sizeof(modes) / sizeof(*modes) };

/* Whatever CR4.VMXE says. */
#define UNDEFINED(name, bytes, mode, vmxe) \
	CASE_WITH(mode, name " outside VMX operation", UD, ANY, 32, "nop; " AT bytes "; hlt", rig->s.cr4 |= vmxe; rig->r.rbx = RIG_DATA);

static void outside(void)
{
	for (unsigned i = 0; i < 2 * MODES; i++) {
		unsigned vmxe = i & 1 ? VMXE : 0;

		FOR_EACH(UNDEFINED, modes[i / 2], vmxe)
		UNDEFINED("VMFUNC", ".byte 0x0f, 0x01, 0xd4", modes[i / 2], vmxe)
	}
}

/* VMXON needs CR4.VMXE and a mode for VMX; then CPL 0; then IA32_FEATURE_CONTROL, which is not locked here. */
static void vmxon(void)
{
	for (unsigned i = 0; i < MODES; i++) {
		bool fit = modes[i] != REAL && modes[i] != VM86 && modes[i] != COMPAT && modes[i] != COMPAT3;

		UNDEFINED("VMXON without VMXE", VMXON_, modes[i], 0)
		CASE_WITH(modes[i], "VMXON with VMXE", fit ? GP : UD, ANY, 32, "nop; " AT VMXON_ "; hlt", rig->s.cr4 |= VMXE; rig->r.rbx = RIG_DATA);
	}
}

/* ---- in VMX root operation ---- */

#define ENTER \
	"mov ecx, 0x3a; mov eax, 5; xor edx, edx; wrmsr; mov ecx, 0x480; rdmsr; mov [0x30000], eax; mov qword ptr [0x4008], 0x30000; mov ebx, 0x4008; " \
	VMXON_ "; jbe 599f; mov ebx, 0x4000; xor eax, eax; xor ecx, ecx; "
#define TO(cs, ss) "push " #ss "; push 0x6800; push 2; push " #cs "; lea rdx, [rip + 1f]; push rdx; iretq; 599: hlt; 1: "
#define TO_USER TO(0x33, 0x2b)
#define TO_COMPAT TO(0x08, 0x10)

#define AT_CPL_3(name, bytes, unused) \
	CASE_WITH(LONG, name " at CPL 3", GP, 0, 64, ENTER TO_USER AT bytes "; hlt", rig->s.cr4 |= VMXE);
#define IN_COMPAT(name, bytes, unused) \
	CASE_WITH(LONG, name " in compatibility mode", UD, ANY, 64, ENTER TO_COMPAT AT bytes "; hlt", rig->s.cr4 |= VMXE);
/* VMfailInvalid or VMfailValid, or success: no fault, and on to HLT. */
#define AT_CPL_0(name, bytes, unused) \
	CASE_WITH(LONG, name " at CPL 0", DONE, ANY, 64, ENTER bytes "; jmp 598f; 599: ud2; 598: hlt", rig->s.cr4 |= VMXE);

static void in_root(void)
{
	FOR_EACH(AT_CPL_3, 0)
	AT_CPL_3("VMXON", VMXON_, 0)
	FOR_EACH(IN_COMPAT, 0)
	IN_COMPAT("VMXON", VMXON_, 0)
	FOR_EACH(AT_CPL_0, 0)
	AT_CPL_0("VMXON", VMXON_, 0)
	CASE_WITH(LONG, "VMFUNC in root operation", UD, ANY, 64, ENTER AT ".byte 0x0f, 0x01, 0xd4; 599: hlt", rig->s.cr4 |= VMXE);
	CASE_WITH(LONG, "VMXOFF, then VMXOFF", UD, ANY, 64, ENTER ".byte 0x0f, 0x01, 0xc4; jbe 599f; " AT ".byte 0x0f, 0x01, 0xc4; 599: hlt",
		rig->s.cr4 |= VMXE);
	CASE_WITH(LONG, "CR4.VMXE is fixed", GP, 0, 64, ENTER "mov rax, cr4; btr eax, 13; " AT "mov cr4, rax; 599: hlt", rig->s.cr4 |= VMXE);
	CASE_WITH(LONG, "an operand that is not canonical", GP, 0, 64, ENTER "mov rbx, 1; shl rbx, 47; " AT ".byte 0x0f, 0xc7, 0x33; 599: hlt",
		rig->s.cr4 |= VMXE);
	CASE_WITH(LONG, "an operand that is not mapped", PF, ANY, 64, ENTER "mov rbx, 1; shl rbx, 40; " AT ".byte 0x0f, 0xc7, 0x33; 599: hlt",
		rig->s.cr4 |= VMXE);
}

int main(void)
{
	outside();
	vmxon();
	in_root();
	return rig_summary();
}
