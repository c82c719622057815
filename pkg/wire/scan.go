package wire

import (
	"unicode/utf16"
	"unicode/utf8"
)

// The functions of this file walk over JSON that [ValidJSON] has accepted:
// none checks again what it found.

// skipValue returns the index behind the value at b[i].
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for ; ; i++ {
			switch b[i] {
			case '"':
				i = skipString(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	for i < len(b) {
		switch b[i] {
		case ',', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// countElements returns how many elements the array b has.
func countElements(b []byte) int {
	n := 0
	for i := skipSpace(b, 1); b[i] != ']'; n++ {
		if i = skipSpace(b, skipValue(b, i)); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return n
}

// eachMember calls fn with every member of the object b. A name that can't be
// written in UTF-8 is passed as nil.
func eachMember(b []byte, fn func(name, value []byte)) {
	for i := skipSpace(b, 1); b[i] != '}'; {
		end := skipString(b, i)
		name, _ := unquoteBytes(b[i:end])
		i = skipSpace(b, skipSpace(b, end)+1)
		end = skipValue(b, i)
		fn(name, b[i:end])
		if i = skipSpace(b, end); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
}

func isNull(raw []byte) bool { return string(raw) == "null" }

// parseInt reads a natural number as JSON writes it. It knows no sign, no
// fraction and no exponent, and nothing above 16 digits.
func parseInt(raw []byte) (int64, bool) {
	if len(raw) > 1 && raw[0] == '-' && raw[1] != '-' && raw[1] != '0' {
		n, ok := parseInt(raw[1:])
		return -n, ok
	}
	if len(raw) == 0 || len(raw) > 16 {
		return 0, false
	}
	var n int64
	for _, c := range raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// unquote decodes a JSON string. ok is false for half a surrogate pair, which
// no UTF-8 can stand for: replaced, two different names would become one.
func unquote(raw []byte) (s string, ok bool) {
	b, ok := unquoteBytes(raw)
	return string(b), ok
}

// unquoteBytes is [unquote] without a copy where the string has no escapes.
func unquoteBytes(raw []byte) (b []byte, ok bool) {
	body := raw[1 : len(raw)-1]
	for i, c := range body {
		if c == '\\' {
			return unescape(body, i)
		}
	}
	return body, true
}

// unescape decodes the inside of a JSON string whose first escape is at body[i].
func unescape(body []byte, i int) ([]byte, bool) {
	out := append(make([]byte, 0, len(body)), body[:i]...)
	for i < len(body) {
		c := body[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		c = body[i+1]
		i += 2
		switch c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hexRune(body[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				if len(body)-i < 6 || body[i] != '\\' || body[i+1] != 'u' {
					return nil, false
				}
				if r = utf16.DecodeRune(r, hexRune(body[i+2:])); r == utf8.RuneError {
					return nil, false
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default: // a quote, a slash, a backslash
			out = append(out, c)
		}
	}
	return out, true
}

// hexRune returns what the four hex digits at the beginning of b say.
func hexRune(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= 'a':
			c -= 'a' - 10
		case c >= 'A':
			c -= 'A' - 10
		default:
			c -= '0'
		}
		r = r<<4 | rune(c)
	}
	return r
}
