#!/bin/sh
# Runs the instruction tests under each engine parameter that forces a path; two processes at a time.
# check.sh INSN-TEST [arguments for all]
test=$1
shift
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT

run() { # parameters, arguments
	params=$1
	shift
	ANYKVM_PARAMS=$params "$test" "$@" >"$dir/$bits.$params.out" 2>&1
	echo "$bits-bit, $params: $(tail -n 1 "$dir/$bits.$params.out")" >"$dir/$bits.$params.end"
}

pair() { # two of them
	one=$1 two=$2
	shift 2
	run "$one" $extra_one "$@" &
	run "$two" $extra_two "$@"
	wait
}

extra_one= extra_two= bits=64
pair engine.link=1 engine.link=0 --count 10 --sequences 30000 --smc 4000 "$@"
pair engine.block_insns=1 engine.careful=1 --count 5 --sequences 15000 --smc 2000 "$@"
extra_one=--fault-flags
pair engine.precise_flags=1 engine.tlb_entries=64 --count 5 --sequences 15000 --smc 2000 "$@"
extra_one=
bits=32
pair engine.link=1 engine.block_insns=1 --bits 32 --count 6 --sequences 15000 --smc 2000 "$@"
pair engine.careful=1 engine.tlb_entries=64 --bits 32 --count 4 --sequences 10000 "$@"
bits=16
pair engine.link=1 engine.block_insns=1 --bits 16 --count 5 "$@"
bits=64
pair engine.flush_every=7 engine.code_cache_mb=2 --count 3 --sequences 15000 --smc 2000 "$@"

grep -h '^\(not ok\|#\|the guest\|signal\)' "$dir"/*.out
cat "$dir"/*.end
grep -h ' forms, ' "$dir/64.engine.link=1.out" "$dir/32.engine.link=1.out" "$dir/16.engine.link=1.out"
awk '/ passed, / { p += $(NF - 3); f += $(NF - 1) } !/ passed, / { f++ } END { print p " passed, " f " failed"; exit f > 0 }' "$dir"/*.end
