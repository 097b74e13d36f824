#!/usr/bin/env bash
# Usage: tools/fuzz.sh [DURATION]
#
# Runs every fuzz target for DURATION, 10s unless given. Inputs that fail are
# kept by the go command below testdata/fuzz, to be committed as cases.
set -euo pipefail
cd "$(dirname "$0")/.."

each=${1:-10s}
# An input that reaches new code is made smaller first, for a minute unless told
# otherwise: of inputs of a block and more, a target would try none but that.
minimize=20x
failed=0
targets=0
while IFS=: read -r file line; do
	name=${line#func }
	name=${name%%(*}
	package=./$(dirname "$file")
	targets=$((targets + 1))
	echo "fuzz: $package $name for $each"
	go test -run='^$' -fuzz="^$name\$" -fuzztime="$each" -fuzzminimizetime="$minimize" "$package" || failed=$((failed + 1))
done < <(git ls-files -co --exclude-standard '*_test.go' | xargs grep -E '^func Fuzz[A-Z]' -- | sed 's/:func/:func/')
echo "fuzz: $targets targets, $failed failed"
[ "$targets" -gt 0 ] && [ "$failed" -eq 0 ]
