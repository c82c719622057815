package rules

import "fmt"

// Mode says what a left-out `subscribe`, `publish`, `allow`, `join` or `watch`
// means.
type Mode uint8

const (
	Run Mode = iota // user: the caller is authenticated
	Dev             // any: anyone who was let in
)

// ParseMode reads `run` or `dev`.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "run":
		return Run, nil
	case "dev":
		return Dev, nil
	}
	return Run, fmt.Errorf("mode %q: run or dev", s)
}

func (m Mode) String() string {
	if m == Dev {
		return "dev"
	}
	return "run"
}

func (m Mode) access() Access {
	if m == Dev {
		return Any
	}
	return User
}

// Access says who has a right. Its zero value is None.
type Access uint8

const (
	None    Access = iota // nobody
	Any                   // anyone who was let in, anonymous users too
	User                  // authenticated users
	Token                 // who has a token whose list names the topic
	Callout               // an auth worker decides; denied until that is built
)

var accessNames = [...]string{None: "none", Any: "any", User: "user", Token: "token", Callout: "callout"}

func (a Access) String() string { return name(accessNames[:], uint8(a)) }

// SlowPolicy says what happens to a connection that does not keep up with a
// topic.
type SlowPolicy uint8

const (
	Disconnect SlowPolicy = iota // close 1013
	DropOldest                   // the oldest queued messages of the topic go
	Conflate                     // only the newest message of the topic stays queued
)

var slowNames = [...]string{Disconnect: "disconnect", DropOldest: "drop-oldest", Conflate: "conflate"}

func (p SlowPolicy) String() string { return name(slowNames[:], uint8(p)) }

// LimitKey says whose bucket a limit takes from.
type LimitKey uint8

const (
	KeyUser       LimitKey = iota // the user; an anonymous one by its address
	KeyAddress                    // the client's IP address
	KeyConnection                 // one connection
	KeyTopic                      // the topic
	KeyGiven                      // the key the request names
)

var limitKeyNames = [...]string{KeyUser: "user", KeyAddress: "address", KeyConnection: "connection", KeyTopic: "topic", KeyGiven: "given"}

func (k LimitKey) String() string { return name(limitKeyNames[:], uint8(k)) }

// FailMode says what a limit answers while the service that counts is away.
type FailMode uint8

const (
	FailClosed FailMode = iota // deny
	FailOpen                   // allow
	FailLocal                  // count in this process alone
)

var failModeNames = [...]string{FailClosed: "closed", FailOpen: "open", FailLocal: "local"}

func (m FailMode) String() string { return name(failModeNames[:], uint8(m)) }

// Pressure is a reason for which an admission class is shed.
type Pressure uint8

const (
	Memory Pressure = iota
	PublishRate
	Subscribers
)

var pressureNames = [...]string{Memory: "MEMORY", PublishRate: "PUBLISH_RATE", Subscribers: "SUBSCRIBERS"}

func (p Pressure) String() string { return name(pressureNames[:], uint8(p)) }

func name(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("unknown(%d)", i)
}
