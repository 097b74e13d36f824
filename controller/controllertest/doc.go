// Package controllertest provides a controller.Backend in memory, for tests
// of what is above it. It keeps state as a real one does and checks the
// promises that the controller makes to a Backend, instead of recording calls.
package controllertest
