package runner

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

const (
	// progressEvery is how often the progress of a task is published at most; in
	// between only the latest counts.
	progressEvery = 200 * time.Millisecond
	// storeEvery is how often what is known of an attempt is stored at most, and after
	// how long for the first time.
	storeEvery = 5 * time.Second
)

// note is what is known of an attempt that goes on. Its board guards it.
type note struct {
	progress  []byte
	published time.Time
	stored    time.Time
	lease     time.Duration // as promised last
	at        time.Time     // when that was
}

// board is what the workers of this replica's attempts have told, and what of it
// nobody was told yet.
type board struct {
	mu       sync.Mutex // guards all, and the notes of attempts
	untold   map[*attempt]bool
	unstored map[*attempt]bool
}

func newBoard() *board { return &board{untold: map[*attempt]bool{}, unstored: map[*attempt]bool{}} }

// note keeps what a worker said. It is told at the next look.
func (b *board) note(a *attempt, s sign, now time.Time) {
	if s.progress == nil && s.lease == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.lease > 0 {
		a.told.lease, a.told.at = s.lease, now
	}
	if s.progress != nil {
		a.told.progress = s.progress
		b.untold[a] = true
	}
	b.unstored[a] = true
}

func (b *board) latest(a *attempt) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return a.told.progress
}

// shown is progress that is to be told.
type shown struct {
	*attempt
	progress []byte
}

// due returns the progress that is to be told now.
func (b *board) due(now time.Time) (due []shown) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a := range b.untold {
		if now.Sub(a.told.published) >= progressEvery {
			a.told.published = now
			due = append(due, shown{a, a.told.progress})
			delete(b.untold, a)
		}
	}
	return due
}

// keep returns what is to be stored now: of attempts that run for long.
func (b *board) keep(now time.Time, runs func(*attempt) bool) (beats []store.Beat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a := range b.unstored {
		switch {
		case !runs(a):
			delete(b.unstored, a)
			delete(b.untold, a)
		case now.Sub(a.began) < storeEvery && !a.adopted || now.Sub(a.told.stored) < storeEvery:
		default:
			a.told.stored = now
			delete(b.unstored, a)
			beat := store.Beat{Ref: store.Ref{ID: a.ID, Fence: a.Fence}, Progress: a.told.progress}
			if a.told.lease > 0 {
				beat.Lease = max(a.told.lease-now.Sub(a.told.at), time.Millisecond)
			}
			beats = append(beats, beat)
		}
	}
	return beats
}

// spread tells who watches how far attempts are, until ctx ends.
func (r *Runner) spread(ctx context.Context) {
	every(ctx, progressEvery/4, func(context.Context) {
		for _, x := range r.board.due(time.Now()) {
			if r.table.get(x.ID) == x.attempt {
				r.tellProgress(x.attempt, x.progress)
			}
		}
	})
}

// keepBeats stores what is known of attempts that run for long: for who asks, and
// for who takes them over.
func (r *Runner) keepBeats(ctx context.Context) {
	beats := r.board.keep(time.Now(), func(a *attempt) bool { return r.table.get(a.ID) == a })
	for ; len(beats) > 0; beats = beats[min(len(beats), mostRows):] {
		if r.store.Beats(ctx, beats[:min(len(beats), mostRows)]) != nil {
			return // the next ones say it again
		}
	}
}

// write writes a sign of life into the headers of a message.
func (s sign) write(header nats.Header) {
	header[wire.HeaderTaskProgress] = []string{"1"}
	if s.lease > 0 {
		header[wire.HeaderTaskLease] = []string{strconv.FormatInt(s.lease.Milliseconds(), 10)}
	}
}
