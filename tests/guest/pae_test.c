/* A guest hypervisor that is 32-bit code with PAE paging: what VM entries check and VM exits load for it. */
#include "hypervisor.h"
#include "vmx/vmcs12.h"

enum { GIB = 1 << 30, VMCS12 = 0x21000, PDES = HV_HOST_PAE + 0x1000 };
static const unsigned paging[] = { HV_PAE_HOST, HV_PAE_HOST | HV_WITH_EPT, HV_PAE_HOST | HV_WITH_UNRESTRICTED };

static uint64_t *quad(struct hv *h, uint64_t gpa) { return (uint64_t *)(h->g.memory + gpa); }

static uint64_t l1_msr(struct hv *h, uint32_t index)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = index };

	check_equal(guest_ioctl(h->g.vcpu[0], KVM_GET_MSRS, &m), 1);
	return m.e.data;
}

/* Where L1's own paging leads; ~0: nowhere. */
static uint64_t l1_translate(struct hv *h, uint64_t address)
{
	struct kvm_translation t = { .linear_address = address };

	guest_ioctl(h->g.vcpu[0], KVM_TRANSLATE, &t);
	return t.valid ? t.physical_address : ~0ull;
}

GUEST_ASM(cpuid_hlt, 32, "mov $0x12345678, %eax\n cpuid\n 1: hlt\n jmp 1b");

static void test_host_state(void)
{
	for (unsigned i = 0; i < sizeof(paging) / sizeof(*paging); i++) {
		struct kvm_sregs s;
		struct hv h;

		hv_create_with(&h, paging[i], cpuid_hlt, (struct hv_controls){ 0 });
		hv_set(&h, F_host_ia32_sysenter_cs, 0x18);
		hv_set(&h, F_host_ia32_sysenter_esp, 0xfffff000);
		hv_set(&h, F_host_ia32_sysenter_eip, 0xc0001234);
		hv_set(&h, F_host_fs_base, 0xdeadb000);
		hv_set(&h, F_host_tr_base, HV_TSS);
		check_equal(hv_run(&h), EXIT_CPUID);
		check_equal(h.gpr[0], 0x12345678);
		check_equal(hv_get(&h, F_guest_cr3), HV_PAE);
		guest_ioctl(h.g.vcpu[0], KVM_GET_SREGS, &s);
		check_equal(s.cr0, 0x80000031);
		check_equal(s.cr3, HV_HOST_PAE);
		check_equal(s.cr4, 0x2020);
		check_equal(s.efer & 0x500, 0);                  /* neither LME nor LMA */
		check_equal(s.cs.selector, 8);
		check(s.cs.db && !s.cs.l && s.cs.g && s.cs.type == 11);
		check_equal(s.cs.limit, 0xffffffff);
		check(s.ss.db && s.ds.db && s.ds.limit == 0xffffffff);
		check_equal(s.fs.base, 0xdeadb000);
		check_equal(s.tr.base, HV_TSS);
		check_equal(s.tr.limit, 0x67);
		check_equal(l1_msr(&h, 0x174), 0x18);
		check_equal(l1_msr(&h, 0x175), 0xfffff000);
		check_equal(l1_msr(&h, 0x176), 0xc0001234);
		check_equal(hv_skip(&h), EXIT_HLT);
		hv_destroy(&h);
	}
}

/* L1's PDPTEs change in memory: it sees that after the next VM exit, not before. */
static void test_pdptes_are_loaded(void)
{
	for (unsigned i = 0; i < sizeof(paging) / sizeof(*paging); i++) {
		struct hv h;

		hv_create_with(&h, paging[i], cpuid_hlt, (struct hv_controls){ 0 });
		check_equal(hv_run(&h), EXIT_CPUID);
		check_equal(l1_translate(&h, GIB + HV_L2), HV_L2);
		*quad(&h, HV_HOST_PAE + 8) = 0;
		check_equal(l1_translate(&h, GIB + HV_L2), HV_L2);
		check_equal(hv_skip(&h), EXIT_HLT);
		check_equal(l1_translate(&h, GIB + HV_L2), ~0ull);
		*quad(&h, HV_HOST_PAE + 8) = PDES | 1;
		check_equal(hv_skip(&h), EXIT_HLT);
		check_equal(l1_translate(&h, GIB + HV_L2), HV_L2);
		hv_destroy(&h);
	}
}

