/*
 * A guest hypervisor under remote control: a few instructions of L1 that the
 * test steers. At each VM exit L1 stores L2's registers and every VMCS field
 * in memory and stops; the test looks at them, says what to write, and lets L1
 * enter L2 again. Without changes L2 is 64-bit code at HV_L2 with all of memory
 * mapped one to one, under L1's own page tables.
 */
#ifndef ANYKVM_TESTS_HYPERVISOR_H
#define ANYKVM_TESTS_HYPERVISOR_H

#include "guest.h"
#include "x86/vmx.h"

enum hv_field {
#define VMCS_FIELD(encoding, width, type, offset, name, ...) F_##name = encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};

/* Where things lie in L1's memory. */
enum { HV_L2 = 0x9000, HV_L2_STACK = 0x6000, HV_IO_BITMAPS = 0x38000, HV_MSR_BITMAP = 0x3a000, HV_MSR_LIST = 0x3c000,
       HV_MSR_STORE = 0x3d000, HV_TSS = 0x40000, HV_EPT = 0x30000, HV_PAGES = 0x120000, HV_PAGE_TABLE = HV_PAGES + 0x3000,
       HV_PAE = 0x128000, HV_HOST_PAE = 0x12a000, HV_SMALL_PAGES = 0x200000 /* 2 MiB mapped by HV_PAGE_TABLE and by EPT in 4 KiB pages */,
       HV_EPT_TABLE = HV_EPT + 0x3000 };

enum hv_option {
	HV_WITH_EPT = 1,
	HV_WITH_UNRESTRICTED = 2,        /* and EPT */
	HV_FIRST_GENERATION = 4,         /* a client that offers no optional control, and a CPUID without VME */
	HV_PAE_HOST = 8,                 /* L1 and L2 are 32-bit code with PAE paging; L1 takes no interrupts */
};

/* L2's registers, in the processor's numbering; RSP and RIP are VMCS fields. */
struct hv { struct guest g; uint64_t *gpr; bool launched; uint32_t error /* of the last VM entry that failed */; };

/* In the order of their group's bits: controls that are wanted beyond those that must be. */
struct hv_controls { uint32_t pin, primary, secondary, exit, entry; };

void hv_create(struct hv *h, unsigned options, struct hv_controls extra, const uint8_t *l2, size_t len);
/* hv_create_with(h, options, code, controls) */
#define hv_create_with(h, options, name, ...) hv_create(h, options, __VA_ARGS__, name##_start, name##_end - name##_start)
void hv_destroy(struct hv *h);
/* An hv whose memory is there already (guest_memory_fd): its state is to be restored. */
void hv_attach(struct hv *h, bool launched);
/* The client of the next hv_create() takes bits away from a capability MSR. */
void hv_narrow(uint32_t msr, uint64_t bits);

void hv_set(struct hv *h, enum hv_field f, uint64_t value);      /* VMWRITE before the next VM entry */
uint64_t hv_get(struct hv *h, enum hv_field f);                  /* as VMREAD at the last VM exit */
/* VM entry, until the next exit: its reason; or HV_FAILED: VMfail, or a port that is the client's. */
enum { HV_FAILED = 0xfffffff };
uint32_t hv_run(struct hv *h);
/* Its halves, for who runs the vCPU between them until it stops at a port. */
void hv_begin(struct hv *h);
uint32_t hv_end(struct hv *h);
uint32_t hv_error(struct hv *h);         /* VM entry that fails: its VM-instruction error, or 0 */
/* Secondary controls of which one is not offered are refused, and VMWRITE knows no field that belongs to it. */
void hv_check_refused(struct hv *h, uint32_t secondary, enum hv_field field);
/* That, for a feature that needs EPT and has one secondary control: switched off by its parameter, and by the client. */
void hv_check_control_off(bool *param, uint32_t control, enum hv_field field, const uint8_t *l2, size_t len);
#define hv_check_not_offered(param, control, field, name) hv_check_control_off(param, control, field, name##_start, name##_end - name##_start)
uint32_t hv_skip(struct hv *h);          /* past the instruction that exited, then hv_run() */
void hv_take_interrupts(struct hv *h);   /* L1 sets RFLAGS.IF for a moment */
uint64_t hv_interrupts(struct hv *h);    /* that L1 has taken */
/* L1 executes INVVPID (else INVEPT) of a type with this descriptor. VMCS writes that wait are made first. */
void hv_invalidate(struct hv *h, bool vpid, uint64_t type, uint64_t low, uint64_t high);

void hv_real(struct hv *h);              /* L2 in real mode, code at HV_L2 (HV_WITH_UNRESTRICTED) */
void hv_vm86(struct hv *h);              /* L2 in virtual-8086 mode as KVM runs real mode without unrestricted guest */
void hv_pae(struct hv *h);               /* 32-bit L2's page tables: HV_PAE, everything one to one for user code */
void hv_own_pages(struct hv *h);         /* 64-bit L2 under HV_PAGES, exit on all page faults */

#endif
