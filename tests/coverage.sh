#!/bin/bash
# How much of each room the unit and guest tests run through: lines and branches, from gcov. Used by `make coverage`.
# Usage: tests/coverage.sh BUILD TEST... (programs built with --coverage under BUILD)
set -u
export LC_ALL=C
build=$1 && shift
cd "$(dirname "$0")/.." || exit
find "$build" -name '*.gcda' -delete
for test; do
	printf '%s\n' "$test" >&2
	timeout 300 scripts/hide-kvm.sh "$test" >/dev/null 2>&1 </dev/null
done

# gcov -b prints, for each source: File '...', Lines executed:x% of n, Branches executed:..., Taken at least once:x% of n
printf '%-12s %18s %24s\n' room lines 'branches taken'
for room in "$build"/src/*/; do
	find "$room" -name '*.gcda' -exec gcov -n -b {} + 2>/dev/null | awk -v room="$(basename "$room")" '
		/^File/ { ours = $0 ~ "src/" room "/" }
		ours && /^Lines executed/ { match($0, /[0-9.]+%/); p = substr($0, RSTART, RLENGTH - 1); n = $NF; lines += n; run += p * n / 100 }
		ours && /^Taken at least once/ { match($0, /[0-9.]+%/); p = substr($0, RSTART, RLENGTH - 1); n = $NF; branches += n; taken += p * n / 100 }
		END { if (lines) printf "src/%-8s %6.1f %% of %6d %11.1f %% of %6d\n", room, 100 * run / lines, lines, branches ? 100 * taken / branches : 0, branches }'
done
