#!/usr/bin/env bash
# Usage: tools/tool.sh NAME VERSION PACKAGE
#
# Prints the path of a Go program in that version, which is built into
# out/tools first where it is not yet there.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1 version=$2 package=$3
tool=$PWD/out/tools/$name
# The module's version is compiled in.
if ! [ -x "$tool" ] || ! go version -m "$tool" | grep -qE "^[[:space:]]mod[[:space:]].*[[:space:]]${version//./\\.}[[:space:]]"; then
	echo "tools: building $name $version" >&2
	GOBIN=$PWD/out/tools CGO_ENABLED=0 go install "$package@$version"
fi
echo "$tool"
