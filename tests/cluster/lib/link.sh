# shellcheck shell=bash
# cluster link: the network between two sites. Sourced by ../cluster after use_site.

# cross COMMAND... runs it with the arguments of each of the two rules that make up a cut.
cross() {
  "$@" -i "$BRIDGE" -o "$PEER" -j DROP
  "$@" -i "$PEER" -o "$BRIDGE" -j DROP
}

drop() { iptables -w -C FORWARD "$@" 2>/dev/null || iptables -w -I FORWARD "$@"; }
undrop() { while iptables -w -D FORWARD "$@" 2>/dev/null; do :; done; }

# Both bridges must be there: a rule may name one that is not, and would outlive the sites.
use_link() {
  need_up "$2"
  PEER=$BRIDGE
  need_up "$1"
  [[ $PEER != "$BRIDGE" ]] || die "--to names another site than --site"
}

link_cut() {
  use_link "$@"
  cross drop
  say "cut off from site $2"
}

link_mend() {
  use_link "$@"
  cross undrop
  say "connected to site $2"
}
