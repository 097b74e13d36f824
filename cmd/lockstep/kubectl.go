package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// pluginName is what kubectl calls for `kubectl lockstep`.
const pluginName = "kubectl-lockstep"

// defaultDriverNamespace is where the documentation installs Lockstep.
const defaultDriverNamespace = "lockstep"

// isPlugin reports whether sites are reached through a cluster's API server.
func (a *app) isPlugin() bool { return a.name == pluginName }

func (a *app) displayName() string {
	if a.isPlugin() {
		return "kubectl lockstep"
	}
	return "lockstep"
}

// kubectlFlags are those of kubectl that say which cluster is meant, with the
// same names, and where Lockstep is in it.
type kubectlFlags struct {
	options cluster.Options
	set     *pflag.FlagSet
}

func (f *kubectlFlags) register(root *cobra.Command) {
	f.set = pflag.NewFlagSet("kubectl", pflag.ContinueOnError)
	o := &f.options
	f.set.StringVar(&o.Kubeconfig, "kubeconfig", "", "path of the kubeconfig (default: as kubectl finds it)")
	f.set.StringVar(&o.Overrides.CurrentContext, "context", "", "context of the kubeconfig")
	f.set.StringVar(&o.Overrides.Context.Cluster, "cluster", "", "cluster of the kubeconfig")
	f.set.StringVar(&o.Overrides.Context.AuthInfo, "user", "", "user of the kubeconfig")
	f.set.StringVarP(&o.Overrides.Context.Namespace, "namespace", "n", "", "namespace of groups and claims that are named without one")
	f.set.StringVar(&o.Overrides.AuthInfo.Impersonate, "as", "", "user to impersonate")
	f.set.StringArrayVar(&o.Overrides.AuthInfo.ImpersonateGroups, "as-group", nil, "group to impersonate; may be repeated")
	f.set.StringVar(&o.DriverNamespace, "lockstep-namespace", defaultDriverNamespace, "namespace that Lockstep runs in")
	root.PersistentFlags().AddFlagSet(f.set)
}

// nameAsPlugin makes examples those of the plugin.
func nameAsPlugin(command *cobra.Command) {
	lines := strings.Split(command.Example, "\n")
	for i, line := range lines {
		if words, isOurs := strings.CutPrefix(line, "  lockstep "); isOurs {
			lines[i] = "  kubectl lockstep " + words
		}
	}
	command.Example = strings.Join(lines, "\n")
	for _, child := range command.Commands() {
		nameAsPlugin(child)
	}
}

// given are the flags that were given, to be copied into another command line.
func (f *kubectlFlags) given() string {
	text := ""
	f.set.VisitAll(func(flag *pflag.Flag) {
		if !flag.Changed {
			return
		}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			for _, value := range list.GetSlice() {
				text += fmt.Sprintf(" --%s=%s", flag.Name, value)
			}
			return
		}
		text += fmt.Sprintf(" --%s=%s", flag.Name, flag.Value)
	})
	return text
}

// inCluster opens the cluster that the flags mean.
func (a *app) inCluster() (*cluster.Cluster, error) {
	o := a.kubectl.options
	if o.DriverNamespace == "" {
		return nil, misuse("--lockstep-namespace is empty")
	}
	o.UserAgent, o.Warnings = pluginName+"/"+version, a.stderr
	return a.openCluster(o)
}
