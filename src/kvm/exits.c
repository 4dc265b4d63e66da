/*
 * From the engine's reasons to come back to what the client sees in kvm_run,
 * and the client's answers back into the processor.
 *
 * A port or MMIO read leaves at the start of its instruction; the answer is
 * put into cpu->io and the instruction runs again (cpu/cpu.h). MMIO writes are
 * queued by the instruction that made them, which is done; they leave one by
 * one.
 */
#include "kvm/vcpu.h"
#include "x86/vmx.h"

int exit_reason(struct vcpu *v, uint32_t reason)
{
	v->run->exit_reason = reason;
	return RUN_EXIT;
}

static void ask(struct vcpu *v, enum outstanding what, uint32_t reason)
{
	v->outstanding = what;
	v->asked_rip = v->cpu->rip;
	v->run->exit_reason = reason;
}

/* ---- ports and MMIO ---- */

static void ask_pio(struct vcpu *v)
{
	const struct cpu_io *io = &v->cpu->io;
	struct kvm_run *run = v->run;

	run->io.direction = io->is_write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = io->len;
	run->io.port = io->addr;
	run->io.count = io->count ? io->count : 1;
	run->io.data_offset = PAGE_SIZE_4K;
	if (io->is_write)
		memcpy((uint8_t *)run + PAGE_SIZE_4K, io->data, io->len * run->io.count);
	ask(v, ASKED_PIO, KVM_EXIT_IO);
}

static void fill_mmio(struct vcpu *v, uint64_t addr, const uint8_t *data, unsigned len, bool write)
{
	struct kvm_run *run = v->run;

	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = addr;
	run->mmio.len = len;
	run->mmio.is_write = write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (write)
		memcpy(run->mmio.data, data, len);
}

bool exit_next_access(struct vcpu *v)
{
	struct cpu_io *io = &v->cpu->io;

	if (io->wnext < io->nwrites) {
		unsigned i = io->wnext++;

		fill_mmio(v, io->writes[i].addr, io->writes[i].data, io->writes[i].len, true);
		return true;
	}
	io->nwrites = io->wnext = 0;
	if (!io->pending)
		return false;
	if (io->is_pio) {
		ask_pio(v);
	} else {
		fill_mmio(v, io->addr, io->data, io->len, io->is_write);
		ask(v, ASKED_MMIO_READ, KVM_EXIT_MMIO);
	}
	return true;
}

/* Adds the answered item to the log of the instruction. */
static void io_log(struct cpu_io *io)
{
	struct io_read *r;

	if (io->nreads && !io->reads[io->nreads - 1].done)
		r = &io->reads[io->nreads - 1];
	else if (io->nreads < ARRAY_SIZE(io->reads))
		r = &io->reads[io->nreads++];
	else
		return;
	r->addr = io->addr;
	r->len = io->len;
	r->done = true;
	memcpy(r->data, io->data, io->len <= sizeof(r->data) ? io->len : sizeof(r->data));
}

static void io_forget(struct cpu_io *io)
{
	io->pending = io->answered = false;
	io->nreads = io->next = 0;
}

static void io_complete(struct vcpu *v)
{
	struct cpu_io *io = &v->cpu->io;
	struct kvm_run *run = v->run;

	if (!io->pending || v->cpu->rip != v->asked_rip) {
		io_forget(io);
		return;
	}
	if (!io->is_write && io->is_pio)
		memcpy(io->data, (uint8_t *)run + PAGE_SIZE_4K, io->len * (io->count ? io->count : 1));
	else if (!io->is_write)
		memcpy(io->data, run->mmio.data, sizeof(run->mmio.data));
	io->pending = false;
	io->answered = io->is_pio;
	v->replay = true;
	io->next = 0;
	if (!io->is_pio)
		io_log(io);
}

static void msr_complete(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;

	if (cpu->rip != v->asked_rip)
		return;
	cpu->msr_exit.answered = true;
	v->replay = true;
	cpu->msr_exit.error = v->run->msr.error;
	cpu->msr_exit.data = v->run->msr.data;
}

void exit_complete(struct vcpu *v)
{
	enum outstanding asked = v->outstanding;

	v->outstanding = ASKED_NOTHING;
	if (asked == ASKED_PIO || asked == ASKED_MMIO_READ)
		io_complete(v);
	else if (asked == ASKED_MSR)
		msr_complete(v);
	else if (asked == ASKED_HYPERCALL && v->cpu->rip == v->asked_rip)
		pv_hypercall_complete(v);
}

/* ---- what the engine came back for ---- */

static int on_none(struct vcpu *v)
{
	return RUN_ON;
}

static int on_access(struct vcpu *v)
{
	return exit_next_access(v) ? RUN_EXIT : RUN_ON;
}

static int on_hlt(struct vcpu *v)
{
	v->cpu->shadow &= ~(SHADOW_STI | SHADOW_MOV_SS);
	if (lapic_in_kernel(v))
		return RUN_ON;
	v->cpu->activity = ACTIVITY_ACTIVE;
	return exit_reason(v, KVM_EXIT_HLT);
}

static int on_shutdown(struct vcpu *v)
{
	v->cpu->activity = ACTIVITY_ACTIVE;
	return exit_reason(v, KVM_EXIT_SHUTDOWN);
}

