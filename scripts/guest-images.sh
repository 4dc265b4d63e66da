#!/bin/sh
# Makes build/guest/: Debian's stock kernel and the initramfs images of L1 and L2, from Debian packages only.
# The kernel package is downloaded and unpacked, never installed. Usage: scripts/guest-images.sh [DIRECTORY [ARCHITECTURE]]
# With ARCHITECTURE i386 all of it is 32-bit: the PAE kernel, and QEMU and busybox from packages that are unpacked beside. apt's
# own state and the list of the machine's architectures stay as they are.
set -eu
cd "$(dirname "$0")/.."
out=${1:-build/guest} arch=${2:-amd64}
mkdir -p "$out"
out=$(cd "$out" && pwd)
fail() { echo "guest-images: $*" >&2; exit 1; }
for tool in cpio dpkg-deb apt-get qemu-system-x86_64 readelf; do
	command -v $tool >/dev/null || fail "$tool is missing: run scripts/install-packages.sh"
done
cpio_of() { (cd "$1" && find . -print0 | sort -z | cpio --null --quiet -o -H newc --reproducible) >"$2"; }
case $arch in
amd64) kernel=linux-image-amd64 sysroot='' state=
	apt() { "$@" -o APT::Sandbox::User=root; } ;;
i386) kernel=linux-image-686-pae sysroot=$out/packages state=$out/apt
	mkdir -p "$state/lists/partial" "$state/archives/partial" && : >"$state/status"
	apt() {
		"$@" -o APT::Architecture=i386 -o APT::Architectures=i386 -o APT::Sandbox::User=root -o Dir::State="$state" \
			-o Dir::State::status="$state/status" -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives"
	} ;;
*) fail "no images for $arch" ;;
esac
update() { apt apt-get -qq update || :; } # A source that has nothing for this architecture does not matter.

if [ ! -e "$out/vmlinuz" ] || [ -z "$(find "$out/kernel" -name "e1000.ko*" 2>/dev/null)" ]; then
	kernel_package() { apt apt-cache depends $kernel 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -n 1; }
	package=$(kernel_package)
	[ -n "$package" ] || [ -z "$state" -a "$(id -u)" != 0 ] || { update && package=$(kernel_package); }
	[ -n "$package" ] || fail "apt does not know $kernel: run apt-get update"
	echo "guest-images: downloading $package"
	tmp=$(mktemp -d)
	(cd "$tmp" && apt apt-get -qq download "$package") || fail "cannot download $package"
	rm -rf "$out/kernel" && mkdir -p "$out/kernel"
	dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$out/kernel" --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/arch/x86/kvm' \
		'./lib/modules/*/kernel/virt' './lib/modules/*/kernel/drivers/crypto/ccp' './lib/modules/*/kernel/drivers/char/hw_random' \
		'./lib/modules/*/kernel/drivers/net/ethernet/intel/e1000'
	rm -rf "$tmp"
	cp "$out"/kernel/boot/vmlinuz-* "$out/vmlinuz"
fi

# QEMU with all it depends on, into $sysroot.
if [ -n "$sysroot" ] && [ ! -e "$sysroot/usr/bin/qemu-system-x86_64" ]; then
	echo "guest-images: downloading QEMU for $arch"
	apt apt-get -qq -y -d --no-install-recommends -o Debug::NoLocking=1 install qemu-system-x86 busybox-static || fail 'cannot download QEMU'
	mkdir -p "$sysroot"
	for package in "$state"/archives/*.deb; do dpkg-deb --fsys-tarfile "$package" | tar -x -C "$sysroot" --exclude=./etc; done
	rm -f "$state"/archives/*.deb
fi
busybox=$sysroot/bin/busybox
[ -x "$busybox" ] || fail "$busybox is missing: run scripts/install-packages.sh (package busybox-static)"

# Prints the libraries that the program needs, as paths below $sysroot.
libraries() {
	if [ -z "$sysroot" ]; then
		ldd "$1" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/lib64[^ ]*\).*/\1/p'
		return
	fi
	echo /lib/ld-linux.so.2
	found=' ' next=$1
	while [ -n "$next" ]; do
		names=$(readelf -d $next | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u) next=
		for name in $names; do
			case $found in *" $name "*) continue ;; esac
			found="$found$name "
			for dir in /lib/i386-linux-gnu /usr/lib/i386-linux-gnu; do
				[ -e "$sysroot$dir/$name" ] && { echo "$dir/$name"; next="$next $sysroot$dir/$name"; break; }
			done
		done
	done
}

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
qemu=$sysroot/usr/bin/qemu-system-x86_64
cp "$qemu" "$r/usr/bin/"
libraries "$qemu" | sort -u | while read -r lib; do
	mkdir -p "$r$(dirname "$lib")"
	cp -L "$sysroot$lib" "$r$lib"
done
cp -L "$sysroot"/usr/share/seabios/bios-256k.bin "$sysroot"/usr/share/seabios/bios.bin "$r/usr/share/seabios/"
cp -L "$sysroot"/usr/share/qemu/kvmvapic.bin "$sysroot"/usr/share/qemu/linuxboot_dma.bin "$r/usr/share/qemu/"
for f in bios-256k.bin bios.bin; do ln -sf ../seabios/$f "$r/usr/share/qemu/$f"; done
cpio_of "$r" "$out/l1.cpio"
echo "guest-images: $out/vmlinuz, l1.cpio ($(du -m "$out/l1.cpio" | cut -f1) MiB), l2.cpio"
