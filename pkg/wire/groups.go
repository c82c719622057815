package wire

import "encoding/json"

// GroupMember is one connection in a group, as its members see it.
type GroupMember struct {
	Role string          `json:"role"`
	Data json.RawMessage `json:"data,omitempty"`
}

// GroupSeat is a member as the group's entry holds it.
type GroupSeat struct {
	GroupMember
	User    string `json:"user"`
	Gateway string `json:"gateway"`
	Epoch   uint64 `json:"epoch,omitempty"` // of the gateway's lease
	Version uint64 `json:"version,omitempty"`
}

// GroupEntry is a group as the bucket holds it: its one point of order.
type GroupEntry struct {
	Group   string               `json:"group"`
	Meta    json.RawMessage      `json:"meta,omitempty"`
	Closed  bool                 `json:"closed,omitempty"`
	Members map[string]GroupSeat `json:"members"` // by connection
	// Left remembers, for a while, the versions by which connections left: a
	// join that comes late does not bring them back.
	Left map[string]GroupLeft `json:"left,omitempty"`
	// Created says that `create` made it: it stays without members. MaxMembers
	// is that of `create`, where there was one.
	Created    bool `json:"created,omitempty"`
	MaxMembers int  `json:"maxMembers,omitempty"`
}

// GroupLeft says by which version of its gateway a connection left, and when
// (ms since 1970).
type GroupLeft struct {
	Version uint64 `json:"version"`
	At      int64  `json:"at"`
}

// Requests to the presence service about groups, and its replies.
type (
	// GroupRequest asks every endpoint of groups. Conn and User say who asks;
	// without a Conn a worker does, which may do everything.
	GroupRequest struct {
		Group   string `json:"group"`
		User    string `json:"user,omitempty"`
		Conn    string `json:"conn,omitempty"`
		Gateway string `json:"gateway,omitempty"`
		Epoch   uint64 `json:"epoch,omitempty"`
		// Version grows with every request of a gateway: of two about one
		// connection the later counts, in whatever order they arrive.
		Version uint64          `json:"version,omitempty"`
		Role    string          `json:"role,omitempty"`
		Data    json.RawMessage `json:"data,omitempty"`
		Event   string          `json:"event,omitempty"`
		Member  string          `json:"member,omitempty"` // of `send`: to whom
		Meta    json.RawMessage `json:"meta,omitempty"`   // of `create` and `meta`: what to set
		// MaxMembers of `create` bounds the group below its rule.
		MaxMembers int `json:"maxMembers,omitempty"`
		// MinRev of `members` and `entry`: the answer knows at least this revision
		// of the group's entry.
		MinRev uint64 `json:"minRev,omitempty"`
	}

	// GroupJoined answers `join`. Revision is that of the group's entry.
	GroupJoined struct {
		Count    int             `json:"count"`
		Meta     json.RawMessage `json:"meta"`
		Member   string          `json:"member"`
		Revision uint64          `json:"revision,omitempty"`
	}

	// GroupMembers answers `members`.
	GroupMembers struct {
		Members map[string]GroupMember `json:"members"`
		Count   int                    `json:"count"`
		Meta    json.RawMessage        `json:"meta"`
	}

	// GroupStored answers `entry`: the group's entry, with its revision. 0 and
	// no entry stand for a group that is not there.
	GroupStored struct {
		Entry    GroupEntry `json:"entry"`
		Revision uint64     `json:"revision"`
	}

	// GroupMeta answers `meta`.
	GroupMeta struct {
		Meta json.RawMessage `json:"meta"`
	}
)
