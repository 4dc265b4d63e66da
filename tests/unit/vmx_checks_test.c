/*
 * VM-entry checks. From a vmcs12 that passes (a 64-bit guest with EPT and
 * unrestricted guest), one thing at a time is made wrong, and exactly the
 * verdict that the manual gives must come. Control bits are swept one by one;
 * there the capability MSRs say what to expect. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include "../tap.h"
#include "vmx/checks.h"

enum verdict { PASS, CONTROLS = 7, HOST = 8, GUEST = 33, GUEST_PDPTE = 33 + 2 * 256, GUEST_LINK = 33 + 4 * 256 };

#define RAM_SIZE 0x100000ull
#define VAPIC 0x10000ull
#define LINK 0x11000ull
#define CURRENT 0x12000ull
#define TOO_HIGH (1ull << 40)            /* beyond the physical-address width of the test */

static struct cpu cpu;
static struct vmx_vcpu vcpu;
static struct vmcs12 base, vmcs;
static uint8_t *ram;
static unsigned cases;

static enum verdict verdict(void)
{
	uint64_t qualification;

	if (!vmx_check_controls(&vcpu, &vmcs))
		return CONTROLS;
	if (!vmx_check_address_space_size(&vcpu, &vmcs) || !vmx_check_host(&vcpu, &vmcs))
		return HOST;
	return vmx_check_guest(&vcpu, &vmcs, &qualification) ? PASS : GUEST + qualification * 256;
}

static void expect(enum verdict want, const char *what, int line)
{
	enum verdict got = verdict();

	cases++;
	if (got == want)
		return;
	failures++;
	printf("# line %d: %s: verdict %u, qualification %u; wanted %u, %u\n", line, what, got & 0xff, got >> 8, want & 0xff, want >> 8);
}

/* One case: the base, changed by the statements, must get the verdict. */
#define CASE(want, ...) do { vmcs = base; { __VA_ARGS__; } expect(want, #__VA_ARGS__, __LINE__); } while (0)

/* ---- the base ---- */

static void set_segment(enum seg seg, uint16_t selector, uint32_t ar, uint32_t limit)
{
	vmcs12_segment_set(&base, seg, (struct vmcs12_segment){ .selector = selector, .ar = ar, .limit = limit });
}

static void fill_controls(void)
{
	const struct vmx_caps *c = &vcpu.caps;

	base.pin_based_vm_exec_control = c->pin.must | PIN_EXT_INTR | PIN_NMI;
	base.cpu_based_vm_exec_control = c->primary.must | PRIMARY_SECONDARY;
	base.secondary_vm_exec_control = SECONDARY_EPT | SECONDARY_UNRESTRICTED;
	base.vm_exit_controls = c->exit.must | VMEXIT_HOST_64 | VMEXIT_LOAD_EFER;
	base.vm_entry_controls = c->entry.must | VMENTRY_IA32E | VMENTRY_LOAD_EFER | VMENTRY_LOAD_DEBUG;
	base.ept_pointer = 0x1000 | 3 << 3 | 6;
	base.tsc_multiplier = 1ull << 48;
	base.virtual_apic_page_addr = VAPIC;
	base.vmcs_link_pointer = VMX_NO_POINTER;
}

static void fill_host(void)
{
	base.host_cr0 = base.guest_cr0 = 0x80000031;
	base.host_cr4 = base.guest_cr4 = CR4_VMXE | CR4_PAE;
	base.host_cr3 = base.guest_cr3 = 0x2000;
	base.host_cs_selector = 8;
	base.host_ss_selector = base.host_ds_selector = base.host_es_selector = 16;
	base.host_tr_selector = 24;
	base.host_ia32_efer = base.guest_ia32_efer = EFER_LMA | EFER_LME | EFER_SCE;
	base.host_ia32_pat = base.guest_ia32_pat = 0x0007040600070406;
	base.host_rip = base.host_rsp = 0xffffffff81000000;
}

static void fill_guest(void)
{
	set_segment(SEG_CS, 8, 0xa09b, 0xffffffff);
	for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
		if (seg != SEG_CS)
			set_segment(seg, 16, 0xc093, 0xffffffff);
	set_segment(SEG_LDTR, 32, 0x82, 0xffff);
	set_segment(SEG_TR, 24, 0x8b, 0x67);
	base.guest_gdtr_limit = base.guest_idtr_limit = 0xfff;
	base.guest_rip = base.guest_rsp = 0xffffffff81000000;
	base.guest_rflags = 2;
	base.guest_dr7 = DR7_FIXED;
}

static void set_up(void)
{
	params.nested = params.ept = params.vpid = params.unrestricted_guest = params.flexpriority = true;
	params.preemption_timer = params.vnmi = params.ept_ad = params.enable_shadow_vmcs = true;
	params.enable_apicv = params.enable_ipiv = true;
	ram = aligned_alloc(4096, RAM_SIZE);
	memset(ram, 0, RAM_SIZE);
	cpu = (struct cpu){ .mem = mem_new(), .maxphyaddr = 40, .efer = EFER_LMA | EFER_LME, .reserved_pa = ~0ull << 40 & (~0ull >> 12) };
	if (mem_slot_set(cpu.mem, 0, 0, 0, RAM_SIZE, ram))
		exit(1);
	vcpu.cpu = &cpu;
	vcpu.current_ptr = CURRENT;
	vmx_caps_init(&vcpu.caps);
	fill_controls();
	fill_host();
	fill_guest();
}

static void write_ram32(uint64_t gpa, uint32_t value) { memcpy(ram + gpa, &value, sizeof(value)); }

/* ---- controls ---- */

#define PIN vmcs.pin_based_vm_exec_control
#define PRIMARY vmcs.cpu_based_vm_exec_control
#define SECONDARY vmcs.secondary_vm_exec_control
#define EXIT vmcs.vm_exit_controls
#define ENTRY vmcs.vm_entry_controls

