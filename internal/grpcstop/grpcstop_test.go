package grpcstop

import (
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"
)

// TestStoppedBeforeItServed: that is no failure, and others are.
func TestStoppedBeforeItServed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	server.Stop()
	served := server.Serve(l)
	if served == nil {
		t.Fatal("gRPC does not report it any more: this package is not needed")
	}
	if err := Ended(served); err != nil {
		t.Errorf("stopped before it served: %v", err)
	}
	if err := Ended(errors.New("no such network")); err == nil {
		t.Error("a failure is hidden")
	}
}
