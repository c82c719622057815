package outbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
)

func frames(n, size int) (all [][]byte) {
	for i := range n {
		all = append(all, sized(fmt.Sprint(i), size))
	}
	return all
}

// Several messages at once are one WebSocket message, or one each for a peer that
// takes no arrays.
func TestAllLeaveTogether(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	all := frames(50, 100)

	p, ses := srv.dial("fairlead.v1")
	ses.DeliverAll(all, &Source{})
	var got []json.RawMessage
	if err := json.Unmarshal(p.must(1).payload, &got); err != nil || !slices.EqualFunc(got, all, func(a json.RawMessage, b []byte) bool { return bytes.Equal(a, b) }) {
		t.Errorf("got %d of %d (%v)", len(got), len(all), err)
	}
	await(t, "50 messages are counted", func() bool { return ses.Stats().MessagesOut == 50 })
	if got := ses.Stats().FramesOut; got != 1 {
		t.Errorf("they came in %d WebSocket messages", got)
	}

	p, ses = srv.dial("")
	ses.DeliverAll(all, &Source{})
	for i, want := range all {
		if got := p.must(1).payload; !bytes.Equal(got, want) {
			t.Fatalf("%d: got %s, want %s", i, got, want)
		}
	}
}

// What does not fit into one array comes in several, in order.
func TestAllInSeveralArrays(t *testing.T) {
	srv := serve(t, Config{FrameBytes: 16 << 10}, setup{})
	p, ses := srv.dial("fairlead.v1")
	for _, tc := range []struct{ n, size int }{{600, 20}, {600, 100}} {
		all := frames(tc.n, tc.size)
		ses.DeliverAll(all, nil)
		got, err := p.messages(tc.n)
		if err != nil || len(got) != tc.n {
			t.Fatalf("got %d of %d: %v", len(got), tc.n, err)
		}
		for i := range got {
			if got[i] != string(all[i]) {
				t.Fatalf("%d: got %s, want %s", i, got[i], all[i])
			}
		}
	}
}

// Nothing comes between them, whoever else sends.
func TestNothingComesBetweenAll(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 8 << 20}, setup{})
	p, ses := srv.dial("fairlead.v1")
	const senders, rounds, each = 3, 100, 200
	var all sync.WaitGroup
	for s := range senders {
		batch := slices.Repeat([][]byte{fmt.Appendf(nil, `"%d"`, s)}, each)
		all.Go(func() {
			for range rounds {
				ses.DeliverAll(batch, nil)
			}
		})
	}
	got, err := p.messages(senders * rounds * each)
	if err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for i := range got {
		if first := got[i-i%each]; got[i] != first {
			t.Fatalf("%d: %s between those of %s", i, got[i], first)
		}
	}
}

// Each of them is under the policy of their source.
func TestAllAtAPeerThatIsBehind(t *testing.T) {
	for _, tc := range []struct {
		policy Policy
		want   []string // nil: closed
	}{
		{Disconnect, nil},
		{DropOldest, []string{"10", "11", "12", "13", "14", "15", "16", "17", "18", "19"}},
		{Conflate, []string{"19"}},
	} {
		t.Run(tc.policy.String(), func(t *testing.T) {
			srv := serve(t, Config{QueueBytes: 1000}, setup{})
			p, ses := srv.dial("")
			plug := ses.stall(t)
			ses.DeliverAll(frames(20, 100), &Source{Policy: tc.policy})
			p.unplug(plug)
			if tc.want == nil {
				if got, want := p.must(8).String(), `close 1013 "slow consumer"`; got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
				ses.DeliverAll(frames(20, 100), nil) // nothing happens
				return
			}
			got, err := p.messages(len(tc.want))
			if err != nil || !slices.Equal(names(got), tc.want) {
				t.Errorf("got %v (%v), want %v", names(got), err, tc.want)
			}
		})
	}
}

// Giving up on a peer that was idle is told to it: no earlier message has woken
// the flusher.
func TestAllThatAreTooMuchForAnIdlePeer(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 1000}, setup{})
	p, ses := srv.dial("")
	ses.DeliverAll(frames(20, 100), nil)
	if got, want := p.must(8).String(), `close 1013 "slow consumer"`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}
