/*
 * What it costs a client to begin: CPU time, user and system, of opening /dev/kvm, making a VM with its interrupt chip, and making
 * a vCPU; and by the clock, until the first VM is there. To be preloaded with the library; prints one line for bench/run.sh.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 9, STEPS = 3 };

static double ms(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

static double cpu_ms(void)
{
	return ms(CLOCK_PROCESS_CPUTIME_ID);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void step(int fd, double *took, double *since, const char *what)
{
	double now = cpu_ms();

	if (fd < 0) {
		perror(what);
		exit(1);
	}
	*took = now - *since;
	*since = now;
}

int main(void)
{
	static double took[STEPS][ROUNDS];
	double begin = ms(CLOCK_MONOTONIC), first = 0;

	for (int i = 0; i < ROUNDS; i++) {
		double since = cpu_ms();
		int system, vm, vcpu;

		system = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		step(system, &took[0][i], &since, "/dev/kvm");
		vm = ioctl(system, KVM_CREATE_VM, 0);
		step(vm < 0 ? vm : ioctl(vm, KVM_CREATE_IRQCHIP, 0), &took[1][i], &since, "KVM_CREATE_VM");
		if (!i)
			first = ms(CLOCK_MONOTONIC) - begin;
		vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
		step(vcpu, &took[2][i], &since, "KVM_CREATE_VCPU");
		close(vcpu);
		close(vm);
		close(system);
	}
	for (int s = 0; s < STEPS; s++)
		qsort(took[s], ROUNDS, sizeof(**took), by_value);
	printf("opening /dev/kvm, making a VM, a vCPU, CPU ms: %.2f, %.2f, %.2f (most: %.2f, %.2f, %.2f); first VM after %.1f ms\n",
	       took[0][ROUNDS / 2], took[1][ROUNDS / 2], took[2][ROUNDS / 2], took[0][ROUNDS - 1], took[1][ROUNDS - 1],
	       took[2][ROUNDS - 1], first);
	return 0;
}
