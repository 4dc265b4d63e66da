/*
 * cpu/fpustate -- FXSAVE, FXRSTOR and the XSAVE family.
 *
 * The guest's state is live in the host's registers. Each rule runs the host's
 * instruction on an image of its own and moves the bytes that the guest's
 * instruction would move, under the guest's XCR0. Outside 64-bit mode
 * registers 8 to 15 are neither saved nor restored.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/fpu_image.h"
#include "cpu/rules.h"
#include "x86/features.h"
#include "x86/vmx.h"

static bool is_wide(const struct cpu *cpu, const struct insn *insn)
{
	return cpu_code64(cpu) && (insn->rex & 8);
}

/* Bytes of XMM (or of upper YMM halves) that the mode reaches. */
static unsigned vector_bytes(const struct cpu *cpu)
{
	return cpu_code64(cpu) ? 256 : 128;
}

static uint64_t image_address(struct cpu *cpu, const struct insn *insn, unsigned size, unsigned align, unsigned access)
{
	uint64_t addr = seg_linear(cpu, insn->seg, insn_offset(cpu, insn), size, access);

	if (addr & (align - 1))
		cpu_raise_gp(cpu);
	return addr;
}

/* ---- FXSAVE, FXRSTOR ---- */

void rule_fxsave(struct cpu *cpu, const struct insn *insn)
{
	struct image image;
	uint64_t addr;

	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VEC_NM);
	addr = image_address(cpu, insn, IMAGE_LEGACY_SIZE, 16, ACCESS_WRITE);
	lin_probe_write(cpu, addr, IMAGE_LEGACY_SIZE, 0);        /* all of it, though the end stays as it is */
	native_fxsave(image.bytes);
	image_pointers_store(cpu, image.bytes, is_wide(cpu, insn));
	image_put32(image.bytes, IMAGE_MXCSR_MASK, MXCSR_MASK);
	lin_write(cpu, addr, image.bytes, IMAGE_XMM + vector_bytes(cpu), 0);
}

void rule_fxrstor(struct cpu *cpu, const struct insn *insn)
{
	struct image image, read;
	uint64_t addr;

	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VEC_NM);
	addr = image_address(cpu, insn, IMAGE_LEGACY_SIZE, 16, ACCESS_READ);
	lin_read(cpu, addr, read.bytes, IMAGE_LEGACY_SIZE, 0);
	if (image_get32(read.bytes, IMAGE_MXCSR) & ~MXCSR_MASK)
		cpu_raise_gp(cpu);
	native_fxsave(image.bytes);
	memcpy(image.bytes, read.bytes, IMAGE_XMM + vector_bytes(cpu));
	image_pointers_load(cpu, image.bytes, is_wide(cpu, insn));
	memset(image.bytes + IMAGE_FIP, 0, 16);
	native_fxrstor(image.bytes);
}

/* ---- the XSAVE family ---- */

enum xsave_kind { XSAVE, XSAVEOPT, XSAVEC, XSAVES };

static enum xsave_kind xsave_kind(const struct insn *insn)
{
	unsigned group = insn->modrm >> 3 & 7;

	if (insn->opcode == 0xae)
		return group == 6 ? XSAVEOPT : XSAVE;
	return group == 5 ? XSAVES : XSAVEC;
}

/* XSAVES and XRSTORS exit if they name a supervisor component that the XSS bitmap intercepts. */
static void check_supervisor_form(struct cpu *cpu, uint64_t requested, uint32_t reason)
{
	if (!cpu_has(cpu, FEATURE_XSAVES) || (cpu_in_guest(cpu) && !(cpu->ctl->secondary & SECONDARY_XSAVES)))
		cpu_raise_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	if (cpu->cpl)
		cpu_raise_gp(cpu);
	if (cpu_in_guest(cpu) && (requested & cpu->xss & cpu->ctl->xss_exit_bitmap))
		cpu_vmexit(cpu, reason, 0);
}

static uint64_t requested_components(const struct cpu *cpu)
{
	return (uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32;
}

static void check_xsave_enabled(struct cpu *cpu)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise_ud(cpu);
}