static void test_addresses(void)
{
	CASE(PASS, PRIMARY |= PRIMARY_IO_BITMAPS | PRIMARY_MSR_BITMAPS);
	CASE(CONTROLS, PRIMARY |= PRIMARY_IO_BITMAPS; vmcs.io_bitmap_a = 0x1001);
	CASE(CONTROLS, PRIMARY |= PRIMARY_IO_BITMAPS; vmcs.io_bitmap_b = TOO_HIGH);
	CASE(CONTROLS, PRIMARY |= PRIMARY_MSR_BITMAPS; vmcs.msr_bitmap = 0x800);
	CASE(PASS, vmcs.io_bitmap_a = vmcs.io_bitmap_b = vmcs.msr_bitmap = ~0ull);
	CASE(CONTROLS, SECONDARY |= SECONDARY_SHADOW_VMCS; vmcs.vmread_bitmap = 1);
	CASE(CONTROLS, SECONDARY |= SECONDARY_SHADOW_VMCS; vmcs.vmwrite_bitmap = TOO_HIGH);
	CASE(PASS, SECONDARY |= SECONDARY_APIC_ACCESSES; vmcs.apic_access_addr = TOO_HIGH - 0x1000);
	CASE(CONTROLS, SECONDARY |= SECONDARY_APIC_ACCESSES; vmcs.apic_access_addr = TOO_HIGH);
	CASE(CONTROLS, SECONDARY |= SECONDARY_APIC_ACCESSES; vmcs.apic_access_addr = 0x10);
	CASE(PASS, vmcs.cr3_target_count = 4);
	CASE(CONTROLS, vmcs.cr3_target_count = 5);
	CASE(CONTROLS, SECONDARY |= SECONDARY_VPID; vmcs.virtual_processor_id = 0);
	CASE(PASS, SECONDARY |= SECONDARY_VPID; vmcs.virtual_processor_id = 1);
	CASE(CONTROLS, SECONDARY |= SECONDARY_TSC_SCALING; vmcs.tsc_multiplier = 0);
	CASE(PASS, vmcs.tsc_multiplier = 0);
}

static void test_tpr_shadow(void)
{
	CASE(PASS, PRIMARY |= PRIMARY_TPR_SHADOW);
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; vmcs.virtual_apic_page_addr |= 0x10);
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; vmcs.virtual_apic_page_addr = TOO_HIGH);
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; vmcs.tpr_threshold = 0x10);
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; vmcs.tpr_threshold = 1);
	CASE(PASS, vmcs.tpr_threshold = ~0u);
	ram[VAPIC + 0x80] = 0x50;
	CASE(PASS, PRIMARY |= PRIMARY_TPR_SHADOW; vmcs.tpr_threshold = 5);
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; vmcs.tpr_threshold = 6);
	CASE(PASS, PRIMARY |= PRIMARY_TPR_SHADOW; SECONDARY |= SECONDARY_APIC_ACCESSES; vmcs.tpr_threshold = 6);
	ram[VAPIC + 0x80] = 0;
}

static void use_posted_interrupts(void)
{
	PIN |= PIN_POSTED_INTR;
	PRIMARY |= PRIMARY_TPR_SHADOW;
	SECONDARY |= SECONDARY_VIRTUAL_INTR;
	EXIT |= VMEXIT_ACK_INTR;
	vmcs.posted_intr_nv = 0xf2;
	vmcs.posted_intr_desc_addr = 0x40;
}

static void use_ipi_virtualization(void)
{
	PRIMARY |= PRIMARY_TPR_SHADOW | PRIMARY_TERTIARY;
	vmcs.tertiary_vm_exec_control = TERTIARY_IPI;
	vmcs.pid_pointer_table = 0x1008;
	vmcs.last_pid_pointer_index = 3;
}

static void test_apic_virtualization(void)
{
	static const uint32_t needs_tpr_shadow[] = { SECONDARY_X2APIC, SECONDARY_APIC_REGISTER, SECONDARY_VIRTUAL_INTR };

	for (unsigned i = 0; i < ARRAY_SIZE(needs_tpr_shadow); i++) {
		CASE(PASS, PRIMARY |= PRIMARY_TPR_SHADOW; SECONDARY |= needs_tpr_shadow[i]);
		CASE(CONTROLS, SECONDARY |= needs_tpr_shadow[i]);
	}
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; SECONDARY |= SECONDARY_X2APIC | SECONDARY_APIC_ACCESSES);
	CASE(PASS, PRIMARY |= PRIMARY_TPR_SHADOW; SECONDARY |= SECONDARY_APIC_REGISTER | SECONDARY_APIC_ACCESSES);
	CASE(CONTROLS, PRIMARY |= PRIMARY_TPR_SHADOW; SECONDARY |= SECONDARY_VIRTUAL_INTR; PIN &= ~PIN_EXT_INTR);
	/* The threshold is not in use with virtual-interrupt delivery. */
	CASE(PASS, PRIMARY |= PRIMARY_TPR_SHADOW; SECONDARY |= SECONDARY_VIRTUAL_INTR; vmcs.tpr_threshold = ~0u);
}

static void test_posted_interrupts(void)
{
	CASE(PASS, use_posted_interrupts());
	CASE(CONTROLS, use_posted_interrupts(); SECONDARY &= ~SECONDARY_VIRTUAL_INTR);
	CASE(CONTROLS, use_posted_interrupts(); EXIT &= ~VMEXIT_ACK_INTR);
	CASE(PASS, use_posted_interrupts(); vmcs.posted_intr_nv = 0xff);
	for (unsigned bit = 8; bit < 16; bit++)
		CASE(CONTROLS, use_posted_interrupts(); vmcs.posted_intr_nv |= BIT(bit));
	for (unsigned bit = 0; bit < 6; bit++)
		CASE(CONTROLS, use_posted_interrupts(); vmcs.posted_intr_desc_addr |= BIT(bit));
	CASE(PASS, use_posted_interrupts(); vmcs.posted_intr_desc_addr = TOO_HIGH - 64);
	CASE(CONTROLS, use_posted_interrupts(); vmcs.posted_intr_desc_addr = TOO_HIGH);
	CASE(PASS, vmcs.posted_intr_nv = 0xffff; vmcs.posted_intr_desc_addr = ~0ull);
}

