package main

import "time"

const (
	progressInterval = 100 * time.Millisecond
	// eraseLine is CR and EL of ECMA-48.
	eraseLine = "\r\x1b[K"
)

// progress shows on a terminal that something is being waited for, and since
// when. Elsewhere it shows nothing, so that logs stay clean. The caller must
// call the returned function, which erases the line, joins the goroutine, and
// may be called once.
func (a *app) progress(doing string) func() {
	return a.progressOf(func() string { return doing })
}

// progressOf is progress whose text changes. doing is called from another
// goroutine.
func (a *app) progressOf(doing func() string) func() {
	if !a.terminals.stderr {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		a.spin(doing, stop)
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

func (a *app) spin(doing func() string, stop <-chan struct{}) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	begun, drawn := a.now(), false
	for turn := 0; ; turn++ {
		select {
		case <-stop:
			if drawn {
				a.tell(eraseLine)
			}
			return
		case <-ticker.C:
			a.tell("%s%c %s %s", eraseLine, `|/-\`[turn%4], doing(), span(a.now().Sub(begun).Truncate(time.Second)))
			drawn = true
		}
	}
}
