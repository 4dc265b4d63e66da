/*
 * mem/ -- guest-physical memory: the client's slots, dirty logs, and which
 * pages hold translated code.  Memory belongs to the client; its contents
 * and residency are never cached here.
 *
 * A VM has two address spaces with slots of their own: what processors see in
 * system management mode, and what they see outside it. All else they share,
 * the lock too: a call that has to do with no address may be given either.
 *
 * Locking: readers (vCPUs inside KVM_RUN) hold the address space for reading
 * (mem_read_lock) while they use host pointers; slot changes take it for
 * writing, after the upper floor has asked every vCPU to let go.
 */
#ifndef ANYKVM_MEM_H
#define ANYKVM_MEM_H

#include "base/base.h"

struct mem;

enum { MEM_NORMAL, MEM_SMM, MEM_SPACES };                 /* KVM's numbers of address spaces */
enum { MEM_SLOT_LOG_DIRTY = 1, MEM_SLOT_READONLY = 2 };   /* KVM_MEM_* */

/*
 * What is known of a page's translations. A vCPU tells that it is about to store unnoticed, in the page or beside its
 * code, before it looks at granules; who sets bits of granules looks at holders after that. So one of them sees the other.
 */
struct mem_code {
	_Atomic uint64_t granules;       /* bit g is set while some vCPU has translated code from bytes [g*64, g*64+64) */
	_Atomic uint64_t holders;        /* MEM_HOLDS_*: vCPUs whose TLB may let them write to it */
};
/* Bits of holders for the vCPU of that number. Those from 31 on share theirs. */
#define MEM_HOLDS_BESIDE(n) BIT((n) < 31 ? (n) : 31)              /* may store to granules without code */
#define MEM_HOLDS_PAGE(n) (MEM_HOLDS_BESIDE(n) << 32)             /* may store anywhere */

struct mem_slot {
	uint64_t gpa, size;              /* bytes, multiples of 4 KiB */
	uint8_t *host;                   /* client's address of gpa */
	uint32_t flags;                  /* MEM_SLOT_* */
	uint16_t id;
	uint8_t space;                   /* MEM_NORMAL or MEM_SMM */
	_Atomic uint64_t *dirty;         /* one bit per page while logging, else NULL */
	struct mem_code *code;           /* one per page */
};

/* Both address spaces, empty; the result is the normal one. NULL: no memory. */
struct mem *mem_new(void);
void mem_free(struct mem *m);
/* That VM's other address space, or the same. */
struct mem *mem_space(struct mem *m, unsigned space);

/* Changes slots under the rules of KVM_SET_USER_MEMORY_REGION. 0 or -errno (EINVAL, EEXIST, ENOMEM). */
int mem_slot_set(struct mem *m, uint16_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host);
/* The slot with that id, or NULL. */
struct mem_slot *mem_slot_by_id(struct mem *m, uint16_t id);
/* The slot that holds gpa, or NULL (MMIO). Called with the read lock held. */
const struct mem_slot *mem_slot_find(struct mem *m, uint64_t gpa);
/* A slot of any space whose memory holds the host address, the first after the given one (NULL: the first); slots may share memory. */
const struct mem_slot *mem_slot_by_host(struct mem *m, const void *host, const struct mem_slot *after);
/* Grows by one with every change of slots. */
uint64_t mem_generation(struct mem *m);

void mem_read_lock(struct mem *m);
void mem_read_unlock(struct mem *m);
void mem_write_announce(struct mem *m);  /* first half of mem_write_lock(): from now on new readers wait */
void mem_write_wait(struct mem *m);      /* second half: waits until the present readers are gone */
void mem_write_lock(struct mem *m);      /* both; new readers wait. Read locks nest within a thread, also inside the write lock */
void mem_write_unlock(struct mem *m);

static inline uint8_t *mem_slot_host(const struct mem_slot *s, uint64_t gpa) { return s->host + (gpa - s->gpa); }
/* Of the page that holds gpa. */
static inline struct mem_code *mem_slot_code(const struct mem_slot *s, uint64_t gpa) { return &s->code[(gpa - s->gpa) >> 12]; }
/* The granules that [addr, addr+len), inside one page, touches. */
static inline uint64_t mem_granules(uint64_t addr, unsigned len)
{
	return (~0ull << ((addr & 4095) / 64)) & (~0ull >> (63 - ((addr & 4095) + len - 1) / 64));
}
/* How many threads are making some page a code page: until they are done, others may still store to it unnoticed. */
_Atomic uint32_t *mem_code_settling(struct mem *m);
/* [gpa, gpa+len), inside one page, was stored to. Takes the code bits of what was hit away; true if there were any. */
static inline bool mem_code_hit(const struct mem_slot *s, uint64_t gpa, unsigned len)
{
	struct mem_code *code = mem_slot_code(s, gpa);
	uint64_t granules = mem_granules(gpa, len);

	atomic_thread_fence(memory_order_seq_cst);               /* the store is seen, or the bit */
	return atomic_load_explicit(&code->granules, memory_order_relaxed) && atomic_fetch_and(&code->granules, ~granules) & granules;
}
/*
 * The client and its devices write to memory unseen. Whatever tells the guest of such writes (a return to KVM_RUN, an
 * interrupt) makes the epoch grow before; what was compared with memory in an older one has to be compared again.
 */
uint32_t mem_epoch(const struct mem *m);
void mem_epoch_next(struct mem *m);
/* Sets the dirty bit of the page that holds gpa, if the slot is logged. */
void mem_mark_dirty(const struct mem_slot *s, uint64_t gpa);

/*
 * Copies from and to guest-physical memory; crossing pages and slots is fine.
 * false when any byte has no slot (nothing is promised of the others), or for
 * writes when it is read-only. Writes mark pages dirty. Writes to pages that
 * hold translated code call the hook below.
 */
bool mem_read(struct mem *m, uint64_t gpa, void *to, size_t len);
bool mem_write(struct mem *m, uint64_t gpa, const void *from, size_t len);
/* Copies from or to host addresses in slots; false if the client has taken the memory away. Words are copied at once. */
bool mem_copy(void *to, const void *from, size_t len);
/*
 * Atomically replaces the aligned word at a host address in a slot, if it is *expected, which is set to what was found.
 * The result also says that the client has taken the memory away.
 */
enum mem_exchanged { MEM_GONE = 0, MEM_EXCHANGED = 1, MEM_DIFFERS = 2 };
enum mem_exchanged mem_exchange(void *word, uint64_t *expected, uint64_t value);
/* For the handler of SIGSEGV and SIGBUS: was it one of these two? Then the context is changed so that it returns false. */
bool mem_copy_signal(int signo, const void *siginfo, void *ucontext);
/* Upper floor's hook: bytes [host, host+len) inside one page of a slot were changed and hold translated code. */
void mem_set_code_hook(struct mem *m, void (*hook)(void *arg, const uint8_t *host, unsigned len), void *arg);

/* Copies out the dirty bitmap (size/4096 bits rounded up to 64) and, if clear, clears it. -ENOENT when not logged. */
int mem_dirty_get(struct mem *m, uint16_t id, void *bitmap, bool clear);
/* KVM_CLEAR_DIRTY_LOG. 0, -EINVAL or -ENOENT. */
int mem_dirty_clear(struct mem *m, uint16_t id, uint64_t first_page, uint64_t pages, const void *bitmap);
/* Makes newly enabled dirty bitmaps start all ones (KVM_DIRTY_LOG_INITIALLY_SET). */
void mem_dirty_initially_set(struct mem *m, bool on);

#endif
