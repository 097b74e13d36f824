package main

import (
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	pgbenchScale   = 10
	pgbenchClients = 4
)

// postgres compares PostgreSQL with its data and its WAL on two volumes of one
// group with the same on two plain loop devices, and on two file engines.
func (b *bench) postgres() error {
	const name = "pgbench"
	servers := map[string]*harness.Postgres{}
	for _, kind := range []string{onLoop, onOurs, onFile} {
		var mounts []string
		for _, use := range []string{"data", "wal"} {
			device, err := b.databaseDevice(kind, use)
			if err != nil {
				return err
			}
			dir, err := b.mountNew(kind+"-"+use, device)
			if err != nil {
				return err
			}
			mounts = append(mounts, dir)
		}
		p, err := b.env.InitPostgres(b.ctx, "postgres-"+kind, mounts[0], mounts[1])
		if err != nil {
			return err
		}
		if err := p.Start(b.ctx); err != nil {
			return err
		}
		b.env.Undo(p.Stop)
		if err := p.CreateDatabase(b.ctx, pgbenchScale); err != nil {
			return err
		}
		servers[kind] = p
	}
	for range b.o.rounds {
		for _, kind := range []string{onLoop, onOurs, onFile} {
			r, err := servers[kind].Pgbench(pgbenchClients, 2*time.Duration(b.o.seconds)*time.Second)
			if err != nil {
				return err
			}
			b.sample(name, kind, r.TPS)
		}
	}
	const target = 0.95
	b.ratio("PostgreSQL, pgbench on 2 volumes, tps", name, onOurs, onLoop, target)
	b.floor(name, target, onFile)
	return nil
}

// databaseDevice makes a device for one of the two file systems.
func (b *bench) databaseDevice(kind, use string) (string, error) {
	switch kind {
	case onLoop:
		return b.plainLoop("pg" + use)
	case onFile:
		return b.fileEngine("pgfile" + use)
	}
	v, err := b.volume("pg"+use, deviceBytes, map[string]string{"blockSize": "4096", "group": "pg"})
	if err != nil {
		return "", err
	}
	b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
	return v.Target, nil
}
