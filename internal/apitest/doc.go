// Package apitest gives tests a real Kubernetes API server: etcd,
// kube-apiserver and, where a test asks for it, kube-controller-manager, on
// loopback, in a temporary directory, without nodes. The programs are those
// that `tests/cluster/cluster build` makes; where they are missing, tests skip
// and say so.
//
// What the API server does is real: resource versions, conflicts, validation,
// finalizers, graceful deletion, watches, events, tokens. What kubelets,
// schedulers and provisioners do is up to the test, which plays them with an
// administrator's rights.
//
// A test binary shares one server among its tests, each of which takes a
// namespace of its own. Its TestMain is
//
//	func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }
//
// The processes end with the test binary, whatever ends it.
//
// Fault breaks the connection between a client and the server at a chosen
// request, before or after the server has carried it out.
package apitest