/* L2 goes on at its HLT, and the VM exit finds a host PDPTE that cannot be loaded. */
static void test_bad_pdptes(void)
{
	static const struct { uint64_t pdpte; bool abort; } cases[] = {
		{ PDES | 3, true }, { PDES | 0x1e1, true }, { 1ull << 63 | PDES | 1, true }, { 1ull << 52 | PDES | 1, true },
		{ ~1ull, false }, { PDES | 0xe19, false },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct vmcs12 *vmcs12;
		struct hv h;

		hv_create_with(&h, HV_PAE_HOST | HV_WITH_EPT, cpuid_hlt, (struct hv_controls){ 0 });
		hv_run(&h);
		check_equal(hv_skip(&h), EXIT_HLT);
		*quad(&h, HV_HOST_PAE + 24) = cases[i].pdpte;
		check_equal(guest_run(&h.g, 0), cases[i].abort ? KVM_EXIT_SHUTDOWN : KVM_EXIT_IO);
		vmcs12 = (struct vmcs12 *)(h.g.memory + VMCS12);
		check_equal(vmcs12->abort, cases[i].abort ? 2 : 0);
		hv_destroy(&h);
	}
}

/* With EPT the fields hold L2's PDPTEs: entries load them, exits save what MOV to CR3 loaded from memory. */
GUEST_ASM(load_cr3, 32, "mov 0x40009000, %eax\n mov $0x7000, %eax\n mov %eax, %cr3\n hlt");

static void test_guest_pdptes(void)
{
	uint64_t *own;
	struct hv h;

	hv_create_with(&h, HV_PAE_HOST | HV_WITH_EPT, load_cr3, (struct hv_controls){ 0 });
	own = quad(&h, 0x7000);
	own[0] = own[3] = (HV_PAE + 0x1000) | 1;
	own[1] = own[2] = 0;
	hv_set(&h, F_guest_pdptr0, (HV_PAE + 0x1000) | 1);
	hv_set(&h, F_guest_pdptr1, (HV_PAE + 0x1000) | 1);       /* in memory it is not present */
	hv_set(&h, F_guest_pdptr2, 0);
	hv_set(&h, F_guest_pdptr3, 0);
	hv_set(&h, F_exception_bitmap, ~0u);
	check_equal(hv_run(&h), EXIT_HLT);
	check_equal(hv_get(&h, F_guest_cr3), 0x7000);
	check_equal(hv_get(&h, F_guest_pdptr1), 0);
	check_equal(hv_get(&h, F_guest_pdptr3), (HV_PAE + 0x1000) | 1);
	hv_destroy(&h);
	hv_create_with(&h, HV_PAE_HOST | HV_WITH_EPT, load_cr3, (struct hv_controls){ 0 });
	hv_set(&h, F_guest_pdptr0, (HV_PAE + 0x1000) | 3);
	check_equal(hv_run(&h), EXIT_INVALID_GUEST_STATE | EXIT_ENTRY_FAILURE);
	check_equal(hv_get(&h, F_exit_qualification), 2);
	hv_destroy(&h);
}

/* Outside IA-32e mode neither side of a VM entry may be 64-bit, and fields of 64 bits are written in halves. */
static void test_refused(void)
{
	static const struct { enum hv_field field; uint64_t value; } host[] = {
		{ F_host_cr4, 0x22020 /* PCIDE */ }, { F_host_tr_selector, 0 }, { F_host_cs_selector, 0 }, { F_host_ss_selector, 3 },
	};
	struct hv h;

	hv_create_with(&h, HV_PAE_HOST, cpuid_hlt, (struct hv_controls){ .exit = VMEXIT_HOST_64 });
	check_equal(hv_error(&h), VMXERR_HOST_STATE);
	hv_destroy(&h);
	hv_create_with(&h, HV_PAE_HOST, cpuid_hlt, (struct hv_controls){ .entry = VMENTRY_IA32E });
	check_equal(hv_error(&h), VMXERR_HOST_STATE);
	hv_destroy(&h);
	for (unsigned i = 0; i < sizeof(host) / sizeof(*host); i++) {
		hv_create_with(&h, HV_PAE_HOST, cpuid_hlt, (struct hv_controls){ 0 });
		hv_set(&h, host[i].field, host[i].value);
		check_equal(hv_error(&h), VMXERR_HOST_STATE);
		hv_destroy(&h);
	}
	hv_create_with(&h, HV_PAE_HOST, cpuid_hlt, (struct hv_controls){ 0 });
	hv_set(&h, F_tsc_offset, 0x123456789abcdef0);
	check_equal(hv_run(&h), EXIT_CPUID);
	check_equal(hv_get(&h, F_tsc_offset), 0x123456789abcdef0);
	hv_destroy(&h);
}

int main(void)
{
	static const struct test tests[] = {
		{ "host state after a VM exit", test_host_state }, { "VM exits load the host's PDPTEs", test_pdptes_are_loaded },
		{ "host PDPTEs with reserved bits", test_bad_pdptes }, { "L2's PDPTEs", test_guest_pdptes },
		{ "entries that are refused", test_refused },
	};

	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
