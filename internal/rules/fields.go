package rules

import "time"

// The tables below are the one description of the file: the reader takes its
// bounds and defaults from them, and the JSON Schema and the tables of
// docs/rules.md are written from them.

type kind uint8

const (
	kindText kind = iota
	kindName
	kindMatch
	kindGlob    // a match without placeholders
	kindChannel // of Postgres
	kindBool
	kindCount
	kindSize
	kindDuration
	kindEnum
	kindObject
	kindTake   // the name of a limit, or {limit, cost}
	kindClass  // a list of reasons, or {reasons, clusterTopPublisher}
	kindScalar // text, number or boolean, kept as text
	kindAny    // not looked at
)

// field is one key of an object.
type field struct {
	name     string
	kind     kind
	list     bool     // a list of kind
	keyed    bool     // a map from names to kind
	required bool     //
	def      string   // what a left-out key means, as it would be written
	min, max int64    // of a count, a size in bytes, a duration in nanoseconds; bytes of a text
	enum     []string // of kindEnum, in the order to show
	of       *object  // of kindObject
	doc      string   // one line for docs/rules.md
}

// object is one kind of mapping in the file.
type object struct {
	title  string
	fields []field
}

func (o *object) field(name string) *field {
	for i := range o.fields {
		if o.fields[i].name == name {
			return &o.fields[i]
		}
	}
	return nil
}

const (
	modeDefault = "by mode" // user in run, any in dev
	maxCount    = 1_000_000_000
	year        = int64(365 * 24 * time.Hour)
	maxTopics   = 1000 // entries of any list of rules
	// maxSeats bounds the members of a topic with a bound: one entry has all of
	// them, is written with each join, and has to fit into a message.
	maxSeats = 10_000
)

// accessValues are in the order in which they are shown.
var accessValues = []string{"any", "user", "token", "none", "callout"}

var file = &object{title: "The file", fields: []field{
	{name: "topics", kind: kindObject, list: true, of: topicObject, doc: "what topics may do; the first rule that matches governs, and a topic that none matches is denied"},
	{name: "limits", kind: kindObject, keyed: true, of: limitObject, doc: "token buckets by name, for `rate`"},
	{name: "admission", kind: kindObject, of: admissionObject, doc: "what is shed first under pressure"},
	{name: "bridges", kind: kindObject, list: true, of: bridgeObject, doc: "what Postgres notifies, published on topics"},
	{name: "calls", kind: kindObject, list: true, of: callObject, doc: "which methods clients may call; a method that none matches is denied"},
	{name: "groups", kind: kindObject, list: true, of: groupObject, doc: "which groups clients may join; a group that none matches is denied"},
	{name: "tests", kind: kindObject, list: true, of: testObject, doc: "what the file expects of itself, for `fairlead rules check`"},
	{name: "applied", kind: kindAny, doc: "who put the rules into the bucket and when; written by Fairlead, ignored when read"},
}}

var topicObject = &object{title: "topics", fields: []field{
	{name: "name", kind: kindName, def: "made from `match`", doc: "unique, whatever the case; names the stream: `chat` is FL_CHAT. Changing `match` keeps the stream, removing the rule never deletes it"},
	{name: "match", kind: kindMatch, required: true, doc: "`*` is one token, a last `>` one or more; `{user}` and `{attr.NAME}` are the caller's own value, escaped, and nothing where the caller has none"},
	{name: "subscribe", kind: kindEnum, enum: accessValues, def: modeDefault, doc: "who may subscribe"},
	{name: "publish", kind: kindEnum, enum: accessValues, def: modeDefault, doc: "who may publish"},
	{name: "history", kind: kindEnum, enum: accessValues, def: "as `subscribe`", doc: "who may read what is kept"},
	{name: "wildcards", kind: kindBool, def: "false", doc: "clients may subscribe with `*` and `>`"},
	{name: "from", kind: kindBool, def: "false", doc: "messages show the publishing user"},
	{name: "replay", kind: kindObject, of: replayObject, def: "nothing is kept", doc: "keep messages for resume and history; `{}` takes the defaults"},
	{name: "presence", kind: kindObject, of: presenceObject, def: "it is off", doc: "who is there; `{}` takes the defaults"},
	{name: "cursors", kind: kindObject, of: cursorsObject, def: "they are off", doc: "ephemeral positions; `{}` takes the defaults"},
	{name: "rate", kind: kindObject, of: rateObject, def: "no limit", doc: "limits that operations take from"},
	{name: "class", kind: kindName, def: "normal", doc: "admission class"},
	{name: "slow", kind: kindEnum, enum: slowNames[:], def: "disconnect", doc: "what happens to a connection that does not keep up"},
}}

