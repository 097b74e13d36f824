package main

import (
	"bufio"
	"context"
	"strings"

	"github.com/spf13/cobra"
)

// confirmFlags guard a verb that a person is asked about first.
type confirmFlags struct {
	yes    bool
	dryRun bool
}

func (f *confirmFlags) register(command *cobra.Command) {
	command.Flags().BoolVar(&f.yes, "yes", false, "do not ask; needed where nobody can be asked")
	registerDryRun(command, &f.dryRun)
}

func registerDryRun(command *cobra.Command, dryRun *bool) {
	command.Flags().BoolVar(dryRun, "dry-run", false, "check and say what would happen, and change nothing")
}

// asks reports whether a person has to be asked.
func (f *confirmFlags) asks() bool { return !f.yes && !f.dryRun }

// validate refuses at once when a question is due and nobody is there.
func (f *confirmFlags) validate(a *app, command *cobra.Command) error {
	if f.asks() && (!a.terminals.stdin || !a.terminals.stderr) {
		return misuse("`%s` asks before it acts, and no terminal is here to answer: pass --yes, or look first with --dry-run", command.CommandPath())
	}
	return nil
}

// ask puts a question on standard error and returns nil for yes, errDeclined
// for anything else, and errInterrupted when ctx ends first.
func (a *app) ask(ctx context.Context, question string) error {
	a.tell("%s [y/N] ", question)
	// A read of a terminal cannot be cancelled. After an interrupt the
	// goroutine stays in it until the process ends, which is what comes next.
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case <-ctx.Done():
		a.tell("\n")
		return errInterrupted
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		default:
			return errDeclined
		}
	}
}
