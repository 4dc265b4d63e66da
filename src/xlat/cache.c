/*
 * The code cache and the book-keeping of blocks. The cache is a ring of
 * chunks, each with an equal share of the metadata; when a chunk is full, the
 * oldest one is emptied and becomes the next. What is still in use is
 * translated again, into the newest chunk.
 */
#include <sys/mman.h>
#include "xlat/internal.h"

enum { LEAST_CHUNK = 256 << 10, BYTES_PER_BLOCK = 256, EXITS_PER_BLOCK = 3 };

static void *anonymous(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

/*
 * The same memory twice, executable and writable. It is shared anonymous
 * memory, which perf takes for code made at run time; a memfd's mapping it
 * would take for a file's. An old size of 0 makes mremap() map the same pages
 * again.
 */
static bool map_code(struct engine *en)
{
	void *rx = mmap(NULL, en->size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rx == MAP_FAILED)
		return false;
	en->rx = rx;
	void *rw = mremap(rx, 0, en->size, MREMAP_MAYMOVE);
	if (rw == MAP_FAILED)
		return false;
	en->rw = rw;
	return !mprotect(rw, en->size, PROT_READ | PROT_WRITE);
}

static size_t blocks_size(const struct engine *en) { return en->chunk_count * en->chunk_blocks * sizeof *en->by_code; }
static size_t exits_size(const struct engine *en) { return en->chunk_count * en->chunk_exits * sizeof *en->exits; }
/* A block lies in two pages at most. */
static size_t pool_size(const struct engine *en) { return 2ull * en->chunk_count * en->chunk_blocks * sizeof *en->page_pool; }

static uint64_t cache_mib(uint64_t mib) { return mib < 2 ? 2 : mib > 1024 ? 1024 : mib; }

bool engine_map(struct engine *en)
{
	en->size = cache_mib(params.code_cache_mb) << 20;
	en->chunk_size = en->size / CHUNKS < LEAST_CHUNK ? LEAST_CHUNK : en->size / CHUNKS;
	en->chunk_count = en->chunks_allowed = en->size / en->chunk_size;
	en->jump_sets = en->jump_sets_allowed = JUMP_CACHE_COUNT / JUMP_CACHE_WAYS;
	en->chunk_blocks = en->chunk_size / BYTES_PER_BLOCK;
	en->chunk_exits = en->chunk_blocks * EXITS_PER_BLOCK;
	if (!map_code(en))
		return false;
	en->meta = anonymous(en->size);
	en->by_code = anonymous(blocks_size(en));
	en->exits = anonymous(exits_size(en));
	en->page_pool = anonymous(pool_size(en));
	en->jump_caches = anonymous(JUMP_CACHE_COUNT * sizeof *en->jump_caches);
	en->templates = anonymous(TEMPLATES * sizeof *en->templates);
	return en->meta && en->by_code && en->exits && en->page_pool && en->jump_caches && en->templates;
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
	unmap(en->meta, en->size);
	unmap(en->by_code, blocks_size(en));
	unmap(en->exits, exits_size(en));
	unmap(en->page_pool, pool_size(en));
	unmap(en->jump_caches, JUMP_CACHE_COUNT * sizeof *en->jump_caches);
	unmap(en->templates, TEMPLATES * sizeof *en->templates);
}

/* ---- chunks ---- */

void engine_share(struct cpu *cpu, unsigned vcpus)
{
	struct engine *en = cpu->engine;
	uint64_t all = (cache_mib(params.code_cache_mb) + (vcpus - 1) * params.code_cache_more_mb) << 20;
	uint64_t chunks = all / vcpus / en->chunk_size;
	unsigned sets = JUMP_CACHE_COUNT / JUMP_CACHE_WAYS * (vcpus + 1) / (2 * vcpus);
	atomic_store(&en->jump_sets_allowed, sets ? sets : 1);
	atomic_store(&en->chunks_allowed, chunks < 2 ? 2 : chunks > en->chunk_count ? en->chunk_count : (unsigned)chunks);
}

/* Arena memory; enough is left whenever a block is begun (engine_room()). */
void *meta_alloc(struct engine *en, size_t size)
{
	void *p = en->meta_next;
	en->meta_next += (size + 7) & ~7ull;
	return p;
}

unsigned exit_new(struct engine *en, struct block_exit *x)
{
	unsigned id = en->chunk * en->chunk_exits + en->chunks[en->chunk].nexits++;
	en->exits[id] = x;
	return id;
}

static uint8_t *chunk_code(const struct engine *en, unsigned n) { return n ? en->rw + n * en->chunk_size : en->code_start; }

/* Blocks go into chunk n from now on, which is empty. */
static void chunk_begin(struct engine *en, unsigned n)
{
	en->chunk = n;
	en->chunks[n] = (struct chunk){ .used = true };
	en->code = chunk_code(en, n);
	en->code_end = en->rw + (n + 1) * en->chunk_size;
	en->meta_next = en->meta + n * en->chunk_size;
	en->meta_end = en->meta_next + en->chunk_size;
	en->next_lane = n * (CPU_LANES / CHUNKS) + (n ? 0 : LANES_FIXED);
	en->lanes_end = (n + 1) * (CPU_LANES / CHUNKS);
	memset(&en->cpu->lane[en->next_lane], 0, (en->lanes_end - en->next_lane) * sizeof en->cpu->lane[0]);    /* no TLB's key is 0 */
}

/* Forgets the blocks of chunk n. Not while generated code of this engine is on the stack. */
static void chunk_evict(struct engine *en, unsigned n)
{
	struct block **blocks = en->by_code + n * en->chunk_blocks;
	for (unsigned i = 0; i < en->chunks[n].nblocks; i++) {
		perfmap_forget(en, blocks[i]);
		if (blocks[i]->listed) {
			block_discard(en, blocks[i]);
			cpu_count(en->cpu, STAT_evicted);
		}
	}
	memset(en->quick, 0, sizeof en->quick);
	jump_caches_forget(en, en->rw + n * en->chunk_size, en->chunk_size);
	en->chunks[n] = (struct chunk){ 0 };
	en->turns++;
}

/* Gives the memory of chunk n, an empty one, back to the host. */
static void chunk_release(struct engine *en, unsigned n)
{
	madvise(en->meta + n * en->chunk_size, en->chunk_size, MADV_DONTNEED);
	madvise(en->rw + n * en->chunk_size, en->chunk_size, MADV_REMOVE);
}

static void chunk_turn(struct engine *en)
{
	unsigned allowed = atomic_load(&en->chunks_allowed), next = (en->chunk + 1) % allowed;
	for (unsigned n = allowed; n < en->chunk_count; n++)
		if (en->chunks[n].used) {
			chunk_evict(en, n);
			chunk_release(en, n);
		}
	if (en->chunks[next].used)
		chunk_evict(en, next);
	trace(xlat, "vCPU %u: chunk %u of the code cache is full, %u is next", en->cpu->index, en->chunk, next);
	chunk_begin(en, next);
}

void engine_room(struct engine *en)
{
	const struct chunk *c = &en->chunks[en->chunk];
	if (en->code_end - en->code <= BLOCK_ROOM || en->meta_end - en->meta_next <= BLOCK_ROOM ||
	    c->nblocks + 1 >= en->chunk_blocks || c->nexits + 2 * MAX_BLOCK_INSNS >= en->chunk_exits)
		chunk_turn(en);
}

void *meta_alloc_aligned(struct engine *en, size_t size)
{
	en->meta_next = (uint8_t *)(((uintptr_t)en->meta_next + 63) & ~63ull);
	return meta_alloc(en, size);
}

/* Forgets every block. Not while generated code of this engine is on the stack. */
void engine_reset(struct engine *en)
{
	for (unsigned n = 0; params.perf && n < en->chunk_count; n++)
		for (unsigned i = 0; i < en->chunks[n].nblocks; i++)
			perfmap_forget(en, en->by_code[n * en->chunk_blocks + i]);
	memset(en->hash, 0, sizeof en->hash);
	memset(en->pages, 0, sizeof en->pages);
	memset(en->chunks, 0, sizeof en->chunks);
	memset(en->quick, 0, sizeof en->quick);
	en->page_free = NULL;
	en->page_pool_used = 0;
	chunk_begin(en, 0);
	en->flush_wanted = false;
	cpu_count(en->cpu, STAT_resets);
	en->turns++;
	jump_caches_clear(en);
}

struct block *block_at(const struct engine *en, const uint8_t *rx)
{
	const uint8_t *rw = rx - (en->rx - en->rw);
	unsigned n = (rw - en->rw) / en->chunk_size, low = 0, high = en->chunks[n].nblocks;
	struct block *const *blocks = en->by_code + n * en->chunk_blocks;
	while (low < high) {
		unsigned mid = (low + high) / 2;
		if (blocks[mid]->indirect_entry + blocks[mid]->code_size <= rw)
			low = mid + 1;
		else
			high = mid;
	}
	return low < en->chunks[n].nblocks && blocks[low]->indirect_entry <= rw ? blocks[low] : NULL;
}

/* ---- finding blocks ---- */

static unsigned hash_of(const uint8_t *source, uint64_t rip, uint32_t mode)
{
	uint64_t h = ((uintptr_t)source ^ rip * 0x9e3779b97f4a7c15ull ^ mode * 0x85ebca6bull) * 0xff51afd7ed558ccdull;
	return h >> 47 & (BLOCK_HASH - 1);
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

static struct code_page *page_make(struct engine *en, uint64_t host_page)
{
	struct code_page *p = page_find(en, host_page);
	if (p)
		return p;
	p = en->page_free ? en->page_free : &en->page_pool[en->page_pool_used++];
	if (p == en->page_free)
		en->page_free = p->next;
	*p = (struct code_page){ .host_page = host_page, .epoch = mem_epoch(en->cpu->mem), .next = en->pages[PAGE_HASH_OF(host_page)] };
	en->pages[PAGE_HASH_OF(host_page)] = p;
	return p;
}

static uint64_t page_of(const struct block *b, int which)
{
	return (uintptr_t)(which ? b->source2 : b->source) & ~4095ull;
}

static struct block **starting_list(struct code_page *p, const struct block *b)
{
	return &p->starting[((uintptr_t)b->source & 4095) >> PART_SHIFT];
}

static void page_insert(struct engine *en, struct block *b)
{
	struct code_page *p = page_make(en, page_of(b, 0));
	struct block **list = starting_list(p, b);
	b->page_next = *list;
	*list = b;
	p->nblocks++;
	if (b->length > p->longest)
		p->longest = b->length;
	if (!b->source2)
		return;
	p = page_make(en, page_of(b, 1));
	b->straddle_next = p->straddling;
	p->straddling = b;
	p->nblocks++;
}

void block_insert(struct engine *en, struct block *b)
{
	unsigned h = hash_of(b->source, b->rip, b->mode);
	b->hash_next = en->hash[h];
	en->hash[h] = b;
	page_insert(en, b);
	b->listed = true;
	en->by_code[en->chunk * en->chunk_blocks + en->chunks[en->chunk].nblocks++] = b;
}

static void page_forget(struct engine *en, struct code_page *p)
{
	struct code_page **link = &en->pages[PAGE_HASH_OF(p->host_page)];
	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	p->next = en->page_free;
	en->page_free = p;
}

static void page_release(struct engine *en, struct code_page *p)
{
	if (!--p->nblocks)
		page_forget(en, p);
}

static void page_remove(struct engine *en, struct block *b)
{
	struct block **link = starting_list(page_find(en, page_of(b, 0)), b);
	while (*link != b)
		link = &(*link)->page_next;
	*link = b->page_next;
	page_release(en, page_find(en, page_of(b, 0)));
	if (!b->source2)
		return;
	struct code_page *second = page_find(en, page_of(b, 1));
	link = &second->straddling;
	while (*link != b)
		link = &(*link)->straddle_next;
	*link = b->straddle_next;
	page_release(en, second);
}

/* Takes a block out of use for good. Its code stays until its chunk is reused, but no way leads in. */
void block_discard(struct engine *en, struct block *b)
{
	struct block **link = &en->hash[hash_of(b->source, b->rip, b->mode)];
	while (*link != b)
		link = &(*link)->hash_next;
	*link = b->hash_next;
	page_remove(en, b);
	block_unlink(en, b);
	b->valid = false;
	b->listed = false;
}

/* Links and jump-cache slots stay: all of them end at the entry. */
void block_kill(struct engine *en, struct block *b)
{
	cpu_count(en->cpu, STAT_invalidated);
	b->valid = false;
	if (!b->leave) {
		if (b->straddles)
			block_discard(en, b);
		return;
	}
	struct emit e = { .p = b->entry };
	put_jmp_to(&e, b->leave);
}

struct block *blocks_beside(struct engine *en, const struct block *b) { return *starting_list(page_find(en, page_of(b, 0)), b); }

bool block_current(const struct block *b)
{
	unsigned first = 4096 - ((uintptr_t)b->source & 4095);
	if (first > b->length)
		first = b->length;
	if (memcmp(b->bytes, b->source, first))
		return false;
	return first == b->length || !memcmp(b->bytes + first, b->source2, b->length - first);
}

/*
 * A block whose bytes are stored to, or may have been. If that is done by an
 * instruction of its own, what follows must not be run as it was: a rule that
 * stores and does not end its block is followed by a look at the poll word;
 * other stores leave by themselves.
 */
static void block_hit(struct engine *en, struct block *b, bool only_changed)
{
	if (only_changed && block_current(b))
		return;
	if (!only_changed && en->cpu->rip - b->rip < b->length)
		atomic_fetch_or(&en->cpu->poll, POLL_LEAVE);
	block_kill(en, b);
}

/* Kills the blocks of a page that touch bytes [from, to) of it. only_changed: that differ from memory. */
static void page_kill(struct engine *en, uint64_t host_page, uint64_t from, uint64_t to, bool only_changed)
{
	struct code_page *p = page_find(en, host_page);
	struct block *next;
	if (!p)
		return;
	for (uint64_t part = (from > p->longest ? from - p->longest : 0) >> PART_SHIFT; part <= (to - 1) >> PART_SHIFT; part++) {
		for (struct block *b = p->starting[part]; b; b = next) {
			uint64_t start = (uintptr_t)b->source & 4095, end = start + b->length;
			next = b->page_next;
			if (b->valid && start < to && end > from)
				block_hit(en, b, only_changed);
		}
	}
	for (struct block *b = from < 15 ? p->straddling : NULL; b; b = next) {
		next = b->straddle_next;
		block_hit(en, b, only_changed);
	}
}

void engine_invalidate(struct cpu *cpu, const uint8_t *host, unsigned len)
{
	uint64_t at = (uintptr_t)host & 4095, from = at & ~63ull, to = (at + len + 63) & ~63ull;
	if (len)
		page_kill(cpu->engine, (uintptr_t)host & ~4095ull, from, to, false);
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
