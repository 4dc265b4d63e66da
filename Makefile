# anykvm: `make demo`, `make check`, `make`, `make install PREFIX=`.
CC ?= gcc
BUILD ?= build
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
WARN = -Wall -Wextra -Wno-unused-parameter -Wstrict-prototypes -Wmissing-prototypes
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) -Isrc -fPIC -fvisibility=hidden -fno-strict-aliasing -ftls-model=initial-exec -pthread -D_GNU_SOURCE
# The guest's vector state lives in the host's registers while the library's C code runs (src/cpu/fpu.h).
LIB_CFLAGS = $(ALL_CFLAGS) -mgeneral-regs-only -fno-tree-loop-distribute-patterns -fno-stack-protector -U_FORTIFY_SOURCE

ROOMS = base x86 mem irqchip cpu xlat vmx kvm shim
LIB_SRC = $(wildcard $(addprefix src/,$(addsuffix /*.c,$(ROOMS))))
LIB_OBJ = $(LIB_SRC:%.c=$(BUILD)/%.o)
# Everything but the shim, for tests that link the KVM API without preload.
CORE_OBJ = $(filter-out $(BUILD)/src/shim/%,$(LIB_OBJ))
CLI_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(wildcard src/cli/*.c)) $(addprefix $(BUILD)/src/base/,params.o log.o time.o)
HEADERS = $(wildcard src/*/*.h)

all: libanykvm.so anykvm

libanykvm.so: $(LIB_OBJ)
	$(CC) -shared -pthread -Wl,-z,noexecstack,-z,relro,-z,now,-z,defs -o $@ $^ -lZydis -ldl

anykvm: $(CLI_OBJ)
	$(CC) -pthread -o $@ $^

$(BUILD)/libanykvm-core.a: $(CORE_OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/src/cli/%.o: src/cli/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_CFLAGS) -MMD -MP -c -o $@ $<

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/anykvm $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 anykvm $(DESTDIR)$(PREFIX)/bin/anykvm
	install -m 755 libanykvm.so $(DESTDIR)$(PREFIX)/lib/anykvm/libanykvm.so
	install -m 644 docs/anykvm.1 $(DESTDIR)$(PREFIX)/share/man/man1/anykvm.1

# Each header stands alone.
check-headers: $(HEADERS:%=$(BUILD)/%.ok)

$(BUILD)/%.h.ok: %.h
	@mkdir -p $(@D)
	$(CC) $(LIB_CFLAGS) -Wno-unused-function -fsyntax-only -include $< -x c /dev/null
	@touch $@

clean:
	rm -rf $(BUILD) libanykvm.so anykvm

# ---- demo ----
IMAGES = $(BUILD)/guest/l1.cpio

demo:
	scripts/install-packages.sh
	$(MAKE) all images
	demo/demo.sh

images: $(IMAGES)

$(IMAGES): scripts/guest-images.sh demo/l1-init demo/l2-init demo/beat
	scripts/guest-images.sh $(@D)

# 32-bit L1 and L2.
images-i386: $(BUILD)/guest-i386/l1.cpio

$(BUILD)/guest-i386/l1.cpio: scripts/guest-images.sh demo/l1-init demo/l2-init demo/beat
	scripts/guest-images.sh $(@D) i386

# ---- tests ----
UNIT_TESTS = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/*_test.c))
GUEST_TESTS = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/guest/*_test.c))
# Clients of their own, for `anykvm run`.
SHIM_TESTS = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/shim/*_test.c))
# Paths of the engine that the small guests are run through, too.
ENGINE_PATHS = block_insns=1 link=0 careful=1 precise_flags=1 tlb_entries=64 tlb_contexts=1 code_cache_mb=1 flush_every=100 revalidate=1
BOOT_TESTS = anykvm-answers not-nested host haswell qemu64 strict no-ept smm irqchip smp l1-32 depth3 depth3-no-shadow
MIGRATIONS = savevm live damaged
L2_MIGRATIONS = l1 l0 refused

$(UNIT_TESTS) $(GUEST_TESTS): $(BUILD)/%: %.c $(BUILD)/libanykvm-core.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $(filter %.c,$^) $(BUILD)/libanykvm-core.a -lZydis -ldl

$(UNIT_TESTS) $(GUEST_TESTS): tests/tap.c
$(GUEST_TESTS): tests/guest/guest.c

$(SHIM_TESTS): $(BUILD)/%: %.c tests/shim/client.c tests/tap.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $(filter %.c,$^)

-include tests/*/*.mk bench/*.mk
tests: $(UNIT_TESTS) $(GUEST_TESTS) $(SHIM_TESTS) $(INSN_TEST) $(BENCH)/exits
INSN_CHECK = $(strip $(wildcard tests/insn/check.sh) $(INSN_TEST))

check: all images tests
	-@$(MAKE) -s images-i386
	@tests/run.sh '$(MAKE) -s check-headers' tests/cli/cli_test.sh tests/cli/perf_test.sh tests/cli/stat_test.sh $(UNIT_TESTS) $(GUEST_TESTS) \
		$(SHIM_TESTS:%='./anykvm run -- %') \
		$(ENGINE_PATHS:%='tests/guest/under.sh engine.%') $(if $(INSN_CHECK),'$(INSN_CHECK)') \
		'tests/peer/fuzz.sh entry 1 20000' 'tests/peer/fuzz.sh intercept 1 20000' \
		'ANYKVM_TEST_MOVES=600 $(BUILD)/tests/guest/vtx_test' \
		$(BOOT_TESTS:%='tests/boot/boot.sh %') $(MIGRATIONS:%='tests/boot/migrate.sh %') \
		$(L2_MIGRATIONS:%='tests/boot/migrate-l2.sh %')

# The long ones: many migrations, several processors, four levels, 32-bit levels without EPT, OVMF.
check-migration: all images
	-@$(MAKE) -s images-i386
	@tests/run.sh $(MIGRATIONS:%='tests/boot/migrate.sh %') 'tests/boot/migrate.sh idle' 'ROUNDS=10 tests/boot/migrate.sh live' \
		'SMP=2 L2SMP=2 ROUNDS=20 tests/boot/migrate.sh live' 'SMP=2 ROUNDS=10 tests/boot/migrate.sh idle' \
		'SMP=2 L2SMP=2 tests/boot/migrate.sh savevm' 'CPU=qemu64,+vmx ROUNDS=5 tests/boot/migrate.sh live' \
		'ROUNDS=6 tests/boot/migrate-l2.sh l1' 'ROUNDS=6 tests/boot/migrate-l2.sh l0' \
		'SMP=2 L2SMP=2 ROUNDS=6 tests/boot/migrate-l2.sh l1' 'SMP=2 L2SMP=2 ROUNDS=6 tests/boot/migrate-l2.sh l0' \
		'tests/boot/boot.sh depth4' 'tests/boot/boot.sh l1-32-qemu64' 'tests/boot/boot.sh secure-boot'

# Public test suites, if they are there (docs/conformance.md): make conformance KUT=dir KUT32=dir [ONLY='kut64/vmx*'].
conformance: all
	@set -f; KUT='$(KUT)' KUT32='$(KUT32)' $(if $(KERNEL_SOURCE),KERNEL_SOURCE='$(KERNEL_SOURCE)') tests/conformance/run.sh $(ONLY)

# What share of each room's lines and branches the unit and guest tests run.
COVERAGE = $(BUILD)/coverage
COVERED = $(patsubst $(BUILD)/%,$(COVERAGE)/%,$(UNIT_TESTS) $(GUEST_TESTS))
coverage:
	$(MAKE) -s BUILD=$(COVERAGE) CFLAGS='-O1 -g --coverage -fprofile-update=atomic' $(COVERED)
	@tests/coverage.sh $(COVERAGE) $(COVERED)

-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
.PHONY: all install check-headers clean demo images images-i386 tests check conformance coverage check-migration
