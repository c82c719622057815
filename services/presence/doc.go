// Package presence is the service that knows who is there: which users are on a
// topic, which connections a user has, who is in a group, and what HTTP servers
// keep of their sessions.
//
// A gateway says of each user on each topic which of its connections are there:
// a section, which only that gateway changes, under versions that grow. Who is
// on a topic is the fold of the sections of its gateways. A section ends with
// its gateway's lease, not with a heartbeat of its own.
package presence
