package main

// replication compares a volume that is replicated to a second site on this
// machine with one that is not.
func (b *bench) replication() error {
	pair, err := b.env.StartPair(b.ctx)
	if err != nil {
		return err
	}
	b.site = pair.A
	const name, with, without = "4k random write QD32 and a peer", "replicated", "alone"
	targets := map[string]string{}
	for _, kind := range []string{with, without} {
		parameters := map[string]string{"blockSize": "4096"}
		if kind == with {
			parameters["replicateTo"] = pair.B.Config.Name
		}
		v, err := b.volume(kind, deviceBytes, parameters)
		if err != nil {
			return err
		}
		b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
		if err := b.fill(v.Target); err != nil {
			return err
		}
		targets[kind] = v.Target
	}
	for range b.o.rounds {
		for _, kind := range []string{without, with} {
			r, err := b.fio(targets[kind], "--rw=randwrite", "--bs=4k", "--iodepth=32")
			if err != nil {
				return err
			}
			b.sample(name, kind, r.iops)
		}
	}
	b.ratio("4k random write QD32 replicated, to alone", name, with, without, 0.9)
	return nil
}
