package wire

// CloseCode is the code of a WebSocket close frame. Errors of an application
// never close a connection; these do.
type CloseCode int

// The close codes of the protocol (RFC 6455 §7.4; 4000-4999 are ours).
const (
	CloseNormal          CloseCode = 1000 // the client left
	CloseGoingAway       CloseCode = 1001 // the gateway drains
	CloseAbnormal        CloseCode = 1006 // never sent: the connection was lost
	CloseTooBig          CloseCode = 1009 // a frame over the limit, where the limit's action is close
	CloseTryAgain        CloseCode = 1013 // slow consumer, or overload
	CloseProtocol        CloseCode = 4400 // a protocol violation that can't be answered
	CloseUnauthenticated CloseCode = 4401 // no valid token, or it expired without refresh
	CloseForbidden       CloseCode = 4403 // disconnected by an operator, banned
	CloseHeartbeat       CloseCode = 4408 // hello timeout or dead heartbeat
	CloseTooMany         CloseCode = 4429 // connection limit for this user or address
)

// Advice is what a client should do after a close.
type Advice string

// What a client can do after a close.
const (
	StayAway         Advice = "stay away"
	ReconnectNow     Advice = "reconnect at once"
	ReconnectBackoff Advice = "reconnect with backoff"
	GetToken         Advice = "get a token, reconnect"
	FixClient        Advice = "fix the client"
)

// Advice returns what a client should do after a close with this code. Codes
// of others (1006, a proxy's 1011) mean a lost connection: back off and return.
func (c CloseCode) Advice() Advice {
	switch c {
	case CloseNormal, CloseForbidden:
		return StayAway
	case CloseGoingAway:
		return ReconnectNow
	case CloseUnauthenticated:
		return GetToken
	case CloseTooBig, CloseProtocol:
		return FixClient
	}
	return ReconnectBackoff
}
