/*
 * Small guests for tests: one VM with flat memory, driven through kvm/api.h
 * (no preload). Guest code is written in the test's own top-level asm, between
 * two labels, and copied to where it is to run, so it must not depend on its
 * address.
 */
#ifndef ANYKVM_TESTS_GUEST_H
#define ANYKVM_TESTS_GUEST_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "../tap.h"

enum { GUEST_MEMORY = 4 << 20, GUEST_CODE = 0x8000, GUEST_STACK = 0x7000, GUEST_GDT = 0x500, GUEST_IDT = 0x1000,
       GUEST_PAGES = 0x100000, GUEST_MAX_VCPUS = 4 };
enum guest_mode { GUEST_REAL, GUEST_PROTECTED, GUEST_LONG };

struct guest {
	int system, vm, nvcpus, vcpu[GUEST_MAX_VCPUS];
	struct kvm_run *run[GUEST_MAX_VCPUS];
	uint8_t *memory;
};

/* Code between labels name_start and name_end. */
#define GUEST_ASM(name, bits, text) \
	__asm__(".section .rodata\n.globl " #name "_start, " #name "_end\n.code" #bits "\n" \
	        #name "_start:\n" text "\n" #name "_end:\n.code64\n.previous\n"); \
	extern const uint8_t name##_start[], name##_end[]
#define guest_load(g, name) guest_load_bytes(g, GUEST_CODE, name##_start, name##_end - name##_start)

/* With or without in-kernel irqchip; memory at 0; one vCPU with the supported CPUID. */
void guest_create(struct guest *g, bool irqchip);
int guest_add_vcpu(struct guest *g);
/* The same memory in a new VM with n new vCPUs; the old ones are closed. */
void guest_new_vm(struct guest *g, bool irqchip, int n);
void guest_destroy(struct guest *g);
void guest_load_bytes(struct guest *g, uint64_t gpa, const void *bytes, size_t len);
/* Registers of vCPU i for code at GUEST_CODE. Protected: flat 32-bit. Long: identity-mapped, 2 MiB pages. */
void guest_mode(struct guest *g, int i, enum guest_mode mode);
struct kvm_regs guest_regs(struct guest *g, int i);
void guest_set_regs(struct guest *g, int i, const struct kvm_regs *regs);
/* KVM_RUN until it returns; EINTR and EAGAIN are repeated. The exit reason, or -errno. */
int guest_run(struct guest *g, int i);
/* With ANYKVM_TEST_MOVES in the environment guest_run() goes in single steps, and moves the guest after each; not from here on. */
void guest_no_moves(void);
int guest_ioctl(int fd, unsigned long request, void *arg);       /* ends the test on failure */

extern int guest_memory_fd;              /* guest_create()'s memory: this file's; -1: the process's own */

#endif