static void test_ipi_virtualization(void)
{
	CASE(PASS, use_ipi_virtualization());
	CASE(CONTROLS, use_ipi_virtualization(); PRIMARY &= ~PRIMARY_TPR_SHADOW);
	for (unsigned bit = 0; bit < 3; bit++)
		CASE(CONTROLS, use_ipi_virtualization(); vmcs.pid_pointer_table |= BIT(bit); vmcs.pid_pointer_table ^= 0x1000);
	CASE(PASS, use_ipi_virtualization(); vmcs.pid_pointer_table = TOO_HIGH - 32);
	CASE(CONTROLS, use_ipi_virtualization(); vmcs.pid_pointer_table = TOO_HIGH - 24);
	CASE(CONTROLS, use_ipi_virtualization(); vmcs.pid_pointer_table = TOO_HIGH);
	for (unsigned bit = 0; bit < 64; bit++)
		CASE(BIT(bit) == TERTIARY_IPI ? PASS : CONTROLS, use_ipi_virtualization(); vmcs.tertiary_vm_exec_control = BIT(bit));
	/* Not activated, the tertiary controls mean nothing. */
	CASE(PASS, use_ipi_virtualization(); PRIMARY &= ~PRIMARY_TERTIARY; vmcs.tertiary_vm_exec_control = ~0ull);
}

static void test_nmi_and_timer_controls(void)
{
	CASE(PASS, PIN |= PIN_VIRTUAL_NMIS);
	CASE(CONTROLS, PIN |= PIN_VIRTUAL_NMIS; PIN &= ~PIN_NMI);
	CASE(CONTROLS, PRIMARY |= PRIMARY_NMI_WINDOW);
	CASE(PASS, PRIMARY |= PRIMARY_NMI_WINDOW; PIN |= PIN_VIRTUAL_NMIS);
	CASE(CONTROLS, EXIT |= VMEXIT_SAVE_PREEMPTION_TIMER);
	CASE(PASS, EXIT |= VMEXIT_SAVE_PREEMPTION_TIMER; PIN |= PIN_PREEMPTION_TIMER);
	CASE(CONTROLS, ENTRY |= VMENTRY_SMM);
	CASE(CONTROLS, ENTRY |= VMENTRY_DEACT_DUAL_MONITOR);
}

static void test_eptp(void)
{
	CASE(CONTROLS, vmcs.ept_pointer = (vmcs.ept_pointer & ~7ull) | 0);
	for (unsigned type = 1; type < 8; type++)
		CASE(type == 6 ? PASS : CONTROLS, vmcs.ept_pointer = (vmcs.ept_pointer & ~7ull) | type);
	for (unsigned levels = 0; levels < 8; levels++)
		CASE(levels == 3 || levels == 4 ? PASS : CONTROLS, vmcs.ept_pointer = (vmcs.ept_pointer & ~0x38ull) | levels << 3);
	CASE(PASS, vmcs.ept_pointer |= 1 << 6);
	for (unsigned bit = 7; bit < 12; bit++)
		CASE(CONTROLS, vmcs.ept_pointer |= BIT(bit));
	CASE(PASS, vmcs.ept_pointer |= BIT(39));
	for (unsigned bit = 40; bit < 64; bit++)
		CASE(CONTROLS, vmcs.ept_pointer |= BIT(bit));
	CASE(PASS, SECONDARY = 0; vmcs.ept_pointer = ~0ull);
	CASE(CONTROLS, SECONDARY = SECONDARY_UNRESTRICTED);
	CASE(PASS, PRIMARY &= ~PRIMARY_SECONDARY; SECONDARY = ~0u);
}

static void test_msr_lists(void)
{
	CASE(PASS, vmcs.vm_exit_msr_store_addr = vmcs.vm_exit_msr_load_addr = vmcs.vm_entry_msr_load_addr = ~0ull);
	CASE(CONTROLS, vmcs.vm_exit_msr_store_addr = 8; vmcs.vm_exit_msr_store_count = 1);
	CASE(CONTROLS, vmcs.vm_exit_msr_load_addr = 8; vmcs.vm_exit_msr_load_count = 1);
	CASE(CONTROLS, vmcs.vm_entry_msr_load_addr = 8; vmcs.vm_entry_msr_load_count = 1);
	CASE(CONTROLS, vmcs.vm_entry_msr_load_addr = TOO_HIGH; vmcs.vm_entry_msr_load_count = 1);
	CASE(PASS, vmcs.vm_entry_msr_load_addr = TOO_HIGH - 32; vmcs.vm_entry_msr_load_count = 2);
	CASE(CONTROLS, vmcs.vm_entry_msr_load_addr = TOO_HIGH - 32; vmcs.vm_entry_msr_load_count = 3);
	CASE(CONTROLS, vmcs.vm_entry_msr_load_addr = -16ull; vmcs.vm_entry_msr_load_count = 2);
}

/* ---- event injection ---- */

#define INJECT(type, vector) vmcs.vm_entry_intr_info_field = INTR_INFO_VALID | (uint32_t)(type) << 8 | (vector)

