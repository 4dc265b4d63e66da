/*
 * Stale blocks come to life again. Code is often written anew as it was, or
 * with other constants: where a block's bytes differ only in immediates that
 * its host code holds one to one, these are put in; if nothing differs, the
 * block is used as it is.
 *
 * No translation may depend on the value of an immediate that note_patch()
 * takes. Only the vCPU's own thread revives, from the dispatcher, so none of
 * the block's code is being run.
 */
#include "xlat/internal.h"

/* Blends by a register that the immediate's upper half names. */
static bool names_register(const struct insn *in) { return in->encoding == ENC_VEX && in->map == 3 && in->opcode >= 0x4a && in->opcode <= 0x4c; }

/* Does anything depend on the value of x's immediate? In a loop each round has the instruction once more. */
static bool immediate_used(const struct translation_unit *u, const struct xinsn *x)
{
	for (unsigned i = 0; i < u->count; i++)
		if (u->insn[i].imm_used && u->insn[i].rip == x->rip)
			return true;
	return false;
}

/* The immediate of x comes next, at host. */
void note_patch(struct translation_unit *u, const struct xinsn *x, const uint8_t *host)
{
	unsigned size = x->in.len - x->imm_offset, at = host - u->block->entry;
	if (!size || u->careful || u->mode & XMODE_ONE || x->kind != KIND_NATIVE || names_register(&x->in) || immediate_used(u, x))
		return;
	if (u->npatches >= ARRAY_SIZE(u->patch) || at > UINT16_MAX)
		u->npatches = ARRAY_SIZE(u->patch) + 1;          /* too many */
	else
		u->patch[u->npatches++] = (struct patch){ x->rip - u->block->rip + x->imm_offset, at, size };
}

/* Bytes, mask and patches lie together: they are used together. */
void block_keep_patches(struct translation_unit *u)
{
	struct block *b = u->block;
	unsigned whole = (b->length + 7) & ~7u;
	if (!u->npatches || u->npatches > ARRAY_SIZE(u->patch) || b->source2)
		return;
	uint8_t *p = meta_alloc_aligned(u->engine, 2 * whole + sizeof *b->patches * u->npatches);
	b->bytes = memcpy(p, b->bytes, whole);
	b->mask = p + whole;
	b->patches = (struct patch *)(p + 2 * whole);
	b->npatches = u->npatches;
	memcpy(b->patches, u->patch, sizeof *b->patches * b->npatches);
	memset(b->mask, 0xff, b->length);
	memset(b->mask + b->length, 0, whole - b->length);
	for (unsigned i = 0; i < b->npatches; i++)
		memset(b->mask + b->patches[i].guest, 0, b->patches[i].size);
}

enum { WORD = 8 };
static uint64_t word_at(const void *p) { return *(const uint64_t *)p; }

/* The guest's bytes of now, in whole words: they are looked at as such at once. */
static void read_bytes(const struct block *b, uint64_t *words)
{
	unsigned whole = b->length & ~(WORD - 1u), rest = b->length - whole;
	for (unsigned i = 0; i < whole; i += WORD)
		words[i / WORD] = word_at(b->source + i);
	uint64_t last = 0;
	for (unsigned i = 0; i < rest; i++)
		last |= (uint64_t)b->source[whole + i] << 8 * i;
	if (rest)
		words[whole / WORD] = last;
}

/* Which bits have changed? *forbidden: of those, the ones that may not. */
static uint64_t changes(const struct block *b, const uint64_t *words, uint64_t *forbidden)
{
	uint64_t any = 0;
	*forbidden = 0;
	for (unsigned i = 0; i < b->length; i += WORD) {
		uint64_t change = word_at(b->bytes + i) ^ words[i / WORD];
		any |= change;
		*forbidden |= b->mask ? change & word_at(b->mask + i) : change;
	}
	return any;
}

static void take_bytes(struct block *b, const uint64_t *words)
{
	for (unsigned i = 0; i < b->length; i += WORD)
		*(uint64_t *)(b->bytes + i) = words[i / WORD];
	for (const struct patch *p = b->patches; p < b->patches + b->npatches; p++) {
		uint8_t *host = b->entry + p->host;
		const uint8_t *guest = b->bytes + p->guest;
		if (p->size == 4)
			*(uint32_t *)host = *(const uint32_t *)guest;
		else
			memcpy(host, guest, p->size);
	}
}

static bool revive_one(struct engine *en, struct block *b)
{
	uint64_t words[MAX_BLOCK_INSNS * 15 / WORD + 1], forbidden;
	mark_code(en->cpu, b->source, b->length);                /* first: from here on a store to them is seen */
	read_bytes(b, words);
	uint64_t any = changes(b, words, &forbidden);
	if (forbidden)
		return false;
	if (any)
		take_bytes(b, words);
	if (b->leave)
		memcpy(b->entry, b->head, HEAD_BYTES);
	b->valid = true;
	return true;
}

/*
 * The stale blocks beside it are likely wanted next. One that does not suit the
 * new bytes goes, so that it is not tried again and again.
 */
bool block_revive(struct engine *en, struct block *b)
{
	struct block *next;
	if (!revive_one(en, b))
		return false;
	for (struct block *other = blocks_beside(en, b); other; other = next) {
		next = other->page_next;
		if (!other->valid && other->mode == b->mode && !revive_one(en, other))
			block_discard(en, other);
	}
	return true;
}
