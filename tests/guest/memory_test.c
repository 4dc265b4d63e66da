/*
 * Memory slots that change under a running vCPU: what the ioctl says has
 * happened must have happened for the guest, too. Dirty logs lose no write;
 * memory that was taken away is not written any more.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { COUNTER = 0x200000, WINDOW = 0x1000000, STOP = 0x9000, WINDOW_SIZE = 0x10000 };

/* Counts in two pages, one of the first slot and one of the window, until told to stop. */
GUEST_ASM(counter, 64,
	"mov $0x200000, %esi\n mov $0x1000000, %edi\n xor %ecx, %ecx\n"
	"1: incl (%rsi)\n incl %ecx\n movl %ecx, (%rdi)\n cmpl $0, 0x9000\n je 1b\n out %al, $0x12\n");

static struct guest g;
static _Atomic unsigned mmio_exits, other_exits;

static void *vcpu_thread(void *arg)
{
	for (;;) {
		int why = guest_run(&g, 0);

		if (why == KVM_EXIT_IO)
			return NULL;
		if (why == KVM_EXIT_MMIO)
			mmio_exits++;
		else if (why != KVM_EXIT_MMIO) {
			other_exits++;
			return NULL;
		}
	}
}

static void slot_set(unsigned slot, uint32_t flags, uint64_t gpa, uint64_t size, void *host)
{
	struct kvm_userspace_memory_region r = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
						 .userspace_addr = (uintptr_t)host };

	guest_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static volatile uint32_t *counter_at(uint8_t *host)
{
	return (volatile uint32_t *)host;
}

/* Waits until the guest has counted on. False after too long. */
static bool goes_on(volatile uint32_t *c)
{
	uint32_t was = *c;

	for (unsigned i = 0; i < 2000; i++, usleep(1000))
		if (*c != was)
			return true;
	return false;
}

static uint64_t dirty_word(unsigned page)
{
	static uint64_t bits[GUEST_MEMORY / 4096 / 64];
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };

	guest_ioctl(g.vm, KVM_GET_DIRTY_LOG, &log);
	return bits[page / 64] >> (page % 64) & 1;
}

static void test_dirty(void)
{
	volatile uint32_t *c = counter_at(g.memory + COUNTER);
	unsigned lost = 0;

	slot_set(0, KVM_MEM_LOG_DIRTY_PAGES, 0, GUEST_MEMORY, g.memory);
	check(goes_on(c));
	check(dirty_word(COUNTER / 4096));
	for (unsigned i = 0; i < 300; i++) {
		uint32_t before, after;

		dirty_word(COUNTER / 4096);
		before = *c;
		goes_on(c);
		after = *c;
		lost += !dirty_word(COUNTER / 4096) && before != after;
	}
	check_equal(lost, 0);
	slot_set(0, 0, 0, GUEST_MEMORY, g.memory);
	check(goes_on(c));
}

static void test_remap(uint8_t *a, uint8_t *b)
{
	unsigned late = 0, stuck = 0;

	for (unsigned i = 0; i < 100; i++) {
		uint8_t *host = i % 2 ? a : b;
		uint32_t last;

		slot_set(1, 0, WINDOW, WINDOW_SIZE, host);
		stuck += !goes_on(counter_at(host));
		slot_set(1, 0, WINDOW, 0, host);
		last = *counter_at(host);
		if (i % 10 == 0)
			goes_on(counter_at(g.memory + COUNTER));
		late += *counter_at(host) != last;
	}
	check_equal(late, 0);
	check_equal(stuck, 0);
	check(mmio_exits > 0);
}

int main(void)
{
	uint8_t *window = mmap(NULL, 2 * WINDOW_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t t;

	alarm(300);
	guest_create(&g, true);
	guest_load(&g, counter);
	guest_mode(&g, 0, GUEST_LONG);
	pthread_create(&t, NULL, vcpu_thread, NULL);
	check(goes_on(counter_at(g.memory + COUNTER)));
	test_dirty();
	test_remap(window, window + WINDOW_SIZE);
	*(volatile uint32_t *)(g.memory + STOP) = 1;
	pthread_join(t, NULL);
	check_equal(other_exits, 0);
	guest_destroy(&g);
	return failures != 0;
}
