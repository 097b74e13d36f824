// Package noderole is the node role of a cluster: the CSI node service and the
// holder of device descriptors in one process.
//
// The two meet in this process and nowhere else: the controller orders an engine
// to attach, the engine leases its descriptor from the holder, and the node
// service stages what the holder then has. The role speaks to no controller. It
// asks the API server one thing, the labels of its own Node, and only when the
// kubelet registers the driver.
//
// It may be replaced at any time: at its end volumes stay as they are, engines
// go on serving with their copies of the descriptors and bring them to the next
// one.
//
// Run owns the goroutines of the CSI server, the holder, and the servers of
// health and metrics, and joins them.
package noderole
