package main

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
)

// logFlags choose how a role that keeps running writes its log.
type logFlags struct{ roleflags.Log }

func (f *logFlags) register(command *cobra.Command) { f.Register(command.Flags()) }

// install makes w the destination of slog's default logger, and of klog, which
// the Kubernetes libraries write to.
func (f *logFlags) install(w io.Writer) error {
	if err := f.Install(w); err != nil {
		return err
	}
	klog.SetSlogLogger(slog.Default())
	return nil
}