/* Writes the state components of image that are to be stored (those in comps) and MXCSR. */
static void xsave_write(struct cpu *cpu, uint64_t addr, const uint8_t *image, uint64_t comps, bool mxcsr)
{
	if (comps & XSTATE_X87) {
		lin_write(cpu, addr, image, IMAGE_MXCSR, 0);
		lin_write(cpu, addr + IMAGE_ST, image + IMAGE_ST, IMAGE_XMM - IMAGE_ST, 0);
	}
	if (mxcsr)
		lin_write(cpu, addr + IMAGE_MXCSR, image + IMAGE_MXCSR, 8, 0);
	if (comps & XSTATE_SSE)
		lin_write(cpu, addr + IMAGE_XMM, image + IMAGE_XMM, vector_bytes(cpu), 0);
	if (comps & XSTATE_AVX)
		lin_write(cpu, addr + IMAGE_AVX, image + IMAGE_AVX, vector_bytes(cpu), 0);
}

static void xsave_standard(struct cpu *cpu, uint64_t addr, const uint8_t *image, uint64_t rfbm, bool optimized)
{
	uint64_t used = image_get64(image, IMAGE_XSTATE_BV) & rfbm, old = lin_load(cpu, addr + IMAGE_XSTATE_BV, 8, 0);

	xsave_write(cpu, addr, image, optimized ? used : rfbm, rfbm & (XSTATE_SSE | XSTATE_AVX));
	lin_store(cpu, addr + IMAGE_XSTATE_BV, 8, (old & ~rfbm) | used, 0);
}

static void xsave_compacted(struct cpu *cpu, uint64_t addr, const uint8_t *image, uint64_t rfbm)
{
	uint64_t used = image_get64(image, IMAGE_XSTATE_BV);

	if (image_get32(image, IMAGE_MXCSR) != MXCSR_INIT)
		used |= XSTATE_SSE;
	used &= rfbm;
	xsave_write(cpu, addr, image, used, used & XSTATE_SSE);
	used |= cet_save(cpu, addr, rfbm);
	lin_store(cpu, addr + IMAGE_XSTATE_BV, 8, used, 0);
	lin_store(cpu, addr + IMAGE_XCOMP_BV, 8, rfbm | XCOMP_COMPACTED, 0);
}

void rule_xsave(struct cpu *cpu, const struct insn *insn)
{
	enum xsave_kind kind = xsave_kind(insn);
	uint64_t rfbm = requested_components(cpu) & (cpu->xcr0 | (kind == XSAVES ? cpu->xss : 0)), addr;
	struct image image;

	check_xsave_enabled(cpu);
	if (kind == XSAVES)
		check_supervisor_form(cpu, requested_components(cpu), EXIT_XSAVES);
	else if ((kind == XSAVEOPT && !cpu_has(cpu, FEATURE_XSAVEOPT)) || (kind == XSAVEC && !cpu_has(cpu, FEATURE_XSAVEC)))
		cpu_raise_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	addr = image_address(cpu, insn, xsave_area_size(rfbm), 64, ACCESS_WRITE);
	lin_probe_write(cpu, addr, xsave_area_size(rfbm), 0);
	memset(image.bytes + IMAGE_XSTATE_BV, 0, 64);
	native_xsave(image.bytes, XSTATE_X87 | XSTATE_SSE | (rfbm & XSTATE_AVX));
	image_put32(image.bytes, IMAGE_MXCSR_MASK, MXCSR_MASK);
	image_pointers_store(cpu, image.bytes, is_wide(cpu, insn));
	if (!(image.bytes[IMAGE_XSTATE_BV] & XSTATE_X87) && (cpu->fpu_ip | cpu->fpu_dp | cpu->fpu_op))
		image.bytes[IMAGE_XSTATE_BV] |= XSTATE_X87;
	if (kind == XSAVE || kind == XSAVEOPT)
		xsave_standard(cpu, addr, image.bytes, rfbm, kind == XSAVEOPT);
	else
		xsave_compacted(cpu, addr, image.bytes, rfbm);
}

/* ---- XRSTOR, XRSTORS ---- */

