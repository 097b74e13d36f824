package backing

import "errors"

// Errors carry text that says what to do.
var (
	// ErrInvalid: a specification that cannot be served, whatever happens.
	ErrInvalid = errors.New("invalid backing volume")
	// ErrClass: the backing storage class does not exist, or is this driver's.
	ErrClass = errors.New("backing storage class cannot be used")
	// ErrNotExpandable: the class does not allow expansion.
	ErrNotExpandable = errors.New("backing storage class does not allow expansion")
	// ErrExhausted: the backing provisioner has refused. No claim is left.
	ErrExhausted = errors.New("backing storage class cannot provide the volume")
	// ErrForeign: an object of the claim's name is not this driver's.
	ErrForeign = errors.New("claim belongs to somebody else")
	// ErrDeleted: the claim, or its volume, was deleted by somebody else while
	// it was waited for. Repeat the call to make a new one, if it held nothing.
	ErrDeleted = errors.New("backing claim was deleted")
	// ErrTopology: the backing volume's node affinity is none that CSI can say.
	ErrTopology = errors.New("node affinity of the backing volume cannot be expressed")
	// ErrNeedsEngine: the claim's file system is grown by the kubelet when a pod
	// uses it: have the engine run and repeat the call.
	ErrNeedsEngine = errors.New("file system grows when the engine runs")
	// ErrNotFound: the volume has no claim.
	ErrNotFound = errors.New("no such backing claim")
)
