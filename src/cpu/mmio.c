/*
 * cpu/mmio -- accesses to physical addresses that no memory slot answers:
 * devices in the library, the client, and the APIC-access page of a guest that
 * runs with virtualized APIC accesses.
 */
#include "cpu/mmio.h"
#include "cpu/vapic.h"

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
	if (vapic_page_read(cpu, gpa, to, len))
		return;
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
	if (vapic_page_write(cpu, gpa, from, len))
		return;
	for (unsigned done = 0; done < len; done += 8)
		write_piece(cpu, gpa + done, (const uint8_t *)from + done, len - done < 8 ? len - done : 8);
}
