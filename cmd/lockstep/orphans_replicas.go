package main

import (
	"context"
	"fmt"
	"strings"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// kindReplica is how replicas that no primary feeds any more are listed.
const kindReplica = "Replica"

// orphanedReplicas are the replicas whose group has ended at its primary, or that
// have left it there.
func (a *app) orphanedReplicas(ctx context.Context, f *orphansFlags) ([]orphanDocument, error) {
	var found []orphanDocument
	err := f.admin.withSite(func(s *site) error {
		answer, err := s.GetStatus(ctx, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, v := range answer.GetVolumes() {
			if v.GetOrphaned() {
				found = append(found, orphanDocument{Kind: kindReplica, Name: v.GetName(), VolumeID: v.GetId(), Claim: v.GetClaim(), Group: v.GetGroup()})
			}
		}
		return nil
	})
	return found, err
}

// removeQuestion is what --remove asks.
func removeQuestion(replicas, objects int, namespace string) string {
	question := fmt.Sprintf("Delete %d objects in namespace %s, and what is on the claims among them?", objects, namespace)
	switch {
	case objects == 0:
		return fmt.Sprintf("Delete %d replicas with all their points?", replicas)
	case replicas > 0:
		return fmt.Sprintf("Delete %d replicas with all their points? And %s", replicas, strings.ToLower(question[:1])+question[1:])
	}
	return question
}

// removeReplicas has the controller remove replicas, which checks each once more.
// What could not be removed is in failed, and in the documents.
func (a *app) removeReplicas(ctx context.Context, f *orphansFlags, documents []orphanDocument) (failed error) {
	for i := range documents {
		err := f.admin.withSite(func(s *site) error {
			_, err := s.RemoveReplica(ctx, &adminv1.RemoveReplicaRequest{Volume: documents[i].VolumeID})
			return err
		})
		if err != nil {
			documents[i].Error = err.Error()
			failed = errNotAllRemoved
			continue
		}
		documents[i].Removed = true
	}
	return failed
}
