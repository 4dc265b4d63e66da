/* The guest hypervisor of hypervisor.h as 32-bit code with PAE paging, which obeys the same commands. */
#ifndef ANYKVM_TESTS_HYPERVISOR32_H
#define ANYKVM_TESTS_HYPERVISOR32_H

#include "hypervisor.h"

void hv32_load(struct hv *h);            /* its code, and its page tables: HV_HOST_PAE, the first two GiB, one to one */
void hv32_state(struct hv *h);           /* host state, and a 32-bit L2 with PAE paging, for the next VM entry */

#endif
