# What a small guest's test links beside itself and guest.c.
$(BUILD)/tests/guest/vtx_test: tests/guest/hypervisor.c tests/guest/hypervisor.h
