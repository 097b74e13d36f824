package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/controller/orphan"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// orphansDocument is the output of `kubectl lockstep orphans`.
type orphansDocument struct {
	Orphans []orphanDocument `json:"orphans"`
}

type orphanDocument struct {
	Kind     string  `json:"kind"`
	Name     string  `json:"name"`
	VolumeID string  `json:"volumeID"`
	Claim    string  `json:"claim"`
	Group    string  `json:"group"`
	Created  *string `json:"created"`
	Removed  bool    `json:"removed"`
	Error    string  `json:"error"`
}

// errNotAllRemoved is beside documents that say what is left, and why.
var errNotAllRemoved = errors.New("not everything was removed")

type orphansFlags struct {
	admin  adminFlags
	output outputFlag
	remove bool
	yes    bool
}

func (a *app) newOrphansCommand() *cobra.Command {
	var f orphansFlags
	command := &cobra.Command{
		Use:   "orphans",
		Short: "List what was made for volumes that are no more",
		Long: `Lists pods, disruption budgets, leases and claims in Lockstep's namespace whose
volume the controller does not know, volumes that the controller knows and that
have no claim, and replicas of volumes that were deleted at their primary. With
--remove all but the volumes without a claim are deleted, after asking. A replica
goes with all its points; failing over to its group would keep them. Deleting a
claim deletes what is on it, if its class says so. The controller itself removes
what it began, and after a while what cannot hold data.

The controller has to answer: without it nothing is an orphan, and nothing is
removed. Nor is what was made for a volume that a PersistentVolume names: a
controller that does not know that one may have lost its catalog.`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			if f.remove && !f.yes && (!a.terminals.stdin || !a.terminals.stderr) {
				return misuse("`%s --remove` cannot be taken back and no terminal is here to confirm it: pass --yes, or look first without --remove", command.CommandPath())
			}
			return a.orphans(command.Context(), &f)
		}),
	}
	f.admin.register(a, command)
	f.output.register(command)
	command.Flags().BoolVar(&f.remove, "remove", false, "delete them, after asking")
	command.Flags().BoolVar(&f.yes, "yes", false, "do not ask; needed where nobody can be asked")
	return command
}

func (a *app) orphans(ctx context.Context, f *orphansFlags) error {
	c, err := a.inCluster()
	if err != nil {
		return err
	}
	orphans, lost, err := a.findOrphans(ctx, c, f)
	if err != nil {
		return err
	}
	orphans, named, err := a.withoutNamed(ctx, c, f, orphans)
	if err != nil {
		return err
	}
	replicas, err := a.orphanedReplicas(ctx, f)
	if err != nil {
		return err
	}
	if len(replicas)+len(orphans)+len(named)+len(lost) == 0 && f.output.forPeople() {
		a.hint("no orphans in namespace %s", c.DriverNamespace)
		return nil
	}
	documents := append(replicas, each(orphans, orphanOf)...)
	documents = append(append(documents, named...), each(lost, orphanOf)...)
	var failed error
	if f.remove && len(replicas)+len(orphans) > 0 {
		if !f.yes {
			a.showOrphans(documents)
			if err := a.ask(ctx, removeQuestion(len(replicas), len(orphans), c.DriverNamespace)); err != nil {
				return err
			}
		}
		failed = errors.Join(a.removeReplicas(ctx, f, documents[:len(replicas)]), a.removeOrphans(ctx, c, f, orphans, documents[len(replicas):]))
	}
	if f.remove && len(named) > 0 {
		failed = errNotAllRemoved
	}
	r := result{document: orphansDocument{documents}, show: func(p *page) { p.showOrphans(documents) }}
	for _, o := range documents {
		r.names = append(r.names, o.Kind+"/"+o.Name)
	}
	return errors.Join(a.print(&f.output, r), failed)
}

