package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// verbs are command lines for every command that prints data, by the command's
// path, with what has to be done before. DIR is an empty directory, STORE a store.
var verbs = map[string]struct{ before, args string }{
	"certs":          {"", "certs --out DIR/tls --site a=10.0.0.1"},
	"certs init":     {"", "certs init --dir DIR/tls"},
	"certs issue":    {"certs init --dir DIR/tls", "certs issue --dir DIR/tls --site a --host 10.0.0.1"},
	"certs show":     {"certs init --dir DIR/tls", "certs show DIR/tls"},
	"check":          {"", "check"},
	"status":         {"", "status"},
	"group list":     {"", "group list"},
	"group describe": {"", "group describe shop"},
	"timeline list":  {"", "timeline list shop"},
	"point list":     {"", "point list shop"},
	"point take":     {"", "point take shop"},
	"point drop":     {"point take shop --pin p", "point drop shop p"},
	"view open":      {"", "view open shop --at latest"},
	"view list":      {"view open shop --at latest", "view list"},
	"view close":     {"view open shop --at latest", "view close view-1"},
	"fork create":    {"", "fork create shop test --at latest"},
	"fork list":      {"fork create shop test", "fork list"},
	"fork commit":    {"fork create shop test", "fork commit shop test --yes"},
	"fork discard":   {"fork create shop test", "fork discard test"},
	"rewind start":   {"", "rewind start shop --at 1236"},
	"rewind undo":    {"rewind start shop --at 1236", "rewind undo shop"},
	"rewind commit":  {"rewind start shop --at 1236", "rewind commit shop --yes"},
	"failover":       {"", "failover shop --yes"},
	"journal verify": {"", "journal verify STORE"},
	"journal export": {"", "journal export STORE DIR/image"},
	"journal drain":  {"", "journal drain STORE --yes"},
	"journal import": {"journal export STORE DIR/image", "journal import DIR/image DIR/store"},
	"volume adopt":   {"", "volume adopt STORE"},
	"volume reopen":  {"", "volume reopen pgwal"},
	"volume scrub":   {"", "volume scrub pgwal"},
	"version":        {"", "version"},
}

// withForms are the commands that take -o table|wide|json|yaml|name.
func withForms() map[string]bool {
	root := (&app{getenv: func(string) string { return "" }}).newRootCommand()
	found := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(command *cobra.Command) {
		if f := command.Flags().Lookup("output"); f != nil {
			if _, ok := f.Value.(*outputFlag); ok {
				found[strings.TrimPrefix(command.CommandPath(), "lockstep ")] = true
			}
		}
		for _, child := range command.Commands() {
			walk(child)
		}
	}
	walk(root)
	return found
}

// TestEveryVerbInEveryForm runs each command anew for each form of its output.
func TestEveryVerbInEveryForm(t *testing.T) {
	commands := withForms()
	for path := range commands {
		if _, ok := verbs[path]; !ok {
			t.Errorf("`lockstep %s` is not in the table", path)
		}
	}
	for path, verb := range verbs {
		t.Run(path, func(t *testing.T) {
			if !commands[path] {
				t.Fatalf("`lockstep %s` takes no form of output", path)
			}
			outputs := map[string]string{}
			for _, form := range forms {
				outputs[form] = verbInForm(t, verb.before, verb.args, form)
			}
			var fromJSON, fromYAML any
			if err := json.Unmarshal([]byte(outputs[formJSON]), &fromJSON); err != nil {
				t.Errorf("json: %v", err)
			}
			if err := yaml.Unmarshal([]byte(outputs[formYAML]), &fromYAML); err != nil {
				t.Errorf("yaml: %v", err)
			}
			if a, b := fieldsOf(fromJSON), fieldsOf(fromYAML); len(a) == 0 || !reflect.DeepEqual(a, b) {
				t.Errorf("json has the fields %v, yaml %v", a, b)
			}
			for line := range strings.Lines(outputs[formName]) {
				if name := strings.TrimSuffix(line, "\n"); name == "" || strings.ContainsAny(name, "\t ") && path != "check" {
					t.Errorf("name prints %q, which is no identifier", name)
				}
			}
			for _, form := range []string{formTable, formWide} {
				if outputs[form] == "" || strings.Contains(outputs[form], "\x1b") {
					t.Errorf("%s prints %q where nobody's terminal is", form, outputs[form])
				}
			}
		})
	}
}

// verbInForm runs a command line on a site of its own and returns its data.
func verbInForm(t *testing.T, before, args, form string) string {
	t.Helper()
	s := newJournalShell()
	s.variables[adminVariable] = newFakeSite().serve(t)
	s.host = soundHost()
	dir := t.TempDir()
	store, _ := newStore(t)
	fields := func(line string) []string {
		return strings.Fields(strings.NewReplacer("DIR", dir, "STORE", store).Replace(line))
	}
	if before != "" {
		s.must(t, fields(before)...)
	}
	return s.must(t, append(fields(args), "-o", form)...)
}

// fieldsOf are the fields of a document's top level.
func fieldsOf(document any) map[string]bool {
	names := map[string]bool{}
	if object, ok := document.(map[string]any); ok {
		for name := range object {
			names[name] = true
		}
	}
	return names
}
