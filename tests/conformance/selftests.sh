#!/bin/bash
# The kernel's KVM selftests: unpacks and builds them, and prints lines SUITE/NAME, tab, command. SUITE is kernel-VERSION.
# KERNEL_SOURCE: archives (linux-*.tar*) or directories; default: the packages linux-source-6.1 and -6.12 of Debian, taken
# from /usr/src, or else downloaded, which needs no root; one that cannot be had is skipped.
set -u

say() { echo "conformance: $*" >&2; }

debian_source() { # version
	local archive=/usr/src/linux-source-$1.tar.xz package=$work/packages/linux-source-$1
	[ -e "$archive" ] || archive=$package/usr/src/linux-source-$1.tar.xz
	if [ ! -e "$archive" ]; then
		mkdir -p "$package"
		say "fetching linux-source-$1"
		(cd "$package" && apt-get -qq -o APT::Sandbox::User=root download "linux-source-$1" && dpkg-deb -x linux-source-*.deb . && rm linux-source-*.deb) \
			>"$work/fetch.log" 2>&1 || { say "linux-source-$1 is not to be had here: skipped ($work/fetch.log)"; return; }
	fi
	echo "$archive"
}

# What the selftests need of an archive, less than half of it.
unpack() { # archive, directory
	local part excluded=(--anchored --no-wildcards-match-slash)
	for part in drivers sound Documentation fs net samples; do excluded+=(--exclude "*/$part"); done
	rm -rf "$2.new" && mkdir -p "$2.new" && say "unpacking ${1##*/}"
	tar -xf "$1" -C "$2.new" --strip-components=1 "${excluded[@]}" && mv "$2.new" "$2"
}

build() { # source; prints the directory of the programs
	local tests=$1/tools/testing/selftests/kvm
	[ -d "$tests" ] || { say "$1 has no selftests"; return 1; }
	if [ ! -e "$tests/.built-for-anykvm" ]; then
		say "building the selftests of ${1##*/}"
		# Programs that do not build here are left out.
		{ make -s -C "$1" headers && make -s -k -j"$(nproc)" -C "$tests"; } >"$work/build-${1##*/}.log" 2>&1
		touch "$tests/.built-for-anykvm"
	fi
	echo "$tests"
}

[ -n "${KERNEL_SOURCE+set}" ] || KERNEL_SOURCE="$(debian_source 6.1) $(debian_source 6.12)"
for source in $KERNEL_SOURCE; do
	if [ -f "$source" ]; then
		directory=${source##*/} directory=$work/${directory%.tar*}
		[ -d "$directory" ] || unpack "$source" "$directory" || { say "$source: not an archive of Linux"; exit 1; }
		source=$directory
	fi
	tests=$(build "$source") || exit
	version=$(sed -nE 's/^(VERSION|PATCHLEVEL) = //p' "$source/Makefile" | paste -sd.)
	# Not hardware_disable_test: 512 times 68 threads, to race with what the kernel does as its last KVM file is closed.
	(cd "$tests" && find . -type f -executable ! -name '*.sh' ! -name '*.[cho]' ! -name hardware_disable_test -printf '%P\n' | sort) | while IFS= read -r name; do
		printf 'kernel-%s/%s\tcd %q && %q run -- ./%s\n' "$version" "$name" "$tests" "$root/anykvm" "$name"
	done
done
