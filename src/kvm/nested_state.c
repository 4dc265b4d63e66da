/* KVM_GET/SET_NESTED_STATE: the client's buffer to and from vmx/. */
#include "kvm/vcpu.h"

enum { NESTED_STATE_MAX = 128 + 2 * 4096 };

union nested_buffer {
	struct kvm_nested_state state;
	uint8_t bytes[NESTED_STATE_MAX];
};

/* With a buffer that is too small the client still learns the size. */
long kvm_vcpu_get_nested_state(struct vcpu *v, void *arg)
{
	union nested_buffer b;
	uint32_t size;
	int r;

	if (user_read(&size, (uint8_t *)arg + offsetof(struct kvm_nested_state, size), sizeof(size)) < 0)
		return -EFAULT;
	memset(&b, 0, sizeof(b));
	r = vmx_get_nested_state(v->vmx, &b.state, size < sizeof(b) ? size : sizeof(b));
	if (r == -E2BIG && user_write((uint8_t *)arg + offsetof(struct kvm_nested_state, size), &b.state.size, sizeof(size)) < 0)
		return -EFAULT;
	if (r < 0)
		return r;
	return user_write(arg, &b, b.state.size);
}

/* Reads both VMCSs as far as the image has them. Returns where what can be read ends. */
static uint32_t read_vmcss(union nested_buffer *b, const uint8_t *arg)
{
	const uint32_t size = b->state.size < sizeof(*b) ? b->state.size : sizeof(*b);
	uint32_t at = sizeof(b->state);

	while (at < size) {
		uint32_t n = size - at < 4096 ? size - at : 4096;

		if (user_read(b->bytes + at, arg + at, n) < 0)
			break;
		at += n;
	}
	return at;
}

long kvm_vcpu_set_nested_state(struct vcpu *v, void *arg)
{
	union nested_buffer b;
	int r;

	memset(&b, 0, sizeof(b));
	if (user_read(&b, arg, sizeof(b.state)) < 0)
		return -EFAULT;
	r = vmx_set_nested_state(v->vmx, &b.state, read_vmcss(&b, arg));
	vcpu_l2_restored(v);
	cpu_mode_update(v->cpu);
	vcpu_kick(v);
	return r;
}
