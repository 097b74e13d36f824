# shellcheck shell=bash
# What a site changes on the machine outside of its folder, and how that is undone. Sourced by ../cluster.

# Kernel settings that a kubelet or the bridge plugin changes; the first site saves them, the last restores
# them. The lock is for sites that come and go at the same moment.
KERNEL_SETTINGS=(
  vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes net/ipv4/ip_forward
)

save_host() (
  exec 9>"$HOME_DIR/host.lock"
  flock 9
  [[ -e $HOME_DIR/host.saved ]] && return
  for key in "${KERNEL_SETTINGS[@]}"; do
    if [[ -r /proc/sys/$key ]]; then echo "$key $(<"/proc/sys/$key")"; fi
  done >"$HOME_DIR/host.saved.new"
  mv "$HOME_DIR/host.saved.new" "$HOME_DIR/host.saved"
)

restore_host() (
  exec 9>"$HOME_DIR/host.lock"
  flock 9
  compgen -G "$HOME_DIR/site*/run" >/dev/null && return
  [[ -e $HOME_DIR/host.saved ]] || return 0
  while read -r key value; do
    echo "$value" >"/proc/sys/$key" || true
  done <"$HOME_DIR/host.saved"
  rm -f "$HOME_DIR/host.saved"
)

# cgroups NAME prints that cgroup in each version 1 hierarchy, or the one of version 2.
cgroups() {
  local dir
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    echo "/sys/fs/cgroup/$1"
    return
  fi
  for dir in /sys/fs/cgroup/*/; do
    if [[ ! -L ${dir%/} ]]; then echo "$dir$1"; fi # a link is another name of a joint hierarchy
  done
}

# make_cgroups NAME makes it and lets it use all controllers; the one above it is there already.
make_cgroups() {
  local controller file dir
  for dir in $(cgroups "$1"); do
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
      for controller in cpu cpuset io memory pids; do
        echo "+$controller" >"${dir%/*}/cgroup.subtree_control" 2>/dev/null || true
      done
    fi
    mkdir -p "$dir"
    for file in cpuset.cpus cpuset.mems; do # version 1 leaves them empty, and then no process may enter
      if [[ -e $dir/$file && -z $(<"$dir/$file") && -e $dir/../tasks ]]; then cat "$dir/../$file" >"$dir/$file"; fi
    done
  done
}

remove_cgroups() {
  local dir
  for dir in $(cgroups "$1"); do
    [[ -d $dir ]] || continue
    find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || echo "cluster: $dir is still in use" >&2
  done
}

# The names and addresses of a site are the machine's, so the bridge says whose it is.
bridge_owner() { cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null || true; }

make_network() {
  local owner
  if [[ ! -e /sys/class/net/$BRIDGE ]]; then
    ip link add "$BRIDGE" type bridge
    ip link set "$BRIDGE" alias "$HOME_DIR"
  else
    owner=$(bridge_owner)
    [[ $owner == "$HOME_DIR" ]] || die "site $SITE is in use with CLUSTER_HOME=$owner: take it down there, or use another number"
  fi
  ip addr replace "$HOST_IP/24" dev "$BRIDGE"
  ip addr replace "$SERVICE_IP/32" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  # For machines whose FORWARD policy is DROP: what comes from this site's pods may go to the other site's.
  iptables -w -C FORWARD -i "$BRIDGE" -j ACCEPT 2>/dev/null || iptables -w -I FORWARD -i "$BRIDGE" -j ACCEPT
}

remove_network() {
  local rule
  [[ $(bridge_owner) == "$HOME_DIR" ]] || return 0
  # Those of `link cut` as well, which name this site's bridge or the other's first.
  while read -r rule; do
    # shellcheck disable=SC2086 # a rule's words
    iptables -w -D $rule || true
  done < <(iptables -w -S FORWARD | sed -nE "s/^-A (.*-[io] $BRIDGE( .*|\$))/\1/p")
  ip link del "$BRIDGE" 2>/dev/null || true
}
