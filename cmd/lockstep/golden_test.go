package main

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestGolden fixes what people and scripts see. The steps share one site, so a
// later one sees what an earlier one did.
func TestGolden(t *testing.T) {
	socket := newFakeSite().serve(t)
	s := newShell(socket)
	steps := []struct {
		name string
		args string
	}{
		{"status_table", "status"},
		{"status_wide", "status -o wide"},
		{"status_json", "status -o json"},
		{"group_list_table", "group list"},
		{"group_list_wide", "group list -o wide"},
		{"group_list_name", "group list -o name"},
		{"group_list_json", "group list -o json"},
		{"group_describe_table", "group describe shop"},
		{"group_describe_json", "group describe shop -o json"},
		{"group_describe_yaml", "group describe shop -o yaml"},
		{"timeline_list_table", "timeline list shop"},
		{"timeline_list_json", "timeline list shop -o json"},
		{"timeline_list_name", "timeline list shop -o name"},
		{"point_list_table", "point list shop --limit 6"},
		{"point_list_wide", "point list shop --since 3s -o wide"},
		{"point_list_json", "point list shop --limit 1 -o json"},
		{"view_open_table", "view open shop --at 1238"},
		{"view_open_json", "view open shop --at pin:snap-1 -o json"},
		{"view_list_table", "view list"},
		{"view_list_json", "view list -o json"},
		{"view_close_table", "view close view-1"},
		{"view_close_json", "view close view-2 -o json"},
		{"fork_create_table", "fork create shop rehearsal --at 1238 --quota 20Gi --max-age 4h"},
		{"fork_create_json", "fork create shop other --at pin:snap-1 -o json"},
		{"fork_list_table", "fork list"},
		{"fork_list_wide", "fork list -o wide"},
		{"fork_list_json", "fork list -o json"},
		{"fork_discard_table", "fork discard rehearsal"},
		{"fork_commit_dry_run_table", "fork commit shop other --dry-run"},
		{"fork_commit_dry_run_json", "fork commit shop other --dry-run -o json"},
		{"fork_commit_table", "fork commit shop other --yes"},
		{"fork_commit_group_describe_table", "group describe shop"},
		{"fork_commit_undo", "rewind undo shop -o name"},
		{"fork_create_again", "fork create shop other --at pin:snap-1 -o name"},
		{"fork_discard_json", "fork discard other -o json"},
		{"rewind_start_dry_run_table", "rewind start shop --at 1235 --dry-run"},
		{"rewind_start_table", "rewind start shop --at 2026-11-22T10:41:55.5Z"},
		{"rewind_group_describe_table", "group describe shop"},
		{"rewind_undo_table", "rewind undo shop"},
		{"rewind_start_json", "rewind start shop --at latest -o json"},
		{"rewind_undo_json", "rewind undo shop -o json"},
		{"rewind_start_name", "rewind start shop --at 1235 -o name"},
		{"rewind_commit_json", "rewind commit shop --dry-run -o json"},
		{"rewind_commit_table", "rewind commit shop --yes"},
		{"failover_dry_run_table", "failover shop --dry-run"},
		{"failover_json", "failover shop --yes --at 1236 -o json"},
		{"failover_table", "failover shop --yes"},
		{"point_take_table", "point take shop --pin before-upgrade"},
		{"point_take_json", "point take shop -o json"},
		{"point_drop_table", "point drop shop before-upgrade"},
		{"volume_adopt_table", "volume adopt /srv/import/mail --group shop"},
		{"volume_adopt_json", "volume adopt /srv/import/mail --name post -o json"},
		{"volume_reopen_well", "volume reopen v-0a1b"},
		{"volume_reopen_table", "volume reopen pgwal"},
		{"volume_reopen_json", "volume reopen v-0a1b -o json"},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			got := s.must(t, strings.Fields(step.args)...)
			golden(t, step.name, strings.ReplaceAll(got, socket, "/run/lockstep/admin.sock"))
		})
	}
}

// TestYAMLIsJSON shows that the two forms differ in nothing but notation.
func TestYAMLIsJSON(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	var fromJSON, fromYAML any
	if err := json.Unmarshal([]byte(s.must(t, "status", "-o", "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(s.must(t, "status", "-o", "yaml")), &fromYAML); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromJSON, fromYAML) {
		t.Errorf("json %v\nyaml %v", fromJSON, fromYAML)
	}
}

// TestEveryFieldIsDocumented walks the printed types and looks for each field in
// output.md.
func TestEveryFieldIsDocumented(t *testing.T) {
	text, err := os.ReadFile("output.md")
	if err != nil {
		t.Fatal(err)
	}
	documents := []any{
		statusDocument{}, groupsDocument{}, groupDetailDocument{}, pointsDocument{}, pointTakenDocument{}, viewOpenedDocument{}, viewsDocument{},
		viewClosedDocument{}, rewindStartedDocument{}, rewindUndoneDocument{}, rewindCommittedDocument{}, failedOverDocument{}, volumeReopenedDocument{}, certsDocument{},
		checkDocument{}, versionDocument{}, pointDroppedDocument{},
		recoveredRewindDocument{}, recoveredUndoDocument{}, recoveredCommitDocument{}, recoveredFailoverDocument{}, recoveryMadeDocument{},
		forkCreatedDocument{}, forksDocument{}, forkCommittedDocument{}, timelinesDocument{}, forkDiscardedDocument{},
		orphansDocument{}, preflightDocument{}, supportBundleDocument{},
	}
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(r reflect.Type) {
		for r.Kind() == reflect.Pointer || r.Kind() == reflect.Slice {
			r = r.Elem()
		}
		if r.Kind() != reflect.Struct || seen[r] {
			return
		}
		seen[r] = true
		for i := range r.NumField() {
			if r.Field(i).Anonymous { // its fields are this document's own
				walk(r.Field(i).Type)
				continue
			}
			name := r.Field(i).Tag.Get("json")
			if name == "" || strings.Contains(name, "omitempty") {
				t.Errorf("%s.%s: want a plain json tag, so that the field is always there", r, r.Field(i).Name)
			}
			if !strings.Contains(string(text), "`"+name+"`") && !strings.Contains(string(text), `"`+name+`"`) {
				t.Errorf("%s.%s: %q is not in output.md", r, r.Field(i).Name, name)
			}
			walk(r.Field(i).Type)
		}
	}
	for _, d := range documents {
		walk(reflect.TypeOf(d))
	}
	if len(seen) < len(documents) {
		t.Errorf("only %d types were looked at", len(seen))
	}
}

// TestEmptyListsAreLists guards scripts that iterate without asking.
func TestEmptyListsAreLists(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	if got := s.must(t, "view", "list", "-o", "json"); got != "{\n  \"views\": []\n}\n" {
		t.Errorf("got %q", got)
	}
	if got := s.must(t, "fork", "list", "-o", "json"); got != "{\n  \"forks\": []\n}\n" {
		t.Errorf("got %q", got)
	}
	people := s.run(t, "view", "list")
	if people.stdout != "" || !strings.Contains(people.stderr, "no views") {
		t.Errorf("for people: stdout %q, stderr %q", people.stdout, people.stderr)
	}
	// Others may be open: a name that was misspelt must not be taken for none at all.
	for _, kind := range []string{"view", "fork"} {
		if got := s.run(t, kind, "list", "--group", "shop"); !strings.HasSuffix(got.stderr, " of group shop\n") {
			t.Errorf("%s list of one group: stderr %q", kind, got.stderr)
		}
	}
}
