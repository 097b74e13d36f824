package harness

import (
	"context"

	"github.com/lockstep-csi/lockstep/internal/loopback"
)

// Pair is two sites, a and b, that reach each other only through proxies.
type Pair struct {
	A, B *Site
	// ToA and ToB carry what is sent to that site.
	ToA, ToB *Proxy
}

// StartPair makes certificates and runs both sites.
func (e *Env) StartPair(ctx context.Context) (*Pair, error) {
	tls := e.Path("tls")
	if _, err := e.Lockstep(ctx, "certs", "--out", tls, "--site", "a="+loopback.Host(), "--site", "b="+loopback.Host()); err != nil {
		return nil, err
	}
	p := &Pair{}
	var listen, metrics [2]string
	for i, proxy := range []**Proxy{&p.ToA, &p.ToB} {
		for _, address := range []*string{&listen[i], &metrics[i]} {
			var err error
			if *address, err = loopback.Free(); err != nil {
				return nil, err
			}
		}
		var err error
		if *proxy, err = e.StartProxy(listen[i]); err != nil {
			return nil, err
		}
	}
	var err error
	p.A, err = e.StartSite(ctx, SiteConfig{Name: "a", Listen: listen[0], Metrics: metrics[0], TLSDir: tls + "/a", Peers: map[string]string{"b": p.ToB.Address}})
	if err != nil {
		return nil, err
	}
	p.B, err = e.StartSite(ctx, SiteConfig{Name: "b", Listen: listen[1], Metrics: metrics[1], TLSDir: tls + "/b", Peers: map[string]string{"a": p.ToA.Address}})
	return p, err
}