static void test_injected_types(void)
{
	CASE(PASS, vmcs.vm_entry_intr_info_field = ~INTR_INFO_VALID);
	CASE(PASS, INJECT(EVENT_EXT_INTERRUPT, 255); vmcs.guest_rflags |= RFLAGS_IF);
	CASE(GUEST, INJECT(EVENT_EXT_INTERRUPT, 255));
	CASE(CONTROLS, INJECT(1, 0));
	CASE(PASS, INJECT(EVENT_NMI, 2));
	CASE(CONTROLS, INJECT(EVENT_NMI, 3));
	CASE(PASS, INJECT(EVENT_HW_EXCEPTION, 31));
	CASE(CONTROLS, INJECT(EVENT_HW_EXCEPTION, 32));
	CASE(PASS, INJECT(INTR_TYPE_OTHER, 0));
	CASE(CONTROLS, INJECT(INTR_TYPE_OTHER, 1));
	for (unsigned bit = 12; bit < 31; bit++)
		CASE(CONTROLS, INJECT(EVENT_NMI, 2); vmcs.vm_entry_intr_info_field |= BIT(bit));
	for (unsigned type = EVENT_SW_INTERRUPT; type <= EVENT_SW_EXCEPTION; type++) {
		CASE(PASS, INJECT(type, 3); vmcs.vm_entry_instruction_len = 15);
		CASE(CONTROLS, INJECT(type, 3); vmcs.vm_entry_instruction_len = 16);
		CASE(CONTROLS, INJECT(type, 3); vmcs.vm_entry_instruction_len = 0);
		CASE(PASS, INJECT(type, 3); vmcs.vm_entry_instruction_len = 0; vcpu.caps.misc |= BIT(30));
		vcpu.caps.misc &= ~BIT(30);
	}
}

static void test_injected_errors(void)
{
	const uint32_t with_error = BIT(8) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(17);

	for (unsigned vector = 0; vector < 32; vector++) {
		bool has = with_error >> vector & 1;

		vcpu.caps.basic &= ~BIT(56);
		CASE(has ? CONTROLS : PASS, INJECT(EVENT_HW_EXCEPTION, vector));
		CASE(has ? PASS : CONTROLS, INJECT(EVENT_HW_EXCEPTION, vector); vmcs.vm_entry_intr_info_field |= INTR_INFO_HAS_ERROR);
		vcpu.caps.basic |= BIT(56);              /* software says which have one */
		CASE(PASS, INJECT(EVENT_HW_EXCEPTION, vector));
		CASE(PASS, INJECT(EVENT_HW_EXCEPTION, vector); vmcs.vm_entry_intr_info_field |= INTR_INFO_HAS_ERROR);
	}
	CASE(CONTROLS, INJECT(EVENT_NMI, 2); vmcs.vm_entry_intr_info_field |= INTR_INFO_HAS_ERROR);
	CASE(PASS, INJECT(EVENT_HW_EXCEPTION, 14); vmcs.vm_entry_intr_info_field |= INTR_INFO_HAS_ERROR;
	     vmcs.vm_entry_exception_error_code = 0xffff);
	for (unsigned bit = 16; bit < 32; bit++)
		CASE(CONTROLS, INJECT(EVENT_HW_EXCEPTION, 14); vmcs.vm_entry_intr_info_field |= INTR_INFO_HAS_ERROR;
		     vmcs.vm_entry_exception_error_code = BIT(bit));
}

/* ---- one-bit sweeps over the controls ---- */

struct sweep { const char *name; const struct vmx_controls *caps; uint32_t *field; };

/* Bits that the capabilities allow to flip, but another rule then objects to. */
static enum verdict dependent(const char *group, uint32_t bit)
{
	static const struct { const char *group; uint32_t bit; enum verdict verdict; } rules[] = {
		{ "pin", PIN_POSTED_INTR, CONTROLS },            /* no virtual-interrupt delivery */
		{ "primary", PRIMARY_NMI_WINDOW, CONTROLS },     /* no virtual NMIs */
		{ "secondary", SECONDARY_X2APIC, CONTROLS },     /* no TPR shadow, for these three */
		{ "secondary", SECONDARY_APIC_REGISTER, CONTROLS },
		{ "secondary", SECONDARY_VIRTUAL_INTR, CONTROLS },
		{ "secondary", SECONDARY_EPT, CONTROLS },        /* unrestricted guest stays */
		{ "secondary", SECONDARY_VPID, CONTROLS },       /* VPID is 0 */
		{ "exit", VMEXIT_HOST_64, HOST },
		{ "exit", VMEXIT_SAVE_PREEMPTION_TIMER, CONTROLS },
		{ "entry", VMENTRY_IA32E, GUEST },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++)
		if (!strcmp(rules[i].group, group) && rules[i].bit == bit)
			return rules[i].verdict;
	return PASS;
}

static void test_control_sweep(void)
{
	const struct sweep sweeps[] = {
		{ "pin", &vcpu.caps.pin, &PIN }, { "primary", &vcpu.caps.primary, &PRIMARY },
		{ "secondary", &vcpu.caps.secondary, &SECONDARY }, { "exit", &vcpu.caps.exit, &EXIT },
		{ "entry", &vcpu.caps.entry, &ENTRY },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(sweeps); i++)
		for (unsigned bit = 0; bit < 32; bit++) {
			const struct sweep *s = &sweeps[i];
			uint32_t mask = BIT(bit);
			char what[32];

			vmcs = base;
			*s->field ^= mask;
			bool allowed = *s->field & mask ? s->caps->may & mask : !(s->caps->must & mask);
			snprintf(what, sizeof(what), "%s bit %u", s->name, bit);
			expect(allowed ? dependent(s->name, mask) : CONTROLS, what, __LINE__);
		}
}

/* ---- host state ---- */

