#!/usr/bin/env bash
# Usage: tools/test.sh [go test arguments, or packages]
#
# Runs the tests with a temporary directory of their own, looks afterwards
# whether anything was left behind, and ends with why those failed that did, and
# the line
#
#     N passed, N failed, N skipped
#
# Without arguments it runs all tests. TEST_TIMEOUT bounds a package, TEST_JOBS
# says how many packages run at once, and with TEST_LIVE what tests say is printed
# as they say it.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p out
# Short, because the sockets that tests make below it are limited to 107 bytes.
# Searchable, because PostgreSQL runs as another user.
dir=$(mktemp -d /tmp/ls-XXXXXX)
chmod 0711 "$dir"
LOOPS_BEFORE=$(tests/check-clean.sh --lost | tr '\n' ' ')
export LOOPS_BEFORE
summary=$(mktemp "$PWD/out/tally-XXXXXX")

finish() {
	status=$?
	trap - EXIT INT TERM HUP
	if ! tests/check-clean.sh --remove "$dir"; then
		echo "test: the tests left something behind, see above" >&2
		status=1
	fi
	rm -rf --one-file-system "$dir"
	# The last line of all, whatever happened.
	if [ -s "$summary" ]; then
		cat "$summary"
	fi
	rm -f "$summary"
	exit "$status"
}
# end passes a signal on to the tests: a shell that waits for a command would
# not act on it before the command has ended.
run=
end() {
	trap '' INT TERM HUP
	if [ -n "$run" ]; then
		kill -TERM -- "-$run" 2>/dev/null || true
		wait "$run" || true
	fi
	exit "$1"
}
trap finish EXIT
trap 'end 130' INT
trap 'end 143' TERM HUP

if [ $# -eq 0 ]; then
	set -- ./...
fi
go build -o out/tally ./tools/tally
# -exec: only the tests get the directory. The go command keeps what it has, or
# test binaries that run from there would be what a test left behind; and its
# GOTMPDIR is not theirs, because t.TempDir prefers that to TMPDIR. -vet=off:
# `make lint` does that, and more.
set -m # gives what follows a process group of its own
(
	go test -json -count=1 -vet=off -exec "env --unset=GOTMPDIR TMPDIR=$dir" \
		-timeout "${TEST_TIMEOUT:-10m}" -p "${TEST_JOBS:-2}" "$@" </dev/null |
		out/tally ${TEST_LIVE:+-live} -summary "$summary"
) &
run=$!
set +m
wait "$run"
