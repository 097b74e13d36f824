# shellcheck shell=bash
# cluster status and cluster left: what runs, and what should not be there any more. Sourced by ../cluster.

# status prints the numbers of the nodes that run, on one line, and nothing for a site that is not up.
status() {
  use_site "$1"
  local node running=()
  if [[ ! -d $RUN ]] || ! alive apiserver; then return 0; fi
  for node in $(nodes); do
    if alive "node$node"; then running+=("$node"); fi
  done
  if ((${#running[@]})); then echo "${running[*]}"; fi
}

# left fails and names what a site left on the machine that is down.
left() {
  use_site "$1"
  local found
  [[ ! -d $RUN ]] || die "site $SITE is not down"
  found=$(
    left_processes
    left_mounts
    left_loops
    left_network
    left_cgroups
  )
  [[ -z $found ]] && return
  printf 'cluster: site %s left behind:\n%s\n' "$SITE" "$found" >&2
  return 1
}

# A process of a site names its folder, or the node's program does that it was started by.
left_processes() {
  local proc
  for proc in /proc/[0-9]*; do
    if grep -qzF "$DIR/" "$proc/cmdline" 2>/dev/null; then
      echo "process ${proc#/proc/}: $(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null)"
    fi
  done
}

left_mounts() { findmnt -rn -o TARGET | grep -F "$DIR/" | sed 's/^/mount /'; }

# A device is shown with the path that its file has for the one who asks. A file below a mount that is gone
# has none, and is nobody's as far as this can tell.
left_loops() {
  local file
  for file in /sys/block/loop*/loop/backing_file; do
    if grep -qF "$DIR/" "$file" 2>/dev/null; then echo "loop device $(cut -d/ -f4 <<<"$file"): $(<"$file")"; fi
  done
}

left_network() {
  local link owner
  owner=$(bridge_owner)
  [[ -z $owner || $owner == "$HOME_DIR" ]] || return 0 # a site of the same number that is somebody else's
  for link in /sys/class/net/"$BRIDGE" /sys/class/net/"$BRIDGE"n*; do
    if [[ -e $link ]]; then echo "network interface ${link##*/}"; fi
  done
  iptables -w -S FORWARD | grep -E -- "-[io] $BRIDGE( |\$)" | sed 's/^/iptables /'
}

left_cgroups() {
  local dir
  for dir in $(cgroups "$CGROUP"); do
    if [[ -d $dir ]]; then echo "cgroup $dir"; fi
  done
}
