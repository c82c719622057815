package wire

import "strconv"

// AppendTruncated appends the frame that says that messages of a topic are gone
// for good: those from missingFrom to the next one that comes.
func AppendTruncated(dst []byte, topic string, missingFrom int64) []byte {
	dst = append(dst, `{"op":"truncated","topic":`...)
	dst = AppendString(dst, topic)
	dst = append(dst, `,"missingFrom":`...)
	return append(strconv.AppendInt(dst, missingFrom, 10), '}')
}

// AppendSkip appends the frame that moves a client's position past messages
// that it does not get: from the one behind prev up to seq.
func AppendSkip(dst []byte, topic string, seq, prev, ts int64) []byte {
	dst = append(dst, `{"op":"skip","topic":`...)
	dst = AppendString(dst, topic)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendInt(dst, seq, 10)
	dst = append(dst, `,"prev":`...)
	dst = strconv.AppendInt(dst, prev, 10)
	dst = append(dst, `,"ts":`...)
	return append(strconv.AppendInt(dst, ts, 10), '}')
}

// Subscribed is the ok value of a subscribe.
type Subscribed struct {
	Topic string
	// At is the position the subscription starts from; left out where the
	// topic has none, or it is not known.
	At       Position
	HasAt    bool
	Resumed  bool // the client asked for what it missed
	Complete bool // `recovered`, where it did
	Head     int64
	Missing  int64  // `missingFrom`, where it is not complete; 0: left out
	Reason   string // why it is not complete, where that is not a truncation
}

// AppendSubscribed appends the ok value of a subscribe.
func AppendSubscribed(dst []byte, s *Subscribed) []byte {
	dst = append(dst, `{"topic":`...)
	dst = AppendString(dst, s.Topic)
	if s.HasAt {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendInt(dst, s.At.Seq, 10)
		if s.At.Ts != 0 {
			dst = append(dst, `,"ts":`...)
			dst = strconv.AppendInt(dst, s.At.Ts, 10)
		}
	}
	if s.Resumed {
		dst = append(dst, `,"recovered":`...)
		dst = strconv.AppendBool(dst, s.Complete)
		if s.HasAt {
			dst = append(dst, `,"head":`...)
			dst = strconv.AppendInt(dst, s.Head, 10)
		}
		if !s.Complete && s.Missing > 0 {
			dst = append(dst, `,"missingFrom":`...)
			dst = strconv.AppendInt(dst, s.Missing, 10)
		}
		if s.Reason != "" {
			dst = append(dst, `,"reason":`...)
			dst = AppendString(dst, s.Reason)
		}
	}
	return append(dst, '}')
}
