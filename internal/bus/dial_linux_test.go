package bus

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// recording is a dialer that keeps what it dialed.
type recording struct {
	nats.CustomDialer
	conns chan net.Conn
}

func (r recording) Dial(network, address string) (net.Conn, error) {
	c, err := r.CustomDialer.Dial(network, address)
	if err == nil {
		r.conns <- c
	}
	return c, err
}

// The system is asked to give peers up that are cut off.
func TestPeersThatAreCutOffAreGivenUp(t *testing.T) {
	r := recording{dialer(time.Second), make(chan net.Conn, 1)}
	nc, err := nats.Connect(natsdev.Test(t).ClientURL(), nats.SetCustomDialer(r))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	raw, err := await(t, "the connection", r.conns).(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 6000, unix.TCP_KEEPIDLE: 3, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 3} {
		var got int
		if bad := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); bad != nil || err != nil || got != want {
			t.Errorf("option %d: got %d, want %d, %v, %v", option, got, want, bad, err)
		}
	}
}
