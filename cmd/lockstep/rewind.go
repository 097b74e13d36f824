package main

import "github.com/spf13/cobra"

func (a *app) newRewindCommand() *cobra.Command {
	if a.isPlugin() {
		return a.newRewindRecoveryCommand()
	}
	command := a.parent("rewind", "Take a group back to an earlier moment, in place",
		a.newRewindStartCommand(),
		a.newRewindUndoCommand(),
		a.newRewindCommitCommand(),
	)
	command.Long = `Takes every member of a group back to one recovery point, in place and without a
copy. Stop the application and unmount its volumes first. A rewind can be looked
at, undone and started again at another point, until it is committed.`
	return command
}

// rewindFlags are common to the verbs that change what a group contains.
type rewindFlags struct {
	admin  adminFlags
	output outputFlag
	wait   bool
}

func (f *rewindFlags) register(a *app, command *cobra.Command) {
	f.admin.register(a, command)
	f.output.register(command)
	registerWait(command, &f.wait, "wait until the group is ready afterwards")
	command.ValidArgsFunction = a.completeGroups(&f.admin)
	command.MarkFlagsMutuallyExclusive("wait", "dry-run")
}
