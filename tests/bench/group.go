package main

import (
	"fmt"
	"slices"
)

const groupVolumes = 8

// group compares eight volumes that share checkpoints with eight that do not.
func (b *bench) group() error {
	const name, together, apart = "4k random write on 8 volumes", "one group", "8 groups"
	targets := map[string][]string{}
	for _, set := range []string{together, apart} {
		for i := range groupVolumes {
			parameters := map[string]string{"blockSize": "4096"}
			if set == together {
				parameters["group"] = "eight"
			}
			v, err := b.volume(fmt.Sprintf("%s-%d", set[:3], i), 256<<20, parameters)
			if err != nil {
				return err
			}
			b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
			targets[set] = append(targets[set], v.Target)
		}
	}
	// Both are written to once before, and take turns in being first: what is written first
	// to a volume, or behind the other set's destage, is slower.
	sets := []string{apart, together}
	for _, set := range sets {
		if _, err := b.runFio(onAll(targets[set], b.o.seconds)...); err != nil {
			return err
		}
	}
	for range 2 * b.o.rounds {
		slices.Reverse(sets)
		for _, set := range sets {
			r, err := b.runFio(onAll(targets[set], b.o.seconds)...)
			if err != nil {
				return err
			}
			b.sample(name, set, r.iops)
		}
	}
	b.ratio("8 volumes in one group, to 8 alone", name, together, apart, 0.95)
	return nil
}

// onAll are fio's arguments for one job on each target.
func onAll(targets []string, seconds int) []string {
	args := []string{"--rw=randwrite", "--bs=4k", "--iodepth=4", "--size=200M", "--time_based", fmt.Sprintf("--runtime=%d", seconds)}
	for i, target := range targets {
		args = append(args, fmt.Sprintf("--name=job%d", i), "--filename="+target)
	}
	return args
}
