// Package external is the upstream External Storage suite of the Kubernetes version in go.mod, as a test binary:
//
//	go test -c -o external-storage.test ./external
//	external-storage.test -kubeconfig FILE -storage.testdriver DRIVER.yaml
//
// It is what e2e.test runs for a driver definition, without the tests of everything else that e2e.test holds.
package external
