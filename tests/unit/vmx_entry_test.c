/*
 * The way into L2 and back: what VM entry loads, what VM exit saves and loads,
 * MSR lists, injection, events at the boundary. The processor below is
 * replaced by stubs. Prints TAP.
 */
#include <stdio.h>
#include <stdlib.h>
#include "cpu/cet.h"
#include "cpu/rules.h"
#include "cpu/vapic.h"
#include "../tap.h"
#include "vmx/checks.h"


/* ---- the processor, as far as entry and exit see it ---- */

static int flushed_vpid = -1;
static uint64_t fake_msr[0x200];         /* MSRs 0x100.. of the test; 0x1ff raises #GP */

bool cet_control_valid(const struct cpu *cpu, uint64_t value) { return !(value & 0x3c0); }
void cpu_mode_update(struct cpu *cpu) { }
uint64_t cr4_allowed(const struct cpu *cpu) { return CR4_PAE; }
void tlb_flush_vpid(struct cpu *cpu, uint16_t vpid, bool globals_too) { flushed_vpid = vpid; }
bool cpu_interrupt_allowed(const struct cpu *cpu) { return (cpu->rflags & RFLAGS_IF) && !cpu->shadow && !cpu->event.valid; }
bool cpu_nmi_allowed(const struct cpu *cpu) { return !cpu->nmi_blocked && !cpu->shadow && !cpu->event.valid; }
void vapic_begin(struct cpu *cpu) { cpu->ctl->virtual_interrupt = cpu->ctl->rvi >> 4; }
uint8_t vapic_take(struct cpu *cpu) { cpu->ctl->virtual_interrupt = false; return cpu->ctl->svi = cpu->ctl->rvi; }
void vapic_process_posted(struct cpu *cpu) { vapic_begin(cpu); }
bool vmx_shadow_load(struct vmx_vcpu *v) { return v->shadow_valid = true; }
void vmx_shadow_flush(struct vmx_vcpu *v) { v->shadow_valid = false; }

int msr_read(struct cpu *cpu, uint32_t index, uint64_t *value, bool host)
{
	*value = fake_msr[index & 0x1ff];
	return index >= 0x100 && index < 0x1ff ? 0 : 1;
}

int msr_write(struct cpu *cpu, uint32_t index, uint64_t value, bool host)
{
	fake_msr[index & 0x1ff] = value;
	return index >= 0x100 && index < 0x1ff ? 0 : 1;
}

uint32_t segment_ar_bytes(const struct segment *s)
{
	int ar = s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->l << 13 | s->db << 14 | s->g << 15;

	return s->unusable ? 1u << 16 : (uint32_t)ar;
}

void segment_set_ar_bytes(struct segment *s, uint32_t ar)
{
	*s = (struct segment){ .base = s->base, .limit = s->limit, .selector = s->selector, .type = ar & 15, .s = ar >> 4 & 1,
	                       .dpl = ar >> 5 & 3, .present = ar >> 7 & 1, .l = ar >> 13 & 1, .db = ar >> 14 & 1,
	                       .g = ar >> 15 & 1, .unusable = ar >> 16 & 1 };
}

/* ---- L1's surroundings ---- */

static uint64_t tsc, timer_at;
static int pending = -1;

static int interrupt_pending(struct cpu *cpu) { return pending; }
static int interrupt_ack(struct cpu *cpu) { int vector = pending; pending = -1; return vector; }
static uint64_t l1_tsc(struct cpu *cpu) { return tsc; }
static void timer(struct cpu *cpu, uint64_t at) { timer_at = at; }
static uint64_t apic_base(struct cpu *cpu) { return 0xfee00900; }
static const struct vmx_ops ops = { interrupt_pending, interrupt_ack, l1_tsc, timer, apic_base };

/* ---- fixture ---- */

enum { RAM_SIZE = 0x20000, CURRENT = 0x2000, LIST = 0x3000, VAPIC = 0x4000, BITMAP = 0x5000 };
static uint8_t ram[RAM_SIZE] __attribute__((aligned(4096)));
static struct cpu cpu;
static struct stats stats;
static struct vmx_vcpu vcpu;
static struct vmcs12 *const vmcs = &vcpu.vmcs12;

static void set_segment(enum seg seg, uint16_t selector, uint32_t ar, uint32_t limit)
{
	vmcs12_segment_set(vmcs, seg, (struct vmcs12_segment){ .selector = selector, .ar = ar, .limit = limit, .base = seg * 0x1000 });
}

