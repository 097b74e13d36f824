package controller

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/group"
)

func TestVolumeParameters(t *testing.T) {
	for _, test := range []struct {
		name       string
		parameters map[string]string
		check      func(volumeParameters) bool // nil: must be refused
		names      string                      // what a refusal has to name
	}{
		{name: "none", check: func(p volumeParameters) bool { return p == volumeParameters{} }},
		{name: "group", parameters: map[string]string{"group": "shop"}, check: func(p volumeParameters) bool { return p.Group == "shop" }},
		{name: "empty group", parameters: map[string]string{"group": ""}, names: "group"},
		{name: "long group", parameters: map[string]string{"group": strings.Repeat("x", 129)}, names: "group"},
		{name: "control character", parameters: map[string]string{"group": "a\x00b"}, names: "group"},
		{name: "interval", parameters: map[string]string{"checkpointInterval": "100ms"},
			check: func(p volumeParameters) bool { return *p.Settings.CheckpointInterval == 100*time.Millisecond }},
		{name: "interval too short", parameters: map[string]string{"checkpointInterval": "99ms"}, names: "checkpointInterval"},
		{name: "interval without unit", parameters: map[string]string{"checkpointInterval": "1"}, names: "checkpointInterval"},
		{name: "window in days", parameters: map[string]string{"window": "7d"},
			check: func(p volumeParameters) bool { return *p.Settings.Window == 7*24*time.Hour }},
		{name: "window in negative days", parameters: map[string]string{"window": "-7d"}, names: "window"},
		{name: "window too long", parameters: map[string]string{"window": "3651d"}, names: "window"},
		{name: "history", parameters: map[string]string{"history": "1s:1h, 1m:24h,1h:168h"},
			check: func(p volumeParameters) bool {
				return *p.Settings.History == "1s:1h,1m:24h,1h:7d" && p.Settings.Window == nil
			}},
		{name: "history of one tier", parameters: map[string]string{"history": "1s:2d"},
			check: func(p volumeParameters) bool { return *p.Settings.History == "1s:2d" }},
		{name: "no history", parameters: map[string]string{"history": ""}, names: "history"},
		{name: "history that falls", parameters: map[string]string{"history": "1s:1h,1m:30m"}, names: "history"},
		{name: "history for too long", parameters: map[string]string{"history": "1s:1h,1d:3651d"}, names: "history"},
		{name: "journal size", parameters: map[string]string{"journalSize": "10Gi"},
			check: func(p volumeParameters) bool { return *p.Settings.JournalBytes == 10<<30 }},
		{name: "journal size in decimal units", parameters: map[string]string{"journalSize": "10G"},
			check: func(p volumeParameters) bool { return *p.Settings.JournalBytes == 10e9 }},
		{name: "journal size by default", parameters: map[string]string{"journalSize": "0"},
			check: func(p volumeParameters) bool { return *p.Settings.JournalBytes == 0 }},
		{name: "journal size too small", parameters: map[string]string{"journalSize": "63Mi"}, names: "journalSize"},
		{name: "journal size that overflows", parameters: map[string]string{"journalSize": "9000000Pi"}, names: "journalSize"},
		{name: "replica", parameters: map[string]string{"replicateTo": "b"}, check: func(p volumeParameters) bool { return *p.Settings.ReplicateTo == "b" }},
		{name: "barrier", parameters: map[string]string{"barrierTimeout": "20ms"},
			check: func(p volumeParameters) bool { return *p.Settings.BarrierTimeout == 20*time.Millisecond }},
		{name: "block size", parameters: map[string]string{"blockSize": "4096"}, check: func(p volumeParameters) bool { return p.BlockBytes == 4096 }},
		{name: "odd block size", parameters: map[string]string{"blockSize": "1024"}, names: "blockSize"},
		{name: "file system", parameters: map[string]string{"csi.storage.k8s.io/fstype": "xfs"}, check: func(p volumeParameters) bool { return p.FSType == "xfs" }},
		{name: "unknown file system", parameters: map[string]string{"csi.storage.k8s.io/fstype": "ntfs"}, names: "csi.storage.k8s.io/fstype"},
		{name: "descriptions", parameters: map[string]string{
			"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop", "csi.storage.k8s.io/pv/name": "pvc-1",
		}, check: func(p volumeParameters) bool { return p == volumeParameters{} }},
		{name: "unknown", parameters: map[string]string{"colour": "green", "group": "shop"}, names: "colour"},
		{name: "other case", parameters: map[string]string{"Group": "shop"}, names: "Group"},
		{name: "unknown of Kubernetes", parameters: map[string]string{"csi.storage.k8s.io/pvc/uid": "1"}, names: "csi.storage.k8s.io/pvc/uid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseVolumeParameters(test.parameters)
			if test.check == nil {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.names) {
					t.Errorf("error %v, want ErrInvalid that names %s", err, test.names)
				}
				return
			}
			if err != nil || !test.check(got) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// TestEveryParameterIsKnown checks that the documented keys are those that are
// understood, and that a refusal lists them.
func TestEveryParameterIsKnown(t *testing.T) {
	values := map[string]string{
		ParameterGroup: "g", ParameterCheckpointInterval: "1s", ParameterWindow: "1h", ParameterJournalSize: "1Gi",
		ParameterReplicateTo: "b", ParameterBarrierTimeout: "50ms", ParameterBlockSize: "512",
		ParameterHistory: "1s:1h,1m:24h", ParameterFSType: "ext4", ParameterMember: "m", ParameterBackingClass: "fast", ParameterJournalClass: "faster",
	}
	if len(ParameterKeys()) != len(values) {
		t.Errorf("keys are %v", ParameterKeys())
	}
	_, unknown := parseVolumeParameters(map[string]string{"x": "y"})
	for _, key := range ParameterKeys() {
		if _, err := parseVolumeParameters(map[string]string{key: values[key]}); err != nil {
			t.Error(err)
		}
		if !strings.Contains(unknown.Error(), key) {
			t.Errorf("refusal %q does not list %s", unknown, key)
		}
	}
	for _, key := range MutableParameterKeys() {
		if _, err := parseMutableParameters(map[string]string{key: values[key]}); err != nil {
			t.Error(err)
		}
	}
	if _, err := parseMutableParameters(map[string]string{ParameterGroup: "g"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("group as a mutable parameter: %v, want ErrInvalid", err)
	}
}

func TestSnapshotParameters(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 500, time.UTC)
	for text, want := range map[string]Moment{
		"1234":                              {Checkpoint: 1234},
		"2026-11-22T12:00:00.0000005Z":      {Time: noon},
		"2026-11-22T13:00:00.0000005+01:00": {Time: noon},
	} {
		got, err := parseSnapshotParameters(map[string]string{"asOf": text, "csi.storage.k8s.io/volumesnapshot/name": "s"})
		if err != nil || got.Checkpoint != want.Checkpoint || !got.Time.Equal(want.Time) {
			t.Errorf("asOf %s is %v, %v, want %v", text, got, err, want)
		}
		again, err := parseMoment(asOfText(got))
		if err != nil || !again.Time.Equal(got.Time) || again.Checkpoint != got.Checkpoint {
			t.Errorf("asOf %s read back is %v, %v", text, again, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "yesterday", "2026-11-22", "12:00"} {
		if _, err := parseSnapshotParameters(map[string]string{"asOf": text}); !errors.Is(err, ErrInvalid) {
			t.Errorf("asOf %q: %v, want ErrInvalid", text, err)
		}
	}
	for policy, want := range map[string]error{"Delete": nil, "Retain": nil, "Recycle": ErrInvalid} {
		if _, err := parseSnapshotParameters(map[string]string{"deletionPolicy": policy}); !errors.Is(err, want) {
			t.Errorf("deletionPolicy %s: %v, want %v", policy, err, want)
		}
	}
	if _, err := parseSnapshotParameters(map[string]string{"asof": "1"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("unknown key: %v, want ErrInvalid", err)
	}
	if at, err := parseSnapshotParameters(nil); err != nil || !at.IsPresent() {
		t.Errorf("no parameters: %v, %v, want the present", at, err)
	}
}

// TestSettingsTakeEffect checks that each setting of a request reaches the
// group's, and that those it does not name stay.
func TestSettingsTakeEffect(t *testing.T) {
	parsed, err := parseVolumeParameters(map[string]string{
		"checkpointInterval": "2s", "barrierTimeout": "3ms", "window": "4h", "journalSize": "5Gi", "replicateTo": "b",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := group.Settings{
		CheckpointInterval: 2 * time.Second, BarrierTimeout: 3 * time.Millisecond,
		Window: 4 * time.Hour, JournalBytes: 5 << 30, ReplicateTo: "b",
	}
	if got := parsed.Settings.apply(group.Settings{}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	var none settingsPatch
	if got := none.apply(want); got != want {
		t.Errorf("naming none gave %+v", got)
	}
}

// TestHistorySaysTheWindow checks what becomes of the one when the other is named.
func TestHistorySaysTheWindow(t *testing.T) {
	byDefault := group.Settings{}.WithDefaults()
	whole, half := byDefault, byDefault
	whole.History, whole.Window = "", 24*time.Hour
	half.CheckpointInterval, half.History = 500*time.Millisecond, "100ms:1h,1m:24h,1h:7d"
	before := whole
	thinned := before
	thinned.History, thinned.Window = "1s:1h,1m:7d", 7*24*time.Hour
	for _, test := range []struct {
		name       string
		base       group.Settings
		parameters map[string]string
		want       group.Settings
		refused    bool
	}{
		{name: "history alone", base: before, parameters: map[string]string{"history": "1s:1h,1m:7d"}, want: thinned},
		{name: "both, and they agree", base: before, parameters: map[string]string{"history": "1s:1h,1m:7d", "window": "7d"}, want: thinned},
		{name: "both, and they do not", base: before, parameters: map[string]string{"history": "1s:1h,1m:7d", "window": "8d"}, refused: true},
		{name: "another window for a history", base: thinned, parameters: map[string]string{"window": "24h"}, refused: true},
		{name: "a window for the default history", base: byDefault, parameters: map[string]string{"window": "24h"}, want: whole},
		{name: "an interval for the default history", base: byDefault, parameters: map[string]string{"checkpointInterval": "500ms"}, want: half},
		{name: "and back", base: half, parameters: map[string]string{"checkpointInterval": "1s"}, want: byDefault},
		{name: "a history for the default one", base: byDefault, parameters: map[string]string{"history": "1s:1h,1m:7d"}, want: thinned},
		{name: "another interval for a window", base: whole, parameters: map[string]string{"checkpointInterval": "1s"}, want: whole},
		{name: "a first tier that would drop", base: before, parameters: map[string]string{"history": "2s:1h,1m:7d"}, refused: true},
		{name: "checkpoints that the first tier would drop", base: thinned, parameters: map[string]string{"checkpointInterval": "500ms"}, refused: true},
	} {
		p, err := parseMutableParameters(test.parameters)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		got := p.apply(test.base)
		if err := checkSettings(got); (err != nil) != test.refused {
			t.Errorf("%s: %v", test.name, err)
		}
		if !test.refused && got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	chosen := group.Settings{History: thinned.History}
	if got := overlay(before, chosen); got != thinned {
		t.Errorf("a group's own history gives %+v, want %+v", got, thinned)
	}
}

func TestChooseSize(t *testing.T) {
	const mib = int64(1) << 20
	for _, test := range []struct {
		name                      string
		required, limit           int64
		floor, fallback, wantSize int64
		want                      error
	}{
		{name: "no wish", fallback: 1 << 30, wantSize: 1 << 30},
		{name: "no wish of a source", floor: 5 * mib, fallback: 5 * mib, wantSize: 5 * mib},
		{name: "exact", required: 64 * mib, limit: 64 * mib, wantSize: 64 * mib},
		{name: "rounded up", required: 64*mib + 1, wantSize: 65 * mib},
		{name: "not rounded beyond the limit", required: 64*mib + 1, limit: 64*mib + 4096, wantSize: 64*mib + 4096},
		{name: "odd exact size", required: 64*mib + 1, limit: 64*mib + 1, want: ErrOutOfRange},
		{name: "limit below the default", limit: 10 * mib, fallback: 1 << 30, wantSize: 10 * mib},
		{name: "tiny", required: 1, wantSize: mib},
		{name: "floor above the limit", required: 64 * mib, limit: 100 * mib, floor: 300 * mib, want: ErrOutOfRange},
		{name: "floor without a limit", required: 64 * mib, floor: 300 * mib, wantSize: 300 * mib},
		{name: "too large", required: 1<<48 + 1, want: ErrOutOfRange},
		{name: "required above limit", required: 2 * mib, limit: mib, want: ErrInvalid},
		{name: "negative", required: -1, want: ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chooseSize(&csi.CapacityRange{RequiredBytes: test.required, LimitBytes: test.limit}, test.floor, test.fallback)
			if !errors.Is(err, test.want) || (err == nil && got != test.wantSize) {
				t.Errorf("got %d, %v, want %d, %v", got, err, test.wantSize, test.want)
			}
		})
	}
}
