/*
 * CET_U and CET_S, the state components that XSAVES and XRSTORS move between
 * MSRs and memory: IA32_U_CET with IA32_PL3_SSP, and the SSPs of the other rings.
 */
#include "cpu/access.h"
#include "cpu/cet.h"
#include "cpu/fpu_image.h"

/* Supervisor components exist in the compacted form only, one behind the other. */
enum { CET_U_SIZE = 16, CET_S_SIZE = 24 };

static unsigned cet_u_offset(uint64_t components)
{
	return components & XSTATE_AVX ? IMAGE_SIZE : IMAGE_AVX;
}

static unsigned cet_s_offset(uint64_t components)
{
	return cet_u_offset(components) + (components & XSTATE_CET_U ? CET_U_SIZE : 0);
}

unsigned xsave_area_size(uint64_t rfbm)
{
	return cet_s_offset(rfbm) + (rfbm & XSTATE_CET_S ? CET_S_SIZE : 0);
}

uint64_t cet_save(struct cpu *cpu, uint64_t addr, uint64_t rfbm)
{
	const uint64_t u[2] = { cpu->cet.u_cet, cpu->cet.pl_ssp[3] }, *s = cpu->cet.pl_ssp;
	uint64_t used = 0;

	if ((rfbm & XSTATE_CET_U) && (u[0] | u[1])) {
		lin_write(cpu, addr + cet_u_offset(rfbm), u, CET_U_SIZE, 0);
		used |= XSTATE_CET_U;
	}
	if ((rfbm & XSTATE_CET_S) && (s[0] | s[1] | s[2])) {
		lin_write(cpu, addr + cet_s_offset(rfbm), s, CET_S_SIZE, 0);
		used |= XSTATE_CET_S;
	}
	return used;
}

struct cet_state cet_read(struct cpu *cpu, uint64_t addr, uint64_t layout, uint64_t used)
{
	struct cet_state c = { 0 };
	bool ok;

	if (used & XSTATE_CET_U)
		lin_read(cpu, addr + cet_u_offset(layout), c.u, CET_U_SIZE, 0);
	if (used & XSTATE_CET_S)
		lin_read(cpu, addr + cet_s_offset(layout), c.s, CET_S_SIZE, 0);
	ok = cet_control_valid(cpu, c.u[0]) && cet_ssp_valid(cpu, c.u[1]);
	for (unsigned i = 0; i < 3; i++)
		ok = ok && cet_ssp_valid(cpu, c.s[i]);
	if (!ok)
		cpu_raise_gp(cpu);
	return c;
}

void cet_load(struct cpu *cpu, const struct cet_state *c, uint64_t rfbm)
{
	if (rfbm & XSTATE_CET_U) {
		cpu->cet.u_cet = c->u[0];
		cpu->cet.pl_ssp[3] = c->u[1];
	}
	if (rfbm & XSTATE_CET_S)
		memcpy(cpu->cet.pl_ssp, c->s, CET_S_SIZE);
	if (rfbm & (XSTATE_CET_U | XSTATE_CET_S))
		cpu_mode_update(cpu);
}
