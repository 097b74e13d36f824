package adminserver

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// TestPinsOfOthersAreNotTaken: a pin with a name of a rewind's would go with the next start
// of its group, and its point with it.
func TestPinsOfOthersAreNotTaken(t *testing.T) {
	s := New(Config{Site: noVolumes{}, Clock: clock.Wall{}})
	for _, pin := range []string{"fork:mine", "rewind:mine"} {
		if err := taken(t, s, pin); status.Code(err) != codes.InvalidArgument {
			t.Errorf("pin %s: %v, want InvalidArgument", pin, err)
		}
	}
}

// TestPinsThatNobodyCanTypeAreNotTaken: a list has a name a line, and a pin is dropped
// by its name.
func TestPinsThatNobodyCanTypeAreNotTaken(t *testing.T) {
	s := New(Config{Site: noVolumes{}, Clock: clock.Wall{}})
	for _, pin := range []string{"two\nlines", "a\ttab", "bell\a", strings.Repeat("x", 129)} {
		if err := taken(t, s, pin); status.Code(err) != codes.InvalidArgument {
			t.Errorf("pin %.20q: %v, want InvalidArgument", pin, err)
		}
	}
}

func taken(t *testing.T, s *Server, pin string) (err error) {
	t.Helper()
	defer func() {
		if reached := recover(); reached != nil {
			t.Errorf("pin %s reaches the site", pin)
		}
	}()
	_, err = s.TakePoint(t.Context(), &adminv1.TakePointRequest{Group: "shop", Pin: pin})
	return err
}
