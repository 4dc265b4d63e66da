/*
 * General and debug registers, floating point and extended state, extended
 * control registers, as the client gets and sets them. The address space is
 * held for reading (ioctl.c).
 */
#include "kvm/vcpu.h"

/* ---- KVM_GET_REGS, KVM_SET_REGS ---- */

/* struct kvm_regs begins with these, in its own order. */
static const uint8_t regs_order[16] = { REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RSP, REG_RBP,
                                        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
_Static_assert(offsetof(struct kvm_regs, rip) == 16 * 8 && offsetof(struct kvm_regs, rsi) == 4 * 8, "order of kvm_regs");

long kvm_vcpu_get_regs(struct vcpu *v, struct kvm_regs *regs)
{
	uint64_t *out = (uint64_t *)regs;

	for (unsigned i = 0; i < 16; i++)
		out[i] = v->cpu->gpr[regs_order[i]];
	regs->rip = v->cpu->rip;
	regs->rflags = v->cpu->rflags;
	return 0;
}

static uint8_t cpl_of(const struct cpu *cpu)
{
	if (!(cpu->cr0 & CR0_PE))
		return 0;
	return cpu->rflags & RFLAGS_VM ? 3 : cpu->seg[SEG_SS].dpl;
}

/* An exception that has not been injected yet belonged to the old registers. */
static void drop_pending_exception(struct cpu *cpu)
{
	if (cpu->event.valid && !cpu->event.injected && cpu->event.type == EVENT_HW_EXCEPTION)
		cpu->event.valid = false;
}

/*
 * A client that sends the vCPU elsewhere has probably put code there, with no
 * invalidation by the guest that would make us look at the bytes again.
 */
long kvm_vcpu_set_regs(struct vcpu *v, const struct kvm_regs *regs)
{
	const uint64_t *in = (const uint64_t *)regs;
	struct cpu *cpu = v->cpu;

	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[regs_order[i]] = in[i];
	cpu->rip = cpu->next_rip = regs->rip;
	cpu_set_rflags(cpu, regs->rflags);
	cpu->cpl = cpl_of(cpu);
	cpu_mode_update(cpu);
	tlb_flush_all(cpu);
	drop_pending_exception(cpu);
	return 0;
}

/* ---- KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS ---- */

long kvm_vcpu_get_debugregs(struct vcpu *v, struct kvm_debugregs *d)
{
	memcpy(d->db, v->cpu->dr, sizeof(d->db));
	d->dr6 = v->cpu->dr6;
	d->dr7 = v->cpu->dr7;
	return 0;
}

long kvm_vcpu_set_debugregs(struct vcpu *v, const struct kvm_debugregs *d)
{
	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	memcpy(v->cpu->dr, d->db, sizeof(v->cpu->dr));
	v->cpu->dr6 = (d->dr6 & 0xe00f) | DR6_FIXED;
	v->cpu->dr7 = (d->dr7 & ~0xd000ull) | DR7_FIXED;
	cpu_mode_update(v->cpu);
	return 0;
}

/* ---- floating point ---- */

enum { XSAVE_MAX = 4096, XSTATE_BV = 512 };
enum { XSTATE_X87 = 1, XSTATE_SSE = 2 };

/* FXSAVE's image, the beginning of XSAVE's. */
struct fxsave {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved;
	uint16_t fop;
	uint64_t rip, rdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16], xmm[16][16], rest[96];
};
_Static_assert(sizeof(struct fxsave) == XSTATE_BV, "FXSAVE's layout");

static uint64_t xstate_bv(const uint8_t *image)
{
	uint64_t bv;

	memcpy(&bv, image + XSTATE_BV, sizeof(bv));
	return bv;
}

