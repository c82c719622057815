package client

import (
	"context"
	"encoding/json"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// JoinPresence makes the user a member of a topic that this connection is
// subscribed to, with data that others see; nil is none.
func (c *Client) JoinPresence(ctx context.Context, topic string, data any) error {
	return c.member(ctx, "presence.join", topic, data, data != nil)
}

// UpdatePresence replaces a member's data.
func (c *Client) UpdatePresence(ctx context.Context, topic string, data any) error {
	return c.member(ctx, "presence.update", topic, data, true)
}

// LeavePresence ends the membership of this connection; the user stays a member
// through others.
func (c *Client) LeavePresence(ctx context.Context, topic string) error {
	return c.member(ctx, "presence.leave", topic, nil, false)
}

func (c *Client) member(ctx context.Context, op, topic string, data any, says bool) error {
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return err
	}
	_, err = c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame(op, id)
		f.str("topic", topic)
		if says {
			f.raw("data", raw)
		}
		return f.end()
	})
	return err
}

// MembersPage is a page of who is on a topic.
type MembersPage struct {
	Users map[string]wire.PresenceMember `json:"users"`
	// Count is how many there are in all.
	Count int `json:"count"`
	// Cursor goes into the request for the next page; empty on the last.
	Cursor string `json:"cursor"`
}

// Members returns who is on a topic, a page of at most limit users (0 is 100,
// the most is 1000) behind cursor, which is empty for the first. [Presence] is a
// view that keeps up.
func (c *Client) Members(ctx context.Context, topic string, limit int, cursor string) (MembersPage, error) {
	var page MembersPage
	ok, err := c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame("presence", id)
		f.str("topic", topic)
		if limit != 0 {
			f.int("limit", int64(limit))
		}
		f.optional("cursor", cursor)
		return f.end()
	})
	if err != nil {
		return page, err
	}
	if err := json.Unmarshal(ok, &page); err != nil {
		return page, wire.Errorf(wire.Internal, "presence's reply: %v", err)
	}
	return page, nil
}
