#!/usr/bin/env bash
# Usage: tools/tool.sh controller-gen|helm
#
# Prints the path of that program in the version that tools/versions.env names,
# after building it into out/tools where it is not yet there.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/versions.env

case ${1:-} in
controller-gen) package=sigs.k8s.io/controller-tools/cmd/controller-gen version=$CONTROLLER_TOOLS_VERSION ;;
helm) package=helm.sh/helm/v4/cmd/helm version=$HELM_VERSION ;;
*)
	echo "usage: tools/tool.sh controller-gen|helm" >&2
	exit 2
	;;
esac

tool=$PWD/out/tools/$1
# The module's version is compiled in.
if ! [ -x "$tool" ] || ! go version -m "$tool" | grep -qE "^[[:space:]]mod[[:space:]].*[[:space:]]${version//./\\.}[[:space:]]"; then
	echo "tools: building $1 $version" >&2
	GOBIN=$PWD/out/tools CGO_ENABLED=0 go install "$package@$version"
fi
echo "$tool"
