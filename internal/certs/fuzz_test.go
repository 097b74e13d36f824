package certs

import "testing"

// FuzzBundle: what is no certificate is an error, and never an empty bundle.
func FuzzBundle(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := parseBundle(CertFile, b)
		if err == nil && (len(found) == 0 || found[0] == nil) {
			t.Fatalf("%d certificates", len(found))
		}
		if key, err := parseKey(KeyFile, b); err == nil && key == nil {
			t.Fatal("no key, and no error")
		}
	})
}
