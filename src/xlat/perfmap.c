/*
 * The map by which perf names translated code (parameter anykvm.perf):
 * /tmp/perf-PID.map, a line "ADDRESS SIZE NAME" for each block and stub. A line
 * is written when the block is made and overwritten with newlines, which
 * perf skips, when its room in the code cache is reused. perf reads the file
 * when it reports and knows no times, so a sample of a forgotten block is
 * given to the block that took its place, or to none.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "base/syscall.h"
#include "xlat/internal.h"

enum { LINE = 96 };

static int map_fd = -1;
static _Atomic uint64_t map_end;         /* where the next line goes */

/* Opened once, by the process's first vCPU. A file of the same name is of an ended process, or nobody's business. */
void perfmap_open(void)
{
	static struct lock lock;
	static bool tried;
	char path[32];

	if (!params.perf)
		return;
	lock_take(&lock);
	if (!tried) {
		tried = true;
		snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
		unlink(path);
		map_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (map_fd < 0)
			log_error("anykvm.perf: %s: cannot be written (error %d)", path, errno);
	}
	lock_release(&lock);
}

static char *put_text(char *p, const char *text)
{
	while (*text)
		*p++ = *text++;
	return p;
}

static char *put_hex(char *p, uint64_t v)
{
	unsigned shift = v ? (63 - __builtin_clzll(v)) / 4 * 4 : 0;

	for (int s = shift; s >= 0; s -= 4)
		*p++ = "0123456789abcdef"[v >> s & 15];
	return p;
}

static char *put_range(char *p, const uint8_t *rx, size_t size)
{
	p = put_hex(p, (uintptr_t)rx);
	*p++ = ' ';
	p = put_hex(p, size);
	*p++ = ' ';
	return p;
}

/* Returns where the line is, plus 1. */
static uint32_t put_line(char *line, char *end)
{
	*end++ = '\n';
	uint64_t at = atomic_fetch_add(&map_end, end - line);
	return at < UINT32_MAX && raw_syscall(SYS_pwrite64, map_fd, (long)line, end - line, (long)at, 0, 0) == end - line ? at + 1 : 0;
}

static const char *privilege(uint32_t mode)
{
	return mode & MODE_VM86 ? " vm86 0x" : !(mode & MODE_PROTECTED) ? " real 0x" : mode & MODE_CPL3 ? " user 0x" : " kernel 0x";
}

static char *put_block(const struct engine *en, char *p, const struct block *b)
{
	p = put_range(p, to_rx(en, b->indirect_entry), b->code_size);
	p = put_text(p, en->cpu->ctl->non_root ? "guest L2" : "guest L1");
	p = put_text(p, privilege(b->mode));
	return put_hex(p, b->rip);
}

void perfmap_block(const struct engine *en, struct block *b)
{
	char line[LINE];

	if (map_fd >= 0)
		b->perf_line = put_line(line, put_block(en, line, b));
}

void perfmap_forget(const struct engine *en, const struct block *b)
{
	char line[LINE], blank[LINE];

	if (map_fd < 0 || !b->perf_line)
		return;
	/* As long as its line: the level is one digit either way. */
	size_t len = put_block(en, line, b) - line;
	memset(blank, '\n', len);
	raw_syscall(SYS_pwrite64, map_fd, (long)blank, (long)len, (long)b->perf_line - 1, 0, 0);  /* without it, a wrong name at worst */
}

void perfmap_stub(const struct engine *en, const char *name, const uint8_t *rw, const uint8_t *end)
{
	char line[LINE];

	if (map_fd >= 0)
		put_line(line, put_text(put_text(put_range(line, to_rx(en, (uint8_t *)rw), end - rw), "anykvm "), name));
}
