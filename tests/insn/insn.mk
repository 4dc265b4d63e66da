# Instruction tests: every form natively and through the engine, under several engine parameters.
INSN_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/insn/*.c))
INSN_TEST = $(BUILD)/tests/insn/insn-test

$(BUILD)/tests/insn/%.o: tests/insn/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIE -MMD -MP -c -o $@ $<

$(INSN_TEST): $(INSN_OBJ) $(BUILD)/libanykvm-core.a
	$(CC) -pthread -pie -o $@ $^ -lZydis -ldl

check-insn: $(INSN_TEST)
	tests/insn/check.sh $(INSN_TEST)

.PHONY: check-insn
