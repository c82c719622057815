package wire

// These cross processes as JSON where somebody reaches a user, a connection, or
// all connections with some attributes.
type (
	// Reached is what each gateway answers to a request on fl.user, fl.match and
	// fl.control: how many of its connections the message was for.
	Reached struct {
		Reached int `json:"reached"`
	}

	// Probed is a gateway's answer to a message on fl.user with [HeaderProbe]:
	// the user's connections that it holds.
	Probed struct {
		Connections []ProbedConn `json:"connections"`
	}

	// ProbedConn is a connection in a [Probed].
	ProbedConn struct {
		Conn  string `json:"conn"`
		Order uint64 `json:"order,omitempty"` // as in the registry; 0: not stored there yet, so newer than all that are
		Since int64  `json:"since"`           // epoch ms
	}

	// Control is a message on fl.control: what an operator wants done to a user's
	// connections, to one connection, or to a gateway.
	Control struct {
		// Action is one of the Control constants.
		Action string `json:"action"`
		// Code closes with another code than 4403: 1000, 1001, 1013, or 3000-4999.
		// Of disconnect.
		Code int `json:"code,omitempty"`
		// Reason is told to the client; at most 123 bytes count. Of disconnect and
		// revoke.
		Reason string `json:"reason,omitempty"`
		// Topic of subscribe and unsubscribe.
		Topic string `json:"topic,omitempty"`
		// Before, of revoke: tokens that were issued before are refused, epoch ms.
		Before int64 `json:"before,omitempty"`
	}
)

// What a [Control] can want.
const (
	ControlDisconnect  = "disconnect"  // close the connections
	ControlRevoke      = "revoke"      // close them with 4403, and refuse every older token of the user
	ControlSubscribe   = "subscribe"   // subscribe them to a topic, whatever its rule says
	ControlUnsubscribe = "unsubscribe" // end their subscription of a topic
	ControlRefresh     = "refresh"     // have the clients get a newer token
	ControlDrain       = "drain"       // of a gateway: stop as at SIGTERM
)
