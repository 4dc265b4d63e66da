/*
 * Dirty logs of two processors that write all the time: what has changed when a log is asked for is in it, and the copy
 * that follows the log ends up equal to the memory. Once by the client's log, and then as a guest hypervisor keeps it
 * for its guest: by dirty flags in EPT, by page-modification logging, by write protection. For L1's part in it the test
 * changes EPT and sends interrupts; both processors have one EPT and one VPID each.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/base.h"
#include "hypervisor.h"
#include "kvm/api.h"
#include "machine.h"
#include "vmx/vmcs12.h"

enum { PAGES = 64, DATA = HV_SMALL_PAGES, STOP = 0x2f000, ROUNDS = 0x2e000, HARVESTS = 250 };

/* ---- who writes ---- */

/*
 * Until STOP: a random page of DATA, written in many ways. RDI: this processor's number times 64; RBP: seed. Page 0 is the
 * page table of a page that the guest looks up anew each time; page 1 has code.
 */
GUEST_ASM(writer, 64,
	"movabs $6364136223846793005, %r12\n mov $0x200000, %esi\n xor %ebx, %ebx\n pcmpeqd %xmm0, %xmm0\n"
	"1: imul %r12, %rbp\n add $1442695, %rbp\n mov %rbp, %rdx\n shr $58, %rdx\n shl $12, %rdx\n lea (%rsi,%rdx), %r8\n inc %rbx\n mov %rbx, 0x2e000(%rdi)\n"
	"   cmp $0x2000, %edx\n jb 3f\n"
	"   mov %rbx, 0x100(%r8,%rdi)\n lock incq 0x400(%r8)\n"
	"   test $1, %bl\n jz 2f\n"
	"   lea 0x840(%r8,%rdi), %rsp\n push %rbx\n push %rbp\n pop %rax\n pop %rax\n"
	"2: test $6, %bl\n jnz 3f\n"
	"   movdqu %xmm0, 0x600(%r8,%rdi)\n paddd %xmm0, %xmm0\n"
	"   mov %rdi, %r9\n lea 0xa00(%r8,%rdi), %rdi\n mov $7, %ecx\n mov %rbx, %rax\n rep stosq\n mov %r9, %rdi\n"
	"3: test $3, %bl\n jnz 4f\n"
	"   mov $0x40000000, %r10d\n mov 0x10(%r10,%rdi), %rax\n btrq $5, 0x200000\n invlpg (%r10)\n mov %rbx, 0x10(%r10,%rdi)\n"
	"   mov %bl, 0x201001(%rdi)\n mov $0x201000, %r11d\n add %rdi, %r11\n call 9f\n"
	"4: cmpl $0, 0x2f000\n je 1b\n out %al, $0x10\n hlt\n"
	"9: lea 0x202f00(%rdi), %rsp\n call *%r11\n lea 0x202f00(%rdi), %rsp\n jmp 4b\n");

static struct { uint8_t shadow[PAGES][4096]; bool differed[PAGES]; unsigned lost, copied; } log_;

/* Both have made n rounds more. */
static void progress(struct guest *g, unsigned n)
{
	for (unsigned i = 0; i < 2; i++) {
		volatile uint64_t *rounds = (volatile uint64_t *)(g->memory + ROUNDS + 64 * i);

		for (uint64_t was = *rounds; *rounds - was < n;)
			usleep(10);
	}
}

/* What has changed since the last copy must be in the log that is fetched after this. */
static void look(const uint8_t *memory)
{
	for (unsigned i = 0; i < PAGES; i++)
		log_.differed[i] = memcmp(memory + DATA + i * 4096, log_.shadow[i], 4096);
}

static void copy_logged(const uint8_t *memory, uint64_t dirty)
{
	for (unsigned i = 0; i < PAGES; i++) {
		if (log_.differed[i] && !(dirty & BIT(i)) && log_.lost++ < 10)
			printf("# page %u has changed and is not in the log\n", i);
		if (dirty & BIT(i)) {
			memcpy(log_.shadow[i], memory + DATA + i * 4096, 4096);
			log_.copied++;
		}
	}
}

