# shellcheck shell=bash
# A node: a little host made of namespaces, with a /var, a /run, processes and a network of its own. Sourced by ../cluster.

# The numbers of the site's nodes, running or not.
nodes() {
  local node
  for ((node = 1; node <= MAX_NODE; node++)); do
    if [[ -d $DIR/node$node ]]; then echo "$node"; fi
  done
}

# exec_in_node COMMAND... runs it in the namespaces of the node in use, in place of this script. The process that
# start knows is unshare, whose child is the node's process 1.
exec_in_node() {
  local pid
  pid=$(pid_of "node$NODE_NUMBER") || die "$NODE is off"
  exec nsenter --target="$pid" --mount --uts --ipc --net --pid="/proc/$pid/ns/pid_for_children" -- "$@"
}

in_node() { (exec_in_node "$@"); }
ctr_node() { in_node ctr --namespace k8s.io "$@"; }

# Process 1 of a node. It is killed, never asked to end: that is how a node stops.
boot_node() {
  use_site "$1"
  use_node "$2"
  # The host's mounts below SHARED arrive here, and nothing goes back: unshare made all of this a slave of the host.
  mount --make-rshared /
  mkdir -p "$NODE_DIR"/var/{lib/{kubelet,containerd,backing,backing-shared},log,cache,tmp}
  chmod 1777 "$NODE_DIR/var/tmp"
  ln -sfn /run "$NODE_DIR/var/run"
  mount --rbind "$SHARED" "$NODE_DIR/var/lib/backing-shared"
  mount --rbind "$NODE_DIR/var" /var
  mount -t tmpfs -o mode=755 tmpfs /run
  cat /proc/sys/kernel/random/uuid >"/run/boot_id"
  mount --bind /run/boot_id /proc/sys/kernel/random/boot_id # how a kubelet knows that its machine was off
  echo "$NODE" >/proc/sys/kernel/hostname
  ip link set lo up
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
  ip addr add "$NODE_IP/24" dev eth0
  ip link set eth0 up
  ip route add default via "$HOST_IP"
  local other
  for ((other = 1; other <= MAX_NODE; other++)); do
    if ((other != NODE_NUMBER)); then ip route add "$(pod_range "$other")" via "$(node_ip "$other")"; fi
  done
  echo 1 >/proc/sys/net/ipv4/ip_forward
  keep containerd --config "$NODE_RUN/containerd.toml" &
  until [[ -e $NODE_RUN/go ]]; do sleep 0.05; done # the API server is there
  keep kubelet --config="$NODE_RUN/kubelet.yaml" --kubeconfig="$NODE_RUN/kubelet.conf" \
    --hostname-override="$NODE" --node-ip="$NODE_IP" --v=2 &
  # Requests that come to a service from elsewhere than this node's pods get the node's address, so that the
  # answer takes the same way back: the host and the other sites reach services through node 1.
  keep kube-proxy --kubeconfig="$NODE_RUN/proxy.conf" --hostname-override="$NODE" --proxy-mode=iptables \
    --detect-local-mode=ClusterCIDR --cluster-cidr="$(pod_range "$NODE_NUMBER")" --iptables-localhost-nodeports=false \
    --iptables-min-sync-period=100ms --conntrack-max-per-core=0 --conntrack-min=0 \
    --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 &
  keep attachable --node "$NODE" --volumes "$ATTACHABLE" --socket "$ATTACHABLE_SOCKET" &
  keep registrar attachable.cluster.local "$ATTACHABLE_SOCKET" /var/lib/kubelet/plugins_registry &
  touch /run/booted
  while true; do wait; sleep 1; done # and reap what lost its parent
}

# As the node sees it, and the kubelet.
ATTACHABLE_SOCKET=/var/lib/kubelet/plugins/attachable.cluster.local/csi.sock

# keep PROGRAM ARGUMENTS... runs a program of the node again whenever it ends, as systemd would.
keep() {
  local name=$1 command=("$LIBEXEC/hyper" "$@")
  case $name in
    containerd) command=("$@") ;;
    attachable | registrar) command=("$LIBEXEC/$@") ;;
  esac
  while true; do
    "${command[@]}" >>"$LOGS/node$NODE_NUMBER-$name.log" 2>&1 || true
    echo "cluster: $name ended, starting it again" >>"$LOGS/node$NODE_NUMBER-$name.log"
    sleep 1
  done
}

