#!/bin/sh
# Installs what the demo and the tests with real devices and databases need and
# this machine does not have. Says nothing when nothing is missing. Debian and
# Ubuntu; elsewhere it names the programs to install.
set -eu

# Each line: a program that must be found, and the Debian package that has it.
wanted='
postgres             postgresql
fio                  fio
mkfs.ext4            e2fsprogs
mkfs.xfs             xfsprogs
qemu-img             qemu-utils
qemu-storage-daemon  qemu-system-common
nbdcopy              libnbd-bin
nbdkit               nbdkit
losetup              util-linux
'

# PATH of a user or of cron may lack the directories of system programs, and
# Debian keeps PostgreSQL's out of PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

found() {
    case "$1" in
    postgres) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

programs='' packages=''
while read -r program package; do
    [ -n "$program" ] || continue
    if ! found "$program"; then
        programs="$programs $program" packages="$packages $package"
    fi
done <<LIST
$wanted
LIST
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: missing:$programs; there is no apt-get here, install them yourself (Debian calls the packages$packages)" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "setup: missing:$programs; not root: run \`sudo $0\` or \`sudo apt-get install$packages\`" >&2
    exit 1
fi

echo "setup: installing$packages" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # one word per package
if ! { apt-get update -qq && apt-get install -qq --no-install-recommends $packages; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: apt-get failed, see above" >&2
    exit 1
fi
