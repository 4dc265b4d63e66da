/*
 * Which mnemonic goes to which rule of cpu/. One line each. RULE_ENDS: the
 * rule may change RIP, the mode, a mapping or code, or queue work for
 * KVM_RUN's loop, so the block ends with it.
 */
#include "xlat/internal.h"

#define M(name) ZYDIS_MNEMONIC_##name
static const struct rule_binding bindings[] = {
	/* control registers, caches, halt */
	{ M(CLTS), RULE_ENDS, rule_clts }, { M(LMSW), RULE_ENDS, rule_lmsw }, { M(SMSW), RULE_ENDS, rule_smsw },
	{ M(XSETBV), RULE_ENDS, rule_xsetbv }, { M(XGETBV), 0, rule_xgetbv }, { M(INVLPG), RULE_ENDS, rule_invlpg },
	{ M(INVPCID), RULE_ENDS, rule_invpcid }, { M(WBINVD), 0, rule_wbinvd },
	{ M(INVD), 0, rule_invd }, { M(HLT), RULE_ENDS, rule_hlt }, { M(MONITOR), 0, rule_monitor },
	{ M(MWAIT), RULE_ENDS, rule_mwait }, { M(CLFLUSH), 0, rule_clflush }, { M(CLFLUSHOPT), 0, rule_clflush },
	{ M(CLWB), 0, rule_clflush }, { M(RSM), RULE_ENDS, rule_rsm }, { M(GETSEC), RULE_ENDS, rule_getsec },
	/* flags */
	{ M(CLD), 0, rule_direction }, { M(STD), 0, rule_direction }, { M(CLI), RULE_ENDS, rule_cli }, { M(STI), RULE_ENDS, rule_sti }, { M(CLAC), RULE_ENDS, rule_clac },
	{ M(STAC), RULE_ENDS, rule_stac }, { M(PUSHF), 0, rule_pushf }, { M(PUSHFD), 0, rule_pushf }, { M(PUSHFQ), 0, rule_pushf },
	{ M(POPF), RULE_ENDS, rule_popf }, { M(POPFD), RULE_ENDS, rule_popf }, { M(POPFQ), RULE_ENDS, rule_popf },
	/* descriptor tables and segments */
	{ M(LGDT), RULE_ENDS, rule_lgdt }, { M(LIDT), RULE_ENDS, rule_lidt }, { M(SGDT), RULE_ENDS, rule_sgdt }, { M(SIDT), RULE_ENDS, rule_sidt },
	{ M(LLDT), RULE_ENDS, rule_lldt }, { M(LTR), RULE_ENDS, rule_ltr }, { M(SLDT), RULE_ENDS, rule_sldt }, { M(STR), RULE_ENDS, rule_str },
	{ M(LAR), 0, rule_lar }, { M(LSL), 0, rule_lsl }, { M(VERR), 0, rule_verr }, { M(VERW), 0, rule_verw }, { M(ARPL), 0, rule_arpl },
	{ M(LDS), RULE_ENDS, rule_load_far_pointer }, { M(LES), RULE_ENDS, rule_load_far_pointer },
	{ M(LFS), RULE_ENDS, rule_load_far_pointer }, { M(LGS), RULE_ENDS, rule_load_far_pointer },
	{ M(LSS), RULE_ENDS, rule_load_far_pointer }, { M(SWAPGS), 0, rule_swapgs },
	{ M(RDFSBASE), 0, rule_fsgsbase }, { M(RDGSBASE), 0, rule_fsgsbase }, { M(WRFSBASE), 0, rule_fsgsbase },
	{ M(WRGSBASE), 0, rule_fsgsbase },
	/* transfers */
	{ M(IRET), RULE_ENDS, rule_iret }, { M(IRETD), RULE_ENDS, rule_iret }, { M(IRETQ), RULE_ENDS, rule_iret },
	{ M(INT), RULE_ENDS, rule_int }, { M(INT3), RULE_ENDS, rule_int3 }, { M(INTO), RULE_ENDS, rule_into }, { M(INT1), RULE_ENDS, rule_int1 },
	{ M(SYSCALL), RULE_ENDS, rule_syscall }, { M(SYSRET), RULE_ENDS, rule_sysret }, { M(SYSENTER), RULE_ENDS, rule_sysenter },
	{ M(SYSEXIT), RULE_ENDS, rule_sysexit },
	/* MSRs, CPUID, time */
	{ M(RDMSR), RULE_ENDS, rule_rdmsr }, { M(WRMSR), RULE_ENDS, rule_wrmsr }, { M(CPUID), RULE_ENDS, rule_cpuid },
	{ M(RDTSC), 0, rule_rdtsc }, { M(RDTSCP), 0, rule_rdtscp }, { M(RDPMC), 0, rule_rdpmc }, { M(RDPID), 0, rule_rdpid },
	{ M(RDRAND), 0, rule_rdrand }, { M(RDSEED), 0, rule_rdrand },
	/* ports and strings */
	{ M(IN), RULE_ENDS, rule_in }, { M(OUT), RULE_ENDS, rule_out },
	{ M(INSB), RULE_ENDS, rule_ins }, { M(INSW), RULE_ENDS, rule_ins }, { M(INSD), RULE_ENDS, rule_ins },
	{ M(OUTSB), RULE_ENDS, rule_outs }, { M(OUTSW), RULE_ENDS, rule_outs }, { M(OUTSD), RULE_ENDS, rule_outs },
	{ M(MOVSB), RULE_ENDS, rule_movs }, { M(MOVSW), RULE_ENDS, rule_movs }, { M(MOVSD), RULE_ENDS, rule_movs }, { M(MOVSQ), RULE_ENDS, rule_movs },
	{ M(STOSB), RULE_ENDS, rule_stos }, { M(STOSW), RULE_ENDS, rule_stos }, { M(STOSD), RULE_ENDS, rule_stos }, { M(STOSQ), RULE_ENDS, rule_stos },
	{ M(LODSB), RULE_ENDS, rule_lods }, { M(LODSW), RULE_ENDS, rule_lods }, { M(LODSD), RULE_ENDS, rule_lods }, { M(LODSQ), RULE_ENDS, rule_lods },
	{ M(SCASB), RULE_ENDS, rule_scas }, { M(SCASW), RULE_ENDS, rule_scas }, { M(SCASD), RULE_ENDS, rule_scas }, { M(SCASQ), RULE_ENDS, rule_scas },
	{ M(CMPSB), RULE_ENDS, rule_cmps }, { M(CMPSW), RULE_ENDS, rule_cmps }, { M(CMPSD), RULE_ENDS, rule_cmps }, { M(CMPSQ), RULE_ENDS, rule_cmps },
	/* legacy */
	{ M(PUSHA), RULE_ENDS, rule_pusha }, { M(PUSHAD), RULE_ENDS, rule_pusha }, { M(POPA), RULE_ENDS, rule_popa }, { M(POPAD), RULE_ENDS, rule_popa },
	{ M(BOUND), 0, rule_bound }, { M(DAA), 0, rule_bcd }, { M(DAS), 0, rule_bcd }, { M(AAA), 0, rule_bcd }, { M(AAS), 0, rule_bcd },
	{ M(AAM), 0, rule_bcd }, { M(AAD), 0, rule_bcd }, { M(SALC), 0, rule_les_salc }, { M(ENTER), RULE_ENDS, rule_enter },
	{ M(XLAT), RULE_ENDS, rule_xlat }, { M(LOOP), RULE_ENDS, rule_loop }, { M(LOOPE), RULE_ENDS, rule_loop }, { M(LOOPNE), RULE_ENDS, rule_loop },
	{ M(JCXZ), RULE_ENDS, rule_loop }, { M(JECXZ), RULE_ENDS, rule_loop }, { M(JRCXZ), RULE_ENDS, rule_loop },
	/* x87, vector state */
	{ M(FXSAVE), RULE_ENDS, rule_fxsave }, { M(FXSAVE64), RULE_ENDS, rule_fxsave }, { M(FXRSTOR), 0, rule_fxrstor }, { M(FXRSTOR64), 0, rule_fxrstor },
	{ M(XSAVE), RULE_ENDS, rule_xsave }, { M(XSAVE64), RULE_ENDS, rule_xsave }, { M(XSAVEC), RULE_ENDS, rule_xsave }, { M(XSAVEC64), RULE_ENDS, rule_xsave },
	{ M(XSAVEOPT), RULE_ENDS, rule_xsave }, { M(XSAVEOPT64), RULE_ENDS, rule_xsave }, { M(XSAVES), RULE_ENDS, rule_xsave }, { M(XSAVES64), RULE_ENDS, rule_xsave },
	{ M(XRSTOR), 0, rule_xrstor }, { M(XRSTOR64), 0, rule_xrstor }, { M(XRSTORS), 0, rule_xrstor }, { M(XRSTORS64), 0, rule_xrstor },
	{ M(FNSTENV), RULE_ENDS, rule_fnstenv }, { M(FLDENV), 0, rule_fldenv }, { M(FNSAVE), RULE_ENDS, rule_fnsave }, { M(FRSTOR), 0, rule_frstor },
	{ M(MASKMOVDQU), RULE_ENDS, rule_maskmov }, { M(MASKMOVQ), RULE_ENDS, rule_maskmov }, { M(VMASKMOVDQU), RULE_ENDS, rule_maskmov },
	{ M(VMASKMOVPS), RULE_ENDS, rule_vmaskmov }, { M(VMASKMOVPD), RULE_ENDS, rule_vmaskmov },
	{ M(VPMASKMOVD), RULE_ENDS, rule_vmaskmov }, { M(VPMASKMOVQ), RULE_ENDS, rule_vmaskmov },
	{ M(VGATHERDPS), RULE_ENDS, rule_gather }, { M(VGATHERDPD), RULE_ENDS, rule_gather }, { M(VGATHERQPS), RULE_ENDS, rule_gather },
	{ M(VGATHERQPD), RULE_ENDS, rule_gather }, { M(VPGATHERDD), RULE_ENDS, rule_gather }, { M(VPGATHERDQ), RULE_ENDS, rule_gather },
	{ M(VPGATHERQD), RULE_ENDS, rule_gather }, { M(VPGATHERQQ), RULE_ENDS, rule_gather },
	/* CET; ENDBR32, ENDBR64 and RDSSP are NOPs where it is off */
	{ M(ENDBR32), 0, rule_endbranch }, { M(ENDBR64), 0, rule_endbranch }, { M(INCSSPD), 0, rule_incssp }, { M(INCSSPQ), 0, rule_incssp },
	{ M(RDSSPD), 0, rule_rdssp }, { M(RDSSPQ), 0, rule_rdssp }, { M(WRSSD), RULE_ENDS, rule_wrss }, { M(WRSSQ), RULE_ENDS, rule_wrss },
	{ M(WRUSSD), RULE_ENDS, rule_wruss }, { M(WRUSSQ), RULE_ENDS, rule_wruss }, { M(RSTORSSP), RULE_ENDS, rule_rstorssp },
	{ M(SAVEPREVSSP), RULE_ENDS, rule_saveprevssp }, { M(SETSSBSY), RULE_ENDS, rule_setssbsy }, { M(CLRSSBSY), RULE_ENDS, rule_clrssbsy },
	/* VMX */
	{ M(VMXON), RULE_ENDS, rule_vmx }, { M(VMXOFF), RULE_ENDS, rule_vmx }, { M(VMCLEAR), RULE_ENDS, rule_vmx }, { M(VMPTRLD), RULE_ENDS, rule_vmx },
	{ M(VMPTRST), RULE_ENDS, rule_vmx }, { M(VMREAD), 0, rule_vmx }, { M(VMWRITE), 0, rule_vmx },
	{ M(VMLAUNCH), RULE_ENDS, rule_vmx }, { M(VMRESUME), RULE_ENDS, rule_vmx }, { M(INVEPT), RULE_ENDS, rule_vmx },
	{ M(INVVPID), RULE_ENDS, rule_vmx }, { M(VMCALL), RULE_ENDS, rule_vmcall }, { M(VMMCALL), RULE_ENDS, rule_vmcall },
	{ M(VMFUNC), RULE_ENDS, rule_vmfunc },
	{ M(ENCLS), RULE_ENDS, rule_encls }, { M(TPAUSE), RULE_ENDS, rule_user_wait }, { M(UMWAIT), RULE_ENDS, rule_user_wait },
	{ M(UMONITOR), 0, rule_umonitor },
};
#undef M