static void fill_controls(void)
{
	const struct vmx_caps *c = &vcpu.caps;

	vmcs->pin_based_vm_exec_control = c->pin.must | PIN_EXT_INTR | PIN_NMI;
	vmcs->cpu_based_vm_exec_control = c->primary.must | PRIMARY_SECONDARY;
	vmcs->secondary_vm_exec_control = SECONDARY_EPT | SECONDARY_UNRESTRICTED;
	vmcs->vm_exit_controls = c->exit.must | VMEXIT_HOST_64 | VMEXIT_LOAD_EFER | VMEXIT_SAVE_EFER | VMEXIT_SAVE_DEBUG;
	vmcs->vm_entry_controls = c->entry.must | VMENTRY_IA32E | VMENTRY_LOAD_EFER | VMENTRY_LOAD_DEBUG;
	vmcs->ept_pointer = 0x1000 | 3 << 3 | 6;
	vmcs->vmcs_link_pointer = VMX_NO_POINTER;
	vmcs->launch_state = VMCS12_CLEAR;
}

static void fill_state(void)
{
	vmcs->host_cr0 = vmcs->guest_cr0 = 0x80050033;
	vmcs->host_cr4 = vmcs->guest_cr4 = CR4_VMXE | CR4_PAE;
	vmcs->host_cr3 = 0x7000;
	vmcs->guest_cr3 = 0x8000;
	vmcs->host_cs_selector = 8;
	vmcs->host_ss_selector = 16;
	vmcs->host_tr_selector = 24;
	vmcs->host_fs_base = 0xf5;
	vmcs->host_ia32_efer = vmcs->guest_ia32_efer = EFER_LMA | EFER_LME | EFER_SCE;
	vmcs->host_rip = 0x111000;
	vmcs->host_rsp = 0x112000;
	vmcs->guest_rip = 0x221000;
	vmcs->guest_rsp = 0x222000;
	vmcs->guest_rflags = 2 | RFLAGS_IF;
	vmcs->guest_dr7 = DR7_FIXED | 1;
	set_segment(SEG_CS, 8, 0xa09b, 0xffffffff);
	for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
		if (seg != SEG_CS)
			set_segment(seg, 16, 0xc093, 0xffffffff);
	set_segment(SEG_LDTR, 0, AR_UNUSABLE, 0);
	set_segment(SEG_TR, 24, 0x8b, 0x67);
}

static void start(void)
{
	memset(ram, 0, sizeof(ram));
	memset(&vcpu, 0, sizeof(vcpu));
	if (cpu.mem)
		mem_free(cpu.mem);
	cpu = (struct cpu){ .mem = mem_new(), .stats = &stats, .maxphyaddr = 40, .efer = EFER_LMA | EFER_LME, .cr0 = 0x80050033, .rip = 0x111222,
	                    .nmi_blocked = true };
	check(mem_slot_set(cpu.mem, 0, 0, 0, RAM_SIZE, ram) == 0);
	vcpu.cpu = &cpu;
	vcpu.ops = &ops;
	vcpu.current_ptr = CURRENT;
	vmx_caps_init(&vcpu.caps);
	vmx_run_l1(&vcpu);
	fill_controls();
	fill_state();
	tsc = 1000;
	pending = -1;
}

static bool enter(void) { return vmx_enter(&vcpu, true) == VMX_ENTERED; }

static bool events(bool nmi)
{
	bool taken, init = false;
	bool exited = vmx_check_events(&vcpu, nmi, &taken, &init);

	check(taken == (exited && vmcs->vm_exit_reason == EXIT_EXCEPTION_NMI));
	return exited;
}

static bool exits_with(uint32_t reason) { return events(false) && vmcs->vm_exit_reason == reason; }

static void expect_host_state(void)
{
	check(!vcpu.in_l2 && cpu.ctl == &vcpu.vmcs01);
	check(cpu.rip == 0x111000 && cpu.gpr[REG_RSP] == 0x112000 && cpu.rflags == 2);
	check(cpu.cr3 == 0x7000 && cpu.cr4 == vmcs->host_cr4 && cpu.efer == vmcs->host_ia32_efer);
	check(cpu.dr7 == 0x400 && cpu.msr.debugctl == 0 && cpu.cpl == 0 && cpu.shadow == 0);
	check(cpu.seg[SEG_CS].l && !cpu.seg[SEG_CS].db && cpu.seg[SEG_CS].limit == 0xffffffff && cpu.seg[SEG_CS].type == 11);
	check(!cpu.seg[SEG_SS].unusable && cpu.seg[SEG_DS].unusable && cpu.seg[SEG_FS].unusable && cpu.seg[SEG_FS].base == 0xf5);
	check(cpu.seg[SEG_TR].limit == 0x67 && cpu.seg[SEG_LDTR].unusable && cpu.gdtr.limit == 0xffff && cpu.idtr.limit == 0xffff);
	check(!cpu.event.valid && cpu.activity == ACTIVITY_ACTIVE);
}

