/* See state.h. */
#include "state.h"

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
enum { TABLES = AREA, PAE_TABLES = AREA + 0x4000, EPT = 0x1400000 };

uint64_t caps[CAPS], peer_caps[CAPS];

static uint64_t *table(uint64_t pa) { return (uint64_t *)pa; }

/* ---- memory ---- */

static void write_page_tables(void)
{
	table(TABLES)[0] = (TABLES + 0x1000) | 7;
	table(TABLES)[512] = (TABLES + 0x2000) | 7;
	table(TABLES)[1024 + AREA / (2 << 20)] = AREA | 0x87;
	/* PAE: the area, and at 0 again for virtual-8086 mode. */
	table(PAE_TABLES)[0] = (PAE_TABLES + 0x1000) | 1;
	table(PAE_TABLES)[512] = AREA | 0x87;
	table(PAE_TABLES)[512 + AREA / (2 << 20)] = AREA | 0x87;
	table(EPT)[0] = (EPT + 0x1000) | 7;
	table(EPT)[512] = (EPT + 0x2000) | 7;
	table(EPT)[1024 + AREA / (2 << 20)] = AREA | 0x80 | 6 << 3 | 7;
}

static void write_descriptor_tables(void)
{
	uint64_t *gdt = table(L2_GDT);

	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	gdt[3] = 0x00cf9b000000ffff;
	for (unsigned v = 0; v < 256; v++)       /* 16-byte gates for 64-bit; for PAE every second one is empty */
		table(L2_IDT)[2 * v] = (L2_CODE & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (uint64_t)(L2_CODE >> 16) << 48;
}

void state_init(void)
{
	memset((void *)(uint64_t)AREA, 0, AREA_SIZE);
	memset((void *)(uint64_t)EPT, 0, 0x3000);
	memset((void *)(uint64_t)ZERO_PAGES, 0, 0x10000);
}

/* Each case finds memory the same, whatever the ones before it wrote. */
static void write_memory(void)
{
	memset((void *)(uint64_t)AREA, 0, L2_CODE - AREA);
	memset((void *)(uint64_t)L2_CODE, 0xf4, 4096);
	memset((void *)(uint64_t)MSR_ENTRY_LIST, 0, 0x4000);
	write_page_tables();
	write_descriptor_tables();
}

/* ---- the valid state ---- */

static void segment(unsigned seg, uint16_t selector, uint64_t base, uint32_t limit, uint32_t ar)
{
	vmwrite(F_guest_es_selector + 2 * seg, selector);
	vmwrite(F_guest_es_base + 2 * seg, base);
	vmwrite(F_guest_es_limit + 2 * seg, limit);
	vmwrite(F_guest_es_ar_bytes + 2 * seg, ar);
}

static void all_zero(void)
{
	static const uint32_t encodings[] = {
#define VMCS_FIELD(encoding, ...) encoding,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
	};

	for (unsigned i = 0; i < ARRAY_SIZE(encodings); i++)
		if ((encodings[i] >> 10 & 3) != 1)       /* not the read-only ones */
			vmwrite(encodings[i], 0);
}

static void controls(enum shape shape)
{
	bool ept = shape < SHAPE_LONG_NO_EPT, ia32e = shape == SHAPE_LONG || shape == SHAPE_COMPAT || shape == SHAPE_LONG_NO_EPT;

	vmwrite(F_pin_based_vm_exec_control, (uint32_t)caps[PIN_MSR] | PIN_EXT_INTR | PIN_NMI | PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER);
	vmwrite(F_cpu_based_vm_exec_control, (uint32_t)caps[PRIMARY_MSR] | PRIMARY_HLT | PRIMARY_SECONDARY);
	vmwrite(F_secondary_vm_exec_control, (uint32_t)caps[SECONDARY_MSR] | (ept ? SECONDARY_EPT : 0) |
	                                     (shape == SHAPE_REAL ? SECONDARY_UNRESTRICTED : 0));
	vmwrite(F_vm_exit_controls, (uint32_t)caps[EXIT_MSR] | VMEXIT_HOST_64 | VMEXIT_LOAD_EFER | VMEXIT_SAVE_EFER | VMEXIT_SAVE_PAT |
	                            VMEXIT_LOAD_PAT | VMEXIT_SAVE_DEBUG);
	vmwrite(F_vm_entry_controls, (uint32_t)caps[ENTRY_MSR] | (ia32e ? VMENTRY_IA32E : 0) | VMENTRY_LOAD_EFER | VMENTRY_LOAD_PAT |
	                             VMENTRY_LOAD_DEBUG);
	vmwrite(F_exception_bitmap, ~0u);
	vmwrite(F_ept_pointer, EPT | 3 << 3 | 6);
	vmwrite(F_virtual_processor_id, 1);
	vmwrite(F_tsc_multiplier, 1ull << 48);
	static const uint32_t pages[] = { F_io_bitmap_a, F_io_bitmap_b, F_msr_bitmap, F_virtual_apic_page_addr, F_apic_access_addr,
	                                  F_vmread_bitmap, F_vmwrite_bitmap, F_eptp_list_address, F_pml_address, F_posted_intr_desc_addr };
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		vmwrite(pages[i], ZERO_PAGES + 0x1000 * i);
	vmwrite(F_vm_entry_msr_load_addr, MSR_ENTRY_LIST);
	vmwrite(F_vm_exit_msr_load_addr, MSR_EXIT_LIST);
	vmwrite(F_vm_exit_msr_store_addr, MSR_STORE_LIST);
	vmwrite(F_vmcs_link_pointer, ~0ull);
}

static void host(void)
{
	static const uint32_t selectors[] = { F_host_es_selector, F_host_ss_selector, F_host_ds_selector, F_host_fs_selector,
	                                      F_host_gs_selector, F_host_tr_selector };

	for (unsigned i = 0; i < ARRAY_SIZE(selectors); i++)
		vmwrite(selectors[i], 16);
	vmwrite(F_host_cs_selector, 8);
	vmwrite(F_host_cr0, 0x80000031);
	vmwrite(F_host_cr3, HOST_PAGES);
	vmwrite(F_host_cr4, 0x2220);
	vmwrite(F_host_ia32_efer, 0xd01);
	vmwrite(F_host_ia32_pat, 0x0007040600070406);
}

static void protected_segments(unsigned cs_ar)
{
	for (unsigned seg = ES; seg <= GS; seg++)
		segment(seg, seg == CS ? 8 : 16, 0, 0xffffffff, seg == CS ? cs_ar : 0xc093);
	vmwrite(F_guest_cr0, 0x80000031);
	vmwrite(F_guest_rip, L2_CODE);
	vmwrite(F_guest_rsp, L2_STACK);
	vmwrite(F_guest_rflags, 2);
}

/* Real mode has no paging, so the base is physical. */
static void low_segments(unsigned ar_cs, unsigned ar, uint64_t base)
{
	for (unsigned seg = ES; seg <= GS; seg++)
		segment(seg, LOW >> 4, base, 0xffff, seg == CS ? ar_cs : ar);
	vmwrite(F_guest_rip, 0x10);
	vmwrite(F_guest_rsp, 0x800);
}

static void guest(enum shape shape)
{
	segment(LDTR, 0, 0, 0, 0x10082);
	segment(TR, 32, L2_TSS, 0x67, 0x8b);
	vmwrite(F_guest_gdtr_base, L2_GDT);
	vmwrite(F_guest_gdtr_limit, 31);
	vmwrite(F_guest_idtr_base, L2_IDT);
	vmwrite(F_guest_idtr_limit, 0xfff);
	vmwrite(F_guest_dr7, 0x400);
	vmwrite(F_guest_ia32_pat, 0x0007040600070406);
	vmwrite(F_guest_cr4, 0x2020);
	vmwrite(F_guest_cr3, PAE_TABLES);
	vmwrite(F_guest_pdptr0, (PAE_TABLES + 0x1000) | 1);
	switch (shape) {
	case SHAPE_LONG:
	case SHAPE_COMPAT:
	case SHAPE_LONG_NO_EPT:
		protected_segments(shape == SHAPE_COMPAT ? 0xc09b : 0xa09b);
		vmwrite(F_guest_ia32_efer, 0x500);
		vmwrite(F_guest_cr3, TABLES);
		break;
	case SHAPE_VM86:
		protected_segments(0xc09b);
		low_segments(0xf3, 0xf3, LOW);
		vmwrite(F_guest_rflags, 0x20002);
		break;
	case SHAPE_REAL:
		protected_segments(0xc09b);
		low_segments(0x93, 0x93, AREA + LOW);        /* Bochs 2.7 makes 9Bh of CS to that in real mode */
		vmwrite(F_guest_cr0, 0x30);
		break;
	default:
		protected_segments(0xc09b);
	}
}

void state_base(enum shape shape)
{
	all_zero();
	write_memory();
	controls(shape);
	host();
	guest(shape);
	for (unsigned i = 0; i < 3; i++)         /* a failure of the lists of VM exits is a VMX abort */
		table(MSR_ENTRY_LIST)[2 * i] = table(MSR_EXIT_LIST)[2 * i] = table(MSR_STORE_LIST)[2 * i] = 0x174;
}

uint64_t common_controls(unsigned msr)
{
	uint64_t ours = caps[msr], peers = peer_caps[msr];

	return ~((ours ^ peers) | (ours ^ peers) >> 32) & 0xffffffff;
}
