package fairleadtest

import (
	"net"
	"sync"

	"github.com/fairlead-io/fairlead/internal/suite"
)

// Gateway is one gateway of a stack. It behaves as a process of its own: with
// connections to NATS and an address that nobody else has, and it can die.
type Gateway struct {
	member
	stack    *core
	index    int
	listener net.Listener
	clients  *Link

	ending sync.Once // Stop, Kill and the end of the test: the first counts
}

func (s *core) newGateway(index int) (*Gateway, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &Gateway{stack: s, index: index, listener: listener}
	if g.clients, err = newLink(listener.Addr().String(), true); err != nil {
		listener.Close()
		return nil, err
	}
	if g.nats, err = newLink(s.natsAddr(), false); err != nil {
		g.clients.close()
		listener.Close()
		return nil, err
	}
	return g, nil
}

func (g *Gateway) start() error {
	err := g.run(g.stack, suite.Config{Gateway: &g.stack.settings.Gateway, Listener: g.listener})
	if err != nil && g.parts == nil {
		g.listener.Close()
	}
	return err
}

// ID returns the gateway's id, as in [client.Welcome] and on fl.control.gateway.
func (g *Gateway) ID() string { return g.parts.GatewayID() }

// URL returns the gateway's WebSocket address. It stays the same when the
// gateway is dead, and is refused then.
func (g *Gateway) URL() string { return "ws://" + g.clients.Addr() + "/ws" }

// HTTP returns the address of the gateway's other paths, such as /readyz and
// /v1/topics: http://host:port.
func (g *Gateway) HTTP() string { return "http://" + g.clients.Addr() }

// Clients returns the way between the gateway and all its clients.
func (g *Gateway) Clients() *Link { return g.clients }

// NATSLink returns the way between the gateway and NATS.
func (g *Gateway) NATSLink() *Link { return g.nats }

// CutNATS takes NATS away from the gateway: its connections are reset and new
// ones refused. Clients stay and are told `degraded`. After the gateway's lease
// has run out, others no longer count its users as present.
func (g *Gateway) CutNATS() { g.nats.Cut() }

// RestoreNATS lets the gateway reach NATS again.
func (g *Gateway) RestoreNATS() { g.nats.Restore() }

// Kill ends the gateway as a crash does: nothing that it still has to say
// reaches anybody, and its clients' connections are reset. Others find out by
// its lease. It returns at once; a dead gateway stays dead, see
// [Stack.AddGateway].
func (g *Gateway) Kill() {
	g.ending.Do(func() {
		g.nats.sever() // first: nobody is to hear that the clients are lost
		g.clients.sever()
		g.cancel()
	})
}

// Stop ends the gateway as SIGTERM does, and returns when it has ended: clients
// are asked to leave over FAIRLEAD_DRAIN_WINDOW, then closed with 1001.
func (g *Gateway) Stop() {
	g.ending.Do(func() {
		g.cancel()
		<-g.done
		g.clients.sever()
		g.nats.sever()
	})
}

// close ends what is left of the gateway.
func (g *Gateway) close() {
	if g.cancel != nil {
		g.cancel()
		<-g.done
	}
	g.listener.Close()
	g.clients.close()
	g.nats.close()
}
