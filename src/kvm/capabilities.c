/* KVM_CHECK_EXTENSION, from the table capabilities.def. */
#include <unistd.h>
#include "kvm/lifecycle.h"

static int online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > MAX_VCPUS ? MAX_VCPUS : n;
}

int capability_value(unsigned long cap)
{
	switch (cap) {
#define CAP(name, value) case KVM_CAP_##name: return value;
#include "kvm/capabilities.def"
#undef CAP
	}
	return 0;
}
