package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// volumeReopenedDocument is the output of `lockstep volume reopen`.
type volumeReopenedDocument struct {
	Volume   volumeDocument `json:"volume"`
	Reopened bool           `json:"reopened"`
	Took     *string        `json:"took"`
}

func (a *app) newVolumeCommand() *cobra.Command {
	if a.isPlugin() {
		// A claim is what a store lies on in a cluster, and an engine that failed is
		// started again by itself.
		return a.parent("volume", "Single volumes", a.newVolumeScrubCommand())
	}
	return a.parent("volume", "Single volumes",
		a.newVolumeAdoptCommand(),
		a.newVolumeReopenCommand(),
		a.newVolumeScrubCommand(),
	)
}

func (a *app) newVolumeReopenCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "reopen VOLUME",
		Short: "Bring a STOPPED volume back without restarting the site",
		Long: `Closes and opens the store of a volume that has stopped, or did not open. VOLUME
is its id, or its name if no other volume has it. The store is recovered: what
had not been flushed may be gone, as after a power loss. The block device stays,
and I/O on it waits meanwhile; a file system that has met an I/O error has to be
unmounted and mounted again. After a sync of the journal that failed the device
was taken away, and the volume gets a new one: whatever used it has to unmount and
stage it again. Look at the disk first.`,
		Args: wantArgs("VOLUME"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				answer, err := s.ReopenVolume(command.Context(), &adminv1.ReopenVolumeRequest{Volume: args[0]})
				if err != nil {
					return err
				}
				v := answer.GetVolume()
				return a.print(&output, result{
					document: volumeReopenedDocument{volumeOf(v), answer.GetReopened(), durationText(answer.GetTook())},
					names:    []string{v.GetId()},
					show: func(p *page) {
						if !answer.GetReopened() {
							p.line("volume %s (%s) is well: nothing was done", v.GetName(), v.GetId())
							return
						}
						p.line("volume %s (%s) serves again after %s, at %s", v.GetName(), v.GetId(), spanOf(answer.GetTook()), positionText(v.GetTip()))
						if device := v.GetDevice(); device != "" {
							p.line("its device is %s: what has met an I/O error, or uses another one, has to unmount and stage it again", device)
						}
					},
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}
