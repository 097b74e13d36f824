package kubenames_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func TestNamesAreValid(t *testing.T) {
	volume := strings.Repeat("0f", 16)
	for _, name := range []string{kubenames.BackingClaim(volume), kubenames.JournalClaim(volume), kubenames.Engine(volume)} {
		if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
	}
	a, b := kubenames.GroupHash("shop/"+strings.Repeat("x", 200)), kubenames.GroupHash("shop/x")
	if errs := validation.IsValidLabelValue(a); len(errs) > 0 {
		t.Errorf("%s: %v", a, errs)
	}
	if a == b {
		t.Error("two groups have one hash")
	}
}
