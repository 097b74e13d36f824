// Package memory tells how much memory this process may use.
package memory

import "github.com/KimMachineGun/automemlimit/memlimit"

// cachePart is the part of the memory that is counted on for cached files. The rest
// is the program's, other programs', and what the kernel needs.
const cachePart = 0.5

// CacheBytes is how much of the files of this process the kernel is likely to keep in
// memory: half of the limit of its control group or, without one, of the machine's
// memory. 0 if neither can be found out.
func CacheBytes() int64 {
	limit := memlimit.ApplyRatio(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem), cachePart)
	bytes, err := limit()
	if err != nil {
		return 0
	}
	return int64(bytes)
}