static void test_host_registers(void)
{
	for (unsigned bit = 32; bit < 64; bit++)
		CASE(HOST, vmcs.host_cr0 |= BIT(bit));
	CASE(HOST, vmcs.host_cr0 &= ~CR0_PE);
	CASE(HOST, vmcs.host_cr0 &= ~CR0_NE);
	CASE(HOST, vmcs.host_cr0 &= ~CR0_PG);
	CASE(HOST, vmcs.host_cr4 &= ~CR4_VMXE);
	CASE(HOST, vmcs.host_cr4 &= ~CR4_PAE);
	CASE(HOST, vmcs.host_cr4 |= BIT(63));
	CASE(PASS, vmcs.host_cr3 = TOO_HIGH - 1);
	for (unsigned bit = 40; bit < 64; bit++)
		CASE(HOST, vmcs.host_cr3 |= BIT(bit));
	CASE(HOST, vmcs.host_ia32_sysenter_esp = BIT(47));
	CASE(HOST, vmcs.host_ia32_sysenter_eip = BIT(63));
	CASE(HOST, EXIT |= VMEXIT_LOAD_PAT; vmcs.host_ia32_pat = 2);
	CASE(PASS, vmcs.host_ia32_pat = 2);
	CASE(HOST, EXIT |= VMEXIT_LOAD_PERF_GLOBAL; vmcs.host_ia32_perf_global_ctrl = BIT(62));
	CASE(HOST, vmcs.host_ia32_efer &= ~EFER_LMA);
	CASE(HOST, vmcs.host_ia32_efer &= ~EFER_LME);
	CASE(HOST, vmcs.host_ia32_efer |= 2);
	CASE(HOST, vmcs.host_rip = BIT(47));
	CASE(HOST, cpu.efer = 0);
	cpu.efer = EFER_LMA | EFER_LME;
}

static void test_host_segments(void)
{
	for (unsigned bit = 0; bit < 3; bit++) {
		CASE(HOST, vmcs.host_cs_selector |= BIT(bit));
		CASE(HOST, vmcs.host_ss_selector |= BIT(bit));
		CASE(HOST, vmcs.host_ds_selector |= BIT(bit));
		CASE(HOST, vmcs.host_es_selector |= BIT(bit));
		CASE(HOST, vmcs.host_fs_selector |= BIT(bit));
		CASE(HOST, vmcs.host_gs_selector |= BIT(bit));
		CASE(HOST, vmcs.host_tr_selector |= BIT(bit));
	}
	CASE(HOST, vmcs.host_cs_selector = 0);
	CASE(HOST, vmcs.host_tr_selector = 0);
	CASE(PASS, vmcs.host_ss_selector = vmcs.host_ds_selector = vmcs.host_es_selector = 0);
	CASE(HOST, vmcs.host_fs_base = BIT(47));
	CASE(HOST, vmcs.host_gs_base = BIT(47));
	CASE(HOST, vmcs.host_tr_base = BIT(47));
	CASE(HOST, vmcs.host_gdtr_base = BIT(47));
	CASE(HOST, vmcs.host_idtr_base = BIT(47));
}

/* A 32-bit L1: the same vmcs12 with the 64-bit controls off. */
static void to_32_bit_host(void)
{
	EXIT &= ~(VMEXIT_HOST_64 | VMEXIT_LOAD_EFER);
	ENTRY &= ~(VMENTRY_IA32E | VMENTRY_LOAD_EFER);
	vmcs.host_rip = vmcs.guest_rip = 0x1000;
	vmcs.guest_cs_ar_bytes = 0xc09b;
}

static void test_32_bit_host(void)
{
	cpu.efer = 0;
	CASE(PASS, to_32_bit_host());
	CASE(HOST, to_32_bit_host(); ENTRY |= VMENTRY_IA32E);
	CASE(HOST, to_32_bit_host(); vmcs.host_cr4 |= CR4_PCIDE);
	CASE(HOST, to_32_bit_host(); vmcs.host_rip = BIT(32));
	CASE(HOST, to_32_bit_host(); vmcs.host_ss_selector = 0);
	CASE(HOST, to_32_bit_host(); EXIT |= VMEXIT_LOAD_EFER);
	cpu.efer = EFER_LMA | EFER_LME;
}

/* ---- guest state ---- */

static void test_guest_registers(void)
{
	CASE(GUEST, vmcs.guest_cr0 &= ~CR0_NE);
	CASE(GUEST, vmcs.guest_cr0 &= ~CR0_PE);
	CASE(GUEST, vmcs.guest_cr0 &= ~CR0_PG);
	CASE(PASS, vmcs.guest_cr0 |= CR0_CD | CR0_NW);
	CASE(GUEST, vmcs.guest_cr0 |= BIT(32));
	CASE(GUEST, vmcs.guest_cr4 &= ~CR4_VMXE);
	CASE(GUEST, vmcs.guest_cr4 &= ~CR4_PAE);
	CASE(GUEST, vmcs.guest_cr4 |= BIT(40));
	CASE(PASS, vmcs.guest_cr4 |= CR4_PCIDE);
	for (unsigned bit = 40; bit < 64; bit++)
		CASE(GUEST, vmcs.guest_cr3 |= BIT(bit));
	CASE(GUEST, vmcs.guest_ia32_debugctl = BIT(2));
	CASE(GUEST, vmcs.guest_ia32_debugctl = BIT(63));
	CASE(GUEST, vmcs.guest_dr7 |= BIT(32));
	CASE(PASS, ENTRY &= ~VMENTRY_LOAD_DEBUG; vmcs.guest_dr7 |= BIT(32));
	CASE(GUEST, vmcs.guest_sysenter_esp = BIT(47));
	CASE(GUEST, vmcs.guest_sysenter_eip = BIT(47));
	CASE(GUEST, ENTRY |= VMENTRY_LOAD_PAT; vmcs.guest_ia32_pat = 0x300);
	CASE(GUEST, ENTRY |= VMENTRY_LOAD_PERF_GLOBAL; vmcs.guest_ia32_perf_global_ctrl = BIT(63));
	CASE(GUEST, vmcs.guest_ia32_efer |= BIT(1));
	CASE(GUEST, vmcs.guest_ia32_efer &= ~EFER_LMA);
	CASE(GUEST, vmcs.guest_ia32_efer &= ~EFER_LME);
}

