package operator

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
)

func (c *cluster) groupResource(name string) (v1alpha1.ConsistencyGroup, bool) {
	var g v1alpha1.ConsistencyGroup
	err := c.get(name, &g)
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
	return g, err == nil
}

func isTrue(g *v1alpha1.ConsistencyGroup, kind string) bool {
	return meta.IsStatusConditionTrue(g.Status.Conditions, kind)
}

// told reports whether an event of the reason was made about an object.
func (c *cluster) told(kind, name, reason string) bool {
	var list eventsv1.EventList
	if err := c.List(c.t.Context(), &list, client.InNamespace(c.namespace)); err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason {
			return true
		}
	}
	return false
}

// A group's resource appears with its first member, tells what the site knows,
// comes back when it is deleted, and goes with the last member.
func TestAGroupHasAResource(t *testing.T) {
	c, p := newCluster(t), newPlane()
	name := c.namespace + "/shop"
	c.make(claimNamed("data"))
	p.add(1, name, c.namespace, "data")
	p.volume(1, func(v *fleet.Volume) { v.Attach, v.State.Device = &fleet.Attachment{Node: "node1"}, "/dev/loop0" })
	c.run(p)
	var g v1alpha1.ConsistencyGroup
	until(t, "the status", func() bool {
		var ok bool
		g, ok = c.groupResource("shop")
		return ok && isTrue(&g, v1alpha1.GroupReady)
	})
	st := g.Status
	if st.Role != v1alpha1.RolePrimary || st.Term != 1 || st.MemberCount != 1 || st.NewestPoint == nil || st.NewestPoint.Checkpoint != 12 || st.OldestPoint.Checkpoint != 10 ||
		st.Settings.Window != "7d" || st.Settings.History != group.DefaultHistory(time.Second) || st.Replication != nil || !isTrue(&g, v1alpha1.GroupWindowAchieved) || !isTrue(&g, v1alpha1.GroupSettingsAccepted) {
		t.Errorf("status %+v", st)
	}
	if m := st.Members[0]; m.Volume != id(1).String() || m.Claim != "data" || m.Node != "node1" || !m.Attached || m.Size.Value() != gib {
		t.Errorf("member %+v", m)
	}
	first := g.UID
	c.remove(&g)
	until(t, "the resource to come back", func() bool {
		g, ok := c.groupResource("shop")
		return ok && g.UID != first && isTrue(&g, v1alpha1.GroupReady)
	})
	p.mu.Lock()
	p.volumes = nil
	delete(p.states, name)
	p.mu.Unlock()
	until(t, "the resource to go with the group", func() bool { _, ok := c.groupResource("shop"); return !ok })
}

