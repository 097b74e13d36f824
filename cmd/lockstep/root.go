package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

//go:embed output.md
var outputHelp string

func (a *app) newRootCommand() *cobra.Command {
	root := a.parent("lockstep", "Journaled volumes: any moment can be opened, rewound to or failed over to",
		a.newCertsCommand(),
		a.newCheckCommand(),
		a.newStatusCommand(),
		a.newGroupCommand(),
		a.newTimelineCommand(),
		a.newVolumeCommand(),
		a.newPointCommand(),
		a.newViewCommand(),
		a.newRewindCommand(),
		a.newFailoverCommand(),
		a.newJournalCommand(),
		a.newVersionCommand(),
		newOutputTopic(),
	)
	if a.isPlugin() {
		a.kubectl.register(root)
		root.AddCommand(a.newOrphansCommand(), a.newSupportBundleCommand())
		nameAsPlugin(root)
	} else {
		root.AddCommand(
			a.newStandaloneCommand(),
			a.newControllerCommand(),
			a.newNodeCommand(),
			a.newGatewayCommand(),
			a.newHolderCommand(),
			a.newForkCommand(), // a cluster's engines have no place for them yet
		)
	}
	root.Long = `Lockstep puts a journal between an application and the storage it already has.
Volumes of one consistency group advance in lockstep, the journal is shipped to
a second site, and any moment in it can be opened, rewound to, or failed over to.

Exit status: 0 done, 1 failed, 2 misused.`
	if a.isPlugin() {
		root.Long += `

GROUP is NAME in the current namespace, NAMESPACE/NAME, or pvc:CLAIM or
pvc:NAMESPACE/CLAIM for the group that a claim is in. VOLUME is the CLAIM that a volume
is for, in the current namespace, NAMESPACE/CLAIM, either behind pvc:, or the volume's
id, or the name of its PersistentVolume if that begins with pvc-.`
	}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: a.displayName()}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	return root
}

// parent makes a command that only holds others. Without a subcommand, or with
// an unknown one, it is misused: cobra alone would print help and succeed.
func (a *app) parent(use, short string, children ...*cobra.Command) *cobra.Command {
	command := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misuse("a command is missing after `%s`: one of %s", command.CommandPath(), childNames(command))
			}
			return unknownCommand(command, args[0])
		}),
	}
	command.AddCommand(children...)
	return command
}

func unknownCommand(parent *cobra.Command, name string) error {
	message := fmt.Sprintf("unknown command %q for `%s`", name, parent.CommandPath())
	if parent.SuggestionsMinimumDistance <= 0 {
		parent.SuggestionsMinimumDistance = 2
	}
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		message += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return misuse("%s", message)
}

func childNames(parent *cobra.Command) string {
	var names []string
	for _, child := range parent.Commands() {
		if child.IsAvailableCommand() && child.Name() != "help" {
			names = append(names, child.Name())
		}
	}
	return strings.Join(names, ", ")
}

// runs marks the moment at which a command's own code begins; see app.started.
func (a *app) runs(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		a.started = true
		return run(command, args)
	}
}

// wantArgs demands exactly the named arguments.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return misuse("%s is missing", names[len(args)])
		case len(args) > len(names) && len(names) == 0:
			return misuse("`%s` takes no arguments, found %q", command.CommandPath(), args[0])
		case len(args) > len(names):
			return misuse("unexpected argument %q after %s", args[len(names)], names[len(names)-1])
		}
		for i, arg := range args {
			if arg == "" {
				return misuse("%s is empty", names[i])
			}
		}
		return nil
	}
}

// newOutputTopic is the help topic `lockstep help output`.
func newOutputTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "output",
		Short: "What -o json and -o yaml print, field by field",
		Long:  strings.TrimSpace(outputHelp),
	}
}
