#!/bin/bash
# Runs test programs and counts what they say: TAP lines, or a line "N passed, N failed", or just the exit status.
# Usage: tests/run.sh COMMAND... (each one word of the shell: "program arguments"). Output goes to build/test-logs/.
# Where it can be done, all of it runs with the kernel's /dev/kvm hidden. Environment: TEST_TIMEOUT (seconds of one command).
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
if [ -z "${ANYKVM_TEST_HIDDEN:-}" ] && scripts/hide-kvm.sh true 2>/dev/null; then
	ANYKVM_TEST_HIDDEN=yes exec scripts/hide-kvm.sh "$0" "$@"
fi
logs=${BUILD:-build}/test-logs
rm -rf "$logs" && mkdir -p "$logs" || exit
passed=0 failed=0 skipped=0 number=0 failures=()

# Sets p, f, s from a log and the status of the command. A log can hold the output of several programs.
count() {
	local sums
	sums=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed(, ([0-9]+) skipped)?$/\1 \2 0\4/p' "$1" |
		awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }')
	read -r p f s <<<"$sums"
	local skips
	skips=$(grep -cE '^ok .*# SKIP' "$1")
	p=$((p + $(grep -cE '^ok( |$)' "$1") - skips)) f=$((f + $(grep -cE '^not ok( |$)' "$1"))) s=$((s + skips))
	[ $((p + f + s)) = 0 ] && [ "$2" = 0 ] && p=1
	[ "$2" != 0 ] && [ "$f" = 0 ] && f=1
}

for command; do
	number=$((number + 1))
	name=${command//${BUILD:-build}\//}
	log=$logs/$(printf '%02d-%s' $number "${name//[^a-zA-Z0-9._=]/-}").log
	printf '[%d/%d] %-40s ' $number $# "${name#tests/}"
	begin=${EPOCHREALTIME/./}
	timeout -k 5 "${TEST_TIMEOUT:-600}" bash -c "$command" >"$log" 2>&1 </dev/null
	status=$?
	took=$(((${EPOCHREALTIME/./} - begin) / 100000))
	count "$log" $status
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	printf '%6d passed, %d failed%s  (%d.%d s)\n' "$p" "$f" "$([ "$s" = 0 ] || echo ", $s skipped")" $((took / 10)) $((took % 10))
	grep -E '^ok .*# SKIP|^[0-9]+ forms' "$log" | sed 's/^/        /'
	[ "$f" = 0 ] && continue
	failures+=("$name (status $status): $log")
	{ grep -E '^not ok|FAIL|not so:|^# ' "$log" || tail -n 10 "$log"; } | head -n 20 | sed 's/^/        /'
done

echo
[ ${#failures[@]} = 0 ] || printf 'failed: %s\n' "${failures[@]}"
summary="$passed passed, $failed failed"
[ $skipped = 0 ] || summary="$summary, $skipped skipped"
echo "$summary" | tee "$logs/summary"
[ $failed = 0 ] && [ $passed -gt 0 ]
