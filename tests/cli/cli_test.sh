#!/bin/bash
# The command: statuses, parameters and where they are seen, traces, the manual page. Prints TAP.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
. tests/tap.sh

status() { local want=$1; shift; "$@" >"$tmp/out" 2>"$tmp/err"; local got=$?; [ "$got" = "$want" ] || { echo "# status $got, not $want"; false; }; }
prints() { local want=$1; shift; local got; got=$("$@" 2>"$tmp/err"); [ "$got" = "$want" ] || { echo "# \"$got\", not \"$want\""; false; }; }
silent() { [ ! -s "$1" ]; }
p=/sys/module/kvm_intel/parameters

check 'help' status 0 ./anykvm help
check 'version' status 0 ./anykvm version
check 'no command is a mistake' status 2 ./anykvm
check 'unknown command is a mistake' status 2 ./anykvm foo
check 'unknown option is a mistake' status 2 ./anykvm run --foo -- true
check 'mistakes are told on stderr' grep -q foo "$tmp/err"
check 'no client is a mistake' status 2 ./anykvm run
check 'client that does not exist' status 127 ./anykvm run -- ./no-such-client
check "the client's status" status 7 ./anykvm run -- sh -c 'exit 7'
check "the client's output, and nothing else" prints hello ./anykvm run -- echo hello
check 'silence on stderr' silent "$tmp/err"

check 'params lists every parameter' status 0 ./anykvm params
while IFS='"' read -r _ name _; do
	case $name in *.*) check "params: $name" grep -qF "$name" "$tmp/out" ;; esac
done <src/base/params.def
for n in nested ept vpid unrestricted_guest enable_shadow_vmcs enable_apicv enable_ipiv; do check "$n=Y by default" prints Y ./anykvm run -- cat $p/$n; done
check 'enable_ipiv=N without enable_apicv' prints N ./anykvm run --param kvm_intel.enable_apicv=0 -- cat $p/enable_ipiv
check '--param is seen in /sys' prints N ./anykvm run --param kvm_intel.nested=0 -- cat $p/nested
check 'with a dash, too' prints N ./anykvm run --param kvm-intel.ept=N -- cat $p/ept
printf '# a comment\noptions kvm-intel nested=0 ept=0\noptions kvm_intel vpid=N\noptions snd index=1\n' >"$tmp/modprobe.conf"
check '--modprobe is seen in /sys' prints $'N\nN\nN' ./anykvm run --modprobe "$tmp/modprobe.conf" -- cat $p/nested $p/ept $p/vpid
check '--param wins over it' prints Y ./anykvm run --modprobe "$tmp/modprobe.conf" --param kvm_intel.ept=1 -- cat $p/ept
check 'the environment does the same' prints N env ANYKVM_PARAMS=kvm_intel.nested=0 ./anykvm run -- cat $p/nested
check 'a parameter that does not exist is absent' status 1 ./anykvm run -- cat $p/no_such_parameter
check '/dev/kvm is there' status 0 ./anykvm run -- test -c /dev/kvm
check "/dev/kvm is anykvm's" prints '/memfd:anykvm (deleted)' ./anykvm run -- bash -c 'exec 3</dev/kvm; readlink /proc/$$/fd/3'

said() { grep -qF -- "$1" "$tmp/err" || { sed 's/^/# /' "$tmp/err"; false; }; }
told() { grep -qF -- "$1" "$tmp/out"; }
check 'a report on two processes is a mistake' status 2 ./anykvm report 1 2
check 'on a word, too' status 2 ./anykvm report foo
check 'which is told' said foo
check 'a report on a process that does not exist' status 1 ./anykvm report 99999999
check 'which is told' said 'there is none'
check 'a report on a process without vCPUs' status 1 ./anykvm report $$
check 'which is told' said 'no vCPUs'
check 'a report on this host' status 0 env ANYKVM_PARAMS=kvm_intel.ept=0 ./anykvm report
check 'has the version' told "$(./anykvm version)"
check 'has the kernel' told "$(uname -r)"
check 'has the distribution' told "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
check 'has a changed parameter' told 'kvm_intel.ept=N'
check 'and no others' prints 1 grep -c '^kvm_intel\.' "$tmp/out"
! command -v qemu-system-x86_64 >/dev/null || check 'has the version of QEMU' told "$(qemu-system-x86_64 --version | head -n 1)"
# What the kernel's document "Running nested guests with KVM" wants of L1.
for c in 'uname -a' 'qemu-system-x86_64 --version' 'libvirtd --version' 'cat /proc/cpuinfo' lscpu dmesg 'x86info -a' dmidecode parameters '[q]emu'; do
	check "asks for $c in L1" grep -qF -- "$c" <(sed -n '/^== L1/,/^== L2/p' "$tmp/out")
done

for command in run stat params doctor report version help; do
	check "help tells of $command" grep -q "anykvm $command" <(./anykvm help)
	check "the manual page tells of $command" grep -qx "[.]B $command" docs/anykvm.1
done
for option in param modprobe trace trace-file perf; do
	check "help tells of --$option" grep -q -- "--$option" <(./anykvm help)
	check "the manual page tells of --$option" grep -q -- "\\\\-\\\\-${option/-/\\\\-}" docs/anykvm.1
done
if command -v groff >/dev/null; then
	groff -man -Tascii -ww -z docs/anykvm.1 2>"$tmp/err"
	check 'the manual page has no warnings' silent "$tmp/err"
else
	skip 'the manual page has no warnings' 'groff is not installed'
fi
check 'make install' status 0 make -s install DESTDIR="$tmp/root" PREFIX=/usr
check 'the installed command finds its library' prints Y "$tmp/root/usr/bin/anykvm" run -- cat $p/nested
check 'the manual page is installed' test -s "$tmp/root/usr/share/man/man1/anykvm.1"
finish
