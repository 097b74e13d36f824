package operator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	os.Exit(apitest.Main(m))
}

const (
	testDriver  = "csi.lockstep.dev"
	definitions = "../../deploy/charts/lockstep/files/crds"
	gib         = int64(1) << 30
)

var testStart = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// cluster is a namespace of a real API server, and a client of an administrator.
type cluster struct {
	client.Client
	t         *testing.T
	server    *apitest.Server
	namespace string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	server := apitest.Start(t)
	c, err := client.New(server.Config(), client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	installed.Do(func() { installDefinitions(t, c) })
	return &cluster{Client: c, t: t, server: server, namespace: server.Namespace(t)}
}

var installed sync.Once

// installDefinitions makes the custom resources known, and returns when they can
// be used.
func installDefinitions(t *testing.T, c client.Client) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(definitions, "*.yaml"))
	if err != nil || len(files) != 3 {
		t.Fatalf("found definitions %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &crd.Object); err != nil {
			t.Fatal(err)
		}
		if err := c.Create(t.Context(), crd); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	until(t, "the custom resources to be served", func() bool {
		return c.List(t.Context(), &v1alpha1.RecoveryList{}) == nil && c.List(t.Context(), &v1alpha1.ConsistencyGroupList{}) == nil &&
			c.List(t.Context(), &v1alpha1.SiteList{}) == nil
	})
}

// until waits for what others do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// make creates an object in the cluster's namespace, unless it has one.
func (c *cluster) make(o client.Object) {
	c.t.Helper()
	if o.GetNamespace() == "" {
		o.SetNamespace(c.namespace)
	}
	if err := c.Create(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) get(name string, o client.Object) error {
	return c.Get(c.t.Context(), client.ObjectKey{Namespace: c.namespace, Name: name}, o)
}

func (c *cluster) update(o client.Object) {
	c.t.Helper()
	if err := c.Update(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) remove(o client.Object) {
	c.t.Helper()
	if err := c.Delete(c.t.Context(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		c.t.Fatal(err)
	}
}

func claimNamed(name string) *corev1.PersistentVolumeClaim {
	class := "journaled"
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func podNamed(name string, claims ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec(claims...)}
	return pod
}

func podSpec(claims ...string) corev1.PodSpec {
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}
	for _, claim := range claims {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
	return spec
}

// bind makes a claim, and the PersistentVolume that it names.
func (c *cluster) bind(claim *corev1.PersistentVolumeClaim, id journal.VolumeID) {
	c.t.Helper()
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: c.namespace + "-" + claim.Name},
		Spec: corev1.PersistentVolumeSpec{Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			ClaimRef:    &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.namespace, Name: claim.Name},
			AccessModes: claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: testDriver, VolumeHandle: id.String()}}},
	}
	if err := c.Create(c.t.Context(), pv); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { c.removePV(pv.Name) })
	claim.Spec.VolumeName = pv.Name
	c.make(claim)
}

// removePV takes a PersistentVolume away at the end of a test, with the finalizer that
// protects one in use: nothing is there to see that it is not. The test's claims stay where
// they are, and through one that is left they would name a volume of the next test, which
// that test's controller would move to their group.
func (c *cluster) removePV(name string) {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	err := c.Delete(context.Background(), pv)
	if err == nil {
		err = c.Patch(context.Background(), pv, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	}
	if client.IgnoreNotFound(err) != nil {
		c.t.Error(err)
	}
	if err := c.Get(context.Background(), client.ObjectKeyFromObject(pv), pv); !apierrors.IsNotFound(err) {
		c.t.Errorf("PersistentVolume %s is left: %v", name, err)
	}
}

// plane is a data plane and a CSI catalog in memory. It outlives the controllers
// that use it, as engines do. It implements Fleet and Catalog.
type plane struct {
	mu      sync.Mutex
	states  map[string]*group.State
	volumes []fleet.Volume
	points  map[string][]group.Point
	sending map[string]*replication.Metrics
	failing error // of Summary's stats
	mute    error // of engines that are asked for points
	// refusing is why no point is held, unless nil.
	refusing error
	// moving, unless nil, is called by each move before it does anything, and choosing by
	// each change of a group's settings.
	moving, choosing func(context.Context) error
	resting          bool // nothing is in use
	catalog          map[journal.VolumeID]string
	chosen           map[string]group.Settings
	adopted          []controller.Adoption
	changed          []string // sites of PeerChanged
	awake            int
	// left: the points are also those of a volume that has left the group; past counts
	// who has its engine run.
	left bool
	past int
	used map[journal.VolumeID]bool // mounted on their nodes
	held map[string]journal.CheckpointNumber
	// counts of what was done
	rewinds, undos, commits, failovers, moves int
}

func newPlane() *plane {
	return &plane{states: map[string]*group.State{}, points: map[string][]group.Point{}, sending: map[string]*replication.Metrics{}, used: map[journal.VolumeID]bool{}, held: map[string]journal.CheckpointNumber{},
		catalog: map[journal.VolumeID]string{}, chosen: map[string]group.Settings{}}
}

func id(n byte) journal.VolumeID { return journal.VolumeID{n} }

// add makes a volume of a claim, in a group with three points.
func (p *plane) add(n byte, in, namespace, claim string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volumes = append(p.volumes, fleet.Volume{ID: id(n), Name: fmt.Sprint("pvc-", n), Group: in, SizeBytes: gib, Claim: namespace + "/" + claim,
		Attributes: map[string]string{replication.AttributeNamespace: namespace, replication.AttributeName: claim, replication.AttributeClass: "journaled",
			replication.AttributeAccessModes: "ReadWriteOnce", replication.AttributeVolumeMode: "Filesystem", replication.AttributeFSType: "ext4",
			replication.AttributeBlockBytes: "4096", labelAttribute + "app": "shop"},
		Placement: &fleet.Placement{Topology: []map[string]string{{"zone": "a"}}}, Connected: true, Node: "node1",
		State: control.State{Store: &control.StoreState{SizeBytes: gib, JournalBytes: 1 << 20}}})
	p.catalog[id(n)] = in
	st := p.states[in]
	if st == nil {
		st = &group.State{Name: in, Role: group.RolePrimary, Term: 1, Settings: group.Settings{}.WithDefaults()}
		p.states[in] = st
		for i := range 3 {
			p.points[in] = append(p.points[in], group.Point{Checkpoint: journal.CheckpointNumber(10 + i), Time: testStart.Add(time.Duration(i) * time.Minute),
				ValidUntil: testStart.Add(time.Duration(i) * time.Minute), Members: map[journal.VolumeID]journal.Position{}})
		}
	}
	st.Members = append(st.Members, id(n))
}

// edit changes what a group is.
func (p *plane) edit(name string, change func(*group.State)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p.states[name])
}