/* ---- registers ---- */

static void test_round_trip(void)
{
	start();
	check(enter());
	check(vcpu.in_l2 && cpu.ctl == &vcpu.vmcs02 && vmcs->launch_state == VMCS12_LAUNCHED && flushed_vpid == 0);
	check(cpu.rip == 0x221000 && cpu.gpr[REG_RSP] == 0x222000 && cpu.cr3 == 0x8000 && cpu.dr7 == (DR7_FIXED | 1));
	check(cpu.seg[SEG_GS].base == SEG_GS * 0x1000 && cpu.seg[SEG_LDTR].unusable && !cpu.nmi_blocked);
	cpu.rip = 0x221005;
	cpu.cr3 = 0x9000;
	cpu.dr7 = 0x402;
	cpu.rflags |= RFLAGS_RF | RFLAGS_CF;
	cpu.seg[SEG_ES].selector = 0x33;
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_CPUID, .insn_len = 2, .qualification = 7, .gpa = 8, .gla = 9 });
	expect_host_state();
	check(vmcs->guest_rip == 0x221005 && vmcs->guest_cr3 == 0x9000 && vmcs->guest_dr7 == 0x402);
	check(vmcs->guest_rflags == (2 | RFLAGS_IF | RFLAGS_CF) && vmcs->guest_es_selector == 0x33);
	check(vmcs->guest_ss_ar_bytes == 0xc093 && vmcs->guest_cs_ar_bytes == 0xa09b && vmcs->guest_tr_ar_bytes == 0x8b);
	check(vmcs->vm_exit_reason == EXIT_CPUID && vmcs->vm_exit_instruction_len == 2 && vmcs->exit_qualification == 7);
	check(vmcs->guest_physical_address == 8 && vmcs->guest_linear_address == 9);
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && cpu.rip == 0x221005);
}

static void test_failures(void)
{
	start();
	vmcs->cr3_target_count = 9;
	check(vmx_enter(&vcpu, true) == VMX_ENTRY_BAD_CONTROLS && cpu.rip == 0x111222);
	start();
	vmcs->host_cs_selector = 0;
	check(vmx_enter(&vcpu, true) == VMX_ENTRY_BAD_HOST && cpu.rip == 0x111222);
	start();
	vmcs->vm_entry_intr_info_field = INTR_INFO_VALID | EVENT_NMI << 8 | 2;
	vmcs->guest_rflags = 0;
	check(vmx_enter(&vcpu, true) == VMX_ENTRY_EXITED);
	expect_host_state();
	check(vmcs->vm_exit_reason == (EXIT_INVALID_GUEST_STATE | EXIT_ENTRY_FAILURE) && vmcs->exit_qualification == 0);
	check(vmcs->launch_state == VMCS12_CLEAR && vmcs->guest_rflags == 0 && cpu.nmi_blocked);
	check(vmcs->vm_entry_intr_info_field & INTR_INFO_VALID);
}

/* An unrestricted guest turns paging on and off: the entry control follows EFER.LMA. */
static void test_mode_changes(void)
{
	start();
	check(enter());
	cpu.efer = 0;
	cpu.cr0 = CR0_NE | CR0_ET;
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	check(!(vmcs->vm_entry_controls & VMENTRY_IA32E) && vmcs->guest_ia32_efer == 0 && vmcs->guest_cr0 == (CR0_NE | CR0_ET));
	check(cpu.efer == vmcs->host_ia32_efer && (cpu.cr0 & CR0_PG));
	vmcs->guest_cs_ar_bytes = 0x9b;
	vmcs->guest_cs_limit = 0xffff;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && !(cpu.cr0 & CR0_PG) && !cpu_long_mode(&cpu));
	start();
	vmcs->vm_entry_controls &= ~(VMENTRY_LOAD_EFER | VMENTRY_IA32E);
	vmcs->guest_cr0 &= ~CR0_PG;
	vmcs->guest_cs_ar_bytes = 0xc09b;
	cpu.efer |= EFER_NX;
	check(enter() && cpu.efer == (EFER_NX | EFER_LME));     /* without paging LME stays */
}