var replayObject = &object{title: "topics[].replay", fields: []field{
	{name: "size", kind: kindCount, def: "1000", min: 1, max: 10_000_000, doc: "newest messages kept per topic"},
	{name: "ttl", kind: kindDuration, def: "24h", min: int64(time.Millisecond), max: 10 * year, doc: "older messages are gone"},
	{name: "dedupe", kind: kindDuration, def: "2m", min: int64(100 * time.Millisecond), max: int64(7 * 24 * time.Hour), doc: "how long a publish key is remembered"},
	{name: "dedupeKeys", kind: kindCount, def: "1000000", min: 1, max: 100_000_000, doc: "most keys remembered; each costs about 217 bytes of broker memory where `dedupe` is above 2m"},
	{name: "maxMessageBytes", kind: kindSize, def: "65536", min: 1, max: 64 << 20, doc: "largest message"},
	{name: "maxBytes", kind: kindSize, def: "1GiB", min: 1 << 16, max: 1 << 50, doc: "largest stream"},
	{name: "replicas", kind: kindCount, def: "`FAIRLEAD_NATS_REPLICAS`", min: 1, max: 5, doc: "replicas of the stream"},
	{name: "archive", kind: kindBool, def: "false", doc: "copy every message to Postgres"},
}}

var presenceObject = &object{title: "topics[].presence", fields: []field{
	{name: "enabled", kind: kindBool, def: "true", doc: "false is the same as leaving `presence` out"},
	{name: "watch", kind: kindEnum, enum: accessValues, def: modeDefault, doc: "who may see who is there"},
	{name: "join", kind: kindEnum, enum: accessValues, def: modeDefault, doc: "who may be seen"},
	{name: "leaveDelay", kind: kindDuration, def: "15s", max: int64(24 * time.Hour), doc: "how long an unclean end stays invisible"},
	{name: "maxMembers", kind: kindCount, def: "0", max: maxSeats, doc: "most members; 0 is no bound"},
	{name: "maxDiffMembers", kind: kindCount, def: "500", max: maxCount, doc: "above it a count and a sample replace the diffs"},
}}

var cursorsObject = &object{title: "topics[].cursors", fields: []field{
	{name: "enabled", kind: kindBool, def: "true", doc: "false is the same as leaving `cursors` out"},
	{name: "throttle", kind: kindDuration, def: "16ms", max: int64(time.Minute), doc: "moves within one window are merged; 0s is no merging"},
	{name: "ttl", kind: kindDuration, def: "30s", min: int64(time.Second), max: int64(24 * time.Hour), doc: "a cursor that does not move is gone after it"},
}}

var rateObject = &object{title: "topics[].rate", fields: []field{
	{name: "publish", kind: kindTake, doc: "the limit a message takes from: its name, or `{limit: messages, cost: 3}`"},
}}

var takeObject = &object{title: "rate as an object", fields: []field{
	{name: "limit", kind: kindName, required: true, doc: "a name under `limits`"},
	{name: "cost", kind: kindCount, def: "1", min: 1, max: maxCount, doc: "tokens; at most the limit's capacity"},
}}

var limitObject = &object{title: "limits.NAME", fields: []field{
	{name: "capacity", kind: kindCount, required: true, min: 1, max: maxCount, doc: "tokens a full bucket holds"},
	{name: "refill", kind: kindCount, required: true, min: 1, max: maxCount, doc: "tokens that come back every `per`"},
	{name: "per", kind: kindDuration, def: "1s", min: int64(time.Millisecond), max: year, doc: "see `refill`"},
	{name: "block", kind: kindDuration, def: "0s", max: year, doc: "a denial for want of tokens bans the key that long; 0s is no ban"},
	{name: "key", kind: kindEnum, enum: limitKeyNames[:], def: "user", doc: "whose bucket: the user's (an anonymous one's address), the address's, the connection's, the topic's, or the key given in the request"},
	{name: "failMode", kind: kindEnum, enum: failModeNames[:], def: "closed", doc: "while the limits service is away: deny, allow, or count in this process alone"},
	{name: "shadow", kind: kindBool, def: "false", doc: "count and report, never deny"},
}}

var admissionObject = &object{title: "admission", fields: []field{
	{name: "connect", kind: kindTake, def: "no limit", doc: "the limit that a new connection takes from: its name, or `{limit: arrivals, cost: 3}`; one whose `key` is `user`, `address` or `given`"},
	{name: "classes", kind: kindClass, keyed: true, def: "critical: [MEMORY], normal: [MEMORY], background: [MEMORY, PUBLISH_RATE, SUBSCRIBERS]",
		doc: "for which pressures of a gateway the messages of a class are shed; these three are always there, a file changes them or adds to them"},
}}

