package certs

import (
	"fmt"
	"net"
	"regexp"
)

// dnsName allows one leading wildcard label, as RFC 6125 section 6.4.3 does.
var dnsName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// maxDNSNameBytes is the longest name of RFC 1035 section 2.3.4, without the
// trailing dot.
const maxDNSNameBytes = 253

// splitHosts sorts hosts into IP addresses and DNS names. A host with a port
// or a zone is ErrHost: neither can be in a certificate.
func splitHosts(hosts []string) (ips []net.IP, names []string, err error) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			ips = append(ips, ip)
			continue
		}
		if len(host) > maxDNSNameBytes || !dnsName.MatchString(host) {
			return nil, nil, fmt.Errorf("%w %q: want an IP address or a DNS name, without a port", ErrHost, host)
		}
		names = append(names, host)
	}
	return ips, names, nil
}
