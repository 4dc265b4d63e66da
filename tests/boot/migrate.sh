#!/bin/bash
# Saving and moving levels with unmodified QEMU: savevm and loadvm of an L1 with a running L2, live migration, damaged streams.
# L2 hashes and counts (demo/beat): its numbers must follow each other, and its hashes agree, wherever it runs.
# Usage: migrate.sh CASE. Prints TAP. Environment: CPU SMP (of L1) L2SMP ROUNDS (migrations of one run).
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
case=${1:?usage: migrate.sh CASE}
build=${BUILD:-build} out=${BUILD:-build}/boot-tests/migrate-$case
cpu=${CPU:-host} smp=${SMP:-1} l2smp=${L2SMP:-1} rounds=${ROUNDS:-3} limit=${LIMIT:-600}
rm -rf "$out" && mkdir -p "$out" || exit
exec 2>"$out/shell.err"
append=${APPEND:-}
. tests/boot/qemu.sh

# NAME, options of QEMU: an L1.
start() {
	local name=$1
	shift
	launch "$name" -cpu "$cpu" -smp "$smp" -m "${MEM:-768}" -kernel "$build/guest/vmlinuz" -initrd "$build/guest/l1.cpio" \
		-append "console=ttyS0 panic=-1 quiet l2smp=$l2smp l2args=beat $append" "$@"
}
receive() { # NAME: a QEMU that waits at a socket
	local name=$1
	shift
	start "$name" -incoming "unix:$out/$name.sock" "$@"
	until_true 60 test -S "$out/$name.sock"
}
# Moves the guest of QEMU A to QEMU B (not started yet).
migrate() {
	receive "$2" && send "$1" "unix:$out/$2.sock" && stop "$1"
}
rounds_of() { # moves q0 to q1, that to q2 and so on; sets names
	names=(q0)
	for ((i = 1; i <= rounds; i++)); do
		check "migration $i" migrate "q$((i - 1))" "q$i" || finish
		check "L$1 goes on after migration $i" more_beats "q$i" 5 || finish
		names+=("q$i")
	done
	check 'beats are in order' steady "${names[@]}"
	check 'nobody complains' quiet
	stop "q$rounds"
}

case $case in
savevm)
	command -v qemu-img >/dev/null || skip_all 'needs qemu-img (package qemu-utils)'
	qemu-img create -q -f qcow2 "$out/disk.qcow2" 64M
	drive=(-drive "if=none,id=d0,format=qcow2,file=$out/disk.qcow2")
	start a "${drive[@]}"
	check 'L2 works' until_true 120 has_beats a 5
	ask a 'savevm one' >"$out/savevm"
	saved=$(last_beat a)
	check 'savevm with L2 running' test ! -s "$out/savevm"
	check 'L2 goes on after savevm' more_beats a 5
	ask a 'loadvm one' >"$out/loadvm"
	check 'loadvm in the same process' test ! -s "$out/loadvm"
	check 'L2 goes on from there' more_beats a 5
	stop a
	start b "${drive[@]}" -loadvm one
	check 'loadvm in a new process, and L2 goes on' until_true 120 has_beats b 10
	check 'it goes on where it was saved' test "$(beats b | head -n 1 | cut -d' ' -f3)" -le $((saved + 1))
	check 'beats are in order' steady b
	check 'nobody complains' quiet
	stop b ;;
live)
	start q0
	check 'L2 works' until_true 120 has_beats q0 3 || finish
	rounds_of 2 ;;
idle)
	append=idle
	start q0
	check 'L1 works' until_true 120 has_beats q0 3 || finish
	rounds_of 1 ;;
damaged)
	start a
	check 'L2 works' until_true 120 has_beats a 3 || finish
	ask a 'migrate_set_parameter max-bandwidth 2G' >/dev/null
	ask a "migrate -d \"exec:head -c 3000000 >$out/short; exit 1\"" >/dev/null
	check 'the way ends: migration fails' until_true 60 status_is a failed
	check 'the source goes on' more_beats a 5
	start b -incoming "exec:cat $out/short"
	check 'a short stream is an error' gives_up b
	RUN_ARGS='--param kvm_intel.nested=0' receive c
	check 'nested state is refused where there is no nesting' eval '! send a "unix:$out/c.sock"'
	check 'that is an error there' gives_up c
	check 'the source goes on' more_beats a 5
	receive d -m 512
	check 'another size of memory is refused' eval '! send a "unix:$out/d.sock"'
	check 'the source goes on' more_beats a 5
	check 'a stream in a file' send a "\"exec:cat >$out/stream\""
	ask a cont
	check 'the source can go on' more_beats a 5
	sed 's/nested_state/nestled_sate/g' "$out/stream" >"$out/changed"
	start f -incoming "exec:cat $out/changed"
	check 'a name that nobody knows is an error' gives_up f
	check 'a good stream is taken' migrate a e
	check 'L2 goes on' more_beats e 5
	check 'beats are in order' steady a e
	stop e ;;
*) echo "migrate.sh: there is no case $case" >&2; exit 2 ;;
esac
finish
