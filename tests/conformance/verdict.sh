#!/bin/bash
# What came of one program: prints NAME, RESULT, CHECKS, REMARK with tabs between. RESULT is pass, skip, FAIL, or
# expected: a failure that is in the list `expected`, whose reason becomes the remark.
# Usage: verdict.sh NAME STATUS LOG
set -u
name=$1 status=$2 log=$3 result='' remark=''

# kvm-unit-tests end by isa-debug-exit, whose status is odd; 77 skips. The kernel's selftests end with 4 to skip.
case $name:$status in
*:124 | *:137) result=FAIL remark="not done in $LIMIT seconds" ;;
kut*:1 | kernel*:0) result=pass ;;
kut*:155 | kut*:77 | kernel*:4) result=skip ;;
*) result=FAIL remark="status $status" ;;
esac
checks=$(sed -nE 's/^SUMMARY: ([0-9]+) tests.*/\1/p' "$log" | tail -n 1)
[ -n "$checks" ] || checks=$(grep -cE '^(PASS|XPASS|FAIL)|^ok ' "$log")
[ "$checks" = 0 ] && checks=-
[ "$result" = pass ] && grep -q '^FAIL' "$log" && result=FAIL
case $result in
skip)
	remark=$(sed -nE 's/.*SKIP:? *-? *//p' "$log" | head -n 1)
	[ -n "$remark" ] || remark=$(grep -vE '^(filter|SUMMARY|Random|$)' "$log" | tail -n 1) ;;
FAIL) remark=$(grep -m1 '^FAIL' "$log" || echo "$remark") ;;
esac

# Lines of the list: pattern of the name, tab, reason.
if [ "$result" = FAIL ]; then
	while IFS=$'\t' read -r pattern reason; do
		[[ $pattern != '#'* && -n $pattern && $name == $pattern ]] && { result=expected remark=$reason; break; }
	done <"$here/expected"
fi
printf '%s\t%s\t%s\t%s\n' "$name" "$result" "$checks" "$remark"
