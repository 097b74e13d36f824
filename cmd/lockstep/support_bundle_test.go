package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// untar returns the files of an archive, less the folder that they are in.
func untar(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zip); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		folder, name, _ := strings.Cut(header.Name, "/")
		if folder != "lockstep-support-20261122T104200Z" || path.IsAbs(name) {
			t.Errorf("%s is outside of the archive's folder", header.Name)
		}
		files[name] = string(text)
	}
}

func TestSupportBundle(t *testing.T) {
	p := newPlugin(t)
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	got := p.run(t, "support-bundle", "-f", file, "-o", "name")
	if got.exit != exitOK || got.stdout != file+"\n" {
		t.Fatalf("exit %d: %s%s", got.exit, got.stdout, got.stderr)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v: want a file for its owner alone", info, err)
	}
	archive, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, archive)
	var status statusDocument
	if err := json.Unmarshal([]byte(files["status.json"]), &status); err != nil || status.Site != "a" {
		t.Errorf("status.json: %v: %s", err, files["status.json"])
	}
	for _, name := range []string{"version.json", "kubernetes.json", "preflight.json", "groups/" + p.users + "_shop.json", "resources/pods.yaml"} {
		if files[name] == "" {
			t.Errorf("no %s among %d files", name, len(files))
		}
	}
	again := p.run(t, "support-bundle", "-f", file)
	if again.exit != exitFailed || !strings.Contains(again.stderr, "exists") {
		t.Errorf("a second time: exit %d: %s", again.exit, again.stderr)
	}
}

// TestSupportBundleWithoutController is the one that will be asked for.
func TestSupportBundleWithoutController(t *testing.T) {
	p := newPlugin(t)
	p.stopController(t)
	got := p.run(t, "support-bundle", "-f", "-")
	if got.exit != exitOK || !strings.Contains(got.stderr, "missing: status.json: the controller cannot be reached") {
		t.Fatalf("exit %d: %s", got.exit, got.stderr)
	}
	files := untar(t, []byte(got.stdout))
	if !strings.Contains(files["problems.txt"], "status.json: the controller cannot be reached") {
		t.Errorf("problems: %s", files["problems.txt"])
	}
	if _, there := files["resources/sites.lockstep.dev.yaml"]; !there {
		t.Error("what the API server knows is not there")
	}
}

func TestSupportBundleLeavesNoFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	failed := errors.New("no space")
	err := writeNew(file, func(w io.Writer) error {
		_, err := io.WriteString(w, "half")
		return errors.Join(err, failed)
	})
	if _, missing := os.Stat(file); !errors.Is(err, failed) || !errors.Is(missing, os.ErrNotExist) {
		t.Errorf("got %v, %v", err, missing)
	}
}

// TestPreflightFails: a cluster with no more than a controller is not ready.
func TestPreflightFails(t *testing.T) {
	p := newPlugin(t)
	got := p.run(t, "check", "preflight", "-o", "json")
	var document preflightDocument
	if err := json.Unmarshal([]byte(got.stdout), &document); err != nil {
		t.Fatal(err)
	}
	if got.exit != exitFailed || document.Ready || !strings.Contains(got.stderr, errNotReady.Error()) {
		t.Errorf("exit %d, ready %v: %s", got.exit, document.Ready, got.stderr)
	}
	table := p.run(t, "check", "preflight").stdout
	for _, c := range document.Checks {
		if !strings.Contains(table, c.Remedy) {
			t.Errorf("the table lacks %+v", c)
		}
		if (c.Result == "ok") != (c.Remedy == "") {
			t.Errorf("%+v: want a remedy where it is not ok", c)
		}
	}
}
