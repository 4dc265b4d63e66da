#!/bin/sh
# Runs the small guests under a parameter, but for those that start a process at each of their steps. Usage: under.sh NAME=VALUE
cd "$(dirname "$0")/../.." || exit
export ANYKVM_PARAMS="$1"
result=0
for t in "${BUILD:-build}"/tests/guest/*_test; do
	[ "${t##*/}" = sweep_test ] || timeout 120 "$t" || { result=1; echo "# $t failed under $ANYKVM_PARAMS"; }
done
exit $result
