package main

import (
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// logFlags choose how a role that keeps running writes its log.
type logFlags struct {
	format, level string
}

func (f *logFlags) register(command *cobra.Command) {
	command.Flags().StringVar(&f.format, "log-format", "text", "form of the log on standard error: text, json")
	command.Flags().StringVar(&f.level, "log-level", "info", "least level that is logged: debug, info, warn, error")
}

// install makes w the destination of slog's default logger, and of klog, which
// the Kubernetes libraries write to.
func (f *logFlags) install(w io.Writer) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, known := levels[f.level]
	if !known {
		return misuse("--log-level %q: want one of %s", f.level, strings.Join(sortedKeys(levels), ", "))
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch f.format {
	case "text":
		handler = slog.NewTextHandler(w, options)
	case "json":
		handler = slog.NewJSONHandler(w, options)
	default:
		return misuse("--log-format %q: want text or json", f.format)
	}
	logger := slog.New(handler)
	slog.SetDefault(logger)
	klog.SetSlogLogger(logger)
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
