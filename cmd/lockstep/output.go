package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// Forms of -o.
const (
	formTable = "table"
	formWide  = "wide"
	formJSON  = "json"
	formYAML  = "yaml"
	formName  = "name"
)

var forms = []string{formTable, formWide, formJSON, formYAML, formName}

// outputFlag is the value of -o; pflag refuses an unknown form.
type outputFlag struct{ form string }

func (o *outputFlag) String() string { return o.form }
func (o *outputFlag) Type() string   { return "form" }

func (o *outputFlag) Set(form string) error {
	if !slices.Contains(forms, form) {
		return fmt.Errorf("want one of %s", strings.Join(forms, ", "))
	}
	o.form = form
	return nil
}

func (o *outputFlag) register(command *cobra.Command) {
	o.form = formTable
	command.Flags().VarP(o, "output", "o", "form of the output: "+strings.Join(forms, ", "))
	_ = command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
}

// forPeople reports whether a person reads the output, so hints are welcome.
func (o *outputFlag) forPeople() bool { return o.form == formTable || o.form == formWide }

// result is the data of one command in all its forms.
type result struct {
	// document is what json and yaml show; see output.md.
	document any
	// names are what -o name shows, one a line, each in the form that other
	// commands accept as an argument.
	names []string
	// show draws the table.
	show func(*page)
}

// print writes r to standard output in one piece.
func (a *app) print(o *outputFlag, r result) error {
	var data []byte
	var err error
	switch o.form {
	case formJSON:
		data, err = json.MarshalIndent(r.document, "", "  ")
		data = append(data, '\n')
	case formYAML:
		data, err = yaml.Marshal(r.document)
	case formName:
		for _, name := range r.names {
			data = append(data, name+"\n"...)
		}
	default:
		p := &page{now: a.now(), wide: o.form == formWide, colour: a.coloured()}
		r.show(p)
		data = p.buffer.Bytes()
	}
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	if _, err := a.stdout.Write(data); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// coloured follows no-color.org and leaves dumb terminals alone.
func (a *app) coloured() bool {
	return a.terminals.stdout && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// suggest returns a command line that reaches the same site, to be copied.
func (a *app) suggest(flags *adminFlags, verb string) string {
	line := a.displayName() + " " + verb
	if a.isPlugin() {
		return line + a.kubectl.given()
	}
	if flags != nil && flags.socket != a.adminSocket() {
		line += " --admin " + flags.socket
	}
	return line
}
