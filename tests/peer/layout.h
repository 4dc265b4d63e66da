/* Where things lie on the disk and in memory, for the boot sector, the guest and the tool that reads the disk. */
#define CONFIG_LBA 1
#define GUEST_LBA 8
#define GUEST_SECTORS 256                /* 128 KiB from GUEST_CODE */
#define REPORT_LBA 1024
#define DISK_SECTORS (16 * 63 * 40)      /* 40 cylinders: geometry that Bochs wants to be told */

#define GUEST_CODE 0x10000
#define HOST_STACK 0x70000
#define HOST_PAGES 0x80000               /* six pages */
#define REPORT 0x2000000                 /* written to the disk at the end */
