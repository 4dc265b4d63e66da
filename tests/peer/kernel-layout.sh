#!/bin/bash
# Holds tests/vmcs12_abi.h against a kernel's own vmcs12. Usage: kernel-layout.sh TREE-OR-TARBALL, for instance
# /usr/src/linux-source-6.1.tar.xz (Debian's package linux-source-6.1). Prints TAP.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit
. tests/tap.sh
source=${1:?usage: kernel-layout.sh TREE-OR-TARBALL}
files=(arch/x86/kvm/vmx/vmcs12.h arch/x86/kvm/vmx/vmcs12.c arch/x86/include/asm/vmx.h include/uapi/linux/kvm.h)
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
if [ -d "$source" ]; then
	for f in "${files[@]}"; do cp "$source/$f" "$tmp/" || exit; done
else
	tar -xf "$source" -C "$tmp" --strip-components=1 --wildcards "${files[@]/#/*/}" || exit
	for f in "${files[@]}"; do mv "$tmp/$f" "$tmp/" || exit; done
fi

# Lines "0xENCODING OFFSET".
sed -nE 's/^\s*([A-Z0-9_]+)\s*= (0x[0-9a-fA-F]{8}).*/E \1 \2/p' "$tmp/vmx.h" >"$tmp/facts"
sed -nE 's/^\s*CHECK_OFFSET\((\w+), ([0-9]+)\);/O \1 \2/p' "$tmp/vmcs12.h" >>"$tmp/facts"
sed -nE 's/^\s*FIELD(64)?\(([A-Z0-9_]+), (\w+)\),/F \2 \3/p' "$tmp/vmcs12.c" >>"$tmp/facts"
awk '$1 == "E" { encoding[$2] = $3 } $1 == "O" { offset[$2] = $3 }
     $1 == "F" { printf "0x%s %d\n", tolower(substr(encoding[$2], 7)), offset[$3] }' "$tmp/facts" | sort >"$tmp/kernel"
grep -oE '\{ 0x[0-9a-f]{4}, [0-9]+ \}' tests/vmcs12_abi.h | tr -d '{},' | awk '{ print $1, $2 }' | sort >"$tmp/ours"
fields=$(wc -l <"$tmp/kernel")

all_ours() { ! comm -23 "$tmp/kernel" "$tmp/ours" | sed 's/^/# only in the kernel: /' | grep .; }
check "$fields fields, more than 130" test "$fields" -gt 130
check 'each at the same offset' all_ours
check 'the same revision' grep -q 'VMCS12_REVISION 0x11e57ed0' "$tmp/vmcs12.h"
last=$(sed -nE 's/^\s*CHECK_OFFSET\(\w+, ([0-9]+)\);/\1/p' "$tmp/vmcs12.h" | sort -n | tail -1)
check 'the same size, after the last field' test $((last + 2)) = "$(sed -nE 's/.*ABI_KVM_SIZE = ([0-9]+).*/\1/p' tests/vmcs12_abi.h)"
finish