// A resource that a user made waits for members, gives its settings to the
// group, says what is wrong with them, and stays when the group ends.
func TestSettingsOfAGroup(t *testing.T) {
	c, p := newCluster(t), newPlane()
	name := c.namespace + "/shop"
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: v1alpha1.ConsistencyGroupSpec{Window: "7d", CheckpointInterval: "500ms"}})
	c.run(p)
	condition := func(kind, reason string) func() bool {
		return func() bool {
			g, ok := c.groupResource("shop")
			found := meta.FindStatusCondition(g.Status.Conditions, kind)
			return ok && found != nil && found.Reason == reason && found.ObservedGeneration == g.Generation
		}
	}
	until(t, "the group to wait for members", condition(v1alpha1.GroupReady, reasonNoMembers))
	p.add(1, name, c.namespace, "data")
	until(t, "the settings to be in force", func() bool {
		g, _ := c.groupResource("shop")
		return g.Status.Settings != nil && g.Status.Settings.Window == "7d" && g.Status.Settings.CheckpointInterval == "500ms" && g.Status.ObservedGeneration == g.Generation
	})
	edit := func(change func(*v1alpha1.ConsistencyGroupSpec)) {
		until(t, "the resource to take an update", func() bool {
			g, _ := c.groupResource("shop")
			change(&g.Spec)
			return c.Update(t.Context(), &g) == nil
		})
	}
	edit(func(s *v1alpha1.ConsistencyGroupSpec) {
		s.Window, s.CheckpointInterval = "", "30m"
		s.ReplicateTo = "there"
	})
	until(t, "the new settings", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.chosen[name].CheckpointInterval.Minutes() == 30 && p.chosen[name].Window == 0 && p.chosen[name].ReplicateTo == "there"
	})
	until(t, "the missing Site to be named", func() bool {
		g, _ := c.groupResource("shop")
		r := g.Status.Replication
		return r != nil && r.State == v1alpha1.ReplicationDisconnected && strings.Contains(r.Message, "there is no Site there")
	})
	// The definition refuses what can be seen from one resource; a budget that
	// is too small for the rest of the settings cannot.
	p.edit(name, func(st *group.State) { st.Settings.Window = 0 })
	edit(func(s *v1alpha1.ConsistencyGroupSpec) {
		s.BarrierTimeout = "10s"
		s.CheckpointInterval = "1h"
		s.Window = ""
	})
	until(t, "the change", func() bool {
		g, _ := c.groupResource("shop")
		return g.Status.ObservedGeneration == g.Generation && g.Status.Settings.CheckpointInterval == "1h"
	})
	p.mu.Lock()
	p.volumes = nil
	delete(p.states, name)
	p.mu.Unlock()
	until(t, "the group to wait for members again", condition(v1alpha1.GroupReady, reasonNoMembers))
}

// What a person waits for is told at once, in status and events.
func TestTroubleIsTold(t *testing.T) {
	c, p := newCluster(t), newPlane()
	name := c.namespace + "/shop"
	c.make(claimNamed("data"))
	p.add(1, name, c.namespace, "data")
	c.run(p)
	until(t, "the group to be ready", func() bool { g, _ := c.groupResource("shop"); return isTrue(&g, v1alpha1.GroupReady) })
	p.volume(1, func(v *fleet.Volume) {
		v.State.Reason, v.State.Error = control.ReasonFull, "no space left on the backing volume"
	})
	until(t, "the group to be not ready", func() bool {
		g, _ := c.groupResource("shop")
		return !isTrue(&g, v1alpha1.GroupReady) && g.Status.Members[0].Reason == "Full"
	})
	until(t, "events", func() bool {
		return c.told("PersistentVolumeClaim", "data", "Full") && c.told("ConsistencyGroup", "shop", "PointsMissed")
	})
	p.volume(1, func(v *fleet.Volume) { v.State.Reason, v.State.Error = "", "" })
	p.mu.Lock()
	p.failing = errors.New("checkpoint given up")
	p.mu.Unlock()
	until(t, "the next trouble", func() bool {
		g, _ := c.groupResource("shop")
		found := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.GroupReady)
		return found != nil && found.Reason == reasonMissed
	})
	p.mu.Lock()
	p.failing = nil
	p.mu.Unlock()
	p.edit(name, func(st *group.State) {
		st.Rewind = &group.Rewind{Started: testStart, To: group.Point{Checkpoint: 10, Time: testStart}, From: group.Point{Checkpoint: 12, Time: testStart}}
	})
	until(t, "the end of it", func() bool {
		return c.told("ConsistencyGroup", "shop", "PointsResumed") && c.told("ConsistencyGroup", "shop", "Rewound") && c.told("PersistentVolumeClaim", "data", "Recovered")
	})
	p.edit(name, func(st *group.State) { st.Role, st.Source, st.Term, st.Rewind = group.RoleReplica, "there", 2, nil })
	until(t, "the demotion", func() bool {
		g, _ := c.groupResource("shop")
		return g.Status.Role == v1alpha1.RoleReplica && g.Status.Replication != nil && g.Status.Replication.Peer == "there" && c.told("ConsistencyGroup", "shop", "Demoted")
	})
}

