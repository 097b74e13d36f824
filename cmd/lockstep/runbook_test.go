package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheRunbookNamesWhatThereIs: an alert on a line of the log, or on a metric, that the
// program does not have never comes.
func TestTheRunbookNamesWhatThereIs(t *testing.T) {
	book, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	source := sourceText(t, "../..")
	_, log, found := strings.Cut(string(book), "\n## The log\n")
	if !found {
		t.Fatal("the runbook has no chapter of the log")
	}
	lines := regexp.MustCompile(`(?m)^\| (?:error|warn|info) \| (.*?) \|`).FindAllStringSubmatch(log, -1)
	quoted := regexp.MustCompile("`([^`]+)`")
	var wanted []string
	for _, line := range lines {
		for _, q := range quoted.FindAllStringSubmatch(line[1], -1) {
			wanted = append(wanted, q[1])
		}
	}
	metrics := regexp.MustCompile(`lockstep_[a-z_]+[a-z]`).FindAllString(string(book), -1)
	if len(wanted) < 30 || len(metrics) < 50 {
		t.Fatalf("%d lines of the log and %d metrics: the tables are not what they were", len(wanted), len(metrics))
	}
	for _, text := range append(wanted, metrics...) {
		if !strings.Contains(source, text) {
			t.Errorf("the runbook names %q, which nothing in the program is", text)
		}
	}
}

// sourceText is all Go files below dir but tests.
func sourceText(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "out" || d.Name() == ".git" || d.Name() == "tests"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(name)
		text.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}
