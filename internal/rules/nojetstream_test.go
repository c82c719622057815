package rules

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// bareServer speaks just enough of the NATS protocol to be a server without
// JetStream: every request hears that nobody responds.
func bareServer(t *testing.T) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serveBare(c)
		}
	}()
	return "nats://" + ln.Addr().String()
}

func serveBare(c net.Conn) {
	defer c.Close()
	fmt.Fprint(c, `INFO {"server_id":"bare","version":"2.12.0","proto":1,"max_payload":1048576,"headers":true,"jetstream":false}`+"\r\n")
	sid := ""
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "PING":
			fmt.Fprint(c, "PONG\r\n")
		case words[0] == "SUB":
			sid = words[len(words)-1]
		case (words[0] == "PUB" || words[0] == "HPUB") && len(words) > 3:
			const status = "NATS/1.0 503\r\n\r\n"
			fmt.Fprintf(c, "HMSG %s %s %d %d\r\n%s\r\n", words[2], sid, len(status), len(status), status)
			if _, err := r.ReadString('\n'); err != nil { // the payload
				return
			}
		}
	}
}

func TestWithoutJetStreamItsOwnRulesCount(t *testing.T) {
	url := bareServer(t)
	l, lines := follow(t, Options{Store: storeAt(t, url), File: []byte("topics: [{match: f}]")})
	awaitReady(t, l)
	if l.Current().Digest() != setOf(t, "f").Digest() {
		t.Error("the file does not count")
	}
	eventually(t, "it is said", func() bool { return strings.Contains(lines.String(), "no JetStream") })
	tick := time.NewTimer(4 * minBackoff) // several retries
	defer tick.Stop()
	<-tick.C
	if n := strings.Count(lines.String(), "level=WARN"); n != 1 {
		t.Errorf("got %d warnings, want 1:\n%s", n, lines)
	}
}
