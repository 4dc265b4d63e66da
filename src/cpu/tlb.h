/*
 * cpu/tlb -- the software TLB. One context for each (VPID, EPTP, PCID or CR3,
 * paging mode, user or supervisor, SMAP override); a switch of context swaps
 * the pointers in struct cpu.  Entries are laid out for generated code:
 *
 *   t1 = (addr >> 12) * 32 & cpu->tlb_mask;  e = cpu->tlb + t1
 *   addr - e->read_tag  <=  4096 - size     one compare for tag and page crossing
 *   host address = e->host + (addr - tag)
 *
 * Unused tags are TLB_NO_TAG (non-canonical), so no guest address matches.
 */
#ifndef ANYKVM_TLB_H
#define ANYKVM_TLB_H

#include "base/base.h"

#define TLB_NO_TAG 0x7777777777777000ull
/* A write tag: the page is as for a plain store except that it holds translated code (access_beside_code()). */
#define TLB_CODE_TAG 0x7777777777775000ull                        /* or with bit 12 clear */

struct tlb_entry {
	uint64_t read_tag;               /* guest-linear page address, or TLB_NO_TAG */
	uint64_t write_tag;              /* same, only if stores need no bookkeeping: dirty set, not logged, no code, not ROM */
	uint64_t host;                   /* host address of the page */
	uint64_t exec_tag;               /* page address if fetches are allowed, else TLB_NO_TAG */
};
_Static_assert(sizeof(struct tlb_entry) == 32, "generated code scales by 32");

/* The entry for addr in a table of mask + 32 bytes. */
static inline struct tlb_entry *tlb_entry_at(struct tlb_entry *tlb, uint64_t mask, uint64_t addr)
{
	return (struct tlb_entry *)((uint8_t *)tlb + (addr >> 7 & mask));
}

struct cpu;
enum access { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_EXEC = 4,
              ACCESS_SUPER = 8,        /* implicit supervisor access: descriptor tables, TSS */
              ACCESS_SHSTK = 16,       /* of the shadow stack: only pages that are made for it; no entry is installed */
              ACCESS_USER = 32 };      /* user-mode access, whatever the CPL (WRUSS) */

/* Where a linear page leads. */
struct translation {
	uint64_t gpa;                    /* of the byte asked for */
	uint8_t *host;                   /* of the byte asked for; NULL: no slot (MMIO), or a write to a read-only slot */
	const struct mem_slot *slot;     /* NULL: MMIO */
	bool apic_access;                /* the page is ctl's APIC-access page */
	bool sub_page;                   /* of the page only some parts may be written, this one among them */
};

/* Creates and frees the set of contexts of a processor. */
bool tlb_init(struct cpu *cpu);
void tlb_free(struct cpu *cpu);
/* The VM has so many vCPUs (at least 1): sets this one's share of the memory for entries. From any thread. */
void tlb_share(struct cpu *cpu, unsigned vcpus);

/*
 * Translates linear address addr for access (ACCESS_*), at the current CPL or
 * as supervisor. Sets accessed and dirty flags. Raises #PF, or exits with EPT
 * violation or misconfiguration. Installs an entry in the current context
 * where one may be used (never for MMIO or watchpoints); for ACCESS_SUPER in the one that
 * tlb_super_entry() looks at.
 * addr must be canonical (the caller raised #GP or #SS otherwise).
 */
struct translation tlb_translate(struct cpu *cpu, uint64_t addr, unsigned access);
/* The same for size bytes within a page: what is written by parts of a page is allowed by parts, too. */
struct translation tlb_translate_sized(struct cpu *cpu, uint64_t addr, unsigned access, unsigned size);
/* The entry that says of addr what an implicit supervisor access (ACCESS_SUPER) may do, at any CPL. It need not be for addr's page. */
const struct tlb_entry *tlb_super_entry(struct cpu *cpu, uint64_t addr);
/* As tlb_translate() without faults, flags or entries: for debuggers and KVM_TRANSLATE. false: not mapped. */
bool tlb_probe(struct cpu *cpu, uint64_t addr, uint64_t *gpa, bool *writable, bool *user);

/*
 * Reads guest-physical memory as the processor does for itself (PDPTEs): through EPT under a control block that has
 * it, with EPT violations and misconfigurations (no linear address). Unbacked addresses read as ones.
 */
void tlb_read_gpa(struct cpu *cpu, uint64_t gpa, void *to, unsigned size);

/*
 * A jump to addr, which was just fetched from, is about to enter the jump cache that is selected. false: it may not (one shared by
 * contexts holds global pages only).
 */
bool tlb_jump_note(struct cpu *cpu, uint64_t addr);
/* Selects the context for the processor's present state; called by cpu_mode_update(). */
void tlb_context_update(struct cpu *cpu);

/*
 * The current context only: each page is translated anew before it is fetched from again. And: has that been done since the client
 * last may have written to memory (mem_epoch())?
 */
void tlb_forget_code(struct cpu *cpu);
bool tlb_code_forgotten(const struct cpu *cpu);
void tlb_flush_all(struct cpu *cpu);                                  /* everything of every context */
void tlb_flush_vpid(struct cpu *cpu, uint16_t vpid, bool globals_too);       /* linear and combined mappings of a VPID */
void tlb_flush_vpid_addr(struct cpu *cpu, uint16_t vpid, uint64_t addr);
void tlb_flush_pcid(struct cpu *cpu, uint16_t pcid, bool globals_too);       /* of the current VPID */
void tlb_flush_pcid_addr(struct cpu *cpu, uint16_t pcid, uint64_t addr);     /* INVPCID type 0 */
void tlb_flush_addr(struct cpu *cpu, uint64_t addr);                  /* INVLPG: current PCID and global entries */
void tlb_flush_eptp(struct cpu *cpu, uint64_t eptp);                  /* bits 51:12 compared */
void tlb_flush_all_ept(struct cpu *cpu);
/* Drops write permission of all entries that lead to the host page (it now holds translated code or is dirty-logged). */
void tlb_drop_write(struct cpu *cpu, const uint8_t *host_page);
/* Drops write permission everywhere (dirty log cleared). */
void tlb_drop_all_writes(struct cpu *cpu);

#endif