static uint8_t index_of[ZYDIS_MNEMONIC_MAX_VALUE + 1];   /* 1 + index into bindings */
_Static_assert(ARRAY_SIZE(bindings) < 255, "index_of is of bytes");

static __attribute__((constructor)) void rules_index(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bindings); i++)
		index_of[bindings[i].mnemonic] = i + 1;
}

const struct rule_binding *rule_find(unsigned mnemonic)
{
	if (mnemonic > ZYDIS_MNEMONIC_MAX_VALUE || !index_of[mnemonic])
		return NULL;
	return &bindings[index_of[mnemonic] - 1];
}

/* CLD, STD: the host's DF stays clear for C code. */
void rule_direction(struct cpu *cpu, const struct insn *insn)
{
	if (insn->mnemonic == ZYDIS_MNEMONIC_STD)
		cpu->rflags |= RFLAGS_DF;
	else
		cpu->rflags &= ~(uint64_t)RFLAGS_DF;
}

/* A store through CS in protected mode. */
void rule_cs_store(struct cpu *cpu, const struct insn *insn) { cpu_raise_gp(cpu); }

/* More than 15 bytes. */
void rule_too_long(struct cpu *cpu, const struct insn *insn) { cpu_raise_gp(cpu); }

/* An x87 or MMX instruction while CR0.EM or CR0.TS is set. */
void rule_x87_unavailable(struct cpu *cpu, const struct insn *insn)
{
	bool mmx = insn->map != 0;
	if (mmx && cpu->cr0 & CR0_EM)
		cpu_raise_ud(cpu);
	cpu_raise(cpu, VEC_NM);
}

/* An SSE or AVX instruction while CR0.EM, CR0.TS, CR4 or XCR0 forbid it. */
void rule_simd_unavailable(struct cpu *cpu, const struct insn *insn)
{
	bool vex = insn->encoding == ENC_VEX;
	if (vex && (!(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6 || !cpu_protected(cpu)))
		cpu_raise_ud(cpu);
	if (!vex && (cpu->cr0 & CR0_EM || !(cpu->cr4 & CR4_OSFXSR)))
		cpu_raise_ud(cpu);
	cpu_raise(cpu, VEC_NM);
}
