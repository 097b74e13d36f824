// Package noderole is the node role of a cluster: the CSI node service and the
// holder of device descriptors in one process.
//
// The two meet in this process and nowhere else: the controller orders an engine
// to attach, the engine leases its descriptor from the holder, and the node
// service stages what the holder then has. The role speaks to no controller. It
// asks the API server two things: the labels of its own Node, when the kubelet
// registers the driver, and whether a volume is attached to this node, once when it
// has been, and when its device has had no engine for a while.
//
// A device whose volume is not this node's any more, as on a node that was cut off and
// declared out of service, is taken away from its users, who would wait for ever; see
// revoker for when. One that has an engine never is, whatever the API server says.
//
// It may be replaced at any time: at its end volumes stay as they are, engines
// go on serving with their copies of the descriptors and bring them to the next
// one.
//
// Run owns the goroutines of the CSI server, the holder, the revoker, and the servers of
// health and metrics, and joins them.
package noderole
