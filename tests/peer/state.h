/* A valid VMCS to start from, and what may be done to it. */
#ifndef ANYKVM_TESTS_PEER_STATE_H
#define ANYKVM_TESTS_PEER_STATE_H

#include "guest.h"
#include "x86/vmx.h"

enum field {
#define VMCS_FIELD(encoding, width, type, offset, name, ...) F_##name = encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};

/* The kinds of L2 that mutations start from. NO_EPT: the same under L1's paging rules. */
enum shape { SHAPE_LONG, SHAPE_COMPAT, SHAPE_PAE, SHAPE_VM86, SHAPE_REAL, SHAPE_LONG_NO_EPT, SHAPE_PAE_NO_EPT, SHAPES };

/* Of the capability MSRs, counted from 480h. */
enum { BASIC_MSR = 0, MISC_MSR = 5, CR4_FIXED1_MSR = 9, SECONDARY_MSR = 11, EPT_VPID_MSR, PIN_MSR, PRIMARY_MSR, EXIT_MSR, ENTRY_MSR,
       VMFUNC_MSR, ECX1_CAP, EBX7_CAP };
/* The two sides' capability MSRs (480h and on): ours, and the peer's. */
extern uint64_t caps[CAPS], peer_caps[CAPS];

/* Pages that only L2 and VMX use, so that no case can hurt the fuzzer. */
enum { AREA = 0x1000000, AREA_SIZE = 2 << 20 };
enum { L2_GDT = AREA + 0x6000, L2_IDT = AREA + 0x7000, L2_TSS = AREA + 0x8000, L2_STACK = AREA + 0xa000, L2_CODE = AREA + 0xb000,
       MSR_ENTRY_LIST = AREA + 0xc000, MSR_EXIT_LIST = AREA + 0xd000, MSR_STORE_LIST = AREA + 0xe000, LINKED = AREA + 0xf000, LOW = 0x20000 /* in the area: segments of real and virtual-8086 mode */, ZERO_PAGES = 0x1410000 };
/* Of the zero pages, in the order in which controls() deals them out. */
enum { IO_BITMAPS = ZERO_PAGES, MSR_BITMAP = ZERO_PAGES + 0x2000, VIRTUAL_APIC = ZERO_PAGES + 0x3000, VMREAD_BITMAP = ZERO_PAGES + 0x5000 };

void state_init(void);
/* Writes the whole VMCS: the valid state of this shape. */
void state_base(enum shape shape);

/* Bits of a group of controls that mean the same to both sides: offered by both, or reserved for both. */
uint64_t common_controls(unsigned msr);

/* mutate.c */
/* Changes one thing, chosen by random; says what in *m. flips: of host RIP. */
struct mutation { uint32_t field, how; uint64_t value; };
void state_mutate(uint64_t (*random)(void), struct mutation *m, uint64_t *rip_flips);

#endif
