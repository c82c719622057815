package wire

import (
	"maps"
	"slices"
	"strconv"
)

// GroupFrame tells a member what became of a group since the last frame. What
// is empty is left out.
type GroupFrame struct {
	Group        string
	Joined, Left map[string]GroupMember // by connection
	// Meta is raw JSON, counted if MetaSet; empty is null.
	Meta    []byte
	MetaSet bool
	Closed  bool
}

// Empty reports whether the frame says nothing.
func (f *GroupFrame) Empty() bool {
	return len(f.Joined) == 0 && len(f.Left) == 0 && !f.MetaSet && !f.Closed
}

// AppendGroup appends the frame, its members in the order of their ids.
func AppendGroup(dst []byte, f *GroupFrame) []byte {
	dst = append(dst, `{"op":"group","group":`...)
	dst = AppendString(dst, f.Group)
	if len(f.Joined) > 0 {
		dst = append(dst, `,"joined":`...)
		dst = appendMembers(dst, f.Joined)
	}
	if len(f.Left) > 0 {
		dst = append(dst, `,"left":`...)
		dst = appendMembers(dst, f.Left)
	}
	if f.MetaSet {
		dst = append(dst, `,"meta":`...)
		dst = appendRaw(dst, f.Meta)
	}
	if f.Closed {
		dst = append(dst, `,"closed":true`...)
	}
	return append(dst, '}')
}

// AppendGroupJoined appends the ok value of `group.join`.
func AppendGroupJoined(dst []byte, j *GroupJoined) []byte {
	dst = append(dst, `{"count":`...)
	dst = strconv.AppendInt(dst, int64(j.Count), 10)
	dst = append(dst, `,"meta":`...)
	dst = appendRaw(dst, j.Meta)
	dst = append(dst, `,"member":`...)
	return append(AppendString(dst, j.Member), '}')
}

// AppendGroupMembers appends the ok value of `group.members`.
func AppendGroupMembers(dst []byte, m *GroupMembers) []byte {
	dst = append(dst, `{"members":`...)
	dst = appendMembers(dst, m.Members)
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, int64(m.Count), 10)
	dst = append(dst, `,"meta":`...)
	return append(appendRaw(dst, m.Meta), '}')
}

// AppendGroupMeta appends the ok value of `group.meta`.
func AppendGroupMeta(dst []byte, m *GroupMeta) []byte {
	return append(appendRaw(append(dst, `{"meta":`...), m.Meta), '}')
}

func appendMembers(dst []byte, members map[string]GroupMember) []byte {
	dst = append(dst, '{')
	for i, id := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(AppendString(dst, id), ':')
		m := members[id]
		dst = append(dst, `{"role":`...)
		dst = AppendString(dst, m.Role)
		if len(m.Data) > 0 {
			dst = append(append(dst, `,"data":`...), m.Data...)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// appendRaw appends raw JSON, null for none.
func appendRaw(dst, raw []byte) []byte {
	if len(raw) == 0 {
		return append(dst, "null"...)
	}
	return append(dst, raw...)
}
