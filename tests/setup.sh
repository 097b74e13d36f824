#!/bin/sh
# Usage: setup.sh [--devices] [--cgo]
#
# Installs what the demo and the tests with real devices and databases need and
# this machine does not have. Says nothing when nothing is missing. Debian and
# Ubuntu; elsewhere it names the programs to install.
#
# --devices fails first where no block device can be made: for what is no use
# without. The tests skip what needs them instead, and say so.
# --cgo wants a C compiler too, for the race detector.
set -eu

# Each line: a program that must be found, and the Debian package that has it.
wanted='
postgres             postgresql
fio                  fio
mkfs.ext4            e2fsprogs
mkfs.xfs             xfsprogs
mkfs.btrfs           btrfs-progs
stress-ng            stress-ng
qemu-img             qemu-utils
qemu-storage-daemon  qemu-system-common
nbdcopy              libnbd-bin
nbdkit               nbdkit
losetup              mount
authorities          ca-certificates
'
devices=''
for arg; do
    case "$arg" in
    --devices) devices=yes ;;
    --cgo)
        wanted="$wanted
gcc                  gcc
cc-headers           libc6-dev
"
        ;;
    *)
        echo "usage: setup.sh [--devices] [--cgo]" >&2
        exit 2
        ;;
    esac
done

# PATH of a user or of cron may lack the directories of system programs, and
# Debian keeps PostgreSQL's out of PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

found() {
    case "$1" in
    postgres) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ;;
    authorities) # of the Go module proxy's certificate; where Go looks for them, see crypto/x509
        [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || [ -e /etc/ssl/cert.pem ]
        ;;
    cc-headers) [ -e /usr/include/stdlib.h ] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# need_device fails unless a device can be opened, which also loads its module
# where there is one. $2 is the module.
need_device() {
    if ! [ -c "$1" ]; then # the shell would make a file of that name
        error="no such device"
    else
        ! error=$( (: <>"$1") 2>&1) || return 0
    fi
    echo "setup: $1 cannot be opened (${error##*: }): load it with \`modprobe $2\`; in a container pass --privileged" >&2
    return 1
}

if [ -n "$devices" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup: not root: block devices are attached and mounted here; run it with sudo" >&2
        exit 1
    fi
    # Bit 21 is CAP_SYS_ADMIN, which mounting needs, see capabilities(7).
    capabilities=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    if [ $((0x$capabilities >> 21 & 1)) = 0 ]; then
        echo "setup: root may not mount here: in a container pass --privileged" >&2
        exit 1
    fi
    status=0
    need_device /dev/fuse fuse || status=1
    need_device /dev/loop-control loop || status=1
    [ "$status" = 0 ] || exit "$status"
fi

go=${GO:-go}
if ! command -v "$go" >/dev/null 2>&1; then
    version=$(sed -n 's/^go //p' "$(dirname "$0")/../go.mod")
    echo "setup: $go is not in PATH: install Go $version or newer, see https://go.dev/doc/install (Debian's own is too old)" >&2
    exit 1
fi

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
# Only PostgreSQL's programs are wanted, not a server that runs from now on.
no_cluster=/etc/postgresql-common/createcluster.d/lockstep-setup.conf
trap 'rm -f "$log" "$no_cluster"; rmdir -p "${no_cluster%/*}" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p "${no_cluster%/*}"
echo 'create_main_cluster = false' >"$no_cluster"
export DEBIAN_FRONTEND=noninteractive
# A machine that has just booted may be installing upgrades: wait for that.
install='apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=300'
# shellcheck disable=SC2086 # one word per package
if ! { apt-get update -qq && $install $packages; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: apt-get failed, see above" >&2
    exit 1
fi