/* Page 1: at each processor's place "mov $n, %al; ret". The page at 1 GiB: of guest's own tables, through page 0 to page 3. */
static void data_prepare(struct guest *g)
{
	uint64_t *tables = (uint64_t *)(g->memory + 0x110000);

	memset(&log_, 0, sizeof(log_));
	memset(g->memory + DATA, 0, PAGES * 4096);
	for (unsigned i = 0; i < 2; i++)
		memcpy(g->memory + DATA + 0x1000 + 64 * i, (uint8_t []){ 0xb0, 0, 0xc3 }, 3);
	((uint64_t *)(g->memory + GUEST_PAGES))[512 + 1] = 0x110000 | 7;
	tables[0] = DATA | 7;
	*(uint64_t *)(g->memory + DATA) = (DATA + 0x3000) | 7;
	memcpy(log_.shadow, g->memory + DATA, sizeof(log_.shadow));
	*(volatile uint32_t *)(g->memory + STOP) = 0;
}

struct runner { struct guest *g; int vcpu, why; pthread_t thread; };

static void *runner_main(void *arg)
{
	struct runner *r = arg;

	r->why = guest_run(r->g, r->vcpu);
	return NULL;
}

static void runners_start(struct runner r[2], struct guest *g)
{
	for (int i = 0; i < 2; i++) {
		r[i] = (struct runner){ .g = g, .vcpu = i };
		pthread_create(&r[i].thread, NULL, runner_main, &r[i]);
	}
}

static void runners_join(struct runner r[2], int why)
{
	*(volatile uint32_t *)(r->g->memory + STOP) = 1;
	for (int i = 0; i < 2; i++) {
		pthread_join(r[i].thread, NULL);
		check_equal(r[i].why, why);
	}
}

static void check_copy(struct guest *g)
{
	check_equal(log_.lost, 0);
	check(log_.copied > HARVESTS);
	for (unsigned i = 0; i < PAGES; i++)
		check_that(!memcmp(g->memory + DATA + i * 4096, log_.shadow[i], 4096), "page %u differs from its copy", i);
}

/* ---- the client's log ---- */

static void client_log(struct guest *g, bool logged)
{
	struct kvm_userspace_memory_region r = { .flags = logged ? KVM_MEM_LOG_DIRTY_PAGES : 0, .memory_size = GUEST_MEMORY,
	                                         .userspace_addr = (uintptr_t)g->memory };

	guest_ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static uint64_t client_harvest(struct guest *g, bool manual)
{
	static uint64_t bits[GUEST_MEMORY / 4096 / 64];
	struct kvm_dirty_log log = { .dirty_bitmap = bits };
	struct kvm_clear_dirty_log clear = { .first_page = DATA / 4096, .num_pages = PAGES, .dirty_bitmap = &bits[DATA / 4096 / 64] };

	guest_ioctl(g->vm, KVM_GET_DIRTY_LOG, &log);
	if (manual)
		guest_ioctl(g->vm, KVM_CLEAR_DIRTY_LOG, &clear);
	return bits[DATA / 4096 / 64];
}

static void client_test(bool manual)
{
	struct runner r[2];
	struct guest g;

	guest_create(&g, true);
	guest_add_vcpu(&g);
	if (manual)
		guest_ioctl(g.vm, KVM_ENABLE_CAP, &(struct kvm_enable_cap){ .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args[0] = 1 });
	for (int i = 0; i < 2; i++) {
		guest_mode(&g, i, GUEST_LONG);
		guest_load_bytes(&g, GUEST_CODE, writer_start, writer_end - writer_start);
		guest_set_regs(&g, i, &(struct kvm_regs){ .rip = GUEST_CODE, .rflags = 2, .rdi = 64 * i, .rbp = 77 + i });
	}
	guest_ioctl(g.vcpu[1], KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE });
	data_prepare(&g);
	client_log(&g, true);
	runners_start(r, &g);
	for (unsigned i = 0; i < HARVESTS; i++) {
		progress(&g, i % 50);
		look(g.memory);
		copy_logged(g.memory, client_harvest(&g, manual));
	}
	runners_join(r, KVM_EXIT_IO);
	look(g.memory);
	copy_logged(g.memory, client_harvest(&g, manual));
	check_copy(&g);
	guest_destroy(&g);
}

