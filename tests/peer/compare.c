/* What is compared after a case: the fields that the manual defines, less what Bochs 2.7 has wrong. */
#include "fuzz.h"

enum { AR_UNUSABLE = 0x10000, RFLAGS_RF = 0x10000 };

const uint32_t encodings[] = {
#define VMCS_FIELD(encoding, ...) encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};
const unsigned encodings_count = ARRAY_SIZE(encodings);

uint64_t field(uint32_t f)
{
	uint64_t v = 0;

	vmread(f, &v);
	return v;
}

enum { MEMORY = 0x7f8383 /* scaling, address size, segment, index, base */, REGISTER_1 = 0x78, IS_REGISTER = 0x400,
       INDEX_INVALID = 1 << 22, INDEX = 0x3c0003, BASE_INVALID = 1 << 27, BASE = 0x7800000 };
#define REGISTER_2 0xf0000000u

/* VM-exit instruction information: the bits that are defined for this exit. */
static uint64_t instruction_info(uint64_t info)
{
	uint64_t bits = MEMORY | BASE | BASE_INVALID;

	switch (field(F_vm_exit_reason)) {
	case EXIT_IO:
		if (!(field(F_exit_qualification) & 1 << 4))
			return 0;
		return info & (field(F_exit_qualification) & 1 << 3 ? 0x380 : 0x38380);      /* INS has no segment */
	case EXIT_RDRAND:
	case EXIT_RDSEED:
		return info & 0x78;              /* not the operand size: Bochs 2.7 forgets a 66h prefix */
	case EXIT_INVEPT:
	case EXIT_INVVPID:
	case EXIT_INVPCID:
		bits |= REGISTER_2;
		break;
	case EXIT_VMREAD:
	case EXIT_VMWRITE:
		bits |= REGISTER_2 | IS_REGISTER;
		break;
	case EXIT_GDTR_IDTR:
		bits |= 3 << 28;                 /* not the operand size: Bochs 2.7 leaves it 0 */
		break;
	case EXIT_LDTR_TR:
		bits |= 3 << 28 | IS_REGISTER;
		break;
	case EXIT_VMCLEAR:
	case EXIT_VMPTRLD:
	case EXIT_VMPTRST:
	case EXIT_VMXON:
		break;
	default:
		return 0;
	}
	if (bits & info & IS_REGISTER)
		bits = (bits & ~(MEMORY | BASE | BASE_INVALID)) | REGISTER_1;
	if (info & INDEX_INVALID)
		bits &= ~INDEX;
	if (info & BASE_INVALID)
		bits &= ~BASE;
	return info & bits;
}

static bool defines_length(uint32_t reason)
{
	uint32_t info = field(F_vm_exit_intr_info), type = info >> INTR_INFO_TYPE_SHIFT & 7;

	if (reason == EXIT_EXCEPTION_NMI)
		return (info & INTR_INFO_VALID) && (type == 5 || type == 6);
	return reason >= EXIT_TASK_SWITCH && reason != EXIT_MTF && reason != EXIT_TPR_BELOW_THRESHOLD && reason != EXIT_EPT_VIOLATION &&
	       reason != EXIT_EPT_MISCONFIG && reason != EXIT_PREEMPTION_TIMER && reason != EXIT_APIC_ACCESS && reason != EXIT_APIC_WRITE;
}

/* INS, OUTS, LMSW with memory, and EPT violations of linear accesses. */
static bool defines_linear_address(uint32_t reason)
{
	uint64_t q = field(F_exit_qualification);

	return (reason == EXIT_IO && (q & 1 << 4)) || (reason == EXIT_CR_ACCESS && (q >> 4 & 3) == 3 && (q & 1 << 6)) ||
	       (reason == EXIT_EPT_VIOLATION && (q & 1 << 7));
}

/* A displacement has as many bits as the instruction's addresses. */
uint64_t qualification(void)
{
	static const uint64_t sizes[] = { 0xffff, 0xffffffff, ~0ull };

	switch (field(F_vm_exit_reason)) {
	case EXIT_EXCEPTION_NMI:                 /* which byte of a page operands of several parts fault at is not defined */
		return (field(F_vm_exit_intr_info) & 0xff) == 14 ? field(F_exit_qualification) & ~0xfffull : field(F_exit_qualification);
	case EXIT_EPT_VIOLATION:                 /* advanced information only if both have it */
		return field(F_exit_qualification) & (caps[EPT_VPID_MSR] & peer_caps[EPT_VPID_MSR] & EPT_CAP_ADV_INFO ? ~0ull : ~0x1e00ull);
	case EXIT_VMCLEAR: case EXIT_VMPTRLD: case EXIT_VMPTRST: case EXIT_VMREAD: case EXIT_VMWRITE: case EXIT_VMXON:
	case EXIT_GDTR_IDTR: case EXIT_LDTR_TR: case EXIT_INVEPT: case EXIT_INVVPID: case EXIT_INVPCID:
		return field(F_exit_qualification) & sizes[field(F_vmx_instruction_info) >> 7 & 3];
	}
	return field(F_exit_qualification);
}

/* What the manual leaves undefined is read as 0. */
static uint64_t defined_value(uint32_t f)
{
	uint64_t v = field(f), info, reason = field(F_vm_exit_reason);

	switch (f) {
	case F_exit_qualification:
		return qualification();
	case F_vmx_instruction_info:
		return instruction_info(v);
	case F_vm_exit_instruction_len:
		return defines_length(reason) ? v : 0;
	case F_guest_linear_address:
		return defines_linear_address(reason) ? v : 0;
	case F_guest_physical_address:
		return reason == EXIT_EPT_VIOLATION || reason == EXIT_EPT_MISCONFIG ? v : 0;
	case F_vm_exit_intr_error_code:
		info = field(F_vm_exit_intr_info);
		return (info & INTR_INFO_VALID) && (info & INTR_INFO_HAS_ERROR) && (field(F_guest_cr0) & 1) ? v : 0;
	case F_vm_exit_intr_info:
		if (!(field(F_guest_cr0) & 1))
			v &= ~INTR_INFO_HAS_ERROR;       /* Bochs 2.7 sets it in real mode */
		return v & INTR_INFO_VALID ? v : 0;
	case F_idt_vectoring_info_field:
		return v & INTR_INFO_VALID ? v : 0;
	case F_idt_vectoring_error_code:
		info = field(F_idt_vectoring_info_field);
		return (info & INTR_INFO_VALID) && (info & INTR_INFO_HAS_ERROR) ? v : 0;
	}
	return v;
}

/* Which segment register's base, limit or access rights a field is; -1: something else. */
static int segment_of(uint32_t f)
{
	static const uint32_t first[] = { F_guest_es_base, F_guest_es_limit, F_guest_es_ar_bytes };

	for (unsigned i = 0; i < ARRAY_SIZE(first); i++)
		if (f >= first[i] && f < first[i] + 16)
			return (f - first[i]) / 2;
	return -1;
}

_Static_assert(ARRAY_SIZE(encodings) <= FIELDS_MAX, "the report has room for each field");

static bool compared(unsigned i, bool entered)
{
	uint32_t f = encodings[i];

	if (!(report->present[i / 64] & config.c.peer_present[i / 64] & 1ull << i % 64))
		return false;
	if (f == F_vm_instruction_error)
		return false;                    /* in the verdict, and else it keeps its history */
	if ((f >> 10 & 3) == 1)
		return entered;                  /* an entry that failed says only why */
	return (f >> 10 & 3) == 2 || f == F_vm_entry_intr_info_field || f == F_vm_entry_controls;
}

/* A VM exit saves of an unusable segment register that it is unusable; the rest is not defined. */
static uint64_t value_of(uint32_t f, bool entered)
{
	int seg = segment_of(f);

	if (f == F_guest_rflags && entered && field(F_vm_exit_reason) != EXIT_PREEMPTION_TIMER)
		return field(f) & ~RFLAGS_RF;    /* Bochs 2.7 does not set it for faults */
	if (f == F_guest_dr7)
		return field(f) & ~0x1800ull;    /* bits that it keeps */
	if (f == F_guest_cs_ar_bytes && !(field(F_guest_cr0) & 1))
		return 0;                        /* it changes the type of CS in real mode */
	if (entered && seg >= 0 && (field(F_guest_es_ar_bytes + 2 * seg) & AR_UNUSABLE))
		return AR_UNUSABLE;
	return defined_value(f);
}

uint64_t hash_of_state(bool entered)
{
	uint64_t h = 0xcbf29ce484222325;

	for (unsigned i = 0; i < ARRAY_SIZE(encodings); i++)
		if (compared(i, entered))
			h = (h ^ value_of(encodings[i], entered)) * 0x100000001b3 ^ h >> 31;
	return h;
}

void dump_state(bool entered)
{
	for (unsigned i = 0; i < ARRAY_SIZE(encodings); i++)
		if (compared(i, entered))
			report->values[i] = value_of(encodings[i], entered);
}