func (p *plane) volume(n byte, change func(*fleet.Volume)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.volumes, func(v fleet.Volume) bool { return v.ID == id(n) })
	change(&p.volumes[i])
}

func (p *plane) Volumes() []fleet.Volume {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.volumes)
}

func (p *plane) States() []group.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []group.State
	for _, st := range p.states {
		all = append(all, *st)
	}
	return all
}

func (p *plane) MoveVolume(ctx context.Context, v journal.VolumeID, to string, settings group.Settings) error {
	if p.moving != nil {
		if err := p.moving(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.volumes, func(o fleet.Volume) bool { return o.ID == v })
	from := p.states[p.volumes[i].Group]
	if from.Rewind != nil {
		return group.ErrRewindOpen
	}
	p.moves++
	from.Members = slices.DeleteFunc(slices.Clone(from.Members), func(o journal.VolumeID) bool { return o == v })
	if len(from.Members) == 0 {
		delete(p.states, from.Name)
	}
	st := p.states[to]
	if st == nil {
		st = &group.State{Name: to, Role: group.RolePrimary, Term: 1, Settings: settings}
		p.states[to] = st
	}
	st.Members = append(slices.Clone(st.Members), v)
	p.volumes[i].Group = to
	return nil
}

func (p *plane) Summary(_ context.Context, name string) (groups.Summary, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.states[name]
	if st == nil {
		return groups.Summary{}, group.ErrNotFound
	}
	out := groups.Summary{State: *st, Started: st.Role == group.RolePrimary && !p.resting, Stats: group.CoordinatorStats{LastError: p.failing}, Sending: p.sending[name]}
	if p.mute != nil {
		return out, p.mute
	}
	if points := p.points[name]; len(points) > 0 {
		out.Oldest, out.Newest = &points[0], &points[len(points)-1]
	}
	out.Whole = !slices.ContainsFunc(p.volumes, func(v fleet.Volume) bool {
		return v.Group == name && (v.State.Store == nil || v.State.Store.Horizon.Seq > 0)
	})
	return out, nil
}

func (p *plane) Wake(_ context.Context, name string, past bool) (func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.states[name] == nil {
		return nil, group.ErrNotFound
	}
	more := 0
	if past {
		more = 1
	}
	p.awake, p.past = p.awake+1, p.past+more
	return sync.OnceFunc(func() { p.mu.Lock(); p.awake, p.past = p.awake-1, p.past-more; p.mu.Unlock() }), nil
}

// choose finds a point.
func (p *plane) choose(name, at string) (group.Point, error) {
	if p.left && p.past == 0 {
		return group.Point{}, group.ErrAway
	}
	return group.Select(name, p.points[name], at)
}

func (p *plane) Hold(_ context.Context, name, at, by string) (group.Point, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	point, err := p.choose(name, at)
	if p.refusing != nil {
		err = p.refusing
	}
	if err == nil {
		p.held[by] = point.Checkpoint
	}
	return point, func() { p.Release(context.Background(), name, by) }, err
}

func (p *plane) Release(_ context.Context, _, by string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, by)
}

