package ledger

import (
	"context"
	"fmt"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestBatchesAreCheckedWhole(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	b.advance(b.now())
	for _, id := range []string{"a", "b"} {
		b.fill(id, b.say(id))
	}
	p := b.now()
	p.UpTo, p.At = p.UpTo+2000, p.At+2000
	b.advance(p)
	for _, c := range []struct {
		ids  []string
		want string
	}{
		{[]string{"x", "y"}, "free"},
		{[]string{"x", ""}, "free"},
		{[]string{"a", "b"}, "at 1 2"},
		{[]string{"b", "a"}, "at 2 1"},
		{[]string{"x", "b"}, "ALREADY_EXISTS none: message 1 at 2"},
		{[]string{"a", ""}, "ALREADY_EXISTS none: message 0 at 1"},
		{[]string{"x", "", "", "x"}, "ALREADY_EXISTS none: message 3 at <nil>"},
	} {
		found, err := b.CheckAll(t.Context(), c.ids, 100)
		got := "free"
		switch {
		case err != nil:
			details := wire.AsError(err).Details
			got = fmt.Sprintf("%s: message %v at %v", outcome(err), details["message"], details["seq"])
		case found != nil:
			got = "at"
			for _, f := range found {
				got += fmt.Sprint(" ", f.Seq)
			}
		}
		if got != c.want {
			t.Errorf("%q: got %s, want %s", c.ids, got, c.want)
		}
	}
}

func TestResolveWaitsForTheFiller(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	b.advance(b.now())
	ids := []string{"a", "b"}
	first, second := b.say("a"), b.say("b")
	b.fill("a", first)
	filled := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { filled <- b.Fill(ctx, "b", second, &Position{Last: second.Seq, At: second.Ts}) }()
	found, err := b.Resolve(ctx, ids)
	if fillErr := <-filled; fillErr != nil {
		t.Fatal(fillErr)
	}
	if err != nil || len(found) != 2 || found[1].Seq != second.Seq {
		t.Errorf("got %v, %v, want both", found, err)
	}
	_, err = b.Resolve(ctx, []string{"a", "c"})
	if got, want := outcome(err), "UNAVAILABLE none"; got != want {
		t.Errorf("one that may come: got %s, want %s", got, want)
	}
	p := b.now()
	p.UpTo += 2000
	p.At += 2000
	b.advance(p)
	_, err = b.Resolve(ctx, []string{"a", "c"})
	if got, want := outcome(err), "ALREADY_EXISTS none"; got != want {
		t.Errorf("one that was never stored: got %s, want %s", got, want)
	}
}
