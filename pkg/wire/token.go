package wire

import "strings"

const upperHex = "0123456789ABCDEF"

func plainTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// EscapeToken turns an id into one subject token and KV key: bytes outside
// [A-Za-z0-9_-] become =XX in upper-case hex. Different ids never meet in one
// token. The empty id has no token: it stays empty.
func EscapeToken(id string) string {
	escaped := 0
	for i := 0; i < len(id); i++ {
		if !plainTokenByte(id[i]) {
			escaped++
		}
	}
	if escaped == 0 {
		return id
	}
	b := make([]byte, 0, len(id)+2*escaped)
	for i := 0; i < len(id); i++ {
		if c := id[i]; plainTokenByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '=', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}

// UnescapeToken is the inverse of [EscapeToken]. It accepts only what
// EscapeToken makes, so that one id has one token: INVALID_ARGUMENT otherwise.
func UnescapeToken(tok string) (string, error) {
	if !strings.Contains(tok, "=") {
		for i := 0; i < len(tok); i++ {
			if !plainTokenByte(tok[i]) {
				return "", InvalidField("token", "a byte outside [A-Za-z0-9_-] that is not escaped")
			}
		}
		return tok, nil
	}
	b := make([]byte, 0, len(tok))
	for i := 0; i < len(tok); i++ {
		c := tok[i]
		if c != '=' {
			if !plainTokenByte(c) {
				return "", InvalidField("token", "a byte outside [A-Za-z0-9_-] that is not escaped")
			}
			b = append(b, c)
			continue
		}
		if i+2 >= len(tok) {
			return "", InvalidField("token", "= is followed by two upper-case hex digits")
		}
		hi, lo := strings.IndexByte(upperHex, tok[i+1]), strings.IndexByte(upperHex, tok[i+2])
		if hi < 0 || lo < 0 || plainTokenByte(byte(hi<<4|lo)) {
			return "", InvalidField("token", "= is followed by two upper-case hex digits of a byte that needs escaping")
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), nil
}