// use says whether a pod has a volume mounted, which Kubernetes attaches for that,
// and detaches later.
func (p *plane) use(n byte, used bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[id(n)] = used
	i := slices.IndexFunc(p.volumes, func(v fleet.Volume) bool { return v.ID == id(n) })
	if v := &p.volumes[i]; used {
		v.Attach, v.State.Device = &fleet.Attachment{Node: "node1", Attach: control.Attach{BlockBytes: 512}}, "/dev/loop0"
	}
}

func (p *plane) Idle(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle(name)
}

func (p *plane) idle(name string) error {
	for _, v := range p.volumes {
		if v.Group == name && p.used[v.ID] {
			return fmt.Errorf("%s is mounted: %w", v.Name, groups.ErrInUse)
		}
	}
	return nil
}

func (p *plane) usable(name string) error {
	if err := p.idle(name); err != nil {
		return err
	}
	if p.awake == 0 {
		return fleet.ErrNoEngine
	}
	return nil
}

func (p *plane) StartRewind(_ context.Context, name, at string, _ bool) (group.Rewind, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.states[name]
	if err := p.usable(name); err != nil {
		return group.Rewind{}, err
	}
	if st.Rewind != nil {
		return group.Rewind{}, group.ErrRewindOpen
	}
	to, err := p.choose(name, at)
	if err != nil {
		return group.Rewind{}, err
	}
	p.rewinds++
	st.Rewind = &group.Rewind{ID: "r", Started: testStart, To: to, From: group.Point{Checkpoint: 99, Time: testStart.Add(time.Hour)}}
	return *st.Rewind, nil
}

func (p *plane) UndoRewind(_ context.Context, name string, _ bool) (group.Point, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(name); err != nil {
		return group.Point{}, err
	}
	st := p.states[name]
	if st.Rewind == nil {
		return group.Point{}, group.ErrNoRewind
	}
	p.undos++
	back := st.Rewind.From
	st.Rewind = nil
	return back, nil
}

func (p *plane) CommitRewind(_ context.Context, name string, _ bool) (group.Point, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.states[name]
	if st.Rewind == nil {
		return group.Point{}, group.ErrNoRewind
	}
	p.commits++
	to := st.Rewind.To
	st.Rewind = nil
	return to, nil
}

func (p *plane) Failover(_ context.Context, name, at string, dryRun bool) (groups.Failover, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.states[name]
	for _, v := range p.volumes {
		if v.Group == name && v.Attach != nil {
			return groups.Failover{}, groups.ErrInUse
		}
	}
	if err := p.usable(name); err != nil {
		return groups.Failover{}, err
	}
	if st.Role == group.RolePrimary {
		return groups.Failover{}, group.ErrRole
	}
	point, err := p.choose(name, at)
	out := groups.Failover{Point: point, Term: st.Term + 1, RPO: 6 * time.Second}
	if err != nil || dryRun {
		return out, err
	}
	p.failovers++
	st.Role, st.Term, st.Settings.ReplicateTo, st.Source = group.RolePrimary, out.Term, st.Source, ""
	return out, nil
}

func (p *plane) PeerChanged(_ context.Context, site string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = append(p.changed, site)
	return nil
}

func (p *plane) GroupOf(v journal.VolumeID) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name, ok := p.catalog[v]; ok {
		return name, nil
	}
	return "", controller.ErrNotFound
}

func (p *plane) Regroup(ctx context.Context, v journal.VolumeID, to string, chosen *group.Settings, move func(context.Context, group.Settings) error) error {
	settings := group.Settings{}
	if chosen != nil {
		settings = *chosen
	}
	if err := move(ctx, settings.WithDefaults()); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catalog[v] = to
	return nil
}

func (p *plane) Choose(ctx context.Context, name string, chosen group.Settings) error {
	if p.choosing != nil {
		if err := p.choosing(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.states[name]
	if st == nil {
		return controller.ErrNotFound
	}
	wanted := chosen.WithDefaults()
	if err := wanted.Validate(); err != nil {
		return fmt.Errorf("%w: %w", controller.ErrInvalid, err)
	}
	p.chosen[name], st.Settings = chosen, wanted
	return nil
}

func (p *plane) Adopt(_ context.Context, a controller.Adoption) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adopted = append(p.adopted, a)
	return nil
}

// run starts an operator, which ends with the test.
func (c *cluster) run(p *plane) *Operator {
	c.t.Helper()
	peers := NewPeers(func(string) string { return "" })
	o, err := New(Config{Rest: c.server.Config(), Site: "here", DriverName: testDriver, Fleet: p, Catalog: p, Peers: peers,
		Interval: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(outputOf(c.t), nil))})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	c.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	return o
}

// output is a test's, as long as that runs: client-go goes on recording events, and logs
// what becomes of it, when those who made them have ended.
type output struct {
	mu   sync.Mutex // guards test
	test io.Writer  // nil: it is over
}

func outputOf(t *testing.T) *output {
	o := &output{test: t.Output()}
	t.Cleanup(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.test = nil
	})
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.test == nil {
		return len(p), nil
	}
	return o.test.Write(p)
}