static void test_client(void) { client_test(false); }
static void test_client_manual(void) { client_test(true); }

/* ---- L1's log ---- */

enum { L1_CODE = 0xa000, L2_CODE = 0xb000, L1_BLOCK = 0x28000, VMXON = 0x2a000, VMCS = 0x2c000, LOG = 0x50000, VECTOR = 0x44 };
enum { ASKED = STOP + 8, WITH_PML = STOP + 16, LOGGED = STOP + 24, EPT_D = 0x200, EPT_AD = 0x40 };

/* The page at L1's RSP, one for each processor. */
struct l1_block { uint64_t pml, acknowledged, eptp, zero; };

GUEST_ASM(first, 64, "out %al, $0x10\n");

/*
 * L1 at each VM exit: what was asked is done when it is acknowledged: all logged pages are in LOGGED, and nothing of an
 * older EPT is used. Then L2 goes on after interrupts and with a full log.
 */
GUEST_ASM(l1_exit, 64,
	"push %rax\n push %rcx\n push %rdx\n push %rbx\n push %rsi\n push %rdi\n mov 0x2f008, %rdi\n cmpl $0, 0x2f010\n je 3f\n"
	"mov $0x812, %ecx\n vmread %rcx, %rbx\n inc %bx\n mov 48(%rsp), %rsi\n"
	"1: cmp $512, %ebx\n jae 2f\n mov (%rsi,%rbx,8), %rax\n inc %ebx\n shr $12, %rax\n sub $0x200, %rax\n cmp $63, %rax\n ja 1b\n"
	"   lock btsq %rax, 0x2f018\n jmp 1b\n"
	"2: mov $511, %ebx\n vmwrite %rbx, %rcx\n"
	"3: mov $1, %eax\n invept 64(%rsp), %rax\n mov %rdi, 56(%rsp)\n"
	"mov $0x4402, %ecx\n vmread %rcx, %rax\n cmp $62, %eax\n je 4f\n cmp $1, %eax\n je 5f\n out %eax, $0xe0\n"
	"5: mov $0x80b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n"
	"4: pop %rdi\n pop %rsi\n pop %rbx\n pop %rdx\n pop %rcx\n pop %rax\n vmresume\n out %al, $0xe2\n");

static _Atomic uint64_t *word(struct guest *g, uint64_t gpa) { return (_Atomic uint64_t *)(g->memory + gpa); }
static struct l1_block *block(struct guest *g, unsigned i) { return (struct l1_block *)(g->memory + L1_BLOCK + 0x1000 * i + 0x800); }

/* Interrupts both until they have answered. */
static void l1_ask(struct guest *g)
{
	uint64_t n = atomic_fetch_add(word(g, ASKED), 1) + 1;

	for (unsigned i = 0; i < 2; i++) {
		struct kvm_msi msi = { .address_lo = 0xfee00000 | i << 12, .data = VECTOR };

		for (unsigned tries = 0; *(volatile uint64_t *)&block(g, i)->acknowledged < n; tries++) {
			if (tries % 100 == 0)
				guest_ioctl(g->vm, KVM_SIGNAL_MSI, &msi);
			usleep(tries % 100 ? 10 : 0);
		}
	}
}

/* Clears the dirty flags of pages; what was set. */
static uint64_t flags_take(struct guest *g, uint64_t pages)
{
	uint64_t set = 0;

	for (unsigned i = 0; i < PAGES; i++)
		if (pages & BIT(i) && atomic_fetch_and(word(g, HV_EPT_TABLE + 8 * i), ~(uint64_t)EPT_D) & EPT_D)
			set |= BIT(i);
	return set;
}

static uint64_t l1_harvest(struct guest *g, bool pml, bool running)
{
	uint64_t dirty;

	if (!pml) {
		dirty = flags_take(g, ~0ull);
	} else {
		if (running)
			l1_ask(g);
		dirty = atomic_exchange(word(g, LOGGED), 0);
		flags_take(g, dirty);
	}
	if (running)
		l1_ask(g);
	return dirty;
}

