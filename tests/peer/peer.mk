# The fuzzer's disk: boot sector and guest, and the tool that writes its configuration and reads its report.
PEER = $(BUILD)/tests/peer
PEER_CFLAGS = -std=gnu11 -O2 -Wall -Wextra -Wno-missing-field-initializers -Isrc -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-pic -no-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack

$(PEER)/boot.bin: tests/peer/boot.S tests/peer/layout.h
	@mkdir -p $(@D)
	$(CC) -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-Ttext=0x7c00 -Wl,--oformat=binary -o $@ $<

$(PEER)/guest.bin: $(addprefix tests/peer/,main.c machine.c state.c compare.c entry.c mutate.c intercept.c code.c) tests/peer/guest.ld $(wildcard tests/peer/*.h src/x86/*.h src/x86/*.def)
	@mkdir -p $(@D)
	$(CC) $(PEER_CFLAGS) -Wl,-T,tests/peer/guest.ld -o $@ $(filter %.c,$^)

$(PEER)/peer: tests/peer/peer.c tests/peer/peer.h tests/peer/layout.h
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $<

PEER_FILES = $(PEER)/boot.bin $(PEER)/guest.bin $(PEER)/peer
tests: $(PEER_FILES)

# Against Bochs: make fuzz SEED=7 CASES=100000
SEED ?= 1
CASES ?= 20000
fuzz: all $(PEER_FILES)
	tests/peer/fuzz.sh entry $(SEED) $(CASES)
	tests/peer/fuzz.sh intercept $(SEED) $(CASES)
.PHONY: fuzz
