// Package bytesize reads sizes in bytes as people write them: whole numbers with
// the suffixes of Kubernetes' quantities, whose own parser is too large to be linked
// into engines.
package bytesize

import (
	"errors"
	"strconv"
	"strings"
)

// ErrSyntax says what Parse takes.
var ErrSyntax = errors.New("want a whole number of bytes such as 134217728, 128Mi or 128M")

// units are tried in this order.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15}, {"", 1},
}

// Parse returns the bytes that text means, 0 to 2^62. Any error is ErrSyntax.
func Parse(text string) (int64, error) {
	for _, u := range units {
		number, found := strings.CutSuffix(text, u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			return 0, ErrSyntax
		}
		return n * u.bytes, nil
	}
	return 0, ErrSyntax
}
