/*
 * cpu/fpu -- the guest's x87 and vector state. It stays in the host's
 * registers while C code of the library runs. fpu_park() stores it before
 * anything that may use vector registers (Zydis, stdio, the client);
 * fpu_unpark() loads it before translated code.
 */
#ifndef ANYKVM_FPU_H
#define ANYKVM_FPU_H

#include "cpu/cpu.h"

uint64_t fpu_xcr0_supported(void);       /* components offered to guests: x87, SSE, and AVX if the host has it */
unsigned fpu_xsave_size(void);           /* bytes of cpu->xsave */
void fpu_park(struct cpu *cpu);          /* also restores the host's MXCSR and x87 control word */
void fpu_unpark(struct cpu *cpu);
void fpu_reset(struct cpu *cpu, bool init);
/* cpu->xsave must be parked. For KVM_GET/SET_FPU, KVM_GET/SET_XSAVE. set: -EINVAL for bad MXCSR or XSTATE_BV. */
void fpu_get_xsave(struct cpu *cpu, void *image, unsigned size);
int fpu_set_xsave(struct cpu *cpu, const void *image, unsigned size);

#endif
