/*
 * cpu/state -- the life of a processor, its reset state, and the mode word.
 *
 * One mapping holds, from low to high: a guard page, the private stack, the
 * struct cpu itself, and the XSAVE image. Generated code runs with the host's
 * stack pointer at the struct, so what it calls grows down into the stack.
 */
#include <linux/kvm.h>
#include <sys/mman.h>
#include "cpu/cet.h"
#include "cpu/fpu.h"
#include "x86/vmx.h"
#include "xlat/xlat.h"

enum { CPU_GUARD = 4096, CPU_STACK = 256 * 1024 };

/* In force until the owner sets its own: intercepts nothing. Never written. */
static struct control_block ctl_none = { .timer_deadline = UINT64_MAX, .vapic_gpa = ~0ull, .apic_access_gpa = ~0ull };

/* Counts for those who have no owner. */
static struct stats stats_none;

static size_t cpu_struct_size(void)
{
	return (sizeof(struct cpu) + 63) & ~(size_t)63;
}

static size_t cpu_mapping_size(void)
{
	return (CPU_GUARD + CPU_STACK + cpu_struct_size() + fpu_xsave_size() + 4095) & ~(size_t)4095;
}

static uint8_t *cpu_mapping(struct cpu *cpu)
{
	return (uint8_t *)cpu - CPU_STACK - CPU_GUARD;
}

