package replication

import "strings"

// contains is for what an error promises to name, where its kind is checked
// beside it.
func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