// Annotations that change, and pods that appear, move volumes; pods that go do
// not.
func TestVolumesFollowAnnotations(t *testing.T) {
	c, p := newCluster(t), newPlane()
	claim := claimNamed("data")
	p.add(1, c.namespace+"/data", c.namespace, "data")
	c.bind(claim, id(1))
	c.make(&v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: v1alpha1.ConsistencyGroupSpec{Window: "7d"}})
	c.run(p)
	in := func(name string) func() bool {
		return func() bool { got, err := p.GroupOf(id(1)); return err == nil && got == c.namespace+"/"+name }
	}
	pod := podNamed("p", "data")
	pod.Annotations = annotated("shop")
	c.make(pod)
	until(t, "the volume to join its pod's group", in("shop"))
	until(t, "the group to have its resource's settings", func() bool {
		g, _ := c.groupResource("shop")
		return g.Status.MemberCount == 1 && g.Status.Settings.Window == "7d"
	})
	until(t, "an event", func() bool { return c.told("PersistentVolumeClaim", "data", "GroupChanged") })
	if _, ok := c.groupResource("data"); ok {
		until(t, "the old group's resource to go", func() bool { _, ok := c.groupResource("data"); return !ok })
	}
	c.annotateNamespace("all")
	c.remove(pod)
	edit := func(change func(*corev1.PersistentVolumeClaim)) {
		until(t, "the claim to take an update", func() bool {
			var now corev1.PersistentVolumeClaim
			if err := c.get("data", &now); err != nil {
				t.Fatal(err)
			}
			change(&now)
			return c.Update(t.Context(), &now) == nil
		})
	}
	edit(func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = map[string]string{"looked": "at"} })
	p.edit(c.namespace+"/shop", func(st *group.State) {
		st.Rewind = &group.Rewind{Started: testStart, To: group.Point{Checkpoint: 10, Time: testStart}, From: group.Point{Checkpoint: 12, Time: testStart}}
	})
	edit(func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = annotated("bank") })
	until(t, "the refusal to be told", func() bool { return c.told("PersistentVolumeClaim", "data", "GroupNotChanged") })
	if !in("shop")() {
		t.Error("a volume has moved without a pod, or out of a rewind")
	}
	p.edit(c.namespace+"/shop", func(st *group.State) { st.Rewind = nil })
	edit(func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = annotated("No!") })
	until(t, "the bad name to be told", func() bool { return c.told("PersistentVolumeClaim", "data", "GroupInvalid") })
	edit(func(claim *corev1.PersistentVolumeClaim) { claim.Annotations = annotated("bank") })
	until(t, "the volume to follow its claim", in("bank"))
	if p.moves != 2 {
		t.Errorf("%d moves, want 2", p.moves)
	}
}

// A Site becomes a peer when there are certificates for it, and is none without.
func TestASiteWithoutCertificates(t *testing.T) {
	c, p := newCluster(t), newPlane()
	site := &v1alpha1.Site{ObjectMeta: metav1.ObjectMeta{Name: "there"}, Spec: v1alpha1.SiteSpec{Address: "there.example.org:7443"}}
	if err := c.Create(t.Context(), site); err != nil {
		t.Fatal(err)
	}
	defer c.remove(site)
	o := c.run(p)
	until(t, "the site to say what it lacks", func() bool {
		var now v1alpha1.Site
		if err := c.Get(t.Context(), types.NamespacedName{Name: "there"}, &now); err != nil {
			t.Fatal(err)
		}
		found := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.SiteConnected)
		return found != nil && found.Reason == "NoCertificate" && strings.Contains(found.Message, DefaultPeerSecret) && !now.Status.Connected
	})
	if _, ok := o.cfg.Peers.Peer("there"); ok {
		t.Error("a site without certificates is a peer")
	}
}
