#!/bin/sh
# Installs what building, testing and the demo need, if it is missing. Debian 12; needs root only when something is missing.
# install-packages.sh peers: what tests compare anykvm with, where it can be had (they are skipped without it).
set -eu
packages="gcc make libc6-dev libzydis-dev qemu-system-x86 qemu-utils seabios busybox-static cpio dpkg-dev groff-base"
[ "${1:-}" = peers ] && packages="bochs bochs-term bochsbios bsdutils"
missing=
for p in $packages; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "install-packages: missing:$missing -- run as root: apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
echo "install-packages: installing$missing"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
