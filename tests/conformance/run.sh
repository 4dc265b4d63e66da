#!/bin/bash
# Public test suites that were written against the kernel's KVM, run unmodified under anykvm, and one table of what came of it.
# Usage: tests/conformance/run.sh [PATTERN...]      shell patterns of SUITE/NAME, as the table shows them; default: all
# Environment, see docs/conformance.md:
#   KUT, KUT32      kvm-unit-tests, built for x86_64 and i386; without them they are skipped
#   KERNEL_SOURCE   sources of Linux, as archives or directories; default: those of Debian's packages (selftests.sh)
#   JOBS, LIMIT     programs at a time; seconds for each
# Status 0: whatever failed is in the list `expected`.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
root=$PWD here=$PWD/tests/conformance work=${BUILD:-$PWD/build}/conformance
export root here work LIMIT=${LIMIT:-600}
mkdir -p "$work"

if [ -z "${ANYKVM_TEST_HIDDEN:-}" ]; then
	ANYKVM_TEST_HIDDEN=yes exec scripts/hide-kvm.sh "$0" "$@"
fi

# No KVM but anykvm answers here: without it, QEMU finds none.
accel_works() { echo quit | timeout 60 "$@" qemu-system-x86_64 -accel kvm -M none -display none -nodefaults -monitor stdio >/dev/null 2>&1; }
if accel_works env; then
	echo "conformance: a KVM other than anykvm answers here"; exit 1
elif ! accel_works ./anykvm run --; then
	echo "conformance: QEMU finds no KVM under anykvm either"; exit 1
fi
echo "conformance: the kernel's /dev/kvm is absent or hidden; what answers is $root/libanykvm.so"

# ---- what there is to run: lines SUITE/NAME, tab, command ----
"$here"/selftests.sh >"$work/jobs" || exit
for suite in kut64:${KUT:-} kut32:${KUT32:-}; do
	if [ -d "${suite#*:}/x86" ]; then "$here"/kut.sh "${suite%%:*}" "${suite#*:}" >>"$work/jobs"
	else echo "conformance: ${suite%%:*} is skipped: name a built kvm-unit-tests by $([ "${suite%%:*}" = kut64 ] && echo KUT || echo KUT32)=DIR"; fi
done
if [ $# -gt 0 ]; then
	while IFS= read -r line; do
		for pattern; do [[ ${line%%$'\t'*} == $pattern ]] && { echo "$line"; break; }; done
	done <"$work/jobs" >"$work/jobs.chosen"
	mv "$work/jobs.chosen" "$work/jobs"
fi
total=$(wc -l <"$work/jobs")
[ "$total" -gt 0 ] || { echo 'conformance: nothing to run'; exit 1; }

# ---- run ----
rm -rf "$work/logs" "$work/results" && mkdir "$work/logs" "$work/results"
run_job() {
	local name command log n
	IFS=$'\t' read -r name command <<<"$2"
	n=$(printf %04d "$1") log=$work/logs/${name//[^a-zA-Z0-9._-]/_}.log
	local begin=${EPOCHREALTIME/./}
	timeout -k 5 "$LIMIT" bash -c "$command" >"$log" 2>&1 </dev/null
	"$here"/verdict.sh "$name" $? "$log" >"$work/results/$n"
	printf '[%s/%s] %s (%s s)\n' "$1" "$3" "$(cut -f1-3 "$work/results/$n" | tr '\t' ' ')" $(((${EPOCHREALTIME/./} - begin) / 1000000))
}
export -f run_job
number=0
while IFS= read -r line; do
	number=$((number + 1))
	printf '%s\0%s\0%s\0' $number "$line" "$total"
done <"$work/jobs" | xargs -0 -n 3 -P "${JOBS:-$(nproc)}" bash -c 'run_job "$@"' run_job

# Some wait a fixed time for another processor, which on a busy machine is too short: whatever failed gets a second chance, alone.
grep -l $'\tFAIL\t' "$work"/results/* | while IFS= read -r result; do
	number=$((10#${result##*/}))
	run_job $number "$(sed -n ${number}p "$work/jobs")" "$total"
	sed -i 's/$/ (second attempt)/' "$result"
done

# ---- the table: name, result, checks, remark ----
echo
cat "$work"/results/* | tee "$work/results.tsv" | awk -F'\t' '
	{ printf "%-58s %-10s %9s  %s\n", $1, $2, $3, $4; n[$2]++ }
	END { printf "\n%d passed, %d failed as expected, %d skipped, %d failed\n", n["pass"], n["expected"], n["skip"], n["FAIL"] }' | tee "$work/table"
! cut -f2 "$work/results.tsv" | grep -qx FAIL && [ "$(wc -l <"$work/results.tsv")" = "$total" ]