/* Components in their initial state need not be in an image; struct kvm_fpu has no such notion. */
static void expand_initial(struct fxsave *f, uint64_t bv)
{
	if (!(bv & XSTATE_X87)) {
		f->fcw = 0x37f;
		f->fsw = f->fop = f->ftw = 0;
		f->rip = f->rdp = 0;
		memset(f->st, 0, sizeof(f->st));
	}
	if (!(bv & XSTATE_SSE))
		memset(f->xmm, 0, sizeof(f->xmm));
}

long kvm_vcpu_get_fpu(struct vcpu *v, struct kvm_fpu *out)
{
	uint8_t image[XSAVE_MAX] __attribute__((aligned(64))) = { 0 };
	struct fxsave *f = (struct fxsave *)image;

	fpu_get_xsave(v->cpu, image, sizeof(image));
	expand_initial(f, xstate_bv(image));
	memcpy(out->fpr, f->st, sizeof(out->fpr));
	out->fcw = f->fcw;
	out->fsw = f->fsw;
	out->ftwx = f->ftw;
	out->last_opcode = f->fop;
	out->last_ip = f->rip;
	out->last_dp = f->rdp;
	memcpy(out->xmm, f->xmm, sizeof(out->xmm));
	out->mxcsr = f->mxcsr;
	return 0;
}

long kvm_vcpu_set_fpu(struct vcpu *v, const struct kvm_fpu *in)
{
	uint8_t image[XSAVE_MAX] __attribute__((aligned(64))) = { 0 };
	struct fxsave *f = (struct fxsave *)image;
	uint64_t bv;

	fpu_get_xsave(v->cpu, image, sizeof(image));
	memcpy(f->st, in->fpr, sizeof(f->st));
	f->fcw = in->fcw;
	f->fsw = in->fsw;
	f->ftw = in->ftwx;
	f->fop = in->last_opcode;
	f->rip = in->last_ip;
	f->rdp = in->last_dp;
	memcpy(f->xmm, in->xmm, sizeof(f->xmm));
	f->mxcsr = in->mxcsr & 0xffff;
	bv = xstate_bv(image) | XSTATE_X87 | XSTATE_SSE;
	memcpy(image + XSTATE_BV, &bv, sizeof(bv));
	return fpu_set_xsave(v->cpu, image, sizeof(image));
}

/* ---- extended state ---- */

long kvm_vcpu_get_xsave(struct vcpu *v, struct kvm_xsave *out)
{
	uint8_t image[XSAVE_MAX] __attribute__((aligned(64))) = { 0 };

	fpu_get_xsave(v->cpu, image, sizeof(image));
	memcpy(out, image, sizeof(image));
	return 0;
}

/* KVM_CAP_XSAVE2's size is that of KVM_GET_XSAVE: no component lies beyond. */
long kvm_vcpu_get_xsave2(struct vcpu *v, void *arg)
{
	uint8_t image[XSAVE_MAX] __attribute__((aligned(64))) = { 0 };

	fpu_get_xsave(v->cpu, image, sizeof(image));
	return user_write(arg, image, sizeof(image));
}

long kvm_vcpu_set_xsave(struct vcpu *v, void *arg)
{
	uint8_t image[XSAVE_MAX] __attribute__((aligned(64)));

	if (user_read(image, arg, sizeof(image)) < 0)
		return -EFAULT;
	return fpu_set_xsave(v->cpu, image, sizeof(image));
}

long kvm_vcpu_get_xcrs(struct vcpu *v, struct kvm_xcrs *x)
{
	x->nr_xcrs = 1;
	x->flags = 0;
	x->xcrs[0].xcr = 0;
	x->xcrs[0].value = v->cpu->xcr0;
	return 0;
}

long kvm_vcpu_set_xcrs(struct vcpu *v, const struct kvm_xcrs *x)
{
	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (unsigned i = 0; i < x->nr_xcrs; i++)
		if (x->xcrs[i].xcr == 0)
			return xcr0_write(v->cpu, x->xcrs[i].value) ? 0 : -EINVAL;
	return 0;
}
