#!/bin/sh
# Makes build/guest/: Debian's stock kernel and the initramfs images of L1 and L2, from Debian packages only.
# The kernel package is downloaded and unpacked, never installed. Usage: scripts/guest-images.sh [DIRECTORY]
set -eu
cd "$(dirname "$0")/.."
out=${1:-build/guest}
mkdir -p "$out"
fail() { echo "guest-images: $*" >&2; exit 1; }
for tool in cpio dpkg-deb apt-get qemu-system-x86_64; do
	command -v $tool >/dev/null || fail "$tool is missing: run scripts/install-packages.sh"
done
busybox=/bin/busybox
[ -x $busybox ] || fail "$busybox is missing: run scripts/install-packages.sh (package busybox-static)"
cpio_of() { (cd "$1" && find . -print0 | sort -z | cpio --null --quiet -o -H newc --reproducible) >"$2"; }

if [ ! -e "$out/vmlinuz" ] || [ -z "$(find "$out/kernel" -name "e1000.ko*" 2>/dev/null)" ]; then
	kernel_package() { apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -n 1; }
	package=$(kernel_package)
	[ -n "$package" ] || [ "$(id -u)" != 0 ] || { apt-get update -qq && package=$(kernel_package); }
	[ -n "$package" ] || fail "apt does not know linux-image-amd64: run apt-get update"
	echo "guest-images: downloading $package"
	tmp=$(mktemp -d)
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "$package") || fail "cannot download $package"
	rm -rf "$out/kernel" && mkdir -p "$out/kernel"
	dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$out/kernel" --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/arch/x86/kvm' \
		'./lib/modules/*/kernel/virt' './lib/modules/*/kernel/drivers/crypto/ccp' './lib/modules/*/kernel/drivers/char/hw_random' \
		'./lib/modules/*/kernel/drivers/net/ethernet/intel/e1000'
	rm -rf "$tmp"
	cp "$out"/kernel/boot/vmlinuz-* "$out/vmlinuz"
fi

# A base tree: busybox and an init script.
base() {
	rm -rf "$1"
	mkdir -p "$1/bin" "$1/dev" "$1/proc" "$1/sys" "$1/tmp"
	cp $busybox "$1/bin/busybox"
	for a in sh mount cat echo poweroff reboot insmod uname grep sed mkdir sleep dmesg ls nproc cut date head tail mknod \
		cpio find ip md5sum mkfifo seq taskset; do
		ln -sf busybox "$1/bin/$a"
	done
	cp "demo/$2" "$1/init"
	cp demo/beat "$1/beat"
	chmod +x "$1/init"
	# The console must exist before devtmpfs is mounted; a device node in the archive needs root, so init mounts it first.
}

base "$out/l2-root" l2-init
cpio_of "$out/l2-root" "$out/l2.cpio"

base "$out/l1-root" l1-init
r=$out/l1-root
cp "$out/vmlinuz" "$out/l2.cpio" "$r/"
mkdir -p "$r/modules" "$r/usr/bin" "$r/usr/share/seabios" "$r/usr/share/qemu" "$r/lib64"
for m in irqbypass kvm kvm-intel rng-core ccp kvm-amd e1000; do
	find "$out/kernel/lib/modules" -name "$m.ko*" -exec cp {} "$r/modules/" \;
done
qemu=$(command -v qemu-system-x86_64)
cp "$qemu" "$r/usr/bin/"
ldd "$qemu" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/lib64[^ ]*\).*/\1/p' | sort -u | while read -r lib; do
	mkdir -p "$r$(dirname "$lib")"
	cp -L "$lib" "$r$lib"
done
cp -L /usr/share/seabios/bios-256k.bin /usr/share/seabios/bios.bin "$r/usr/share/seabios/"
cp -L /usr/share/qemu/kvmvapic.bin /usr/share/qemu/linuxboot_dma.bin "$r/usr/share/qemu/"
for f in bios-256k.bin bios.bin; do ln -sf ../seabios/$f "$r/usr/share/qemu/$f"; done
cpio_of "$r" "$out/l1.cpio"
echo "guest-images: $out/vmlinuz, l1.cpio ($(du -m "$out/l1.cpio" | cut -f1) MiB), l2.cpio"
