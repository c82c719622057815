package rules

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

const patience = 10 * time.Second // of a test, for what has no deadline of its own

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func connectTo(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func storeAt(t *testing.T, url string) Store {
	t.Helper()
	js, err := jetstream.New(connectTo(t, url))
	if err != nil {
		t.Fatal(err)
	}
	return Store{JetStream: js, Namespace: "fl", Replicas: 1}
}

// logLines is a log that a test may read while it is written.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// follow runs a Live until the test ends.
func follow(t *testing.T, o Options) (*Live, *logLines) {
	t.Helper()
	lines := &logLines{}
	o.Log = slog.New(slog.NewTextHandler(lines, nil))
	l, err := Follow(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end with its context")
		}
	})
	return l, lines
}

func awaitReady(t *testing.T, l *Live) {
	t.Helper()
	select {
	case <-l.Loaded():
	case <-time.After(patience):
		t.Fatalf("not ready: %v", l.Err())
	}
}

// awaitDigest waits until the set counts, at most for limit.
func awaitDigest(t *testing.T, l *Live, want *Set, limit time.Duration) {
	t.Helper()
	deadline := time.After(limit)
	for {
		changed := l.Changed()
		if l.Current().Digest() == want.Digest() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("after %v got %s, want %s", limit, l.Current().Digest(), want.Digest())
		}
	}
}

// eventually polls what has no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never came true that %s", what)
		}
	}
}

func put(t *testing.T, s Store, set *Set) {
	t.Helper()
	if _, err := s.Put(context.Background(), set, "test"); err != nil {
		t.Fatal(err)
	}
}

func putRaw(t *testing.T, s Store, value string) {
	t.Helper()
	kv, err := s.open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(context.Background(), bucketKey, value); err != nil {
		t.Fatal(err)
	}
}

func setOf(t *testing.T, match string) *Set {
	t.Helper()
	return mustParse(t, "topics: [{match: "+match+"}]")
}

func TestApplyReachesEveryProcessWithinASecond(t *testing.T) {
	s := natsdev.Test(t)
	var lives []*Live
	for range 3 {
		l, _ := follow(t, Options{Store: storeAt(t, s.ClientURL())})
		awaitReady(t, l)
		lives = append(lives, l)
	}
	store := storeAt(t, s.ClientURL())
	for _, match := range []string{"a", "b", "c"} {
		set := setOf(t, match)
		put(t, store, set)
		for _, l := range lives {
			awaitDigest(t, l, set, time.Second)
		}
	}
	// A process that starts now has them before it is ready.
	late, _ := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	awaitReady(t, late)
	if got, want := late.Current().Digest(), setOf(t, "c").Digest(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFileIsPutOnceAndWins(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	before, file := setOf(t, "before"), []byte("topics: [{match: from.file}]")
	put(t, store, before)
	withFile, lines := follow(t, Options{Store: storeAt(t, s.ClientURL()), File: file, By: "test"})
	awaitReady(t, withFile)
	want := mustParse(t, string(file))
	without, _ := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	awaitReady(t, without)
	awaitDigest(t, without, want, time.Second)
	eventually(t, "the log names both digests", func() bool {
		return strings.Contains(lines.String(), "old="+before.Digest()+" new="+want.Digest())
	})
	// The same file again changes nothing.
	again, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), File: file})
	awaitReady(t, again)
	kv, err := store.open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(context.Background(), bucketKey)
	if err != nil || e.Revision() != 2 {
		t.Errorf("got revision %v, %v, want 2", e, err)
	}
	// A later apply counts for the process with the file, too.
	applied := setOf(t, "applied")
	put(t, store, applied)
	awaitDigest(t, withFile, applied, time.Second)
}

func TestTwoFilesConverge(t *testing.T) {
	s := natsdev.Test(t)
	a, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), File: []byte("topics: [{match: a}]")})
	b, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), File: []byte("topics: [{match: b}]")})
	awaitReady(t, a)
	awaitReady(t, b)
	store := storeAt(t, s.ClientURL())
	eventually(t, "both follow the last writer", func() bool {
		set, _, err := store.Load(context.Background(), Run)
		return err == nil && a.Current().Digest() == set.Digest() && b.Current().Digest() == set.Digest()
	})
}

func TestBadFileIsRefused(t *testing.T) {
	s := natsdev.Test(t)
	_, err := Follow(Options{Store: storeAt(t, s.ClientURL()), File: []byte("topics: 1")})
	var problems Problems
	if !errors.As(err, &problems) {
		t.Errorf("got %v, want Problems", err)
	}
}

func TestWithoutFileNothingIsWritten(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	run, lines := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	awaitReady(t, run)
	if run.Current().Digest() != Builtin(Run).Digest() {
		t.Error("the built-in rules do not count")
	}
	eventually(t, "it warns once", func() bool { return strings.Count(lines.String(), "level=WARN") == 1 })
	if _, _, err := store.Load(context.Background(), Run); !errors.Is(err, ErrNoRules) {
		t.Errorf("got %v, want ErrNoRules", err)
	}
	dev, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), Mode: Dev, PutBuiltin: true})
	awaitReady(t, dev)
	awaitDigest(t, run, Builtin(Dev), time.Second)
}

