# For scripts that start QEMUs, talk to their monitors and move guests between them. They set:
#   case   the test's name in the output
#   out    an empty directory: of each QEMU NAME.log (its console), NAME.mon (its monitor's answers), NAME.err
#   limit  how many seconds a QEMU may live
. tests/tap.sh
prefix="$case: " pids=()
trap 'for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done' EXIT

skip_all() { echo "ok 1 - $case # SKIP $1"; echo 1..1; exit 0; }

# ---- one QEMU ----

# NAME: the monitor (QMP) that QEMU has at the pair of pipes $out/NAME.
monitor() {
	local name=$1 fd
	mkfifo "$out/$name.in" "$out/$name.out"
	cat "$out/$name.out" >"$out/$name.mon" &
	pids+=($!)
	exec {fd}<>"$out/$name.in"
	declare -g "mon_$name=$fd"
}
greet() { local v=mon_$1; echo '{"execute":"qmp_capabilities"}' >&"${!v}"; }
# NAME, options of QEMU. Its console is NAME.log.
launch() {
	local name=$1
	shift
	monitor "$name"
	: >"$out/$name.log"
	timeout -k 5 "$limit" ./anykvm run ${RUN_ARGS:-} -- qemu-system-x86_64 -accel kvm -nodefaults -no-user-config -display none -no-reboot \
		-serial "file:$out/$name.log" -qmp "pipe:$out/$name" "$@" </dev/null >"$out/$name.err" 2>&1 &
	declare -g "pid_$name=$!"
	pids+=($!)
	greet "$name"
}
alive() { local v=pid_$1; kill -0 "${!v}" 2>/dev/null; }
answer() { grep -a "\"id\": $2[,}]" "$out/$1.mon"; }
# NAME COMMAND: says what the monitor answers to a command as a person would type it.
ask() {
	local v=mon_$1 id=${EPOCHREALTIME/./} command=${2//\"/\\\"}
	printf '{"execute":"human-monitor-command","id":%d,"arguments":{"command-line":"%s"}}\n' "$id" "$command" >&"${!v}"
	until_true 60 answer "$1" "$id" >/dev/null || echo "no answer"
	answer "$1" "$id" | sed 's/^{"return": "//; s/", "id": [0-9]*}.*//; s/\\r\\n/\n/g' | grep .
}
# NAME: ends it.
stop() {
	local p=pid_$1 v=mon_$1
	echo '{"execute":"quit"}' >&"${!v}"
	wait "${!p}"
	local fd=${!v}
	exec {fd}>&-
}
until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	while ! "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# ---- what L2 says ----

only_beats() { tr -d '\r' | grep -aE '^L[0-9]: beat [0-9]+ .* up [0-9.]+$'; }
beats() { only_beats <"$out/$1.log"; }
beat_count() { beats "$1" | wc -l; }
last_beat() { beats "$1" | tail -n 1 | cut -d' ' -f3; }
has_beats() { [ "$(beat_count "$1")" -ge "$2" ]; }
# Waits for N more beats of NAME. If they do not come, NAME.state tells where the processors are.
more_beats() {
	until_true 60 has_beats "$1" $(($(beat_count "$1") + $2)) && return
	for command in 'info status' 'info registers -a' 'info lapic 0' 'info lapic 1' 'info pic'; do ask "$1" "$command"; done >"$out/$1.state"
	return 1
}
# All beats of the logs NAME..., one after the other, are consecutive, their hashes agree and their clock does not go back.
steady() {
	local n
	for n; do cat "$out/$n.log"; done | only_beats | awk '
		NR > 1 && $3 != last + 1 { print "# beat " $3 " after " last; bad = 1 }
		{ last = $3; if (up > $NF) { print "# clock " $NF " after " up; bad = 1 } up = $NF
		  for (i = 4; i < NF - 1; i++) { if (!hash) hash = $i; if ($i != hash) { print "# hash " $i " in beat " $3; bad = 1 } } }
		END { exit bad || NR < 3 }'
}
complained() { grep -qaiE 'BUG:|Oops|stall|Call Trace|soft lockup|entry failed|internal error' "$out"/*.log "$out"/*.err; }
quiet() { ! complained; }

# ---- migration ----

status_is() { ask "$1" 'info migrate' | grep -q "^Migration status: $2"; }
ended() { status_is "$1" completed || status_is "$1" failed; }
# QEMU A to URI. True: it is there, and has said so.
send() {
	ask "$1" 'migrate_set_parameter max-bandwidth 2G'
	case $2 in unix:* | tcp:*) ask "$1" 'migrate_set_capability return-path on' ;; *) ask "$1" 'migrate_set_capability return-path off' ;; esac
	ask "$1" "migrate -d $2"
	until_true 120 ended "$1" && status_is "$1" completed
}
# A QEMU that must not take the stream ends with an error.
gives_up() {
	local v=pid_$1
	until_true 60 dead "$1" && ! wait "${!v}" && [ -s "$out/$1.err" ]
}
dead() { ! alive "$1"; }

