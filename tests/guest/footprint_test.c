/*
 * Memory that the library adds to a client, guest RAM aside, is bounded
 * whatever the guest does: at most 96 MiB with one vCPU, 24 MiB for each
 * further one. The guests here run more code than any cache holds, and use more
 * pages in more address spaces than the TLB has room for. The bounds are those of
 * the default parameters, so nothing is done under others.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "guest.h"
#include "kvm/api.h"

enum { VCPUS = 2, FIRST_MIB = 96, MORE_MIB = 24 };
enum { AREA = 0x1000000, AREA_SIZE = 16 << 20, PIECE = 64, PIECES = AREA_SIZE / PIECE };

/* A piece of code of a few loads and stores; a jump to the next one follows. */
GUEST_ASM(piece, 64,
	"mov (%rsi), %rax\n add %rax, 8(%rdi)\n mov 16(%rbx), %rcx\n adc %rcx, (%rbp)\n mov %rax, 24(%rsi,%rcx,8)\n"
	"cmp %rax, %rcx\n cmove %rax, %rdx\n xor %ecx, %ecx\n");

/* Runs all pieces, then touches every page of the area, twice, in 41 address spaces. */
GUEST_ASM(glutton, 64,
	"mov $0x6000, %esi\n mov %esi, %edi\n mov %esi, %ebx\n mov %esi, %ebp\n xor %ecx, %ecx\n"
	"mov $0x1000000, %eax\n call *%rax\n"
	"mov %cr4, %rax\n or $0x20000, %rax\n mov %rax, %cr4\n"
	"mov $40, %ebx\n"
	"1: mov $0x100000, %eax\n or %rbx, %rax\n mov %rax, %cr3\n mov $4, %edx\n"
	"2: mov $0x1000000, %esi\n mov $8192, %ecx\n"
	"3: mov (%rsi), %rax\n add $4096, %rsi\n dec %ecx\n jnz 3b\n"
	"dec %edx\n jnz 2b\n dec %ebx\n jns 1b\n"
	"out %al, $0x12\n");

static uint64_t pss_bytes(void)
{
	unsigned long kib = 0;
	char line[256];
	FILE *f = fopen("/proc/self/smaps_rollup", "r");

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "Pss: %lu kB", &kib) != 1)
		;
	if (f)
		fclose(f);
	return (uint64_t)kib << 10;
}

static void pieces_write(uint8_t *area)
{
	size_t len = piece_end - piece_start;

	for (unsigned i = 0; i < PIECES; i++) {
		uint8_t *p = area + i * PIECE;
		int32_t over = PIECE - len - 5;

		memcpy(p, piece_start, len);
		p[len] = 0xe9;
		memcpy(p + len + 1, &over, 4);
	}
	area[AREA_SIZE - PIECE] = 0xc3;
}

/* The library's memory in MiB after each of the vCPUs has run the glutton. */
static void measure(double mib[], int vcpus)
{
	uint8_t *area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = { .slot = 1, .guest_phys_addr = AREA, .memory_size = AREA_SIZE,
	                                            .userspace_addr = (uintptr_t)area };
	uint64_t before = pss_bytes();
	struct guest g;

	pieces_write(area);
	guest_create(&g, true);
	memset(g.memory, 0, GUEST_MEMORY);
	guest_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &slot);
	slot.slot = 2;                           /* the same again: twice the pages */
	slot.guest_phys_addr += AREA_SIZE;
	guest_ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &slot);
	guest_load(&g, glutton);
	for (int i = 0; i < vcpus; i++) {
		struct kvm_mp_state running = { KVM_MP_STATE_RUNNABLE };

		if (i)
			guest_add_vcpu(&g);
		guest_ioctl(g.vcpu[i], KVM_SET_MP_STATE, &running);
		guest_mode(&g, i, GUEST_LONG);
		check_equal(guest_run(&g, i), KVM_EXIT_IO);
		/* A vCPU that has been joined by another gives up part of its share when it runs on. */
		for (int j = 0; j < i; j++) {
			guest_mode(&g, j, GUEST_LONG);
			check_equal(guest_run(&g, j), KVM_EXIT_IO);
		}
		mib[i] = (double)(int64_t)(pss_bytes() - before - AREA_SIZE - GUEST_MEMORY) / (1 << 20);
		printf("# %d vCPUs: %.1f MiB\n", i + 1, mib[i]);
	}
	guest_destroy(&g);
	munmap(area, AREA_SIZE);
}

static void test_bounds(void)
{
	double mib[VCPUS];

	measure(mib, VCPUS);
	for (int i = 0; i < VCPUS; i++)
		check(mib[i] > 16 && mib[i] <= FIRST_MIB + i * MORE_MIB);
}

/* The measure measures: with larger caches the same guests take more. */
static void test_larger(void)
{
	int status = -1;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		double mib;

		setenv("ANYKVM_PARAMS", "engine.code_cache_mb=64", 1);
		failures = 0;
		measure(&mib, 1);
		fflush(stdout);
		_exit(failures || mib <= FIRST_MIB);
	}
	waitpid(child, &status, 0);
	check(WIFEXITED(status) && !WEXITSTATUS(status));
}

int main(void)
{
	static const struct test tests[] = {
		{ "larger caches are seen to be larger", test_larger },          /* before parameters are read */
		{ "96 MiB, and 24 MiB for each further vCPU", test_bounds },
	};

	return getenv("ANYKVM_PARAMS") ? 0 : run_tests(tests, sizeof(tests) / sizeof(*tests));
}
