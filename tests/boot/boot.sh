#!/bin/bash
# Boot tests, one case a run: Debian's kernel under unmodified QEMU on anykvm. Usage: boot.sh CASE. Prints TAP.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
case=${1:?usage: boot.sh CASE}
build=${BUILD:-build} out=${BUILD:-build}/boot-tests/$case
mkdir -p "$out"
. tests/tap.sh
prefix="$case: "

says() { grep -qE -- "$1" "$out/l1.log"; }

# The demo with these settings. Its own checks are that the library is in QEMU, and that /dev/kvm is not open there.
l2() {
	check 'the demo ends well' env OUT="$out" TIMEOUT=240 "$@" demo/demo.sh
	check 'L1 sees an Intel processor with VMX' says '^L1: vendor GenuineIntel, VMX yes'
}

# L1 alone, with options of anykvm run and those of QEMU after --.
l1() {
	local options=()
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	timeout -k 5 120 ./anykvm run "${options[@]}" -- qemu-system-x86_64 -accel kvm -m 512 -nodefaults -no-user-config -display none \
		-no-reboot -serial stdio -kernel "$build/guest/vmlinuz" -initrd "$build/guest/l1.cpio" \
		-append 'console=ttyS0 panic=-1 quiet l1only' "$@" </dev/null 2>"$out/l0.log" | tr -d '\r' >"$out/l1.log"
	check 'L1 reaches user space' says '^L1-OK'
}

# Can the kernel's KVM be reached from here? /dev/null lies over the node in a hidden test (scripts/hide-kvm.sh).
node_is_hidden() { [ ! -e /dev/kvm ] || [ "$(stat -Lc %t:%T /dev/kvm)" = 1:3 ]; }

case $case in
host)
	l2 CPU=host
	check 'L1 uses APIC virtualization' says '^L1: kvm_intel enable_apicv=Y' ;;
haswell) l2 CPU=Haswell-noTSX-IBRS,vmx=on ;;
qemu64)
	l2 CPU=qemu64,+vmx
	check 'L1 has first-generation VT-x' says '^L1: kvm_intel ept=N' ;;
smp)
	l2 CPU=host SMP=2 L2SMP=2
	check 'L1 uses APIC virtualization' says '^L1: kvm_intel enable_apicv=Y'
	check 'two CPUs in L1' says '^L1: user space reached: .* 2 CPU'
	check 'two CPUs in L2' says '^L2: user space reached: .* 2 CPU' ;;
depth3)
	l2 CPU=host DEPTH=3
	check 'L2 sees an Intel processor with VMX' says '^L2: vendor GenuineIntel, VMX yes'
	check 'L3 reaches user space' says '^L3: user space reached'
	check 'L2 has VMCS shadowing' says '^L2: kvm_intel enable_shadow_vmcs=Y'
	check 'L2 uses APIC virtualization, too' says '^L2: kvm_intel enable_apicv=Y' ;;
depth3-no-shadow)
	l2 CPU=host DEPTH=3 RUN_ARGS='--param kvm_intel.enable_shadow_vmcs=0'
	check 'L3 reaches user space' says '^L3: user space reached'
	check 'L1 has no VMCS shadowing' says '^L1: kvm_intel enable_shadow_vmcs=N' ;;
depth4)
	l2 CPU=host DEPTH=4
	check 'L4 reaches user space' says '^L4: user space reached' ;;
no-ept)
	l2 CPU=host RUN_ARGS='--param kvm_intel.ept=0'
	check 'L1 has no EPT' says '^L1: kvm_intel ept=N' ;;
l1-32 | l1-32-qemu64)
	cpu=host ept=Y
	[ $case = l1-32 ] || cpu=qemu64,+vmx ept=N
	if [ ! -e "$build/guest-i386/l1.cpio" ]; then
		skip 'a 32-bit hypervisor' 'make images-i386 has not made its images'
	else
		l2 CPU=$cpu IMAGES="$build/guest-i386"
		check 'L1 is a 32-bit kernel with PAE' says '^L1: user space reached: .*-686-pae'
		check 'so is L2' says '^L2: user space reached: .*-686-pae'
		check "L1's KVM has ept=$ept" says "^L1: kvm_intel ept=$ept"
	fi ;;
