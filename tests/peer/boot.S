/* Boot sector: loads the guest to 64 KiB by the BIOS, enters 64-bit mode with the first 4 GiB mapped one to one, jumps to it. */
#include "layout.h"
	.code16
	.globl _start
_start:
	ljmp $0, $1f
1:	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0x7c00, %sp
	mov %dl, drive
	mov $GUEST_SECTORS / 64, %bp            /* 64 sectors, 32 KiB, at a time */
2:	mov $packet, %si
	mov drive, %dl
	mov $0x42, %ah
	int $0x13
	jc failed
	addl $64, packet_lba
	addw $0x800, packet_segment
	dec %bp
	jnz 2b
	mov $0xff, %al                          /* no interrupts from the PICs */
	out %al, $0x21
	out %al, $0xa1
	cli
	in $0x92, %al                           /* A20 */
	or $2, %al
	and $0xfe, %al
	out %al, $0x92
	/* Page tables: four directories of 2 MiB pages. */
	cld
	mov $HOST_PAGES >> 4, %ax
	mov %ax, %es
	xor %di, %di
	xor %eax, %eax
	mov $6 * 1024, %cx
	rep stosl
	movl $HOST_PAGES + 0x1003, %es:0
	mov $4, %cx
	mov $HOST_PAGES + 0x2003, %eax
	mov $0x1000, %di
3:	mov %eax, %es:(%di)
	add $0x1000, %eax
	add $8, %di
	loop 3b
	mov $2048, %cx
	mov $0x83, %eax
	mov $0x2000, %di
4:	mov %eax, %es:(%di)
	add $0x200000, %eax
	add $8, %di
	loop 4b
	lgdt gdtr
	mov $0x220, %eax                        /* PAE, OSFXSR */
	mov %eax, %cr4
	mov $HOST_PAGES, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax                         /* NXE, LME, SCE */
	wrmsr
	mov $0x80000031, %eax
	mov %eax, %cr0
	ljmp $8, $5f
	.code64
5:	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	mov $HOST_STACK, %esp
	mov $GUEST_CODE, %eax
	jmp *%rax
	.code16
failed:	hlt
	jmp failed
	.balign 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:	.word 23
	.long gdt
packet:	.byte 16, 0
	.word 64, 0
packet_segment: .word GUEST_CODE >> 4
packet_lba: .long GUEST_LBA, 0
drive:	.byte 0
	.org 446
	.byte 0x80, 0, 2, 0, 0x83, 0, 0, 0      /* a partition, for firmware that wants one */
	.long 1, 2047
	.org 510
	.word 0xaa55