static void test_guest_code_segment(void)
{
	for (unsigned type = 0; type < 16; type++)
		CASE(type == 3 || type == 9 || type == 11 || type == 13 || type == 15 ? PASS : GUEST,
		     vmcs.guest_cs_ar_bytes = (vmcs.guest_cs_ar_bytes & ~15u) | type);
	CASE(GUEST, SECONDARY &= ~SECONDARY_UNRESTRICTED; vmcs.guest_cs_ar_bytes = (vmcs.guest_cs_ar_bytes & ~15u) | 3);
	CASE(GUEST, vmcs.guest_cs_ar_bytes |= 3 << 5);
	CASE(GUEST, vmcs.guest_cs_ar_bytes &= ~(uint32_t)AR_S);
	CASE(GUEST, vmcs.guest_cs_ar_bytes &= ~(uint32_t)AR_P);
	CASE(GUEST, vmcs.guest_cs_ar_bytes |= AR_DB);
	for (unsigned bit = 8; bit < 12; bit++)
		CASE(GUEST, vmcs.guest_cs_ar_bytes |= BIT(bit));
	for (unsigned bit = 17; bit < 32; bit++)
		CASE(GUEST, vmcs.guest_cs_ar_bytes |= BIT(bit));
	CASE(GUEST, vmcs.guest_cs_limit = 0xfffff; vmcs.guest_cs_limit &= ~1u);
	CASE(PASS, vmcs.guest_cs_limit = 0xfffff);
	CASE(GUEST, vmcs.guest_cs_ar_bytes &= ~(uint32_t)AR_G);
	CASE(GUEST, vmcs.guest_cs_base = BIT(32));
}

static void test_guest_data_segments(void)
{
	static const enum seg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		uint32_t *ar = &vmcs.guest_es_ar_bytes + data[i], *limit = &vmcs.guest_es_limit + data[i];
		uint16_t *selector = &vmcs.guest_es_selector + data[i];
		uint64_t *at = &vmcs.guest_es_base + data[i];

		for (unsigned type = 0; type < 16; type++)
			CASE((type & 1) && (!(type & 8) || (type & 2)) ? PASS : GUEST, *ar = (*ar & ~15u) | type);
		CASE(GUEST, *ar &= ~(uint32_t)AR_S);
		CASE(GUEST, *ar &= ~(uint32_t)AR_P);
		CASE(GUEST, *ar |= BIT(8));
		CASE(GUEST, *ar |= BIT(31));
		CASE(GUEST, *ar &= ~(uint32_t)AR_G);
		CASE(GUEST, *limit = 0xffff0ff0);
		CASE(PASS, *ar = AR_UNUSABLE; *limit = 0xffff0ff0);
		CASE(PASS, *selector |= 3);
		CASE(GUEST, SECONDARY &= ~SECONDARY_UNRESTRICTED; *selector |= 3);
		CASE(GUEST, *at = BIT(47));
		CASE(data[i] >= SEG_FS ? PASS : GUEST, *at = BIT(32));
		CASE(PASS, *ar = AR_UNUSABLE; *at = BIT(32));
	}
}

static void test_guest_stack_segment(void)
{
	for (unsigned type = 0; type < 16; type++)
		CASE(type == 3 || type == 7 ? PASS : GUEST, vmcs.guest_ss_ar_bytes = (vmcs.guest_ss_ar_bytes & ~15u) | type);
	CASE(GUEST, vmcs.guest_ss_ar_bytes |= 3 << 5);
	CASE(PASS, vmcs.guest_ss_ar_bytes |= 3 << 5; vmcs.guest_cs_ar_bytes |= 3 << 5);
	CASE(GUEST, SECONDARY &= ~SECONDARY_UNRESTRICTED; vmcs.guest_ss_ar_bytes |= 3 << 5; vmcs.guest_cs_ar_bytes |= 3 << 5);
	CASE(PASS, vmcs.guest_ss_selector |= 3);
	CASE(GUEST, SECONDARY &= ~SECONDARY_UNRESTRICTED; vmcs.guest_ss_selector |= 3);
	CASE(PASS, vmcs.guest_ss_ar_bytes = AR_UNUSABLE; vmcs.guest_ss_base = BIT(40));
	CASE(GUEST, vmcs.guest_ss_base = BIT(40));
	CASE(GUEST, vmcs.guest_cs_ar_bytes = 0x93 | AR_G; vmcs.guest_ss_ar_bytes |= 1 << 5);
}

static void test_guest_system_segments(void)
{
	for (unsigned type = 0; type < 16; type++) {
		CASE(type == 11 ? PASS : GUEST, vmcs.guest_tr_ar_bytes = 0x80 | type);
		CASE(type == 2 ? PASS : GUEST, vmcs.guest_ldtr_ar_bytes = 0x80 | type);
	}
	CASE(GUEST, vmcs.guest_tr_selector |= 4);
	CASE(GUEST, vmcs.guest_tr_ar_bytes |= AR_UNUSABLE);
	CASE(GUEST, vmcs.guest_tr_ar_bytes |= AR_S);
	CASE(GUEST, vmcs.guest_tr_ar_bytes &= ~(uint32_t)AR_P);
	CASE(GUEST, vmcs.guest_tr_ar_bytes |= AR_G);
	CASE(GUEST, vmcs.guest_tr_base = BIT(47));
	CASE(GUEST, vmcs.guest_ldtr_selector |= 4);
	CASE(PASS, vmcs.guest_ldtr_selector |= 4; vmcs.guest_ldtr_ar_bytes = AR_UNUSABLE);
	CASE(GUEST, vmcs.guest_ldtr_base = BIT(47));
	CASE(PASS, vmcs.guest_ldtr_base = BIT(47); vmcs.guest_ldtr_ar_bytes = AR_UNUSABLE);
	CASE(GUEST, vmcs.guest_gdtr_base = BIT(47));
	CASE(GUEST, vmcs.guest_idtr_base = BIT(47));
	CASE(GUEST, vmcs.guest_gdtr_limit = 0x10000);
	CASE(GUEST, vmcs.guest_idtr_limit = 0x80000000);
}