static void test_pae_without_ept(void)
{
	const uint64_t good[4] = { 0x9001, 0, 0, 0xa001 };

	start();
	vmcs->secondary_vm_exec_control = 0;
	vmcs->vm_entry_controls &= ~(VMENTRY_IA32E | VMENTRY_LOAD_EFER);
	vmcs->guest_cs_ar_bytes = 0xc09b;
	vmcs->guest_cr3 = 0x8020;
	memcpy(ram + 0x8020, good, sizeof(good));
	check(enter() && !memcmp(cpu.pdptr, good, sizeof(good)));
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	ram[0x8020] |= 2;
	check(vmx_enter(&vcpu, false) == VMX_ENTRY_EXITED && vmcs->exit_qualification == 2);
	expect_host_state();
}

/* ---- MSR lists ---- */

static void put_msr(unsigned i, uint64_t index, uint64_t value)
{
	memcpy(ram + LIST + 16 * i, &index, 8);
	memcpy(ram + LIST + 16 * i + 8, &value, 8);
}

static void test_msr_lists(void)
{
	uint64_t stored;

	start();
	put_msr(0, 0x101, 11);
	put_msr(1, 0x102, 22);
	vmcs->vm_entry_msr_load_addr = vmcs->vm_exit_msr_store_addr = LIST;
	vmcs->vm_entry_msr_load_count = 2;
	vmcs->vm_exit_msr_store_count = 1;
	check(enter() && fake_msr[0x101] == 11 && fake_msr[0x102] == 22);
	fake_msr[0x101] = 33;
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	memcpy(&stored, ram + LIST + 8, 8);
	check(stored == 33);
	/* The TSC is stored without the offset that L2 sees. */
	put_msr(0, 0x10, 0);
	vmcs->vm_entry_msr_load_count = 0;
	tsc = 5000;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED);
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	memcpy(&stored, ram + LIST + 8, 8);
	check(stored == 5000);
	put_msr(0, 0x101, 11);
	vmcs->vm_entry_msr_load_count = 2;
	static const uint64_t refused[] = { 0x1ff, 0xc0000100, 0xc0000101, 0x79, 0x8b, 0x9b, 0x9e, 1ull << 32 | 0x101 };
	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
		put_msr(1, refused[i], 0);
		check(vmx_enter(&vcpu, false) == VMX_ENTRY_EXITED && vmcs->exit_qualification == 2);
		check(vmcs->vm_exit_reason == (EXIT_MSR_LOADING | EXIT_ENTRY_FAILURE));
		expect_host_state();
	}
	vmcs->vm_entry_msr_load_count = 0;
	vmcs->vm_exit_msr_load_addr = LIST;
	vmcs->vm_exit_msr_load_count = 2;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED);
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	check(cpu.activity == ACTIVITY_SHUTDOWN && !vcpu.in_l2 && vmcs->abort == 4 && ram[CURRENT + 4] == 4);
}

/* ---- events ---- */

static void inject(uint32_t type, uint32_t vector, uint32_t flags)
{
	vmcs->vm_entry_intr_info_field = INTR_INFO_VALID | type << 8 | vector | flags;
}

static void test_injection(void)
{
	start();
	inject(EVENT_HW_EXCEPTION, VEC_PF, INTR_INFO_HAS_ERROR);
	vmcs->vm_entry_exception_error_code = 6;
	vmcs->guest_pending_dbg_exceptions = DR6_BS;
	check(enter() && cpu.event.valid && cpu.event.injected && cpu.event.vector == VEC_PF && cpu.event.error == 6);
	check(!cpu.event.has_payload && !cpu.pending_debug);
	pending = 0x40;
	cpu.poll = 0;
	check(!events(false) && (cpu.poll & POLL_EVENT));       /* delivered first, then the interrupt */
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_EPT_VIOLATION });
	check(vmcs->idt_vectoring_info_field == (INTR_INFO_VALID | INTR_INFO_HAS_ERROR | EVENT_HW_EXCEPTION << 8 | VEC_PF));
	check(vmcs->idt_vectoring_error_code == 6 && !(vmcs->vm_entry_intr_info_field & INTR_INFO_VALID));
	check(vmcs->guest_rflags & RFLAGS_RF);
	inject(EVENT_SW_INTERRUPT, 0x80, 0);
	vmcs->vm_entry_instruction_len = 2;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && cpu.event.insn_len == 2 && cpu.event.type == EVENT_SW_INTERRUPT);
	start();
	vmcs->guest_activity_state = ACTIVITY_HLT;
	inject(EVENT_NMI, 2, 0);
	check(enter() && cpu.activity == ACTIVITY_ACTIVE);
	start();
	inject(INTR_TYPE_OTHER, 0, 0);
	check(enter() && !cpu.event.valid && exits_with(EXIT_MTF));
}

