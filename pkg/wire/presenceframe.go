package wire

import "strconv"

// The functions of this file write what clients hear of presence. Members are
// passed as the inside of the object that holds them, as [AppendMemberEntry]
// builds it: a state goes out to many connections and is written once.

// AppendMember appends a member as others see it: `{"info":…,"data":…}`. Both
// are raw JSON, and left out where they are empty.
func AppendMember(dst []byte, info, data []byte) []byte {
	dst = append(dst, '{')
	if len(info) > 0 {
		dst = append(append(dst, `"info":`...), info...)
	}
	if len(data) > 0 {
		if len(info) > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, `"data":`...), data...)
	}
	return append(dst, '}')
}

// AppendMemberEntry appends `"ann":{…}` to the inside of an object, behind a
// comma where dst has something in it already.
func AppendMemberEntry(dst []byte, user string, info, data []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(AppendString(dst, user), ':')
	return AppendMember(dst, info, data)
}

// AppendPresenceState appends the frame that says who is on a topic. A state
// that fills several frames has one rev in all of them and more in all but the
// last.
func AppendPresenceState(dst []byte, topic string, rev int64, members []byte, more bool) []byte {
	dst = appendPresence(dst, topic, rev)
	dst = appendObject(dst, `,"state":{`, members)
	if more {
		dst = append(dst, `,"more":true`...)
	}
	return append(dst, '}')
}

// AppendPresenceDiff appends the frame that says who came to a topic, or
// changed there, and who left it. Where nobody did the member is left out.
func AppendPresenceDiff(dst []byte, topic string, rev int64, joins, leaves []byte) []byte {
	dst = appendPresence(dst, topic, rev)
	if len(joins) > 0 {
		dst = appendObject(dst, `,"joins":{`, joins)
	}
	if len(leaves) > 0 {
		dst = appendObject(dst, `,"leaves":{`, leaves)
	}
	return append(dst, '}')
}

// AppendPresenceCount appends the frame that stands for diffs on a topic with
// too many members for them: how many there are, and some of them.
func AppendPresenceCount(dst []byte, topic string, rev int64, count int, sample []byte) []byte {
	dst = append(appendPresence(dst, topic, rev), `,"count":`...)
	dst = strconv.AppendInt(dst, int64(count), 10)
	return append(appendObject(dst, `,"sample":{`, sample), '}')
}

// AppendPresenceList appends the ok value of op `presence`: a page of members
// out of count. cursor asks for the next page; "" where there is none.
func AppendPresenceList(dst []byte, members []byte, count int, rev int64, cursor string) []byte {
	dst = append(appendObject(dst, `{"users":{`, members), `,"count":`...)
	dst = strconv.AppendInt(dst, int64(count), 10)
	dst = append(dst, `,"rev":`...)
	dst = strconv.AppendInt(dst, rev, 10)
	if cursor != "" {
		dst = AppendString(append(dst, `,"cursor":`...), cursor)
	}
	return append(dst, '}')
}

func appendPresence(dst []byte, topic string, rev int64) []byte {
	dst = append(dst, `{"op":"presence","topic":`...)
	dst = append(AppendString(dst, topic), `,"rev":`...)
	return strconv.AppendInt(dst, rev, 10)
}

func appendObject(dst []byte, open string, inside []byte) []byte {
	return append(append(append(dst, open...), inside...), '}')
}
