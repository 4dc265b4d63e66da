#!/bin/bash
# anykvm run --perf: perf names guest code of both levels and the stubs; a map that tells no lies about reused memory; without the
# option, no map. Prints TAP.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
guest=${BUILD:-build}/guest
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"; [ -s "$tmp.maps" ] && xargs rm -rf <"$tmp.maps"; rm -f "$tmp.maps"' EXIT
. tests/tap.sh

# Boots L1 (and L2, unless l1only is given) under perf, if there is one to record with. The map is $map. Arguments: options of run.
boot() {
	"${record[@]}" sh -c 'echo $$ >"$0"; exec "$@"' "$tmp/pid" ./anykvm run "$@" -- qemu-system-x86_64 -accel kvm -cpu host -m 768 \
		-nodefaults -no-user-config -display none -no-reboot -serial stdio -kernel "$guest/vmlinuz" -initrd "$guest/l1.cpio" \
		-append "console=ttyS0 panic=-1 quiet $append" </dev/null >"$tmp/out" 2>&1
	map=/tmp/perf-$(cat "$tmp/pid").map
	echo "$map" >>"$tmp.maps"
	grep -qE 'L1-OK|L2-OK' "$tmp/out" || { tail -n 5 "$tmp/out"; false; }
}
reported() { perf report -i "$tmp/data" --sort sym 2>/dev/null | grep -qE "$1"; }
none_of() { ! "$@"; }
well_formed() { # every line but empty ones
	none_of grep -vE '^$|^[0-9a-f]+ [0-9a-f]+ (guest L[12] (real|vm86|user|kernel) 0x[0-9a-f]+|anykvm stub_[a-z_]+)$' "$1"
}
apart() { # no two lines claim the same address
	perl -ne 'push @r, [hex $1, hex $2] if /^(\w+) (\w+)/;
		END { for (sort { $a->[0] <=> $b->[0] } @r) { $bad |= $_->[0] < $end; $end = $_->[0] + $_->[1] } exit $bad }' "$1"
}

if ! command -v qemu-system-x86_64 >/dev/null || [ ! -e "$guest/l1.cpio" ]; then
	skip 'perf names guest code' 'QEMU or the images are missing'
	finish
fi
record=() append=l1only
check 'a guest runs without --perf' boot
check 'and leaves no map' test ! -e "$map"
check 'a guest runs in a small cache with --perf' boot --perf --param engine.code_cache_mb=2
check 'its map is well formed' well_formed "$map"
check 'and gives each address to one block' apart "$map"
rm -rf "$map"

quit='{"execute":"qmp_capabilities"} {"execute":"quit"}'
echo "$quit" | sh -c 'mkdir /tmp/perf-$$.map; echo /tmp/perf-$$.map >>"$0"; exec ./anykvm run --perf -- qemu-system-x86_64 -accel kvm \
	-nodefaults -display none -S -qmp stdio' "$tmp.maps" >"$tmp/out" 2>"$tmp/err"
check 'a map that cannot be written is told' grep -q 'anykvm.perf: .*cannot be written' "$tmp/err"
check 'and the client goes on' grep -q '"return"' "$tmp/out"

if ! command -v perf >/dev/null; then
	skip 'perf report' 'perf is not installed'
elif ! perf record -q -e cpu-clock -o "$tmp/data" true >/dev/null 2>&1; then
	skip 'perf report' 'perf may not record here'
else
	record=(perf record -q -e cpu-clock -F 500 -o "$tmp/data") append=
	check 'both levels run under perf record' boot --perf
	check 'perf report names code of L1' reported 'guest L1 kernel 0xffffffff'
	check 'and of L2' reported 'guest L2 kernel 0xffffffff'
	check 'and the stubs' reported 'anykvm stub_'
	check 'and the library' reported ' engine_run$'
	rm -rf "$map"
	check 'without a map it does not' none_of reported 'guest L'
fi
finish
