package wire

import "strings"

// MaxSubject is the longest subject that is ever built, in bytes. A NATS
// server drops the whole connection at 4,096.
const MaxSubject = 1024

// Namespace is the first token of every subject ([DefaultNamespace] unless
// configured) and the prefix of every bucket and stream. Its methods are the
// only place where subjects are built and taken apart.
type Namespace string

// DefaultNamespace is the namespace unless configured.
const DefaultNamespace Namespace = "fl"

// CheckNamespace returns an error unless s can be a namespace: 1-32 bytes of
// [a-z0-9_-], beginning with a letter.
func CheckNamespace(s string) error {
	ok := s != "" && len(s) <= 32 && s[0] >= 'a' && s[0] <= 'z'
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return InvalidField("namespace", "1-32 bytes of [a-z0-9_-], beginning with a letter")
	}
	return nil
}

// Topic returns the subject on which a topic's messages are published. The
// topic may be a pattern. It has been checked by [CheckTopic] or [CheckPattern];
// a subject that would be too long is an INVALID_ARGUMENT.
func (n Namespace) Topic(topic string) (string, error) { return n.join("topic", ".topic.", topic) }

// Seq returns the subject to which JetStream republishes a replayed topic.
func (n Namespace) Seq(topic string) (string, error) { return n.join("topic", ".seq.", topic) }

// Call returns the subject on which workers serve a method.
func (n Namespace) Call(method string) (string, error) { return n.join("method", ".call.", method) }

// User returns the subject of direct messages to every device of a user.
func (n Namespace) User(user string) (string, error) {
	return n.join("user", ".user.", EscapeToken(user))
}

// Conn returns the subject of direct messages and requests to one connection.
func (n Namespace) Conn(conn string) (string, error) {
	return n.join("conn", ".conn.", EscapeToken(conn))
}

// Ask returns the subject on which a user's newest connection is asked.
func (n Namespace) Ask(user string) (string, error) {
	return n.join("user", ".ask.", EscapeToken(user))
}

// Match returns the subject of direct messages to every connection whose
// attributes match.
func (n Namespace) Match() string { return string(n) + ".match" }

// Cursor returns the subject on which gateways tell one another how the cursors
// of a topic moved.
func (n Namespace) Cursor(topic string) (string, error) {
	return n.join("topic", ".cursor.", topic)
}

// CallCancel returns the subject on which a gateway says that the call with
// this id is cancelled.
func (n Namespace) CallCancel(id string) (string, error) {
	return n.join("call", ".cancel.", EscapeToken(id))
}

// CallCancels returns the pattern of the subjects of [Namespace.CallCancel].
func (n Namespace) CallCancels() string { return string(n) + ".cancel.*" }

// Event returns the subject of a lifecycle event, with the topic, group or
// name it is about (rest, which may be empty).
func (n Namespace) Event(what, rest string) (string, error) {
	if rest != "" {
		what += "." + rest
	}
	return n.join("event", ".event.", what)
}

// Svc returns the subject of a service's endpoint.
func (n Namespace) Svc(service, endpoint string) string {
	return string(n) + ".svc." + service + "." + endpoint
}

// ControlUser returns the subject of control messages about a user.
func (n Namespace) ControlUser(user string) (string, error) {
	return n.join("user", ".control.user.", EscapeToken(user))
}

// ControlConn returns the subject of control messages about a connection.
func (n Namespace) ControlConn(conn string) (string, error) {
	return n.join("conn", ".control.conn.", EscapeToken(conn))
}

// ControlGateway returns the subject of control messages to a gateway.
func (n Namespace) ControlGateway(id string) (string, error) {
	return n.join("gateway", ".control.gateway.", EscapeToken(id))
}

// Group returns the subject of a group's messages.
func (n Namespace) Group(group string) (string, error) {
	return n.join("group", ".group.", EscapeToken(group))
}

// PresenceKey returns the key of a section in the bucket of presence, or of the
// registry where topic is "". Of a key's tokens the last two are the user and
// the gateway, those before them the topic.
func (n Namespace) PresenceKey(topic, user, gateway string) (string, error) {
	key := EscapeToken(user) + "." + EscapeToken(gateway)
	if topic != "" {
		key = EscapeTopic(topic) + "." + key
	}
	_, err := n.join("topic", ".presence.", key)
	return key, err
}

// PresenceTopic returns the subject on which the changes of a topic's presence
// are heard: the bucket's keys of that topic, republished by JetStream.
func (n Namespace) PresenceTopic(topic string) (string, error) {
	return n.join("topic", ".presence.", EscapeTopic(topic)+".*.*")
}

// GroupEntry returns the subject on which a group's entry is heard whenever it
// changes, republished by JetStream.
func (n Namespace) GroupEntry(group string) (string, error) {
	return n.join("group", ".groups.", EscapeToken(group))
}

// EscapeTopic escapes each token of a topic, so that it can stand in a key.
func EscapeTopic(topic string) string {
	tokens := strings.Split(topic, ".")
	for i, t := range tokens {
		tokens[i] = EscapeToken(t)
	}
	return strings.Join(tokens, ".")
}

// Probe returns the subject of a gateway's end-to-end probe of one shard.
func (n Namespace) Probe(gateway, shard string) (string, error) {
	return n.join("gateway", ".probe.", EscapeToken(gateway)+"."+shard)
}

// Bucket returns the name of a KV bucket, such as fl_config.
func (n Namespace) Bucket(name string) string { return string(n) + "_" + name }

// ParseTopic returns the topic whose message came on subject, live or
// republished; ok is false for every other subject.
func (n Namespace) ParseTopic(subject string) (topic string, ok bool) {
	rest, ok := strings.CutPrefix(subject, string(n)+".")
	if !ok {
		return "", false
	}
	if topic, ok = strings.CutPrefix(rest, "topic."); !ok {
		topic, ok = strings.CutPrefix(rest, "seq.")
	}
	return topic, ok && topic != ""
}

func (n Namespace) join(field, kind, rest string) (string, error) {
	if rest == "" {
		return "", InvalidField(field, "must not be empty")
	}
	if len(n)+len(kind)+len(rest) > MaxSubject {
		return "", InvalidField(field, "its NATS subject would be longer than 1024 bytes")
	}
	return string(n) + kind + rest, nil
}
