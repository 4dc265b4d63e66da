/* See hypervisor32.h. */
#include "hypervisor32.h"

/* As the 64-bit code. A 64-bit field is two accesses, the second by the encoding of its upper half. */
GUEST_ASM(l1_32, 32,
	"mov %cr4, %eax\n or $0x2020, %eax\n mov %eax, %cr4\n mov $0x12a000, %eax\n mov %eax, %cr3\n"
	"mov %cr0, %eax\n or $0x80000020, %eax\n mov %eax, %cr0\n"
	"mov $0x3a, %ecx\n rdmsr\n test $1, %eax\n jnz 1f\n or $5, %eax\n wrmsr\n 1:\n"
	"mov $0x480, %ecx\n rdmsr\n mov %eax, 0x20000\n mov %eax, 0x21000\n"
	"movl $0x20000, 0x23000\n movl $0, 0x23004\n vmxon 0x23000\n jbe 9f\n"
	"movl $0x21000, 0x23000\n vmclear 0x23000\n jbe 9f\n vmptrld 0x23000\n jbe 9f\n"
	"2: out %al, $0xe2\n mov $0x22000, %esi\n"
	"3: mov (%esi), %eax\n cmp $-1, %eax\n je 4f\n vmwrite 8(%esi), %eax\n jbe 8f\n"
	"mov %eax, %edx\n and $0x6000, %edx\n cmp $0x2000, %edx\n jne 1f\n inc %eax\n vmwrite 12(%esi), %eax\n jbe 8f\n"
	"1: add $16, %esi\n jmp 3b\n"
	"4: mov 0x26000, %eax\n mov 0x26008, %ecx\n mov 0x26010, %edx\n mov 0x26018, %ebx\n mov 0x26028, %ebp\n"
	"mov 0x26030, %esi\n mov 0x26038, %edi\n"
	"cmpl $1, 0x26080\n je 5f\n vmlaunch\n jmp 7f\n"
	"5: vmresume\n"
	"7: mov $0x4400, %ecx\n vmread %ecx, %eax\n out %al, $0xe0\n jmp 2b\n"
	"8: mov (%esi), %eax\n out %eax, $0xe1\n jmp 2b\n"
	"9: out %al, $0xe3\n hlt\n"
	".org l1_32_start + 0x200\n"
	"mov %eax, 0x26000\n mov %ecx, 0x26008\n mov %edx, 0x26010\n mov %ebx, 0x26018\n mov %ebp, 0x26028\n"
	"mov %esi, 0x26030\n mov %edi, 0x26038\n mov $0x24000, %esi\n"
	"1: mov (%esi), %eax\n cmp $-1, %eax\n je 2b\n vmread %eax, %edx\n jbe 3f\n mov %edx, 0x1000(%esi)\n movl $0, 0x1004(%esi)\n"
	"mov %eax, %edx\n and $0x6000, %edx\n cmp $0x2000, %edx\n jne 3f\n inc %eax\n vmread %eax, 0x1004(%esi)\n"
	"3: add $8, %esi\n jmp 1b\n");

void hv32_load(struct hv *h)
{
	uint64_t *t = (uint64_t *)(h->g.memory + HV_HOST_PAE);

	guest_load(&h->g, l1_32);
	memset(t, 0, 4096);
	t[0] = t[1] = (HV_HOST_PAE + 0x1000) | 1;
	for (uint64_t i = 0; i < 512; i++)
		t[512 + i] = i << 21 | 0x83;
}

void hv32_state(struct hv *h)
{
	enum { CODE32 = 8 };

	hv_set(h, F_host_cs_selector, CODE32);
	hv_set(h, F_host_cr3, HV_HOST_PAE);
	hv_set(h, F_host_cr4, 0x2020);
	hv_set(h, F_guest_cs_selector, CODE32);
	hv_set(h, F_guest_cs_ar_bytes, 0xc09b);
	hv_set(h, F_guest_cr4, 0x2020);
	hv_pae(h);
	hv_set(h, F_guest_pdptr0, *(uint64_t *)(h->g.memory + HV_PAE));      /* taken from here with EPT */
	for (unsigned i = 1; i < 4; i++)
		hv_set(h, F_guest_pdptr0 + 2 * i, 0);
}
