#!/usr/bin/env bash
# Usage: tools/e2e-external.sh DRIVER.yaml [flags of ginkgo]
#
# Runs the External Storage suite of Kubernetes, in the version that tests/cluster/go/go.mod names, with a driver
# definition in the cluster of KUBECONFIG_A, and ends with "N passed, N failed, N skipped". `make e2e-external` calls it
# through tools/e2e.sh, which makes the cluster. EXTERNAL_PROCS (4) tests run at once, and only those whose name has
# EXTERNAL_FOCUS, a regular expression.
#
# LOCKSTEP_KIT and LOCKSTEP_KIT_SITES say that it is the kit's, whose nodes have no registry: the images that the
# suite's pods run are then made here. If the definition is of Lockstep, the chart is installed there, with the classes
# of tests/e2e/external-classes.yaml. In other clusters driver and classes have to be there.
set -euo pipefail
cd "$(dirname "$0")/.."

driver=$(realpath "$1")
shift
out=$PWD/out/e2e-external
mkdir -p "$out"

module() { (cd tests/cluster/go && GOWORK=off GOFLAGS=-buildvcs=false CGO_ENABLED=0 go "$@"); }

# image NAME prints the reference under which the suite's pods ask for it.
image() {
	local manifest
	manifest=$(module list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/utils/image/manifest.go
	sed -nE "s#.*configs\[$1\] = Config\{list.PromoterE2eRegistry, \"([^\"]*)\", \"([^\"]*)\"\}#registry.k8s.io/e2e-test-images/\1:\2#p" "$manifest"
}

# write_sync FILE writes the command sync of the suite's pods. A machine of its own syncs its own file systems; the kit's
# nodes have one kernel, whose sync(2) would wait for all of the host's, hung ones and those of others among them. So this
# one syncs the volumes that its pod has.
write_sync() {
	cat >"$1" <<'EOF'
#!/bin/sh
if [ $# -gt 0 ]; then exec busybox sync "$@"; fi
while read -r _ dir type _; do
	case $type in
	ext4 | xfs) if [ -d "$dir" ]; then busybox sync -f "$dir" || exit 1; fi ;;
	esac
done </proc/mounts
EOF
}

echo "e2e-external: building the suite"
module test -c -trimpath -ldflags '-s -w' -o "$out/external-storage.test" ./external
module build -trimpath -ldflags '-s -w' -o "$out/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
if [ -n "${LOCKSTEP_KIT:-}" ]; then
	module build -trimpath -ldflags '-s -w' -o "$out/agnhost" k8s.io/kubernetes/test/images/agnhost
	write_sync "$out/sync"
	"$LOCKSTEP_KIT" image "$out/agnhost.tar" "$(image Agnhost),$(image AgnhostPrev)" '["/agnhost"]' "$out/sync:/usr/bin/sync=755" base "$out/agnhost:/agnhost"
	# Of the others the suite uses the shell and its tools. It counts with let, which Debian's sh has not, and reads past
	# the page cache, which busybox's dd cannot.
	"$LOCKSTEP_KIT" image "$out/shell.tar" "$(image BusyBox),$(image Nginx),$(image GlibcDnsTesting)" '[]' \
		tool:bash link:bash:/usr/bin/sh tool:dd tool:sha256sum tool:base64 "$out/sync:/usr/bin/sync=755" base
	for image in agnhost shell; do
		"$LOCKSTEP_KIT" load "$out/$image.tar" --site "${LOCKSTEP_KIT_SITES%% *}"
	done
	PATH=${CLUSTER_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep-cluster}/bin:$PATH
	if grep -q 'Name: csi.lockstep.dev' "$driver"; then
		# Few volumes a node, because one test attaches as many as a node can have.
		KUBECONFIG=$KUBECONFIG_A "$(tools/tool.sh helm)" upgrade --install lockstep deploy/charts/lockstep \
			--namespace lockstep --create-namespace --values tests/e2e/values-kit.yaml --set node.maxVolumes=24 --wait
		kubectl --kubeconfig "$KUBECONFIG_A" apply -f tests/e2e/external-classes.yaml
	fi
fi
# Skipped are tests that restart kubelets over ssh, and those of volume populators, whose image is not one that can be
# made here. In the background, so that a signal to this shell ends the suite at once.
suite=
trap 'if [ -n "$suite" ]; then kill -TERM "$suite" 2>/dev/null; wait "$suite"; fi' EXIT
trap 'exit 143' INT TERM HUP
status=0
(cd / && exec timeout --kill-after=30s "${TEST_TIMEOUT:-120m}" "$out/ginkgo" --procs="${EXTERNAL_PROCS:-4}" --timeout="${TEST_TIMEOUT:-120m}" \
	-v --no-color --focus "External Storage \\[Driver.*${EXTERNAL_FOCUS:-}" --skip '\[Disruptive\]|\[Feature:Windows\]|any volume data source' \
	--junit-report=report.xml --output-dir="$out" "$@" "$out/external-storage.test" -- -kubeconfig "$KUBECONFIG_A" -storage.testdriver "$driver") \
	>"$out/log" 2>&1 &
suite=$!
wait "$suite" || status=$?
suite=
grep -E '^(•|  \[(FAIL|PANICKED|TIMEDOUT)\])|^Ran [0-9]+ of|^\[FAILED\]' "$out/log" || true
line=$(sed -nE 's/^(FAIL!|SUCCESS!).* -- ([0-9]+) Passed \| ([0-9]+) Failed \| [0-9]+ Pending \| ([0-9]+) Skipped.*/\2 passed, \3 failed, \4 skipped/p' "$out/log")
if [ -z "$line" ]; then
	tail -n 30 "$out/log" >&2
	echo "e2e-external: the suite did not end" >&2
	exit 1
fi
echo "e2e-external: the whole output is in $out/log"
echo "$line"
exit "$status"
