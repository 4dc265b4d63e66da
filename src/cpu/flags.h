/* Architectural bits of RFLAGS, CR0, CR4, EFER, DR6/7, and exception vectors. */
#ifndef ANYKVM_FLAGS_H
#define ANYKVM_FLAGS_H

enum { RFLAGS_CF = 1, RFLAGS_FIXED = 2, RFLAGS_PF = 4, RFLAGS_AF = 0x10, RFLAGS_ZF = 0x40, RFLAGS_SF = 0x80,
       RFLAGS_TF = 0x100, RFLAGS_IF = 0x200, RFLAGS_DF = 0x400, RFLAGS_OF = 0x800, RFLAGS_IOPL = 0x3000,
       RFLAGS_NT = 0x4000, RFLAGS_RF = 0x10000, RFLAGS_VM = 0x20000, RFLAGS_AC = 0x40000, RFLAGS_VIF = 0x80000,
       RFLAGS_VIP = 0x100000, RFLAGS_ID = 0x200000, RFLAGS_ARITH = 0x8d5, RFLAGS_VALID = 0x3f7fd5 };

#define CR0_PE 0x1ull
#define CR0_MP 0x2ull
#define CR0_EM 0x4ull
#define CR0_TS 0x8ull
#define CR0_ET 0x10ull
#define CR0_NE 0x20ull
#define CR0_WP 0x10000ull
#define CR0_AM 0x40000ull
#define CR0_NW 0x20000000ull
#define CR0_CD 0x40000000ull
#define CR0_PG 0x80000000ull

#define CR4_VME 0x1ull
#define CR4_PVI 0x2ull
#define CR4_TSD 0x4ull
#define CR4_DE 0x8ull
#define CR4_PSE 0x10ull
#define CR4_PAE 0x20ull
#define CR4_MCE 0x40ull
#define CR4_PGE 0x80ull
#define CR4_PCE 0x100ull
#define CR4_OSFXSR 0x200ull
#define CR4_OSXMMEXCPT 0x400ull
#define CR4_UMIP 0x800ull
#define CR4_LA57 0x1000ull
#define CR4_VMXE 0x2000ull
#define CR4_SMXE 0x4000ull
#define CR4_FSGSBASE 0x10000ull
#define CR4_PCIDE 0x20000ull
#define CR4_OSXSAVE 0x40000ull
#define CR4_SMEP 0x100000ull
#define CR4_SMAP 0x200000ull
#define CR4_PKE 0x400000ull
#define CR4_CET 0x800000ull

#define EFER_SCE 0x1ull
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull
#define EFER_NX 0x800ull
#define EFER_SVME 0x1000ull

#define DR6_FIXED 0xffff0ff0ull
#define DR6_BD 0x2000ull
#define DR6_BS 0x4000ull
#define DR6_BT 0x8000ull
#define DR7_FIXED 0x400ull
#define DR7_GD 0x2000ull

enum { VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7, VEC_DF = 8,
       VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17, VEC_MC = 18, VEC_XM = 19,
       VEC_VE = 20, VEC_CP = 21 };

/* Page-fault error code. */
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16, PF_PK = 32, PF_SS = 64 };

#endif
