package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/bundle"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/preflight"
)

// supportBundleDocument is the output of `kubectl lockstep support-bundle`.
type supportBundleDocument struct {
	File     string   `json:"file"`
	Problems []string `json:"problems"`
}

type supportBundleFlags struct {
	admin  adminFlags
	output outputFlag
	file   string
	driver string
}

func (a *app) newSupportBundleCommand() *cobra.Command {
	var f supportBundleFlags
	command := &cobra.Command{
		Use:   "support-bundle",
		Short: "Gather what somebody needs who is to help",
		Long: `Writes a gzipped tar archive with versions, the status of site and groups, the
preflight checks, Lockstep's custom resources, its pods and their logs, classes,
claims, volumes and events, and the controller's catalog.

It has no content of a Secret, no value of an environment variable, and nothing
from inside of a volume. It has names: of nodes, namespaces, claims, and groups.
What cannot be read, for want of rights or because it is broken, is listed in the
archive's problems.txt and on standard error; the command succeeds.`,
		Example: `  kubectl lockstep support-bundle -f bundle.tar.gz
  kubectl lockstep support-bundle -f - | tar tz`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			return a.supportBundle(command.Context(), &f)
		}),
	}
	f.admin.register(a, command)
	f.output.register(command)
	command.Flags().StringVarP(&f.file, "file", "f", "", "archive to write, which must not exist; - is standard output (default: lockstep-support-TIME.tar.gz)")
	command.Flags().StringVar(&f.driver, "driver-name", preflight.DefaultDriverName, "name of the CSI driver")
	return command
}

func (a *app) supportBundle(ctx context.Context, f *supportBundleFlags) error {
	c, err := a.inCluster()
	if err != nil {
		return err
	}
	config := bundle.Config{Cluster: c, Driver: f.driver, Name: "lockstep-support-" + a.now().UTC().Format("20060102T150405Z"), Now: a.now()}
	stop := a.progress("gathering")
	a.gatherOwn(ctx, c, f, &config)
	if f.file == "-" {
		problems, err := bundle.Write(ctx, a.stdout, config)
		stop()
		a.tellProblems(problems)
		return err
	}
	if f.file == "" {
		f.file = config.Name + ".tar.gz"
	}
	var problems []string
	err = writeNew(f.file, func(w io.Writer) error {
		problems, err = bundle.Write(ctx, w, config)
		return err
	})
	stop()
	if err != nil {
		return err
	}
	a.tellProblems(problems)
	return a.print(&f.output, result{
		document: supportBundleDocument{f.file, append([]string{}, problems...)},
		names:    []string{f.file},
		show:     func(p *page) { p.line("support bundle written to %s", f.file) },
	})
}

func (a *app) tellProblems(problems []string) {
	for _, problem := range problems {
		a.tell("missing: %s\n", problem)
	}
}

// gatherOwn adds what this program says of the cluster, in the form of -o json.
func (a *app) gatherOwn(ctx context.Context, c *cluster.Cluster, f *supportBundleFlags, config *bundle.Config) {
	add := func(name string, document any) {
		data, err := json.MarshalIndent(document, "", "  ")
		if err != nil {
			config.Problems = append(config.Problems, name+": "+err.Error())
			return
		}
		config.Files = append(config.Files, bundle.File{Name: name, Data: append(data, '\n')})
	}
	add("version.json", thisVersion())
	if kubernetes, err := c.Kube.Discovery().ServerVersion(); err != nil {
		config.Problems = append(config.Problems, "kubernetes.json: "+err.Error())
	} else {
		add("kubernetes.json", kubernetes)
	}
	add("preflight.json", preflightOf(preflight.Run(ctx, c, a.now())))
	err := f.admin.withSite(func(s *site) error {
		answer, err := s.GetStatus(ctx, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		add("status.json", statusOf(answer))
		for _, group := range answer.GetGroups() {
			detail, err := s.DescribeGroup(ctx, &adminv1.DescribeGroupRequest{Group: group.GetName(), History: true})
			if err != nil {
				config.Problems = append(config.Problems, "group "+group.GetName()+": "+err.Error())
				continue
			}
			add("groups/"+strings.ReplaceAll(group.GetName(), "/", "_")+".json", groupDetailOf(detail))
		}
		return nil
	})
	if err != nil {
		config.Problems = append(config.Problems, "status.json: "+err.Error())
	}
}

// writeNew makes a file that must not exist, readable by its owner alone. When
// write fails, no file is left.
func writeNew(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists: name another file with -f", path)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