/* Real mode and virtual-8086 mode, which an unrestricted guest may be entered in. */
static void to_real_mode(void)
{
	ENTRY &= ~(VMENTRY_IA32E | VMENTRY_LOAD_EFER);
	vmcs.guest_cr0 = CR0_NE;
	vmcs.guest_rip = 0xfff0;
	vmcs12_segment_set(&vmcs, SEG_CS, (struct vmcs12_segment){ .selector = 0xf000, .base = 0xffff0000, .limit = 0xffff, .ar = 0x93 });
}

static void to_vm86(void)
{
	ENTRY &= ~(VMENTRY_IA32E | VMENTRY_LOAD_EFER);
	vmcs.guest_rflags |= RFLAGS_VM;
	vmcs.guest_rip = 0x100;
	for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
		vmcs12_segment_set(&vmcs, seg, (struct vmcs12_segment){ .selector = 0x123, .base = 0x1230, .limit = 0xffff, .ar = 0xf3 });
}

static void test_legacy_modes(void)
{
	CASE(PASS, to_real_mode());
	CASE(GUEST, to_real_mode(); SECONDARY &= ~SECONDARY_UNRESTRICTED);
	CASE(GUEST, to_real_mode(); vmcs.guest_cr0 |= CR0_PG);
	CASE(GUEST, to_real_mode(); vmcs.guest_ss_ar_bytes |= 3 << 5);
	CASE(GUEST, to_real_mode(); vmcs.guest_rflags |= RFLAGS_VM);
	CASE(CONTROLS, to_real_mode(); INJECT(EVENT_HW_EXCEPTION, 13); vmcs.vm_entry_intr_info_field |= INTR_INFO_HAS_ERROR);
	CASE(PASS, to_real_mode(); INJECT(EVENT_HW_EXCEPTION, 13));
	CASE(PASS, to_vm86());
	CASE(PASS, to_vm86(); SECONDARY &= ~SECONDARY_UNRESTRICTED);
	CASE(GUEST, to_vm86(); ENTRY |= VMENTRY_IA32E);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		CASE(GUEST, to_vm86(); (&vmcs.guest_es_base)[i] += 16);
		CASE(GUEST, to_vm86(); (&vmcs.guest_es_limit)[i] = 0xfffff);
		CASE(GUEST, to_vm86(); (&vmcs.guest_es_ar_bytes)[i] = 0x93);
	}
}

static void test_rip_rflags(void)
{
	CASE(PASS, vmcs.guest_rip = BIT(47));            /* bits 63:48 alone are compared */
	CASE(GUEST, vmcs.guest_rip = BIT(48));
	CASE(GUEST, vmcs.guest_cs_ar_bytes = 0xc09b);    /* compatibility mode: RIP is too large */
	CASE(PASS, vmcs.guest_cs_ar_bytes = 0xc09b; vmcs.guest_rip = 0xffffffff);
	CASE(GUEST, vmcs.guest_rflags &= ~2ull);
	CASE(GUEST, vmcs.guest_rflags |= RFLAGS_VM);
	for (unsigned bit = 22; bit < 64; bit++)
		CASE(GUEST, vmcs.guest_rflags |= BIT(bit));
	CASE(GUEST, vmcs.guest_rflags |= BIT(3));
	CASE(GUEST, vmcs.guest_rflags |= BIT(5));
	CASE(GUEST, vmcs.guest_rflags |= BIT(15));
}

#define ACTIVITY vmcs.guest_activity_state
#define BLOCKING vmcs.guest_interruptibility_info

static void test_activity(void)
{
	CASE(PASS, ACTIVITY = ACTIVITY_HLT);
	CASE(PASS, ACTIVITY = ACTIVITY_SHUTDOWN);
	CASE(PASS, ACTIVITY = ACTIVITY_WAIT_SIPI);
	CASE(GUEST, ACTIVITY = 4);
	CASE(GUEST, ACTIVITY = ACTIVITY_HLT; vmcs.guest_ss_ar_bytes |= 3 << 5; vmcs.guest_cs_ar_bytes |= 3 << 5);
	CASE(GUEST, ACTIVITY = ACTIVITY_HLT; BLOCKING = SHADOW_MOV_SS);
	CASE(GUEST, ACTIVITY = ACTIVITY_HLT; BLOCKING = SHADOW_STI; vmcs.guest_rflags |= RFLAGS_IF);
	CASE(PASS, ACTIVITY = ACTIVITY_HLT; INJECT(EVENT_NMI, 2));
	CASE(PASS, ACTIVITY = ACTIVITY_HLT; INJECT(EVENT_EXT_INTERRUPT, 32); vmcs.guest_rflags |= RFLAGS_IF);
	CASE(PASS, ACTIVITY = ACTIVITY_HLT; INJECT(EVENT_HW_EXCEPTION, VEC_DB));
	CASE(PASS, ACTIVITY = ACTIVITY_HLT; INJECT(EVENT_HW_EXCEPTION, VEC_MC));
	CASE(GUEST, ACTIVITY = ACTIVITY_HLT; INJECT(EVENT_HW_EXCEPTION, VEC_UD));
	CASE(PASS, ACTIVITY = ACTIVITY_HLT; INJECT(INTR_TYPE_OTHER, 0));
	CASE(GUEST, ACTIVITY = ACTIVITY_HLT; INJECT(EVENT_SW_INTERRUPT, 3); vmcs.vm_entry_instruction_len = 2);
	CASE(GUEST, ACTIVITY = ACTIVITY_WAIT_SIPI; INJECT(EVENT_NMI, 2));
}

