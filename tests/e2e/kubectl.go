package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Kubectl runs kubectl in the test's namespace, as a person does who has the
// plugin on the PATH, and returns what it printed. It fails the test when
// kubectl does.
func (n *Namespace) Kubectl(in string, args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), pluginTimeout)
	defer cancel()
	cmd, err := n.kubectlCommand(ctx, n.t.TempDir(), args...)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		n.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// kubectlCommand is a command of kubectl that has not been started. dir is an
// empty directory for the plugin, which kubectl finds by its name. The
// namespace comes last, because a plugin's name has to come first.
func (n *Namespace) kubectlCommand(ctx context.Context, dir string, args ...string) (*exec.Cmd, error) {
	plugin, err := filepath.Abs(binary)
	if err == nil {
		err = os.Symlink(plugin, filepath.Join(dir, "kubectl-lockstep"))
	}
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "kubectl", append(args, "--namespace", n.Namespace)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.Kubeconfig, "PATH="+dir+":"+os.Getenv("PATH"))
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}