static void test_interrupts(void)
{
	start();
	cpu.rflags = 2;
	check(enter() && !events(false));
	pending = 0x41;
	check(exits_with(EXIT_EXTERNAL_INTERRUPT) && pending == 0x41 && vmcs->vm_exit_intr_info == 0);
	vmcs->vm_exit_controls |= VMEXIT_ACK_INTR;
	vmcs->guest_rflags &= ~(uint64_t)RFLAGS_IF;
	vmcs->guest_activity_state = ACTIVITY_HLT;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && exits_with(EXIT_EXTERNAL_INTERRUPT));
	check(pending == -1 && vmcs->vm_exit_intr_info == (INTR_INFO_VALID | 0x41) && vmcs->guest_activity_state == ACTIVITY_HLT);
	expect_host_state();
	vmcs->pin_based_vm_exec_control &= ~PIN_EXT_INTR;
	pending = 0x41;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && !events(false));
}

static void test_windows(void)
{
	start();
	vmcs->cpu_based_vm_exec_control |= PRIMARY_INTR_WINDOW;
	vmcs->guest_interruptibility_info = SHADOW_STI;
	check(enter() && !events(false) && (cpu.want & WANT_INTR));
	cpu.shadow = 0;
	pending = 0x41;
	check(exits_with(EXIT_INTERRUPT_WINDOW));       /* before the interrupt itself */
	start();
	vmcs->pin_based_vm_exec_control |= PIN_VIRTUAL_NMIS;
	vmcs->cpu_based_vm_exec_control |= PRIMARY_NMI_WINDOW;
	vmcs->guest_interruptibility_info = SHADOW_NMI;
	check(enter() && (cpu.shadow & SHADOW_NMI) && !cpu.nmi_blocked && !events(false) && (cpu.want & WANT_NMI));
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	check(vmcs->guest_interruptibility_info == SHADOW_NMI);
	vmcs->guest_interruptibility_info = 0;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && exits_with(EXIT_NMI_WINDOW));
}

static void test_nmi(void)
{
	start();
	vmcs->guest_interruptibility_info = SHADOW_NMI;
	check(enter() && cpu.nmi_blocked && !events(true));
	cpu.nmi_blocked = false;
	check(events(true) && vmcs->vm_exit_intr_info == (INTR_INFO_VALID | EVENT_NMI << 8 | 2) && cpu.nmi_blocked);
	check(!(vmcs->guest_interruptibility_info & SHADOW_NMI));
	vmcs->pin_based_vm_exec_control &= ~PIN_NMI;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && !events(true));
}

static void test_preemption_timer(void)
{
	unsigned rate;

	start();
	rate = vmx_caps_timer_rate(&vcpu.caps);
	vmcs->pin_based_vm_exec_control |= PIN_PREEMPTION_TIMER;
	vmcs->vm_exit_controls |= VMEXIT_SAVE_PREEMPTION_TIMER;
	vmcs->vmx_preemption_timer_value = 10;
	check(enter() && timer_at == ((1000ull >> rate) + 10) << rate && !events(false));
	tsc += 4 << rate;
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	check(vmcs->vmx_preemption_timer_value == 6 && timer_at == UINT64_MAX);
	check(vmx_enter(&vcpu, false) == VMX_ENTERED);
	tsc = timer_at;
	check(exits_with(EXIT_PREEMPTION_TIMER) && vmcs->vmx_preemption_timer_value == 0);
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && exits_with(EXIT_PREEMPTION_TIMER));
}

/* A wake-up that comes before the deadline is asked for again; one that nobody waits for is not. */
static void test_early_wake_up(void)
{
	uint64_t deadline;

	start();
	check(enter());
	timer_at = UINT64_MAX;
	vmx_timer_woken(&vcpu);                                  /* L2 has no timer */
	check(timer_at == UINT64_MAX);
	start();
	vmcs->pin_based_vm_exec_control |= PIN_PREEMPTION_TIMER;
	vmcs->vmx_preemption_timer_value = 10;
	check(enter());
	deadline = timer_at;
	timer_at = UINT64_MAX;
	tsc = deadline - 1;
	vmx_timer_woken(&vcpu);
	check(timer_at == deadline);
	timer_at = UINT64_MAX;
	tsc = deadline;
	vmx_timer_woken(&vcpu);
	check(timer_at == UINT64_MAX);
}

