# The bench: see bench/README.md.
BENCH = $(BUILD)/bench
BENCH_PARTS = bench compute memory vector code system smp
BENCH_CFLAGS = -std=gnu11 -O2 -g $(WARN) -D_GNU_SOURCE -fno-math-errno -falign-functions=32 -falign-loops=32 -pthread

$(BENCH)/bench: $(BENCH_PARTS:%=bench/%.c) bench/bench.h bench/rows.def
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -static -no-pie -o $@ $(filter %.c,$^)

$(BENCH)/sample: bench/sample.c
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -o $@ $<

$(BENCH)/open: bench/open.c
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -o $@ $<

$(BENCH)/table: bench/table.c bench/rows.def
	@mkdir -p $(@D)
	$(CC) $(BENCH_CFLAGS) -o $@ $< -lm

$(BENCH)/exits: bench/exits.c tests/tap.c tests/guest/guest.c tests/guest/machine.c $(BUILD)/libanykvm-core.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIE -pie -Itests/guest -o $@ $^ -lZydis -ldl

bench: all $(BENCH)/bench $(BENCH)/sample $(BENCH)/table $(BENCH)/open
	-$(MAKE) images
	BUILD=$(BUILD) QUICK=$(QUICK) bench/run.sh

bench-ab: $(BENCH)/bench $(BENCH)/sample $(BENCH)/table $(BENCH)/open
	-$(MAKE) images
	BUILD=$(BUILD) QUICK=$(QUICK) A=$(A) B=$(B) bench/run.sh

bench-exits: $(BENCH)/exits
	QUICK=$(QUICK) $(BENCH)/exits

.PHONY: bench bench-ab bench-exits
