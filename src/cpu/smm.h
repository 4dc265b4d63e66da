/*
 * cpu/smm -- system management mode: the state-save area, the state in which
 * the handler starts, and RSM. When an SMI is taken, and what becomes of VMX
 * operation meanwhile, is for kvm/ and vmx/ to say:
 *
 *     SMI: smm_save()   VMX operation is left     smm_enter()
 *     RSM: smm_leave()  VMX operation goes on     smm_resume()
 */
#ifndef ANYKVM_SMM_H
#define ANYKVM_SMM_H

#include "cpu/cpu.h"

enum { SMM_IMAGE_AT = 0xfe00, SMM_IMAGE_SIZE = 0x200 };          /* the state-save area, from SMBASE on */

struct smm_image { uint8_t bytes[SMM_IMAGE_SIZE]; };

/*
 * The processor's state as the state-save area has it: AMD64's layout for guests with long mode, the P6 one for others.
 * VMX registers are not in it; CR4.VMXE is.
 */
void smm_save(const struct cpu *cpu, struct smm_image *image);
/* Into SMM: the image goes to memory, the handler is next. false: there is no memory at SMBASE; nothing else has changed then. */
bool smm_enter(struct cpu *cpu, const struct smm_image *image);
/* Out of SMM, the image fetched. The registers are still the handler's. false: no memory, still in SMM. */
bool smm_leave(struct cpu *cpu, struct smm_image *image);
/* Loads the registers from the image. false: they are no state that a processor can be in; the processor shuts down. */
bool smm_resume(struct cpu *cpu, const struct smm_image *image);
/* The mode alone, as the client sets it: which address space the processor sees. */
void smm_set(struct cpu *cpu, bool on);

#endif