static int on_msr(struct vcpu *v)
{
	struct cpu *cpu = v->cpu;
	struct kvm_run *run = v->run;

	run->msr.error = 0;
	memset(run->msr.pad, 0, sizeof(run->msr.pad));
	run->msr.reason = cpu->msr_exit.reason;
	run->msr.index = cpu->msr_exit.index;
	run->msr.data = cpu->msr_exit.write ? cpu->msr_exit.data : 0;
	cpu->msr_exit.answered = false;
	ask(v, ASKED_MSR, cpu->msr_exit.write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR);
	return RUN_EXIT;
}

static int on_debug(struct vcpu *v)
{
	struct kvm_debug_exit_arch *d = &v->run->debug.arch;

	d->exception = v->cpu->debug_exit.exception;
	d->pad = 0;
	d->pc = v->cpu->debug_exit.pc;
	d->dr6 = v->cpu->debug_exit.dr6;
	d->dr7 = v->cpu->debug_exit.dr7;
	return exit_reason(v, KVM_EXIT_DEBUG);
}

static int on_hypercall(struct vcpu *v)
{
	v->asked_rip = v->cpu->rip;
	return pv_hypercall(v) ? RUN_ON : RUN_EXIT;
}

static int on_vmx_insn(struct vcpu *v)
{
	vmx_instruction(v->vmx);
	return RUN_ON;
}

static int on_efault(struct vcpu *v)
{
	fpu_park(v->cpu);
	log_error("vCPU %u: the client's memory is gone: %s", v->id, v->cpu->internal.text);
	v->run->exit_reason = KVM_EXIT_UNKNOWN;
	return -EFAULT;
}

/* Bytes at RIP as far as they can be read. */
static unsigned insn_bytes(struct vcpu *v, uint8_t bytes[15])
{
	uint64_t addr = v->cpu->seg[SEG_CS].base + v->cpu->rip, gpa;
	bool writable, user;
	unsigned n = 0;

	while (n < 15 && tlb_probe(v->cpu, addr + n, &gpa, &writable, &user) && mem_read(v->cpu->mem, gpa, bytes + n, 1))
		n++;
	return n;
}

static void log_internal_error(const struct vcpu *v, const uint8_t *bytes, unsigned n)
{
	static const char digits[] = "0123456789abcdef";
	char hex[15 * 3 + 1] = "";

	for (unsigned i = 0; i < n; i++) {
		hex[3 * i] = ' ';
		hex[3 * i + 1] = digits[bytes[i] >> 4];
		hex[3 * i + 2] = digits[bytes[i] & 15];
		hex[3 * i + 3] = 0;
	}
	log_error("vCPU %u, L%d: %s; CS %#x RIP %#llx, CR0 %#llx CR3 %#llx CR4 %#llx EFER %#llx, bytes%s", v->id,
	          vmx_in_l2(v->vmx) ? 2 : 1, v->cpu->internal.text, v->cpu->seg[SEG_CS].selector,
	          (unsigned long long)v->cpu->rip, (unsigned long long)v->cpu->cr0, (unsigned long long)v->cpu->cr3,
	          (unsigned long long)v->cpu->cr4, (unsigned long long)v->cpu->efer, hex);
}

static int on_internal_error(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t bytes[15] = { 0 };
	unsigned n;

	fpu_park(v->cpu);
	n = insn_bytes(v, bytes);
	log_internal_error(v, bytes, n);
	memset(&run->internal, 0, sizeof(run->internal));
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.ndata = 3;
	run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	run->emulation_failure.insn_size = n;
	memcpy(run->emulation_failure.insn_bytes, bytes, sizeof(bytes));
	return RUN_EXIT;
}

/* SMIs and INIT go before an MTF VM exit, and so does a machine check that the client has added. */
static bool outranked(struct vcpu *v, const struct vmexit *e)
{
	if (e->reason != EXIT_MTF)
		return false;
	events_accept(v);
	return v->cpu->event.valid || v->init_pending || smi_waits(v);
}

/* A VM exit goes to L1 if L1 asked for it; else the intercept was ours, and L2 goes on. */
static int on_vmexit(struct vcpu *v)
{
	struct vmexit e = v->cpu->vmexit;

	if (!vmx_in_l2(v->vmx)) {
		static const char text[] = "VM exit outside VMX non-root operation";

		memcpy(v->cpu->internal.text, text, sizeof(text));
		return on_internal_error(v);
	}
	if (outranked(v, &e))
		vmx_monitor_trap_later(v->vmx);
	else if (vmx_reflect(v->vmx, &e) == VMX_TO_L1)
		vmx_exit_to_l1(v->vmx, &e);
	v->cpu->vmexit = (struct vmexit){ 0 };
	return RUN_ON;
}

int exit_handle(struct vcpu *v, enum cpu_exit why)
{
	static int (*const handlers[])(struct vcpu *) = {
		[CPU_EXIT_NONE] = on_none,
		[CPU_EXIT_VMEXIT] = on_vmexit,
		[CPU_EXIT_PIO] = on_access,
		[CPU_EXIT_MMIO] = on_access,
		[CPU_EXIT_HLT] = on_hlt,
		[CPU_EXIT_SHUTDOWN] = on_shutdown,
		[CPU_EXIT_MSR] = on_msr,
		[CPU_EXIT_DEBUG] = on_debug,
		[CPU_EXIT_HYPERCALL] = on_hypercall,
		[CPU_EXIT_VMX_INSN] = on_vmx_insn,
		[CPU_EXIT_RSM] = smm_exit,
		[CPU_EXIT_EFAULT] = on_efault,
		[CPU_EXIT_INTERNAL_ERROR] = on_internal_error,
	};

	return handlers[why](v);
}
