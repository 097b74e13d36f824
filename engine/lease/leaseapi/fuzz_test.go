package leaseapi

import (
	"net/http"
	"testing"
)

// FuzzAnswer: whatever an API server says is a lease with a version, or an error.
func FuzzAnswer(f *testing.F) {
	f.Add(http.StatusOK, []byte(`{"metadata":{"resourceVersion":"7"},"spec":{"holderIdentity":"a"}}`))
	f.Add(http.StatusOK, []byte(`{"metadata":{"resourceVersion":""}}`))
	f.Add(http.StatusConflict, []byte(`{}`))
	f.Add(http.StatusForbidden, []byte(`{"message":"no"}`))
	f.Fuzz(func(t *testing.T, code int, answer []byte) {
		if r, err := decode(code, answer); err == nil && (code != http.StatusOK || r.Version == "") {
			t.Fatalf("status %d is %+v", code, r)
		}
	})
}
