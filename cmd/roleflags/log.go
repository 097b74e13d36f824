package roleflags

import (
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Log chooses how a role that keeps running writes its log.
type Log struct {
	Format, Level string
}

// Register adds the flags.
func (f *Log) Register(flags *pflag.FlagSet) {
	flags.StringVar(&f.Format, "log-format", "text", "form of the log on standard error: text, json")
	flags.StringVar(&f.Level, "log-level", "info", "least level that is logged: debug, info, warn, error")
}

// Install makes w the destination of slog's default logger.
func (f *Log) Install(w io.Writer) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, known := levels[f.Level]
	if !known {
		return Misuse("--log-level %q: want one of %s", f.Level, strings.Join(slices.Sorted(maps.Keys(levels)), ", "))
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch f.Format {
	case "text":
		handler = slog.NewTextHandler(w, options)
	case "json":
		handler = slog.NewJSONHandler(w, options)
	default:
		return Misuse("--log-format %q: want text or json", f.Format)
	}
	slog.SetDefault(slog.New(handler))
	return nil
}
