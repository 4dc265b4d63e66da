#!/bin/bash
# The demonstration: L1 boots on anykvm under unmodified QEMU, loads kvm_intel, and runs unmodified QEMU for L2.
# Tells which level does what, and ends with a summary and status 0, or with the level that failed and its log.
# Environment: CPU SMP MEM (of L1, MEM in MiB) L2CPU L2SMP L2MEM KERNEL_ARGS KVM_ARGS (parameters of L1's kvm_intel)
# RUN_ARGS (options of anykvm run) TIMEOUT (seconds) OUT (directory of the logs).
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
CPU=${CPU:-host} SMP=${SMP:-1} MEM=${MEM:-1024} TIMEOUT=${TIMEOUT:-300} OUT=${OUT:-build/demo} images=${BUILD:-build}/guest
append="console=ttyS0 panic=-1 ${KERNEL_ARGS:-quiet} l2cpu=${L2CPU:-host} l2smp=${L2SMP:-1} l2mem=${L2MEM:-256}"
[ -n "${KVM_ARGS:-}" ] && append="$append kvmargs=${KVM_ARGS// /,}"
mkdir -p "$OUT"
for log in l0 l1 l2; do : >"$OUT/$log.log" || exit; done
pid='' start=${EPOCHREALTIME/./} level=L0 problem='' l1_up='' l2_begin='' l2_up='' done='' parameters=''
trap '[ -n "$pid" ] && kill -9 "$pid" 2>/dev/null' EXIT
trap 'exit 130' INT TERM

now() { ms=$(((${EPOCHREALTIME/./} - start) / 1000)); }
seconds() { printf '%d.%d' $(($1 / 1000)) $(($1 / 100 % 10)); }
say() { now; printf '%6s s  %s  %s\n' "$(seconds $ms)" "$1" "$2"; }

fail() {
	say "$level" "FAILED: $1"
	case $level in L0) log=l0.log ;; L1) log=l1.log ;; *) log=l2.log ;; esac
	echo
	echo "The demo failed at level $level: $1."
	echo "Its log: $OUT/$log (all: l0.log has the messages of anykvm and QEMU, l1.log the console of L1, l2.log that of L2)"
	[ $log = l0.log ] || tail -n 4 "$OUT/l0.log" | sed 's/^/  | /'
	tail -n 8 "$OUT/$log" | sed 's/^/  | /'
	exit 1
}