// findOrphans returns objects without a volume, in the order in which they may
// be removed, and volumes without a claim.
func (a *app) findOrphans(ctx context.Context, c *cluster.Cluster, f *orphansFlags) (orphans, lost []orphan.Object, err error) {
	owned, err := c.Owned(ctx)
	if err != nil {
		return nil, nil, err
	}
	err = f.admin.withSite(func(s *site) error {
		answer, err := s.GetStatus(ctx, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		if answer.GetSite() == "" {
			return errors.New("the controller does not say which site it is")
		}
		var volumes []string
		for _, v := range answer.GetVolumes() {
			volumes = append(volumes, v.GetId())
		}
		orphans = orphan.Of(owned, answer.GetSite(), volumes)
		if lost = withoutStore(answer.GetVolumes(), owned); len(lost) > 0 {
			// Claims that were made after the list of objects are in another one.
			if owned, err = c.Owned(ctx); err != nil {
				return err
			}
			lost = withoutStore(answer.GetVolumes(), owned)
		}
		return nil
	})
	return orphans, lost, err
}

// withoutNamed takes those out of orphans whose volume a PersistentVolume names, and returns
// them as they are shown. Who may not list these can look, and remove nothing.
func (a *app) withoutNamed(ctx context.Context, c *cluster.Cluster, f *orphansFlags, orphans []orphan.Object) (others []orphan.Object, named []orphanDocument, err error) {
	if len(orphans) == 0 {
		return nil, nil, nil
	}
	volumes, err := c.Named(ctx)
	if err != nil && (f.remove || !cluster.Denied(err)) {
		return nil, nil, err
	}
	for _, o := range orphans {
		name, ok := volumes[o.Volume]
		if !ok {
			others = append(others, o)
			continue
		}
		document := orphanOf(o)
		document.Error = "PersistentVolume " + name + " names its volume, which the controller does not know: if that is right, delete the PersistentVolume first"
		named = append(named, document)
	}
	return others, named, nil
}

// withoutStore are the volumes that have no claim for their store.
func withoutStore(volumes []*adminv1.Volume, owned []orphan.Object) []orphan.Object {
	var lost []orphan.Object
	for _, v := range volumes {
		hasStore := func(o orphan.Object) bool {
			return o.Kind == orphan.KindClaim && o.Volume == v.GetId() && o.Part != kubenames.PartJournal
		}
		if !slices.ContainsFunc(owned, hasStore) {
			lost = append(lost, orphan.Object{Kind: cluster.KindVolume, Name: v.GetName(), Volume: v.GetId()})
		}
	}
	return lost
}

// removeOrphans asks the controller once more, since a person may have taken
// long to answer, and deletes what is still an orphan. What could not be
// deleted is in failed, and in the documents, which are those of orphans in
// the same order.
func (a *app) removeOrphans(ctx context.Context, c *cluster.Cluster, f *orphansFlags, orphans []orphan.Object, documents []orphanDocument) (failed error) {
	if len(orphans) == 0 {
		return nil
	}
	still, _, err := a.findOrphans(ctx, c, f)
	if err != nil {
		return err
	}
	if still, _, err = a.withoutNamed(ctx, c, f, still); err != nil {
		return err
	}
	for i, o := range orphans {
		if !slices.ContainsFunc(still, func(s orphan.Object) bool { return s.UID == o.UID }) {
			documents[i].Error = "it is no orphan any more"
			continue
		}
		if err := c.Remove(ctx, o); err != nil {
			documents[i].Error = err.Error()
			failed = errNotAllRemoved
			continue
		}
		documents[i].Removed = true
	}
	return failed
}

func orphanOf(o orphan.Object) orphanDocument {
	document := orphanDocument{Kind: o.Kind, Name: o.Name, VolumeID: o.Volume, Claim: o.Claim}
	if !o.Created.IsZero() {
		document.Created = timeText(timestamppb.New(o.Created))
	}
	return document
}

// showOrphans shows a person what a question is about.
func (a *app) showOrphans(documents []orphanDocument) {
	p := &page{now: a.now(), colour: a.coloured()}
	p.showOrphans(documents)
	a.tell("%s", p.buffer.String())
}

func (p *page) showOrphans(documents []orphanDocument) {
	columns := []column{left("KIND"), left("NAME"), left("CREATED"), left("FOR CLAIM"), left("STATE"), wide(left("VOLUME ID"))}
	var rows [][]cell
	for _, o := range documents {
		state := cell{"orphan", toneNote}
		switch {
		case o.Removed:
			state = cell{"removed", toneGood}
		case o.Error != "":
			state = cell{oneLine(o.Error), toneBad}
		case o.Kind == kindReplica:
			state = cell{"deleted at its primary", toneNote}
		case o.Kind == cluster.KindVolume:
			state = cell{"has no claim", toneBad}
		}
		created := ""
		if o.Created != nil {
			created = *o.Created
		}
		rows = append(rows, []cell{text(o.Kind), text(o.Name), text(created), text(o.Claim), state, text(o.VolumeID)})
	}
	p.table("", columns, rows)
}
