package wire

import "encoding/json"

// PresenceConn is one connection of a user on a topic, or of a user at all.
type PresenceConn struct {
	Conn string `json:"conn"`
	// Order tells which of a user's connections is newer, whatever gateway they
	// are on: the revision by which the first section with it was stored. 0
	// stands for the revision of the section itself.
	Order uint64 `json:"order,omitempty"`
	// Info comes from the token, Data is self-declared; raw JSON, may be absent.
	Info json.RawMessage `json:"info,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
	// Away says that it was lost and may yet return: it counts until it is
	// taken out, or until a newer connection of the user left cleanly.
	Away bool `json:"away,omitempty"`
	// Attributes and Since (ms since 1970) are of the registry only.
	Attributes map[string]string `json:"attributes,omitempty"`
	Since      int64             `json:"since,omitempty"`
}

// PresenceSection is what one gateway says of one user on one topic: all its
// connections there. Without a topic it says which connections of the user it
// has. Only that gateway changes it, so that a later version replaces an earlier
// one whatever became of the requests between them.
type PresenceSection struct {
	Topic   string `json:"topic,omitempty"`
	User    string `json:"user"`
	Gateway string `json:"gateway"`
	// Epoch is that of the gateway's lease; Version grows with every change of
	// any of the gateway's sections.
	Epoch   uint64         `json:"epoch"`
	Version uint64         `json:"version"`
	Conns   []PresenceConn `json:"conns"`
	// Left is the order of the newest connection that left cleanly; 0: none.
	Left uint64 `json:"left,omitempty"`
	// Expires is when a member without a socket is gone, in ms since 1970; 0
	// where the gateway's lease says it.
	Expires int64 `json:"expires,omitempty"`
}

// Requests to the presence service and its replies.
type (
	// PresencePut stores sections: one, or with Sections several of one gateway.
	PresencePut struct {
		PresenceSection
		Sections []PresenceSection `json:"sections,omitempty"`
	}

	// PresencePutReply has one result per section of Sections, in order.
	PresencePutReply struct {
		Revision uint64            `json:"revision,omitempty"` // of a single section
		Results  []PresenceRevised `json:"results,omitempty"`
	}

	// PresenceRevised is the revision that a section has now. Stale says that a
	// newer version of it was there already, Version which. Error is as
	// [AppendError] writes it.
	PresenceRevised struct {
		Revision uint64          `json:"revision,omitempty"`
		Stale    bool            `json:"stale,omitempty"`
		Version  uint64          `json:"version,omitempty"`
		Error    json.RawMessage `json:"error,omitempty"`
	}

	// PresenceJoin asks `join`, `update` and `leave` for a member without a
	// socket, whose membership ends TTL after the last of them.
	PresenceJoin struct {
		Topic string          `json:"topic"`
		User  string          `json:"user"`
		Data  json.RawMessage `json:"data,omitempty"`
		TTL   string          `json:"ttl,omitempty"` // Go duration; default 1m, at most 24h
	}

	// PresenceListRequest asks `list`: who is on a topic, by user.
	PresenceListRequest struct {
		Topic  string `json:"topic"`
		Limit  int    `json:"limit,omitempty"`  // default 100, at most 1000
		Cursor string `json:"cursor,omitempty"` // of the page before
		MinRev uint64 `json:"minRev,omitempty"` // the answer knows at least this revision
	}

	// PresenceMember is one user on a topic, as everybody may see them.
	PresenceMember struct {
		Info json.RawMessage `json:"info,omitempty"`
		Data json.RawMessage `json:"data,omitempty"`
	}

	// PresenceList is a page of members.
	PresenceList struct {
		Users  map[string]PresenceMember `json:"users"`
		Count  int                       `json:"count"`
		Rev    uint64                    `json:"rev"`              // what the answer knows of the bucket
		Cursor string                    `json:"cursor,omitempty"` // of the next page; "" at the end
	}

	// PresenceTopic asks `count`.
	PresenceTopic struct {
		Topic string `json:"topic"`
	}

	// PresenceCount answers `count`.
	PresenceCount struct {
		Count int `json:"count"`
	}

	// PresenceSections is a page of what `sections` answers to a
	// [PresenceListRequest]: what gateways make their own view of.
	PresenceSections struct {
		Sections []PresenceStored `json:"sections"`
		Rev      uint64           `json:"rev"`
		Cursor   string           `json:"cursor,omitempty"`
	}

	// PresenceStored is a section with the revision that stored it.
	PresenceStored struct {
		PresenceSection
		Revision uint64 `json:"revision"`
	}

	// PresenceDigestsRequest asks `digests`: at most 1024 topics.
	PresenceDigestsRequest struct {
		Topics []string `json:"topics"`
	}

	// PresenceDigests has one digest per topic, in order, and what the replica
	// knew of the bucket when it answered.
	PresenceDigests struct {
		Digests []PresenceDigest `json:"digests"`
		Rev     uint64           `json:"rev"`
	}

	// PresenceDigest tells two views of the same sections apart: how many there
	// are that have connections, and the sum of what [SectionHash] makes of each.
	PresenceDigest struct {
		Count int    `json:"count"`
		Sum   uint64 `json:"sum"`
	}

	// PresenceAudit asks `audit`: a gateway lists sections it has (their
	// connections left out), all of those whose hash modulo Parts is Part, and
	// hears what the bucket has otherwise.
	PresenceAudit struct {
		Gateway  string            `json:"gateway"`
		Registry bool              `json:"registry,omitempty"` // sections without a topic
		Part     int               `json:"part"`
		Parts    int               `json:"parts"`
		Sections []PresenceSection `json:"sections"`
	}

	// PresenceAudited names what the gateway has to put again: sections that are
	// missing or other in the bucket, and those there that the gateway did not
	// list; each with the version that is there.
	PresenceAudited struct {
		Missing []PresenceSection `json:"missing,omitempty"`
		Ghosts  []PresenceSection `json:"ghosts,omitempty"`
	}

	// PresenceUser asks `lookup`.
	PresenceUser struct {
		User string `json:"user"`
	}

	// PresenceConnections answers `lookup`: newest first.
	PresenceConnections struct {
		Connections []PresenceConnection `json:"connections"`
	}

	// PresenceConnection is an open connection of a user.
	PresenceConnection struct {
		Conn       string            `json:"conn"`
		Gateway    string            `json:"gateway"`
		Attributes map[string]string `json:"attributes,omitempty"`
		Since      int64             `json:"since"`
		Order      uint64            `json:"order"`
	}

	// PresenceUsers asks `online`: at most 1000 users.
	PresenceUsers struct {
		Users []string `json:"users"`
	}

	// PresenceOnline answers `online`.
	PresenceOnline struct {
		Online map[string]bool `json:"online"`
	}
)

// GatewayLease is what a gateway says of itself for as long as it lives. It
// expires by itself in the bucket.
type GatewayLease struct {
	// Epoch is the revision that created the lease; 0 in that very revision.
	Epoch uint64 `json:"epoch,omitempty"`
	// LeaseMs is how long a silent gateway counts as alive.
	LeaseMs int64 `json:"leaseMs"`
	// Final says that the gateway is gone in good order: when it expires there
	// is nobody to ask.
	Final bool `json:"final,omitempty"`
	// Presence and Registry are the digests of the sections that the gateway
	// knows to be stored, over their versions.
	Presence PresenceDigest `json:"presence"`
	Registry PresenceDigest `json:"registry"`
}

// Add counts a section that has connections.
func (d *PresenceDigest) Add(hash uint64) { d.Count++; d.Sum += hash }

// Remove is the inverse of Add.
func (d *PresenceDigest) Remove(hash uint64) { d.Count--; d.Sum -= hash }

// SectionHash is what a section adds to a digest. number is its revision in a
// digest of a topic, its version in that of a gateway.
func SectionHash(topic, user, gateway string, number uint64) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a
	h := uint64(offset)
	for _, s := range [...]string{topic, user, gateway} {
		for i := 0; i < len(s); i++ {
			h = (h ^ uint64(s[i])) * prime
		}
		h = (h ^ 0xff) * prime // no byte of UTF-8
	}
	for range 8 {
		h = (h ^ number&0xff) * prime
		number >>= 8
	}
	// Numbers that lie close together have hashes that do, and sums of such
	// hashes meet: every bit has to depend on every other.
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// NewestConn returns the index of the connection that speaks for a user among
// all of theirs, -1 for none: the newest that counts. left is the greatest
// [PresenceSection.Left] of the user's sections.
func NewestConn(conns []PresenceConn, left uint64) int {
	newest := -1
	live := false
	for _, c := range conns {
		live = live || !c.Away
	}
	for i, c := range conns {
		if c.Away && !live && c.Order <= left {
			continue
		}
		if newest < 0 || c.Order > conns[newest].Order || c.Order == conns[newest].Order && c.Conn > conns[newest].Conn {
			newest = i
		}
	}
	return newest
}
