#!/usr/bin/env bash
# Usage: tools/e2e-images.sh DIR LOCKSTEP_IMAGE TOOLS_IMAGE
#
# Writes DIR/lockstep.tar and DIR/tools.tar, the two images that tests/e2e needs, from bin and from what is
# installed on this machine. tests/e2e/tools.Dockerfile makes the same tools image where there is a registry.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$1 lockstep=$2 tools=$3
cluster=tests/cluster/cluster
mkdir -p "$dir"

"$cluster" image "$dir/lockstep.tar" "$lockstep" '["/usr/local/bin/lockstep"]' base \
	bin/lockstep:/usr/local/bin/lockstep=755 link:lockstep:/usr/local/bin/kubectl-lockstep \
	bin/lockstep-engine:/usr/local/bin/lockstep-engine=755

bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin | sort -V | tail -n 1)
if [ ! -x "$bin/postgres" ]; then
	echo "e2e: PostgreSQL is not installed: run tests/setup.sh" >&2
	exit 1
fi
version=$(basename "$(dirname "$bin")")
newline=$'\n'
# The files of users come first, because base has some of its own.
items=(
	"text:/etc/passwd:root:x:0:0:root:/root:/bin/sh${newline}postgres:x:999:999:PostgreSQL:/tmp:/bin/sh${newline}"
	"text:/etc/group:root:x:0:${newline}postgres:x:999:${newline}"
	link:/tmp:/var/run/postgresql # where PostgreSQL has its socket if it is not told otherwise
	base tool:fio "/usr/share/postgresql/$version:/usr/share/postgresql/$version" /usr/share/zoneinfo:/usr/share/zoneinfo
)
for program in postgres initdb psql pgbench pg_amcheck pg_checksums pg_controldata pg_isready pg_waldump; do
	items+=("tool:$bin/$program" "link:$bin/$program:/usr/local/bin/$program")
done
for library in "/usr/lib/postgresql/$version/lib"/*.so; do
	case ${library##*/} in
	llvmjit*) ;; # a hundred megabytes of compiler; PostgreSQL does without
	*) items+=("library:$library") ;;
	esac
done
# SIGINT is what asks PostgreSQL and fio to end at once, and in order.
"$cluster" image "$dir/tools.tar" "$tools" '[]' stop:SIGINT "${items[@]}"
