#!/usr/bin/env bash
# Usage: tools/lint.sh [golangci-lint arguments]
#
# Runs golangci-lint in the version that tools/versions.env names, and builds it
# into out/tools first where neither that nor PATH has it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/versions.env

has_version() { "$1" version 2>/dev/null | grep -qF "version ${GOLANGCI_LINT_VERSION#v} "; }

lint=$PWD/out/tools/golangci-lint
if ! [ -x "$lint" ] || ! has_version "$lint"; then
	if found=$(command -v golangci-lint) && has_version "$found"; then
		lint=$found
	else
		echo "lint: building golangci-lint $GOLANGCI_LINT_VERSION" >&2
		GOBIN=$PWD/out/tools go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT_VERSION"
	fi
fi
# Other work trees on this machine may be linted at the same time.
"$lint" run --allow-parallel-runners "$@"