# plug_in PID makes the node's cable: one end is the node's eth0, the other is to be in the site's bridge. It fails until
# the process has a network of its own, or eth0 would be the machine's. What is left of an earlier run has the same name.
plug_in() {
  own_network "$1" || return 1
  ip link del "$VETH" || true
  # The node keeps its hardware address when it is booted again, or its neighbours would not find it for a while.
  ip link add "$VETH" type veth peer name eth0 address "02:00:0a:58:0$SITE:0$NODE_NUMBER" netns "$1"
}

connect_node() {
  wait_for 60 "the cable of $NODE" plug_in "$1"
  ip link set "$VETH" master "$BRIDGE" up
  ip route replace "$(pod_range "$NODE_NUMBER")" via "$NODE_IP" dev "$BRIDGE"
  # Services as the host and the other sites see them.
  if ((NODE_NUMBER == 1)); then ip route replace "10.96.$SITE.0/24" via "$NODE_IP" dev "$BRIDGE"; fi
}

# A copy made of links costs no space and no time. Only the databases are ever changed in place. A node that has
# another build's images gets a new copy, without the images that were loaded since.
copy_store() {
  local database
  cmp -s "$STORE/images" "$NODE_DIR/images" && return
  rm -rf "$NODE_DIR"/var/lib/containerd{,.new} "$NODE_DIR/loaded"
  mkdir -p "$NODE_DIR/var/lib"
  cp -al "$STORE/root" "$NODE_DIR/var/lib/containerd.new"
  while read -r database; do
    cp --remove-destination "$STORE/root/$database" "$NODE_DIR/var/lib/containerd.new/$database"
  done < <(cd "$STORE/root" && find . -name '*.db')
  mv "$NODE_DIR/var/lib/containerd.new" "$NODE_DIR/var/lib/containerd"
  cp "$STORE/images" "$NODE_DIR/images"
}

# power_on starts the namespaces and containerd; kubelet and kube-proxy wait for let_go.
power_on() {
  local pid
  mkdir -p "$NODE_RUN/cni"
  copy_store
  write_node_config
  make_cgroups "$NODE_CGROUP"
  start "node$NODE_NUMBER" unshare --mount --uts --ipc --net --pid --fork --kill-child --mount-proc \
    --propagation slave "$KIT/cluster" _node "$SITE" "$NODE_NUMBER"
  pid=$(pid_of "node$NODE_NUMBER") || die "$NODE did not start: see $LOGS/node$NODE_NUMBER.log"
  connect_node "$pid"
}

# A process that is just being executed does not tell its namespace: that is no other one.
own_network() {
  local network
  network=$(readlink "/proc/$1/ns/net") && [[ -n $network && $network != "$(readlink /proc/self/ns/net)" ]]
}
let_go() { touch "$NODE_RUN/go"; }

