/*
 * The rules: one C function per instruction (or family) that cannot be copied.
 * Contract: cpu/cpu.h. xlat/rules.c binds mnemonics to them.
 */
#ifndef ANYKVM_RULES_H
#define ANYKVM_RULES_H

#include "cpu/cpu.h"

typedef void rule_fn(struct cpu *cpu, const struct insn *insn);

/* control.c: control and debug registers, caches, monitor, halt */
rule_fn rule_mov_cr, rule_mov_dr, rule_clts, rule_lmsw, rule_smsw, rule_xsetbv, rule_xgetbv;
rule_fn rule_invlpg, rule_invpcid, rule_wbinvd, rule_invd, rule_hlt, rule_monitor, rule_mwait, rule_pause, rule_umonitor,
        rule_user_wait, rule_encls;
rule_fn rule_clflush;                    /* CLFLUSH, CLFLUSHOPT, CLWB: translate and check the address */
rule_fn rule_getsec;
rule_fn rule_rsm;                        /* smm.c */
/* shadow_insn.c, branch_tracking.c */
rule_fn rule_incssp, rule_rdssp, rule_wrss, rule_wruss, rule_rstorssp, rule_saveprevssp, rule_setssbsy, rule_clrssbsy;
rule_fn rule_endbranch;
/* flags.c */
rule_fn rule_cli, rule_sti, rule_clac, rule_stac, rule_pushf, rule_popf;
/* descriptors.c */
rule_fn rule_lgdt, rule_lidt, rule_sgdt, rule_sidt, rule_lldt, rule_ltr, rule_sldt, rule_str;
rule_fn rule_lar, rule_lsl, rule_verr, rule_verw, rule_arpl;
rule_fn rule_mov_to_sreg, rule_mov_from_sreg, rule_push_sreg, rule_pop_sreg, rule_load_far_pointer; /* LDS LES LFS LGS LSS */
rule_fn rule_swapgs, rule_fsgsbase;      /* RDFSBASE RDGSBASE WRFSBASE WRGSBASE */
/* transfer.c: everything that changes CS; near ones with 16-bit or checked targets too */
rule_fn rule_jmp_far, rule_call_far, rule_ret_far, rule_iret, rule_int, rule_int3, rule_into, rule_int1;
rule_fn rule_syscall, rule_sysret, rule_sysenter, rule_sysexit;
/* msr.c, cpuid.c, time.c */
rule_fn rule_rdmsr, rule_wrmsr, rule_cpuid, rule_rdtsc, rule_rdtscp, rule_rdpmc, rule_rdpid, rule_rdrand; /* RDRAND and RDSEED */
/* io.c */
rule_fn rule_in, rule_out, rule_ins, rule_outs;
/* string.c: with or without REP, page by page with the host's own rep; interruptible (cpu->poll) between pages */
rule_fn rule_movs, rule_stos, rule_lods, rule_scas, rule_cmps;
/* legacy.c: not encodable in 64-bit mode, or odd stack forms */
rule_fn rule_pusha, rule_popa, rule_bound, rule_bcd;                       /* DAA DAS AAA AAS AAM AAD */
rule_fn rule_enter, rule_leave, rule_xlat, rule_les_salc;
rule_fn rule_push, rule_pop;             /* any form, any stack width: careful versions */
rule_fn rule_near_call, rule_near_ret, rule_near_jmp, rule_loop;             /* any size: careful versions; JCXZ family too */
/* fpustate.c: state images and their environment */
rule_fn rule_fxsave, rule_fxrstor, rule_xsave, rule_xrstor;                /* XSAVE/XSAVEC/XSAVEOPT/XSAVES, XRSTOR/XRSTORS */
rule_fn rule_fnstenv, rule_fldenv, rule_fnsave, rule_frstor, rule_maskmov; /* MASKMOVDQU MASKMOVQ */
/* vector.c: several accesses with partial completion */
rule_fn rule_vmaskmov, rule_gather;
/* vmx.c: checks of mode, CPL and operands that come before VMX's own; then CPU_EXIT_VMX_INSN or a VM exit */
rule_fn rule_vmx, rule_vmcall, rule_vmfunc;
/* MODE_INTERCEPT etc. decided: raises #UD */
rule_fn rule_ud;