# Where the answers come from: the library must be in the process, and the kernel's /dev/kvm must not.
check_library() {
	grep -q 'libanykvm\.so' "/proc/$pid/maps" || fail 'libanykvm.so is not in the QEMU process'
	for fd in /proc/"$pid"/fd/*; do
		[ "$(readlink "$fd")" = /dev/kvm ] && fail 'QEMU has the real /dev/kvm open'
	done
	say L0 "libanykvm.so is in the QEMU process ($pid), and /dev/kvm is not open there"
}

host_cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
host_vendor=$(sed -n 's/^vendor_id.*: //p' /proc/cpuinfo | head -n 1)
grep -q '^flags.*\<vmx\>' /proc/cpuinfo && host_vmx='has VT-x, not used' || host_vmx='without VT-x'
hide=
if [ ! -e /dev/kvm ]; then node='there is no /dev/kvm'
elif [ "$(stat -Lc %t:%T /dev/kvm)" = 1:3 ]; then node='/dev/kvm is hidden'
elif scripts/hide-kvm.sh true 2>/dev/null; then hide=scripts/hide-kvm.sh node='/dev/kvm is hidden from the demo'
else node='/dev/kvm exists, not used'
fi
say L0 "anykvm in user space, on $host_cpu ($host_vendor, $host_vmx); $node"
for f in anykvm libanykvm.so "$images/vmlinuz" "$images/l1.cpio"; do
	[ -e "$f" ] || fail "$f is missing: run make demo"
done
say L0 "starting L1: qemu-system-x86_64 -accel kvm -cpu $CPU -smp $SMP -m $MEM"
# shellcheck disable=SC2086
exec 3< <(exec $hide ./anykvm run ${RUN_ARGS:-} -- qemu-system-x86_64 -accel kvm -cpu "$CPU" -smp "$SMP" -m "$MEM" -nodefaults \
	-no-user-config -display none -no-reboot -serial stdio -kernel "$images/vmlinuz" -initrd "$images/l1.cpio" \
	-append "$append" </dev/null 2>>"$OUT/l0.log")
pid=$!
level=L1
while [ -z "$problem" ]; do
	left=$((TIMEOUT - SECONDS))
	if [ $left -le 0 ]; then problem="no end after $TIMEOUT s"; break; fi
	IFS= read -r -t $left line <&3
	status=$?
	if [ $status -gt 128 ]; then problem="no end after $TIMEOUT s"; break; fi
	[ $status -ne 0 ] && [ -z "$line" ] && break
	line=${line//$'\r'/}
	printf '%s\n' "$line" >>"$OUT/l1.log"
	[ $level = L2 ] && printf '%s\n' "$line" >>"$OUT/l2.log"
	case $line in
	'L1: user space reached: '*) now; l1_up=$ms l1_is=${line#*reached: }
		say L1 "user space, $(seconds $ms) s after its start: $l1_is"
		check_library ;;
	'L1: vendor '*) l1_vendor=${line#L1: vendor }; say L1 "sees a processor by $l1_vendor" ;;
	'L1: kvm_intel is loaded') say L1 'loads kvm_intel' ;;
	'L1: kvm_intel '*) parameters="$parameters ${line#L1: kvm_intel }" ;;
	'L1: starting L2') say L1 "kvm_intel:$parameters"; now; l2_begin=$ms level=L2
		say L1 "starting L2: qemu-system-x86_64 -accel kvm -cpu ${L2CPU:-host} -smp ${L2SMP:-1}" ;;
	'L2: user space reached: '*) now; l2_up=$ms l2_is=${line#*reached: }
		say L2 "user space, $(seconds $((ms - l2_begin))) s after its start: $l2_is" ;;
	'L2-OK') done=L2; say L2 'says that it is well, and powers off' ;;
	'L1: QEMU ended with status 0,'*) level=L1; say L1 "L2's QEMU has ended, status 0" ;;
	'L1: QEMU ended with status '*) problem=${line#L1: } ;;
	'L1-DONE') [ "$done" = L2 ] && done=all; say L1 'powers off' ;;
	'L1-FAILED: '*) problem=${line#L1-FAILED: } ;;
	*'KVM: entry failed'* | *'KVM internal error'*) problem=$line ;;
	*'Kernel panic'*) problem=$line ;;
	esac
done
if [ -n "$problem" ]; then sleep 1; IFS= read -r -d '' -t 1 rest <&3; printf '%s' "$rest" | tee -a "$OUT/l1.log" >>"$OUT/l2.log"; fail "$problem"; fi
wait "$pid"
status=$?
pid=
[ -s "$OUT/l1.log" ] || { level=L0; fail "QEMU ended with status $status before L1 said anything"; }
[ -n "$l1_up" ] || fail 'ended before it reached user space'
if [ -z "$done" ]; then [ -n "$l2_begin" ] && level=L2; fail 'ended before it reached user space'; fi
[ "$done" = all ] || fail 'ended without a word'
level=L0
[ $status = 0 ] || fail "QEMU ended with status $status"
say L0 'QEMU has ended, status 0'
cat <<END

It works: a virtual machine (L2) ran inside a virtual machine (L1), with no help from the processor or from /dev/kvm.
  L0  anykvm, in user space, on $host_cpu ($host_vendor, $host_vmx; $node)
  L1  $l1_is, a guest of anykvm; processor by $l1_vendor; up after $(seconds $l1_up) s
  L2  $l2_is, a guest of L1's KVM; up $(seconds $((l2_up - l2_begin))) s after L1 started it
Logs: $OUT/l0.log, l1.log, l2.log
END
