package sanity

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/lockstep-csi/lockstep/controller"
)

const mib = int64(1) << 20

// secret is given with every call that takes secrets, and must not be logged.
const secret = "correct-horse-battery-staple"

// start runs a site until the test ends, and returns the address of its CSI
// socket. It is startLoop or startStandalone.
type start func(t *testing.T, log io.Writer) (address string)

// variant is one way to use volumes; the whole suite runs for each.
type variant struct {
	name       string
	start      start
	accessType string
	sizeBytes  int64
	parameters map[string]string
}

var variants = []variant{
	{start: startStandalone, name: "ext4, each volume a group", accessType: "mount", sizeBytes: 64 * mib},
	{start: startStandalone, name: "ext4, all volumes one group", accessType: "mount", sizeBytes: 64 * mib,
		parameters: map[string]string{controller.ParameterGroup: "sanity"}},
	{start: startStandalone, name: "xfs, all volumes one group", accessType: "mount", sizeBytes: 320 * mib,
		parameters: map[string]string{controller.ParameterGroup: "sanity-xfs", controller.ParameterFSType: "xfs"}},
	{start: startStandalone, name: "block, each volume a group", accessType: "block", sizeBytes: 64 * mib},
	{start: startStandalone, name: "block, all volumes one group", accessType: "block", sizeBytes: 64 * mib,
		parameters: map[string]string{controller.ParameterGroup: "sanity-block", controller.ParameterBlockSize: "4096"}},
}

// disabledUpstream is the one test that csi-sanity itself has disabled; it is
// reported as pending, once for each variant.
const disabledUpstream = "pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted"

func TestSanity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("csi-sanity was not run: it attaches and mounts devices, which needs root")
	}
	log := &logBuffer{}
	for _, v := range variants {
		describe(t, v, log)
	}
	ginkgo.ReportAfterSuite("nothing is skipped", func(report types.Report) { checkReport(t, report) })
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "csi-sanity")
	if strings.Contains(log.String(), secret) {
		t.Error("a secret was logged")
	}
	if !strings.Contains(log.String(), "method=NodeStageVolume") {
		t.Error("calls were not logged")
	}
}

// describe registers the suite for one variant on a site of its own.
func describe(t *testing.T, v variant, log *logBuffer) {
	dir := t.TempDir()
	address := v.start(t, log)
	config := sanity.NewTestConfig()
	config.Address = address
	config.TargetPath = filepath.Join(dir, "target")
	config.StagingPath = filepath.Join(dir, "staging")
	config.SecretsFile = writeSecrets(t, dir)
	config.TestVolumeAccessType = v.accessType
	config.TestVolumeSize = v.sizeBytes
	config.TestVolumeExpandSize = 2 * v.sizeBytes
	config.TestVolumeParameters = v.parameters
	config.TestVolumeMutableParameters = map[string]string{controller.ParameterWindow: "12h"}
	config.TestNodeVolumeAttachLimit = true
	var suite *sanity.TestContext
	ginkgo.Describe(v.name, func() { suite = sanity.GinkgoTest(&config) })
	t.Cleanup(func() { suite.Finalize() })
}

func writeSecrets(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	for _, call := range []string{
		"CreateVolumeSecret", "DeleteVolumeSecret", "ControllerPublishVolumeSecret", "ControllerUnpublishVolumeSecret",
		"ControllerValidateVolumeCapabilitiesSecret", "NodeStageVolumeSecret", "NodePublishVolumeSecret",
		"CreateSnapshotSecret", "DeleteSnapshotSecret", "ControllerExpandVolumeSecret", "ControllerModifyVolumeSecret",
		"ListSnapshotsSecret", "GetSnapshotSecret",
	} {
		fmt.Fprintf(&text, "%s:\n  key: %s\n", call, secret)
	}
	path := filepath.Join(dir, "secrets.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkReport fails the test if anything but the tests disabled upstream did
// not run.
func checkReport(t *testing.T, report types.Report) {
	passed, pending := 0, 0
	for _, spec := range report.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt {
			continue
		}
		switch {
		case spec.State == types.SpecStatePassed:
			passed++
		case spec.State == types.SpecStatePending && spec.LeafNodeText == disabledUpstream:
			pending++
		default:
			t.Errorf("%s: %s: %s", spec.State, spec.FullText(), spec.Failure.Message)
		}
	}
	t.Logf("%d tests passed in %d variants, %d disabled upstream", passed, len(variants), pending)
	if pending != len(variants) {
		t.Errorf("%d tests are disabled upstream, want one for each of %d variants", pending, len(variants))
	}
	if least := 80 * len(variants); passed < least {
		t.Errorf("%d tests passed, want at least %d", passed, least)
	}
}
