/*
 * Bytes of a random instance of a form: fields that the form leaves open get
 * random values, and the result is kept if it still decodes to the form.
 */
#include "insn.h"

struct writer { struct rng *rng; const struct form *f; const struct shape *shape; uint8_t *p; uint8_t rxb; };

const struct shape *any_shape(void)
{
	static const struct shape any64 = { 0xffff, 0xffff }, any32 = { 0xff, 0xff };
	return machine_bits == 64 ? &any64 : &any32;
}

static int pick_register(struct rng *rng, uint32_t allowed)
{
	int r;
	do
		r = below(rng, 16);
	while (!(allowed >> r & 1));
	return r;
}

static bool is_any(const struct shape *shape) { return shape->bases == any_shape()->bases; }

/* Decides mod, rm, SIB of a memory operand; the displacement's bytes stay random until aim(). Returns modrm without reg. */
struct address { uint8_t mod, rm, sib; bool has_sib; };

static struct address random_address(struct writer *w)
{
	struct rng *rng = w->rng;
	struct address a = { .mod = below(rng, 3) };
	bool any = is_any(w->shape);
	int base = pick_register(rng, w->shape->bases);
	if (any && percent(rng, 8)) {                    /* RIP-relative */
		w->rxb &= ~3;
		return (struct address){ .mod = 0, .rm = 5 };
	}
	a.has_sib = (base & 7) == 4 || percent(rng, 45) || (w->f->modrm & 7) == 4;
	if ((base & 7) == 5 && a.mod == 0)
		a.mod = 1;
	w->rxb = (w->rxb & 4) | base >> 3;
	a.rm = base & 7;
	if (!a.has_sib)
		return a;
	int index = 4;                                   /* none */
	if (w->shape->indexes && percent(rng, 75))
		index = pick_register(rng, w->shape->indexes);
	w->rxb |= index >> 3 << 1;
	a.sib = below(rng, 4) << 6 | (index & 7) << 3 | (base & 7);
	a.rm = 4;
	if (any && percent(rng, 8)) {                    /* no base, disp32 */
		a.sib = (a.sib & ~7) | 5;
		a.mod = 0;
	}
	return a;
}

static void put_modrm(struct writer *w, struct address *a)
{
	struct rng *rng = w->rng;
	const struct form *f = w->f;
	unsigned reg = percent(rng, 50) ? f->modrm >> 3 & 7 : below(rng, 8);
	if (!f->memory) {
		unsigned rm = percent(rng, 50) ? f->modrm & 7 : below(rng, 8);
		*w->p++ = 0xc0 | reg << 3 | rm;
		return;
	}
	*w->p++ = a->mod << 6 | reg << 3 | a->rm;
	if (a->has_sib)
		*w->p++ = a->sib;
}

static void put_legacy(struct writer *w, struct address *a)
{
	struct rng *rng = w->rng;
	const struct form *f = w->f;
	if (is_any(w->shape) && percent(rng, 4))
		*w->p++ = machine_bits == 64 && percent(rng, 60) ? 0x64 | (rnd(rng) & 1) : (const uint8_t[]){ 0x2e, 0x3e, 0x26, 0x36 }[below(rng, 4)];
	if (is_any(w->shape) && percent(rng, 5))
		*w->p++ = 0x67;
	memcpy(w->p, f->prefix, f->nprefix);
	w->p += f->nprefix;
	if (f->w || w->rxb || (machine_bits == 64 && percent(rng, 10)))
		*w->p++ = 0x40 | f->w << 3 | w->rxb;
	if (f->map)
		*w->p++ = 0x0f;
	if (f->map > 1)
		*w->p++ = f->map == 2 ? 0x38 : 0x3a;
	*w->p++ = f->opcode_register ? (f->opcode & ~7) | below(rng, 8) : f->opcode;
	if (f->has_modrm)
		put_modrm(w, a);
}

static void put_vex(struct writer *w, struct address *a)
{
	struct rng *rng = w->rng;
	const struct form *f = w->f;
	unsigned vvvv = percent(rng, 30) ? f->vvvv : below(rng, 16);
	if (is_any(w->shape) && machine_bits == 64 && percent(rng, 3))
		*w->p++ = 0x64 | (rnd(rng) & 1);
	if (is_any(w->shape) && percent(rng, 3))
		*w->p++ = 0x67;
	if (!(w->rxb & 3) && !f->w && f->map == 1 && percent(rng, 70)) {
		*w->p++ = 0xc5;
		*w->p++ = (w->rxb & 4 ? 0 : 0x80) | vvvv << 3 | f->l << 2 | f->pp;
	} else {
		*w->p++ = 0xc4;
		*w->p++ = (~w->rxb & 7) << 5 | f->map;
		*w->p++ = (machine_bits == 32 && percent(rng, 30) ? !f->w : f->w) << 7 | vvvv << 3 | f->l << 2 | f->pp;
	}
	*w->p++ = f->opcode;
	if (f->has_modrm)
		put_modrm(w, a);
}

/* Small immediates are the interesting ones for shifts, shuffles and bit tests. */
static void put_rest(struct writer *w, uint8_t *end)
{
	bool small = percent(w->rng, 40);
	while (w->p < end)
		*w->p++ = small ? below(w->rng, 66) : rnd(w->rng);
}

bool build(struct rng *rng, const struct form *f, const struct shape *shape, uint8_t bytes[15], struct decoded *d)
{
	for (unsigned tries = 0; tries < 300; tries++) {
		struct writer w = { .rng = rng, .f = f, .shape = shape, .p = bytes };
		if (machine_bits == 64 && percent(rng, 65))
			w.rxb = rnd(rng) & 7;
		struct address a = { 0 };
		if (f->memory)
			a = random_address(&w);
		if (f->vex)
			put_vex(&w, &a);
		else
			put_legacy(&w, &a);
		put_rest(&w, bytes + 15);
		if (decode(bytes, 15, d) && form_key(d) == f->key && !is_excluded(d))
			return true;
	}
	return false;
}
