package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the build: -ldflags "-X main.version=v0.1.0".
var version = "devel"

// versionDocument is the output of `lockstep version`.
type versionDocument struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) newVersionCommand() *cobra.Command {
	var output outputFlag
	command := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this binary",
		Args:  wantArgs(),
		RunE: a.runs(func(*cobra.Command, []string) error {
			document := thisVersion()
			return a.print(&output, result{
				document: document,
				names:    []string{document.Version},
				show: func(p *page) {
					commit := firstOf(document.Commit, "an unknown commit")
					if document.Modified {
						commit += ", modified"
					}
					p.line("lockstep %s (%s; %s; %s)", document.Version, commit, document.Go, document.Platform)
				},
			})
		}),
	}
	output.register(command)
	return command
}

// thisVersion reads what the Go tool recorded of the source.
func thisVersion() versionDocument {
	document := versionDocument{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return document
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			document.Commit = setting.Value
		case "vcs.modified":
			document.Modified = setting.Value == "true"
		}
	}
	return document
}
