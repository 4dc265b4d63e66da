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
append=${APPEND:-} pids=()
. tests/tap.sh
prefix="$case: "
trap 'for p in "${pids[@]}"; do kill -9 "$p" 2>/dev/null; done' EXIT

skip_all() { echo "ok 1 - $case # SKIP $1"; echo 1..1; exit 0; }

# ---- one QEMU: its console is NAME.log, its monitor a pair of pipes (QMP) ----

# NAME, options of QEMU...
start() {
	local name=$1 fd
	shift
	mkfifo "$out/$name.in" "$out/$name.out"
	: >"$out/$name.log"
	cat "$out/$name.out" >"$out/$name.mon" &
	pids+=($!)
	timeout -k 5 "$limit" ./anykvm run ${RUN_ARGS:-} -- qemu-system-x86_64 -accel kvm -cpu "$cpu" -smp "$smp" -m "${MEM:-768}" \
		-nodefaults -no-user-config -display none -no-reboot -serial "file:$out/$name.log" -qmp "pipe:$out/$name" \
		-kernel "$build/guest/vmlinuz" -initrd "$build/guest/l1.cpio" \
		-append "console=ttyS0 panic=-1 quiet l2smp=$l2smp l2args=beat $append" "$@" </dev/null >"$out/$name.err" 2>&1 &
	declare -g "pid_$name=$!"
	pids+=($!)
	exec {fd}<>"$out/$name.in"
	declare -g "mon_$name=$fd"
	echo '{"execute":"qmp_capabilities"}' >&$fd
}
alive() { local v=pid_$1; kill -0 "${!v}" 2>/dev/null; }
answer() { grep -a "\"id\": $2[,}]" "$out/$1.mon"; }
# NAME COMMAND: says what the monitor answers to a command as a person would type it.
ask() {
	local v=mon_$1 id=${EPOCHREALTIME/./} command=${2//\"/\\\"}
	printf '{"execute":"human-monitor-command","id":%d,"arguments":{"command-line":"%s"}}\n' "$id" "$command" >&"${!v}"
	until_true 60 answer "$1" "$id" >/dev/null || echo "no answer"
	answer "$1" "$id" | sed 's/^{"return": "//; s/", "id": [0-9]*}.*//; s/\\r\\n/\n/g' | grep .
}
# NAME: ends it.
stop() {
	local p=pid_$1 v=mon_$1
	echo '{"execute":"quit"}' >&"${!v}"
	wait "${!p}"
	local fd=${!v}
	exec {fd}>&-
}
until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	while ! "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# ---- what L2 says ----

only_beats() { tr -d '\r' | grep -aE '^L[0-9]: beat [0-9]+ .* up [0-9.]+$'; }
beats() { only_beats <"$out/$1.log"; }
beat_count() { beats "$1" | wc -l; }
last_beat() { beats "$1" | tail -n 1 | cut -d' ' -f3; }
has_beats() { [ "$(beat_count "$1")" -ge "$2" ]; }
# Waits for N more beats of NAME. If they do not come, NAME.state tells where the processors are.
more_beats() {
	until_true 60 has_beats "$1" $(($(beat_count "$1") + $2)) && return
	for command in 'info status' 'info registers -a' 'info lapic 0' 'info lapic 1' 'info pic'; do ask "$1" "$command"; done >"$out/$1.state"
	return 1
}
# All beats of the logs NAME..., one after the other, are consecutive, their hashes agree and their clock does not go back.
steady() {
	local n
	for n; do cat "$out/$n.log"; done | only_beats | awk '
		NR > 1 && $3 != last + 1 { print "# beat " $3 " after " last; bad = 1 }
		{ last = $3; if (up > $NF) { print "# clock " $NF " after " up; bad = 1 } up = $NF
		  for (i = 4; i < NF - 1; i++) { if (!hash) hash = $i; if ($i != hash) { print "# hash " $i " in beat " $3; bad = 1 } } }
		END { exit bad || NR < 3 }'
}
complained() { grep -qaiE 'BUG:|Oops|stall|Call Trace|soft lockup|entry failed|internal error' "$out"/*.log "$out"/*.err; }
quiet() { ! complained; }

# ---- migration ----

status_is() { ask "$1" 'info migrate' | grep -q "^Migration status: $2"; }
ended() { status_is "$1" completed || status_is "$1" failed; }
# QEMU A to URI. True: it is there, and has said so.
send() {
	ask "$1" 'migrate_set_parameter max-bandwidth 2G'
	case $2 in unix:*) ask "$1" 'migrate_set_capability return-path on' ;; *) ask "$1" 'migrate_set_capability return-path off' ;; esac
	ask "$1" "migrate -d $2"
	until_true 120 ended "$1" && status_is "$1" completed
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
# A QEMU that must not take the stream ends with an error.
gives_up() {
	local v=pid_$1
	until_true 60 dead "$1" && ! wait "${!v}" && [ -s "$out/$1.err" ]
}
dead() { ! alive "$1"; }

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