static bool all_zero(const uint8_t *p, unsigned len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

/* The header's rules. allowed: components that XCR0 (and XSS) enable. */
static bool header_valid(const uint8_t *image, uint64_t allowed, bool supervisor)
{
	uint64_t bv = image_get64(image, IMAGE_XSTATE_BV), comp = image_get64(image, IMAGE_XCOMP_BV);

	if (!(comp & XCOMP_COMPACTED))
		return !supervisor && !(bv & ~allowed) && all_zero(image + IMAGE_XCOMP_BV, 16);
	return !(comp & ~XCOMP_COMPACTED & ~allowed) && !(bv & ~comp) && !(bv >> 63) && all_zero(image + IMAGE_XCOMP_BV + 8, 48);
}

static uint32_t mxcsr_now(void)
{
	uint32_t value;

	asm volatile("stmxcsr %0" : "=m"(value));
	return value;
}

/* What XRSTOR makes of MXCSR; the standard form loads it with SSE or AVX, the compacted one is as with other state. */
static uint32_t restored_mxcsr(const uint8_t *read, uint64_t rfbm, bool compacted)
{
	if (!compacted && (rfbm & (XSTATE_SSE | XSTATE_AVX)))
		return image_get32(read, IMAGE_MXCSR);
	if (compacted && (rfbm & XSTATE_SSE))
		return image_get64(read, IMAGE_XSTATE_BV) & XSTATE_SSE ? image_get32(read, IMAGE_MXCSR) : MXCSR_INIT;
	return mxcsr_now();
}

/* Vector registers that the mode reaches come from what was read, or are cleared; the rest stay. */
static void restore_vectors(const struct cpu *cpu, uint8_t *image, const uint8_t *read, unsigned at, bool present)
{
	if (present)
		memcpy(image + at, read + at, vector_bytes(cpu));
	else
		memset(image + at, 0, vector_bytes(cpu));
}

static void xrstor_load(struct cpu *cpu, const uint8_t *read, uint64_t rfbm, bool wide)
{
	uint64_t bv = image_get64(read, IMAGE_XSTATE_BV), used = bv & rfbm;
	bool compacted = image_get64(read, IMAGE_XCOMP_BV) & XCOMP_COMPACTED;
	uint32_t mxcsr = restored_mxcsr(read, rfbm, compacted);
	struct image image;

	memset(image.bytes + IMAGE_XSTATE_BV, 0, 64);
	if (!cpu_code64(cpu)) {
		native_xsave(image.bytes, XSTATE_SSE | (rfbm & XSTATE_AVX));
		used |= rfbm & (XSTATE_SSE | XSTATE_AVX);
	}
	if (used & XSTATE_X87) {
		memcpy(image.bytes, read, IMAGE_XMM);
		memset(image.bytes + IMAGE_FIP, 0, 16);
	}
	if (used & XSTATE_SSE)
		restore_vectors(cpu, image.bytes, read, IMAGE_XMM, bv & XSTATE_SSE);
	if (used & XSTATE_AVX)
		restore_vectors(cpu, image.bytes, read, IMAGE_AVX, bv & XSTATE_AVX);
	image_put32(image.bytes, IMAGE_MXCSR, mxcsr);
	image_put64(image.bytes, IMAGE_XSTATE_BV, used);
	native_xrstor(image.bytes, rfbm);
	/* Makers differ in what XRSTOR does to MXCSR of state that is absent. */
	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	if (used & XSTATE_X87)
		image_pointers_load(cpu, read, wide);
	else if (rfbm & XSTATE_X87)
		cpu->fpu_ip = cpu->fpu_dp = cpu->fpu_op = 0;
}

void rule_xrstor(struct cpu *cpu, const struct insn *insn)
{
	bool supervisor = insn->opcode == 0xc7;
	uint64_t allowed = cpu->xcr0 | (supervisor ? cpu->xss : 0), rfbm = requested_components(cpu) & allowed, addr;
	struct cet_state cet;
	struct image read;

	check_xsave_enabled(cpu);
	if (supervisor)
		check_supervisor_form(cpu, requested_components(cpu), EXIT_XRSTORS);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	addr = image_address(cpu, insn, xsave_area_size(rfbm), 64, ACCESS_READ);
	lin_read(cpu, addr, read.bytes, IMAGE_AVX, 0);
	if (!header_valid(read.bytes, allowed, supervisor))
		cpu_raise_gp(cpu);
	if (restored_mxcsr(read.bytes, rfbm, image_get64(read.bytes, IMAGE_XCOMP_BV) & XCOMP_COMPACTED) & ~MXCSR_MASK)
		cpu_raise_gp(cpu);
	if (rfbm & image_get64(read.bytes, IMAGE_XSTATE_BV) & XSTATE_AVX)
		lin_read(cpu, addr + IMAGE_AVX, read.bytes + IMAGE_AVX, vector_bytes(cpu), 0);
	cet = cet_read(cpu, addr, image_get64(read.bytes, IMAGE_XCOMP_BV), rfbm & image_get64(read.bytes, IMAGE_XSTATE_BV));
	xrstor_load(cpu, read.bytes, rfbm & (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX), is_wide(cpu, insn));
	cet_load(cpu, &cet, rfbm);
}
