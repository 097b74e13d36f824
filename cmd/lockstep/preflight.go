package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/preflight"
)

// preflightDocument is the output of `kubectl lockstep check preflight`.
type preflightDocument struct {
	Ready  bool                       `json:"ready"`
	Checks []preflightFindingDocument `json:"checks"`
}

type preflightFindingDocument struct {
	Name   string `json:"name"`
	Object string `json:"object"`
	Result string `json:"result"`
	Found  string `json:"found"`
	Remedy string `json:"remedy"`
}

// errNotReady is returned when a check has failed.
var errNotReady = errors.New("this cluster is not ready: see the checks with result fail")

func (a *app) newPreflightCommand() *cobra.Command {
	var output outputFlag
	command := &cobra.Command{
		Use:   "preflight",
		Short: "Check whether a cluster can serve volumes",
		Long: `Looks for what Lockstep needs in a cluster: versions, custom resources, its own
pods and sidecars, storage classes and what they are layered over, snapshot
classes, and the Secrets of peers. It changes nothing, and fails (exit status 1)
when a check does.`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			c, err := a.inCluster()
			if err != nil {
				return err
			}
			document := preflightOf(preflight.Run(command.Context(), c, a.now()))
			r := result{document: document, show: func(p *page) { p.showPreflight(document) }}
			for _, f := range document.Checks {
				if f.Result == string(preflight.Fail) {
					r.names = append(r.names, strings.TrimSuffix(f.Name+"/"+f.Object, "/"))
				}
			}
			if err := a.print(&output, r); err != nil {
				return err
			}
			if !document.Ready {
				return errNotReady
			}
			return nil
		}),
	}
	output.register(command)
	return command
}

func preflightOf(findings []preflight.Finding) preflightDocument {
	document := preflightDocument{Ready: true, Checks: each(findings, func(f preflight.Finding) preflightFindingDocument {
		return preflightFindingDocument{Name: f.Check, Object: f.Object, Result: string(f.Level), Found: f.Found, Remedy: f.Remedy}
	})}
	for _, f := range findings {
		if f.Level == preflight.Fail {
			document.Ready = false
		}
	}
	return document
}

func (p *page) showPreflight(document preflightDocument) {
	columns := []column{left("CHECK"), left("OBJECT"), left("RESULT"), left("FOUND"), left("REMEDY")}
	tones := map[string]tone{string(preflight.OK): toneGood, string(preflight.Warn): toneNote, string(preflight.Fail): toneBad}
	var rows [][]cell
	for _, f := range document.Checks {
		remedy := cell{}
		if f.Remedy != "" {
			remedy = text(oneLine(f.Remedy))
		}
		rows = append(rows, []cell{text(f.Name), text(f.Object), {f.Result, tones[f.Result]}, text(oneLine(f.Found)), remedy})
	}
	p.table("", columns, rows)
}