struct cpu *cpu_new(struct mem *mem, const struct cpu_ops *ops, void *owner, unsigned index)
{
	uint8_t *map = mmap(NULL, cpu_mapping_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct cpu *cpu;

	if (map == MAP_FAILED)
		return NULL;
	mprotect(map, CPU_GUARD, PROT_NONE);
	cpu = (struct cpu *)(map + CPU_GUARD + CPU_STACK);
	cpu->xsave = (uint8_t *)cpu + cpu_struct_size();
	cpu->mem = mem;
	cpu->ops = ops;
	cpu->owner = owner;
	cpu->index = index;
	cpu->ctl = &ctl_none;
	cpu->stats = &stats_none;
	cpu->maxphyaddr = 36;
	cpu->reserved_pa = (BIT(52) - 1) & ~(BIT(36) - 1);
	if (!tlb_init(cpu)) {
		munmap(map, cpu_mapping_size());
		return NULL;
	}
	cpu_reset(cpu, false);
	return cpu;
}

void cpu_free(struct cpu *cpu)
{
	if (!cpu)
		return;
	tlb_free(cpu);
	munmap(cpu_mapping(cpu), cpu_mapping_size());
}

static uint32_t cpu_signature(const struct cpu *cpu)
{
	for (unsigned i = 0; i < cpu->cpuid_count; i++)
		if (cpu->cpuid[i].leaf == 1)
			return cpu->cpuid[i].eax;
	return 0x600;
}

static void reset_segments(struct cpu *cpu)
{
	struct segment data = { .limit = 0xffff, .type = 3, .s = 1, .present = 1 };

	for (int i = 0; i < SEG_LDTR; i++)
		cpu->seg[i] = data;
	cpu->seg[SEG_CS].selector = 0xf000;
	cpu->seg[SEG_CS].base = 0xffff0000;
	cpu->seg[SEG_CS].type = 0xb;
	cpu->seg[SEG_LDTR] = (struct segment){ .limit = 0xffff, .type = 2, .present = 1 };
	cpu->seg[SEG_TR] = (struct segment){ .limit = 0xffff, .type = 0xb, .present = 1 };
	cpu->gdtr = cpu->idtr = (struct descriptor_table){ .limit = 0xffff };
}

/* What RESET clears and INIT keeps. */
static void reset_cold(struct cpu *cpu)
{
	memset(&cpu->msr, 0, sizeof(cpu->msr));
	cpu->msr.pat = 0x0007040600070406ull;
	cpu->msr.misc_enable = 0x1801;   /* fast strings; no branch trace store, no PEBS */
	cpu->msr.smbase = 0x30000;
	cpu->xcr0 = 1;
	cpu->xss = 0;
	cpu->tsc_offset = 0;
}

static void reset_events(struct cpu *cpu)
{
	cpu->event = cpu->delivering = (struct event){ 0 };
	cpu->vmexit = (struct vmexit){ 0 };
	cpu->shadow = 0;
	cpu->nmi_blocked = false;
	cpu->pending_debug = 0;
	cpu->activity = ACTIVITY_ACTIVE;
	cpu->io.pending = cpu->io.answered = false;
	cpu->io.nreads = cpu->io.next = cpu->io.nwrites = cpu->io.wnext = 0;
	cpu->poll &= ~POLL_MMIO;
	memset(&cpu->msr_exit, 0, sizeof(cpu->msr_exit));
}

void cpu_reset(struct cpu *cpu, bool init)
{
	uint64_t kept = init ? cpu->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;

	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	cpu->gpr[REG_RDX] = cpu_signature(cpu);
	cpu->rip = cpu->next_rip = 0xfff0;
	cpu->rflags = RFLAGS_FIXED;
	reset_segments(cpu);
	cpu->cr0 = CR0_ET | kept;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
	memset(&cpu->cet, 0, sizeof(cpu->cet));
	memset(cpu->pdptr, 0, sizeof(cpu->pdptr));
	memset(cpu->dr, 0, sizeof(cpu->dr));
	cpu->dr6 = DR6_FIXED;
	cpu->dr7 = DR7_FIXED;
	cpu->cpl = 0;
	reset_events(cpu);
	if (!init)
		reset_cold(cpu);
	fpu_reset(cpu, init);
	tlb_flush_all(cpu);
	cpu_mode_update(cpu);
}

/* ---- the mode word ---- */

static bool segment_flat(const struct segment *s)
{
	bool expands_down = !(s->type & 8) && (s->type & 4);

	return s->present && !s->unusable && s->base == 0 && s->limit == 0xffffffff && (s->type & 2) && !expands_down;
}

/* Type bit 1 is "writable" of data and "readable" of code; a code segment in DS or ES cannot be stored to. */
static bool segments_flat(const struct cpu *cpu)
{
	static const uint8_t data[] = { SEG_DS, SEG_ES, SEG_SS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		if (!segment_flat(&cpu->seg[data[i]]) || (cpu->seg[data[i]].type & 8))
			return false;
	return segment_flat(&cpu->seg[SEG_CS]);
}

static uint32_t mode_of_code(const struct cpu *cpu, bool protected)
{
	uint32_t mode = 0;

	if (cpu->efer & EFER_LMA) {
		mode |= MODE_LMA;
		if (cpu->seg[SEG_CS].l)
			return mode | MODE_CODE64 | MODE_FLAT;
	}
	mode |= cpu->seg[SEG_CS].db ? MODE_CODE32 : MODE_CODE16;
	mode |= cpu->seg[SEG_SS].db ? MODE_STACK32 : 0;
	if (protected && segments_flat(cpu))
		mode |= MODE_FLAT;
	return mode;
}

static uint32_t mode_of_fpu(const struct cpu *cpu)
{
	bool ts = cpu->cr0 & CR0_TS, em = cpu->cr0 & CR0_EM;

	return (ts || em ? MODE_NO_X87 : 0)
	     | (ts || em || !(cpu->cr4 & CR4_OSFXSR) ? MODE_NO_SSE : 0)
	     | (ts || !(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6 ? MODE_NO_AVX : 0)
	     | (ts && (cpu->cr0 & CR0_MP) ? MODE_NO_WAIT : 0);
}

static uint32_t mode_of_debug(const struct cpu *cpu)
{
	uint64_t dr7 = cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP ? cpu->guest_debug_dr7 : cpu->dr7;
	uint32_t mode = (cpu->rflags & RFLAGS_TF) || (cpu->guest_debug & KVM_GUESTDBG_SINGLESTEP) || cpu_monitor_trap(cpu) ? MODE_STEP : 0;

	for (unsigned i = 0; i < 4; i++)
		if (dr7 >> (2 * i) & 3)  /* R/W field: 1 and 3 are data breakpoints */
			mode |= MODE_STEP | (dr7 >> (16 + 4 * i) & 1 ? MODE_WATCH : 0);
	return mode;
}

static uint32_t mode_of_intercepts(const struct control_block *ctl)
{
	const uint32_t primary = PRIMARY_PAUSE | PRIMARY_RDTSC;
	const uint32_t secondary = SECONDARY_PLE | SECONDARY_RDRAND | SECONDARY_RDSEED;

	if (!ctl->non_root)
		return 0;
	return ((ctl->primary & primary) || (ctl->secondary & secondary) ? MODE_INTERCEPT : 0)
	     | (ctl->secondary & SECONDARY_BUS_LOCK ? MODE_BUS_LOCK : 0);
}

/* Neither RDTSC exiting nor TSC scaling, but by 1. */
static bool tsc_plain(const struct control_block *ctl)
{
	bool scaled = (ctl->primary & PRIMARY_SECONDARY) && (ctl->secondary & SECONDARY_TSC_SCALING) && ctl->tsc_multiplier != BIT(48);

	return !ctl->non_root || (!scaled && !(ctl->primary & PRIMARY_RDTSC));
}

void cpu_mode_update(struct cpu *cpu)
{
	bool vm86 = (cpu->cr0 & CR0_PE) && (cpu->rflags & RFLAGS_VM);
	bool protected = (cpu->cr0 & CR0_PE) && !vm86;
	uint32_t mode = mode_of_code(cpu, protected) | mode_of_fpu(cpu) | mode_of_debug(cpu) | mode_of_intercepts(cpu->ctl);

	mode |= vm86 ? MODE_VM86 : 0;
	mode |= protected ? MODE_PROTECTED : 0;
	mode |= cpu->cpl == 3 ? MODE_CPL3 : cpu->cpl == 0 ? MODE_CPL0 : 0;
	if ((cpu->cr0 & CR0_AM) && (cpu->rflags & RFLAGS_AC) && cpu->cpl == 3)
		mode |= MODE_ALIGN;
	if (unlikely(cpu->cr4 & CR4_CET))
		mode |= cet_mode(cpu);
	cpu->mode = mode;
	cpu->tsc_inline = tsc_plain(cpu->ctl) && !cpu->tsc_multiplier && !((cpu->cr4 & CR4_TSD) && cpu->cpl > 0);
	tlb_context_update(cpu);
}

/* ---- flags and interruptibility ---- */

void cpu_set_rflags(struct cpu *cpu, uint64_t rflags)
{
	uint64_t old = cpu->rflags;
	bool window = (cpu->want & WANT_INTR) || (cpu->ctl->primary & PRIMARY_INTR_WINDOW);

	cpu->rflags = (rflags & RFLAGS_VALID) | RFLAGS_FIXED;
	if (window && (cpu->rflags & ~old & RFLAGS_IF))
		cpu->poll |= POLL_WINDOW;
	if ((cpu->rflags ^ old) & (RFLAGS_TF | RFLAGS_VM | RFLAGS_AC))
		cpu_mode_update(cpu);
}

bool cpu_interrupt_allowed(const struct cpu *cpu)
{
	return (cpu->rflags & RFLAGS_IF) && !(cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS)) && !cpu->event.valid;
}

bool cpu_nmi_allowed(const struct cpu *cpu)
{
	return !cpu->nmi_blocked && !(cpu->shadow & (SHADOW_STI | SHADOW_MOV_SS | SHADOW_NMI)) && !cpu->event.valid;
}
