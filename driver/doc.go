// Package driver wires the roles of Lockstep: RunStandalone is a whole site in
// one process, without Kubernetes. The parts are elsewhere: the data plane in
// driver/site, the CSI services in controller, node and driver/csiserver, the
// admin API in driver/adminserver, what other sites speak to in replication.
//
// Every goroutine belongs to RunStandalone and has ended when it returns. One
// process stays behind on purpose: the device holder, which keeps the block
// devices of attached volumes while a site restarts.
package driver
