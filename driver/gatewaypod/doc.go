// Package gatewaypod runs the gateway role in a cluster: package
// replication/gateway, with engines found among the pods of the driver's
// namespace, and with readiness and metrics over HTTP.
//
// An engine's pod is found by its labels: app.kubernetes.io/component: engine,
// and lockstep.dev/volume. A gateway therefore may list and watch pods in that
// one namespace, and nothing else.
//
// Every goroutine belongs to Run and has ended when it returns.
package gatewaypod
