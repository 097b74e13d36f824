package roleflags

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
)

// UsageError is a command line that cannot be understood or may not be obeyed
// as it stands: exit status 2.
type UsageError struct{ message string }

func (e *UsageError) Error() string { return e.message }

// Misuse is a UsageError.
func Misuse(format string, args ...any) error {
	return &UsageError{message: fmt.Sprintf(format, args...)}
}

// Require reports the first flag, by name, whose value is empty.
func Require(values map[string]string) error {
	for _, flag := range slices.Sorted(maps.Keys(values)) {
		if values[flag] == "" {
			return Misuse("%s is missing", flag)
		}
	}
	return nil
}

// ValidateAddress accepts host:port with a numeric port. The host may be empty,
// which means every address of this machine.
func ValidateAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("want host:port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	return nil
}

// ValidateAddresses checks those that are not empty, by flag.
func ValidateAddresses(addresses map[string]string) error {
	for _, flag := range slices.Sorted(maps.Keys(addresses)) {
		if addresses[flag] == "" {
			continue
		}
		if err := ValidateAddress(addresses[flag]); err != nil {
			return Misuse("%s %s: %v", flag, addresses[flag], err)
		}
	}
	return nil
}
