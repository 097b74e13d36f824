package v1alpha1_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// specCase is a spec, in YAML, and what the API server says of it: a part of
// the error, empty when it is taken.
type specCase struct{ spec, refused string }

var groupCases = []specCase{
	{"{}", ""},
	{"{checkpointInterval: 100ms, barrierTimeout: 1ms, window: 1m, journalSize: 64Mi, replicateTo: b}", ""},
	{"{checkpointInterval: 1h, barrierTimeout: 10s, window: 3650d, journalSize: 1Pi, replicateTo: site-2}", ""},
	{"{checkpointInterval: 1h, window: 1d}", ""},
	{"{journalSize: 0}", ""},
	{"{journalSize: 1.5Gi}", ""},
	{"{checkpointInterval: 99ms}", "must be 100ms to 1h"},
	{"{checkpointInterval: 3601s}", "must be 100ms to 1h"},
	{"{checkpointInterval: 1d}", "must be 100ms to 1h"},
	{"{checkpointInterval: 1}", "must be of type string"},
	{"{checkpointInterval: often}", "should match"},
	{"{barrierTimeout: 999us}", "must be 1ms to 10s"},
	{"{barrierTimeout: 10001ms}", "must be 1ms to 10s"},
	{"{barrierTimeout: 0s}", "must be 1ms to 10s"},
	{"{window: 59s}", "must be 1m to 3650d"},
	{"{window: 0d}", "must be 1m to 3650d"},
	{"{window: 3651d}", "must be 1m to 3650d"},
	{"{window: 87601h}", "must be 1m to 3650d"},
	{"{window: -1h}", "should match"},
	{"{window: 1m, checkpointInterval: 61s}", "window must not be shorter"},
	{"{history: '1s:1h,1m:24h,1h:7d'}", ""},
	{"{history: '1s:7d', window: 7d}", ""},
	{"{history: weekly}", "should match"},
	{"{history: '1s:1h,'}", "should match"},
	{"{history: ''}", "should match"},
	{"{journalSize: 63Mi}", "must be 0, or 64Mi to 1Pi"},
	{"{journalSize: 1}", "must be 0, or 64Mi to 1Pi"},
	{"{journalSize: -1Gi}", "must be 0, or 64Mi to 1Pi"},
	{"{journalSize: 2Pi}", "must be 0, or 64Mi to 1Pi"},
	{"{journalSize: big}", "should match"},
	{"{replicateTo: Site}", "should match"},
	{"{replicateTo: ''}", "at least 1 chars"},
	{"{interval: 1s}", `unknown field "spec.interval"`},
}

var siteCases = []specCase{
	{"{address: 'b.example.com:7443'}", ""},
	{"{address: '10.0.0.2:7443', replicaStorageClass: lockstep, tlsSecretName: peer-b}", ""},
	{"{address: '[2001:db8::2]:7443'}", ""},
	{"{address: 'b:65535'}", ""},
	{"{}", "spec.address: Required value"},
	{"{address: b.example.com}", "must be host:port"},
	{"{address: 'b.example.com:0'}", "must be host:port"},
	{"{address: 'b.example.com:65536'}", "must be host:port"},
	{"{address: 'b.example.com:https'}", "must be host:port"},
	{"{address: ':7443'}", "must be host:port"},
	{"{address: '2001:db8::2:7443'}", "must be host:port"},
	{"{address: 'https://b.example.com:7443'}", "must be host:port"},
	{"{address: 'b:1', tlsSecretName: ''}", "at least 1 chars"},
	{"{address: 'b:1', site: b}", `unknown field "spec.site"`},
}

