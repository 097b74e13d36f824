// Package cluster is how the kubectl plugin reaches a cluster: with the rights
// of whoever runs it, through the API server alone.
//
// It finds the controller and the engines by their labels and forwards ports to
// them, tells which group is meant by an argument, makes recoveries and follows
// them, and finds what no volume owns.
//
// Nothing here writes to a terminal. A forwarded connection owns three
// goroutines, a Listener one for each connection; both join them in Close.
package cluster