var classObject = &object{title: "admission.classes.NAME as an object", fields: []field{
	{name: "reasons", kind: kindEnum, list: true, enum: pressureNames[:], def: "[]", doc: "as in the list"},
	{name: "clusterTopPublisher", kind: kindObject, of: topPublisherObject, def: "no bound", doc: "sheds the messages of a topic that is published to too fast"},
}}

var topPublisherObject = &object{title: "clusterTopPublisher", fields: []field{
	{name: "threshold", kind: kindCount, required: true, min: 1, max: maxCount, doc: "messages a second by the clients of all gateways, from which on the topic's are shed"},
}}

var bridgeObject = &object{title: "bridges", fields: []field{
	{name: "channel", kind: kindChannel, required: true, doc: "the Postgres channel, as `pg_notify` has it: `NOTIFY Rows` without quotes is `rows`. Once in the file"},
	{name: "topics", kind: kindGlob, list: true, required: true, doc: "where its payloads may be published, one pattern or more; a gap is announced on all that name one topic"},
}}

var callObject = &object{title: "calls", fields: []field{
	{name: "match", kind: kindMatch, required: true, doc: "as in `topics`, for methods"},
	{name: "allow", kind: kindEnum, enum: accessValues, def: modeDefault, doc: "who may call"},
	{name: "timeout", kind: kindDuration, def: "5s", min: int64(time.Millisecond), max: int64(time.Minute), doc: "of a call that names none"},
	{name: "rate", kind: kindTake, def: "no limit", doc: "the limit a call takes from: its name, or `{limit: messages, cost: 3}`"},
}}

var groupObject = &object{title: "groups", fields: []field{
	{name: "match", kind: kindGlob, required: true, doc: "as in `topics` without placeholders; `>` is every group"},
	{name: "join", kind: kindEnum, enum: accessValues, def: modeDefault, doc: "who may join"},
	{name: "maxMembers", kind: kindCount, def: "0", max: maxCount, doc: "most members; 0 is no bound"},
	{name: "roles", kind: kindText, list: true, def: "[member]", min: 1, max: 64, doc: "the first is free, the others need the token's claim `groups`"},
	{name: "meta", kind: kindText, list: true, def: "[]", min: 1, max: 64, doc: "the roles that may set the group's meta"},
}}

var testObject = &object{title: "tests", fields: []field{
	{name: "as", kind: kindObject, of: asObject, def: "an anonymous caller", doc: "who asks"},
	{name: "subscribe", kind: kindText, min: 1, max: 255, doc: "a topic, or a pattern; one of these seven is required"},
	{name: "publish", kind: kindText, min: 1, max: 255, doc: "a topic"},
	{name: "history", kind: kindText, min: 1, max: 255, doc: "a topic"},
	{name: "watch", kind: kindText, min: 1, max: 255, doc: "a topic, for presence"},
	{name: "join", kind: kindText, min: 1, max: 255, doc: "a topic, for presence"},
	{name: "call", kind: kindText, min: 1, max: 255, doc: "a method"},
	{name: "group", kind: kindText, min: 1, max: 128, doc: "a group to join"},
	{name: "expect", kind: kindEnum, enum: []string{"allow", "deny"}, required: true, doc: "the answer"},
}}

var asObject = &object{title: "tests[].as", fields: []field{
	{name: "user", kind: kindText, min: 1, max: 128, def: "an anonymous caller", doc: "the user id"},
	{name: "anonymous", kind: kindBool, def: "false where `user` is given, else true", doc: "nobody vouched for the user"},
	{name: "attributes", kind: kindScalar, keyed: true, def: "{}", doc: "what `{attr.NAME}` stands for"},
	{name: "claims", kind: kindObject, of: claimsObject, def: "a token without lists", doc: "the lists of the token"},
}}

var claimsObject = &object{title: "tests[].as.claims", fields: []field{
	{name: "subscribe", kind: kindText, list: true, min: 1, max: 255, def: "not narrowed", doc: "topics and patterns"},
	{name: "publish", kind: kindText, list: true, min: 1, max: 255, def: "not narrowed", doc: "topics and patterns"},
	{name: "calls", kind: kindText, list: true, min: 1, max: 255, def: "not narrowed", doc: "methods and patterns"},
	{name: "groups", kind: kindText, keyed: true, list: true, min: 1, max: 64, def: "{}", doc: "roles by group"},
}}