var recoveryCases = []specCase{
	{"{action: Rewind, group: shop, at: '2026-11-22T10:41:07Z'}", ""},
	{"{action: Rewind, group: shop, at: '2026-11-22T10:41:07.123456789+01:00', workloads: Keep}", ""},
	{"{action: Rewind, group: shop, at: '1234', workloads: Scale}", ""},
	{"{action: Rewind, group: shop, at: latest}", ""},
	{"{action: Rewind, group: shop, at: 'pin:before-upgrade'}", ""},
	{"{action: Undo, group: shop}", ""},
	{"{action: Undo, group: shop, workloads: Keep}", ""},
	{"{action: Commit, group: shop}", ""},
	{"{action: Failover, group: shop}", ""},
	{"{action: Failover, group: shop, at: latest}", ""},
	{"{action: Rewind, group: shop}", "a Rewind needs the moment to go to"},
	{"{action: Undo, group: shop, at: latest}", "only a Rewind and a Failover have a moment"},
	{"{action: Commit, group: shop, at: latest}", "only a Rewind and a Failover have a moment"},
	{"{action: Commit, group: shop, workloads: Scale}", "only a Rewind and an Undo touch workloads"},
	{"{action: Failover, group: shop, workloads: Scale}", "only a Rewind and an Undo touch workloads"},
	{"{action: Rewind, group: shop, at: yesterday}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: '2026-11-22T10:41:07'}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: '2026-11-22 10:41:07Z'}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: '2026-13-22T10:41:07Z'}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: '0'}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: 'pin:'}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: ''}", "must be an RFC 3339 time"},
	{"{action: Rewind, group: shop, at: latest, workloads: Kill}", "Unsupported value"},
	{"{action: Restart, group: shop}", "Unsupported value"},
	{"{action: Undo, group: ''}", "at least 1 chars"},
	{"{action: Undo}", "spec.group: Required value"},
	{"{group: shop}", "spec.action: Required value"},
	{"{action: Undo, group: shop, dryRun: true}", `unknown field "spec.dryRun"`},
}

func TestSpecValidation(t *testing.T) {
	s := startServer(t)
	for kind, cases := range map[string][]specCase{
		"ConsistencyGroup": groupCases, "Site": siteCases, "Recovery": recoveryCases,
	} {
		for _, c := range cases {
			t.Run(kind+" "+c.spec, func(t *testing.T) {
				_, err := s.make(t, kind, "case", c.spec)
				checkRefused(t, err, c.refused)
			})
		}
	}
}

// checkRefused wants err to be the API server's refusal with that text, or
// none where it is empty.
func checkRefused(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("taken, want it refused with %q", want)
	case want != "" && (!apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want a refusal with %q", err, want)
	}
}

func TestSiteName(t *testing.T) {
	s := startServer(t)
	for name, refused := range map[string]string{
		"b": "", "site-2": "", strings.Repeat("x", 63): "",
		"b.example.com": "the name must have", strings.Repeat("x", 64): "the name must have",
	} {
		_, err := s.make(t, "Site", name, "{address: 'b:1'}")
		checkRefused(t, err, refused)
	}
}

// TestChanges makes an object with one spec and changes it to another.
func TestChanges(t *testing.T) {
	s := startServer(t)
	cases := []struct{ kind, from, to, refused string }{
		{"ConsistencyGroup", "{}", "{window: 7d, checkpointInterval: 2s, barrierTimeout: 20ms, journalSize: 10Gi}", ""},
		{"ConsistencyGroup", "{}", "{replicateTo: b}", ""},
		{"ConsistencyGroup", "{replicateTo: b}", "{}", ""},
		{"ConsistencyGroup", "{replicateTo: b}", "{replicateTo: b, window: 2h}", ""},
		{"ConsistencyGroup", "{replicateTo: b}", "{replicateTo: c}", "replicateTo cannot be changed"},
		{"Site", "{address: 'b:1'}", "{address: 'c:2', replicaStorageClass: other}", ""},
		{"Recovery", "{action: Undo, group: shop}", "{action: Undo, group: shop}", ""},
		{"Recovery", "{action: Undo, group: shop}", "{action: Commit, group: shop}", "cannot be changed: make another"},
		{"Recovery", "{action: Failover, group: shop}", "{action: Failover, group: shop, at: '7'}", "cannot be changed: make another"},
	}
	for _, c := range cases {
		t.Run(c.kind+" "+c.from+" to "+c.to, func(t *testing.T) {
			o, err := s.make(t, c.kind, "change", c.from)
			if err != nil {
				t.Fatal(err)
			}
			o.Object["spec"] = object(t, "spec: "+c.to).Object["spec"]
			_, err = s.of(o).Update(t.Context(), o, metav1.UpdateOptions{})
			checkRefused(t, err, c.refused)
		})
	}
}
