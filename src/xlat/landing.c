/*
 * Where tracked branches lead: the instruction is decoded for its own sake, so
 * that a translation knows nothing of how it was reached.
 */
#include "cpu/cet.h"
#include "xlat/internal.h"

/* The instruction goes on in the next page; fetching there may fault. */
static unsigned fetch_rest(struct cpu *cpu, uint8_t *bytes, unsigned avail)
{
	uint64_t lin = cpu->rip + avail;
	struct translation t;
	if (!cpu_code64(cpu)) {
		if (lin > cpu->seg[SEG_CS].limit)
			cpu_raise_gp(cpu);
		lin = (uint32_t)(lin + cpu->seg[SEG_CS].base);
	} else if (!cpu_canonical(cpu, lin)) {
		cpu_raise_gp(cpu);
	}
	t = tlb_translate(cpu, lin, ACCESS_EXEC);
	if (!t.host)
		cpu_internal_error(cpu, "instruction fetch from MMIO at guest-physical %#llx", (unsigned long long)t.gpa);
	memcpy(bytes + avail, t.host, 15 - avail);
	return 15;
}

void engine_landing(struct cpu *cpu, const uint8_t *host)
{
	unsigned in_page = 4096 - ((uintptr_t)host & 4095), avail = in_page < 15 ? in_page : 15;
	int bits = mode_bits_of(cpu->mode), r;
	uint8_t bytes[15];
	struct insn in;
	memcpy(bytes, host, avail);
	fpu_park(cpu);
	cpu->cur_insn = NULL;
	r = insn_decode(&in, bytes, avail, bits, cpu->rip, NULL, NULL);
	if (r == 1 && avail < 15)
		r = insn_decode(&in, bytes, fetch_rest(cpu, bytes, avail), bits, cpu->rip, NULL, NULL);
	track_target(cpu, r ? NULL : &in);
}
