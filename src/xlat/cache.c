/*
 * The code cache and the book-keeping of blocks. Memory is taken from two
 * arenas, code and metadata; when either is full, or too many blocks or exits
 * exist, everything is dropped at once.
 */
#include <sys/mman.h>
#include <unistd.h>
#include "xlat/internal.h"

enum { META_PER_CODE = 2, BYTES_PER_BLOCK = 256, EXITS_PER_BLOCK = 3 };

static void *anonymous(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static bool map_code(struct engine *en)
{
	en->fd = memfd_create("anykvm-code", MFD_CLOEXEC);
	if (en->fd < 0 || ftruncate(en->fd, en->size))
		return false;
	void *rw = mmap(NULL, en->size, PROT_READ | PROT_WRITE, MAP_SHARED, en->fd, 0);
	void *rx = mmap(NULL, en->size, PROT_READ | PROT_EXEC, MAP_SHARED, en->fd, 0);
	en->rw = rw == MAP_FAILED ? NULL : rw;
	en->rx = rx == MAP_FAILED ? NULL : rx;
	return en->rw && en->rx;
}

bool engine_map(struct engine *en)
{
	uint64_t mib = params.code_cache_mb < 2 ? 2 : params.code_cache_mb > 1024 ? 1024 : params.code_cache_mb;
	en->fd = -1;
	en->size = mib << 20;
	en->max_blocks = en->size / BYTES_PER_BLOCK;
	en->max_exits = en->max_blocks * EXITS_PER_BLOCK;
	if (!map_code(en))
		return false;
	en->meta = anonymous(en->size * META_PER_CODE);
	en->meta_end = en->meta + en->size * META_PER_CODE;
	en->by_code = anonymous(en->max_blocks * sizeof *en->by_code);
	en->exits = anonymous(en->max_exits * sizeof *en->exits);
	en->jump_caches = anonymous(JUMP_CACHE_COUNT * sizeof *en->jump_caches);
	return en->meta && en->by_code && en->exits && en->jump_caches;
}

static void unmap(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

void engine_unmap(struct engine *en)
{
	unmap(en->rw, en->size);
	unmap(en->rx, en->size);
	unmap(en->meta, en->size * META_PER_CODE);
	unmap(en->by_code, en->max_blocks * sizeof *en->by_code);
	unmap(en->exits, en->max_exits * sizeof *en->exits);
	unmap(en->jump_caches, JUMP_CACHE_COUNT * sizeof *en->jump_caches);
	if (en->fd >= 0)
		close(en->fd);
}

/* Arena memory; enough is left whenever a block is begun (engine_room()). */
void *meta_alloc(struct engine *en, size_t size)
{
	void *p = en->meta_next;
	en->meta_next += (size + 15) & ~15ull;
	return p;
}

/* Forgets every block. Not while generated code of this engine is on the stack. */
void engine_reset(struct engine *en)
{
	memset(en->hash, 0, sizeof en->hash);
	memset(en->pages, 0, sizeof en->pages);
	en->code = en->code_start;
	en->meta_next = en->meta;
	en->nblocks = en->nexits = 0;
	en->nlanes = 1;
	en->flush_wanted = false;
	en->stats.flushes++;
	memset(en->quick, 0, sizeof en->quick);
	jump_caches_clear(en);
}

static unsigned hash_of(const uint8_t *source, uint64_t rip, uint32_t mode)
{
	uint64_t h = ((uintptr_t)source ^ rip * 0x9e3779b97f4a7c15ull ^ mode * 0x85ebca6bull) * 0xff51afd7ed558ccdull;
	return h >> 49 & (BLOCK_HASH - 1);
}

struct block *block_find(struct engine *en, const uint8_t *source, uint64_t rip, uint32_t mode)
{
	struct block *b = en->hash[hash_of(source, rip, mode)];
	while (b && !block_is(b, source, rip, mode))
		b = b->hash_next;
	return b;
}

static struct code_page *page_find(struct engine *en, uint64_t host_page)
{
	struct code_page *p = en->pages[PAGE_HASH_OF(host_page)];
	while (p && p->host_page != host_page)
		p = p->next;
	return p;
}

static struct code_page *page_make(struct engine *en, uint64_t host_page, uint32_t epoch)
{
	struct code_page *p = page_find(en, host_page);
	if (p)
		return p;
	p = meta_alloc(en, sizeof *p);
	*p = (struct code_page){ .host_page = host_page, .epoch = epoch, .next = en->pages[PAGE_HASH_OF(host_page)] };
	en->pages[PAGE_HASH_OF(host_page)] = p;
	return p;
}

static uint64_t page_of(const struct block *b, int which)
{
	return (uintptr_t)(which ? b->source2 : b->source) & ~4095ull;
}

void block_insert(struct engine *en, struct block *b)
{
	unsigned h = hash_of(b->source, b->rip, b->mode);
	b->hash_next = en->hash[h];
	en->hash[h] = b;
	for (int which = 0; which < (b->source2 ? 2 : 1); which++) {
		struct code_page *p = page_make(en, page_of(b, which), b->epoch);
		b->page_next[which] = p->blocks;
		p->blocks = b;
	}
	en->by_code[en->nblocks++] = b;
}

static int page_slot(const struct block *b, uint64_t host_page) { return page_of(b, 0) == host_page ? 0 : 1; }

static void page_remove(struct engine *en, struct block *b, int which)
{
	struct code_page *p = page_find(en, page_of(b, which));
	struct block **link = &p->blocks;
	while (*link != b)
		link = &(*link)->page_next[page_slot(*link, p->host_page)];
	*link = b->page_next[which];
}

/* Takes a block out of use. Its code stays until the next reset, but no way leads in. */
void block_kill(struct engine *en, struct block *b)
{
	struct block **link = &en->hash[hash_of(b->source, b->rip, b->mode)];
	while (*link != b)
		link = &(*link)->hash_next;
	*link = b->hash_next;
	for (int which = 0; which < (b->source2 ? 2 : 1); which++)
		page_remove(en, b, which);
	block_unlink(en, b);
	b->valid = false;
	en->stats.invalidated++;
}

bool block_current(const struct block *b)
{
	unsigned first = 4096 - ((uintptr_t)b->source & 4095);
	if (first > b->length)
		first = b->length;
	if (memcmp(b->bytes, b->source, first))
		return false;
	return first == b->length || !memcmp(b->bytes + first, b->source2, b->length - first);
}

/* Kills the blocks of a page that touch bytes [from, to) of it. only_stale: that differ from memory. */
static void page_kill(struct engine *en, uint64_t host_page, uint64_t from, uint64_t to, bool only_stale)
{
	struct code_page *p = page_find(en, host_page);
	struct block *next;
	for (struct block *b = p ? p->blocks : NULL; b; b = next) {
		int which = page_slot(b, host_page);
		uint64_t start = which ? 0 : (uintptr_t)b->source & 4095;
		uint64_t end = which ? 15 : start + b->length;
		next = b->page_next[which];
		if (start < to && end > from && !(only_stale && block_current(b)))
			block_kill(en, b);
	}
}

void engine_invalidate(struct cpu *cpu, uint64_t gpa, unsigned len)
{
	const struct mem_slot *slot = mem_slot_find(cpu->mem, gpa);
	if (!slot || !len)
		return;
	uint64_t host = (uintptr_t)mem_slot_host(slot, gpa);
	uint64_t from = host & 4095 & ~63ull, to = ((host & 4095) + len + 63) & ~63ull;
	page_kill(cpu->engine, host & ~4095ull, from, to, false);
}

void engine_exec_mapped(struct cpu *cpu, uint64_t gpa)
{
	struct engine *en = cpu->engine;
	const struct mem_slot *slot = mem_slot_find(cpu->mem, gpa);
	uint64_t host_page = slot ? (uintptr_t)mem_slot_host(slot, gpa) & ~4095ull : 0;
	struct code_page *p = slot ? page_find(en, host_page) : NULL;
	uint32_t epoch = mem_epoch(cpu->mem);
	if (!p || p->epoch == epoch)                             /* the client has done nothing since */
		return;
	p->epoch = epoch;
	page_kill(en, host_page, 0, 4096, true);
}

void engine_flush(struct cpu *cpu) { cpu->engine->flush_wanted = true; }
