package fleet

// KeepPointOf is what is done for each replica every KeepPointEvery.
func KeepPointOf(f *Fleet, group string) error {
	st, err := f.groups.State(group)
	if err == nil {
		f.keepPoint(st)
	}
	return err
}