static void test_interruptibility(void)
{
	for (unsigned bit = 4; bit < 32; bit++)
		CASE(GUEST, BLOCKING = BIT(bit));
	CASE(GUEST, BLOCKING = SHADOW_STI);
	CASE(PASS, BLOCKING = SHADOW_STI; vmcs.guest_rflags |= RFLAGS_IF);
	CASE(PASS, BLOCKING = SHADOW_MOV_SS);
	CASE(GUEST, BLOCKING = SHADOW_MOV_SS | SHADOW_STI; vmcs.guest_rflags |= RFLAGS_IF);
	CASE(GUEST, BLOCKING = SHADOW_SMI);
	CASE(PASS, BLOCKING = SHADOW_NMI);
	CASE(PASS, BLOCKING = SHADOW_NMI; INJECT(EVENT_NMI, 2));
	CASE(GUEST, BLOCKING = SHADOW_NMI; INJECT(EVENT_NMI, 2); PIN |= PIN_VIRTUAL_NMIS);
	CASE(GUEST, BLOCKING = SHADOW_MOV_SS; INJECT(EVENT_NMI, 2));
	CASE(GUEST, BLOCKING = SHADOW_MOV_SS; INJECT(EVENT_EXT_INTERRUPT, 32); vmcs.guest_rflags |= RFLAGS_IF);
	CASE(GUEST, BLOCKING = SHADOW_STI; INJECT(EVENT_EXT_INTERRUPT, 32); vmcs.guest_rflags |= RFLAGS_IF);
}

static void test_pending_debug(void)
{
	const uint64_t valid = 0x500f;

	for (unsigned bit = 0; bit < 64; bit++)
		CASE(valid >> bit & 1 ? PASS : GUEST, vmcs.guest_pending_dbg_exceptions = BIT(bit));
	CASE(GUEST, BLOCKING = SHADOW_MOV_SS; vmcs.guest_rflags |= RFLAGS_TF);
	CASE(PASS, BLOCKING = SHADOW_MOV_SS; vmcs.guest_rflags |= RFLAGS_TF; vmcs.guest_pending_dbg_exceptions = DR6_BS);
	CASE(PASS, BLOCKING = SHADOW_MOV_SS; vmcs.guest_rflags |= RFLAGS_TF; vmcs.guest_ia32_debugctl = 2);
	CASE(GUEST, BLOCKING = SHADOW_MOV_SS; vmcs.guest_pending_dbg_exceptions = DR6_BS);
	CASE(GUEST, ACTIVITY = ACTIVITY_HLT; vmcs.guest_pending_dbg_exceptions = DR6_BS);
}

static void test_link_pointer(void)
{
	write_ram32(LINK, VMX_REVISION);
	CASE(PASS, vmcs.vmcs_link_pointer = LINK);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = LINK | 8);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = TOO_HIGH);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = CURRENT);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = RAM_SIZE);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = LINK; SECONDARY |= SECONDARY_SHADOW_VMCS);
	write_ram32(LINK, VMX_REVISION | VMCS12_SHADOW_BIT);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = LINK);
	CASE(PASS, vmcs.vmcs_link_pointer = LINK; SECONDARY |= SECONDARY_SHADOW_VMCS);
	write_ram32(LINK, VMX_REVISION ^ 1);
	CASE(GUEST_LINK, vmcs.vmcs_link_pointer = LINK);
}

static void to_pae(void)
{
	ENTRY &= ~(VMENTRY_IA32E | VMENTRY_LOAD_EFER);
	vmcs.guest_cs_ar_bytes = 0xc09b;
	vmcs.guest_rip = 0x1000;
}

static void test_pdptes(void)
{
	const uint64_t reserved = 0x1e6;

	for (unsigned i = 0; i < 4; i++)
		for (unsigned bit = 1; bit < 64; bit++) {
			bool bad = bit >= 40 || (reserved >> bit & 1);
			CASE(bad ? GUEST_PDPTE : PASS, to_pae(); (&vmcs.guest_pdptr0)[i] = 1 | BIT(bit));
		}
	CASE(PASS, to_pae(); vmcs.guest_pdptr2 = ~1ull);                 /* not present */
	CASE(PASS, vmcs.guest_pdptr0 = ~0ull);                           /* not PAE paging */
	CASE(PASS, to_pae(); SECONDARY = 0; vmcs.guest_pdptr0 = ~0ull);  /* read from memory at VM entry instead */
}

static void test_base(void)
{
	CASE(PASS, (void)0);
}

int main(void)
{
	static const struct test tests[] = {
		{ "the base passes", test_base },
		{ "addresses and counts", test_addresses }, { "TPR shadow", test_tpr_shadow },
		{ "APIC virtualization", test_apic_virtualization }, { "posted interrupts", test_posted_interrupts },
		{ "IPI virtualization", test_ipi_virtualization },
		{ "NMI, timer and SMM controls", test_nmi_and_timer_controls }, { "EPT pointer", test_eptp },
		{ "MSR lists", test_msr_lists }, { "injected event types", test_injected_types },
		{ "injected error codes", test_injected_errors }, { "control bits, one by one", test_control_sweep },
		{ "host registers", test_host_registers }, { "host segments", test_host_segments },
		{ "32-bit host", test_32_bit_host }, { "guest registers", test_guest_registers },
		{ "guest CS", test_guest_code_segment }, { "guest data segments", test_guest_data_segments },
		{ "guest SS", test_guest_stack_segment }, { "guest TR, LDTR and tables", test_guest_system_segments },
		{ "real and virtual-8086 mode", test_legacy_modes }, { "RIP and RFLAGS", test_rip_rflags },
		{ "activity state", test_activity }, { "interruptibility", test_interruptibility },
		{ "pending debug exceptions", test_pending_debug }, { "link pointer", test_link_pointer },
		{ "PDPTEs", test_pdptes },
	};

	set_up();
	return run_tests(tests, ARRAY_SIZE(tests));
}
