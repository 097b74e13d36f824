#!/usr/bin/env bash
# Usage: tools/generate.sh [--check]
#
# Writes what is generated and committed:
#
#     api/v1alpha1/zz_generated.deepcopy.go     from api/v1alpha1
#     deploy/charts/lockstep/files/crds/*.yaml  from api/v1alpha1
#     deploy/manifests/{crds,lockstep}.yaml     from deploy/charts/lockstep
#
# With --check it changes nothing, and fails when a file is not what would be
# written. Code from .proto files is `make proto`'s, which needs protoc.
set -euo pipefail
cd "$(dirname "$0")/.."

check=
case ${1:-} in
--check) check=yes ;;
"") ;;
*)
	echo "usage: tools/generate.sh [--check]" >&2
	exit 2
	;;
esac

crds=deploy/charts/lockstep/files/crds
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

controller_gen=$(tools/tool.sh controller-gen)
mkdir -p "$new/api" "$new/crds" "$new/manifests"
"$controller_gen" object paths=./api/v1alpha1 output:object:dir="$new/api"
"$controller_gen" crd paths=./api/v1alpha1 output:crd:dir="$new/crds"

# put NEW OLD makes OLD what NEW is, or says that it is not.
stale=0
put() {
	if diff -ruN "$2" "$1" >"$new/diff"; then
		return
	fi
	if [ -n "$check" ]; then
		sed -e "s#$new/#generated/#" "$new/diff" | head -n 60 >&2
		stale=1
		return
	fi
	rm -rf "$2"
	mkdir -p "$(dirname "$2")"
	cp -r "$1" "$2"
	echo "generate: wrote $2"
}
# chart ARGUMENTS... prints the chart with its default values.
helm=$(tools/tool.sh helm)
export HELM_CACHE_HOME=$new/helm HELM_CONFIG_HOME=$new/helm HELM_DATA_HOME=$new/helm
chart() {
	cat <<-END
		# Generated from deploy/charts/lockstep by tools/generate.sh, with the chart's default values.
		# Apply namespace.yaml, crds.yaml and lockstep.yaml in this order.
	END
	"$helm" template lockstep deploy/charts/lockstep --namespace lockstep "$@"
}

put "$new/api/zz_generated.deepcopy.go" api/v1alpha1/zz_generated.deepcopy.go
put "$new/crds" "$crds"
# After the definitions, which the chart has in it.
chart --show-only templates/crds.yaml >"$new/manifests/crds.yaml"
chart --set crds.install=false >"$new/manifests/lockstep.yaml"
put "$new/manifests/crds.yaml" deploy/manifests/crds.yaml
put "$new/manifests/lockstep.yaml" deploy/manifests/lockstep.yaml

if [ "$stale" -ne 0 ]; then
	echo "generate: files differ from what is generated, see above: run \`make generate\`" >&2
	exit 1
fi
