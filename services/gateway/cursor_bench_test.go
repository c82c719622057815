package gateway

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"
)

// BenchmarkCursorWindow is one window of a hundred movers for so many watchers,
// from the moves to the last byte on the sockets.
func BenchmarkCursorWindow(b *testing.B) {
	const movers = 100
	for _, watchers := range []int{1, 100} {
		b.Run(fmt.Sprintf("movers=%d/watchers=%d", movers, watchers), func(b *testing.B) {
			a := newAudience(b, watchers, 1<<20, false)
			a.g.cfg.Limits.OutboundBytes = 1 << 20
			var readers sync.WaitGroup
			for _, socket := range a.sockets {
				readers.Go(func() { _, _ = io.Copy(io.Discard, socket) }) // until it is closed
			}
			b.Cleanup(func() {
				for _, socket := range a.sockets {
					socket.Close()
				}
				readers.Wait()
			})
			cs := newCursors(a.g)
			top := &cursorTopic{
				topic: "doc.1", board: newCursorBoard("g1", cursorsMost), gathered: true, window: 16 * time.Millisecond, patience: 1 << 18,
				watchers: map[*connection]*cursorWatcher{}, behind: map[*cursorWatcher]struct{}{},
			}
			now := time.Now()
			top.board.live(time.Hour, now)
			a.in.each(func(c *connection) {
				top.watchers[c] = &cursorWatcher{t: top, c: c, stated: true}
			})
			users, data := make([]string, movers), []byte(`{"x":1234,"y":5678}`)
			for i := range users {
				users[i] = fmt.Sprintf("user-%03d", i)
			}
			conn := &connection{}
			window := func() {
				for _, user := range users {
					top.board.move(user, conn, data, now)
				}
				top.board.untoldPage(cursorMessage, now)
				now = now.Add(top.window)
				cs.show(top, now)
				a.in.each(func(c *connection) {
					for !c.out.Idle() {
						runtime.Gosched()
					}
				})
			}
			for range 100 {
				window() // the pools fill
			}
			b.ReportAllocs()
			for b.Loop() {
				window()
			}
			if got := a.g.metrics.cursorFrames.Load(); got < int64(b.N*watchers) {
				b.Errorf("%d frames for %d windows", got, b.N)
			}
		})
	}
}
