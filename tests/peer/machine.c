/* See guest.h. The disk is ATA's first one, driven by PIO. */
#include "guest.h"

void *memcpy(void *d, const void *s, size_t n) { void *r = d; __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); return r; }
void *memset(void *d, int c, size_t n) { void *r = d; __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory"); return r; }

/* ---- disk ---- */

enum { ATA = 0x1f0, ATA_READ = 0x20, ATA_WRITE = 0x30, ATA_FLUSH = 0xe7 };

static void ata_wait(uint8_t mask, uint8_t want)
{
	while ((inb(ATA + 7) & mask) != want)
		;
}

static void ata_command(uint32_t lba, uint8_t command)
{
	ata_wait(0x80, 0);
	outb(ATA + 6, 0xe0 | (lba >> 24 & 15));
	outb(ATA + 2, 1);
	outb(ATA + 3, lba);
	outb(ATA + 4, lba >> 8);
	outb(ATA + 5, lba >> 16);
	outb(ATA + 7, command);
}

void disk_read(uint32_t lba, uint32_t sectors, void *to)
{
	while (sectors--) {
		uint32_t n = 256;

		ata_command(lba++, ATA_READ);
		ata_wait(0x88, 8);
		__asm__ volatile("rep insw" : "+D"(to), "+c"(n) : "d"(ATA) : "memory");
	}
}

void disk_write(uint32_t lba, uint32_t sectors, const void *from)
{
	while (sectors--) {
		ata_command(lba++, ATA_WRITE);
		ata_wait(0x88, 8);
		for (unsigned i = 0; i < 256; i++, from = (const char *)from + 2)
			__asm__ volatile("outw %0, %1" : : "a"(*(const uint16_t *)from), "Nd"((uint16_t)ATA));
	}
	ata_command(0, ATA_FLUSH);
	ata_wait(0x80, 0);
}

/* Bochs ends at this word on port 8900h, QEMU at port F4h (isa-debug-exit). */
void power_off(void)
{
	for (const char *p = "Shutdown"; *p; p++)
		outb(0x8900, *p);
	outb(0xf4, 0);
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* ---- descriptor tables ---- */

struct table { uint16_t limit; uint64_t base; } __attribute__((packed));
struct gate { uint16_t offset_low, selector, type, offset_mid; uint32_t offset_high, reserved; };

static uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
static struct gate idt[32];
static const struct table gdtr = { sizeof(gdt) - 1, (uint64_t)gdt }, idtr = { sizeof(idt) - 1, (uint64_t)idt };
extern const char handlers[];

/* One entry of 16 bytes for each vector, which leads to died(vector, rip, cr2). */
__asm__(".balign 16\nhandlers:\n"
	".set v, 0\n.rept 32\n.balign 16\n mov $v, %edi\n jmp 1f\n.set v, v + 1\n.endr\n"
	"1: mov (%rsp), %rsi\n cmp $0x10000, %rsi\n jae 2f\n mov 8(%rsp), %rsi\n"     /* an error code comes first */
	"2: mov %cr2, %rdx\n call died\n");

void machine_init(void)
{
	for (unsigned v = 0; v < ARRAY_SIZE(idt); v++) {
		uint64_t handler = (uint64_t)handlers + 16 * v;
		idt[v] = (struct gate){ .offset_low = handler, .selector = 8, .type = 0x8e00, .offset_mid = handler >> 16 };
	}
	machine_restore();
}

void machine_restore(void)
{
	__asm__ volatile("lgdt %0; lidt %1" : : "m"(gdtr), "m"(idtr));
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %0, %%fs; mov %0, %%gs" : : "r"(16));
	__asm__ volatile("mov %0, %%cr0" : : "r"(0x80000031ull));
	__asm__ volatile("mov %0, %%cr4" : : "r"(0x2220ull));
	__asm__ volatile("mov %0, %%cr2; mov %0, %%cr8" : : "r"(0ull));
	wrmsr(0xc0000080, 0xd01);
	wrmsr(0x277, 0x0007040600070406);
}

/* ---- VMX ---- */

#define VMX_OPERATION(text, ...) ({ bool fail_; __asm__ volatile(text : "=@ccbe"(fail_) : __VA_ARGS__ : "memory"); !fail_; })

bool vmx_on(void *region) { uint64_t pa = (uint64_t)region; return VMX_OPERATION("vmxon %1", "m"(pa)); }
bool vmclear(void *vmcs) { uint64_t pa = (uint64_t)vmcs; return VMX_OPERATION("vmclear %1", "m"(pa)); }
bool vmptrld(void *vmcs) { uint64_t pa = (uint64_t)vmcs; return VMX_OPERATION("vmptrld %1", "m"(pa)); }
bool vmwrite(uint64_t field, uint64_t value) { return VMX_OPERATION("vmwrite %2, %1", "r"(field), "rm"(value)); }

bool vmread(uint64_t field, uint64_t *value)
{
	bool fail;

	__asm__ volatile("vmread %2, %0" : "=r"(*value), "=@ccbe"(fail) : "r"(field) : "cc");
	return !fail;
}

bool vm_enter(bool launched, uint64_t rip_flips, uint64_t gpr[16])
{
	int fail, resume = launched;

	/* 6C14h and 6C16h: host RSP and RIP. The stack keeps the array while L2 has all registers. */
	__asm__ volatile(
		"push %%rbx\n push %%rbp\n push %%r12\n push %%r13\n push %%r14\n push %%r15\n push %%rdx\n"
		"mov $0x6c14, %%eax\n vmwrite %%rsp, %%rax\n lea 2f(%%rip), %%rcx\n xor %%rcx, %%rsi\n"
		"mov $0x6c16, %%eax\n vmwrite %%rsi, %%rax\n test %%edi, %%edi\n"
		"mov %%rdx, %%rax\n mov 8(%%rax), %%rcx\n mov 16(%%rax), %%rdx\n mov 24(%%rax), %%rbx\n mov 40(%%rax), %%rbp\n"
		"mov 48(%%rax), %%rsi\n mov 56(%%rax), %%rdi\n mov 64(%%rax), %%r8\n mov 72(%%rax), %%r9\n mov 80(%%rax), %%r10\n"
		"mov 88(%%rax), %%r11\n mov 96(%%rax), %%r12\n mov 104(%%rax), %%r13\n mov 112(%%rax), %%r14\n mov 120(%%rax), %%r15\n"
		"mov (%%rax), %%rax\n"
		"jnz 1f\n vmlaunch\n jmp 3f\n 1: vmresume\n 3: mov $1, %%eax\n jmp 4f\n"
		"2: push %%rax\n mov 8(%%rsp), %%rax\n mov %%rcx, 8(%%rax)\n mov %%rdx, 16(%%rax)\n mov %%rbx, 24(%%rax)\n"
		"mov %%rbp, 40(%%rax)\n mov %%rsi, 48(%%rax)\n mov %%rdi, 56(%%rax)\n mov %%r8, 64(%%rax)\n mov %%r9, 72(%%rax)\n"
		"mov %%r10, 80(%%rax)\n mov %%r11, 88(%%rax)\n mov %%r12, 96(%%rax)\n mov %%r13, 104(%%rax)\n mov %%r14, 112(%%rax)\n"
		"mov %%r15, 120(%%rax)\n pop %%rcx\n mov %%rcx, (%%rax)\n xor %%eax, %%eax\n"
		"4: pop %%rdx\n pop %%r15\n pop %%r14\n pop %%r13\n pop %%r12\n pop %%rbp\n pop %%rbx\n"
		: "=&a"(fail), "+D"(resume), "+S"(rip_flips), "+d"(gpr) : : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
	return !fail;
}
