package operator

import (
	"context"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// suspended is the client of a controller that is suspended once, before it reads a workload or
// before it changes it; another one works meanwhile.
type suspended struct {
	client.Client
	beforeRead, beforeChange func()
}

func once(do *func()) {
	if f := *do; f != nil {
		*do = nil
		f()
	}
}

func (s *suspended) SubResource(name string) client.SubResourceClient {
	return &suspendedScale{s.Client.SubResource(name), s}
}

func (s *suspended) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	once(&s.beforeChange)
	return s.Client.Patch(ctx, o, p, opts...)
}

type suspendedScale struct {
	client.SubResourceClient
	s *suspended
}

func (c *suspendedScale) Get(ctx context.Context, o, scale client.Object, opts ...client.SubResourceGetOption) error {
	once(&c.s.beforeRead)
	return c.SubResourceClient.Get(ctx, o, scale, opts...)
}

func (c *suspendedScale) Update(ctx context.Context, o client.Object, opts ...client.SubResourceUpdateOption) error {
	once(&c.s.beforeChange)
	return c.SubResourceClient.Update(ctx, o, opts...)
}

// A controller that was suspended while it was about to stop a group's workloads, and whose
// successor has taken the recovery to its end, leaves them as that has left them.
func TestASuspendedControllerStopsNothing(t *testing.T) {
	for _, at := range []string{"before it reads the workload", "before it changes it"} {
		t.Run(at, func(t *testing.T) {
			s := newShop(t)
			old, next := newRecoverer(t, s.server.Config(), s.plane), newRecoverer(t, s.server.Config(), s.plane)
			c := &suspended{Client: old.client}
			s.recovery("back", v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: "10"})
			for len(s.status("back").Workloads) == 0 {
				if _, err := s.step(old, "back"); err != nil {
					t.Fatal(err)
				}
			}
			old.scaler.client = c
			finish := func() {
				if st := s.finish(next, "back"); st.Phase != v1alpha1.PhaseCompleted || s.size() != 2 {
					t.Errorf("the successor: size %d, %+v", s.size(), st)
				}
			}
			if strings.Contains(at, "reads") {
				// The pods' workloads are looked at once more before that.
				c.beforeRead = func() { c.beforeRead = finish }
			} else {
				c.beforeChange = finish
			}
			if _, err := s.step(old, "back"); err == nil {
				t.Error("the suspended one met with no error")
			}
			if c.beforeRead != nil || c.beforeChange != nil {
				t.Fatal("it was never suspended")
			}
			if st := s.status("back"); st.Phase != v1alpha1.PhaseCompleted || s.size() != 2 {
				t.Errorf("size %d, %+v", s.size(), st)
			}
		})
	}
}

// The same goes for a CronJob, which is suspended in place of being scaled.
func TestASuspendedControllerSuspendsNothing(t *testing.T) {
	s := newShop(t)
	cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "night"}, Spec: batchv1.CronJobSpec{Schedule: "0 0 * * *",
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: podSpec()}}}}}
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.make(cron)
	r := newRecoverer(t, s.server.Config(), s.plane)
	c := &suspended{Client: r.client}
	r.scaler.client = c
	w := &v1alpha1.ScaledWorkload{APIVersion: "batch/v1", Kind: "CronJob", Name: "night", Replicas: 1}
	c.beforeChange = func() { // somebody has it run every hour, and so at once
		var now batchv1.CronJob
		if err := s.get("night", &now); err != nil {
			t.Fatal(err)
		}
		now.Spec.Schedule = "0 * * * *"
		s.update(&now)
	}
	still := func() error { return nil }
	if err := r.scaler.scale(t.Context(), s.namespace, w, 0, nil, still); err == nil {
		t.Error("a CronJob was suspended that somebody has changed since it was read")
	}
	if err := r.scaler.scale(t.Context(), s.namespace, w, 0, nil, still); err != nil {
		t.Fatal(err)
	}
	var now batchv1.CronJob
	if err := s.get("night", &now); err != nil || now.Spec.Suspend == nil || !*now.Spec.Suspend {
		t.Errorf("%v: %+v", err, now.Spec)
	}
}
