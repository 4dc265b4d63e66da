#!/bin/sh
# Runs a command where the kernel's /dev/kvm, if there is one, cannot be reached: /dev/null lies over it, for this
# command alone. Usage: scripts/hide-kvm.sh COMMAND [ARGS]. Needs root or user namespaces.
set -eu
[ -e /dev/kvm ] || exec "$@"
[ "$(id -u)" = 0 ] && how=-m || how=-rm
exec unshare $how sh -c 'mount --bind /dev/null /dev/kvm && exec "$@"' sh "$@"
