package kv

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/streams"
)

// Follower keeps a view of a whole bucket. A view that may have missed
// something is not mended: a new one is built beside it, which takes its place
// when it is complete.
type Follower struct {
	Bucket *Bucket
	// Begin is called for a new view. It returns what takes the view's entries:
	// those that are there, then every change, in the order of their revisions.
	Begin func() (take func(Entry))
	// Ready is called when the view that was begun last has everything that was
	// there when it was begun.
	Ready func()
	Log   *slog.Logger // nil: nothing is said
}

const (
	// rebuildEvery is how often a view is built anew without a reason: a
	// mistake in one does not last.
	rebuildEvery = 10 * time.Minute
	followRetry  = 250 * time.Millisecond
)

var errSilent = errors.New("the server says nothing any more")

// Run follows until ctx is done. Begin, Ready and what Begin returned are called
// one at a time.
func (f *Follower) Run(ctx context.Context) {
	said, ever := "", false
	for ctx.Err() == nil {
		ready, err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		ever = ever || ready
		if err != nil && err.Error() != said && ever { // before, the bucket may not be there yet
			said = err.Error()
			if f.Log != nil {
				f.Log.Info("view of a bucket is built again", "bucket", f.Bucket.stream, "err", err)
			}
		}
		if err == nil {
			said = ""
			continue
		}
		select {
		case <-time.After(followRetry):
		case <-ctx.Done():
		}
	}
}

// session feeds one view, for as long as it can be trusted, and reports whether it
// was ever complete. Its error says that it ended for a reason.
func (f *Follower) session(ctx context.Context) (complete bool, err error) {
	back := f.Bucket.nc.StatusChanged(nats.CONNECTED)
	defer f.Bucket.nc.RemoveStatusListener(back)
	// What feeds the view may be a follower that lags: the leader says where it
	// is complete.
	end, err := f.Bucket.end(ctx)
	if err != nil {
		return false, err
	}
	take := f.Begin()
	var one sync.Mutex // what is called is called one at a time; guards the three below
	ready, at := false, uint64(0)
	look := func() {
		if !ready && at >= end {
			ready = true
			f.Ready()
		}
	}
	said := func(err error) (bool, error) {
		one.Lock()
		defer one.Unlock()
		return ready, err
	}
	t, err := streams.NewTail(ctx, f.Bucket.nc, streams.TailConfig{Stream: f.Bucket.stream, Newest: true}, func(msg *nats.Msg, meta *nats.MsgMetadata) error {
		one.Lock()
		defer one.Unlock()
		if key, ok := strings.CutPrefix(msg.Subject, f.Bucket.subject); ok {
			take(Entry{Key: key, Value: msg.Data, Revision: meta.Sequence.Stream, At: meta.Timestamp, Deleted: deleted(msg.Header)})
		}
		at = meta.Sequence.Stream
		look()
		return nil
	})
	if err != nil {
		return false, err
	}
	defer t.Close()
	one.Lock()
	look() // where there is nothing
	one.Unlock()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begun := time.Now()
	for {
		select {
		case <-ctx.Done():
			return said(nil)
		case err := <-t.Broken:
			return said(err)
		case <-back: // whatever happened meanwhile may have been forgotten
			return said(nil)
		case now := <-tick.C:
			if t.Silent(now) {
				return said(errSilent)
			}
			if now.Sub(begun) > rebuildEvery {
				return said(nil)
			}
			if whole, _ := said(nil); whole {
				continue
			}
			// What ended the bucket may have been removed.
			if newest, err := f.Bucket.end(ctx); err == nil {
				one.Lock()
				end = newest
				look()
				one.Unlock()
			}
		}
	}
}
