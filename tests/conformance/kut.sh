#!/bin/bash
# What kvm-unit-tests has to run, from its own lists: prints lines SUITE/NAME, tab, command.
# Each group of x86/unittests.cfg, as its run script would start it, and each sub-test of vmx by itself.
# Usage: kut.sh SUITE DIR; DIR is built.
set -u
suite=$1 dir=$2
arch=$(sed -n 's/^ARCH=//p' "$dir/config.mak")
[ -n "$arch" ] || { echo "conformance: $dir is not configured" >&2; exit 1; }
: >"$work/empty"                         # an environment, which QEMU passes as the initrd

# job NAME FILE SMP ARGS PARAMS. QEMU 7.2 has no name for mode-based execute control; migratable=off passes on what is there.
job() {
	local params=${5//-enable-kvm/}
	params=${params//,-vmx-mbec/}
	params=${params//Skylake-Server,host-phys-bits,+vmx,+vmx-mbec/max,host-phys-bits,+vmx,migratable=off}
	[[ $params == *-cpu* ]] || params="$params -cpu max"
	[ -e "$dir/x86/$2" ] || return
	printf '%s/%s\t' "$suite" "$1"
	local command
	command=$(printf '%q ' "$root/anykvm" run -- qemu-system-x86_64 --no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard \
		-device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none -serial stdio -device pci-testdev \
		-machine accel=kvm -kernel "$dir/x86/$2" -smp "$3" -append "$4" -initrd "$work/empty")
	echo "${command//@NOW@/\$(date +%s)} $params"
}

group() { # of the configuration; its lines are in $section
	local file='' smp=1 args='' params='' for_arch=$arch key value
	while IFS='=' read -r key value; do
		key=${key// /} value=${value# }
		case $key in
		file) file=$value ;;
		smp) smp=$value ;;
		qemu_params) params=$value ;;
		arch) for_arch=$value ;;
		test_args) args=${value#[\"\']} args=${args%[\"\']} args=${args//\`date +%s\`/@NOW@} ;;
		esac
	done <<<"$section"
	[ "$for_arch" != "$arch" ] || [ -z "$file" ] || job "$1" "$file" "$smp" "$args" "$params"
}

name='' section=''
while IFS= read -r line; do
	case $line in
	'['*']') [ -z "$name" ] || group "$name"; name=${line#[} name=${name%]} section='' ;;
	'#'* | '') ;;
	*) section+=$line$'\n' ;;
	esac
done < <(cat "$dir/x86/unittests.cfg"; echo '[]')

# Sub-tests: the ones that the main file asks for by name, and the table. Some need a second processor.
{
	sed -nE 's/.*test_wanted\("([^"]*)".*/\1/p' "$dir/x86/vmx.c"
	sed -n '/struct vmx_test vmx_tests\[\]/,/^};/p' "$dir/x86/vmx_tests.c" | sed -nE 's/^\t(TEST\(([^)]*)\)|\{ "([^"]*)").*/\2\3/p'
} | while IFS= read -r name; do
	case $name in *thread* | *signal* | *eoi_bitmap* | *posted* | nmi_hlt) smp=2 ;; *) smp=1 ;; esac
	case $name in *execute_user_only | *execute_both) cpu=max,migratable=off,+vmx ;; *) cpu=max,+vmx ;; esac
	job "vmx:${name// /_}" vmx.flat $smp "${name// /_}" "-cpu $cpu -m 2560"
done
