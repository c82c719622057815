package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/fairlead-io/fairlead/internal/breaker"
)

const (
	// watchEvery is how often a gateway looks whether a service is to be asked
	// something.
	watchEvery = 50 * time.Millisecond
	// A service of which nothing was heard for idleSilence is asked, one that owes
	// answers after pressingSilence, one that failed at once; each for probeWait.
	idleSilence     = 3 * time.Second
	pressingSilence = 500 * time.Millisecond
	suspectPause    = 150 * time.Millisecond
	probeWait       = time.Second
	// lastsAfter is how long a service is healthy until it counts as back where
	// only what it is there for shows that it is: a probe may be all it answers.
	lastsAfter = 2 * time.Second
)

// watch asks the service something where nothing else does, so that clients hear
// that it is away before they need it, and tells them. It returns when ctx is
// done.
func (d *dependency) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var asked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if d.g.link.up() && d.due(now, asked) {
			asked = now
			d.question(ctx)
		}
		d.tell(now)
	}
}

// due reports whether the service is to be asked something; asked is when it
// last was for that reason.
func (d *dependency) due(now, asked time.Time) bool {
	silent, since := now.Sub(d.heard.Load()), now.Sub(asked)
	switch {
	case !d.healthy():
		return true // as soon as the breaker lets it
	case !d.known():
		// Questions to the others show here whether they answer.
		return d.decides && since >= idleSilence
	case d.suspect.Load():
		return since >= suspectPause
	case d.flying.Load() > 0:
		return silent >= pressingSilence && since >= pressingSilence
	}
	return silent >= idleSilence && since >= idleSilence
}

func (d *dependency) question(ctx context.Context) {
	pass, err := d.breaker.Allow()
	if err != nil {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	asked, err := d.probe(ctx)
	if !asked { // nobody needs it
		pass.Done(breaker.Neither)
		d.breaker.Heal()
		return
	}
	query{d, pass, began}.tells(err)
}

// changed hears of the breaker, one change after the other.
func (d *dependency) changed(from, to breaker.State) {
	level := slog.LevelDebug // that it is looked for again and again is no news
	if from == breaker.Healthy || to == breaker.Healthy {
		level = slog.LevelInfo
	}
	d.g.log.Log(context.Background(), level, "dependency", "what", d.what, "state", to.String(), "was", from.String())
	if to == breaker.Broken {
		d.broken.Store(time.Now())
		if from == breaker.Healthy {
			d.lost.Store(time.Now())
		}
	}
	d.g.event("breaker."+to.String(), "", eventBody{What: d.what})
}

// lasting reports whether a service that is healthy is back.
func (d *dependency) lasting(now time.Time) bool {
	return d.decided == nil || now.Sub(d.well) >= lastsAfter || d.decided(d.well)
}

// tell tells every client when the service went away or is back: once for each,
// however often it is probed in between. Nobody knows anything of it while NATS
// is away, which clients have been told.
func (d *dependency) tell(now time.Time) {
	switch {
	case !d.healthy():
		d.well = time.Time{}
	case d.well.IsZero():
		d.well = now
	}
	switch {
	case !d.g.link.up():
	case d.told && d.healthy() && d.lasting(now):
		d.told = false
		d.g.tellDependency("recovered", d.what)
	case !d.told && !d.healthy() && d.known() && d.broken.Load().After(d.g.link.settled()):
		// A link that fails without a word is not the service's fault.
		if d.g.roundTrip() == nil && d.g.link.up() && !d.healthy() {
			d.told = true
			d.g.tellDependency("degraded", d.what)
		}
	}
}
