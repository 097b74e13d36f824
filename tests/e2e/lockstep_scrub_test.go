//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// damageSegment changes some bytes of what /data/f holds in the journal of a volume, as
// its engine's container sees that: a disk that returns something else than what was
// written. The block behind the first one that has some of the content has nothing else.
const damageSegment = `f=$(grep -rl 'this is to be damaged' /store/store-*/journal | head -n 1)
i=0
until dd if="$f" bs=4096 skip=$i count=1 2>/dev/null | grep -q 'this is to be damaged'; do
  i=$((i + 1))
  test $i -lt 16384
done
printf 'no disk should do' | dd of="$f" bs=1 seek=$(((i + 1) * 4096)) conv=notrunc,fsync 2>/dev/null
echo "$f"`

// TestLockstepScrub asks for the timelines of a group that rests, and has a volume of it
// scrubbed: engines are started for both. Then a byte of the volume's journal changes
// under its engine, and the next scrub names the file.
func TestLockstepScrub(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[0]})
	var mounts []Mount
	for _, name := range []string{"data", "wal"} {
		ns.CreateClaim(Claim{Name: name, Class: class, Annotations: inGroup})
		mounts = append(mounts, Mount{Claim: name, Path: "/" + name})
	}
	ns.RunPod(Pod{Name: "user", Mounts: mounts})
	ns.Sh("user", "yes 'this is to be damaged' | head -c 65536 > /data/f; echo wal > /wal/f") // and the unmount writes it
	volumes := []string{ns.VolumeID("data"), ns.VolumeID("wal")}
	ns.DeletePod("user")
	ns.awaitRest(volumes...) // which seals what was being written

	ns.timelinesAtRest()
	if r, err := ns.scrub("data"); err != nil || len(r.Damaged) > 0 || r.ReadBytes == 0 {
		t.Errorf("a scrub at rest: %+v, %v", r, err)
	}
	ns.awaitRest(volumes...)

	ns.RunPod(Pod{Name: "user", Mounts: mounts})
	pod, err := ns.EnginePod(t.Context(), volumes[0])
	if err != nil || pod == nil {
		t.Fatalf("engine of an attached volume: %v, %v", pod, err)
	}
	file, err := ns.ExecIn(t.Context(), SystemNamespace, pod.Name, "engine", "sh", "-ec", damageSegment)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ns.scrub("data")
	if err == nil || !strings.Contains(err.Error(), "is damaged in 1 places") {
		t.Errorf("a scrub of a damaged volume: %v", err)
	}
	if len(r.Damaged) != 1 || r.Damaged[0].File == "" || !strings.HasSuffix(strings.TrimSpace(file), r.Damaged[0].File) || r.Damaged[0].Wanted == r.Damaged[0].Found {
		t.Errorf("it names %+v, want one place in %s", r.Damaged, file)
	}
	if r, err := ns.scrub("wal"); err != nil || len(r.Damaged) > 0 {
		t.Errorf("a scrub of the other volume: %+v, %v", r, err)
	}
}

// timelinesAtRest lists the timelines of the namespace's group, each member of which has
// one that is current, and whose engines do not run.
func (n *Namespace) timelinesAtRest() {
	n.t.Helper()
	out, err := n.Plugin(n.t.Context(), "--namespace", n.Namespace, "timeline", "list", "pvc:data", "-o", "json")
	if err != nil {
		n.t.Fatal(err)
	}
	var listed struct {
		Volumes []struct {
			Claim, Error string
			Horizon      *string
			Timelines    []struct{ Active bool }
		}
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed.Volumes) != 2 {
		n.t.Fatalf("kubectl lockstep timeline list printed %s: %v", out, err)
	}
	for _, v := range listed.Volumes {
		active := 0
		for _, line := range v.Timelines {
			if line.Active {
				active++
			}
		}
		if active != 1 || v.Error != "" || v.Horizon == nil || !strings.HasPrefix(v.Claim, n.Namespace+"/") {
			n.t.Errorf("timelines of a member: %+v", v)
		}
	}
}

// scrubJSON is the part of the plugin's output that is looked at; see
// cmd/lockstep/output.md.
type scrubJSON struct {
	ReadBytes int64
	Damaged   []struct{ File, Wanted, Found string }
}

// scrub has the volume of a claim scrubbed by kubectl lockstep. A volume that is damaged
// is an error beside the report.
func (n *Namespace) scrub(claim string) (r scrubJSON, err error) {
	out, err := n.Plugin(n.t.Context(), "--namespace", n.Namespace, "volume", "scrub", claim, "-o", "json")
	if out == "" {
		return r, err
	}
	if parsing := json.Unmarshal([]byte(out), &r); parsing != nil {
		return r, fmt.Errorf("kubectl lockstep volume scrub printed %s: %w", out, parsing)
	}
	return r, err
}
