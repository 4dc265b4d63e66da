/* cpu/control -- the virtual TPR, shared by MOV CR8 and WRMSR of the x2APIC's TPR. */
#ifndef ANYKVM_CONTROL_H
#define ANYKVM_CONTROL_H

#include "cpu/rules.h"

enum { VAPIC_TPR = 0x80 };

/* Writes VTPR of the virtual-APIC page; below the threshold, exits after the instruction. */
void virtual_tpr_write(struct cpu *cpu, uint32_t vtpr);

#endif
