// Package grpcstop tells the end of a gRPC server that was stopped from its failure.
package grpcstop
