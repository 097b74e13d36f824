package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// volumeAdoptedDocument is the output of `lockstep volume adopt`.
type volumeAdoptedDocument struct {
	Volume volumeDocument `json:"volume"`
}

func (a *app) newVolumeAdoptCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var request adminv1.AdoptVolumeRequest
	command := &cobra.Command{
		Use:   "adopt STORE",
		Short: "Make a store a volume of this site, without a copy",
		Long: `Makes STORE, a directory that ` + "`lockstep journal import`" + ` made or that another site
had, a volume of this site. The directory moves to where the site keeps its stores, so
it has to be on the file system of the site's root, and outside of it. The volume is then
published like any other, under the id that is printed, with its history.

Interrupted, it is run again with the same arguments.`,
		Args: wantArgs("STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			dir, err := storeDir(args[0])
			if err != nil {
				return err
			}
			if real, err := os.Readlink(dir); err == nil {
				return misuse("%s is a symbolic link, which would be moved in the place of the store: name what it leads to, %s", args[0], fromLink(dir, real))
			}
			if request.Store = dir; request.GetName() == "" {
				request.Name = filepath.Base(dir)
			}
			return admin.withSite(func(s *site) error {
				answer, err := s.AdoptVolume(command.Context(), &request)
				if err != nil {
					return err
				}
				v := answer.GetVolume()
				return a.print(&output, result{
					document: volumeAdoptedDocument{volumeOf(v)},
					names:    []string{v.GetId()},
					show: func(p *page) {
						p.line("store %s is volume %s (%s) of group %s, %s, at %s", dir, v.GetName(), v.GetId(), v.GetGroup(), iecSigned(v.GetSizeBytes()), positionText(v.GetTip()))
					},
				})
			})
		}),
	}
	flags := command.Flags()
	flags.StringVar(&request.Name, "name", "", "name of the volume; default: the directory's")
	flags.StringVar(&request.Group, "group", "", "consistency group to join or to make; default: one of its own, named like the volume")
	flags.StringVar(&request.ReplicateTo, "replicate-to", "", "peer site, for a group that does not exist yet")
	admin.register(a, command)
	output.register(command)
	return command
}

// fromLink is where a symbolic link leads to, of which it holds the text.
func fromLink(link, text string) string {
	if filepath.IsAbs(text) {
		return text
	}
	return filepath.Join(filepath.Dir(link), text)
}
