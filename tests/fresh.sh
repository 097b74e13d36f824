#!/usr/bin/env bash
# Usage: tests/fresh.sh [--suite SUITE] [--mirror URL] [--components LIST] [COMMAND...]
#
# Runs COMMANDs, `make demo` and `make test` unless given, on a machine that has
# nothing but what README.md asks for: a root file system that debootstrap makes
# (Debian's SUITE, bookworm unless given, as small as it gets), this machine's
# Go, git and make, and a clone of what is committed here. Needs root and
# debootstrap.
#
# The machine is a directory, and mount and process namespaces of its own that
# end with it. The kernel, /dev and /sys are this machine's.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != --inside ]; then
	# The first process of the namespace ends everything in it by ending.
	exec unshare --mount --pid --fork --kill-child --propagation slave "$0" --inside "$@"
fi
shift
suite=bookworm
mirror='' # debootstrap's own
components=main
while [ $# -gt 0 ]; do
	case $1 in
	--suite) suite=$2 && shift 2 ;;
	--mirror) mirror=$2 && shift 2 ;;
	--components) components=$2 && shift 2 ;;
	-*) sed -n "2,/^set/s/^# \\{0,1\\}//p" "$0" >&2 && exit 2 ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || set -- "make demo" "make test"

mount -t proc proc /proc
root=$(mktemp -d "${TMPDIR:-/var/tmp}/lockstep-fresh-XXXXXX")
trap 'cd / && umount --lazy --recursive "$root" 2>/dev/null; rm -rf --one-file-system "$root"' EXIT
chmod 0755 "$root" # it is a root directory, for every user
# A mount point of its own is a root that can be seen in /proc/mounts.
mount --bind "$root" "$root"

echo "fresh: $suite from ${mirror:-the default mirror}"
debootstrap --variant=minbase --components="$components" --include=git,make,ca-certificates "$suite" "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 ||
	{ tail -n 20 "$root.log" >&2 && exit 1; }
mv "$root.log" "$root/var/log/debootstrap.log"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
# Authorities of this machine's network, where it has any.
cp -r /usr/local/share/ca-certificates "$root/usr/local/share/"
chroot "$root" update-ca-certificates >/dev/null
mkdir -p "$root/usr/local/go" "$root/mnt/modules"
mount --bind "$(go env GOROOT)" "$root/usr/local/go"
mount -o remount,bind,ro "$root/usr/local/go"
# Modules that this machine has need not be fetched again.
modules=$(go env GOMODCACHE)/cache/download
mkdir -p "$modules"
mount --bind "$modules" "$root/mnt/modules"
mount -o remount,bind,ro "$root/mnt/modules"
git clone --quiet . "$root/root/lockstep"

inside() {
	env -i HOME=/root TERM="${TERM:-dumb}" PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		GOPROXY="file:///mnt/modules,$(go env GOPROXY)" \
		chroot "$root" /bin/bash -c "$1"
}

# shellcheck disable=SC2016 # expanded inside
echo "fresh: $(inside '. /etc/os-release; echo "$PRETTY_NAME"'), $(inside 'dpkg-query --show' | wc -l) packages"
for command; do
	echo "fresh: \$ $command"
	inside "cd /root/lockstep && $command"
done