strict)
	CPU=qemu64,+vmx RUN_ARGS='--param anykvm.strict_vmx_msrs=1' OUT=$out demo/demo.sh >"$out/demo.out"
	check "by the letter, kvm_intel does not load" says '^L1-FAILED: kvm-intel'
	check "the demo names the level and the log" grep -q "^The demo failed at level L1" "$out/demo.out" ;;
not-nested)
	l1 --param kvm_intel.nested=0 -- -cpu host
	check 'nested=0 hides VMX' says '^L1: .*VMX no'
	echo 'options kvm-intel nested=0' >"$out/modprobe.conf"
	l1 --modprobe "$out/modprobe.conf" -- -cpu host
	check 'nested=0 in a modprobe file hides VMX' says '^L1: .*VMX no' ;;
smm)
	for machine in pc q35; do
		l1 --trace cpu --trace-file "$out/$machine.trace" -- -M "$machine,smm=on" -cpu host
		check "SeaBIOS on $machine enters SMM" grep -q 'SMI at .*SMBASE 0x30000' "$out/$machine.trace"
		check 'and leaves it as often' [ "$(grep -c 'SMI at' "$out/$machine.trace")" = "$(grep -c 'RSM to' "$out/$machine.trace")" ]
		rm -f "$out/$machine.trace"
	done
	l1 --param anykvm.smm=0 --trace cpu --trace-file "$out/off.trace" -- -cpu host
	check 'anykvm.smm=0: nobody enters SMM' [ "$(grep -c 'SMI at' "$out/off.trace")" = 0 ]
	rm -f "$out/off.trace"
	timeout 20 ./anykvm run --param anykvm.smm=0 -- qemu-system-x86_64 -accel kvm -M q35,smm=on -display none -S </dev/null 2>"$out/refused.log"
	check 'and QEMU says so when it is told to' grep -q 'System Management Mode not supported' "$out/refused.log" ;;
irqchip)
	l1 -- -M kernel-irqchip=split -cpu host -smp 2
	check 'split irqchip: two CPUs' says '^L1: user space reached: .* 2 CPU'
	# One CPU: this QEMU never takes back a SIPI that it has sent, and its second processor's thread spins.
	l1 -- -M kernel-irqchip=off -cpu host
	check 'irqchip of the client' says '^L1: user space reached: .* 1 CPU' ;;
secure-boot)
	if [ ! -f /usr/share/OVMF/OVMF_CODE_4M.secboot.fd ]; then skip 'OVMF for secure boot' 'needs the package ovmf'; exit; fi
	cp /usr/share/OVMF/OVMF_VARS_4M.fd "$out/vars.fd"
	# With S3 it does the most of its first phase twice.
	timeout -k 5 500 ./anykvm run -- qemu-system-x86_64 -accel kvm -M q35,smm=on -cpu host -m 1024 -nodefaults -no-user-config \
		-global ICH9-LPC.disable_s3=1 -display none -serial stdio -global driver=cfi.pflash01,property=secure,value=on \
		-drive if=pflash,format=raw,unit=0,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd,readonly=on \
		-drive "if=pflash,format=raw,unit=1,file=$out/vars.fd" </dev/null >"$out/l1.log" 2>"$out/l0.log" &
	pid=$!
	while kill -0 $pid 2>/dev/null && ! says 'Shell>'; do sleep 1; done
	kill $pid 2>/dev/null
	wait $pid
	check "OVMF reaches its shell" says 'Shell>' ;;
anykvm-answers)
	# Only anykvm can call the processor so: neither the host nor a KVM of the kernel would.
	if node_is_hidden; then check "the kernel's /dev/kvm is hidden" true
	else skip "the kernel's /dev/kvm is hidden" 'needs root or user namespaces'; fi
	l1 --param anykvm.vendor=AnykvmAnykvm -- -cpu host
	check 'the guest sees anykvm' says '^L1: vendor AnykvmAnykvm,' ;;
*) echo "boot.sh: there is no case $case" >&2; exit 2 ;;
esac
finish