func TestNATSAwayAtStart(t *testing.T) {
	s := natsdev.Test(t)
	url := s.ClientURL()
	want := setOf(t, "stored")
	put(t, storeAt(t, url), want)
	s.Shutdown()
	l, _ := follow(t, Options{Store: storeAt(t, url)})
	eventually(t, "it says why", func() bool { return l.Err() != nil })
	if l.Ready() || l.Current().Digest() != Builtin(Run).Digest() {
		t.Error("ready without having read the bucket")
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, l)
	awaitDigest(t, l, want, time.Second)
	eventually(t, "nothing is wrong", func() bool { return l.Err() == nil })
}

func TestNATSRestarts(t *testing.T) {
	s := natsdev.Test(t)
	l, _ := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	awaitReady(t, l)
	store := storeAt(t, s.ClientURL())
	put(t, store, setOf(t, "a"))
	awaitDigest(t, l, setOf(t, "a"), time.Second)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "rules can be put again", func() bool {
		_, err := store.Put(context.Background(), setOf(t, "b"), "test")
		return err == nil
	})
	awaitDigest(t, l, setOf(t, "b"), patience)
}

func TestBadValueKeepsTheLastGoodRules(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	good := setOf(t, "good")
	put(t, store, good)
	l, lines := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	awaitReady(t, l)
	putRaw(t, store, "topics: [{match: a, slow: never}]")
	eventually(t, "it says why", func() bool { return l.Err() != nil })
	if l.Current().Digest() != good.Digest() || !l.Ready() {
		t.Error("the last good rules do not count")
	}
	eventually(t, "the log says what is wrong", func() bool {
		return strings.Contains(lines.String(), "level=ERROR") && strings.Contains(lines.String(), "drop-oldest")
	})
	// A process that starts now has no good rules, and must not open the door.
	late, _ := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	eventually(t, "it says why", func() bool { return late.Err() != nil })
	if late.Ready() {
		t.Error("ready with a bad value and no rules of its own")
	}
	if old, err := store.Put(context.Background(), setOf(t, "better"), "test"); err != nil || old != "unreadable" {
		t.Errorf("got %q, %v, want unreadable", old, err)
	}
	awaitDigest(t, l, setOf(t, "better"), time.Second)
	awaitReady(t, late)
	eventually(t, "nothing is wrong", func() bool { return l.Err() == nil && late.Err() == nil })
}

func TestDeletedRulesMeanTheBuiltinOnes(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	put(t, store, setOf(t, "a"))
	l, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), Refresh: 50 * time.Millisecond})
	awaitReady(t, l)
	kv, err := store.open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(context.Background(), bucketKey); err != nil {
		t.Fatal(err)
	}
	awaitDigest(t, l, Builtin(Run), time.Second)
	late, _ := follow(t, Options{Store: storeAt(t, s.ClientURL())})
	awaitReady(t, late)
	// A process with a file puts it back.
	file, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), File: []byte("topics: [{match: f}]")})
	awaitReady(t, file)
	awaitDigest(t, l, setOf(t, "f"), time.Second)
	if err := kv.Delete(context.Background(), bucketKey); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file is there again", func() bool {
		set, _, err := store.Load(context.Background(), Run)
		return err == nil && set.Digest() == setOf(t, "f").Digest()
	})
	awaitDigest(t, l, setOf(t, "f"), time.Second)
}

// A lost bucket must not open what its rules had closed.
func TestLostBucketKeepsTheLastRules(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	put(t, store, setOf(t, "a"))
	l, lines := follow(t, Options{Store: storeAt(t, s.ClientURL()), Refresh: 50 * time.Millisecond})
	awaitReady(t, l)
	if err := store.JetStream.DeleteKeyValue(context.Background(), "fl_config"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is said", func() bool { return strings.Contains(lines.String(), "are lost") })
	if l.Current().Digest() != setOf(t, "a").Digest() {
		t.Error("the last rules do not count")
	}
	put(t, store, setOf(t, "b")) // revision 1 again
	awaitDigest(t, l, setOf(t, "b"), time.Second)
}

// The watcher of a bucket that was made anew never speaks again: reading does.
func TestBucketMadeAnew(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	put(t, store, setOf(t, "a"))
	l, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), Refresh: 100 * time.Millisecond})
	file, _ := follow(t, Options{Store: storeAt(t, s.ClientURL()), File: []byte("topics: [{match: a}]"), Refresh: 100 * time.Millisecond})
	awaitReady(t, l)
	awaitReady(t, file)
	if err := store.JetStream.DeleteKeyValue(context.Background(), "fl_config"); err != nil {
		t.Fatal(err)
	}
	put(t, store, setOf(t, "b"))
	awaitDigest(t, l, setOf(t, "b"), patience)
	awaitDigest(t, file, setOf(t, "b"), patience)
	put(t, store, setOf(t, "c"))
	awaitDigest(t, l, setOf(t, "c"), patience)
}

func TestRunEndsWithTheConnection(t *testing.T) {
	s := natsdev.Test(t)
	store := storeAt(t, s.ClientURL())
	l, err := Follow(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	awaitReady(t, l)
	store.JetStream.Conn().Close()
	select {
	case err := <-done:
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("got %v, want ErrConnectionClosed", err)
		}
	case <-time.After(patience):
		t.Error("Run goes on without a connection")
	}
}
