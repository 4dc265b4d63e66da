/* The bare machine under the fuzzer: ports, MSRs, the disk, VMX instructions. No libc. */
#ifndef ANYKVM_TESTS_PEER_GUEST_H
#define ANYKVM_TESTS_PEER_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "peer.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

static inline void outb(uint16_t port, uint8_t v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline uint8_t inb(uint16_t port) { uint8_t v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline uint64_t rdmsr(uint32_t i) { uint32_t a, d; __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(i)); return (uint64_t)d << 32 | a; }
static inline void wrmsr(uint32_t i, uint64_t v) { __asm__ volatile("wrmsr" : : "c"(i), "a"((uint32_t)v), "d"((uint32_t)(v >> 32))); }

struct cpuid { uint32_t eax, ebx, ecx, edx; };
static inline struct cpuid cpuid(uint32_t leaf)
{
	struct cpuid c;
	__asm__ volatile("cpuid" : "=a"(c.eax), "=b"(c.ebx), "=c"(c.ecx), "=d"(c.edx) : "a"(leaf), "c"(0));
	return c;
}

/* machine.c */
void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);
void disk_read(uint32_t lba, uint32_t sectors, void *to);
void disk_write(uint32_t lba, uint32_t sectors, const void *from);
void power_off(void) __attribute__((noreturn));
/* Descriptor tables; an exception ends the guest through died(). */
void machine_init(void);
void died(uint32_t vector, uint64_t rip, uint64_t cr2) __attribute__((noreturn));
/* What a VM exit may have left different. */
void machine_restore(void);

/* All but vm_enter(): false if the instruction failed. */
bool vmx_on(void *region);
bool vmclear(void *vmcs);
bool vmptrld(void *vmcs);
bool vmwrite(uint64_t field, uint64_t value);
bool vmread(uint64_t field, uint64_t *value);
/*
 * VMLAUNCH or VMRESUME, the host's RIP with rip_flips inverted, L2's registers from and to gpr (in the processor's numbering; not
 * RSP). True after a VM exit; false: VMfail.
 */
bool vm_enter(bool launched, uint64_t rip_flips, uint64_t gpr[16]);

#endif
