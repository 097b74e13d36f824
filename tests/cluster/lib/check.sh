# shellcheck shell=bash
# cluster check: what keeps sites from running on this machine. Sourced by ../cluster.

CHECK_MEMORY=2      # GiB that must be available
CHECK_DISK=3        # GiB for programs, images and nodes
CHECK_DISK_BUILD=12 # GiB in all while nothing is built: the Go caches grow as well

# Each finding is a line; none means that sites can run.
check() {
  local found
  install_packages >&2
  mkdir -p "$HOME_DIR"
  modprobe -a overlay bridge veth loop xfs fuse 2>/dev/null || true # built in, on some kernels
  found=$(
    check_machine
    check_space
    check_kernel
    check_addresses
  )
  [[ -z $found ]] && return
  printf 'cluster: sites cannot run on this machine:\n%s\n' "$found" >&2
  return 1
}

check_machine() {
  [[ $(uname -s) == Linux ]] || echo "the system is $(uname -s), not Linux"
  command -v go >/dev/null || echo "there is no Go compiler in PATH"
}

# space FOLDER prints the GiB that are free there.
space() { df --output=avail --block-size=G "$1" | tail -n 1 | tr -dc '[:digit:]'; }

check_space() {
  local free want=$CHECK_DISK memory
  free=$(space "$HOME_DIR")
  [[ -r $HOME_DIR/built ]] || want=$CHECK_DISK_BUILD
  ((free >= want)) || echo "$HOME_DIR has $free GiB free, and $want are needed; CLUSTER_HOME names another place"
  memory=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
  ((memory >> 20 >= CHECK_MEMORY)) || echo "$((memory >> 10)) MiB of memory are available, and $CHECK_MEMORY GiB are needed"
}

check_kernel() {
  local dir file_system message
  # Each in a namespace of its own, which takes with it what was made.
  message=$(unshare --mount --uts --ipc --net --pid --fork true 2>&1) ||
    { echo "no new namespaces (mount, uts, ipc, net, pid): $message; a container needs --privileged" && return; }
  dir=$(mktemp -d "$HOME_DIR/check-XXXXXX")
  mkdir "$dir"/{lower,upper,work,merged}
  message=$(unshare --mount mount -t overlay overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/merged" 2>&1) ||
    echo "overlayfs over $HOME_DIR ($(findmnt -n -o FSTYPE --target "$HOME_DIR")): ${message//$'\n'/ }; CLUSTER_HOME may name a place on ext4 or xfs"
  rm -rf "$dir"
  for file_system in xfs ext4 overlay; do
    grep -qw "$file_system" /proc/filesystems || echo "the kernel has no file system $file_system"
  done
  message=$(unshare --net sh -c 'ip link add name br0 type bridge && ip link add name ve0 type veth peer name ve1' 2>&1) ||
    echo "no network devices of kinds bridge and veth: $message"
  message=$(unshare --net sh -c 'iptables -w -t nat -S && iptables -w -S' 2>&1 >/dev/null) ||
    echo "iptables with filter and nat tables: $message"
  [[ -w /dev/loop-control ]] || echo "/dev/loop-control is not there: no loop devices; a container needs --privileged"
  check_cgroups
}

check_cgroups() {
  local dir
  for dir in $(cgroups "lockstep-check-$$"); do
    { mkdir "$dir" && rmdir "$dir"; } 2>/dev/null || echo "no cgroup can be made at ${dir%/*}"
  done
}

# The kit's own interfaces are called lockstep…
check_addresses() {
  ip -o -4 addr | grep -E ' 10\.(88|96)\.' | grep -v ' lockstep[0-9]' | awk '{ print "the address " $4 " of " $2 " is in the ranges that sites use" }'
  ss -Hltn 'sport = :443' 2>/dev/null | grep -E '(\*|0\.0\.0\.0|\[::\]):443' | sed 's/.*/a program listens on port 443 of all addresses/' || true
}
