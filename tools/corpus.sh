#!/usr/bin/env bash
# Usage: tools/corpus.sh [PACKAGE...]
#
# Keeps what fuzzing has found. Of the inputs that `make fuzz` left in the go
# command's cache, those that reach a statement of the target's package which
# neither the target's seeds nor a smaller input reaches are copied to
# testdata/fuzz, to be committed: `go test` runs them from then on. Inputs of more
# than 4 KiB are left out; one that fails is kept, and printed.
set -euo pipefail
cd "$(dirname "$0")/.."

most=4096
cache=$(go env GOCACHE)/fuzz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# reached PATTERN prints the statements that a run of it reaches, sorted.
reached() {
	"$work/test" -test.run "$1" -test.coverprofile="$work/profile" >&2 || return 1
	awk 'NR > 1 && $3 > 0 { print $1 }' "$work/profile" | sort -u
}

# keep TARGET: in its package's directory.
keep() {
	local found="$cache/$1/$2" kept="testdata/fuzz/$2" input size name
	reached "^$2\$" >"$work/known" 2>"$work/said" || { cat "$work/said" >&2; failed=1; }
	while read -r size input; do
		name=$(basename "$input")
		[ "$size" -le "$most" ] && [ ! -e "$kept/$name" ] || continue
		mkdir -p "$kept"
		cp "$input" "$kept/$name"
		if ! reached "^$2\$/^$name\$" >"$work/now" 2>"$work/said"; then
			cat "$work/said" >&2 # a bug that nobody has looked at: it is kept
			failed=1
		elif [ -n "$(comm -13 "$work/known" "$work/now")" ]; then
			sort -u -o "$work/known" "$work/known" "$work/now"
		else
			rm "$kept/$name"
		fi
	done < <(find "$found" -type f -printf '%s %p\n' 2>/dev/null | sort -k1,1n -k2)
	[ ! -d "$kept" ] || rmdir -p --ignore-fail-on-non-empty "$kept"
	echo "corpus: $1 $2: $(find "$kept" -type f 2>/dev/null | wc -l) inputs"
}

failed=0
[ $# -gt 0 ] || set -- ./...
while read -r package dir; do
	targets=$(grep -hoE '^func Fuzz[A-Za-z0-9]+' "$dir"/*_test.go 2>/dev/null | cut -d' ' -f2) || continue
	go test -c -cover -o "$work/test" "$package"
	for target in $targets; do
		pushd "$dir" >/dev/null
		keep "$package" "$target"
		popd >/dev/null
	done
done < <(go list -f '{{.ImportPath}} {{.Dir}}' "$@")
exit "$failed"
