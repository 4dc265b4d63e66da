/* What the tests of CET share: a bench (rig.h) with shadow-stack pages, and its registers. */
#ifndef ANYKVM_TESTS_CET_H
#define ANYKVM_TESTS_CET_H

#include "rig.h"

/* Pages from RIG_PAGES on, in modes with paging; frames from CET_FRAMES on, in the same order. */
enum cet_page { SHADOW, USER_SHADOW, DATA, USER_DATA, CLEAN /* neither writable nor dirty */, ABSENT, SHADOW_2, SHADOW_3, CET_PAGES };
enum { CET_FRAMES = 0x200000, CET_PAGE_USER = 4 };
static inline uint64_t cet_at(enum cet_page page, unsigned offset) { return RIG_PAGES + page * 4096 + offset; }
/* Without paging: a shadow stack like any other memory. */
enum { CET_FLAT = 0x18000 };

enum { M_U_CET = 0x6a0, M_S_CET = 0x6a2, M_PL0_SSP = 0x6a4, M_PL1_SSP, M_PL2_SSP, M_PL3_SSP, M_SSP_TABLE, M_XSS = 0xda0 };
enum { SHSTK = 1, WRSS = 2, ENDBR = 4, LEGACY = 8, NO_TRACK = 16, SUPPRESS_DIS = 32, SUPPRESS = 1 << 10, WAIT = 1 << 11 };
enum { CP = 21, CP_NEAR_RET = 1, CP_FAR_RET, CP_ENDBRANCH, CP_RSTORSSP, CP_SETSSBSY, PF_SS = 0x40 };

/* rig_start() with CR4.CET, CR0.WP, and small pages where there is paging. */
void cet_start(struct rig *rig, enum rig_mode mode, uint64_t u_cet, uint64_t s_cet, uint64_t ssp);
void cet_msr_set(struct rig *rig, uint32_t index, uint64_t value);
uint64_t cet_msr(struct rig *rig, uint32_t index);
void cet_ssp_set(struct rig *rig, uint64_t ssp);
uint64_t cet_ssp(struct rig *rig);
/* The 8 bytes at a linear address of these pages, or at a flat one. */
uint64_t cet_peek(struct rig *rig, uint64_t lin);
void cet_poke(struct rig *rig, uint64_t lin, uint64_t value);
/* Rights of a page; 0: absent. */
void cet_page_set(struct rig *rig, enum cet_page page, unsigned flags);
/* All handlers begin with an ENDBRANCH of the mode. */
void cet_mark_handlers(struct rig *rig);

/* As rig.h's CASE_WITH and VALUE. */
#define CET_CASE(m, u, s, ssp, name, vector, error, bits, text, ...) do { \
	struct rig r_, *rig = &r_; cet_start(rig, m, u, s, ssp); __VA_ARGS__; rig_run(rig, CODE(bits, text)); \
	expect_outcome(rig, name, vector, error); rig_end(rig); } while (0)
#define CET_VALUE(m, u, s, ssp, name, bits, text, want, ...) do { \
	struct rig r_, *rig = &r_; cet_start(rig, m, u, s, ssp); __VA_ARGS__; rig_run(rig, CODE(bits, text)); \
	expect_outcome(rig, name, DONE, ANY); expect_value(name, "rax", rig->r2.rax, want); rig_end(rig); } while (0)

#endif
