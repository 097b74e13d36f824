package csiserver

import (
	"context"
	"log/slog"
	"path"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// logCalls logs each call: failed ones as warnings, those that change nothing
// and succeed only when debugging.
func logCalls(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		start := time.Now()
		response, err := handler(ctx, req)
		level := slog.LevelInfo
		switch {
		case err != nil:
			level = slog.LevelWarn
		case isQuery(req):
			level = slog.LevelDebug
		}
		attrs := append(subject(req),
			slog.String("method", path.Base(info.FullMethod)),
			slog.Duration("duration", time.Since(start)),
			slog.String("code", status.Code(err).String()))
		if err != nil {
			attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
		}
		log.LogAttrs(ctx, level, "CSI call", attrs...)
		return response, err
	}
}

// subject returns what a request is about. These fields are named one by one,
// so that no other field can be logged by mistake.
func subject(req any) []slog.Attr {
	var out []slog.Attr
	add := func(key, value string) {
		if value != "" {
			out = append(out, slog.String(key, value))
		}
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		add("name", r.GetName())
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		add("volume", r.GetVolumeId())
	}
	if r, ok := req.(interface{ GetSourceVolumeId() string }); ok {
		add("source", r.GetSourceVolumeId())
	}
	if r, ok := req.(interface{ GetSnapshotId() string }); ok {
		add("snapshot", r.GetSnapshotId())
	}
	if r, ok := req.(interface{ GetGroupSnapshotId() string }); ok {
		add("groupSnapshot", r.GetGroupSnapshotId())
	}
	return out
}

// isQuery reports whether a request is about no object, as those are that
// callers repeat all the time: probes, capabilities, lists.
func isQuery(req any) bool { return len(subject(req)) == 0 }

// recoverPanics turns a panic of a call into its error.
func recoverPanics(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
		defer func() {
			if reason := recover(); reason != nil {
				log.ErrorContext(ctx, "CSI call panicked", "method", path.Base(info.FullMethod),
					"reason", reason, "stack", string(debug.Stack()))
				response, err = nil, status.Errorf(codes.Internal, "internal error in %s; see the log", path.Base(info.FullMethod))
			}
		}()
		return handler(ctx, req)
	}
}
