#!/bin/bash
# The demonstration: L1 boots on anykvm under unmodified QEMU, loads kvm_intel, and runs unmodified QEMU for L2; with
# DEPTH=3 L2 does the same for L3, and so on.
# Tells which level does what, and ends with a summary and status 0, or with the level that failed and its log.
# Environment: DEPTH (the last level, 2) CPU SMP MEM (of L1, MEM in MiB) L2CPU L2SMP L2MEM (L2MEM of the last
# level) KERNEL_ARGS KVM_ARGS (parameters of the guests' kvm_intel) RUN_ARGS (options of anykvm run) TIMEOUT (seconds)
# OUT (directory of the logs) IMAGES (build/guest; build/guest-i386 after make images-i386).
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit
DEPTH=${DEPTH:-2}
[[ $DEPTH =~ ^[2-9]$ ]] || { echo "demo: DEPTH is the last level, 2 to 9" >&2; exit 2; }
CPU=${CPU:-host} SMP=${SMP:-1} MEM=${MEM:-$((1024 + 512 * (DEPTH - 2)))} TIMEOUT=${TIMEOUT:-300} OUT=${OUT:-build/demo} images=${IMAGES:-${BUILD:-build}/guest}
append="console=ttyS0 panic=-1 ${KERNEL_ARGS:-quiet} l2cpu=${L2CPU:-host} l2smp=${L2SMP:-1} l2mem=${L2MEM:-256}"
[ "$DEPTH" = 2 ] || append="$append depth=$DEPTH"
[ -n "${KVM_ARGS:-}" ] && append="$append kvmargs=${KVM_ARGS// /,}"
mkdir -p "$OUT"
for log in l0 l1 l2; do : >"$OUT/$log.log" || exit; done
pid='' start=${EPOCHREALTIME/./} level=L0 problem='' l1_up='' begin=() up=() is=() done='' parameters=''
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
	echo "Its log: $OUT/$log (all: l0.log has the messages of anykvm and QEMU, l1.log the console of L1, l2.log that of L2 and above)"
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
	[ "${level#L}" -ge 2 ] && printf '%s\n' "$line" >>"$OUT/l2.log"
	case $line in L[1-9][:-]*) n=${line:1:1} me=L${line:1:1} ;; *) n=0 me=none ;; esac
	case $line in
	'L1: user space reached: '*) now; l1_up=$ms is[1]=${line#*reached: }
		say L1 "user space, $(seconds $ms) s after its start: ${is[1]}"
		check_library ;;
	"$me: user space reached: "*) now; up[n]=$((ms - begin[n])) is[n]=${line#*reached: }
		say $me "user space, $(seconds ${up[n]}) s after its start: ${is[n]}" ;;
	"$me: vendor "*) [ "$n" = 1 ] && l1_vendor=${line#*vendor }; say $me "sees a processor by ${line#*vendor }" ;;
	"$me: kvm_intel is loaded") parameters='' && say $me 'loads kvm_intel' ;;
	"$me: kvm_intel "*) parameters="$parameters ${line#*kvm_intel }" ;;
	"$me: starting L"*) say $me "kvm_intel:$parameters"; now; level=L$((n + 1)) begin[n + 1]=$ms
		say $me "starting $level: qemu-system-x86_64 -accel kvm -cpu ${L2CPU:-host} -smp ${L2SMP:-1}" ;;
	"L$DEPTH-OK") done=$me; say $me 'says that it is well, and powers off' ;;
	"$me: QEMU ended with status 0,"*) level=$me; say $me "the QEMU of L$((n + 1)) has ended, status 0" ;;
	"$me: QEMU ended with status "*) problem=${line#*: } level=$me ;;
	"$me-DONE") [ "$done" = "L$((n + 1))" ] && done=$me; say $me 'powers off' ;;
	"$me-FAILED: "*) problem=${line#*FAILED: } level=$me ;;
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
[ -n "$done" ] || fail 'ended before it reached user space'
[ "$done" = L1 ] || fail 'ended without a word'
level=L0
[ $status = 0 ] || fail "QEMU ended with status $status"
say L0 'QEMU has ended, status 0'
echo
echo "It works: a virtual machine (L2) ran inside a virtual machine (L1), with no help from the processor or from /dev/kvm."
[ "$DEPTH" = 2 ] || echo "Inside it, others ran, down to L$DEPTH: each level but the last is a hypervisor to the next."
echo "  L0  anykvm, in user space, on $host_cpu ($host_vendor, $host_vmx; $node)"
echo "  L1  ${is[1]}, a guest of anykvm; processor by $l1_vendor; up after $(seconds $l1_up) s"
for ((n = 2; n <= DEPTH; n++)); do
	echo "  L$n  ${is[n]}, a guest of L$((n - 1))'s KVM; up $(seconds ${up[n]}) s after L$((n - 1)) started it"
done
echo "Logs: $OUT/l0.log, l1.log, l2.log"
