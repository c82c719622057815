package wire

// Op is what a client asks for: an index into [Ops].
type Op uint8

// The ops of the protocol.
const (
	OpUnknown Op = iota
	OpHello
	OpRefresh
	OpSubscribe
	OpUnsubscribe
	OpPublish
	OpBatch
	OpHistory
	OpGap
	OpPresence
	OpPresenceJoin
	OpPresenceLeave
	OpPresenceUpdate
	OpCursor
	OpGroupJoin
	OpGroupLeave
	OpGroupPublish
	OpGroupSend
	OpGroupMembers
	OpGroupMeta
	OpCall
	OpCancel
	OpReply
	OpPong
	numOps
)

// OpSpec is what the protocol says of an op.
type OpSpec struct {
	Name string
	// NeedsID: the op is always answered, so a frame without `id` is refused.
	NeedsID  bool
	required []field
	optional []field
}

// Ops is the op table: every op of the protocol, by its [Op].
var Ops = [numOps]OpSpec{
	OpUnknown:        {},
	OpHello:          {Name: "hello", NeedsID: true, optional: []field{fieldToken, fieldClient, fieldSession}},
	OpRefresh:        {Name: "refresh", NeedsID: true, required: []field{fieldToken}},
	OpSubscribe:      {Name: "subscribe", NeedsID: true, required: []field{fieldPattern}, optional: []field{fieldAfter, fieldTs, fieldLast, fieldPresence, fieldData, fieldCursors}},
	OpUnsubscribe:    {Name: "unsubscribe", NeedsID: true, required: []field{fieldPattern}},
	OpPublish:        {Name: "publish", required: []field{fieldTopic}, optional: []field{fieldEvent, fieldData, fieldKey, fieldEcho}},
	OpBatch:          {Name: "batch", NeedsID: true, required: []field{fieldMessages}, optional: []field{fieldAtomic}},
	OpHistory:        {Name: "history", NeedsID: true, required: []field{fieldTopic, fieldAfter}, optional: []field{fieldTs, fieldLimit}},
	OpGap:            {Name: "gap", NeedsID: true, required: []field{fieldTopic, fieldAfter}, optional: []field{fieldTs}},
	OpPresence:       {Name: "presence", NeedsID: true, required: []field{fieldTopic}, optional: []field{fieldLimit, fieldPage}},
	OpPresenceJoin:   {Name: "presence.join", NeedsID: true, required: []field{fieldTopic}, optional: []field{fieldData}},
	OpPresenceLeave:  {Name: "presence.leave", NeedsID: true, required: []field{fieldTopic}},
	OpPresenceUpdate: {Name: "presence.update", NeedsID: true, required: []field{fieldTopic, fieldData}},
	OpCursor:         {Name: "cursor", required: []field{fieldTopic}, optional: []field{fieldData}},
	OpGroupJoin:      {Name: "group.join", NeedsID: true, required: []field{fieldGroup}, optional: []field{fieldRole, fieldData}},
	OpGroupLeave:     {Name: "group.leave", NeedsID: true, required: []field{fieldGroup}},
	OpGroupPublish:   {Name: "group.publish", NeedsID: true, required: []field{fieldGroup, fieldEvent}, optional: []field{fieldData, fieldRole}},
	OpGroupSend:      {Name: "group.send", NeedsID: true, required: []field{fieldGroup, fieldMember, fieldEvent}, optional: []field{fieldData}},
	OpGroupMembers:   {Name: "group.members", NeedsID: true, required: []field{fieldGroup}},
	OpGroupMeta:      {Name: "group.meta", NeedsID: true, required: []field{fieldGroup}, optional: []field{fieldMeta}},
	OpCall:           {Name: "call", NeedsID: true, required: []field{fieldMethod}, optional: []field{fieldData, fieldTimeout}},
	OpCancel:         {Name: "cancel", required: []field{fieldRefID}},
	OpReply:          {Name: "reply", required: []field{fieldRef}, optional: []field{fieldData, fieldError}},
	OpPong:           {Name: "pong"},
}

// String returns the op's name on the wire.
func (o Op) String() string {
	if o < numOps {
		return Ops[o].Name
	}
	return ""
}

// ParseOp returns the op with this name, or [OpUnknown].
func ParseOp(name string) Op {
	if name == "" {
		return OpUnknown
	}
	return opsByName[name]
}

var opsByName = func() map[string]Op {
	m := make(map[string]Op, numOps)
	for op := OpUnknown + 1; op < numOps; op++ {
		m[Ops[op].Name] = op
	}
	return m
}()
