package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Program is Lockstep's own, as `make build` makes it, from where the tests run.
const Program = "../../bin/lockstep"

// Plugin runs kubectl lockstep against the cluster, with dir for its files, and
// returns what it printed on standard output.
func (c *Cluster) Plugin(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	program, err := filepath.Abs(Program)
	if err != nil {
		return "", err
	}
	plugin := filepath.Join(dir, "kubectl-lockstep")
	if err := os.Symlink(program, plugin); err != nil && !os.IsExist(err) {
		return "", err
	}
	cmd := exec.CommandContext(ctx, plugin, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.WaitDelay = 5 * time.Second
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("kubectl lockstep %s: %w: %s", strings.Join(args, " "), err, complaints.String())
	}
	return string(out), nil
}
