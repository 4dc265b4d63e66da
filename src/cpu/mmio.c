/*
 * cpu/mmio -- accesses to physical addresses that no memory slot answers:
 * devices in the library, the client, and the virtual-APIC page of a guest
 * that runs with virtualized APIC accesses.
 */
#include "cpu/mmio.h"
#include "x86/vmx.h"

enum { APIC_TPR = 0x80 };

/* ---- the APIC-access page ---- */

enum apic_access { APIC_ACCESS_READ = 0, APIC_ACCESS_WRITE = 1, APIC_ACCESS_EVENT = 3 };  /* VMX's numbers */

static bool is_apic_access(const struct cpu *cpu, uint64_t gpa)
{
	return (cpu->ctl->secondary & SECONDARY_APIC_ACCESSES)
	       && (gpa & PAGE_MASK_4K) == (cpu->ctl->apic_access_gpa & PAGE_MASK_4K);
}

/* The registers that a shadow in the virtual-APIC page answers: the TPR, within its 16-byte slot's first 4 bytes. */
static bool apic_is_virtualized(const struct cpu *cpu, uint64_t gpa, unsigned len)
{
	unsigned offset = gpa & 0xfff;

	return (cpu->ctl->primary & PRIMARY_TPR_SHADOW) && cpu->ctl->vapic && !cpu->delivering.valid
	       && offset >= APIC_TPR && offset + len <= APIC_TPR + 4;
}

static _Noreturn void apic_access_exit(struct cpu *cpu, uint64_t gpa, enum apic_access type)
{
	if (cpu->delivering.valid)
		type = APIC_ACCESS_EVENT;
	cpu_vmexit(cpu, EXIT_APIC_ACCESS, (gpa & 0xfff) | (uint64_t)type << 12);
}

/* The TPR shadow was written: below the threshold, an exit is due at the next boundary. */
static void tpr_written(struct cpu *cpu)
{
	uint8_t *vapic = cpu->ctl->vapic;

	vapic[APIC_TPR + 1] = vapic[APIC_TPR + 2] = vapic[APIC_TPR + 3] = 0;
	if ((vapic[APIC_TPR] >> 4) < (cpu->ctl->tpr_threshold & 15))
		cpu->poll |= POLL_EVENT;
}

static void apic_access_read(struct cpu *cpu, uint64_t gpa, void *to, unsigned len)
{
	if (!apic_is_virtualized(cpu, gpa, len))
		apic_access_exit(cpu, gpa, APIC_ACCESS_READ);
	memcpy(to, cpu->ctl->vapic + (gpa & 0xfff), len);
}

static void apic_access_write(struct cpu *cpu, uint64_t gpa, const void *from, unsigned len)
{
	if (!apic_is_virtualized(cpu, gpa, len))
		apic_access_exit(cpu, gpa, APIC_ACCESS_WRITE);
	memcpy(cpu->ctl->vapic + (gpa & 0xfff), from, len);
	tpr_written(cpu);
}

/* ---- devices ---- */

static void log_answer(struct cpu *cpu, uint64_t gpa, const void *data, unsigned len)
{
	struct cpu_io *io = &cpu->io;

	if (io->nreads == ARRAY_SIZE(io->reads))
		return;
	io->reads[io->nreads] = (struct io_read){ .addr = gpa, .len = len, .done = true };
	memcpy(io->reads[io->nreads++].data, data, len);
	io->next = io->nreads;
}

static void ask_client(struct cpu *cpu, uint64_t gpa, unsigned len)
{
	struct cpu_io *io = &cpu->io;

	io->pending = true;
	io->is_write = io->is_pio = false;
	io->addr = gpa;
	io->len = len;
	io->count = 1;
	io->next = 0;
	cpu_leave(cpu, CPU_EXIT_MMIO);
}

/* Answers of library devices are logged too: a replay for the client's sake must not read them twice. */
static void read_piece(struct cpu *cpu, uint64_t gpa, uint8_t *to, unsigned len)
{
	struct cpu_io *io = &cpu->io;
	const struct io_read *r = &io->reads[io->next];

	if (io->next < io->nreads && r->done && r->addr == gpa && r->len == len) {
		memcpy(to, r->data, len);
		io->next++;
	} else if (cpu->ops->mmio_read(cpu, gpa, to, len)) {
		log_answer(cpu, gpa, to, len);
	} else {
		io->nreads = io->next;       /* answers beyond belong to another course of events */
		ask_client(cpu, gpa, len);
	}
}

void mmio_read(struct cpu *cpu, uint64_t gpa, void *to, unsigned len)
{
	if (is_apic_access(cpu, gpa)) {
		apic_access_read(cpu, gpa, to, len);
		return;
	}
	io_sync(cpu);
	for (unsigned done = 0; done < len; done += 8)
		read_piece(cpu, gpa + done, (uint8_t *)to + done, len - done < 8 ? len - done : 8);
}

static void write_piece(struct cpu *cpu, uint64_t gpa, const uint8_t *from, unsigned len)
{
	struct cpu_io *io = &cpu->io;

	if (!io->nwrites && cpu->ops->mmio_write(cpu, gpa, from, len))
		return;
	if (io->nwrites == ARRAY_SIZE(io->writes))
		cpu_internal_error(cpu, "more MMIO writes than an instruction can make");
	io->writes[io->nwrites].addr = gpa;
	io->writes[io->nwrites].len = len;
	memcpy(io->writes[io->nwrites].data, from, len);
	io->nwrites++;
	cpu->poll |= POLL_MMIO;
}

void mmio_write(struct cpu *cpu, uint64_t gpa, const void *from, unsigned len)
{
	if (is_apic_access(cpu, gpa)) {
		apic_access_write(cpu, gpa, from, len);
		return;
	}
	for (unsigned done = 0; done < len; done += 8)
		write_piece(cpu, gpa + done, (const uint8_t *)from + done, len - done < 8 ? len - done : 8);
}
