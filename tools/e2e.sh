#!/usr/bin/env bash
# Usage: tools/e2e.sh [go test arguments, such as -run '^TestKit']
#        tools/e2e.sh external [DRIVER.yaml [flags of the suite]]
#
# Runs the tests of tests/e2e in real clusters, prints what they say as they say it, and ends with why those failed
# that did, and the line
#
#     N passed, N failed, N skipped
#
# Without KUBECONFIG_A it makes the clusters with tests/cluster, as root, and takes them down again whatever happens;
# a site that is up already is used and stays up. The second form runs the External Storage suite of Kubernetes instead. It fails if anything is left in the clusters or on the machine.
# tests/e2e/README.md lists the variables that it takes.
set -euo pipefail
cd "$(dirname "$0")/.."

kit=$PWD/tests/cluster/cluster
read -r -a sites <<<"${E2E_SITES:-1 2}"
read -r -a nodes <<<"${E2E_NODES:-2 1}"
timeout=${TEST_TIMEOUT:-25m}
tests=  # the process that runs the tests
reader= # the one that counts them
up=()   # sites that this run started, and has to take down

say() { echo "e2e: $* (after $SECONDS s)"; }

mkdir -p out
work=$(mktemp -d /tmp/ls-e2e-XXXXXX)
LOOPS_BEFORE=$(tests/check-clean.sh --lost | tr '\n' ' ')
export LOOPS_BEFORE
summary=$work/summary

finish() {
	status=$?
	trap - EXIT
	trap '' INT TERM HUP # a second one must not leave half of this undone
	if [ -n "$tests" ]; then
		end_tests
	fi
	if [ ${#up[@]} -gt 0 ] && [ -n "${E2E_KEEP:-}" ]; then
		say "E2E_KEEP is set: sites ${up[*]} stay up, with what the tests left in them"
	else
		for site in "${up[@]}"; do
			timeout --kill-after=10s 3m "$kit" down --site "$site" --wipe || status=1
			timeout 1m "$kit" left --site "$site" || status=1
		done
	fi
	tests/check-clean.sh --remove "$work" || status=1
	if [ -s "$summary" ]; then
		if [ "$status" -ne 0 ] && grep -q ', 0 failed,' "$summary"; then
			echo "e2e: the tests passed, but something else failed, see above" >&2
		fi
		cat "$summary"
	fi
	rm -rf --one-file-system "$work"
	exit "$status"
}
# end_tests has the tests take away what they made in the clusters, which matters where those are not taken down.
end_tests() {
	local i
	kill -TERM "$tests" 2>/dev/null || true
	for ((i = 0; i < 600; i++)); do
		kill -0 "$tests" 2>/dev/null || break
		sleep 0.2
	done
	kill -KILL "$tests" 2>/dev/null || true
	wait "$tests" "$reader" || true
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# claim_sites keeps a second run from using the same sites, whose names and addresses are the machine's. In ascending
# order, so that no two runs wait for each other. What the kit starts must not inherit the locks, hence 8>&- 9>&- below.
claim_sites() {
	local dir=/run/lock ordered
	[ -w "$dir" ] || dir=/tmp
	mapfile -t ordered < <(printf '%s\n' "${sites[@]}" | sort -nu)
	exec 8>"$dir/lockstep-e2e-site${ordered[0]}"
	claim 8 "${ordered[0]}"
	if [ ${#ordered[@]} -gt 1 ]; then
		exec 9>"$dir/lockstep-e2e-site${ordered[1]}"
		claim 9 "${ordered[1]}"
	fi
}

claim() {
	flock --nonblock "$1" && return
	say "another run uses site $2; waiting for it"
	flock --wait 3600 "$1" || { echo "e2e: it did not end within an hour" >&2 && exit 1; }
}

kit() { "$kit" "$@" 8>&- 9>&-; }

kubeconfig() (
	eval "$(kit env --site "$1")"
	echo "${KUBECONFIG:?}"
)

make_clusters() {
	local i site
	claim_sites
	kit check
	timeout --kill-after=10s 60m "$kit" build 8>&- 9>&-
	say "images"
	export LOCKSTEP_IMAGE=localhost/lockstep:e2e LOCKSTEP_TOOLS_IMAGE=localhost/lockstep-e2e-tools:e2e
	tools/e2e-images.sh "$work" "$LOCKSTEP_IMAGE" "$LOCKSTEP_TOOLS_IMAGE" 8>&- 9>&-
	for i in "${!sites[@]}"; do
		site=${sites[i]}
		if [ -z "$(kit status --site "$site")" ]; then
			# Before anything is made, so that a start which fails is cleared away as well.
			up+=("$site")
			kit down --site "$site" --wipe
		fi
		kit up --site "$site" --nodes "${nodes[i]:-1}"
		kit load "$work/lockstep.tar" --site "$site"
		kit load "$work/tools.tar" --site "$site"
	done
	KUBECONFIG_A=$(kubeconfig "${sites[0]}")
	KUBECONFIG_B=${sites[1]:+$(kubeconfig "${sites[1]}")}
	export KUBECONFIG_A KUBECONFIG_B
	PATH=${CLUSTER_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep-cluster}/bin:$PATH # its kubectl
	export LOCKSTEP_KIT=$kit LOCKSTEP_KIT_SITES="${sites[*]}"
	export LOCKSTEP_BACKING_CLASSES=${LOCKSTEP_BACKING_CLASSES:-backing-wffc backing-immediate backing-shared backing-attachable}
}

if [ "${1:-}" = external ]; then
	shift
	sites=("${sites[0]}") # one is enough
	if [ -z "${KUBECONFIG_A:-}" ]; then
		make_clusters
	fi
	say "External Storage suite"
	TMPDIR=$work tools/e2e-external.sh "${@:-tests/e2e/external-storage.yaml}" 8>&- 9>&- &
	tests=$!
	reader=$tests
	wait "$tests" && status=0 || status=$?
	tests=
	exit "$status"
fi
go build -o "$work/tally" ./tools/tally
# Compiled before the clusters use the processors, and not counted as tests' time.
go test -c -tags e2e -vet=off -o "$work/e2e.test" ./tests/e2e
say "compiled"
if [ -z "${KUBECONFIG_A:-}" ]; then
	make_clusters
fi
say "tests"
flags=()
for flag in "$@"; do
	# The go command's names of flags; a test binary has them with a prefix.
	case $flag in -run | -run=* | -skip | -skip=* | -count=* | -failfast | -parallel=*) flag=-test.${flag#-} ;; esac
	flags+=("$flag")
done
mkfifo "$work/output"
go tool test2json -t -p github.com/lockstep-csi/lockstep/tests/e2e <"$work/output" 8>&- 9>&- |
	"$work/tally" -live -summary "$summary" 8>&- 9>&- &
reader=$!
# The directory is the package's, as under go test. In the background, so that a signal to this shell is heeded at once.
(cd tests/e2e && TMPDIR=$work exec "$work/e2e.test" -test.v=test2json -test.timeout "$timeout" -test.parallel "${E2E_PARALLEL:-6}" "${flags[@]}" >"$work/output" 2>&1 8>&- 9>&-) &
tests=$!
wait "$tests" || true # what failed is in the output
tests=
wait "$reader"