# power_off kills process 1, and the kernel then kills all others of the node before that one is gone.
power_off() {
  local pid init i device devices=''
  if pid=$(pid_of "node$NODE_NUMBER"); then
    devices=$(own_devices "$pid")
    init=$(<"/proc/$pid/task/$pid/children")
    # shellcheck disable=SC2086 # one number and a space
    kill -9 ${init:-$pid} 2>/dev/null || true
    for ((i = 0; i < 1200; i++)); do # a minute; a process may wait for a disk
      alive "node$NODE_NUMBER" || break
      sleep 0.05
    done
    alive "node$NODE_NUMBER" && echo "cluster: a process of $NODE does not end" >&2
  fi
  rm -f "$PIDS/node$NODE_NUMBER" "$NODE_RUN/go"
  ip link del "$VETH" 2>/dev/null || true
  remove_cgroups "$NODE_CGROUP" # a kubelet takes long to start where it finds those of dead containers
  # A loop device belongs to the kernel and outlives who attached it. On a node that has no power there is none: not
  # over files of its disk, not over the disks that are attached to it, not over what its own processes served.
  detach_loops "$NODE_DIR"
  local record
  for record in "$ATTACHABLE"/*/node; do
    if [[ -e $record && $(<"$record") == "$NODE" ]]; then detach_loops "${record%/node}"; fi
  done
  for device in $devices; do losetup -d "$device" 2>/dev/null || true; done
}

# own_devices PID prints the loop devices of PID and its descendants, those over others first: a device that another one
# is over goes only after that. They are those that the node has mounted, or has in a place of their own as block
# volumes are, and the host has not; those over a file that its engines serve; and the kubelet's, which are over such
# devices and mounted nowhere. What is mounted is read before and after, because mounts of the host appear in nodes.
own_devices() {
  local process before devices
  before=$(loops_mounted self)
  devices=$(
    for process in $(ps -e -o pid=,ppid= | awk -v root="$1" '
      { parent[$1] = $2 }
      END { for (p in parent) for (q = p; q > 1; q = parent[q]) if (q == root) { print p; break } }'); do
      loops_mounted "$process"
      served_file_systems "$process"
    done | sort -u | grep -vxFf <(echo "$before" && loops_mounted self && served_file_systems self) || true
  )
  loops_over "$devices"
}

# loops_over THINGS prints those of THINGS that are loop devices, and before them all loop devices over one of them:
# over the device itself, or over a file of the file system whose number (MAJ:MIN) is among them.
loops_over() {
  local things=$1 found='' dev device file_system inode
  dev=$(findmnt -rn -o MAJ:MIN --target /dev)
  while read -r device file_system inode; do
    if grep -qxF "$file_system" <<<"$things"; then things+=$'\n'$device; fi
  done < <(loop_files)
  while read -r device file_system inode; do
    if [[ $file_system == "$dev" ]] && grep -qxF "$(find /dev -xdev -maxdepth 1 -inum "$inode" -name 'loop*')" <<<"$things"; then
      found+=$device$'\n'
    fi
  done < <(loop_files)
  grep -h '^/dev/' <<<"$found$things" | awk '!seen[$0]++' || true
}

# served_file_systems PID prints the numbers of the FUSE file systems of engines that PID has mounted.
served_file_systems() {
  sed -nE 's#^[^ ]+ [^ ]+ ([0-9]+:[0-9]+) .* - fuse\.lockstep .*#\1#p' "/proc/$1/mountinfo" 2>/dev/null | sort -u || true
}

loops_mounted() {
  sed -nE -e 's#^[^ ]+ [^ ]+ [^ ]+ /(loop[0-9]+) .* - devtmpfs .*#/dev/\1#p' -e 's#.* - [^ ]+ (/dev/loop[0-9]+) .*#\1#p' \
    "/proc/$1/mountinfo" 2>/dev/null || true
}

node_ready() {
  [[ $(kubectl_admin get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

lease_time() { kubectl_admin -n kube-node-lease get lease "$NODE" -o 'jsonpath={.spec.renewTime}' 2>/dev/null || true; }

# A node that was off may still count as Ready; so its kubelet must also have been heard of since BEFORE.
node_back() { [[ $(lease_time) != "$BEFORE" ]] && node_ready; }

need_node() {
  need_up "$1"
  use_node "$2"
  [[ -d $NODE_DIR ]] || die "there is no $NODE: run 'cluster up --site $SITE --nodes $NODE_NUMBER'"
}

node_stop() {
  need_node "$@"
  lock_site
  alive "node$NODE_NUMBER" || die "$NODE is off already"
  power_off
  say "$NODE is off"
}

node_start() {
  need_node "$@"
  lock_site
  if alive "node$NODE_NUMBER"; then say "$NODE is on already" && return; fi
  BEFORE=$(lease_time)
  power_on
  let_go
  wait_for 90 "$NODE" node_back
  say "$NODE is Ready"
}

node_cut() {
  need_node "$@"
  ip link set "$VETH" down || die "$NODE is off"
  say "$NODE is cut off"
}

node_mend() {
  need_node "$@"
  ip link set "$VETH" up || die "$NODE is off"
  say "$NODE is connected"
}

node_exec() {
  need_node "$1" "$2"
  shift 2
  (($#)) || die "node exec -- COMMAND..."
  exec_in_node "$@"
}
