#!/bin/bash
# anykvm stat and anykvm report, of running clients: counters by level, and what runs where. Prints TAP.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
guest=${BUILD:-build}/guest
tmp=$(mktemp -d) && trap 'kill $clients 2>/dev/null; rm -rf "$tmp"' EXIT
clients= fifos=0
. tests/tap.sh

status() { local want=$1; shift; "$@" >"$tmp/out" 2>"$tmp/err"; local got=$?; [ "$got" = "$want" ] || { echo "# status $got, not $want"; false; }; }
said() { grep -q "$1" "$tmp/err" || { sed 's/^/# /' "$tmp/err"; false; }; }
# Is the counter of level N (1 or 2) above 0 in the last output?
counted() { awk -v l="$2" '$1 == "'"$1"'" && $(l + 1) > 0 { found = 1 } END { exit !found }' "$tmp/out" || { sed 's/^/# /' "$tmp/out"; false; }; }
none() { ! grep -qF -- "$1" "$tmp/out"; }
absent() { ! grep -q "^$1 " "$tmp/out"; }

check 'two processes are a mistake' status 2 ./anykvm stat 1 2
check 'a word is no process' status 2 ./anykvm stat foo
check 'which is told' said foo
check 'an unknown option is a mistake' status 2 ./anykvm stat --foo
check 'an interval is a number' status 2 ./anykvm stat --interval x 1
check 'and above 0' status 2 ./anykvm stat --interval 0 1
check 'a process that does not exist' status 1 ./anykvm stat 99999999
check 'which is told' said 'there is none'
check 'a process without vCPUs' status 1 ./anykvm stat $$
check 'which is told' said 'no vCPUs'

if ! command -v qemu-system-x86_64 >/dev/null || [ ! -e "$guest/l1.cpio" ]; then
	skip 'counters of a guest' 'QEMU or the images are missing'
	finish
fi
# The guest stops with its work done, since -no-shutdown keeps QEMU.
client() { # kernel arguments; the client's process is $pid
	local serial=$tmp/serial$((++fifos))
	mkfifo "$serial"
	./anykvm run -- qemu-system-x86_64 -accel kvm -cpu host -m 768 -nodefaults -no-user-config -display none -no-shutdown \
		-serial stdio -kernel "$guest/vmlinuz" -initrd "$guest/l1.cpio" -append "console=ttyS0 panic=-1 quiet $1" \
		</dev/null >"$serial" 2>/dev/null &
	pid=$! clients="$clients $!"
	timeout 300 grep -m 1 -E 'L1-OK|L2-OK|FAILED' "$serial" >"$tmp/reached"
	cat "$serial" >/dev/null &
	clients="$clients $!"
	grep -q OK "$tmp/reached"
}
check 'a guest with a guest runs' client ''
first=$pid
check 'its counters are shown' status 0 ./anykvm stat "$pid"
for c in cycles dispatches blocks links tlb_misses slow_accesses exit_io; do check "$c of L1" counted $c 1; done
for c in cycles blocks tlb_misses vmexit_cpuid vmexit_ept_violation vmexit_io; do check "$c of L2" counted $c 2; done
check 'what never happened is left out' absent vmexit_task_switch
only() { status 0 ./anykvm stat || said 'name one'; }       # this user may have others
check 'the only client need not be named' only
told() { grep -qF -- "$1" "$tmp/out" || { grep -A 5 '^-- process' "$tmp/out" | sed 's/^/# /'; false; }; }
export ANYKVM_PARAMS="engine.link=1"
check 'a second guest runs' client l1only
check 'two clients must be told apart' status 1 ./anykvm stat
check 'which is told' said 'name one'
check 'and are listed' grep -qx "$pid" "$tmp/out"
check 'the second one has counters' status 0 ./anykvm stat "$pid"
check 'of L1' counted dispatches 1
check 'and has no VM exits' absent vmexit_cpuid
check 'a report on it' status 0 ./anykvm report "$pid"
check 'has its command line, to be pasted' told "-append 'console=ttyS0 panic=-1 quiet l1only'"
check 'and its parameters' told 'ANYKVM_PARAMS=engine.link=1 '
check 'and says that there is no L2' told 'no L2 has run under KVM'
check 'a report on the first' status 0 ./anykvm report "$first"
check 'says that there is one' told 'L2 has run under KVM in L1'
check 'and only of the first' none "process $pid"
(sleep 1.5; kill "$pid") &
check 'an interval ends with the client' status 0 timeout 60 ./anykvm stat --interval 0.5 "$pid"
finish
