# What a small guest's test links beside itself and guest.c.
HYPERVISOR_TESTS = borders race stale priority vtx image apicv posted pml vmfunc ept ve controls tsc spp sweep smm_nested pae dirty cet_nested
$(HYPERVISOR_TESTS:%=$(BUILD)/tests/guest/%_test): $(addprefix tests/guest/hypervisor,.c 32.c .h 32.h)
RIG_TESTS = vmxmode string span replay loop table stack descriptors gates control paging flush task debug flags fpu address device
$(RIG_TESTS:%=$(BUILD)/tests/guest/%_test): tests/guest/rig.c tests/guest/rig.h
CET_TESTS = cet cet_far cet_track
$(CET_TESTS:%=$(BUILD)/tests/guest/%_test): $(addprefix tests/guest/,rig.c rig.h cet.c cet.h)
SMM_TESTS = borders priority order smm smm_events smm_client smm_nested
$(SMM_TESTS:%=$(BUILD)/tests/guest/%_test): tests/guest/smram.c tests/guest/smram.h
$(GUEST_TESTS): tests/guest/machine.c tests/guest/machine.h
$(BUILD)/tests/guest/sweep_test: tests/guest/sweep.c tests/guest/sweep.h