/* The machine of one processor in L2 becomes one of two. */
static void split(struct guest *g, bool pml)
{
	static struct machine m;

	machine_save(g, &m);
	m.vcpu[1] = m.vcpu[0];
	m.nvcpus = 2;
	for (unsigned i = 0; i < 2; i++) {
		struct machine_vcpu *v = &m.vcpu[i];
		struct vmcs12 *vmcs = (struct vmcs12 *)v->nested.s.data.vmx[0].vmcs12;

		*block(g, i) = (struct l1_block){ .pml = LOG + i * 0x1000, .eptp = vmcs->ept_pointer };
		v->nested.s.hdr.vmx.vmxon_pa = VMXON + i * 0x1000;
		v->nested.s.hdr.vmx.vmcs12_pa = VMCS + i * 0x1000;
		vmcs->host_rsp = L1_BLOCK + 0x1000 * i + 0x800;
		vmcs->pml_address = LOG + i * 0x1000;
		v->regs = (struct kvm_regs){ .rip = L2_CODE, .rflags = 2, .rdi = 64 * i, .rbp = 77 + i };
		v->sregs.apic_base = 0xfee00c00 | (i ? 0 : 0x100);
		*(uint32_t *)(v->lapic.regs + 0x20) = i << 24;
		*(uint32_t *)(v->lapic.regs + 0xf0) = 0x1ff;
		v->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
	}
	guest_new_vm(g, true, 2);
	machine_restore(g, &m, 0);
	*word(g, WITH_PML) = pml;
	*word(g, ASKED) = *word(g, LOGGED) = 0;
}

static void l1_test(bool pml)
{
	struct runner r[2];
	struct hv h;

	hv_create_with(&h, HV_WITH_EPT, first, (struct hv_controls){ .pin = PIN_EXT_INTR, .exit = VMEXIT_ACK_INTR,
	               .secondary = SECONDARY_VPID | (pml ? SECONDARY_PML : 0) });
	hv_set(&h, F_virtual_processor_id, 1);
	hv_set(&h, F_ept_pointer, HV_EPT | 3 << 3 | 6 | EPT_AD);
	hv_set(&h, F_guest_pml_index, 511);
	hv_set(&h, F_host_rip, L1_CODE);
	if (pml)
		hv_set(&h, F_pml_address, LOG);
	guest_load_bytes(&h.g, L1_CODE, l1_exit_start, l1_exit_end - l1_exit_start);
	guest_load_bytes(&h.g, L2_CODE, writer_start, writer_end - writer_start);
	hv_begin(&h);
	check_equal(guest_run(&h.g, 0), KVM_EXIT_IO);
	check_equal(h.g.run[0]->io.port, 0x10);
	split(&h.g, pml);
	data_prepare(&h.g);
	runners_start(r, &h.g);
	for (unsigned i = 0; i < HARVESTS; i++) {
		progress(&h.g, i % 50);
		look(h.g.memory);
		copy_logged(h.g.memory, l1_harvest(&h.g, pml, true));
	}
	runners_join(r, KVM_EXIT_IO);
	for (int i = 0; i < 2; i++) {            /* L2's HLT: to L1, which looks at its log, and stops */
		check_equal(guest_run(&h.g, i), KVM_EXIT_IO);
		check_equal(h.g.run[i]->io.port, 0xe0);
	}
	look(h.g.memory);
	copy_logged(h.g.memory, l1_harvest(&h.g, pml, false));
	check_copy(&h.g);
	hv_destroy(&h);
}

static void test_flags(void) { l1_test(false); }
static void test_pml(void) { l1_test(true); }

static const struct test tests[] = {
	{ "the client's log", test_client },
	{ "the client's log, cleared by itself", test_client_manual },
	{ "L1's: dirty flags of EPT", test_flags },
	{ "L1's: page-modification logging", test_pml },
};

int main(void)
{
	return run_tests(tests, sizeof(tests) / sizeof(*tests));
}