static void test_init_and_sipi(void)
{
	bool taken, init = true;

	start();
	check(enter() && vmx_check_events(&vcpu, true, &taken, &init) && vmcs->vm_exit_reason == EXIT_INIT && !taken && !init);
	init = true;
	vmcs->guest_activity_state = ACTIVITY_WAIT_SIPI;
	pending = 0x41;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && !vmx_check_events(&vcpu, true, &taken, &init) && init);
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_SIPI, .qualification = 0x9a });
	check(vmcs->guest_activity_state == ACTIVITY_WAIT_SIPI);
}

static void test_pending_debug(void)
{
	start();
	vmcs->guest_pending_dbg_exceptions = VMX_PENDING_ENABLED | 2;
	check(enter() && !events(false) && cpu.event.valid && cpu.event.vector == VEC_DB && cpu.event.payload == 2);
	start();
	vmcs->guest_pending_dbg_exceptions = 2;                  /* no breakpoint is enabled */
	check(enter() && !events(false) && !cpu.event.valid);
	start();
	vmcs->guest_rflags |= RFLAGS_TF;
	vmcs->guest_interruptibility_info = SHADOW_MOV_SS;
	vmcs->guest_pending_dbg_exceptions = DR6_BS;
	check(enter() && !events(false) && !cpu.event.valid && cpu.pending_debug == DR6_BS);
	cpu.pending_debug = 1;
	vmx_exit_to_l1(&vcpu, &(struct vmexit){ .reason = EXIT_HLT });
	check(vmcs->guest_pending_dbg_exceptions == (1 | VMX_PENDING_ENABLED | DR6_BS));
	check(vmx_enter(&vcpu, false) == VMX_ENTERED);
}

static void test_tpr_threshold(void)
{
	start();
	vmcs->cpu_based_vm_exec_control |= PRIMARY_TPR_SHADOW | PRIMARY_MSR_BITMAPS;
	vmcs->secondary_vm_exec_control |= SECONDARY_APIC_ACCESSES;
	vmcs->virtual_apic_page_addr = VAPIC;
	vmcs->msr_bitmap = BITMAP;
	ram[BITMAP + 5] = 0x77;
	ram[VAPIC + 0x80] = 0x20;
	vmcs->tpr_threshold = 2;
	check(enter() && vcpu.vmcs02.vapic == ram + VAPIC && vcpu.vmcs02.msr_bitmap[5] == 0x77 && !events(false));
	ram[BITMAP + 6] = 0x88;                                  /* bitmaps are read where they lie */
	check(vcpu.vmcs02.msr_bitmap[6] == 0x88);
	ram[VAPIC + 0x80] = 0x10;
	check(exits_with(EXIT_TPR_BELOW_THRESHOLD));
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && exits_with(EXIT_TPR_BELOW_THRESHOLD));
	vmcs->msr_bitmap = 0x100000;                             /* no memory: every access exits */
	vmcs->tpr_threshold = 0;
	check(vmx_enter(&vcpu, false) == VMX_ENTERED && vcpu.vmcs02.msr_bitmap[100] == 0xff);
}

int main(void)
{
	static const struct test tests[] = {
		{ "state goes in and comes back", test_round_trip }, { "failed entries", test_failures },
		{ "mode changes of an unrestricted guest", test_mode_changes }, { "PDPTEs from memory", test_pae_without_ept },
		{ "MSR lists", test_msr_lists }, { "injection", test_injection }, { "external interrupts", test_interrupts },
		{ "windows", test_windows }, { "NMI", test_nmi }, { "preemption timer", test_preemption_timer },
		{ "preemption timer: woken early", test_early_wake_up },
		{ "INIT and SIPI", test_init_and_sipi }, { "pending debug exceptions", test_pending_debug },
		{ "TPR threshold and bitmaps", test_tpr_threshold },
	};

	params.nested = params.ept = params.vpid = params.unrestricted_guest = params.flexpriority = true;
	params.preemption_timer = params.vnmi = params.ept_ad = true;
	return run_tests(tests, ARRAY_SIZE(tests));
}
