#!/bin/sh
# The bench: every row natively, as L1 and as L2 on anykvm, and as L1 and as L2 on QEMU's TCG, interleaved; then one table.
# README.md says how to read it. Usage: bench/run.sh  or  A=one/libanykvm.so B=other/libanykvm.so bench/run.sh
# Environment: QUICK=1, ROUNDS, SHARE (divide the work), LEVELS, ROWS (ROW:WORK,...), LIMIT (CPU seconds per row), RESULTS, APPEND.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
b=$build/bench
guest=$build/guest
memory=512
qemu=${QEMU:-qemu-system-x86_64}
if [ "${QUICK:-0}" = 1 ]; then : "${ROUNDS:=1}" "${SHARE:=16}" "${LIMIT:=60}"; fi
: "${ROUNDS:=3}" "${SHARE:=1}" "${LIMIT:=120}"
if [ -n "${A:-}${B:-}" ]; then
	for l in "${A:-}" "${B:-}"; do [ -e "$l" ] || { echo "bench: no library '$l': give A= and B=" >&2; exit 2; }; done
	: "${LEVELS:=A-L1 B-L1 A-L2 B-L2}"
fi
: "${LEVELS:=native anykvm-L1 tcg-L1 anykvm-L2 tcg-L2}"
results=${RESULTS:-$b/results}
: >"$results"
rm -f "$results".*.log

say() { echo "bench: $*" >&2; }
have_qemu() { command -v "$qemu" >/dev/null; }

# A level that cannot run here is left out, with a note.
possible() {
	case $1 in native) return 0 ;; esac
	have_qemu || { say "$1 skipped: $qemu is not installed"; return 1; }
	case $1 in tcg-*) "$qemu" -accel help | grep -qx tcg || { say "$1 skipped: this QEMU has no TCG"; return 1; } ;; esac
	[ -e "$guest/vmlinuz" ] || { say "$1 skipped: run scripts/guest-images.sh for Debian's kernel"; return 1; }
	case $1 in *-L2) [ -e "$guest/l1.cpio" ] || { say "$1 skipped: run scripts/guest-images.sh for L1's image"; return 1; } ;; esac
	case $1 in tcg-L2) [ -e "$guest/l1-root/modules/ccp.ko" ] || { say "$1 skipped: L1's image has no ccp.ko; run scripts/guest-images.sh"; return 1; } ;; esac
}

cpio_of() { (cd "$1" && find . -print0 | sort -z | cpio --null --quiet -o -H newc --reproducible); }

# The benchmark as init; and L1's image with our init and the benchmark's image laid over it.
images() {
	rm -rf "$b/root" "$b/l1-over"
	mkdir -p "$b/root" "$b/l1-over"
	for d in dev proc sys tmp; do mkdir "$b/root/$d"; done
	cp "$b/bench" "$b/root/init"
	strip "$b/root/init"
	cpio_of "$b/root" >"$b/bench.cpio"
	cp "$b/bench.cpio" "$b/l1-over/bench.cpio"
	cp bench/l1-init "$b/l1-over/init"
	if [ -e "$guest/l1.cpio" ]; then { cat "$guest/l1.cpio"; cpio_of "$b/l1-over"; } >"$b/l1.cpio"; fi
}

library_of() {
	case $1 in
	anykvm-*) realpath "${LIBRARY:-libanykvm.so}" ;;
	A-*) realpath "$A" ;;
	B-*) realpath "$B" ;;
	esac
}

# measure LEVEL ROUND ROWS PROCESSORS
measure() {
	set -- "$1" "$2/$ROUNDS" "$3" "$4" "$(library_of "$1")"
	common="-nodefaults -no-user-config -display none -no-reboot -serial stdio -m $memory -smp $4 -kernel $guest/vmlinuz"
	case $1 in tcg-L1) machine="-accel tcg -cpu max" ;; tcg-L2) machine="-accel tcg -cpu max,+svm" ;; *) machine="-accel kvm -cpu ${CPU:-host}" ;; esac
	case $1 in *-L2) image=$b/l1.cpio ;; *) image=$b/bench.cpio ;; esac
	if [ "$1" = native ]; then
		"$b/sample" -l "$1" -r "$2" -o "$results" -w "$3" -n -c "$LIMIT" -- "$b/bench" %ROWS%
		return
	fi
	noted=; [ "$4" != 1 ] || noted="-m $memory"             # boot and memory: of the guest with all rows only
	# shellcheck disable=SC2086
	"$b/sample" -l "$1" -r "$2" -o "$results" -w "$3" $noted -c "$LIMIT" ${5:+-p "$5"} -- "$qemu" $machine $common \
		-initrd "$image" -append "console=ttyS0 panic=-1 quiet ${APPEND:-} l2smp=$4 bench=%ROWS%"
}

images
rows=${ROWS:-$("$b/bench" --list "$SHARE")}
smp_rows=${ROWS:+none}
[ -n "$smp_rows" ] || smp_rows=$("$b/bench" --list "$SHARE" 2)
[ "$(nproc)" -ge 2 ] || { smp_rows=none; say "rows that need two processors skipped: there is one"; }
levels=
for l in $LEVELS; do if possible "$l"; then levels="$levels $l"; fi; done
round=1
while [ "$round" -le "$ROUNDS" ]; do
	for l in $levels; do
		measure "$l" "$round" "$rows" 1
		case $l in *-L2) ;; *) if [ "$smp_rows" != none ]; then measure "$l" "$round" "$smp_rows" 2; fi ;; esac
	done
	round=$((round + 1))
	levels=$(echo "$levels" | tr ' ' '\n' | tac | tr '\n' ' ')       # there and back, against drift
done
echo
if [ -n "${A:-}" ]; then
	for k in L1 L2; do
		case $levels in *"A-$k"*) grep -e "-$k " "$results" >"$results.$k"; "$b/table" "A-$k" "$results.$k"; echo ;; esac
	done
else
	"$b/table" native "$results"
	case $levels in *anykvm-*) LD_PRELOAD=$(library_of anykvm-L1) "$b/open" ;; esac
fi | tee "$results.txt"
say "raw figures in $results, this table in $results.txt, what the guests said in $results.*.log"
