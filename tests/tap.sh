# For shell tests: checks that print TAP. Sourced; $prefix, if set, stands before each description.
tests=0 failures=0 prefix=

check() { # description, command...
	local what=$1
	shift
	tests=$((tests + 1))
	if "$@"; then echo "ok $tests - $prefix$what"; else failures=$((failures + 1)); echo "not ok $tests - $prefix$what"; return 1; fi
}
skip() { tests=$((tests + 1)); echo "ok $tests - $prefix$1 # SKIP $2"; }
finish() { echo "1..$tests"; exit $((failures != 0)); }
