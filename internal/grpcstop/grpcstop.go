package grpcstop

import (
	"errors"

	"google.golang.org/grpc"
)

// Ended is what Serve of a server returned that its owner has stopped: nil also where
// it was stopped before Serve had begun, which gRPC reports as an error.
func Ended(err error) error {
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
