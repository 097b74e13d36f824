// Package controllerrole is the controller role of a cluster: the CSI
// controller services over a fleet of engine pods, the catalog in Kubernetes
// objects, what watches claims and custom resources, and the admin API.
package controllerrole
