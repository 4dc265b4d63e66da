#!/bin/bash
# An L2 moves while it works: from an L1 to another, from an L1 to anykvm itself, where it is an L1, and back.
# As in migrate.sh, what it counts and hashes must be in order wherever it runs.
# Usage: migrate-l2.sh CASE. Prints TAP. Environment: CPU (of L2) SMP (of L1) L2SMP ROUNDS (of moves).
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
case=${1:?usage: migrate-l2.sh CASE}
build=${BUILD:-build} out=${BUILD:-build}/boot-tests/migrate-l2-$case
cpu=${CPU:-host} smp=${SMP:-1} l2smp=${L2SMP:-1} rounds=${ROUNDS:-2} limit=${LIMIT:-600} l2mem=192
rm -rf "$out" && mkdir -p "$out" || exit
exec 2>"$out/shell.err"
. tests/boot/qemu.sh
port=$((20000 + RANDOM % 10000)) level=

# ---- a place for an L2 is called NAME at any level: NAME.log is its console, NAME its QEMU's monitor ----

listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
	port=$((port + 1))
	while listens $port; do port=$((port + 1)); done
}
# NAME, arguments of L1's kernel: in an L1, which is a QEMU called NAME_l1 and forwards $port to port 4444 of L1.
in_l1() {
	local name=$1
	shift
	free_port
	monitor "$name"
	launch "${name}_l1" -cpu host -smp "$smp" -m 640 -kernel "$build/guest/vmlinuz" -initrd "$build/guest/l1.cpio" \
		-serial "pipe:$out/$name" -chardev "file,id=console,path=$out/$name.log" -device isa-serial,chardev=console,index=2,irq=5 \
		-netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:4444" -device e1000,netdev=net,romfile= \
		-append "console=ttyS0 panic=-1 quiet net l2console=/dev/ttyS2 l2monitor=/dev/ttyS1 l2cpu=$cpu l2smp=$l2smp l2mem=$l2mem l2args=beat $*"
	level=1
	until_true 60 grep -q '"QMP"' "$out/$name.mon" && greet "$name"
	# QEMU says QMP before it listens, and answers after.
	until_true 60 grep -q '"return"' "$out/$name.mon"
}
receive_in_l1() { # NAME, arguments of L1's kernel: takes an L2 at $port
	local name=$1
	shift
	in_l1 "$name" l2incoming=tcp:0.0.0.0:4444 "$@"
}
receive_at_l0() { # NAME, options of QEMU: takes an L2 at $port; the machine is that of demo/l1-init
	local name=$1
	shift
	free_port
	launch "$name" -cpu "$cpu" -smp "$l2smp" -m "$l2mem" -kernel "$build/guest/vmlinuz" -initrd "$build/guest/l2.cpio" \
		-incoming "tcp:127.0.0.1:$port" "$@"
	level=0
	until_true 60 grep -q '"return"' "$out/$name.mon"
}
# NAME, LEVEL where it is: to whoever waits at $port. An L1 knows this machine as 10.0.2.2.
leave() {
	if [ "$2" = 1 ]; then send "$1" "tcp:10.0.2.2:$port"; else send "$1" "tcp:127.0.0.1:$port"; fi
}
leave_fails() { ! leave "$@"; }
end() { # NAME, LEVEL where it was
	if [ "$2" = 1 ]; then stop "$1_l1"; else stop "$1"; fi
}
# From q0 to q1, to q2 and so on; PLACE... are taken in turn, l1 or l0.
moves() {
	local names=(q0) places=("$@") i from place
	in_l1 q0
	check 'L2 works' until_true 120 has_beats q0 3 || finish
	for ((i = 1; i <= rounds; i++)); do
		from=$level place=${places[(i - 1) % $#]}
		case $place in l1) receive_in_l1 "q$i" ;; l0) receive_at_l0 "q$i" ;; esac
		check "move $i, to $place" leave "q$((i - 1))" "$from" || finish
		check "L2 goes on there" more_beats "q$i" 5 || finish
		end "q$((i - 1))" "$from"
		names+=("q$i")
	done
	check 'beats are in order' steady "${names[@]}"
	check 'nobody complains' quiet
	end "q$rounds" "$level"
}

case $case in
l1) moves l1 ;;
l0) moves l0 l1 ;;
refused)
	in_l1 a
	check 'L2 works' until_true 120 has_beats a 3 || finish
	free_port
	check 'nobody is there: migration fails' leave_fails a 1
	check 'L2 goes on' more_beats a 5
	ask a 'migrate -d "exec:head -c 3000000 >/tmp/short; exit 1"' >/dev/null
	check 'the way ends: migration fails' until_true 60 status_is a failed
	check 'L2 goes on' more_beats a 5
	receive_at_l0 b -m 256
	check 'another size of memory is refused at L0' leave_fails a 1
	check 'that is an error there' gives_up b
	check 'L2 goes on' more_beats a 5
	receive_in_l1 c l2mem=256
	check 'another size of memory is refused in another L1' leave_fails a 1
	check 'that is an error there' until_true 60 grep -q '^L1: QEMU ended with status [^0]' "$out/c_l1.log"
	check 'L2 goes on' more_beats a 5
	receive_at_l0 d
	check 'who fits takes it' leave a 1
	check 'L2 goes on there' more_beats d 5
	check 'beats are in order' steady a d
	end a 1
	end d 0 ;;
*) echo "migrate-l2.sh: there is no case $case" >&2; exit 2 ;;
esac
finish