/* ---- shared between the files of cpu/ (and used by vmx/ and kvm/) ---- */

/* segments.c */
/* Loads sreg (not CS) from selector under all the rules of MOV to segment register. */
void seg_load_selector(struct cpu *cpu, enum seg seg, uint16_t selector);
/* Real mode and virtual-8086 load. */
void seg_load_real(struct cpu *cpu, enum seg seg, uint16_t selector);
/* Reads the 8-byte descriptor; raises vector (#GP, #TS, #SS, #NP choices are the caller's) with selector if outside its table. */
uint64_t descriptor_read(struct cpu *cpu, uint16_t selector, unsigned fault_vector);
/* Expands an 8-byte descriptor. */
struct segment descriptor_unpack(uint64_t desc, uint16_t selector);
/* VMX access-rights format <-> struct segment. */
uint32_t segment_ar_bytes(const struct segment *s);
void segment_set_ar_bytes(struct segment *s, uint32_t ar);

/* transfer.c: delivery of events through the IDT, used by event.c */
void interrupt_deliver(struct cpu *cpu, const struct event *ev);
/* task.c */
enum task_reason { TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE };   /* VMX's numbers in the exit qualification */
void task_switch(struct cpu *cpu, uint16_t tss_selector, enum task_reason why, bool has_error, uint32_t error);

/* control.c: the checks and effects of MOV CR without intercepts. false: #GP(0) is due (nothing changed). */
bool cr0_write(struct cpu *cpu, uint64_t value);
bool cr3_write(struct cpu *cpu, uint64_t value);       /* bit 63: keep the PCID's entries, if PCIDE */
bool cr4_write(struct cpu *cpu, uint64_t value);
bool efer_write(struct cpu *cpu, uint64_t value);
bool xcr0_write(struct cpu *cpu, uint64_t value);
uint64_t cr4_allowed(const struct cpu *cpu);           /* bits that guest CPUID permits */
uint64_t efer_allowed(const struct cpu *cpu);
/* Loads the four PDPTEs of cr3 under PAE paging. false: a reserved bit is set. */
bool pdptrs_load(struct cpu *cpu, uint64_t cr3);

/* msr.c: host_initiated as for KVM_SET_MSRS. 0 fine, 1 #GP, 2 unknown. */
int msr_read(struct cpu *cpu, uint32_t index, uint64_t *value, bool host_initiated);
int msr_write(struct cpu *cpu, uint32_t index, uint64_t value, bool host_initiated);

/* cpuid.c: the supervisor state components that the guest's CPUID names and that there are. */
uint64_t xss_allowed(const struct cpu *cpu);
/* cpuid.c: what CPUID returns for leaf and subleaf, with the bits that follow the state (OSXSAVE, APIC, XSAVE sizes). */
void cpuid_lookup(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

/* intercept.c: one question per intercept; each exits if the control block says so, else returns. */
void intercept_io(struct cpu *cpu, uint16_t port, unsigned size, uint64_t qualification);
void intercept_msr(struct cpu *cpu, uint32_t index, bool write);
void intercept_primary(struct cpu *cpu, uint32_t control, uint32_t reason);      /* exits if the primary control bit is set */
void intercept_secondary(struct cpu *cpu, uint32_t control, uint32_t reason);
void intercept_always(struct cpu *cpu, uint32_t reason);                         /* exits in non-root operation */
void intercept_descriptor_table(struct cpu *cpu, const struct insn *insn, uint32_t reason);
/* VM-exit instruction information for insn's operands (memory operand, registers), in the layout that reason has. */
uint32_t intercept_insn_info(const struct cpu *cpu, const struct insn *insn);
void intercept_exception(struct cpu *cpu, const struct event *ev);               /* exits if the exception bitmap says so */

/* debug.c: data breakpoints: notes a hit of [addr, +size) in pending_debug (write: else a read); ports likewise (CR4.DE). */
void debug_data_access(struct cpu *cpu, uint64_t addr, unsigned size, bool write);
void debug_general_detect(struct cpu *cpu);      /* #DB before an access to a debug register while DR7.GD */
void debug_io_access(struct cpu *cpu, uint16_t port, unsigned size);

#endif
