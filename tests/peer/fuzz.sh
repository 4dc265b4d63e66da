#!/bin/bash
# The same guest, the same cases of chance in anykvm and in Bochs (Debian's bochs, bochs-term, bochsbios).
# KIND: entry, near-valid VMCSs; intercept, one instruction of L2 under random controls.
# Usage: tests/peer/fuzz.sh KIND SEED CASES         prints cases that differ; `N passed, M failed` at the end
#        tests/peer/fuzz.sh KIND SEED CASE show     one case, with every field that differs
set -u
cd "$(dirname "$0")/../.." || exit
kind=${1:?entry or intercept} seed=${2:?a seed} count=${3:?a number of cases} show=${4:-}
tools=${BUILD:-build}/tests/peer peer=$tools/peer
work=${FUZZ_KEEP:-$(mktemp -d)}; mkdir -p "$work"; [ -n "${FUZZ_KEEP:-}" ] || trap 'rm -rf "$work"' EXIT
first=0
[ "$show" = show ] && { first=$count; count=1; }

say() { echo "fuzz: $*"; }
skip() { echo "ok 1 # SKIP $*"; exit 0; }

for tool in bochs script qemu-system-x86_64; do
	command -v $tool >/dev/null || skip "$tool is not installed"
done
[ -e /usr/share/bochs/BIOS-bochs-latest ] || skip 'bochsbios is not installed'

cat >"$work/bochsrc" <<RC
megs: 128
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/seabios/vgabios-stdvga.bin
ata0-master: type=disk, path="$work/bochs.img", mode=flat, cylinders=40, heads=16, spt=63
boot: disk
cpu: model=corei7_haswell_4770, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=0
display_library: term
log: $work/bochs.log
panic: action=fatal
error: action=report
sound: waveoutdrv=dummy
RC

echo c >"$work/continue"               # Debian's Bochs is the debugger
in_bochs() { timeout 300 script -qec "bochs -q -f $work/bochsrc -rc $work/continue" "$work/bochs.tty" >/dev/null 2>&1 </dev/null; }
in_anykvm() {                          # with the physical addresses of Bochs
	timeout 300 ./anykvm run -- qemu-system-x86_64 -accel kvm -cpu host,host-phys-bits=off,phys-bits=40 -m 128 -nodefaults -no-user-config -display none -no-reboot \
		-drive "file=$work/anykvm.img,format=raw,if=ide" -device isa-debug-exit,iobase=0xf4 >"$work/anykvm.log" 2>&1 </dev/null
}

# Runs the cases on both sides: configure FIRST COUNT [verbose]
both() {
	$peer config "$work/anykvm.img" "$kind" "$seed" "$@" && $peer config "$work/bochs.img" "$kind" "$seed" "$@" || exit
	in_anykvm
	in_bochs
}

for side in anykvm bochs; do
	$peer image "$work/$side.img" "$tools/boot.bin" "$tools/guest.bin" || exit
done
say "capabilities of both sides"
both 0 0
$peer caps "$work/anykvm.img" "$work/bochs.img" && $peer caps "$work/bochs.img" "$work/anykvm.img" || { tail -n 3 "$work"/*.log; echo '0 passed, 1 failed'; exit 1; }
say "cases $first to $((first + count - 1)) of seed $seed"
both "$first" "$count" ${show:+verbose}
$peer compare "$work/anykvm.img" "$work/bochs.img" | tee "$work/result"
[ "$show" = show ] && $peer dump "$work/anykvm.img" "$work/bochs.img"
differ=$(sed -nE 's/.*; ([0-9]+) differ$/\1/p' "$work/result") cases=$(sed -nE 's/^([0-9]+) cases:.*/\1/p' "$work/result")
echo "$((${cases:-0} - ${differ:-0})) passed, $((${differ:-0} + count - ${cases:-0})) failed"
[ "${differ:-1}" = 0 ] && [ "${cases:-0}" = "$count" ]
